//! Guests of 32 bits that make every hypercall and provoke every trap of lguest's second generation, in the forms of three
//! kernels, and what the facts say becomes of them.

mod program;
mod guest;
mod calls;
mod traps;
mod interrupts;
mod tables;
mod ring;
mod kernels;
