//! `cargo xtask bench lguest`: what the default Guest and its bus cost, on each engine that runs here.
//!
//! One table. The Guest measures itself with its shell's `bench`; the start is measured from outside; the Host's examples
//! measure exits, notifies and SEND_DMA between two memories; KVM counts the instructions of the start, one at a time; and
//! the size of the drivers stands beside the original's. What changes from run to run is a median.

use crate::arguments::Arguments;
use crate::errand::Errand;
use crate::inputs::{self, example};
use crate::programs;
use crate::table::{columns, figure, median};
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What the shell says when it waits for a line.
const PROMPT: &str = "lguest> ";
/// Bytes of the disk; the bench reads its first page.
const DISK: u64 = 64 << 10;
/// Seconds that one Guest may take (--timeout): an engine that only interprets takes three milliseconds for a disk request.
const LIMIT: &str = "120";
/// The engines, and how often a thing is done on each: enough to drown the clock, few enough for a KVM that interprets.
const ENGINES: [(&str, u32); 2] = [("translator", 5000), ("kvm", 100)];

/// Nanoseconds of one.
const SECOND: f64 = 1e9;

/// What one round on one engine showed, in the order of [`ROWS`].
type Round = [f64; ROWS.len()];
/// The rows of an engine, with their units: the Guest's own, those of the Host's `exit_speed`, and the second generation's disk
/// (`--bus lguest`) beside the first's.
const ROWS: [&str; 9] = [
    "prompt_ms",
    "hypercall_ns",
    "disk_4k_ns",
    "disk_4k/s",
    "frame_ns",
    "frames_MB/s",
    "exit_ns",
    "notify_wake_ns",
    "page_disk_4k_ns",
];

/// Runs the bench and prints its table.
pub fn run(mut arguments: Arguments) -> Result<(), Errand> {
    let rounds = arguments.value("--rounds")?.map_or(Ok(3), |word| Arguments::count(&word))?;
    arguments.end()?;
    let bench = Bench { lguest: inputs::lguest()?, folder: inputs::workshop()? };
    let disk = bench.disk();
    std::fs::File::create(&disk).and_then(|file| file.set_len(DISK)).map_err(Errand::file(&disk))?;
    let mut done: Vec<(&str, Vec<Round>)> = Vec::new();
    let mut times = Vec::new();
    for (engine, count) in ENGINES {
        match bench.refusal(engine)? {
            Some(reason) => eprintln!("xtask: left out: {reason}"),
            None => {
                done.push((engine, Vec::new()));
                times.push(count);
            }
        }
    }
    for round in 1..=rounds {
        for ((engine, figures), times) in done.iter_mut().zip(&times) {
            eprintln!("xtask: round {round} of {rounds}: {engine}");
            figures.push(bench.round(engine, *times)?);
        }
    }
    print!("{}", report(&done, &either(rounds)?));
    Ok(())
}

/// What does not depend on the engine: SEND_DMA in the Host, the instructions of the start, the size of the drivers.
fn either(rounds: usize) -> Result<Vec<(String, f64)>, Errand> {
    let mut rows = Vec::new();
    let said: Vec<String> =
        (0..rounds).map(|_| example("lguest-host", "link_speed")).collect::<Result<_, _>>()?;
    let sends: Vec<Vec<(u32, f64, f64)>> =
        said.iter().map(|said| said.lines().filter_map(sent).collect()).collect();
    for (at, (bytes, ..)) in sends.first().into_iter().flatten().enumerate() {
        let of = |pick: fn(&(u32, f64, f64)) -> f64| {
            median(&sends.iter().filter_map(|round| round.get(at)).map(pick).collect::<Vec<_>>())
        };
        rows.push((format!("send_{bytes}_ns"), of(|send| send.1)));
        rows.push((format!("send_{bytes}_us/MB"), 1e6 / of(|send| send.2)));
        rows.push((format!("send_{bytes}_MB/s"), of(|send| send.2)));
    }
    let woken = wakes32(&example("lguest-host", "exit_speed")?);
    rows.push((
        "notify_wake_ns of the second generation, 32 bits (asked: 5000)".to_owned(),
        woken.unwrap_or(f64::NAN),
    ));
    // Without KVM there is nothing to count with, and the row says so by a dash.
    let counted = example("lguest-launcher", "count_instructions")?;
    let count = counted.split_once(" instructions").and_then(|(count, _)| count.parse().ok());
    rows.push(("instructions to prompt (at most 3000000)".to_owned(), count.unwrap_or(f64::NAN)));
    let sizes = programs::run(Command::new("sh").arg(inputs::root().join("crates/kernel/driver-sizes.sh")))?;
    let total = sizes.lines().find_map(|line| line.strip_prefix("console, block and net: "));
    let total = total.and_then(|line| line.split(' ').next()).and_then(|word| word.parse().ok());
    rows.push(("three drivers, bytes (the original: 8144)".to_owned(), total.unwrap_or(f64::NAN)));
    Ok(rows)
}

/// `  1514 bytes a packet: 9.1µs each, 166 MB/s`: bytes, nanoseconds, megabytes a second.
fn sent(line: &str) -> Option<(u32, f64, f64)> {
    let (bytes, rest) = line.trim().split_once(" bytes a packet: ")?;
    let rate: f64 = rest.split_once(" each, ")?.1.strip_suffix(" MB/s")?.parse().ok()?;
    let bytes = bytes.parse().ok()?;
    Some((bytes, f64::from(bytes) * 1e3 / rate, rate))
}

/// `kvm exit_ns 25380 notify_wake_ns 30175`: those two of this engine.
fn exits(said: &str, engine: &str) -> Option<(f64, f64)> {
    let line = said.lines().find_map(|line| line.strip_prefix(engine))?;
    let (exit, wake) = line.trim().strip_prefix("exit_ns ")?.split_once(" notify_wake_ns ")?;
    Some((exit.parse().ok()?, wake.parse().ok()?))
}

fn report(done: &[(&str, Vec<Round>)], either: &[(String, f64)]) -> String {
    let mut lines = vec![vec!["default Guest".to_owned()]];
    lines[0].extend(done.iter().map(|(engine, _)| (*engine).to_owned()));
    lines[0].push("either".to_owned());
    for (at, name) in ROWS.iter().enumerate() {
        let mut line = vec![(*name).to_owned()];
        for (_, rounds) in done {
            line.push(figure(median(&rounds.iter().map(|round| round[at]).collect::<Vec<_>>())));
        }
        lines.push(line);
    }
    for (name, value) in either {
        let mut line = vec![String::new(); done.len() + 2];
        line[0].clone_from(name);
        line[done.len() + 1] = figure(*value);
        lines.push(line);
    }
    columns(&lines)
}

/// The command, and where its disk and links lie.
struct Bench {
    lguest: PathBuf,
    folder: PathBuf,
}

impl Bench {
    fn disk(&self) -> PathBuf {
        self.folder.join("bus-bench.disk")
    }

    fn command(&self, engine: &str) -> Command {
        let mut command = Command::new(&self.lguest);
        command
            .args(["run", "--engine", engine, "--timeout", LIMIT])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        command
    }

    /// Why this engine does not run here.
    fn refusal(&self, engine: &str) -> Result<Option<String>, Errand> {
        let output =
            self.command(engine).stdin(Stdio::null()).output().map_err(Errand::file(&self.lguest))?;
        let reason = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Ok((!output.status.success()).then_some(reason))
    }

    fn round(&self, engine: &str, times: u32) -> Result<Round, Errand> {
        // A link of this process' own, so that two benches do not meet.
        let link = format!("link=bench-{}", std::process::id());
        let peer = Guest::start(self.command(engine).args(["--net", &link]).stderr(Stdio::null()))?;
        let mut command = self.command(engine);
        command.args(["--net", &link, "--disk"]).arg(self.disk()).stderr(Stdio::null());
        let guest = Guest::start(&mut command)?;
        let prompt = guest.prompt.as_secs_f64() * 1e3;
        let script = format!("bench hypercall x {times}\nbench disk lgba {times}\nbench net all {times}\n");
        let said = guest.finish(&script)?;
        peer.finish("")?;
        let [hypercall, disk, net] = figures(&said)?;
        let (exit, wake) =
            exits(&example("lguest-host", "exit_speed")?, engine).unwrap_or((f64::NAN, f64::NAN));
        let page = self.page_disk(engine, times)?;
        Ok([prompt, hypercall.0, disk.0, SECOND / disk.0, net.0, net.1, exit, wake, page])
    }

    /// Nanoseconds of a disk's request on the page of virtio devices.
    fn page_disk(&self, engine: &str, times: u32) -> Result<f64, Errand> {
        let mut command = self.command(engine);
        command.args(["--bus", "lguest", "--disk"]).arg(self.disk()).stderr(Stdio::null());
        let said = Guest::start(&mut command)?.finish(&format!("bench disk lgba {times}\n"))?;
        said.lines().find_map(measured).map(|(time, _)| time).ok_or_else(|| failed(&said))
    }
}

/// `lguest32 notify_wake_ns 4000`: the second generation's notify, by a Guest of 32 bits.
fn wakes32(said: &str) -> Option<f64> {
    said.lines().find_map(|line| line.strip_prefix("lguest32 notify_wake_ns "))?.trim().parse().ok()
}

/// The three lines of the shell's `bench`: nanoseconds each, and megabytes a second where bytes moved.
fn figures(said: &str) -> Result<[(f64, f64); 3], Errand> {
    let found: Vec<(f64, f64)> = said.lines().filter_map(measured).collect();
    found
        .try_into()
        .map_err(|_| Errand::Failed { what: "the Guest's bench".to_owned(), why: said.to_owned() })
}

/// `2000 times, 217 ns each, 854 MB/s`, the last part optional.
fn measured(line: &str) -> Option<(f64, f64)> {
    let (_, rest) = line.split_once(" times, ")?;
    let (time, rest) = rest.split_once(" ns each")?;
    let speed = rest.strip_prefix(", ").and_then(|rest| rest.strip_suffix(" MB/s"));
    Some((time.parse().ok()?, speed.map_or(Some(f64::NAN), |speed| speed.parse().ok())?))
}

/// A Guest at its prompt.
struct Guest {
    child: Child,
    prompt: Duration,
}

impl Guest {
    fn start(command: &mut Command) -> Result<Guest, Errand> {
        let begun = Instant::now();
        let mut child = command.spawn().map_err(Errand::file(command.get_program()))?;
        let output = child.stdout.as_mut().expect("piped");
        let (mut said, mut byte) = (Vec::new(), [0]);
        while !said.ends_with(PROMPT.as_bytes()) {
            // Its time limit ends a Guest that never gets there, and then there is nothing more to read.
            match output.read(&mut byte) {
                Ok(1) => said.push(byte[0]),
                _ => return Err(failed(&String::from_utf8_lossy(&said))),
            }
        }
        Ok(Guest { child, prompt: begun.elapsed() })
    }

    /// Types these lines and the end of input; what it says up to its end.
    fn finish(mut self, lines: &str) -> Result<String, Errand> {
        let typed = self.child.stdin.take().expect("piped").write_all(lines.as_bytes());
        let output = self.child.wait_with_output().map_err(Errand::file("lguest"))?;
        let said = String::from_utf8_lossy(&output.stdout).replace('\r', "");
        if typed.is_err() || !output.status.success() { Err(failed(&said)) } else { Ok(said) }
    }
}

fn failed(said: &str) -> Errand {
    Errand::Failed { what: "the default Guest".to_owned(), why: format!("it said {said:?}") }
}

#[test]
fn the_shells_lines_are_read_and_others_are_not() {
    let said = "lguest> bench disk lgba 5\n5 times, 217 ns each\n5 times, 40 ns each, 854 MB/s\n7 times, 1 ns each\n";
    let [first, second, third] = figures(said).unwrap();
    assert_eq!((first.0, second, third.0), (217.0, (40.0, 854.0), 1.0));
    assert!(first.1.is_nan());
    assert!(figures("bench: no network: see devices\n").is_err());
}

#[test]
fn the_examples_lines_are_read_and_others_are_not() {
    let (bytes, time, rate) = sent("    64 bytes a packet: 10.5µs each, 8 MB/s").unwrap();
    assert_eq!((bytes, time, rate), (64, 8000.0, 8.0));
    assert!(sent("left out").is_none());
    let said = "translator exit_ns 226 notify_wake_ns 4557\nkvm exit_ns 1 notify_wake_ns 2\n";
    assert_eq!(exits(said, "kvm"), Some((1.0, 2.0)));
    assert_eq!(exits("", "kvm"), None);
    assert_eq!(wakes32("kvm exit_ns 1 notify_wake_ns 2\nlguest32 notify_wake_ns 3\n"), Some(3.0));
    assert_eq!(wakes32(said), None);
}

#[test]
fn what_no_engine_changes_stands_in_a_column_of_its_own() {
    let table = report(&[("kvm", vec![[1.0; ROWS.len()]])], &[("size".to_owned(), 7727.0)]);
    assert!(table.starts_with("default Guest "), "{table}");
    let words: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!((words[0].last(), words.last().unwrap().as_slice()), (Some(&"either"), &["size", "7727"][..]));
}
