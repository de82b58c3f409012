//! The alarm clock: one thread that calls vCPUs out of the Guest when a timer is due.
//!
//! A kernel moves its deadline thousands of times a second and mostly to later, so arming costs a system call only
//! when the new deadline is earlier than the one the thread waits for. The thread may therefore wake too early;
//! it then asks the timers again. A vCPU that sleeps has its own time-out and never needs this thread.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

use crate::clock::{TscRate, host_tsc};

use super::lock;

const NEVER: u64 = u64::MAX;

/// The earliest deadline anybody asked for.
pub struct Alarm {
    rate: TscRate,
    armed: AtomicU64,
    /// True when the machine is gone.
    closed: Mutex<bool>,
    bell: Condvar,
}

impl Alarm {
    /// An alarm that nobody set.
    pub fn new(rate: TscRate) -> Alarm {
        Alarm { rate, armed: AtomicU64::new(NEVER), closed: Mutex::new(false), bell: Condvar::new() }
    }

    /// Makes [`Self::wait`] return at `deadline` (host ticks) at the latest.
    pub fn arm(&self, deadline: u64) {
        if deadline >= self.armed.load(Ordering::Acquire) {
            return;
        }
        let _closed = lock(&self.closed);
        if deadline < self.armed.load(Ordering::Acquire) {
            self.armed.store(deadline, Ordering::Release);
            self.bell.notify_one();
        }
    }

    /// Ends the thread.
    pub fn close(&self) {
        *lock(&self.closed) = true;
        self.bell.notify_all();
    }

    /// Sleeps until the armed deadline has passed, and disarms. False when the alarm was closed.
    pub fn wait(&self) -> bool {
        let mut closed = lock(&self.closed);
        loop {
            if *closed {
                return false;
            }
            let (armed, now) = (self.armed.load(Ordering::Acquire), host_tsc());
            if armed <= now {
                self.armed.store(NEVER, Ordering::Release);
                return true;
            }
            closed = if armed == NEVER {
                self.bell.wait(closed).unwrap_or_else(PoisonError::into_inner)
            } else {
                let waited = self.bell.wait_timeout(closed, self.rate.duration(armed - now));
                waited.unwrap_or_else(PoisonError::into_inner).0
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::clock::Calibration;

    #[test]
    fn an_earlier_deadline_wins_and_a_closed_alarm_ends() {
        let rate = Calibration::start().finish();
        let alarm = Arc::new(Alarm::new(rate));
        let start = Instant::now();
        alarm.arm(host_tsc() + rate.ticks(60_000_000_000));
        let sleeper = std::thread::spawn({
            let alarm = alarm.clone();
            move || (alarm.wait(), start.elapsed(), alarm.wait())
        });
        alarm.arm(host_tsc() + rate.ticks(20_000_000));
        std::thread::sleep(Duration::from_millis(60));
        alarm.close();
        let (rang, after, again) = sleeper.join().unwrap();
        assert!(rang && !again);
        assert!(after >= Duration::from_millis(15) && after < Duration::from_secs(30), "{after:?}");
    }
}
