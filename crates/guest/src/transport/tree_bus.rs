//! The mail's first transport: devices in a device tree, bytes by two hypercalls (facts 12, transport A).

use alloc::boxed::Box;
use alloc::rc::Rc;

use lguest_abi::dma::Sections;
use lguest_abi::hypercall::Hypercall;
use lguest_abi::meeting::Irq;
use lguest_abi::pipe::{COMPATIBLE, ID_PROPERTY, VENDOR_LINUX};

use super::Hypercalls;
use super::flat_tree::{self, Node};
use crate::model::{
    BindError, Buffer, Carrier, Channel, Device, DeviceId, Direction, Inbox, RegisterError, Registry,
    TransferError,
};

/// Name of the bus.
pub const NAME: &str = "virt-dev";

/// One node's way to the Host.
struct TreePort {
    id: DeviceId,
    handle: u64,
    host: Rc<dyn Hypercalls>,
}

/// Registers the bus and adds a device for every complete node of a tree. Says how many.
///
/// # Errors
/// [`RegisterError`] for the bus; a device that cannot be added is left out.
pub fn start(blob: &[u8], host: &Rc<dyn Hypercalls>, registry: &Registry) -> Result<usize, RegisterError> {
    let Some(nodes) = flat_tree::nodes(blob, COMPATIBLE, ID_PROPERTY) else { return Ok(0) };
    registry.add_bus(NAME)?;
    let devices = nodes.into_iter().filter_map(|node| device(node, host));
    Ok(devices.filter_map(|device| registry.add_device(device).ok()).count())
}

/// The device of a node that has all three numbers.
fn device(node: Node, host: &Rc<dyn Hypercalls>) -> Option<Device> {
    let id = DeviceId { vendor: VENDOR_LINUX, device: u16::try_from(node.device?).ok()? };
    let irq = Irq::new(u8::try_from(node.interrupt?).ok()?)?;
    let carrier = Box::new(TreePort { id, handle: node.handle?.into(), host: host.clone() });
    Some(Device { name: node.name, irq, carrier })
}

impl Carrier for TreePort {
    fn id(&self) -> DeviceId {
        self.id
    }

    fn features(&self) -> u16 {
        0
    }

    fn memory(&self) -> Option<&Buffer> {
        None
    }

    /// One hypercall a section; a short one ends the transfer.
    fn transfer(&self, _: Channel, direction: Direction, sections: &Sections) -> Result<u32, TransferError> {
        let call = match direction {
            Direction::Read => Hypercall::Read,
            Direction::Write => Hypercall::Write,
        };
        let mut moved = 0;
        for section in sections.as_slice() {
            let length = u64::from(section.length);
            let answer = self.host.call(call, [self.handle, section.address, length]) as i64;
            match u64::try_from(answer) {
                // An answer beyond the buffer is a lie; believe no more than was offered.
                Ok(count) => moved += count.min(length) as u32,
                Err(_) if moved == 0 => return Err(TransferError::Refused(answer)),
                Err(_) => break,
            }
            if answer != i64::from(section.length) {
                break;
            }
        }
        Ok(moved)
    }

    fn open(&self, _: Channel, _: &[Sections]) -> Result<Box<dyn Inbox>, BindError> {
        Err(BindError::Unsupported)
    }
}
