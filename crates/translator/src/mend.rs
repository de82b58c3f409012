//! What was missing: an entry of the addend table, the right to write, a page the Guest has not mapped.
//!
//! A slow access comes from a cold stub, with the effective address at hand; a host fault from the instruction itself,
//! in most cases a write to a page that is only readable (its dirty bit is clear, or code was made from it). Both end
//! the same way: an entry is filled and the instruction starts again, or the Guest gets its exception, or the
//! instruction is played by hand.

#![allow(unsafe_code)] // One look at x87's status.

use crate::classify::{Class, classify};
use crate::cpu::segments::{FS, GS, SS};
use crate::cpu::{RSP, flags};
use crate::events::exception::{Exception, vectors};
use crate::exit::Exit;
use crate::frame::unpack_flags;
use crate::memory::ram::PAGE_SIZE;
use crate::memory::tables::{Fill, Half, RUN, RunFill};
use crate::memory::walk::{Access, Intent, Paging, Translation, canonical, walk};
use crate::near::segment_of;
use crate::rewrite::{address_bits, operand_size};
use crate::run::Resume;
use crate::spaces::Spaces;
use crate::unit::{Lent, Part, Site, UnitIndex};
use crate::vcpu::Vcpu;
use iced_x86::{
    CodeSize, CpuidFeature, Decoder, DecoderOptions, EncodingKind, Instruction, Mnemonic, OpKind, Register,
};

/// What to do with an access.
enum Mended {
    /// The table has an entry now.
    Filled,
    /// No entry can serve it.
    ByHand,
}

impl Vcpu {
    /// A memory site's stub called.
    pub(crate) fn slow_access(&mut self) -> Result<(), Exit> {
        let Site::Memory { unit, mark, flags_aside, part } = *self.site() else {
            unreachable!("slow accesses come from memory sites")
        };
        if flags_aside {
            self.take_flags_aside();
        }
        self.swap_back(unit);
        let start = self.cache.unit(unit);
        let word = start.key.mode.word();
        let mark = self.cache.marks(unit)[usize::from(mark)];
        self.cpu_mut().rip = start.key.pc + u64::from(mark.guest);
        let address = self.frame().scratch;
        let (size, write) = match part {
            Part::Operand { size, write } => (usize::from(size), write),
            Part::Push => (word, true),
            Part::Pop => (word, false),
        };
        if size >= 16 || !canonical(address) || !canonical(address.wrapping_add(size as u64 - 1)) {
            let instruction = self.decode_at(unit, self.cpu().rip);
            let stack = matches!(part, Part::Push | Part::Pop) || through_stack(&instruction);
            if let Some(exception) = refused_address(&instruction, address, size, stack) {
                return self.refuse_access(&instruction, exception);
            }
        }
        match self.mend(address, size, write) {
            Ok(Mended::Filled) => {
                let place = self.cache.unit(unit).place(mark.host);
                let host = self.cache.arena.address(place as usize);
                self.resume = Some(Resume::inside(unit, host, self.losses_known));
                Ok(())
            }
            Ok(Mended::ByHand) => {
                let instruction = self.decode_at(unit, self.cpu().rip);
                self.play(&instruction)
            }
            Err(exception) => {
                let instruction = self.decode_at(unit, self.cpu().rip);
                if is_masked(&instruction) {
                    return self.play(&instruction);
                }
                self.refuse_access(&instruction, exception)
            }
        }
    }

    /// Raises the exception of an instruction's memory operand, unless x87 has an older one to raise first (SDM vol. 3,
    /// table 6-2: pending floating-point exceptions come before the operand's).
    pub(crate) fn refuse_access(
        &mut self,
        instruction: &Instruction,
        exception: Exception,
    ) -> Result<(), Exit> {
        let first = waits_for_x87(instruction) && x87_error_pending();
        self.raise(if first { Exception::mf() } else { exception })
    }

    fn take_flags_aside(&mut self) {
        let ax = self.frame().saved_flags;
        let cpu = self.cpu_mut();
        cpu.rflags = cpu.rflags & !flags::ARITHMETIC | unpack_flags(ax);
    }

    /// Fills the table for an access, if an entry can serve it.
    fn mend(&mut self, address: u64, size: usize, write: bool) -> Result<Mended, Exception> {
        match self.spaces.looked_up(self.cpu(), address) {
            Some(half) => self.spaces.tables.missed(half, address),
            None => self.spaces.missed_nothing(address),
        }
        if address & 0xfff > 4096 - size as u64 || !canonical(address) {
            return Ok(Mended::ByHand);
        }
        let intent = if write { Intent::Write } else { Intent::Read };
        let access = Access::by_operand(self.cpu(), intent);
        let found = walk(&self.ram, &Paging::of(self.cpu()), address, access)?;
        if self.debug.points.hides(address) {
            return Ok(Mended::ByHand);
        }
        let Some((offset, _)) = self.ram.offset(found.physical) else { return Ok(Mended::ByHand) };
        let Some(half) = self.spaces.keeper(self.cpu(), address, &found) else { return Ok(Mended::ByHand) };
        let writable = self.lets_write(&found, offset);
        if write && !writable {
            return Ok(Mended::ByHand);
        }
        self.fill(half, address, &found, offset & !0xfff, writable);
        Ok(Mended::Filled)
    }

    /// Whether generated code may write a page: not before it is dirty, and never where code was made from it.
    fn lets_write(&self, found: &Translation, offset: u64) -> bool {
        found.writable && found.dirty && self.may_write((offset >> 12) as u32)
    }

    /// Makes the entry for a translation to a page of the memory file, and those beside it that the same large page gives.
    pub(crate) fn fill(
        &mut self,
        half: Half,
        address: u64,
        found: &Translation,
        offset: u64,
        writable: bool,
    ) {
        // Watched data is reached by hand only.
        if self.debug.points.hides(address) || found.page_bits > 12 && self.fill_run(half, address, found) {
            return;
        }
        let host = if writable { self.ram.writable(offset) as u64 } else { self.ram.readable(offset) as u64 };
        let page = writable.then_some((offset >> 12) as u32);
        let fill = Fill { address, host, writable: page, global: found.global, page_bits: found.page_bits };
        self.spaces.tables.fill(half, fill);
    }

    /// Makes the entry for a page that Rust walked to on behalf of the Guest, so that generated code finds it next time.
    pub(crate) fn show(&mut self, address: u64, found: &Translation, offset: u64) {
        let Some(half) = self.spaces.keeper(self.cpu(), address, found) else { return };
        let writable = self.lets_write(found, offset);
        let host = if writable { self.ram.writable(offset) as u64 } else { self.ram.readable(offset) as u64 };
        if self.spaces.tables.look(half, address) != host.wrapping_sub(address) {
            self.fill(half, address, found, offset & !0xfff, writable);
        }
    }

    /// Makes the run of entries around an address in a large page; false when that is not for this one.
    fn fill_run(&mut self, half: Half, address: u64, found: &Translation) -> bool {
        // Pages that code was made from are the exception of a writable run, not a reason against one.
        let writable = found.writable && found.dirty;
        let into = address & (RUN * PAGE_SIZE - 1);
        let (address, physical) = (address - into, found.physical - into);
        let Some((offset, room)) = self.ram.offset(physical) else { return false };
        let aligned = offset.is_multiple_of(RUN * PAGE_SIZE);
        if self.debug.points.hides_among(address, RUN) {
            return false;
        }
        if !aligned || room < RUN * PAGE_SIZE || self.spaces.tables.has_run(half, address, writable) {
            return false;
        }
        let (global, page_bits) = (found.global, found.page_bits);
        let fill = RunFill { address, page: (offset >> 12) as u32, writable, global, page_bits };
        let hosts: [u64; RUN as usize] = std::array::from_fn(|page| {
            let offset = offset + page as u64 * PAGE_SIZE;
            if self.lets_write(found, offset) {
                self.ram.writable(offset) as u64
            } else {
                self.ram.readable(offset) as u64
            }
        });
        self.spaces.tables.fill_run(half, fill, |page| hosts[page as usize]);
        true
    }

    /// Lets thunks see a table of the processor's that the supervisor itself never reads.
    pub(crate) fn show_to_processor(&mut self, address: u64) {
        let view = self.spaces.kernel_views(self.cpu()).1;
        let Some(half) = Spaces::half_of(view, address) else { return };
        let access = Access::by_processor(Intent::Read);
        let Ok(found) = walk(&self.ram, &Paging::of(self.cpu()), address, access) else { return };
        let Some((offset, _)) = self.ram.offset(found.physical) else { return };
        // A user's page is the supervisor's to see only while nothing forbids it.
        if !found.user {
            let writable = self.lets_write(&found, offset);
            self.fill(half, address, &found, offset & !0xfff, writable);
        }
    }

    /// The host raised a signal in a unit.
    pub(crate) fn host_fault(&mut self) -> Result<(), Exit> {
        self.statistics.faults += 1;
        let fault = self.frame().fault;
        let unit = self.cache.unit_at(fault.rip).unwrap_or_else(|| {
            panic!(
                "a host fault outside any unit: signal {} at {:#x}, address {:#x}",
                fault.signal, fault.rip, fault.address
            )
        });
        let instruction = self.rewind(unit, fault.rip);
        match fault.signal {
            libc::SIGFPE => self.raise(arithmetic_fault(fault.code)),
            libc::SIGILL => self.raise(Exception::ud()),
            _ if fault.address == 0 && is_masked(&instruction) => self.play(&instruction),
            // The processor names no address for an access that is not canonical or not aligned as SSE wants it.
            _ if fault.address == 0 => {
                let exception = self.protection_fault(&instruction);
                self.refuse_access(&instruction, exception)
            }
            _ => self.refused_write(&instruction),
        }
    }

    /// Puts the state back to the start of the instruction that host code at `host` belongs to.
    fn rewind(&mut self, index: UnitIndex, host: u64) -> Instruction {
        let unit = self.cache.unit(index);
        let place = self.cache.arena.offset(host).expect("a unit's code is in the arena");
        let offset = unit.offset(place as u32).expect("the unit was found by this place");
        let marks = self.cache.marks(index);
        let after = marks.partition_point(|m| m.host <= offset);
        let mark = marks[after.saturating_sub(1)];
        let pc = unit.key.pc + u64::from(mark.guest);
        let frame = self.frame();
        let (borrowed, kept) = (frame.borrowed, frame.kept);
        match mark.lent {
            Lent::Nothing => {}
            Lent::Push { from } if offset >= from => {
                let rsp = &mut frame.cpu.gpr[RSP];
                *rsp = rsp.wrapping_add(4) & 0xffff_ffff;
            }
            Lent::Register(register) => frame.cpu.gpr[usize::from(register)] = borrowed,
            Lent::Strings { source, from } if offset >= from => {
                use crate::cpu::{RDI, RSI};
                frame.cpu.gpr[RDI] = frame.cpu.gpr[RDI].wrapping_sub(borrowed);
                frame.cpu.gpr[RSI] = frame.cpu.gpr[RSI].wrapping_sub(if source { kept } else { 0 });
            }
            Lent::Strings { .. } | Lent::Push { .. } => {}
        }
        self.swap_back(index);
        if mark.flags_aside {
            self.take_flags_aside();
        }
        self.cpu_mut().rip = pc;
        self.decode_at(index, pc)
    }

    /// The Guest instruction at `pc`, which a unit was made from.
    pub(crate) fn decode_at(&self, unit: UnitIndex, pc: u64) -> Instruction {
        // From the unit's own copy: another vCPU may have written over what memory held.
        let bytes = self.cache.bytes_from(unit, pc);
        Decoder::with_ip(self.cache.unit(unit).key.mode.size.bits(), bytes, pc, DecoderOptions::NONE).decode()
    }

    fn protection_fault(&self, instruction: &Instruction) -> Exception {
        let size = operand_size(instruction).max(1);
        let operand = self
            .operand_address(instruction)
            .and_then(|address| refused_address(instruction, address, size, through_stack(instruction)));
        // With nothing wrong about its operand, a push, pop, call or return met a stack that is not canonical.
        let stack = matches!(classify(instruction), Class::Stack | Class::Flow);
        operand.unwrap_or(if stack { Exception::ss(0) } else { Exception::gp(0) })
    }

    /// A write met a page that is only readable to generated code.
    fn refused_write(&mut self, instruction: &Instruction) -> Result<(), Exit> {
        let (address, size) = match instruction.mnemonic() {
            Mnemonic::Push | Mnemonic::Call => {
                let size = instruction.stack_pointer_increment().unsigned_abs() as usize;
                (self.cpu().stack_pointer().wrapping_sub(size as u64) & self.cpu().linear_mask(), size)
            }
            _ => match self.operand_address(instruction) {
                Some(address) => (address, operand_size(instruction).max(1)),
                // Its addresses are not written out: string instructions.
                None => return self.play(instruction),
            },
        };
        match self.mend(address, size, true) {
            Ok(Mended::Filled) => Ok(()),
            Ok(Mended::ByHand) => self.play(instruction),
            Err(_) if is_masked(instruction) => self.play(instruction),
            Err(exception) => self.refuse_access(instruction, exception),
        }
    }

    /// Effective address of the memory operand with the registers as they are, where no limit can be wrong.
    pub(crate) fn operand_address(&self, instruction: &Instruction) -> Option<u64> {
        let (segment, offset) = self.operand_offset(instruction)?;
        let cpu = self.cpu();
        let based = !cpu.in_64_bit_mode() || matches!(segment, FS | GS);
        let base = if based { cpu.segments[segment].base } else { 0 };
        Some(base.wrapping_add(offset) & cpu.linear_mask())
    }

    /// The linear address of the memory operand's `size` bytes, checked against its segment.
    ///
    /// # Errors
    /// The segment's: limit, kind. What is wrong about the address itself is found by whoever uses it.
    pub(crate) fn operand_place(
        &self,
        instruction: &Instruction,
        size: usize,
        write: bool,
    ) -> Result<Option<u64>, Exception> {
        let Some((segment, offset)) = self.operand_offset(instruction) else { return Ok(None) };
        let intent = if write { Intent::Write } else { Intent::Read };
        self.cpu().linear(segment, offset, size as u64, intent).map(Some)
    }

    /// The segment of the memory operand, and the offset in it.
    pub(crate) fn operand_offset(&self, instruction: &Instruction) -> Option<(usize, u64)> {
        let operand = (0..instruction.op_count()).find(|&n| instruction.op_kind(n) == OpKind::Memory)?;
        let offset = self.offset_of(instruction, operand)?;
        let segment = segment_of(instruction, operand);
        if classify(instruction) != Class::BitString {
            return Some((segment, offset));
        }
        let mask = u64::MAX >> (64 - address_bits(instruction));
        Some((segment, offset.wrapping_add(self.bit_string_offset(instruction)) & mask))
    }

    /// Offset of operand `operand` in its segment, string operands included.
    pub(crate) fn offset_of(&self, instruction: &Instruction, operand: u32) -> Option<u64> {
        let cpu = self.cpu();
        instruction.virtual_address(operand, 0, |register, _, _| {
            Some(match register {
                r if r.is_segment_register() => 0,
                r => {
                    let whole = cpu.gpr[r.full_register().number()];
                    // `xlat` adds al.
                    if r.size() < 8 { whole & ((1 << (8 * r.size())) - 1) } else { whole }
                }
            })
        })
    }

    /// How far the register operand of a bit test moves the address.
    fn bit_string_offset(&self, instruction: &Instruction) -> u64 {
        let register = instruction.op1_register();
        let value = self.cpu().gpr[register.full_register().number()];
        let (bits, signed) = match register.size() {
            2 => (4, value as i16 as i64),
            4 => (5, value as i32 as i64),
            _ => (6, value as i64),
        };
        ((signed >> bits) * (1 << bits) / 8) as u64
    }
}

/// The fault of an address that no mapping could mend: one that is not aligned as the instruction wants it, or not
/// canonical (#SS for the stack's segment, else #GP). Both come before a page fault (SDM vol. 3, table 6-2); which of the
/// two comes first no manual says, and the host looks at the alignment first.
pub(crate) fn refused_address(
    instruction: &Instruction,
    address: u64,
    size: usize,
    stack: bool,
) -> Option<Exception> {
    if is_masked(instruction) {
        // With all lanes left out neither rule holds: `masked.rs` asks the host.
        return None;
    }
    if misaligned(instruction, address) {
        return Some(Exception::gp(0));
    }
    if canonical(address) && canonical(address.wrapping_add(size as u64 - 1)) {
        return None;
    }
    Some(if stack { Exception::ss(0) } else { Exception::gp(0) })
}

/// Whether the operand at `address` lacks the alignment that the instruction insists on.
pub(crate) fn misaligned(instruction: &Instruction, address: u64) -> bool {
    address & (alignment(instruction) - 1) != 0
}

/// Whether the memory operand is in the stack's segment: relative to rsp or rbp, unless FS or GS is named. 64-bit mode
/// ignores the other segment prefixes (SDM vol. 1, 3.3.7.1; vol. 2, 2.2.1.3).
pub(crate) fn through_stack(instruction: &Instruction) -> bool {
    if instruction.code_size() != CodeSize::Code64 {
        return instruction.memory_segment().number() == SS;
    }
    let base = instruction.memory_base().full_register();
    !matches!(instruction.segment_prefix(), Register::FS | Register::GS)
        && matches!(base, Register::RSP | Register::RBP)
}

/// The alignment an instruction insists on, in bytes: 16 for most legacy SSE operands, the operand's size for the
/// aligned moves, 1 otherwise (SDM vol. 1, 14.9; vol. 3, table 2-21).
fn alignment(instruction: &Instruction) -> u64 {
    use Mnemonic as M;
    let size = operand_size(instruction) as u64;
    match instruction.mnemonic() {
        M::Cmpxchg16b
        | M::Movaps
        | M::Movapd
        | M::Movdqa
        | M::Movntdq
        | M::Movntps
        | M::Movntpd
        | M::Movntdqa
        | M::Vmovaps
        | M::Vmovapd
        | M::Vmovdqa
        | M::Vmovdqa32
        | M::Vmovdqa64
        | M::Vmovntdq
        | M::Vmovntps
        | M::Vmovntpd
        | M::Vmovntdqa => size,
        M::Movups
        | M::Movupd
        | M::Movdqu
        | M::Lddqu
        | M::Pcmpestri
        | M::Pcmpestrm
        | M::Pcmpistri
        | M::Pcmpistrm
        | M::Pcmpestri64
        | M::Pcmpestrm64 => 1,
        // Intel wants these aligned, AMD does not: the host decides when it runs them.
        M::Sha1msg1
        | M::Sha1msg2
        | M::Sha1nexte
        | M::Sha1rnds4
        | M::Sha256msg1
        | M::Sha256msg2
        | M::Sha256rnds2 => 1,
        _ if instruction.code().encoding() == EncodingKind::Legacy && size == 16 => 16,
        _ => 1,
    }
}

/// Operands whose mask decides which lanes exist: a lane that is left out cannot fault (SDM vol. 2, VMASKMOV; SDM vol. 1,
/// 15.6.4).
pub(crate) fn is_masked(instruction: &Instruction) -> bool {
    is_masked_move(instruction) || instruction.op_mask() != Register::None
}

/// AVX2's, whose mask is a vector.
pub(crate) fn is_masked_move(instruction: &Instruction) -> bool {
    matches!(
        instruction.mnemonic(),
        Mnemonic::Vmaskmovps | Mnemonic::Vmaskmovpd | Mnemonic::Vpmaskmovd | Mnemonic::Vpmaskmovq
    )
}

/// Instructions that raise what an earlier x87 instruction left pending: all that touch x87 or MMX registers but those
/// that say they do not wait (SDM vol. 1, 8.3.12).
fn waits_for_x87(instruction: &Instruction) -> bool {
    use CpuidFeature as F;
    use Mnemonic as M;
    let x87 = instruction.cpuid_features().iter().any(|f| matches!(f, F::FPU | F::FPU287 | F::FPU387));
    let silent = matches!(instruction.mnemonic(), M::Fnstcw | M::Fnstsw | M::Fnstenv | M::Fnsave);
    let mmx = (0..instruction.op_count())
        .any(|n| instruction.op_kind(n) == OpKind::Register && instruction.op_register(n).is_mm());
    x87 && !silent || mmx
}

/// The summary bit of x87's status word: the Guest's, for the Guest's x87 state stays in the host's registers.
fn x87_error_pending() -> bool {
    const SUMMARY: u16 = 1 << 7;
    let status: u16;
    // SAFETY: stores a register of x87's and raises nothing.
    unsafe { std::arch::asm!("fnstsw ax", out("ax") status, options(nomem, nostack, preserves_flags)) };
    status & SUMMARY != 0
}

/// Which exception the host's SIGFPE was, by the number it has on the host as well: division, x87 or SSE.
pub(crate) fn arithmetic_fault(vector: i32) -> Exception {
    match vector as u8 {
        vectors::DE => Exception::de(),
        vectors::MF => Exception::mf(),
        _ => Exception::xm(),
    }
}
