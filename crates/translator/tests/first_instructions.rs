//! The smallest Guests: a few instructions in long mode, up to `hlt`.

#![allow(unsafe_code)] // A memory file.

use lguest_translator::{Exit, LongModeEntry, Options, Ram, RamRegion, Vcpu};
use std::fs::File;
use std::os::fd::FromRawFd;
use std::sync::Arc;

const MEMORY: u64 = 4 << 20;
const CODE: u64 = 0x10_0000;

fn guest(code: &[u8]) -> Vcpu {
    // SAFETY: the name is a constant C string.
    let descriptor = unsafe { libc::memfd_create(c"test".as_ptr(), 0) };
    assert!(descriptor >= 0);
    // SAFETY: the descriptor is fresh and belongs to nobody else.
    let file = unsafe { File::from_raw_fd(descriptor) };
    file.set_len(MEMORY).unwrap();
    let ram =
        Arc::new(Ram::new(&file, MEMORY, vec![RamRegion { start: 0, length: MEMORY, offset: 0 }]).unwrap());
    // PML4 at 0x1000, PDPT at 0x2000, one 2 MiB-page directory at 0x3000: identity.
    ram.write(0x1000, &0x2003u64.to_le_bytes());
    ram.write(0x2000, &0x3003u64.to_le_bytes());
    for n in 0..2u64 {
        ram.write(0x3000 + 8 * n, &(n << 21 | 0x83).to_le_bytes());
    }
    ram.write(0x4010, &0x00af_9b00_0000_ffffu64.to_le_bytes());
    ram.write(0x4018, &0x00cf_9300_0000_ffffu64.to_le_bytes());
    ram.write(CODE, code);
    let mut vcpu = Vcpu::new(ram, Options { index: 0, count: 1, ..Options::default() }).unwrap();
    let entry =
        LongModeEntry { rip: CODE, rsp: 0x9000, rsi: 0x7777, cr3: 0x1000, gdt: 0x4000, gdt_limit: 31 };
    vcpu.enter_long_mode(entry);
    vcpu
}

#[test]
fn a_halt_is_an_exit() {
    let mut vcpu = guest(&[0xf4]);
    assert_eq!(vcpu.run(), Exit::Halt);
    assert_eq!(vcpu.rip(), CODE + 1);
}

#[test]
fn registers_and_memory_keep_what_they_are_given() {
    // mov rax, rsi; mov r9, rax; push r9; pop r10; add r10, 1; mov [0x8000], r10; mov rbx, [0x8000]; hlt
    let mut vcpu = guest(&[
        0x48, 0x89, 0xf0, 0x49, 0x89, 0xc1, 0x41, 0x51, 0x41, 0x5a, 0x49, 0x83, 0xc2, 0x01, 0x4c, 0x89, 0x14,
        0x25, 0x00, 0x80, 0x00, 0x00, 0x48, 0x8b, 0x1c, 0x25, 0x00, 0x80, 0x00, 0x00, 0xf4,
    ]);
    assert_eq!(vcpu.run(), Exit::Halt);
    assert_eq!(vcpu.gpr(3), 0x7778);
    assert_eq!(vcpu.gpr(4), 0x9000);
}

#[test]
fn a_loop_with_a_call_counts() {
    // mov ecx, 1000000; xor eax, eax; l: call f; dec ecx; jnz l; hlt; f: add rax, rcx; ret
    let mut vcpu = guest(&[
        0xb9, 0x40, 0x42, 0x0f, 0x00, 0x31, 0xc0, 0xe8, 0x05, 0x00, 0x00, 0x00, 0xff, 0xc9, 0x75, 0xf7, 0xf4,
        0x48, 0x01, 0xc8, 0xc3,
    ]);
    assert_eq!(vcpu.run(), Exit::Halt);
    assert_eq!(vcpu.gpr(0), 1_000_000 * 1_000_001 / 2);
    assert!(vcpu.statistics().entries < 100, "{:?}", vcpu.statistics());
}

#[test]
fn a_kick_ends_a_loop_that_never_ends() {
    let mut vcpu = guest(&[0xeb, 0xfe]);
    let kicker = vcpu.kicker();
    let thread = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(20));
        kicker.kick();
    });
    assert_eq!(vcpu.run(), Exit::Kicked);
    assert_eq!(vcpu.rip(), CODE);
    thread.join().unwrap();
}

#[test]
fn an_access_to_nowhere_is_a_device_exit() {
    // mov rax, [0x3ffff8 + 0x10..] is outside the mapping: use a mapped page without RAM instead.
    // mov eax, [rsi]; hlt with rsi in the second 2 MiB page's alias at 6 MiB is not mapped: expect a triple fault.
    let mut vcpu = guest(&[0x8b, 0x06, 0xf4]);
    vcpu.set_gpr(6, 0x7000_0000);
    assert_eq!(vcpu.run(), Exit::TripleFault);
}
