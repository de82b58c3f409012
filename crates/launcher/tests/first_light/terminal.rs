//! A person's terminal: a pseudo-terminal whose other end the command holds.

use crate::command::{lguest, wait};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, OutputModes, Termios, Winsize, tcgetattr, tcsetwinsize};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::Child;
use std::time::{Duration, Instant};

/// A running command and the person's end of its terminal.
pub struct Terminal {
    keyboard: File,
    /// The command's end, kept open so that its modes can be read after the command has ended.
    line: OwnedFd,
    child: Child,
    seen: String,
    read: usize,
}

impl Terminal {
    /// Starts the command with these words on a new terminal of 80 by 24.
    pub fn start(words: &[&str]) -> Terminal {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a pseudo-terminal");
        grantpt(&master).expect("ours");
        unlockpt(&master).expect("ours");
        let name = ptsname(&master, Vec::new()).expect("it has a name").into_string().expect("in ASCII");
        let line: OwnedFd =
            File::options().read(true).write(true).open(name).expect("the other end opens").into();
        let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&line, size).expect("a terminal has a size");
        let end = || line.try_clone().expect("descriptors can be duplicated");
        let child = lguest()
            .args(words)
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .expect("the command starts");
        Terminal { keyboard: File::from(master), line, child, seen: String::new(), read: 0 }
    }

    /// Types.
    pub fn types(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).expect("a terminal takes keys");
    }

    /// Makes it another size, which its foreground process is told as by a window that is dragged.
    pub fn resize(&self, columns: u16, rows: u16) {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&self.line, size).expect("a terminal has a size");
        // It is nobody's controlling terminal here, so the kernel signals nobody.
        let process = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(process, rustix::process::Signal::WINCH).expect("it runs");
    }

    /// Waits for a text to appear after what was waited for last, and returns what came before it.
    pub fn until(&mut self, text: &str, limit: Duration) -> String {
        let end = Instant::now() + limit;
        loop {
            if let Some(place) = self.seen[self.read..].find(text) {
                let before = self.seen[self.read..self.read + place].to_owned();
                self.read += place + text.len();
                return before;
            }
            let left = end.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "`{text}` did not appear in {limit:?}; seen so far:\n{}", self.seen);
            self.look(left);
        }
    }

    /// Reads what is there, waiting for it for a while.
    fn look(&mut self, limit: Duration) {
        let mut ready = [PollFd::new(&self.keyboard, PollFlags::IN)];
        let limit = Timespec::try_from(limit).expect("a short time");
        if poll(&mut ready, Some(&limit)).expect("a terminal can be waited for") > 0 {
            let mut bytes = [0; 4096];
            let count = self.keyboard.read(&mut bytes).unwrap_or(0);
            self.seen += &String::from_utf8_lossy(&bytes[..count]);
        }
    }

    /// Waits for the command's end and returns its status. What it prints until then is read, or it could not end.
    pub fn ends(&mut self, limit: Duration) -> Option<i32> {
        let end = Instant::now() + limit;
        while Instant::now() < end {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                return status.code();
            }
            self.look(Duration::from_millis(50));
        }
        wait(&mut self.child, Duration::ZERO)
    }

    /// The command's process number.
    pub fn process(&self) -> u32 {
        self.child.id()
    }

    /// The terminal's modes as they are now.
    pub fn modes(&self) -> Modes {
        let now: Termios = tcgetattr(&self.line).expect("a terminal has modes");
        Modes { local: now.local_modes, output: now.output_modes }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a person notices when it is not put back: echo, line editing, signals, line ends.
#[derive(Debug, PartialEq, Eq)]
pub struct Modes {
    local: LocalModes,
    output: OutputModes,
}

impl Modes {
    /// True while keys arrive one by one and are not shown by the terminal itself.
    pub fn are_raw(&self) -> bool {
        !self.local.intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
    }
}
