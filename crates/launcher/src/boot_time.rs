//! `--time`: where the time of a run went, from the command to its end.
//!
//! ```text
//!   lguest: to the kernel's first instruction      24 ms      files, checks, the machine
//!           to the first process                  310 ms      the kernel's boot
//!           to the command                         95 ms      drivers, mounts, the terminal
//!           to its end                            401 ms
//!           in all                                830 ms
//! ```
//! The Guest tells of its steps on the control channel, so a step that it does not tell of is missing, not zero.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// The moments of one run.
#[derive(Debug)]
pub struct Clock {
    start: Instant,
    moments: [OnceLock<Instant>; Moment::ALL.len()],
}

/// What is noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The machine is built and runs from here.
    Kernel,
    /// The first process says that it is there.
    FirstProcess,
    /// The session is about to start.
    Command,
    /// The session ended.
    End,
}

impl Moment {
    const ALL: [Moment; 4] = [Moment::Kernel, Moment::FirstProcess, Moment::Command, Moment::End];

    fn words(self) -> &'static str {
        match self {
            Moment::Kernel => "to the kernel's first instruction",
            Moment::FirstProcess => "to the first process",
            Moment::Command => "to the command",
            Moment::End => "to its end",
        }
    }
}

impl Clock {
    /// Begins now.
    pub fn start() -> Clock {
        Clock { start: Instant::now(), moments: Default::default() }
    }

    /// Notes a moment. Of several, which a Guest may claim, the first one counts.
    pub fn note(&self, moment: Moment) {
        let _ = self.moments[moment as usize].set(Instant::now());
    }

    /// The breakdown, a line for each step.
    pub fn report(&self) -> String {
        let passed = Moment::ALL.map(|moment| {
            let at = self.moments[moment as usize].get()?;
            Some((moment.words(), at.duration_since(self.start)))
        });
        table(&passed, self.start.elapsed())
    }
}

fn table(passed: &[Option<(&'static str, Duration)>], whole: Duration) -> String {
    let line = |words: &str, time: Duration| format!("{words:36}{:>8.1} ms\n", time.as_secs_f64() * 1e3);
    let (mut text, mut before) = (String::new(), Duration::ZERO);
    for (words, at) in passed.iter().flatten() {
        // A Guest may tell of its steps in any order.
        text += &line(words, at.saturating_sub(before));
        before = *at;
    }
    text + &line("in all", whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_step_is_counted_from_the_one_before_that_was_told() {
        let at = Duration::from_millis;
        let passed = [Some(("a", at(10))), None, Some(("c", at(35))), Some(("d", at(30)))];
        let text = table(&passed, at(40));
        let times: Vec<&str> = text.lines().map(|line| line[36..].trim()).collect();
        assert_eq!(times, ["10.0 ms", "25.0 ms", "0.0 ms", "40.0 ms"]);
    }

    #[test]
    fn the_first_claim_of_a_moment_counts() {
        let clock = Clock::start();
        clock.note(Moment::End);
        let first = *clock.moments[Moment::End as usize].get().unwrap();
        clock.note(Moment::End);
        assert_eq!(*clock.moments[Moment::End as usize].get().unwrap(), first);
    }
}
