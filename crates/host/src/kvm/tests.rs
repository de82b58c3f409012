//! Guests of a few bytes on this host's KVM. Without one, every test says so and passes; [`skip`] makes the line.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};

use lguest_translator::HiddenFeatures;

use super::*;
use crate::clock::TscRate;
use crate::engine::{Exit, Vcpu};
use crate::memory::{GuestAddress, Memory};

const START: u64 = 0x1000;

/// True when there is no usable /dev/kvm here.
fn skip(test: &str) -> bool {
    let absent = std::fs::File::options().read(true).write(true).open("/dev/kvm").is_err();
    if absent {
        eprintln!("SKIPPED {test}: /dev/kvm does not open here");
    }
    absent
}

fn machine(code: &[u8]) -> (Arc<KvmMachine>, KvmVcpu, Arc<Memory>) {
    let memory = Arc::new(Memory::new(0x10000).unwrap());
    memory.write(GuestAddress(START), code).unwrap();
    let machine = KvmMachine::new(memory.clone()).unwrap();
    let mut vcpu =
        KvmVcpu::new(&machine, 0, 1, TscRate::from_khz(1_000_000), &HiddenFeatures::default()).unwrap();
    vcpu.enter_real_mode(START as u16, 0).unwrap();
    (machine, vcpu, memory)
}

#[test]
fn ports_are_answered_and_written() {
    if skip("ports_are_answered_and_written") {
        return;
    }
    // in al, 0x10; inc al; out 0x11, al
    let (_machine, mut vcpu, _) = machine(&[0xe4, 0x10, 0xfe, 0xc0, 0xe6, 0x11]);
    assert_eq!(vcpu.run(), Exit::PortIn { port: 0x10, size: 1 });
    vcpu.reply(0x41);
    assert_eq!(vcpu.run(), Exit::PortOut { port: 0x11, size: 1, value: 0x42 });
    assert_eq!(vcpu.counts().ports, 2);
}

#[test]
fn registers_outside_memory_are_answered_and_written() {
    if skip("registers_outside_memory_are_answered_and_written") {
        return;
    }
    // mov ds, 0xb000 through ax; mov eax, [0x10]; inc eax; mov [0x20], eax
    let code = [0xb8, 0x00, 0xb0, 0x8e, 0xd8, 0x66, 0xa1, 0x10, 0x00, 0x66, 0x40, 0x66, 0xa3, 0x20, 0x00];
    let (_machine, mut vcpu, _) = machine(&code);
    assert_eq!(vcpu.run(), Exit::MmioRead { address: 0xb0010, size: 4 });
    vcpu.reply(0x1234_5677);
    assert_eq!(vcpu.run(), Exit::MmioWrite { address: 0xb0020, size: 4, value: 0x1234_5678 });
}

#[test]
fn a_hypercall_by_port_carries_its_arguments_and_takes_its_answer() {
    if skip("a_hypercall_by_port_carries_its_arguments_and_takes_its_answer") {
        return;
    }
    // mov eax, 12; mov esi, 0x1111; mov ebx, 0x2222; mov ecx, 0x3333; mov dx, 0x4c48; out dx, eax; out 0x12, eax
    let mut code = Vec::new();
    for (register, value) in [(0xb8, 12u32), (0xbe, 0x1111), (0xbb, 0x2222), (0xb9, 0x3333)] {
        code.extend([0x66, register]);
        code.extend(value.to_le_bytes());
    }
    code.extend([0xba, 0x48, 0x4c, 0x66, 0xef, 0x66, 0xe7, 0x12]);
    let (_machine, mut vcpu, _) = machine(&code);
    assert_eq!(vcpu.run(), Exit::Hypercall { number: 12, arguments: [0x1111, 0x2222, 0x3333] });
    vcpu.reply(7);
    assert_eq!(vcpu.run(), Exit::PortOut { port: 0x12, size: 4, value: 7 });
}

#[test]
fn a_string_instruction_moves_every_byte() {
    if skip("a_string_instruction_moves_every_byte") {
        return;
    }
    // mov si, 0x2000; mov cx, 3; mov dx, 0x10; rep outsb; out 0x11, al
    let code = [0xbe, 0x00, 0x20, 0xb9, 3, 0, 0xba, 0x10, 0, 0xf3, 0x6e, 0xe6, 0x11];
    let (_machine, mut vcpu, memory) = machine(&code);
    memory.write(GuestAddress(0x2000), b"abc").unwrap();
    for byte in *b"abc" {
        assert_eq!(vcpu.run(), Exit::PortOut { port: 0x10, size: 1, value: byte.into() });
    }
    assert!(matches!(vcpu.run(), Exit::PortOut { port: 0x11, .. }));
}

#[test]
fn a_guest_in_an_endless_loop_is_stopped_from_another_thread() {
    if skip("a_guest_in_an_endless_loop_is_stopped_from_another_thread") {
        return;
    }
    let (machine, mut vcpu, _) = machine(&[0xeb, 0xfe]);
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        machine.stop();
    });
    let start = Instant::now();
    assert_eq!(vcpu.run(), Exit::Stopped);
    assert!(start.elapsed() < Duration::from_secs(5));
    assert_eq!(vcpu.run(), Exit::Stopped, "and stays so");
}

#[test]
fn a_guest_that_halts_with_interrupts_off_dies_with_a_sentence_and_one_that_waits_lives() {
    if skip("a_guest_that_halts_with_interrupts_off_dies_with_a_sentence_and_one_that_waits_lives") {
        return;
    }
    // cli; hlt
    let (halted, mut vcpu, _) = machine(&[0xfa, 0xf4]);
    halted.watch().unwrap();
    assert!(matches!(vcpu.run(), Exit::Dead(reason) if reason.contains("halted with interrupts off")));
    // sti; hlt: whatever comes would wake it, so it is left alone until somebody stops it.
    let (waiting, mut vcpu, _) = machine(&[0xfb, 0xf4]);
    waiting.watch().unwrap();
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(1200));
        waiting.stop();
    });
    assert_eq!(vcpu.run(), Exit::Stopped);
}

#[test]
fn every_instruction_is_counted_when_that_is_asked_for() {
    if skip("every_instruction_is_counted_when_that_is_asked_for") {
        return;
    }
    // mov cx, 1000; loop -2; out 0x11, al: the port's exit comes in place of the last one's step.
    let (_machine, mut vcpu, _) = machine(&[0xb9, 0xe8, 0x03, 0xe2, 0xfe, 0xe6, 0x11]);
    vcpu.count_instructions().unwrap();
    assert!(matches!(vcpu.run(), Exit::PortOut { port: 0x11, .. }));
    assert_eq!(vcpu.counts().steps, 1 + 1000);
}

#[test]
fn a_write_that_an_eventfd_listens_for_never_comes_back() {
    if skip("a_write_that_an_eventfd_listens_for_never_comes_back") {
        return;
    }
    // mov ax, 0xb000; mov ds, ax; mov [0x10], eax; out 0x11, al
    let code = [0xb8, 0x00, 0xb0, 0x8e, 0xd8, 0x66, 0xa3, 0x10, 0x00, 0xe6, 0x11];
    let (machine, mut vcpu, _) = machine(&code);
    let event: OwnedFd = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
    machine.ioeventfd(0xb0010, event.try_clone().unwrap()).unwrap();
    assert!(matches!(vcpu.run(), Exit::PortOut { port: 0x11, .. }));
    let mut count = [0; 8];
    rustix::io::read(&event, &mut count).unwrap();
    assert_eq!(u64::from_ne_bytes(count), 1);
}

#[test]
fn an_eventfd_can_stand_for_every_interrupt_of_the_bus() {
    if skip("an_eventfd_can_stand_for_every_interrupt_of_the_bus") {
        return;
    }
    let (machine, _vcpu, _) = machine(&[0xf4]);
    for number in 1..32 {
        let event = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
        machine.irqfd(lguest_abi::meeting::Irq::new(number).unwrap(), event).unwrap();
    }
}

#[test]
fn the_calibration_tells_a_speed_and_takes_no_second() {
    if skip("the_calibration_tells_a_speed_and_takes_no_second") {
        return;
    }
    let start = Instant::now();
    let calibrated = calibrate().unwrap();
    eprintln!("this host's KVM: {calibrated:?}, hardware: {}", calibrated.is_hardware());
    assert!(calibrated.per_second > 10_000 && start.elapsed() < Duration::from_secs(1));
}
