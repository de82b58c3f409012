//! Virtio, from the Guest's side: three transports, and the drivers of 2007 over any.
//!
//! ```text
//!   drivers/block        unchanged: a page that describes a request, lists that carry it
//!       |  model::Carrier
//!   block                the page becomes a request of virtio's, and its status the page's result
//!       |
//!   queue                a ring of descriptors         (virtio 1.2, 2.7)
//!       |  Registers
//!   pci | mmio | page    where the registers are, if there are any, and how interrupts come
//! ```
//! This is the claim of the mail of 2007 once more, on buses nobody had then: a driver need not know its bus.

mod registers;
mod queue;
mod block;
pub mod mmio;
pub mod pci;
pub mod page;

pub use registers::Registers;

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;

use lguest_abi::meeting::Irq;

use crate::model::{Device, Memory, RegisterError, Registry};
use block::{BlockCarrier, BlockPort};

/// A disk, among the kinds of device (virtio 1.2, section 5).
const BLOCK: u32 = 2;

/// The virtio devices that were found.
#[derive(Default)]
pub struct VirtioDevices {
    ports: Vec<(Irq, Rc<BlockPort>)>,
    /// Interrupts of a device beside the one that its driver knows: its other queues'.
    others: Vec<(Irq, Irq)>,
}

impl VirtioDevices {
    /// Takes a device that a bus found, if this Guest has a use for its kind. False when it has none, or when the device or
    /// memory says no: it is then left alone.
    fn add(
        &mut self,
        name: String,
        irq: Irq,
        registers: Rc<dyn Registers>,
        memory: &Rc<dyn Memory>,
        registry: &Registry,
    ) -> Result<bool, RegisterError> {
        if registers.kind() != BLOCK {
            return Ok(false);
        }
        let Some(port) = BlockPort::start(registers, memory) else { return Ok(false) };
        let port = Rc::new(port);
        self.ports.push((irq, port.clone()));
        registry.add_device(Device { name, irq, carrier: Box::new(BlockCarrier(port)) })?;
        Ok(true)
    }

    /// These interrupts are the device's of `irq` too.
    fn also(&mut self, irq: Irq, others: &[Irq]) {
        self.others.extend(others.iter().map(|other| (*other, irq)));
    }

    /// An interrupt came: what devices finished is put where their drivers look. Then the drivers may be told, by the
    /// interrupt that this answers.
    pub fn interrupt(&self, irq: Irq) -> Irq {
        let irq = self.others.iter().find(|(other, _)| *other == irq).map_or(irq, |(_, own)| *own);
        self.ports.iter().filter(|(own, _)| *own == irq).for_each(|(_, port)| port.collect());
        irq
    }
}
