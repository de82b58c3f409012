//! The program writes its Guest's memory as it likes, and the engine may have made code from what was there.
//!
//! Nobody tells of these writes, so they are looked for: at every read and before every interrupt, all pages from which the engine has made
//! code now are compared with what they held the last time. One that differs, and one that was not among them the last time,
//! is made anew. So a page whose old code the Guest has run, and which a program then fills with other code, is
//! current by the interrupt that tells of it. The price is a look at a byte a page and at the bytes of pages with code.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use lguest_host::memory::{GuestAddress, Memory, PAGE_SIZE};

/// What pages with code held.
pub struct Coherence {
    memory: Arc<Memory>,
    sums: Mutex<BTreeMap<u64, u64>>,
}

impl Coherence {
    /// Nothing has run yet.
    pub fn new(memory: Arc<Memory>) -> Coherence {
        Coherence { memory, sums: Mutex::new(BTreeMap::new()) }
    }

    /// Looks for what the program wrote.
    pub fn look(&self) {
        let mut sums = self.sums.lock().unwrap_or_else(PoisonError::into_inner);
        let mut now = BTreeMap::new();
        for page in self.memory.pages_with_code() {
            let sum = self.sum(page);
            if sums.get(&page) != Some(&sum) {
                self.memory.device_wrote(page * PAGE_SIZE, PAGE_SIZE);
            }
            now.insert(page, sum);
        }
        *sums = now;
    }

    /// A number that another content has not, but for one chance in 2^64. Below the hole, where all memory here is, a
    /// page's place in the file is its address.
    fn sum(&self, page: u64) -> u64 {
        let mut bytes = [0; PAGE_SIZE as usize];
        if self.memory.read(GuestAddress(page * PAGE_SIZE), &mut bytes).is_err() {
            return 0;
        }
        let (words, _) = bytes.as_chunks::<8>();
        words.iter().fold(0xcbf2_9ce4_8422_2325, |sum, word| {
            (sum ^ u64::from_ne_bytes(*word)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
        })
    }
}
