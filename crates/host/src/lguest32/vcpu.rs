//! The loop: interrupts first, then the Guest, then why it came back.

use std::sync::Arc;

use lguest_abi::lguest32::{KERNEL_CODE, KERNEL_DATA, RingCall};
use lguest_translator::{
    Exit as CpuExit, HiddenFeatures, HostedEntry, HostedPaging, Ram, SetupError, Vcpu as Cpu,
};

use super::Death;
use super::data::{Data, Generation};
use super::emulate::Asked;
use super::identity;
use super::lines::Lines;
use super::segments::Gates;
use crate::clock::TscRate;
use crate::engine::{Exit, ExitCounts, Vcpu};
use crate::sight::{Journal, Report, Times};

/// Flat code and data of level 1, accessed: what a Guest begins with (facts 3).
const FIRST_CODE: u64 = 0x00cf_bb00_0000_ffff;
const FIRST_DATA: u64 = 0x00cf_b300_0000_ffff;

/// How a Guest begins, and what its Launcher decided about its memory.
#[derive(Debug, Clone, Copy)]
pub struct Lguest32Entry {
    /// First instruction, a physical address.
    pub eip: u32,
    /// Bytes of RAM from 0 on: below it a NOTIFY is text, above it a device's.
    pub memory: u32,
    /// Pages directly above RAM that the Guest may reach too: descriptors and rings.
    pub device_pages: u32,
    /// Where 2.6.32's first page tables end: the start of the initial RAM disk, or of nothing.
    pub tables_end: u32,
}

/// The processor of such a Guest, and its Host.
pub struct Lguest32Vcpu {
    pub(super) cpu: Cpu,
    pub(super) ram: Arc<Ram>,
    pub(super) lines: Arc<Lines>,
    pub(super) rate: TscRate,
    pub(super) entry: Lguest32Entry,
    /// First physical address that is not the Guest's.
    pub(super) limit: u64,
    /// First linear address that is the Host's; nothing is, before LGUEST_INIT.
    pub(super) ceiling: u32,
    pub(super) data: Option<Data>,
    /// The current tables; none while linear addresses are physical.
    pub(super) paging: Option<(u32, HostedPaging)>,
    pub(super) gates: Gates,
    /// Segment and pointer of the kernel's stack for traps from its users.
    pub(super) stack: (u16, u32),
    /// The ring's next slot.
    pub(super) cursor: usize,
    /// A trapped call that waits until the board has seen one from the ring.
    pub(super) outstanding: Option<RingCall>,
    /// When the clock event is due, in host ticks.
    pub(super) deadline: Option<u64>,
    pub(super) halted: bool,
    /// A port read that the board answers.
    pub(super) asked: Option<Asked>,
    pub(super) counts: ExitCounts,
    /// Ticks spent asleep.
    pub(super) asleep: u64,
    /// Text of a console without a driver comes back as the NOTIFY that it is.
    pub(super) hands_over_text: bool,
    /// The Guest was killed; why.
    dead: Option<Death>,
}

impl Lguest32Vcpu {
    /// The machine's only vCPU, about to carry out the Guest's first instruction.
    ///
    /// # Errors
    /// [`SetupError`] when the host's processor or kernel lacks something.
    pub fn new(
        ram: Arc<Ram>,
        lines: Arc<Lines>,
        rate: TscRate,
        entry: Lguest32Entry,
        hidden: &HiddenFeatures,
    ) -> Result<Lguest32Vcpu, SetupError> {
        let mut cpu = Cpu::new(ram.clone(), identity::options(hidden))?;
        let mut table = [0; 32];
        table[usize::from(KERNEL_CODE >> 3)] = FIRST_CODE;
        table[usize::from(KERNEL_DATA >> 3)] = FIRST_DATA;
        let first = HostedEntry { eip: entry.eip, table, code: KERNEL_CODE, data: KERNEL_DATA };
        cpu.begin_hosted(&first).expect("the first descriptors are code and data of level 1");
        let kicker = cpu.kicker();
        lines.set_kick(Box::new(move || kicker.kick()));
        Ok(Lguest32Vcpu {
            cpu,
            ram,
            lines,
            rate,
            entry,
            limit: u64::from(entry.memory) + 4096 * u64::from(entry.device_pages),
            ceiling: u32::MAX,
            data: None,
            paging: None,
            gates: Gates::new(),
            stack: (0, 0),
            cursor: 0,
            outstanding: None,
            deadline: None,
            halted: false,
            asked: None,
            counts: ExitCounts::default(),
            asleep: 0,
            hands_over_text: false,
            dead: None,
        })
    }

    /// From now on text comes back as [`Exit::Notify`] with its address, for a Launcher that reads it by itself (facts 11.1).
    pub fn hand_over_text(&mut self) {
        self.hands_over_text = true;
    }

    /// Answers what came back, or gives it to the board.
    fn settle(&mut self, exit: CpuExit) -> Result<Option<Exit>, Death> {
        match exit {
            CpuExit::Event(event) => self.event(event),
            CpuExit::Hypercall => self.vmcall(),
            CpuExit::Kicked => {
                self.counts.kicks += 1;
                Ok(None)
            }
            CpuExit::MmioRead { address, size } => {
                self.in_device_memory(address)?;
                Ok(Some(Exit::MmioRead { address, size }))
            }
            CpuExit::MmioWrite { address, size, value } => {
                self.in_device_memory(address)?;
                Ok(Some(Exit::MmioWrite { address, size, value }))
            }
            CpuExit::Debug(stop) => Ok(Some(Exit::Debug(stop))),
            CpuExit::Dead(death) => Err(Death::new(death)),
            CpuExit::PortIn { .. }
            | CpuExit::PortOut { .. }
            | CpuExit::ReadMsr { .. }
            | CpuExit::WriteMsr { .. }
            | CpuExit::Halt
            | CpuExit::InterruptWindow
            | CpuExit::TripleFault => {
                unreachable!("{exit:?} of a processor that never has privilege level 0")
            }
        }
    }

    /// Only the kernels whose devices are on PCI have any registers in memory.
    fn in_device_memory(&mut self, address: u64) -> Result<(), Death> {
        self.counts.mmio += 1;
        if self.data.as_ref().is_some_and(|data| data.generation == Generation::G41) {
            return Ok(());
        }
        Err(Death::new(format_args!(
            "it touched guest-physical {address:#x} at {:#x}, beyond the end of its memory at {:#x}",
            self.cpu.rip(),
            self.limit
        )))
    }

    fn go(&mut self) -> Result<Exit, Death> {
        if let Some(call) = self.outstanding.take()
            && let Some(exit) = self.trapped(call)?
        {
            return Ok(exit);
        }
        loop {
            if self.lines.is_stopped() {
                return Ok(Exit::Stopped);
            }
            if self.lines.take_summons() {
                return Ok(Exit::Summoned);
            }
            self.tick();
            self.interrupt_if_due()?;
            if self.halted {
                self.sleep();
                continue;
            }
            self.set_alarm();
            let exit = self.cpu.run();
            if let Some(exit) = self.settle(exit)? {
                return Ok(exit);
            }
        }
    }
}

impl Vcpu for Lguest32Vcpu {
    fn run(&mut self) -> Exit {
        if let Some(Death(reason)) = &self.dead {
            return Exit::Dead(reason.clone());
        }
        match self.go() {
            Ok(exit) => exit,
            Err(death) => {
                let reason = death.0.clone();
                self.dead = Some(death);
                Exit::Dead(reason)
            }
        }
    }

    fn reply(&mut self, value: u64) {
        match self.asked.take() {
            Some(asked) => self.answer(asked, value as u32),
            None => self.cpu.reply(value),
        }
    }

    fn counts(&self) -> ExitCounts {
        self.counts
    }

    fn rip(&self) -> u64 {
        self.cpu.rip()
    }

    fn report(&self) -> Report {
        let times = self.cpu.ticks().map(|ticks| Times {
            generated: self.rate.duration(ticks.generated),
            translating: self.rate.duration(ticks.translating),
            processor: self.rate.duration(ticks.running.saturating_sub(ticks.generated + ticks.translating)),
            asleep: self.rate.duration(self.asleep),
        });
        Report {
            exits: self.counts,
            translator: Some(self.cpu.statistics()),
            times,
            carried_out: self.cpu.carried_out(),
        }
    }

    fn watch_itself(&mut self) {
        self.cpu.watch_itself();
    }

    fn keep_journal(&mut self, journal: Journal) -> bool {
        self.cpu.keep_journal(journal);
        true
    }
}
