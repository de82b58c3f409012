//! `lguest run` with kernels of 32 bits that have lguest's sub-architecture: made here, because the real ones are not, and they do
//! what the real ones do, in their order (facts of generation 2, 4.2 and 16).

#[path = "../../../host/tests/lguest32/program.rs"]
mod program;
mod kernel;
mod boots;
mod devices;
mod mistakes;
mod compiled;
