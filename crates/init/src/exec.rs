//! What `lguest exec` and the agent in a running Guest say to each other, over one stream for each program.
//!
//! ```text
//!   agent    Hello(version)
//!   client             ──► Start(a plan's words: command, environment, user, directory, terminal)
//!   client             ──► Input, Size, Signal ...        agent  Output, Errors, Taken ...
//!   agent    Ended(status)
//! ```
//! A frame is its kind (one byte), three bytes of zero, the length of what follows (u32, little-endian, at most [`LARGEST`]) and
//! that. Neither side believes the other more than that: whoever reads holds one frame, and input under way is at most
//! [`WINDOW`] bytes, which the agent gives back as the program takes them.

use std::io::{self, Read};

/// The agent's port in the Guest: "lg" in ASCII.
pub const PORT: u32 = 0x6c67;
/// The version of all this. A client of another one says so and asks for nothing.
pub const VERSION: u16 = 1;
/// The longest content of a frame: a command line as long as one argument may be (execve(2)).
pub const LARGEST: usize = 128 << 10;
/// Bytes of input or output in a frame, as the senders here make them.
pub const PIECE: usize = 16 << 10;
/// Bytes of input that the agent has not given back.
pub const WINDOW: usize = 128 << 10;
/// Bytes before a frame's content.
const HEADER: usize = 8;
/// The agent's Hello says more than its version, so that nobody else's greeting is taken for it.
const NAME: &[u8] = b"lguest-exec";

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// The agent is there, and speaks this version.
    Hello(u16),
    /// Start this: a plan's bytes, of which the parts that say what to run count.
    Start(Vec<u8>),
    /// For the program's standard input; none at all is its end.
    Input(Vec<u8>),
    /// The terminal has this many columns and rows.
    Size(u16, u16),
    /// This signal, for the program and its group.
    Signal(u8),
    /// From standard output, or from the terminal.
    Output(Vec<u8>),
    /// From standard error.
    Errors(Vec<u8>),
    /// So many bytes of input are on their way into the program.
    Taken(u32),
    /// The program ended with this status.
    Ended(u8),
}

impl Frame {
    fn kind(&self) -> u8 {
        match self {
            Frame::Hello(_) => 1,
            Frame::Start(_) => 2,
            Frame::Input(_) => 3,
            Frame::Size(..) => 4,
            Frame::Signal(_) => 5,
            Frame::Output(_) => 6,
            Frame::Errors(_) => 7,
            Frame::Taken(_) => 8,
            Frame::Ended(_) => 9,
        }
    }

    /// The frame's bytes. What is longer than a frame may be is cut, so senders cut first.
    pub fn write(&self) -> Vec<u8> {
        let content: &[u8] = match self {
            Frame::Hello(version) => &[NAME, &version.to_le_bytes()].concat(),
            Frame::Start(bytes) | Frame::Input(bytes) | Frame::Output(bytes) | Frame::Errors(bytes) => bytes,
            Frame::Size(columns, rows) => &[columns.to_le_bytes(), rows.to_le_bytes()].concat(),
            Frame::Signal(number) | Frame::Ended(number) => &[*number],
            Frame::Taken(bytes) => &bytes.to_le_bytes(),
        };
        let content = &content[..content.len().min(LARGEST)];
        let length = (content.len() as u32).to_le_bytes();
        [&[self.kind(), 0, 0, 0], &length, content].concat()
    }

    /// The next frame of a stream; none at its end.
    ///
    /// # Errors
    /// What the stream says, and [`io::ErrorKind::InvalidData`] for what is no frame.
    pub fn read(from: &mut impl Read) -> io::Result<Option<Frame>> {
        let mut header = [0; HEADER];
        loop {
            match from.read(&mut header[..1]) {
                Ok(0) => return Ok(None),
                Ok(_) => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        from.read_exact(&mut header[1..])?;
        let strange = || io::Error::new(io::ErrorKind::InvalidData, "this is no frame of lguest exec's");
        let length = u32::from_le_bytes(header[4..].try_into().expect("four bytes")) as usize;
        if header[1..4] != [0; 3] || length > LARGEST {
            return Err(strange());
        }
        let mut content = vec![0; length];
        from.read_exact(&mut content)?;
        parse(header[0], content).ok_or_else(strange).map(Some)
    }
}

fn parse(kind: u8, content: Vec<u8>) -> Option<Frame> {
    let half =
        |at: usize| content.get(at..at + 2).map(|two| u16::from_le_bytes(two.try_into().expect("two")));
    Some(match (kind, content.len()) {
        (1, length) if length == NAME.len() + 2 && content.starts_with(NAME) => {
            Frame::Hello(half(NAME.len())?)
        }
        (2, _) => Frame::Start(content),
        (3, _) => Frame::Input(content),
        (4, 4) => Frame::Size(half(0)?, half(2)?),
        (5, 1) => Frame::Signal(content[0]),
        (6, _) => Frame::Output(content),
        (7, _) => Frame::Errors(content),
        (8, 4) => Frame::Taken(u32::from(half(0)?) | u32::from(half(2)?) << 16),
        (9, 1) => Frame::Ended(content[0]),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Frame> {
        vec![
            Frame::Hello(VERSION),
            Frame::Start(b"command\0ls\0".to_vec()),
            Frame::Input(vec![7; PIECE]),
            Frame::Input(vec![]),
            Frame::Size(80, 24),
            Frame::Signal(15),
            Frame::Output(b"out".to_vec()),
            Frame::Errors(b"err".to_vec()),
            Frame::Taken(70_000),
            Frame::Ended(3),
        ]
    }

    #[test]
    fn frames_are_read_back_one_after_the_other() {
        let bytes: Vec<u8> = all().iter().flat_map(Frame::write).collect();
        let mut from = &bytes[..];
        for frame in all() {
            assert_eq!(Frame::read(&mut from).unwrap(), Some(frame));
        }
        assert_eq!(Frame::read(&mut from).unwrap(), None);
    }

    #[test]
    fn what_is_no_frame_is_an_error_and_costs_nothing() {
        let ended = |length: u32, content: &[u8]| [&[9, 0, 0, 0], &length.to_le_bytes(), content].concat();
        let strange = [
            ended(2, &[1, 2]),
            ended(0, &[]),
            ended(u32::MAX, &[]),
            ended(LARGEST as u32 + 1, &vec![0; LARGEST + 1]),
            vec![9, 1, 0, 0, 1, 0, 0, 0, 5],
            vec![10, 0, 0, 0, 0, 0, 0, 0],
            [&[1, 0, 0, 0, 13, 0, 0, 0][..], b"another-one\x01\x00"].concat(),
        ];
        for bytes in strange {
            let error = Frame::read(&mut &bytes[..]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{bytes:?}");
        }
        let cut = Frame::Output(b"output".to_vec()).write();
        for length in 1..cut.len() {
            assert!(Frame::read(&mut &cut[..length]).is_err(), "{length} bytes of a frame");
        }
    }

    #[test]
    fn any_bytes_at_all_end() {
        let mut state = 1u64;
        for _ in 0..2000 {
            let bytes: Vec<u8> = (0..64)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    (state >> 60) as u8
                })
                .collect();
            let mut from = &bytes[..];
            while let Ok(Some(_)) = Frame::read(&mut from) {}
        }
    }
}
