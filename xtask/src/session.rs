//! One run of a machine, heard line by line, that always comes to an end: each step has its time.

use crate::errand::Errand;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// What `bench/init.sh` prints first.
pub const FIRST_SIGN: &str = "bench: first user instruction";
/// What it prints last.
pub const LAST_SIGN: &str = "bench: end";
/// How long a machine may take to switch itself off after its last sign before it is ended.
const OFF: Duration = Duration::from_secs(5);
/// Lines of output kept for the report of a failed run.
const LINES_KEPT: usize = 15;

/// What a listener says to a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// The step goes on.
    Nothing,
    /// A step begins; its end must be heard within this time.
    Step(Duration),
    /// Nothing of interest follows; the machine has a moment to switch itself off.
    Last,
}

/// How a run ended.
#[derive(Debug)]
pub enum Ending {
    /// By itself, or by us after its last sign: a machine that cannot switch itself off has still done its work.
    Done,
    /// By itself without the last sign.
    Early(Option<ExitStatus>),
    /// By us: a step took longer than its time.
    DidNotFinish,
}

/// A machine that runs. When it is dropped, it and all its processes are ended.
pub struct Session {
    child: Child,
    lines: Receiver<String>,
    start: Instant,
    kept: Vec<String>,
}

impl Session {
    /// Starts the command in a process group of its own, with no input.
    pub fn start(command: &mut Command) -> Result<Session, Errand> {
        let start = Instant::now();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(Errand::file(command.get_program()))?;
        let (sender, lines) = channel();
        let streams: [Option<Box<dyn Read + Send>>; 2] = [
            child.stdout.take().map(|stream| Box::new(stream) as _),
            child.stderr.take().map(|stream| Box::new(stream) as _),
        ];
        for stream in streams.into_iter().flatten() {
            let sender = sender.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
                    if sender.send(String::from_utf8_lossy(&line).trim_end().to_owned()).is_err() {
                        return;
                    }
                }
            });
        }
        Ok(Session { child, lines, start, kept: Vec::new() })
    }

    /// The process that was started.
    pub fn process(&self) -> u32 {
        self.child.id()
    }

    /// Time since the start.
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// The last lines, for a person.
    pub fn last_lines(&self) -> String {
        self.kept.join("\n  ")
    }

    /// Tells `seen` each line until a step takes too long, the run ends, or the last line came and the machine has had
    /// its moment. The first step has `first`.
    pub fn listen(&mut self, first: Duration, mut seen: impl FnMut(&str) -> Heard) -> Ending {
        let mut deadline = Instant::now() + first;
        let mut signed_off = false;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    match seen(&line) {
                        Heard::Nothing => {}
                        Heard::Step(time) => deadline = Instant::now() + time,
                        Heard::Last => {
                            signed_off = true;
                            deadline = Instant::now() + OFF;
                        }
                    }
                    if self.kept.len() == LINES_KEPT {
                        self.kept.remove(0);
                    }
                    self.kept.push(line);
                }
                Err(RecvTimeoutError::Disconnected) if signed_off => return Ending::Done,
                Err(RecvTimeoutError::Disconnected) => return Ending::Early(self.child.wait().ok()),
                Err(RecvTimeoutError::Timeout) if signed_off => return Ending::Done,
                Err(RecvTimeoutError::Timeout) => return Ending::DidNotFinish,
            }
        }
    }

    /// Waits for one line that holds these words.
    pub fn wait_for(&mut self, words: &str, limit: Duration) -> Result<Duration, Errand> {
        let deadline = Instant::now() + limit;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) if line.contains(words) => return Ok(self.elapsed()),
                Ok(line) => self.kept.push(line),
                Err(_) => {
                    let why = format!("it did not say \"{words}\"; its last lines:\n  {}", self.last_lines());
                    return Err(Errand::Failed { what: "the run".to_owned(), why });
                }
            }
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // The group: User-Mode Linux and a shell have children. Those of a run that ended are gone, and then the
        // signal reaches nobody; the group's number is ours until the child has been waited for.
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            let group = format!("-{}", self.child.id());
            let _ = Command::new("kill").args(["-KILL", "--", &group]).stderr(Stdio::null()).status();
            let _ = self.child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    fn shell(script: &str) -> Session {
        Session::start(Command::new("sh").args(["-c", script])).expect("sh starts")
    }

    #[test]
    fn a_program_that_ends_is_heard_to_its_last_line() {
        let mut heard = Vec::new();
        let ending = shell("echo one; echo two >&2; echo three").listen(LONG, |line| {
            heard.push(line.to_owned());
            Heard::Nothing
        });
        heard.sort();
        assert_eq!(heard, ["one", "three", "two"]);
        assert!(matches!(ending, Ending::Early(Some(status)) if status.success()));
    }

    #[test]
    fn a_step_that_takes_longer_than_its_time_is_ended() {
        let step = Duration::from_millis(50);
        let mut session = shell("echo step; sleep 1000");
        let ending = session.listen(LONG, |_| Heard::Step(step));
        assert!(matches!(ending, Ending::DidNotFinish));
        let process = session.process();
        drop(session);
        assert!(!std::path::Path::new(&format!("/proc/{process}")).exists());
    }

    #[test]
    fn a_machine_is_done_when_it_has_said_so() {
        let ending = shell("echo bench: end").listen(LONG, |_| Heard::Last);
        assert!(matches!(ending, Ending::Done));
    }
}
