//! Notifies that never come back: an address bound to an eventfd counts there (facts 11, "eventfd").
//!
//! The table is replaced as a whole and read without waiting for who replaces it, as in the original, where a Guest's
//! notify could not wait for a lock either.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use crate::irq::lock;

/// The most addresses one Guest's Launcher may listen at: more than sixteen devices have queues.
const MAXIMUM: usize = 256;

/// Why a listener was not added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotifyError {
    /// Address 0 means nothing. EINVAL.
    #[error("address 0 cannot be listened at")]
    Zero,
    /// Too many. ENOMEM.
    #[error("at most {MAXIMUM} addresses can be listened at")]
    Full,
}

type Table = BTreeMap<u64, Arc<File>>;

/// Who listens where.
#[derive(Default)]
pub struct Notifies {
    /// Held only to swap or copy the pointer.
    table: Mutex<Arc<Table>>,
    /// Held by whoever makes a new table.
    change: Mutex<()>,
}

impl Notifies {
    /// Notifies at `address` count on `eventfd` from now on; an older one there is forgotten.
    ///
    /// # Errors
    /// [`NotifyError`].
    pub fn attach(&self, address: u64, eventfd: OwnedFd) -> Result<(), NotifyError> {
        if address == 0 {
            return Err(NotifyError::Zero);
        }
        let _one_at_a_time = lock(&self.change);
        let mut table = Table::clone(&self.current());
        if table.len() >= MAXIMUM && !table.contains_key(&address) {
            return Err(NotifyError::Full);
        }
        table.insert(address, Arc::new(File::from(eventfd)));
        *lock(&self.table) = Arc::new(table);
        Ok(())
    }

    fn current(&self) -> Arc<Table> {
        lock(&self.table).clone()
    }

    /// Counts one notify; false when nobody listens there.
    pub fn notify(&self, address: u64) -> bool {
        let table = self.current();
        let Some(eventfd) = table.get(&address) else { return false };
        // An eventfd at its maximum cannot count on: whoever listens has enough to do.
        let _ = (&**eventfd).write(&1u64.to_ne_bytes());
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{EventfdFlags, eventfd};

    fn count(eventfd: &OwnedFd) -> u64 {
        let mut bytes = [0; 8];
        rustix::io::read(eventfd, &mut bytes).map_or(0, |_| u64::from_ne_bytes(bytes))
    }

    #[test]
    fn a_notify_counts_where_somebody_listens_and_nowhere_else() {
        let notifies = Notifies::default();
        let event = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
        notifies.attach(0x4000, event.try_clone().unwrap()).unwrap();
        assert!(notifies.notify(0x4000) && notifies.notify(0x4000) && !notifies.notify(0x4001));
        assert_eq!(count(&event), 2);
        assert_eq!(notifies.attach(0, event), Err(NotifyError::Zero));
    }

    #[test]
    fn the_table_has_an_end_and_a_listener_can_still_be_replaced() {
        let notifies = Notifies::default();
        let event = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
        for address in 1..=MAXIMUM as u64 {
            notifies.attach(address, event.try_clone().unwrap()).unwrap();
        }
        assert_eq!(notifies.attach(0x9999, event.try_clone().unwrap()), Err(NotifyError::Full));
        assert_eq!(notifies.attach(1, event), Ok(()));
    }

    #[test]
    fn attaching_while_the_guest_notifies_loses_no_notify() {
        let notifies = Notifies::default();
        let event = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
        notifies.attach(1, event.try_clone().unwrap()).unwrap();
        std::thread::scope(|scope| {
            let guest = scope.spawn(|| (0..20_000).filter(|_| notifies.notify(1)).count());
            for address in 2..200 {
                notifies.attach(address, event.try_clone().unwrap()).unwrap();
            }
            assert_eq!(guest.join().unwrap(), 20_000);
        });
        assert_eq!(count(&event), 20_000);
    }
}
