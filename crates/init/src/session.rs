//! The user's program, between the marks in the console's stream (the Launcher's `marker`).

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::process::{Child, Command, Stdio};

use lguest_init::plan::{Plan, Terminal};
use rustix::process::{Pid, WaitOptions};

use crate::report::Control;
use crate::{Failure, terminal, user};

/// What a mark begins with: ASCII's record separator.
const FIRST: u8 = 0x1e;
/// What a shell adds to a signal's number.
pub const SIGNAL: i32 = 128;

/// Runs the program to its end; its status, as a shell would have it.
pub fn run(plan: &Plan, control: &mut Control) -> Result<u8, Failure> {
    let port = terminal::open(&plan.port).map_err(|error| format!("{}: {error}", plan.port))?;
    match &plan.terminal {
        Terminal::Pipes => run_in_pipes(plan, port, control),
        Terminal::Person { columns, rows, .. } => {
            terminal::serve_a_person(&port, *columns, *rows);
            run_for_a_person(plan, port, control)
        }
    }
    .map_err(|error| format!("starting the program: {error}"))
}

/// Ourselves once more, who becomes the program ([`user`]).
pub fn leader(plan: &Plan, has_terminal: bool) -> Command {
    let words = plan.write();
    let mut command = Command::new("/proc/self/exe");
    command.arg(user::LEADER).arg(if has_terminal { user::TERMINAL } else { user::NO_TERMINAL });
    // Arguments hold no NUL, and neither do pairs, one by one.
    let words = words.split(|byte| *byte == 0).map(|word| std::ffi::OsString::from_vec(word.to_vec()));
    command.args(words);
    command.env_clear();
    command
}

/// Nothing where nobody looks for it.
fn mark(word: &str, which: u8) -> Vec<u8> {
    if word.is_empty() {
        return Vec::new();
    }
    [&[FIRST], word.as_bytes(), &[which]].concat()
}

fn run_for_a_person(plan: &Plan, port: File, control: &mut Control) -> io::Result<u8> {
    control.ready();
    let child = leader(plan, true)
        .stdin(port.try_clone()?)
        .stdout(port.try_clone()?)
        .stderr(port.try_clone()?)
        .spawn()?;
    let status = wait(&child);
    // The end of a session hangs its terminal up for whoever had it open; the port is still there.
    drop(port);
    let mut port = terminal::open(&plan.port)?;
    port.write_all(&mark(&plan.word, b'e'))?;
    terminal::drain(&port);
    Ok(status)
}

fn run_in_pipes(plan: &Plan, mut port: File, control: &mut Control) -> io::Result<u8> {
    terminal::carry_bytes(&port);
    let (input, to_program) = io::pipe()?;
    let (from_program, mut output) = io::pipe()?;
    port.write_all(&mark(&plan.word, b'b'))?;
    let child = leader(plan, false)
        .stdin(Stdio::from(input))
        .stdout(output.try_clone()?)
        .stderr(output.try_clone()?)
        .spawn()?;
    let (reader, writer) = (port.try_clone()?, port.try_clone()?);
    std::thread::spawn(move || carry(reader, to_program));
    std::thread::spawn(move || carry(from_program, writer));
    control.ready();
    let status = wait(&child);
    // The mark goes the way of the output, behind all that was written, and the Launcher answers when it came out. A
    // process left behind may hold the output open for ever, and a reader may take its time.
    output.write_all(&mark(&plan.word, b'e'))?;
    control.wait_for_answer();
    Ok(status)
}

/// Carries bytes as they come. The end of one side closes the other.
fn carry(mut from: impl Read, mut to: impl Write) {
    let mut bytes = vec![0; 4096];
    loop {
        match from.read(&mut bytes) {
            Ok(0) => return,
            Ok(length) if to.write_all(&bytes[..length]).is_ok() => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            _ => return,
        }
    }
}

/// Waits for the program, and for whoever else ends meanwhile: orphans are the first process' children.
fn wait(child: &Child) -> u8 {
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if Pid::from_raw(child.id().cast_signed()) == Some(pid) => {
                let signal = status.terminating_signal().map(|signal| SIGNAL + signal);
                return status.exit_status().or(signal).unwrap_or(SIGNAL) as u8;
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return crate::NOT_STARTED,
        }
    }
}
