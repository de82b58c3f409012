//! Several vCPUs at the controllers: who hears whom, and how the others begin.

use std::time::Duration;

use super::*;
use crate::clock::Calibration;

const READY: Takes = Takes { interrupts: true, nmi: true };
const HANDLING: Takes = Takes { interrupts: true, nmi: false };
/// Command register bits (SDM vol. 3A, figure 11-12).
const LOWEST: u32 = 1 << 8;
const NMI: u32 = 4 << 8;
const INIT: u32 = 5 << 8;
const START_UP: u32 = 6 << 8;
const LOGICAL: u32 = 1 << 11;
const ASSERT: u32 = 1 << 14;
const SELF: u32 = 1 << 18;
const ALL: u32 = 2 << 18;
const OTHERS: u32 = 3 << 18;

fn write(controllers: &Controllers, vcpu: u32, offset: u64, value: u32) {
    assert!(controllers.write_memory(vcpu, lapic::APIC_BASE + offset, 4, value.into()));
}

/// Writes the command register: destination first.
fn send(controllers: &Controllers, from: u32, destination: u32, command: u32) {
    write(controllers, from, 0x310, destination << 24);
    write(controllers, from, 0x300, command | ASSERT);
}

/// Four vCPUs that were started, their APICs on, in the flat logical model.
fn four() -> Arc<Controllers> {
    let controllers = Controllers::new(4, Calibration::start().finish()).unwrap();
    for vcpu in 0..4 {
        if vcpu != 0 {
            assert_eq!(controllers.enter(vcpu, READY), Entry::Wait);
            send(&controllers, 0, vcpu, START_UP | 0x9a);
            assert_eq!(controllers.enter(vcpu, READY), Entry::StartUp(0x9a));
        }
        write(&controllers, vcpu, 0xf0, 0x1ff);
        write(&controllers, vcpu, 0xd0, 1 << (24 + vcpu));
    }
    controllers
}

/// The vCPUs that have something to take, each with its vector.
fn taken(controllers: &Controllers) -> Vec<(u32, u8)> {
    let found = (0..4).filter_map(|vcpu| match controllers.enter(vcpu, READY) {
        Entry::Interrupt(vector) => {
            write(controllers, vcpu, 0xb0, 0);
            Some((vcpu, vector))
        }
        _ => None,
    });
    found.collect()
}

#[test]
fn a_vector_reaches_whom_its_destination_names() {
    let controllers = four();
    for (destination, command, named) in [
        (2, 0, &[2][..]),
        (0xff, 0, &[0, 1, 2, 3]),
        (9, 0, &[]),
        (0b1010, LOGICAL, &[1, 3]),
        (0, LOGICAL, &[]),
        (0, SELF, &[1]),
        (0, ALL, &[0, 1, 2, 3]),
        (0, OTHERS, &[0, 2, 3]),
    ] {
        send(&controllers, 1, destination, command | 0x41);
        let expected: Vec<(u32, u8)> = named.iter().map(|vcpu| (*vcpu, 0x41)).collect();
        assert_eq!(taken(&controllers), expected, "{destination:#x} {command:#x}");
    }
}

#[test]
fn a_cluster_is_named_by_its_number_and_its_members_bits() {
    let controllers = four();
    for (vcpu, logical) in [(0, 0x11), (1, 0x12), (2, 0x21), (3, 0x22)] {
        write(&controllers, vcpu, 0xe0, 0x0fff_ffff);
        write(&controllers, vcpu, 0xd0, logical << 24);
    }
    for (set, named) in [(0x13, &[0, 1][..]), (0x22, &[3]), (0xf1, &[0, 2]), (0x31, &[])] {
        send(&controllers, 0, set, LOGICAL | 0x51);
        let expected: Vec<(u32, u8)> = named.iter().map(|vcpu| (*vcpu, 0x51)).collect();
        assert_eq!(taken(&controllers), expected, "{set:#x}");
    }
}

#[test]
fn the_lowest_priority_is_the_least_busy_processors_that_is_on() {
    let controllers = four();
    write(&controllers, 0, 0x80, 0x60);
    write(&controllers, 1, 0x80, 0x20);
    write(&controllers, 2, 0x80, 0x10);
    write(&controllers, 3, 0xf0, 0xff);
    send(&controllers, 0, 0b1111, LOWEST | LOGICAL | 0x71);
    assert_eq!(taken(&controllers), [(2, 0x71)]);
}

#[test]
fn a_line_goes_to_the_processor_its_entry_names() {
    let controllers = four();
    for (offset, value) in [(0, 0x10 + 4 * 2 + 1), (0x10, 3 << 24), (0, 0x10 + 4 * 2), (0x10, 0x34)] {
        assert!(controllers.write_memory(0, ioapic::IOAPIC_BASE + offset, 4, value));
    }
    controllers.line(Gsi::new(4).unwrap()).set(true);
    assert_eq!(taken(&controllers), [(3, 0x34)]);
}

#[test]
fn a_non_maskable_interrupt_is_taken_once_and_waits_for_the_end_of_another() {
    let controllers = four();
    send(&controllers, 0, 0, NMI | OTHERS);
    assert!(matches!(controllers.enter(0, READY), Entry::Run { nmi_window: false, .. }));
    assert!(matches!(controllers.enter(2, HANDLING), Entry::Run { nmi_window: true, .. }));
    assert_eq!(controllers.enter(2, READY), Entry::Nmi);
    assert!(matches!(controllers.enter(2, READY), Entry::Run { nmi_window: false, .. }));
}

#[test]
fn init_begins_anew_and_waits_for_one_start_up_message() {
    let controllers = four();
    send(&controllers, 0, 1, 0x41);
    send(&controllers, 0, 1, START_UP | 0x11);
    assert_eq!(controllers.enter(1, READY), Entry::Interrupt(0x41), "who runs hears no start-up message");
    send(&controllers, 0, 1, 0x42);
    send(&controllers, 0, 1, INIT);
    assert_eq!(controllers.enter(1, READY), Entry::Initialize);
    assert_eq!(controllers.enter(1, READY), Entry::Wait);
    assert_eq!(controllers.read_memory(1, lapic::APIC_BASE + 0xf0, 4), Some(0xff), "its APIC too");
    send(&controllers, 0, 1, START_UP | 0x12);
    assert_eq!(controllers.enter(1, READY), Entry::StartUp(0x12));
    assert!(matches!(controllers.enter(1, READY), Entry::Run { window: false, .. }));
}

#[test]
fn both_messages_at_once_are_taken_in_their_order() {
    let controllers = four();
    send(&controllers, 0, 3, INIT);
    send(&controllers, 0, 3, START_UP | 0x12);
    assert_eq!(controllers.enter(3, READY), Entry::Initialize);
    assert_eq!(controllers.enter(3, READY), Entry::StartUp(0x12));
}

#[test]
fn a_processor_asleep_wakes_for_a_neighbour() {
    let controllers = four();
    let rate = controllers.rate();
    for (vcpu, command, entry) in [
        (1, 0x41, Entry::Interrupt(0x41)),
        (2, NMI, Entry::Nmi),
        (3, INIT, Entry::Initialize),
        (3, START_UP | 7, Entry::StartUp(7)),
    ] {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(5));
                send(&controllers, 0, vcpu, command);
            });
            // With interrupts off it is only woken by the others.
            controllers.seat(vcpu).sleep(rate, command == 0x41);
        });
        assert_eq!(controllers.enter(vcpu, READY), entry);
        write(&controllers, vcpu, 0xb0, 0);
    }
}

#[test]
fn the_last_to_halt_with_interrupts_off_learns_that_nobody_is_left() {
    let controllers = four();
    assert!((0..3).all(|vcpu| !controllers.nobody_is_left(vcpu)));
    assert!(controllers.nobody_is_left(3));
    send(&controllers, 3, 2, NMI);
    assert!(!controllers.nobody_is_left(3), "one of them has something to do");
}

#[test]
fn those_that_were_never_started_wake_nobody() {
    let controllers = Controllers::new(8, Calibration::start().finish()).unwrap();
    assert!(controllers.nobody_is_left(0));
}
