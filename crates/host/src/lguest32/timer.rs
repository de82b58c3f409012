//! The clock event, which is irq 0, and the time of day (facts 10).

use std::arch::x86_64::__cpuid;
use std::time::{SystemTime, UNIX_EPOCH};

use super::vcpu::Lguest32Vcpu;
use crate::clock::host_tsc;

/// The timer's interrupt.
const TIMER_IRQ: u32 = 0;

impl Lguest32Vcpu {
    /// SET_CLOCKEVENT: one interrupt, so many nanoseconds from now; 0 takes it back. A new one replaces the old.
    pub(super) fn set_clock_event(&mut self, nanoseconds: u32) {
        let at = || host_tsc().saturating_add(self.rate.ticks(nanoseconds.into()));
        self.deadline = (nanoseconds != 0).then(at);
    }

    /// Raises the timer's interrupt if it is due.
    pub(super) fn tick(&mut self) {
        if self.deadline.is_some_and(|deadline| deadline <= host_tsc()) {
            self.deadline = None;
            self.lines.note(TIMER_IRQ);
        }
    }

    /// The alarm will call when it is due: who sleeps needs no alarm, whoever runs does.
    pub(super) fn set_alarm(&self) {
        if let Some(deadline) = self.deadline {
            self.lines.call_at(deadline);
        }
    }

    /// Shows the Guest the time of day. Seconds beyond 2106 wrap, as the Guest's own would.
    pub(super) fn refresh_time(&self) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        if let Some(data) = &self.data {
            data.set_time(now.as_secs() as u32, now.subsec_nanos());
        }
    }

    /// The counter's rate for the Guest's own clock; 0 where the host's counter changes its pace or stops, and the Guest
    /// measures something else then.
    pub(super) fn tsc_khz(&self) -> u32 {
        const POWER_MANAGEMENT: u32 = 0x8000_0007;
        const INVARIANT: u32 = 1 << 8;
        let known = __cpuid(0x8000_0000).eax >= POWER_MANAGEMENT;
        let invariant = known && __cpuid(POWER_MANAGEMENT).edx & INVARIANT != 0;
        if invariant { u32::try_from(self.rate.khz()).unwrap_or(0) } else { 0 }
    }
}
