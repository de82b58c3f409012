//! Where a running machine is asked for something: one word a visit.
//!
//! `power` presses the power button, `stop` ends the run, `exec` hands the visitor over to the Guest's agent. The folder lets in nobody but the user, whose machine it is; a visitor
//! who says nothing is sent away after a second, so that the next one is heard.

use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::{io, thread};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::SocketFlags;

/// What a visitor may want.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// The power button is pressed; a Guest that listens shuts down.
    Power,
    /// The machine ends now.
    Stop,
    /// The Guest's agent is to hear the visitor from now on.
    Exec,
}

impl Wish {
    fn word(self) -> &'static [u8] {
        match self {
            Wish::Power => b"power",
            Wish::Stop => b"stop",
            Wish::Exec => b"exec",
        }
    }
}

/// How long a visitor may take to speak.
const PATIENCE: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// Opens the door on a thread of its own.
pub fn open(listener: UnixListener, mut fulfil: impl FnMut(Wish, OwnedFd) + Send + 'static) {
    thread::spawn(move || {
        // A listener that fails for good ends the thread; the machine runs on, and signals still reach it.
        // Visitors' sockets never wait: one may be handed on to where nobody may.
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        while let Ok(visitor) = rustix::net::accept_with(&listener, flags) {
            if let Some(wish) = hear(&visitor) {
                fulfil(wish, visitor);
            }
        }
    });
}

fn hear(visitor: &OwnedFd) -> Option<Wish> {
    let mut ready = [PollFd::new(visitor, PollFlags::IN)];
    if rustix::event::poll(&mut ready, Some(&PATIENCE)).ok()? == 0 {
        return None;
    }
    let mut word = [0; 8];
    let length = rustix::io::read(visitor, &mut word).ok()?;
    [Wish::Power, Wish::Stop, Wish::Exec].into_iter().find(|wish| wish.word() == &word[..length])
}

/// Tells a machine.
///
/// # Errors
/// When nobody opens.
pub fn knock(socket: &Path, wish: Wish) -> io::Result<UnixStream> {
    let visitor = UnixStream::connect(socket)?;
    rustix::io::write(&visitor, wish.word())?;
    Ok(visitor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn a_machine_hears_each_wish_and_no_noise() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("socket");
        let (sender, heard) = mpsc::channel();
        open(UnixListener::bind(&socket).unwrap(), move |wish, _| sender.send(wish).unwrap());
        rustix::io::write(UnixStream::connect(&socket).unwrap(), b"stop it").unwrap();
        drop(UnixStream::connect(&socket).unwrap());
        knock(&socket, Wish::Power).unwrap();
        knock(&socket, Wish::Stop).unwrap();
        knock(&socket, Wish::Exec).unwrap();
        assert_eq!(heard.iter().take(3).collect::<Vec<_>>(), [Wish::Power, Wish::Stop, Wish::Exec]);
    }
}
