//! The controllers together: a line's way to a vCPU, waking, and a Guest that pokes everywhere.

use std::sync::atomic::AtomicU32;
use std::time::{Duration, Instant};

use super::*;
use crate::clock::Calibration;

/// What a vCPU takes with interrupts on, and with interrupts off.
const READY: Takes = Takes { interrupts: true, nmi: true };
const BUSY: Takes = Takes { interrupts: false, nmi: true };

fn rate() -> TscRate {
    Calibration::start().finish()
}

/// One vCPU with its APIC on, serial port 1 on vector 0x34.
fn machine() -> Arc<Controllers> {
    let controllers = Controllers::new(1, rate()).unwrap();
    assert!(controllers.write_memory(0, lapic::APIC_BASE + 0xf0, 4, 0x1ff));
    redirect(&controllers, 4, 0x34);
    controllers
}

fn redirect(controllers: &Controllers, pin: u32, low: u32) {
    for (offset, value) in [(0, 0x11 + pin * 2), (0x10, 0), (0, 0x10 + pin * 2), (0x10, low)] {
        assert!(controllers.write_memory(0, ioapic::IOAPIC_BASE + offset, 4, value.into()));
    }
}

#[test]
fn an_edge_arrives_once_and_waits_for_an_open_window() {
    let controllers = machine();
    let line = controllers.line(Gsi::new(4).unwrap());
    line.set(true);
    line.set(true);
    assert!(matches!(controllers.enter(0, BUSY), Entry::Run { window: true, .. }));
    assert_eq!(controllers.enter(0, READY), Entry::Interrupt(0x34));
    assert!(matches!(controllers.enter(0, READY), Entry::Run { window: false, .. }));
}

#[test]
fn a_level_comes_again_until_its_device_is_content() {
    let controllers = machine();
    redirect(&controllers, 9, 0x8059);
    let line = controllers.line(Gsi::new(9).unwrap());
    line.set(true);
    for _ in 0..3 {
        assert_eq!(controllers.enter(0, READY), Entry::Interrupt(0x59));
        controllers.write_memory(0, lapic::APIC_BASE + 0xb0, 4, 0);
    }
    line.set(false);
    assert_eq!(controllers.enter(0, READY), Entry::Interrupt(0x59), "this one was on its way");
    controllers.write_memory(0, lapic::APIC_BASE + 0xb0, 4, 0);
    assert!(matches!(controllers.enter(0, READY), Entry::Run { window: false, .. }));
}

#[test]
fn the_8259_reaches_a_processor_whose_apic_is_off() {
    let controllers = Controllers::new(1, rate()).unwrap();
    for (port, value) in [(0x20, 0x11), (0x21, 0x30), (0x21, 4), (0x21, 1), (0x21, 0)] {
        assert!(controllers.write_port(port, 1, value));
    }
    controllers.line(Gsi::new(4).unwrap()).set(true);
    assert_eq!(controllers.enter(0, READY), Entry::Interrupt(0x34));
    assert!(matches!(controllers.enter(0, READY), Entry::Run { .. }));
}

#[test]
fn a_vcpu_in_the_guest_is_kicked_once_and_one_outside_is_not() {
    let controllers = machine();
    let kicks = Arc::new(AtomicU32::new(0));
    let counter = kicks.clone();
    controllers.seat(0).set_kick(Box::new(move || {
        counter.fetch_add(1, Ordering::SeqCst);
    }));
    let line = controllers.line(Gsi::new(4).unwrap());
    let pulse = || {
        line.set(false);
        line.set(true);
    };
    pulse();
    assert_eq!(kicks.load(Ordering::SeqCst), 0, "outside, it looks by itself");
    assert_eq!(controllers.enter(0, READY), Entry::Interrupt(0x34));
    controllers.write_memory(0, lapic::APIC_BASE + 0xb0, 4, 0);
    assert!(matches!(controllers.enter(0, READY), Entry::Run { .. }));
    pulse();
    pulse();
    assert_eq!(kicks.load(Ordering::SeqCst), 1, "in the Guest, once is enough");
}

#[test]
fn a_timer_kicks_a_busy_guest_at_its_time() {
    let controllers = machine();
    let (sender, kicked) = std::sync::mpsc::channel();
    controllers.seat(0).set_kick(Box::new(move || sender.send(Instant::now()).unwrap_or(())));
    let start = Instant::now();
    // 5 ms, counted in nanoseconds one by one.
    for (offset, value) in [(0x3e0, 0xb), (0x320, 0x32), (0x380, 5_000_000)] {
        controllers.write_memory(0, lapic::APIC_BASE + offset, 4, value);
    }
    assert!(matches!(controllers.enter(0, READY), Entry::Run { window: false, .. }));
    let when = kicked.recv_timeout(Duration::from_secs(10)).unwrap();
    assert!(when - start >= Duration::from_micros(4900), "{:?}", when - start);
    controllers.seat(0).leave();
    assert_eq!(controllers.enter(0, READY), Entry::Interrupt(0x32));
}

#[test]
fn a_deadline_that_moves_away_does_not_kick() {
    let controllers = machine();
    let kicks = Arc::new(AtomicU32::new(0));
    let counter = kicks.clone();
    controllers.seat(0).set_kick(Box::new(move || {
        counter.fetch_add(1, Ordering::SeqCst);
    }));
    controllers.write_memory(0, lapic::APIC_BASE + 0x320, 4, 0x4_0032);
    let rate = controllers.rate();
    for milliseconds in [2, 60_000] {
        let deadline = host_tsc() + rate.ticks(milliseconds * 1_000_000);
        controllers.write_msr(0, MSR_TSC_DEADLINE, deadline, 0).unwrap();
        controllers.enter(0, READY);
    }
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(kicks.load(Ordering::SeqCst), 0);
}

#[test]
fn a_deadline_in_the_past_is_due_at_once_whatever_the_offset() {
    let controllers = machine();
    controllers.write_memory(0, lapic::APIC_BASE + 0x320, 4, 0x4_0032);
    controllers.write_msr(0, MSR_TSC_DEADLINE, 1, 1 << 40).unwrap();
    assert_eq!(controllers.enter(0, READY), Entry::Interrupt(0x32));
    assert_eq!(controllers.read_msr(0, MSR_TSC_DEADLINE, 1 << 40), Ok(0));
}

#[test]
fn a_sleeping_vcpu_wakes_for_a_line_for_its_timer_and_for_the_end() {
    let controllers = machine();
    let rate = controllers.rate();
    let sleep = |wake: Box<dyn FnOnce() + Send>| {
        let start = Instant::now();
        let waker = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(5));
            wake();
        });
        controllers.seat(0).sleep(rate, true);
        waker.join().unwrap();
        start.elapsed()
    };
    let line = controllers.line(Gsi::new(4).unwrap());
    assert!(sleep(Box::new(move || line.set(true))) >= Duration::from_millis(4));
    assert_eq!(controllers.enter(0, READY), Entry::Interrupt(0x34));
    controllers.write_memory(0, lapic::APIC_BASE + 0xb0, 4, 0);
    for (offset, value) in [(0x3e0, 0xb), (0x320, 0x32), (0x380, 8_000_000)] {
        controllers.write_memory(0, lapic::APIC_BASE + offset, 4, value);
    }
    let slept = sleep(Box::new(|| ()));
    assert!(slept >= Duration::from_millis(7), "{slept:?}");
    assert_eq!(controllers.enter(0, READY), Entry::Interrupt(0x32));
    controllers.write_memory(0, lapic::APIC_BASE + 0xb0, 4, 0);
    let stopper = controllers.clone();
    sleep(Box::new(move || stopper.stop()));
    assert_eq!(controllers.enter(0, READY), Entry::Stopped);
}

#[test]
fn the_legacy_timer_interrupts_on_pin_2() {
    let controllers = machine();
    redirect(&controllers, 2, 0x30);
    for (port, value) in [(0x43, 0x30), (0x40, 0xff), (0x40, 0x00)] {
        controllers.write_port(port, 1, value);
    }
    controllers.seat(0).sleep(controllers.rate(), true);
    assert_eq!(controllers.enter(0, READY), Entry::Interrupt(0x30));
}

#[test]
fn an_ipi_to_oneself_arrives_and_one_to_nobody_is_lost() {
    let controllers = machine();
    controllers.write_memory(0, lapic::APIC_BASE + 0x310, 4, 9 << 24);
    controllers.write_memory(0, lapic::APIC_BASE + 0x300, 4, 0x40fd);
    assert!(matches!(controllers.enter(0, READY), Entry::Run { window: false, .. }));
    controllers.write_memory(0, lapic::APIC_BASE + 0x300, 4, 0x4_40fd);
    assert_eq!(controllers.enter(0, READY), Entry::Interrupt(0xfd));
}

#[test]
fn other_ports_addresses_and_registers_are_not_ours() {
    let controllers = machine();
    assert_eq!(controllers.read_port(0x3f8, 1), None);
    assert!(!controllers.write_port(0x3f8, 1, 0));
    assert_eq!(controllers.read_memory(0, 0xfed0_0000, 4), None);
    assert!(!controllers.write_memory(0, 0xfec0_1000, 4, 0));
    assert_eq!(controllers.read_msr(0, 0x10, 0), Err(Refused));
}

#[test]
fn a_guest_that_pokes_everywhere_breaks_nothing() {
    let controllers = Controllers::new(2, rate()).unwrap();
    let mut seed = 0x1234_5678_9abc_def1u64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let ports = [0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1, 0x40, 0x41, 0x42, 0x43, 0x61, 0xffff];
    for _ in 0..100_000 {
        let (value, size) = (random(), [1, 2, 4, 8][(random() % 4) as usize]);
        let (port, vcpu) = (ports[(random() % 12) as usize], (random() % 2) as u32);
        let page = [lapic::APIC_BASE, ioapic::IOAPIC_BASE][(random() % 2) as usize];
        let address = page + random() % 0x1000;
        match random() % 8 {
            0 => drop(controllers.read_port(port, size.min(4))),
            1 => drop(controllers.write_port(port, size.min(4), value as u32)),
            2 => drop(controllers.read_memory(vcpu, address, size)),
            3 => drop(controllers.write_memory(vcpu, address, size, value)),
            4 => drop(controllers.write_msr(vcpu, 0x800 + value as u32 % 0x100, random(), value)),
            5 => drop(controllers.write_msr(vcpu, MSR_TSC_DEADLINE, value, random())),
            6 => Gsi::new(value as u8 % 32).into_iter().for_each(|gsi| {
                controllers.line(gsi).set(value & 0x100 != 0);
            }),
            _ => drop(controllers.enter(vcpu, Takes { interrupts: value & 1 != 0, nmi: value & 2 != 0 })),
        }
    }
    controllers.stop();
    assert_eq!(controllers.enter(1, READY), Entry::Stopped);
}
