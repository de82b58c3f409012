//! Makes cases: an instruction of each form, or a run of several, from a state in which they do something.
//!
//! Random registers would make almost every memory access a fault. So each instruction is aimed: the registers that
//! its address is made of are chosen such that the address lies where the dice say, mostly inside a window, now and
//! then across a page, on the read-only page, beyond an end, or nowhere.

use crate::aim::Aim;
use crate::case::{Case, State};
use crate::encode::{Encoded, decode, encode};
use crate::flags::Undefined;
use crate::forms;
use crate::random::Random;
use crate::world::{CODE, FAR, MOST_CODE, PAGE, SLOT, SLOT_HEAD, SLOTS, STACK};
use iced_x86::{Code, Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, OpAccess};

/// How often an instruction is drawn anew when it cannot be aimed.
const TRIES: usize = 30;

/// One instruction of this form; None when chance found no way to write it.
pub fn single(seed: u64, number: u64, code: Code, bits: u32) -> Option<Case> {
    let mut builder = Builder::new(seed, number, forms::only_for_users(code), bits);
    builder.add(code).then(|| builder.finish())
}

/// One instruction of this form whose operands reach over the edge of what is there; None when it has no operand in memory.
pub fn at_an_edge(seed: u64, number: u64, code: Code, bits: u32) -> Option<Case> {
    let mut builder = Builder::new(seed, number, forms::only_for_users(code), bits);
    builder.aim.edges = true;
    let mut form = Instruction::default();
    form.set_code(code);
    if form.is_stack_instruction() {
        builder.aim.stack_at_an_edge(&mut builder.random);
    }
    let touches = builder.add(code) && builder.touches_memory();
    touches.then(|| builder.finish())
}

/// Bytes that the decoder takes for no instruction at all, with some that it knows before and behind; None when chance
/// found none.
pub fn nonsense(seed: u64, number: u64, bits: u32) -> Option<Case> {
    let mut builder = Builder::new(seed, number, false, bits);
    let random = &mut builder.random;
    let maps: [&[u8]; 6] = [&[], &[0x0f], &[0x0f], &[0x0f, 0x38], &[0x0f, 0x3a], &[0xc4]];
    let prefixes = [0x66, 0xf2, 0xf3, 0xf0, 0x48, 0x40, 0x2e, 0x67];
    let code = (0..TRIES).find_map(|_| {
        let mut bytes: Vec<u8> = (0..random.below(3)).map(|_| random.pick(&prefixes)).collect();
        bytes.extend(random.pick(&maps));
        // As many immediates and displacements as an instruction could have: the end is never what is wrong.
        bytes.extend((0..14).map(|_| random.bits() as u8));
        let mut decoder = Decoder::with_ip(bits, &bytes, builder.aim.state.rip, DecoderOptions::NONE);
        decoder.decode().is_invalid().then_some(bytes)
    })?;
    Some(Case { code, ..builder.finish() })
}

/// A run of instructions, mostly everyday ones, in which later ones use what earlier ones made.
pub fn sequence(seed: u64, number: u64, all: &[Code], everyday: &[Code], bits: u32) -> Case {
    let mut random = Random::new(seed ^ 0x5e9);
    let mut builder = Builder::new(seed, number, random.once_in(3), bits);
    for _ in 0..2 + random.below(6) {
        let code = if random.once_in(4) { random.pick(all) } else { random.pick(everyday) };
        if builder.aim.user || !forms::only_for_users(code) {
            builder.add(code);
        }
    }
    builder.finish()
}

struct Builder {
    random: Random,
    aim: Aim,
    seed: u64,
    memory_seed: u64,
    parts: Vec<Encoded>,
    length: usize,
    undefined: Undefined,
    facts: InstructionInfoFactory,
}

impl Builder {
    fn new(seed: u64, number: u64, user: bool, bits: u32) -> Builder {
        let mut random = Random::new(seed);
        let ring3 = user || !random.once_in(3) || bits == 32;
        let mut state = state(&mut random, number);
        if bits == 32 {
            state.narrow();
        }
        let memory_seed = random.bits();
        let facts = InstructionInfoFactory::new();
        let aim = Aim::new(state, ring3, bits);
        Builder {
            random,
            aim,
            seed,
            memory_seed,
            parts: Vec::new(),
            length: 0,
            undefined: Undefined::default(),
            facts,
        }
    }

    /// Appends an instruction of this form; false when that did not succeed.
    fn add(&mut self, code: Code) -> bool {
        // Nothing runs behind an unconditional end.
        let ended = self.parts.last().is_some_and(|part| ends(part.instruction.code()));
        for _ in 0..TRIES {
            let rip = self.aim.state.rip + self.length as u64;
            if ended || self.length > MOST_CODE - 15 {
                return false;
            }
            let Some(mut drawn) = encode(&mut self.random, code, rip, self.aim.bits) else { continue };
            // A result that depends on a flag nobody defines is nobody's mistake.
            if self.undefined.matters_to(&drawn.instruction) {
                return false;
            }
            let before = self.aim.clone();
            let aimed = self.aim.at(&mut self.random, &mut drawn);
            let again = aimed.then(|| decode(drawn.bytes, rip, self.aim.bits)).flatten();
            let Some(part) = again.filter(|part| part.instruction.code() == code) else {
                self.aim = before;
                continue;
            };
            self.note_effects(&part);
            self.length += part.bytes.len();
            self.parts.push(part);
            return true;
        }
        false
    }

    /// True when the last instruction has an operand in memory, named or not.
    fn touches_memory(&mut self) -> bool {
        let last = self.parts.last().map(|part| part.instruction);
        last.is_some_and(|instruction| !self.facts.info(&instruction).used_memory().is_empty())
    }

    fn note_effects(&mut self, part: &Encoded) {
        for used in self.facts.info(&part.instruction).used_registers() {
            let written = matches!(
                used.access(),
                OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite
            );
            if written && used.register().is_gpr() {
                self.aim.written |= 1 << used.register().full_register().number();
            }
        }
        self.undefined.pass(&part.instruction);
    }

    /// Lets near branches go to the start of a later instruction or to the traps behind, and puts the bytes together.
    fn finish(mut self) -> Case {
        let mut starts = Vec::new();
        let mut place = 0;
        for part in &self.parts {
            starts.push(place);
            place += part.bytes.len();
        }
        starts.extend([place, place + 1, place + 2]);
        let mut code = Vec::new();
        for (i, part) in self.parts.iter_mut().enumerate() {
            if part.instruction.is_jcc_short_or_near() || is_relative(&part.instruction) {
                let end = starts[i] + part.bytes.len();
                let later = &starts[i + 1..];
                let target = later[self.random.below(later.len() as u64) as usize];
                let (offset, size) = part.immediate;
                let distance = (target - end) as u32;
                part.bytes[offset..offset + size].copy_from_slice(&distance.to_le_bytes()[..size]);
            }
            code.extend_from_slice(&part.bytes);
        }
        Case {
            seed: self.seed,
            code,
            state: self.aim.state,
            memory_seed: self.memory_seed,
            patches: self.aim.patches,
            ring: if self.aim.user { 3 } else { 0 },
            bits: self.aim.bits,
        }
    }
}

/// True for a branch whose distance stands in its bytes.
fn is_relative(instruction: &iced_x86::Instruction) -> bool {
    instruction.near_branch_target() != 0
        && matches!(instruction.op0_kind(), iced_x86::OpKind::NearBranch64 | iced_x86::OpKind::NearBranch32)
}

/// True when what follows is not run.
fn ends(code: Code) -> bool {
    matches!(
        code.flow_control(),
        FlowControl::IndirectBranch
            | FlowControl::IndirectCall
            | FlowControl::Return
            | FlowControl::Exception
    )
}

/// A state with everything set to something.
fn state(random: &mut Random, number: u64) -> State {
    let mut state = State::zero();
    for register in &mut state.gpr {
        *register = random.number();
    }
    let room = STACK.pages * PAGE;
    state.gpr[4] = STACK.start
        + match random.below(20) {
            0 => random.below(64),
            1 => room - random.below(64),
            2 => room / 2 + random.below(64),
            _ => room / 2 + random.below(64) * 8,
        };
    let slot = CODE + number % SLOTS * SLOT;
    let crossing = slot / PAGE != (slot + SLOT) / PAGE && random.once_in(2);
    state.rip =
        if crossing { slot + SLOT - 1 - random.below(16) } else { slot + SLOT_HEAD + random.below(16) };
    let arithmetic = random.bits() & 0x8d5;
    let direction = u64::from(random.once_in(8)) << 10;
    state.rflags = 0x202 | arithmetic | direction;
    let bases = [0, 0x1000, 0x2fff_fff0, 0xffff_ffff_f000_0000, FAR.start];
    state.fs_base = random.pick(&bases);
    state.gs_base = random.pick(&bases);
    vectors(random, &mut state);
    state
}

/// Vector and x87 registers with numbers in them, and now and then another rounding or an unmasked exception.
fn vectors(random: &mut Random, state: &mut State) {
    for number in 0..32 {
        let value = [(); 8].map(|()| random.eight_bytes());
        state.set_zmm(number, value);
    }
    for number in 0..8 {
        let mask = random.bits();
        let mask = match random.below(6) {
            0 => 0,
            1 => u64::MAX,
            2 => 1 << (mask & 63),
            3 => mask & random.bits() & random.bits(),
            _ => mask,
        };
        state.set_mask(number, mask);
    }
    let mut mxcsr = 0x1f80;
    if random.once_in(3) {
        mxcsr |= (random.bits() as u32) & 0xe040;
    }
    if random.once_in(16) {
        mxcsr &= !(1 << (7 + random.below(6)));
    }
    state.vectors[24..28].copy_from_slice(&mxcsr.to_le_bytes());
    let precision: u16 = random.pick(&[0x37f, 0x37f, 0x37f, 0x27f, 0x77f, 0xb7f, 0xf7f, 0x37e, 0x37b]);
    state.vectors[..2].copy_from_slice(&precision.to_le_bytes());
    let top = (random.below(8) as u16) << 11;
    state.vectors[2..4].copy_from_slice(&(top | (random.bits() as u16 & 0x4700)).to_le_bytes());
    state.vectors[4] = random.pick(&[0xff, 0xff, 0x7f, 0x3f, 0, 0x55]);
    for register in 0..8 {
        let place = 32 + register * 16;
        // An 80-bit number: whole part set, exponent near one; sometimes zero.
        let whole = if random.once_in(6) { 0 } else { random.bits() | 1 << 63 };
        let exponent = if whole == 0 { 0 } else { 0x3fff + random.below(40) as u16 - 8 };
        let sign = (random.bits() as u16 & 1) << 15;
        state.vectors[place..place + 8].copy_from_slice(&whole.to_le_bytes());
        state.vectors[place + 8..place + 10].copy_from_slice(&(exponent | sign).to_le_bytes());
    }
}
