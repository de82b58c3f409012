//! Registers behind a BAR, found by asking every slot of the bus, and interrupts by message (virtio 1.2, 4.1; PCI 3.0).
//!
//! All vectors of a device send the same message here: it has one irq, and its causes are few.

use alloc::format;
use alloc::rc::Rc;

use lguest_abi::meeting::{Irq, vector};

use super::{Registers, VirtioDevices};
use crate::model::{Buffer, Memory, RegisterError, Registry};

/// Name of the bus.
pub const NAME: &str = "virtio-pci";

/// A kernel's way to the configuration space of the functions on bus 0: four aligned bytes at a time.
pub trait ConfigurationSpace {
    /// Reads at a byte offset of function 0 in a slot.
    fn read(&self, slot: u8, at: u8) -> u32;
    /// Writes there.
    fn write(&self, slot: u8, at: u8, value: u32);
}

const SLOTS: u8 = 31;
const VENDOR: u16 = 0x1af4;
/// Device numbers from virtio 1.0 on; the kind is added.
const FIRST_DEVICE: u32 = 0x1040;
const COMMAND: u8 = 0x04;
const MEMORY_AND_MASTER: u32 = 1 << 1 | 1 << 2;
const BAR_0: u8 = 0x10;
const FIRST_CAPABILITY: u8 = 0x34;
/// Capabilities looked at before the list is taken for a loop.
const MOST_CAPABILITIES: usize = 48;
const VENDOR_SPECIFIC: u8 = 0x09;
const MSI_X: u8 = 0x11;
const MSI_X_ENABLE: u32 = 1 << 31;
/// Kinds of virtio capability (4.1.4).
const COMMON: u8 = 1;
const NOTIFY: u8 = 2;
const DEVICE: u8 = 4;
/// Where messages to processor 0 go (SDM vol. 3, 11.11.1).
const MESSAGES: u32 = 0xfee0_0000;
/// Vectors this driver sets up: the configuration's and queue 0's.
const VECTORS: u64 = 2;

mod field {
    pub const OFFERED_WORD: u64 = 0x00;
    pub const OFFERED: u64 = 0x04;
    pub const ACCEPTED_WORD: u64 = 0x08;
    pub const ACCEPTED: u64 = 0x0c;
    pub const CONFIGURATION_VECTOR: u64 = 0x10;
    pub const STATUS: u64 = 0x14;
    pub const QUEUE: u64 = 0x16;
    pub const QUEUE_SIZE: u64 = 0x18;
    pub const QUEUE_VECTOR: u64 = 0x1a;
    pub const QUEUE_READY: u64 = 0x1c;
    pub const NOTIFY_OFFSET: u64 = 0x1e;
    pub const PARTS: u64 = 0x20;
}

/// A function's registers.
struct PciRegisters {
    kind: u32,
    /// From the first to the last byte that the capabilities name.
    bar: Buffer,
    common: u64,
    device: u64,
    notify: u64,
    notify_step: u64,
}

/// Registers the bus and adds the devices of every slot; a bus without any is none.
///
/// # Errors
/// [`RegisterError`] for the bus or a device.
pub fn start(
    space: &dyn ConfigurationSpace,
    memory: &Rc<dyn Memory>,
    registry: &Registry,
) -> Result<VirtioDevices, RegisterError> {
    let mut devices = VirtioDevices::default();
    for slot in 1..=SLOTS {
        // A slot's number is its irq's; the last irq belongs to the serial port.
        let Some(irq) = Irq::new(slot).filter(|_| slot < SLOTS) else { continue };
        let Some(registers) = PciRegisters::find(space, slot, irq, memory) else { continue };
        if registry.buses().iter().all(|bus| bus != NAME) {
            registry.add_bus(NAME)?;
        }
        devices.add(format!("pci{slot}"), irq, Rc::new(registers), memory, registry)?;
    }
    Ok(devices)
}

/// What the capabilities say: offsets behind BAR 0.
#[derive(Default)]
struct Found {
    common: Option<u64>,
    device: Option<u64>,
    notify: Option<(u64, u64)>,
    table: Option<u64>,
    /// Behind the last byte of all of them.
    end: u64,
}

impl Found {
    fn look(&mut self, space: &dyn ConfigurationSpace, slot: u8, at: u8, id: u8) {
        let word = |more: u8| space.read(slot, at.saturating_add(more));
        if id == MSI_X {
            // The low three bits of a place are its BAR, here 0.
            let table = u64::from(word(4));
            self.table = Some(table);
            self.end = self.end.max(table + VECTORS * 16);
            space.write(slot, at, word(0) | MSI_X_ENABLE);
        } else if id == VENDOR_SPECIFIC && word(4) as u8 == 0 {
            let (offset, length) = (u64::from(word(8)), u64::from(word(12)));
            match (word(0) >> 24) as u8 {
                COMMON => self.common = Some(offset),
                DEVICE => self.device = Some(offset),
                NOTIFY => self.notify = Some((offset, word(16).into())),
                _ => return,
            }
            self.end = self.end.max(offset + length);
        }
    }
}

impl PciRegisters {
    /// The registers of the virtio function in this slot, its interrupts set up. None for other functions.
    fn find(
        space: &dyn ConfigurationSpace,
        slot: u8,
        irq: Irq,
        memory: &Rc<dyn Memory>,
    ) -> Option<PciRegisters> {
        let identity = space.read(slot, 0);
        let kind = (identity >> 16).checked_sub(FIRST_DEVICE).filter(|_| identity as u16 == VENDOR)?;
        space.write(slot, COMMAND, MEMORY_AND_MASTER);
        let mut found = Found::default();
        let mut at = space.read(slot, FIRST_CAPABILITY) as u8 & !3;
        for _ in 0..MOST_CAPABILITIES {
            if at == 0 {
                break;
            }
            let head = space.read(slot, at);
            found.look(space, slot, at, head as u8);
            at = (head >> 8) as u8 & !3;
        }
        let address = u64::from(space.read(slot, BAR_0) & !0xf);
        let bar = Buffer::mapped(memory, address, usize::try_from(found.end).ok()?);
        set_up_table(&bar, found.table?, irq);
        let (notify, notify_step) = found.notify?;
        Some(PciRegisters { kind, bar, common: found.common?, device: found.device?, notify, notify_step })
    }

    fn set_word(&self, field: u64, value: u16) {
        self.bar.write(self.common + field, &value.to_le_bytes());
    }

    fn word(&self, field: u64) -> u16 {
        let mut bytes = [0; 2];
        self.bar.read(self.common + field, &mut bytes);
        u16::from_le_bytes(bytes)
    }
}

/// Every vector sends the irq's message, and none is masked.
fn set_up_table(bar: &Buffer, table: u64, irq: Irq) {
    for entry in 0..VECTORS {
        let at = table + entry * 16;
        [MESSAGES, 0, vector(irq).into(), 0]
            .into_iter()
            .zip((at..).step_by(4))
            .for_each(|(value, at)| bar.write_u32(at, value));
    }
}

impl Registers for PciRegisters {
    fn kind(&self) -> u32 {
        self.kind
    }

    fn status(&self) -> u8 {
        let mut status = [0];
        self.bar.read(self.common + field::STATUS, &mut status);
        status[0]
    }

    fn set_status(&self, status: u8) {
        self.bar.write(self.common + field::STATUS, &[status]);
    }

    fn offered(&self, word: u32) -> u32 {
        self.bar.write_u32(self.common + field::OFFERED_WORD, word);
        self.bar.read_u32(self.common + field::OFFERED)
    }

    fn accept(&self, word: u32, bits: u32) {
        self.bar.write_u32(self.common + field::ACCEPTED_WORD, word);
        self.bar.write_u32(self.common + field::ACCEPTED, bits);
    }

    fn queue_limit(&self, queue: u16) -> u16 {
        self.set_word(field::QUEUE, queue);
        self.word(field::QUEUE_SIZE)
    }

    fn start_queue(&self, queue: u16, size: u16, parts: [u64; 3]) {
        self.set_word(field::QUEUE, queue);
        self.set_word(field::QUEUE_SIZE, size);
        for (at, part) in (self.common + field::PARTS..).step_by(8).zip(parts) {
            self.bar.write_u32(at, part as u32);
            self.bar.write_u32(at + 4, (part >> 32) as u32);
        }
        self.set_word(field::CONFIGURATION_VECTOR, 0);
        self.set_word(field::QUEUE_VECTOR, 1);
        self.set_word(field::QUEUE_READY, 1);
    }

    fn notify(&self, queue: u16) {
        self.set_word(field::QUEUE, queue);
        let place = u64::from(self.word(field::NOTIFY_OFFSET)) * self.notify_step;
        self.bar.write(self.notify + place, &queue.to_le_bytes());
    }

    /// A message needs no thanks.
    fn acknowledge(&self) {}

    fn configuration(&self, at: u64) -> u32 {
        self.bar.read_u32(self.device + at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mock_host::MockHost;

    /// Slot 5 has these 256 bytes.
    struct OneFunction([u8; 256]);

    impl ConfigurationSpace for OneFunction {
        fn read(&self, slot: u8, at: u8) -> u32 {
            let at = usize::from(at & !3);
            let bytes = if slot == 5 { &self.0[at..at + 4] } else { &[0xff; 4] };
            u32::from_le_bytes(bytes.try_into().unwrap())
        }
        fn write(&self, slot: u8, _at: u8, _value: u32) {
            assert_eq!(slot, 5, "only a function that may be ours is touched");
        }
    }

    #[test]
    fn only_virtio_functions_of_version_1_are_taken() {
        let memory = MockHost::new().memory();
        // Nobody, another vendor, a device from before version 1, and one whose capabilities run in a circle.
        for identity in [0xffff_ffff_u32, 0x1042_8086, 0x1001_1af4, 0x1042_1af4] {
            let mut bytes = [0; 256];
            bytes[..4].copy_from_slice(&identity.to_le_bytes());
            bytes[0x34] = 0x40;
            bytes[0x40..0x42].copy_from_slice(&[0x05, 0x40]);
            let registry = Registry::new();
            let found = start(&OneFunction(bytes), &memory, &registry).unwrap();
            assert!(found.ports.is_empty() && registry.buses().is_empty(), "{identity:#x}");
        }
    }
}
