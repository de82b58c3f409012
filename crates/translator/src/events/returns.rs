//! What `iret` and a far return check before they go back to less privileged code (SDM vol. 2, IRET and RET).

use crate::cpu::Cpu;
use crate::cpu::descriptors;
use crate::cpu::segments::{DS, ES, FS, GS, Segment, code_of, is_null, rpl};
use crate::events::exception::{Exception, Refusal};
use crate::exit::Death;
use crate::memory::access::GuestMemory;
use crate::memory::walk::canonical;

/// The code segment that `selector` returns to; its RPL is the privilege level to come.
///
/// # Errors
/// #GP or #NP for a segment that cannot be returned to; the machine's death for one in a mode that this engine does
/// not run.
pub fn code_segment(
    cpu: &Cpu,
    memory: &mut GuestMemory,
    selector: u16,
    rip: u64,
) -> Result<Segment, Refusal> {
    if is_null(selector) {
        return Err(Exception::gp(0).into());
    }
    let code = code_of(selector);
    let found = descriptors::read(cpu, memory, selector)?;
    let segment = found.segment;
    let level = rpl(selector);
    let level_fits = if segment.is_conforming() { segment.dpl() <= level } else { segment.dpl() == level };
    if !segment.is_code() || level < cpu.cpl || !level_fits {
        return Err(Exception::gp(code).into());
    }
    if !segment.present() {
        return Err(Exception::np(code).into());
    }
    runnable(&segment, level, rip)?;
    Ok(descriptors::mark_accessed(cpu, memory, &found)?)
}

/// Whether code in `segment` can run at privilege level `cpl`, starting at `rip`.
///
/// # Errors
/// #GP for a segment that is both 64-bit and 32-bit or for a target that is not canonical; death for compatibility
/// mode and for the privilege levels in the middle.
pub fn runnable(segment: &Segment, cpl: u8, rip: u64) -> Result<(), Refusal> {
    if segment.is_long() && segment.is_big() {
        return Err(Exception::gp(code_of(segment.selector)).into());
    }
    let mode = match cpl {
        _ if !segment.is_long() => "32-bit compatibility mode",
        1 => "privilege level 1",
        2 => "privilege level 2",
        _ if !canonical(rip) => return Err(Exception::gp(0).into()),
        _ => return Ok(()),
    };
    Err(Refusal::Dead(Death::UnsupportedMode { mode, rip }))
}

/// The stack segment that goes with a return to 64-bit code at privilege level `cpl`.
///
/// # Errors
/// #GP or #SS.
pub fn stack_segment(
    cpu: &Cpu,
    memory: &mut GuestMemory,
    selector: u16,
    cpl: u8,
) -> Result<Segment, Exception> {
    if is_null(selector) {
        // Kernels run on a null stack segment, users never do.
        return if cpl == 3 || rpl(selector) != cpl {
            Err(Exception::gp(0))
        } else {
            Ok(Segment::null(selector))
        };
    }
    let code = code_of(selector);
    let found = descriptors::read(cpu, memory, selector)?;
    let segment = found.segment;
    if rpl(selector) != cpl || segment.dpl() != cpl || !segment.is_writable_data() {
        return Err(Exception::gp(code));
    }
    if !segment.present() {
        return Err(Exception::ss(code));
    }
    descriptors::mark_accessed(cpu, memory, &found)
}

/// Takes away the data segments that the new, lower privilege may not have. Their bases stay, as FS.base and GS.base
/// belong to whoever set them.
pub fn drop_privileged_segments(cpu: &mut Cpu) {
    for index in [ES, DS, FS, GS] {
        let segment = &mut cpu.segments[index];
        if segment.present() && !segment.is_conforming() && segment.dpl() < cpu.cpl {
            *segment = Segment { base: segment.base, ..Segment::null(0) };
        }
    }
}
