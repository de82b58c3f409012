//! Asynchronous calls: a ring of 64 slots that the Guest fills and its Host empties at the next trapped call (facts 4.3).
//!
//! Their order is the ring's, from a cursor that nobody else moves. A slot that is filled out of turn waits until the cursor
//! comes by; a Guest that never leaves the cursor's slot free has all it filled made at once, 64 at most, and then the call it
//! trapped with.

use lguest_abi::lguest32::{RING_SLOTS, RingCall, SLOT_FREE};

use super::Death;
use super::vcpu::Lguest32Vcpu;
use crate::engine::Exit;

impl Lguest32Vcpu {
    /// A trapped call: what is in the ring comes first. If one of those needs the board, the trapped one waits for the next run.
    pub(super) fn trapped(&mut self, call: RingCall) -> Result<Option<Exit>, Death> {
        if let Some(exit) = self.drain()? {
            self.outstanding = Some(call);
            return Ok(Some(exit));
        }
        self.perform(call)
    }

    fn drain(&mut self) -> Result<Option<Exit>, Death> {
        for _ in 0..RING_SLOTS {
            let Some(data) = &self.data else { break };
            let slot = self.cursor;
            if data.slot_status(slot) == SLOT_FREE {
                break;
            }
            let call = data.slot(slot);
            data.free_slot(slot);
            self.cursor = (slot + 1) % RING_SLOTS;
            if let Some(exit) = self.perform(call)? {
                return Ok(Some(exit));
            }
        }
        Ok(None)
    }
}
