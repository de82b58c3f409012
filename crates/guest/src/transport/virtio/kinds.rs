//! What a virtio network, console or port is to the drivers of 2007.
//!
//! - A **network** is a page with two slots: the Host in slot 0, which wants every frame, as on a tap; ourselves in slot 1.
//! - A **console** without named ports is the console.
//! - A **named port** is a pipe: bytes from a program on the host, and to it. A port has to be opened by messages (virtio 1.2,
//!   5.3.6.2), and they are exchanged here, once, before the driver is asked.

use alloc::rc::Rc;
use alloc::vec::Vec;

use lguest_abi::descriptor::kind;
use lguest_abi::meeting::PAGE_SIZE;
use lguest_abi::net::{LOCAL, PROMISCUOUS, RECEIVE_BUFFERS, TAP_GUEST_SLOT, slot_offset};

use super::queue::{Piece, Queue};
use super::registers::{self, Registers};
use super::stream::{Shape, StreamPort};
use super::{Collects, wait_for};
use crate::model::{Buffer, Memory};

/// Bytes before each frame (virtio 1.2, 5.1.6): nothing left to do on it. From before 1.0 they are two fewer (5.1.6.1).
const NET_HEADER: usize = 12;
const LEGACY_NET_HEADER: usize = 10;
/// The device has an address.
const NET_ADDRESS: u32 = 1 << 5;
/// The console has ports, and queues to talk of them.
const MULTIPORT: u32 = 1 << 1;
/// Where the console's configuration says how many.
const PORT_COUNT: u64 = 4;
/// Ports of a device that this Guest drives.
const MOST_PORTS: u32 = 8;
const CONTROL_QUEUES: [u16; 2] = [2, 3];
/// Messages that may wait, and the most bytes of one; a name is cut, and nobody here reads it.
const MESSAGES: u16 = 8;
const MESSAGE: usize = 32;
const HEADER: usize = 8;
/// How often the device is asked for its first messages before it is left alone. Ours answers before its notification is over.
const PATIENCE: u32 = 1 << 20;

const DEVICE_READY: u16 = 0;
const PORT_ADD: u16 = 1;
const PORT_READY: u16 = 3;
const PORT_OPEN: u16 = 6;

/// A stream that is all there is on its device.
fn alone(device: u16, lists: u16) -> Shape {
    Shape {
        device,
        features: 0,
        page: None,
        address: None,
        queues: [0, 1],
        lists,
        header: 0,
        alone: true,
        agreed: 0,
    }
}

/// A network. None when it does not agree, or when memory is short.
pub(super) fn network(registers: &Rc<dyn Registers>, memory: &Rc<dyn Memory>) -> Option<StreamPort> {
    let agreed = NET_ADDRESS & registers::offered(&**registers)?;
    if !registers::agree(&**registers, agreed) {
        return None;
    }
    let page = Buffer::allocate(memory, PAGE_SIZE as usize)?;
    page.write(slot_offset(0), &[LOCAL | PROMISCUOUS, 0, 0, 0, 0, 0]);
    let address = (agreed != 0).then(|| {
        let (low, high) =
            (registers.configuration(0).to_le_bytes(), registers.configuration(4).to_le_bytes());
        [low[0], low[1], low[2], low[3], high[0], high[1]]
    });
    let shape = Shape {
        features: TAP_GUEST_SLOT,
        page: Some(page),
        address,
        header: if registers.is_legacy() { LEGACY_NET_HEADER } else { NET_HEADER },
        agreed,
        ..alone(kind::NET, RECEIVE_BUFFERS)
    };
    begun(registers, StreamPort::start(registers, memory, shape))
}

/// Whether a console has named ports.
pub(super) fn has_ports(registers: &dyn Registers) -> bool {
    registers::offered(registers).is_some_and(|offered| offered & MULTIPORT != 0)
}

/// A console without ports. None as above.
pub(super) fn console(registers: &Rc<dyn Registers>, memory: &Rc<dyn Memory>) -> Option<StreamPort> {
    if !registers::agree(&**registers, 0) {
        return None;
    }
    begun(registers, StreamPort::start(registers, memory, alone(kind::CONSOLE, 1)))
}

/// Lets the device begin; without its port it is reset, for its queues are nobody's memory any more.
fn begun(registers: &Rc<dyn Registers>, port: Option<StreamPort>) -> Option<StreamPort> {
    match &port {
        Some(_) => registers::begin(&**registers),
        None => registers.set_status(0),
    }
    port
}

/// The queues by which ports are talked of. They stay in use: the device may write at any time.
pub(super) struct Control {
    registers: Rc<dyn Registers>,
    hears: Queue,
    says: Queue,
    heard: Buffer,
    said: Buffer,
}

impl Control {
    fn start(registers: &Rc<dyn Registers>, memory: &Rc<dyn Memory>) -> Option<Control> {
        let [hears, says] = CONTROL_QUEUES;
        Some(Control {
            hears: Queue::start(&**registers, hears, MESSAGES, memory)?,
            says: Queue::start(&**registers, says, 1, memory)?,
            heard: Buffer::allocate(memory, usize::from(MESSAGES) * MESSAGE)?,
            said: Buffer::allocate(memory, HEADER)?,
            registers: registers.clone(),
        })
    }

    fn listen(&self, slot: u16) {
        let address = self.heard.address() + u64::from(slot) * MESSAGE as u64;
        let piece = Piece { address, length: MESSAGE as u32, writable: true };
        self.hears.offer(&*self.registers, slot, &[piece]);
    }

    /// The next message: port and event.
    fn next(&self) -> Option<(u32, u16)> {
        let (slot, _) = self.hears.came_back()?;
        let at = u64::from(slot) * MESSAGE as u64;
        let message = (self.heard.read_u32(at), self.heard.read_u32(at + 4) as u16);
        self.listen(slot);
        Some(message)
    }

    fn say(&self, port: u32, event: u16) {
        self.said.write_u32(0, port);
        // With the value 1: yes.
        self.said.write_u32(4, u32::from(event) | 1 << 16);
        let piece = Piece { address: self.said.address(), length: HEADER as u32, writable: false };
        let _ = self.says.offer(&*self.registers, 0, &[piece])
            && wait_for(&*self.registers, || self.says.came_back());
    }
}

impl Collects for Control {
    fn collect(&self) {
        self.registers.acknowledge();
        // Ports that come later are not looked for; the messages are taken so that the device can go on.
        while self.next().is_some() {}
    }
}

/// The named ports of a console, each open. None when it does not agree, or when memory is short.
pub(super) fn ports(
    registers: &Rc<dyn Registers>,
    memory: &Rc<dyn Memory>,
) -> Option<(Control, Vec<(u32, StreamPort)>)> {
    if !registers::agree(&**registers, MULTIPORT) {
        return None;
    }
    let control = Control::start(registers, memory)?;
    let count = registers.configuration(PORT_COUNT).min(MOST_PORTS + 1);
    let mut ports = Vec::new();
    // Port 0 is the console's number, and there is none here.
    for number in 1..count {
        let first = number as u16 * 2 + 2;
        let shape = Shape { queues: [first, first + 1], alone: false, ..alone(kind::PIPE, 1) };
        ports.push((number, StreamPort::start(registers, memory, shape)?));
    }
    registers::begin(&**registers);
    (0..MESSAGES).for_each(|slot| control.listen(slot));
    control.say(0, DEVICE_READY);
    let mut added = Vec::new();
    for _ in 0..PATIENCE {
        match control.next() {
            Some((port, PORT_ADD)) => {
                control.say(port, PORT_READY);
                control.say(port, PORT_OPEN);
                added.push(port);
            }
            Some(_) => {}
            None if added.len() == ports.len() => break,
            None => core::hint::spin_loop(),
        }
    }
    ports.retain(|(number, _)| added.contains(number));
    Some((control, ports))
}
