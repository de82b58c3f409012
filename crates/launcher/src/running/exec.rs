//! `lguest exec ID -- COMMAND`: a program in a machine that runs, by its agent.
//!
//! ```text
//!   standard input ──► a thread ──► Input, as far as the agent has taken what came before ──┐
//!   signals, the terminal's size ──► a thread ──► Signal, Size ─────────────────────────────┼─► the machine's door
//!   standard output and error ◄── this thread ◄── Output, Errors, Taken, Ended ─────────────┘
//! ```
//! What comes from the Guest is a frame at a time and goes straight to where it belongs. Nothing that a Guest says or does not
//! say keeps this from being ended: a signal is the program's the first two times, and ends this the third.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use clap::Args;
use lguest_init::exec::{Frame, PIECE, WINDOW};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH};
use signal_hook::iterator::Signals;

use super::door::{self, Wish};
use super::hearing::{self, Silence};
use super::record;
use crate::ending::Ending;
use crate::escape::{Action, EscapeFilter};
use crate::initramfs::session::{Mode, command_plan};
use crate::request::Mistake;
use crate::terminal::{self, RawTerminal};
use crate::wishes::Wishes;

/// How long an agent may take to greet: its machine may be booting, on a host that is busy.
const PATIENCE: Duration = Duration::from_secs(60);
/// What is passed on.
const SIGNALS: [i32; 7] = [SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGWINCH];
/// Frames that wait for a stream that is full; input is bounded by its window besides.
const MOST_FRAMES: usize = 64;
/// Of one signal, how many are the program's before it ends us.
const FOR_THE_PROGRAM: u32 = 2;

/// `lguest exec`.
#[derive(Debug, Args)]
pub struct ExecArguments {
    /// The machine, as lguest ps numbers it
    #[arg(value_name = "ID")]
    pub id: String,

    /// A variable for COMMAND or the shell; without VALUE, with the value it has here. May be repeated
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub env: Vec<String>,

    /// The directory in the Guest that COMMAND or the shell starts in
    #[arg(long, value_name = "PATH")]
    pub workdir: Option<String>,

    /// Who runs COMMAND or the shell in the Guest, by name or number; root unless given
    #[arg(long, value_name = "USER[:GROUP]")]
    pub user: Option<String>,

    /// A command to run in the Guest in place of a shell, with its arguments
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// Runs one program; its status is the ending's.
pub fn exec(arguments: &ExecArguments) -> Ending {
    let ending = exec_it(arguments).unwrap_or_else(|mistake| Ending::Mistake(mistake.to_string()));
    // Threads that wait for input or a Guest stay behind; the terminal must not.
    terminal::restore();
    ending
}

fn exec_it(arguments: &ExecArguments) -> Result<Ending, Mistake> {
    let wishes = Wishes::of(&arguments.env, arguments.workdir.as_ref(), arguments.user.as_ref())?;
    let machine = record::find(&arguments.id)?;
    let id = &arguments.id;
    let fault = |what: String| Mistake(format!("ID {id}: {what}"));
    if !machine.record.has_agent {
        return Err(fault(
            "its Guest has no agent; debian, a directory and an image have one, with lguest's own first process"
                .to_owned(),
        ));
    }
    let silent = |cause: io::Error| fault(format!("the machine does not answer: {cause}"));
    let stream = door::knock(&machine.socket, Wish::Exec).map_err(silent)?;
    greet(&stream).map_err(fault)?;
    let mode = Mode::here(terminal::is_attached());
    let plan = command_plan(&mode, &arguments.command, &wishes).write();
    if plan.len() > lguest_init::exec::LARGEST {
        return Err(fault("COMMAND and its variables are too long; give less".to_owned()));
    }
    converse(stream, &mode, Frame::Start(plan))
}

/// Waits for the agent's first words, and not for ever.
fn greet(stream: &UnixStream) -> Result<(), String> {
    let refused = |cause: io::Error| format!("its agent cannot be waited for: {cause}");
    stream.set_read_timeout(Some(PATIENCE)).map_err(refused)?;
    hearing::greeting(&mut &*stream).map_err(|silence| match silence {
        Silence::Late => format!("its agent did not answer within {} seconds", PATIENCE.as_secs()),
        Silence::Strange(sentence) => sentence,
    })?;
    stream.set_read_timeout(None).map_err(refused)
}

/// What is on its way to the agent: frames for the thread that writes them, and room for input.
#[derive(Clone)]
struct Outgoing {
    frames: SyncSender<Frame>,
    window: Arc<(Mutex<usize>, Condvar)>,
}

impl Outgoing {
    /// Starts the thread. It ends with the stream.
    fn start(mut stream: UnixStream) -> Outgoing {
        let (frames, next) = sync_channel::<Frame>(MOST_FRAMES);
        thread::spawn(move || {
            while let Ok(frame) = next.recv()
                && stream.write_all(&frame.write()).is_ok()
            {}
        });
        Outgoing { frames, window: Arc::new((Mutex::new(WINDOW), Condvar::new())) }
    }

    /// Input, as soon as the agent has room. False when nobody takes any more.
    fn input(&self, bytes: &[u8]) -> bool {
        let mut room = self.window.0.lock().unwrap_or_else(PoisonError::into_inner);
        while *room < bytes.len() {
            room = self.window.1.wait(room).unwrap_or_else(PoisonError::into_inner);
        }
        *room -= bytes.len();
        drop(room);
        self.frames.send(Frame::Input(bytes.to_vec())).is_ok()
    }

    /// An agent that gives back more than it had gains nothing.
    fn give_room(&self, bytes: u32) {
        let mut room = self.window.0.lock().unwrap_or_else(PoisonError::into_inner);
        *room = room.saturating_add(bytes as usize).min(WINDOW);
        self.window.1.notify_all();
    }

    /// What waits for nobody: where the agent takes nothing, it is lost.
    fn hint(&self, frame: Frame) {
        let _ = self.frames.try_send(frame);
    }
}

/// From the program's start to its end, or to ours.
fn converse(stream: UnixStream, mode: &Mode, start: Frame) -> Result<Ending, Mistake> {
    let mut from = stream.try_clone()?;
    let out = Outgoing::start(stream);
    out.hint(start);
    let at_a_terminal = matches!(mode, Mode::Console(..));
    let raw = if at_a_terminal { Some(RawTerminal::enter()?) } else { None };
    let signals = Signals::new(SIGNALS)?;
    let told = out.clone();
    thread::spawn(move || pass_on(signals, &told, at_a_terminal));
    let typed = out.clone();
    thread::spawn(move || type_in(io::stdin(), &typed, at_a_terminal));
    let ending = show(&mut from, &out);
    drop(raw);
    Ok(ending)
}

/// Signals to us become the program's; the terminal's size too.
fn pass_on(mut signals: Signals, out: &Outgoing, at_a_terminal: bool) {
    let mut seen = BTreeMap::new();
    for number in signals.forever() {
        if number == SIGWINCH {
            let size = terminal::size();
            if at_a_terminal {
                out.hint(Frame::Size(size.columns, size.rows));
            }
            continue;
        }
        let times: &mut u32 = seen.entry(number).or_default();
        *times += 1;
        // A terminal that is gone takes us with it, and the program hears the same from its agent.
        if number == SIGHUP || *times > FOR_THE_PROGRAM {
            leave(&Ending::Signal(number));
        }
        out.hint(Frame::Signal(number as u8));
    }
}

/// Ends us, whatever the other threads wait for.
fn leave(ending: &Ending) -> ! {
    terminal::restore();
    if let Some(sentence) = ending.sentence() {
        terminal::say(&sentence);
    }
    std::process::exit(i32::from(ending.code()))
}

/// Standard input to its end.
fn type_in(mut from: impl Read, out: &Outgoing, at_a_terminal: bool) {
    let mut filter = EscapeFilter::default();
    let mut bytes = vec![0; PIECE];
    loop {
        let length = match from.read(&mut bytes) {
            Ok(0) => break,
            Ok(length) => length,
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => break,
        };
        let sent = if at_a_terminal {
            match filter.take(&bytes[..length]) {
                Action::Send(keys) => keys.is_empty() || out.input(&keys),
                Action::Stop => leave(&Ending::UserStop),
            }
        } else {
            out.input(&bytes[..length])
        };
        if !sent {
            return;
        }
    }
    out.input(&[]);
}

/// What the agent says, to the program's end.
fn show(from: &mut impl Read, out: &Outgoing) -> Ending {
    hearing::hear(from, &mut io::stdout(), &mut io::stderr(), |bytes| out.give_room(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use lguest_init::exec::{LARGEST, VERSION};

    fn out() -> (Outgoing, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Outgoing::start(ours), theirs)
    }

    #[test]
    fn a_programs_status_is_the_end_and_an_agent_that_goes_is_a_death() {
        let (out, _agent) = out();
        let said = [Frame::Taken(u32::MAX), Frame::Output(vec![]), Frame::Hello(9), Frame::Ended(7)];
        let said: Vec<u8> = said.iter().flat_map(Frame::write).collect();
        assert_eq!(show(&mut &said[..], &out), Ending::Status(7));
        assert_eq!(*out.window.0.lock().unwrap(), WINDOW, "what was never taken is not given back");
        assert_eq!(show(&mut &said[..said.len() - 9], &out).code(), 126);
        assert_eq!(show(&mut &b"HTTP/1.1 200 OK\r\n"[..], &out).code(), 126);
    }

    #[test]
    fn input_waits_for_an_agent_that_takes_none() {
        let (out, mut agent) = out();
        let typed = out.clone();
        let typist = thread::spawn(move || type_in(&vec![b'x'; 3 * WINDOW][..], &typed, false));
        let mut got = 0;
        loop {
            match Frame::read(&mut agent).unwrap() {
                Some(Frame::Input(bytes)) if bytes.is_empty() => break,
                Some(Frame::Input(bytes)) => {
                    got += bytes.len();
                    assert!(bytes.len() <= LARGEST && got <= 3 * WINDOW);
                    if got == WINDOW {
                        // All that it may send is here: no frame follows until some is given back.
                        agent.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
                        assert!(Frame::read(&mut agent).is_err(), "more than the window");
                        agent.set_read_timeout(None).unwrap();
                    }
                    if got >= WINDOW {
                        out.give_room(PIECE as u32);
                    }
                }
                other => panic!("{other:?}"),
            }
        }
        typist.join().unwrap();
        assert_eq!(got, 3 * WINDOW);
    }

    #[test]
    fn a_greeting_of_another_version_or_none_is_told() {
        for (said, hint) in [
            (Frame::Hello(VERSION + 1).write(), "of another lguest"),
            (Frame::Ended(0).write(), "could not start"),
            (Vec::new(), "could not start"),
            (b"what is this?".to_vec(), "cannot be understood"),
        ] {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            theirs.write_all(&said).unwrap();
            drop(theirs);
            let sentence = greet(&ours).unwrap_err();
            assert!(sentence.contains(hint), "{sentence}");
        }
    }
}
