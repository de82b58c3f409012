//! The ring of asynchronous calls (facts 4.3).

use lguest_host::engine::Exit;

use crate::guest::*;

/// Fills slot `n`.
fn fill(program: &mut Program, n: u32, number: u32, [b, c, d]: [u32; 3]) {
    for (place, value) in [number, b, c, d].into_iter().enumerate() {
        program.set(DATA + data::RING + 20 * n + 4 * place as u32, value);
    }
    program.db(&[0xc6, 0x05]); // mov byte [the slot's status], 0
    program.db(&(DATA + data::STATUS + n).to_le_bytes());
    program.db(&[0]);
}

#[test]
fn a_trapped_call_makes_those_in_the_ring_first_in_their_order() {
    for form in FORMS {
        let mut guest = guest(form, |program| {
            program.gate(7, 0x8e);
            fill(program, 0, call::TS, [1, 0, 0]);
            fill(program, 1, call::TS, [0, 0, 0]);
            fill(program, 2, call::SET_STACK, [0x69, TRAP_STACK, 2]);
            program.call(call::FLUSH_ASYNC, [0; 3]);
            program.db(&[0xd9, 0xee]); // fldz: the last word about TS was no
            program.note_word(DATA + data::STATUS);
            fill(program, 3, call::TS, [1, 0, 0]);
            program.call(call::FLUSH_TLB, [0; 3]);
            program.db(&[0xd9, 0xee]);
        })
        .handle(7, |program| program.show(7));
        guest.run_to_off();
        assert_eq!(guest.shown()[0], 7, "{form:?}");
        assert_eq!(guest.noted(0), 0xffff_ffff, "{form:?}: free again");
    }
}

#[test]
fn slots_out_of_turn_wait_for_the_cursor() {
    for form in FORMS {
        let mut guest = guest(form, |program| {
            fill(program, 1, call::TS, [1, 0, 0]);
            program.call(call::FLUSH_ASYNC, [0; 3]);
            program.db(&[0xd9, 0xee]); // nothing happened
            program.note_word(DATA + data::STATUS);
            fill(program, 0, call::TS, [0, 0, 0]);
            program.call(call::FLUSH_ASYNC, [0; 3]);
            program.note_word(DATA + data::STATUS);
            program.gate(7, 0x8e);
            program.db(&[0xd9, 0xee]);
        })
        .handle(7, |program| program.show(7));
        guest.run_to_off();
        assert_eq!(guest.shown()[0], 7, "{form:?}");
        assert_eq!([guest.noted(0), guest.noted(1)], [0xffff_00ff, 0xffff_ffff], "{form:?}");
    }
}

#[test]
fn the_ring_turns_over_and_a_full_one_is_emptied_at_once() {
    for form in FORMS {
        let mut guest = guest(form, |program| {
            for n in 0..64 {
                fill(program, n, call::FLUSH_TLB, [0; 3]);
            }
            program.call(call::FLUSH_ASYNC, [0; 3]);
            program.note_word(DATA + data::STATUS);
            program.note_word(DATA + data::STATUS + 60);
            fill(program, 0, call::TS, [1, 0, 0]);
            program.gate(7, 0x8e);
            program.db(&[0xd9, 0xee]);
        })
        .handle(7, |program| program.show(7));
        guest.run_to_off();
        assert_eq!([guest.noted(0), guest.noted(1)], [0xffff_ffff; 2], "{form:?}");
        assert_eq!(guest.shown()[0], 7, "{form:?}: slot 0 again");
    }
}

#[test]
fn a_notify_in_the_ring_comes_before_the_call_that_trapped() {
    for form in [Form::G26, Form::G31] {
        let mut guest = guest(form, |program| {
            fill(program, 0, call::NOTIFY, [MEMORY + 0x1000, 0, 0]);
            fill(program, 1, call::NOTIFY, [MEMORY + 0x2000, 0, 0]);
            program.call(call::NOTIFY, [MEMORY + 0x3000, 0, 0]);
        });
        for page in 1..4 {
            assert_eq!(guest.run(), Exit::Notify { value: u64::from(MEMORY) + 0x1000 * page }, "{form:?}");
        }
        guest.run_to_off();
    }
}

#[test]
fn a_call_in_the_ring_that_means_nothing_kills_like_any_other() {
    for form in FORMS {
        let mut guest = guest(form, |program| {
            fill(program, 0, 77, [0; 3]);
            program.call(call::FLUSH_ASYNC, [0; 3]);
        });
        assert_eq!(guest.death(), "there is no hypercall 77", "{form:?}");
    }
}
