//! `--gdb`: a debugger on the Host breaks and steps the Guest, by GDB's remote protocol.
//!
//! ```text
//!   gdb ──socket──► reader ──bytes──┐                        ┌── vCPU 0 stands at its `desk`
//!                                   ├──► one thread: gdbstub ┤
//!   vCPUs that stop ───reasons──────┘       `target`         └── vCPU 1 ...
//! ```
//! The machine waits for the debugger before its first instruction. All vCPUs stop together and go on together, as GDB
//! expects of threads. The debugger's breakpoints are in no memory and no register of the Guest's, and while one
//! instruction is stepped, interrupts wait.

mod arch;
pub mod place;
mod target;

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use gdbstub::stub::state_machine::GdbStubStateMachine;
use gdbstub::stub::{DisconnectReason, GdbStub, MultiThreadStopReason};

use crate::board::desk::{Desk, Event};
use crate::board::errands::Summoner;
use crate::ending::Ending;
use crate::supervise::StopButton;
use place::{Answers, Connection, Listener};
use target::Machine;

/// Events that wait at most; whoever brings more waits too, so a debugger cannot make us grow.
const EVENTS: usize = 64;
/// How long the last words to the debugger may take.
const FAREWELL: Duration = Duration::from_secs(1);

/// A debugger's session.
pub struct Session {
    /// Where vCPUs stop.
    pub desk: Arc<Desk>,
    thread: JoinHandle<()>,
}

impl Session {
    /// Waits for a debugger and begins to serve it.
    ///
    /// # Errors
    /// When the host refuses the connection.
    pub fn wait(listener: &Listener, summoner: Summoner, button: StopButton) -> std::io::Result<Session> {
        let [incoming, outgoing] = listener.accept()?;
        let (sender, events) = sync_channel(EVENTS);
        let desk = Arc::new(Desk::new(summoner.vcpus(), sender.clone()));
        let machine = Machine::new(desk.clone(), summoner);
        thread::Builder::new().name("gdb reader".to_owned()).spawn(move || read(incoming, &sender))?;
        let thread = thread::Builder::new().name("gdb".to_owned()).spawn(move || {
            let answers = Answers::new(outgoing);
            serve(machine, answers, &events, &button);
        })?;
        Ok(Session { desk, thread })
    }

    /// The machine is over: the debugger is told.
    pub fn end(self) {
        self.desk.end();
        let deadline = Instant::now() + FAREWELL;
        // A debugger that does not read does not keep the run from ending.
        while !self.thread.is_finished() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(2));
        }
    }
}

fn read(mut incoming: Connection, events: &SyncSender<Event>) {
    let mut bytes = [0; 4096];
    while let Ok(length @ 1..) = incoming.read(&mut bytes) {
        if events.send(Event::Bytes(bytes[..length].to_vec())).is_err() {
            return;
        }
    }
    // Nobody hears it when the session is over.
    let _ = events.send(Event::HungUp);
}

type State<'a> = GdbStubStateMachine<'a, Machine, Answers>;

/// What to do after an event.
enum Next<'a> {
    On(State<'a>),
    /// The debugger wants the machine ended.
    Kill,
    /// There is nobody to talk to any more.
    Leave,
}

fn serve(mut machine: Machine, answers: Answers, events: &Receiver<Event>, button: &StopButton) {
    let mut packet = vec![0; 4096];
    let stub = GdbStub::builder(answers).with_packet_buffer(&mut packet).build();
    let state = stub.ok().and_then(|stub| stub.run_state_machine(&mut machine).ok());
    let mut next = state.map_or(Next::Leave, Next::On);
    let mut early = until_all_stand(&mut machine, events).into_iter();
    loop {
        next = match next {
            Next::On(state) => match early.next().or_else(|| events.recv().ok()) {
                Some(event) => respond(state, &mut machine, event),
                None => Next::Leave,
            },
            Next::Kill => {
                button.press(Ending::DebuggerStop);
                Next::Leave
            }
            Next::Leave => break,
        };
    }
    machine.leave();
}

/// Waits for the vCPUs to stand before their first instruction; what else came meanwhile. A debugger that talks before it
/// has its first answer is asked to wait by not being read.
fn until_all_stand(machine: &mut Machine, events: &Receiver<Event>) -> Vec<Event> {
    let mut early = Vec::new();
    while !machine.all_stand() && early.len() < EVENTS {
        match events.recv() {
            Ok(Event::Stopped(index, cause)) => _ = machine.stands(index, cause),
            Ok(Event::Ended) | Err(_) => break,
            Ok(other) => early.push(other),
        }
    }
    early
}

fn respond<'a>(state: State<'a>, machine: &mut Machine, event: Event) -> Next<'a> {
    match event {
        Event::Bytes(bytes) => hear(state, machine, &bytes),
        Event::HungUp => Next::Leave,
        Event::Stopped(index, cause) => {
            let all = machine.stands(index, cause);
            match state {
                State::Running(running) if all => {
                    let reason = machine.reason();
                    running.report_stop(machine, reason).map_or(Next::Leave, Next::On)
                }
                state => {
                    if !all {
                        machine.call_the_others();
                    }
                    Next::On(state)
                }
            }
        }
        Event::Ended => {
            if let State::Running(running) = state {
                // The last words; whether they are heard is the debugger's business.
                if let Ok(State::Disconnected(mut over)) =
                    running.report_stop(machine, MultiThreadStopReason::Exited(0))
                {
                    over.borrow_conn().hang_up();
                }
            }
            Next::Leave
        }
    }
}

/// Bytes from the debugger, one by one; some of them are packets that change the state.
fn hear<'a>(mut state: State<'a>, machine: &mut Machine, bytes: &[u8]) -> Next<'a> {
    for &byte in bytes {
        let heard = match state {
            State::Idle(idle) => idle.incoming_data(machine, byte),
            State::Running(running) => running.incoming_data(machine, byte),
            other => Ok(other),
        };
        state = match heard {
            Ok(State::CtrlCInterrupt(interrupt)) => {
                // The answer comes when the vCPUs stand.
                machine.call_the_others();
                let none: Option<MultiThreadStopReason<u64>> = None;
                match interrupt.interrupt_handled(machine, none) {
                    Ok(state) => state,
                    Err(_) => return Next::Leave,
                }
            }
            Ok(State::Disconnected(mut over)) => {
                return match over.get_reason() {
                    DisconnectReason::Kill => {
                        over.borrow_conn().say_killed();
                        Next::Kill
                    }
                    _ => Next::Leave,
                };
            }
            Ok(state) => state,
            Err(error) => {
                tracing::warn!(%error, "the debugger's connection");
                return Next::Leave;
            }
        };
    }
    Next::On(state)
}
