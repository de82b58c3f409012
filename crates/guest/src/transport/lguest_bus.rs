//! The lguest bus: a page of sixteen descriptors just above memory (facts 2 and 3).

use alloc::format;
use alloc::rc::Rc;

use lguest_abi::descriptor::{self, MAX_DEVICES, Status, kind};
use lguest_abi::meeting::PLATFORM_NAME;

use super::{Descriptors, Hypercalls, LguestPort};
use crate::model::{Device, Memory, RegisterError, Registry};

/// Name of the bus and of the root device above its devices.
pub const NAME: &str = "lguest";

/// A bus that has been scanned.
pub struct LguestBus {
    descriptors: Rc<Descriptors>,
}

/// A device that could not be added, for the kernel's log. The others are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failed {
    /// Its index.
    pub index: usize,
    /// Why; `None` when there was no memory for its object.
    pub error: Option<RegisterError>,
}

impl LguestBus {
    /// Starts the bus on a machine whose platform has the right name, and scans the page at `at`.
    ///
    /// Returns nothing, having touched nothing, under any other name: `None`.
    ///
    /// # Errors
    /// [`RegisterError`] when the bus itself cannot be registered; a kernel should stop then.
    pub fn start(
        platform: &str,
        at: u64,
        memory: &Rc<dyn Memory>,
        host: &Rc<dyn Hypercalls>,
        registry: &Registry,
        failed: &mut dyn FnMut(Failed),
    ) -> Result<Option<LguestBus>, RegisterError> {
        if platform != PLATFORM_NAME {
            return Ok(None);
        }
        let descriptors = Rc::new(Descriptors::map(memory, at));
        registry.add_bus(NAME)?;
        let bus = LguestBus { descriptors };
        bus.scan(memory, host, &mut |device| registry.add_device(device), failed);
        Ok(Some(bus))
    }

    /// The page.
    #[must_use]
    pub fn descriptors(&self) -> &Descriptors {
        &self.descriptors
    }

    /// Adds every device of the page in ascending order. Empty entries are holes, not the end.
    fn scan(
        &self,
        memory: &Rc<dyn Memory>,
        host: &Rc<dyn Hypercalls>,
        register: &mut dyn FnMut(Device) -> Result<(), RegisterError>,
        failed: &mut dyn FnMut(Failed),
    ) {
        for index in 0..MAX_DEVICES {
            if self.descriptors.get(index).kind == kind::NONE {
                continue;
            }
            // First of all, so that a Host can see how far its Guest came.
            self.descriptors.add_status(index, Status::ACKNOWLEDGE);
            if let Err(error) = self.add(index, memory, host, register) {
                self.descriptors.add_status(index, Status::FAILED);
                failed(Failed { index, error });
            }
        }
    }

    fn add(
        &self,
        index: usize,
        memory: &Rc<dyn Memory>,
        host: &Rc<dyn Hypercalls>,
        register: &mut dyn FnMut(Device) -> Result<(), RegisterError>,
    ) -> Result<(), Option<RegisterError>> {
        let irq = descriptor::irq(index).ok_or(None)?;
        let port = LguestPort::new(&self.descriptors, index, irq, memory, host).ok_or(None)?;
        let carrier = alloc::boxed::Box::new(port);
        register(Device { name: format!("{index}"), irq, carrier }).map_err(Some)
    }
}

#[cfg(test)]
#[path = "lguest_bus_tests.rs"]
mod tests;
