//! Bytes as what a Guest's agent says to `lguest exec`, heard twice: by the command's own reader, from a stream that comes in
//! pieces, and by the few obvious lines below, which have all of it.
//!
//! The first byte of an input is the longest piece; the rest is the stream.

use std::io::{self, Read};

use lguest_init::exec::{Frame, LARGEST};
use lguest_launcher::ending::Ending;
use lguest_launcher::running::hearing;

/// A stream that gives at most so many bytes at a time, and is asked for no more than a frame may have.
struct Pieces<'a> {
    rest: &'a [u8],
    longest: usize,
}

impl Read for Pieces<'_> {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        assert!(room.len() <= LARGEST, "{} bytes are asked for at once", room.len());
        let length = room.len().min(self.longest);
        self.rest.read(&mut room[..length])
    }
}

/// All that comes of a conversation.
#[derive(Debug, Default, PartialEq, Eq)]
struct Heard {
    output: Vec<u8>,
    errors: Vec<u8>,
    /// Bytes of input that the agent gives back, summed.
    taken: u64,
    /// The program's, if it was told.
    status: Option<u8>,
    /// Bytes of the stream that nobody looked at.
    left: usize,
}

/// Hears one input.
pub fn run(input: &[u8]) {
    let Some((longest, stream)) = input.split_first() else { return };
    let longest = usize::from(*longest).max(1);
    let _ = hearing::greeting(&mut Pieces { rest: stream, longest });
    let (mut heard, mut from) = (Heard::default(), Pieces { rest: stream, longest });
    let taken = &mut heard.taken;
    let ending =
        hearing::hear(&mut from, &mut heard.output, &mut heard.errors, |bytes| *taken += u64::from(bytes));
    heard.status = if let Ending::Status(status) = ending { Some(status) } else { None };
    heard.left = from.rest.len();
    let (expected, whole) = expect(stream);
    match whole {
        true => assert_eq!(heard, expected),
        // Where a frame is cut or is none, how much of it is read before that shows is nobody's promise.
        false => assert_eq!(Heard { left: 0, ..heard }, expected),
    }
    each_frame_is_written_as_it_was_read(stream);
}

/// The truth, slowly; and whether the stream ended between two frames, or with a status.
fn expect(mut rest: &[u8]) -> (Heard, bool) {
    let mut heard = Heard::default();
    while !rest.is_empty() {
        let number =
            |at: usize| rest.get(at..at + 4).map(|four| u32::from_le_bytes(four.try_into().expect("four")));
        let (Some(kind), Some(length)) = (number(0), number(4)) else { return (heard, false) };
        let Some(content) = rest.get(8..8 + length as usize).filter(|content| content.len() <= LARGEST)
        else {
            return (heard, false);
        };
        let after = &rest[8 + content.len()..];
        match (kind, content) {
            (1, [name @ .., _, _]) if name == b"lguest-exec" => {}
            (2 | 3, _) | (4, [_, _, _, _]) | (5, [_]) => {}
            (6, bytes) => heard.output.extend(bytes),
            (7, bytes) => heard.errors.extend(bytes),
            (8, [a, b, c, d]) => heard.taken += u64::from(u32::from_le_bytes([*a, *b, *c, *d])),
            (9, [status]) => {
                return (Heard { status: Some(*status), left: after.len(), ..heard }, true);
            }
            _ => return (heard, false),
        }
        rest = after;
    }
    (heard, true)
}

/// A frame has one form.
fn each_frame_is_written_as_it_was_read(stream: &[u8]) {
    let mut rest = stream;
    loop {
        let before = rest;
        let Ok(Some(frame)) = Frame::read(&mut rest) else { return };
        assert_eq!(frame.write(), before[..before.len() - rest.len()], "{frame:?}");
    }
}
