//! Is this KVM fast? Some hosts offer one that interprets, at a million or two instructions a second; there the
//! translator is a hundred times faster. The only way to know is to run a Guest and look at the clock.

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use lguest_translator::HiddenFeatures;

use super::machine::{KvmError, KvmMachine};
use super::vcpu::KvmVcpu;
use crate::clock::TscRate;
use crate::engine::{Exit, Vcpu};
use crate::memory::{GuestAddress, Memory, PAGE_SIZE};

/// Instructions a second from which on KVM is taken to run on hardware. Real hardware makes thousands of millions, even
/// with the way in and out counted; an interpreter a few million.
pub const ENOUGH: u64 = 50_000_000;
/// Times round the loop: two instructions each. Two milliseconds and a half for a slow interpreter, four microseconds
/// for hardware.
const LOOPS: u32 = 2_048;
/// A KVM that does not come back from this Guest within so long never will.
const PATIENCE: Duration = Duration::from_millis(500);
/// `66 49 dec ecx; 75 fc jnz -4; e6 10 out 0x10, al`: real mode, which needs no tables.
const GUEST: [u8; 6] = [0x66, 0x49, 0x75, 0xfc, 0xe6, 0x10];
/// Where it lies.
const START: u16 = 0x1000;

/// What the calibration found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Calibrated {
    /// Instructions a second, the way into the Guest and out of it included.
    pub per_second: u64,
}

impl Calibrated {
    /// True when KVM is worth using.
    pub fn is_hardware(self) -> bool {
        self.per_second >= ENOUGH
    }
}

/// Runs the calibration Guest.
///
/// # Errors
/// [`KvmError`] when KVM cannot run it at all, or does not come back from it.
pub fn calibrate() -> Result<Calibrated, KvmError> {
    // On a thread of its own, so that a KVM that hangs costs half a second and no more. The thread is then left behind.
    let (sender, receiver) = channel();
    let spawned = std::thread::Builder::new().name("lguest-calibrate".into()).spawn(move || {
        let _ = sender.send(run());
    });
    spawned.map_err(|source| KvmError::Refuses { what: "a thread", source })?;
    let late = |_| KvmError::Refuses { what: "to come back", source: std::io::ErrorKind::TimedOut.into() };
    receiver.recv_timeout(PATIENCE).map_err(late)?
}

fn run() -> Result<Calibrated, KvmError> {
    let memory = Memory::new(2 * PAGE_SIZE)
        .map_err(|error| KvmError::Refuses { what: "memory", source: std::io::Error::other(error) })?;
    let placed = memory.write(GuestAddress(START.into()), &GUEST);
    debug_assert!(placed.is_ok());
    let machine = KvmMachine::new(Arc::new(memory))?;
    let mut vcpu = KvmVcpu::new(&machine, 0, 1, TscRate::from_khz(1), &HiddenFeatures::default())?;
    // The first time pays for page tables and caches; only the second counts.
    once(&mut vcpu, 1)?;
    let took = once(&mut vcpu, LOOPS)?;
    let instructions = u64::from(LOOPS) * 2;
    Ok(Calibrated { per_second: instructions * 1_000_000_000 / (took.as_nanos() as u64).max(1) })
}

fn once(vcpu: &mut KvmVcpu, loops: u32) -> Result<Duration, KvmError> {
    vcpu.enter_real_mode(START, loops)?;
    let start = Instant::now();
    match vcpu.run() {
        Exit::PortOut { .. } => Ok(start.elapsed()),
        other => Err(KvmError::Refuses {
            what: "two instructions",
            source: std::io::Error::other(format!("{other:?}")),
        }),
    }
}
