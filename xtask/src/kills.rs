//! `cargo xtask kills N`: kills a machine that writes and flushes N times, and looks for every flushed record. The same tests run
//! in CI with fewer kills.

use crate::arguments::Arguments;
use crate::errand::Errand;
use std::process::Command;

/// Kills without an argument, a third of them on each kind of disk: raw, qcow2, and an ext4 file system.
const KILLS: usize = 100;

/// Runs the Launcher's tests named `kills` with a number.
pub fn run(mut arguments: Arguments) -> Result<(), Errand> {
    let kills = arguments.next().map_or(Ok(KILLS), |word| Arguments::count(&word))?;
    arguments.end()?;
    let mut test = Command::new("cargo");
    test.args([
        "test",
        "--package",
        "lguest-launcher",
        "--test",
        "first_light",
        "kills",
        "--",
        "--nocapture",
    ])
    .env("LGUEST_KILLS", kills.to_string());
    let failed = |why: String| Errand::Failed { what: format!("{kills} kills"), why };
    match test.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(failed(status.to_string())),
        Err(error) => Err(failed(error.to_string())),
    }
}
