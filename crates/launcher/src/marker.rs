//! Two marks in the console's stream: here the session's output begins, here it ends.
//!
//! The two serial ports reach the Launcher on two threads, so a report on the second says nothing of how far the first
//! has come. The first process therefore writes a mark into the console's own stream before the session and
//! another one after it. Their word is drawn for every run, so that no output holds it by accident; a Guest that copies
//! it on purpose only hides its own output.

use std::hash::{BuildHasher, RandomState};

/// What a mark begins with: ASCII's record separator, which text does not hold and a mark's word cannot.
const FIRST: u8 = 0x1e;

/// The word of one run's two marks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MarkWord(String);

impl MarkWord {
    /// A word drawn by chance: 128 bits in hexadecimal.
    pub fn draw() -> MarkWord {
        // The standard library seeds its hash tables from the Host's random numbers; an empty hash shows the seed.
        let chance = || RandomState::new().hash_one(());
        MarkWord(format!("{:016x}{:016x}", chance(), chance()))
    }

    /// The word, as the session's variables hold it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Finds the mark before the session.
    pub fn begin(&self) -> MarkFinder {
        MarkFinder::new(&self.0, b'b')
    }

    /// Finds the mark after the session.
    pub fn end(&self) -> MarkFinder {
        MarkFinder::new(&self.0, b'e')
    }
}

/// Looks for one mark in a stream. It holds back what may be the beginning of one: seldom a byte, never more
/// than a mark's length.
#[derive(Clone, Debug)]
pub struct MarkFinder {
    mark: Vec<u8>,
    matched: usize,
}

impl MarkFinder {
    fn new(word: &str, which: u8) -> MarkFinder {
        let mut mark = vec![FIRST];
        mark.extend_from_slice(word.as_bytes());
        mark.push(which);
        MarkFinder { mark, matched: 0 }
    }

    /// Takes bytes of the stream and appends to `before` what surely stands before the mark. When the mark is
    /// complete, returns what follows it.
    pub fn take<'a>(&mut self, bytes: &'a [u8], before: &mut Vec<u8>) -> Option<&'a [u8]> {
        for (index, &byte) in bytes.iter().enumerate() {
            if byte == self.mark[self.matched] {
                self.matched += 1;
                if self.matched == self.mark.len() {
                    self.matched = 0;
                    return Some(&bytes[index + 1..]);
                }
                continue;
            }
            // The first byte of a mark stands nowhere else in it, so only this byte can begin another try.
            before.extend_from_slice(&self.mark[..self.matched]);
            self.matched = usize::from(byte == FIRST);
            if self.matched == 0 {
                before.push(byte);
            }
        }
        None
    }

    /// What is held back, when the stream ends here.
    pub fn held(&self) -> &[u8] {
        &self.mark[..self.matched]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(stream: &[u8], chunk: usize, finder: &mut MarkFinder) -> (Vec<u8>, Option<Vec<u8>>) {
        let (mut before, mut after) = (Vec::new(), None);
        for bytes in stream.chunks(chunk) {
            match &mut after {
                None => after = finder.take(bytes, &mut before).map(<[u8]>::to_vec),
                Some(after) => after.extend_from_slice(bytes),
            }
        }
        (before, after)
    }

    #[test]
    fn a_mark_is_found_however_the_stream_is_cut() {
        let word = MarkWord::draw();
        let stream = [b"\x1e\x1eout\x1e".as_slice(), &word.begin().mark, b"put\x1e"].concat();
        for chunk in 1..=stream.len() {
            let (before, after) = split(&stream, chunk, &mut word.begin());
            assert_eq!(before, b"\x1e\x1eout\x1e", "chunks of {chunk}");
            assert_eq!(after.unwrap(), b"put\x1e", "chunks of {chunk}");
        }
    }

    #[test]
    fn a_stream_without_the_mark_passes_whole() {
        let word = MarkWord::draw();
        let mut finder = word.end();
        let stream = [&word.begin().mark[..], b"text\x1e", &word.end().mark[..5]].concat();
        let (mut before, after) = split(&stream, 3, &mut finder);
        before.extend_from_slice(finder.held());
        assert_eq!((before, after), (stream, None));
    }

    #[test]
    fn two_runs_draw_two_words() {
        assert_ne!(MarkWord::draw(), MarkWord::draw());
        assert_eq!(MarkWord::draw().as_str().len(), 32);
    }
}
