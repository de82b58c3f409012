//! Registers in memory, announced by a device tree (virtio 1.2, 4.2).

use alloc::format;
use alloc::rc::Rc;

use lguest_abi::meeting::Irq;

use super::super::flat_tree;
use super::{Registers, VirtioDevices};
use crate::model::{Buffer, Memory, RegisterError, Registry};

/// Name of the bus, and `compatible` of its nodes.
pub const NAME: &str = "virtio-mmio";
const COMPATIBLE: &str = "virtio,mmio";
const MAGIC: u32 = u32::from_le_bytes(*b"virt");
const VERSION: u32 = 2;
const SIZE: usize = 0x200;

mod register {
    pub const MAGIC: u64 = 0x000;
    pub const VERSION: u64 = 0x004;
    pub const KIND: u64 = 0x008;
    pub const OFFERED: u64 = 0x010;
    pub const OFFERED_WORD: u64 = 0x014;
    pub const ACCEPTED: u64 = 0x020;
    pub const ACCEPTED_WORD: u64 = 0x024;
    pub const QUEUE: u64 = 0x030;
    pub const QUEUE_LIMIT: u64 = 0x034;
    pub const QUEUE_SIZE: u64 = 0x038;
    pub const QUEUE_READY: u64 = 0x044;
    pub const NOTIFY: u64 = 0x050;
    pub const INTERRUPT: u64 = 0x060;
    pub const ACKNOWLEDGE: u64 = 0x064;
    pub const STATUS: u64 = 0x070;
    /// Descriptors, available and used ring: sixteen bytes apart.
    pub const PARTS: u64 = 0x080;
    pub const CONFIGURATION: u64 = 0x100;
}

struct MmioRegisters(Buffer);

/// Registers the bus, if the tree has such nodes, and adds their devices. `connect` brings a line of the interrupt controller
/// to an irq, as an edge: the line falls when the cause is acknowledged, before anybody looks what it was.
///
/// # Errors
/// [`RegisterError`] for the bus or a device.
pub fn start(
    tree: &[u8],
    memory: &Rc<dyn Memory>,
    connect: &dyn Fn(u32, Irq),
    registry: &Registry,
) -> Result<VirtioDevices, RegisterError> {
    let mut devices = VirtioDevices::default();
    let nodes = flat_tree::nodes(tree, COMPATIBLE, "").unwrap_or_default();
    if nodes.is_empty() {
        return Ok(devices);
    }
    registry.add_bus(NAME)?;
    for (number, node) in (1u8..).zip(nodes) {
        let (Some(address), Some(line), Some(irq)) = (node.handle, node.interrupt, Irq::new(number)) else {
            continue;
        };
        let registers = MmioRegisters(Buffer::mapped(memory, address.into(), SIZE));
        let known = (registers.get(register::MAGIC), registers.get(register::VERSION));
        if known == (MAGIC, VERSION)
            && devices.add(format!("mmio{number}"), irq, Rc::new(registers), memory, registry)?
        {
            connect(line, irq);
        }
    }
    Ok(devices)
}

impl MmioRegisters {
    fn get(&self, at: u64) -> u32 {
        self.0.read_u32(at)
    }

    fn set(&self, at: u64, value: u32) {
        self.0.write_u32(at, value);
    }
}

impl Registers for MmioRegisters {
    fn kind(&self) -> u32 {
        self.get(register::KIND)
    }

    fn status(&self) -> u8 {
        self.get(register::STATUS) as u8
    }

    fn set_status(&self, status: u8) {
        self.set(register::STATUS, status.into());
    }

    fn offered(&self, word: u32) -> u32 {
        self.set(register::OFFERED_WORD, word);
        self.get(register::OFFERED)
    }

    fn accept(&self, word: u32, bits: u32) {
        self.set(register::ACCEPTED_WORD, word);
        self.set(register::ACCEPTED, bits);
    }

    fn queue_limit(&self, queue: u16) -> u16 {
        self.set(register::QUEUE, queue.into());
        self.get(register::QUEUE_LIMIT) as u16
    }

    fn start_queue(&self, queue: u16, size: u16, parts: [u64; 3]) {
        self.set(register::QUEUE, queue.into());
        self.set(register::QUEUE_SIZE, size.into());
        for (at, part) in (register::PARTS..).step_by(0x10).zip(parts) {
            self.set(at, part as u32);
            self.set(at + 4, (part >> 32) as u32);
        }
        self.set(register::QUEUE_READY, 1);
    }

    fn notify(&self, queue: u16) {
        self.set(register::NOTIFY, queue.into());
    }

    fn acknowledge(&self) {
        self.set(register::ACKNOWLEDGE, self.get(register::INTERRUPT));
    }

    fn configuration(&self, at: u64) -> u32 {
        self.get(register::CONFIGURATION + at)
    }
}
