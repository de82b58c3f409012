//! Virtio, from the Guest's side: three transports, and the drivers of 2007 over any.
//!
//! ```text
//!   drivers/             unchanged: block, net, console, pipe
//!       |  model::Carrier
//!   block                a disk's page becomes a request of virtio's, and its status the page's result
//!   kinds, stream        lists that are sent or wait become chains of a pair of queues
//!       |
//!   queue                a ring of descriptors         (virtio 1.2, 2.7)
//!       |  Registers
//!   pci | mmio | page    where the registers are, if there are any, and how interrupts come
//! ```
//! This is the claim of the mail of 2007 once more, on buses nobody had then: a driver need not know its bus.

mod registers;
mod queue;
mod block;
mod stream;
mod kinds;
pub mod mmio;
pub mod pci;
pub mod page;

pub use registers::Registers;

use alloc::boxed::Box;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;

use lguest_abi::meeting::Irq;

use crate::model::{Device, Memory, RegisterError, Registry};
use block::{BlockCarrier, BlockPort};
use stream::{StreamCarrier, StreamPort};

/// Kinds of device (virtio 1.2, section 5).
const NETWORK: u32 = 1;
const BLOCK: u32 = 2;
const CONSOLE: u32 = 3;
/// Turns of a wait between two looks at the device's status, each an exit to the Host.
const LOOK: u32 = 4096;

/// What looks at a device after its interrupt.
trait Collects {
    /// Puts what the device finished where drivers look.
    fn collect(&self);
}

/// Waits until `done`, which a device that works will be. False when it does not.
fn wait_for<T>(registers: &dyn Registers, done: impl Fn() -> Option<T>) -> bool {
    for turn in 1u32.. {
        if done().is_some() {
            return true;
        }
        if turn.is_multiple_of(LOOK) && stream::is_broken(registers) {
            return false;
        }
        core::hint::spin_loop();
    }
    false
}

/// The virtio devices that were found.
#[derive(Default)]
pub struct VirtioDevices {
    ports: Vec<(Irq, Rc<dyn Collects>)>,
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
        match registers.kind() {
            BLOCK => {
                let Some(port) = BlockPort::start(registers, memory) else { return Ok(false) };
                let port = Rc::new(port);
                self.ports.push((irq, port.clone()));
                registry.add_device(Device { name, irq, carrier: Box::new(BlockCarrier(port)) })?;
            }
            NETWORK => return self.add_stream(name, irq, kinds::network(&registers, memory), registry),
            CONSOLE if !kinds::has_ports(&*registers) => {
                return self.add_stream(name, irq, kinds::console(&registers, memory), registry);
            }
            CONSOLE => {
                let Some((control, ports)) = kinds::ports(&registers, memory) else { return Ok(false) };
                self.ports.push((irq, Rc::new(control)));
                for (number, port) in ports {
                    self.add_stream(format!("{name}.{number}"), irq, Some(port), registry)?;
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn add_stream(
        &mut self,
        name: String,
        irq: Irq,
        port: Option<StreamPort>,
        registry: &Registry,
    ) -> Result<bool, RegisterError> {
        let Some(port) = port.map(Rc::new) else { return Ok(false) };
        self.ports.push((irq, port.clone()));
        registry.add_device(Device { name, irq, carrier: Box::new(StreamCarrier::new(&port)) })?;
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
