//! Time: the host's time stamp counter, its rate, and the paravirtual clock made from both.
//!
//! The Guest's counter is the host's (plus a constant that the engine knows), so all of this room counts in host
//! ticks and turns them into nanoseconds only where it has to wait.

pub mod paravirtual;

use std::arch::x86_64::__cpuid;
use std::time::{Duration, Instant};

/// How long a calibration measures at least. Two readings a microsecond wide make 0.02 % of this.
const CALIBRATION: Duration = Duration::from_millis(10);
/// Readings at each end of a calibration; the narrowest counts.
const READINGS: u32 = 5;

/// The host's time-stamp counter, which the Guest's is made from.
pub use lguest_translator::host_tsc;

/// How fast the counter runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TscRate {
    /// Thousands of ticks a second, at least 1: the unit in which Linux and CPUID count.
    khz: u64,
}

impl TscRate {
    /// A rate from thousands of ticks a second. Zero, which no counter has, becomes one.
    pub fn from_khz(khz: u64) -> TscRate {
        TscRate { khz: khz.max(1) }
    }

    /// Thousands of ticks a second.
    pub fn khz(self) -> u64 {
        self.khz
    }

    /// How long `ticks` take.
    pub fn duration(self, ticks: u64) -> Duration {
        let nanoseconds = u128::from(ticks) * 1_000_000 / u128::from(self.khz);
        Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
    }

    /// Ticks in `nanoseconds`.
    pub fn ticks(self, nanoseconds: u64) -> u64 {
        let ticks = u128::from(nanoseconds) * u128::from(self.khz) / 1_000_000;
        u64::try_from(ticks).unwrap_or(u64::MAX)
    }
}

/// A measurement of the counter under way: start it early, work, and finish it when the rate is needed.
#[derive(Debug, Clone, Copy)]
pub struct Calibration {
    known: Option<TscRate>,
    start: Reading,
}

impl Calibration {
    /// Begins, and asks the processor whether it knows its own rate.
    pub fn start() -> Calibration {
        Calibration { known: stated_rate(), start: Reading::take() }
    }

    /// The rate. Waits only if less than ten milliseconds have passed and the processor does not say.
    pub fn finish(self) -> TscRate {
        if let Some(rate) = self.known {
            return rate;
        }
        if let Some(rest) = CALIBRATION.checked_sub(self.start.time.elapsed()) {
            std::thread::sleep(rest);
        }
        let end = Reading::take();
        let nanoseconds = (end.time - self.start.time).as_nanos().max(1);
        let ticks = u128::from(end.tsc.wrapping_sub(self.start.tsc));
        TscRate::from_khz((ticks * 1_000_000 / nanoseconds) as u64)
    }
}

/// One moment on both clocks.
#[derive(Debug, Clone, Copy)]
struct Reading {
    time: Instant,
    tsc: u64,
}

impl Reading {
    /// The time read between two readings of the counter, from the try with the narrowest gap.
    fn take() -> Reading {
        let once = || {
            let before = host_tsc();
            let time = Instant::now();
            let gap = host_tsc().wrapping_sub(before);
            (gap, Reading { time, tsc: before.wrapping_add(gap / 2) })
        };
        let first = once();
        (1..READINGS).map(|_| once()).fold(first, |best, next| if next.0 < best.0 { next } else { best }).1
    }
}

/// The rate as the processor (SDM vol. 2A, leaf 0x15) or a hypervisor above it (leaf 0x4000_0010) states it.
fn stated_rate() -> Option<TscRate> {
    const CRYSTAL: u32 = 0x15;
    const HYPERVISOR: u32 = 0x4000_0000;
    const TIMING: u32 = 0x4000_0010;
    const HYPERVISOR_PRESENT: u32 = 1 << 31;
    if __cpuid(0).eax >= CRYSTAL {
        let leaf = __cpuid(CRYSTAL);
        if leaf.eax != 0 && leaf.ebx != 0 && leaf.ecx != 0 {
            let hertz = u64::from(leaf.ecx) * u64::from(leaf.ebx) / u64::from(leaf.eax);
            return Some(TscRate::from_khz(hertz / 1000));
        }
    }
    let virtualised = __cpuid(1).ecx & HYPERVISOR_PRESENT != 0;
    let top = if virtualised { __cpuid(HYPERVISOR).eax } else { 0 };
    if (TIMING..TIMING + 0x1000).contains(&top) {
        let khz = u64::from(__cpuid(TIMING).eax);
        return (khz != 0).then(|| TscRate::from_khz(khz));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const NANOSECONDS: u64 = 1_000_000_000;

    #[test]
    fn ticks_and_nanoseconds_are_inverse_to_a_tick() {
        let rate = TscRate::from_khz(2_445_406);
        for nanoseconds in [0, 1, 999, 1_000_000, NANOSECONDS, 86_400 * NANOSECONDS] {
            let back = rate.duration(rate.ticks(nanoseconds)).as_nanos() as u64;
            assert!(back <= nanoseconds && nanoseconds - back <= 1, "{nanoseconds} became {back}");
        }
    }

    #[test]
    fn absurd_rates_and_times_do_not_overflow() {
        assert_eq!(TscRate::from_khz(0).khz(), 1);
        assert_eq!(TscRate::from_khz(u64::MAX).ticks(u64::MAX), u64::MAX);
        assert_eq!(TscRate::from_khz(1).duration(u64::MAX), Duration::from_nanos(u64::MAX));
    }

    #[test]
    fn a_calibration_agrees_with_the_clock_to_a_percent() {
        let rate = Calibration::start().finish();
        let (time, tsc) = (Instant::now(), host_tsc());
        std::thread::sleep(Duration::from_millis(30));
        let measured = rate.duration(host_tsc() - tsc).as_secs_f64() / time.elapsed().as_secs_f64();
        assert!((0.99..1.01).contains(&measured), "{measured}");
    }
}
