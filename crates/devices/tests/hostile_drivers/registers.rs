//! The same devices behind their registers: a driver made of bytes reads and writes any of them, on memory's transport and PCI's.
//!
//! ```text
//!   first    which transport: in memory, on PCI, on PCI without messages
//!   then     a tag and its operands, again and again:
//!            0 bytes into memory   1 a register read   2 a register written   3 wake   4 PCI's configuration read
//!            5 ... written         6 notify            7 a chain, made properly and offered
//! ```
//! A register's place is a part (bits 4 to 7 of its tag) and a byte within, so that few bytes reach all of them.

use std::sync::Arc;

use lguest_devices::bus::Device;
use lguest_devices::outside::{InterruptLine, Messages};
use lguest_devices::pci::bus::Function;
use lguest_devices::virtio::life::{Life, status};
use lguest_devices::virtio::memory::DmaMemory;
use lguest_devices::virtio::mmio::MmioTransport;
use lguest_devices::virtio::pci::PciTransport;
use lguest_devices::virtio::waker::Wakes;
use vm_memory::{Bytes, GuestAddress};

use super::{Driver, Input, MOST_STEPS, make_chain};

/// Parts of the registers: in memory the registers and the configuration, on PCI what is behind the BAR.
const PARTS: [u64; 8] = [0, 0x100, 0x1000, 0x2000, 0x3000, 0x4000, 0x4800, 0x7ff8];
/// In memory: where a queue is notified and where the status is. On PCI: the same.
const MAPPED: (u64, u64) = (0x50, 0x70);
const BEHIND_BAR: (u64, u64) = (0x3000, 0x14);

/// Interrupts that nobody hears.
struct Deaf;

impl InterruptLine for Deaf {
    fn set(&self, _up: bool) {}
}

impl Messages for Deaf {
    fn send(&self, _address: u64, _data: u32) {}
}

enum Transport {
    Mapped(MmioTransport<Deaf>),
    Pci(Box<PciTransport<Deaf, Deaf>>),
}

impl Transport {
    fn read(&mut self, at: u64, bytes: &mut [u8]) {
        match self {
            Transport::Mapped(registers) => registers.read(at, bytes),
            Transport::Pci(registers) => registers.read_memory(at, bytes),
        }
    }

    fn write(&mut self, at: u64, bytes: &[u8]) {
        match self {
            Transport::Mapped(registers) => registers.write(at, bytes),
            Transport::Pci(registers) => registers.write_memory(at, bytes),
        }
    }

    fn wake(&mut self) {
        match self {
            Transport::Mapped(registers) => registers.wake(),
            Transport::Pci(registers) => registers.wake(),
        }
    }

    fn life(&self) -> &Life {
        match self {
            Transport::Mapped(registers) => registers.life(),
            Transport::Pci(registers) => registers.life(),
        }
    }

    fn notify(&mut self, queue: u16) {
        match self {
            Transport::Mapped(_) => self.write(MAPPED.0, &u32::from(queue).to_le_bytes()),
            Transport::Pci(_) => self.write(BEHIND_BAR.0 + 4 * u64::from(queue), &queue.to_le_bytes()),
        }
    }
}

/// Carries the rest of an input out, on a driver that has started by the book.
pub fn drive(mut driver: Driver, input: &mut Input<'_>) {
    let Some(which) = input.byte() else { return };
    let life = driver.life.take().expect("it is there from the beginning");
    let mut transport = match which % 3 {
        0 => Transport::Mapped(MmioTransport::new(life, Deaf)),
        1 => Transport::Pci(Box::new(PciTransport::new(life, 0xe000_0000, Deaf, Deaf))),
        _ => Transport::Pci(Box::new(PciTransport::without_messages(life, 0xe000_0000, Deaf, Deaf))),
    };
    for _ in 0..MOST_STEPS {
        if step(&mut transport, &driver.memory, &mut driver.offered, input).is_none() {
            break;
        }
    }
    match transport {
        Transport::Mapped(_) => transport.write(MAPPED.1, &[0; 4]),
        Transport::Pci(_) => transport.write(BEHIND_BAR.1, &[0]),
    }
    let life = transport.life();
    assert_eq!((life.status() & status::DRIVER_OK, life.broken()), (0, None), "a reset heals");
}

/// One step; none at the input's end.
fn step(
    transport: &mut Transport,
    memory: &Arc<DmaMemory>,
    offered: &mut [u16],
    input: &mut Input<'_>,
) -> Option<()> {
    let tag = input.byte()?;
    let high = tag >> 4;
    match tag & 7 {
        0 => {
            let (address, length) = (input.word()?, input.byte()?);
            let bytes = input.bytes(length.into());
            let _ = memory.write_slice(&bytes, GuestAddress(address.into()));
        }
        kind @ (1 | 2 | 4 | 5) => {
            let (within, length) = (input.byte()?, [1, 2, 4, 8][usize::from(input.byte()? % 4)]);
            let at = PARTS[usize::from(high) % 8] + u64::from(within);
            let mut bytes = input.bytes(if kind & 2 == 2 || kind == 5 { length } else { 0 });
            bytes.resize(length, 0xff);
            match (kind, &mut *transport) {
                (1, transport) => transport.read(at, &mut bytes),
                (2, transport) => transport.write(at, &bytes),
                // The bus asks for at most four bytes, within four.
                (_, Transport::Pci(function)) => {
                    let length = length.min(4);
                    let place = usize::from(within) / length * length;
                    match kind {
                        4 => function.read_configuration(place, &mut bytes[..length]),
                        _ => function.write_configuration(place, &bytes[..length]),
                    }
                    if let Some(memory) = function.memory() {
                        assert!(memory.start < memory.end, "registers somewhere: {memory:x?}");
                    }
                }
                _ => {}
            }
        }
        3 => transport.wake(),
        6 => transport.notify(high.into()),
        _ => {
            let queue = u16::from(high) % offered.len() as u16;
            make_chain(memory, queue, offered, input)?;
            transport.notify(queue);
        }
    }
    Some(())
}
