//! x87's registers change hands when a Guest starts and stops running on a thread.
//!
//! While it runs they are in the host's registers, over any number of turns between generated code and this crate, which
//! uses no x87. Around that they are kept here: the rest of the program must not meet a Guest's pending exception or
//! rounding, and another Guest on the same thread has registers of its own. The vectors change hands at each turn: see
//! `cache/thunks.rs`.
//!
//! Most Guests leave x87 alone most of the time, and the processor knows: then both ways take 12 ns rather than 88 and 56.

#![allow(unsafe_code)] // The few instructions that move these registers.

use std::arch::asm;
use std::arch::x86_64::__cpuid_count;

/// Bytes of an XSAVE area that holds nothing but the legacy region and the header.
const AREA: usize = 576;
/// Place of the header, whose first word names the components that are not in their initial state.
const HEADER: usize = 512;
/// The component that is x87, in XSAVE's masks.
const X87: u32 = 1;

/// An XSAVE area. All zeros is the initial state.
#[repr(C, align(64))]
struct Area([u8; AREA]);

/// One Guest's x87 registers while it does not run.
pub struct Registers {
    area: Area,
    /// They are not in their initial state.
    used: bool,
    /// The processor knows whether its own are.
    knows: bool,
}

impl Registers {
    /// As after power-on.
    pub fn new() -> Registers {
        // XGETBV with 1 in ecx: SDM vol. 1, 13.2.
        let knows = __cpuid_count(0xd, 1).eax & 1 << 2 != 0;
        Registers { area: Area([0; AREA]), used: false, knows }
    }

    /// Puts them into the processor.
    pub fn load(&self) {
        if !self.used && self.untouched() {
            return;
        }
        let area = self.area.0.as_ptr();
        // SAFETY: the area is aligned and was zero or written by `xsave`; `requirements` asks for AVX, which comes with it.
        unsafe {
            asm!("xrstor64 [{area}]", area = in(reg) area, in("eax") X87, in("edx") 0, options(nostack))
        };
    }

    /// Takes them out of the processor, which goes on with those that the System V ABI asks for.
    pub fn store(&mut self) {
        self.used = !self.untouched();
        if !self.used {
            self.area.0[HEADER] = 0;
            return;
        }
        let area = self.area.0.as_mut_ptr();
        // SAFETY: as above.
        unsafe {
            asm!("xsave64 [{area}]", area = in(reg) area, in("eax") X87, in("edx") 0, options(nostack))
        };
        // SAFETY: an empty register stack and the default control word are what compiled code expects.
        unsafe { asm!("fninit", options(nomem, nostack)) };
    }

    /// True when the processor's registers surely are in their initial state.
    fn untouched(&self) -> bool {
        let in_use: u32;
        if !self.knows {
            return false;
        }
        // SAFETY: `knows` says that the processor answers.
        unsafe { asm!("xgetbv", in("ecx") 1, out("eax") in_use, out("edx") _, options(nomem, nostack)) };
        in_use & X87 == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn control_word() -> u16 {
        let mut word = 0u16;
        // SAFETY: stores two bytes.
        unsafe { asm!("fnstcw [{word}]", word = in(reg) &raw mut word, options(nostack)) };
        word
    }

    #[test]
    fn what_was_stored_comes_back_and_the_host_has_its_own_in_between() {
        let mut guest = Registers::new();
        guest.load();
        let odd = 0x77fu16;
        // SAFETY: loads two bytes.
        unsafe { asm!("fldcw [{word}]", word = in(reg) &raw const odd, options(nostack)) };
        guest.store();
        assert_eq!(control_word(), 0x37f);
        guest.load();
        assert_eq!(control_word(), odd);
        guest.store();
    }
}
