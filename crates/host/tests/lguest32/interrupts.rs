//! When an interrupt is delivered, and when it waits (facts 9 and 10).

use std::time::{Duration, Instant};

use crate::guest::*;

/// Counts and returns: the n-th irq's handler.
fn count(guest: Guest, irq: u32) -> Guest {
    guest.handle(32 + irq, |program| {
        program.db(&[0xff, 0x05]); // inc dword [SHOWN + 4 * irq]
        program.db(&(SHOWN + 4 * irq).to_le_bytes());
        // What `iret` gives back is the frame's flag, which the kernel stores itself.
        program.set(DATA + data::IRQ_ENABLED, 0x200);
        program.db(&[0xcf]);
    })
}

#[test]
fn the_clock_event_is_irq_0_once() {
    for form in FORMS {
        let mut guest = count(
            guest(form, |program| {
                program.gate(32, 0x8e);
                program.set(DATA + data::BLOCKED, 0);
                program.set(DATA + data::IRQ_ENABLED, 0x200);
                program.call(call::SET_CLOCKEVENT, [2_000_000, 0, 0]);
                program.wait_for(SHOWN);
                program.call(call::SET_CLOCKEVENT, [1_000_000_000, 0, 0]);
                program.call(call::SET_CLOCKEVENT, [0, 0, 0]);
                program.call(call::SET_CLOCKEVENT, [3_000_000, 0, 0]);
                program.call(call::HALT, [0, 0, 0]);
                program.note_word(SHOWN);
            }),
            0,
        );
        let began = Instant::now();
        guest.run_to_off();
        assert_eq!(guest.noted(0), 2, "{form:?}: one that was taken back does not come");
        assert!(began.elapsed() >= Duration::from_millis(4), "{form:?}");
    }
}

#[test]
fn a_halt_turns_interrupts_on_and_ends_with_the_first_that_is_not_blocked() {
    for form in FORMS {
        let mut guest = count(
            count(
                guest(form, |program| {
                    program.gate(32 + 3, 0x8e);
                    program.gate(32 + 5, 0x8e);
                    program.set(DATA + data::BLOCKED, 1 << 3);
                    program.set(DATA + data::IRQ_ENABLED, 0);
                    program.call(call::HALT, [0, 0, 0]);
                    program.note_word(SHOWN + 4 * 3);
                    program.note_word(SHOWN + 4 * 5);
                    program.note_word(DATA + data::IRQ_PENDING);
                    program.set(DATA + data::BLOCKED, 0);
                    program.call(call::SEND_INTERRUPTS, [0, 0, 0]);
                    program.note_word(SHOWN + 4 * 3);
                }),
                3,
            ),
            5,
        );
        guest.lines.raise_number(3);
        let lines = guest.lines.clone();
        let device = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            lines.raise_number(5);
        });
        guest.run_to_off();
        device.join().unwrap();
        let noted: Vec<u32> = (0..4).map(|n| guest.noted(n)).collect();
        assert_eq!(noted, [0, 1, 0, 1], "{form:?}");
    }
}

#[test]
fn an_interrupt_that_is_off_waits_and_says_so_until_it_is_delivered() {
    for form in FORMS {
        let mut guest = count(
            guest(form, |program| {
                program.gate(32 + 4, 0x8e);
                program.set(DATA + data::BLOCKED, 0);
                program.call(call::FLUSH_ASYNC, [0; 3]);
                program.note_word(SHOWN + 4 * 4);
                program.note_word(DATA + data::IRQ_PENDING);
                program.set(DATA + data::IRQ_ENABLED, 0x200);
                program.call(call::SEND_INTERRUPTS, [0; 3]);
                program.note_word(SHOWN + 4 * 4);
                program.note_word(DATA + data::IRQ_PENDING);
            }),
            4,
        );
        guest.lines.raise_number(4);
        guest.run_to_off();
        let noted: Vec<u32> = (0..4).map(|n| guest.noted(n)).collect();
        assert_eq!(noted, [0, 0x200, 1, 0], "{form:?}");
    }
}

#[test]
fn a_kernel_that_turns_interrupts_on_and_says_nothing_gets_them_soon() {
    // The plain "interrupts on" of 2.6.32 and 3.1 makes no call (facts 9.3).
    for form in FORMS {
        let mut guest = count(
            guest(form, |program| {
                program.gate(32 + 1, 0x8e);
                program.set(DATA + data::BLOCKED, 0);
                program.set(DATA + data::IRQ_ENABLED, 0x200);
                program.wait_for(SHOWN + 4);
            }),
            1,
        );
        guest.lines.raise_number(1);
        guest.run_to_off();
        assert_eq!(guest.word(SHOWN + 4), 1, "{form:?}");
    }
}

#[test]
fn the_lowest_interrupt_comes_first_and_numbers_beyond_31_are_nobodys() {
    let mut guest = guest(Form::G31, |program| {
        for irq in [2, 7] {
            program.gate(32 + irq, 0x8e);
        }
        program.set(DATA + data::BLOCKED, 0);
        program.set(DATA + data::IRQ_ENABLED, 0x200);
        program.call(call::SEND_INTERRUPTS, [0; 3]);
    })
    .handle(32 + 2, |program| program.show(2))
    .handle(32 + 7, |program| program.show(7));
    for irq in [7, 2, 40] {
        guest.lines.raise_number(irq);
    }
    guest.run_to_off();
    assert_eq!(guest.shown()[0], 2);
    assert_eq!(guest.shown()[2], 0x61, "no error code: eip, cs");
    assert_eq!(guest.shown()[7], 0, "an interrupt gate turned them off");
}

#[test]
fn nothing_is_delivered_between_the_flag_and_the_return() {
    // A loop that stands in the quiet range for a while, then leaves it.
    for form in FORMS {
        let mut guest = guest(form, |program| {
            program.gate(32 + 1, 0x8e);
            program.set(DATA + data::BLOCKED, 0);
            program.set(DATA + data::IRQ_ENABLED, 0x200);
            program.mov(ECX, 50_000_000);
            let here = CODE + program.bytes.len() as u32;
            program.store(SHOWN + 0x40, ECX);
            program.db(&[0x49, 0x75, 0xf7]); // dec ecx; jnz back to the store
            program.set(SHOWN + 0x44, here);
            program.wait_for(SHOWN + 4);
        })
        .handle(32 + 1, |program| {
            program.load(ECX, SHOWN + 0x40);
            program.note(ECX);
            program.set(SHOWN + 4, 1);
            program.off();
        });
        // The place is known only now: the word that the program stores behind its loop is the loop's start.
        let mut code = vec![0; 0x1000];
        guest.memory.read(lguest_host::memory::GuestAddress(CODE.into()), &mut code).unwrap();
        let mark = (SHOWN + 0x44).to_le_bytes();
        let at = code.windows(4).position(|four| four == mark).unwrap();
        let start = u32::from_le_bytes(code[at + 4..at + 8].try_into().unwrap());
        match form {
            Form::G26 => [(4, start), (8, start + 9)]
                .into_iter()
                .for_each(|(n, word)| guest.put(DATA + data::FORM + n, word)),
            Form::G31 => [(0, start), (4, start + 9)]
                .into_iter()
                .for_each(|(n, word)| guest.put(DATA + data::FORM + n, word)),
            Form::G41 => guest.put(DATA + data::FORM, start),
        }
        let lines = guest.lines.clone();
        let device = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(5));
            lines.raise_number(1);
        });
        guest.run_to_off();
        device.join().unwrap();
        if form != Form::G41 {
            assert!(guest.noted(0) <= 1, "{form:?}: {} rounds were left", guest.noted(0));
        }
    }
}

#[test]
fn a_machine_stops_while_it_sleeps_and_while_it_runs() {
    for halted in [true, false] {
        let mut guest = guest(Form::G31, |program| {
            if halted {
                program.call(call::HALT, [0; 3]);
            }
            program.wait_for(SHOWN);
        });
        let lines = guest.lines.clone();
        let stopper = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            lines.stop();
        });
        assert_eq!(guest.run(), lguest_host::engine::Exit::Stopped);
        stopper.join().unwrap();
    }
}

/// Runs it to its end; one that hangs is stopped after a while, and is no success.
#[track_caller]
fn run_to_off_in_time(guest: &mut Guest) {
    let (done, waits) = std::sync::mpsc::channel::<()>();
    let lines = guest.lines.clone();
    let watch = std::thread::spawn(move || {
        if waits.recv_timeout(Duration::from_secs(20)).is_err() {
            lines.stop();
        }
    });
    guest.run_to_off();
    done.send(()).unwrap();
    watch.join().unwrap();
}

#[test]
fn an_interrupt_that_came_while_it_was_masked_is_delivered_once_it_is_not() {
    // The timer runs out again inside its own handler, and the kernel says nothing when it unmasks it.
    for form in FORMS {
        let mut guest = guest(form, |program| {
            program.gate(32, 0x8e);
            program.set(DATA + data::BLOCKED, 0);
            program.set(DATA + data::IRQ_ENABLED, 0x200);
            program.call(call::SET_CLOCKEVENT, [100_000, 0, 0]);
            program.wait_for(SHOWN + 4);
        })
        .handle(32, |program| {
            program.set(DATA + data::BLOCKED, 1);
            program.db(&[0x83, 0x3d]); // cmp dword [SHOWN], 0
            program.db(&SHOWN.to_le_bytes());
            program.db(&[0, 0x74, 11]); // je over the next
            program.set(SHOWN + 4, 1);
            program.db(&[0xcf]);
            program.set(SHOWN, 1);
            program.call(call::SET_CLOCKEVENT, [100_000, 0, 0]);
            program.mov(ECX, 20_000_000);
            program.db(&[0x49, 0x75, 0xfd]); // dec ecx; jnz back
            program.set(DATA + data::BLOCKED, 0);
            program.set(DATA + data::IRQ_ENABLED, 0x200);
            program.db(&[0xcf]);
        });
        run_to_off_in_time(&mut guest);
    }
}

#[test]
fn the_clock_event_comes_though_another_interrupt_ended_the_halt() {
    for form in FORMS {
        let mut guest = guest(form, |program| {
            program.gate(32, 0x8e);
            program.gate(32 + 1, 0x8e);
            program.set(DATA + data::BLOCKED, 0);
            program.call(call::SET_CLOCKEVENT, [60_000_000, 0, 0]);
            program.call(call::HALT, [0; 3]);
            program.set(DATA + data::IRQ_ENABLED, 0x200);
            // Nothing else makes it come out.
            program.wait_for(SHOWN);
        })
        .handle(32, |program| {
            program.set(SHOWN, 1);
            program.db(&[0xcf]);
        })
        .handle(32 + 1, |program| program.db(&[0xcf]));
        let lines = guest.lines.clone();
        let device = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(5));
            lines.raise_number(1);
        });
        run_to_off_in_time(&mut guest);
        device.join().unwrap();
    }
}

#[test]
fn the_second_of_two_that_came_together_follows_though_nobody_calls() {
    for form in FORMS {
        let mut guest = guest(form, |program| {
            for irq in [2, 7] {
                program.gate(32 + irq, 0x8e);
            }
            program.set(DATA + data::BLOCKED, 0);
            program.set(DATA + data::IRQ_ENABLED, 0x200);
            // One call delivers the first; nothing comes out of the loop after it.
            program.call(call::SEND_INTERRUPTS, [0; 3]);
            program.wait_for(SHOWN + 4);
        });
        for (irq, place) in [(2, SHOWN), (7, SHOWN + 4)] {
            guest = guest.handle(32 + irq, |program| {
                program.load(ECX, DATA + data::IRQ_PENDING);
                program.store(NOTES + 4 * irq, ECX);
                program.set(place, 1);
                program.set(DATA + data::IRQ_ENABLED, 0x200);
                program.db(&[0xcf]);
            });
        }
        // Until the kernel lets them in they are masked, so nothing was said of them before.
        guest.put(DATA + data::BLOCKED, u32::MAX);
        for irq in [7, 2] {
            guest.lines.raise_number(irq);
        }
        run_to_off_in_time(&mut guest);
        assert_eq!(guest.word(SHOWN), 1, "{form:?}");
        assert_eq!([guest.noted(2), guest.noted(7)], [0x200, 0], "{form:?}: whether something waits");
    }
}
