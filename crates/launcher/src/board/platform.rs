//! The engine under the board: its processor, its interrupt lines, its way to be stopped.
//!
//! Everything above this room is the same on both engines.

use std::sync::Arc;

use lguest_devices::outside::InterruptLine;
use lguest_host::clock::TscRate;
use lguest_host::clock::paravirtual::ClockOrigin;
use lguest_host::engine::Vcpu;
use lguest_host::interrupts::Interrupts;
use lguest_host::irq::{Controllers, Gsi, Line};
use lguest_host::kvm::{KvmLine, KvmMachine, KvmVcpu};
use lguest_host::memory::Memory;
use lguest_host::translator_engine::TranslatorVcpu;
use lguest_translator::LongModeEntry;

use super::machine::BoardError;
use crate::engine::Engine;

/// The controllers of a machine, in software or in the host's kernel.
#[derive(Clone)]
pub enum Platform {
    /// In software.
    Translator(Arc<Controllers>),
    /// In the host's kernel.
    Kvm(Arc<KvmMachine>),
}

impl Platform {
    /// An engine for this memory, and its vCPU 0 where a boot loader leaves it.
    ///
    /// # Errors
    /// When the engine cannot start.
    pub fn start(
        engine: Engine,
        memory: &Arc<Memory>,
        rate: TscRate,
        entry: LongModeEntry,
    ) -> Result<(Platform, Box<dyn Vcpu>), BoardError> {
        match engine {
            Engine::Translator => {
                let controllers = Controllers::new(1, rate).map_err(BoardError::Thread)?;
                let ram = Arc::new(memory.ram()?);
                let mut vcpu = TranslatorVcpu::new(ram, 0, 1, controllers.clone(), ClockOrigin::now())?;
                vcpu.enter_long_mode(entry);
                Ok((Platform::Translator(controllers), Box::new(vcpu)))
            }
            Engine::Kvm => {
                let machine = KvmMachine::new(memory.clone())?;
                let mut vcpu = KvmVcpu::new(&machine, 0, rate)?;
                vcpu.enter_long_mode(entry)?;
                Ok((Platform::Kvm(machine), Box::new(vcpu)))
            }
        }
    }

    /// The handle by which a device holds line `number` of the layout.
    pub fn line(&self, number: u8) -> BoardLine {
        let gsi = Gsi::new(number).expect("the layout names only lines that the I/O APIC has");
        match self {
            Platform::Translator(controllers) => BoardLine::Translator(controllers.line(gsi)),
            Platform::Kvm(machine) => BoardLine::Kvm(machine.line(gsi)),
        }
    }

    /// Who raises the lguest bus's interrupts.
    pub fn interrupts(&self) -> Arc<dyn Interrupts> {
        match self {
            Platform::Translator(controllers) => controllers.clone(),
            Platform::Kvm(machine) => machine.clone(),
        }
    }

    /// Ends the run of every vCPU, from any thread.
    pub fn stop(&self) {
        match self {
            Platform::Translator(controllers) => controllers.stop(),
            Platform::Kvm(machine) => machine.stop(),
        }
    }
}

/// An interrupt line of this board, as devices want it.
pub enum BoardLine {
    /// Of the controllers in software.
    Translator(Line),
    /// Of those in the host's kernel.
    Kvm(KvmLine),
}

impl InterruptLine for BoardLine {
    fn set(&self, up: bool) {
        match self {
            BoardLine::Translator(line) => line.set(up),
            BoardLine::Kvm(line) => line.set(up),
        }
    }
}
