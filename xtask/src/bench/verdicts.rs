//! The figures that were asked for, and whether they were met.

use super::results::Results;
use super::rows::{Class, IDLE, RESIDENT, ROWS, START};
use crate::machine::Machine::{Lguest, Native, Qemu};
use crate::table::{figure, geometric_mean};

/// One asked figure.
#[derive(Debug)]
pub struct Verdict {
    /// What was asked for.
    pub asked: String,
    /// The bound, as words.
    pub bound: String,
    /// What was measured, when it could be.
    pub measured: Option<f64>,
    /// Whether that is within the bound.
    pub met: bool,
}

impl Verdict {
    /// No more than a limit.
    pub fn at_most(asked: String, limit: f64, unit: &str, measured: Option<f64>) -> Verdict {
        let met = measured.is_some_and(|value| value <= limit);
        Verdict { asked, bound: format!("at most {limit}{unit}"), measured, met }
    }

    /// No less than a limit.
    pub fn at_least(asked: String, limit: f64, unit: &str, measured: Option<f64>) -> Verdict {
        let met = measured.is_some_and(|value| value >= limit);
        Verdict { asked, bound: format!("at least {limit}{unit}"), measured, met }
    }

    /// "met", "not met" or "not measured".
    pub fn word(&self) -> &'static str {
        match (self.measured, self.met) {
            (None, _) => "not measured",
            (Some(_), true) => "met",
            (Some(_), false) => "not met",
        }
    }

    /// The line for the table.
    pub fn line(&self) -> Vec<String> {
        let measured = self.measured.map_or("-".to_owned(), figure);
        vec![self.asked.clone(), self.bound.clone(), measured, self.word().to_owned()]
    }
}

/// Times native that a row of the kernel or of processes may take.
const TIMES_NATIVE: [(&str, f64); 8] = [
    ("syscall_ns", 1.5),
    ("read4k_ns", 3.0),
    ("fault_ns", 1.5),
    ("pipe_us", 1.5),
    ("fork_us", 2.5),
    ("exec_us", 2.5),
    ("script_ms", 2.5),
    ("compile_ms", 2.5),
];

/// All asked figures. QEMU is the installed one: the figures were asked against it.
pub fn verdicts(results: &Results) -> Vec<Verdict> {
    let compute = || ROWS.iter().filter(|row| row.class == Class::Compute).map(|row| row.name);
    // A mean over fewer rows than were asked for is another figure.
    let ratios =
        |slow, fast| compute().map(|row| results.ratio(row, slow, fast)).collect::<Option<Vec<f64>>>();
    let times = " x native";
    let mut verdicts = vec![
        Verdict::at_most(
            "compute, mean".into(),
            1.8,
            times,
            ratios(Lguest, Native).as_deref().map(geometric_mean),
        ),
        Verdict::at_least(
            "compute, mean".into(),
            4.0,
            " x as fast as QEMU",
            ratios(Qemu, Lguest).as_deref().map(geometric_mean),
        ),
        Verdict::at_least(
            "compute, worst row".into(),
            1.0,
            " x as fast as QEMU",
            ratios(Qemu, Lguest).map(|ratios| ratios.into_iter().fold(f64::INFINITY, f64::min)),
        ),
    ];
    for (row, limit) in TIMES_NATIVE {
        verdicts.push(Verdict::at_most(row.into(), limit, times, results.ratio(row, Lguest, Native)));
    }
    verdicts.push(Verdict::at_least(
        "compile_ms".into(),
        3.0,
        " x as fast as QEMU",
        results.ratio("compile_ms", Qemu, Lguest),
    ));
    verdicts.push(Verdict::at_most(START.into(), 500.0, " ms", results.median(Lguest, START)));
    verdicts.push(Verdict::at_least(
        START.into(),
        3.0,
        " x as fast as QEMU",
        results.ratio(START, Qemu, Lguest),
    ));
    let both = results.median(Lguest, "one_ms").zip(results.median(Lguest, "two_ms"));
    let gain = both.map(|(one, two)| one / two);
    verdicts.push(Verdict::at_least("two processors".into(), 1.9, " x one", gain));
    verdicts.push(Verdict::at_most(RESIDENT.into(), 40.0, " MB", results.median(Lguest, RESIDENT)));
    verdicts.push(Verdict::at_most(IDLE.into(), 1.0, " % of a core", results.median(Lguest, IDLE)));
    verdicts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::measure::Outcome;

    fn results(native: f64, lguest: f64, qemu: f64) -> Results {
        let mut results = Results::default();
        for row in &ROWS {
            for (machine, time) in [(Native, native), (Lguest, lguest), (Qemu, qemu)] {
                results.add(machine, row.name, Outcome::Figure(time, "same".into()));
            }
        }
        results
    }

    #[test]
    fn twice_native_is_too_slow_and_a_quarter_of_qemu_is_enough() {
        let verdicts = verdicts(&results(1.0, 2.0, 8.0));
        assert_eq!(verdicts[0].word(), "not met");
        assert_eq!((verdicts[1].word(), verdicts[1].measured.map(f64::round)), ("met", Some(4.0)));
        assert_eq!(verdicts[2].word(), "met");
    }

    #[test]
    fn what_was_not_measured_is_neither_met_nor_failed() {
        for verdict in verdicts(&Results::default()) {
            assert_eq!(verdict.word(), "not measured");
        }
    }
}
