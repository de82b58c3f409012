//! Interrupts at every boundary: a handler that changes nothing must not be noticed, wherever it comes.
//!
//! A breakpoint of the Host's stops the Guest before each instruction of a case, an interrupt is delivered there, and its
//! handler is one `iretq`. What the processor pushed must name that boundary and no other place; what the case leaves
//! behind must be what the processor natively leaves, uninterrupted (SDM vol. 3, 6.6: events are taken between instructions).
//! Half of the cases are interrupted before all of their instructions, half before one, so that what runs behind the
//! interrupt is whole units again.

use crate::case::{Case, Outcome};
use crate::guest::{Guest, read_u64, write};
use crate::stubs::{self, EXCEPTION_STACK, READY_PORT};
use crate::{Comparison, ROUNDS, compare_in, number, sequence_cases, single_cases};
use iced_x86::{Decoder, DecoderOptions};
use lguest_translator::Exit;
use lguest_translator::debug::Stop;

/// The interrupt, which no case raises by itself.
const VECTOR: u8 = 0x40;
/// Bytes that the processor pushes: rip, cs, rflags, rsp, ss.
const FRAME: u64 = 40;

impl Guest {
    /// Runs one case with interrupts at its boundaries.
    pub fn run_interrupted(&mut self, case: &Case) -> Result<Box<Outcome>, String> {
        write(&self.ram, stubs::gate(VECTOR.into()), &[0x48, 0xcf]);
        self.place(case);
        let chosen = chosen(case);
        chosen.iter().for_each(|&address| assert!(self.vcpu.debug_breakpoint(address, true)));
        let ended = self.interrupt_at_stops().and_then(|stops| match (stops, chosen.first()) {
            (0, Some(&first)) if first == case.state.rip => Err("was never interrupted".to_owned()),
            _ => Ok(()),
        });
        chosen.iter().for_each(|&address| assert!(self.vcpu.debug_breakpoint(address, false)));
        ended.map(|()| self.conclude(case))
    }

    /// How many stops there were.
    fn interrupt_at_stops(&mut self) -> Result<u32, String> {
        let mut stops = 0;
        loop {
            match self.run_once() {
                Exit::PortOut { port: READY_PORT, .. } => return Ok(stops),
                Exit::Debug(Stop::Breakpoint) => {
                    stops += 1;
                    self.interrupt_here()?;
                }
                other => return Err(format!("came back with {other:?} at {:#x}", self.vcpu.rip())),
            }
        }
    }

    fn interrupt_here(&mut self) -> Result<(), String> {
        let boundary = self.vcpu.rip();
        assert!(self.vcpu.debug_breakpoint(boundary, false), "it was set");
        // No case has an instruction that interrupts wait for.
        if !self.vcpu.interruptible() {
            return Err(format!("takes no interrupt at {boundary:#x}"));
        }
        self.vcpu.interrupt(VECTOR);
        let pushed = read_u64(&self.ram, EXCEPTION_STACK - FRAME);
        if pushed != boundary {
            return Err(format!("pushed {pushed:#x} at the boundary {boundary:#x}"));
        }
        Ok(())
    }
}

/// Where a case is interrupted: before all of its instructions, or before one of them.
fn chosen(case: &Case) -> Vec<u64> {
    let mut decoder = Decoder::with_ip(case.bits, &case.code, case.state.rip, DecoderOptions::NONE);
    let mut starts: Vec<u64> = decoder.iter().map(|instruction| instruction.ip()).collect();
    if case.seed & 1 == 1 {
        let one = starts.get((case.seed >> 1) as usize % starts.len().max(1)).copied();
        starts = one.into_iter().collect();
    }
    starts
}

fn interrupted() -> Comparison {
    Comparison { interrupted: true, ..Comparison::new(false) }
}

#[test]
fn sequences_interrupted_at_every_boundary_do_what_the_processor_does() {
    compare_in(interrupted(), sequence_cases(number("ROUNDS", ROUNDS) / 2, 64));
}

#[test]
fn sequences_of_32_bit_code_interrupted_at_every_boundary_do_what_the_processor_does() {
    compare_in(interrupted(), sequence_cases(number("ROUNDS", ROUNDS) / 2, 32));
}

#[test]
fn every_form_does_what_the_processor_does_behind_an_interrupt() {
    compare_in(interrupted(), single_cases(number("ROUNDS", ROUNDS) / 6, 64));
}
