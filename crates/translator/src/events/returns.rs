//! What `iret` and a far return check before they go back to less privileged code (SDM vol. 2, IRET and RET).

use crate::cpu::Cpu;
use crate::cpu::descriptors;
use crate::cpu::mode::CodeSize;
use crate::cpu::segments::{DS, ES, FS, GS, Segment, code_of, is_null, rpl};
use crate::events::exception::Exception;
use crate::memory::access::GuestMemory;
use crate::memory::walk::canonical;

/// The code segment that `selector` returns to; its RPL is the privilege level to come.
///
/// # Errors
/// #GP or #NP for a segment that cannot be returned to.
pub fn code_segment(
    cpu: &Cpu,
    memory: &mut GuestMemory,
    selector: u16,
    rip: u64,
) -> Result<Segment, Exception> {
    if is_null(selector) {
        return Err(Exception::gp(0));
    }
    let code = code_of(selector);
    let found = descriptors::read(cpu, memory, selector)?;
    let segment = found.segment;
    let level = rpl(selector);
    let level_fits = if segment.is_conforming() { segment.dpl() <= level } else { segment.dpl() == level };
    if !segment.is_code() || level < cpu.cpl || !level_fits {
        return Err(Exception::gp(code));
    }
    if !segment.present() {
        return Err(Exception::np(code));
    }
    runnable(cpu, &segment, rip)?;
    descriptors::mark_accessed(cpu, memory, &found)
}

/// Whether code in `segment` can start at `rip`.
///
/// # Errors
/// #GP for a segment that is both 64-bit and 32-bit, for a target that is not canonical or beyond the limit.
pub fn runnable(cpu: &Cpu, segment: &Segment, rip: u64) -> Result<(), Exception> {
    if cpu.long_mode() && segment.is_long() && segment.is_big() {
        return Err(Exception::gp(code_of(segment.selector)));
    }
    let reachable = match cpu.size_of(segment) {
        CodeSize::Long => canonical(rip),
        _ => rip <= segment.limit.into(),
    };
    if reachable { Ok(()) } else { Err(Exception::gp(0)) }
}

/// The stack segment that goes with a return to code of size `to` at privilege level `cpl`.
///
/// # Errors
/// #GP or #SS.
pub fn stack_segment(
    cpu: &Cpu,
    memory: &mut GuestMemory,
    selector: u16,
    cpl: u8,
    to: CodeSize,
) -> Result<Segment, Exception> {
    if is_null(selector) {
        // 64-bit kernels run on a null stack segment, users and 32-bit code never do.
        return if cpl == 3 || to != CodeSize::Long || rpl(selector) != cpl {
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
