//! Machines that run: how `lguest ps` finds them, `lguest stop` speaks to them and `lguest exec` starts programs in them.
//!
//! ```text
//! $XDG_RUNTIME_DIR/lguest/machines/        or a folder of the user's in the one for temporary files
//!    PID.json      what runs; locked by the machine's process for as long as it lives
//!    PID.socket    where it is asked for something (door.rs)
//! ```
//! A process that is killed leaves its two files, and one in its sandbox may remove none. So whoever looks next removes what is
//! not locked: a lock ends with its process, whatever ended that.

pub mod record;
pub mod door;
pub mod agent;
pub mod command;
pub mod hearing;
pub mod exec;

use signal_hook::consts::SIGTERM;

use crate::board::PowerButton;
use crate::ending::Ending;
use crate::supervise::StopButton;
use agent::Agent;
use door::Wish;
use record::{Entry, Record};

/// A machine that is listed for as long as this lives.
#[derive(Debug)]
pub struct Announced {
    _entry: Option<Entry>,
}

/// Lists a machine and opens its door. One that cannot be listed runs all the same.
pub fn announce(record: &Record, stop: StopButton, power: PowerButton, agent: Option<Agent>) -> Announced {
    let (entry, listener) = match record::enter(&record::folder(), record) {
        Ok((entry, listener)) => (entry, listener),
        Err(cause) => {
            tracing::info!(%cause, "lguest ps will not list this machine");
            return Announced { _entry: None };
        }
    };
    door::open(listener, move |wish, visitor| match wish {
        Wish::Power => power.press(),
        Wish::Stop => stop.press(Ending::Signal(SIGTERM)),
        // Where there is no agent, the visitor finds the end of its stream.
        Wish::Exec => {
            if let Some(agent) = &agent {
                agent.receive(visitor);
            }
        }
    });
    Announced { _entry: Some(entry) }
}
