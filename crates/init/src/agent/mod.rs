//! The agent: programs for `lguest exec` in a machine that runs.
//!
//! It is a process of its own, for the first process waits for whoever ends and would take its programs' ends away. Few runs
//! want it, so the first process loads its drivers and starts it when the Launcher asks (`report`); it then says on the
//! control channel that it listens. Each visitor has a thread (`visit`).

mod visit;

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use lguest_init::exec::PORT;
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, VsockAddr, bind, listen, socket};
use rustix::net::{SocketFlags, accept_with};

use crate::modules::Later;

/// The first argument of such a process.
pub const AGENT: &str = "agent";
/// Any of this machine's addresses.
const ANY: u32 = u32::MAX;
/// Visitors at a time; each has a few threads.
const MOST: usize = 32;
/// What is said on the control channel.
const LISTENS: &[u8] = b"agent\n";
const CANNOT: &[u8] = b"no agent\n";

/// Loads its drivers and starts it, for the first process. What it says goes to the control channel.
pub fn start(drivers: Later, control: &File) {
    drivers.load();
    let started = control.try_clone().and_then(|control| {
        Command::new("/proc/self/exe").arg(AGENT).env_clear().stdin(Stdio::null()).stdout(control).spawn()
    });
    if started.is_err() {
        let _ = (&*control).write_all(CANNOT);
    }
}

/// Serves until the machine ends.
pub fn serve() -> ExitCode {
    let mut control = io::stdout();
    let listener = match listen_at(PORT) {
        Ok(listener) => listener,
        Err(error) => {
            eprintln!("lguest-init: the agent: {error}");
            let _ = control.write_all(CANNOT);
            return ExitCode::FAILURE;
        }
    };
    let _ = control.write_all(LISTENS).and_then(|()| control.flush());
    static VISITORS: AtomicUsize = AtomicUsize::new(0);
    loop {
        let visitor = match accept_with(&listener, SocketFlags::CLOEXEC) {
            Ok(visitor) => visitor,
            // Its visitor left, or a limit is reached for a while.
            Err(_) => {
                std::thread::sleep(std::time::Duration::from_millis(20));
                continue;
            }
        };
        if VISITORS.fetch_add(1, Ordering::Relaxed) < MOST {
            std::thread::spawn(move || {
                // Whoever is cut off knows it at its end.
                let _ = visit::serve(visitor);
                VISITORS.fetch_sub(1, Ordering::Relaxed);
            });
        } else {
            VISITORS.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// A socket of this machine's at this port, or the agent's own.
pub fn listen_at(port: u32) -> nix::Result<OwnedFd> {
    let listener = socket(AddressFamily::Vsock, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    bind(listener.as_raw_fd(), &VsockAddr::new(ANY, port))?;
    listen(&listener, Backlog::new(16)?)?;
    Ok(listener)
}
