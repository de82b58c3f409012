//! Every opcode, with every kind of operand: does the table of classes know of all memory and all state it touches?
//!
//! The decoder's table of what instructions do is the second opinion. Opcodes are found by decoding: each map, each prefix
//! that chooses among instructions, each opcode byte, and operands in memory and in registers.

use crate::classify::{Class, classify};
use crate::rewrite::operand_size;
use iced_x86::{
    Decoder, DecoderOptions, Instruction, InstructionInfoFactory, OpAccess, Register, RflagsBits, UsedMemory,
};
use std::collections::BTreeSet;

/// Bytes that choose an instruction before its opcode byte: legacy prefixes with each map, and VEX with each map.
fn beginnings() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for prefix in
        [&[][..], &[0x66], &[0xf2], &[0xf3], &[0x66, 0xf2], &[0x66, 0xf3], &[0x65], &[0x67], &[0xf0]]
    {
        for wide in [&[][..], &[0x48], &[0x4f]] {
            for map in [&[][..], &[0x0f], &[0x0f, 0x38], &[0x0f, 0x3a]] {
                all.push([prefix, wide, map].concat());
            }
        }
    }
    for map in 1..=3u8 {
        for rest in 0..=255u8 {
            all.push(vec![0xc4, 0xe0 | map, rest]);
        }
    }
    // EVEX: maps 1 to 6, every W, pp, length and broadcast, with and without a mask register.
    for map in 1..=6u8 {
        for pp in 0..4u8 {
            for wide in [0, 0x80] {
                for last in [0x08, 0x28, 0x48, 0x09, 0x29, 0x49, 0x18, 0x58] {
                    all.push(vec![0x62, 0xf0 | map, wide | 0x7c | pp, last]);
                }
            }
        }
    }
    all
}

/// One instruction of each kind, decoded.
fn instructions() -> Vec<Instruction> {
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for beginning in beginnings() {
        for opcode in 0..=255u8 {
            // Operands [rax], [rcx + rsi * 8 + disp8] and a register, in each of the eight places of ModRM.reg.
            for reg in 0..8u8 {
                for modrm in [reg << 3, 0x44 | reg << 3, 0xc1 | reg << 3] {
                    let mut bytes = beginning.clone();
                    bytes.extend([opcode, modrm, 0xf1, 0x10, 0, 0, 0, 0, 0, 0, 0]);
                    let instruction = Decoder::with_ip(64, &bytes, 0x1000, DecoderOptions::NONE).decode();
                    let kind = (
                        instruction.code() as u32,
                        modrm >> 6,
                        instruction.segment_prefix() as u32,
                        instruction.memory_base().size(),
                        instruction.is_broadcast(),
                    );
                    if !instruction.is_invalid() && seen.insert(kind) {
                        found.push(instruction);
                    }
                }
            }
        }
    }
    assert!(found.len() > 3000, "only {} instructions were found", found.len());
    found
}

/// Memory that an instruction touches; a `lea` or a hint touches none.
fn touched(factory: &mut InstructionInfoFactory, instruction: &Instruction) -> Vec<UsedMemory> {
    let info = factory.info(instruction);
    let none = |access| matches!(access, OpAccess::None | OpAccess::NoMemAccess);
    info.used_memory().iter().filter(|memory| !none(memory.access())).copied().collect()
}

#[test]
fn what_is_copied_as_it_stands_touches_no_memory() {
    let mut factory = InstructionInfoFactory::new();
    for instruction in instructions() {
        if matches!(classify(&instruction), Class::Harmless | Class::Address) {
            assert!(
                touched(&mut factory, &instruction).is_empty(),
                "{:?}: {instruction}",
                instruction.code()
            );
        }
    }
}

#[test]
fn what_is_looked_up_is_all_that_is_touched() {
    let mut factory = InstructionInfoFactory::new();
    for instruction in instructions() {
        if classify(&instruction) != Class::Memory {
            continue;
        }
        let touched = touched(&mut factory, &instruction);
        for memory in &touched {
            let same =
                memory.base() == instruction.memory_base() && memory.index() == instruction.memory_index();
            let fixed = memory.base() == Register::None && memory.index() == Register::None;
            assert!(same || fixed, "{:?}: {instruction} touches {memory:?}", instruction.code());
            // A size of 0 means that Rust does it.
            let size = operand_size(&instruction);
            assert!(
                size == 0 || memory.memory_size().size() <= size,
                "{:?}: {instruction} touches {memory:?}, and {size} bytes are looked up",
                instruction.code()
            );
        }
        assert!(touched.len() <= 1, "{:?}: {instruction} touches more than one place", instruction.code());
    }
}

#[test]
fn what_is_copied_changes_no_state_that_is_the_hosts() {
    let mut factory = InstructionInfoFactory::new();
    let hosts = RflagsBits::DF | RflagsBits::IF | RflagsBits::AC;
    for instruction in instructions() {
        let class = classify(&instruction);
        if !matches!(class, Class::Harmless | Class::Memory | Class::BitString | Class::Address) {
            continue;
        }
        let code = instruction.code();
        assert_eq!(instruction.rflags_modified() & hosts, 0, "{code:?}: {instruction}");
        assert!(!instruction.is_privileged(), "{code:?}: {instruction}");
        for used in factory.info(&instruction).used_registers() {
            let register = used.register();
            let theirs =
                register.is_segment_register() || register.is_cr() || register.is_dr() || register.is_tr();
            let written = !matches!(used.access(), OpAccess::Read | OpAccess::CondRead);
            assert!(!(theirs && written), "{code:?}: {instruction} writes {register:?}");
        }
    }
}

#[test]
fn what_moves_the_stack_pointer_unasked_is_not_copied() {
    for instruction in instructions() {
        if matches!(classify(&instruction), Class::Harmless | Class::Memory) {
            assert_eq!(instruction.stack_pointer_increment(), 0, "{:?}: {instruction}", instruction.code());
        }
    }
}
