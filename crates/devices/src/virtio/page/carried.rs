//! One device on the page: its descriptor, its rings, and whether it has been started.

use std::sync::Arc;

use lguest_abi::device_page::{Entry, QueueEntry, STATUS, features, ring_layout};
use lguest_abi::meeting::{Irq, PAGE_SIZE};
use vm_memory::{Bytes, GuestAddress};

use super::super::life::{Life, status};
use super::super::memory::DmaMemory;
use super::super::rings::Signals;
use super::super::{QueueIndex, VirtioDevice};
use super::Guest;
use super::legacy::Legacy;

/// Where a ring is, and what interrupts for it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ring {
    pub address: u64,
    num: u16,
    irq: Irq,
}

impl Ring {
    /// What an entry says; none for an interrupt that does not exist.
    pub fn new(entry: &QueueEntry) -> Option<Ring> {
        let irq = u8::try_from(entry.irq).ok().and_then(Irq::new)?;
        Some(Ring { address: u64::from(entry.pfn) * PAGE_SIZE, num: entry.num, irq })
    }

    fn parts(&self) -> [u64; 3] {
        let layout = ring_layout(self.num);
        [self.address, self.address + layout.available, self.address + layout.used]
    }
}

/// A device and its place.
pub(super) struct Carried {
    life: Life,
    memory: Arc<DmaMemory>,
    /// Of the page.
    base: u64,
    entry: Entry,
    form: Legacy,
    rings: Vec<Ring>,
    guest: Arc<dyn Guest>,
    /// The descriptor as the Host wrote it, up to what the Guest accepted.
    laid_down: Vec<u8>,
    /// Features with which it runs.
    running: Option<u32>,
    /// The status of which the Host was told last.
    told: u8,
}

impl Carried {
    pub fn new(
        device: Box<dyn VirtioDevice>,
        memory: Arc<DmaMemory>,
        base: u64,
        entry: Entry,
        form: Legacy,
        rings: Vec<Ring>,
        guest: Arc<dyn Guest>,
    ) -> Carried {
        let life = Life::new(device, memory.clone());
        let (laid_down, running, told) = (Vec::new(), None, 0);
        Carried { life, memory, base, entry, form, rings, guest, laid_down, running, told }
    }

    /// Remembers the descriptor, now that it is in the page.
    pub fn remember(&mut self) {
        self.laid_down = self.bytes(self.entry.offset, self.entry.accepted());
    }

    /// The status byte in the page.
    pub fn status(&self) -> u8 {
        self.bytes(self.entry.offset + STATUS, self.entry.offset + STATUS + 1)[0]
    }

    /// The driver told of its status (facts 11.4, and 14 for the drivers of 2009).
    pub fn status_changed(&mut self) -> Result<(), String> {
        self.check_descriptor()?;
        let now = self.status();
        let before = std::mem::replace(&mut self.told, now);
        if now == 0 || now & status::FAILED != 0 {
            self.reset();
            return Ok(());
        }
        if let Some(features) = self.running {
            let adds = now & before == before && now != before;
            if !adds || self.accepted() != features {
                return Err(format!("it started {} a second time without a reset", self.name()));
            }
        } else if now & status::DRIVER_OK != 0 {
            self.start()?;
            self.woken();
        }
        Ok(())
    }

    /// A ring has something. One of a device that was not started yet starts it, and the word is not lost.
    pub fn kick(&mut self, queue: QueueIndex) -> Result<(), String> {
        if self.running.is_none() {
            if self.status() & status::DRIVER == 0 {
                return Err(format!("it notified a ring of {} before its driver was there", self.name()));
            }
            self.start()?;
        }
        let signals = self.life.notify(queue);
        self.signal(signals)
    }

    /// The outside has something for the device.
    pub fn woken(&mut self) {
        let signals = self.life.wake();
        if let Err(reason) = self.signal(signals) {
            self.guest.kill(reason);
        }
    }

    /// Nothing of the device touches Guest memory any more.
    pub fn stop(&mut self) {
        self.life.set_status(0);
        self.running = None;
    }

    fn start(&mut self) -> Result<(), String> {
        self.check_descriptor()?;
        let accepted = self.accepted();
        let strange = accepted & !self.form.features;
        if strange != 0 {
            return Err(format!("it accepted features {strange:#x} that {} does not offer", self.name()));
        }
        let places: Vec<[u64; 3]> = self.rings.iter().map(Ring::parts).collect();
        self.life.start_legacy(accepted, &places);
        self.running = Some(accepted);
        Ok(())
    }

    fn reset(&mut self) {
        // First the device, which may have work under way in its rings.
        self.stop();
        self.fill(self.entry.accepted(), self.entry.configuration());
        let blank = [0; PAGE_SIZE as usize];
        for ring in &self.rings {
            for page in 0..ring_layout(ring.num).pages {
                let at = GuestAddress(ring.address + page * PAGE_SIZE);
                self.memory.write_slice(&blank, at).expect("a ring is Guest memory, which goes nowhere");
            }
        }
        self.write_configuration();
    }

    /// Interrupts for what a call of the device brought, or the rule that its driver broke.
    fn signal(&mut self, Signals { used, changed }: Signals) -> Result<(), String> {
        for (_, ring) in (0..).map(QueueIndex).zip(&self.rings).filter(|(index, _)| used.contains(*index)) {
            self.guest.interrupt(ring.irq);
        }
        if let Some(broken) = self.life.broken() {
            return Err(format!("its driver of {} left {broken}", self.name()));
        }
        if changed {
            self.write_configuration();
        }
        Ok(())
    }

    /// Only status, accepted features and configuration are the Guest's to write.
    fn check_descriptor(&self) -> Result<(), String> {
        let mut now = self.bytes(self.entry.offset, self.entry.accepted());
        now[STATUS] = self.laid_down[STATUS];
        if now == self.laid_down {
            Ok(())
        } else {
            Err(format!("it wrote over the descriptor of {}", self.name()))
        }
    }

    fn accepted(&self) -> u32 {
        features(&self.bytes(self.entry.accepted(), self.entry.configuration()))
    }

    fn name(&self) -> String {
        let at = self.base + self.entry.offset as u64;
        format!("the {:?} device at {at:#x}", self.life.kind())
    }

    fn write_configuration(&self) {
        let fields = &self.life.device().configuration()[..self.form.configuration];
        let at = GuestAddress(self.base + self.entry.configuration() as u64);
        self.memory.write_slice(fields, at).expect("the page is Guest memory, which goes nowhere");
    }

    fn fill(&self, from: usize, to: usize) {
        let blank = vec![0; to - from];
        let at = GuestAddress(self.base + from as u64);
        self.memory.write_slice(&blank, at).expect("the page is Guest memory, which goes nowhere");
    }

    fn bytes(&self, from: usize, to: usize) -> Vec<u8> {
        let mut bytes = vec![0; to - from];
        let at = GuestAddress(self.base + from as u64);
        self.memory.read_slice(&mut bytes, at).expect("the page is Guest memory, which goes nowhere");
        bytes
    }
}
