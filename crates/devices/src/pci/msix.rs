//! MSI-X: interrupts that are messages, one for each of a function's vectors (PCI 3.0, 6.8.2).
//!
//! ```text
//!   table: an entry a vector      00 address   08 data   0c control: bit 0 masks it
//!   pending bits: a bit a vector that has something to say and is masked
//! ```
//! The Guest may write any address. A message to one where no interrupt controller listens is a message to nobody.

/// Bytes of an entry.
pub const ENTRY: usize = 16;
/// Vectors a function may have here: the pending bits of one number. 2,048 would be allowed.
pub const MOST_VECTORS: usize = u128::BITS as usize;
/// Message control: on, and all vectors masked.
pub const ENABLE: u16 = 1 << 15;
/// All vectors masked.
pub const FUNCTION_MASK: u16 = 1 << 14;
const CONTROL: usize = 12;
const VECTOR_MASKED: u8 = 1;

/// What is written where when a vector interrupts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    /// Where.
    pub address: u64,
    /// What.
    pub data: u32,
}

/// The table, its pending bits, and whether they count.
pub struct Msix {
    table: Vec<[u8; ENTRY]>,
    pending: u128,
    enabled: bool,
    /// By the Guest, or because the function may not write memory.
    masked: bool,
}

impl Msix {
    /// A table of so many vectors, all masked and all off.
    ///
    /// # Panics
    /// When there are more than [`MOST_VECTORS`]: the device is wrong, not the Guest.
    pub fn new(vectors: usize) -> Msix {
        assert!(vectors <= MOST_VECTORS, "a function has at most {MOST_VECTORS} vectors");
        let mut entry = [0; ENTRY];
        entry[CONTROL] = VECTOR_MASKED;
        Msix { table: vec![entry; vectors], pending: 0, enabled: false, masked: false }
    }

    /// How many vectors.
    pub fn vectors(&self) -> u16 {
        self.table.len() as u16
    }

    /// Whether interrupts are messages now.
    pub fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// The Guest turns messages on or off, masks or unmasks all. What waited for it goes out.
    pub fn control(&mut self, enabled: bool, masked: bool) -> Vec<Message> {
        (self.enabled, self.masked) = (enabled, masked);
        self.release()
    }

    /// A vector interrupts: the message to send; none while it is masked or off, and for a vector that is none.
    pub fn raise(&mut self, vector: u16) -> Option<Message> {
        let entry = self.table.get(usize::from(vector)).filter(|_| self.enabled)?;
        if self.masked || is_masked(entry) {
            self.pending |= 1 << vector;
            return None;
        }
        Some(message(entry))
    }

    /// Forgets what waits.
    pub fn forget(&mut self) {
        self.pending = 0;
    }

    /// Reads the table.
    pub fn read_table(&self, at: usize, data: &mut [u8]) {
        let table = self.table.as_flattened();
        for (at, byte) in (at..).zip(data) {
            *byte = table.get(at).copied().unwrap_or(0);
        }
    }

    /// Writes the table: four or eight aligned bytes, other accesses are ignored (6.8.2, "accessed in DWORDs or QWORDs").
    /// What waited for it goes out.
    pub fn write_table(&mut self, at: usize, data: &[u8]) -> Vec<Message> {
        let whole = matches!(data.len(), 4 | 8) && at.is_multiple_of(data.len());
        let Some(place) = self.table.as_flattened_mut().get_mut(at..at + data.len()).filter(|_| whole) else {
            return Vec::new();
        };
        place.copy_from_slice(data);
        self.release()
    }

    /// Reads the pending bits.
    pub fn read_pending(&self, at: usize, data: &mut [u8]) {
        let bits = self.pending.to_le_bytes();
        for (at, byte) in (at..).zip(data) {
            *byte = bits.get(at).copied().unwrap_or(0);
        }
    }

    /// What waited and may go now.
    fn release(&mut self) -> Vec<Message> {
        if self.pending == 0 || self.masked || !self.enabled {
            return Vec::new();
        }
        let mut out = Vec::new();
        for (vector, entry) in self.table.iter().enumerate() {
            if self.pending & 1 << vector != 0 && !is_masked(entry) {
                self.pending &= !(1 << vector);
                out.push(message(entry));
            }
        }
        out
    }
}

fn is_masked(entry: &[u8; ENTRY]) -> bool {
    entry[CONTROL] & VECTOR_MASKED != 0
}

fn message(entry: &[u8; ENTRY]) -> Message {
    let [a, b, c, d, e, f, g, h, data @ .., _, _, _, _] = *entry;
    Message { address: u64::from_le_bytes([a, b, c, d, e, f, g, h]), data: u32::from_le_bytes(data) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two vectors, each with an address and data of its own, unmasked.
    fn table() -> Msix {
        let mut msix = Msix::new(2);
        for vector in 0..2usize {
            msix.write_table(vector * ENTRY, &(0xfee0_0000 + vector as u64).to_le_bytes());
            msix.write_table(vector * ENTRY + 8, &(0x40 + vector as u32).to_le_bytes());
            msix.write_table(vector * ENTRY + 12, &[0; 4]);
        }
        msix
    }

    fn pending(msix: &Msix) -> u8 {
        let mut bits = [0xff];
        msix.read_pending(0, &mut bits);
        bits[0]
    }

    #[test]
    fn a_vector_sends_its_own_message_once_messages_are_on() {
        let mut msix = table();
        assert_eq!((msix.raise(1), pending(&msix)), (None, 0), "off");
        assert!(msix.control(true, false).is_empty());
        assert_eq!(msix.raise(1), Some(Message { address: 0xfee0_0001, data: 0x41 }));
        assert_eq!(msix.raise(2), None, "a vector that is none");
        assert_eq!(msix.raise(0xffff), None);
    }

    #[test]
    fn what_a_masked_vector_has_to_say_waits() {
        let mut msix = table();
        msix.control(true, false);
        msix.write_table(12, &[1, 0, 0, 0]);
        assert_eq!((msix.raise(0), msix.raise(0), pending(&msix)), (None, None, 1));
        assert!(msix.raise(1).is_some(), "the other is not masked");
        // Another address while it waits: the message goes where the table says when it goes.
        msix.write_table(0, &0xfee0_1000u64.to_le_bytes());
        assert_eq!(msix.write_table(12, &[0; 4]), [Message { address: 0xfee0_1000, data: 0x40 }]);
        assert_eq!((pending(&msix), msix.write_table(12, &[0; 4])), (0, vec![]), "once");
    }

    #[test]
    fn the_functions_mask_holds_all_and_forgetting_forgets() {
        let mut msix = table();
        msix.control(true, true);
        assert_eq!((msix.raise(0), msix.raise(1), pending(&msix)), (None, None, 3));
        assert_eq!(msix.control(true, false).len(), 2);
        msix.control(true, true);
        msix.raise(0);
        msix.forget();
        assert!(msix.control(true, false).is_empty());
    }

    #[test]
    fn the_table_takes_whole_words_inside_it_only() {
        let mut msix = table();
        for (at, data) in
            [(32, &[9; 4][..]), (28, &[9; 8]), (1, &[9; 4]), (0, &[9; 2]), (usize::MAX - 3, &[9; 4])]
        {
            if at.checked_add(data.len()).is_some() {
                msix.write_table(at, data);
            }
        }
        let mut bytes = [0; 33];
        msix.read_table(0, &mut bytes);
        assert!(!bytes.contains(&9) && bytes[32] == 0);
    }
}
