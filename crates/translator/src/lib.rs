//! A CPU as a library: x86-64 in, x86-64 out.
//!
//! A [`Vcpu`] runs a Guest's code, kernel and user, on a processor without virtualisation: it copies what is
//! harmless, rewrites what touches memory or decides where to go next, and carries out the rest in Rust. Read in this
//! order, the rooms follow one Guest instruction through its life:
//!
//! | room | what happens there |
//! |---|---|
//! | [`cpu`] | the state a processor has between two instructions |
//! | `frame` | how generated code reaches that state: the host's `rsp` points at it |
//! | `decode`, `classify`, `vector_state`, `liveness`, `spans`, `swaps`, `memos` | bytes become a unit; what each instruction needs; which flags are free; which accesses lie in one page; which registers change places; what hot accesses remember |
//! | `rewrite` | a unit becomes host code, one room a class |
//! | `cache` | where host code stands, how units are found, linked and forgotten |
//! | [`memory`] | addend tables, page walks, slow accesses |
//! | `spaces` | which tables hold for which address space |
//! | `neighbours` | what vCPUs ask of each other: code that was written over, pages that become code |
//! | `x87` | x87's registers, when a Guest starts and stops running |
//! | `trap`, `forbidden` | host faults and kicks; system calls that a sandbox stops |
//! | `run` | the loop: find a unit, enter it, see why it came back |
//! | `by_hand` | code that has no units: 16 bits, and segments that are not flat |
//! | `mend`, `play`, `masked`, `near`, `system` | what Rust does about it |
//! | [`events`] | interrupts, exceptions, `syscall`, `iret` |
//! | [`hosted`] | a processor whose tables belong to who embeds it, for paravirtual Guests at privilege level 1 |
//! | [`debug`] | stopping between two instructions, for the Guest and for a debugger |
//! | [`isolation`] | why all of this keeps a Guest in its memory, and what is not claimed |
//! | [`sight`], [`listing`] | what a vCPU notes about itself for those who ask; a unit to look at |
//!
//! Nothing here knows an operating system, and everything is per vCPU: tables, code, frame. What vCPUs share is the
//! Guest's memory and, in [`memory::sharing`], who wrote and who translated which page of it.

mod assemble;
pub mod cpu;
mod frame;
mod decode;
mod classify;
mod vector_state;
mod liveness;
mod spans;
mod swaps;
mod memos;
mod unit;
mod rewrite;
mod cache;
pub mod memory;
mod spaces;
mod neighbours;
mod x87;
mod trap;
mod forbidden;
mod run;
mod by_hand;
mod mend;
mod bounce;
mod play;
mod masked;
mod near;
mod system;
pub mod events;
pub mod hosted;
pub mod exit;
pub mod isolation;
pub mod sight;
pub mod listing;
pub mod debug;
mod requirements;
mod vcpu;

#[cfg(test)]
mod workbench;

pub use cpu::cpuid::hidden::{FeatureError, HiddenFeatures, offered_features};
pub use cpu::start::{LongModeEntry, ProtectedModeEntry, StartState};
pub use exit::{Death, Exit};
pub use forbidden::{ForbiddenCall, report_forbidden_calls};
pub use hosted::{HandlerCall, HostedEntry, HostedPaging};
pub use memory::ram::{Ram, RamError, RamRegion};
pub use memory::sharing::{Sharing, VCPUS};
pub use requirements::{Requirement, requirements};
pub use system::registers::host_tsc;
pub use trap::Kicker;
pub use vcpu::{CpuidLeaf, Options, SetupError, Statistics, Vcpu};
