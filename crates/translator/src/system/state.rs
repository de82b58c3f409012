//! Saving and loading vector state: `fxsave`, `xsave` and their kin.
//!
//! The vectors are in the frame while Rust runs, so an area is put together here, by the manual's rules and for what the
//! Guest enabled, and no byte of the host's own state comes near it. x87's registers stay in the processor; the legacy
//! region's part of them is the host's own `fxsave`. x87's instruction and data pointers would be the host's addresses
//! of translated code; they read as zero.
//!
//! A component that holds nothing but zeros is in its initial state, whatever was done to it before. Linux then neither
//! saves nor loads it again, so what a process never used costs nothing when it is switched to.

use super::segments::in_segment;
use super::{Done, Stop, Then};
use crate::cpu::components::{LEGACY, LEGACY_AND_HEADER, MASKS, YMM, ZMM_MORE, ZMM_UPPER};
use crate::cpu::descriptors::privileged;
use crate::cpu::{RAX, RDX, cr4, xcr0};
use crate::events::exception::Exception;
use crate::memory::walk::{Access, Intent};
use crate::rewrite::operand_size;
use crate::vcpu::Vcpu;
use crate::x87::Image;
use iced_x86::{Instruction, Mnemonic as M};
use std::ops::Range;

/// Place of x87's instruction and data pointers in the legacy region.
const POINTERS: Range<usize> = 8..24;
/// Place of MXCSR and the mask of its bits that exist.
const MXCSR: Range<usize> = 24..32;
/// Place of x87's stack.
const STACK: Range<usize> = 32..160;
/// Place of the xmm registers.
const XMM: Range<usize> = 160..416;
/// Place of the header's first word: the components that are not in their initial state.
const PRESENT: Range<usize> = 512..520;
/// Place of the header's second word: the components a compact area is made of.
const LAYOUT: Range<usize> = 520..528;
/// The bit of that word that says "compact".
const COMPACT: u64 = 1 << 63;
/// MXCSR after power-on.
const MXCSR_INITIAL: u32 = 0x1f80;
/// Bits of MXCSR that exist on every processor with `xsave` (SDM vol. 1, 11.6.6).
const MXCSR_BITS: u32 = 0xffff;

impl Vcpu {
    pub(super) fn vector_area(&mut self, instruction: &Instruction) -> Done {
        use M::*;
        let mnemonic = instruction.mnemonic();
        let supervisor = matches!(mnemonic, Xsaves | Xsaves64 | Xrstors | Xrstors64);
        let legacy = matches!(mnemonic, Fxsave | Fxsave64 | Fxrstor | Fxrstor64);
        let load = matches!(mnemonic, Fxrstor | Fxrstor64 | Xrstor | Xrstor64 | Xrstors | Xrstors64);
        if !legacy && self.cpu().cr4 & cr4::OSXSAVE == 0 {
            return Err(Exception::ud().into());
        }
        if supervisor {
            privileged(self.cpu())?;
        }
        let address = self.operand_place(instruction, LEGACY, !load)?.unwrap_or(0);
        if address & if legacy { 15 } else { 63 } != 0 {
            return Err(Exception::gp(0).into());
        }
        let asked = self.cpu().gpr[RAX] & 0xffff_ffff | self.cpu().gpr[RDX] << 32;
        let asked = asked & self.cpu().xcr0;
        match mnemonic {
            Fxsave | Fxsave64 => self.save_legacy(instruction, address),
            Fxrstor | Fxrstor64 => self.load_legacy(instruction, address),
            Xrstor | Xrstor64 => self.restore(instruction, address, asked, false),
            Xrstors | Xrstors64 => self.restore(instruction, address, asked, true),
            Xsavec | Xsavec64 | Xsaves | Xsaves64 => self.save_compact(instruction, address, asked),
            _ => self.save_standard(instruction, address, asked),
        }
    }

    /// `fnstenv` and `fnsave`: pointers are the last four words of the environment, of 28 bytes or, with an operand-size
    /// prefix, of 14 (SDM vol. 1, figures 8-9 and 8-11).
    pub(super) fn environment(&mut self, instruction: &Instruction) -> Done {
        let size = operand_size(instruction);
        let address = self.operand_place(instruction, size, true)?.unwrap_or(0);
        let pointers = if matches!(size, 14 | 94) { 6..14 } else { 12..28 };
        let mut bytes = self.area(instruction, address, size)?;
        self.bounce.write(address, &bytes);
        self.run_snippet(instruction, address)??;
        self.bounce.read(address, &mut bytes);
        bytes[pointers].fill(0);
        self.write_area(address, &bytes)
    }

    /// The bytes of an area that is about to be written: what the instruction leaves alone stays as it is.
    fn area(&mut self, instruction: &Instruction, address: u64, size: usize) -> Result<Vec<u8>, Stop> {
        let mut bytes = vec![0; size];
        self.with_memory(|cpu, memory| {
            memory.read_virtual(cpu, address, &mut bytes, Access::by_operand(cpu, Intent::Write))
        })
        .map_err(|fault| in_segment(instruction, fault))?;
        Ok(bytes)
    }

    fn write_area(&mut self, address: u64, bytes: &[u8]) -> Done {
        self.with_memory(|cpu, memory| {
            memory.write_virtual(cpu, address, bytes, Access::by_operand(cpu, Intent::Write))
        })?;
        Ok(Then::Next)
    }

    fn read_area(&mut self, instruction: &Instruction, address: u64, bytes: &mut [u8]) -> Result<(), Stop> {
        self.with_memory(|cpu, memory| {
            memory.read_virtual(cpu, address, bytes, Access::by_operand(cpu, Intent::Read))
        })
        .map_err(|fault| in_segment(instruction, fault))?;
        Ok(())
    }

    /// `fxsave`, in both forms: they differ in the pointers.
    fn save_legacy(&mut self, instruction: &Instruction, address: u64) -> Done {
        let mut bytes = self.area(instruction, address, LEGACY)?;
        self.put_x87(&mut bytes);
        self.put_mxcsr(&mut bytes);
        self.put_registers(&mut bytes[XMM], 0..16, 0..16);
        self.write_area(address, &bytes)
    }

    fn load_legacy(&mut self, instruction: &Instruction, address: u64) -> Done {
        let mut bytes = [0; LEGACY];
        self.read_area(instruction, address, &mut bytes)?;
        let mxcsr = mxcsr_of(&bytes)?;
        self.frame().mxcsr = mxcsr;
        Image::from_legacy(&bytes).load();
        self.take_registers(Some(&bytes[XMM]), 0..16, 0..16);
        Ok(Then::Next)
    }

    /// `xsave` and `xsaveopt` (SDM vol. 1, 13.7 and 13.9), of which the second may do as the first.
    fn save_standard(&mut self, instruction: &Instruction, address: u64, asked: u64) -> Done {
        let layout = *self.cpuid.layout();
        let mut bytes = self.area(instruction, address, layout.size(asked, false))?;
        let old = word(&bytes[PRESENT]);
        let present = old & !asked | asked & self.in_use();
        bytes[PRESENT].copy_from_slice(&present.to_le_bytes());
        if asked & xcr0::X87 != 0 {
            self.put_x87(&mut bytes);
        }
        if asked & (xcr0::SSE | xcr0::AVX) != 0 {
            self.put_mxcsr(&mut bytes);
        }
        if asked & xcr0::SSE != 0 {
            self.put_registers(&mut bytes[XMM], 0..16, 0..16);
        }
        for (component, place) in layout.extended(asked, false) {
            self.put_component(component, &mut bytes[place]);
        }
        self.write_area(address, &bytes)
    }

    /// `xsavec`, and `xsaves` where there is no state of the supervisor's own (SDM vol. 1, 13.10 and 13.11).
    fn save_compact(&mut self, instruction: &Instruction, address: u64, asked: u64) -> Done {
        let layout = *self.cpuid.layout();
        let odd_mxcsr = if self.frame().mxcsr != MXCSR_INITIAL { xcr0::SSE } else { 0 };
        let present = asked & (self.in_use() | odd_mxcsr);
        let mut bytes = self.area(instruction, address, layout.size(asked, true))?;
        bytes[PRESENT].copy_from_slice(&present.to_le_bytes());
        bytes[LAYOUT].copy_from_slice(&(asked | COMPACT).to_le_bytes());
        if present & xcr0::X87 != 0 {
            self.put_x87(&mut bytes);
        }
        if present & xcr0::SSE != 0 {
            self.put_mxcsr(&mut bytes);
            self.put_registers(&mut bytes[XMM], 0..16, 0..16);
        }
        for (component, place) in layout.extended(asked, true) {
            if present >> component & 1 != 0 {
                self.put_component(component, &mut bytes[place]);
            }
        }
        self.write_area(address, &bytes)
    }

    /// `xrstor`, and `xrstors`, which takes the compact format only (SDM vol. 1, 13.8 and 13.12). What the header does not
    /// name returns to its initial state.
    fn restore(&mut self, instruction: &Instruction, address: u64, asked: u64, compact_only: bool) -> Done {
        let layout = *self.cpuid.layout();
        let mut bytes = vec![0; LEGACY_AND_HEADER];
        self.read_area(instruction, address, &mut bytes)?;
        let (present, form) = (word(&bytes[PRESENT]), word(&bytes[LAYOUT]));
        let compact = form & COMPACT != 0;
        let named = if compact { form & !COMPACT } else { self.cpu().xcr0 };
        let reserved = if compact { LAYOUT.end..LEGACY_AND_HEADER } else { LAYOUT.start..LAYOUT.end + 8 };
        let refused = compact_only && !compact
            || named & !self.cpu().xcr0 != 0
            || present & !named != 0
            || bytes[reserved].iter().any(|&byte| byte != 0);
        if refused {
            return Err(Exception::gp(0).into());
        }
        let loaded = asked & present;
        let places: Vec<_> = layout.extended(named, compact).filter(|(n, _)| asked >> n & 1 != 0).collect();
        let end = places.iter().filter(|(n, _)| loaded >> n & 1 != 0).map(|(_, place)| place.end).max();
        bytes.resize(end.unwrap_or(LEGACY_AND_HEADER), 0);
        self.read_area(instruction, address, &mut bytes)?;
        let mxcsr = match (asked & (xcr0::SSE | xcr0::AVX) != 0, compact) {
            (true, false) => Some(mxcsr_of(&bytes)?),
            (true, true) if loaded & xcr0::SSE != 0 => Some(mxcsr_of(&bytes)?),
            (true, true) if asked & xcr0::SSE != 0 => Some(MXCSR_INITIAL),
            _ => None,
        };
        if let Some(mxcsr) = mxcsr {
            self.frame().mxcsr = mxcsr;
        }
        if asked & xcr0::X87 != 0 {
            let image = if loaded & xcr0::X87 != 0 { Image::from_legacy(&bytes) } else { Image::initial() };
            image.load();
        }
        if asked & xcr0::SSE != 0 {
            self.take_registers((loaded & xcr0::SSE != 0).then(|| &bytes[XMM]), 0..16, 0..16);
        }
        for (component, place) in places {
            self.take_component(component, (loaded >> component & 1 != 0).then(|| &bytes[place]));
        }
        self.measure_width();
        Ok(Then::Next)
    }

    /// The components that are not in their initial state.
    fn in_use(&mut self) -> u64 {
        let x87 = if crate::x87::in_use() { xcr0::X87 } else { 0 };
        let frame = self.frame();
        let low = |range: Range<usize>| {
            frame.vectors[..16].iter().any(|vector| vector[range.clone()].iter().any(|&byte| byte != 0))
        };
        let parts = [
            (low(0..16), xcr0::SSE),
            (low(16..32), xcr0::AVX),
            (frame.masks != [0; 8], 1 << MASKS),
            (low(32..64), 1 << ZMM_UPPER),
            (frame.vectors[16..].as_flattened().iter().any(|&byte| byte != 0), 1 << ZMM_MORE),
        ];
        parts.iter().filter(|(used, _)| *used).fold(x87, |all, (_, bit)| all | bit)
    }

    fn put_x87(&self, bytes: &mut [u8]) {
        let image = Image::of_processor();
        bytes[..POINTERS.start].copy_from_slice(&image.bytes()[..POINTERS.start]);
        bytes[POINTERS].fill(0);
        bytes[STACK].copy_from_slice(&image.bytes()[STACK]);
    }

    fn put_mxcsr(&mut self, bytes: &mut [u8]) {
        let words = [self.frame().mxcsr, MXCSR_BITS].map(u32::to_le_bytes);
        bytes[MXCSR].copy_from_slice(words.as_flattened());
    }

    fn put_component(&mut self, component: usize, bytes: &mut [u8]) {
        match component {
            YMM => self.put_registers(bytes, 0..16, 16..32),
            ZMM_UPPER => self.put_registers(bytes, 0..16, 32..64),
            ZMM_MORE => self.put_registers(bytes, 16..32, 0..64),
            _ => {
                for (mask, place) in self.frame().masks.iter().zip(bytes.chunks_exact_mut(8)) {
                    place.copy_from_slice(&mask.to_le_bytes());
                }
            }
        }
    }

    fn take_component(&mut self, component: usize, bytes: Option<&[u8]>) {
        match component {
            YMM => self.take_registers(bytes, 0..16, 16..32),
            ZMM_UPPER => self.take_registers(bytes, 0..16, 32..64),
            ZMM_MORE => self.take_registers(bytes, 16..32, 0..64),
            _ => {
                let masks = &mut self.frame().masks;
                masks.fill(0);
                for (mask, place) in masks.iter_mut().zip(bytes.unwrap_or_default().chunks_exact(8)) {
                    *mask = word(place);
                }
            }
        }
    }

    /// Registers that can be named: outside 64-bit mode the others are neither saved nor loaded (SDM vol. 1, 13.5).
    fn named(&self, which: Range<usize>) -> Range<usize> {
        let end = if self.cpu().in_64_bit_mode() { which.end } else { which.end.min(8) };
        which.start.min(end)..end
    }

    /// Some bytes of some registers, one after the other.
    fn put_registers(&mut self, bytes: &mut [u8], which: Range<usize>, part: Range<usize>) {
        let which = self.named(which);
        let registers = &self.frame().vectors[which];
        for (register, place) in registers.iter().zip(bytes.chunks_exact_mut(part.len())) {
            place.copy_from_slice(&register[part.clone()]);
        }
    }

    /// The reverse; zeros without bytes.
    fn take_registers(&mut self, bytes: Option<&[u8]>, which: Range<usize>, part: Range<usize>) {
        let which = self.named(which);
        let registers = &mut self.frame().vectors[which];
        match bytes {
            Some(bytes) => {
                for (register, place) in registers.iter_mut().zip(bytes.chunks_exact(part.len())) {
                    register[part.clone()].copy_from_slice(place);
                }
            }
            None => registers.iter_mut().for_each(|register| register[part.clone()].fill(0)),
        }
    }
}

/// A little-endian word.
fn word(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(*bytes.first_chunk().expect("eight bytes"))
}

/// MXCSR in a legacy region; bits that do not exist are refused.
fn mxcsr_of(bytes: &[u8]) -> Result<u32, Exception> {
    let value = u32::from_le_bytes(*bytes[MXCSR].first_chunk().expect("the region holds it"));
    if value & !MXCSR_BITS == 0 { Ok(value) } else { Err(Exception::gp(0)) }
}
