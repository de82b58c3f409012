//! The control interface: what /dev/lguest was written, word by word (facts 8 and 11).
//!
//! Words are 32 bits in the first generation and `unsigned long` in the second, which dropped GETDMA and BREAK and
//! added EVENTFD. The first word is the request.

/// The first word of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Request {
    /// First generation: page limit, page directory, start, page offset. Second: base, page limit, start.
    Initialize = 0,
    /// Key. Answers the address of a free bound list, whose `used_len` then holds its irq. First generation only.
    GetDma = 1,
    /// Interrupt number, 0..=31.
    Irq = 2,
    /// 1 makes `read` return and waits; 0 lets the waiter go. First generation only.
    Break = 3,
    /// Address, file descriptor: notifies there count on that file. Second generation only.
    EventFd = 4,
}

impl Request {
    /// The request of that number; others are EINVAL.
    #[must_use]
    pub const fn from_word(word: u64) -> Option<Request> {
        match word {
            0 => Some(Request::Initialize),
            1 => Some(Request::GetDma),
            2 => Some(Request::Irq),
            3 => Some(Request::Break),
            4 => Some(Request::EventFd),
            _ => None,
        }
    }
}

/// What INITIALIZE answers in the first generation: the bytes of its four arguments, not of all five words.
pub const INITIALIZED_32: usize = 16;
/// What it answers in the second: three words.
pub const INITIALIZED_WORDS: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_named_by_their_first_word() {
        for number in 0..=4 {
            assert_eq!(Request::from_word(number).map(|request| request as u64), Some(number));
        }
        assert_eq!(Request::from_word(5), None);
        assert_eq!(Request::from_word(u64::MAX), None);
    }
}
