//! Saving and loading vector state: `fxsave`, `xsave` and their kin, on the buffer.
//!
//! The Guest's x87 and vector registers are the host's while it runs, so the host's own instruction does the work. Its
//! mask is cut down to what the Guest enabled: the host may have state (AVX-512, protection keys) that the Guest must
//! not see, and whose bytes would lie behind the area that `cpuid` announced. x87's instruction and data pointers would
//! be the host's addresses of translated code; they read as zero.

use super::segments::in_segment;
use super::{Done, Then};
use crate::cpu::{RAX, RDX, cr4, xcr0};
use crate::events::exception::Exception;
use crate::memory::walk::{Access, Intent};
use crate::rewrite::operand_size;
use crate::vcpu::Vcpu;
use iced_x86::{Code, Instruction, Mnemonic as M};
use std::ops::Range;

/// Bytes of the legacy region.
const LEGACY: usize = 512;
/// The header behind it: which components are present, and whether the area is compact.
const HEADER: usize = 64;
/// Upper halves of sixteen ymm registers.
const UPPER: usize = 256;
/// Place of x87's instruction and data pointers in the legacy region.
const POINTERS: Range<usize> = 8..24;
/// Where the registers lie that only 64-bit code has: xmm8 to xmm15, and their upper halves.
const HIDDEN: [Range<usize>; 2] = [288..416, LEGACY + HEADER + 128..LEGACY + HEADER + UPPER];
/// The bit of the header's second word that says "compact".
const COMPACT: u64 = 1 << 63;

impl Vcpu {
    pub(super) fn vector_area(&mut self, instruction: &Instruction) -> Done {
        let save = !matches!(instruction.mnemonic(), M::Fxrstor | M::Fxrstor64 | M::Xrstor | M::Xrstor64);
        let address = self.operand_place(instruction, LEGACY, save)?.unwrap_or(0);
        let legacy = matches!(instruction.mnemonic(), M::Fxsave | M::Fxsave64 | M::Fxrstor | M::Fxrstor64);
        if address & if legacy { 15 } else { 63 } != 0 {
            return Err(Exception::gp(0).into());
        }
        if legacy {
            return if save {
                self.save(instruction, address, LEGACY, POINTERS)
            } else {
                self.load_area(instruction, address, LEGACY)
            };
        }
        if self.cpu().cr4 & cr4::OSXSAVE == 0 {
            return Err(Exception::ud().into());
        }
        let asked = self.cpu().gpr[RAX] & 0xffff_ffff | self.cpu().gpr[RDX] << 32;
        let mask = asked & self.cpu().xcr0;
        let size = LEGACY + HEADER + if mask & xcr0::AVX != 0 { UPPER } else { 0 };
        let before = (self.cpu().gpr[RAX], self.cpu().gpr[RDX]);
        self.cpu_mut().gpr[RAX] = mask & 0xffff_ffff;
        self.cpu_mut().gpr[RDX] = mask >> 32;
        let done = if matches!(instruction.mnemonic(), M::Xrstor | M::Xrstor64) {
            self.restore(instruction, address, size)
        } else {
            // `xsaveopt` may leave out what the area is known to hold; the buffer holds other Guests' bytes.
            let mut plain = *instruction;
            match instruction.mnemonic() {
                M::Xsaveopt => plain.set_code(Code::Xsave_mem),
                M::Xsaveopt64 => plain.set_code(Code::Xsave64_mem),
                _ => {}
            }
            self.save(&plain, address, size, POINTERS)
        };
        (self.cpu_mut().gpr[RAX], self.cpu_mut().gpr[RDX]) = before;
        done
    }

    /// `fnstenv` and `fnsave`: pointers are the last four words of the environment, of 28 bytes or, with an operand-size
    /// prefix, of 14 (SDM vol. 1, figures 8-9 and 8-11).
    pub(super) fn environment(&mut self, instruction: &Instruction) -> Done {
        let size = operand_size(instruction);
        let address = self.operand_place(instruction, size, true)?.unwrap_or(0);
        let pointers = if matches!(size, 14 | 94) { 6..14 } else { 12..28 };
        self.save(instruction, address, size, pointers)
    }

    /// Runs a saving instruction: bytes it leaves alone stay as they are.
    fn save(&mut self, instruction: &Instruction, address: u64, size: usize, pointers: Range<usize>) -> Done {
        let mut bytes = vec![0; size];
        self.with_memory(|cpu, memory| {
            memory.probe(cpu, address, size, Access::by_operand(cpu, Intent::Write))?;
            memory.read_virtual(cpu, address, &mut bytes, Access::by_operand(cpu, Intent::Read))
        })
        .map_err(|fault| in_segment(instruction, fault))?;
        self.bounce.write(address, &bytes);
        self.run_snippet(instruction, address)??;
        let before = bytes.clone();
        self.bounce.read(address, &mut bytes);
        bytes[pointers].fill(0);
        if !self.cpu().in_64_bit_mode() && size >= LEGACY {
            for hidden in HIDDEN.into_iter().filter(|hidden| hidden.end <= size) {
                bytes[hidden.clone()].copy_from_slice(&before[hidden]);
            }
        }
        self.with_memory(|cpu, memory| {
            memory.write_virtual(cpu, address, &bytes, Access::by_operand(cpu, Intent::Write))
        })?;
        Ok(Then::Next)
    }

    fn load_area(&mut self, instruction: &Instruction, address: u64, size: usize) -> Done {
        let mut bytes = vec![0; size];
        self.with_memory(|cpu, memory| {
            memory.read_virtual(cpu, address, &mut bytes, Access::by_operand(cpu, Intent::Read))
        })
        .map_err(|fault| in_segment(instruction, fault))?;
        self.bounce.write(address, &bytes);
        let kept = self.frame().vectors;
        self.run_snippet(instruction, address)??;
        if !self.cpu().in_64_bit_mode() {
            self.frame().wide = 1;
            self.frame().vectors[8..].copy_from_slice(&kept[8..]);
        }
        Ok(Then::Next)
    }

    /// `xrstor`: the header must not name what the Guest has not (SDM vol. 1, 13.8).
    fn restore(&mut self, instruction: &Instruction, address: u64, size: usize) -> Done {
        let mut header = [0; 16];
        self.with_memory(|cpu, memory| {
            let place = address.wrapping_add(LEGACY as u64);
            memory.read_virtual(cpu, place, &mut header, Access::by_operand(cpu, Intent::Read))
        })
        .map_err(|fault| in_segment(instruction, fault))?;
        let header = u128::from_le_bytes(header);
        let (present, layout) = (header as u64, (header >> 64) as u64);
        let enabled = self.cpu().xcr0;
        if present & !enabled != 0 || layout & !(enabled | COMPACT) != 0 {
            return Err(Exception::gp(0).into());
        }
        let needed = if present & xcr0::AVX != 0 { size } else { size.min(LEGACY + HEADER) };
        self.load_area(instruction, address, needed)
    }
}
