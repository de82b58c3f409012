//! Where the Guest's two serial ports lead: the first to standard output, the second to the control channel.
//!
//! In a session of pipes, standard output carries what the session's program wrote and nothing else. So what comes
//! before the session's first mark (a kernel's complaints) is kept aside, and what comes after its last
//! one (the kernel's farewell) is dropped:
//!
//! ```text
//!   before the first mark    between    after the last mark
//!   kept, for a Guest        written    dropped
//!   that dies
//! ```
//!
//! A person at a terminal sees everything up to the last mark. On virtio's console the session has a stream of its own, and the
//! kernel goes on to write to the first serial port: [`KernelLog`].

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::boot_time::{Clock, Moment};
use crate::control::{Report, ReportReader};
use crate::marker::{MarkFinder, MarkWord};
use crate::supervise::StopButton;

/// The most bytes kept aside; the end of a boot's messages is what tells why it failed.
const MOST_KEPT: usize = 64 << 10;

/// What the console has to tell apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stream {
    /// A Guest that we know nothing of: everything is written.
    Whole,
    /// A session of ours at a terminal: written up to its end.
    UntilEnd(MarkWord),
    /// A session of ours on pipes: only the session itself is written.
    Session(MarkWord),
}

/// How far the console's stream has come.
#[derive(Debug)]
enum Stage {
    /// Before the session; the word finds its end later.
    Before(MarkFinder, MarkWord),
    Session(MarkFinder),
    After,
    Whole,
}

#[derive(Debug, Default)]
struct State {
    kept: Vec<u8>,
    /// The session's first mark came, or anything at all of a Guest that has none.
    begun: bool,
    ready: bool,
    ended: bool,
    status: Option<u8>,
    agent: Option<bool>,
    clock: Option<Arc<Clock>>,
    /// The last byte shown was not the end of a line.
    line_open: bool,
}

/// What both ports and the input share.
#[derive(Clone, Debug, Default)]
pub struct Console {
    shared: Arc<(Mutex<State>, Condvar)>,
}

impl Console {
    /// A console. `reports`: the Guest's first process is ours and says when it is ready for input.
    pub fn new(reports: bool) -> Console {
        let console = Console::default();
        console.lock().ready = !reports;
        console
    }

    /// From now on the Guest's reports are noted here.
    pub fn tell(&self, clock: Arc<Clock>) {
        self.lock().clock = Some(clock);
    }

    /// Where the first serial port's bytes go: to `output`, as far as they should.
    pub fn screen<W: Write + Send>(&self, stream: Stream, output: W, button: StopButton) -> Screen<W> {
        let stage = match stream {
            Stream::Whole => Stage::Whole,
            Stream::UntilEnd(word) => Stage::Session(word.end()),
            Stream::Session(word) => Stage::Before(word.begin(), word),
        };
        Screen { console: self.clone(), stage, output, button, closed: false }
    }

    /// Where the first serial port's bytes go when the session is on another console.
    pub fn kernel_log<W: Write + Send>(&self, stream: Stream, output: W) -> KernelLog<W> {
        KernelLog { console: self.clone(), stream, output }
    }

    /// Where the second serial port's bytes go.
    pub fn reports(&self) -> Reports {
        Reports { console: self.clone(), reader: ReportReader::default() }
    }

    /// Waits until the Guest may be sent input.
    pub fn wait_until_ready(&self) {
        let mut state = self.lock();
        while !state.ready {
            state = self.shared.1.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// True when the cursor of a terminal does not stand at the start of a line.
    pub fn line_is_open(&self) -> bool {
        self.lock().line_open
    }

    /// Waits until the session's output came to its end.
    pub fn wait_until_ended(&self) {
        let mut state = self.lock();
        while !state.ended {
            state = self.shared.1.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits until the Guest's agent listens; false when it cannot.
    pub fn wait_for_agent(&self) -> bool {
        let mut state = self.lock();
        loop {
            if let Some(listens) = state.agent {
                return listens;
            }
            state = self.shared.1.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The session's exit status, when it was reported.
    pub fn status(&self) -> Option<u8> {
        self.lock().status
    }

    /// What was kept aside of a session that never began.
    pub fn take_kept(&self) -> Vec<u8> {
        std::mem::take(&mut self.lock().kept)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hear(&self, report: Report) {
        tracing::debug!(?report, "the Guest reports");
        let mut state = self.lock();
        if let Some(clock) = &state.clock {
            match report {
                Report::Begun => clock.note(Moment::FirstProcess),
                Report::Ready => clock.note(Moment::Command),
                Report::Status(_) => clock.note(Moment::End),
                Report::Agent(_) => {}
            }
        }
        match report {
            Report::Begun => {}
            Report::Ready => {
                state.ready = true;
                self.shared.1.notify_all();
            }
            Report::Agent(listens) => {
                state.agent = state.agent.or(Some(listens));
                self.shared.1.notify_all();
            }
            // The first report counts.
            Report::Status(status) => state.status = state.status.or(Some(status)),
        }
    }
}

/// The first serial port's output.
#[derive(Debug)]
pub struct Screen<W: Write> {
    console: Console,
    stage: Stage,
    output: W,
    button: StopButton,
    closed: bool,
}

impl<W: Write> Screen<W> {
    fn pass(&mut self, mut bytes: &[u8]) {
        loop {
            let mut passed = Vec::new();
            match &mut self.stage {
                Stage::Whole => return self.show(bytes),
                Stage::After => return,
                Stage::Before(begin, word) => {
                    let after = begin.take(bytes, &mut passed);
                    let mut state = self.console.lock();
                    let Some(after) = after else { return keep(&mut state.kept, &passed) };
                    state.kept = Vec::new();
                    state.begun = true;
                    self.stage = Stage::Session(word.end());
                    bytes = after;
                }
                Stage::Session(end) => {
                    let ended = end.take(bytes, &mut passed).is_some();
                    self.show(&passed);
                    if ended {
                        self.stage = Stage::After;
                        self.console.lock().ended = true;
                        self.console.shared.1.notify_all();
                    }
                    return;
                }
            }
        }
    }

    fn show(&mut self, bytes: &[u8]) {
        if self.closed || bytes.is_empty() {
            return;
        }
        if self.output.write_all(bytes).and_then(|()| self.output.flush()).is_err() {
            self.closed = true;
            self.button.output_is_closed();
        }
        let mut state = self.console.lock();
        state.line_open = bytes.last() != Some(&b'\n');
        if !std::mem::replace(&mut state.begun, true) {
            state.kept = Vec::new();
        }
    }
}

/// What the kernel writes to the first serial port while the session is elsewhere. A person sees it; among what a program
/// writes it stands only once that has begun, and then it is the kernel's death; a Guest that we know nothing of has it on
/// its console too, or will never speak there, and then it is its last words.
#[derive(Debug)]
pub struct KernelLog<W: Write> {
    console: Console,
    stream: Stream,
    output: W,
}

impl<W: Write> Write for KernelLog<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.console.lock();
        match (&self.stream, state.begun) {
            _ if state.ended => {}
            (Stream::Whole, true) => {}
            (Stream::Whole | Stream::Session(_), false) => keep(&mut state.kept, bytes),
            (Stream::Session(_), true) | (Stream::UntilEnd(_), _) => {
                drop(state);
                // Whether anybody reads is the session's business.
                let _ = self.output.write_all(bytes).and_then(|()| self.output.flush());
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<W: Write> Write for Screen<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.pass(bytes);
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

    /// What a session of ours sends on its console.
    fn sent(word: &MarkWord) -> Vec<u8> {
        format!("kernel\n\x1e{0}b42\n\x1e{0}efarewell\n", word.as_str()).into_bytes()
    }

    fn shown(stream: Stream, sent: &[u8], chunk: usize) -> Vec<u8> {
        let mut screen = Console::new(true).screen(stream, Vec::new(), Supervisor::new().button());
        sent.chunks(chunk).for_each(|bytes| screen.write_all(bytes).unwrap());
        screen.output
    }

    #[test]
    fn a_session_of_pipes_passes_only_its_own_output() {
        let word = MarkWord::draw();
        for chunk in [1, 7, 1000] {
            assert_eq!(shown(Stream::Session(word.clone()), &sent(&word), chunk), b"42\n");
        }
    }

    #[test]
    fn a_terminal_sees_the_boot_but_not_the_farewell() {
        let word = MarkWord::draw();
        let expected = format!("kernel\n\x1e{}b42\n", word.as_str());
        assert_eq!(shown(Stream::UntilEnd(word.clone()), &sent(&word), 5), expected.as_bytes());
    }

    #[test]
    fn a_foreign_guest_is_shown_whole_and_needs_no_ready() {
        let word = MarkWord::draw();
        assert_eq!(shown(Stream::Whole, &sent(&word), 3), sent(&word));
        Console::new(false).wait_until_ready();
    }

    #[test]
    fn who_waits_for_the_guest_is_woken_by_its_report() {
        let console = Console::new(true);
        let waiter = console.clone();
        let thread = std::thread::spawn(move || waiter.wait_until_ready());
        assert!(!thread.is_finished());
        console.reports().write_all(b"noise\nready\n").unwrap();
        thread.join().unwrap();
    }

    #[test]
    fn the_end_of_the_output_is_told() {
        let word = MarkWord::draw();
        let console = Console::new(true);
        let waiter = console.clone();
        let thread = std::thread::spawn(move || waiter.wait_until_ended());
        let mut screen =
            console.screen(Stream::Session(word.clone()), Vec::new(), Supervisor::new().button());
        let sent = sent(&word);
        screen.write_all(&sent[..sent.len() / 2]).unwrap();
        assert!(!thread.is_finished());
        screen.write_all(&sent[sent.len() / 2..]).unwrap();
        thread.join().unwrap();
    }

    #[test]
    fn the_first_reported_status_counts() {
        let console = Console::new(true);
        assert_eq!(console.status(), None);
        console.reports().write_all(b"status 3\nstatus 4\n").unwrap();
        assert_eq!(console.status(), Some(3));
    }

    #[test]
    fn a_prompt_leaves_its_line_open() {
        let console = Console::new(false);
        let mut screen = console.screen(Stream::Whole, Vec::new(), Supervisor::new().button());
        screen.write_all(b"hello\n").unwrap();
        assert!(!console.line_is_open());
        screen.write_all(b"# ").unwrap();
        assert!(console.line_is_open());
    }

    #[test]
    fn what_is_kept_is_bounded_and_is_the_newest() {
        let console = Console::new(true);
        let stream = Stream::Session(MarkWord::draw());
        let mut screen = console.screen(stream, Vec::new(), Supervisor::new().button());
        for _ in 0..100 {
            screen.write_all(&[b'.'; 10_000]).unwrap();
        }
        screen.write_all(b"the end").unwrap();
        let kept = console.take_kept();
        assert!(kept.len() <= MOST_KEPT && kept.ends_with(b"the end"));
    }

    #[test]
    fn the_kernel_beside_a_session_is_kept_until_it_begins_and_shown_to_a_person() {
        let word = MarkWord::draw();
        let logged = |stream: Stream, session: &[u8]| {
            let console = Console::new(true);
            let mut screen = console.screen(stream.clone(), Vec::new(), Supervisor::new().button());
            let mut log = console.kernel_log(stream, Vec::new());
            log.write_all(b"boot ").unwrap();
            screen.write_all(session).unwrap();
            log.write_all(b"panic").unwrap();
            (String::from_utf8(log.output).unwrap(), String::from_utf8(console.take_kept()).unwrap())
        };
        let began = format!("\x1e{}b42", word.as_str()).into_bytes();
        let both = |shown: &str, kept: &str| (shown.to_owned(), kept.to_owned());
        assert_eq!(logged(Stream::Session(word.clone()), &began), both("panic", ""));
        assert_eq!(logged(Stream::Session(word.clone()), b""), both("", "boot panic"));
        assert_eq!(logged(Stream::UntilEnd(word), b""), both("boot panic", ""));
        assert_eq!(logged(Stream::Whole, b"Linux"), both("", ""));
        assert_eq!(logged(Stream::Whole, b""), both("", "boot panic"));
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
        let mut screen = Console::new(false).screen(Stream::Whole, Closed, supervisor.button());
        assert_eq!(screen.write(b"hello").unwrap(), 5);
        assert_eq!(supervisor.first(), Some(Ending::Signal(signal_hook::consts::SIGPIPE)));
    }
}
