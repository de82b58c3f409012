//! x87's registers change hands when a Guest starts and stops running on a thread.
//!
//! While it runs they are in the host's registers, over any number of turns between generated code and this crate, which
//! uses no x87. Around that they are kept here: the rest of the program must not meet a Guest's pending exception or
//! rounding, and another Guest on the same thread has registers of its own. The vectors change hands at each turn: see
//! `cache/thunks.rs`.

#![allow(unsafe_code)] // Two instructions.

use std::arch::asm;

/// Bytes of an XSAVE area that holds nothing but the legacy region and the header.
const AREA: usize = 576;
/// The component that is x87, in XSAVE's mask.
const X87: u32 = 1;

/// One Guest's x87 registers while it does not run. All zeros is the state after power-on.
#[repr(C, align(64))]
pub struct Registers([u8; AREA]);

impl Registers {
    /// As after power-on.
    pub fn new() -> Registers {
        Registers([0; AREA])
    }

    /// Puts them into the processor.
    pub fn load(&self) {
        // SAFETY: the area is aligned and was zero or written by `xsave`; `check_processor` asked for AVX, which comes with it.
        unsafe {
            asm!("xrstor64 [{area}]", area = in(reg) self.0.as_ptr(), in("eax") X87, in("edx") 0, options(nostack))
        };
    }

    /// Takes them out of the processor, which goes on with those that the System V ABI asks for.
    pub fn store(&mut self) {
        // SAFETY: as above; an empty register stack and the default control word are what compiled code expects.
        unsafe {
            asm!("xsave64 [{area}]", "fninit", area = in(reg) self.0.as_mut_ptr(), in("eax") X87, in("edx") 0,
                 options(nostack))
        };
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
