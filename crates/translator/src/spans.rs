//! Accesses that lie close together: one look into the table serves them all.
//!
//! Compiled code reads a few fields of one object, then a few words of its stack frame, and so on: the same register with
//! different displacements. Where one of these is translated, the others of the same page are too; so the first looks
//! for all of them whether the whole span lies in one page, finds the page's addend and leaves it in the frame, and the
//! others take it from there: two instructions in place of twelve.
//!
//! ```text
//!   mov rax, [rbx+8]     First:  does [rbx+8, rbx+40) lie in one page? its addend into slot 0
//!   add rcx, [rbx+16]    Member: slot 0
//!   lea rdx, [rbx+32]            (rdx is now "what rbx was, plus 32")
//!   mov [rdx], rcx       Member: slot 0
//! ```
//! A span that does not lie in one page is left to a second unit for the same code in which every access looks for
//! itself ([`crate::unit::Mode::apart`]): a stack frame across two pages may be in use for long.
//!
//! 32-bit code wraps at 4 GiB, and a sum of the host's does not. So there a span's page must keep away from both ends
//! ([`NARROW_PAGES`]), and its accesses' displacements are no larger than that distance ([`NARROW_REACH`]): then no register of
//! theirs can have wrapped, and the host's sum is the Guest's address.
//!
//! Why the addend in the slot is still right when a member uses it: between the two stands nothing that changes a table.
//! What runs in Rust in between ends a span here, except for an access that misses; and after a miss the unit is only
//! entered again in its middle if no entry was taken away meanwhile ([`crate::memory::tables::Tables::losses`]).

use crate::classify::Class;
use crate::cpu::{RBP, RSP};
use crate::frame::SPANS;
use crate::rewrite::{address_bits, operand_size};
use crate::unit::Mode;
use iced_x86::{
    Instruction, InstructionInfoFactory, InstructionInfoOptions, Mnemonic as M, OpAccess, OpKind, Register,
};
use smallvec::SmallVec;

/// Bytes of a span at most. Of spans of 256 bytes one in sixteen lies across two pages, if they lie anywhere.
const LONGEST: i64 = 256;

/// Pages that a span of 32-bit code may lie in. Linux' programs of 32 bits have nothing below, and their stacks end here.
pub const NARROW_PAGES: std::ops::RangeInclusive<u64> = 0x10..=0xf_fffd;

/// Displacements of such a span's accesses.
const NARROW_REACH: std::ops::RangeInclusive<i64> = -0x2000..=0xffff;

/// What an access has to do with the others of its span.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Role {
    /// Nothing: it looks for itself.
    #[default]
    Alone,
    /// It looks for all of them.
    First {
        /// Place in [`crate::frame::Frame::spans`].
        slot: u8,
        /// Bytes of the span before the access.
        before: u16,
        /// Bytes of the span from the access's first byte on.
        after: u16,
    },
    /// It takes what the first one found.
    Member {
        /// The same place.
        slot: u8,
    },
}

/// The accesses of one instruction: `call [mem]` has both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Roles {
    /// Of its memory operand.
    pub operand: Role,
    /// Of what it pushes or pops.
    pub stack: Role,
}

/// What an address is counted from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// A value that a register once had.
    Value(u16),
    /// The beginning of a page.
    Page(u64),
}

/// A register's value: a former value and what was added since.
#[derive(Debug, Clone, Copy)]
struct Sum {
    value: u16,
    plus: i64,
}

/// One access.
struct Access {
    instruction: u8,
    stack: bool,
    span: u8,
    at: i64,
}

struct Span {
    origin: Origin,
    low: i64,
    high: i64,
    /// Host instructions that its members save, less what the first one spends for them.
    saved: i32,
}

/// Finds the spans of one unit.
#[derive(Default)]
pub struct Spans {
    /// Bytes of an address and of a stack word.
    word: i64,
    registers: Vec<Sum>,
    values: u16,
    accesses: Vec<Access>,
    spans: Vec<Span>,
    /// Those of `spans` that may still grow.
    open: SmallVec<[u8; 8]>,
    roles: Vec<Roles>,
}

impl Spans {
    /// The roles of a unit's accesses, an entry an instruction. All are alone when it is the mode's wish.
    pub fn find(
        &mut self,
        block: &[(Instruction, Class)],
        mode: Mode,
        info: &mut InstructionInfoFactory,
    ) -> &[Roles] {
        self.roles.clear();
        self.roles.resize(block.len(), Roles::default());
        if mode.apart || block.len() < 2 {
            return &self.roles;
        }
        self.word = mode.word() as i64;
        self.registers.clear();
        self.registers.extend((0..16).map(|value| Sum { value, plus: 0 }));
        self.values = 16;
        self.accesses.clear();
        self.spans.clear();
        self.open.clear();
        for (n, (instruction, class)) in block.iter().enumerate() {
            match class {
                Class::System | Class::Undefined => self.open.clear(),
                Class::Memory => self.operand(n, instruction),
                Class::Stack | Class::Flow => {
                    if instruction.op0_kind() == OpKind::Memory {
                        self.operand(n, instruction);
                    }
                    self.stack(n, instruction);
                }
                Class::Nothing | Class::Harmless | Class::Address | Class::BitString => {}
            }
            self.follow(instruction, info);
        }
        self.assign();
        &self.roles
    }

    /// A memory operand of one register or none.
    fn operand(&mut self, n: usize, instruction: &Instruction) {
        let size = operand_size(instruction) as i64;
        let segment = matches!(instruction.memory_segment(), Register::FS | Register::GS);
        let bits = i64::from(address_bits(instruction));
        let plain = instruction.memory_index() == Register::None && bits == 8 * self.word;
        if size == 0 || segment || !plain {
            return;
        }
        let displacement = instruction.memory_displacement64() as i64;
        match instruction.memory_base() {
            Register::RIP | Register::None => {
                let (page, within) = (displacement as u64 >> 12, displacement & 0xfff);
                if within + size <= 4096 {
                    self.access(n, false, Origin::Page(page), within, size, [1, 4]);
                }
            }
            base => {
                let displacement = self.signed(displacement);
                if self.is_narrow() && !NARROW_REACH.contains(&displacement) {
                    return;
                }
                let sum = self.registers[base.number()];
                let at = sum.plus.wrapping_add(displacement);
                let aligned = base.number() == RSP && (displacement & (self.word - 1)) + size <= self.word;
                let costs = match (self.is_narrow(), aligned || size == 1) {
                    (false, true) => [6, 5],
                    (false, false) => [2, 9],
                    (true, true) => [5, 6],
                    (true, false) => [2, 9],
                };
                self.access(n, false, Origin::Value(sum.value), at, size, costs);
            }
        }
    }

    /// What an instruction pushes or pops.
    fn stack(&mut self, n: usize, instruction: &Instruction) {
        let word = self.word;
        let at = match instruction.mnemonic() {
            M::Push | M::Call => -word,
            M::Pop | M::Ret => 0,
            M::Leave => {
                let sum = self.registers[RBP];
                return self.access(n, true, Origin::Value(sum.value), sum.plus, word, [2, 9]);
            }
            _ => return,
        };
        let sum = self.registers[RSP];
        let costs = if self.is_narrow() { [8, 5] } else { [6, 3] };
        self.access(n, true, Origin::Value(sum.value), sum.plus.wrapping_add(at), word, costs);
    }

    /// Adds an access to the span of its origin, or begins one. `costs` are what it costs to be the first, and what it
    /// saves to be a member.
    fn access(&mut self, n: usize, stack: bool, origin: Origin, at: i64, size: i64, costs: [i32; 2]) {
        let end = at.wrapping_add(size);
        let known = self.open.iter().position(|&s| self.spans[usize::from(s)].origin == origin);
        if let Some(place) = known {
            let index = self.open[place];
            let span = &mut self.spans[usize::from(index)];
            let (low, high) = (span.low.min(at), span.high.max(end));
            let whole_page = matches!(origin, Origin::Page(_));
            if whole_page || high.checked_sub(low).is_some_and(|length| length <= LONGEST) {
                (span.low, span.high) = (low, high);
                span.saved += costs[1];
                self.accesses.push(Access { instruction: n as u8, stack, span: index, at });
                return;
            }
            self.open.remove(place);
        }
        let index = self.spans.len() as u8;
        self.spans.push(Span { origin, low: at, high: end, saved: -costs[0] });
        self.open.push(index);
        self.accesses.push(Access { instruction: n as u8, stack, span: index, at });
    }

    /// What the instruction makes of the registers.
    fn follow(&mut self, instruction: &Instruction, info: &mut InstructionInfoFactory) {
        let narrow = self.is_narrow();
        let whole = |n| {
            let register = instruction.op_register(n);
            let whole = if narrow { register.is_gpr32() } else { register.is_gpr64() };
            (instruction.op_kind(n) == OpKind::Register && whole).then(|| register.number())
        };
        match (instruction.mnemonic(), whole(0)) {
            (M::Cmp | M::Test | M::Nop, _) => {}
            (M::Push | M::Call, _) => self.add(RSP, instruction.stack_pointer_increment().into()),
            (M::Pop, _) => {
                self.add(RSP, instruction.stack_pointer_increment().into());
                self.forget_target(instruction);
            }
            (M::Leave, _) => {
                self.registers[RSP] = self.registers[RBP];
                self.add(RSP, self.word);
                self.forget(RBP);
            }
            (M::Mov, Some(to)) if whole(1).is_some() => {
                self.registers[to] = self.registers[instruction.op1_register().number()];
            }
            (M::Lea, Some(to)) if self.is_plain_sum(instruction) => {
                self.registers[to] = self.registers[instruction.memory_base().number()];
                self.add(to, self.signed(instruction.memory_displacement64() as i64));
            }
            (M::Add, Some(to)) if is_immediate(instruction) => {
                self.add(to, self.signed(instruction.immediate(1) as i64));
            }
            (M::Sub, Some(to)) if is_immediate(instruction) => {
                self.add(to, self.signed(instruction.immediate(1) as i64).wrapping_neg());
            }
            (M::Inc, Some(to)) => self.add(to, 1),
            (M::Dec, Some(to)) => self.add(to, -1),
            (
                M::Mov
                | M::Movzx
                | M::Movsx
                | M::Movsxd
                | M::Lea
                | M::Add
                | M::Sub
                | M::And
                | M::Or
                | M::Xor
                | M::Shl
                | M::Shr
                | M::Sar,
                _,
            ) => self.forget_target(instruction),
            _ => self.forget_written(instruction, info),
        }
    }

    /// The code is of 32 bits.
    fn is_narrow(&self) -> bool {
        self.word == 4
    }

    /// A displacement or an immediate, whose sign the decoder leaves where it is in 32-bit code.
    fn signed(&self, value: i64) -> i64 {
        if self.is_narrow() { (value as i32).into() } else { value }
    }

    /// `[register + displacement]`, with the whole register.
    fn is_plain_sum(&self, instruction: &Instruction) -> bool {
        let base = instruction.memory_base();
        let whole = if self.is_narrow() { base.is_gpr32() } else { base.is_gpr64() };
        instruction.memory_index() == Register::None && whole
    }

    fn add(&mut self, register: usize, plus: i64) {
        let sum = &mut self.registers[register];
        sum.plus = sum.plus.wrapping_add(plus);
    }

    fn forget(&mut self, register: usize) {
        self.registers[register] = Sum { value: self.values, plus: 0 };
        self.values += 1;
    }

    /// The first operand has a new value.
    fn forget_target(&mut self, instruction: &Instruction) {
        let target = instruction.op0_register();
        if instruction.op0_kind() == OpKind::Register && target.is_gpr() {
            self.forget(target.full_register().number());
        }
    }

    /// So has whatever the instruction may write.
    fn forget_written(&mut self, instruction: &Instruction, info: &mut InstructionInfoFactory) {
        let info = info.info_options(instruction, InstructionInfoOptions::NO_MEMORY_USAGE);
        for used in info.used_registers() {
            let keeps = matches!(used.access(), OpAccess::Read | OpAccess::CondRead | OpAccess::NoMemAccess);
            if !keeps && used.register().is_gpr() {
                self.forget(used.register().full_register().number());
            }
        }
    }

    /// Gives slots to the spans that are worth it.
    fn assign(&mut self) {
        let mut slots: SmallVec<[Option<u8>; 32]> = SmallVec::new();
        let mut next = 0;
        for span in &self.spans {
            let worth = span.saved > 0 && usize::from(next) < SPANS;
            slots.push(worth.then_some(next));
            next += u8::from(worth);
        }
        let mut begun = [false; SPANS];
        for access in &self.accesses {
            let Some(slot) = slots[usize::from(access.span)] else { continue };
            let span = &self.spans[usize::from(access.span)];
            let role = if std::mem::replace(&mut begun[usize::from(slot)], true) {
                Role::Member { slot }
            } else {
                let (before, after) = (access.at - span.low, span.high - access.at);
                Role::First { slot, before: before as u16, after: after as u16 }
            };
            let roles = &mut self.roles[usize::from(access.instruction)];
            if access.stack {
                roles.stack = role;
            } else {
                roles.operand = role;
            }
        }
    }
}

fn is_immediate(instruction: &Instruction) -> bool {
    matches!(
        instruction.op1_kind(),
        OpKind::Immediate8to64 | OpKind::Immediate32to64 | OpKind::Immediate8to32 | OpKind::Immediate32
    )
}
