//! A Guest that fills its tables with noise: whatever comes of it, it is an answer.

use crate::cpu::segments::{TableRegister, load_segment};
use crate::cpu::{RSP, control, descriptors, flags, privilege};
use crate::events::deliver::{Event, deliver};
use crate::events::exception::Exception;
use crate::events::{far, iret, syscall};
use crate::memory::access::GuestMemory;
use crate::workbench::*;

/// Rounds of noise. Each tries everything once, on a machine of its own; a thousand take about half a second.
const ROUNDS: u64 = 1000;

/// Numbers that look random and are the same each time (Marsaglia's xorshift).
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number with a taste for edges.
    fn edgy(&mut self) -> u64 {
        match self.next() % 6 {
            0 => 0,
            1 => u64::MAX,
            2 => 0x7fff_ffff_fff0 + self.next() % 0x20,
            3 => self.next() % RAM_BYTES,
            4 => 0xffff_7fff_ffff_fff0 + self.next() % 0x20,
            _ => self.next(),
        }
    }

    /// True one time in four.
    fn seldom(&mut self) -> bool {
        self.next().is_multiple_of(4)
    }

    /// Scribbles over a few words of a table, seldom, so that some of what follows still works.
    fn scribble(&mut self, bench: &Workbench, table: u64, words: u64) {
        for _ in 0..if self.seldom() { 3 } else { 0 } {
            let value = self.edgy();
            bench.put(table + self.next() % words * 8, value);
        }
    }
}

#[test]
fn noise_in_every_table_and_register_never_panics_or_hangs() {
    let mut noise = Noise(0x1234_5678_9abc_def1);
    let mut delivered = 0;
    for _ in 0..ROUNDS {
        let mut bench = Workbench::new();
        if noise.next() > u64::MAX / 2 {
            bench.go_user();
        }
        for (table, words) in [(PML4, 1), (PD, 1), (PT, 64), (GDT, 16), (IDT, 512), (TSS, 13)] {
            noise.scribble(&bench, table, words);
        }
        if noise.seldom() {
            bench.cpu.idtr = TableRegister { base: noise.edgy(), limit: noise.next() as u16 };
            bench.cpu.tr.base = noise.edgy();
            bench.cpu.gpr[RSP] = noise.edgy();
        }
        bench.cpu.rflags = noise.next() & flags::STORED & !flags::VM | flags::ALWAYS_ONE;
        delivered += u64::from(try_everything(&mut bench, &mut noise));
    }
    assert!(delivered > ROUNDS / 4, "most of the noise reached nothing: {delivered}");
}

/// One of each; true if an event could be delivered.
fn try_everything(bench: &mut Workbench, noise: &mut Noise) -> bool {
    let mut memory = GuestMemory::new(&bench.ram);
    let event = match noise.next() % 3 {
        0 => Event::Interrupt(noise.next() as u8),
        1 => Event::Software { vector: noise.next() as u8, next_rip: noise.edgy() },
        _ => Event::Exception(Exception::pf(noise.edgy(), 0)),
    };
    let mut cpu = bench.cpu.clone();
    let delivered = deliver(&mut cpu, &mut memory, event).is_ok();
    let size = [2, 4, 8][noise.next() as usize % 3];
    let selector = noise.next() as u16;
    let _ = iret::iret(&mut cpu, &mut memory, size);
    let mut cpu = bench.cpu.clone();
    let _ = load_segment(&mut cpu, &mut memory, noise.next() as usize % 8, selector);
    let _ = descriptors::ltr(&mut cpu, &mut memory, TASK);
    let _ = descriptors::lldt(&mut cpu, &mut memory, selector);
    let _ = (descriptors::lar(&cpu, &memory, selector), descriptors::lsl(&cpu, &memory, selector));
    let _ = privilege::port(&cpu, &memory, noise.next() as u16, 4);
    let _ = far::ret(&mut cpu, &mut memory, size, noise.next() as u16);
    let _ = far::call(&mut cpu, &mut memory, selector, noise.edgy(), noise.edgy(), size);
    let _ = control::write_control(&mut cpu, [0, 3, 4][noise.next() as usize % 3], noise.edgy());
    let _ = iret::iret(&mut cpu, &mut memory, size);
    let _ = syscall::sysret(&mut cpu, true);
    assert!(matches!(cpu.cpl, 0 | 3));
    delivered
}
