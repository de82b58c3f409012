//! The figures of all rounds, by machine and row.

use super::measure::{FAILED, Outcome};
use crate::machine::Machine;
use crate::table::{figure, median};
use std::collections::BTreeMap;

/// What was measured, and what could not be.
#[derive(Default)]
pub struct Results {
    figures: BTreeMap<(Machine, &'static str), Vec<f64>>,
    missing: BTreeMap<(Machine, &'static str), (&'static str, String)>,
    /// The first result of each row's work, and who had it.
    checks: BTreeMap<&'static str, (Machine, String)>,
}

impl Results {
    /// Keeps one row of one round. A fast wrong answer is no figure: every machine must have computed the same.
    pub fn add(&mut self, machine: Machine, row: &'static str, outcome: Outcome) {
        match outcome {
            Outcome::Figure(time, check) => {
                let (first, wanted) = self.checks.entry(row).or_insert_with(|| (machine, check.clone()));
                if *wanted != check {
                    let why = format!("its result is {check}, on {} it was {wanted}", first.key());
                    self.missing.insert((machine, row), ("wrong result", why));
                    return;
                }
                self.figure(machine, row, time);
            }
            Outcome::None(kind, why) => {
                self.missing.insert((machine, row), (kind, why));
            }
        }
    }

    /// Keeps a figure that has no result to compare.
    pub fn figure(&mut self, machine: Machine, row: &'static str, value: f64) {
        self.figures.entry((machine, row)).or_default().push(value);
    }

    /// Keeps that a figure of the Host's could not be had.
    pub fn failed(&mut self, machine: Machine, row: &'static str, why: String) {
        self.missing.insert((machine, row), (FAILED, why));
    }

    /// The median of the rounds; None when any of them went wrong.
    pub fn median(&self, machine: Machine, row: &'static str) -> Option<f64> {
        let whole = !self.missing.contains_key(&(machine, row));
        self.all(machine, row).filter(|figures| whole && !figures.is_empty()).map(median)
    }

    /// Every round's figure.
    pub fn all(&self, machine: Machine, row: &'static str) -> Option<&[f64]> {
        self.figures.get(&(machine, row)).map(Vec::as_slice)
    }

    /// The figure, or the words that say why there is none, or nothing where none was asked for.
    pub fn cell(&self, machine: Machine, row: &'static str) -> String {
        match (self.missing.get(&(machine, row)), self.median(machine, row)) {
            (Some((kind, _)), _) => (*kind).to_owned(),
            (None, Some(value)) => figure(value),
            (None, None) => String::new(),
        }
    }

    /// How many times this row takes on one machine what it takes on the other.
    pub fn ratio(&self, row: &'static str, machine: Machine, other: Machine) -> Option<f64> {
        Some(self.median(machine, row)? / self.median(other, row)?)
    }

    /// What went wrong: machine, row, kind and words.
    pub fn missing(&self) -> impl Iterator<Item = (Machine, &'static str, &'static str, &str)> {
        self.missing.iter().map(|((machine, row), (kind, why))| (*machine, *row, *kind, why.as_str()))
    }
}

#[test]
fn a_wrong_result_is_no_figure() {
    let mut results = Results::default();
    results.add(Machine::Native, "hash_ns", Outcome::Figure(1.0, "a".into()));
    results.add(Machine::Lguest, "hash_ns", Outcome::Figure(1.0, "b".into()));
    assert_eq!(results.median(Machine::Native, "hash_ns"), Some(1.0));
    assert_eq!(results.median(Machine::Lguest, "hash_ns"), None);
    assert_eq!(results.cell(Machine::Lguest, "hash_ns"), "wrong result");
}

#[test]
fn one_round_that_did_not_finish_spoils_the_median() {
    let mut results = Results::default();
    results.add(Machine::Qemu, "sort_ms", Outcome::Figure(1.0, "a".into()));
    results.add(Machine::Qemu, "sort_ms", Outcome::None(super::measure::LATE, String::new()));
    assert_eq!(results.median(Machine::Qemu, "sort_ms"), None);
}
