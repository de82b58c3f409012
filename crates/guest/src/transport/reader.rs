//! For drivers that only read: a list with a page of its own, which is taken in pieces and offered again when it is empty.

use alloc::boxed::Box;
use alloc::rc::Rc;
use core::cell::Cell;

use lguest_abi::dma::Sections;
use lguest_abi::pipe::BUFFER_SIZE;

use crate::model::{BindError, Buffer, Carrier, Channel, Inbox, Memory};

/// A page that the Host fills.
pub(super) struct Reader {
    inbox: Box<dyn Inbox>,
    page: Buffer,
    taken: Cell<u32>,
}

impl Reader {
    /// Opens a channel of the carrier's.
    ///
    /// # Errors
    /// [`BindError`], as the carrier has it.
    pub fn open(
        carrier: &dyn Carrier,
        channel: Channel,
        memory: &Rc<dyn Memory>,
    ) -> Result<Reader, BindError> {
        let page = Buffer::allocate(memory, BUFFER_SIZE.into()).ok_or(BindError::NoMemory)?;
        let mut sections = Sections::new();
        // One page-sized section always fits an empty list.
        let _ = sections.push(page.section(BUFFER_SIZE.into()));
        let inbox = carrier.open(channel, &[sections])?;
        Ok(Reader { inbox, page, taken: Cell::new(0) })
    }

    /// Moves what has come into these sections, and says how much.
    pub fn take(&self, sections: &Sections, memory: &dyn Memory) -> u32 {
        let there = self.inbox.arrived(0).min(BUFFER_SIZE.into());
        let mut moved = 0;
        let mut bytes = [0; 256];
        for section in sections.as_slice() {
            let mut done = 0;
            while done < u32::from(section.length) && self.taken.get() < there {
                let left = (there - self.taken.get()).min(u32::from(section.length) - done);
                let part = &mut bytes[..left.min(256) as usize];
                self.page.read(self.taken.get().into(), part);
                memory.write(section.address + u64::from(done), part);
                done += part.len() as u32;
                self.taken.set(self.taken.get() + part.len() as u32);
            }
            moved += done;
        }
        if there != 0 && self.taken.get() == there {
            self.taken.set(0);
            self.inbox.rearm(0);
        }
        moved
    }
}
