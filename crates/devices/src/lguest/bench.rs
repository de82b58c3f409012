//! A carrier made of a byte array, for tests: one list bound to a key at a time.

use std::cell::{Cell, RefCell};

use lguest_abi::dma::{Section, Sections};

use super::{Carrier, Reserved};

/// Guest memory and its one bound list.
pub struct Bench {
    /// The memory.
    pub memory: RefCell<Vec<u8>>,
    /// Key and sections of the bound list.
    pub bound: RefCell<Option<(u64, Sections)>>,
    /// The bound list's `used_len`: it is free at 0.
    pub used: Cell<u32>,
    /// Interrupts so far.
    pub interrupts: Cell<u32>,
}

impl Bench {
    /// 64 KiB of zeroes and nothing bound.
    pub fn new() -> Bench {
        Bench {
            memory: RefCell::new(vec![0; 0x10000]),
            bound: RefCell::default(),
            used: Cell::new(0),
            interrupts: Cell::new(0),
        }
    }

    /// Binds a list of these sections.
    pub fn bind(&self, key: u64, sections: &[(u64, u16)]) {
        *self.bound.borrow_mut() = Some((key, list(sections)));
    }

    /// Bytes of memory.
    pub fn bytes(&self, at: usize, length: usize) -> Vec<u8> {
        self.memory.borrow()[at..at + length].to_vec()
    }
}

/// A list of these sections.
pub fn list(sections: &[(u64, u16)]) -> Sections {
    let mut list = Sections::new();
    for (address, length) in sections {
        list.push(Section { address: *address, length: *length }).unwrap();
    }
    list
}

impl Carrier for Bench {
    fn read(&self, address: u64, bytes: &mut [u8]) -> bool {
        let memory = self.memory.borrow();
        let found = memory.get(address as usize..).and_then(|rest| rest.get(..bytes.len()));
        found.map(|from| bytes.copy_from_slice(from)).is_some()
    }
    fn write(&self, address: u64, bytes: &[u8]) -> bool {
        let mut memory = self.memory.borrow_mut();
        let found = memory.get_mut(address as usize..).and_then(|rest| rest.get_mut(..bytes.len()));
        found.map(|to| to.copy_from_slice(bytes)).is_some()
    }
    fn take(&self, key: u64) -> Option<Reserved> {
        let (_, sections) =
            (*self.bound.borrow()).filter(|(bound, _)| *bound == key && self.used.get() == 0)?;
        self.used.set(5);
        Some(Reserved { list: 0, irq: 5, sections })
    }
    fn finish(&self, _reserved: &Reserved, used: u32) {
        self.used.set(used);
    }
    fn interrupt(&self, _reserved: &Reserved) {
        self.interrupts.set(self.interrupts.get() + 1);
    }
}
