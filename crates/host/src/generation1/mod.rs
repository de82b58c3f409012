//! The Host's half of lguest's first generation: what a Guest's hypercalls do (facts 5, 6 and 9; lguest-abi, "On 64 bits").
//!
//! A private key leads to this machine's own devices: [`Called::Sent`] says so and the machine's loop asks them. A
//! key in a page shared with other machines is a [`Link`]'s business and is finished when the call returns.
//!
//! ```text
//!   hypercall --> call() --+--> Answer, Done
//!                          +--> Sent(key, list) ----> a device: take(), write, finish(), interrupt
//!                          +--> (link) broker
//!                          +--> Dead(reason), PowerOff: the first reason wins
//! ```

pub mod notify;
mod buffers;

use std::sync::{Arc, Mutex};

use lguest_abi::data::Data64;
use lguest_abi::descriptor::{Descriptor, MAX_DEVICES};
use lguest_abi::dma::{KEY_ALIGNMENT, MAX_BINDINGS, Sections};
use lguest_abi::hypercall::{CRASH_TEXT, Hypercall, POWER_DOWN, unpack_bind};
use lguest_abi::meeting::Irq;
use zerocopy::IntoBytes;

use crate::clock::TscRate;
use crate::dma::{Area, Bindings};
use crate::interrupts::Interrupts;
use crate::irq::lock;
use crate::link::Link;
use crate::memory::{GuestAddress, Memory, MemoryError, Place};
use crate::number::GuestNumber;
use notify::Notifies;

pub use buffers::{Bound, GetDmaError};

/// The numbers a Guest put in rdx, rbx, rcx.
pub type Arguments = [u64; 3];

/// What became of a hypercall.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Called {
    /// The value for rax.
    Answer(u64),
    /// Done; rax stays as it was.
    Done,
    /// A list was sent to a private key: the machine's devices answer it by its `used_len`.
    Sent {
        /// The key, as the Guest gave it.
        key: u64,
        /// Address of the list.
        list: u64,
    },
    /// A notify that no eventfd listens for.
    Notify(u64),
    /// The 2007 mail's transfer with a device of the tree; the answer goes to rax.
    Transfer {
        /// True to the device.
        write: bool,
        /// Which device.
        handle: u64,
        /// Guest-physical address of the bytes.
        buffer: u64,
        /// How many.
        length: u64,
    },
    /// The Guest asked for the power to go off.
    PowerOff,
    /// The Guest broke a rule, or gave up; why.
    Dead(String),
}

struct State {
    started: bool,
    own: Bindings<()>,
    /// Bindings at links, which count towards the same thirty-two.
    at_links: usize,
    death: Option<String>,
}

/// One Guest of the first generation, as its Host sees it.
pub struct Generation1 {
    area: Area,
    links: Vec<Link>,
    interrupts: Arc<dyn Interrupts>,
    rate: TscRate,
    notifies: Notifies,
    number: Option<GuestNumber>,
    state: Mutex<State>,
}

impl Generation1 {
    /// A Guest with this memory; `links` in the order their pages were grafted.
    pub fn new(area: Area, links: Vec<Link>, interrupts: Arc<dyn Interrupts>, rate: TscRate) -> Generation1 {
        let state = State { started: false, own: Bindings::default(), at_links: 0, death: None };
        Generation1 {
            area,
            links,
            interrupts,
            rate,
            notifies: Notifies::default(),
            number: None,
            state: Mutex::new(state),
        }
    }

    /// The same Guest, with a number of its own among those of this host.
    #[must_use]
    pub fn with_number(self, number: GuestNumber) -> Generation1 {
        Generation1 { number: Some(number), ..self }
    }

    /// The Guest's memory below its page limit.
    pub fn area(&self) -> &Area {
        &self.area
    }

    /// Who listens for notifies without being asked to by a return from the Guest.
    pub fn notifies(&self) -> &Notifies {
        &self.notifies
    }

    /// Raises one of the bus's interrupts.
    pub fn interrupt(&self, irq: Irq) {
        self.interrupts.raise(irq);
    }

    /// The Guest's number: its Ethernet addresses say it. 0 for one without a number, which is on no network.
    pub fn guest_id(&self) -> u16 {
        self.number.as_ref().map_or(0, GuestNumber::get)
    }

    /// Why the Guest is dead, if it is.
    pub fn death(&self) -> Option<String> {
        lock(&self.state).death.clone()
    }

    /// Kills the Guest; the first reason wins. From any thread: the vCPU hears of it at its next exit.
    pub fn kill(&self, reason: String) -> String {
        lock(&self.state).death.get_or_insert(reason).clone()
    }

    /// Carries out a hypercall. The caller has seen that it came from privilege level 0.
    pub fn call(&self, number: u64, arguments: Arguments) -> Called {
        if let Some(reason) = self.death() {
            return Called::Dead(reason);
        }
        let called = self.dispatch(number, arguments).unwrap_or_else(Called::Dead);
        match called {
            Called::Dead(reason) => Called::Dead(self.kill(reason)),
            other => self.death().map_or(other, Called::Dead),
        }
    }

    fn dispatch(&self, number: u64, [first, second, third]: Arguments) -> Result<Called, String> {
        let call = Hypercall::from_number(number).filter(|call| call.on_64_bits());
        let call = call.ok_or_else(|| format!("Bad hypercall {number}"))?;
        if !lock(&self.state).started && !call.before_init(first) {
            return Err(format!("hypercall {number} before LGUEST_INIT"));
        }
        match call {
            Hypercall::FlushAsync => Ok(Called::Done),
            Hypercall::Init => self.init(first),
            Hypercall::Crash => self.crash(first),
            Hypercall::GetWallClock => Ok(Called::Answer(seconds_since_1970())),
            Hypercall::BindDma => self.bind(first, second, third).map(|done| Called::Answer(done.into())),
            Hypercall::SendDma => self.send(first, second),
            // The second generation's convention: its first argument is in rbx.
            Hypercall::Notify if self.notifies.notify(second) => Ok(Called::Done),
            Hypercall::Notify => Ok(Called::Notify(second)),
            Hypercall::Read | Hypercall::Write => {
                let write = call == Hypercall::Write;
                Ok(Called::Transfer { write, handle: first, buffer: second, length: third })
            }
            _ => Err(format!("Bad hypercall {number}")),
        }
    }

    fn init(&self, address: u64) -> Result<Called, String> {
        let mut state = lock(&self.state);
        if state.started {
            return Err("already have lguest_data".to_owned());
        }
        let tsc_khz = u32::try_from(self.rate.khz()).unwrap_or(0);
        let data = Data64 { tsc_khz, guest_id: self.guest_id(), reserved: 0 };
        let bad = |_| format!("bad guest page {:#x}", address >> 12);
        self.area.write(address, data.as_bytes()).map_err(bad)?;
        state.started = true;
        Ok(Called::Done)
    }

    fn crash(&self, address: u64) -> Result<Called, String> {
        let mut text = [0; CRASH_TEXT];
        let bad = |_| format!("bad read address {address:#x} len {CRASH_TEXT}");
        self.area.read(address, &mut text).map_err(bad)?;
        let end = text[..CRASH_TEXT - 1].iter().position(|byte| *byte == 0).unwrap_or(CRASH_TEXT - 1);
        let text = String::from_utf8_lossy(&text[..end]);
        if text == POWER_DOWN {
            return Ok(Called::PowerOff);
        }
        // The sentence goes to a terminal, and the text is the Guest's.
        let clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        Err(format!("CRASH: {clean}"))
    }

    /// Where a key leads, or None for one that is misaligned or no memory.
    fn place(&self, key: u64) -> Option<Place> {
        let aligned = key.is_multiple_of(KEY_ALIGNMENT);
        self.area.memory().place(GuestAddress(key)).filter(|_| aligned && self.area.holds(key, 1))
    }

    fn bind(&self, key: u64, array: u64, word: u64) -> Result<bool, String> {
        let wish = unpack_bind(word);
        let Some(irq) = Irq::new(wish.irq) else { return Ok(false) };
        let place = self.place(key).ok_or_else(|| format!("bad dma key {key:x}"))?;
        let mut state = lock(&self.state);
        if irq.number() == 0 {
            return Ok(self.unbind(&mut state, place, array));
        }
        if state.own.of(()) + state.at_links >= MAX_BINDINGS {
            return Ok(false);
        }
        Ok(match place {
            Place::Private(key) => state.own.bind((), key, array, wish.count, irq).is_ok(),
            Place::Shared { graft, offset } => {
                let link = self.links.get(graft);
                let done = link.is_some_and(|link| link.bind(offset, array, wish.count, irq));
                state.at_links += usize::from(done);
                done
            }
        })
    }

    fn unbind(&self, state: &mut State, place: Place, array: u64) -> bool {
        match place {
            Place::Private(key) => state.own.unbind((), key, array),
            Place::Shared { graft, offset } => {
                let done = self.links.get(graft).is_some_and(|link| link.unbind(offset, array));
                state.at_links -= usize::from(done).min(state.at_links);
                done
            }
        }
    }

    fn send(&self, key: u64, list: u64) -> Result<Called, String> {
        match self.place(key).ok_or_else(|| "bad sending DMA key".to_owned())? {
            Place::Private(_) => Ok(Called::Sent { key, list }),
            Place::Shared { graft, offset } => {
                self.links.get(graft).map_or(Ok(()), |link| link.send(offset, list))?;
                Ok(Called::Done)
            }
        }
    }

    /// The sections of a list that the Guest sent.
    ///
    /// # Errors
    /// The sentence that kills the Guest when the list, or what it names, is not RAM below the descriptors. The page rule
    /// is not for lists that go to the Launcher (facts 4).
    pub fn sent(&self, list: u64) -> Result<Sections, String> {
        let (_, sections) = self
            .area
            .list(list)
            .map_err(|_| format!("bad read address {list:#x} len {}", self.area.form().stride()))?;
        self.check(&sections)?;
        Ok(sections)
    }

    fn check(&self, sections: &Sections) -> Result<(), String> {
        let limit = self.area.data_limit();
        let holds =
            |address: u64, length: u16| address.checked_add(length.into()).is_some_and(|end| end <= limit);
        let out = |s: &&lguest_abi::dma::Section| !holds(s.address, s.length);
        match sections.as_slice().iter().find(out) {
            Some(section) => Err(format!("bad DMA entry: {}@{:x}", section.length, section.address)),
            None => Ok(()),
        }
    }
}

/// Writes the descriptor of device `index` into the page at the end of low RAM.
///
/// # Errors
/// [`MemoryError`] when this memory was made without that page, or the page has no such place.
pub fn describe(memory: &Memory, index: usize, descriptor: &Descriptor) -> Result<(), MemoryError> {
    let length = size_of::<Descriptor>() as u64;
    let address = GuestAddress(memory.low_end().0 + index as u64 * length);
    if index >= MAX_DEVICES {
        return Err(MemoryError::OutOfRange { address, length });
    }
    memory.write(address, descriptor.as_bytes())
}

/// The descriptor of device `index` as it is now: the Guest writes its status (facts 3). None past the page's end, or in
/// memory without that page.
pub fn described(memory: &Memory, index: usize) -> Option<Descriptor> {
    let mut descriptor = Descriptor::default();
    let address = GuestAddress(memory.low_end().0 + index as u64 * size_of::<Descriptor>() as u64);
    let read = memory.read(address, descriptor.as_mut_bytes());
    (index < MAX_DEVICES && read.is_ok()).then_some(descriptor)
}

fn seconds_since_1970() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests;
