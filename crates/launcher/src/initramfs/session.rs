//! What one run asks of the initramfs: which program, and what it talks to.
//!
//! The initramfs of a kernel is the same from run to run; what differs is appended as a second, tiny archive with the plan
//! that the first process reads (`lguest_init::plan`).

use lguest_init::plan::{self, Plan, Terminal};

use crate::marker::MarkWord;
use crate::terminal;
use crate::wishes::Wishes;

use super::newc::{Archive, FileKind};

/// The size of a terminal in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TerminalSize {
    /// Characters in a line.
    pub columns: u16,
    /// Lines.
    pub rows: u16,
}

/// What the session's program talks to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A person's terminal of this size and kind (`$TERM`): echo, line editing, job control.
    Console(TerminalSize, String),
    /// A pipe or a file at either end: bytes pass as they are.
    Pipes,
}

/// A share of the host's, which is mounted at `/mnt/TAG`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Letters, digits, `-`, `_` and `.` only, so that it is one name of a directory.
    pub tag: String,
    /// Whether it can only be read.
    pub readonly: bool,
}

/// How the session and the host reach each other in the Guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The terminal's device.
    pub port: &'static str,
    /// Names of virtio's ports.
    pub named: Vec<String>,
}

impl Default for Line {
    fn default() -> Line {
        Line { port: plan::SERIAL, named: Vec::new() }
    }
}

/// Where the session's root is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootPlace {
    /// The root.
    pub root: plan::Root,
    /// What the Guest changes there stays.
    pub keep: bool,
}

impl RootPlace {
    /// The initramfs.
    pub fn here() -> RootPlace {
        RootPlace { root: plan::Root::Here, keep: false }
    }
}

/// One run's wishes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// What the program talks to.
    pub mode: Mode,
    /// By which way.
    pub line: Line,
    /// The word of the marks around the session's output.
    pub word: MarkWord,
    /// Its root.
    pub place: RootPlace,
    /// What to mount before it starts.
    pub mounts: Vec<Mount>,
    /// Addresses of cards that ask nobody.
    pub addresses: Vec<plan::FixedAddress>,
    /// The program and its arguments; empty means a shell.
    pub command: Vec<String>,
    /// What it finds when it starts.
    pub wishes: Wishes,
}

impl Mode {
    /// What a session of ours talks to: a person, if one is `attached`.
    pub fn here(attached: bool) -> Mode {
        if !attached {
            return Mode::Pipes;
        }
        Mode::Console(terminal::size(), std::env::var("TERM").unwrap_or_else(|_| "linux".to_owned()))
    }

    /// As the first process is told.
    pub fn terminal(&self) -> Terminal {
        match self {
            Mode::Pipes => Terminal::Pipes,
            Mode::Console(size, kind) => {
                Terminal::Person { columns: size.columns, rows: size.rows, kind: kind.clone() }
            }
        }
    }
}

impl Session {
    /// An initramfs of ours with these wishes behind it. The kernel takes archives that begin at a multiple of four.
    pub fn append_to(&self, mut initrd: Vec<u8>) -> Vec<u8> {
        initrd.resize(initrd.len().next_multiple_of(4), 0);
        let mut archive = Archive::new();
        archive.entry("lguest", FileKind::Directory, 0o755, b"");
        archive.entry(plan::PLACE.trim_start_matches('/'), FileKind::Regular, 0o600, &self.plan().write());
        initrd.extend(archive.finish());
        initrd
    }

    fn plan(&self) -> Plan {
        let share = |mount: &Mount| plan::Share { tag: mount.tag.clone(), readonly: mount.readonly };
        Plan {
            port: self.line.port.to_owned(),
            named_ports: self.line.named.clone(),
            word: self.word.as_str().to_owned(),
            root: self.place.root.clone(),
            keep: self.place.keep,
            shares: self.mounts.iter().map(share).collect(),
            addresses: self.addresses.clone(),
            ..command_plan(&self.mode, &self.command, &self.wishes)
        }
    }
}

/// The part of a plan that says what to run, for whom and how.
pub fn command_plan(mode: &Mode, command: &[String], wishes: &Wishes) -> Plan {
    let variables = wishes.environment.iter();
    Plan {
        terminal: mode.terminal(),
        command: command.iter().map(|word| word.as_bytes().to_vec()).collect(),
        environment: variables.map(|(name, value)| format!("{name}={value}").into_bytes()).collect(),
        user: wishes.user.clone(),
        directory: wishes.directory.as_ref().map(|path| path.as_bytes().to_vec()),
        ..Plan::without_a_launcher()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session() -> Session {
        let wishes = Wishes {
            environment: vec![("A".to_owned(), "it's $B\n`x`".to_owned())],
            directory: Some("/srv".to_owned()),
            user: Some("web".to_owned()),
        };
        let place = RootPlace::here();
        let command = ["printf", "%s|", "it's", "", "new\nline"].map(str::to_owned).to_vec();
        let line = Line::default();
        let (mode, word) = (Mode::Pipes, MarkWord::draw());
        Session { mode, line, word, place, mounts: vec![], addresses: vec![], command, wishes }
    }

    #[test]
    fn words_and_wishes_are_told_as_they_are() {
        let plan = Plan::read(&session().plan().write()).unwrap();
        assert_eq!(plan.command, session().command.iter().map(|word| word.as_bytes()).collect::<Vec<_>>());
        assert_eq!(plan.environment, [b"A=it's $B\n`x`"]);
        assert_eq!((plan.user.as_deref(), plan.directory.as_deref()), (Some("web"), Some(&b"/srv"[..])));
        assert_eq!((plan.terminal, plan.root), (Terminal::Pipes, plan::Root::Here));
    }

    #[test]
    fn a_session_is_appended_where_the_kernel_looks_for_it() {
        assert_eq!(&session().append_to(vec![0; 7])[8..14], b"070701");
    }
}
