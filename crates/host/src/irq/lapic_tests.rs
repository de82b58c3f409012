//! The local APIC against the SDM's rules.

use super::*;

const RATE: u64 = 2_000_000;

fn apic() -> Lapic {
    let mut lapic = Lapic::new(0, TscRate::from_khz(RATE));
    lapic.write_memory(SVR, 0x1ff, 0);
    lapic
}

fn x2apic(id: u32) -> Lapic {
    let mut lapic = Lapic::new(id, TscRate::from_khz(RATE));
    lapic.write_msr(MSR_APIC_BASE, APIC_BASE | BASE_ENABLED | BASE_X2APIC, 0).unwrap();
    lapic.write_msr(MSR_X2APIC + 0xf, 0x1ff, 0).unwrap();
    lapic
}

#[test]
fn the_highest_vector_is_taken_first_and_holds_its_class_back() {
    let mut lapic = apic();
    lapic.request(0x31, false);
    lapic.request(0x42, false);
    assert_eq!(lapic.acknowledge(), Some(0x42));
    lapic.request(0x4f, false);
    assert_eq!(lapic.pending(), None, "same class");
    lapic.request(0x50, false);
    assert_eq!(lapic.acknowledge(), Some(0x50));
    for expected in [0x4f, 0x31] {
        // The first end frees 0x50, the second 0x42 and then the next in line.
        lapic.write_memory(EOI, 0, 0);
        if expected == 0x4f {
            assert_eq!(lapic.pending(), None);
            lapic.write_memory(EOI, 0, 0);
        }
        assert_eq!(lapic.acknowledge(), Some(expected));
    }
}

#[test]
fn the_task_priority_holds_lower_classes_back() {
    let mut lapic = apic();
    lapic.write_memory(TPR, 0x40, 0);
    lapic.request(0x4f, false);
    assert_eq!(lapic.pending(), None);
    assert_eq!(lapic.read_memory(PPR, 0), 0x40);
    lapic.write_memory(TPR, 0x3f, 0);
    assert_eq!(lapic.pending(), Some(0x4f));
}

#[test]
fn the_end_of_a_level_interrupt_goes_back_and_that_of_an_edge_does_not() {
    let mut lapic = apic();
    for (level, effect) in [(true, Effect::EndOfInterrupt(0x59)), (false, Effect::None)] {
        lapic.request(0x59, level);
        assert_eq!(lapic.acknowledge(), Some(0x59));
        assert_eq!(lapic.write_memory(EOI, 0, 0), effect);
    }
    assert_eq!(lapic.write_memory(EOI, 0, 0), Effect::None, "nothing is in service");
}

#[test]
fn a_disabled_apic_hears_nothing_and_masks_its_table() {
    let mut lapic = apic();
    lapic.write_memory(LVT_TIMER, 0x30, 0);
    lapic.write_memory(SVR, 0xff, 0);
    lapic.request(0x40, false);
    assert_eq!(lapic.pending(), None);
    assert_eq!(lapic.read_memory(LVT_TIMER, 0), LVT_MASKED | 0x30);
    lapic.write_memory(LVT_TIMER, 0x30, 0);
    assert_eq!(lapic.read_memory(LVT_TIMER, 0), LVT_MASKED | 0x30, "and stays masked");
}

#[test]
fn reserved_vectors_are_not_accepted() {
    let mut lapic = apic();
    (0..16).for_each(|vector| lapic.request(vector, false));
    assert_eq!(lapic.pending(), None);
}

#[test]
fn the_first_processor_passes_the_8259_through_until_told_otherwise() {
    let mut lapic = Lapic::new(0, TscRate::from_khz(RATE));
    assert!(lapic.passes_external());
    assert!(!Lapic::new(1, TscRate::from_khz(RATE)).passes_external());
    lapic.write_memory(SVR, 0x1ff, 0);
    lapic.write_memory(LVT_LINT0, 0x1_0700, 0);
    assert!(!lapic.passes_external());
    lapic.write_memory(LVT_LINT0, 0x700, 0);
    assert!(lapic.passes_external());
}

#[test]
fn the_timer_interrupts_through_its_entry_unless_masked() {
    let mut lapic = apic();
    lapic.write_memory(TIMER_DIVIDE, 0xb, 0);
    lapic.write_memory(LVT_TIMER, 0x32, 0);
    lapic.write_memory(TIMER_INITIAL, 1000, 0);
    assert_eq!(lapic.deadline(), Some(2000));
    lapic.advance(1999);
    assert_eq!(lapic.pending(), None);
    lapic.advance(2000);
    assert_eq!(lapic.acknowledge(), Some(0x32));
    lapic.write_memory(LVT_TIMER, LVT_MASKED | 0x32, 0);
    lapic.write_memory(TIMER_INITIAL, 1000, 5000);
    assert_eq!(lapic.deadline(), None, "nobody would notice");
    assert_eq!(lapic.read_memory(TIMER_CURRENT, 6000), 500, "but it counts");
}

#[test]
fn a_timer_that_ran_out_behind_a_mask_is_lost() {
    let mut lapic = apic();
    lapic.write_memory(TIMER_INITIAL, 1000, 0);
    lapic.write_memory(LVT_TIMER, 0x32, 1_000_000);
    lapic.advance(2_000_000);
    assert_eq!(lapic.pending(), None);
}

#[test]
fn a_deadline_needs_deadline_mode() {
    let mut lapic = x2apic(0);
    lapic.set_tsc_deadline(77);
    assert_eq!(lapic.tsc_deadline(), 0);
    lapic.write_msr(MSR_X2APIC + 0x32, 0x4_00ec, 0).unwrap();
    lapic.set_tsc_deadline(77);
    lapic.advance(77);
    assert_eq!((lapic.pending(), lapic.tsc_deadline()), (Some(0xec), 0));
}

#[test]
fn x2apic_mode_has_its_own_addresses_and_faults() {
    let mut lapic = x2apic(0x21);
    assert_eq!(lapic.read_msr(MSR_X2APIC + 2, 0), Ok(0x21));
    assert_eq!(lapic.read_msr(MSR_X2APIC + 0xd, 0), Ok(0x2_0002));
    assert_eq!(lapic.read_msr(MSR_X2APIC + 0x31, 0), Err(Refused), "no high half");
    assert_eq!(lapic.read_msr(MSR_X2APIC + 0xe, 0), Err(Refused), "no format");
    assert_eq!(lapic.read_msr(MSR_X2APIC + 0xb, 0), Err(Refused), "the end register is write-only");
    assert_eq!(lapic.write_msr(MSR_X2APIC + 0xb, 1, 0), Err(Refused));
    assert_eq!(lapic.write_msr(MSR_X2APIC + 8, 1 << 32, 0), Err(Refused));
    lapic.write_msr(MSR_X2APIC + 0x3f, 0x77, 0).unwrap();
    assert_eq!(lapic.pending(), Some(0x77), "self IPI");
    assert!(!lapic.answers_memory());
}

#[test]
fn xapic_mode_refuses_x2apic_registers() {
    let mut lapic = apic();
    assert_eq!(lapic.read_msr(MSR_X2APIC + 2, 0), Err(Refused));
    assert_eq!(lapic.write_msr(MSR_X2APIC + 0xb, 0, 0), Err(Refused));
    assert!(lapic.answers_memory());
}

#[test]
fn the_base_register_goes_through_its_states() {
    let mut lapic = apic();
    let x2 = BASE_ENABLED | BASE_X2APIC;
    for (value, allowed) in [
        (APIC_BASE | BASE_X2APIC, false),
        (0x1000 | BASE_ENABLED, false),
        (APIC_BASE | 1, false),
        (APIC_BASE | x2, true),
        (APIC_BASE | BASE_ENABLED, false),
        (APIC_BASE, true),
        (APIC_BASE | x2, false),
        (APIC_BASE | BASE_ENABLED, true),
    ] {
        assert_eq!(lapic.write_msr(MSR_APIC_BASE, value, 0).is_ok(), allowed, "{value:#x}");
    }
    assert_eq!(lapic.read_msr(MSR_APIC_BASE, 0), Ok(APIC_BASE | BASE_ENABLED | BASE_BOOTSTRAP));
}

#[test]
fn commands_become_messages() {
    let mut lapic = apic();
    lapic.write_memory(ICR_HIGH, 3 << 24, 0);
    let sent = |effect| match effect {
        Effect::Send(message) => message,
        other => panic!("{other:?}"),
    };
    let message = sent(lapic.write_memory(ICR_LOW, 0x40fd, 0));
    assert_eq!((message.vector, message.destination), (0xfd, Destination::Physical(3)));
    assert_eq!(sent(lapic.write_memory(ICR_LOW, 0x48fd, 0)).destination, Destination::Logical(3));
    assert_eq!(sent(lapic.write_memory(ICR_LOW, 0x000c_40fd, 0)).destination, Destination::Others);
    assert_eq!(sent(lapic.write_memory(ICR_LOW, 0x4500, 0)).delivery, Delivery::Init);
    assert_eq!(lapic.write_memory(ICR_LOW, 0x8500, 0), Effect::None, "INIT de-assert");
    let mut lapic = x2apic(0);
    let effect = lapic.write_msr(MSR_X2APIC + 0x30, 7 << 32 | 0x40fd, 0).unwrap();
    assert_eq!(sent(effect).destination, Destination::Physical(7));
}

#[test]
fn destinations_name_whom_they_should() {
    let mut flat = Lapic::new(2, TscRate::from_khz(RATE));
    flat.write_memory(LDR, 0x0400_0000, 0);
    for (destination, named) in [
        (Destination::Physical(2), true),
        (Destination::Physical(1), false),
        (Destination::Physical(0xff), true),
        (Destination::Logical(0x06), true),
        (Destination::Logical(0x0b), false),
        (Destination::Logical(0xff), true),
        (Destination::Oneself, false),
        (Destination::Others, true),
    ] {
        assert_eq!(flat.is_named(destination, Some(1)), named, "{destination:?}");
    }
    assert!(flat.is_named(Destination::Oneself, Some(2)));
    flat.write_memory(DFR, 0, 0);
    flat.write_memory(LDR, 0x1200_0000, 0);
    assert!(flat.is_named(Destination::Logical(0x13), None), "cluster 1, bit 1");
    assert!(!flat.is_named(Destination::Logical(0x23), None));
    let wide = x2apic(0x21);
    assert!(wide.is_named(Destination::Logical(0x2_0003), None));
    assert!(!wide.is_named(Destination::Logical(0x1_0003), None));
}

#[test]
fn random_register_accesses_never_panic() {
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let mut lapic = apic();
    for _ in 0..300_000 {
        let (number, value, now) = (random() as u32, random() >> (random() % 64), random() >> 1);
        match random() % 7 {
            0 => drop(lapic.read_memory(number & 0xfff, now)),
            1 => drop(lapic.write_memory(number & 0xfff, value as u32, now)),
            2 => drop(lapic.read_msr(MSR_X2APIC + number % 0x110, now)),
            3 => drop(lapic.write_msr(MSR_X2APIC + number % 0x110, value, now)),
            4 => drop(lapic.write_msr(MSR_APIC_BASE, APIC_BASE | value & 0xd00, now)),
            5 => {
                lapic.advance(now);
                lapic.acknowledge();
            }
            _ => {
                lapic.request(number as u8, value & 1 != 0);
                lapic.set_tsc_deadline(value);
            }
        }
        assert!(lapic.pending().is_none_or(|vector| vector >= 16));
    }
}
