//! What the vCPUs of a machine have in common besides memory: who may write a page, and who made code from it.
//!
//! Each vCPU has tables, code and a frame of its own, and nothing generated is shared. Two sentences keep that honest:
//!
//! 1. *A page that holds translated code of any vCPU is writable in no vCPU's table.*
//! 2. *When a write to such a page completes, no vCPU has a unit of the old bytes that it could enter or is in.*
//!
//! Two bytes a page, a bit a vCPU, say whom they concern: `writers` may have an entry that lets them write the page,
//! `code` have made code from it. A bit is set by its owner and taken back by its owner, or for it while it is parked.
//!
//! ```text
//!   fill (owner f)                        translate (owner t)
//!     writers[page] |= f                    code[page] |= t
//!     code[page] == 0 ? writable entry      writers[page]: ask each of these, wait
//!                     : read-only entry     read the bytes, make the unit
//! ```
//! Both sides write first and read second, in one order that all agree on (SeqCst), so at least one sees the other: if
//! f saw no code, t sees f's bit and asks. f takes its entries back before it enters generated code again, and only
//! then t reads. A write in Rust does the same with the write itself in the place of the bit: write, fence, look at
//! `code`. Seen there: everybody with code is asked to drop it, and the writer waits. Not seen: the bytes were there
//! before the translator read.
//!
//! Asking is a letter in a mailbox. A vCPU that runs is kicked, and the sender waits for the receipt and serves its own
//! box meanwhile, so two that ask each other both get on. A vCPU that is parked (outside `run`) reads its letters before
//! it enters generated code; nobody waits for it. Whether it is parked is again two sides that write first and read
//! second: `running`, then "is there mail"; "there is mail", then `running`.
//!
//! Everything behind a letter happens under one lock for the whole machine. Letters are rare (the first execution of a
//! page that another vCPU filled, a write over code), so a lock each would buy nothing and cost the argument.

use crate::trap::Kicker;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering, fence};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// vCPUs of a machine at most: bits of a byte.
pub const VCPUS: usize = 8;
/// Letters in a box at most. A vCPU may be parked for long while others write; past this it starts over with nothing.
const LETTERS_LIMIT: usize = 4096;

/// A set of vCPUs, a bit each.
type Set = u8;

/// What is asked of a vCPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Letter {
    /// Take back every entry that lets you write this page of the memory file.
    ForbidWrites(u32),
    /// Forget what you made from this page of the memory file.
    DropCode(u32),
}

/// What was in a mailbox.
#[derive(Debug, Default)]
pub struct Mail {
    /// In the order they came.
    pub letters: Vec<Letter>,
    /// There were too many letters to keep: forget all code and all entries that let you write.
    pub everything: bool,
    /// How many letters ever came.
    number: u64,
}

/// Who still has to do what was asked.
#[derive(Debug, Clone, Copy, Default)]
pub struct Errand {
    whom: Set,
    tickets: [u64; VCPUS],
    /// It is not letters that are waited for, but that everybody stands still.
    stillness: bool,
}

#[derive(Default)]
struct Mailbox {
    kicker: Option<Kicker>,
    mail: Mail,
    /// Letters that ever came, and that were done.
    posted: u64,
    served: u64,
    /// It waits in Rust until whoever is alone is done.
    still: bool,
    /// Somebody had this number before.
    used: bool,
}

#[derive(Default)]
struct Office {
    boxes: [Mailbox; VCPUS],
    /// The vCPU that is the only one to run.
    alone: Option<usize>,
}

/// See the module.
pub struct Sharing {
    writers: Box<[AtomicU8]>,
    code: Box<[AtomicU8]>,
    running: [AtomicBool; VCPUS],
    office: Mutex<Office>,
    changed: Condvar,
    /// Threads that wait for `changed`, or are about to.
    waiting: AtomicU32,
    /// vCPUs there are.
    members: AtomicU32,
}

impl Sharing {
    /// For a memory file of `pages` pages, with no vCPU yet.
    pub fn new(pages: u64) -> Sharing {
        Sharing {
            writers: zeros(pages as usize),
            code: zeros(pages as usize),
            running: Default::default(),
            office: Mutex::default(),
            changed: Condvar::new(),
            waiting: AtomicU32::new(0),
            members: AtomicU32::new(0),
        }
    }

    fn office(&self) -> MutexGuard<'_, Office> {
        // Plain lists: a panic elsewhere leaves nothing half-done in them.
        self.office.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A vCPU takes its number; false when there is no such number, or it is taken.
    pub(crate) fn join(&self, vcpu: usize, kicker: Kicker) -> bool {
        let mut office = self.office();
        let Some(taken) = office.boxes.get_mut(vcpu).filter(|b| b.kicker.is_none()) else { return false };
        if taken.used {
            for byte in self.writers.iter().chain(&self.code) {
                byte.fetch_and(!(1 << vcpu), Ordering::SeqCst);
            }
        }
        *taken = Mailbox { kicker: Some(kicker), used: true, ..Mailbox::default() };
        self.members.fetch_add(1, Ordering::SeqCst);
        true
    }

    /// Gives a number back. Its bits stay, which costs others an unanswered letter, until somebody takes it again.
    pub(crate) fn leave(&self, vcpu: usize) {
        let mut office = self.office();
        office.boxes[vcpu].kicker = None;
        self.members.fetch_sub(1, Ordering::SeqCst);
        self.changed.notify_all();
    }

    /// True when there is more than one vCPU.
    pub(crate) fn several(&self) -> bool {
        self.members.load(Ordering::Relaxed) > 1
    }

    /// True when some vCPU made code from the page.
    pub fn has_code(&self, page: u32) -> bool {
        self.code[page as usize].load(Ordering::SeqCst) != 0
    }

    /// A vCPU wants an entry that lets it write the page: whether it may have one. Asked before the entry is made.
    pub(crate) fn may_write(&self, vcpu: usize, page: u32) -> bool {
        let (bit, writers) = (1 << vcpu, &self.writers[page as usize]);
        // A bit that is there already needs no second barrier: whoever marks the page sees it, and waits for us.
        let known = writers.load(Ordering::Relaxed) & bit != 0 || {
            writers.fetch_or(bit, Ordering::SeqCst);
            false
        };
        let free = !self.has_code(page);
        if !free && !known {
            writers.fetch_and(!bit, Ordering::SeqCst);
        }
        free
    }

    /// A vCPU took back all entries that let it write the page.
    pub(crate) fn gave_up_writing(&self, vcpu: usize, page: u32) {
        self.writers[page as usize].fetch_and(!(1 << vcpu), Ordering::SeqCst);
    }

    /// A vCPU took back all entries that let it write anything.
    pub(crate) fn gave_up_all_writing(&self, vcpu: usize) {
        let bit = 1 << vcpu;
        for writers in self.writers.iter().filter(|writers| writers.load(Ordering::SeqCst) & bit != 0) {
            writers.fetch_and(!bit, Ordering::SeqCst);
        }
    }

    /// A vCPU is about to read code from the page. Whom it has to ask before it does, itself perhaps among them.
    pub(crate) fn claim_code(&self, vcpu: usize, page: u32) -> Set {
        if self.owns_code(vcpu, page) {
            return 0;
        }
        self.code[page as usize].fetch_or(1 << vcpu, Ordering::SeqCst);
        self.writers[page as usize].load(Ordering::SeqCst)
    }

    /// True while nobody wrote the page since the vCPU's last [`Self::claim_code`].
    pub(crate) fn owns_code(&self, vcpu: usize, page: u32) -> bool {
        self.code[page as usize].load(Ordering::SeqCst) & 1 << vcpu != 0
    }

    /// A vCPU forgot what it made from the page.
    pub(crate) fn gave_up_code(&self, vcpu: usize, page: u32) {
        self.code[page as usize].fetch_and(!(1 << vcpu), Ordering::SeqCst);
    }

    /// The vCPUs that made code from the page, after a write to it.
    pub(crate) fn code_owners(&self, page: u32) -> Set {
        self.code[page as usize].load(Ordering::SeqCst)
    }

    /// Somebody who is no running vCPU wrote `length` bytes at the memory file's byte `offset`. Comes back when nobody runs
    /// the old bytes any more.
    pub fn wrote(&self, offset: u64, length: u64) {
        if length == 0 {
            return;
        }
        fence(Ordering::SeqCst);
        for page in offset >> 12..=(offset + length - 1) >> 12 {
            let owners = self.code_owners(page as u32);
            if owners != 0 {
                let mut errand = self.post(owners, Letter::DropCode(page as u32));
                let mail = self.wait(&mut errand, None);
                debug_assert!(mail.is_none(), "who has no box gets no mail");
            }
        }
    }

    /// Puts a letter into boxes and kicks those who run. The caller waits with [`Self::wait`].
    pub(crate) fn post(&self, whom: Set, letter: Letter) -> Errand {
        let mut errand = Errand::default();
        let mut office = self.office();
        for vcpu in (0..VCPUS).filter(|vcpu| whom >> vcpu & 1 != 0) {
            let to = &mut office.boxes[vcpu];
            let Some(kicker) = &to.kicker else {
                self.take_back(vcpu, letter);
                continue;
            };
            to.mail.add(letter);
            to.posted += 1;
            errand.tickets[vcpu] = to.posted;
            kicker.mail();
            if self.running[vcpu].load(Ordering::SeqCst) {
                kicker.signal();
                errand.whom |= 1 << vcpu;
            } else {
                // It reads the letter before it does anything that the bit stands for.
                self.take_back(vcpu, letter);
            }
        }
        // One that waits itself hears no kick.
        self.changed.notify_all();
        errand
    }

    fn take_back(&self, vcpu: usize, letter: Letter) {
        match letter {
            Letter::ForbidWrites(page) => self.gave_up_writing(vcpu, page),
            Letter::DropCode(page) => self.gave_up_code(vcpu, page),
        }
    }

    /// Waits until an errand is done and nobody else is alone. A vCPU (`me`) is handed its own mail meanwhile: it does
    /// what that says, tells [`Self::served`] and waits on. None at the end.
    pub(crate) fn wait(&self, errand: &mut Errand, me: Option<usize>) -> Option<Mail> {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let mut office = self.office();
        let mail = loop {
            if let Some(me) = me
                && let Some(mail) = office.boxes[me].mail()
            {
                break Some(mail);
            }
            let pending = |vcpu: &usize| {
                let to = &office.boxes[*vcpu];
                let done = if errand.stillness { to.still } else { to.served >= errand.tickets[*vcpu] };
                errand.whom >> vcpu & 1 != 0
                    && !done
                    && to.kicker.is_some()
                    && self.running[*vcpu].load(Ordering::SeqCst)
            };
            errand.whom = (0..VCPUS).filter(pending).fold(0, |set, vcpu| set | 1 << vcpu);
            let held = me.is_some() && office.alone.is_some_and(|alone| Some(alone) != me);
            if let Some(me) = me
                && std::mem::replace(&mut office.boxes[me].still, held) != held
            {
                self.changed.notify_all();
            }
            if errand.whom == 0 && !held {
                break None;
            }
            office = self.changed.wait(office).unwrap_or_else(PoisonError::into_inner);
        };
        drop(office);
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        mail
    }

    /// A vCPU did what its mail said.
    pub(crate) fn served(&self, me: usize, mail: &Mail) {
        let mut office = self.office();
        office.boxes[me].served = mail.number;
        self.changed.notify_all();
    }

    /// A vCPU goes into `run`. It looks for mail afterwards.
    pub(crate) fn start(&self, vcpu: usize) {
        self.running[vcpu].store(true, Ordering::SeqCst);
    }

    /// It is out, and parked.
    pub(crate) fn park(&self, vcpu: usize) {
        self.running[vcpu].store(false, Ordering::SeqCst);
        if self.waiting.load(Ordering::SeqCst) != 0 {
            // With the lock, so that whoever looked before we stored sleeps by now.
            let _office = self.office();
            self.changed.notify_all();
        }
    }

    /// Asks all others to stand still. None when somebody else did: be still first, then ask again.
    pub(crate) fn ask_for_stillness(&self, me: usize) -> Option<Errand> {
        let mut office = self.office();
        if office.alone.is_some_and(|alone| alone != me) {
            return None;
        }
        office.alone = Some(me);
        let mut errand = Errand { stillness: true, ..Errand::default() };
        for (vcpu, to) in office.boxes.iter().enumerate().filter(|(vcpu, _)| *vcpu != me) {
            let Some(kicker) = &to.kicker else { continue };
            kicker.mail();
            if self.running[vcpu].load(Ordering::SeqCst) {
                kicker.signal();
                errand.whom |= 1 << vcpu;
            }
        }
        self.changed.notify_all();
        Some(errand)
    }

    /// Lets the others go on.
    pub(crate) fn end_stillness(&self) {
        self.office().alone = None;
        self.changed.notify_all();
    }
}

impl Mailbox {
    fn mail(&mut self) -> Option<Mail> {
        let empty = self.mail.letters.is_empty() && !self.mail.everything;
        (!empty).then(|| Mail { number: self.posted, ..std::mem::take(&mut self.mail) })
    }
}

impl Mail {
    fn add(&mut self, letter: Letter) {
        if self.everything {
        } else if self.letters.len() == LETTERS_LIMIT {
            (self.everything, self.letters) = (true, Vec::new());
        } else {
            self.letters.push(letter);
        }
    }
}

/// That many zeros, of which only touched pages cost memory: a large Guest has many pages that nobody executes.
#[allow(unsafe_code)]
fn zeros(length: usize) -> Box<[AtomicU8]> {
    let bytes = Box::<[AtomicU8]>::new_zeroed_slice(length);
    // SAFETY: an atomic byte of zero bits is zero.
    unsafe { bytes.assume_init() }
}

#[cfg(test)]
mod tests;
