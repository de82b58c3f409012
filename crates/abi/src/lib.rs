//! What Guest and Host agree on.
//!
//! This room will hold both generations of lguest's descriptor page, `lguest_dma`, the block and net pages,
//! the hypercalls, the status bits and the control requests: layouts and numbers, no behaviour. Issue "2 of 5"
//! fills it; until then it is empty on purpose, and nothing pretends otherwise.
#![no_std]
#![forbid(unsafe_code)]
