//! Segment registers and what a descriptor says (SDM vol. 3, chapters 3 and 5).
//!
//! 64-bit mode ignores the base and limit of all but FS and GS, but it still checks what it loads, and Linux still
//! relies on the checks. The other modes use all of it: see `segmentation.rs`.

use crate::cpu::Cpu;
use crate::cpu::descriptors;
use crate::events::exception::Exception;
use crate::memory::access::GuestMemory;

/// Index of ES in [`Cpu::segments`].
pub const ES: usize = 0;
/// Index of CS.
pub const CS: usize = 1;
/// Index of SS.
pub const SS: usize = 2;
/// Index of DS.
pub const DS: usize = 3;
/// Index of FS.
pub const FS: usize = 4;
/// Index of GS.
pub const GS: usize = 5;

/// Bits of [`Segment::attributes`]: a descriptor's bytes 5 and 6, less the four limit bits in the middle.
pub mod attributes {
    /// Type: accessed, for code and data.
    pub const ACCESSED: u16 = 1;
    /// Type: data may be written, code may be read.
    pub const WRITABLE_OR_READABLE: u16 = 1 << 1;
    /// Type: code runs at its caller's privilege.
    pub const CONFORMING: u16 = 1 << 2;
    /// Type: data lies behind its limit, not before it.
    pub const EXPAND_DOWN: u16 = 1 << 2;
    /// Type: code, not data.
    pub const CODE: u16 = 1 << 3;
    /// The whole type field.
    pub const TYPE: u16 = 0xf;
    /// Code or data, not a system descriptor.
    pub const NOT_SYSTEM: u16 = 1 << 4;
    /// How far the descriptor's privilege level is from bit 0.
    pub const DPL_SHIFT: u32 = 5;
    /// Present.
    pub const PRESENT: u16 = 1 << 7;
    /// 64-bit code.
    pub const LONG: u16 = 1 << 13;
    /// 32-bit code or stack.
    pub const BIG: u16 = 1 << 14;
    /// The limit counts pages.
    pub const GRANULARITY: u16 = 1 << 15;
    /// The bits that are no limit.
    pub const MASK: u16 = 0xf0ff;
}
use attributes::*;

/// A segment register: the selector, and the descriptor behind it as it was when it was loaded.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Segment {
    /// Table index, table and requested privilege level.
    pub selector: u16,
    /// Descriptor bytes 5 and 6; see [`attributes`]. Zero, thus not present, after a null selector.
    pub attributes: u16,
    /// Last byte of the segment, granularity applied.
    pub limit: u32,
    /// First byte.
    pub base: u64,
}

impl Segment {
    /// Flat ring-0 64-bit code, as a 64-bit boot loader or `syscall` sets it.
    pub const fn long_code(selector: u16, dpl: u8) -> Segment {
        Segment::flat(selector, dpl, CODE | WRITABLE_OR_READABLE | LONG)
    }

    /// Flat 32-bit code, as `sysenter`, `sysexit` and a `sysret` to compatibility mode set it.
    pub const fn flat_code(selector: u16, dpl: u8) -> Segment {
        Segment::flat(selector, dpl, CODE | WRITABLE_OR_READABLE | BIG)
    }

    /// Flat writable data.
    pub const fn flat_data(selector: u16, dpl: u8) -> Segment {
        Segment::flat(selector, dpl, WRITABLE_OR_READABLE | BIG)
    }

    const fn flat(selector: u16, dpl: u8, kind: u16) -> Segment {
        let fixed = ACCESSED | NOT_SYSTEM | PRESENT | GRANULARITY | (dpl as u16) << DPL_SHIFT;
        Segment { selector, attributes: kind | fixed, limit: u32::MAX, base: 0 }
    }

    /// A null segment: nothing may be accessed through it outside 64-bit mode.
    pub const fn null(selector: u16) -> Segment {
        Segment { selector, attributes: 0, limit: 0, base: 0 }
    }

    /// What real mode makes of a new selector: the base moves, and the rest stays as it was, which is how a limit beyond
    /// 64 KiB outlives protected mode (SDM vol. 3, 21.1.1). A register that held nothing becomes usable.
    pub fn real(self, selector: u16) -> Segment {
        let usable = PRESENT | NOT_SYSTEM | WRITABLE_OR_READABLE | ACCESSED;
        Segment { selector, base: u64::from(selector) << 4, attributes: self.attributes | usable, ..self }
    }

    /// Whether something was loaded.
    pub fn present(&self) -> bool {
        self.attributes & PRESENT != 0
    }

    /// The descriptor's privilege level.
    pub fn dpl(&self) -> u8 {
        (self.attributes >> DPL_SHIFT & 3) as u8
    }

    /// Code, of either kind.
    pub fn is_code(&self) -> bool {
        self.attributes & (NOT_SYSTEM | CODE) == NOT_SYSTEM | CODE
    }

    /// Data, of either kind.
    pub fn is_data(&self) -> bool {
        self.attributes & (NOT_SYSTEM | CODE) == NOT_SYSTEM
    }

    /// Code that runs at its caller's privilege.
    pub fn is_conforming(&self) -> bool {
        self.is_code() && self.attributes & CONFORMING != 0
    }

    /// Not data that lies behind its limit.
    pub fn grows_up(&self) -> bool {
        !self.is_data() || self.attributes & EXPAND_DOWN == 0
    }

    /// Data that may be written.
    pub fn is_writable_data(&self) -> bool {
        self.is_data() && self.attributes & WRITABLE_OR_READABLE != 0
    }

    /// Data, or code that may be read.
    pub fn is_readable(&self) -> bool {
        self.is_data() || self.is_code() && self.attributes & WRITABLE_OR_READABLE != 0
    }

    /// The type of a system descriptor; None for code and data.
    pub fn system_type(&self) -> Option<u8> {
        (self.attributes & NOT_SYSTEM == 0).then_some((self.attributes & TYPE) as u8)
    }

    /// The long bit: for code, 64-bit mode.
    pub fn is_long(&self) -> bool {
        self.attributes & LONG != 0
    }

    /// The D/B bit.
    pub fn is_big(&self) -> bool {
        self.attributes & BIG != 0
    }
}

/// GDTR or IDTR.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TableRegister {
    /// Linear address of the table.
    pub base: u64,
    /// Its size in bytes minus one.
    pub limit: u16,
}

/// True for selectors that name no segment: index 0 of the global table, any requested privilege.
pub const fn is_null(selector: u16) -> bool {
    selector & !3 == 0
}

/// The requested privilege level of a selector.
pub const fn rpl(selector: u16) -> u8 {
    (selector & 3) as u8
}

/// A selector as error codes name it: without its privilege level (SDM vol. 3, 6.13).
pub const fn code_of(selector: u16) -> u32 {
    (selector & !3) as u32
}

/// `mov sreg` and `pop sreg`: loads ES, SS, DS, FS or GS with all of the mode's checks (SDM vol. 2, MOV).
///
/// # Errors
/// #UD for CS or a number above GS; #GP, #SS or #NP naming the selector; #PF from reading the table. The register
/// keeps its value then. The caller sets the interrupt shadow after a load of SS.
pub fn load_segment(
    cpu: &mut Cpu,
    memory: &mut GuestMemory,
    index: usize,
    selector: u16,
) -> Result<(), Exception> {
    if !cpu.protected() && matches!(index, ES | SS | DS | FS | GS) {
        cpu.segments[index] = cpu.segments[index].real(selector);
        return Ok(());
    }
    match index {
        SS => cpu.segments[SS] = stack_segment(cpu, memory, selector)?,
        ES | DS | FS | GS => cpu.segments[index] = data_segment(cpu, memory, selector)?,
        _ => return Err(Exception::ud()),
    }
    Ok(())
}

fn stack_segment(cpu: &Cpu, memory: &mut GuestMemory, selector: u16) -> Result<Segment, Exception> {
    let code = code_of(selector);
    if is_null(selector) {
        // A null stack segment is right in 64-bit mode below CPL 3, and `deliver` itself loads one.
        return if cpu.cpl == 3 || rpl(selector) != cpu.cpl || !cpu.in_64_bit_mode() {
            Err(Exception::gp(0))
        } else {
            Ok(Segment::null(selector))
        };
    }
    let descriptor = descriptors::read(cpu, memory, selector)?;
    let segment = descriptor.segment;
    if rpl(selector) != cpu.cpl || segment.dpl() != cpu.cpl || !segment.is_writable_data() {
        return Err(Exception::gp(code));
    }
    if !segment.present() {
        return Err(Exception::ss(code));
    }
    descriptors::mark_accessed(cpu, memory, &descriptor)
}

fn data_segment(cpu: &Cpu, memory: &mut GuestMemory, selector: u16) -> Result<Segment, Exception> {
    let code = code_of(selector);
    if is_null(selector) {
        // The base goes with it, as on every Intel and on AMD from Zen 2 (cpuid 0x8000_0021 says so).
        return Ok(Segment::null(selector));
    }
    let descriptor = descriptors::read(cpu, memory, selector)?;
    let segment = descriptor.segment;
    if !segment.is_readable() {
        return Err(Exception::gp(code));
    }
    if !segment.is_conforming() && rpl(selector).max(cpu.cpl) > segment.dpl() {
        return Err(Exception::gp(code));
    }
    if !segment.present() {
        return Err(Exception::np(code));
    }
    descriptors::mark_accessed(cpu, memory, &descriptor)
}
