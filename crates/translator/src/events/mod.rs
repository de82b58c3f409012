//! What the processor does between instructions: exceptions and interrupts in, `iret` and `sysret` out.
//!
//! Every function here takes the whole state and a view of memory, and either completes or leaves the state as it
//! found it (accessed bits in tables aside, which a processor may set early too: SDM vol. 3, 4.8). While one runs,
//! `cpu.rip` is the address of the current instruction, so that a refusal can be delivered as it stands.

pub mod exception;
pub mod stack;
pub mod deliver;
pub mod deliver_legacy;
pub mod returns;
pub mod iret;
pub mod syscall;
pub mod far;
mod call_gate;

#[cfg(test)]
mod hostile;
