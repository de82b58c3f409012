//! `invlpg` and `invpcid`: which cached translations the Guest wants gone (SDM vol. 3, 4.10.4.1; SDM vol. 2, INVPCID).

use crate::cpu::Cpu;
use crate::cpu::control::PCID_BITS;
use crate::cpu::cr4;
use crate::cpu::descriptors::privileged;
use crate::events::exception::Exception;
use crate::memory::access::{Fault, GuestMemory};
use crate::memory::walk::{Access, Intent, canonical};

/// What to forget. Forgetting more is always right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Invalidation {
    /// Nothing: the address is not canonical, so nothing is cached for it.
    Nothing,
    /// The page that holds `address`, whatever its size, in one address space.
    Page {
        /// A linear address.
        address: u64,
        /// Whose; 0 without PCIDs.
        pcid: u16,
        /// Also if it is global, and then everybody's.
        global_too: bool,
    },
    /// One address space, but not what is global.
    Space {
        /// Whose; 0 without PCIDs.
        pcid: u16,
    },
    /// Every address space, but not what is global.
    NonGlobal,
    /// Everything.
    All,
}

/// The current address space's PCID; 0 while CR4.PCIDE is off.
pub fn current_pcid(cpu: &Cpu) -> u16 {
    if cpu.cr4 & cr4::PCIDE != 0 { (cpu.cr3 & PCID_BITS) as u16 } else { 0 }
}

/// `invlpg`.
///
/// # Errors
/// #GP(0) above CPL 0.
pub fn invlpg(cpu: &Cpu, address: u64) -> Result<Invalidation, Exception> {
    privileged(cpu)?;
    if !canonical(address) {
        return Ok(Invalidation::Nothing);
    }
    Ok(Invalidation::Page { address, pcid: current_pcid(cpu), global_too: true })
}

/// `invpcid`: `kind` is its register operand, `operand` the linear address of its descriptor.
///
/// # Errors
/// #GP(0) above CPL 0, for a kind above 3, and for a descriptor that breaks the rules; #PF for the descriptor.
pub fn invpcid(cpu: &Cpu, memory: &GuestMemory, kind: u64, operand: u64) -> Result<Invalidation, Exception> {
    privileged(cpu)?;
    let refused = Err(Exception::gp(0));
    let mut bytes = [0; 16];
    match memory.read_virtual(cpu, operand, &mut bytes, Access::by_operand(cpu, Intent::Read)) {
        Ok(()) => {}
        // As on an open bus; the reserved bits then refuse it.
        Err(Fault::NotRam { .. }) => bytes.fill(0xff),
        Err(Fault::Exception(exception)) => return Err(exception),
    }
    let descriptor = u128::from_le_bytes(bytes);
    let (tag, address) = (descriptor as u64, (descriptor >> 64) as u64);
    let pcid = tag as u16;
    if kind > 3 || tag & !PCID_BITS != 0 {
        return refused;
    }
    if kind < 2 && pcid != 0 && cpu.cr4 & cr4::PCIDE == 0 {
        return refused;
    }
    Ok(match kind {
        0 if !canonical(address) => return refused,
        0 => Invalidation::Page { address, pcid, global_too: false },
        1 => Invalidation::Space { pcid },
        2 => Invalidation::All,
        _ => Invalidation::NonGlobal,
    })
}

#[cfg(test)]
mod tests;
