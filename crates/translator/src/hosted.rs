//! A hosted processor: its Guest runs at privilege level 1, and its tables belong to whoever embeds it.
//!
//! A paravirtual kernel of 32 bits keeps no tables that a processor would read. It tells its Host what it would have written
//! to them, and the Host decides. For such a Guest the processor is one with
//!
//! ```text
//!   descriptors          an array of 32 that the embedder fills; no LDT, no task state
//!   interrupt table      none: every exception and every `int n` is an Exit::Event, with the instruction not done
//!   ports                none: IOPL is 0 and there is no permission map, so `in` and `out` are #GP(0)
//!   vmcall               Exit::Hypercall above the user, #UD for the user
//!   page tables          the Guest's own, below a ceiling; off until the embedder turns them on
//! ```
//! and everything else as the manual has it for level 1: the supervisor to page tables, with write protection, and nobody to
//! privileged instructions; `popf` and `iret` leave IF and IOPL alone and say nothing.
//!
//! The embedder answers an event by [`Vcpu::call_handler`], which is what a gate does, or by changing what was wrong and
//! running again.

use crate::cpu::control::{self, Effect};
use crate::cpu::descriptors;
use crate::cpu::hosted::{HOSTED_DESCRIPTORS, Hosted};
use crate::cpu::segments::{CS, DS, ES, FS, GS, SS, Segment, code_of, rpl};
use crate::cpu::translations::Invalidation;
use crate::cpu::{Cpu, RSP, Sysenter, cr0, cr4, flags};
use crate::decode::LONGEST_INSTRUCTION;
use crate::events::exception::Exception;
use crate::events::returns;
use crate::events::stack::Stack;
use crate::memory::ram::PAGE_SIZE;
use crate::memory::walk::{Access, Intent};
use crate::vcpu::Vcpu;

/// The kinds of page tables a hosted Guest may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostedPaging {
    /// 32-bit paging: entries of four bytes, pages of 4 KiB only.
    Narrow,
    /// PAE paging, without the bit that forbids execution.
    Wide,
}

/// How a hosted Guest begins: at level 1, interrupts on for the processor, every general register zero.
#[derive(Debug, Clone, Copy)]
pub struct HostedEntry {
    /// First instruction.
    pub eip: u32,
    /// The descriptor table.
    pub table: [u64; HOSTED_DESCRIPTORS],
    /// Selector of CS; its RPL is the level.
    pub code: u16,
    /// Selector of DS, ES and SS. FS and GS begin null.
    pub data: u16,
}

/// What a gate would have said, and what the frame is to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HandlerCall {
    /// The handler's code segment; its RPL is the level it runs at.
    pub code: u16,
    /// Its first instruction.
    pub eip: u32,
    /// Stack segment and pointer to change to, when a less privileged level is interrupted.
    pub stack: Option<(u16, u32)>,
    /// The flags that the frame shows.
    pub flags: u32,
    /// Where the handler returns to.
    pub return_address: u32,
    /// What is pushed last, for those events that push something.
    pub error_code: Option<u32>,
}

impl Vcpu {
    /// Puts the processor where a hosted Guest begins. Without paging, linear addresses are physical.
    ///
    /// # Errors
    /// The selectors' exception, when the table has no such segments.
    pub fn begin_hosted(&mut self, entry: &HostedEntry) -> Result<(), Exception> {
        let offered = self.cpu().xcr0_offered;
        let mut cpu = Cpu::at_power_on(offered);
        cpu.hosted = Some(Hosted::new(entry.table));
        cpu.gdtr = Hosted::register();
        cpu.idtr.limit = 0;
        (cpu.ldtr, cpu.tr) = (Segment::null(0), Segment::null(0));
        cpu.cr0 = cr0::PE | cr0::MP | cr0::ET | cr0::NE | cr0::WP | cr0::AM;
        // Such kernels mark what all their spaces share as global, and say when that changes.
        cpu.cr4 = cr4::OSFXSR | cr4::OSXMMEXCPT | cr4::PGE;
        cpu.sysenter = Sysenter::default();
        cpu.rflags = flags::ALWAYS_ONE | flags::IF;
        // A level is entered from inside, as `iret` does it.
        cpu.cpl = 0;
        *self.cpu_mut() = cpu;
        self.with_memory(|cpu, memory| {
            let code = returns::code_segment(cpu, memory, entry.code, entry.eip.into())?;
            let cpl = rpl(entry.code);
            let data = returns::stack_segment(cpu, memory, entry.data, cpl, cpu.size_of(&code))?;
            cpu.cpl = cpl;
            for index in [ES, SS, DS] {
                cpu.segments[index] = data;
            }
            (cpu.segments[FS], cpu.segments[GS]) = (Segment::null(0), Segment::null(0));
            cpu.enter_code(code, entry.eip.into());
            Ok(())
        })?;
        (self.pending, self.resume) = (None, None);
        self.apply(Effect { flush_all: true, address_space_changed: true, ..Effect::default() });
        Ok(())
    }

    /// Sets a descriptor. Segment registers keep what they loaded.
    pub fn set_descriptor(&mut self, index: usize, descriptor: u64) {
        self.cpu_mut().set_hosted_descriptor(index, descriptor);
    }

    /// Nothing is mapped from this linear address on, whatever the tables say.
    pub fn set_ceiling(&mut self, ceiling: u64) {
        if let Some(hosted) = &mut self.cpu_mut().hosted {
            hosted.ceiling = ceiling;
        }
        self.forget_translations(Invalidation::All);
    }

    /// Turns paging of this kind on, if it is not, and makes the tables at `root` the current ones.
    ///
    /// # Errors
    /// #GP(0) for PAE's four pointers with a reserved bit set, or where there is no memory; nothing has changed then.
    pub fn load_page_tables(&mut self, root: u32, paging: HostedPaging) -> Result<(), Exception> {
        let old = (self.cpu().cr0, self.cpu().cr3, self.cpu().cr4);
        let wide = if paging == HostedPaging::Wide { cr4::PAE } else { 0 };
        let cpu = self.cpu_mut();
        cpu.cr0 |= cr0::PG;
        cpu.cr4 = cpu.cr4 & !cr4::PAE | wide;
        cpu.cr3 = root.into();
        if wide != 0 {
            match control::directories(self.cpu(), &self.ram) {
                Ok(entries) => self.cpu_mut().directories = entries,
                Err(exception) => {
                    let cpu = self.cpu_mut();
                    (cpu.cr0, cpu.cr3, cpu.cr4) = old;
                    return Err(exception);
                }
            }
        }
        let turned_on = (self.cpu().cr0, self.cpu().cr4) != (old.0, old.2);
        self.resume = None;
        self.apply(Effect {
            flush_all: turned_on,
            flush_nonglobal: true,
            address_space_changed: u64::from(root) != old.1,
            ..Effect::default()
        });
        Ok(())
    }

    /// Forgets translations, as `invlpg` and its kin do.
    pub fn forget_translations(&mut self, what: Invalidation) {
        self.resume = None;
        self.with_reach(|spaces, reach| spaces.invalidate(reach, what));
    }

    /// CR0.TS: whether the next floating-point instruction is #NM.
    pub fn set_task_switched(&mut self, on: bool) {
        let cpu = self.cpu_mut();
        let new = cpu.cr0 & !cr0::TS | if on { cr0::TS } else { 0 };
        if new != cpu.cr0 {
            cpu.cr0 = new;
            self.resume = None;
            self.apply(Effect { vector_state_changed: true, ..Effect::default() });
        }
    }

    /// Goes on at another instruction.
    pub fn set_rip(&mut self, rip: u64) {
        self.resume = None;
        self.cpu_mut().rip = rip;
    }

    /// Calls a handler as a gate would (SDM vol. 3, 6.12.1): changes stacks, pushes the frame, and clears TF, NT, RF and VM. IF
    /// stays as it is: whether interrupts are on is the embedder's.
    ///
    /// # Errors
    /// What the frame raised; nothing has changed then.
    pub fn call_handler(&mut self, call: &HandlerCall) -> Result<(), Exception> {
        self.resume = None;
        self.with_memory(|cpu, memory| {
            let level = rpl(call.code);
            let code = descriptors::read(cpu, memory, call.code)?.segment;
            if !code.is_code() || !code.present() || code.dpl() != level || level > cpu.cpl {
                return Err(Exception::gp(code_of(call.code)));
            }
            returns::runnable(cpu, &code, call.eip.into())?;
            let (old_stack, old_code) = (cpu.segments[SS].selector, cpu.segments[CS].selector);
            let (segment, mut stack) = match call.stack {
                None => (cpu.segments[SS], Stack::current(cpu).implicit(0)),
                Some((selector, pointer)) => {
                    let segment = returns::stack_segment(cpu, memory, selector, level, cpu.size_of(&code))?;
                    (segment, Stack::inner(segment, pointer.into(), level, 0))
                }
            };
            let mut words = [0; 6];
            let mut count = 0;
            let mut add = |word: u64| {
                words[count] = word;
                count += 1;
            };
            if call.stack.is_some() {
                add(old_stack.into());
                add(cpu.gpr[RSP]);
            }
            add(call.flags.into());
            add(old_code.into());
            add(call.return_address.into());
            call.error_code.into_iter().for_each(|code| add(code.into()));
            stack.push_words(cpu, memory, 4, &words[..count])?;
            cpu.cpl = level;
            cpu.segments[SS] = segment;
            cpu.enter_code(code, call.eip.into());
            cpu.set_stack_pointer(stack.pointer);
            cpu.rflags &= !(flags::TF | flags::NT | flags::RF | flags::VM);
            cpu.interrupt_shadow = false;
            Ok(())
        })?;
        self.debug.event();
        Ok(())
    }

    /// The bytes of the instruction at `rip`, as far as it may be fetched; the rest is zero.
    pub fn instruction_bytes(&mut self) -> [u8; LONGEST_INSTRUCTION] {
        const WORD: usize = 8;
        let mut bytes = [0; LONGEST_INSTRUCTION.next_multiple_of(WORD)];
        self.with_memory(|cpu, memory| {
            let access = Access { intent: Intent::Execute, user: cpu.cpl == 3, smap_allowed: false };
            let mut at = 0;
            while at < bytes.len() {
                let place = |offset: usize| cpu.linear_code(cpu.rip.wrapping_add((at + offset) as u64));
                let Ok(linear) = place(0) else { return };
                // A word where it is on one page and in the segment, else a byte.
                let whole = linear % PAGE_SIZE <= PAGE_SIZE - WORD as u64 && place(WORD - 1).is_ok();
                let size = if whole && at + WORD <= bytes.len() { WORD } else { 1 };
                let Ok(value) = memory.read_number(cpu, linear, size, access) else { return };
                bytes[at..at + size].copy_from_slice(&value.to_le_bytes()[..size]);
                at += size;
            }
        });
        std::array::from_fn(|n| bytes[n])
    }
}
