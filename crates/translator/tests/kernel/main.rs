//! What a kernel may rely on: Guests of a few instructions that change their own code and page tables, are interrupted
//! everywhere, talk to devices, and misbehave. Expected results are the manuals', not another translator's.

#![allow(unsafe_code)] // Memory files, and code for the Guest between two labels.

mod machine;
mod self_modifying;
mod gates;
mod mappings;
mod targets;
mod rights;
mod interrupts;
mod debug;
mod returns;
mod runs;
mod spans;
mod narrow_spans;
mod devices;
mod strings;
mod vectors;
mod wide_vectors;
mod bare;
mod modes;
mod protected;
mod tasks;
mod hosted;
mod limits;
mod noise;
mod neighbours;
