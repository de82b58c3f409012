//! The common configuration (virtio 1.2, 4.1.4.3): a device's life in 64 bytes of registers.
//!
//! Each field is written whole; another access to it is ignored. Reading may be done in any way.

use super::super::QueueIndex;
use super::super::life::{Half, Life, QueuePart};

/// A queue, or the configuration, that interrupts by no message (4.1.5.1.2).
const NO_VECTOR: u16 = 0xffff;
const LENGTH: usize = 0x3c;

mod field {
    pub const OFFERED_WORD: usize = 0x00;
    pub const OFFERED: usize = 0x04;
    pub const ACCEPTED_WORD: usize = 0x08;
    pub const ACCEPTED: usize = 0x0c;
    pub const CONFIGURATION_VECTOR: usize = 0x10;
    pub const QUEUES: usize = 0x12;
    pub const STATUS: usize = 0x14;
    pub const GENERATION: usize = 0x15;
    pub const QUEUE: usize = 0x16;
    pub const QUEUE_SIZE: usize = 0x18;
    pub const QUEUE_VECTOR: usize = 0x1a;
    pub const QUEUE_READY: usize = 0x1c;
    pub const NOTIFY_OFFSET: usize = 0x1e;
    pub const DESCRIPTORS: usize = 0x20;
    pub const DRIVER: usize = 0x28;
    pub const DEVICE: usize = 0x30;
    /// Behind the last address.
    pub const END: usize = 0x38;
}

/// What the registers remember beside the device's life.
pub struct Registers {
    offered_word: u32,
    accepted_word: u32,
    queue: QueueIndex,
    configuration_vector: u16,
    queue_vectors: Vec<u16>,
    /// Vectors there are.
    vectors: u16,
}

impl Registers {
    /// Registers after reset.
    pub fn new(queues: u16, vectors: u16) -> Registers {
        Registers {
            offered_word: 0,
            accepted_word: 0,
            queue: QueueIndex(0),
            configuration_vector: NO_VECTOR,
            queue_vectors: vec![NO_VECTOR; queues.into()],
            vectors,
        }
    }

    /// Back there.
    pub fn reset(&mut self) {
        *self = Registers::new(self.queue_vectors.len() as u16, self.vectors);
    }

    /// The vector of changes in the configuration.
    pub fn configuration_vector(&self) -> u16 {
        self.configuration_vector
    }

    /// The vector of a queue.
    pub fn queue_vector(&self, queue: QueueIndex) -> u16 {
        self.queue_vectors.get(usize::from(queue.0)).copied().unwrap_or(NO_VECTOR)
    }

    /// A vector as the driver wants it, or none where there is no such: reading it back says which (4.1.5.1.2).
    fn checked(&self, vector: u16) -> u16 {
        if vector < self.vectors { vector } else { NO_VECTOR }
    }

    /// Reads.
    pub fn read(&self, life: &Life, at: usize, data: &mut [u8]) {
        let registers = self.registers(life);
        for (at, byte) in (at..).zip(data) {
            *byte = registers.get(at).copied().unwrap_or(0);
        }
    }

    fn registers(&self, life: &Life) -> [u8; LENGTH] {
        let mut registers = [0; LENGTH];
        let mut put = |at: usize, bytes: &[u8]| registers[at..at + bytes.len()].copy_from_slice(bytes);
        let word = |bits: u64, word: u32| match word {
            0 => bits as u32,
            1 => (bits >> 32) as u32,
            _ => 0,
        };
        put(field::OFFERED_WORD, &self.offered_word.to_le_bytes());
        put(field::OFFERED, &word(life.offered(), self.offered_word).to_le_bytes());
        put(field::ACCEPTED_WORD, &self.accepted_word.to_le_bytes());
        put(field::ACCEPTED, &word(life.accepted(), self.accepted_word).to_le_bytes());
        put(field::CONFIGURATION_VECTOR, &self.configuration_vector.to_le_bytes());
        put(field::QUEUES, &life.queue_count().to_le_bytes());
        put(field::STATUS, &[life.status()]);
        put(field::GENERATION, &[life.generation() as u8]);
        put(field::QUEUE, &self.queue.0.to_le_bytes());
        put(field::QUEUE_SIZE, &life.queue_size(self.queue).to_le_bytes());
        put(field::QUEUE_VECTOR, &self.queue_vector(self.queue).to_le_bytes());
        put(field::QUEUE_READY, &u16::from(life.queue_ready(self.queue)).to_le_bytes());
        put(field::NOTIFY_OFFSET, &self.queue.0.to_le_bytes());
        for (at, part) in [
            (field::DESCRIPTORS, QueuePart::Descriptors),
            (field::DRIVER, QueuePart::Driver),
            (field::DEVICE, QueuePart::Device),
        ] {
            put(at, &life.queue_address(self.queue, part).to_le_bytes());
        }
        registers
    }

    /// Writes a field. A status that was written is returned: what it means is more than these registers.
    #[must_use]
    pub fn write(&mut self, life: &mut Life, at: usize, data: &[u8]) -> Option<u8> {
        match *data {
            [status] if at == field::STATUS => return Some(status),
            [a, b] => self.write_word(life, at, u16::from_le_bytes([a, b])),
            [a, b, c, d] => self.write_double_word(life, at, u32::from_le_bytes([a, b, c, d])),
            _ => {}
        }
        None
    }

    fn write_word(&mut self, life: &mut Life, at: usize, value: u16) {
        match at {
            field::CONFIGURATION_VECTOR => self.configuration_vector = self.checked(value),
            field::QUEUE => self.queue = QueueIndex(value),
            field::QUEUE_SIZE => life.set_queue_size(self.queue, value.into()),
            field::QUEUE_VECTOR => {
                let vector = self.checked(value);
                if let Some(place) = self.queue_vectors.get_mut(usize::from(self.queue.0)) {
                    *place = vector;
                }
            }
            // Out of use again comes only by a reset of the device (4.1.4.3.2).
            field::QUEUE_READY if value == 1 => life.set_queue_ready(self.queue, true),
            _ => {}
        }
    }

    fn write_double_word(&mut self, life: &mut Life, at: usize, value: u32) {
        match at {
            field::OFFERED_WORD => self.offered_word = value,
            field::ACCEPTED_WORD => self.accepted_word = value,
            field::ACCEPTED => life.accept(self.accepted_word, value),
            field::DESCRIPTORS..field::END if at.is_multiple_of(4) => {
                let part = match at & !7 {
                    field::DESCRIPTORS => QueuePart::Descriptors,
                    field::DRIVER => QueuePart::Driver,
                    _ => QueuePart::Device,
                };
                let half = if at & 4 == 0 { Half::Low(value) } else { Half::High(value) };
                life.set_queue_address(self.queue, part, half);
            }
            _ => {}
        }
    }
}
