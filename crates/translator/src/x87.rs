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
use std::sync::LazyLock;

/// Bytes of an XSAVE area that holds nothing but the legacy region and the header.
const AREA: usize = 576;
/// Place of the header, whose first word names the components that are not in their initial state.
const HEADER: usize = 512;
/// Bytes of the legacy region.
const LEGACY: usize = 512;
/// The component that is x87, in XSAVE's masks.
const X87: u32 = 1;

/// An XSAVE area. All zeros is the initial state.
#[repr(C, align(64))]
struct Area([u8; AREA]);

/// x87's part of an XSAVE area's legacy region, on its way between the Guest's memory and the processor that holds the
/// Guest's registers.
pub struct Image(Area);

impl Image {
    /// As after `fninit`.
    pub fn initial() -> Image {
        Image(Area([0; AREA]))
    }

    /// As a legacy region has them; its other parts do not matter.
    pub fn from_legacy(bytes: &[u8]) -> Image {
        let mut image = Image::initial();
        image.0.0[..LEGACY].copy_from_slice(&bytes[..LEGACY]);
        image.0.0[HEADER] = X87 as u8;
        image
    }

    /// As the processor has them now.
    pub fn of_processor() -> Image {
        let mut image = Image::initial();
        let area = image.0.0.as_mut_ptr();
        // SAFETY: the area is aligned and large enough; the instruction only stores.
        unsafe { asm!("fxsave64 [{area}]", area = in(reg) area, options(nostack)) };
        image
    }

    /// The legacy region.
    pub fn bytes(&self) -> &[u8] {
        &self.0.0[..LEGACY]
    }

    /// Puts them into the processor.
    pub fn load(&self) {
        restore(&self.0);
    }
}

/// False when the processor's x87 registers surely are in their initial state.
pub fn in_use() -> bool {
    let in_use: u32;
    if !*KNOWS {
        return true;
    }
    // SAFETY: `KNOWS` says that the processor answers.
    unsafe { asm!("xgetbv", in("ecx") 1, out("eax") in_use, out("edx") _, options(nomem, nostack)) };
    in_use & X87 != 0
}

/// Loads x87's registers from an area that holds them, or their initial state.
fn restore(area: &Area) {
    let area = area.0.as_ptr();
    // SAFETY: the area is aligned and its header names x87 or nothing; `requirements` asks for AVX, which comes with the
    // instruction.
    unsafe { asm!("xrstor64 [{area}]", area = in(reg) area, in("eax") X87, in("edx") 0, options(nostack)) };
}

/// One Guest's x87 registers while it does not run.
pub struct Registers {
    area: Area,
    /// They are not in their initial state.
    used: bool,
}

/// Whether the processor knows that its registers are in their initial state: XGETBV with 1 in ecx (SDM vol. 1, 13.2). Asked
/// once, for a hypervisor below us may take microseconds over `cpuid`.
static KNOWS: LazyLock<bool> = LazyLock::new(|| __cpuid_count(0xd, 1).eax & 1 << 2 != 0);

impl Registers {
    /// As after power-on.
    pub fn new() -> Registers {
        Registers { area: Area([0; AREA]), used: false }
    }

    /// Puts them into the processor.
    pub fn load(&self) {
        if !self.used && !in_use() {
            return;
        }
        restore(&self.area);
    }

    /// Takes them out of the processor, which goes on with those that the System V ABI asks for.
    pub fn store(&mut self) {
        self.used = in_use();
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
