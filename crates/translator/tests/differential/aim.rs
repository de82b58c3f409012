//! Aiming: chooses what an instruction's address is made of, so that it lies where the dice say.

use crate::case::State;
use crate::encode::Encoded;
use crate::random::Random;
use crate::world::{CONSTANT, DATA, FAR, PAGE, STACK, TRAPS, TRAPS_LONG, index};
use iced_x86::{FlowControl, Instruction, Mnemonic, OpKind, Register};

/// The state being made up, and what of it is settled.
#[derive(Clone)]
pub struct Aim {
    /// The state before the first instruction.
    pub state: State,
    /// Memory that must hold a value.
    pub patches: Vec<(u64, u64)>,
    /// True when the case runs at the user's level.
    pub user: bool,
    /// How wide the code is.
    pub bits: u32,
    /// True when every operand is to lie on two pages of which one is missing or read-only.
    pub edges: bool,
    /// Registers (one bit each) whose value some instruction relies on.
    pinned: u16,
    /// Registers that an earlier instruction writes: their value is no longer ours to choose.
    pub written: u16,
}

impl Aim {
    /// Nothing is settled but where the code begins.
    pub fn new(state: State, user: bool, bits: u32) -> Aim {
        Aim { state, patches: Vec::new(), user, bits, edges: false, pinned: 0, written: 0 }
    }

    /// Chooses registers, memory and displacement for one instruction; false when what is settled forbids it.
    pub fn at(&mut self, random: &mut Random, drawn: &mut Encoded) -> bool {
        let instruction = drawn.instruction;
        if !self.edges && random.once_in(64) {
            return flow_is_harmless(&instruction); // Somewhere, as the registers happen to be.
        }
        let implicit = self.implicit(random, &instruction);
        let place = self.target(random, instruction.memory_size().size() as u64);
        let memory = (0..instruction.op_count()).any(|i| instruction.op_kind(i) == OpKind::Memory);
        let lea = instruction.mnemonic() == Mnemonic::Lea;
        if !implicit || memory && !lea && !self.memory(random, drawn, place) {
            return false;
        }
        self.contents(random, &instruction, place) && self.flow(random, &instruction, place)
    }

    /// Gives a register a value, unless it is settled otherwise.
    fn set(&mut self, number: usize, value: u64) -> bool {
        let value = if self.bits == 64 { value } else { value & 0xffff_ffff };
        if self.written & 1 << number != 0
            || self.pinned & 1 << number != 0 && self.state.gpr[number] != value
        {
            return false;
        }
        self.state.gpr[number] = value;
        self.pinned |= 1 << number;
        true
    }

    /// A place for `size` bytes that begins before and ends behind the edge of a window.
    fn edge(&self, random: &mut Random, size: u64) -> u64 {
        let back = 1 + random.below(size.max(2) - 1);
        let narrow = [
            DATA.start,
            CONSTANT.start,
            CONSTANT.start + PAGE,
            STACK.start,
            STACK.start + STACK.pages * PAGE,
        ];
        let wide = [FAR.start, FAR.start + FAR.pages * PAGE];
        let edge =
            if self.bits == 64 && random.once_in(4) { random.pick(&wide) } else { random.pick(&narrow) };
        edge - back
    }

    /// Puts the stack pointer, and what `leave` makes one of, so near to an edge that the next eight bytes reach over it.
    pub fn stack_at_an_edge(&mut self, random: &mut Random) {
        let size = if self.bits == 64 { 8 } else { 4 };
        let edge = random.pick(&[STACK.start, STACK.start + STACK.pages * PAGE]);
        // What is pushed lies below the pointer, what is popped above it.
        self.state.gpr[4] = edge - size + random.below(2 * size + 1);
        self.state.gpr[5] = edge - random.below(size);
    }

    fn target(&self, random: &mut Random, size: u64) -> u64 {
        if self.edges {
            return self.edge(random, size);
        }
        let back = random.below(size.max(1) + 1);
        match random.below(64) {
            0 | 1 => CONSTANT.start + PAGE - back,
            2 => DATA.start.wrapping_sub(back),
            3..6 => CONSTANT.start - back,
            6..8 => CONSTANT.start + random.below(PAGE - 64),
            8..10 => STACK.start + random.below(STACK.pages * PAGE - 64),
            10..14 if self.bits == 64 => FAR.start + random.below(FAR.pages * PAGE - 64),
            14..20 => DATA.start + PAGE * (1 + random.below(3)) - back,
            20 if random.once_in(4) && self.bits == 64 => 0x0000_8000_0000_0000 - back,
            21..40 => DATA.start + random.below(DATA.pages * PAGE - 1024),
            _ => DATA.start + random.below(DATA.pages * PAGE / 64 - 16) * 64,
        }
    }

    /// Registers that instructions use without naming them.
    fn implicit(&mut self, random: &mut Random, instruction: &Instruction) -> bool {
        use Mnemonic::*;
        let width = 1u64 << random.below(4);
        if instruction.is_string_instruction() {
            let count = random.below(20);
            let (from, to) = (self.target(random, width), self.target(random, width));
            let from = from.wrapping_sub(self.segment_base(instruction));
            return self.set(6, from) && self.set(7, to) && self.set(1, count);
        }
        let small = random.number() & 0x7fff;
        let place = self.target(random, 16);
        match instruction.mnemonic() {
            Xlatb => self.set(3, place.wrapping_sub(self.segment_base(instruction))),
            Maskmovq | Maskmovdqu | Vmaskmovdqu => {
                self.set(7, place.wrapping_sub(self.segment_base(instruction)))
            }
            Leave | Enter if !self.edges => self.set(5, STACK.start + PAGE + random.below(PAGE / 2)),
            Div if random.once_in(4) => true,
            Div => self.set(2, 0) && self.set(0, small),
            Idiv if random.once_in(4) => true,
            Idiv => self.set(2, 0) && self.set(0, small >> 1),
            Bt | Bts | Btr | Btc if instruction.op1_kind() == OpKind::Register && random.below(8) != 0 => {
                let bits = random.below(2000).wrapping_sub(1000);
                self.set(instruction.op1_register().full_register().number(), bits)
            }
            Loop | Loope | Loopne | Jrcxz | Jecxz => self.set(1, random.below(3)),
            _ => true,
        }
    }

    fn segment_base(&self, instruction: &Instruction) -> u64 {
        match instruction.memory_segment() {
            Register::FS => self.state.fs_base,
            Register::GS => self.state.gs_base,
            _ => 0,
        }
    }

    /// Solves base + index * scale + displacement = place.
    fn memory(&mut self, random: &mut Random, drawn: &mut Encoded, place: u64) -> bool {
        let instruction = drawn.instruction;
        let (base, index) = (instruction.memory_base(), instruction.memory_index());
        let scale = u64::from(instruction.memory_index_scale());
        let wanted = place.wrapping_sub(self.segment_base(&instruction));
        let narrow = [base, index].iter().any(|r| r.is_gpr32() || *r == Register::EIP)
            || base == Register::None && drawn.bytes.iter().take(4).any(|b| *b == 0x67);
        if narrow && wanted >> 32 != 0 || [base, index].iter().any(|r| r.is_gpr16()) {
            return false;
        }
        if instruction.is_vsib() {
            return self.vector_index(random, index) && self.base(base, wanted, &instruction);
        }
        if base == Register::RIP || base == Register::EIP {
            return displace(drawn, wanted.wrapping_sub(instruction.next_ip()));
        }
        if base == Register::None && index == Register::None {
            return displace(drawn, wanted);
        }
        let displacement = instruction.memory_displacement64();
        let rest = wanted.wrapping_sub(displacement);
        let rest = if self.bits == 64 { rest } else { rest & 0xffff_ffff };
        let value = |register: Register| self.state.gpr[register.full_register().number()];
        if base == index {
            return self.address_register(random, base, rest / (1 + scale));
        }
        if base == Register::None {
            let near = if narrow { rest & 0xffff_ffff } else { rest };
            return self.address_register(random, index, near / scale);
        }
        let mut shift = 0;
        if index != Register::None {
            // The index is whatever it is, and must stay so.
            let number = index.full_register().number();
            if self.written & 1 << number != 0 {
                return false;
            }
            self.pinned |= 1 << number;
            shift = value(index).wrapping_mul(scale);
        }
        self.address_register(random, base, rest.wrapping_sub(shift))
    }

    fn base(&mut self, base: Register, wanted: u64, instruction: &Instruction) -> bool {
        let rest = wanted.wrapping_sub(instruction.memory_displacement64());
        let wide = if self.bits == 64 { base.is_gpr64() } else { base.is_gpr32() };
        wide && self.set(base.full_register().number(), rest)
    }

    /// Sets a register that addresses are made of; the upper half of a 32-bit one is noise that must not matter.
    fn address_register(&mut self, random: &mut Random, register: Register, value: u64) -> bool {
        let number = register.full_register().number();
        let noise = if register.is_gpr32() { random.bits() << 32 } else { 0 };
        let value = if register.is_gpr32() { value & 0xffff_ffff | noise } else { value };
        self.set(number, value)
    }

    /// Small distances in every lane of a gather's index.
    fn vector_index(&mut self, random: &mut Random, index: Register) -> bool {
        let lane = |random: &mut Random| random.below(64) | random.below(64) << 32;
        let value = [(); 8].map(|()| lane(random));
        // Lanes of 64 bits would see both halves as one number: they get the low half only, half of the time.
        let value = if random.once_in(2) { value.map(|v| v & 0xff) } else { value };
        self.state.set_zmm(index.number(), value);
        true
    }

    /// Memory or registers that make the interesting outcome likely.
    fn contents(&mut self, random: &mut Random, instruction: &Instruction, place: u64) -> bool {
        use Mnemonic::*;
        let stack = self.state.gpr[4];
        match instruction.mnemonic() {
            Cmpxchg | Cmpxchg8b if random.once_in(2) => {
                let (low, high) = (self.state.gpr[0], self.state.gpr[2]);
                let narrow = instruction.mnemonic() == Cmpxchg8b;
                self.patches.push((place, if narrow { low & 0xffff_ffff | high << 32 } else { low }));
                true
            }
            Cmpxchg16b if random.once_in(2) => {
                let halves = [(place, self.state.gpr[0]), (place.wrapping_add(8), self.state.gpr[2])];
                self.patches.extend(halves);
                true
            }
            Ldmxcsr | Vldmxcsr if random.below(4) != 0 => {
                self.patches.push((place, random.bits() & 0xe03f | 0x1f80));
                true
            }
            // No single-stepping, no alignment checks: natively they are signals of their own.
            Popf | Popfd | Popfq => {
                self.patches.push((stack, random.bits() & 0xcd5 | 0x202));
                self.written & 1 << 4 == 0
            }
            _ => true,
        }
    }

    /// Indirect branches and returns go to the traps behind the code, now and then to an address that is none.
    fn flow(&mut self, random: &mut Random, instruction: &Instruction, place: u64) -> bool {
        let traps = self.state.rip + TRAPS + random.below(TRAPS_LONG);
        let goal = match random.below(16) {
            0 if self.bits == 64 => 0x0000_8000_0000_0000 + random.below(64),
            1 => DATA.start + random.below(64),
            _ => traps,
        };
        match instruction.flow_control() {
            FlowControl::IndirectBranch | FlowControl::IndirectCall => match instruction.op0_kind() {
                OpKind::Register => self.set(instruction.op0_register().full_register().number(), goal),
                _ => {
                    self.patches.push((place, goal));
                    index(place).is_some()
                }
            },
            FlowControl::Return => {
                let stack = self.state.gpr[4];
                self.patches.push((stack, goal));
                self.pinned |= 1 << 4;
                self.written & 1 << 4 == 0
            }
            _ => true,
        }
    }
}

/// True unless the instruction would go to wherever a random register points, or load flags that stop the world.
fn flow_is_harmless(instruction: &Instruction) -> bool {
    !matches!(
        instruction.flow_control(),
        FlowControl::IndirectBranch | FlowControl::IndirectCall | FlowControl::Return
    ) && !matches!(instruction.mnemonic(), Mnemonic::Popf | Mnemonic::Popfd | Mnemonic::Popfq)
        && !instruction.is_string_instruction()
}

/// Writes a displacement into the bytes; false when it does not fit or there is none to write.
fn displace(drawn: &mut Encoded, value: u64) -> bool {
    let (offset, size) = drawn.displacement;
    let signed = value as i64;
    let fits = match size {
        8 => true,
        4 => i64::from(signed as i32) == signed,
        _ => false,
    };
    if fits {
        drawn.bytes[offset..offset + size].copy_from_slice(&value.to_le_bytes()[..size]);
    }
    fits
}
