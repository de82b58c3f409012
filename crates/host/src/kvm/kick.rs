//! Calling vCPUs out of the Guest: a signal, sent until it was heard.
//!
//! A signal that comes just before the vCPU enters the kernel is lost. So whoever wants it out sends one, waits a
//! little, and sends the next, until the vCPU says that it is outside.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::irq::lock;

/// Between two signals: far longer than a vCPU needs to come out, far shorter than anybody notices.
const PAUSE: Duration = Duration::from_micros(200);
/// Signals before giving up on a thread that ended without saying so.
const PATIENCE: u32 = 5_000;

/// One vCPU's thread, while it is inside.
struct Place {
    inside: AtomicBool,
    thread: Mutex<Option<libc::pthread_t>>,
}

/// The vCPUs of a machine and whether they may run.
pub(crate) struct Kicks {
    stopped: AtomicBool,
    places: Mutex<Vec<Arc<Place>>>,
}

/// A vCPU's own handle.
pub(crate) struct Seat(Arc<Place>);

/// One above the translator's, so that both engines can live in a process.
fn signal() -> i32 {
    libc::SIGRTMIN() + 4
}

extern "C" fn nothing(_signal: i32) {}

impl Kicks {
    /// No vCPUs yet; the signal's handler is installed.
    pub(crate) fn new() -> std::io::Result<Kicks> {
        // SAFETY: an all-zero sigaction is a valid one.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = nothing as extern "C" fn(i32) as usize;
        // SAFETY: installs a handler that does nothing for a signal nobody else uses; SA_RESTART is left out on purpose.
        let done = unsafe { libc::sigaction(signal(), &raw const action, std::ptr::null_mut()) };
        if done != 0 {
            return Err(std::io::Error::last_os_error());
        }
        Ok(Kicks { stopped: AtomicBool::new(false), places: Mutex::default() })
    }

    /// A place for one more vCPU.
    pub(crate) fn seat(&self) -> Seat {
        let place = Arc::new(Place { inside: AtomicBool::new(false), thread: Mutex::new(None) });
        lock(&self.places).push(place.clone());
        Seat(place)
    }

    /// True once [`Self::stop`] was called.
    pub(crate) fn stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    /// Takes a stop back.
    pub(crate) fn resume(&self) {
        self.stopped.store(false, Ordering::SeqCst);
    }

    /// Calls every vCPU that is inside out once, to look around; it goes back by itself. A call that is lost is repeated
    /// by whoever makes them in a row.
    pub(crate) fn nudge(&self) {
        lock(&self.places)
            .iter()
            .filter(|place| place.inside.load(Ordering::SeqCst))
            .for_each(|p| p.signal());
    }

    /// True when there is one vCPU, which no other could wake.
    pub(crate) fn alone(&self) -> bool {
        lock(&self.places).len() == 1
    }

    /// Ends the run of all vCPUs and waits until they are outside.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        for place in lock(&self.places).iter() {
            for _ in 0..PATIENCE {
                if !place.inside.load(Ordering::SeqCst) {
                    break;
                }
                place.signal();
                std::thread::sleep(PAUSE);
            }
        }
    }
}

impl Place {
    fn signal(&self) {
        // The lock is held over the call, so the thread cannot leave and end in between.
        if let Some(thread) = *lock(&self.thread) {
            // SAFETY: the thread is inside `Seat::within`, which takes its name out before it goes on.
            unsafe { libc::pthread_kill(thread, signal()) };
        }
    }
}

impl Seat {
    /// Runs `enter` as being inside, unless the machine was stopped.
    pub(crate) fn within<R>(&self, kicks: &Kicks, enter: impl FnOnce() -> R) -> Option<R> {
        // SAFETY: asks for the calling thread's own name.
        let myself = unsafe { libc::pthread_self() };
        *lock(&self.0.thread) = Some(myself);
        self.0.inside.store(true, Ordering::SeqCst);
        // Stored before this look: a stop that comes later sees us inside.
        let result = if kicks.stopped() { None } else { Some(enter()) };
        self.0.inside.store(false, Ordering::SeqCst);
        *lock(&self.0.thread) = None;
        result
    }
}
