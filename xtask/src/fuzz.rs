//! `cargo xtask fuzz SECONDS`: raw bytes as a Guest's code, for as long as there is time. It needs no special compiler; the
//! same harness runs under cargo-fuzz from `crates/translator/fuzz`.

use crate::arguments::Arguments;
use crate::errand::Errand;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds without an argument.
const SECONDS: u64 = 60;

/// Runs the translator's test `raw_bytes` with a time and a seed.
pub fn run(mut arguments: Arguments) -> Result<(), Errand> {
    let seconds = match arguments.next() {
        None => SECONDS,
        Some(text) => Arguments::count(&text)? as u64,
    };
    arguments.end()?;
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
    let failed = |why: String| Errand::Failed { what: "the fuzz run".to_owned(), why };
    match test.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => {
            Err(failed(format!("{status}; run it with LGUEST_FUZZ_SHOW=1 if no input is shown above")))
        }
        Err(error) => Err(failed(error.to_string())),
    }
}
