//! Running the command, with a limit on everything.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Longest that one run may take; a boot needs seconds, and the machine may be busy with other tests.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The built command.
pub fn lguest() -> Command {
    Command::new(env!("CARGO_BIN_EXE_lguest"))
}

/// What a run left behind.
#[derive(Debug)]
pub struct Finished {
    /// Exit status; None when a signal, ours included, ended it.
    pub status: Option<i32>,
    /// Standard output.
    pub output: String,
    /// Standard error.
    pub messages: String,
    /// How long it took.
    pub took: Duration,
}

impl Finished {
    /// The lines on standard error that are not the engine's announcement.
    pub fn sentences(&self) -> Vec<&str> {
        self.messages.lines().filter(|line| !line.contains("engine") || line.contains("--engine")).collect()
    }
}

/// Runs the command with these words and this standard input to its end, or to [`PATIENCE`].
pub fn run(words: &[&str], input: &str) -> Finished {
    let start = Instant::now();
    let mut child = lguest()
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the built command starts");
    let mut writer = child.stdin.take().expect("piped");
    let input = input.to_owned();
    // A command that refuses its request does not read its input: then writing fails, and that is well.
    std::thread::spawn(move || writer.write_all(input.as_bytes()));
    let output = drain(child.stdout.take().expect("piped"));
    let messages = drain(child.stderr.take().expect("piped"));
    let status = wait(&mut child, PATIENCE);
    let text = |reader: std::thread::JoinHandle<Vec<u8>>| {
        String::from_utf8_lossy(&reader.join().expect("the reader ends with the stream")).into_owned()
    };
    Finished { status, output: text(output), messages: text(messages), took: start.elapsed() }
}

fn drain(mut stream: impl Read + Send + 'static) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        bytes
    })
}

/// Waits for a child; ends it when the limit is reached, and then there is no status.
pub fn wait(child: &mut Child, limit: Duration) -> Option<i32> {
    let end = Instant::now() + limit;
    while Instant::now() < end {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            return status.code();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill().expect("a child can be ended");
    child.wait().expect("as above");
    None
}

/// True when a Debian Guest can be started: its kernel and busybox are in the cache or can be fetched. Else says
/// SKIPPED with the test's name, where no harness hides it.
pub fn debian_is_here(test: &str) -> bool {
    static HERE: OnceLock<bool> = OnceLock::new();
    let here = *HERE.get_or_init(|| {
        if !cached() {
            // Fetches what is missing; whether the Guest then lives is for the tests to say.
            run(&["run", "debian", "--timeout", "100", "--", "true"], "");
        }
        cached()
    });
    if !here {
        let skipped = format!("SKIPPED {test}: Debian's kernel is not in the cache and cannot be fetched\n");
        std::io::stderr().lock().write_all(skipped.as_bytes()).expect("standard error takes a line");
    }
    here
}

/// The file of Debian's cloud kernel in the command's cache.
pub fn cached_kernel() -> PathBuf {
    cache().join("debian/linux-image-cloud-amd64/vmlinuz")
}

/// Debian's busybox in the command's cache.
pub fn busybox() -> PathBuf {
    cache().join("debian/busybox-static/busybox")
}

fn cached() -> bool {
    cached_kernel().is_file() && busybox().is_file()
}

fn cache() -> PathBuf {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = || variable("HOME").unwrap_or_default().join(".cache/lguest");
    variable("LGUEST_CACHE").or_else(|| Some(variable("XDG_CACHE_HOME")?.join("lguest"))).unwrap_or_else(home)
}

/// A folder for a test's files, empty and of its own.
pub fn folder(test: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(test);
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).expect("cargo's folder for tests can be written");
    folder
}
