//! Other programs: whether they are here, and running one to its end.

use crate::errand::Errand;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Where a program lies, looked for as a shell does.
pub fn find(program: &str) -> Option<PathBuf> {
    let folders = std::env::var_os("PATH")?;
    std::env::split_paths(&folders).map(|folder| folder.join(program)).find(|path| path.is_file())
}

/// As [`find`], or the sentence that names the package.
pub fn need(program: &'static str, package: &'static str) -> Result<PathBuf, Errand> {
    find(program).ok_or(Errand::Missing { program, package })
}

/// Runs a program to its end and returns what it printed; its messages go to our standard error.
pub fn run(command: &mut Command) -> Result<String, Errand> {
    let what = command.get_program().to_string_lossy().into_owned();
    let failed = |why: String| Errand::Failed { what: what.clone(), why };
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        return Err(failed(output.status.to_string()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
