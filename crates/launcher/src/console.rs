//! Where the Guest's two serial ports lead: the first to standard output, the second to the control channel.
//!
//! In a session of pipes, standard output carries what the session's program wrote and nothing else. So what comes
//! before the first process says it is ready (a kernel's complaints) is kept aside, and what comes after it
//! reported its end (the kernel's farewell) is dropped:
//!
//! ```text
//!   before "ready"        between           after "status N"
//!   kept, for a           written           dropped
//!   Guest that dies
//! ```

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::control::{Report, ReportReader};
use crate::supervise::StopButton;

/// The most bytes kept aside; the end of a boot's messages is what tells why it failed.
const MOST_KEPT: usize = 64 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gate {
    Keep,
    Write,
    Drop,
}

#[derive(Debug)]
struct State {
    gate: Gate,
    kept: Vec<u8>,
    ready: bool,
    status: Option<u8>,
}

/// What both ports and the input share.
#[derive(Clone, Debug)]
pub struct Console {
    state: Arc<(Mutex<State>, Condvar)>,
}

impl Console {
    /// The console of a session. `pipes`: standard output is for the session's program alone. `reports`: the
    /// Guest's first process is ours and writes reports.
    pub fn new(pipes: bool, reports: bool) -> Console {
        let gate = if pipes && reports { Gate::Keep } else { Gate::Write };
        let state = State { gate, kept: Vec::new(), ready: !reports, status: None };
        Console { state: Arc::new((Mutex::new(state), Condvar::new())) }
    }

    /// Where the first serial port's bytes go: to `output`, as far as they should.
    pub fn screen<W: Write + Send>(&self, output: W, button: StopButton) -> Screen<W> {
        Screen { console: self.clone(), output, button, closed: false }
    }

    /// Where the second serial port's bytes go.
    pub fn reports(&self) -> Reports {
        Reports { console: self.clone(), reader: ReportReader::default() }
    }

    /// Waits until the Guest may be sent input.
    pub fn wait_until_ready(&self) {
        let mut state = self.lock();
        while !state.ready {
            state = self.state.1.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The session's exit status, when it was reported.
    pub fn status(&self) -> Option<u8> {
        self.lock().status
    }

    /// What was kept aside of a session that never got ready.
    pub fn take_kept(&self) -> Vec<u8> {
        std::mem::take(&mut self.lock().kept)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hear(&self, report: Report) {
        let mut state = self.lock();
        tracing::debug!(?report, "the Guest reports");
        match report {
            Report::Ready => {
                state.ready = true;
                if state.gate == Gate::Keep {
                    state.gate = Gate::Write;
                    state.kept = Vec::new();
                }
                self.state.1.notify_all();
            }
            Report::Status(status) if state.status.is_none() => {
                state.status = Some(status);
                state.gate = Gate::Drop;
            }
            Report::Status(_) => {}
        }
    }
}

/// The first serial port's output.
#[derive(Debug)]
pub struct Screen<W> {
    console: Console,
    output: W,
    button: StopButton,
    closed: bool,
}

impl<W: Write + Send> Write for Screen<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let gate = {
            let mut state = self.console.lock();
            if state.gate == Gate::Keep {
                keep(&mut state.kept, bytes);
            }
            state.gate
        };
        if gate == Gate::Write && !self.closed {
            // The lock is not held here: a reader that is slow must not block who asks for the status.
            if self.output.write_all(bytes).and_then(|()| self.output.flush()).is_err() {
                self.closed = true;
                self.button.output_is_closed();
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Appends, and forgets the oldest half when there is too much.
fn keep(kept: &mut Vec<u8>, bytes: &[u8]) {
    kept.extend_from_slice(&bytes[bytes.len().saturating_sub(MOST_KEPT)..]);
    if kept.len() > MOST_KEPT {
        kept.drain(..kept.len() - MOST_KEPT / 2);
    }
}

/// The second serial port's output.
#[derive(Debug)]
pub struct Reports {
    console: Console,
    reader: ReportReader,
}

impl Write for Reports {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for byte in bytes {
            if let Some(report) = self.reader.take(*byte) {
                self.console.hear(report);
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ending::Ending;
    use crate::supervise::Supervisor;

    /// A session's output, byte by byte as a serial port gives it.
    fn session(pipes: bool, reports: bool) -> (Vec<u8>, Console) {
        let console = Console::new(pipes, reports);
        let mut screen = console.screen(Vec::new(), Supervisor::new().button());
        let mut control = console.reports();
        let say = |port: &mut dyn Write, text: &[u8]| {
            text.iter().for_each(|byte| port.write_all(&[*byte]).unwrap());
        };
        say(&mut screen, b"kernel\n");
        say(&mut control, b"ready\n");
        say(&mut screen, b"42\n");
        say(&mut control, b"status 3\nstatus 4\n");
        say(&mut screen, b"farewell\n");
        (screen.output, console)
    }

    #[test]
    fn a_session_of_pipes_passes_only_its_own_output() {
        let (output, console) = session(true, true);
        assert_eq!(output, b"42\n");
        assert_eq!(console.status(), Some(3));
        assert!(console.take_kept().is_empty());
    }

    #[test]
    fn a_terminal_sees_the_boot_but_not_the_farewell() {
        assert_eq!(session(false, true).0, b"kernel\n42\n");
    }

    #[test]
    fn a_foreign_guest_is_shown_from_the_start_and_needs_no_ready() {
        let console = Console::new(true, false);
        console.wait_until_ready();
        let mut screen = console.screen(Vec::new(), Supervisor::new().button());
        screen.write_all(b"boot").unwrap();
        assert_eq!(screen.output, b"boot");
    }

    #[test]
    fn what_is_kept_is_bounded_and_is_the_newest() {
        let console = Console::new(true, true);
        let mut screen = console.screen(Vec::new(), Supervisor::new().button());
        for _ in 0..100 {
            screen.write_all(&[b'.'; 10_000]).unwrap();
        }
        screen.write_all(b"the end").unwrap();
        let kept = console.take_kept();
        assert!(kept.len() <= MOST_KEPT + 7 && kept.ends_with(b"the end"));
    }

    #[test]
    fn a_closed_output_ends_the_run_and_not_the_guest() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let supervisor = Supervisor::new();
        let mut screen = Console::new(false, false).screen(Closed, supervisor.button());
        assert_eq!(screen.write(b"hello").unwrap(), 5);
        assert_eq!(supervisor.first(), Some(Ending::Signal(signal_hook::consts::SIGPIPE)));
    }
}
