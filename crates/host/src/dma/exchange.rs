//! A delivery from one Guest to another: the rules of facts 6.2, step by step, under one lock.
//!
//! ```text
//!   sender                                receiver
//!   list -- sections --- one copy --->  a free list of the bound array -- sections
//!        <- used_len                      used_len, then the interrupt
//! ```
//! The exchange knows memory and keys, and no process, socket or thread; the link's broker holds one.

use std::collections::BTreeMap;

use lguest_abi::dma::Sections;
use lguest_abi::meeting::Irq;

use super::bindings::{BindError, Binding, Bindings};
use super::list::Area;
use crate::memory::GuestAddress;

/// One machine on a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub u32);

/// What became of a send.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sent {
    /// Bytes moved: what the sender's `used_len` holds now. 0 when nobody took them.
    pub used: u32,
    /// Who is to be interrupted.
    pub interrupt: Option<(PeerId, Irq)>,
    /// Guests that broke a rule, with the reason they die of.
    pub killed: Vec<(PeerId, String)>,
}

/// Why a delivery stopped.
enum Stop {
    Sender(String),
    Receiver(String),
}

/// The machines on a link and their bindings.
#[derive(Default)]
pub struct Exchange {
    areas: BTreeMap<PeerId, Area>,
    bindings: Bindings<PeerId>,
}

impl Exchange {
    /// A machine joins with its memory.
    pub fn join(&mut self, peer: PeerId, area: Area) {
        self.areas.insert(peer, area);
    }

    /// A machine leaves, or is gone: everything it bound is unbound.
    pub fn leave(&mut self, peer: PeerId) {
        self.bindings.forget(peer);
        self.areas.remove(&peer);
    }

    /// Binds an array of the peer's to a byte of the shared page.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn bind(
        &mut self,
        peer: PeerId,
        key: u64,
        array: u64,
        count: u16,
        irq: Irq,
    ) -> Result<(), BindError> {
        self.bindings.bind(peer, key, array, count, irq)
    }

    /// Takes a binding back; false when there is none.
    pub fn unbind(&mut self, peer: PeerId, key: u64, array: u64) -> bool {
        self.bindings.unbind(peer, key, array)
    }

    /// Sends the list at `list` to whoever is bound at `key`. A receiver without a free list is called by `wake`, so
    /// that it refills, and looked at exactly once more; a second miss is silent (step 7).
    pub fn send(&mut self, sender: PeerId, key: u64, list: u64, wake: &mut dyn FnMut(PeerId, Irq)) -> Sent {
        match self.attempt(sender, key, list) {
            (Sent { interrupt: Some((receiver, irq)), .. }, true) => {
                wake(receiver, irq);
                self.attempt(sender, key, list).0
            }
            (sent, _) => sent,
        }
    }

    /// One try; true when the receiver had no free list.
    fn attempt(&mut self, sender: PeerId, key: u64, list: u64) -> (Sent, bool) {
        let mut sent = Sent::default();
        let Some(from) = self.areas.get(&sender) else { return (sent, false) };
        let Some(binding) = self.bindings.receiver(key, sender) else { return (sent, false) };
        let Some(to) = self.areas.get(&binding.owner) else { return (sent, false) };
        let wake = Some((binding.owner, binding.irq));
        match deliver(from, list, to, binding) {
            Ok(Some(0)) if has_bytes(from, list) => {}
            Ok(Some(used)) => (sent.used, sent.interrupt) = (used, wake),
            Ok(None) => {
                sent.interrupt = wake;
                return (sent, true);
            }
            Err(Stop::Sender(reason)) => sent.killed.push((sender, reason)),
            Err(Stop::Receiver(reason)) => {
                let owner = binding.owner;
                self.bindings.forget(owner);
                sent.killed.push((owner, reason));
            }
        }
        (sent, false)
    }
}

fn has_bytes(from: &Area, list: u64) -> bool {
    from.list(list).is_ok_and(|(_, sections)| sections.total() != 0)
}

/// Steps 1 to 5. `Ok(None)` when every list of the receiver's is busy.
fn deliver(from: &Area, list: u64, to: &Area, binding: &mut Binding<PeerId>) -> Result<Option<u32>, Stop> {
    let bad = |_| Stop::Sender(format!("bad read address {list:#x} len {}", from.form().stride()));
    let (_, source) = from.list(list).map_err(bad)?;
    let Some((place, target)) = find_free(to, binding)? else { return Ok(None) };
    to.check_page_rule(&target).map_err(Stop::Receiver)?;
    from.check_page_rule(&source).map_err(Stop::Sender)?;
    let used = copy(from, &source, to, &target)?;
    from.set_used(list, used).map_err(bad)?;
    if used == 0 && source.total() != 0 {
        return Ok(Some(0));
    }
    to.set_used(place, used).map_err(|_| no_struct())?;
    binding.cursor = (binding.cursor + 1) % binding.count.max(1);
    Ok(Some(used))
}

fn no_struct() -> Stop {
    Stop::Receiver("bad address in registered DMA struct".to_owned())
}

/// The first list with `used_len` 0, from the cursor on, around the array once.
fn find_free(to: &Area, binding: &Binding<PeerId>) -> Result<Option<(u64, Sections)>, Stop> {
    for step in 0..binding.count {
        let index = (u64::from(binding.cursor) + u64::from(step)) % u64::from(binding.count);
        let place = binding.array.checked_add(index * to.form().stride()).ok_or_else(no_struct)?;
        if to.used(place).map_err(|_| no_struct())? == 0 {
            let (_, sections) = to.list(place).map_err(|_| no_struct())?;
            return Ok(Some((place, sections)));
        }
    }
    Ok(None)
}

/// Section by section, as much as both sides have; what is left over is dropped. Unequal splits go on where they
/// were, which the original forgot (D1).
fn copy(from: &Area, source: &Sections, to: &Area, target: &Sections) -> Result<u32, Stop> {
    let (mut here, mut there) = (Cursor::new(source), Cursor::new(target));
    let mut total = 0;
    while let (Some((source, left)), Some((target, room))) = (here.rest(), there.rest()) {
        let length = left.min(room);
        from.memory()
            .copy_to(GuestAddress(source), to.memory(), GuestAddress(target), u64::from(length))
            .map_err(|_| Stop::Sender("bad address in sending DMA".to_owned()))?;
        here.advance(length);
        there.advance(length);
        total += length;
    }
    Ok(total)
}

/// A place in a list: which section, and how far in it.
struct Cursor<'a> {
    sections: &'a Sections,
    index: usize,
    done: u32,
}

impl<'a> Cursor<'a> {
    fn new(sections: &'a Sections) -> Self {
        Cursor { sections, index: 0, done: 0 }
    }

    /// Address and length of what is left of the current section.
    fn rest(&self) -> Option<(u64, u32)> {
        let section = self.sections.as_slice().get(self.index)?;
        Some((section.address + u64::from(self.done), u32::from(section.length) - self.done))
    }

    fn advance(&mut self, length: u32) {
        self.done += length;
        if self.rest().is_some_and(|(_, left)| left == 0) {
            (self.index, self.done) = (self.index + 1, 0);
        }
    }
}

#[cfg(test)]
#[path = "exchange_tests.rs"]
mod tests;
