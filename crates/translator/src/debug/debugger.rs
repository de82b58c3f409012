//! What a debugger on the Host may do to a vCPU that stands still.

use super::points::WatchKind;
use crate::cpu::segments::{FS, GS};
use crate::cpu::{flags, registers};
use crate::memory::walk::{Access, Intent, Paging, walk_quiet};
use crate::vcpu::Vcpu;

/// Registers as a debugger names them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Registers {
    /// rax rcx rdx rbx rsp rbp rsi rdi r8 to r15: the order instructions encode them in.
    pub general: [u64; 16],
    /// The next instruction.
    pub rip: u64,
    /// The flags.
    pub rflags: u64,
    /// Selectors: ES, CS, SS, DS, FS, GS.
    pub selectors: [u16; 6],
    /// Bases of FS and GS, and what `swapgs` exchanges the latter with.
    pub bases: [u64; 3],
    /// CR0, CR2, CR3, CR4, EFER.
    pub control: [u64; 5],
    /// The low halves of the vector registers.
    pub vectors: [u128; 16],
    /// MXCSR.
    pub mxcsr: u32,
}

/// Flags that a debugger may change: those that a program sees.
const WRITABLE_FLAGS: u64 = flags::ARITHMETIC | flags::TF | flags::DF | flags::IF | flags::AC | flags::RF;

impl Vcpu {
    /// What the registers hold.
    pub fn debug_registers(&mut self) -> Registers {
        let vectors = self.debug_vectors();
        let mxcsr = *self.mxcsr();
        let cpu = self.cpu();
        Registers {
            general: cpu.gpr,
            rip: cpu.rip,
            rflags: cpu.rflags,
            selectors: std::array::from_fn(|n| cpu.segments[n].selector),
            bases: [cpu.segments[FS].base, cpu.segments[GS].base, cpu.kernel_gs_base],
            control: [cpu.cr0, cpu.cr2, cpu.cr3, cpu.cr4, cpu.efer],
            vectors,
            mxcsr,
        }
    }

    /// Sets them, but for selectors and control registers: a change of those is more than a number.
    pub fn set_debug_registers(&mut self, new: &Registers) {
        let old = self.debug_registers();
        let cpu = self.cpu_mut();
        cpu.gpr = new.general;
        cpu.rip = new.rip;
        cpu.rflags = cpu.rflags & !WRITABLE_FLAGS | new.rflags & WRITABLE_FLAGS;
        cpu.segments[FS].base = new.bases[0];
        cpu.segments[GS].base = new.bases[1];
        cpu.kernel_gs_base = new.bases[2];
        if new.vectors != old.vectors {
            self.set_debug_vectors(&new.vectors);
        }
        *self.mxcsr() = new.mxcsr & 0xffff;
        self.resume = None;
    }

    fn debug_vectors(&self) -> [u128; 16] {
        std::array::from_fn(|n| {
            let low: [u8; 16] = self.vector(n)[..16].try_into().expect("sixteen bytes");
            u128::from_le_bytes(low)
        })
    }

    fn set_debug_vectors(&mut self, vectors: &[u128; 16]) {
        for (place, value) in self.vectors().iter_mut().zip(vectors) {
            place[..16].copy_from_slice(&value.to_le_bytes());
        }
    }

    /// Reads Guest-virtual memory as the supervisor sees it, changing nothing; how many bytes there were.
    pub fn debug_read(&self, address: u64, bytes: &mut [u8]) -> usize {
        let mut done = 0;
        while done < bytes.len() {
            let at = address.wrapping_add(done as u64);
            let piece = (bytes.len() - done).min(4096 - (at & 0xfff) as usize);
            let Some(physical) = self.debug_translate(at) else { break };
            if !self.ram.read(physical, &mut bytes[done..done + piece]) {
                break;
            }
            done += piece;
        }
        done
    }

    /// Writes Guest-virtual memory whatever the mapping's rights; false when a byte has no memory behind it, with those
    /// before it written. Code made from what was there is forgotten.
    pub fn debug_write(&mut self, address: u64, bytes: &[u8]) -> bool {
        let mut done = 0;
        while done < bytes.len() {
            let at = address.wrapping_add(done as u64);
            let piece = (bytes.len() - done).min(4096 - (at & 0xfff) as usize);
            let Some(physical) = self.debug_translate(at) else { return false };
            let Some((offset, _)) = self.ram.offset(physical) else { return false };
            self.ram.write(physical, &bytes[done..done + piece]);
            self.wrote((offset >> 12) as u32);
            done += piece;
        }
        true
    }

    fn debug_translate(&self, address: u64) -> Option<u64> {
        if self.cpu().cr0 & registers::cr0::PG == 0 {
            return Some(address);
        }
        let access = Access { intent: Intent::Read, user: false, smap_allowed: true };
        walk_quiet(&self.ram, &Paging::of(self.cpu()), address, access).ok().map(|found| found.physical)
    }

    /// Stops before the instruction at a Guest-virtual address, or no longer. False when there are too many already.
    pub fn debug_breakpoint(&mut self, address: u64, on: bool) -> bool {
        let done = self.debug.points.set_host_stop(address, on);
        self.cut_units(address);
        done
    }

    /// Stops behind instructions that touch these bytes, or no longer. False when there are too many already.
    pub fn debug_watch(&mut self, address: u64, length: u64, kind: WatchKind, on: bool) -> bool {
        let done = self.debug.points.set_host_watch(address, length, kind, on);
        self.hide(address);
        self.hide(address.wrapping_add(length.saturating_sub(1)));
        done
    }

    /// From now on `run` comes back after every instruction, or no longer. Interrupts wait meanwhile.
    pub fn debug_step(&mut self, on: bool) {
        self.debug.host_step = on;
    }
}
