//! What a person sees while something takes longer than a moment; a pipe or a log sees none of it.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often a spinner turns.
const TURN: Duration = Duration::from_millis(120);

/// Shows steps on standard error, or nowhere.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    shown: bool,
}

impl Progress {
    /// Progress on standard error when that is a terminal and the user did not ask for quiet.
    pub fn new(quiet: bool) -> Progress {
        Progress { shown: !quiet && std::io::stderr().is_terminal() }
    }

    /// Progress that nobody sees.
    pub fn hidden() -> Progress {
        Progress { shown: false }
    }

    /// A step of unknown length. It leaves the screen when it is finished or dropped.
    pub fn step(&self, what: String) -> Step {
        let style = ProgressStyle::with_template("{spinner} {msg} {elapsed}").expect("a fixed template");
        self.start(ProgressBar::no_length().with_style(style), what)
    }

    /// A step that moves this many bytes.
    pub fn transfer(&self, what: String, bytes: u64) -> Step {
        let template = "{spinner} {msg} {wide_bar} {bytes}/{total_bytes}";
        let style = ProgressStyle::with_template(template).expect("a fixed template");
        self.start(ProgressBar::new(bytes).with_style(style), what)
    }

    fn start(&self, bar: ProgressBar, what: String) -> Step {
        if self.shown {
            bar.set_draw_target(ProgressDrawTarget::stderr());
            bar.enable_steady_tick(TURN);
        } else {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        bar.set_message(what);
        Step { bar }
    }
}

/// One thing that is going on.
#[derive(Debug)]
pub struct Step {
    bar: ProgressBar,
}

impl Step {
    /// So many bytes have been moved.
    pub fn at(&self, bytes: u64) {
        self.bar.set_position(bytes);
    }

    /// It is done.
    pub fn finish(self) {}
}

impl Drop for Step {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
