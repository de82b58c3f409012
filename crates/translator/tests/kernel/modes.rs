//! Every way a processor changes its mode: from power-on to long mode as a second processor of a Linux does it, back
//! down, and through the modes that old systems stay in (SDM vol. 3, chapters 10.9 and 21).

use crate::machine::*;
use lguest_translator::{Exit, Options, Vcpu};
use std::sync::Arc;

/// A processor that has just been reset, and memory with the tables that [`Machine`] would have made.
struct Bare {
    ram: Arc<lguest_translator::Ram>,
    vcpu: Vcpu,
}

/// Page that a start-up message names.
const START: u64 = 0x8000;
/// Descriptors that all tests here share: 0x08 code of 32 bits, 0x10 data of 32 bits, 0x18 code of 64 bits, 0x20 code of
/// 16 bits, 0x28 data of 16 bits, 0x30 code of 32 bits at level 3, 0x38 data at level 3, 0x40 a task-state segment,
/// 0x50 data of 32 bits with a base and a limit.
const DESCRIPTORS: [u64; 11] = [
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
const TABLE: u64 = 0x3000;
/// Its register, as `lgdt` reads it.
const TABLE_REGISTER: u64 = 0x3100;
/// An interrupt table's register, and the table.
const GATES_REGISTER: u64 = 0x3110;
const GATES: u64 = 0x4000;

impl Bare {
    /// About to run `code` in real mode at the start of page 8.
    fn with(code: &[u8]) -> Bare {
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

    fn load(&self, at: u64, bytes: &[u8]) {
        assert!(self.ram.write(at, bytes));
    }

    fn put(&self, at: u64, value: u64) {
        self.load(at, &value.to_le_bytes());
    }

    #[track_caller]
    fn run_to_halt(&mut self) {
        let exit = self.vcpu.run();
        assert_eq!(exit, Exit::Halt, "at {:#x}", self.vcpu.rip());
    }

    fn low(&self, number: usize) -> u64 {
        self.vcpu.gpr(number)
    }
}

/// Identity tables of long mode at 0x10000: the first GiB in pages of 2 MiB.
fn long_tables(bare: &Bare) {
    bare.put(0x1_0000, 0x1_1000 | P | W);
    bare.put(0x1_1000, 0x1_2000 | P | W);
    for n in 0..512 {
        bare.put(0x1_2000 + 8 * n, n << 21 | P | W | PS);
    }
}

#[test]
fn a_second_processor_of_a_linux_gets_from_real_mode_to_long_mode() {
    // The steps of arch/x86/realmode/rm/trampoline_64.S.
    let mut bare = Bare::with(&assembled!(
        ".code16",
        "cli",
        "wbinvd",
        "mov ax, cs",
        "mov ds, ax",
        "mov es, ax",
        "mov ss, ax",
        "mov sp, 0xf00",
        "call 2f",
        "jmp 3f",
        "2: pushf",
        "pop ax",
        "ret",
        "3: mov ebx, dword ptr [0xe00]",
        ".byte 0x66, 0x0f, 0x01, 0x1e, 0x10, 0x0e", // lidtl 0xe10
        ".byte 0x66, 0x0f, 0x01, 0x16, 0x18, 0x0e", // lgdtl 0xe18
        "mov ax, 1",
        "lmsw ax",
        ".byte 0x66, 0xea, 0x00, 0x81, 0, 0, 0x08, 0", // ljmpl 0x08:0x8100
        ".org 0x100",
        ".code32",
        "mov edx, 0x10",
        "mov ss, edx",
        "mov ds, edx",
        "mov es, edx",
        "mov fs, edx",
        "mov gs, edx",
        "mov esp, 0xa000",
        "push 0x1234",
        "pop esi",
        "mov eax, 0x20", // PAE
        "mov cr4, eax",
        "mov eax, 0x10000",
        "mov cr3, eax",
        "mov ecx, 0xc0000080",
        "mov eax, 0x100",
        "xor edx, edx",
        "wrmsr",
        "mov eax, 0x80000001",
        "mov cr0, eax",
        ".byte 0xea, 0x00, 0x82, 0, 0, 0x18, 0", // ljmpl 0x18:0x8200
        ".org 0x200",
        ".code64",
        "mov rdi, 0x1122334455667788",
        "mov rax, cr0",
        "mov r8, cs",
        "hlt"
    ));
    bare.load(START + 0xe00, &0xdead_beefu32.to_le_bytes());
    bare.load(START + 0xe10, &[0; 6]);
    bare.put(START + 0xe18, TABLE << 16 | 0x57);
    long_tables(&bare);
    bare.run_to_halt();
    assert_eq!(bare.low(reg::RBX), 0xdead_beef);
    assert_eq!(bare.low(reg::RSI), 0x1234);
    assert_eq!(bare.low(reg::RDI), 0x1122_3344_5566_7788);
    assert_eq!(bare.low(reg::R8), 0x18);
    assert_eq!(bare.low(reg::RAX), 0x8000_0011);
    assert_eq!(bare.vcpu.cpu().efer & 0x500, 0x500, "LME and LMA");
}

#[test]
fn power_on_begins_sixteen_bytes_below_4_gib() {
    let ram = Arc::new(ram(RAM_BYTES));
    let mut vcpu = Vcpu::new(ram, Options::default()).expect("a vCPU can be made");
    let exit = vcpu.run();
    let expected = "the Guest jumped to 0xfff0, guest-physical 0xfffffff0, where there is no memory";
    assert!(matches!(exit, Exit::Dead(death) if death.to_string() == expected), "{exit:?}");
}
