//! `cargo xtask fuzz [TARGET] [SECONDS]`: made-up input where a Guest's or a stranger's bytes enter, for as long as there is time.
//!
//! ```text
//!   code      raw bytes as a Guest's code          the translator's own test, with any compiler
//!   coverage  the same bytes, led by coverage  ┐
//!   drivers   hostile virtio drivers           │
//!   share     requests for a shared directory  │
//!   frames    frames into the user network     │   cargo-fuzz: libFuzzer follows what the compiler counts
//!   kernel    a file as a kernel               │
//!   disk      a file as a qcow2 image          │
//!   layer     an image's layer                 │
//!   exec      what a Guest's agent says        │
//!   parsers   whatever else is read            ┘
//! ```
//! cargo-fuzz's targets want flags that a stable compiler keeps for nightly ones; `RUSTC_BOOTSTRAP` says we know. Without a
//! sanitizer: what is looked for are broken promises, which the harnesses assert, and a sanitizer's standard library
//! would have to be built first. What libFuzzer finds worth keeping goes below target/, not into the tree.
//! A stack that runs over leaves no input behind; `LGUEST_FUZZ_LAST` of `launcher/tests/hostile` finds one.

use crate::arguments::Arguments;
use crate::errand::Errand;
use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds without an argument.
const SECONDS: u64 = 60;

/// One of cargo-fuzz's targets.
struct Target {
    /// As the user says it.
    name: &'static str,
    /// The folder that holds `fuzz/`.
    package: &'static str,
    /// In that folder's manifest.
    binary: &'static str,
    /// The longest input, in bytes: what the harness still tells apart.
    longest: u32,
    /// The list of inputs that the target's test carries out, for those that have one in place of a folder `fuzz/corpus`.
    list: Option<&'static str>,
}

impl Target {
    const fn of_the_launcher(name: &'static str, longest: u32) -> Target {
        Target { name, package: "crates/launcher", binary: name, longest, list: None }
    }
}

/// Seconds that one input may take: what takes longer hangs.
const PATIENCE: u32 = 25;

/// All of them.
const TARGETS: [Target; 9] = [
    Target {
        name: "coverage",
        package: "crates/translator",
        binary: "raw_bytes",
        longest: 200,
        list: Some("tests/raw_bytes/corpus.txt"),
    },
    Target {
        name: "drivers",
        package: "crates/devices",
        binary: "drivers",
        longest: 4096,
        list: Some("tests/hostile_drivers/corpus.txt"),
    },
    Target::of_the_launcher("share", 4096),
    Target::of_the_launcher("frames", 4096),
    Target::of_the_launcher("kernel", 8192),
    Target::of_the_launcher("disk", 8192),
    Target::of_the_launcher("layer", 4096),
    Target::of_the_launcher("exec", 4096),
    Target::of_the_launcher("parsers", 4096),
];

/// Runs one target, `code` if none is named.
pub fn run(mut arguments: Arguments) -> Result<(), Errand> {
    let target = TARGETS.iter().find(|target| arguments.next_is(target.name));
    if target.is_none() {
        arguments.next_is("code");
    }
    let seconds = match arguments.next() {
        None => SECONDS,
        Some(text) => Arguments::count(&text)? as u64,
    };
    arguments.end()?;
    target.map_or_else(|| code(seconds), |target| follow_coverage(target, seconds))
}

/// The translator's test `raw_bytes`, with a time and a seed.
fn code(seconds: u64) -> Result<(), Errand> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seed = since.as_secs();
    println!("{seconds} seconds from seed {seed}");
    let mut test = Command::new("cargo");
    test.args([
        "test",
        "--release",
        "--package",
        "lguest-translator",
        "--test",
        "raw_bytes",
        "made_up",
        "--",
        "--nocapture",
    ])
    .env("LGUEST_FUZZ_SECONDS", seconds.to_string())
    .env("LGUEST_FUZZ_SEED", seed.to_string());
    finish(&mut test, "run it with LGUEST_FUZZ_SHOW=1 if no input is shown above")
}

/// A target of cargo-fuzz's, from the corpus of earlier runs and, where the tree holds one, of the project's.
fn follow_coverage(target: &Target, seconds: u64) -> Result<(), Errand> {
    let found = Command::new("cargo").args(["fuzz", "--version"]).output();
    if !found.is_ok_and(|output| output.status.success()) {
        return Err(Errand::Failed {
            what: format!("the fuzz target {}", target.name),
            why: "cargo-fuzz is missing; `cargo install cargo-fuzz` brings it".to_owned(),
        });
    }
    let package = Path::new(target.package);
    let kept = package.join("fuzz/target/corpus").join(target.binary);
    std::fs::create_dir_all(&kept).map_err(Errand::file(&kept))?;
    let kept = kept.canonicalize().map_err(Errand::file(&kept))?;
    if let Some(list) = target.list {
        let list = package.join(list);
        let text = std::fs::read_to_string(&list).map_err(Errand::file(&list))?;
        for (number, input) in text.lines().filter_map(listed).enumerate() {
            let file = kept.join(format!("listed-{number}"));
            std::fs::write(&file, input).map_err(Errand::file(&file))?;
        }
    }
    let ours = Path::new("fuzz/corpus").join(target.binary);
    let mut fuzz = Command::new("cargo");
    fuzz.current_dir(package)
        .env("RUSTC_BOOTSTRAP", "1")
        // cargo-fuzz looks for its build below its own folder.
        .env_remove("CARGO_TARGET_DIR")
        .args(["fuzz", "run", "--sanitizer", "none", target.binary])
        .arg(kept);
    if package.join(&ours).is_dir() {
        fuzz.arg(ours);
    }
    // Lengths do not grow from one: an input that is too short for a harness' head says nothing.
    fuzz.arg("--").arg("-len_control=0").arg(format!("-timeout={PATIENCE}"));
    fuzz.arg(format!("-max_len={}", target.longest)).arg(format!("-max_total_time={seconds}"));
    finish(&mut fuzz, "the input that did it is named above; give it to `cargo fuzz run` again")
}

/// The input in a line of a list: bytes in hexadecimal, then `#` or `;` and why.
fn listed(line: &str) -> Option<Vec<u8>> {
    let digits: String = line.split(['#', ';']).next()?.split_whitespace().collect();
    let byte = |at: usize| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok();
    let bytes: Option<Vec<u8>> = (0..digits.len()).step_by(2).map(byte).collect();
    bytes.filter(|bytes| !bytes.is_empty())
}

/// Waits for it.
fn finish(command: &mut Command, advice: &str) -> Result<(), Errand> {
    let failed = |why: String| Errand::Failed { what: "the fuzz run".to_owned(), why };
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(failed(format!("{status}; {advice}"))),
        Err(error) => Err(failed(error.to_string())),
    }
}
