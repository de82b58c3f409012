//! What the Guest's processor does not have: every form whose feature CPUID does not advertise, and what 64-bit mode has not, is
//! #UD, at both levels, whatever the host's processor would make of it (SDM vol. 3, 6.15, "Interrupt 6").

use crate::case::Case;
use crate::guest::Guest;
use crate::{Comparison, ROUNDS, compare_in, forms, generate, number, seed};
use iced_x86::Code;

/// #UD.
const UNDEFINED: u64 = 6;

#[test]
fn what_cpuid_does_not_advertise_is_undefined() {
    let mut guest = Guest::new(false);
    let (mut asked, mut wrong, mut used) = (0, Vec::new(), 0);
    for code in Code::values().filter(|code| forms::is_absent(*code)) {
        for ring in [3, 0] {
            let Some(case) = generate::single(seed(3 << 20, code as u64), used, code, 64) else { continue };
            (asked, used) = (asked + 1, used + 2);
            match guest.run(&Case { ring, ..case.clone() }) {
                Ok(outcome) if outcome.vector == UNDEFINED && outcome.state.rip == case.state.rip => {}
                Ok(outcome) => wrong.push(format!("{code:?} at {ring}: exception {}", outcome.vector)),
                Err(words) => {
                    wrong.push(format!("{code:?} at {ring}: {words}"));
                    guest = Guest::new(false);
                }
            }
        }
    }
    println!("{asked} cases");
    assert!(asked > 300, "only {asked} forms could be written");
    assert!(wrong.is_empty(), "{} are not #UD:\n{}", wrong.len(), wrong.join("\n"));
}

/// Bytes that decode to nothing, on both sides: what one side makes of them the other must.
fn nonsense(bits: u32) -> impl Iterator<Item = Case> {
    (0..number("ROUNDS", ROUNDS) * 500).filter_map(move |n| generate::nonsense(seed(4 << 20, n), n, bits))
}

#[test]
fn what_no_decoder_knows_is_what_it_is_to_the_processor() {
    compare_in(Comparison::new(false), nonsense(64));
}

#[test]
fn what_no_decoder_knows_in_32_bit_code_is_what_it_is_to_the_processor() {
    compare_in(Comparison::new(false), nonsense(32));
}

#[test]
fn what_64_bit_mode_took_away_is_undefined() {
    // SDM vol. 2, appendix A, table A-2: the opcodes marked i64, and f64's far pointers. 0x62, 0xc4 and 0xc5 are prefixes now.
    let gone: [u8; 20] = [
        0x06, 0x07, 0x0e, 0x16, 0x17, 0x1e, 0x1f, 0x27, 0x2f, 0x37, 0x3f, 0x60, 0x61, 0x82, 0x9a, 0xce, 0xd4,
        0xd5, 0xd6, 0xea,
    ];
    let mut guest = Guest::new(false);
    for (n, opcode) in gone.into_iter().enumerate() {
        let code = vec![opcode, 0, 0, 0, 0, 0, 0, 0];
        for ring in [3, 0] {
            let pattern = generate::single(seed(5 << 20, 0), 2 * n as u64 + 1, Code::Nopd, 64)
                .expect("a nop can be written");
            let case = Case { ring, code: code.clone(), ..pattern };
            let outcome = guest.run(&case).expect("an exception is an answer");
            assert_eq!(
                (outcome.vector, outcome.state.rip),
                (UNDEFINED, case.state.rip),
                "{opcode:#x} at {ring}"
            );
        }
    }
}
