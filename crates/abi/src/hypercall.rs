//! Hypercalls: how a Guest asks its Host (facts 9).
//!
//! On 32 bits: `int 31`, number in eax, arguments in edx, ebx, ecx. On 64 bits: see the crate's "On 64 bits", 4.
//! NOTIFY belongs to the second generation, whose arguments begin in rbx; it is here because the control interface
//! carries it. READ and WRITE are the two hypercalls of the 2007 abstraction mail.

/// The software interrupt of a 32-bit hypercall.
pub const TRAP_ENTRY: u8 = 31;
/// Bytes of text that CRASH reads at most, its NUL included.
pub const CRASH_TEXT: usize = 128;
/// The text of a CRASH that means a clean power-off.
pub const POWER_DOWN: &str = "Power down";

macro_rules! hypercalls {
    ($($(#[$doc:meta])* $name:ident = $number:literal,)*) => {
        /// Every number with a meaning.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u32)]
        pub enum Hypercall { $($(#[$doc])* $name = $number,)* }

        impl Hypercall {
            /// The call of that number. An unknown number kills: `Bad hypercall <n>`.
            #[must_use]
            pub const fn from_number(number: u64) -> Option<Hypercall> {
                match number {
                    $($number => Some(Hypercall::$name),)*
                    _ => None,
                }
            }
        }
    };
}

hypercalls! {
    /// Drains the ring of asynchronous calls. Nothing to do on 64 bits.
    FlushAsync = 0,
    /// rdx: address of the data both share ([`crate::data`]). The first call, and only once.
    Init = 1,
    /// rdx: address of a text. The Guest ends.
    Crash = 2,
    /// 32 bits only: address and entries of a descriptor table.
    LoadGdt = 3,
    /// 32 bits only: address of a page directory.
    NewPageTable = 4,
    /// 32 bits only: 0 for the user part, else everything.
    FlushTlb = 5,
    /// 32 bits only: vector and the two halves of a gate.
    LoadIdtEntry = 6,
    /// 32 bits only: segment, stack pointer, pages.
    SetStack = 7,
    /// 32 bits only: the task-switched flag.
    TaskSwitched = 8,
    /// 32 bits only: nanoseconds until irq 0; 0 cancels.
    SetClockEvent = 9,
    /// 32 bits only: sleep until an interrupt.
    Halt = 10,
    /// Answers seconds since 1970.
    GetWallClock = 11,
    /// rdx: key; rbx: address of an array of lists; rcx: see [`pack_bind`]. Answers 1 or 0.
    BindDma = 12,
    /// rdx: key; rbx: address of one list. No answer but the list's `used_len`.
    SendDma = 13,
    /// 32 bits only: page directory, virtual address, entry.
    SetPte = 14,
    /// 32 bits only: page directory, index.
    SetPmd = 15,
    /// 32 bits only: address of three segment descriptors.
    LoadTls = 16,
    /// Second generation, rbx: a guest-physical address the Host listens at.
    Notify = 17,
    /// The mail's HV_READ, rdx: handle, rbx: buffer, rcx: bytes. Answers the count, or a negative error number.
    Read = 32,
    /// The mail's HV_WRITE, likewise.
    Write = 33,
}

impl Hypercall {
    /// Whether a 64-bit Guest may make this call. The others kill it as unknown numbers do.
    #[must_use]
    pub const fn on_64_bits(self) -> bool {
        use Hypercall::{BindDma, Crash, FlushAsync, GetWallClock, Init, Notify, Read, SendDma, Write};
        matches!(self, FlushAsync | Init | Crash | GetWallClock | BindDma | SendDma | Notify | Read | Write)
    }

    /// Whether this call may come before LGUEST_INIT, with `key` its first argument. Others kill the Guest:
    /// `hypercall <n> before LGUEST_INIT`.
    #[must_use]
    pub const fn before_init(self, key: u64) -> bool {
        match self {
            Hypercall::FlushAsync | Hypercall::Init | Hypercall::Crash => true,
            Hypercall::SendDma => key == crate::console::KEY,
            _ => false,
        }
    }
}

/// What the third argument of BIND_DMA says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bind {
    /// Lists in the array.
    pub count: u16,
    /// The interrupt of an arrival; 0 means unbind. Not yet checked against [`crate::meeting::IRQS`].
    pub irq: u8,
}

/// The third argument of BIND_DMA.
#[must_use]
pub const fn pack_bind(bind: Bind) -> u64 {
    (bind.count as u64) << 8 | bind.irq as u64
}

/// What the Host takes from it: the count is cut to 16 bits (facts 6.1).
#[must_use]
pub const fn unpack_bind(word: u64) -> Bind {
    Bind { count: (word >> 8) as u16, irq: word as u8 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_the_originals() {
        assert_eq!(Hypercall::from_number(12), Some(Hypercall::BindDma));
        assert_eq!(Hypercall::from_number(13), Some(Hypercall::SendDma));
        assert_eq!(Hypercall::from_number(16), Some(Hypercall::LoadTls));
        assert_eq!(Hypercall::from_number(18), None);
        assert_eq!(Hypercall::from_number(1 << 32), None, "the upper half counts");
    }

    #[test]
    fn a_bind_word_round_trips_and_wide_counts_are_cut() {
        let bind = Bind { count: 8, irq: 2 };
        assert_eq!(pack_bind(bind), 0x802);
        assert_eq!(unpack_bind(0x802), bind);
        assert_eq!(unpack_bind(0x1_0000_00ff << 8), Bind { count: 0xff, irq: 0 });
    }

    #[test]
    fn only_the_consoles_send_comes_before_init() {
        assert!(Hypercall::SendDma.before_init(0));
        assert!(!Hypercall::SendDma.before_init(4096));
        assert!(!Hypercall::BindDma.before_init(0));
    }

    #[test]
    fn page_tables_and_segments_are_the_processors_business_on_64_bits() {
        assert!(!Hypercall::SetPte.on_64_bits() && !Hypercall::LoadGdt.on_64_bits());
        assert!(Hypercall::SendDma.on_64_bits());
    }
}
