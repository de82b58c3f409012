//! /dev/lguest for programs that know it: LD_PRELOAD this library, and an unmodified program finds the device.
//!
//! ```text
//!   the program ── open, read, write, close, pread, pwrite ──► calls    is it /dev/lguest?  no ──► the C library (real)
//!                                                                 │ yes
//!                                                              device    words, errors  ──► lguest_host::control
//!                                                                 │ INITIALIZE
//!                                                              space     the program's memory becomes the Guest's
//! ```
//! The Guest runs *inside the program's memory*, as the original's did: what one writes the other reads. An engine wants its
//! Guest's memory as a file that it can map a second time, so INITIALIZE copies the program's pages into a memory file and maps that
//! over them in one step. Addresses stay, contents stay; only what another thread writes into them during INITIALIZE
//! may be lost.
//!
//! **Words** are native longs, 8 bytes here (facts of generation 2, 12). INITIALIZE {0, base, page limit, start} answers 24,
//! the bytes of its three arguments. `pread` and `pwrite` say which vCPU by their offset; there is one, number 0.
//!
//! **Machine.** The Guest is what the original's was, a paravirtual i386 kernel that begins at `start`
//! (`lguest_host::lguest32`; the program lays out boot parameters, descriptors and rings, and answers each NOTIFY that no
//! eventfd listens for). With LGUEST_MACHINE=long-mode it is one of 64 bits ([`long_mode`] says in which state it begins).
//!
//! **What differs.** A device file here is a file of this process: a child of `fork` keeps the number and gets EPERM from
//! it, and a process that shares the program's memory (`clone` with CLONE_VM) may raise interrupts by it and nothing else
//! ([`relatives`]). Copies made by `dup` and its kin are names of one file, as they should be ([`numbers`]). The program's own writes
//! into pages from which the Guest has executed are noticed when it next reads, or raises an interrupt ([`coherence`]). A signal handler without SA_RESTART makes read answer EINTR, others
//! let it go on, as the kernel does ([`signals`]).
//!
//! This room has `unsafe` because its business is the C library's: it is called with a program's raw pointers, calls functions found by
//! name, and maps memory at addresses of the program's. It reads and writes the program's memory through the kernel
//! (process_vm_readv(2)), so a pointer that leads nowhere is EFAULT and no crash.
#![allow(unsafe_code)]

mod real;
mod calls;
mod numbers;
mod table;
mod device;
mod space;
mod coherence;
mod machine;
mod long_mode;
mod signals;
mod relatives;
