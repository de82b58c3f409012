//! A console and named ports (virtio 1.2, 5.3): streams of bytes between programs in the Guest and ends of the host's.
//!
//! ```text
//!   queue 0, 1   port 0, the console: bytes that come, bytes that go
//!         2, 3   control: what the driver is told of ports, what it says of them     (with MULTIPORT alone)
//!         4, 5   port 1                                                             6, 7   port 2 ...
//!   configuration: columns (16 bits), rows (16), ports (32), a byte for emergencies (32)
//! ```
//! No byte is lost here for want of room: what an end does not take stays in the driver's chain, what the driver has no room
//! for stays with the end. A device without named ports offers no MULTIPORT, and Linux then reads the size of
//! the terminal where every driver finds it, in the configuration. In the control message its kernels disagree with the
//! specification, and with each other, about which of the two numbers comes first; ours are in the specification's order (5.3.6.2).

mod port;

use super::ring::Broken;
use super::rings::Rings;
use super::{DeviceKind, QueueIndex, VirtioDevice};
pub use port::{End, Room, Size};
use port::{Messages, Port};

/// Chains of each queue. Linux gives a page for each of those that come, from the beginning on.
const QUEUE_SIZE: u16 = 32;
/// Bytes moved at a time, and at most into one chain: Linux' pages.
const CHUNK: usize = 4096;
/// Named ports at most: two queues each, beside the console's and the control's, and a device has 64.
pub const MOST_PORTS: usize = 30;
/// Bytes of a name at most. Linux calls it sysfs' attribute and the file's name under /dev/virtio-ports.
pub const LONGEST_NAME: usize = 64;

const CONTROL_IN: QueueIndex = QueueIndex(2);
const CONTROL_OUT: QueueIndex = QueueIndex(3);
/// Where the configuration has the byte for emergencies.
const EMERGENCY: u64 = 8;

mod feature {
    pub const SIZE: u64 = 1 << 0;
    pub const MULTIPORT: u64 = 1 << 1;
    pub const EMERGENCY_WRITE: u64 = 1 << 2;
}

/// Events of the control queues (5.3.6.2).
mod event {
    pub const DEVICE_READY: u16 = 0;
    pub const PORT_ADD: u16 = 1;
    pub const PORT_READY: u16 = 3;
    pub const CONSOLE_PORT: u16 = 4;
    pub const RESIZE: u16 = 5;
    pub const PORT_OPEN: u16 = 6;
    pub const PORT_NAME: u16 = 7;
}

/// Bytes of a control message before what belongs to its event: port, event, value.
const CONTROL_HEADER: usize = 8;

/// The device.
pub struct VirtioConsole {
    /// By number; the first may be missing, when there is no console.
    ports: Vec<Option<Port>>,
    queue_sizes: Vec<u16>,
    configuration: [u8; 12],
    features: u64,
    /// Agreed on with the driver.
    multiport: bool,
    /// The driver was told that there is a size.
    size_told: bool,
    buffer: Box<[u8; CHUNK]>,
}

impl VirtioConsole {
    /// A console alone.
    pub fn console(end: Box<dyn End>) -> VirtioConsole {
        VirtioConsole::with_ports(Some(end), Vec::new())
    }

    /// A console or none, and named ports, which Linux shows as /dev/virtio-ports/NAME.
    ///
    /// # Panics
    /// With more than [`MOST_PORTS`]: the machine is wrong, not the Guest.
    pub fn with_ports(console: Option<Box<dyn End>>, named: Vec<(String, Box<dyn End>)>) -> VirtioConsole {
        assert!(named.len() <= MOST_PORTS, "a device has at most {MOST_PORTS} named ports");
        let multiport = !named.is_empty();
        let mut ports = vec![console.map(|end| Port::new(None, end))];
        ports.extend(named.into_iter().map(|(name, end)| Some(Port::new(Some(name), end))));
        let queues = if multiport { (ports.len() + 1) * 2 } else { 2 };
        let mut configuration = [0; 12];
        configuration[4..8].copy_from_slice(&(ports.len() as u32).to_le_bytes());
        let bits = |is: bool, bits: u64| if is { bits } else { 0 };
        let mut device = VirtioConsole {
            queue_sizes: vec![QUEUE_SIZE; queues],
            configuration,
            features: bits(multiport, feature::MULTIPORT)
                | bits(ports[0].is_some(), feature::EMERGENCY_WRITE),
            ports,
            multiport: false,
            size_told: false,
            buffer: Box::new([0; CHUNK]),
        };
        if device.note_size() {
            device.features |= feature::SIZE;
        }
        device
    }

    /// Puts the terminal's size into the configuration. True when that is a change.
    fn note_size(&mut self) -> bool {
        let Some(Some(port)) = self.ports.first_mut() else { return false };
        let size = port.end.size();
        if size.is_none() || port.size == size {
            return false;
        }
        port.size = size;
        let Size { columns, rows } = size.unwrap_or_default();
        self.configuration[..2].copy_from_slice(&columns.to_le_bytes());
        self.configuration[2..4].copy_from_slice(&rows.to_le_bytes());
        true
    }

    /// What changed outside since the last call.
    fn look(&mut self, rings: &mut Rings<'_>) {
        if self.note_size() {
            self.size_told = true;
            rings.configuration_changed();
            self.ports.iter_mut().take(1).flatten().for_each(|port| port.messages.insert(Messages::SIZE));
        }
        for port in self.ports.iter_mut().flatten() {
            if port.ready && port.end.is_connected() != port.connected {
                port.messages.insert(Messages::OPEN);
            }
        }
    }

    /// What the driver says of ports. What it says of none, or nothing sensible, is nobody's.
    fn hear(&mut self, rings: &mut Rings<'_>) -> Result<(), Broken> {
        if !rings.is_ready(CONTROL_OUT) {
            return Ok(());
        }
        let mut ring = rings.ring(CONTROL_OUT)?;
        while let Some(mut chain) = ring.take()? {
            let mut message = [0; CONTROL_HEADER];
            if ring.read(&mut chain, &mut message) {
                let [a, b, c, d, e, f, g, h] = message;
                let (number, event) = (u32::from_le_bytes([a, b, c, d]), u16::from_le_bytes([e, f]));
                self.heard(number, event, u16::from_le_bytes([g, h]));
            }
            ring.finish(&chain, 0)?;
        }
        Ok(())
    }

    fn heard(&mut self, number: u32, event: u16, value: u16) {
        if event == event::DEVICE_READY {
            if value == 1 {
                self.ports.iter_mut().flatten().for_each(|port| port.messages.insert(Messages::ADD));
            }
            return;
        }
        let port = usize::try_from(number).ok().and_then(|number| self.ports.get_mut(number));
        let Some(Some(port)) = port else { return };
        match event {
            event::PORT_READY if value == 1 => {
                port.ready = true;
                port.messages.insert(if port.name.is_some() { Messages::NAME } else { Messages::CONSOLE });
                if port.size.is_some() {
                    port.messages.insert(Messages::SIZE);
                }
                if port.end.is_connected() {
                    port.messages.insert(Messages::OPEN);
                }
            }
            event::PORT_OPEN => port.set_open(value != 0),
            _ => {}
        }
    }

    /// Tells the driver what is to be told, as far as it gives room.
    fn tell(&mut self, rings: &mut Rings<'_>) -> Result<(), Broken> {
        if !rings.is_ready(CONTROL_IN) {
            return Ok(());
        }
        let mut ring = rings.ring(CONTROL_IN)?;
        for (number, port) in (0u32..).zip(&mut self.ports) {
            let Some(port) = port else { continue };
            while let Some(message) = port.messages.first() {
                let Some(mut chain) = ring.take()? else { return Ok(()) };
                port.messages.remove(message);
                let bytes = control_message(number, port, message);
                if !ring.write(&mut chain, &bytes) {
                    return Err(Broken::NoRoom);
                }
                ring.finish(&chain, bytes.len() as u32)?;
            }
        }
        Ok(())
    }

    /// Everything that can be done now.
    fn serve(&mut self, rings: &mut Rings<'_>) -> Result<(), Broken> {
        self.look(rings);
        if self.multiport {
            self.hear(rings)?;
        }
        for (number, port) in (0..).zip(&mut self.ports) {
            // Without MULTIPORT there is port 0 alone.
            if number > 0 && !self.multiport {
                break;
            }
            let (receive, transmit) = queues(number);
            match port {
                Some(port) => {
                    let went = port.transmit(transmit, rings, &mut self.buffer)?;
                    // Linux looks at the size when it is told that it changed, and not before it has a console.
                    if went && number == 0 && !std::mem::replace(&mut self.size_told, true) {
                        rings.configuration_changed();
                    }
                    port.receive(receive, rings, &mut self.buffer)?;
                }
                None => drop_all(transmit, rings)?,
            }
        }
        if self.multiport { self.tell(rings) } else { Ok(()) }
    }
}

/// The queues of a port: what comes, what goes (5.3.2).
fn queues(number: u16) -> (QueueIndex, QueueIndex) {
    let first = if number == 0 { 0 } else { number * 2 + 2 };
    (QueueIndex(first), QueueIndex(first + 1))
}

/// A port that is not there has no use for bytes.
fn drop_all(queue: QueueIndex, rings: &mut Rings<'_>) -> Result<(), Broken> {
    if !rings.is_ready(queue) {
        return Ok(());
    }
    let mut ring = rings.ring(queue)?;
    while let Some(chain) = ring.take()? {
        ring.finish(&chain, 0)?;
    }
    Ok(())
}

fn control_message(number: u32, port: &mut Port, message: Messages) -> Vec<u8> {
    let mut rest = Vec::new();
    let (event, value) = match message {
        Messages::ADD => (event::PORT_ADD, 0),
        Messages::CONSOLE => (event::CONSOLE_PORT, 1),
        Messages::SIZE => {
            let Size { columns, rows } = port.size.unwrap_or_default();
            rest.extend(columns.to_le_bytes());
            rest.extend(rows.to_le_bytes());
            (event::RESIZE, 0)
        }
        Messages::NAME => {
            rest.extend(port.name.as_deref().unwrap_or_default().bytes());
            (event::PORT_NAME, 1)
        }
        _ => {
            port.connected = port.end.is_connected();
            (event::PORT_OPEN, port.connected.into())
        }
    };
    let mut bytes = Vec::with_capacity(CONTROL_HEADER + rest.len());
    bytes.extend(number.to_le_bytes());
    bytes.extend(u16::to_le_bytes(event));
    bytes.extend(u16::to_le_bytes(value));
    bytes.extend(rest);
    bytes
}

impl VirtioDevice for VirtioConsole {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Console
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn configuration(&self) -> &[u8] {
        &self.configuration
    }

    /// A character written here is shown at once, whatever else works or does not (5.3.4, 5.3.5).
    fn write_configuration(&mut self, offset: u64, data: &[u8]) {
        let (Some(Some(port)), EMERGENCY, [byte, ..]) = (self.ports.first_mut(), offset, data) else {
            return;
        };
        if matches!(port.end.room(), Room::Bytes(1..)) {
            port.end.put(&[*byte]);
        }
    }

    fn activate(&mut self, features: u64) {
        self.multiport = features & feature::MULTIPORT != 0;
        self.size_told = self.features & feature::SIZE == 0;
        if !self.multiport {
            // Nobody will say so.
            self.ports.iter_mut().take(1).flatten().for_each(|port| port.set_open(true));
        }
    }

    fn reset(&mut self) {
        self.ports.iter_mut().flatten().for_each(Port::reset);
        self.multiport = false;
    }

    fn notify(&mut self, _queue: QueueIndex, rings: &mut Rings<'_>) -> Result<(), Broken> {
        self.serve(rings)
    }

    fn wake(&mut self, rings: &mut Rings<'_>) -> Result<(), Broken> {
        self.serve(rings)
    }
}

#[cfg(test)]
mod tests;
