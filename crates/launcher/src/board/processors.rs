//! The machine at work: a thread a vCPU, each serving its vCPU's exits, until one of them says how the machine ended.
//!
//! Devices are behind locks of their own, so two vCPUs meet only at the same device. The first outcome counts; whoever
//! has it stops the others, and the machine is over when all threads are back.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use lguest_devices::bus::Bus;
use lguest_devices::outside::Output;
use lguest_host::engine::{Exit, NO_SUCH_HYPERCALL, Vcpu};
use lguest_host::platform::Platform;

use super::console::OutputPump;
use super::desk::{Cause, Desk};
use super::errands::Errands;
use super::lguest_bus::{HypercallBus, Next};
use super::machine::{Outcome, Power};

/// What the vCPUs of a machine share.
pub(super) struct Board {
    /// Devices at ports.
    pub ports: Bus,
    /// Devices in memory.
    pub mapped: Bus,
    /// The lguest bus, if the machine has it.
    pub lguest: Option<Mutex<Box<dyn HypercallBus>>>,
    /// What the Guest wants of its power supply.
    pub power: Power,
    /// The engine.
    pub platform: Platform,
    /// What other threads want done on the vCPUs' own.
    pub errands: Errands,
    /// Where a console without a driver is read.
    pub screen: OutputPump,
    /// Where vCPUs stop for a debugger, if there is one.
    pub desk: Arc<OnceLock<Arc<Desk>>>,
    outcome: OnceLock<Outcome>,
}

impl Board {
    /// Before anything runs.
    pub fn new(
        ports: Bus,
        mapped: Bus,
        lguest: Option<Box<dyn HypercallBus>>,
        power: Power,
        platform: Platform,
        errands: Errands,
        screen: OutputPump,
    ) -> Board {
        Board {
            ports,
            mapped,
            lguest: lguest.map(Mutex::new),
            power,
            platform,
            errands,
            screen,
            desk: Arc::default(),
            outcome: OnceLock::new(),
        }
    }

    /// Does something with the lguest bus, if there is one.
    pub fn with_bus<T>(&self, act: impl FnOnce(&mut dyn HypercallBus) -> T) -> Option<T> {
        let bus = self.lguest.as_ref()?;
        // A panic elsewhere must not take the devices with it: what they hold is plain state.
        Some(act(&mut **bus.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    /// Runs all vCPUs, the first on the calling thread, and says how it ended. Each thread calls `settle` before it runs its
    /// Guest.
    pub fn run(&self, vcpus: &mut [Box<dyn Vcpu>], settle: &(dyn Fn() + Sync)) -> Outcome {
        let Some((first, others)) = vcpus.split_first_mut() else { return Outcome::Stopped };
        std::thread::scope(|scope| {
            for (number, vcpu) in (1..).zip(others) {
                let run = move || {
                    settle();
                    self.serve(number, vcpu.as_mut());
                };
                let name = format!("lguest-vcpu{number}");
                if let Err(error) = std::thread::Builder::new().name(name).spawn_scoped(scope, run) {
                    return self.end(Outcome::Dead(format!("the host refuses a thread for a vCPU: {error}")));
                }
            }
            settle();
            self.serve(0, first.as_mut());
        });
        self.outcome.get().cloned().unwrap_or(Outcome::Stopped)
    }

    /// Serves a vCPU until the machine ends.
    fn serve(&self, number: usize, vcpu: &mut dyn Vcpu) {
        // However the thread ends, the machine does not go on without it.
        let _last = LastWord(self);
        self.stand(number, Cause::Start, vcpu);
        let outcome = loop {
            if let Some(outcome) = self.answer(number, vcpu).or_else(|| self.power.outcome()) {
                break outcome;
            }
        };
        self.end(outcome);
    }

    /// Ends the machine, unless it is ending already.
    fn end(&self, outcome: Outcome) {
        if self.outcome.set(outcome).is_ok() {
            self.platform.stop();
        }
    }

    /// One exit; the outcome when the machine ends by it.
    fn answer(&self, number: usize, vcpu: &mut dyn Vcpu) -> Option<Outcome> {
        match vcpu.run() {
            Exit::PortIn { port, size } => vcpu.reply(self.ports.read(port.into(), size)),
            Exit::PortOut { port, size, value } => self.ports.write(port.into(), size, value.into()),
            Exit::MmioRead { address, size } => vcpu.reply(self.mapped.read(address, size)),
            Exit::MmioWrite { address, size, value } => self.mapped.write(address, size, value),
            Exit::Hypercall { number, arguments } => return self.hypercall(vcpu, number, arguments),
            Exit::Notify { value } => return self.notify(value),
            Exit::Text(text) => {
                let mut screen = self.screen.clone();
                text.into_iter().for_each(|byte| screen.put(byte));
            }
            Exit::Off => return Some(Outcome::PowerOff),
            Exit::Restart => return Some(Outcome::Reset),
            Exit::Shutdown => return Some(Outcome::Dead(triple_fault(vcpu.rip()))),
            Exit::Dead(reason) => return Some(Outcome::Dead(reason)),
            Exit::Stopped => return Some(self.stopped()),
            Exit::Summoned => self.errands.run(number, vcpu),
            Exit::Debug(stop) => self.stand(number, Cause::Stop(stop), vcpu),
        }
        None
    }

    fn stand(&self, number: usize, cause: Cause, vcpu: &mut dyn Vcpu) {
        if let Some(desk) = self.desk.get() {
            desk.stand(number, cause, vcpu);
        }
    }

    /// Answers a hypercall; the outcome when the machine ends by it.
    fn hypercall(&self, vcpu: &mut dyn Vcpu, number: u64, arguments: [u64; 3]) -> Option<Outcome> {
        match self.with_bus(|bus| bus.call(number, arguments)) {
            None => vcpu.reply(NO_SUCH_HYPERCALL),
            Some(Next::Go(answer)) => answer.into_iter().for_each(|value| vcpu.reply(value)),
            Some(Next::Off) => return Some(Outcome::PowerOff),
            Some(Next::Dead(reason)) => return Some(Outcome::Dead(reason)),
        }
        None
    }

    /// Tells the bus of a notify; the outcome when the machine ends by it.
    fn notify(&self, value: u64) -> Option<Outcome> {
        match self.with_bus(|bus| bus.notify(value)) {
            Some(Next::Go(_)) => None,
            Some(Next::Off) => Some(Outcome::PowerOff),
            Some(Next::Dead(reason)) => Some(Outcome::Dead(reason)),
            None => Some(Outcome::Dead(format!("it notified {value:#x}, where no device is"))),
        }
    }

    /// Who stopped the machine: somebody outside, or a rule that its Guest broke on another machine's behalf.
    fn stopped(&self) -> Outcome {
        self.with_bus(|bus| bus.death()).flatten().map_or(Outcome::Stopped, Outcome::Dead)
    }
}

/// Stops the machine when a vCPU's thread ends, by a panic too: the others would wait for it.
struct LastWord<'a>(&'a Board);

impl Drop for LastWord<'_> {
    fn drop(&mut self) {
        self.0.platform.stop();
    }
}

/// What became of a processor that could not even tell its kernel of a fault.
fn triple_fault(rip: u64) -> String {
    format!("its processor shut down after a triple fault at {rip:#x}: no handler could take the exception")
}
