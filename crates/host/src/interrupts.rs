//! The lguest bus's interrupts, on whichever engine: irq `n` is an edge at vector `0x20 + n` of vCPU 0.
//!
//! Two raises before the first is taken are one interrupt, as in the original (lguest-abi, "On 64 bits", 9).

use std::sync::Arc;

use lguest_abi::meeting::{Irq, vector};

use crate::irq::Controllers;
use crate::irq::message::{Delivery, Destination, Message};

/// Who brings an interrupt to the Guest.
pub trait Interrupts: Send + Sync {
    /// Raises it. May be called from any thread, and before the Guest listens.
    fn raise(&self, irq: Irq);
}

impl Interrupts for Controllers {
    fn raise(&self, irq: Irq) {
        self.send_message(Message {
            vector: vector(irq),
            delivery: Delivery::Fixed,
            destination: Destination::Physical(0),
            level: false,
        });
    }
}

impl<I: Interrupts + ?Sized> Interrupts for Arc<I> {
    fn raise(&self, irq: Irq) {
        (**self).raise(irq);
    }
}
