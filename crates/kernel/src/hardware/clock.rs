//! Time: the counter, and its rate from whoever knows it.

use super::instructions::{counter, cpuid};

const NANOSECONDS_PER_MILLISECOND: u128 = 1_000_000;
/// Where hypervisors say the counter's rate in kHz.
const TIMING_LEAF: u32 = 0x4000_0010;
/// Where processors say it, as a ratio and a crystal's rate in Hz (SDM vol. 2, leaf 0x15).
const RATIO_LEAF: u32 = 0x15;
/// When nobody says: wrong, but of the right order.
const USUAL_KHZ: u64 = 2_000_000;

/// Nanoseconds since a moment.
#[derive(Clone, Copy)]
pub struct Clock {
    zero: u64,
    khz: u64,
}

impl Clock {
    /// Counts from now. `said` is the rate the Host gave in kHz, 0 for none.
    #[must_use]
    pub fn start(said: u32) -> Clock {
        let rates = [u64::from(said), u64::from(cpuid(TIMING_LEAF, 0).eax), from_ratio()];
        let khz = rates.into_iter().find(|rate| *rate != 0).unwrap_or(USUAL_KHZ);
        Clock { zero: counter(), khz }
    }

    /// Nanoseconds since the start.
    #[must_use]
    pub fn now(&self) -> u64 {
        let ticks = counter().saturating_sub(self.zero);
        (u128::from(ticks) * NANOSECONDS_PER_MILLISECOND / u128::from(self.khz)) as u64
    }

    /// Counter ticks of a time.
    #[must_use]
    pub fn ticks(&self, nanoseconds: u64) -> u64 {
        (u128::from(nanoseconds) * u128::from(self.khz) / NANOSECONDS_PER_MILLISECOND) as u64
    }
}

fn from_ratio() -> u64 {
    let leaf = cpuid(RATIO_LEAF, 0);
    if leaf.eax == 0 {
        return 0;
    }
    u64::from(leaf.ecx) * u64::from(leaf.ebx) / u64::from(leaf.eax) / 1000
}
