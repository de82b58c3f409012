//! One visitor: a program is started, and its input, output, signals and end are carried.
//!
//! ```text
//!   visitor ══► this thread ──► queue ──► a thread ──► standard input        (the queue holds a window at most)
//!                    └────────► signals, the terminal's size
//!   visitor ◄══ a thread each for output and errors ◄── the program
//!           ◄══ a thread that waits for its end
//! ```

use std::fs::File;
use std::io::{self, PipeReader, Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use lguest_init::exec::{Frame, PIECE, VERSION, WINDOW};
use lguest_init::plan::{Plan, Terminal};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, waitid};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::{NOT_STARTED, session};

/// Bytes of output that are taken after the program's end: what its pipes may hold. Whoever it left behind writes on.
const LAST: usize = 256 << 10;
/// What ends the input at a terminal.
const END: u8 = 4;

/// The way back to the visitor, a frame at a time.
#[derive(Clone)]
struct Back(Arc<Mutex<File>>);

impl Back {
    fn send(&self, frame: &Frame) -> io::Result<()> {
        lock(&self.0).write_all(&frame.write())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A program that runs.
struct Program {
    child: Child,
    input: File,
    output: File,
    /// None at a terminal, where all output is one.
    errors: Option<File>,
    /// The terminal, to be told its size.
    terminal: Option<File>,
}

/// Serves one visitor to its program's end, or to its own.
pub fn serve(stream: OwnedFd) -> io::Result<()> {
    let mut stream = File::from(stream);
    let back = Back(Arc::new(Mutex::new(stream.try_clone()?)));
    back.send(&Frame::Hello(VERSION))?;
    let Some(Frame::Start(words)) = Frame::read(&mut stream)? else { return Ok(()) };
    let plan = Plan::read(&words).map_err(|strange| io::Error::other(strange.to_string()));
    match plan.and_then(|plan| begin(&plan)) {
        Ok(program) => attend(program, stream, &back),
        Err(error) => {
            back.send(&Frame::Errors(format!("lguest-init: {error}\n").into_bytes()))?;
            back.send(&Frame::Ended(NOT_STARTED))
        }
    }
}

fn begin(plan: &Plan) -> io::Result<Program> {
    if let Terminal::Person { columns, rows, .. } = plan.terminal {
        return begin_at_a_terminal(plan, columns, rows);
    }
    let (stdin, input) = io::pipe()?;
    let (output, stdout) = io::pipe()?;
    let (errors, stderr) = io::pipe()?;
    let child =
        session::leader(plan, false).stdin(Stdio::from(stdin)).stdout(stdout).stderr(stderr).spawn()?;
    let file = |end: OwnedFd| File::from(end);
    Ok(Program {
        child,
        input: file(input.into()),
        output: file(output.into()),
        errors: Some(file(errors.into())),
        terminal: None,
    })
}

fn begin_at_a_terminal(plan: &Plan, columns: u16, rows: u16) -> io::Result<Program> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let name = ptsname(&master, Vec::new())?;
    let slave = rustix::fs::open(
        &*name,
        rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )?;
    let master = File::from(master);
    resize(&master, columns, rows);
    let end = || slave.try_clone().map(Stdio::from);
    let child = session::leader(plan, true).stdin(end()?).stdout(end()?).stderr(end()?).spawn()?;
    Ok(Program {
        child,
        input: master.try_clone()?,
        output: master.try_clone()?,
        errors: None,
        terminal: Some(master),
    })
}

fn resize(terminal: &File, columns: u16, rows: u16) {
    let _ = tcsetwinsize(terminal, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 });
}

fn attend(program: Program, mut stream: File, back: &Back) -> io::Result<()> {
    let Program { mut child, input, output, errors, terminal } = program;
    let group = Pid::from_child(&child);
    // Its number, for as long as it is its own.
    let lives = Arc::new(Mutex::new(Some(group)));
    let (over, end) = io::pipe()?;
    let mut carriers = Vec::new();
    for (file, frame) in [
        (Some(output), Frame::Output as fn(Vec<u8>) -> Frame),
        (errors, Frame::Errors as fn(Vec<u8>) -> Frame),
    ] {
        let Some(file) = file else { continue };
        let (over, back) = (over.try_clone()?, back.clone());
        carriers.push(thread::spawn(move || carry(file, &over, &back, frame)));
    }
    let (queue, pieces) = channel();
    let waiting = Arc::new(AtomicUsize::new(0));
    {
        let (back, waiting, at_a_terminal) = (back.clone(), waiting.clone(), terminal.is_some());
        thread::spawn(move || feed(input, &pieces, &waiting, &back, at_a_terminal));
    }
    {
        let (back, lives) = (back.clone(), lives.clone());
        thread::spawn(move || {
            // Waited for without taking its number away, so that nobody else has it while it may be sent a signal.
            let _ = waitid(WaitId::Pid(group), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
            let ended = {
                let mut lives = lock(&lives);
                *lives = None;
                child.wait()
            };
            drop(end);
            carriers.into_iter().for_each(|carrier| drop(carrier.join()));
            let status = ended.map_or(NOT_STARTED, |status| {
                use std::os::unix::process::ExitStatusExt;
                let signal = status.signal().map(|signal| session::SIGNAL + signal);
                status.code().or(signal).unwrap_or(session::SIGNAL) as u8
            });
            let _ = back.send(&Frame::Ended(status));
        });
    }
    let tell = |signal: Signal| {
        if let Some(group) = *lock(&lives) {
            // Until it leads a group of its own, the signal is for it alone.
            let _ = rustix::process::kill_process_group(group, signal)
                .or_else(|_| rustix::process::kill_process(group, signal));
        }
    };
    let result = loop {
        match Frame::read(&mut stream) {
            Ok(Some(Frame::Input(bytes))) => {
                if waiting.fetch_add(bytes.len(), Ordering::Relaxed) + bytes.len() > WINDOW {
                    break Err(io::Error::other("more input than was agreed on"));
                }
                let _ = queue.send(bytes);
            }
            Ok(Some(Frame::Size(columns, rows))) => {
                terminal.iter().for_each(|terminal| resize(terminal, columns, rows));
            }
            Ok(Some(Frame::Signal(number))) => {
                Signal::from_named_raw(number.into()).into_iter().for_each(tell);
            }
            Ok(None) => break Ok(()),
            Ok(Some(_)) => break Err(io::Error::other("a frame that only the agent sends")),
            Err(error) => break Err(error),
        }
    };
    // As a terminal that is hung up; one that was stopped hears it as well.
    tell(Signal::HUP);
    tell(Signal::CONT);
    result
}

/// Carries input to the program, and tells the visitor as it is taken. What nobody reads any more is taken too.
fn feed(input: File, pieces: &Receiver<Vec<u8>>, waiting: &AtomicUsize, back: &Back, at_a_terminal: bool) {
    let mut input = Some(input);
    while let Ok(piece) = pieces.recv() {
        if piece.is_empty() && at_a_terminal {
            let _ = input.as_mut().map(|input| input.write_all(&[END]));
        } else if piece.is_empty() || input.as_mut().is_some_and(|input| input.write_all(&piece).is_err()) {
            input = None;
        }
        waiting.fetch_sub(piece.len(), Ordering::Relaxed);
        if back.send(&Frame::Taken(piece.len() as u32)).is_err() {
            return;
        }
    }
}

/// Carries output to the visitor until everybody has closed it, or the program is over and what it wrote is there.
fn carry(mut file: File, over: &PipeReader, back: &Back, frame: fn(Vec<u8>) -> Frame) {
    let mut left = usize::MAX;
    loop {
        let mut ready = [PollFd::new(&file, PollFlags::IN), PollFd::new(over, PollFlags::empty())];
        match poll(&mut ready, None) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(_) => return,
        }
        let [has_bytes, is_over] = ready.map(|one| !one.revents().is_empty());
        if is_over {
            left = left.min(LAST);
        }
        if !has_bytes || left == 0 {
            return;
        }
        let mut bytes = vec![0; PIECE.min(left)];
        match file.read(&mut bytes) {
            Ok(length @ 1..) => {
                bytes.truncate(length);
                left -= if is_over { length } else { 0 };
                if back.send(&frame(bytes)).is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // The end; a terminal that everybody left says so with an error.
            _ => return,
        }
    }
}
