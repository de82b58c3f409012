//! From standard input to the Guest's first serial port, on a thread of its own.
//!
//! A person's keys pass through the escape filter. A pipe's bytes are quoted for the Guest's terminal, which only
//! knows lines (lguest-init's `terminal::carry_bytes`): ^D ends the input, ^V makes the next byte an ordinary one, and a line
//! longer than the terminal's buffer is handed over in pieces, each pushed by a ^D of its own. The default Guest's shell
//! knows no end of input, so its end is typed as the command that says the same: `poweroff`.

use std::io::Read;
use std::thread;

use crate::board::ConsoleInput;
use crate::console::Console;
use crate::ending::Ending;
use crate::escape::{Action, EscapeFilter};
use crate::supervise::StopButton;

/// Bytes read at once.
const CHUNK: usize = 4096;

/// ^D, `VEOF`: what stands before it is handed to the reader; with nothing before it, that is the end of input.
const END: u8 = 0x04;
/// ^V, `VLNEXT`: the next byte means itself.
const QUOTE: u8 = 0x16;

/// How long a piece of a line gets before it is pushed. Linux's terminals take lines of 4095 bytes, quotes included.
const LONGEST_PIECE: usize = 1024;

/// What ends a session of the default Guest's shell. It runs once the lines before it have run.
const FAREWELL: &[u8] = b"poweroff\n";

/// What standard input is to the Guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A person's keys, in a raw terminal.
    Keyboard,
    /// A pipe or a file, for a session of ours.
    Pipe,
    /// A pipe or a file, for the default Guest's shell.
    Commands,
    /// A pipe or a file, for a Guest that we know nothing of.
    Plain,
}

/// Starts the thread that carries input. It ends with its source, with the machine, or with the process.
pub fn carry(
    source: Source,
    mut from: impl Read + Send + 'static,
    to: ConsoleInput,
    console: Console,
    button: StopButton,
) {
    thread::spawn(move || {
        console.wait_until_ready();
        let mut encoder = Encoder::new(source);
        let mut buffer = vec![0; CHUNK];
        loop {
            let bytes = match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(length) => &buffer[..length],
                Err(cause) if cause.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(cause) => {
                    tracing::warn!(%cause, "standard input cannot be read");
                    break;
                }
            };
            let Some(encoded) = encoder.encode(bytes) else {
                return button.press(Ending::UserStop);
            };
            if to.send(&encoded).is_err() {
                return;
            }
        }
        // A machine that is gone needs no end of input.
        let _ = to.send(&encoder.end());
    });
}

/// Starts the thread that tells a session of pipes that its whole output arrived, so that it need not guess how long a
/// reader takes (lguest-init's `report`).
pub fn answer_the_end(control: ConsoleInput, console: Console) {
    thread::spawn(move || {
        console.wait_until_ended();
        // A machine that is gone waits for no answer.
        let _ = control.send(b"\n");
    });
}

/// Turns what was read into what is sent.
#[derive(Debug)]
enum Encoder {
    Keyboard(EscapeFilter),
    Pipe { piece: usize },
    Commands { unfinished: bool },
    Plain { any: bool },
}

impl Encoder {
    fn new(source: Source) -> Encoder {
        match source {
            Source::Keyboard => Encoder::Keyboard(EscapeFilter::default()),
            Source::Pipe => Encoder::Pipe { piece: 0 },
            Source::Commands => Encoder::Commands { unfinished: false },
            Source::Plain => Encoder::Plain { any: false },
        }
    }

    /// The bytes to send; none when the user wants the machine stopped.
    fn encode(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        match self {
            Encoder::Keyboard(filter) => match filter.take(bytes) {
                Action::Send(bytes) => Some(bytes),
                Action::Stop => None,
            },
            Encoder::Pipe { piece } => Some(quote(bytes, piece)),
            Encoder::Commands { unfinished } => {
                *unfinished = bytes.last().map_or(*unfinished, |byte| !matches!(byte, b'\n' | b'\r'));
                Some(bytes.to_vec())
            }
            Encoder::Plain { any } => {
                *any |= !bytes.is_empty();
                Some(bytes.to_vec())
            }
        }
    }

    /// What tells the Guest that no more will come.
    fn end(&self) -> Vec<u8> {
        match self {
            // A keyboard that goes away says so with a signal.
            Encoder::Keyboard(_) => Vec::new(),
            Encoder::Pipe { piece: 0 } => vec![END],
            // The first pushes the unfinished line.
            Encoder::Pipe { .. } => vec![END, END],
            // The last line runs even if nobody ended it, as in any shell.
            Encoder::Commands { unfinished: true } => [b"\n", FAREWELL].concat(),
            Encoder::Commands { unfinished: false } => FAREWELL.to_vec(),
            // Nobody wrote a word: the input is just not there, and a log-in prompt must not take it for a farewell.
            Encoder::Plain { any: false } => Vec::new(),
            Encoder::Plain { any: true } => vec![END],
        }
    }
}

fn quote(bytes: &[u8], piece: &mut usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() + bytes.len() / 8);
    for &byte in bytes {
        if matches!(byte, END | QUOTE) {
            out.push(QUOTE);
        }
        out.push(byte);
        *piece = if byte == b'\n' { 0 } else { *piece + 1 };
        if *piece == LONGEST_PIECE {
            out.push(END);
            *piece = 0;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the Guest's terminal makes of the bytes: the pieces that its readers get, the last one empty.
    fn terminal(bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut pieces = vec![Vec::new()];
        let mut bytes = bytes.iter();
        while let Some(&byte) = bytes.next() {
            let piece = pieces.last_mut().unwrap();
            match byte {
                QUOTE => piece.push(*bytes.next().unwrap()),
                END if piece.is_empty() => {
                    assert_eq!(bytes.len(), 0, "an end of input before the end");
                    return pieces;
                }
                END => pieces.push(Vec::new()),
                b'\n' => {
                    piece.push(byte);
                    pieces.push(Vec::new());
                }
                _ => piece.push(byte),
            }
        }
        panic!("no end of input");
    }

    fn through_a_pipe(chunks: &[&[u8]]) -> Vec<Vec<u8>> {
        let mut encoder = Encoder::new(Source::Pipe);
        let mut sent: Vec<u8> = chunks.iter().flat_map(|chunk| encoder.encode(chunk).unwrap()).collect();
        sent.extend(encoder.end());
        terminal(&sent)
    }

    #[test]
    fn every_byte_arrives_as_it_was() {
        let every: Vec<u8> = (0..=255).collect();
        assert_eq!(through_a_pipe(&[&every]).concat(), every);
    }

    #[test]
    fn an_unfinished_last_line_arrives() {
        assert_eq!(through_a_pipe(&[b"one\ntw", b"o"]), [&b"one\n"[..], b"two", b""]);
    }

    #[test]
    fn no_input_at_all_is_an_end() {
        assert_eq!(through_a_pipe(&[]), [b""]);
        assert_eq!(through_a_pipe(&[b"line\n"]), [&b"line\n"[..], b""]);
    }

    #[test]
    fn a_line_longer_than_any_terminal_takes_arrives_whole() {
        for length in [1023, 1024, 1025, 2048, 100_000] {
            let line = vec![0x16; length];
            let pieces = through_a_pipe(&[&line]);
            assert_eq!(pieces.concat(), line, "{length}");
            assert!(pieces.iter().all(|piece| 2 * piece.len() < 4095), "{length}");
        }
    }

    #[test]
    fn a_guest_that_we_know_nothing_of_gets_the_bytes_plain() {
        let mut encoder = Encoder::new(Source::Plain);
        assert!(encoder.end().is_empty());
        assert_eq!(encoder.encode(b"\x04\x16\n").unwrap(), b"\x04\x16\n");
        assert_eq!(encoder.end(), [END]);
    }

    #[test]
    fn the_end_of_input_turns_the_default_guest_off_after_its_last_line() {
        for (typed, end) in [("", "poweroff\n"), ("help\n", "poweroff\n"), ("help", "\npoweroff\n")] {
            let mut encoder = Encoder::new(Source::Commands);
            assert_eq!(encoder.encode(typed.as_bytes()).unwrap(), typed.as_bytes());
            assert_eq!(encoder.end(), end.as_bytes(), "after {typed:?}");
        }
    }

    #[test]
    fn the_user_can_stop_the_machine() {
        assert_eq!(Encoder::new(Source::Keyboard).encode(b"\x01x"), None);
    }
}
