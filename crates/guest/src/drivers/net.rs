//! The network: everybody's address in one page, and a send to each who wants the packet (facts 7.3).
//!
//! There is no switch. The sender reads the table and delivers: to the slot with the packet's address, to every slot that
//! wants everything, and to all if it is for many. The table is every peer's to write; see D7 for what that means.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use lguest_abi::descriptor::{feature, kind};
use lguest_abi::dma::Sections;
use lguest_abi::net::{
    ADDRESS_SIZE, EthernetAddress, FRAME_MAXIMUM, FRAME_MINIMUM, PROMISCUOUS, RECEIVE_BUFFERS, SLOTS,
    key_offset, slot_offset, wants,
};
use lguest_abi::pipe::VENDOR_LGUEST;

use crate::model::{
    BindError, Buffer, Carrier, Channel, Device, DeviceId, Direction, Driver, Handler, Inbox, Memory,
    ProbeError,
};

const IDS: [DeviceId; 1] = [DeviceId { vendor: VENDOR_LGUEST, device: kind::NET }];
/// Frames that wait to be read. More are dropped: a peer that floods must not eat this Guest's memory.
pub const MAX_WAITING: usize = 64;

/// What a device has counted. Packets sent are counted once a peer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Frames that a peer took whole.
    pub tx_packets: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// Frames that a peer did not take whole.
    pub tx_carrier_errors: u64,
    /// Frames received.
    pub rx_packets: u64,
    /// Their bytes after the Ethernet header.
    pub rx_bytes: u64,
    /// Frames of a wrong length, or with nobody to read them.
    pub rx_dropped: u64,
    /// Packets in more pieces than one list carries; they were cut.
    pub tx_truncated: u64,
}

/// A frame that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Its bytes, header included.
    pub bytes: Vec<u8>,
    /// Whether checksums inside it still have to be checked.
    pub checksum_needed: bool,
}

/// Drives every network device.
pub struct NetDriver {
    memory: Rc<dyn Memory>,
    guest_id: u16,
    devices: RefCell<Vec<Rc<NetDevice>>>,
}

/// One network device, closed until it is opened.
pub struct NetDevice {
    device: Rc<Device>,
    memory: Rc<dyn Memory>,
    address: EthernetAddress,
    me: u16,
    outgoing: Buffer,
    promiscuous: Cell<bool>,
    open: RefCell<Option<Open>>,
    waiting: RefCell<VecDeque<Frame>>,
    statistics: Cell<Statistics>,
}

/// What an open device has besides.
struct Open {
    inbox: Box<dyn Inbox>,
    buffers: Vec<Buffer>,
}

impl NetDriver {
    /// A driver without devices. `guest_id` makes the Guest's address.
    #[must_use]
    pub fn new(memory: &Rc<dyn Memory>, guest_id: u16) -> NetDriver {
        NetDriver { memory: memory.clone(), guest_id, devices: RefCell::new(Vec::new()) }
    }

    /// The devices in order of arrival.
    #[must_use]
    pub fn devices(&self) -> Vec<Rc<NetDevice>> {
        self.devices.borrow().clone()
    }
}

impl Driver for NetDriver {
    fn name(&self) -> &'static str {
        "lguestnet"
    }

    fn ids(&self) -> &[DeviceId] {
        &IDS
    }

    fn probe(&self, device: &Rc<Device>) -> Result<Rc<dyn Handler>, ProbeError> {
        let page = device.carrier.memory().ok_or(ProbeError::NotUsable("a network without a page"))?;
        let me = device.carrier.features() & (page.size().min(4096) - 1) as u16;
        if me >= SLOTS {
            return Err(ProbeError::NotUsable("a slot past the end of the page"));
        }
        // A bus has sixteen places, so this always fits.
        let network = self.devices.borrow().len() as u8;
        let outgoing = Buffer::allocate(&self.memory, FRAME_MAXIMUM as usize).ok_or(ProbeError::NoMemory)?;
        let net = Rc::new(NetDevice {
            device: device.clone(),
            memory: self.memory.clone(),
            address: device
                .carrier
                .address()
                .map_or(EthernetAddress::of_guest(self.guest_id, network), EthernetAddress),
            me,
            outgoing,
            promiscuous: Cell::new(false),
            open: RefCell::new(None),
            waiting: RefCell::new(VecDeque::new()),
            statistics: Cell::new(Statistics::default()),
        });
        self.devices.borrow_mut().push(net.clone());
        Ok(net)
    }
}

impl NetDevice {
    /// This Guest's address.
    #[must_use]
    pub fn address(&self) -> EthernetAddress {
        self.address
    }

    /// This Guest's slot in the table.
    #[must_use]
    pub fn slot(&self) -> u16 {
        self.me
    }

    /// What was counted so far.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        self.statistics.get()
    }

    /// Whether packets never leave this host: then a sender may hand over fragments, and nobody computes checksums.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.device.carrier.features() & feature::NET_NO_CHECKSUM != 0
    }

    /// Whether it takes part.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.open.borrow().is_some()
    }

    /// Joins: publishes the address, then offers eight buffers. Between the two a sender finds nobody (D15).
    ///
    /// # Errors
    /// [`BindError::NoMemory`]; the address is taken back.
    pub fn open(&self) -> Result<(), BindError> {
        if self.is_open() {
            return Ok(());
        }
        self.publish();
        let opened = self.open_inbox();
        if opened.is_err() {
            self.write_slot([0; ADDRESS_SIZE]);
        }
        *self.open.borrow_mut() = Some(opened?);
        Ok(())
    }

    fn open_inbox(&self) -> Result<Open, BindError> {
        let mut buffers = Vec::new();
        for _ in 0..RECEIVE_BUFFERS {
            let buffer = Buffer::allocate(&self.memory, FRAME_MAXIMUM as usize);
            buffers.push(buffer.ok_or(BindError::NoMemory)?);
        }
        let lists: Vec<_> = buffers.iter().map(|buffer| sections(buffer, FRAME_MAXIMUM as usize)).collect();
        let inbox = self.device.carrier.open(Channel(key_offset(self.me)), &lists)?;
        Ok(Open { inbox, buffers })
    }

    /// Leaves: clears the slot, then takes the buffers back. Between the two a packet still lands (D15).
    pub fn close(&self) {
        if self.is_open() {
            self.write_slot([0; ADDRESS_SIZE]);
            self.open.borrow_mut().take();
        }
    }

    /// Asks every peer for every packet, or stops. A subscription to any group sets this too: nobody here
    /// can tell one group from another.
    pub fn set_promiscuous(&self, everything: bool) {
        self.promiscuous.set(everything);
        if self.is_open() {
            self.publish();
        }
    }

    /// Groups this Guest listens to; any at all means every packet.
    pub fn set_groups(&self, groups: &[EthernetAddress]) {
        self.set_promiscuous(!groups.is_empty());
    }

    /// Sends a frame to everybody who wants it. It always succeeds, as on any wire: what was not taken is counted.
    /// Says how many peers took it.
    pub fn transmit(&self, frame: &[u8]) -> usize {
        let length = frame.len().min(FRAME_MAXIMUM as usize);
        self.outgoing.write(0, &frame[..length]);
        self.transmit_sections(&sections(&self.outgoing, length))
    }

    /// Sends what several stretches of memory hold: a linear part cut at page ends, then one section a fragment. Past
    /// sixteen the packet is cut.
    pub fn transmit_fragments(&self, linear: (u64, usize), fragments: &[(u64, u16)]) -> usize {
        let mut list = Sections::new();
        let mut whole = list.push_pages(linear.0, linear.1) == linear.1;
        for (address, length) in fragments {
            let section = lguest_abi::dma::Section { address: *address, length: *length };
            whole &= list.push(section).is_ok();
        }
        if !whole {
            self.count(|counts| counts.tx_truncated += 1);
        }
        self.transmit_sections(&list)
    }

    fn transmit_sections(&self, list: &Sections) -> usize {
        let Some(destination) = self.destination(list) else { return 0 };
        let Some(page) = self.page() else { return 0 };
        // One copy of the whole table: 682 small ones cost as much as a dozen packets.
        let mut table = [[0; ADDRESS_SIZE]; SLOTS as usize];
        page.read(0, table.as_flattened_mut());
        let peers =
            (0..SLOTS).zip(table).filter(|(slot, entry)| *slot != self.me && wants(*entry, destination));
        peers.filter(|(slot, _)| self.send(*slot, list)).count()
    }

    /// The first six bytes of a packet; `None` if it is shorter than a header.
    fn destination(&self, list: &Sections) -> Option<EthernetAddress> {
        let first = list.as_slice().first()?;
        if (first.length as usize) < ADDRESS_SIZE || list.total() < FRAME_MINIMUM as usize {
            return None;
        }
        let mut address = [0; ADDRESS_SIZE];
        self.memory.read(first.address, &mut address);
        Some(EthernetAddress(address))
    }

    fn send(&self, slot: u16, list: &Sections) -> bool {
        let channel = Channel(key_offset(slot));
        let taken = self.device.carrier.transfer(channel, Direction::Write, list);
        let whole = taken == Ok(list.total() as u32);
        self.count(|counts| {
            if whole {
                counts.tx_packets += 1;
                counts.tx_bytes += list.total() as u64;
            } else {
                counts.tx_carrier_errors += 1;
            }
        });
        whole
    }

    /// The oldest frame that came.
    pub fn receive(&self) -> Option<Frame> {
        self.waiting.borrow_mut().pop_front()
    }

    fn publish(&self) {
        let mut entry = self.address.0;
        if self.promiscuous.get() {
            entry[0] |= PROMISCUOUS;
        }
        self.write_slot(entry);
    }

    fn page(&self) -> Option<&Buffer> {
        let carrier: &dyn Carrier = &*self.device.carrier;
        carrier.memory()
    }

    fn write_slot(&self, entry: [u8; ADDRESS_SIZE]) {
        if let Some(page) = self.page() {
            page.write(slot_offset(self.me), &entry);
        }
    }

    fn count(&self, change: impl FnOnce(&mut Statistics)) {
        let mut counts = self.statistics.get();
        change(&mut counts);
        self.statistics.set(counts);
    }

    /// Takes one frame out of its buffer: a frame of a wrong length, or one there is no memory for, is dropped and the
    /// buffer stays whole (D6).
    fn take(&self, buffer: &Buffer, length: u32) -> Option<Frame> {
        if !(FRAME_MINIMUM..=FRAME_MAXIMUM).contains(&length) || self.waiting.borrow().len() >= MAX_WAITING {
            return None;
        }
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(length as usize).ok()?;
        bytes.resize(length as usize, 0);
        buffer.read(0, &mut bytes);
        Some(Frame { bytes, checksum_needed: !self.is_local() })
    }
}

impl Handler for NetDevice {
    fn interrupt(&self) -> bool {
        let open = self.open.borrow();
        let Some(open) = &*open else { return false };
        let mut found = false;
        for (list, buffer) in (0..).zip(&open.buffers) {
            let length = open.inbox.arrived(list);
            if length == 0 {
                continue;
            }
            found = true;
            let frame = self.take(buffer, length);
            // Offered again at once: the next frame may be on its way.
            open.inbox.arm(list, &sections(buffer, FRAME_MAXIMUM as usize));
            match frame {
                Some(frame) => {
                    self.count(|counts| {
                        counts.rx_packets += 1;
                        counts.rx_bytes += u64::from(length - FRAME_MINIMUM);
                    });
                    self.waiting.borrow_mut().push_back(frame);
                }
                None => self.count(|counts| counts.rx_dropped += 1),
            }
        }
        found
    }
}

fn sections(buffer: &Buffer, length: usize) -> Sections {
    let mut list = Sections::new();
    list.push_pages(buffer.address(), length);
    list
}

#[cfg(all(test, feature = "transports"))]
#[path = "net_tests.rs"]
mod tests;
