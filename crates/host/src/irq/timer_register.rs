//! The local APIC's timer: one-shot, periodic, or a deadline on the time stamp counter (SDM vol. 3A, 11.5.4).
//!
//! Counts run at [`APIC_BUS_KHZ`] divided by the divide register; everything is kept as host counter ticks, so
//! asking "is it due" is one comparison.

use crate::clock::TscRate;

/// The bus clock the timer counts: a nanosecond a tick, as KVM has it and `cpuid` says.
pub const APIC_BUS_KHZ: u32 = 1_000_000;
/// The shortest period in nanoseconds. A Guest could ask for one nanosecond and keep the host busy with nothing
/// else; KVM's limit is the same.
const MINIMUM_PERIOD: u64 = 200_000;

/// Bits 17 and 18 of the timer's LVT entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimerMode {
    /// Counts down once.
    OneShot,
    /// Starts again by itself.
    Periodic,
    /// Fires when the counter passes IA32_TSC_DEADLINE.
    Deadline,
}

impl TimerMode {
    /// From the two mode bits; the reserved value counts as a deadline that is never set.
    pub fn from_bits(bits: u32) -> TimerMode {
        match bits & 3 {
            0 => TimerMode::OneShot,
            1 => TimerMode::Periodic,
            _ => TimerMode::Deadline,
        }
    }
}

/// The timer of one local APIC.
#[derive(Debug, Clone)]
pub struct Timer {
    rate: TscRate,
    mode: TimerMode,
    initial: u32,
    divide: u32,
    deadline: Option<u64>,
}

impl Timer {
    /// Stopped, one-shot, dividing by two: the state after reset.
    pub fn new(rate: TscRate) -> Timer {
        Timer { rate, mode: TimerMode::OneShot, initial: 0, divide: 0, deadline: None }
    }

    /// Rate of the host's counter.
    pub fn rate(&self) -> TscRate {
        self.rate
    }

    /// The initial-count register.
    pub fn initial(&self) -> u32 {
        self.initial
    }

    /// The divide-configuration register.
    pub fn divide(&self) -> u32 {
        self.divide
    }

    /// What is left of the count; 0 in deadline mode.
    pub fn current(&self, now: u64) -> u32 {
        let Some(deadline) = self.deadline.filter(|_| self.mode != TimerMode::Deadline) else { return 0 };
        let nanoseconds = self.rate.duration(deadline.saturating_sub(now)).as_nanos();
        let counts = nanoseconds / u128::from(self.divisor());
        // A period that was stretched never shows more than it started with.
        u32::try_from(counts).unwrap_or(u32::MAX).min(self.initial)
    }

    /// Writes the initial count: starts the timer, or stops it with 0.
    pub fn start(&mut self, count: u32, now: u64) {
        if self.mode == TimerMode::Deadline {
            return;
        }
        self.initial = count;
        self.deadline = (count != 0).then(|| now.saturating_add(self.period()));
    }

    /// Writes the divide register; a running count goes on from what is left of it.
    pub fn set_divide(&mut self, value: u32, now: u64) {
        let left = self.current(now);
        self.divide = value & 0xb;
        if self.deadline.is_some() && self.mode != TimerMode::Deadline {
            let nanoseconds = u64::from(left) * u64::from(self.divisor());
            self.deadline = Some(now.saturating_add(self.rate.ticks(nanoseconds)));
        }
    }

    /// Takes the mode of the LVT entry. Changing to or from deadline mode disarms (SDM 11.5.4.1).
    pub fn set_mode(&mut self, mode: TimerMode) {
        if mode != self.mode && (mode == TimerMode::Deadline || self.mode == TimerMode::Deadline) {
            self.deadline = None;
            self.initial = 0;
        }
        self.mode = mode;
    }

    /// IA32_TSC_DEADLINE in host ticks; 0 when it fired or was never set.
    pub fn tsc_deadline(&self) -> u64 {
        self.deadline.filter(|_| self.mode == TimerMode::Deadline).unwrap_or(0)
    }

    /// Writes IA32_TSC_DEADLINE.
    pub fn set_tsc_deadline(&mut self, deadline: u64) {
        if self.mode == TimerMode::Deadline {
            self.deadline = (deadline != 0).then_some(deadline);
        }
    }

    /// When it fires, in host ticks.
    pub fn deadline(&self) -> Option<u64> {
        self.deadline
    }

    /// True when it fires now. Periods that went by unseen count as one.
    pub fn advance(&mut self, now: u64) -> bool {
        let Some(deadline) = self.deadline.filter(|deadline| *deadline <= now) else { return false };
        self.deadline = (self.mode == TimerMode::Periodic && self.initial != 0).then(|| {
            let period = self.period();
            let late = (now - deadline) % period;
            (now - late).saturating_add(period)
        });
        true
    }

    /// Ticks from a start to the next fire; at least one.
    fn period(&self) -> u64 {
        let nanoseconds = u64::from(self.initial) * u64::from(self.divisor());
        let nanoseconds =
            if self.mode == TimerMode::Periodic { nanoseconds.max(MINIMUM_PERIOD) } else { nanoseconds };
        self.rate.ticks(nanoseconds).max(1)
    }

    /// Bits 0, 1 and 3 of the divide register: 2, 4, ... 128, then 1.
    fn divisor(&self) -> u32 {
        let code = self.divide & 3 | self.divide >> 1 & 4;
        if code == 7 { 1 } else { 2 << code }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: u64 = 2_000_000;

    fn timer(mode: TimerMode) -> Timer {
        let mut timer = Timer::new(TscRate::from_khz(RATE));
        timer.set_divide(0xb, 0);
        timer.set_mode(mode);
        timer
    }

    #[test]
    fn a_one_shot_fires_once_at_its_time() {
        let mut timer = timer(TimerMode::OneShot);
        timer.start(1_000_000, 500);
        let due = 500 + RATE;
        assert_eq!(timer.deadline(), Some(due));
        assert_eq!(timer.current(500 + RATE / 2), 500_000);
        assert!(!timer.advance(due - 1));
        assert!(timer.advance(due));
        assert!(!timer.advance(due * 10));
        assert_eq!(timer.current(due), 0);
    }

    #[test]
    fn a_periodic_timer_keeps_its_phase_when_it_is_late() {
        let mut timer = timer(TimerMode::Periodic);
        timer.start(1_000_000, 0);
        assert!(timer.advance(RATE * 3 + 77));
        assert_eq!(timer.deadline(), Some(RATE * 4));
    }

    #[test]
    fn a_period_of_nothing_is_stretched() {
        let mut timer = timer(TimerMode::Periodic);
        timer.start(1, 0);
        assert_eq!(timer.deadline(), Some(TscRate::from_khz(RATE).ticks(MINIMUM_PERIOD)));
        assert_eq!(timer.current(0), 1);
    }

    #[test]
    fn a_deadline_reads_zero_once_it_fired() {
        let mut timer = timer(TimerMode::Deadline);
        timer.set_tsc_deadline(1000);
        assert_eq!(timer.tsc_deadline(), 1000);
        timer.start(5, 0);
        assert_eq!(timer.tsc_deadline(), 1000, "the count register is ignored in this mode");
        assert!(timer.advance(1000));
        assert_eq!(timer.tsc_deadline(), 0);
    }

    #[test]
    fn leaving_deadline_mode_disarms() {
        let mut timer = timer(TimerMode::Deadline);
        timer.set_tsc_deadline(1000);
        timer.set_mode(TimerMode::OneShot);
        assert_eq!(timer.deadline(), None);
        timer.set_tsc_deadline(1000);
        assert_eq!(timer.deadline(), None);
    }

    #[test]
    fn every_divide_code_is_a_power_of_two() {
        let mut timer = timer(TimerMode::OneShot);
        let divisors = [0, 1, 2, 3, 8, 9, 10, 11].map(|code| {
            timer.set_divide(code, 0);
            timer.divisor()
        });
        assert_eq!(divisors, [2, 4, 8, 16, 32, 64, 128, 1]);
    }
}
