//! A unit to look at: the Guest's instructions, and beside each the host's that were made from it.
//!
//! This is the code that runs, read back from the arena with what was linked since, not a second opinion on how it might
//! be written. `cargo run -p lguest-translator --example unit` prints one.

use crate::frame::{Frame, SPANS};
use crate::unit::{Site, Unit, UnitIndex};
use crate::vcpu::Vcpu;
use iced_x86::{Decoder, DecoderOptions, FastFormatter, Instruction, OpKind, Register};
use std::collections::BTreeMap;
use std::mem::offset_of;

/// The general registers as the processor numbers them.
const NAMES: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
    "r15",
];

/// The place of what is not the unit's.
const ELSEWHERE: u64 = u64::MAX;

/// Bytes of a site's number behind a call.
const SITE: usize = 4;

/// A unit as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// In the order of host code. What comes before the first Guest instruction, and the cold stubs, stand alone.
    pub parts: Vec<Part>,
    /// Bytes of host code.
    pub host_bytes: usize,
    /// Bytes of Guest code.
    pub guest_bytes: usize,
}

/// Some host code, and what it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// What it does.
    pub of: Of,
    /// Offset in the unit and text of each host instruction.
    pub host: Vec<(usize, String)>,
}

/// What host code is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Of {
    /// Whoever comes by a computed jump is asked whether this is where they wanted to go.
    Door,
    /// A Guest instruction: its bytes and its text.
    Guest(Vec<u8>, String),
    /// The ways out to Rust, which stand elsewhere.
    Cold,
}

impl Vcpu {
    /// The units that begin at a Guest-virtual address, oldest first, as text.
    pub fn listings(&self, pc: u64) -> Vec<Listing> {
        let units = self.cache.units.iter().enumerate();
        let here = units.filter(|(_, unit)| unit.key.pc == pc && unit.alive);
        here.map(|(index, _)| self.listing(index as UnitIndex)).collect()
    }

    fn listing(&self, index: UnitIndex) -> Listing {
        let unit = self.cache.unit(index);
        let code: Vec<u8> = (0..unit.size)
            .map(|offset| self.cache.arena.read_u32(unit.place(offset) as usize) as u8)
            .collect();
        let cold = usize::from(unit.hot);
        let host = host_instructions(unit, &code);
        let (pc, bits) = (unit.key.pc, unit.key.mode.size.bits());
        let labels = Labels { unit, cold, code: &code, sites: &self.cache.sites };
        let guest_bytes = self.cache.bytes_from(index, pc);
        let guest: BTreeMap<u16, Instruction> = instructions(guest_bytes, bits, pc)
            .into_iter()
            .map(|instruction| ((instruction.ip() - pc) as u16, instruction))
            .collect();
        let mut parts = Vec::new();
        let marks = self.cache.marks(index);
        let begins = marks.first().map_or(0, |mark| usize::from(mark.host));
        let mut add = |of, range: std::ops::Range<usize>| {
            let inside = host.iter().filter(|instruction| range.contains(&(instruction.ip() as usize)));
            let host: Vec<_> =
                inside.map(|instruction| (instruction.ip() as usize, labels.text(instruction))).collect();
            if !host.is_empty() {
                parts.push(Part { of, host });
            }
        };
        add(Of::Door, 0..begins);
        let mut guest_end = 0;
        for (number, mark) in marks.iter().enumerate() {
            let Some(instruction) = guest.get(&mark.guest) else { continue };
            let end = marks.get(number + 1).map_or(cold, |next| usize::from(next.host));
            let from = usize::from(mark.guest);
            guest_end = from + instruction.len();
            let of = Of::Guest(guest_bytes[from..guest_end].to_vec(), text(instruction));
            add(of, usize::from(mark.host)..end.min(cold));
        }
        add(Of::Cold, cold..code.len());
        Listing { parts, host_bytes: code.len(), guest_bytes: guest_end }
    }
}

/// A unit's host code without the site numbers that stand behind its calls. Places are counted as the unit's bytes are;
/// one that is not the unit's is [`ELSEWHERE`].
fn host_instructions(unit: &Unit, code: &[u8]) -> Vec<Instruction> {
    let (hot, stubs) = code.split_at(unit.hot.into());
    let mut found = Vec::new();
    for (place, code) in [(unit.start, hot), (unit.cold, stubs)] {
        let mut decoder = Decoder::with_ip(64, code, place.into(), DecoderOptions::NONE);
        while decoder.can_decode() {
            let mut instruction = decoder.decode();
            if instruction.is_call_near() {
                let behind = (decoder.position() + SITE).min(code.len());
                decoder.set_ip(u64::from(place) + behind as u64);
                // The place was just kept within the code.
                let _ = decoder.set_position(behind);
            }
            let counted = |place: u64| u32::try_from(place).ok().and_then(|place| unit.offset(place));
            instruction.set_ip(counted(instruction.ip()).map_or(ELSEWHERE, u64::from));
            if instruction.op0_kind() == OpKind::NearBranch64 {
                let target = instruction.near_branch_target();
                instruction.set_near_branch64(counted(target).map_or(ELSEWHERE, u64::from));
            }
            found.push(instruction);
        }
    }
    found
}

fn instructions(code: &[u8], bits: u32, ip: u64) -> Vec<Instruction> {
    Decoder::with_ip(bits, code, ip, DecoderOptions::NONE).into_iter().collect()
}

fn text(instruction: &Instruction) -> String {
    let mut text = String::new();
    let mut formatter = FastFormatter::new();
    formatter.options_mut().set_space_after_operand_separator(true);
    formatter.options_mut().set_use_hex_prefix(true);
    formatter.options_mut().set_uppercase_hex(false);
    formatter.format(instruction, &mut text);
    text
}

/// Names for what host code points at.
struct Labels<'a> {
    unit: &'a Unit,
    cold: usize,
    code: &'a [u8],
    sites: &'a [Site],
}

impl Labels<'_> {
    fn text(&self, instruction: &Instruction) -> String {
        let plain = text(instruction);
        if instruction.op0_kind() == OpKind::NearBranch64 {
            let mnemonic = plain.split(' ').next().unwrap_or("");
            return format!("{mnemonic} {}", self.place(instruction));
        }
        if instruction.memory_base() == Register::RSP && instruction.memory_index() == Register::None {
            let (open, close) = (plain.find('['), plain.find(']'));
            if let (Some(open), Some(close)) = (open, close) {
                let field = field(instruction.memory_displacement64() as usize);
                return format!("{}[frame.{field}]{}", &plain[..open], &plain[close + 1..]);
            }
        }
        if instruction.segment_prefix() == Register::GS {
            return plain.replace("gs:[rsp+", "table[");
        }
        plain
    }

    fn place(&self, instruction: &Instruction) -> String {
        let target = instruction.near_branch_target();
        if target == self.unit.entry.into() {
            return "this unit's entry".to_owned();
        }
        match usize::try_from(target).ok().filter(|&target| target < self.unit.size as usize) {
            Some(target) if target >= self.cold => format!("cold {target:#x}"),
            Some(target) => format!("{target:#x}"),
            None if instruction.is_call_near() => self.question(instruction).to_owned(),
            None => "another unit, or Rust".to_owned(),
        }
    }

    /// What a call asks of Rust: a site's number stands behind it.
    fn question(&self, call: &Instruction) -> &'static str {
        let place = call.next_ip() as usize;
        let bytes = self.code.get(place..place + SITE).and_then(|bytes| bytes.try_into().ok());
        let site = bytes.and_then(|bytes| self.sites.get(u32::from_le_bytes(bytes) as usize));
        match site {
            Some(Site::Memory { .. }) => "Rust: mend this access",
            Some(Site::Link { .. }) => "Rust: find that unit, link it",
            Some(Site::System { .. }) => "Rust: carry it out",
            None => "Rust",
        }
    }
}

/// The frame's field at an offset, as far as ordinary units use it.
fn field(offset: usize) -> String {
    let named = [
        (offset_of!(Frame, page_mask), "page_mask"),
        (offset_of!(Frame, stack_mask), "stack_mask"),
        (offset_of!(Frame, narrow_stack_mask), "narrow_stack_mask"),
        (offset_of!(Frame, saved_flags), "saved_flags"),
        (offset_of!(Frame, jump_space), "jump_space"),
        (offset_of!(Frame, borrowed), "borrowed"),
        (offset_of!(Frame, scratch), "scratch"),
        (offset_of!(Frame, kept), "kept"),
    ];
    let span = || (0..SPANS).find(|&slot| Frame::span(slot) == offset);
    let registers = Frame::gpr(0)..Frame::gpr(16);
    match named.iter().find(|(at, _)| *at == offset) {
        Some((_, name)) => (*name).to_owned(),
        None if registers.contains(&offset) => format!("guest_{}", NAMES[(offset - registers.start) / 8]),
        None => span().map_or_else(|| format!("{offset:#x}"), |slot| format!("spans[{slot}]")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::ram::Ram;
    use crate::workbench::{GDT, GDT_BYTES, KERNEL_CODE, KERNEL_DATA, P, PD, PDPT, PML4, PS, STACK, W};
    use crate::{Exit, LongModeEntry, Options};
    use std::sync::Arc;

    const CODE: u64 = 0x5000;

    /// A vCPU that ran `code` up to its `hlt`, on a megabyte that is mapped where it is.
    fn ran(code: &[u8]) -> Vcpu {
        let ram: Ram = crate::workbench::ram(1 << 20);
        for (table, entry) in [(PML4, PDPT | P | W), (PDPT, PD | P | W), (PD, P | W | PS)] {
            assert!(ram.write(table, &entry.to_le_bytes()));
        }
        assert!(ram.write(GDT + u64::from(KERNEL_CODE), &0x00af_9b00_0000_ffff_u64.to_le_bytes()));
        assert!(ram.write(GDT + u64::from(KERNEL_DATA), &0x00cf_9300_0000_ffff_u64.to_le_bytes()));
        assert!(ram.write(CODE, code));
        let mut vcpu = Vcpu::new(Arc::new(ram), Options { count: 1, ..Options::default() }).unwrap();
        vcpu.enter_long_mode(LongModeEntry {
            rip: CODE,
            rsp: STACK,
            rsi: 0x8000,
            cr3: PML4,
            gdt: GDT,
            gdt_limit: GDT_BYTES - 1,
        });
        assert_eq!(vcpu.run(), Exit::Halt);
        vcpu
    }

    #[test]
    fn every_guest_instruction_stands_beside_the_host_code_made_from_it() {
        // mov rax, [rsi]; inc ecx; hlt
        let listings = ran(&[0x48, 0x8b, 0x06, 0xff, 0xc1, 0xf4]).listings(CODE);
        let [listing] = &listings[..] else { panic!("one unit: {listings:?}") };
        let guest: Vec<_> = listing
            .parts
            .iter()
            .filter_map(|part| match &part.of {
                Of::Guest(bytes, text) => {
                    Some((bytes.len(), text.as_str(), part.host.last().unwrap().1.as_str()))
                }
                Of::Door | Of::Cold => None,
            })
            .collect();
        let expected = [
            (3, "mov rax, [rsi]", "mov rax, [rsi+r11]"),
            (2, "inc ecx", "inc ecx"),
            (1, "hlt", "call Rust: carry it out"),
        ];
        assert_eq!(guest, expected);
        assert_eq!(listing.guest_bytes, 6);
    }

    #[test]
    fn a_missing_entry_leads_to_a_stub_that_asks_rust_to_mend_the_access() {
        let listings = ran(&[0x48, 0x8b, 0x06, 0xf4]).listings(CODE);
        let cold = listings[0].parts.last().unwrap();
        assert_eq!(cold.of, Of::Cold);
        assert!(cold.host.iter().any(|(_, text)| text == "call Rust: mend this access"), "{cold:?}");
        let (at, _) = cold.host.iter().find(|(_, text)| text.starts_with("call")).unwrap();
        let jumps = format!("je cold {at:#x}");
        let mut hot = listings[0].parts.iter().flat_map(|part| &part.host);
        assert!(hot.any(|(_, text)| *text == jumps), "{listings:?}");
    }

    #[test]
    fn nothing_begins_where_nothing_ran() {
        assert_eq!(ran(&[0xf4]).listings(CODE + 1), []);
    }
}
