//! A processor as power-on leaves it, for tests of the modes before long mode: descriptors, gates, a way into 32-bit
//! protected mode.

use crate::machine::*;
use lguest_translator::{Exit, Options, Vcpu};
use std::sync::Arc;

/// A processor that has just been reset, and memory with the tables that tests of the older modes share.
pub struct Bare {
    /// Its memory.
    pub ram: Arc<lguest_translator::Ram>,
    /// Its processor.
    pub vcpu: Vcpu,
}

/// Page that a start-up message names.
pub const START: u64 = 0x8000;
/// Descriptors that all tests here share: 0x08 code of 32 bits, 0x10 data of 32 bits, 0x18 code of 64 bits, 0x20 code of
/// 16 bits, 0x28 data of 16 bits, 0x30 code of 32 bits at level 3, 0x38 data at level 3, 0x40 a task-state segment,
/// 0x50 data of 32 bits with a base and a limit.
pub const DESCRIPTORS: [u64; 11] = [
    0,
    0x00cf_9b00_0000_ffff,
    0x00cf_9300_0000_ffff,
    0x00af_9b00_0000_ffff,
    0x0000_9b00_0000_ffff,
    0x0000_9300_0000_ffff,
    0x00cf_fb00_0000_ffff,
    0x00cf_f300_0000_ffff,
    0x0000_8900_5000_0067,
    0,
    0x0040_9302_0000_0fff,
];
/// Where they stand.
pub const TABLE: u64 = 0x3000;
/// Its register, as `lgdt` reads it.
pub const TABLE_REGISTER: u64 = 0x3100;
/// An interrupt table's register, and the table.
pub const GATES_REGISTER: u64 = 0x3110;
pub const GATES: u64 = 0x4000;

impl Bare {
    /// About to run `code` in real mode at the start of page 8.
    pub fn with(code: &[u8]) -> Bare {
        let ram = Arc::new(ram(RAM_BYTES));
        let mut vcpu = Vcpu::new(ram.clone(), Options::default()).expect("a vCPU can be made");
        vcpu.start_up((START >> 12) as u8);
        let bare = Bare { ram, vcpu };
        bare.load(START, code);
        for (n, descriptor) in DESCRIPTORS.into_iter().enumerate() {
            bare.put(TABLE + 8 * n as u64, descriptor);
        }
        bare.put(TABLE_REGISTER, TABLE << 16 | 0x57);
        bare.put(GATES_REGISTER, GATES << 16 | 0x7ff);
        bare
    }

    pub fn load(&self, at: u64, bytes: &[u8]) {
        assert!(self.ram.write(at, bytes));
    }

    pub fn put(&self, at: u64, value: u64) {
        self.load(at, &value.to_le_bytes());
    }

    #[track_caller]
    pub fn run_to_halt(&mut self) {
        let exit = self.vcpu.run();
        assert_eq!(exit, Exit::Halt, "at {:#x}", self.vcpu.rip());
    }

    pub fn low(&self, number: usize) -> u64 {
        self.vcpu.gpr(number)
    }
}

/// 32-bit protected mode with a stack at 0xa000, about to run `code` at [`PROTECTED`].
pub fn protected(code: &[u8]) -> Bare {
    let bare = Bare::with(&assembled!(
        ".code16",
        "cli",
        ".byte 0x0f, 0x01, 0x16, 0x00, 0x31", // lgdt [0x3100]
        ".byte 0x0f, 0x01, 0x1e, 0x10, 0x31", // lidt [0x3110]
        "mov eax, cr0",
        "or al, 1",
        "mov cr0, eax",
        ".byte 0xea, 0x00, 0x81, 0x08, 0", // jmp 0x08:0x8100
        ".skip 0x100 - (. - 771b)",
        ".code32",
        "mov eax, 0x10",
        "mov ds, eax",
        "mov es, eax",
        "mov ss, eax",
        "mov esp, 0xa000",
        "mov eax, 0x40",
        "ltr ax",
        "mov eax, 0x9000",
        "jmp eax",
        ".code64"
    ));
    // SS0:ESP0 and SS1:ESP1 of the task-state segment.
    bare.put(TASK + 4, 0xb000 | 0x10 << 32);
    bare.load(PROTECTED, code);
    bare
}

pub const PROTECTED: u64 = 0x9000;
/// The task-state segment.
pub const TASK: u64 = 0x5000;
/// Where the tests' handlers begin.
pub const HANDLER: u64 = 0x7000;

impl Bare {
    /// A 32-bit interrupt gate whose handler is `code`, in segment 0x08.
    pub fn handle(&self, vector: u64, dpl: u64, code: &[u8]) {
        let place = HANDLER + 0x10 * vector;
        self.load(place, code);
        self.put(GATES + 8 * vector, place & 0xffff | 0x08 << 16 | (0x8e00 | dpl << 13) << 32);
    }

    /// A word of 32 bits.
    pub fn word(&self, at: u64) -> u64 {
        let mut bytes = [0; 4];
        assert!(self.ram.read(at, &mut bytes));
        u32::from_le_bytes(bytes).into()
    }
}
