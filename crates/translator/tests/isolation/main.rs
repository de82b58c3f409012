//! Attacks on the isolation argument (`lguest_translator::isolation`): a Guest that tries to reach, change or read what is
//! the host's, by every kind of instruction. Around its memory lie bytes that no table entry names.
//!
//! What a Guest may get is an exception, an exit to the board, or its end. What the host must keep: the bytes around
//! the Guest's memory, its own flags, control words and segments, and its life.

#![allow(unsafe_code)] // Guests in assembly language, and a look at this thread's own registers.

#[allow(dead_code)] // The harness is the other test's; this one needs a part of it.
#[path = "../kernel/machine.rs"]
mod machine;
mod surrounded;
mod addresses;
mod stacks;
mod mappings;
mod state;
