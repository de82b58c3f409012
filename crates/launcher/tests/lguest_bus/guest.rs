//! A default Guest to talk to: a line in, what it says up to its next prompt out. Everything has a limit.

use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// What the shell says when it waits for a line.
const PROMPT: &str = "lguest> ";
/// Longest wait for an answer. The machine may be busy with other tests, and one engine may only interpret.
const PATIENCE: Duration = Duration::from_secs(60);

/// The engine that runs everywhere.
pub const TRANSLATOR: &str = "translator";

/// The engines that run here. Says SKIPPED with the test's name for one that does not.
pub fn engines(test: &str) -> Vec<&'static str> {
    let refused = refusal("kvm");
    if let Some(reason) = &refused {
        let skipped = format!("SKIPPED {test} on kvm: {reason}\n");
        std::io::stderr().lock().write_all(skipped.as_bytes()).expect("standard error takes a line");
    }
    if refused.is_none() { vec![TRANSLATOR, "kvm"] } else { vec![TRANSLATOR] }
}

/// Why this engine refuses to run at all. A Guest that starts and then fails is no refusal but a failed test.
fn refusal(engine: &str) -> Option<String> {
    let words = ["run", "--engine", engine, "--timeout", "60"];
    let output = Command::new(env!("CARGO_BIN_EXE_lguest"))
        .args(words)
        .stdin(Stdio::null())
        .output()
        .expect("the built command starts");
    let messages = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    (output.status.code() == Some(125)).then_some(messages)
}

/// A Guest at its prompt.
pub struct Guest {
    child: Child,
    input: Option<ChildStdin>,
    output: Receiver<Vec<u8>>,
    messages: Receiver<Vec<u8>>,
    /// What it said and nobody asked for yet.
    said: String,
}

/// How a Guest ended.
#[derive(Debug)]
pub struct Ended {
    /// Exit status; None when a signal ended it.
    pub status: Option<i32>,
    /// What it still said.
    pub output: String,
    /// Standard error, all of it.
    pub messages: String,
}

impl Guest {
    /// Starts one with these options and waits for its prompt. Links meet in `folder`.
    pub fn start(engine: &str, folder: &TempDir, options: &[&str]) -> Guest {
        let mut child = Command::new(env!("CARGO_BIN_EXE_lguest"))
            .args(["run", "--engine", engine, "--timeout", "300"])
            .args(options)
            .env("XDG_RUNTIME_DIR", folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the built command starts");
        let input = child.stdin.take();
        let output = listen(child.stdout.take().expect("piped"));
        let messages = listen(child.stderr.take().expect("piped"));
        let mut guest = Guest { child, input, output, messages, said: String::new() };
        guest.until(PROMPT, "its start");
        guest
    }

    /// One on a link, with the address that the Host gave it.
    pub fn on_link(folder: &TempDir, link: &str) -> (Guest, String) {
        Guest::on_link_by(TRANSLATOR, folder, link)
    }

    /// The same, on an engine.
    pub fn on_link_by(engine: &str, folder: &TempDir, link: &str) -> (Guest, String) {
        let mut guest = Guest::start(engine, folder, &["--net", &format!("link={link}")]);
        let said = guest.ask("net address");
        let address = said.split_whitespace().nth(1).unwrap_or_default().to_owned();
        assert_eq!(address.len(), "02:00:00:00:00:00".len(), "{said}");
        (guest, address)
    }

    /// Types a line and waits for the next prompt. What came between, without the echo of the line.
    pub fn ask(&mut self, line: &str) -> String {
        self.begin(line);
        self.answer()
    }

    /// Types a line and waits until the shell has taken it, not until it is done.
    pub fn begin(&mut self, line: &str) {
        self.type_line(line);
        let echo = self.until("\n", line);
        assert_eq!(echo, line, "that is no echo");
    }

    /// What the line that was begun says, up to the next prompt.
    pub fn answer(&mut self) -> String {
        self.until(PROMPT, "a line").trim().to_owned()
    }

    /// Types a line and waits for nothing.
    pub fn type_line(&mut self, line: &str) {
        let input = self.input.as_mut().expect("the input is open");
        input.write_all(format!("{line}\n").as_bytes()).expect("the command takes input");
    }

    /// What it says before `mark`, which is taken too.
    fn until(&mut self, mark: &str, after: &str) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some((before, rest)) = self.said.split_once(mark) {
                let (before, rest) = (before.to_owned(), rest.to_owned());
                self.said = rest;
                return before;
            }
            match self.output.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(bytes) => self.said += &String::from_utf8_lossy(&bytes).replace('\r', ""),
                Err(_) => {
                    let _ = self.child.kill();
                    panic!("no {mark:?} after {after:?}: {:?}, {:?}", self.said, gathered(&self.messages));
                }
            }
        }
    }

    /// Waits for the end of a Guest that was told to end.
    pub fn end(mut self) -> Ended {
        let end = Instant::now() + PATIENCE;
        let status = loop {
            match self.child.try_wait().expect("a child can be waited for") {
                Some(status) => break status,
                None if Instant::now() > end => {
                    let _ = self.child.kill();
                    panic!("it does not end: {:?}", gathered(&self.output));
                }
                None => std::thread::sleep(Duration::from_millis(10)),
            }
        };
        assert!(status.code().is_some() || status.signal().is_some());
        Ended {
            status: status.code(),
            output: std::mem::take(&mut self.said) + &gathered(&self.output),
            messages: gathered(&self.messages),
        }
    }

    /// Closes its input.
    pub fn hang_up(mut self) -> Ended {
        self.input = None;
        self.end()
    }

    /// Turns it off; it has to go with status 0.
    pub fn power_off(mut self) {
        self.type_line("poweroff");
        let ended = self.end();
        assert_eq!(ended.status, Some(0), "{ended:?}");
    }

    /// Sends its process a signal, by the name that kill(1) knows.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status();
        assert!(sent.expect("kill(1) is everywhere").success());
    }
}

impl Drop for Guest {
    /// A test that fails leaves nobody behind, stopped or not.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn listen(mut stream: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok(length @ 1..) = stream.read(&mut bytes) {
            if sender.send(bytes[..length].to_vec()).is_err() {
                return;
            }
        }
    });
    receiver
}

/// All that a stream still brings, for at most a second after the last word.
fn gathered(stream: &Receiver<Vec<u8>>) -> String {
    let mut all = Vec::new();
    while let Ok(bytes) = stream.recv_timeout(Duration::from_secs(1)) {
        all.extend(bytes);
    }
    String::from_utf8_lossy(&all).replace('\r', "")
}

/// A folder for a test's files, gone with it. Its path is short, because a socket's path has 108 bytes in all.
pub fn folder() -> TempDir {
    tempfile::Builder::new().prefix("lguest-test-").tempdir().expect("temporary files can be made")
}
