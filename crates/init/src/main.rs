//! The first process, from the kernel's start to the machine's end.
//!
//! It is started a second time, as the session's leader, where a new process needs a step of its own before it becomes the
//! user's program (`user`): a session, a terminal, an owner.

mod modules;
mod ports;
mod report;
mod root;
mod session;
mod terminal;
mod user;

use std::process::ExitCode;

use lguest_init::plan::{PLACE, Plan};

/// A step that could not be taken, in words for standard error.
type Failure = String;

/// What a failure of ours reports: as a shell does for a program that cannot be started.
const NOT_STARTED: u8 = 126;

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|word| word == user::LEADER) {
        return user::become_the_program();
    }
    let mut control = report::Control::none();
    let status = match live(&mut control) {
        Ok(status) => status,
        Err(failure) => {
            // The Launcher shows the console of a boot that did not come to its session.
            eprintln!("lguest-init: {failure}");
            NOT_STARTED
        }
    };
    control.end(status)
}

/// Everything up to the program's end; its status.
fn live(control: &mut report::Control) -> Result<u8, Failure> {
    root::mount_the_kernels_own()?;
    *control = report::Control::open();
    let plan = std::fs::read(PLACE).map_err(|error| format!("{PLACE}: {error}"))?;
    let plan = Plan::read(&plan).map_err(|strange| strange.to_string())?;
    modules::load()?;
    ports::name(&plan.named_ports);
    root::enter(&plan)?;
    let _ = rustix::system::sethostname(b"lguest");
    session::run(&plan, control)
}
