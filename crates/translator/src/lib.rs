//! A CPU as a library: x86-64 in, x86-64 out.
//! (skeleton: the public face other rooms build against)

pub mod exit;
pub mod cpu;
pub mod events;
pub mod memory;

#[cfg(test)]
mod workbench;

pub use exit::{Death, Exit};
pub use memory::ram::{Ram, RamError, RamRegion};
use std::sync::Arc;

/// One leaf of `cpuid`'s answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuidLeaf {
    /// eax asked.
    pub leaf: u32,
    /// ecx asked.
    pub subleaf: u32,
    /// eax, ebx, ecx, edx answered.
    pub answer: [u32; 4],
}

/// What a vCPU is made with.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Number of this vCPU: its APIC identity in `cpuid`.
    pub index: u32,
    /// How many vCPUs the machine has.
    pub count: u32,
    /// Leaves the machine adds to the processor's own (the hypervisor range 0x4000_0000).
    pub cpuid: Vec<CpuidLeaf>,
}

/// State a 64-bit boot loader hands over (Linux x86 boot protocol, "64-bit boot protocol").
#[derive(Debug, Clone, Copy)]
pub struct LongModeEntry {
    /// First instruction.
    pub rip: u64,
    /// Stack pointer.
    pub rsp: u64,
    /// Second argument register: the address of the boot parameters.
    pub rsi: u64,
    /// Page-table root; the tables identity-map at least the kernel, the boot parameters and the command line.
    pub cr3: u64,
    /// Descriptor table with __BOOT_CS (0x10) and __BOOT_DS (0x18).
    pub gdt: u64,
    /// Its size in bytes minus one.
    pub gdt_limit: u16,
}

/// A processor.
pub struct Vcpu {}

/// Makes a vCPU's `run` come back soon, from any thread.
#[derive(Clone)]
pub struct Kicker {}
impl Kicker {
    /// The vCPU's current or next `run` returns [`Exit::Kicked`].
    pub fn kick(&self) {
        todo!()
    }
}

/// Why a vCPU could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The host refused memory, a timer or a signal.
    #[error("{what}: {source}")]
    Host { what: &'static str, source: std::io::Error },
    /// The host's processor lacks something.
    #[error("this processor lacks {0}, which the translator needs")]
    Processor(&'static str),
}

impl Vcpu {
    /// A processor in its state after power-on; `ram` is shared by all vCPUs of the machine.
    pub fn new(_ram: Arc<Ram>, _options: Options) -> Result<Vcpu, SetupError> {
        todo!()
    }
    /// Puts the processor where a 64-bit boot loader leaves it.
    pub fn enter_long_mode(&mut self, _entry: LongModeEntry) {
        todo!()
    }
    /// Runs the Guest until it needs something.
    pub fn run(&mut self) -> Exit {
        todo!()
    }
    /// Answers `PortIn`, `MmioRead` or `ReadMsr`.
    pub fn reply(&mut self, _value: u64) {
        todo!()
    }
    /// Refuses `ReadMsr` or `WriteMsr`: the Guest gets #GP(0).
    pub fn refuse(&mut self) {
        todo!()
    }
    /// True when an interrupt would be taken now: IF set and no shadow.
    pub fn interruptible(&self) -> bool {
        todo!()
    }
    /// Delivers an external interrupt; only while [`Self::interruptible`].
    pub fn interrupt(&mut self, _vector: u8) {
        todo!()
    }
    /// While on, `run` returns [`Exit::InterruptWindow`] as soon as the Guest is interruptible.
    pub fn request_interrupt_window(&mut self, _on: bool) {
        todo!()
    }
    /// The handle other threads wake this vCPU with.
    pub fn kicker(&self) -> Kicker {
        todo!()
    }
    /// Guest TSC minus host TSC, for paravirtual clocks.
    pub fn tsc_offset(&self) -> u64 {
        todo!()
    }
    /// A general register by encoding number, for hypercalls and reports.
    pub fn gpr(&self, _number: usize) -> u64 {
        todo!()
    }
    /// Sets a general register by encoding number.
    pub fn set_gpr(&mut self, _number: usize, _value: u64) {
        todo!()
    }
    /// Where the Guest is, for reports.
    pub fn rip(&self) -> u64 {
        todo!()
    }
}
