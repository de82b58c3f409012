//! When an interrupt may be delivered (facts 9).
//!
//! The Guest's interrupt flag is a word in its memory, and the kernels before 4.1 do not say when they set it: after a plain
//! "interrupts on" nothing traps; that an interrupt is unmasked no kernel says. So every way out of the Guest looks again, and while
//! something waits the alarm makes one.

use lguest_abi::lguest32::{FIRST_IRQ_VECTOR, INTERRUPT_FLAG};

use super::Death;
use super::data::Field;
use super::vcpu::Lguest32Vcpu;
use crate::clock::host_tsc;

/// How long an interrupt waits at most for a look after the Guest let it in, in nanoseconds.
const LOOK_AGAIN: u64 = 100_000;
/// The same while the kernel is in the few instructions between its flag and its `iret`.
const LOOK_SOON: u64 = 10_000;

impl Lguest32Vcpu {
    /// Delivers the lowest interrupt that may be, if one may.
    pub(super) fn interrupt_if_due(&mut self) -> Result<(), Death> {
        let pending = self.lines.pending();
        let Some(data) = self.data.as_ref().filter(|_| pending != 0) else { return Ok(()) };
        let blocked = data.get(Field::BlockedInterrupts);
        let ready = pending & !blocked;
        if ready == 0 {
            // Most are masked while they are handled, and are let in right behind. Who sleeps looks by itself.
            if !self.halted {
                self.look_again(LOOK_AGAIN);
            }
            return Ok(());
        }
        let irq = ready.trailing_zeros();
        if self.in_kernel() && data.quiet.contains(&(self.cpu.rip() as u32)) {
            self.look_again(LOOK_SOON);
            return Ok(());
        }
        if self.halted {
            // A halt turns interrupts on first.
            data.set(Field::IrqEnabled, INTERRUPT_FLAG);
        } else if data.get(Field::IrqEnabled) & INTERRUPT_FLAG == 0 {
            data.set(Field::IrqPending, INTERRUPT_FLAG);
            self.look_again(LOOK_AGAIN);
            return Ok(());
        }
        let Some(gate) = self.gates.get(FIRST_IRQ_VECTOR + irq as u8) else { return Ok(()) };
        // The handler begins with interrupts off; whoever is next waits for its end.
        let more = self.lines.pending() & !blocked & !(1 << irq) != 0;
        data.set(Field::IrqPending, if more { INTERRUPT_FLAG } else { 0 });
        if more {
            self.look_again(LOOK_AGAIN);
        }
        self.halted = false;
        self.counts.interrupts += 1;
        self.lines.take(irq);
        self.refresh_time();
        self.reflect(gate, None, self.cpu.rip() as u32)
    }

    fn look_again(&self, nanoseconds: u64) {
        self.lines.call_at(host_tsc().saturating_add(self.rate.ticks(nanoseconds)));
    }

    /// Sleeps until an interrupt that is not blocked ends the halt.
    pub(super) fn sleep(&mut self) {
        let blocked = self.data.as_ref().map_or(0, |data| data.get(Field::BlockedInterrupts));
        let began = host_tsc();
        self.counts.halts += 1;
        let most = self.deadline.map(|deadline| self.rate.duration(deadline.saturating_sub(began)));
        self.lines.sleep(blocked, most);
        self.asleep += host_tsc().saturating_sub(began);
    }
}
