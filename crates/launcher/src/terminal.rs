//! The user's terminal: raw while a console is attached, and as it was whatever happens then.
//!
//! The mode to go back to is kept in one place that every way out can reach: the guard's end, a panic on any
//! thread, the thread that answers signals, and the forced exit.

use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

use crate::initramfs::session::TerminalSize;

/// The terminal and its mode from before, while it is raw.
static BEFORE: Mutex<Option<(OwnedFd, Termios)>> = Mutex::new(None);

/// The terminal is raw while this lives.
#[derive(Debug)]
pub struct RawTerminal(());

impl RawTerminal {
    /// Makes the terminal on standard input raw: every key goes to the Guest, Ctrl-C too.
    ///
    /// # Errors
    /// When standard input is no terminal or the Host refuses.
    pub fn enter() -> io::Result<RawTerminal> {
        RawTerminal::enter_on(io::stdin().as_fd().try_clone_to_owned()?)
    }

    fn enter_on(terminal: OwnedFd) -> io::Result<RawTerminal> {
        let before = tcgetattr(&terminal)?;
        let mut raw = before.clone();
        raw.make_raw();
        let keyboard = terminal.try_clone()?;
        *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = Some((terminal, before));
        let guard = RawTerminal(());
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            restore();
            usual(panic);
        }));
        tcsetattr(keyboard, OptionalActions::Now, &raw)?;
        Ok(guard)
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        restore();
    }
}

/// Gives the terminal back its mode, if it is raw. Doing it twice does no harm.
pub fn restore() {
    let before = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some((terminal, before)) = before {
        // A terminal that is gone needs no restoring.
        let _ = tcsetattr(terminal, OptionalActions::Now, &before);
    }
}

/// Prints one message of ours on standard error. In a raw terminal a line has to end with its own return.
pub fn say(sentence: &str) {
    let end = line_end();
    // Nobody can be told that standard error is closed.
    let _ = io::stderr().write_all(format!("lguest: {sentence}{end}").as_bytes());
}

/// What ends a line on standard error: in a raw terminal it has to come with its own return.
pub fn line_end() -> &'static str {
    let raw = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).is_some();
    if raw { "\r\n" } else { "\n" }
}

/// True when a person sits at both ends: keyboard and screen.
pub fn is_attached() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

/// The size of the terminal on standard output; 80 by 24 when it does not say.
pub fn size() -> TerminalSize {
    match tcgetwinsize(io::stdout()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => {
            TerminalSize { columns: size.ws_col, rows: size.ws_row }
        }
        _ => TerminalSize { columns: 80, rows: 24 },
    }
}

/// Writes log lines to standard error, each with the line end that the terminal's mode needs.
#[derive(Debug)]
pub struct LogLine;

impl Write for LogLine {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let raw = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        let mut error = io::stderr().lock();
        match bytes.strip_suffix(b"\n") {
            Some(line) if raw => error.write_all(line).and_then(|()| error.write_all(b"\r\n"))?,
            _ => error.write_all(bytes)?,
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    use rustix::termios::LocalModes;

    /// Both ends of a terminal of our own.
    fn terminal() -> (OwnedFd, OwnedFd) {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY;
        let slave = rustix::fs::open(name, flags, rustix::fs::Mode::empty()).unwrap();
        (master, slave)
    }

    fn is_raw(terminal: &OwnedFd) -> bool {
        let modes = tcgetattr(terminal).unwrap().local_modes;
        !modes.intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
    }

    /// One test for all ways out: there is one place for the mode, and tests run side by side.
    #[test]
    fn a_raw_terminal_is_restored_on_every_way_out() {
        let (_master, slave) = terminal();
        let enter = || RawTerminal::enter_on(slave.try_clone().unwrap()).unwrap();

        let guard = enter();
        assert!(is_raw(&slave));
        drop(guard);
        assert!(!is_raw(&slave), "after the guard's end");

        let guard = enter();
        restore();
        assert!(!is_raw(&slave), "after an explicit restore");
        drop(guard);
        assert!(!is_raw(&slave));

        let guard = enter();
        let panic = std::thread::spawn(|| panic!("on purpose, on another thread")).join();
        assert!(panic.is_err());
        assert!(!is_raw(&slave), "after a panic on another thread");
        drop(guard);
    }

    #[test]
    fn a_file_cannot_be_made_raw() {
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(RawTerminal::enter_on(file.into()).is_err());
    }
}
