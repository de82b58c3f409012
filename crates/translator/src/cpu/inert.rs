//! Model-specific registers that remember and do nothing else: what a kernel sets up on any machine it boots on, and that
//! a translated machine has no use for. One table, with what each is and who asks for it.

/// One register of the table.
struct Inert {
    /// First index, as `rdmsr` takes it.
    first: u32,
    /// How many follow each other with the same rules.
    count: u32,
    /// Value after power-on.
    reset: u64,
    /// Bits a write may change.
    writable: u64,
    /// What a write does with a set bit outside `writable` that was not already set.
    strict: Strictness,
}

/// What happens to bits that cannot be written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Strictness {
    /// They keep their value and nothing is said.
    Ignores,
    /// Changing one is #GP(0).
    Faults,
}
use Strictness::{Faults, Ignores};

/// Effective-memory-type bits of a physical address mask: those of [`crate::memory::walk::PHYSICAL_BITS`].
const PHYSICAL: u64 = (1 << crate::memory::walk::PHYSICAL_BITS) - 1;
/// SPEC_CTRL: IBRS, STIBP, SSBD. Nothing to do: see `ARCH_CAPABILITIES` in `msr.rs`.
const SPEC_CTRL: u64 = 0b111;
/// PAT after power-on: WB WT UC- UC, twice (SDM vol. 3, 12.12.4).
const PAT_RESET: u64 = 0x0007_0406_0007_0406;
/// Every field of PAT is a byte with a type of three bits.
const PAT_BITS: u64 = 0x0707_0707_0707_0707;
/// MTRRs on, fixed ranges on, everything write-back: what firmware would have left. Off, Linux gives up on PAT too.
const MTRR_DEFAULT: u64 = 0xc06;

const fn one(index: u32, reset: u64, writable: u64, strict: Strictness) -> Inert {
    Inert { first: index, count: 1, reset, writable, strict }
}

const TABLE: [Inert; 33] = [
    // Platform identity and microcode: zero, and the update trigger does nothing.
    one(0x17, 0, 0, Faults),
    one(0x79, 0, u64::MAX, Ignores),
    one(0x8b, 0, u64::MAX, Ignores),
    // FEATURE_CONTROL: locked with everything off, so that nobody tries VMX or SGX.
    one(0x3a, 1, 0, Faults),
    // SPEC_CTRL.
    one(0x48, 0, SPEC_CTRL, Faults),
    // Machine check: global status; the capabilities say zero banks, in `msr.rs`.
    one(0x17a, 0, u64::MAX, Ignores),
    // MISC_ENABLE: fast strings on, MONITOR off, BTS and PEBS unavailable.
    one(0x1a0, 1 | 1 << 11 | 1 << 12, 0x4_0005_0081, Ignores),
    // DEBUGCTL: LBR and BTF are remembered, never acted on.
    one(0x1d9, 0, 0b11, Ignores),
    // MISC_FEATURE_ENABLES: neither cpuid faulting nor MWAIT in user mode.
    one(0x140, 0, 0, Faults),
    // XSS: no state that only the supervisor may save.
    one(0xda0, 0, 0, Faults),
    // MTRRs: eight variable ranges (base, mask), eleven fixed, and the default type.
    Inert { first: 0x200, count: 16, reset: 0, writable: PHYSICAL & !0x700, strict: Ignores },
    Inert { first: 0x250, count: 1, reset: WRITE_BACK, writable: u64::MAX, strict: Ignores },
    Inert { first: 0x258, count: 2, reset: WRITE_BACK, writable: u64::MAX, strict: Ignores },
    Inert { first: 0x268, count: 8, reset: WRITE_BACK, writable: u64::MAX, strict: Ignores },
    one(0x2ff, MTRR_DEFAULT, 0xcff, Faults),
    // PAT. Its types are checked in `msr.rs`.
    one(0x277, PAT_RESET, PAT_BITS, Faults),
    // AMD: SYSCFG and the tops of memory, which Linux reads while it looks at MTRRs.
    one(0xc001_0010, 0, 0, Ignores),
    one(0xc001_001a, 0, 0, Ignores),
    one(0xc001_001d, 0, 0, Ignores),
    // AMD: HWCR, with the bit that says the TSC counts at a constant rate.
    one(0xc001_0015, 1 << 24, 0xffff_ffff & !(1 << 24), Ignores),
    // AMD: NB_CFG, in which Linux turns extended configuration cycles on for every processor it brings up.
    one(0xc001_001f, 0, u64::MAX, Ignores),
    // AMD: patch loader; power-management interrupt; node identity.
    one(0xc001_0020, 0, 0, Ignores),
    one(0xc001_0055, 0, 0, Ignores),
    one(0xc001_100c, 0, 0, Ignores),
    // AMD: PATCH_LEVEL's neighbours that hold workarounds for errata of real silicon: LS_CFG, DE_CFG and the rest.
    one(0xc001_1020, 0, u64::MAX, Ignores),
    one(0xc001_1021, 0, u64::MAX, Ignores),
    one(0xc001_1022, 0, u64::MAX, Ignores),
    one(0xc001_1028, 0, u64::MAX, Ignores),
    one(0xc001_1029, 0b10, u64::MAX, Ignores),
    one(0xc001_102d, 0, u64::MAX, Ignores),
    one(0xc001_102e, 0, u64::MAX, Ignores),
    // AMD: OS-visible workarounds: none.
    Inert { first: 0xc001_0140, count: 2, reset: 0, writable: 0, strict: Ignores },
    // AMD: virtual SSBD, which guests of other hypervisors write.
    one(0xc001_011f, 0, 0b100, Ignores),
];

/// Write-back in each of a fixed range register's eight bytes.
const WRITE_BACK: u64 = 0x0606_0606_0606_0606;

const COUNT: usize = {
    let (mut total, mut entry) = (0, 0);
    while entry < TABLE.len() {
        total += TABLE[entry].count as usize;
        entry += 1;
    }
    total
};

/// What the registers of the table hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InertMsrs {
    values: [u64; COUNT],
}

impl InertMsrs {
    /// Every register at its value after power-on.
    pub fn at_power_on() -> InertMsrs {
        let mut values = [0; COUNT];
        let resets = TABLE.iter().flat_map(|entry| (0..entry.count).map(|_| entry.reset));
        for (value, reset) in values.iter_mut().zip(resets) {
            *value = reset;
        }
        InertMsrs { values }
    }

    /// What a register holds; None when the table has no such register.
    pub fn read(&self, index: u32) -> Option<u64> {
        find(index).map(|(place, _)| self.values[place])
    }

    /// Writes a register. None when the table has no such register; false when the value is refused with #GP(0).
    pub fn write(&mut self, index: u32, value: u64) -> Option<bool> {
        let (place, entry) = find(index)?;
        let old = self.values[place];
        if entry.strict == Faults && (old ^ value) & !entry.writable != 0 {
            return Some(false);
        }
        self.values[place] = old & !entry.writable | value & entry.writable;
        Some(true)
    }
}

fn find(index: u32) -> Option<(usize, &'static Inert)> {
    let mut place = 0;
    for entry in &TABLE {
        if (entry.first..entry.first + entry.count).contains(&index) {
            return Some((place + (index - entry.first) as usize, entry));
        }
        place += entry.count as usize;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_register_is_in_the_table_twice() {
        for entry in &TABLE {
            for index in entry.first..entry.first + entry.count {
                let owners = TABLE.iter().filter(|e| (e.first..e.first + e.count).contains(&index)).count();
                assert_eq!(owners, 1, "{index:#x}");
            }
        }
    }

    #[test]
    fn each_register_starts_with_its_own_reset_value() {
        let registers = InertMsrs::at_power_on();
        for entry in &TABLE {
            for index in entry.first..entry.first + entry.count {
                assert_eq!(registers.read(index), Some(entry.reset), "{index:#x}");
            }
        }
    }

    #[test]
    fn a_strict_register_takes_its_old_value_back_and_refuses_a_new_bit() {
        let mut registers = InertMsrs::at_power_on();
        assert_eq!(registers.write(0x3a, 1), Some(true));
        assert_eq!(registers.write(0x3a, 5), Some(false));
        assert_eq!(registers.read(0x3a), Some(1));
    }

    #[test]
    fn neighbours_do_not_share_a_place() {
        let mut registers = InertMsrs::at_power_on();
        registers.write(0x200, 0x1000);
        registers.write(0x201, 0x2000);
        assert_eq!((registers.read(0x200), registers.read(0x201)), (Some(0x1000), Some(0x2000)));
    }

    #[test]
    fn a_register_outside_the_table_is_none() {
        assert_eq!(InertMsrs::at_power_on().read(0x1b), None);
        assert_eq!(InertMsrs::at_power_on().write(0x1b, 0), None);
    }
}
