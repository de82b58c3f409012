//! `--net tap=NAME` for virtio: one thread between the interface's port and the host's tap.
//!
//! Frames are bare: the tap was opened without headers, so neither side leaves sums or cuts to the other.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::thread;

use lguest_devices::frame::{Abilities, Frame};
use lguest_devices::virtio::waker::Waker;
use rustix::event::{PollFd, PollFlags, poll};

use crate::user_network::outbox::Outbox;
use crate::user_network::port::{self, Berth, Port};

/// The longest frame that a tap of the usual 9000 bytes at most carries, and one more to see a longer one.
const LONGEST: usize = 9000 + 18 + 1;
/// Frames read in a turn before the Guest's are looked at.
const AT_ONCE: usize = 64;

/// Serves this tap. The device gets the port; its waker goes to what is returned beside it.
///
/// # Errors
/// When the host refuses a descriptor or a thread.
pub fn start(tap: File) -> io::Result<(Port, impl FnOnce(Waker) + Send + 'static)> {
    rustix::io::ioctl_fionbio(&tap, true)?;
    let (port, berth) = port::pair(Abilities::default())?;
    let (give, wait) = std::sync::mpsc::channel::<Waker>();
    thread::Builder::new().name("lguest-tap".to_owned()).spawn(move || {
        // No waker means that the machine was not built after all.
        if let Ok(waker) = wait.recv()
            && let Err(error) = serve(tap, &berth, &waker)
        {
            // The interface was taken away. The Guest's frames are lost from now on.
            tracing::warn!("the tap is lost: {error}");
        }
    })?;
    Ok((port, move |waker| {
        let _ = give.send(waker);
    }))
}

fn serve(mut tap: File, berth: &Berth, waker: &Waker) -> io::Result<()> {
    let mut outbox = Outbox::default();
    loop {
        // A Guest that takes nothing makes the host's queue wait, and then lose, as a wire would.
        let from_tap = if outbox.has_room() { PollFlags::IN } else { PollFlags::empty() };
        let mut polled = [PollFd::from_borrowed_fd(berth.bell(), PollFlags::IN), PollFd::new(&tap, from_tap)];
        match poll(&mut polled, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let arrivals = berth.fetch();
        if arrivals.closed {
            return Ok(());
        }
        for frame in arrivals.frames {
            // An interface that is down or full loses the frame; it never waits.
            let _ = tap.write(&frame.bytes);
        }
        read(&mut tap, &mut outbox)?;
        if berth.pour(&mut outbox) || arrivals.refused {
            waker.wake();
        }
    }
}

fn read(tap: &mut File, outbox: &mut Outbox) -> io::Result<()> {
    for _ in 0..AT_ONCE {
        let mut bytes = vec![0; LONGEST];
        match tap.read(&mut bytes) {
            Ok(length) if length < LONGEST => {
                bytes.truncate(length);
                outbox.put(Frame::whole(bytes));
            }
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
