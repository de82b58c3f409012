//! The way of a visitor from the machine's door to the Guest's agent.
//!
//! ```text
//!   lguest exec ──"exec"──► door ──► waits here ──► the machine's sockets ══► the agent
//!                                       │ first of all: "come" ───► control channel ──► lguest-init
//!                                       └ until it answers:  "agent" ◄──
//! ```
//! So a machine that nobody visits pays nothing for it: neither drivers nor a process. The Launcher reads nothing of what the
//! two say to each other; what is on its way between them is bounded by the device.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use lguest_init::exec::PORT;

use crate::board::ConsoleInput;
use crate::console::Console;
use crate::sockets::Visits;

/// Visitors who wait for an agent that is on its way; each is a descriptor.
const MOST_WAITING: usize = 32;
/// What the first process is told.
/// (Not what it answers: a terminal that is not set up yet may echo.)
const COME: &[u8] = b"come\n";

#[derive(Debug, Default)]
enum State {
    /// Nobody asked for it.
    #[default]
    Unasked,
    /// It was asked for; these wait.
    Asked(Vec<OwnedFd>),
    /// It listens.
    Listens,
    /// It cannot be had.
    Absent,
}

/// A Guest's agent, as its machine sees it.
#[derive(Clone)]
pub struct Agent {
    visits: Visits,
    control: ConsoleInput,
    console: Console,
    state: Arc<Mutex<State>>,
}

impl Agent {
    /// An agent that nobody asked for: it is reached through `visits`, called on `control`, and reports to `console`.
    pub fn new(visits: Visits, control: ConsoleInput, console: Console) -> Agent {
        Agent { visits, control, console, state: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a visitor. One too many is sent away by the end of its stream.
    pub fn receive(&self, visitor: OwnedFd) {
        let mut state = self.lock();
        match &mut *state {
            State::Unasked => {
                *state = State::Asked(vec![visitor]);
                let agent = self.clone();
                // Whoever answers the door must not wait for a Guest.
                thread::spawn(move || agent.call());
            }
            State::Asked(waiting) if waiting.len() < MOST_WAITING => waiting.push(visitor),
            State::Listens => self.visits.hand_over(visitor, PORT),
            State::Asked(_) | State::Absent => {}
        }
    }

    /// Calls the agent and lets in who waits for it.
    fn call(&self) {
        // A Guest that is not so far yet hears it later.
        let listens = self.control.send(COME).is_ok() && self.console.wait_for_agent();
        let mut state = self.lock();
        let before = std::mem::replace(&mut *state, if listens { State::Listens } else { State::Absent });
        if let (State::Asked(waiting), true) = (before, listens) {
            waiting.into_iter().for_each(|visitor| self.visits.hand_over(visitor, PORT));
        }
    }
}
