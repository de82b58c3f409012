//! Writes from outside the processors over code that they run: by a device, and by the Host's clock.

use lguest_translator::LongModeEntry;
use std::time::Duration;

use super::*;
use crate::clock::Calibration;
use crate::memory::{GuestAddress, Memory, PAGE_SIZE};

/// Where the Guest's code is.
const CODE: u64 = 0x1_0000;
/// A page apart from it.
const FAR: u64 = 0x2_0000;
/// How long a Guest may take before it counts as hanging.
const PATIENCE: Duration = Duration::from_secs(30);

/// A vCPU about to run `code`, on the first 2 MiB, mapped one to one.
fn with(code: &[u8]) -> (Arc<Memory>, Arc<Controllers>, TranslatorVcpu) {
    let memory = Arc::new(Memory::new(2 << 20).unwrap());
    for (place, entry) in [(0x1000, 0x2003u64), (0x2000, 0x3003), (0x3000, 0x83)] {
        memory.write(GuestAddress(place), &entry.to_le_bytes()).unwrap();
    }
    for (n, descriptor) in [0, 0, 0x00af_9b00_0000_ffffu64, 0x00cf_9300_0000_ffff].into_iter().enumerate() {
        memory.write(GuestAddress(0x500 + 8 * n as u64), &descriptor.to_le_bytes()).unwrap();
    }
    memory.write(GuestAddress(CODE), code).unwrap();
    let controllers = Controllers::new(1, Calibration::start().finish()).unwrap();
    let ram = Arc::new(memory.ram().unwrap());
    let mut vcpu = TranslatorVcpu::new(
        ram,
        0,
        1,
        controllers.clone(),
        ClockOrigin::now(),
        &lguest_translator::HiddenFeatures::default(),
    )
    .unwrap();
    vcpu.begin(LongModeEntry { rip: CODE, rsp: 0x8000, rsi: 0, cr3: 0x1000, gdt: 0x500, gdt_limit: 31 });
    (memory, controllers, vcpu)
}

#[test]
fn a_loop_that_a_device_writes_over_ends() {
    // 2: inc rax; jmp 2b
    let (memory, controllers, mut vcpu) = with(&[0x48, 0xff, 0xc0, 0xeb, 0xfb]);
    let ram = memory.ram().unwrap();
    let exit = std::thread::scope(|scope| {
        let running = scope.spawn(|| vcpu.run());
        while !ram.has_code(CODE) {
            std::thread::yield_now();
        }
        // out 0x80, al, over the whole loop
        memory.write(GuestAddress(CODE), &[0xe6, 0x80, 0xe6, 0x80, 0xe6]).unwrap();
        for _ in 0..PATIENCE.as_millis() {
            if running.is_finished() {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        controllers.stop();
        running.join().unwrap()
    });
    assert!(matches!(exit, Exit::PortOut { port: 0x80, .. }), "{exit:?}");
}

#[test]
fn every_way_to_write_memory_tells_the_translator() {
    // out 0x80, al; jmp back to it
    let (memory, _controllers, mut vcpu) = with(&[0xe6, 0x80, 0xeb, 0xfc]);
    let mut port = move || match vcpu.run() {
        Exit::PortOut { port, .. } => port,
        exit => panic!("{exit:?}"),
    };
    assert_eq!(port(), 0x80);
    memory.write(GuestAddress(CODE + 1), &[0x81]).unwrap();
    assert_eq!(port(), 0x81);
    memory.store_word(GuestAddress(CODE), u32::from_le_bytes([0xe6, 0x82, 0xeb, 0xfc])).unwrap();
    assert_eq!(port(), 0x82);
    memory.write(GuestAddress(FAR), &[0x83]).unwrap();
    memory.copy_to(GuestAddress(FAR), &memory, GuestAddress(CODE + 1), 1).unwrap();
    assert_eq!(port(), 0x83);
    let file = Memory::new(PAGE_SIZE).unwrap();
    file.write(GuestAddress(0), &[0x84]).unwrap();
    memory.write_from(GuestAddress(CODE + 1), file.file(), 0..1).unwrap();
    assert_eq!(port(), 0x84);
}

#[test]
fn a_clock_record_written_over_code_is_what_runs() {
    // The function is `ret 0`, whose number is the record's first half-word: 2 once the clock was turned on there.
    let record = FAR + PAGE_SIZE / 2;
    #[rustfmt::skip]
    let code = [
        0x48, 0x89, 0xe3,                               // 2: mov rbx, rsp
        0xe8, 0xf7, 0x07, 0x01, 0x00,                   // call 0x207ff
        0x48, 0x89, 0xe0,                               // mov rax, rsp
        0x48, 0x29, 0xd8,                               // sub rax, rbx
        0xe6, 0x80,                                     // out 0x80, al
        0x48, 0x89, 0xdc,                               // mov rsp, rbx
        0xb9, 0x01, 0x4d, 0x56, 0x4b,                   // mov ecx, 0x4b564d01
        0xb8, 0x01, 0x08, 0x02, 0x00,                   // mov eax, 0x20801
        0x31, 0xd2,                                     // xor edx, edx
        0x0f, 0x30,                                     // wrmsr
        0xeb, 0xdb,                                     // jmp 2b
    ];
    let (memory, _controllers, mut vcpu) = with(&code);
    memory.write(GuestAddress(record - 1), &[0xc2, 0, 0]).unwrap();
    let mut moved = || match vcpu.run() {
        Exit::PortOut { port: 0x80, value, .. } => value & 0xff,
        exit => panic!("{exit:?}"),
    };
    assert_eq!(moved(), 0);
    assert_eq!(moved(), 2);
}
