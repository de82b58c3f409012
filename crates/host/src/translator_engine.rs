//! The engine without KVM: the translator's processor, with the controllers and clocks of this crate around it.
//!
//! [`Vcpu::run`] reads like a processor's data sheet: look for an interrupt, take it or ask to be told when it can
//! be taken, run, and see what came back. What the processor and its controllers settle between them stays here.

use std::sync::Arc;

use lguest_abi::meeting::HYPERCALL_PORT;
use lguest_translator::{Exit as CpuExit, HiddenFeatures, Options, Ram, SetupError, StartState, Vcpu as Cpu};

use crate::clock::host_tsc;
use crate::clock::paravirtual::{self, ClockOrigin, MSR_SYSTEM_TIME, MSR_WALL_CLOCK, SYSTEM_TIME_ON};
use crate::debug::Debuggee;
use crate::engine::{Exit, ExitCounts, HALTED_FOR_EVER, NOT_PRIVILEGED, Vcpu};
use crate::irq::Controllers;
use crate::irq::lapic::Refused;
use crate::irq::seat::{Entry, Takes};
use crate::irq::timer_register::APIC_BUS_KHZ;
use crate::sight::{Journal, Report, Times};

/// Encoding numbers of the registers that carry hypercalls.
const RAX: usize = 0;
const RCX: usize = 1;
const RDX: usize = 2;
const RBX: usize = 3;
const RSI: usize = 6;

/// One vCPU on the translator.
pub struct TranslatorVcpu {
    pub(crate) cpu: Cpu,
    index: u32,
    ram: Arc<Ram>,
    controllers: Arc<Controllers>,
    origin: ClockOrigin,
    /// Last values of the paravirtual clock's registers.
    wall_clock: u64,
    system_time: u64,
    /// What the translator was last told about interrupt windows.
    window: (bool, bool),
    /// The last exit was a hypercall.
    asked: bool,
    /// Summoned away from its sleep.
    halted: bool,
    counts: ExitCounts,
    /// Ticks spent asleep.
    asleep: u64,
}

impl TranslatorVcpu {
    /// vCPU `index` of `count` at its power-on state.
    ///
    /// # Errors
    /// [`SetupError`] when the host's processor or kernel lacks something.
    pub fn new(
        ram: Arc<Ram>,
        index: u32,
        count: u32,
        controllers: Arc<Controllers>,
        origin: ClockOrigin,
        hidden: &HiddenFeatures,
    ) -> Result<TranslatorVcpu, SetupError> {
        let cpuid = paravirtual::cpuid(controllers.rate(), APIC_BUS_KHZ);
        let cpu = Cpu::new(ram.clone(), Options { index, count, cpuid, hidden: hidden.clone() })?;
        let kicker = cpu.kicker();
        controllers.seat(index).set_kick(Box::new(move || kicker.kick()));
        Ok(TranslatorVcpu {
            cpu,
            index,
            ram,
            controllers,
            origin,
            wall_clock: 0,
            system_time: 0,
            window: (false, false),
            asked: false,
            halted: false,
            counts: ExitCounts::default(),
            asleep: 0,
        })
    }

    /// Puts the processor where a boot loader leaves it.
    pub fn begin(&mut self, start: impl Into<StartState>) {
        self.cpu.begin(start.into());
    }

    fn set_windows(&mut self, interrupt: bool, nmi: bool) {
        if self.window != (interrupt, nmi) {
            self.window = (interrupt, nmi);
            self.cpu.request_interrupt_window(interrupt);
            self.cpu.request_nmi_window(nmi);
        }
    }

    /// Answers what the processor and its controllers settle between them; the rest is the board's.
    fn settle(&mut self, exit: CpuExit) -> Option<Exit> {
        match exit {
            CpuExit::PortIn { port, size } => {
                self.counts.ports += 1;
                match self.controllers.read_port(port, size) {
                    Some(value) => self.cpu.reply(value.into()),
                    None => return Some(Exit::PortIn { port, size }),
                }
            }
            // The other way to ask, which every engine has (lguest-abi, "On 64 bits", 4).
            CpuExit::PortOut { port: HYPERCALL_PORT, size: 4, .. } => return Some(self.hypercall(RSI)),
            CpuExit::PortOut { port, size, value } => {
                self.counts.ports += 1;
                if !self.controllers.write_port(port, size, value) {
                    return Some(Exit::PortOut { port, size, value });
                }
            }
            CpuExit::MmioRead { address, size } => {
                self.counts.mmio += 1;
                match self.controllers.read_memory(self.index, address, size) {
                    Some(value) => self.cpu.reply(value),
                    None => return Some(Exit::MmioRead { address, size }),
                }
            }
            CpuExit::MmioWrite { address, size, value } => {
                self.counts.mmio += 1;
                if !self.controllers.write_memory(self.index, address, size, value) {
                    return Some(Exit::MmioWrite { address, size, value });
                }
            }
            CpuExit::ReadMsr { index } => self.read_msr(index),
            CpuExit::WriteMsr { index, value } => self.write_msr(index, value),
            CpuExit::Halt => {
                self.counts.halts += 1;
                return self.sleep();
            }
            CpuExit::Kicked => self.counts.kicks += 1,
            CpuExit::InterruptWindow => self.counts.windows += 1,
            CpuExit::Hypercall => match self.cpu.cpu().cpl {
                0 => return Some(self.hypercall(RDX)),
                _ => self.cpu.set_gpr(RAX, NOT_PRIVILEGED),
            },
            CpuExit::Event(_) => unreachable!("this processor is not a hosted one"),
            CpuExit::Debug(stop) => return Some(Exit::Debug(stop)),
            CpuExit::TripleFault => return Some(Exit::Shutdown),
            CpuExit::Dead(death) => return Some(Exit::Dead(death.to_string())),
        }
        None
    }

    /// Waits for what ends a halt. Two looks at the clock are nothing beside a sleep.
    fn sleep(&mut self) -> Option<Exit> {
        let interruptible = self.cpu.interruptible();
        if !interruptible && self.controllers.nobody_is_left(self.index) {
            return Some(Exit::Dead(HALTED_FOR_EVER.into()));
        }
        let began = host_tsc();
        let over = self.controllers.seat(self.index).sleep(self.controllers.rate(), interruptible);
        self.halted = !over;
        self.asleep += host_tsc().saturating_sub(began);
        None
    }

    /// A hypercall whose first argument is in register `first`.
    fn hypercall(&mut self, first: usize) -> Exit {
        self.asked = true;
        let arguments = [first, RBX, RCX].map(|register| self.cpu.gpr(register));
        // By port only the low half gets there, on either engine.
        let mask = if first == RSI { 0xffff_ffff } else { u64::MAX };
        Exit::Hypercall { number: self.cpu.gpr(RAX) & mask, arguments }
    }

    fn read_msr(&mut self, index: u32) {
        self.counts.msrs += 1;
        let answer = match index {
            MSR_WALL_CLOCK => Ok(self.wall_clock),
            MSR_SYSTEM_TIME => Ok(self.system_time),
            _ => self.controllers.read_msr(self.index, index, self.cpu.tsc_offset()),
        };
        match answer {
            Ok(value) => self.cpu.reply(value),
            Err(Refused) => self.cpu.refuse(),
        }
    }

    fn write_msr(&mut self, index: u32, value: u64) {
        self.counts.msrs += 1;
        let done = match index {
            MSR_WALL_CLOCK => self.write_wall_clock(value),
            MSR_SYSTEM_TIME => self.write_system_time(value),
            _ => self.controllers.write_msr(self.index, index, value, self.cpu.tsc_offset()),
        };
        if done == Err(Refused) {
            self.cpu.refuse();
        }
    }

    fn write_wall_clock(&mut self, value: u64) -> Result<(), Refused> {
        self.wall_clock = value;
        if self.ram.write(value, &self.origin.wall_record()) { Ok(()) } else { Err(Refused) }
    }

    fn write_system_time(&mut self, value: u64) -> Result<(), Refused> {
        self.system_time = value;
        if value & SYSTEM_TIME_ON == 0 {
            return Ok(());
        }
        let record = self.origin.time_record(self.controllers.rate(), self.cpu.tsc_offset());
        if self.ram.write(value & !SYSTEM_TIME_ON, &record) { Ok(()) } else { Err(Refused) }
    }
}

impl Vcpu for TranslatorVcpu {
    fn run(&mut self) -> Exit {
        self.asked = false;
        if self.halted
            && let Some(exit) = self.sleep()
        {
            return exit;
        }
        loop {
            let takes = Takes { interrupts: self.cpu.interruptible(), nmi: self.cpu.takes_nmi() };
            match self.controllers.enter(self.index, takes) {
                Entry::Stopped => return Exit::Stopped,
                Entry::Summoned => return Exit::Summoned,
                Entry::Interrupt(vector) => {
                    self.counts.interrupts += 1;
                    self.cpu.interrupt(vector);
                }
                // `Controllers::enter` has turned it into an interrupt; asking again is right in any case.
                Entry::External => {}
                Entry::Nmi => {
                    self.counts.interrupts += 1;
                    self.cpu.nmi();
                }
                Entry::Initialize => self.cpu.initialize(),
                Entry::StartUp(page) => self.cpu.start_up(page),
                Entry::Wait => {
                    if let Some(exit) = self.sleep() {
                        return exit;
                    }
                }
                Entry::Run { window, nmi_window, .. } => {
                    self.set_windows(window, nmi_window);
                    let exit = self.cpu.run();
                    self.controllers.seat(self.index).leave();
                    if let Some(exit) = self.settle(exit) {
                        return exit;
                    }
                }
            }
        }
    }

    fn reply(&mut self, value: u64) {
        if std::mem::take(&mut self.asked) {
            self.cpu.set_gpr(RAX, value);
        } else {
            self.cpu.reply(value);
        }
    }

    fn counts(&self) -> ExitCounts {
        self.counts
    }

    fn rip(&self) -> u64 {
        self.cpu.rip()
    }

    fn report(&self) -> Report {
        let rate = self.controllers.rate();
        let times = self.cpu.ticks().map(|ticks| Times {
            generated: rate.duration(ticks.generated),
            translating: rate.duration(ticks.translating),
            processor: rate.duration(ticks.running.saturating_sub(ticks.generated + ticks.translating)),
            asleep: rate.duration(self.asleep),
        });
        Report {
            exits: self.counts,
            translator: Some(self.cpu.statistics()),
            times,
            carried_out: self.cpu.carried_out(),
        }
    }

    fn debuggee(&mut self) -> Option<&mut dyn Debuggee> {
        Some(self)
    }

    fn watch_itself(&mut self) {
        self.cpu.watch_itself();
    }

    fn keep_journal(&mut self, journal: Journal) -> bool {
        self.cpu.keep_journal(journal);
        true
    }
}

#[cfg(test)]
#[path = "translator_engine_tests.rs"]
mod tests;
