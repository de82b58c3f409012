//! AVX-512's registers: kept in the frame until somebody needs them.
//!
//! Two kilobytes on each way in and out would be a high price for a Guest that never uses them, and most turns of one
//! that does are made by code without them. So zmm16 to zmm31 and k0 to k7 **sleep** in the frame. A unit looks at
//! [`Frame::awake`] before its first instruction that needs them, and fetches them if they sleep ([`wake`]); the way out
//! puts all back if they are awake. They fall asleep again when Rust enters a unit at its start, where the look comes
//! before the need; one that goes on in its middle finds them as it left them.
//!
//! The upper halves of zmm0 to zmm15 cannot sleep while they hold something: any AVX instruction clears that of the
//! register it writes. [`Frame::wide`] knows, and then everything is awake from the start.

use crate::assemble::host::RAX;
use crate::assemble::{Code, Mem, Patch, cond};
use crate::frame::Frame;
use std::mem::offset_of;

/// Bytes of a zmm register.
const ZMM: usize = 64;

/// Whether this host has AVX-512 as far as generated code itself uses it, and Linux saves its registers.
pub fn has_wide_vectors() -> bool {
    std::is_x86_feature_detected!("avx512f")
        && std::is_x86_feature_detected!("avx512bw")
        && std::is_x86_feature_detected!("avx512dq")
        && std::is_x86_feature_detected!("avx512vl")
}

/// Part of the way in: loads everything if it is to be awake. Returns the jump that is taken then.
pub fn load_if_awake(code: &mut Code) -> Patch {
    code.cmp32_memory(Mem::frame(offset_of!(Frame, awake)), 0);
    let asleep = code.jump_if(cond::Z);
    (0..32).for_each(|n| move_vector(code, n, false));
    (0..8).for_each(|n| move_mask(code, n, false));
    let done = code.jump();
    let here = code.here();
    code.bind(asleep, here);
    done
}

/// Part of the way out: stores everything if it is awake, and leaves in eax which lanes hold something. Returns the jump
/// that is taken then.
pub fn store_if_awake(code: &mut Code) -> Patch {
    code.cmp32_memory(Mem::frame(offset_of!(Frame, awake)), 0);
    let asleep = code.jump_if(cond::Z);
    (0..32).for_each(|n| move_vector(code, n, true));
    (0..8).for_each(|n| move_mask(code, n, true));
    for n in 1..8 {
        // vporq zmm0, zmm0, zmmN; vporq zmm8, zmm8, zmm(8+N)
        code.raw(&[0x62, 0xf1, 0xfd, 0x48, 0xeb, 0xc0 | n]);
        code.raw(&[0x62, 0x51, 0xbd, 0x48, 0xeb, 0xc0 | n]);
    }
    code.raw(&[0x62, 0xd1, 0xfd, 0x48, 0xeb, 0xc0]); // vporq zmm0, zmm0, zmm8
    code.raw(&[0x62, 0xf2, 0xfd, 0x48, 0x27, 0xc0]); // vptestmq k0, zmm0, zmm0
    code.raw(&[0xc5, 0xf9, 0x93, 0xc0]); // kmovb eax, k0
    code.shr(RAX, 2);
    let done = code.jump();
    let here = code.here();
    code.bind(asleep, here);
    done
}

/// Fetches what sleeps; spoils nothing. Where anything sleeps, the upper halves of the first sixteen are zero.
pub fn wake(code: &mut Code) {
    (16..32).for_each(|n| move_vector(code, n, false));
    (0..8).for_each(|n| move_mask(code, n, false));
    code.store32_immediate(Mem::frame(offset_of!(Frame, awake)), 1);
}

/// `vmovups zmmN, [frame]` or the reverse (SDM vol. 2, 2.7: R and R' extend the register inverted).
fn move_vector(code: &mut Code, n: u8, store: bool) {
    let extension = (!(n >> 3) & 1) << 7 | (!(n >> 4) & 1) << 4;
    code.raw(&[0x62, 0x61 | extension, 0x7c, 0x48]);
    code.vector_operand(
        if store { 0x11 } else { 0x10 },
        n,
        offset_of!(Frame, vectors) + ZMM * usize::from(n),
    );
}

/// `kmovq kN, [frame]` or the reverse.
fn move_mask(code: &mut Code, n: u8, store: bool) {
    code.raw(&[0xc4, 0xe1, 0xf8]);
    code.vector_operand(if store { 0x91 } else { 0x90 }, n, offset_of!(Frame, masks) + 8 * usize::from(n));
}

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::{Decoder, DecoderOptions, FastFormatter, Register};

    fn shown(write: impl FnOnce(&mut Code)) -> Vec<String> {
        let mut code = Code::default();
        write(&mut code);
        let mut formatter = FastFormatter::new();
        let decoder = Decoder::new(64, &code.bytes, DecoderOptions::NONE);
        let one = |instruction| {
            let mut text = String::new();
            formatter.format(&instruction, &mut text);
            text
        };
        decoder.into_iter().map(one).collect()
    }

    #[test]
    fn waking_loads_the_upper_sixteen_and_the_masks_from_their_places() {
        let mut code = Code::default();
        wake(&mut code);
        let loads: Vec<_> = Decoder::new(64, &code.bytes, DecoderOptions::NONE).into_iter().collect();
        let (vectors, masks) = (offset_of!(Frame, vectors), offset_of!(Frame, masks));
        let expected = (16..32)
            .map(|n| (Register::ZMM0 + n as u32, vectors + 64 * n))
            .chain((0..8).map(|n| (Register::K0 + n as u32, masks + 8 * n)));
        for (load, (register, place)) in loads.iter().zip(expected) {
            assert_eq!((load.op0_register(), load.memory_base()), (register, Register::RSP));
            assert_eq!(load.memory_displacement64(), place as u64, "{register:?}");
        }
        assert_eq!(loads.len(), 16 + 8 + 1);
    }

    #[test]
    fn the_way_out_looks_at_all_of_the_first_sixteen() {
        let lines = shown(|code| {
            let _ = store_if_awake(code);
        });
        let ors: Vec<_> = lines.iter().filter(|line| line.starts_with("vporq")).collect();
        assert_eq!(ors.len(), 15);
        assert!(ors.iter().any(|line| *line == "vporq zmm8,zmm8,zmm15"), "{ors:?}");
        assert_eq!(ors[14], "vporq zmm0,zmm0,zmm8");
        assert!(lines.contains(&"vptestmq k0,zmm0,zmm0".to_owned()), "{lines:?}");
        assert!(lines.contains(&"kmovb eax,k0".to_owned()), "{lines:?}");
    }
}
