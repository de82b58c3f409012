//! Random bytes that are one given form.
//!
//! Instead of an encoder for every kind of operand: prefixes, opcode and group digit come from iced's description of
//! the form, everything else is chance, and iced's decoder says whether the result is the form asked for. So also
//! the encodings that no assembler would choose are met.

use crate::random::Random;
use iced_x86::{Code, Decoder, DecoderOptions, EncodingKind, Instruction, MandatoryPrefix, OpCodeTableKind};

/// An instruction's bytes, what they mean, and where the displacement and immediate lie in them.
pub struct Encoded {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// The decoded instruction.
    pub instruction: Instruction,
    /// (offset, size) of the displacement; size zero when there is none.
    pub displacement: (usize, usize),
    /// (offset, size) of the immediate or branch displacement; size zero when there is none.
    pub immediate: (usize, usize),
}

/// Reads bytes at an address; None unless they begin with a valid instruction. Surplus bytes are cut off.
pub fn decode(mut bytes: Vec<u8>, rip: u64, bits: u32) -> Option<Encoded> {
    let mut decoder = Decoder::with_ip(bits, &bytes, rip, DecoderOptions::NONE);
    let instruction = decoder.decode();
    if instruction.is_invalid() {
        return None;
    }
    let offsets = decoder.get_constant_offsets(&instruction);
    bytes.truncate(instruction.len());
    Some(Encoded {
        bytes,
        instruction,
        displacement: (offsets.displacement_offset(), offsets.displacement_size()),
        immediate: (offsets.immediate_offset(), offsets.immediate_size()),
    })
}

/// Throws of the dice for one encoding.
const TRIES: usize = 32;

/// One random encoding of a form, None when chance did not find one.
pub fn encode(random: &mut Random, code: Code, rip: u64, bits: u32) -> Option<Encoded> {
    (0..TRIES).find_map(|_| {
        let bytes = match code.op_code().encoding() {
            EncodingKind::VEX => vex(random, code, bits),
            EncodingKind::EVEX => evex(random, code, bits),
            _ => legacy(random, code, bits),
        };
        decode(bytes, rip, bits).filter(|found| found.instruction.code() == code)
    })
}

fn legacy(random: &mut Random, code: Code, bits: u32) -> Vec<u8> {
    let info = code.op_code();
    let mut bytes = segment_and_size(random, bits);
    if info.operand_size() == 16 || info.mandatory_prefix() == MandatoryPrefix::P66 {
        bytes.push(0x66);
    }
    match info.mandatory_prefix() {
        MandatoryPrefix::PF3 => bytes.push(0xf3),
        MandatoryPrefix::PF2 => bytes.push(0xf2),
        _ => {}
    }
    if info.can_use_lock_prefix() && random.once_in(2) {
        bytes.push(0xf0);
    }
    if info.can_use_rep_prefix() && random.once_in(2) {
        bytes.push(0xf3);
    } else if info.can_use_repne_prefix() && random.once_in(2) {
        bytes.push(0xf2);
    }
    let wide = info.operand_size() == 64 && !info.default_op_size64();
    let rex = if random.once_in(2) { random.below(8) as u8 } else { 0 } | u8::from(wide) << 3;
    if bits == 64 && (rex != 0 || random.once_in(4)) {
        bytes.push(0x40 | rex);
    }
    match info.table() {
        OpCodeTableKind::T0F => bytes.push(0x0f),
        OpCodeTableKind::T0F38 => bytes.extend([0x0f, 0x38]),
        OpCodeTableKind::T0F3A => bytes.extend([0x0f, 0x3a]),
        _ => {}
    }
    opcode_and_rest(random, code, bytes)
}

fn vex(random: &mut Random, code: Code, bits: u32) -> Vec<u8> {
    let info = code.op_code();
    let mut bytes = segment_and_size(random, bits);
    let prefix = match info.mandatory_prefix() {
        MandatoryPrefix::P66 => 1,
        MandatoryPrefix::PF3 => 2,
        MandatoryPrefix::PF2 => 3,
        _ => 0,
    };
    let map = match info.table() {
        OpCodeTableKind::T0F38 => 2,
        OpCodeTableKind::T0F3A => 3,
        _ => 1,
    };
    let second_source = if random.once_in(2) { 15 } else { random.below(16) as u8 };
    let long = if info.is_lig() { random.below(2) as u8 } else { (info.l() & 1) as u8 };
    let wide = if info.is_wig() { random.below(2) as u8 } else { (info.w() & 1) as u8 };
    let low = second_source << 3 | long << 2 | prefix;
    // In 32-bit code, what would extend register numbers tells this prefix from LES and LDS.
    let (extension, low) =
        if bits == 64 { (random.below(8) as u8, low) } else { (6 | random.below(2) as u8, low | 0x40) };
    if map == 1 && wide == 0 && random.once_in(2) {
        bytes.extend([0xc5, (extension & 4) << 5 | low]);
    } else {
        bytes.extend([0xc4, extension << 5 | map, wide << 7 | low]);
    }
    opcode_and_rest(random, code, bytes)
}

/// Four bytes `62 RXBR'0mmm Wvvvv1pp zLLbV'aaa` (SDM vol. 2, 2.7.1), with masks, zeroing, broadcast and rounding by chance.
fn evex(random: &mut Random, code: Code, bits: u32) -> Vec<u8> {
    let info = code.op_code();
    let mut bytes = segment_and_size(random, bits);
    let prefix = match info.mandatory_prefix() {
        MandatoryPrefix::P66 => 1,
        MandatoryPrefix::PF3 => 2,
        MandatoryPrefix::PF2 => 3,
        _ => 0,
    };
    let map = match info.table() {
        OpCodeTableKind::T0F38 => 2,
        OpCodeTableKind::T0F3A => 3,
        _ => 1,
    };
    let wide = if info.is_wig() { random.below(2) as u8 } else { (info.w() & 1) as u8 };
    let second_source = if random.once_in(2) { 15 } else { random.below(16) as u8 };
    let upper_source = if second_source == 15 { 1 } else { random.below(2) as u8 };
    let special = random.once_in(3);
    let long =
        if info.is_lig() || special && random.once_in(2) { random.below(4) as u8 } else { info.l() as u8 };
    let mask = if random.once_in(3) { 0 } else { random.below(8) as u8 };
    let zeroing = u8::from(mask != 0 && random.once_in(3));
    bytes.push(0x62);
    bytes.push((random.below(16) as u8) << 4 | map);
    bytes.push(wide << 7 | second_source << 3 | 4 | prefix);
    bytes.push(zeroing << 7 | long << 5 | u8::from(special) << 4 | upper_source << 3 | mask);
    opcode_and_rest(random, code, bytes)
}

/// Sometimes a segment override, sometimes addresses of half the width. In 32-bit code a process has nothing in FS and GS.
fn segment_and_size(random: &mut Random, bits: u32) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(32);
    if random.once_in(12) {
        let long = [0x64, 0x65, 0x65, 0x3e];
        bytes.push(random.pick(if bits == 64 { &long } else { &[0x26, 0x2e, 0x36, 0x3e] }));
    }
    if random.once_in(16) {
        bytes.push(0x67);
    }
    bytes
}

fn opcode_and_rest(random: &mut Random, code: Code, mut bytes: Vec<u8>) -> Vec<u8> {
    let info = code.op_code();
    if info.op_code_len() == 2 {
        bytes.push((info.op_code() >> 8) as u8);
    }
    // Some opcodes hold a register number in their low bits; the decoder refuses the others with another number.
    let number = if random.once_in(2) { random.below(8) as u8 } else { 0 };
    bytes.push(info.op_code() as u8 | number);
    let mut modrm = random.bits() as u8;
    if random.once_in(3) {
        modrm |= 0xc0;
    }
    if info.group_index() >= 0 {
        modrm = modrm & !0x38 | (info.group_index() as u8) << 3;
    }
    if info.rm_group_index() >= 0 {
        modrm = modrm & !7 | 0xc0 | info.rm_group_index() as u8;
    }
    if info.op_code_len() == 1 {
        bytes.push(modrm);
    }
    for _ in 0..2 {
        bytes.extend(random.bits().to_le_bytes());
    }
    bytes
}
