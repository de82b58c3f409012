//! Control and debug registers, and XCR0: what may be written to them and what a write makes stale (SDM vol. 3, 2.5,
//! 4.10.4 and 18.2; SDM vol. 2, MOV to and from control registers).
//!
//! Long mode is entered by setting CR0.PG while EFER.LME is set and left by clearing it (SDM vol. 3, 10.8.5). 64-bit code
//! cannot do either: clearing CR0.PG, CR0.PE or CR4.PAE there is #GP(0), so the way out is a far transfer first.

use crate::cpu::components::is_consistent;
use crate::cpu::descriptors::privileged;
use crate::cpu::segments::CS;
use crate::cpu::{Cpu, cr0, cr4, debug, efer};
use crate::events::exception::Exception;
use crate::memory::ram::Ram;
use crate::memory::walk::PHYSICAL_BITS;

/// What a write made stale. The default is "nothing".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Effect {
    /// Translations of the current PCID (the new one, after a write to CR3) that are not global.
    pub flush_nonglobal: bool,
    /// Every translation, of every PCID, global or not.
    pub flush_all: bool,
    /// CR3 names another root or another PCID than before.
    pub address_space_changed: bool,
    /// CR0.WP, CR4.SMEP, CR4.SMAP, CR4.FSGSBASE or EFER.NXE changed: rights worked out before are wrong in every
    /// address space, and so may be code translated under them.
    pub rights_changed: bool,
    /// CR0.TS, CR0.EM, CR0.MP, CR4.OSFXSR, CR4.OSXSAVE or XCR0 changed: floating-point and vector instructions may
    /// fault now, or no more.
    pub vector_state_changed: bool,
    /// PAE paging: the four page-directory pointers at CR3 are to be loaded, or the write undone: see [`directories`].
    pub directories_due: bool,
}

/// Answer to a read of a control register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ControlRead {
    /// Its value.
    Value(u64),
    /// CR8: bits 4 to 7 of the local APIC's task priority (MSR 0x808), which the host holds.
    TaskPriority,
}

/// Answer to a write of a control register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ControlWrite {
    /// Done, with this left for the caller to do.
    Done(Effect),
    /// CR8: the local APIC's task priority (MSR 0x808) becomes this number (0 to 15) shifted left by four.
    TaskPriority(u64),
}

/// CR0 bits that exist; the other low ones read as zero, whatever is written.
const CR0_BITS: u64 = cr0::PE
    | cr0::MP
    | cr0::EM
    | cr0::TS
    | cr0::ET
    | cr0::NE
    | cr0::WP
    | cr0::AM
    | cr0::NW
    | cr0::CD
    | cr0::PG;
/// CR4 bits that go with what `cpuid` offers; OSXSAVE joins them where there is `xsave`.
const CR4_BITS: u64 = cr4::TSD
    | cr4::DE
    | cr4::PSE
    | cr4::PAE
    | cr4::MCE
    | cr4::PGE
    | cr4::PCE
    | cr4::OSFXSR
    | cr4::OSXMMEXCPT
    | cr4::FSGSBASE
    | cr4::PCIDE
    | cr4::SMEP
    | cr4::SMAP;
/// CR3 bit 63: with PCIDs, keep what is cached. It is not stored.
const CR3_KEEP: u64 = 1 << 63;
/// CR3's low bits when they are a PCID.
pub const PCID_BITS: u64 = 0xfff;
/// CR3 bits that no physical address has.
const CR3_RESERVED: u64 = !((1 << PHYSICAL_BITS) - 1);

/// `mov r64, crN`.
///
/// # Errors
/// #UD for a register that does not exist, #GP(0) above CPL 0.
pub fn read_control(cpu: &Cpu, number: u8) -> Result<ControlRead, Exception> {
    let value = match number {
        0 => cpu.cr0,
        2 => cpu.cr2,
        3 => cpu.cr3,
        4 => cpu.cr4,
        8 => return privileged(cpu).map(|()| ControlRead::TaskPriority),
        _ => return Err(Exception::ud()),
    };
    privileged(cpu).map(|()| ControlRead::Value(value))
}

/// `mov crN, r64`.
///
/// # Errors
/// #UD for a register that does not exist, #GP(0) above CPL 0 or for a value that breaks its rules.
pub fn write_control(cpu: &mut Cpu, number: u8, value: u64) -> Result<ControlWrite, Exception> {
    if !matches!(number, 0 | 2 | 3 | 4 | 8) {
        return Err(Exception::ud());
    }
    privileged(cpu)?;
    let effect = match number {
        0 => write_cr0(cpu, value)?,
        2 => {
            cpu.cr2 = value;
            Effect::default()
        }
        3 => write_cr3(cpu, value)?,
        4 => write_cr4(cpu, value)?,
        _ if value > 15 => return Err(Exception::gp(0)),
        _ => return Ok(ControlWrite::TaskPriority(value)),
    };
    Ok(ControlWrite::Done(effect))
}

fn write_cr0(cpu: &mut Cpu, value: u64) -> Result<Effect, Exception> {
    let new = value & CR0_BITS | cr0::ET;
    let cache_lie = new & cr0::NW != 0 && new & cr0::CD == 0;
    let paging_alone = new & cr0::PG != 0 && new & cr0::PE == 0;
    let changed = cpu.cr0 ^ new;
    if value >> 32 != 0 || cache_lie || paging_alone || changed & cr0::PG != 0 && !paging_may_change(cpu) {
        return Err(Exception::gp(0));
    }
    cpu.cr0 = new;
    if changed & cr0::PG != 0 {
        let long = new & cr0::PG != 0 && cpu.efer & efer::LME != 0;
        cpu.efer = cpu.efer & !efer::LMA | if long { efer::LMA } else { 0 };
    }
    if new & cr0::PE == 0 {
        // Real mode has the highest privilege (SDM vol. 3, 5.5).
        cpu.cpl = 0;
    }
    Ok(Effect {
        flush_all: changed & (cr0::PG | cr0::PE) != 0,
        rights_changed: changed & cr0::WP != 0,
        vector_state_changed: changed & (cr0::TS | cr0::EM | cr0::MP) != 0,
        directories_due: changed & (cr0::PG | cr0::CD | cr0::NW) != 0 && uses_directories(cpu),
        ..Effect::default()
    })
}

/// Whether CR0.PG may change now (SDM vol. 3, 10.8.5 and vol. 2, MOV to CR0): it takes PAE to enter long mode, 64-bit code
/// can neither turn paging on nor off, and PCIDs need it.
fn paging_may_change(cpu: &Cpu) -> bool {
    let on = cpu.cr0 & cr0::PG != 0;
    let needs_pae = !on && cpu.efer & efer::LME != 0 && cpu.cr4 & cr4::PAE == 0;
    let from_long_code = if on {
        cpu.in_64_bit_mode() || cpu.cr4 & cr4::PCIDE != 0
    } else {
        cpu.efer & efer::LME != 0 && cpu.segments[CS].is_long()
    };
    !needs_pae && !from_long_code
}

/// True while PAE paging is on: 64-bit entries in three levels (SDM vol. 3, 4.1.1).
fn uses_directories(cpu: &Cpu) -> bool {
    cpu.cr0 & cr0::PG != 0 && cpu.cr4 & cr4::PAE != 0 && !cpu.long_mode()
}

/// PAE paging's page-directory pointers, which live in registers and are read whenever CR3 is written or paging changes
/// (SDM vol. 3, 4.4.1). Where there is no RAM they read as ones, which is refused.
///
/// # Errors
/// #GP(0) for one that is present and has a reserved bit set.
pub fn directories(cpu: &Cpu, ram: &Ram) -> Result<[u64; 4], Exception> {
    const PRESENT: u64 = 1;
    const RESERVED: u64 = 0b1_1110_0110 | CR3_RESERVED;
    let base = cpu.cr3 & 0xffff_ffe0;
    let entries = std::array::from_fn(|n| ram.read_u64(base + 8 * n as u64).unwrap_or(u64::MAX));
    if entries.iter().any(|entry| entry & PRESENT != 0 && entry & RESERVED != 0) {
        return Err(Exception::gp(0));
    }
    Ok(entries)
}

fn write_cr3(cpu: &mut Cpu, value: u64) -> Result<Effect, Exception> {
    let tagged = cpu.cr4 & cr4::PCIDE != 0;
    let keep = tagged && value & CR3_KEEP != 0;
    let new = if tagged { value & !CR3_KEEP } else { value };
    if new & CR3_RESERVED != 0 {
        return Err(Exception::gp(0));
    }
    let changed = cpu.cr3 ^ new;
    cpu.cr3 = new;
    // Without PCIDs the low bits only say how the tables are cached.
    let names = if tagged { u64::MAX } else { !PCID_BITS };
    Ok(Effect {
        flush_nonglobal: !keep,
        address_space_changed: changed & names != 0,
        directories_due: uses_directories(cpu),
        ..Effect::default()
    })
}

fn write_cr4(cpu: &mut Cpu, value: u64) -> Result<Effect, Exception> {
    let offered = CR4_BITS | if cpu.xcr0_offered != 0 { cr4::OSXSAVE } else { 0 };
    let changed = cpu.cr4 ^ value;
    let tags_appear = changed & value & cr4::PCIDE != 0;
    let untaggable = tags_appear && (cpu.cr3 & PCID_BITS != 0 || !cpu.long_mode());
    let long_needs = cpu.long_mode() && value & cr4::PAE == 0;
    if value & !offered != 0 || long_needs || untaggable {
        return Err(Exception::gp(0));
    }
    cpu.cr4 = value;
    let reread = changed & (cr4::PGE | cr4::PSE | cr4::PAE | cr4::SMEP) != 0;
    Ok(Effect {
        flush_all: changed & (cr4::PGE | cr4::PCIDE | cr4::PSE | cr4::PAE) != 0,
        rights_changed: changed & (cr4::SMEP | cr4::SMAP | cr4::FSGSBASE) != 0,
        vector_state_changed: changed & (cr4::OSFXSR | cr4::OSXSAVE) != 0,
        directories_due: reread && uses_directories(cpu),
        ..Effect::default()
    })
}

/// `clts`.
///
/// # Errors
/// #GP(0) above CPL 0.
pub fn clts(cpu: &mut Cpu) -> Result<Effect, Exception> {
    privileged(cpu)?;
    let vector_state_changed = cpu.cr0 & cr0::TS != 0;
    cpu.cr0 &= !cr0::TS;
    Ok(Effect { vector_state_changed, ..Effect::default() })
}

/// `lmsw`: loads PE, MP, EM and TS, and cannot clear PE.
///
/// # Errors
/// #GP(0) above CPL 0.
pub fn lmsw(cpu: &mut Cpu, value: u16) -> Result<Effect, Exception> {
    privileged(cpu)?;
    let cleared = cr0::MP | cr0::EM | cr0::TS;
    write_cr0(cpu, cpu.cr0 & !cleared | value as u64 & (cleared | cr0::PE))
}

/// `smsw`: CR0, of which the instruction keeps as much as its operand holds. Without UMIP it is open to everybody.
pub fn smsw(cpu: &Cpu) -> u64 {
    cpu.cr0
}

/// `wrmsr` to EFER.
///
/// # Errors
/// #GP(0) for a bit that does not exist, or for a change of LME while paging is on.
pub fn write_efer(cpu: &mut Cpu, value: u64) -> Result<Effect, Exception> {
    let writable = efer::SCE | efer::LME | efer::NXE;
    let changed = cpu.efer ^ value;
    if value & !(writable | efer::LMA) != 0 || changed & efer::LME != 0 && cpu.cr0 & cr0::PG != 0 {
        return Err(Exception::gp(0));
    }
    // LMA is the processor's to set; what is written there does not matter.
    cpu.efer = cpu.efer & efer::LMA | value & writable;
    Ok(Effect { rights_changed: changed & efer::NXE != 0, ..Effect::default() })
}

/// `xgetbv`.
///
/// # Errors
/// #UD while CR4.OSXSAVE is off, #GP(0) for another register than 0.
pub fn xgetbv(cpu: &Cpu, number: u32) -> Result<u64, Exception> {
    if cpu.cr4 & cr4::OSXSAVE == 0 {
        return Err(Exception::ud());
    }
    if number == 0 { Ok(cpu.xcr0) } else { Err(Exception::gp(0)) }
}

/// `xsetbv`.
///
/// # Errors
/// #UD while CR4.OSXSAVE is off; #GP(0) above CPL 0, for another register than 0, for state that is not offered, and for
/// parts without those they need.
pub fn xsetbv(cpu: &mut Cpu, number: u32, value: u64) -> Result<Effect, Exception> {
    if cpu.cr4 & cr4::OSXSAVE == 0 {
        return Err(Exception::ud());
    }
    privileged(cpu)?;
    if number != 0 || value & !cpu.xcr0_offered != 0 || !is_consistent(value) {
        return Err(Exception::gp(0));
    }
    let vector_state_changed = cpu.xcr0 != value;
    cpu.xcr0 = value;
    Ok(Effect { vector_state_changed, ..Effect::default() })
}

/// `mov r64, drN`.
///
/// # Errors
/// As [`write_debug`].
pub fn read_debug(cpu: &mut Cpu, number: u8) -> Result<u64, Exception> {
    debug_register(cpu, number).map(|place| cpu.dr[place])
}

/// `mov drN, r64`. The value is kept; what it asks for is `debug`'s.
///
/// # Errors
/// #UD for DR4 and DR5 under CR4.DE and for numbers above 7; #GP(0) above CPL 0 or for the upper half of DR6 and DR7;
/// #DB when DR7.GD asks for it.
pub fn write_debug(cpu: &mut Cpu, number: u8, value: u64) -> Result<(), Exception> {
    let place = debug_register(cpu, number)?;
    if place >= 6 && value >> 32 != 0 {
        return Err(Exception::gp(0));
    }
    cpu.dr[place] = match place {
        6 => value & debug::DR6_WRITABLE | debug::DR6_FIXED,
        7 => value & debug::DR7_WRITABLE | debug::DR7_FIXED,
        _ => value,
    };
    Ok(())
}

fn debug_register(cpu: &mut Cpu, number: u8) -> Result<usize, Exception> {
    let place = match number {
        4 | 5 if cpu.cr4 & cr4::DE != 0 => return Err(Exception::ud()),
        4 | 5 => number as usize + 2,
        0..=7 => number as usize,
        _ => return Err(Exception::ud()),
    };
    privileged(cpu)?;
    if cpu.dr[7] & debug::GENERAL_DETECT != 0 {
        // The handler must be able to look: the processor lifts the guard before it runs.
        cpu.dr[6] |= debug::DETECTED;
        cpu.dr[7] &= !debug::GENERAL_DETECT;
        return Err(Exception::db());
    }
    Ok(place)
}

#[cfg(test)]
mod tests;
