//! Address spaces: which tables and jump tables belong to which PCID, and what a change of mapping ends.
//!
//! A processor keeps translations by PCID; so do we, for the last eight of them. Without PCIDs there is one space, and
//! each write to CR3 empties it. What must follow the mapping: addend tables, jump tables, links into kernel code.

use crate::SetupError;
use crate::cache::gates::NO_GATE;
use crate::cache::{Cache, second};
use crate::cpu::control::Effect;
use crate::cpu::translations::{Invalidation, current_pcid};
use crate::cpu::{Cpu, cr4, flags};
use crate::frame::{BANK_SLOTS, BANKS, FrameMapping, JUMP_SLOTS, PAIRS, SPACES};
use crate::memory::ram::Ram;
use crate::memory::tables::{Half, Tables, View};
use crate::memory::walk::{Access, Intent, Paging, Translation, walk_quiet};
use crate::unit::{Mode, UnitIndex};
use rustc_hash::{FxHashMap, FxHashSet};

/// Pages of code remembered for one space; past it they are forgotten and looked up again.
const CODE_PAGES_LIMIT: usize = 1 << 14;

/// A page that the Guest executed from: its page of the memory file, and whether the mapping is global.
#[derive(Debug, Clone, Copy)]
struct CodePage {
    page: u32,
    global: bool,
}

#[derive(Debug, Default)]
struct Space {
    pcid: Option<u16>,
    last_used: u64,
    code: FxHashMap<u64, CodePage>,
    /// Slots of its jump tables that are set, counted from the first of all.
    jumps: Vec<u32>,
    /// Places in its second table that may be set.
    pairs: Vec<u16>,
    /// Gates that are open.
    gates: Vec<u16>,
}

/// See the module.
pub struct Spaces {
    /// The addend tables.
    pub tables: Tables,
    spaces: Vec<Space>,
    current: usize,
    /// Code pages of the supervisor, in all spaces alike.
    kernel_code: FxHashMap<u64, CodePage>,
    /// The 2 MiB frames they lie in, and may have lain in.
    kernel_frames: FxHashSet<u64>,
    kernel_jumps: Vec<u32>,
    /// Banks of jump tables in use. The others are not even written, so that they take no memory.
    banks: [bool; BANKS],
    clock: u64,
    /// How often a space was emptied.
    pub flushes: u64,
}

/// What a change of mapping acts on besides the tables.
pub struct Reach<'a> {
    /// The processor whose mapping changes.
    pub cpu: &'a Cpu,
    /// Its memory.
    pub ram: &'a Ram,
    /// Its code.
    pub cache: &'a mut Cache,
    /// Its jump tables.
    pub jumps: &'a FrameMapping,
}

/// True for addresses in the upper half.
fn high(address: u64) -> bool {
    address >> 63 != 0
}

impl Spaces {
    /// No space yet.
    pub fn new() -> Result<Spaces, SetupError> {
        Ok(Spaces {
            tables: Tables::new()?,
            spaces: (0..SPACES).map(|_| Space::default()).collect(),
            current: 0,
            kernel_code: FxHashMap::default(),
            kernel_frames: FxHashSet::default(),
            kernel_jumps: Vec::new(),
            banks: [true, false, false],
            clock: 0,
            flushes: 0,
        })
    }

    /// The number of the jump table that code of this privilege uses.
    pub fn jump_space(&self, user: bool) -> usize {
        if user { 1 + self.current } else { 0 }
    }

    /// What gs must show the processor as it is now.
    pub fn view(&self, cpu: &Cpu) -> View {
        let (with_user, without) = self.kernel_views(cpu);
        match (cpu.cpl, cpu.rflags & flags::AC) {
            (3, _) => View::User(self.current),
            (_, 0) => without,
            _ => with_user,
        }
    }

    /// The supervisor's views with the AC flag set and clear. Without SMAP the flag makes no difference.
    pub fn kernel_views(&self, cpu: &Cpu) -> (View, View) {
        let smap = cpu.cr4 & cr4::SMAP != 0;
        (if smap { View::KernelAndUser(self.current) } else { View::Kernel }, View::Kernel)
    }

    /// What gs must show a user of the current space.
    pub fn user_view(&self) -> View {
        View::User(self.current)
    }

    /// The half that generated code looks `address` up in.
    pub fn looked_up(&self, cpu: &Cpu, address: u64) -> Option<Half> {
        Spaces::half_of(self.view(cpu), address)
    }

    /// What gs must hold for a view: its distance from the frame, for generated code reads `gs:[frame + page * 8]`.
    pub fn gs_for(&self, view: View, frames: &FrameMapping) -> u64 {
        self.tables.base(view).wrapping_sub(frames.frame() as u64)
    }

    /// The half that a view shows for `address`.
    pub fn half_of(view: View, address: u64) -> Option<Half> {
        match (view, high(address)) {
            (View::User(_), true) => None,
            (_, true) => Some(Half::High),
            (View::Kernel, false) => Some(Half::SupervisorLow),
            (View::User(space) | View::KernelAndUser(space), false) => Some(Half::User(space)),
        }
    }

    /// A user looked at a high address.
    pub fn missed_nothing(&mut self, address: u64) {
        self.tables.missed_nothing(self.current, address);
    }

    /// The half that may keep a translation: `None` for those that must be walked each time, because the table that
    /// would hold them is shared with code of less privilege.
    pub fn keeper(&self, cpu: &Cpu, address: u64, translation: &Translation) -> Option<Half> {
        let half = self.looked_up(cpu, address)?;
        match half {
            Half::User(_) if !translation.user => None,
            _ => Some(half),
        }
    }

    /// The page of the memory file that code at `address` is known to come from.
    pub fn code_page(&self, user: bool, address: u64) -> Option<u32> {
        let map = if user { &self.spaces[self.current].code } else { &self.kernel_code };
        map.get(&(address >> 12)).map(|p| p.page)
    }

    /// Remembers where code at `address` comes from, until the mapping changes.
    pub fn note_code(&mut self, reach: &mut Reach, user: bool, address: u64, page: u32, global: bool) {
        let full = |map: &FxHashMap<u64, CodePage>| map.len() >= CODE_PAGES_LIMIT;
        if user && full(&self.spaces[self.current].code) {
            self.forget_user_code(reach, self.current);
        } else if !user && full(&self.kernel_code) {
            self.forget_kernel_code(reach, |_, _| true);
        }
        if !user {
            self.kernel_frames.insert(address >> 21);
        }
        let map = if user { &mut self.spaces[self.current].code } else { &mut self.kernel_code };
        map.insert(address >> 12, CodePage { page, global });
        if user && let Some(gate) = reach.cache.gate((address >> 12, page)) {
            self.open_gate(reach, gate);
        }
    }

    /// The number of the page that user code at `address` is known to come from, for the gates of its units.
    pub fn gate(&mut self, reach: &mut Reach, address: u64, page: u32) -> u16 {
        let place = (address >> 12, page);
        if let Some(gate) = reach.cache.gate(place) {
            return gate;
        }
        let gate = reach.cache.new_gate(place);
        (1..=SPACES).for_each(|space| reach.jumps.set_gate(space, gate, false));
        if gate != NO_GATE && self.code_page(true, address) == Some(page) {
            self.open_gate(reach, gate);
        }
        gate
    }

    fn open_gate(&mut self, reach: &Reach, gate: u16) {
        self.spaces[self.current].gates.push(gate);
        reach.jumps.set_gate(1 + self.current, gate, true);
    }

    /// Lets computed jumps to `pc` find a unit of this mode.
    pub fn set_jump(&mut self, reach: &Reach, mode: Mode, pc: u64, unit: UnitIndex) {
        let lookup = reach.cache.thunks.lookup;
        let bank = mode.bank();
        if !self.banks[bank] {
            self.banks[bank] = true;
            for space in 0..=SPACES {
                reach.jumps.fill_jumps(bank * (1 + SPACES) + space, lookup);
            }
        }
        let space = self.jump_space(mode.user);
        let log = if mode.user { &mut self.spaces[self.current].jumps } else { &mut self.kernel_jumps };
        if log.len() >= JUMP_SLOTS {
            // Slots may be set more than once; start the log over with empty tables.
            log.clear();
            for bank in (0..BANKS).filter(|&bank| self.banks[bank]) {
                reach.jumps.fill_jumps(bank * (1 + SPACES) + space, lookup);
            }
        }
        let slot = bank * BANK_SLOTS + space * JUMP_SLOTS + (pc & 0xffff) as usize;
        log.push(slot as u32);
        reach.jumps.set_jump(slot, reach.cache.checked_entry(unit));
        if mode.has_second_table() {
            self.set_pair(reach, pc, unit);
        }
    }

    /// The same in the current space's second table.
    fn set_pair(&mut self, reach: &Reach, pc: u64, unit: UnitIndex) {
        let (space, place) = (1 + self.current, second::place(pc));
        let log = &mut self.spaces[self.current].pairs;
        if log.len() >= 2 * PAIRS {
            log.drain(..).for_each(|place| reach.jumps.set_pair(space, place.into(), reach.cache.no_pair()));
        }
        log.push(place as u16);
        reach.jumps.set_pair(space, place, [pc, reach.cache.entry(unit)]);
    }

    /// Empties all jump tables, when the code that runs now may not find what ran before: a kernel that switches the
    /// floating-point unit lazily does so at every other change of tasks, so only what is set is written.
    pub fn empty_jump_tables(&mut self, jumps: &FrameMapping, lookup: u64, no_pair: [u64; 2]) {
        let users = self.spaces.iter_mut().flat_map(|space| space.jumps.drain(..));
        for slot in self.kernel_jumps.drain(..).chain(users) {
            jumps.set_jump(slot as usize, lookup);
        }
        for (number, space) in self.spaces.iter_mut().enumerate() {
            for place in space.pairs.drain(..) {
                jumps.set_pair(1 + number, place.into(), no_pair);
            }
        }
    }

    /// Empties all jump tables and forgets all code pages, when the cache starts over.
    pub fn forget_all_code(&mut self, jumps: &FrameMapping, lookup: u64) {
        for bank in (0..BANKS).filter(|&bank| self.banks[bank]) {
            for space in 0..=SPACES {
                jumps.fill_jumps(bank * (1 + SPACES) + space, lookup);
            }
        }
        for (number, space) in self.spaces.iter_mut().enumerate() {
            space.jumps.clear();
            // The first is set from the start: zeros would be address 0's way to nowhere.
            for place in space.pairs.drain(..).chain([0]) {
                jumps.set_pair(1 + number, place.into(), [0, lookup]);
            }
            for gate in space.gates.drain(..) {
                jumps.set_gate(1 + number, gate, false);
            }
            space.code.clear();
        }
        self.kernel_jumps.clear();
        self.kernel_code.clear();
        self.kernel_frames.clear();
    }

    /// Does what a write to a control register or EFER left to do.
    pub fn apply(&mut self, reach: &mut Reach, effect: Effect) {
        if effect.flush_all || effect.rights_changed {
            self.flush_all(reach);
        }
        if effect.address_space_changed || effect.flush_nonglobal {
            self.switch(reach, effect.flush_nonglobal);
        }
    }

    /// Does what `invlpg` and `invpcid` ask for.
    pub fn invalidate(&mut self, reach: &mut Reach, what: Invalidation) {
        match what {
            Invalidation::Nothing => {}
            Invalidation::Page { address, pcid, .. } => self.invalidate_page(reach, address, pcid),
            Invalidation::Space { pcid } => {
                if let Some(space) = self.spaces.iter().position(|s| s.pcid == Some(pcid)) {
                    self.flush_user(reach, space);
                }
                self.flush_passing(reach);
            }
            Invalidation::NonGlobal => {
                for space in 0..SPACES {
                    self.flush_user(reach, space);
                }
                self.flush_passing(reach);
            }
            Invalidation::All => self.flush_all(reach),
        }
    }

    /// CR3 was written: chooses the space of the current PCID.
    fn switch(&mut self, reach: &mut Reach, flush: bool) {
        let pcid = current_pcid(reach.cpu);
        self.clock += 1;
        let known = self.spaces.iter().position(|s| s.pcid == Some(pcid));
        let space = known.unwrap_or_else(|| {
            let oldest = (0..SPACES).min_by_key(|&s| self.spaces[s].last_used).unwrap_or(0);
            self.flush_user(reach, oldest);
            self.spaces[oldest].pcid = Some(pcid);
            oldest
        });
        self.current = space;
        self.spaces[space].last_used = self.clock;
        if flush && known.is_some() {
            self.flush_user(reach, space);
        }
        self.flush_passing(reach);
    }

    fn invalidate_page(&mut self, reach: &mut Reach, address: u64, pcid: u16) {
        if high(address) {
            self.tables.invalidate(Half::High, address);
        } else {
            self.tables.invalidate(Half::SupervisorLow, address);
        }
        let page = address >> 12;
        for space in 0..SPACES {
            if self.spaces[space].pcid != Some(pcid) {
                continue;
            }
            if !high(address) {
                self.tables.invalidate(Half::User(space), address);
            }
            // Which page of code a large page's invalidation concerns is not known here; user code is cheap to
            // find again.
            if self.spaces[space].code.contains_key(&page) {
                self.forget_user_code(reach, space);
            }
        }
        // The same for the kernel, where finding again is not cheap: look whether the mapping really changed. 32-bit
        // paging's large pages are two frames long.
        let large = page >> 10;
        if [2 * large, 2 * large + 1].iter().any(|frame| self.kernel_frames.contains(frame)) {
            self.recheck_kernel_code(reach, |p, _| p >> 10 == large);
        }
    }

    /// Takes one page out of every table; code that is known to come from there stays known.
    pub fn hide(&mut self, address: u64) {
        if high(address) {
            self.tables.invalidate(Half::High, address);
        } else {
            self.tables.invalidate(Half::SupervisorLow, address);
            (0..SPACES).for_each(|space| self.tables.invalidate(Half::User(space), address));
        }
    }

    fn flush_user(&mut self, reach: &Reach, space: usize) {
        self.flushes += 1;
        self.tables.flush(Half::User(space));
        self.forget_user_code(reach, space);
    }

    fn forget_user_code(&mut self, reach: &Reach, space: usize) {
        let lookup = reach.cache.thunks.lookup;
        for slot in self.spaces[space].jumps.drain(..) {
            reach.jumps.set_jump(slot as usize, lookup);
        }
        for place in self.spaces[space].pairs.drain(..) {
            reach.jumps.set_pair(1 + space, place.into(), reach.cache.no_pair());
        }
        for gate in self.spaces[space].gates.drain(..) {
            reach.jumps.set_gate(1 + space, gate, false);
        }
        self.spaces[space].code.clear();
    }

    /// Ends what the supervisor had of the old space: its low half, and what is high but not global.
    fn flush_passing(&mut self, reach: &mut Reach) {
        self.tables.flush(Half::SupervisorLow);
        self.tables.flush_passing();
        self.recheck_kernel_code(reach, |_, code| !code.global);
    }

    fn flush_all(&mut self, reach: &mut Reach) {
        for space in 0..SPACES {
            self.flush_user(reach, space);
        }
        self.tables.flush(Half::SupervisorLow);
        self.tables.flush(Half::High);
        self.recheck_kernel_code(reach, |_, _| true);
    }

    /// Looks the chosen code pages of the supervisor up again and forgets those that moved. A processor that lost a
    /// translation would find the same one again, so nothing else has to happen.
    fn recheck_kernel_code(&mut self, reach: &mut Reach, chosen: impl Fn(u64, CodePage) -> bool) {
        let paging = Paging::of(reach.cpu);
        let access = Access { intent: Intent::Execute, user: false, smap_allowed: false };
        let ram = reach.ram;
        self.forget_kernel_code(reach, |page, code| {
            let address = (page << 12) as i64;
            chosen(page, code)
                && walk_quiet(ram, &paging, address as u64, access)
                    .ok()
                    .and_then(|t| ram.offset(t.physical))
                    .is_none_or(|(offset, _)| (offset >> 12) as u32 != code.page)
        });
    }

    /// Forgets code pages of the supervisor, and cuts every way into what was made from them.
    fn forget_kernel_code(&mut self, reach: &mut Reach, gone: impl Fn(u64, CodePage) -> bool) {
        let pages: Vec<(u64, CodePage)> =
            self.kernel_code.iter().filter(|(p, c)| gone(**p, **c)).map(|(p, c)| (*p, *c)).collect();
        for (page, code) in pages {
            self.kernel_code.remove(&page);
            for unit in reach.cache.on_page(code.page).to_vec() {
                reach.cache.cut_incoming(unit);
                reach.cache.forget_jumps(unit, reach.jumps);
            }
        }
    }
}
