//! Masked operands that the addend tables cannot serve: the processor itself says which of their bytes exist.
//!
//! A masked instruction may touch any part of its operand, and only what it touches can fault: some leave out single lanes,
//! some count them (`vpcompress`), some heed the mask only for their result. No table of that is kept here. Pages that
//! the Guest cannot reach get a stand-in that the host cannot reach either (`bounce.rs`), and the instruction runs on
//! that: if the host faults, the Guest does.

use crate::events::exception::{Exception, vectors};
use crate::exit::Exit;
use crate::memory::access::Fault;
use crate::memory::walk::{Access, Intent};
use crate::play::operand_access;
use crate::rewrite::operand_size;
use crate::system::segments::in_segment;
use crate::vcpu::Vcpu;
use iced_x86::{Instruction, OpAccess};

/// Bytes of the largest vector operand.
const LARGEST: usize = 64;

/// The part of an operand on one page.
#[derive(Clone, Copy)]
struct Piece {
    /// Guest-virtual address of its first byte.
    address: u64,
    /// Its place in the operand.
    start: usize,
    end: usize,
    /// Why it cannot be reached.
    fault: Option<Fault>,
}

impl Vcpu {
    /// Plays a masked instruction.
    pub(crate) fn play_masked(&mut self, instruction: &Instruction) -> Result<(), Exit> {
        let size = operand_size(instruction);
        assert!(size <= LARGEST, "a vector operand of {size} bytes");
        let writes = matches!(operand_access(instruction), OpAccess::Write | OpAccess::CondWrite);
        let intent = if writes { Intent::Write } else { Intent::Read };
        let Some((segment, offset)) = self.operand_offset(instruction) else {
            return self.unsupported(instruction);
        };
        // Beyond its segment an operand has no address; whatever stands for it there is never reached.
        let address = self.cpu().linear(segment, offset, 1, intent).unwrap_or(offset);
        let mut before = [0; LARGEST];
        let mut pieces = self.pieces(instruction, address, &mut before[..size], intent);
        // What its segment refuses matters only if it is touched, as a page does. A limit in the middle of a page takes the
        // whole piece on that page away, which no flat segment does.
        for piece in pieces.iter_mut().filter(|piece| piece.start < piece.end) {
            let (start, length) = (offset.wrapping_add(piece.start as u64), piece.end - piece.start);
            if let Err(exception) = self.cpu().linear(segment, start, length as u64, intent) {
                piece.fault = Some(Fault::Exception(exception));
            }
        }
        let [first, second] = pieces;
        self.bounce.choose(first.fault.is_none(), second.fault.is_none());
        for piece in pieces.iter().filter(|piece| piece.fault.is_none()) {
            let within = (address & 0xfff) as usize + piece.start;
            self.bounce.write_at(within, &before[piece.start..piece.end]);
        }
        let start = self.bounce.host(address);
        let done = self.run_snippet(instruction, address);
        let mut after = before;
        for piece in pieces.iter().filter(|piece| piece.fault.is_none()) {
            self.bounce.read_at((address & 0xfff) as usize + piece.start, &mut after[piece.start..piece.end]);
        }
        self.bounce.choose(true, true);
        if let Err(exception) = done? {
            let blamed = self.blamed(&pieces, address, start);
            let beyond = match (blamed, second.fault) {
                (Some(first), Some(Fault::Exception(beyond)))
                    if first.vector == vectors::PF
                        && beyond.vector != vectors::PF
                        && self.needs_both(instruction, address)? =>
                {
                    Some(beyond)
                }
                _ => None,
            };
            return self.raise(beyond.or(blamed).unwrap_or(exception));
        }
        self.cpu_mut().rip = instruction.next_ip();
        if writes {
            self.write_changes(address, &before[..size], &after[..size]);
        }
        Ok(())
    }

    /// The operand's one or two pieces; the second may be empty. Fills in the bytes of those that can be reached.
    fn pieces(
        &mut self,
        instruction: &Instruction,
        address: u64,
        bytes: &mut [u8],
        intent: Intent,
    ) -> [Piece; 2] {
        let middle = bytes.len().min(4096 - (address & 0xfff) as usize);
        let end = bytes.len();
        [(0, middle), (middle, end)].map(|(start, end)| {
            let address = address.wrapping_add(start as u64);
            if start == end {
                return Piece { address, start, end, fault: None };
            }
            let read = self.with_memory(|cpu, memory| {
                let access = Access::by_operand(cpu, intent);
                memory.read_virtual(cpu, address, &mut bytes[start..end], access)
            });
            Piece { address, start, end, fault: read.err().map(|fault| in_segment(instruction, fault)) }
        })
    }

    /// The Guest's exception where the host's fault was one of the buffer's missing pages.
    fn blamed(&mut self, pieces: &[Piece; 2], address: u64, start: u64) -> Option<Exception> {
        let fault = self.frame().fault;
        if fault.signal != libc::SIGSEGV || fault.address == 0 {
            return None;
        }
        let at = address.wrapping_add(fault.address.wrapping_sub(start));
        let piece = pieces.iter().rev().find(|piece| piece.start < piece.end && at >= piece.address)?;
        match piece.fault? {
            Fault::Exception(exception) if exception.vector == vectors::PF => {
                Some(Exception { cr2: Some(at), ..exception })
            }
            Fault::Exception(exception) => Some(exception),
            // A masked operand in a device's registers: no machine offers that.
            Fault::NotRam { .. } => Some(Exception::gp(0)),
        }
    }

    /// Whether the first element that is accessed touches the second page: an element that ends beyond its segment faults
    /// there, before a page is looked at, and instructions that heed their mask only for the result (`vpmultishiftqb`)
    /// access all of their operand as one. Answered by the host, with the first page there and one element chosen.
    fn needs_both(&mut self, instruction: &Instruction, address: u64) -> Result<bool, Exit> {
        let frame = self.frame();
        let (vectors, masks, mxcsr) = (frame.vectors, frame.masks, frame.mxcsr);
        let mask = &mut frame.masks[instruction.op_mask().number()];
        *mask &= mask.wrapping_neg();
        self.bounce.choose(true, false);
        let done = self.run_snippet(instruction, address);
        self.bounce.choose(true, true);
        let frame = self.frame();
        (frame.vectors, frame.masks, frame.mxcsr) = (vectors, masks, mxcsr);
        Ok(done?.is_err() && self.frame().fault.signal == libc::SIGSEGV)
    }

    /// Writes what the instruction changed, and nothing between: lanes left out may be another processor's.
    fn write_changes(&mut self, address: u64, before: &[u8], after: &[u8]) {
        let changed = |n: &usize| before[*n] != after[*n];
        let mut next = 0;
        while let Some(start) = (next..after.len()).find(changed) {
            let end = (start..after.len()).find(|n| !changed(n)).unwrap_or(after.len());
            let written = self.with_memory(|cpu, memory| {
                let access = Access::by_operand(cpu, Intent::Write);
                memory.write_virtual(cpu, address.wrapping_add(start as u64), &after[start..end], access)
            });
            debug_assert!(written.is_ok(), "the pages were looked up before");
            next = end;
        }
    }
}
