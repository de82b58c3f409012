//! All queues of a device while it is called: it opens the ones it wants, and the transport hears which were used.
//!
//! A device is called for a notification or for something outside (`wake`). In each call it may take a queue full from each
//! of its queues, so that a driver which adds as fast as the device takes keeps nobody busy for ever.
//!
//! A driver may say from which index on it wants to hear of used chains (EVENT_IDX, 2.7.7.1): that spares interrupts. In turn it
//! hears from which index on the device wants to hear of new ones. A device takes what it is told of at once, so that is always
//! the next: a call opens a queue by naming the driver's index as it is, and takes the chains before it ([`Ring::take`]).
//! Whoever adds one later notifies, so none is forgotten.

use std::sync::Arc;

use virtio_queue::{Queue, QueueT};

use super::QueueIndex;
use super::memory::DmaMemory;
use super::ring::{Broken, Ring, ran_empty, wants_interrupt};

/// Some of a device's queues.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueSet(u64);

impl QueueSet {
    /// Queues a device may have: the bits there are. A queue a vCPU and a few more are enough for every kind.
    pub const MOST: usize = u64::BITS as usize;

    /// Adds a queue. One that no device can have is not added.
    pub fn insert(&mut self, index: QueueIndex) {
        self.0 |= 1u64.checked_shl(index.0.into()).unwrap_or(0);
    }

    /// Whether this queue is among them.
    pub fn contains(self, index: QueueIndex) -> bool {
        self.0 & 1u64.checked_shl(index.0.into()).unwrap_or(0) != 0
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Each of them, the lowest first.
    pub fn iter(self) -> impl Iterator<Item = QueueIndex> {
        (0..Self::MOST as u16).map(QueueIndex).filter(move |index| self.contains(*index))
    }
}

impl FromIterator<QueueIndex> for QueueSet {
    fn from_iter<I: IntoIterator<Item = QueueIndex>>(queues: I) -> QueueSet {
        let mut set = QueueSet::default();
        queues.into_iter().for_each(|index| set.insert(index));
        set
    }
}

/// What a transport has to tell the driver.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Signals {
    /// Buffers of these queues were used.
    pub used: QueueSet,
    /// The configuration, of which the status is a part, changed.
    pub changed: bool,
}

/// What one call of the device did to a queue.
#[derive(Debug, Default)]
pub(super) struct Service {
    /// Chains that may still be taken.
    pub left: u16,
    /// Chains were given back.
    pub used: bool,
    /// The used ring's index before the call.
    pub before: u16,
    /// With EVENT_IDX: the available ring's index up to which this call takes.
    pub until: Option<u16>,
}

/// A queue and what is done to it.
pub(super) struct Served {
    pub queue: Queue,
    pub service: Service,
}

impl Served {
    /// A queue of this size at most.
    ///
    /// # Panics
    /// When that is no power of two: the device is wrong, not the Guest.
    pub fn new(size: u16) -> Served {
        let queue = Queue::new(size).expect("a queue's size is a power of two");
        Served { queue, service: Service::default() }
    }
}

/// A device's queues, while it is called.
pub struct Rings<'a> {
    queues: &'a mut [Served],
    memory: &'a Arc<DmaMemory>,
    changed: bool,
}

impl<'a> Rings<'a> {
    /// Begins a call.
    pub(super) fn begin(queues: &'a mut [Served], memory: &'a Arc<DmaMemory>) -> Rings<'a> {
        for served in queues.iter_mut() {
            let (left, before) = (served.queue.size(), served.queue.next_used());
            served.service = Service { left, used: false, before, until: None };
        }
        Rings { queues, memory, changed: false }
    }

    /// Whether the driver has taken this queue into use. It may leave out some that it has no need for.
    pub fn is_ready(&self, index: QueueIndex) -> bool {
        self.queues.get(usize::from(index.0)).is_some_and(|served| served.queue.ready())
    }

    /// Opens a queue.
    ///
    /// # Errors
    /// [`Broken::Queue`] when it is not in use ([`Self::is_ready`] asks first) or not in memory.
    pub fn ring(&mut self, index: QueueIndex) -> Result<Ring<'_>, Broken> {
        let served = self.queues.get_mut(usize::from(index.0)).ok_or(Broken::Queue)?;
        Ring::open(&mut served.queue, self.memory, &mut served.service)
    }

    /// The device's configuration is another now; the driver will be told.
    pub fn configuration_changed(&mut self) {
        self.changed = true;
    }

    /// Guest memory, for workers that fill or read chains on their own.
    pub fn memory(&self) -> &Arc<DmaMemory> {
        self.memory
    }

    /// Ends a call: what the driver wants to hear of it. With `on_empty` it wants to hear of a ring that ran empty even where it
    /// polls.
    pub(super) fn end(self, on_empty: bool) -> Signals {
        let wants = |served: &Served| {
            let queue = &served.queue;
            served.service.used
                && (wants_interrupt(queue, served.service.before, self.memory)
                    || on_empty && ran_empty(queue, self.memory))
        };
        let used = (0..).map(QueueIndex).zip(self.queues.iter());
        let used = used.filter(|(_, served)| wants(served)).map(|(index, _)| index).collect();
        Signals { used, changed: self.changed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_holds_what_was_put_in_and_no_queue_that_cannot_be() {
        let set: QueueSet = [5, 0, 63, 64, u16::MAX].into_iter().map(QueueIndex).collect();
        assert_eq!(set.iter().map(|index| index.0).collect::<Vec<_>>(), [0, 5, 63]);
        assert!(!set.contains(QueueIndex(64)) && !set.is_empty());
        assert!(QueueSet::default().is_empty());
    }
}
