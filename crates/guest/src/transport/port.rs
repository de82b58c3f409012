//! One device of the descriptor page: keys, lists, SEND_DMA and BIND_DMA.

use alloc::boxed::Box;
use alloc::rc::Rc;
use core::cell::{Cell, OnceCell};

use lguest_abi::console;
use lguest_abi::descriptor::Status;
use lguest_abi::dma::{Dma64, Sections, USED_LEN};
use lguest_abi::hypercall::{Bind, Hypercall, pack_bind};
use lguest_abi::meeting::{Irq, PAGE_SIZE};
use lguest_abi::pipe::VENDOR_LGUEST;
use zerocopy::IntoBytes;

use super::reader::Reader;
use super::{Descriptors, Hypercalls};
use crate::model::{
    BindError, Buffer, Carrier, Channel, DeviceId, Direction, Inbox, Memory, Progress, TransferError,
};

const LIST: u64 = size_of::<Dma64>() as u64;
/// Whatever its descriptor says, a Guest maps no more of a device than this.
const MAX_PAGES: u16 = 7;

/// The carrier of a device of the lguest page.
pub struct LguestPort {
    descriptors: Rc<Descriptors>,
    index: usize,
    irq: Irq,
    memory: Rc<dyn Memory>,
    host: Rc<dyn Hypercalls>,
    pages: Option<Buffer>,
    /// The list that is sent. One is enough: a send is over when the call returns.
    outgoing: Buffer,
    /// For drivers that only read, bound at the first read.
    reader: OnceCell<Reader>,
}

impl LguestPort {
    /// The port of one descriptor. `None` when memory is short.
    #[must_use]
    pub fn new(
        descriptors: &Rc<Descriptors>,
        index: usize,
        irq: Irq,
        memory: &Rc<dyn Memory>,
        host: &Rc<dyn Hypercalls>,
    ) -> Option<LguestPort> {
        let descriptor = descriptors.get(index);
        let size = usize::from(descriptor.num_pages.min(MAX_PAGES)) * PAGE_SIZE as usize;
        let pages = descriptor.memory().map(|at| Buffer::mapped(memory, at, size));
        Some(LguestPort {
            descriptors: descriptors.clone(),
            index,
            irq,
            memory: memory.clone(),
            host: host.clone(),
            pages,
            outgoing: Buffer::allocate(memory, LIST as usize)?,
            reader: OnceCell::new(),
        })
    }

    /// A channel's key: an address in the device's own memory. The console has none, and its key is 0.
    fn key(&self, channel: Channel) -> u64 {
        self.pages.as_ref().map_or(console::KEY, |pages| pages.address() + channel.0)
    }

    fn read(&self, channel: Channel, sections: &Sections) -> Result<u32, TransferError> {
        let reader = match self.reader.get() {
            Some(reader) => reader,
            None => {
                let reader =
                    Reader::open(self, channel, &self.memory).map_err(|_| TransferError::NoMemory)?;
                self.reader.get_or_init(|| reader)
            }
        };
        Ok(reader.take(sections, &*self.memory))
    }
}

impl Carrier for LguestPort {
    fn id(&self) -> DeviceId {
        DeviceId { vendor: VENDOR_LGUEST, device: self.descriptors.get(self.index).kind }
    }

    fn features(&self) -> u16 {
        self.descriptors.get(self.index).features
    }

    fn memory(&self) -> Option<&Buffer> {
        self.pages.as_ref()
    }

    fn transfer(
        &self,
        channel: Channel,
        direction: Direction,
        sections: &Sections,
    ) -> Result<u32, TransferError> {
        match direction {
            Direction::Write => Ok(send(&*self.host, &self.outgoing, self.key(channel), sections)),
            Direction::Read => self.read(channel, sections),
        }
    }

    /// Fills the lists, then binds them: a sender never finds a list that was not filled.
    fn open(&self, channel: Channel, lists: &[Sections]) -> Result<Box<dyn Inbox>, BindError> {
        let array = Buffer::allocate(&self.memory, lists.len() * LIST as usize).ok_or(BindError::NoMemory)?;
        let inbox = Lists { array, key: self.key(channel), host: self.host.clone(), bound: Cell::new(false) };
        (0..).zip(lists).for_each(|(list, sections)| inbox.arm(list, sections));
        let word = pack_bind(Bind { count: lists.len() as u16, irq: self.irq.number() });
        let answer = self.host.call(Hypercall::BindDma, [inbox.key, inbox.array.address(), word]);
        // Only 1 is a yes: a Host that does not know the call answers something else.
        if answer != 1 {
            return Err(BindError::NoMemory);
        }
        inbox.bound.set(true);
        Ok(Box::new(inbox))
    }

    fn progress(&self, step: Progress) {
        let bits = match step {
            Progress::Driver => Status::DRIVER,
            Progress::DriverOk => Status::DRIVER_OK,
        };
        self.descriptors.add_status(self.index, bits);
    }
}

/// Sends a list: zero goes into `used_len` first, because a Host may not write it at all.
fn send(host: &dyn Hypercalls, list: &Buffer, key: u64, sections: &Sections) -> u32 {
    list.write(0, Dma64::new(sections).as_bytes());
    list.barrier();
    host.call(Hypercall::SendDma, [key, list.address(), 0]);
    list.read_u32(USED_LEN)
}

/// The console's way out before there is a bus: no descriptor, no interrupt, output only.
pub struct EarlyConsole {
    list: Buffer,
    text: Buffer,
    host: Rc<dyn Hypercalls>,
}

impl EarlyConsole {
    /// `None` when memory is short.
    #[must_use]
    pub fn new(memory: &Rc<dyn Memory>, host: &Rc<dyn Hypercalls>) -> Option<EarlyConsole> {
        let list = Buffer::allocate(memory, LIST as usize)?;
        let text = Buffer::allocate(memory, console::OUTPUT_SIZE.into())?;
        Some(EarlyConsole { list, text, host: host.clone() })
    }

    /// Writes a text. Says how much the Host took of its last part.
    pub fn write(&self, text: &[u8]) -> u32 {
        let mut taken = 0;
        for part in text.chunks(self.text.size()) {
            self.text.write(0, part);
            let mut sections = Sections::new();
            // One section always fits an empty list.
            let _ = sections.push(self.text.section(part.len()));
            taken = send(&*self.host, &self.list, console::KEY, &sections);
        }
        taken
    }
}

/// An array of bound lists.
struct Lists {
    array: Buffer,
    key: u64,
    host: Rc<dyn Hypercalls>,
    bound: Cell<bool>,
}

impl Inbox for Lists {
    fn arm(&self, list: u16, sections: &Sections) {
        let at = u64::from(list) * LIST;
        let bytes = Dma64::new(sections);
        // Addresses and lengths first, then the word that offers them: a sender never sees a free list of old buffers.
        self.array.write(at + 4, &bytes.as_bytes()[4..]);
        self.array.barrier();
        self.array.write_u32(at + USED_LEN, 0);
    }

    fn arrived(&self, list: u16) -> u32 {
        let used = self.array.read_u32(u64::from(list) * LIST + USED_LEN);
        // The data was there before the word; it must be read after it.
        self.array.barrier();
        used
    }

    fn rearm(&self, list: u16) {
        self.array.barrier();
        self.array.write_u32(u64::from(list) * LIST + USED_LEN, 0);
    }
}

impl Drop for Lists {
    fn drop(&mut self) {
        if self.bound.get() {
            // The answer is ignored, as in the original: there is nothing to do about a no.
            self.host.call(Hypercall::BindDma, [self.key, self.array.address(), 0]);
        }
    }
}
