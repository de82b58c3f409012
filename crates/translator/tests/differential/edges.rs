//! Page ends: every form with an operand in memory, laid over two pages of which one is missing or read-only.
//!
//! The truth is the processor's: the exception, its error code, CR2, the instruction pointer, and that nothing but
//! what the manual lets a fault leave behind has changed (SDM vol. 3, 4.7 and 6.15; a repeated string instruction keeps what it
//! has done, vol. 2, REP). A third of the 64-bit cases run as the supervisor.

use crate::{Case, Comparison, ROUNDS, chosen_forms, compare_in, generate, number, seed, setting};

fn cases(rounds: u64, bits: u32) -> impl Iterator<Item = Case> {
    let forms = chosen_forms(bits);
    (0..rounds).flat_map(move |round| {
        let forms = forms.clone();
        forms.into_iter().enumerate().filter_map(move |(i, code)| {
            generate::at_an_edge(seed(round + (2 << 20), i as u64), round * 4096 + i as u64, code, bits)
        })
    })
}

#[test]
fn every_operand_over_the_end_of_a_page_faults_as_on_the_processor() {
    compare_in(Comparison::new(false), cases(number("ROUNDS", ROUNDS) / 2, 64));
}

#[test]
fn every_operand_of_32_bit_code_over_the_end_of_a_page_faults_as_on_the_processor() {
    compare_in(Comparison::new(false), cases(number("ROUNDS", ROUNDS) / 3, 32));
}

#[test]
fn every_operand_over_the_end_of_a_page_faults_the_same_without_units() {
    compare_in(Comparison::new(true), cases(number("ROUNDS", ROUNDS) / 3, 32));
}

#[test]
fn most_of_these_cases_fault_and_every_kind_of_edge_is_met() {
    if setting("FORM").is_some() {
        // It is said of the whole set; a part of it may have only writes.
        return eprintln!(
            "LGUEST_DIFFERENTIAL_FORM narrows the set: whether it meets every edge is not asked"
        );
    }
    let answers = crate::native::run(&cases(1, 64).take(2000).collect::<Vec<_>>());
    let faults: Vec<_> = answers.iter().flatten().filter(|outcome| outcome.vector == 14).collect();
    assert!(faults.len() * 3 > answers.len(), "{} of {} fault", faults.len(), answers.len());
    // Error code: 4 is a missing page that is read, 6 one that is written, 7 one that is there and read-only.
    for kind in [4, 6, 7] {
        assert!(faults.iter().any(|outcome| outcome.error_code == kind), "no fault of kind {kind}");
    }
}
