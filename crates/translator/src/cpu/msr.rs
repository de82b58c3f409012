//! `rdmsr` and `wrmsr` for the registers that the processor itself holds. The local APIC's, the clocks' and any other
//! that is not known here is `Elsewhere`: the machine around the processor is asked, and what it does not know either
//! is #GP(0) for the Guest (SDM vol. 4; APM vol. 2, appendix A).

use crate::cpu::Cpu;
use crate::cpu::control::{Effect, write_efer};
use crate::cpu::descriptors::privileged;
use crate::cpu::segments::{FS, GS};
use crate::events::exception::Exception;
use crate::memory::walk::canonical;

const TSC: u32 = 0x10;
const TSC_ADJUST: u32 = 0x3b;
const PRED_CMD: u32 = 0x49;
const MTRR_CAP: u32 = 0xfe;
const ARCH_CAPABILITIES: u32 = 0x10a;
const SYSENTER_CS: u32 = 0x174;
const SYSENTER_ESP: u32 = 0x175;
const SYSENTER_EIP: u32 = 0x176;
const MCG_CAP: u32 = 0x179;
const PAT: u32 = 0x277;
const EFER: u32 = 0xc000_0080;
const STAR: u32 = 0xc000_0081;
const LSTAR: u32 = 0xc000_0082;
const CSTAR: u32 = 0xc000_0083;
const SFMASK: u32 = 0xc000_0084;
const FS_BASE: u32 = 0xc000_0100;
const GS_BASE: u32 = 0xc000_0101;
const KERNEL_GS_BASE: u32 = 0xc000_0102;
const TSC_AUX: u32 = 0xc000_0103;

/// Eight variable ranges, fixed ranges, write-combining.
const MTRR_CAP_VALUE: u64 = 8 | 1 << 8 | 1 << 10;

/// What this processor says it cannot be attacked with (SDM vol. 4, IA32_ARCH_CAPABILITIES).
///
/// Guest code runs as translated code in an ordinary host process: the Guest kernel's memory is behind addends that a
/// user's table does not hold, and the host's own mitigations guard the rest. A Guest that turned its on would pay for them and gain
/// nothing: page-table isolation against a walk that no hardware does, retpolines on branches that are already looked up.
const ARCH_CAPABILITIES_VALUE: u64 = 1 // RDCL_NO: no Meltdown
    | 1 << 1 // IBRS_ALL: no retpolines wanted
    | 1 << 3 // SKIP_L1DFL_VMENTRY
    | 1 << 4 // SSB_NO
    | 1 << 5 // MDS_NO
    | 1 << 6 // PSCHANGE_MC_NO
    | 1 << 8 // TAA_NO
    | 1 << 13 // SBDR_SSDP_NO
    | 1 << 14 // FBSDP_NO
    | 1 << 15 // PSDP_NO
    | 1 << 20 // BHI_NO
    | 1 << 24 // PBRSB_NO
    | 1 << 26 // GDS_NO
    | 1 << 27 // RFDS_NO
    | 1 << 62; // ITS_NO

/// Answer to `rdmsr`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MsrRead {
    /// Its value.
    Value(u64),
    /// Not the processor's own.
    Elsewhere,
}

/// Answer to `wrmsr`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MsrWrite {
    /// Done, with this left for the caller to do.
    Done(Effect),
    /// Not the processor's own.
    Elsewhere,
}

/// `rdmsr`; `host_tsc` is the host's time-stamp counter now.
///
/// # Errors
/// #GP(0) above CPL 0 and for registers that cannot be read.
pub fn rdmsr(cpu: &Cpu, index: u32, host_tsc: u64) -> Result<MsrRead, Exception> {
    privileged(cpu)?;
    Ok(MsrRead::Value(match index {
        TSC => host_tsc.wrapping_add(cpu.tsc_offset),
        TSC_ADJUST => cpu.tsc_adjust,
        TSC_AUX => cpu.tsc_aux,
        EFER => cpu.efer,
        STAR => cpu.star,
        LSTAR => cpu.lstar,
        CSTAR => cpu.cstar,
        SFMASK => cpu.sfmask,
        SYSENTER_CS => cpu.sysenter.cs,
        SYSENTER_ESP => cpu.sysenter.rsp,
        SYSENTER_EIP => cpu.sysenter.rip,
        FS_BASE => cpu.segments[FS].base,
        GS_BASE => cpu.segments[GS].base,
        KERNEL_GS_BASE => cpu.kernel_gs_base,
        MTRR_CAP => MTRR_CAP_VALUE,
        // Machine checks are announced and there are no banks of them.
        MCG_CAP => 0,
        ARCH_CAPABILITIES => ARCH_CAPABILITIES_VALUE,
        PRED_CMD => return Err(Exception::gp(0)),
        _ => match cpu.inert.read(index) {
            Some(value) => value,
            None => return Ok(MsrRead::Elsewhere),
        },
    }))
}

/// `wrmsr`; `host_tsc` is the host's time-stamp counter now.
///
/// # Errors
/// #GP(0) above CPL 0, for registers that cannot be written and for values that break their rules.
pub fn wrmsr(cpu: &mut Cpu, index: u32, value: u64, host_tsc: u64) -> Result<MsrWrite, Exception> {
    privileged(cpu)?;
    check(index, value)?;
    match index {
        TSC => move_tsc(cpu, value.wrapping_sub(host_tsc.wrapping_add(cpu.tsc_offset))),
        TSC_ADJUST => move_tsc(cpu, value.wrapping_sub(cpu.tsc_adjust)),
        TSC_AUX => cpu.tsc_aux = value,
        EFER => return write_efer(cpu, value).map(MsrWrite::Done),
        STAR => cpu.star = value,
        LSTAR => cpu.lstar = value,
        CSTAR => cpu.cstar = value,
        SFMASK => cpu.sfmask = value & 0xffff_ffff,
        SYSENTER_CS => cpu.sysenter.cs = value & 0xffff_ffff,
        SYSENTER_ESP => cpu.sysenter.rsp = value,
        SYSENTER_EIP => cpu.sysenter.rip = value,
        FS_BASE => cpu.segments[FS].base = value,
        GS_BASE => cpu.segments[GS].base = value,
        KERNEL_GS_BASE => cpu.kernel_gs_base = value,
        PRED_CMD => {}
        _ => match cpu.inert.write(index, value) {
            Some(true) => {}
            Some(false) => return Err(Exception::gp(0)),
            None => return Ok(MsrWrite::Elsewhere),
        },
    }
    Ok(MsrWrite::Done(Effect::default()))
}

/// The rules that do not depend on the state.
fn check(index: u32, value: u64) -> Result<(), Exception> {
    let allowed = match index {
        LSTAR | CSTAR | FS_BASE | GS_BASE | KERNEL_GS_BASE | SYSENTER_ESP | SYSENTER_EIP => canonical(value),
        TSC_AUX => value >> 32 == 0,
        // Types 2 and 3 do not exist.
        PAT => value.to_le_bytes().iter().all(|kind| matches!(kind, 0 | 1 | 4..=7)),
        PRED_CMD => value & !1 == 0,
        MTRR_CAP | MCG_CAP | ARCH_CAPABILITIES => false,
        _ => true,
    };
    if allowed { Ok(()) } else { Err(Exception::gp(0)) }
}

/// A write to the counter shows in the adjustment too, so that a system can see whether its counters were moved apart
/// (SDM vol. 3, 18.17.3).
fn move_tsc(cpu: &mut Cpu, by: u64) {
    cpu.tsc_offset = cpu.tsc_offset.wrapping_add(by);
    cpu.tsc_adjust = cpu.tsc_adjust.wrapping_add(by);
}

#[cfg(test)]
mod tests;
