//! Everything that can end a run from outside the machine: a signal, the time limit, the user, a closed output.
//!
//! Whatever comes first is the reason. The machine is asked to stop; one that does not listen within a grace period,
//! because its console blocks on a reader that does not read, is left behind with the process.

use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGPIPE, SIGTERM};
use signal_hook::iterator::Signals;

use crate::board::Stopper;
use crate::ending::Ending;
use crate::terminal;

/// How long a machine has to stop when asked. It does so between two units, in far less than a millisecond.
const GRACE: Duration = Duration::from_secs(2);

/// Asks for the end of the run; every room that may want it has one.
#[derive(Clone, Debug)]
pub struct StopButton(Sender<Ending>);

impl StopButton {
    /// Ends the run for this reason, unless it is ending already.
    pub fn press(&self, reason: Ending) {
        // The other end is gone only when the process is about to be.
        let _ = self.0.send(reason);
    }

    /// Ends the run because nobody reads our output any more.
    pub fn output_is_closed(&self) {
        self.press(Ending::Signal(SIGPIPE));
    }
}

/// Waits for a reason to end the run.
#[derive(Debug)]
pub struct Supervisor {
    button: StopButton,
    pressed: Receiver<Ending>,
}

/// What the supervisor noticed, for the end of the run.
#[derive(Clone, Debug, Default)]
pub struct Reason(Arc<OnceLock<Ending>>);

impl Reason {
    /// The reason, when the run was ended from outside.
    pub fn get(&self) -> Option<Ending> {
        self.0.get().cloned()
    }
}

impl Supervisor {
    /// A supervisor that does not watch yet.
    pub fn new() -> Supervisor {
        let (sender, pressed) = mpsc::channel();
        Supervisor { button: StopButton(sender), pressed }
    }

    /// A button to hand out.
    pub fn button(&self) -> StopButton {
        self.button.clone()
    }

    /// Begins to watch: signals from now on end the run, and so does the limit, counted from now.
    ///
    /// # Errors
    /// When signals cannot be caught.
    pub fn watch(self, stopper: Stopper, limit: Option<Duration>) -> std::io::Result<Reason> {
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
        let button = self.button.clone();
        thread::spawn(move || {
            for number in signals.forever() {
                button.press(Ending::Signal(number));
            }
        });
        let reason = Reason::default();
        let noticed = reason.clone();
        let deadline = limit.map(|limit| (Instant::now() + limit, limit));
        thread::spawn(move || {
            let Some(ending) = self.wait(deadline) else { return };
            tracing::info!(?ending, "stopping the machine");
            let code = noticed.0.get_or_init(|| ending).code();
            stopper.stop();
            thread::sleep(GRACE);
            // Still here: the machine does not come back. First put the terminal right, then go.
            terminal::restore();
            if let Some(sentence) = noticed.get().and_then(|ending| ending.sentence()) {
                terminal::say(&sentence);
            }
            std::process::exit(i32::from(code));
        });
        Ok(reason)
    }

    /// The reason that is there already, for tests.
    #[cfg(test)]
    pub(crate) fn first(&self) -> Option<Ending> {
        self.pressed.try_recv().ok()
    }

    /// Waits for the first reason, for tests.
    #[cfg(test)]
    pub(crate) fn wait_for_test(&self) -> Ending {
        self.wait(None).expect("whoever waits for a reason gets one")
    }

    fn wait(&self, deadline: Option<(Instant, Duration)>) -> Option<Ending> {
        let Some((deadline, limit)) = deadline else { return self.pressed.recv().ok() };
        match self.pressed.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(ending) => Some(ending),
            Err(RecvTimeoutError::Timeout) => Some(Ending::TimeLimit(limit)),
            Err(RecvTimeoutError::Disconnected) => None,
        }
    }
}

impl Default for Supervisor {
    fn default() -> Supervisor {
        Supervisor::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_reason_is_taken() {
        let supervisor = Supervisor::new();
        supervisor.button().press(Ending::UserStop);
        supervisor.button().output_is_closed();
        assert_eq!(supervisor.wait(None), Some(Ending::UserStop));
    }

    #[test]
    fn the_time_limit_is_a_reason() {
        let limit = Duration::from_millis(10);
        let waited = Supervisor::new().wait(Some((Instant::now() + limit, limit)));
        assert_eq!(waited, Some(Ending::TimeLimit(limit)));
    }

    #[test]
    fn a_deadline_in_the_past_is_reached_at_once() {
        let limit = Duration::from_millis(1);
        let waited = Supervisor::new().wait(Some((Instant::now(), limit)));
        assert_eq!(waited, Some(Ending::TimeLimit(limit)));
    }
}
