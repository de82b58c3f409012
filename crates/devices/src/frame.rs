//! An Ethernet frame on its way between a Guest and the outside, and what somebody on the way still has to do to it.
//!
//! A sender may leave two kinds of work to whoever can do it better (virtio 1.2, 5.1.6): the checksum of TCP or UDP, and the
//! cutting of one large TCP segment into those that a wire can carry. Frames that never meet a wire need neither.

/// The longest frame: a 16-bit IPv4 length behind an Ethernet header with a VLAN tag.
pub const LONGEST: usize = 65535 + 18;
/// The shortest: an Ethernet header.
pub const SHORTEST: usize = 14;
/// Bytes of `struct virtio_net_hdr` with its number of buffers (5.1.6), which leads every frame in a queue.
pub const HEADER: usize = 12;

/// A checksum that is not there yet: the ones' complement sum of all from `start` on belongs `offset` bytes behind it,
/// where the pseudo header's sum is already (5.1.6.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unfinished {
    /// First byte that counts.
    pub start: u16,
    /// Where the sum goes, from `start` on.
    pub offset: u16,
}

/// A TCP segment over IPv4 that stands for several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Large {
    /// Bytes of all headers together.
    pub headers: u16,
    /// Bytes of data in each of the segments, at least 1.
    pub size: u16,
    /// Whether the sender uses congestion marks (5.1.6, GSO_ECN).
    pub marks: bool,
}

/// What a receiver takes over from the sender.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Abilities {
    /// Frames whose checksum is not made.
    pub unfinished: bool,
    /// Segments that stand for several. Only with the former.
    pub large: bool,
}

/// A frame.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Frame {
    /// From the destination's address on, without a check sequence.
    pub bytes: Vec<u8>,
    /// The checksum, if it is left to do.
    pub unfinished: Option<Unfinished>,
    /// The cutting, if it is left to do.
    pub large: Option<Large>,
}

mod flag {
    pub const NEEDS_CHECKSUM: u8 = 1;
}

mod kind {
    pub const NONE: u8 = 0;
    pub const TCP4: u8 = 1;
    pub const MARKS: u8 = 0x80;
}

impl Frame {
    /// A frame that needs nothing more.
    pub fn whole(bytes: Vec<u8>) -> Frame {
        Frame { bytes, unfinished: None, large: None }
    }

    /// The header that leads it, for a frame in this many buffers.
    pub fn header(&self, buffers: u16) -> [u8; HEADER] {
        let mut header = [0; HEADER];
        let mut put = |at: usize, value: u16| header[at..at + 2].copy_from_slice(&value.to_le_bytes());
        if let Some(large) = self.large {
            put(2, large.headers);
            put(4, large.size);
        }
        if let Some(unfinished) = self.unfinished {
            put(6, unfinished.start);
            put(8, unfinished.offset);
        }
        put(10, buffers);
        header[0] = self.unfinished.map_or(0, |_| flag::NEEDS_CHECKSUM);
        header[1] =
            self.large.map_or(kind::NONE, |large| kind::TCP4 | if large.marks { kind::MARKS } else { 0 });
        header
    }

    /// The frame behind this header. None for one that asks for work that was not offered, or points outside the frame.
    pub fn read(header: &[u8; HEADER], bytes: Vec<u8>) -> Option<Frame> {
        let word = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
        let unfinished =
            (header[0] & flag::NEEDS_CHECKSUM != 0).then(|| Unfinished { start: word(6), offset: word(8) });
        let large = match header[1] & !kind::MARKS {
            kind::NONE => None,
            kind::TCP4 => {
                Some(Large { headers: word(2), size: word(4), marks: header[1] & kind::MARKS != 0 })
            }
            _ => return None,
        };
        let frame = Frame { bytes, unfinished, large };
        frame.is_sound().then_some(frame)
    }

    fn is_sound(&self) -> bool {
        let length = self.bytes.len();
        let inside = |unfinished: Unfinished| {
            usize::from(unfinished.start) + usize::from(unfinished.offset) + 2 <= length
        };
        (SHORTEST..=LONGEST).contains(&length)
            && self.unfinished.is_none_or(inside)
            // Each piece gets a checksum of its own, so a large one cannot have a finished one (5.1.6.2).
            && self.large.is_none_or(|large| large.size > 0 && self.unfinished.is_some())
    }

    /// Does what is left of the checksum.
    pub fn finish(&mut self) {
        let Some(Unfinished { start, offset }) = self.unfinished.take() else { return };
        let (start, place) = (usize::from(start), usize::from(start) + usize::from(offset));
        let Some(counted) = self.bytes.get(start..).filter(|_| place + 2 <= self.bytes.len()) else { return };
        let sum = !fold(counted);
        // A UDP checksum of 0 would mean none; its other form says the same number (RFC 768).
        let sum = if sum == 0 { 0xffff } else { sum };
        self.bytes[place..place + 2].copy_from_slice(&sum.to_be_bytes());
    }
}

/// The ones' complement sum of 16-bit words (RFC 1071), an odd byte filled up with zero.
fn fold(bytes: &[u8]) -> u16 {
    let mut words = bytes.chunks_exact(2);
    let mut sum: u64 = words.by_ref().map(|word| u64::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    sum += words.remainder().first().map_or(0, |&last| u64::from(last) << 8);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_says_what_is_left_to_do_and_is_read_back() {
        let mut frame = Frame::whole(vec![7; 100]);
        assert_eq!(Frame::read(&frame.header(1), frame.bytes.clone()), Some(frame.clone()));
        frame.unfinished = Some(Unfinished { start: 34, offset: 16 });
        frame.large = Some(Large { headers: 54, size: 20, marks: true });
        let header = frame.header(3);
        assert_eq!(header, [1, 0x81, 54, 0, 20, 0, 34, 0, 16, 0, 3, 0]);
        assert_eq!(Frame::read(&header, frame.bytes.clone()), Some(frame));
    }

    #[test]
    fn a_header_that_lies_is_refused() {
        let read = |header: [u8; HEADER]| Frame::read(&header, vec![0; 60]);
        assert!(read([1, 0, 0, 0, 0, 0, 34, 0, 16, 0, 0, 0]).is_some());
        assert!(read([1, 0, 0, 0, 0, 0, 43, 0, 16, 0, 0, 0]).is_none(), "the sum lies behind the frame");
        assert!(read([1, 0, 0, 0, 0, 0, 255, 255, 255, 255, 0, 0]).is_none(), "no sum of the two may wrap");
        assert!(read([0, 1, 54, 0, 20, 0, 0, 0, 0, 0, 0, 0]).is_none(), "large without a checksum to make");
        assert!(read([1, 1, 54, 0, 0, 0, 34, 0, 16, 0, 0, 0]).is_none(), "pieces of no bytes");
        assert!(read([1, 4, 54, 0, 20, 0, 34, 0, 16, 0, 0, 0]).is_none(), "TCP over IPv6 was not offered");
        assert!(Frame::read(&[0; HEADER], vec![0; SHORTEST - 1]).is_none());
        assert!(Frame::read(&[0; HEADER], vec![0; LONGEST + 1]).is_none());
    }

    #[test]
    fn a_finished_checksum_makes_the_whole_sum_to_all_ones() {
        for length in [60, 61] {
            let mut frame = Frame::whole((0..length).map(|byte| byte as u8).collect());
            frame.bytes[50..52].fill(0);
            frame.unfinished = Some(Unfinished { start: 34, offset: 16 });
            frame.finish();
            assert_eq!((fold(&frame.bytes[34..]), frame.unfinished), (0xffff, None));
        }
    }
}
