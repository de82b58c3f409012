//! Why a vCPU came back: the closed list of things a processor cannot do alone.

use crate::debug::Stop;
use crate::events::deliver::Event;
use thiserror::Error;

/// What [`crate::Vcpu::run`] came back for.
///
/// Exits that ask a question (`PortIn`, `MmioRead`, `ReadMsr`) are answered with [`crate::Vcpu::reply`] before the
/// next `run`; model-specific register exits may be refused with [`crate::Vcpu::refuse`], which the Guest sees
/// as a general-protection fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "each variant's sentence names its fields")]
pub enum Exit {
    /// The Guest reads `size` bytes (1, 2 or 4) from a port.
    PortIn { port: u16, size: u8 },
    /// The Guest writes the low `size` bytes (1, 2 or 4) of `value` to a port.
    PortOut { port: u16, size: u8, value: u32 },
    /// The Guest reads `size` bytes (1 to 8) at a guest-physical address that is not RAM.
    MmioRead { address: u64, size: u8 },
    /// The Guest writes the low `size` bytes (1 to 8) of `value` at a guest-physical address that is not RAM.
    MmioWrite { address: u64, size: u8, value: u64 },
    /// The Guest reads a model-specific register that the processor itself does not hold (APIC, clocks).
    ReadMsr { index: u32 },
    /// The Guest writes such a register.
    WriteMsr { index: u32, value: u64 },
    /// `hlt`: nothing to do until the next interrupt.
    Halt,
    /// [`crate::Kicker::kick`] was called.
    Kicked,
    /// The Guest can take an interrupt now, as asked for by [`crate::Vcpu::request_interrupt_window`], or a non-maskable one,
    /// as asked for by [`crate::Vcpu::request_nmi_window`].
    InterruptWindow,
    /// `vmcall` or `vmmcall`: number and arguments are in the general registers; `rax` takes the answer.
    Hypercall,
    /// A fault while delivering a double fault: the processor shuts down (AMD APM vol. 2, 8.2.9).
    TripleFault,
    /// Only of a hosted processor ([`crate::hosted`]): an exception, or `int n`, that an ordinary one would look up in its
    /// interrupt table. `rip` is the instruction's own, but for traps.
    Event(Event),
    /// A debugger on the Host wants to look ([`crate::Vcpu::debug_breakpoint`] and its kin).
    Debug(Stop),
    /// The Guest did what no processor state allows this engine to continue from.
    Dead(Death),
}

/// Why a Guest cannot go on, as one sentence for its user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[expect(missing_docs, reason = "each variant's sentence names its fields")]
pub enum Death {
    /// The Guest left 64-bit mode.
    #[error("the Guest entered {mode} at {rip:#x}, which this engine does not run yet")]
    UnsupportedMode { mode: &'static str, rip: u64 },
    /// The engine met an instruction that it knows to exist and cannot run.
    #[error("the Guest executed {what} at {rip:#x}, which this engine does not run yet")]
    UnsupportedInstruction { what: &'static str, rip: u64 },
    /// Code is fetched from an address that is not RAM.
    #[error("the Guest jumped to {rip:#x}, guest-physical {address:#x}, where there is no memory")]
    NoMemoryToExecute { rip: u64, address: u64 },
}
