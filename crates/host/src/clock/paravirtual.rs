//! KVM's paravirtual clock: the Guest learns the counter's rate instead of measuring it.
//!
//! A stock kernel that finds this interface skips every calibration loop, and reads the time with `rdtsc` and one
//! multiplication. Layouts and numbers: the kernel's Documentation/virt/kvm/x86/cpuid.rst and msr.rst.
//!
//! The host's counter is constant here (the engine hands it to the Guest as it is), so one record written once
//! stays right for ever: no version ever changes under a reader.

use std::time::{SystemTime, UNIX_EPOCH};

use lguest_translator::CpuidLeaf;

use super::TscRate;

/// Write: the physical address for a wall-clock record.
pub const MSR_WALL_CLOCK: u32 = 0x4b56_4d00;
/// Write: the physical address for this vCPU's time record; bit 0 turns it on.
pub const MSR_SYSTEM_TIME: u32 = 0x4b56_4d01;
/// Bit 0 of [`MSR_SYSTEM_TIME`].
pub const SYSTEM_TIME_ON: u64 = 1;

/// First leaf of the hypervisor range.
const LEAF_SIGNATURE: u32 = 0x4000_0000;
const LEAF_FEATURES: u32 = 0x4000_0001;
/// VMware's timing leaf, which KVM's user space offers too: counter and APIC bus in kHz.
const LEAF_TIMING: u32 = 0x4000_0010;
/// Port 0x80 writes need not be waited for.
const FEATURE_NOP_IO_DELAY: u32 = 1 << 1;
/// The clock registers at 0x4b564d00.
const FEATURE_CLOCKSOURCE2: u32 = 1 << 3;
/// All vCPUs see one clock.
const FEATURE_CLOCKSOURCE_STABLE: u32 = 1 << 24;
/// In a time record: this clock is monotonic across vCPUs.
const FLAG_STABLE: u8 = 1;
const NANOSECONDS: u64 = 1_000_000_000;

/// The `cpuid` leaves that announce this clock. Leaves between them answer zero, so that no host leaf shows.
pub fn cpuid(rate: TscRate, apic_bus_khz: u32) -> Vec<CpuidLeaf> {
    let signature = b"KVMKVMKVM\0\0\0";
    let word = |at: usize| {
        u32::from_le_bytes([signature[at], signature[at + 1], signature[at + 2], signature[at + 3]])
    };
    let features = FEATURE_NOP_IO_DELAY | FEATURE_CLOCKSOURCE2 | FEATURE_CLOCKSOURCE_STABLE;
    let khz = u32::try_from(rate.khz()).unwrap_or(u32::MAX);
    (LEAF_SIGNATURE..=LEAF_TIMING)
        .map(|leaf| {
            let answer = match leaf {
                LEAF_SIGNATURE => [LEAF_TIMING, word(0), word(4), word(8)],
                LEAF_FEATURES => [features, 0, 0, 0],
                LEAF_TIMING => [khz, apic_bus_khz, 0, 0],
                _ => [0; 4],
            };
            CpuidLeaf { leaf, subleaf: 0, answer }
        })
        .collect()
}

/// The moment the machine's clock counts from, on both clocks.
#[derive(Debug, Clone, Copy)]
pub struct ClockOrigin {
    /// Host counter at zero.
    pub tsc: u64,
    /// Time since 1970 at zero.
    pub wall: std::time::Duration,
}

impl ClockOrigin {
    /// Counts from now.
    pub fn now() -> ClockOrigin {
        // A host clock before 1970 is a broken host; the Guest then starts in 1970.
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        ClockOrigin { tsc: super::host_tsc(), wall }
    }

    /// `struct pvclock_wall_clock`: version, seconds, nanoseconds at the origin.
    pub fn wall_record(&self) -> [u8; 12] {
        let mut record = [0; 12];
        record[..4].copy_from_slice(&2u32.to_le_bytes());
        record[4..8].copy_from_slice(&(self.wall.as_secs() as u32).to_le_bytes());
        record[8..].copy_from_slice(&self.wall.subsec_nanos().to_le_bytes());
        record
    }

    /// `struct pvclock_vcpu_time_info` for a vCPU whose counter is the host's plus `tsc_offset`.
    pub fn time_record(&self, rate: TscRate, tsc_offset: u64) -> [u8; 32] {
        let (multiplier, shift) = scale(rate);
        let mut record = [0; 32];
        record[..4].copy_from_slice(&2u32.to_le_bytes());
        record[8..16].copy_from_slice(&self.tsc.wrapping_add(tsc_offset).to_le_bytes());
        // system_time stays 0: the origin is where the machine's clock starts.
        record[24..28].copy_from_slice(&multiplier.to_le_bytes());
        record[28] = shift.to_le_bytes()[0];
        record[29] = FLAG_STABLE;
        record
    }
}

/// Multiplier and shift with `ns = (ticks << shift) * multiplier >> 32` (a negative shift goes right).
///
/// The shift brings the rate into (1, 2] GHz, where the multiplier uses all of its 32 bits.
fn scale(rate: TscRate) -> (u32, i8) {
    let hertz = u128::from(rate.khz()) * 1000;
    let one = u128::from(NANOSECONDS);
    let mut shift = 0i8;
    while shift > -31 && hertz >> -shift > 2 * one {
        shift -= 1;
    }
    while (0..31).contains(&shift) && hertz << shift <= one {
        shift += 1;
    }
    let multiplier = if shift < 0 { (one << 32 << -shift) / hertz } else { (one << 32) / (hertz << shift) };
    (u32::try_from(multiplier).unwrap_or(u32::MAX), shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the Guest computes from a record (msr.rst).
    fn guest_nanoseconds(record: &[u8; 32], tsc: u64) -> u64 {
        let stamp = u64::from_le_bytes(record[8..16].try_into().unwrap());
        let multiplier = u32::from_le_bytes(record[24..28].try_into().unwrap());
        let shift = record[28] as i8;
        let delta = tsc - stamp;
        let delta = if shift < 0 { delta >> -shift } else { delta << shift };
        ((u128::from(delta) * u128::from(multiplier)) >> 32) as u64
    }

    #[test]
    fn a_second_of_ticks_is_a_second_at_every_rate() {
        let origin = ClockOrigin { tsc: 1000, wall: std::time::Duration::ZERO };
        for khz in [1_000, 999_999, 1_000_000, 1_000_001, 2_000_000, 2_445_406, 5_700_000, 12_000_000] {
            let record = origin.time_record(TscRate::from_khz(khz), 500);
            let measured = guest_nanoseconds(&record, 1500 + khz * 1000 * 60);
            let wanted = 60 * NANOSECONDS;
            assert!(measured.abs_diff(wanted) < 100, "{khz} kHz: {measured}");
        }
    }

    #[test]
    fn the_multiplier_gives_the_rate_back_to_linux() {
        // pvclock_tsc_khz: (1000000 << 32) / mul, shifted back.
        let khz = 2_445_406;
        let (multiplier, shift) = scale(TscRate::from_khz(khz));
        let back = (1_000_000u64 << 32) / u64::from(multiplier);
        let back = if shift < 0 { back << -shift } else { back >> shift };
        assert!(back.abs_diff(khz) <= 2, "{back}");
    }

    #[test]
    fn the_leaves_say_kvm_and_promise_only_what_is_there() {
        let leaves = cpuid(TscRate::from_khz(2_000_000), 1_000_000);
        assert_eq!(leaves[0].answer[1..], [0x4b4d_564b, 0x564b_4d56, 0x4d]);
        assert_eq!(leaves[1].answer, [1 << 1 | 1 << 3 | 1 << 24, 0, 0, 0]);
        assert_eq!(leaves[0x10].answer, [2_000_000, 1_000_000, 0, 0]);
        assert!(leaves[2..0x10].iter().all(|leaf| leaf.answer == [0; 4]));
    }
}
