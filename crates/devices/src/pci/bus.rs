//! The bus: which function an address belongs to, in configuration space and in memory.
//!
//! Functions stand behind locks of their own, so vCPUs meet only at the same one. Where each is in memory is noted when its
//! configuration space was written, because the Guest moves functions as it likes: over each other (the lower slot then
//! answers), or out of the bus's window, over RAM for instance (then nobody does, and RAM stays RAM).

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use crate::bus::Window;

/// Slots of the bus; the first is the host bridge's.
pub const SLOTS: usize = 32;

/// Something on the bus: function 0 of its slot, the only one.
pub trait Function: Send {
    /// Reads 1 to 4 bytes of its configuration space, within four aligned bytes.
    fn read_configuration(&mut self, at: usize, data: &mut [u8]);
    /// Writes such bytes.
    fn write_configuration(&mut self, at: usize, data: &[u8]);
    /// Where its registers are in memory now; nowhere while they are turned off.
    fn memory(&self) -> Option<Range<u64>>;
    /// Reads 1 to 8 bytes of its registers. Comes in with all ones.
    fn read_memory(&mut self, offset: u64, data: &mut [u8]);
    /// Writes 1 to 8 bytes there.
    fn write_memory(&mut self, offset: u64, data: &[u8]);
}

/// A function as the bus holds it.
type Shared = Arc<Mutex<dyn Function>>;

/// The functions, from slot 1 on.
pub struct PciBus {
    functions: Vec<Shared>,
    /// Where each function's registers are.
    places: RwLock<Vec<Option<Range<u64>>>>,
    window: Range<u64>,
}

/// All slots are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the PCI bus has {} places for devices, and all are taken", SLOTS - 1)]
pub struct NoSlot;

fn lock<'a>(
    function: &'a Mutex<dyn Function + 'static>,
) -> std::sync::MutexGuard<'a, dyn Function + 'static> {
    // A panic elsewhere must not take the device with it: what it holds is plain state.
    function.lock().unwrap_or_else(PoisonError::into_inner)
}

impl PciBus {
    /// A bus without functions, whose memory is this range of addresses.
    pub fn new(window: Range<u64>) -> PciBus {
        PciBus { functions: Vec::new(), places: RwLock::default(), window }
    }

    /// Puts a function into the next slot.
    ///
    /// # Errors
    /// [`NoSlot`].
    pub fn add(&mut self, function: Shared) -> Result<(), NoSlot> {
        if self.functions.len() + 1 >= SLOTS {
            return Err(NoSlot);
        }
        let place = lock(&function).memory();
        self.functions.push(function);
        self.places.get_mut().unwrap_or_else(PoisonError::into_inner).push(place);
        Ok(())
    }

    /// Reads a function's configuration space; all ones where nobody is.
    pub fn read_configuration(&self, slot: usize, at: usize, data: &mut [u8]) {
        match slot.checked_sub(1).and_then(|index| self.functions.get(index)) {
            Some(function) => lock(function).read_configuration(at, data),
            None => data.fill(0xff),
        }
    }

    /// Writes it, and notes where the function is then.
    pub fn write_configuration(&self, slot: usize, at: usize, data: &[u8]) {
        let Some(index) = slot.checked_sub(1) else { return };
        let Some(function) = self.functions.get(index) else { return };
        let place = {
            let mut function = lock(function);
            function.write_configuration(at, data);
            function.memory()
        };
        // The root's lock is held, so no other write of this space comes between.
        let mut places = self.places.write().unwrap_or_else(PoisonError::into_inner);
        if places[index] != place {
            places[index] = place;
        }
    }

    /// The function that answers to a whole access, and the offset in its registers.
    fn find(&self, offset: u64, length: usize) -> Option<(&Mutex<dyn Function>, u64)> {
        let start = self.window.start.checked_add(offset)?;
        let end = start.checked_add(length as u64)?;
        let places = self.places.read().unwrap_or_else(PoisonError::into_inner);
        let holds = |place: &Option<Range<u64>>| {
            place.as_ref().is_some_and(|place| place.start <= start && end <= place.end)
        };
        let index = places.iter().position(holds)?;
        let base = places[index].as_ref()?.start;
        Some((&*self.functions[index], start - base))
    }
}

impl Window for PciBus {
    fn read(&self, offset: u64, data: &mut [u8]) {
        if let Some((function, offset)) = self.find(offset, data.len()) {
            lock(function).read_memory(offset, data);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let Some((function, offset)) = self.find(offset, data.len()) {
            lock(function).write_memory(offset, data);
        }
    }
}

#[cfg(test)]
#[path = "bus_tests.rs"]
mod tests;
