//! Gathers and scatters: each element is an access of its own, made in order from the lowest.
//!
//! The mask is both what is asked and what is left to do: an element that is done leaves it, so that an instruction that
//! faults in its middle starts again where it stopped (SDM vol. 2, VPGATHERDD and VPSCATTERDD). AVX2 keeps the mask in
//! the top bits of a vector's elements, AVX-512 in a mask register.

use super::segments::in_segment;
use super::{Done, Then};
use crate::events::exception::Exception;
use crate::memory::access::Fault;
use crate::memory::walk::{Access, Intent};
use crate::rewrite::address_bits;
use crate::vcpu::Vcpu;
use iced_x86::{Instruction, Mnemonic as M, OpKind, Register};

/// Bytes of an element's index.
fn index_size(instruction: &Instruction) -> usize {
    match instruction.mnemonic() {
        M::Vpgatherdd | M::Vpgatherdq | M::Vgatherdps | M::Vgatherdpd => 4,
        M::Vpscatterdd | M::Vpscatterdq | M::Vscatterdps | M::Vscatterdpd => 4,
        _ => 8,
    }
}

impl Vcpu {
    /// Any of them.
    pub(super) fn gather(&mut self, instruction: &Instruction) -> Done {
        let scatter = instruction.op0_kind() == OpKind::Memory;
        let data = if scatter { instruction.op1_register() } else { instruction.op0_register() };
        let size = instruction.memory_size().size();
        // As many as the narrower of index and data vectors holds.
        let elements = (instruction.memory_index().size() / index_size(instruction)).min(data.size() / size);
        for n in 0..elements {
            if self.is_chosen(instruction, n, size) {
                let intent = if scatter { Intent::Write } else { Intent::Read };
                let address = self.gathered_address(instruction, n, size, intent)?;
                if scatter {
                    let value = self.element_of(data, n, size);
                    self.write_element(address, size, value).map_err(|f| in_segment(instruction, f))?;
                } else {
                    let value = self.read_element(address, size).map_err(|f| in_segment(instruction, f))?;
                    self.set_element(data, n, size, value);
                    if instruction.op_mask() != Register::None {
                        // What lies above the vector length goes with the first element: it shows when a later one faults.
                        self.clear_above(data, data.size().max(instruction.memory_index().size()));
                    }
                }
            }
            self.choose_no_more(instruction, n, size);
        }
        if instruction.op_mask() != Register::None {
            self.frame().masks[instruction.op_mask().number()] = 0;
        } else {
            self.clear_above(instruction.op2_register(), elements * size);
        }
        if !scatter {
            self.clear_above(data, elements * size);
        }
        Ok(Then::Next)
    }

    fn is_chosen(&self, instruction: &Instruction, n: usize, size: usize) -> bool {
        match instruction.op_mask() {
            Register::None => self.element_of(instruction.op2_register(), n, size) >> (8 * size - 1) & 1 != 0,
            mask => self.mask(mask) >> n & 1 != 0,
        }
    }

    fn choose_no_more(&mut self, instruction: &Instruction, n: usize, size: usize) {
        match instruction.op_mask() {
            Register::None => self.set_element(instruction.op2_register(), n, size, 0),
            mask => self.frame().masks[mask.number()] &= !(1 << n),
        }
    }

    fn gathered_address(
        &self,
        instruction: &Instruction,
        n: usize,
        size: usize,
        intent: Intent,
    ) -> Result<u64, Exception> {
        let index_bytes = index_size(instruction);
        let index = self.element_of(instruction.memory_index(), n, index_bytes);
        let index = if index_bytes == 4 { index as u32 as i32 as i64 as u64 } else { index };
        let base = match instruction.memory_base() {
            Register::None => 0,
            base => self.register(base),
        };
        let scale = u64::from(instruction.memory_index_scale());
        let sum =
            base.wrapping_add(index.wrapping_mul(scale)).wrapping_add(instruction.memory_displacement64());
        let offset = sum & u64::MAX >> (64 - address_bits(instruction));
        self.cpu().linear(instruction.memory_segment().number(), offset, size as u64, intent)
    }

    pub(super) fn read_element(&mut self, address: u64, size: usize) -> Result<u64, Fault> {
        self.with_memory(|cpu, memory| {
            memory.read_number(cpu, address, size, Access::by_operand(cpu, Intent::Read))
        })
    }

    fn write_element(&mut self, address: u64, size: usize, value: u64) -> Result<(), Fault> {
        self.with_memory(|cpu, memory| {
            memory.write_number(cpu, address, size, value, Access::by_operand(cpu, Intent::Write))
        })
    }

    pub(super) fn element_of(&self, register: Register, n: usize, size: usize) -> u64 {
        let mut bytes = [0; 8];
        bytes[..size].copy_from_slice(&self.vector(register.number())[n * size..(n + 1) * size]);
        u64::from_le_bytes(bytes)
    }

    fn set_element(&mut self, register: Register, n: usize, size: usize, value: u64) {
        self.note_wide();
        let vector = &mut self.frame().vectors[register.number()];
        vector[n * size..(n + 1) * size].copy_from_slice(&value.to_le_bytes()[..size]);
    }

    fn clear_above(&mut self, register: Register, kept: usize) {
        self.frame().vectors[register.number()][kept..].fill(0);
    }
}
