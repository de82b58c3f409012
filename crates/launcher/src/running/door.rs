//! Where a running machine is asked to stop: one word a visit.
//!
//! `power` presses the power button, `stop` ends the run. The folder lets in nobody but the user, whose machine it is; a visitor
//! who says nothing is sent away after a second, so that the next one is heard.

use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::{io, thread};

use rustix::event::{PollFd, PollFlags, Timespec};

/// What a visitor may want.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// The power button is pressed; a Guest that listens shuts down.
    Power,
    /// The machine ends now.
    Stop,
}

impl Wish {
    fn word(self) -> &'static [u8] {
        match self {
            Wish::Power => b"power",
            Wish::Stop => b"stop",
        }
    }
}

/// How long a visitor may take to speak.
const PATIENCE: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// Opens the door on a thread of its own.
pub fn open(listener: UnixListener, fulfil: impl Fn(Wish) + Send + 'static) {
    thread::spawn(move || {
        // A listener that fails for good ends the thread; the machine runs on, and signals still reach it.
        while let Ok((visitor, _)) = listener.accept() {
            if let Some(wish) = hear(&visitor) {
                fulfil(wish);
            }
        }
    });
}

fn hear(visitor: &UnixStream) -> Option<Wish> {
    let mut ready = [PollFd::new(visitor, PollFlags::IN)];
    if rustix::event::poll(&mut ready, Some(&PATIENCE)).ok()? == 0 {
        return None;
    }
    let mut word = [0; 8];
    let length = rustix::io::read(visitor, &mut word).ok()?;
    [Wish::Power, Wish::Stop].into_iter().find(|wish| wish.word() == &word[..length])
}

/// Tells a machine.
///
/// # Errors
/// When nobody opens.
pub fn knock(socket: &Path, wish: Wish) -> io::Result<()> {
    let visitor = UnixStream::connect(socket)?;
    rustix::io::write(&visitor, wish.word())?;
    Ok(())
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
        open(UnixListener::bind(&socket).unwrap(), move |wish| sender.send(wish).unwrap());
        rustix::io::write(UnixStream::connect(&socket).unwrap(), b"stop it").unwrap();
        drop(UnixStream::connect(&socket).unwrap());
        knock(&socket, Wish::Power).unwrap();
        knock(&socket, Wish::Stop).unwrap();
        assert_eq!([heard.recv().unwrap(), heard.recv().unwrap()], [Wish::Power, Wish::Stop]);
    }
}
