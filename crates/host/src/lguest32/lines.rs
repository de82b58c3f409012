//! Pending interrupts and whatever else calls the vCPU from another thread.
//!
//! There are no controllers and no acknowledgement: a raise sets a bit, delivery clears it (facts 9.2). Two raises before
//! the first is delivered are one interrupt.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use lguest_abi::meeting::Irq;

use crate::clock::TscRate;
use crate::interrupts::Interrupts;
use crate::irq::alarm::Alarm;
use crate::irq::lock;

/// Interrupts there can be (facts 9.1).
pub const IRQS: u32 = 32;

type Kick = Box<dyn Fn() + Send + Sync>;

/// See the module.
pub struct Lines {
    pending: AtomicU32,
    stopped: AtomicBool,
    summoned: AtomicBool,
    kick: Mutex<Option<Kick>>,
    /// Held by whoever changes one of the above and by who looks before it sleeps.
    bed: Mutex<()>,
    bell: Condvar,
    alarm: Arc<Alarm>,
}

impl Lines {
    /// Lines without a vCPU, and the alarm's thread.
    ///
    /// # Errors
    /// When the host refuses a thread.
    pub fn new(rate: TscRate) -> std::io::Result<Arc<Lines>> {
        let lines = Arc::new(Lines {
            pending: AtomicU32::new(0),
            stopped: AtomicBool::new(false),
            summoned: AtomicBool::new(false),
            kick: Mutex::new(None),
            bed: Mutex::new(()),
            bell: Condvar::new(),
            alarm: Arc::new(Alarm::new(rate)),
        });
        let (alarm, weak) = (lines.alarm.clone(), Arc::downgrade(&lines));
        std::thread::Builder::new().name("lguest-alarm".into()).spawn(move || {
            while alarm.wait() {
                let Some(lines) = weak.upgrade() else { return };
                lines.kick();
            }
        })?;
        Ok(lines)
    }

    /// How the vCPU is called out of its Guest.
    pub(super) fn set_kick(&self, kick: Kick) {
        *lock(&self.kick) = Some(kick);
    }

    fn kick(&self) {
        if let Some(kick) = lock(&self.kick).as_ref() {
            kick();
        }
    }

    /// After a change: whoever sleeps looks again, whoever runs comes out.
    fn wake(&self) {
        drop(lock(&self.bed));
        self.bell.notify_all();
        self.kick();
    }

    /// Raises irq `number`; numbers that no Guest has are nothing.
    pub fn raise_number(&self, number: u32) {
        if number < IRQS {
            self.pending.fetch_or(1 << number, Ordering::AcqRel);
            self.wake();
        }
    }

    /// The vCPU's own timer is due: nobody has to be woken.
    pub(super) fn note(&self, number: u32) {
        self.pending.fetch_or(1 << number, Ordering::AcqRel);
    }

    /// Bit n: irq n waits.
    pub(super) fn pending(&self) -> u32 {
        self.pending.load(Ordering::Acquire)
    }

    /// Irq `number` is being delivered.
    pub(super) fn take(&self, number: u32) {
        self.pending.fetch_and(!(1 << number), Ordering::AcqRel);
    }

    /// Ends the run, until [`Self::resume`].
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.wake();
    }

    /// Takes a stop back.
    pub fn resume(&self) {
        self.stopped.store(false, Ordering::Release);
    }

    /// Has the vCPU come back once.
    pub fn summon(&self) {
        self.summoned.store(true, Ordering::Release);
        self.wake();
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    pub(super) fn take_summons(&self) -> bool {
        self.summoned.load(Ordering::Acquire) && self.summoned.swap(false, Ordering::AcqRel)
    }

    /// Calls the vCPU out of its Guest at `deadline` (host ticks), or earlier.
    pub(super) fn call_at(&self, deadline: u64) {
        self.alarm.arm(deadline);
    }

    /// Sleeps until an irq that `blocked` does not hold back is pending, somebody stops or summons, or the time is over.
    pub(super) fn sleep(&self, blocked: u32, most: Option<Duration>) {
        let bed = lock(&self.bed);
        let wanted =
            self.pending() & !blocked != 0 || self.is_stopped() || self.summoned.load(Ordering::Acquire);
        if wanted {
            return;
        }
        match most {
            Some(most) => drop(self.bell.wait_timeout(bed, most).unwrap_or_else(PoisonError::into_inner)),
            None => drop(self.bell.wait(bed).unwrap_or_else(PoisonError::into_inner)),
        }
    }
}

impl Interrupts for Lines {
    fn raise(&self, irq: Irq) {
        self.raise_number(irq.number().into());
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.alarm.close();
    }
}
