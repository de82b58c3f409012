//! A line as it is typed.

/// Bytes of a line. More are not taken.
pub const LINE_MAXIMUM: usize = 256;
const BACKSPACE: u8 = 0x08;
const DELETE: u8 = 0x7f;
/// Ctrl-U: forget the line.
const KILL: u8 = 0x15;
/// Takes one character back on a terminal.
const RUB_OUT: &[u8] = b"\x08 \x08";

/// What a byte did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Typed<'a> {
    /// Nothing to see.
    Nothing,
    /// The terminal should show this, so many times.
    Echo(&'a [u8], usize),
    /// The line is whole.
    Enter,
}

/// A line being typed.
pub struct Line {
    bytes: [u8; LINE_MAXIMUM],
    length: usize,
    after_return: bool,
}

impl Default for Line {
    fn default() -> Line {
        Line { bytes: [0; LINE_MAXIMUM], length: 0, after_return: false }
    }
}

impl Line {
    /// Takes a byte. Only printable ASCII, backspace, Ctrl-U and the end of a line mean anything.
    pub fn take(&mut self, byte: u8) -> Typed<'_> {
        let after_return = core::mem::replace(&mut self.after_return, byte == b'\r');
        match byte {
            // The second half of a line end of two bytes.
            b'\n' if after_return => Typed::Nothing,
            b'\r' | b'\n' => Typed::Enter,
            BACKSPACE | DELETE if self.length > 0 => {
                self.length -= 1;
                Typed::Echo(RUB_OUT, 1)
            }
            KILL => Typed::Echo(RUB_OUT, core::mem::take(&mut self.length)),
            b' '..=b'~' if self.length < LINE_MAXIMUM => {
                self.bytes[self.length] = byte;
                self.length += 1;
                Typed::Echo(&self.bytes[self.length - 1..self.length], 1)
            }
            _ => Typed::Nothing,
        }
    }

    /// The line so far.
    #[must_use]
    pub fn text(&self) -> &str {
        core::str::from_utf8(&self.bytes[..self.length]).unwrap_or("")
    }

    /// Begins a new line.
    pub fn clear(&mut self) {
        self.length = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(bytes: &[u8]) -> Line {
        let mut line = Line::default();
        for byte in bytes {
            let _ = line.take(*byte);
        }
        line
    }

    #[test]
    fn backspace_takes_back_and_stops_at_the_beginning() {
        assert_eq!(typed(b"cax\x7ft").text(), "cat");
        assert_eq!(typed(b"\x08\x08x").text(), "x");
        assert_eq!(typed(b"wrong\x15right").text(), "right");
    }

    #[test]
    fn a_line_end_of_two_bytes_is_one() {
        let mut line = typed(b"a");
        assert_eq!(line.take(b'\r'), Typed::Enter);
        assert_eq!(line.take(b'\n'), Typed::Nothing);
        assert_eq!(line.take(b'\n'), Typed::Enter);
    }

    #[test]
    fn a_long_line_stays_within_its_limit() {
        assert_eq!(typed(&[b'a'; 1000]).text().len(), LINE_MAXIMUM);
        assert_eq!(typed(b"\x1b\x00\xff").text(), "");
    }
}
