//! Virtio over memory-mapped registers (virtio 1.2, 4.2): one window of registers and one interrupt a device.
//!
//! ```text
//!   000 magic  004 version  008 kind  00c vendor     010 features offered   020 features accepted
//!   030 queue selected  034 its limit  038 size  044 ready    050 notify
//!   060 interrupt status  064 acknowledge   070 status
//!   080, 090, 0a0 where the selected queue's parts are     100 configuration
//! ```
//! Registers are four bytes, aligned; another access to them is ignored and reads as all ones. The configuration may be
//! read in any way (4.2.2.2).

use super::QueueIndex;
use super::life::{Half, Life, QueuePart};
use super::rings::Signals;
use super::waker::Wakes;
use crate::bus::Device;
use crate::outside::InterruptLine;

/// Bytes of a device's window.
pub const REGISTERS: u64 = 0x200;

const MAGIC: u32 = u32::from_le_bytes(*b"virt");
/// The interface of virtio 1.0 and later; 1 was before.
const VERSION: u32 = 2;
/// "LGST", as nobody assigns vendors on this bus.
const VENDOR: u32 = u32::from_le_bytes(*b"LGST");
/// Interrupt causes (4.2.2, InterruptStatus).
const USED_BUFFER: u32 = 1;
const CONFIGURATION_CHANGE: u32 = 2;

mod register {
    pub const MAGIC: u64 = 0x000;
    pub const VERSION: u64 = 0x004;
    pub const KIND: u64 = 0x008;
    pub const VENDOR: u64 = 0x00c;
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
    pub const DESCRIPTORS: u64 = 0x080;
    pub const DRIVER: u64 = 0x090;
    pub const DEVICE: u64 = 0x0a0;
    /// Length and base of a shared memory region: all ones, for there are none (4.2.2, SHMLen).
    pub const SHARED: std::ops::Range<u64> = 0x0b0..0x0c0;
    pub const GENERATION: u64 = 0x0fc;
    pub const CONFIGURATION: u64 = 0x100;
}

/// A device behind registers.
pub struct MmioTransport<L> {
    life: Life,
    line: L,
    offered_word: u32,
    accepted_word: u32,
    queue: QueueIndex,
    causes: u32,
}

impl<L: InterruptLine> MmioTransport<L> {
    /// The registers of a device, and its interrupt, held up while there is a cause.
    pub fn new(life: Life, line: L) -> Self {
        MmioTransport { life, line, offered_word: 0, accepted_word: 0, queue: QueueIndex(0), causes: 0 }
    }

    /// The device behind.
    pub fn life(&self) -> &Life {
        &self.life
    }

    fn get(&self, at: u64) -> u32 {
        match at {
            register::MAGIC => MAGIC,
            register::VERSION => VERSION,
            register::KIND => self.life.kind() as u32,
            register::VENDOR => VENDOR,
            register::OFFERED => match self.offered_word {
                0 => self.life.offered() as u32,
                1 => (self.life.offered() >> 32) as u32,
                _ => 0,
            },
            register::QUEUE_LIMIT => self.life.queue_limit(self.queue).into(),
            register::QUEUE_READY => self.life.queue_ready(self.queue).into(),
            register::INTERRUPT => self.causes,
            register::STATUS => self.life.status().into(),
            register::GENERATION => self.life.generation(),
            at if register::SHARED.contains(&at) => u32::MAX,
            // Registers to write, and places between registers.
            _ => 0,
        }
    }

    fn set(&mut self, at: u64, value: u32) {
        match at {
            register::OFFERED_WORD => self.offered_word = value,
            register::ACCEPTED => self.life.accept(self.accepted_word, value),
            register::ACCEPTED_WORD => self.accepted_word = value,
            // No device has as many queues as the largest index, so what is larger still is none either.
            register::QUEUE => self.queue = QueueIndex(u16::try_from(value).unwrap_or(u16::MAX)),
            register::QUEUE_SIZE => self.life.set_queue_size(self.queue, value),
            register::QUEUE_READY => self.life.set_queue_ready(self.queue, value & 1 != 0),
            register::NOTIFY => self.notify(value),
            register::ACKNOWLEDGE => self.causes &= !value,
            register::STATUS => self.set_status(value),
            _ => self.set_address(at, value),
        }
        self.line.set(self.causes != 0);
    }

    fn notify(&mut self, value: u32) {
        let Ok(queue) = u16::try_from(value) else { return };
        let signals = self.life.notify(QueueIndex(queue));
        self.note(signals);
    }

    /// All queues share one cause here.
    fn note(&mut self, Signals { used, changed }: Signals) {
        let bit = |cause: bool, bit: u32| if cause { bit } else { 0 };
        self.causes |= bit(!used.is_empty(), USED_BUFFER) | bit(changed, CONFIGURATION_CHANGE);
    }

    fn set_status(&mut self, value: u32) {
        // The upper bits are none of the status's.
        self.life.set_status(value as u8);
        if value as u8 == 0 {
            // A device that was reset interrupts no more (2.4.1), and nothing stays selected.
            (self.offered_word, self.accepted_word, self.queue, self.causes) = (0, 0, QueueIndex(0), 0);
        }
    }

    fn set_address(&mut self, at: u64, value: u32) {
        let part = match at & !4 {
            register::DESCRIPTORS => QueuePart::Descriptors,
            register::DRIVER => QueuePart::Driver,
            register::DEVICE => QueuePart::Device,
            _ => return,
        };
        let half = if at & 4 == 0 { Half::Low(value) } else { Half::High(value) };
        self.life.set_queue_address(self.queue, part, half);
    }
}

impl<L: InterruptLine> Device for MmioTransport<L> {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        if let Some(at) = offset.checked_sub(register::CONFIGURATION) {
            let fields = self.life.configuration();
            for (at, byte) in (at..).zip(data) {
                // Behind the configuration there is nothing, which reads as zeroes.
                *byte = fields.get(at as usize).copied().unwrap_or(0);
            }
        } else if data.len() == 4 && offset.is_multiple_of(4) {
            data.copy_from_slice(&self.get(offset).to_le_bytes());
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let Some(at) = offset.checked_sub(register::CONFIGURATION) {
            self.life.write_configuration(at, data);
        } else if let (true, &[a, b, c, d]) = (offset.is_multiple_of(4), data) {
            self.set(offset, u32::from_le_bytes([a, b, c, d]));
        }
    }
}

impl<L: InterruptLine> Wakes for MmioTransport<L> {
    fn wake(&mut self) {
        let signals = self.life.wake();
        self.note(signals);
        self.line.set(self.causes != 0);
    }
}

#[cfg(test)]
#[path = "mmio_tests.rs"]
mod tests;
