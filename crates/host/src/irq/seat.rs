//! A seat: one vCPU's place at the interrupt controllers.
//!
//! It holds the vCPU's local APIC, knows whether the vCPU is in the Guest, asleep or at work for it, and has the
//! bell that makes it look. The one rule that no wake-up gets lost: "is there anything to do" and "I am going
//! in" (or "to sleep") happen under one lock, and whoever brings something to do takes the same lock first.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard};

use crate::clock::{TscRate, host_tsc};

use super::lapic::Lapic;
use super::lock;
use super::message::{Delivery, Destination, Message};

/// Makes the engine's `run` return soon, from any thread. Calls may be repeated and may come early.
pub type Kick = Box<dyn Fn() + Send>;

/// What the vCPU would take now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Takes {
    /// Interrupts: IF is set and nothing holds them back.
    pub interrupts: bool,
    /// Non-maskable ones: none is being handled.
    pub nmi: bool,
}

/// What a vCPU should do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// Run the Guest; `window` asks to come back as soon as it can take an interrupt.
    Run {
        /// An interrupt waits that could not be taken yet.
        window: bool,
        /// The same for a non-maskable one.
        nmi_window: bool,
        /// When the local APIC's timer is due, in host ticks: what the alarm has to know.
        deadline: Option<u64>,
    },
    /// Deliver this vector, then ask again.
    Interrupt(u8),
    /// Take the vector from the 8259, deliver it, then ask again.
    External,
    /// Deliver a non-maskable interrupt, then ask again.
    Nmi,
    /// Begin anew, then ask again.
    Initialize,
    /// Start in real mode at this page, then ask again.
    StartUp(u8),
    /// Nothing runs until a start-up message: sleep, then ask again.
    Wait,
    /// The machine was stopped.
    Stopped,
    /// Somebody wants a moment of the vCPU's thread.
    Summoned,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Presence {
    /// At work outside the Guest; it will ask before it goes back.
    Outside,
    InGuest,
    /// In the Guest, and already called out.
    CalledOut,
    Asleep,
}

struct State {
    lapic: Lapic,
    presence: Presence,
    stopped: bool,
    /// INIT came and the vCPU has not begun anew yet.
    initialize: bool,
    /// It waits for a start-up message, as all but the first do from the beginning.
    waiting: bool,
    /// The page such a message named.
    start_up: Option<u8>,
    nmi: bool,
    /// It halted with interrupts off.
    deaf: bool,
    summoned: bool,
    kick: Option<Kick>,
}

impl State {
    /// What comes before interrupts.
    fn begin(&mut self, takes: Takes) -> Option<Entry> {
        if std::mem::take(&mut self.initialize) {
            // The first processor does not wait: it goes to its firmware (SDM vol. 3, 9.4.2).
            self.waiting = !self.lapic.is_bootstrap();
            return Some(Entry::Initialize);
        }
        if self.waiting {
            let page = self.start_up.take();
            self.waiting = page.is_none();
            return Some(page.map_or(Entry::Wait, Entry::StartUp));
        }
        (takes.nmi && std::mem::take(&mut self.nmi)).then_some(Entry::Nmi)
    }

    /// True when something came that wakes even those who take no interrupts.
    fn is_roused(&self) -> bool {
        self.initialize || if self.waiting { self.start_up.is_some() } else { self.nmi }
    }
}

/// One vCPU's place.
pub struct Seat {
    state: Mutex<State>,
    bell: Condvar,
    /// Level of the 8259's output; only the first seat's is ever up.
    external: AtomicBool,
}

impl Seat {
    /// The seat of vCPU `id`, with its local APIC after reset.
    pub fn new(id: u32, rate: TscRate) -> Seat {
        let state = State {
            lapic: Lapic::new(id, rate),
            presence: Presence::Outside,
            stopped: false,
            initialize: false,
            waiting: id != 0,
            start_up: None,
            nmi: false,
            deaf: false,
            summoned: false,
            kick: None,
        };
        Seat { state: Mutex::new(state), bell: Condvar::new(), external: AtomicBool::new(false) }
    }

    /// Says how to call the vCPU out of the Guest. Before that, nobody can be in it.
    pub fn set_kick(&self, kick: Kick) {
        lock(&self.state).kick = Some(kick);
    }

    /// Decides what the vCPU does now; with [`Entry::Run`] it counts as inside until [`Self::leave`].
    pub fn enter(&self, takes: Takes) -> Entry {
        let mut state = lock(&self.state);
        state.presence = Presence::Outside;
        if state.stopped {
            return Entry::Stopped;
        }
        if std::mem::take(&mut state.summoned) {
            return Entry::Summoned;
        }
        if let Some(entry) = state.begin(takes) {
            return entry;
        }
        // Reading the counter costs as much as the lock, and most exits have no timer behind them.
        if state.lapic.deadline().is_some() {
            state.lapic.advance(host_tsc());
        }
        let external = self.external_wanted(&state);
        let waiting = external || state.lapic.pending().is_some();
        if waiting && takes.interrupts {
            if external {
                return Entry::External;
            }
            if let Some(vector) = state.lapic.acknowledge() {
                return Entry::Interrupt(vector);
            }
        }
        state.presence = Presence::InGuest;
        Entry::Run { window: waiting, nmi_window: state.nmi, deadline: state.lapic.deadline() }
    }

    /// The vCPU is out of the Guest.
    pub fn leave(&self) {
        lock(&self.state).presence = Presence::Outside;
    }

    /// Sleeps until there is something that can be taken, or the machine is stopped. No polling: the wait ends by the bell
    /// or at the timer's own deadline. A Guest that halted with interrupts off sleeps until somebody sends more than an
    /// interrupt, or stops it. False when it was summoned away and has to go back to
    /// sleep.
    pub fn sleep(&self, rate: TscRate, interruptible: bool) -> bool {
        let mut state = lock(&self.state);
        loop {
            let now = host_tsc();
            state.lapic.advance(now);
            let waiting = self.external_wanted(&state) || state.lapic.pending().is_some();
            if state.stopped || state.is_roused() || (waiting && interruptible && !state.waiting) {
                break;
            }
            if state.summoned {
                state.presence = Presence::Outside;
                return false;
            }
            state.presence = Presence::Asleep;
            state = match state.lapic.deadline().filter(|_| interruptible) {
                Some(deadline) => self.wait_until(state, rate, deadline.saturating_sub(now)),
                None => self.bell.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner),
            };
        }
        state.presence = Presence::Outside;
        state.deaf = false;
        true
    }

    /// The vCPU is about to sleep with interrupts off. Before [`Self::sleep`].
    pub fn fall_deaf(&self) {
        lock(&self.state).deaf = true;
    }

    /// True when only another vCPU could wake it.
    pub fn is_deaf(&self) -> bool {
        let state = lock(&self.state);
        (state.deaf || state.waiting) && !state.is_roused() && !state.stopped
    }

    fn wait_until<'a>(
        &'a self,
        state: MutexGuard<'a, State>,
        rate: TscRate,
        ticks: u64,
    ) -> MutexGuard<'a, State> {
        let waited = self.bell.wait_timeout(state, rate.duration(ticks));
        waited.unwrap_or_else(std::sync::PoisonError::into_inner).0
    }

    /// Does something to the local APIC, and calls the vCPU if there is something to take afterwards.
    pub fn with_lapic<R>(&self, act: impl FnOnce(&mut Lapic) -> R) -> R {
        let mut state = lock(&self.state);
        let result = act(&mut state.lapic);
        if state.lapic.pending().is_some() {
            self.ring(&mut state);
        }
        result
    }

    /// How busy its processor is, if a fixed interrupt from APIC `from` to `destination` would be taken here.
    pub fn bid(&self, destination: Destination, from: Option<u32>) -> Option<u32> {
        let state = lock(&self.state);
        let named = state.lapic.takes_fixed() && state.lapic.is_named(destination, from);
        named.then(|| state.lapic.busyness())
    }

    /// Offers what is no fixed interrupt: a non-maskable one, INIT, a start-up message.
    pub fn rouse(&self, message: Message, from: Option<u32>) {
        let mut state = lock(&self.state);
        if !state.lapic.hears() || !state.lapic.is_named(message.destination, from) {
            return;
        }
        match message.delivery {
            Delivery::NonMaskable => state.nmi = true,
            Delivery::Init => {
                state.lapic.initialize();
                (state.initialize, state.start_up, state.nmi) = (true, None, false);
            }
            // Whoever does not wait for it does not hear it (SDM 11.6.1, "Start-Up").
            Delivery::StartUp if state.waiting || state.initialize => state.start_up = Some(message.vector),
            _ => return,
        }
        self.ring(&mut state);
    }

    /// Offers a fixed interrupt from APIC `from` (None: the I/O APIC). True when it was for this seat.
    pub fn offer(&self, message: Message, from: Option<u32>) -> bool {
        self.with_lapic(|lapic| {
            let named = lapic.is_named(message.destination, from);
            if named {
                lapic.request(message.vector, message.level);
            }
            named
        })
    }

    /// The 8259's output changed.
    pub fn set_external(&self, up: bool) {
        if self.external.swap(up, Ordering::AcqRel) != up && up {
            let mut state = lock(&self.state);
            self.ring(&mut state);
        }
    }

    fn external_wanted(&self, state: &State) -> bool {
        self.external.load(Ordering::Acquire) && state.lapic.passes_external()
    }

    /// Takes a stop back: the vCPU may run again.
    pub fn resume(&self) {
        lock(&self.state).stopped = false;
    }

    /// Ends the vCPU's run, now and until [`Self::resume`].
    pub fn stop(&self) {
        let mut state = lock(&self.state);
        state.stopped = true;
        self.ring(&mut state);
    }

    /// Makes [`Self::enter`] say [`Entry::Summoned`] once, soon.
    pub fn summon(&self) {
        let mut state = lock(&self.state);
        state.summoned = true;
        self.ring(&mut state);
    }

    /// The alarm clock's question: calls a vCPU whose timer is due out of the Guest; otherwise says when to ask
    /// again. A vCPU outside looks by itself before it goes in, and a sleeping one has its own time-out.
    pub fn tick(&self, now: u64) -> Option<u64> {
        let mut state = lock(&self.state);
        let deadline = state.lapic.deadline()?;
        if !matches!(state.presence, Presence::InGuest) {
            return None;
        }
        if deadline > now {
            return Some(deadline);
        }
        self.ring(&mut state);
        None
    }

    fn ring(&self, state: &mut State) {
        match state.presence {
            Presence::Outside | Presence::CalledOut => {}
            Presence::Asleep => self.bell.notify_all(),
            Presence::InGuest => {
                state.presence = Presence::CalledOut;
                if let Some(kick) = &state.kick {
                    kick();
                }
            }
        }
    }
}
