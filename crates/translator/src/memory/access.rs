//! Guest memory by linear address, the slow and exact way: what system instructions, event delivery and every access
//! that generated code gives up on go through.
//!
//! An access touches one page or two. Both are translated before a byte is read or written, so a fault leaves memory as it
//! was (SDM vol. 3, 4.7: a page fault is taken before the access).

use crate::cpu::Cpu;
use crate::debug::points::Watch;
use crate::events::exception::Exception;
use crate::memory::ram::{PAGE_SIZE, Ram};
use crate::memory::walk::{Access, Intent, Paging, Translation, canonical, walk};
use std::cell::Cell;
use std::sync::atomic::{Ordering, fence};

/// Why an access did not happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The Guest gets this exception.
    Exception(Exception),
    /// The address leads to no RAM: a device, or nothing.
    NotRam {
        /// Guest-physical address of the first byte of the access that is not RAM.
        physical: u64,
    },
}

impl From<Exception> for Fault {
    fn from(exception: Exception) -> Fault {
        Fault::Exception(exception)
    }
}

/// How many code pages [`GuestMemory`] remembers as written before it gives up counting and says "all of them".
/// One instruction writes two pages at most; a run of them between two drains stays far below this.
const CODE_WRITES_LIMIT: usize = 64;

/// Pages with translated code that were written since the last drain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CodeWrites {
    pages: Vec<u64>,
    overflowed: bool,
}

impl CodeWrites {
    /// True when nothing was written.
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    /// Places of the pages in the memory file, each a multiple of the page size and named once; `None` when there were
    /// too many to remember, and all translated code must be dropped.
    pub fn pages(&self) -> Option<&[u64]> {
        (!self.overflowed).then_some(&self.pages)
    }

    fn record(&mut self, page: u64) {
        if self.pages.contains(&page) {
        } else if self.pages.len() == CODE_WRITES_LIMIT {
            self.overflowed = true;
        } else {
            self.pages.push(page);
        }
    }
}

/// One vCPU's way to memory outside generated code.
pub struct GuestMemory<'a> {
    ram: &'a Ram,
    code_writes: CodeWrites,
    /// Data that somebody watches, and which of it was touched.
    watches: Vec<Watch>,
    hits: Cell<u32>,
}

/// The one or two stretches of physical memory behind an access.
struct Spans {
    first: u64,
    first_length: usize,
    second: u64,
}

impl<'a> GuestMemory<'a> {
    /// A view of `ram` with nothing written yet.
    pub fn new(ram: &'a Ram) -> GuestMemory<'a> {
        GuestMemory::watched(ram, Vec::new())
    }

    /// The same, with data to watch. Accesses of the processor's own, to its tables, are not seen.
    pub(crate) fn watched(ram: &'a Ram, watches: Vec<Watch>) -> GuestMemory<'a> {
        GuestMemory { ram, code_writes: CodeWrites::default(), watches, hits: Cell::new(0) }
    }

    /// The watches back, and which of them were touched, a bit each.
    pub(crate) fn into_watches(self) -> (Vec<Watch>, u32) {
        (self.watches, self.hits.get())
    }

    fn watch(&self, address: u64, length: usize, access: Access) {
        for (n, watch) in self.watches.iter().enumerate() {
            if watch.sees(address, length as u64, access.intent == Intent::Write) {
                self.hits.set(self.hits.get() | 1 << n);
            }
        }
    }

    /// The RAM behind it.
    pub fn ram(&self) -> &'a Ram {
        self.ram
    }

    /// What was written over translated code since the last call; the caller drops what was made from it.
    pub fn take_code_writes(&mut self) -> CodeWrites {
        std::mem::take(&mut self.code_writes)
    }

    /// Where `address` leads, with accessed and dirty bits set as the access sets them.
    pub fn translate(&self, cpu: &Cpu, address: u64, access: Access) -> Result<Translation, Exception> {
        walk(self.ram, &Paging::of(cpu), address, access)
    }

    /// Reads `bytes.len()` bytes, at most a page of them.
    pub fn read_virtual(
        &self,
        cpu: &Cpu,
        address: u64,
        bytes: &mut [u8],
        access: Access,
    ) -> Result<(), Fault> {
        self.watch(address, bytes.len(), access);
        self.read_unwatched(cpu, address, bytes, access)
    }

    fn read_unwatched(&self, cpu: &Cpu, address: u64, bytes: &mut [u8], access: Access) -> Result<(), Fault> {
        let spans = self.spans(cpu, address, bytes.len(), access)?;
        let (first, second) = bytes.split_at_mut(spans.first_length);
        self.ram.read(spans.first, first);
        self.ram.read(spans.second, second);
        Ok(())
    }

    /// Writes `bytes`, at most a page of them. `access.intent` must be [`Intent::Write`].
    pub fn write_virtual(
        &mut self,
        cpu: &Cpu,
        address: u64,
        bytes: &[u8],
        access: Access,
    ) -> Result<(), Fault> {
        debug_assert_eq!(access.intent, Intent::Write);
        self.watch(address, bytes.len(), access);
        let spans = self.spans(cpu, address, bytes.len(), access)?;
        let (first, second) = bytes.split_at(spans.first_length);
        self.write_span(spans.first, first);
        self.write_span(spans.second, second);
        Ok(())
    }

    /// Whether an access would succeed.
    pub fn probe(&self, cpu: &Cpu, address: u64, length: usize, access: Access) -> Result<(), Fault> {
        self.spans(cpu, address, length, access).map(drop)
    }

    /// Reads a little-endian number of `size` bytes (1 to 8).
    pub fn read_number(&self, cpu: &Cpu, address: u64, size: usize, access: Access) -> Result<u64, Fault> {
        let mut bytes = [0; 8];
        self.read_virtual(cpu, address, &mut bytes[..size], access)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Writes the low `size` bytes (1 to 8) of `value`.
    pub fn write_number(
        &mut self,
        cpu: &Cpu,
        address: u64,
        size: usize,
        value: u64,
        access: Access,
    ) -> Result<(), Fault> {
        self.write_virtual(cpu, address, &value.to_le_bytes()[..size], access)
    }

    /// Reads as the processor itself does from its tables. Where there is no RAM the bytes are ones, as on a bus
    /// that nobody answers: a descriptor table placed on a device is nobody's intention.
    pub fn read_system<const N: usize>(&self, cpu: &Cpu, address: u64) -> Result<[u8; N], Exception> {
        let mut bytes = [0; N];
        match self.read_unwatched(cpu, address, &mut bytes, Access::by_processor(Intent::Read)) {
            Ok(()) => Ok(bytes),
            Err(Fault::NotRam { .. }) => Ok([0xff; N]),
            Err(Fault::Exception(exception)) => Err(exception),
        }
    }

    /// Sets bits in an aligned 64-bit word of the processor's own tables, in one piece where it is RAM.
    pub fn set_bits_system(&mut self, cpu: &Cpu, address: u64, bits: u64) -> Result<(), Exception> {
        let access = Access::by_processor(Intent::Write);
        let place = self.translate(cpu, address, access)?.physical;
        if self.ram.set_bits(place, bits) {
            self.note(place);
            return Ok(());
        }
        // A table may start at any byte; such a word is not written in one piece, which only other vCPUs could see.
        let word = u64::from_le_bytes(self.read_system(cpu, address)?) | bits;
        dropping_no_ram(self.write_virtual(cpu, address, &word.to_le_bytes(), access))
    }

    /// Reads `N` words of `size` bytes (8, 4 or 2) from a stack, lowest first and zero-extended: as
    /// [`Self::read_virtual`], but a non-canonical address is #SS(0) and no RAM reads as ones. No byte beyond the words
    /// is touched: the page after them may be absent.
    pub fn read_stack<const N: usize>(
        &self,
        cpu: &Cpu,
        address: u64,
        size: usize,
        access: Access,
    ) -> Result<[u64; N], Exception> {
        stack_range(address, N * size)?;
        let mut bytes = [[0; 8]; N];
        let bytes = &mut bytes.as_flattened_mut()[..N * size];
        match self.read_virtual(cpu, address, bytes, access) {
            Ok(()) => {}
            Err(Fault::NotRam { .. }) => bytes.fill(0xff),
            Err(Fault::Exception(exception)) => return Err(exception),
        }
        Ok(std::array::from_fn(|number| {
            let mut word = [0; 8];
            word[..size].copy_from_slice(&bytes[number * size..(number + 1) * size]);
            u64::from_le_bytes(word)
        }))
    }

    /// Writes to a stack: as [`Self::write_virtual`], but a non-canonical address is #SS(0) and what is not RAM takes
    /// nothing.
    pub fn write_stack(
        &mut self,
        cpu: &Cpu,
        address: u64,
        bytes: &[u8],
        access: Access,
    ) -> Result<(), Exception> {
        stack_range(address, bytes.len())?;
        dropping_no_ram(self.write_virtual(cpu, address, bytes, access))
    }

    fn spans(&self, cpu: &Cpu, address: u64, length: usize, access: Access) -> Result<Spans, Fault> {
        assert!(length as u64 <= PAGE_SIZE, "an access of {length} bytes would touch three pages");
        // All of the address is looked at before the first page: an end that is not canonical comes before a page fault.
        if !canonical(address.wrapping_add(length as u64).wrapping_sub(1)) {
            return Err(Exception::gp(0).into());
        }
        let first_length = length.min((PAGE_SIZE - address % PAGE_SIZE) as usize);
        let first = self.translate(cpu, address, access)?.physical;
        let second = if first_length < length {
            self.translate(cpu, address.wrapping_add(first_length as u64), access)?.physical
        } else {
            first
        };
        for physical in [first, second] {
            if self.ram.offset(physical).is_none() {
                return Err(Fault::NotRam { physical });
            }
        }
        Ok(Spans { first, first_length, second })
    }

    fn write_span(&mut self, physical: u64, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.ram.write_in_run(physical, bytes);
            self.note(physical);
        }
    }

    fn note(&mut self, physical: u64) {
        // The write first, then the look: see `sharing.rs`.
        if self.ram.sharing().several() {
            fence(Ordering::SeqCst);
        }
        if let Some((offset, _)) = self.ram.offset(physical)
            && self.ram.has_code(offset)
        {
            self.code_writes.record(offset - offset % PAGE_SIZE);
        }
    }
}

fn stack_range(address: u64, length: usize) -> Result<(), Exception> {
    let last = address.wrapping_add(length as u64 - 1);
    if canonical(address) && canonical(last) { Ok(()) } else { Err(Exception::ss(0)) }
}

fn dropping_no_ram(result: Result<(), Fault>) -> Result<(), Exception> {
    match result {
        Ok(()) | Err(Fault::NotRam { .. }) => Ok(()),
        Err(Fault::Exception(exception)) => Err(exception),
    }
}

#[cfg(test)]
mod tests;
