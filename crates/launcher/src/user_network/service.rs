//! The thread of the user network: waits for the Guest's frames, for sockets and for time, and lets the stack work.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use lguest_devices::frame::Abilities;
use lguest_devices::virtio::waker::Waker;

use super::options::Options;
use super::port::{self, Berth, Port};
use super::sockets::Owner;
use super::stack::Stack;

/// Rounds of work before sockets are looked at again, whatever the Guest gives and takes.
const ROUNDS: u32 = 16;

/// Starts the network. The device gets the port; its waker, when there is one, goes to what is returned beside it.
///
/// # Errors
/// When the host refuses a descriptor or a thread.
pub fn start(options: Options) -> io::Result<(Port, impl FnOnce(Waker) + Send + 'static)> {
    let (port, berth) = port::pair(Abilities { unfinished: true, large: true })?;
    let stack = Stack::new(options)?;
    stack.sockets.watch_input(berth.bell(), Owner::Port)?;
    let (give, wait) = std::sync::mpsc::channel::<Waker>();
    thread::Builder::new().name("lguest-network".to_owned()).spawn(move || {
        // No waker means that the machine was not built after all.
        if let Ok(waker) = wait.recv() {
            serve(stack, &berth, &waker);
        }
    })?;
    Ok((port, move |waker| {
        // A thread that is gone is a machine that is ending.
        let _ = give.send(waker);
    }))
}

/// Serves until the device is gone.
fn serve(mut stack: Stack, berth: &Berth, waker: &Waker) {
    let mut hurry = false;
    loop {
        let limit = if hurry { Some(Duration::ZERO) } else { stack.patience(Instant::now()) };
        let events = match stack.sockets.wait(limit) {
            Ok(events) => events,
            Err(error) => return tracing::warn!("the user network ends: {error}"),
        };
        let now = Instant::now();
        for event in events {
            stack.event(event, now);
        }
        match work(&mut stack, berth, waker) {
            Some(more) => hurry = more,
            None => return,
        }
    }
}

/// Works until there is nothing to do, or it is somebody else's turn: then true. None when the device is gone.
fn work(stack: &mut Stack, berth: &Berth, waker: &Waker) -> Option<bool> {
    for _ in 0..ROUNDS {
        let arrivals = berth.fetch();
        if arrivals.closed {
            return None;
        }
        if let Some(abilities) = arrivals.started {
            stack.restart(abilities);
        }
        let now = Instant::now();
        let idle = arrivals.frames.is_empty();
        for frame in arrivals.frames {
            stack.input(frame, now);
        }
        stack.work(now);
        let given = berth.pour(&mut stack.outbox);
        if given || arrivals.refused {
            waker.wake();
        } else if idle {
            return Some(false);
        }
    }
    Some(true)
}
