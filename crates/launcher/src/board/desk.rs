//! Where vCPUs stand while a debugger looks at them.
//!
//! A vCPU that stops comes here with the reason, on its own thread, and does what the debugger asks until it is let go.
//! One that has not stopped is summoned (`board::errands`). Nothing of a vCPU is ever touched from another thread.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lguest_host::Vcpu;
use lguest_host::debug::{Debuggee, Stop};

use super::errands::Summoner;

/// How long a vCPU may take for an answer: what is asked takes microseconds.
const PATIENCE: Duration = Duration::from_secs(2);

/// Why a vCPU stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// It has not run yet.
    Start,
    /// Step, breakpoint or watch.
    Stop(Stop),
    /// The debugger asked.
    Interrupt,
}

/// What the debugger's thread hears.
#[derive(Debug)]
pub enum Event {
    /// Bytes from the debugger.
    Bytes(Vec<u8>),
    /// The debugger is gone.
    HungUp,
    /// A vCPU stands.
    Stopped(usize, Cause),
    /// The machine is over.
    Ended,
}

type Job = Box<dyn FnOnce(&mut dyn Debuggee) + Send>;

enum Order {
    Do(Job),
    Go,
}

/// One vCPU's place.
struct Place {
    orders: Sender<Order>,
    inbox: Mutex<Receiver<Order>>,
}

/// The places of all vCPUs.
pub struct Desk {
    places: Vec<Place>,
    events: SyncSender<Event>,
    /// Counts the times that the machine went on: a summons from before then is stale.
    round: AtomicU64,
    /// No debugger any more, or no machine: nobody stands here from now on.
    closed: AtomicBool,
}

impl Desk {
    /// Places for `vcpus` vCPUs, whose stops go to `events`.
    pub fn new(vcpus: usize, events: SyncSender<Event>) -> Desk {
        let place = || {
            let (orders, inbox) = channel();
            Place { orders, inbox: Mutex::new(inbox) }
        };
        Desk {
            places: (0..vcpus).map(|_| place()).collect(),
            events,
            round: AtomicU64::new(0),
            closed: AtomicBool::new(false),
        }
    }

    /// How many vCPUs there are.
    pub fn vcpus(&self) -> usize {
        self.places.len()
    }

    /// vCPU `index` stands here, on its own thread, until it is let go.
    pub fn stand(&self, index: usize, cause: Cause, vcpu: &mut dyn Vcpu) {
        let Some(debuggee) = vcpu.debuggee() else { return };
        if self.closed.load(Ordering::SeqCst) || self.events.send(Event::Stopped(index, cause)).is_err() {
            return;
        }
        let inbox = self.places[index].inbox.lock().unwrap_or_else(PoisonError::into_inner);
        while let Ok(Order::Do(job)) = inbox.recv() {
            job(debuggee);
        }
    }

    /// Asks a vCPU that stands here; none when it was let go meanwhile.
    pub fn ask<T: Send + 'static>(
        &self,
        index: usize,
        question: impl FnOnce(&mut dyn Debuggee) -> T + Send + 'static,
    ) -> Option<T> {
        let (sender, answer) = channel();
        let job: Job = Box::new(move |debuggee| drop(sender.send(question(debuggee))));
        self.places.get(index)?.orders.send(Order::Do(job)).ok()?;
        // A vCPU that was let go before it came to this never answers.
        answer.recv_timeout(PATIENCE).ok()
    }

    /// Lets vCPU `index` go on.
    pub fn go(&self, index: usize) {
        self.round.fetch_add(1, Ordering::SeqCst);
        // The receiver is in the same structure.
        let _ = self.places[index].orders.send(Order::Go);
    }

    /// Calls vCPU `index` here.
    pub fn call(self: &Arc<Self>, index: usize, summoner: &Summoner) {
        let (desk, round) = (self.clone(), self.round.load(Ordering::SeqCst));
        let errand = move |vcpu: &mut dyn Vcpu| {
            if desk.round.load(Ordering::SeqCst) == round {
                desk.stand(index, Cause::Interrupt, vcpu);
            }
        };
        summoner.send(index, Box::new(errand));
    }

    /// Lets everybody go, now and from now on.
    pub fn close(&self) {
        if !self.closed.swap(true, Ordering::SeqCst) {
            (0..self.places.len()).for_each(|index| self.go(index));
        }
    }

    /// The machine is over.
    pub fn end(&self) {
        self.close();
        // A debugger that hung up does not want to know.
        let _ = self.events.send(Event::Ended);
    }
}
