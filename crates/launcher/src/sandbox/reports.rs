//! From a stopped system call to the sentence that ends the run.

use std::fs::File;
use std::thread;

use lguest_translator::{ForbiddenCall, report_forbidden_calls};

use crate::ending::Ending;
use crate::request::Mistake;
use crate::supervise::StopButton;

/// Starts the thread that hears of stopped calls. It must exist before the sandbox is closed.
///
/// # Errors
/// When the host refuses a pipe or a handler.
pub fn start(button: StopButton) -> Result<(), Mistake> {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    report_forbidden_calls(writer)?;
    let mut reader = File::from(reader);
    thread::Builder::new().name("lguest-reports".to_owned()).spawn(move || {
        while let Some(call) = ForbiddenCall::wait(&mut reader) {
            button.press(Ending::Forbidden(sentence(&call)));
        }
    })?;
    Ok(())
}

fn sentence(call: &ForbiddenCall) -> String {
    let ForbiddenCall { number, thread } = call;
    format!(
        "the sandbox stopped system call {number} in thread {thread}: please report this; --sandbox off runs without it"
    )
}
