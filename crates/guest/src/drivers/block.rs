//! Disks: one request at a time, a page that describes it, and lists that carry it (facts 7.2).
//!
//! ```text
//!   write   page: what, where, how much     send the data             interrupt: result 1 or 2
//!   read    page: what, where, how much     arm the inbox, send a     interrupt: the data is there
//!                                           list of nothing (a ping)
//! ```

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use lguest_abi::block::{SECTOR_SIZE, offset, request, result};
use lguest_abi::descriptor::{feature, kind};
use lguest_abi::dma::{Section, Sections};
use lguest_abi::pipe::VENDOR_LGUEST;

use crate::model::{Channel, Device, DeviceId, Direction, Driver, Handler, Inbox, ProbeError};

const CHANNEL: Channel = Channel(0);
const IDS: [DeviceId; 1] = [DeviceId { vendor: VENDOR_LGUEST, device: kind::BLOCK }];
/// Requests that may wait for a disk. More are refused, so that a busy disk cannot eat the Guest's memory.
pub const MAX_QUEUED: usize = 256;

/// What somebody wants of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// Bytes from it.
    Read,
    /// Bytes to it.
    Write,
    /// Anything else a system may ask: this device cannot, and says so at once.
    Other,
}

/// How a request stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// In the queue or with the Host.
    Waiting,
    /// All of it happened.
    Done,
    /// It did not.
    Failed,
}

/// A request, shared by who asked and the disk. Its memory is the asker's, who keeps it until it has ended.
pub struct Request {
    wish: Wish,
    sector: u32,
    sections: Sections,
    state: Cell<State>,
}

/// Why a request cannot be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestError {
    /// It needs more than sixteen sections.
    TooLong,
    /// Nothing, or not a whole number of sectors.
    NotSectors,
    /// [`MAX_QUEUED`] wait.
    Busy,
}

impl Request {
    /// A request for a stretch of memory, cut at page ends.
    ///
    /// # Errors
    /// [`RequestError::TooLong`] or [`RequestError::NotSectors`].
    pub fn new(wish: Wish, sector: u32, address: u64, bytes: usize) -> Result<Rc<Request>, RequestError> {
        let mut sections = Sections::new();
        if sections.push_pages(address, bytes) != bytes {
            return Err(RequestError::TooLong);
        }
        Request::from_sections(wish, sector, sections.as_slice())
    }

    /// A request for stretches that the caller has cut.
    ///
    /// # Errors
    /// [`RequestError::TooLong`] or [`RequestError::NotSectors`], also when one crosses a page or is empty.
    pub fn from_sections(
        wish: Wish,
        sector: u32,
        stretches: &[Section],
    ) -> Result<Rc<Request>, RequestError> {
        let mut sections = Sections::new();
        for stretch in stretches {
            let in_page = stretch.check_page_rule(u64::MAX).is_ok() && stretch.length != 0;
            if !in_page {
                return Err(RequestError::NotSectors);
            }
            sections.push(*stretch).map_err(|_| RequestError::TooLong)?;
        }
        let total = sections.total();
        if total == 0 || !total.is_multiple_of(SECTOR_SIZE as usize) {
            return Err(RequestError::NotSectors);
        }
        Ok(Rc::new(Request { wish, sector, sections, state: Cell::new(State::Waiting) }))
    }

    /// How it stands.
    #[must_use]
    pub fn state(&self) -> State {
        self.state.get()
    }
}

/// Drives every disk there is.
#[derive(Default)]
pub struct BlockDriver {
    disks: RefCell<Vec<Rc<Disk>>>,
    /// Letters given out; a failing probe gives its own back.
    names: Cell<u8>,
}

/// One disk.
pub struct Disk {
    name: String,
    device: Rc<Device>,
    inbox: Box<dyn Inbox>,
    sectors: u32,
    queue: RefCell<VecDeque<Rc<Request>>>,
    current: RefCell<Option<Rc<Request>>>,
}

impl BlockDriver {
    /// A driver without disks.
    #[must_use]
    pub fn new() -> BlockDriver {
        BlockDriver::default()
    }

    /// The disks in order of their names.
    #[must_use]
    pub fn disks(&self) -> Vec<Rc<Disk>> {
        self.disks.borrow().clone()
    }
}

/// `lgba`, `lgbb` and on: the letter is only counted up, so the twenty-seventh is `lgb{`, as it always was.
#[must_use]
pub fn disk_name(number: u8) -> String {
    format!("lgb{}", char::from(b'a'.wrapping_add(number)))
}

impl Driver for BlockDriver {
    fn name(&self) -> &'static str {
        "lguestblk"
    }

    fn ids(&self) -> &[DeviceId] {
        &IDS
    }

    fn probe(&self, device: &Rc<Device>) -> Result<Rc<dyn Handler>, ProbeError> {
        let no_page = ProbeError::NotUsable("a disk without a page");
        let sectors = device.carrier.memory().ok_or(no_page)?.read_u32(offset::NUM_SECTORS);
        let inbox = device.carrier.open(CHANNEL, &[Sections::new()])?;
        let number = self.names.get();
        let disk = Rc::new(Disk {
            name: disk_name(number),
            device: device.clone(),
            inbox,
            sectors,
            queue: RefCell::new(VecDeque::new()),
            current: RefCell::new(None),
        });
        self.names.set(number.wrapping_add(1));
        self.disks.borrow_mut().push(disk.clone());
        Ok(disk)
    }
}

impl Disk {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its length in sectors of 512 bytes.
    #[must_use]
    pub fn sectors(&self) -> u32 {
        self.sectors
    }

    /// Whether the moments of its interrupts may feed a pool of entropy.
    #[must_use]
    pub fn is_entropy_source(&self) -> bool {
        self.device.carrier.features() & feature::RANDOMNESS != 0
    }

    /// Requests that have not ended, the one in flight included.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.queue.borrow().len() + usize::from(self.current.borrow().is_some())
    }

    /// Puts a request into the queue, and starts it if the disk is idle.
    ///
    /// # Errors
    /// [`RequestError::Busy`].
    pub fn submit(&self, request: &Rc<Request>) -> Result<(), RequestError> {
        if self.queue.borrow().len() >= MAX_QUEUED {
            return Err(RequestError::Busy);
        }
        self.queue.borrow_mut().push_back(request.clone());
        self.start();
        Ok(())
    }

    /// Gives the Host the next request, unless it has one: there is one page to describe it in.
    fn start(&self) {
        while self.current.borrow().is_none() {
            let next = self.queue.borrow_mut().pop_front();
            let Some(request) = next else { return };
            if request.wish == Wish::Other {
                request.state.set(State::Failed);
                continue;
            }
            *self.current.borrow_mut() = Some(request.clone());
            if !self.send(&request) {
                self.current.borrow_mut().take();
                request.state.set(State::Failed);
            }
        }
    }

    /// Describes a request and sends it. False if it could not be sent.
    fn send(&self, request: &Request) -> bool {
        let Some(page) = self.device.carrier.memory() else { return false };
        let kind = if request.wish == Wish::Write { request::WRITE } else { request::READ };
        page.write(offset::KIND, &kind.to_le_bytes());
        page.write_u32(offset::SECTOR, request.sector);
        page.write_u32(offset::BYTES, request.sections.total() as u32);
        page.write(offset::RESULT, &result::PENDING.to_le_bytes());
        page.barrier();
        let sent = match request.wish {
            Wish::Write => self.device.carrier.transfer(CHANNEL, Direction::Write, &request.sections),
            _ => {
                self.inbox.arm(0, &request.sections);
                self.device.carrier.transfer(CHANNEL, Direction::Write, &Sections::new())
            }
        };
        // What the Host took says nothing here (it is always 0): the result in the page does.
        sent.is_ok()
    }
}

impl Handler for Disk {
    /// Ends the whole request at once, whatever it was made of, and starts the next.
    fn interrupt(&self) -> bool {
        let Some(page) = self.device.carrier.memory() else { return false };
        let outcome = page.read_u32(offset::RESULT) as i32;
        if outcome == result::PENDING || self.current.borrow().is_none() {
            return false;
        }
        page.barrier();
        self.inbox.rearm(0);
        if let Some(request) = self.current.borrow_mut().take() {
            request.state.set(if outcome == result::DONE { State::Done } else { State::Failed });
        }
        self.start();
        true
    }
}

#[cfg(all(test, feature = "transports"))]
#[path = "block_tests.rs"]
mod tests;
