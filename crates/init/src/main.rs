//! The first process, from the kernel's start to the machine's end.
//!
//! It is started a second time, as the session's leader, where a new process needs a step of its own before it becomes the
//! user's program (`user`): a session, a terminal, an owner. So are the agent of `lguest exec`, and, by another name, a small
//! tool for sockets between Guest and host (`vsock`).

mod agent;
mod modules;
mod network;
mod ports;
mod report;
mod root;
mod session;
mod terminal;
mod user;
mod vsock;

use std::path::Path;
use std::process::ExitCode;

use lguest_init::plan::{PLACE, Plan, Root};

/// A step that could not be taken, in words for standard error.
type Failure = String;

/// What a failure of ours reports: as a shell does for a program that cannot be started.
const NOT_STARTED: u8 = 126;

fn main() -> ExitCode {
    let mut words = std::env::args_os();
    if words.next().is_some_and(|name| Path::new(&name).file_name().is_some_and(|name| name == vsock::NAME)) {
        return vsock::run(words);
    }
    match words.next() {
        Some(word) if word == user::LEADER => return user::become_the_program(),
        Some(word) if word == agent::AGENT => return agent::serve(),
        _ => {}
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
    let plan = match std::fs::read(PLACE) {
        Ok(bytes) => Plan::read(&bytes).map_err(|strange| strange.to_string())?,
        // Nobody's machine but the one that holds this archive: a virtual machine of another kind, or a real one.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Plan::without_a_launcher(),
        Err(error) => return Err(format!("{PLACE}: {error}")),
    };
    modules::load();
    ports::name(&plan.named_ports);
    control.listen(modules::Later::of_the_agent());
    modules::load_soon();
    let _ = rustix::system::sethostname(b"lguest");
    root::enter(&plan)?;
    network::bring_up(&plan.addresses, plan.keep && plan.root != Root::Here);
    session::run(&plan, control)
}
