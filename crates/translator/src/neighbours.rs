//! One vCPU among others: what it asks of them before it reads code and after it wrote over some, and what it does
//! with their letters. The rules and why they suffice: [`crate::memory::sharing`].

use crate::exit::Exit;
use crate::memory::access::CodeWrites;
use crate::memory::sharing::{Errand, Letter, Mail};
use crate::sight::CodeNews;
use crate::vcpu::Vcpu;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

/// Instructions `pause` before a turn is given away: some three microseconds, longer than a lock is held by a vCPU that runs.
const PAUSES_A_YIELD: u32 = 32;

/// While it lives, the vCPU counts as running: others wait for it to do what they ask. A panic ends that too.
pub(crate) struct Inside {
    sharing: Arc<crate::memory::sharing::Sharing>,
    me: usize,
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.sharing.park(self.me);
    }
}

impl Vcpu {
    /// From now on the vCPU reads its mail before it enters generated code.
    pub(crate) fn go_inside(&self) -> Inside {
        let sharing = self.ram.sharing().clone();
        sharing.start(self.me);
        Inside { sharing, me: self.me }
    }

    /// Somebody wants the vCPU: reads its mail, and says whether it has to leave for the Host.
    pub(crate) fn called(&mut self) -> Result<(), Exit> {
        if self.kicker.0.take_mail() {
            self.wait_for(Errand::default());
        }
        if self.kicker.0.take() { Err(Exit::Kicked) } else { Ok(()) }
    }

    /// Waits until others did what was asked, and does what they ask meanwhile.
    fn wait_for(&mut self, mut errand: Errand) {
        let ram = self.ram.clone();
        while let Some(mail) = ram.sharing().wait(&mut errand, Some(self.me)) {
            self.open(&mail);
            ram.sharing().served(self.me, &mail);
        }
    }

    fn open(&mut self, mail: &Mail) {
        self.statistics.letters += mail.letters.len() as u64;
        if mail.everything {
            self.start_over();
            self.spaces.tables.flush_all();
            self.ram.sharing().gave_up_all_writing(self.me);
        }
        for letter in &mail.letters {
            match *letter {
                Letter::ForbidWrites(page) => self.forbid_writes(page),
                Letter::DropCode(page) => self.drop_page_code(page),
            }
        }
    }

    fn forbid_writes(&mut self, page: u32) {
        self.spaces.tables.forbid_writes(page);
        self.ram.sharing().gave_up_writing(self.me, page);
    }

    /// True when an entry may let the Guest write this page. Asked before the entry is made.
    pub(crate) fn may_write(&self, page: u32) -> bool {
        self.ram.sharing().may_write(self.me, page)
    }

    /// From now on, writes to a page of the memory file are seen. Others may have written a page claimed earlier
    /// before this comes back: see [`Self::still_ours`].
    pub(crate) fn mark_code(&mut self, page: u32) {
        let writers = self.ram.sharing().claim_code(self.me, page);
        if writers >> self.me & 1 != 0 {
            self.forbid_writes(page);
        }
        let others = writers & !(1 << self.me);
        if others != 0 {
            self.statistics.asked += 1;
            let errand = self.ram.sharing().post(others, Letter::ForbidWrites(page));
            self.wait_for(errand);
        }
    }

    /// True when nobody wrote these pages since they were marked: what was read from them is what they hold.
    pub(crate) fn still_ours(&self, page: u32, second: Option<u32>) -> bool {
        [Some(page), second].into_iter().flatten().all(|page| self.ram.sharing().owns_code(self.me, page))
    }

    /// Forgets code made from pages that were written, here and in the other vCPUs.
    pub(crate) fn drop_written_code(&mut self, writes: &CodeWrites) {
        match writes.pages() {
            Some(pages) => pages.iter().for_each(|&offset| self.drop_code((offset >> 12) as u32)),
            // More pages than one instruction can write: never so far, and not worth a list without end.
            None => {
                for page in 0..self.ram.pages() {
                    self.drop_code(page);
                }
            }
        }
    }

    /// This vCPU wrote to the page without looking first.
    pub(crate) fn wrote(&mut self, page: u32) {
        if self.ram.sharing().several() {
            fence(Ordering::SeqCst);
        }
        self.drop_code(page);
    }

    fn drop_code(&mut self, page: u32) {
        let owners = self.ram.sharing().code_owners(page);
        if owners >> self.me & 1 != 0 {
            self.drop_page_code(page);
        }
        let others = owners & !(1 << self.me);
        if others != 0 {
            self.statistics.asked += 1;
            let errand = self.ram.sharing().post(others, Letter::DropCode(page));
            self.wait_for(errand);
        }
    }

    fn drop_page_code(&mut self, page: u32) {
        for unit in self.cache.on_page(page).to_vec() {
            self.cache.kill(unit, &self.frames);
        }
        self.ram.sharing().gave_up_code(self.me, page);
        self.resume = None;
    }

    /// The arena is full, or nobody knows what was written: forgets all code.
    pub(crate) fn start_over(&mut self) {
        for page in self.cache.code_pages() {
            self.ram.sharing().gave_up_code(self.me, page);
        }
        self.cache.reset();
        self.memos.reset();
        self.sight.tell(CodeNews::StartedOver);
        self.resume = None;
        self.spaces.forget_all_code(&self.frames, self.cache.thunks.lookup);
    }

    /// `pause`: the Guest waits in a loop, for another vCPU in most cases. One that does so for long gives its turn on the
    /// host's processor away, for the other may have none. Two vCPUs on a host that was busy otherwise (fifteen threads on
    /// two processors) spent half of their time in such loops.
    pub(crate) fn rest(&mut self) {
        self.pauses = self.pauses.wrapping_add(1);
        if self.pauses.is_multiple_of(PAUSES_A_YIELD) {
            std::thread::yield_now();
        }
    }

    /// Does something while no other vCPU runs: what a processor does with the bus locked.
    pub(crate) fn alone<T>(&mut self, act: impl FnOnce(&mut Vcpu) -> T) -> T {
        let ram = self.ram.clone();
        if !ram.sharing().several() {
            return act(self);
        }
        let errand = loop {
            match ram.sharing().ask_for_stillness(self.me) {
                Some(errand) => break errand,
                // Another was first. Waiting for nothing ends when it is done.
                None => self.wait_for(Errand::default()),
            }
        };
        self.wait_for(errand);
        let end = End(ram);
        let result = act(self);
        drop(end);
        result
    }
}

/// Ends a time of being alone, however it is left.
struct End(Arc<crate::memory::ram::Ram>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.sharing().end_stillness();
    }
}
