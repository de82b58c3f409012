//! What executes the Guest: one trait, whichever engine is behind it.
//!
//! An engine keeps to itself everything that a processor and its interrupt controllers do together: it takes
//! interrupts, sleeps through `hlt`, serves the APICs, the legacy controllers and the paravirtual clock. What
//! comes back from [`Vcpu::run`] is what a board has to answer: ports, memory-mapped registers, and endings.

use crate::debug::{Debuggee, Stop};
use crate::sight::{Journal, Report};

/// What KVM answers to a hypercall it does not have (KVM_ENOSYS, Documentation/virt/kvm/x86/hypercalls.rst): the answer
/// of a board without the lguest bus.
pub const NO_SUCH_HYPERCALL: u64 = -1000i64 as u64;
/// What KVM answers to a hypercall of a program's (KVM_EPERM, the same document).
pub const NOT_PRIVILEGED: u64 = -1i64 as u64;

/// What becomes of a Guest that halts where nothing can wake it. A real machine would sit there until somebody pulls the
/// plug. Here that would look like a hang.
pub const HALTED_FOR_EVER: &str = "the Guest halted with interrupts off, so nothing can wake it any more";

/// Why a vCPU came back. The questions (`PortIn`, `MmioRead`, `Hypercall`) are answered with [`Vcpu::reply`] before the next run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// The Guest reads `size` bytes (1, 2 or 4) from a port.
    PortIn {
        /// First port.
        port: u16,
        /// Bytes.
        size: u8,
    },
    /// The Guest writes the low `size` bytes (1, 2 or 4) of `value` to a port.
    PortOut {
        /// First port.
        port: u16,
        /// Bytes.
        size: u8,
        /// Little-endian value.
        value: u32,
    },
    /// The Guest reads `size` bytes (1 to 8) at an address that is neither RAM nor an interrupt controller.
    MmioRead {
        /// Guest-physical address.
        address: u64,
        /// Bytes.
        size: u8,
    },
    /// The Guest writes the low `size` bytes (1 to 8) of `value` there.
    MmioWrite {
        /// Guest-physical address.
        address: u64,
        /// Bytes.
        size: u8,
        /// Little-endian value.
        value: u64,
    },
    /// The Guest asks its Host, from privilege level 0. [`Vcpu::reply`] sets rax; without a reply rax stays as it was.
    Hypercall {
        /// What it asks for.
        number: u64,
        /// The arguments in lguest's order: rdx (or rsi, by port), rbx, rcx.
        arguments: [u64; 3],
    },
    /// NOTIFY of lguest's second generation, for a device: its descriptor's address, or a queue's.
    Notify {
        /// What the Guest named.
        value: u64,
    },
    /// Text of a console that has no driver yet.
    Text(Vec<u8>),
    /// The Guest turned its machine off.
    Off,
    /// The Guest wants its machine to begin anew.
    Restart,
    /// The processor shut down (a triple fault): the machine resets, or ends.
    Shutdown,
    /// The Guest cannot go on; one sentence for its user.
    Dead(String),
    /// Somebody stopped the machine.
    Stopped,
    /// Somebody wants a moment of the vCPU's thread ([`crate::platform::Platform::summon`]). The next run goes on as if
    /// nothing had been.
    Summoned,
    /// A debugger wanted to see this ([`Vcpu::debuggee`]).
    Debug(Stop),
}

/// Exits that reached the engine, by kind: what a slow boot is diagnosed with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ExitCounts {
    /// Port reads and writes, wherever they were answered.
    pub ports: u64,
    /// Memory-mapped reads and writes.
    pub mmio: u64,
    /// Model-specific registers.
    pub msrs: u64,
    /// Times the Guest had nothing to do.
    pub halts: u64,
    /// Times another thread wanted the vCPU's attention.
    pub kicks: u64,
    /// Times the Guest became ready for an interrupt that waited.
    pub windows: u64,
    /// Interrupts delivered.
    pub interrupts: u64,
    /// Instructions carried out, while [`Vcpu::count_instructions`] counts them.
    pub steps: u64,
}

/// One virtual processor on some engine. It runs on one thread at a time, and may be made on another.
pub trait Vcpu: Send {
    /// Runs the Guest until the board has to do something.
    fn run(&mut self) -> Exit;
    /// Answers `PortIn`, `MmioRead` or `Hypercall`; bits above the size asked for are ignored.
    fn reply(&mut self, value: u64);
    /// What it came back for so far.
    fn counts(&self) -> ExitCounts;
    /// From now on every instruction is counted, each with a way out of the Guest: thousands of times slower. For figures
    /// that have to be true.
    ///
    /// # Errors
    /// A sentence, on an engine that cannot.
    fn count_instructions(&mut self) -> Result<(), String> {
        Err("this engine does not count instructions; KVM does".to_owned())
    }
    /// Where the Guest is, for reports.
    fn rip(&self) -> u64;
    /// What it did so far.
    fn report(&self) -> Report {
        Report { exits: self.counts(), ..Report::default() }
    }
    /// Notes times and instructions for [`Self::report`] from now on, where the engine can.
    fn watch_itself(&mut self) {}
    /// What a debugger may do with it; none where the engine cannot.
    fn debuggee(&mut self) -> Option<&mut dyn Debuggee> {
        None
    }
    /// Tells `journal` of generated code from now on; false when this engine makes none.
    fn keep_journal(&mut self, _journal: Journal) -> bool {
        false
    }
}
