//! The one key that the Launcher keeps for itself: Ctrl-A, as in `screen` and QEMU.

/// Ctrl-A.
const ESCAPE: u8 = 0x01;

/// What a key press comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// These bytes are for the Guest; there may be none.
    Send(Vec<u8>),
    /// The user wants the machine stopped.
    Stop,
}

/// Watches a keyboard's bytes for Ctrl-A.
#[derive(Debug, Default)]
pub struct EscapeFilter {
    pending: bool,
}

impl EscapeFilter {
    /// Takes what was read from the keyboard. What follows a stop in the same bytes is dropped.
    pub fn take(&mut self, bytes: &[u8]) -> Action {
        let mut out = Vec::with_capacity(bytes.len() + 1);
        for &byte in bytes {
            match (std::mem::take(&mut self.pending), byte) {
                (false, ESCAPE) => self.pending = true,
                (true, b'x' | b'X') => return Action::Stop,
                (true, ESCAPE) => out.push(ESCAPE),
                // Not one of ours: the Guest gets both keys.
                (true, other) => out.extend([ESCAPE, other]),
                (false, other) => out.push(other),
            }
        }
        Action::Send(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_keys_pass() {
        assert_eq!(EscapeFilter::default().take(b"ls\r\x03\x1b[A"), Action::Send(b"ls\r\x03\x1b[A".to_vec()));
    }

    #[test]
    fn ctrl_a_x_stops_even_when_the_two_come_apart() {
        let mut filter = EscapeFilter::default();
        assert_eq!(filter.take(b"\x01"), Action::Send(vec![]));
        assert_eq!(filter.take(b"x"), Action::Stop);
        assert_eq!(EscapeFilter::default().take(b"ab\x01X"), Action::Stop);
    }

    #[test]
    fn ctrl_a_twice_sends_one() {
        assert_eq!(EscapeFilter::default().take(b"\x01\x01x"), Action::Send(b"\x01x".to_vec()));
    }

    #[test]
    fn ctrl_a_and_another_key_are_both_sent() {
        assert_eq!(EscapeFilter::default().take(b"\x01e"), Action::Send(b"\x01e".to_vec()));
    }
}
