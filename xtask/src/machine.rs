//! The machines that are compared, and one run on one of them.

use crate::errand::Errand;
use crate::programs::{find, need};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// What the Guest's first process prints first (bench/init.sh).
const FIRST_SIGN: &str = "bench: first user instruction";
/// What it prints last.
const LAST_SIGN: &str = "bench: end";
/// Longest a machine may take for everything; QEMU's emulation needs about a tenth.
const PATIENCE: Duration = Duration::from_secs(300);
/// How long a machine may take to switch itself off after the last sign before it is ended.
const OFF: Duration = Duration::from_secs(5);
/// Lines of output kept for the report of a failed run.
const LINES_KEPT: usize = 15;

/// Where a program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Machine {
    /// As a process of this Linux.
    Native,
    /// In a Guest of ours.
    Lguest,
    /// In a Guest that QEMU emulates.
    Qemu,
    /// In User-Mode Linux, which brings its own kernel.
    UserMode,
}

/// What the machines are made of.
pub struct Parts {
    /// Our command.
    pub lguest: PathBuf,
    /// A bzImage.
    pub kernel: PathBuf,
    /// The initramfs whose first process gives the signs.
    pub initramfs: PathBuf,
    /// The benchmark, for the native run.
    pub guestbench: PathBuf,
}

/// One line of the benchmark.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Name with its unit.
    pub name: String,
    /// Time; less is better.
    pub time: f64,
    /// Result of the work; the same everywhere.
    pub check: String,
}

/// What one run showed.
pub struct Run {
    /// From the command's start to the first sign; None natively.
    pub boot: Option<Duration>,
    /// From the command's start to its end.
    pub whole: Duration,
    /// The benchmark's lines.
    pub rows: Vec<Row>,
}

impl Machine {
    /// All, in the order of the table.
    pub const ALL: [Machine; 4] = [Machine::Native, Machine::Lguest, Machine::Qemu, Machine::UserMode];

    /// The name on the command line.
    pub fn key(self) -> &'static str {
        ["native", "lguest", "qemu", "uml"][self as usize]
    }

    /// The name in the table.
    pub fn title(self) -> &'static str {
        ["native", "lguest", "QEMU TCG", "UML"][self as usize]
    }

    /// An error that names the package when the machine is not installed.
    pub fn is_here(self) -> Result<(), Errand> {
        match self {
            Machine::Native | Machine::Lguest => Ok(()),
            Machine::Qemu => need("qemu-system-x86_64", "qemu-system-x86").map(drop),
            Machine::UserMode => need("linux.uml", "user-mode-linux").map(drop),
        }
    }

    /// The command that starts it. Every Guest has 256 MiB, one processor, and the same words for its kernel.
    fn command(self, parts: &Parts) -> Command {
        let words = "console=ttyS0 quiet panic=-1";
        match self {
            Machine::Native => Command::new(&parts.guestbench),
            Machine::Lguest => {
                let mut command = Command::new(&parts.lguest);
                command.arg("run").arg("--kernel").arg(&parts.kernel).arg("--initrd").arg(&parts.initramfs);
                command.args(["--memory", "256M", "--quiet", "--cmdline", words]);
                command
            }
            Machine::Qemu => {
                let mut command = Command::new("qemu-system-x86_64");
                command.args(["-M", "microvm", "-accel", "tcg", "-cpu", "max", "-m", "256", "-nodefaults"]);
                command.args(["-display", "none", "-serial", "stdio", "-no-reboot", "-append", words]);
                command.arg("-kernel").arg(&parts.kernel).arg("-initrd").arg(&parts.initramfs);
                command
            }
            Machine::UserMode => {
                let program = find("linux.uml").unwrap_or_else(|| "linux.uml".into());
                let mut command = Command::new(program);
                command.arg(format!("initrd={}", parts.initramfs.display()));
                command.args(["mem=256M", "con0=null,fd:1", "con=null", "quiet", "panic=-1"]);
                command
            }
        }
    }

    /// Runs the benchmark there once.
    pub fn run(self, parts: &Parts) -> Result<Run, Errand> {
        let failed = |why: String| Errand::Failed { what: format!("the run on {}", self.title()), why };
        let start = Instant::now();
        let mut child = self
            .command(parts)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| failed(error.to_string()))?;
        let mut run = Run { boot: None, whole: Duration::ZERO, rows: Vec::new() };
        let mut lines = Vec::new();
        let ended = listen(&mut child, start, |line| {
            run.rows.extend(row(line));
            if line.contains(FIRST_SIGN) {
                run.boot = Some(start.elapsed());
            }
            lines.push(line.to_owned());
            line.contains(LAST_SIGN)
        });
        run.whole = start.elapsed();
        let complete =
            self == Machine::Native || run.boot.is_some() && lines.iter().any(|l| l.contains(LAST_SIGN));
        if ended && complete {
            return Ok(run);
        }
        let last = lines.split_off(lines.len().saturating_sub(LINES_KEPT)).join("\n  ");
        let how = if ended { "it ended before its time" } else { "it did not come to an end" };
        Err(failed(format!("{how}; its last lines:\n  {last}")))
    }

    /// Boots the machine with an init that gives the signs; how long the whole took.
    pub fn boots(self, parts: &Parts) -> Result<Duration, Errand> {
        self.run(parts).map(|run| run.whole)
    }
}

/// Feeds each line of both streams to `seen` until they end. When `seen` says that it was the last one, the child has
/// [`OFF`] to go. False when the child had to be ended.
fn listen(child: &mut Child, start: Instant, mut seen: impl FnMut(&str) -> bool) -> bool {
    let (lines, arrived) = channel();
    let streams: [Option<Box<dyn Read + Send>>; 2] = [
        child.stdout.take().map(|stream| Box::new(stream) as _),
        child.stderr.take().map(|stream| Box::new(stream) as _),
    ];
    for stream in streams.into_iter().flatten() {
        let lines = lines.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
                if lines.send(String::from_utf8_lossy(&line).trim_end().to_owned()).is_err() {
                    return;
                }
            }
        });
    }
    drop(lines);
    let mut deadline = start + PATIENCE;
    let mut signed_off = false;
    loop {
        match arrived.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) if seen(&line) => {
                signed_off = true;
                deadline = Instant::now() + OFF;
            }
            Ok(_) => {}
            Err(RecvTimeoutError::Disconnected) => return child.wait().is_ok(),
            Err(RecvTimeoutError::Timeout) => {
                // A machine that does not know how to switch itself off has still done its work.
                let _ = child.kill();
                let _ = child.wait();
                return signed_off;
            }
        }
    }
}

/// A line of the benchmark: `name time check`.
fn row(line: &str) -> Option<Row> {
    let mut words = line.split_whitespace();
    let (name, time, check) = (words.next()?, words.next()?.parse().ok()?, words.next()?);
    let unit = ["_ns", "_us", "_ms"].iter().any(|unit| name.ends_with(unit));
    (unit && words.next().is_none()).then(|| Row { name: name.to_owned(), time, check: check.to_owned() })
}

/// True when this file is a bzImage: nobody wants five minutes of silence for a wrong name.
pub fn is_kernel(path: &Path) -> bool {
    let mut head = [0; 0x206];
    let read = std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut head));
    read.is_ok() && &head[0x202..] == b"HdrS"
}

#[test]
fn only_lines_of_the_benchmark_are_rows() {
    let found = row("hash_ns 1.5 d92d").expect("a row");
    assert_eq!((found.name.as_str(), found.time, found.check.as_str()), ("hash_ns", 1.5, "d92d"));
    assert_eq!(row("[    0.5] some words"), None);
    assert_eq!(row("hash 1.5 d92d"), None);
    assert_eq!(row("hash_ns 1.5 d92d more"), None);
}

#[test]
fn a_program_that_ends_is_heard_to_its_last_line() {
    let mut child = Command::new("sh")
        .args(["-c", "echo one; echo two >&2; echo three"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("sh starts");
    let mut heard = Vec::new();
    assert!(listen(&mut child, Instant::now(), |line| {
        heard.push(line.to_owned());
        false
    }));
    heard.sort();
    assert_eq!(heard, ["one", "three", "two"]);
}
