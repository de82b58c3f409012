//! What a debugger may do with a vCPU that stands still: the same on every engine that can do it.

pub use lguest_translator::debug::{Registers, Stop, WatchKind};

use crate::translator_engine::TranslatorVcpu;

/// A vCPU that can be looked into and stopped.
pub trait Debuggee {
    /// What its registers hold.
    fn registers(&mut self) -> Registers;
    /// Sets those that are numbers: general, rip, flags, bases, vectors.
    fn set_registers(&mut self, registers: &Registers);
    /// Reads Guest-virtual memory; how many bytes there were.
    fn read(&self, address: u64, bytes: &mut [u8]) -> usize;
    /// Writes it, whatever the mapping's rights; false when there is no memory.
    fn write(&mut self, address: u64, bytes: &[u8]) -> bool;
    /// Sets or takes back a breakpoint; the Guest's memory stays as it is. False when there are too many.
    fn breakpoint(&mut self, address: u64, on: bool) -> bool;
    /// Sets or takes back a watch on data. False when there are too many.
    fn watch(&mut self, address: u64, length: u64, kind: WatchKind, on: bool) -> bool;
    /// One instruction a run, or as many as there are.
    fn step(&mut self, on: bool);
}

impl Debuggee for TranslatorVcpu {
    fn registers(&mut self) -> Registers {
        self.cpu.debug_registers()
    }

    fn set_registers(&mut self, registers: &Registers) {
        self.cpu.set_debug_registers(registers);
    }

    fn read(&self, address: u64, bytes: &mut [u8]) -> usize {
        self.cpu.debug_read(address, bytes)
    }

    fn write(&mut self, address: u64, bytes: &[u8]) -> bool {
        self.cpu.debug_write(address, bytes)
    }

    fn breakpoint(&mut self, address: u64, on: bool) -> bool {
        self.cpu.debug_breakpoint(address, on)
    }

    fn watch(&mut self, address: u64, length: u64, kind: WatchKind, on: bool) -> bool {
        self.cpu.debug_watch(address, length, kind, on)
    }

    fn step(&mut self, on: bool) {
        self.cpu.debug_step(on);
    }
}
