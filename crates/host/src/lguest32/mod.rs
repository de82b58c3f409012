//! The Host of an unmodified Linux of 32 bits with CONFIG_LGUEST_GUEST (facts of generation 2, sections 3 to 10 and 13 to 15).
//!
//! Such a kernel runs at privilege level 1 and never touches a privileged register: it calls. What the original kept in the
//! host's kernel is kept here, around the translator's hosted processor (`lguest_translator::hosted`), which carries its code
//! out at full speed and hands every event over:
//!
//! ```text
//!                 int 0x1f / vmcall ----> ring ----> hypercalls ----> segments, paging, data, timer
//!   hosted vCPU ==                                         |
//!                 exception, int n -----> emulate ---> reflect ---> the Guest's handler
//!                 between two entries --> interrupts ------^            (no handler: the Guest dies)
//! ```
//!
//! | room | what it holds |
//! |---|---|
//! | `identity` | which processor the kernels are shown |
//! | `data` | `lguest_data` of three kernels: where each field is, and which kernel it is |
//! | `lines` | pending interrupts, from any thread; sleep, stop and the alarm |
//! | `segments` | the rules by which descriptors and gates are taken over |
//! | `paging` | kinds of page tables, and 2.6.32's first ones |
//! | `ring` | asynchronous calls, in their order |
//! | `hypercalls` | every call, with its verdict for bad input |
//! | `emulate` | port instructions and `cli`, which a kernel of level 1 may not carry out |
//! | `reflect` | a trap or an interrupt becomes a call of the Guest's handler |
//! | `interrupts` | when an interrupt may be delivered |
//! | `timer` | the clock event and the time of day |
//! | `vcpu` | the loop that ties them, behind [`crate::engine::Vcpu`] |
//!
//! The page tables are walked directly, as a memory management unit would, and the hypercalls about them only forget
//! translations. Nothing of the Host is in the Guest's address space, so the hole at its top (`reserve_mem`) is kept only because
//! the kernels are known to boot with it: nothing is ever mapped there.
//!
//! A call that breaks a rule kills the Guest with a sentence ([`Death`]) and touches nothing else. Where the facts name a
//! verdict it is that one; there is one exception. 3.1's Host killed a Guest whenever the hole was touched, by a user too, so that any
//! program could end its machine with one wild pointer; here a user gets an ordinary page fault.

pub mod lines;
mod identity;
mod data;
mod segments;
mod paging;
mod ring;
mod hypercalls;
mod emulate;
mod reflect;
mod interrupts;
mod timer;
mod vcpu;

pub use vcpu::{Lguest32Entry, Lguest32Vcpu};

use std::fmt::Display;

/// Why a Guest is killed, as one sentence for its user.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Death(String);

impl Death {
    fn new(sentence: impl Display) -> Death {
        Death(sentence.to_string())
    }
}
