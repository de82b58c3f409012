//! What one run asks of the initramfs: which program, and what it talks to.
//!
//! The initramfs of a kernel is the same from run to run; what differs is appended as a second, tiny archive
//! with two files that `init.sh` reads: `/lguest/session` and `/lguest/command`.

use crate::marker::MarkWord;
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
    /// Letters, digits, `-`, `_` and `.` only, so no shell reads anything else into it.
    pub tag: String,
    /// Whether it can only be read.
    pub readonly: bool,
}

/// How the session and the host reach each other in the Guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The terminal's device.
    pub port: &'static str,
    /// Names of virtio's ports; letters, digits, `-`, `_` and `.` only.
    pub named: Vec<String>,
}

impl Default for Line {
    fn default() -> Line {
        Line { port: lguest_init::plan::SERIAL, named: Vec::new() }
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
    /// What to mount before it starts.
    pub mounts: Vec<Mount>,
    /// The program and its arguments; empty means a shell.
    pub command: Vec<String>,
    /// What it finds when it starts.
    pub wishes: Wishes,
}

impl Session {
    /// An initramfs of ours with these wishes behind it. The kernel takes archives that begin at a multiple of four.
    pub fn append_to(&self, mut initrd: Vec<u8>) -> Vec<u8> {
        initrd.resize(initrd.len().next_multiple_of(4), 0);
        initrd.extend(self.archive());
        initrd
    }

    /// The archive to append to an initramfs of ours.
    pub fn archive(&self) -> Vec<u8> {
        let mut archive = Archive::new();
        archive.entry("lguest", FileKind::Directory, 0o755, b"");
        archive.entry("lguest/session", FileKind::Regular, 0o644, self.variables().as_bytes());
        if !self.command.is_empty() || self.wishes.option().is_some() {
            archive.entry("lguest/command", FileKind::Regular, 0o644, self.command_line().as_bytes());
        }
        archive.finish()
    }

    fn variables(&self) -> String {
        let word = self.word.as_str();
        let share = |mount: &Mount| format!("{}:{} ", mount.tag, if mount.readonly { "ro" } else { "rw" });
        let shares: String = self.mounts.iter().map(share).collect();
        let mounts = if shares.is_empty() { shares } else { format!("SHARES='{}'\n", shares.trim_end()) };
        let mode = match &self.mode {
            Mode::Pipes => format!("MODE=pipes WORD={word}\n"),
            Mode::Console(size, kind) => {
                format!(
                    "MODE=console WORD={word} COLUMNS={} ROWS={} TERM={}\n",
                    size.columns,
                    size.rows,
                    quoted(kind)
                )
            }
        };
        let ports = self.line.named.join(" ");
        let ports = if ports.is_empty() { ports } else { format!("PORTS='{ports}'\n") };
        format!("PORT={}\n", self.line.port) + &mode + &mounts + &ports
    }

    fn command_line(&self) -> String {
        let mut script = String::new();
        if let Some(directory) = &self.wishes.directory {
            // The shell says why; 126 is its own status for what cannot be started.
            script += &format!("cd {} || exit 126\n", quoted(directory));
        }
        let words: Vec<String> = self.command.iter().map(|word| quoted(word)).collect();
        // Not export: a variable's name may be none to a shell.
        let variables =
            self.wishes.environment.iter().map(|(name, value)| quoted(&format!("{name}={value}")));
        let variables: Vec<String> = variables.collect();
        let words = if words.is_empty() { "sh".to_owned() } else { words.join(" ") };
        if variables.is_empty() {
            return script + &format!("exec {words}\n");
        }
        script + &format!("exec env {} {words}\n", variables.join(" "))
    }
}

/// A word that a POSIX shell reads back as it was (XCU 2.2.2).
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_shell_reads_every_argument_back_as_it_was() {
        let words = ["printf", "%s|", "it's", "a \"b\" $c `d`", "", "*", "back\\slash", "new\nline"];
        let session = Session {
            mode: Mode::Pipes,
            line: Line::default(),
            word: MarkWord::draw(),
            mounts: vec![],
            command: words.iter().map(ToString::to_string).collect(),
            wishes: Wishes::default(),
        };
        let output = Command::new("sh").arg("-c").arg(session.command_line()).output().unwrap();
        assert_eq!(
            String::from_utf8(output.stdout).unwrap(),
            "it's|a \"b\" $c `d`||*|back\\slash|new\nline|"
        );
    }

    #[test]
    fn a_terminal_kind_cannot_smuggle_a_command_in() {
        let mode = Mode::Console(TerminalSize { columns: 80, rows: 25 }, "x'; echo bad; '".to_owned());
        let script = format!(
            "{}printf %s \"$TERM\"",
            Session {
                mode,
                line: Line::default(),
                word: MarkWord::draw(),
                mounts: vec![],
                command: vec![],
                wishes: Wishes::default()
            }
            .variables()
        );
        let output = Command::new("sh").arg("-c").arg(script).output().unwrap();
        assert_eq!(output.stdout, b"x'; echo bad; '");
    }

    #[test]
    fn a_session_without_a_command_writes_no_command_file() {
        let with = Session {
            mode: Mode::Pipes,
            line: Line::default(),
            word: MarkWord::draw(),
            mounts: vec![],
            command: vec!["true".to_owned()],
            wishes: Wishes::default(),
        }
        .archive();
        let without = Session {
            mode: Mode::Pipes,
            line: Line::default(),
            word: MarkWord::draw(),
            mounts: vec![],
            command: vec![],
            wishes: Wishes::default(),
        }
        .archive();
        let holds = |archive: &[u8]| archive.windows(14).any(|window| window == b"lguest/command");
        assert!(holds(&with));
        assert!(!holds(&without));
    }

    #[test]
    fn variables_and_the_directory_reach_the_command_as_they_are() {
        let wishes = Wishes {
            environment: vec![("A".to_owned(), "it's $B\n`x`".to_owned()), ("A2".to_owned(), String::new())],
            directory: Some("/proc/self".to_owned()),
        };
        let command = ["sh", "-c", "printf '%s|%s|' \"$A\" \"$A2\"; pwd"].map(str::to_owned).to_vec();
        let session = Session {
            mode: Mode::Pipes,
            line: Line::default(),
            word: MarkWord::draw(),
            mounts: vec![],
            command,
            wishes,
        };
        let output = Command::new("sh").arg("-c").arg(session.command_line()).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "it's $B\n`x`||/proc/self\n");
    }

    #[test]
    fn a_session_is_appended_where_the_kernel_looks_for_it() {
        let wishes = Wishes::default();
        let session = Session {
            mode: Mode::Pipes,
            line: Line::default(),
            word: MarkWord::draw(),
            mounts: vec![],
            command: vec![],
            wishes,
        };
        assert_eq!(&session.append_to(vec![0; 7])[8..14], b"070701");
    }
}
