//! `iretq` in generated code (cache/returns.rs) against `iretq` in Rust (events/iret.rs): a machine that has made the
//! same kind of return before must do exactly what one does that has not.

use crate::machine::*;
use lguest_translator::Exit;

/// Selectors of the machine's table: the supervisor's code and data, the user's code and data.
const KC: u64 = 0x10;
const KD: u64 = 0x18;
const UC: u64 = 0x33;
const UD: u64 = 0x2b;
/// A user's stack.
const USER_STACK: u64 = USER_DATA + 0x1_0000;
/// Where the machine's descriptor table stands.
const GDT: u64 = 0x2000;
/// A supervisor's `hlt` and a user's `ud2`.
const HALTS: u64 = CODE + 0x5000;
const TRAPS: u64 = USER_CODE + 0x5000;

fn machine() -> Machine {
    let machine = Machine::new();
    machine.load(HALTS, &assembled!("hlt"));
    machine.load(TRAPS, &assembled!("ud2"));
    machine
}

/// A machine that has returned in all three ways, so that the next such return is done in place.
fn practised() -> Machine {
    let mut machine = machine();
    for _ in 0..3 {
        for frame in [[HALTS, KC, 2, STACK, KD], [HALTS, KC, 2, STACK, 0]] {
            machine.return_through(frame);
            machine.run_to_halt();
        }
        machine.return_through([TRAPS, UC, 0x202, USER_STACK, UD]);
        assert_eq!(machine.run_to_trap().vector, 6);
    }
    machine
}

/// Returns through `frame` on a fresh and on a practised machine, after `prepare`, and compares what came of it.
fn same(frame: [u64; 5], prepare: impl Fn(&mut Machine)) -> Stop {
    let start = machine().vcpu.cpu().clone();
    let outcome = |mut machine: Machine| {
        *machine.vcpu.cpu_mut() = start.clone();
        prepare(&mut machine);
        machine.return_through(frame);
        let stop = machine.run();
        (stop, machine.vcpu.cpu().clone())
    };
    let (fresh, practised) = (outcome(machine()), outcome(practised()));
    assert_eq!(fresh, practised, "through {frame:x?}");
    fresh.0
}

#[test]
fn returns_within_the_supervisor_stay_in_generated_code() {
    for stack_segment in [KD, 0] {
        let mut machine = Machine::with(&assembled!(
            "mov ebx, 1000",
            "2: mov rax, rsp",
            "push r12",
            "push rax",
            "pushfq",
            "push 0x10",
            "lea rcx, [rip + 3f]",
            "push rcx",
            "iretq",
            "3: dec ebx",
            "jnz 2b",
            "hlt"
        ));
        machine.vcpu.set_gpr(12, stack_segment);
        let before = machine.vcpu.statistics().system;
        machine.run_to_halt();
        assert_eq!(machine.vcpu.gpr(reg::RSP), STACK);
        let asked = machine.vcpu.statistics().system - before;
        assert!(asked < 10, "{asked} of 1000 returns were Rust's");
    }
}

#[test]
fn a_return_to_a_user_stays_in_generated_code() {
    let mut machine = machine();
    let code = machine.load_anew(USER_CODE, &assembled!("2: int3", "jmp 2b"));
    machine.start_user(code);
    let traps = |machine: &mut Machine| {
        let before = machine.vcpu.statistics().system;
        for _ in 0..100 {
            assert_eq!(machine.run_to_trap().vector, 3);
        }
        machine.vcpu.statistics().system - before
    };
    traps(&mut machine);
    // `int3` and the handler's `out` are Rust's.
    assert_eq!(traps(&mut machine), 200);
}

#[test]
fn every_flag_of_the_frame_arrives_as_it_does_in_rust() {
    for bit in 0..32 {
        for flags in [1u64 << bit, 0x202 | 1 << bit] {
            same([HALTS, KC, flags, STACK, KD], |_| {});
            same([TRAPS, UC, flags, USER_STACK, UD], |_| {});
        }
    }
    same([TRAPS, UC, 0xffff_ffff_0000_0202, USER_STACK, UD], |_| {});
}

#[test]
fn selectors_that_were_not_seen_are_rusts() {
    for selector in [0, 3, 8, KD, UD, UC, KC | 3, KC | 4, UC & !3, 0x4b, 0x13, 0xfff8, 0x1_0010] {
        same([HALTS, selector, 2, STACK, KD], |_| {});
        same([HALTS, KC, 2, STACK, selector], |_| {});
        same([TRAPS, UC, 2, USER_STACK, selector], |_| {});
    }
}

#[test]
fn a_target_or_a_stack_that_is_not_canonical_or_not_aligned_is_rusts() {
    for address in [0x8000_0000_0000, 0xffff_0000_0000_0000 | HALTS, 1 << 63 | HALTS, 1 << 48 | HALTS] {
        assert!(matches!(same([address, KC, 2, STACK, KD], |_| {}), Stop::Trap(t) if t.vector == 13));
        same([address, UC, 2, USER_STACK, UD], |_| {});
        same([HALTS, KC, 2, address, KD], |_| {});
        same([TRAPS, UC, 2, address, UD], |_| {});
    }
    for ragged in 1..8 {
        same([HALTS, KC, 2, STACK - ragged, KD], |_| {});
        same([TRAPS, UC, 2, USER_STACK + ragged, UD], |_| {});
    }
}

#[test]
fn a_nested_task_is_refused_however_often_it_was_not_one() {
    let stop = same([HALTS, KC, 2, STACK, KD], |machine| machine.vcpu.cpu_mut().rflags |= 1 << 14);
    assert!(matches!(stop, Stop::Trap(t) if (t.vector, t.error_code) == (13, 0)), "{stop:?}");
}

#[test]
fn a_descriptor_that_changed_in_memory_is_seen() {
    for (frame, vector) in [([HALTS, KC, 2, STACK, KD], 12), ([TRAPS, UC, 2, USER_STACK, UD], 12)] {
        for index in [1, 4] {
            let place = GDT + (frame[index] & !7);
            let absent = |machine: &mut Machine| machine.put(place, machine.get(place) & !(1 << 47));
            // The handler's own segment must stay.
            if place != GDT + KC {
                let expected = if index == 1 { 11 } else { vector };
                assert!(matches!(same(frame, absent), Stop::Trap(t) if t.vector == expected));
            }
            // As an expand-down segment or a conforming one: other rights, the same selector.
            same(frame, |machine| machine.put(place, machine.get(place) ^ 1 << 42));
        }
    }
}

#[test]
fn another_descriptor_table_is_seen() {
    const OTHER: u64 = DATA + 0x8000;
    let mut machine = practised();
    for word in 0..10 {
        machine.put(OTHER + 8 * word, machine.get(GDT + 8 * word));
    }
    // The same selector, absent in the new table only.
    machine.put(OTHER + UD - 3, machine.get(OTHER + UD - 3) & !(1 << 47));
    machine.load(DATA, &0x4fu16.to_le_bytes());
    machine.put(DATA + 2, OTHER);
    let code = machine.load_anew(CODE, &assembled!("lgdt [rbx]", "hlt"));
    machine.vcpu.set_gpr(reg::RBX, DATA);
    machine.start(code);
    machine.run_to_halt();
    machine.return_through([TRAPS, UC, 2, USER_STACK, UD]);
    assert_eq!(machine.run_to_trap().vector, 12);
}

#[test]
fn data_segments_above_a_users_station_are_taken_away() {
    let code = assembled!("mov ds, eax", "mov es, ecx", "hlt");
    for (data, extra) in [(KD, UD), (UD, KD), (UD, UD), (0, 0), (KD, KD)] {
        same([TRAPS, UC, 2, USER_STACK, UD], |machine| {
            let code = machine.load_anew(CODE, &code);
            machine.vcpu.set_gpr(reg::RAX, data);
            machine.vcpu.set_gpr(reg::RCX, extra);
            machine.start(code);
            machine.run_to_halt();
        });
    }
}

#[test]
fn a_frame_on_two_pages_or_on_none_is_rusts() {
    for place in [0x8ff8, 0x8fe0, 0x8fd8, 0x8fd0] {
        let mut machine = practised();
        machine.return_through_at(place, [HALTS, KC, 2, STACK, KD]);
        machine.run_to_halt();
        assert_eq!(machine.vcpu.gpr(reg::RSP), STACK);
    }
    for place in [0x7fff_ffff_f000, 0x8000_0000_8000, 0xffff_ffff_ffff_fff0] {
        let outcome = |mut machine: Machine| {
            machine.vcpu.cpu_mut().rflags = 2;
            machine.return_through([HALTS, KC, 2, STACK, KD]);
            machine.vcpu.set_gpr(reg::RSP, place);
            machine.run_to_trap()
        };
        assert_eq!(outcome(machine()), outcome(practised()), "at {place:x}");
    }
}

#[test]
fn interrupts_that_a_return_lets_in_come_before_its_target() {
    for frame in [[HALTS, KC, 0x202, STACK, KD], [TRAPS, UC, 0x202, USER_STACK, UD]] {
        let mut machine = practised();
        machine.return_through(frame);
        machine.vcpu.request_interrupt_window(true);
        assert_eq!(machine.run(), Stop::Exit(Exit::InterruptWindow));
        assert_eq!(machine.vcpu.rip(), frame[0], "nothing of the target has run");
        machine.vcpu.request_interrupt_window(false);
        machine.vcpu.interrupt(0x20);
        let trapped = machine.run_to_trap();
        assert_eq!((trapped.vector, trapped.rip, trapped.cs), (0x20, frame[0], frame[1]));
    }
}
