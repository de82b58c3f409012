//! How the world outside wakes a device: a thread that has something for it calls [`Waker::wake`].
//!
//! ```text
//!   a tap's reader, a disk's worker, the terminal ──► Waker ──► transport (locked) ──► device.wake(rings) ──► interrupts
//! ```
//! The caller waits while a vCPU is at the device. So a device that waits for its worker (in `reset`) must not wait for one
//! that is about to call this: the worker says that its work is done first, and wakes then.

use std::sync::{Arc, Mutex, PoisonError, Weak};

/// What carries a device and can be woken.
pub trait Wakes: Send {
    /// Calls the device, and interrupts the driver if it wants to hear of what the device did.
    fn wake(&mut self);
}

/// Wakes one device. Any thread may hold it, and it keeps no device alive.
#[derive(Clone)]
pub struct Waker(Weak<Mutex<dyn Wakes>>);

impl Waker {
    /// For the device that this transport carries.
    pub fn new<T: Wakes + 'static>(transport: &Arc<Mutex<T>>) -> Waker {
        let transport: Arc<Mutex<dyn Wakes>> = transport.clone();
        Waker(Arc::downgrade(&transport))
    }

    /// Lets the device look at what the outside has for it, and comes back when it has. Nothing happens once the machine
    /// is gone.
    pub fn wake(&self) {
        if let Some(transport) = self.0.upgrade() {
            // A panic elsewhere must not take the device with it: what it holds is plain state.
            transport.lock().unwrap_or_else(PoisonError::into_inner).wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Counter(u32);

    impl Wakes for Counter {
        fn wake(&mut self) {
            self.0 += 1;
        }
    }

    #[test]
    fn every_copy_wakes_the_same_device_and_none_keeps_it() {
        let counter = Arc::new(Mutex::new(Counter(0)));
        let waker = Waker::new(&counter);
        let copy = waker.clone();
        std::thread::spawn(move || copy.wake()).join().unwrap();
        waker.wake();
        assert_eq!(counter.lock().unwrap().0, 2);
        assert_eq!(Arc::strong_count(&counter), 1);
        drop(counter);
        waker.wake();
    }
}
