//! An engine as the rest of a machine sees it: lines, the bus's interrupts, and a way to be stopped.

use std::sync::Arc;

use lguest_translator::{HiddenFeatures, StartState};

use crate::clock::TscRate;
use crate::clock::paravirtual::ClockOrigin;
use crate::engine::Vcpu;
use crate::interrupts::Interrupts;
use crate::irq::message::Message;
use crate::irq::{Controllers, Gsi, Line};
use crate::kvm::{KvmError, KvmLine, KvmMachine, KvmVcpu};
use crate::lguest32::lines::Lines;
use crate::lguest32::{Lguest32Entry, Lguest32Vcpu};
use crate::memory::{Memory, MemoryError};
use crate::translator_engine::TranslatorVcpu;

/// What executes a Guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// x86-64 rewritten to x86-64 in this process.
    Translator,
    /// The host's kernel and its processor's virtual machine.
    Kvm,
}

/// Why an engine could not start.
#[derive(Debug, thiserror::Error)]
pub enum PlatformError {
    /// The translator.
    #[error("the translator cannot start: {0}")]
    Translator(#[from] lguest_translator::SetupError),
    /// KVM.
    #[error("--engine kvm: {0}; --engine translator needs no KVM")]
    Kvm(#[from] KvmError),
    /// Memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// A thread.
    #[error("the host refuses a thread: {0}")]
    Thread(std::io::Error),
}

/// The controllers of a machine, in software or in the host's kernel.
#[derive(Clone)]
pub enum Platform {
    /// In software.
    Translator(Arc<Controllers>),
    /// In the host's kernel.
    Kvm(Arc<KvmMachine>),
    /// None: a paravirtual Guest of 32 bits has its interrupts from its Host.
    Lguest32(Arc<Lines>),
}

impl Platform {
    /// An engine for this memory, and its vCPUs: the first where a boot loader leaves it, the others as they wait for it to
    /// start them.
    ///
    /// # Errors
    /// [`PlatformError`].
    pub fn start(
        engine: Engine,
        memory: &Arc<Memory>,
        rate: TscRate,
        cpus: u32,
        entry: impl Into<StartState>,
        hidden: &HiddenFeatures,
    ) -> Result<(Platform, Vec<Box<dyn Vcpu>>), PlatformError> {
        let entry = entry.into();
        let mut vcpus: Vec<Box<dyn Vcpu>> = Vec::new();
        match engine {
            Engine::Translator => {
                let controllers = Controllers::new(cpus, rate).map_err(PlatformError::Thread)?;
                let ram = Arc::new(memory.ram()?);
                // One origin for all, so that their clocks agree.
                let origin = ClockOrigin::now();
                for index in 0..cpus {
                    let mut vcpu =
                        TranslatorVcpu::new(ram.clone(), index, cpus, controllers.clone(), origin, hidden)?;
                    if index == 0 {
                        vcpu.begin(entry);
                    }
                    vcpus.push(Box::new(vcpu));
                }
                Ok((Platform::Translator(controllers), vcpus))
            }
            Engine::Kvm => {
                let machine = KvmMachine::new(memory.clone())?;
                machine.watch().map_err(PlatformError::Thread)?;
                for index in 0..cpus {
                    let mut vcpu = KvmVcpu::new(&machine, index, cpus, rate, hidden)?;
                    if index == 0 {
                        vcpu.begin(entry)?;
                    }
                    vcpus.push(Box::new(vcpu));
                }
                Ok((Platform::Kvm(machine), vcpus))
            }
        }
    }

    /// The machine of a paravirtual Guest of 32 bits, always on the translator, and its only vCPU.
    ///
    /// # Errors
    /// [`PlatformError`].
    pub fn start_lguest32(
        memory: &Arc<Memory>,
        rate: TscRate,
        entry: Lguest32Entry,
        hidden: &HiddenFeatures,
    ) -> Result<(Platform, Vec<Box<dyn Vcpu>>), PlatformError> {
        let lines = Lines::new(rate).map_err(PlatformError::Thread)?;
        let ram = Arc::new(memory.ram()?);
        let vcpu = Lguest32Vcpu::new(ram, lines.clone(), rate, entry, hidden)?;
        Ok((Platform::Lguest32(lines), vec![Box::new(vcpu)]))
    }

    /// The handle by which a device holds its line.
    pub fn line(&self, gsi: Gsi) -> PlatformLine {
        match self {
            Platform::Translator(controllers) => PlatformLine::Translator(controllers.line(gsi)),
            Platform::Kvm(machine) => PlatformLine::Kvm(machine.line(gsi)),
            Platform::Lguest32(lines) => PlatformLine::Lguest32(lines.clone(), gsi),
        }
    }

    /// A device writes an interrupt message: `data` at `address`. One that no APIC understands is lost, as it would be on a bus.
    pub fn send_message(&self, address: u64, data: u32) {
        match self {
            Platform::Translator(controllers) => {
                Message::of_write(address, data)
                    .into_iter()
                    .for_each(|message| controllers.send_message(message));
            }
            Platform::Kvm(machine) => machine.send_message(address, data),
            // Nobody there understands messages.
            Platform::Lguest32(_) => {}
        }
    }

    /// Who raises the lguest bus's interrupts.
    pub fn interrupts(&self) -> Arc<dyn Interrupts> {
        match self {
            Platform::Translator(controllers) => controllers.clone(),
            Platform::Kvm(machine) => machine.clone(),
            Platform::Lguest32(lines) => lines.clone(),
        }
    }

    /// Ends the run of every vCPU, from any thread.
    pub fn stop(&self) {
        match self {
            Platform::Translator(controllers) => controllers.stop(),
            Platform::Kvm(machine) => machine.stop(),
            Platform::Lguest32(lines) => lines.stop(),
        }
    }

    /// Has every vCPU come back once with [`crate::Exit::Summoned`], from any thread; false where the engine cannot.
    pub fn summon(&self) -> bool {
        match self {
            Platform::Translator(controllers) => {
                controllers.summon();
                true
            }
            Platform::Kvm(_) => false,
            Platform::Lguest32(lines) => {
                lines.summon();
                true
            }
        }
    }

    /// Takes a stop back: the next run goes on.
    pub fn resume(&self) {
        match self {
            Platform::Translator(controllers) => controllers.resume(),
            Platform::Kvm(machine) => machine.resume(),
            Platform::Lguest32(lines) => lines.resume(),
        }
    }
}

/// An interrupt line.
pub enum PlatformLine {
    /// Of the controllers in software.
    Translator(Line),
    /// Of those in the host's kernel.
    Kvm(KvmLine),
    /// An interrupt of a paravirtual Guest's, by number: going up raises it, going down is nothing.
    Lguest32(Arc<Lines>, Gsi),
}

impl PlatformLine {
    /// Raises (true) or lowers the line.
    pub fn set(&self, up: bool) {
        match self {
            PlatformLine::Translator(line) => line.set(up),
            PlatformLine::Kvm(line) => line.set(up),
            PlatformLine::Lguest32(lines, gsi) if up => lines.raise_number(gsi.number().into()),
            PlatformLine::Lguest32(..) => {}
        }
    }
}
