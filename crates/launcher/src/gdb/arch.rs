//! The registers as GDB numbers them: a target description in XML, and the same order in bytes.
//!
//! The features `org.gnu.gdb.i386.core`, `.sse` and `.segments` are GDB's own (its manual, "i386 Features"); their names
//! and order are fixed. The control registers are in a feature of ours, which GDB shows without knowing what they mean.

use std::fmt::Write;
use std::sync::LazyLock;

use gdbstub::arch::{Arch, Registers as GdbRegisters};
use lguest_host::debug::Registers;

/// rax rbx rcx rdx rsi rdi rbp rsp r8 to r15: GDB's order, as indices into ours.
const GENERAL: [usize; 16] = [0, 3, 1, 2, 6, 7, 5, 4, 8, 9, 10, 11, 12, 13, 14, 15];
const GENERAL_NAMES: [&str; 16] = [
    "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
    "r15",
];
/// cs ss ds es fs gs, as indices into ours.
const SELECTORS: [usize; 6] = [1, 2, 3, 0, 4, 5];
/// st0 to st7 of ten bytes, and eight registers of four that say what x87 is doing. They are not collected.
const X87_BYTES: usize = 8 * 10 + 8 * 4;
/// Names of [`Registers::control`], in its order.
const CONTROL_NAMES: [&str; 5] = ["cr0", "cr2", "cr3", "cr4", "efer"];

static DESCRIPTION: LazyLock<String> = LazyLock::new(describe);

/// A 64-bit x86 processor.
#[derive(Debug)]
pub enum X86 {}

impl Arch for X86 {
    type Usize = u64;
    type Registers = Numbered;
    type BreakpointKind = usize;
    type RegId = ();

    fn target_description_xml() -> Option<&'static str> {
        Some(&DESCRIPTION)
    }
}

fn describe() -> String {
    let mut xml = String::from(
        "<?xml version=\"1.0\"?><!DOCTYPE target SYSTEM \"gdb-target.dtd\"><target version=\"1.0\">\
         <architecture>i386:x86-64</architecture>",
    );
    xml.push_str("<feature name=\"org.gnu.gdb.i386.core\">");
    for name in GENERAL_NAMES {
        let kind = if matches!(name, "rbp" | "rsp") { "data_ptr" } else { "int64" };
        register(&mut xml, name, 64, kind);
    }
    register(&mut xml, "rip", 64, "code_ptr");
    for name in ["eflags", "cs", "ss", "ds", "es", "fs", "gs"] {
        register(&mut xml, name, 32, "int32");
    }
    for n in 0..8 {
        register(&mut xml, &format!("st{n}"), 80, "i387_ext");
    }
    for name in ["fctrl", "fstat", "ftag", "fiseg", "fioff", "foseg", "fooff", "fop"] {
        register(&mut xml, name, 32, "int");
    }
    xml.push_str("</feature><feature name=\"org.gnu.gdb.i386.sse\">");
    for n in 0..16 {
        register(&mut xml, &format!("xmm{n}"), 128, "uint128");
    }
    register(&mut xml, "mxcsr", 32, "int");
    xml.push_str("</feature><feature name=\"org.gnu.gdb.i386.segments\">");
    for name in ["fs_base", "gs_base"] {
        register(&mut xml, name, 64, "int");
    }
    xml.push_str("</feature><feature name=\"org.lguest.control\">");
    for name in ["k_gs_base"].iter().chain(&CONTROL_NAMES) {
        register(&mut xml, name, 64, "int64");
    }
    xml.push_str("</feature></target>");
    xml
}

fn register(xml: &mut String, name: &str, bits: u32, kind: &str) {
    // Writing to a string does not fail.
    let _ = write!(xml, "<reg name=\"{name}\" bitsize=\"{bits}\" type=\"{kind}\"/>");
}

/// Registers in GDB's order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Numbered(pub Registers);

impl GdbRegisters for Numbered {
    type ProgramCounter = u64;

    fn pc(&self) -> u64 {
        self.0.rip
    }

    fn gdb_serialize(&self, mut write_byte: impl FnMut(Option<u8>)) {
        let all = &self.0;
        let mut bytes = |bytes: &[u8]| bytes.iter().for_each(|&byte| write_byte(Some(byte)));
        for n in GENERAL {
            bytes(&all.general[n].to_le_bytes());
        }
        bytes(&all.rip.to_le_bytes());
        bytes(&(all.rflags as u32).to_le_bytes());
        for n in SELECTORS {
            bytes(&u32::from(all.selectors[n]).to_le_bytes());
        }
        (0..X87_BYTES).for_each(|_| write_byte(None));
        let mut bytes = |bytes: &[u8]| bytes.iter().for_each(|&byte| write_byte(Some(byte)));
        for vector in all.vectors {
            bytes(&vector.to_le_bytes());
        }
        bytes(&all.mxcsr.to_le_bytes());
        for base in all.bases {
            bytes(&base.to_le_bytes());
        }
        for control in all.control {
            bytes(&control.to_le_bytes());
        }
    }

    fn gdb_deserialize(&mut self, bytes: &[u8]) -> Result<(), ()> {
        let mut rest = bytes;
        let mut take = |count: usize| -> Result<u128, ()> {
            let (head, tail) = rest.split_at_checked(count).ok_or(())?;
            rest = tail;
            let mut whole = [0; 16];
            let kept = count.min(16);
            whole[..kept].copy_from_slice(&head[..kept]);
            Ok(u128::from_le_bytes(whole))
        };
        for n in GENERAL {
            self.0.general[n] = take(8)? as u64;
        }
        self.0.rip = take(8)? as u64;
        self.0.rflags = take(4)? as u64;
        for n in SELECTORS {
            self.0.selectors[n] = take(4)? as u16;
        }
        take(X87_BYTES)?;
        for vector in &mut self.0.vectors {
            *vector = take(16)?;
        }
        self.0.mxcsr = take(4)? as u32;
        for base in &mut self.0.bases {
            *base = take(8)? as u64;
        }
        for control in &mut self.0.control {
            *control = take(8)? as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registers() -> Numbered {
        let mut all = Registers { rip: 0x1234, rflags: 0x202, mxcsr: 0x1f80, ..Registers::default() };
        all.general = std::array::from_fn(|n| 0x1111_0000 + n as u64);
        all.vectors = std::array::from_fn(|n| 0xaaaa << 100 | n as u128);
        all.bases = [1, 2, 3];
        all.control = [4, 5, 6, 7, 8];
        all.selectors = [10, 11, 12, 13, 14, 15];
        Numbered(all)
    }

    #[test]
    fn registers_come_back_from_bytes_as_they_went() {
        let mut bytes = Vec::new();
        registers().gdb_serialize(|byte| bytes.push(byte.unwrap_or(0)));
        let mut back = Numbered::default();
        back.gdb_deserialize(&bytes).unwrap();
        assert_eq!(back, registers());
        assert_eq!(back.gdb_deserialize(&bytes[1..]), Err(()), "a packet that is too short is refused");
    }

    #[test]
    fn the_description_has_as_many_bits_as_the_bytes() {
        let mut bytes = 0;
        registers().gdb_serialize(|_| bytes += 1);
        let bits: usize = DESCRIPTION
            .split("bitsize=\"")
            .skip(1)
            .map(|rest| rest.split('"').next().unwrap().parse::<usize>().unwrap())
            .sum();
        assert_eq!(bits, 8 * bytes);
    }

    #[test]
    fn gdb_counts_rbx_second() {
        let mut bytes = Vec::new();
        registers().gdb_serialize(|byte| bytes.push(byte.unwrap_or(0)));
        assert_eq!(bytes[8..16], 0x1111_0003u64.to_le_bytes());
    }
}
