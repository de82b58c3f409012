//! The code cache: units by name, by host address and by page; links between them; the arena they stand in.
//!
//! Units are named by Guest-virtual *and* physical place, so they outlive address-space switches and are shared by
//! processes that run the same file. What depends on the current mapping (links across pages, jump tables) is cut
//! when the mapping changes; what depends on bytes (the unit itself) dies when its page is written.

pub mod arena;
pub mod thunks;
pub mod wide;
pub mod calls;
pub mod second;
pub mod gates;
pub mod returns;

use crate::SetupError;
use crate::frame::{BANK_SLOTS, FrameMapping, JUMP_SLOTS, SPACES};
use crate::unit::{Exit, Key, Mark, Parts, Site, Unit, UnitIndex};
use arena::Arena;
use rustc_hash::FxHashMap;
use thunks::Thunks;

/// See the module.
pub struct Cache {
    /// Where code stands.
    pub arena: Arena,
    /// The doors.
    pub thunks: Thunks,
    /// Every unit since the last reset, in the order of their hot paths' addresses, which is that of their stubs'.
    pub units: Vec<Unit>,
    /// Every site since the last reset.
    pub sites: Vec<Site>,
    /// The Guest bytes of every unit, one behind the other: about a tenth of the host code's size.
    bytes: Vec<u8>,
    /// The instruction starts of every unit, likewise.
    marks: Vec<Mark>,
    /// The ways out of every unit.
    exits: Vec<Exit>,
    names: FxHashMap<Key, UnitIndex>,
    /// Numbers of pages of user code: see `gates.rs`.
    gates: FxHashMap<gates::CodePlace, u16>,
    pages: FxHashMap<u32, Vec<UnitIndex>>,
    /// How often the arena was full.
    pub resets: u64,
    /// Where snippets are written, one at a time.
    snippet: usize,
    empty: usize,
}

/// Bytes a snippet takes at most: one instruction and the moves around it.
const SNIPPET: usize = 256;

/// Units that there is room for without copying: a Debian boot makes 50,445. Room that is not used takes no memory.
const UNITS: usize = 1 << 16;
/// Sites likewise: eight a unit.
const SITES: usize = 8 * UNITS;
/// Guest bytes likewise; a list that grows by being copied leaves holes in the heap (10 MB after a boot).
const BYTES: usize = 64 * UNITS;
/// Instruction starts likewise.
const MARKS: usize = 16 * UNITS;
/// Ways out likewise.
const EXITS: usize = 4 * UNITS;

/// First bytes of the `jmp [rsp + r11*8 + disp32]` that a kick replaces by a five-byte jump.
const TABLE_JUMP: [u8; 4] = [0x42, 0xff, 0xa4, 0xdc];

impl Cache {
    /// An empty cache with its thunks.
    pub fn new() -> Result<Cache, SetupError> {
        let mut arena = Arena::new()?;
        let thunks = thunks::write(&mut arena)?;
        let snippet = arena.used();
        arena.append(&[0xcc; SNIPPET]).ok_or(SetupError::Processor("room for a snippet"))?;
        let empty = arena.used();
        Ok(Cache {
            snippet,
            arena,
            thunks,
            units: Vec::with_capacity(UNITS),
            sites: Vec::with_capacity(SITES),
            bytes: Vec::with_capacity(BYTES),
            marks: Vec::with_capacity(MARKS),
            exits: Vec::with_capacity(EXITS),
            names: FxHashMap::default(),
            gates: FxHashMap::default(),
            pages: FxHashMap::default(),
            resets: 0,
            empty,
        })
    }

    /// Bytes of the arena before the first unit.
    pub fn doors(&self) -> usize {
        self.empty
    }

    /// Host address of the snippet.
    pub fn snippet_address(&self) -> u64 {
        self.arena.address(self.snippet)
    }

    /// Replaces the snippet.
    pub fn write_snippet(&mut self, code: &[u8]) {
        assert!(code.len() <= SNIPPET);
        self.arena.write(self.snippet, code);
    }

    /// The unit of that name.
    pub fn find(&self, key: &Key) -> Option<UnitIndex> {
        self.names.get(key).copied()
    }

    /// The unit by number.
    pub fn unit(&self, index: UnitIndex) -> &Unit {
        &self.units[index as usize]
    }

    /// Host address of a unit's entry for computed jumps.
    pub fn checked_entry(&self, index: UnitIndex) -> u64 {
        self.arena.address(self.unit(index).start as usize)
    }

    /// Host address of a unit's entry for those who know where they go.
    pub fn entry(&self, index: UnitIndex) -> u64 {
        let unit = self.unit(index);
        self.arena.address(unit.place(unit.entry) as usize)
    }

    /// The Guest bytes a unit was made from, from `pc` to its end.
    pub fn bytes_from(&self, index: UnitIndex, pc: u64) -> &[u8] {
        let unit = self.unit(index);
        let end = self.units.get(index as usize + 1).map_or(self.bytes.len(), |next| next.bytes as usize);
        let start = unit.bytes as usize + (pc - unit.key.pc) as usize;
        &self.bytes[start.min(end)..end]
    }

    /// Where instructions of a unit start, ascending.
    pub fn marks(&self, index: UnitIndex) -> &[Mark] {
        let end = self.units.get(index as usize + 1).map_or(self.marks.len(), |next| next.marks as usize);
        &self.marks[self.unit(index).marks as usize..end]
    }

    /// The ways out of a unit.
    pub fn exits(&self, index: UnitIndex) -> &[Exit] {
        let end = self.units.get(index as usize + 1).map_or(self.exits.len(), |next| next.exits as usize);
        &self.exits[self.unit(index).exits as usize..end]
    }

    fn exit_mut(&mut self, index: UnitIndex, exit: u32) -> &mut Exit {
        let first = self.unit(index).exits;
        &mut self.exits[(first + exit) as usize]
    }

    /// Enters a unit whose code is in the arena into the books, with the Guest bytes it was made from.
    pub fn insert(&mut self, mut unit: Unit, parts: &mut Parts, bytes: &[u8]) -> UnitIndex {
        unit.bytes = self.bytes.len() as u32;
        unit.marks = self.marks.len() as u32;
        unit.exits = self.exits.len() as u32;
        self.bytes.extend_from_slice(bytes);
        self.marks.append(&mut parts.marks);
        self.exits.append(&mut parts.exits);
        let index = self.units.len() as UnitIndex;
        self.names.insert(unit.key, index);
        self.pages.entry(unit.key.page).or_default().push(index);
        if let Some(second) = unit.second_page {
            self.pages.entry(second).or_default().push(index);
        }
        self.units.push(unit);
        self.sites.append(&mut parts.sites);
        index
    }

    /// The unit whose host code holds `address`. Called from the signal handler: touches no lock and no heap.
    pub fn unit_at(&self, address: u64) -> Option<UnitIndex> {
        let place = self.arena.offset(address)? as u32;
        let after = match place < arena::STUBS as u32 {
            true => self.units.partition_point(|unit| unit.start <= place),
            false => self.units.partition_point(|unit| unit.cold <= place),
        };
        let index = after.checked_sub(1)?;
        self.units[index].offset(place).map(|_| index as UnitIndex)
    }

    /// Makes a direct exit jump straight to `target`.
    pub fn link(&mut self, from: UnitIndex, exit: u32, target: UnitIndex) {
        let Some(entry) = self.entry_from(from, exit, target) else { return };
        if let Exit::Direct { linked, .. } = self.exit_mut(from, exit) {
            *linked = Some(target);
        }
        self.aim(from, exit, entry);
        self.units[target as usize].incoming.push((from, exit));
    }

    /// Where a linked exit arrives, in the arena; none if it must not be linked to that unit.
    fn entry_from(&self, from: UnitIndex, exit: u32, target: UnitIndex) -> Option<u32> {
        let unit = self.unit(target);
        match self.exits(from)[exit as usize] {
            Exit::Direct { inner: Some(inner), .. } => (from == target).then_some(unit.place(inner.get())),
            _ => Some(unit.place(self.way_in(&self.unit(from).key, target))),
        }
    }

    /// Points a direct exit's jump at an arena offset.
    fn aim(&mut self, from: UnitIndex, exit: u32, to: u32) {
        if let Exit::Direct { after, .. } = self.exits(from)[exit as usize] {
            let at = self.unit(from).place(after - 4);
            let distance = to.wrapping_sub(at + 4);
            self.arena.write(at as usize, &distance.to_le_bytes());
        }
    }

    /// Makes a direct exit ask again.
    fn unlink(&mut self, from: UnitIndex, exit: u32) {
        if let Exit::Direct { stub, linked, .. } = self.exit_mut(from, exit) {
            *linked = None;
            let stub = *stub;
            self.aim(from, exit, self.unit(from).place(stub));
        }
    }

    /// Makes every way out of a unit lead to Rust: called by the signal handler on the unit it interrupted, so it
    /// allocates nothing. [`Self::reopen`] undoes it.
    pub fn close(&mut self, index: UnitIndex) {
        for exit in 0..self.exits(index).len() {
            match self.exits(index)[exit] {
                Exit::Direct { stub, .. } => self.aim(index, exit as u32, self.unit(index).place(stub)),
                Exit::Table { at, .. } => {
                    let at = self.unit(index).place(at);
                    let target = self.thunks.lookup - self.arena.address(0);
                    let distance = (target as u32).wrapping_sub(at + 5);
                    self.arena.write(at as usize, &[0xe9]);
                    self.arena.write(at as usize + 1, &distance.to_le_bytes());
                }
            }
        }
    }

    /// Undoes [`Self::close`].
    pub fn reopen(&mut self, index: UnitIndex) {
        for exit in 0..self.exits(index).len() {
            match self.exits(index)[exit] {
                Exit::Direct { linked: Some(target), .. } => {
                    if let Some(entry) = self.entry_from(index, exit as u32, target) {
                        self.aim(index, exit as u32, entry);
                    }
                }
                Exit::Direct { .. } => {}
                Exit::Table { at, disp } => {
                    let at = self.unit(index).place(at) as usize;
                    self.arena.write(at, &TABLE_JUMP);
                    self.arena.write(at + 4, &disp.to_le_bytes());
                }
            }
        }
    }

    /// Units made from bytes of a page of the memory file.
    pub fn on_page(&self, page: u32) -> &[UnitIndex] {
        self.pages.get(&page).map_or(&[], Vec::as_slice)
    }

    /// Cuts all links into a unit, so that reaching it takes a fresh look at the mapping.
    pub fn cut_incoming(&mut self, index: UnitIndex) {
        for (from, exit) in std::mem::take(&mut self.units[index as usize].incoming) {
            let linked = match self.exits(from)[exit as usize] {
                Exit::Direct { linked, .. } => linked,
                Exit::Table { .. } => None,
            };
            if linked == Some(index) {
                self.unlink(from, exit);
            }
        }
    }

    /// Forgets a unit whose bytes changed.
    pub fn kill(&mut self, index: UnitIndex, jumps: &FrameMapping) {
        self.cut_incoming(index);
        self.forget_jumps(index, jumps);
        let unit = &mut self.units[index as usize];
        unit.alive = false;
        let key = unit.key;
        let pages = [Some(key.page), unit.second_page];
        if self.names.get(&key) == Some(&index) {
            self.names.remove(&key);
        }
        for page in pages.into_iter().flatten() {
            if let Some(list) = self.pages.get_mut(&page) {
                list.retain(|&u| u != index);
                if list.is_empty() {
                    self.pages.remove(&page);
                }
            }
        }
    }

    /// Takes a unit out of every jump table.
    pub fn forget_jumps(&self, index: UnitIndex, jumps: &FrameMapping) {
        let entry = self.checked_entry(index);
        let key = self.unit(index).key;
        let slot = key.mode.bank() * BANK_SLOTS + (key.pc & 0xffff) as usize;
        for space in 0..=SPACES {
            jumps.replace(space * JUMP_SLOTS + slot, entry, self.thunks.lookup);
        }
        if key.mode.has_second_table() {
            let (place, pair) = (second::place(key.pc), [key.pc, self.entry(index)]);
            for space in (1..=SPACES).filter(|&space| jumps.get_pair(space, place) == pair) {
                jumps.set_pair(space, place, self.no_pair());
            }
        }
    }

    /// An empty pair of the second tables.
    pub fn no_pair(&self) -> [u64; 2] {
        [0, self.thunks.lookup]
    }

    /// Forgets everything. The caller clears the jump tables and the pages' code marks.
    pub fn reset(&mut self) {
        self.arena.reset(self.empty);
        self.units.clear();
        self.sites.clear();
        self.bytes.clear();
        self.marks.clear();
        self.exits.clear();
        self.names.clear();
        self.gates.clear();
        self.pages.clear();
        self.resets += 1;
    }

    /// Pages that hold translated code.
    pub fn code_pages(&self) -> impl Iterator<Item = u32> {
        self.pages.keys().copied()
    }
}
