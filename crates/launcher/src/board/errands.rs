//! Errands: what another thread wants done on a vCPU's thread, between two of the Guest's instructions.
//!
//! A vCPU belongs to the thread that runs it, so nobody else can look at its registers. Who wants to leaves an errand here
//! and has the vCPUs summoned ([`Platform::summon`]); each comes out, runs what waits for it and goes on as if nothing
//! had been. The Guest cannot tell. An errand may take as long as it likes: that is how a debugger holds a vCPU.

use std::collections::VecDeque;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use lguest_host::Vcpu;
use lguest_host::platform::Platform;

/// Something to do with a vCPU.
pub type Errand = Box<dyn FnOnce(&mut dyn Vcpu) + Send>;

/// What waits, a queue a vCPU.
#[derive(Clone)]
pub struct Errands(Arc<Vec<Mutex<VecDeque<Errand>>>>);

impl Errands {
    /// Empty queues for `vcpus` vCPUs.
    pub fn new(vcpus: usize) -> Errands {
        Errands(Arc::new((0..vcpus).map(|_| Mutex::default()).collect()))
    }

    /// Runs what waits for vCPU `index`, on its own thread.
    pub fn run(&self, index: usize, vcpu: &mut dyn Vcpu) {
        loop {
            // The lock is not held while an errand runs: it may take long, and others may bring more.
            let next = self.0[index].lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let Some(errand) = next else { return };
            errand(vcpu);
        }
    }

    fn push(&self, index: usize, errand: Errand) {
        self.0[index].lock().unwrap_or_else(PoisonError::into_inner).push_back(errand);
    }
}

/// Sends errands to a machine's vCPUs, from any thread.
#[derive(Clone)]
pub struct Summoner {
    platform: Platform,
    errands: Errands,
}

impl Summoner {
    /// For a machine of this platform that serves these errands.
    pub fn new(platform: Platform, errands: Errands) -> Summoner {
        Summoner { platform, errands }
    }

    /// How many vCPUs there are.
    pub fn vcpus(&self) -> usize {
        self.errands.0.len()
    }

    /// Leaves an errand with vCPU `index`; false when the engine cannot be summoned.
    pub fn send(&self, index: usize, errand: Errand) -> bool {
        self.errands.push(index, errand);
        self.platform.summon()
    }

    /// Asks every vCPU, and waits for the answers that come in time.
    pub fn ask<T: Send + 'static>(
        &self,
        patience: Duration,
        question: impl Fn(&mut dyn Vcpu) -> T + Clone + Send + 'static,
    ) -> Vec<T> {
        let (sender, answers) = channel();
        for index in 0..self.vcpus() {
            let (sender, question) = (sender.clone(), question.clone());
            let errand = move |vcpu: &mut dyn Vcpu| {
                // Nobody listens any more when patience was over.
                let _ = sender.send((index, question(vcpu)));
            };
            if !self.send(index, Box::new(errand)) {
                return Vec::new();
            }
        }
        drop(sender);
        let deadline = Instant::now() + patience;
        let mut found = Vec::new();
        while let Ok(answer) = answers.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            found.push(answer);
        }
        found.sort_by_key(|(index, _)| *index);
        found.into_iter().map(|(_, answer)| answer).collect()
    }
}
