//! From a linear address to a physical one: the page walk (SDM vol. 3, 4.3 to 4.8). Long mode's, in four levels:
//!
//! ```text
//!   63      48 47    39 38    30 29    21 20    12 11       0
//!  | sign     | PML4   | PDPT   | PD     | PT     | offset   |
//!                          |        |
//!                       1 GiB    2 MiB      an entry with PS set ends the walk here
//! ```
//! PAE paging is the lower two levels of it, below four entries that live in registers; 32-bit paging is two levels of
//! 1024 entries of four bytes; without paging an address is physical.
//!
//! The tables are the Guest's own memory, so every entry may be a lie. Depth is four, an entry outside RAM reads
//! as all ones (which has reserved bits set), and nothing here can panic or loop.
//!
//! A translated page of code that also is a page table does not hear about its accessed and dirty bits: a Guest
//! that executes its page tables sees them as they were when it was translated.

use crate::cpu::Cpu;
use crate::cpu::registers::{cr0, cr4, efer, flags};
use crate::events::exception::{Exception, page_fault};
use crate::memory::ram::Ram;

/// Bits in a physical address. Ours to choose, whatever the host has, for every walk is made here. 46 bits (64 TiB)
/// is what Linux takes for ordinary on both vendors. `cpuid` leaf 0x8000_0008 says the same number.
pub const PHYSICAL_BITS: u32 = 46;
/// Bits in a linear address: four levels of nine and a page of twelve.
pub const LINEAR_BITS: u32 = 48;

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const PAGE_SIZE_BIT: u64 = 1 << 7;
const GLOBAL: u64 = 1 << 8;
const NO_EXECUTE: u64 = 1 << 63;

/// The part of an entry that is an address, below the bits any processor could have.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// Address bits that this processor does not have.
const BEYOND_PHYSICAL: u64 = ADDRESS & !((1 << PHYSICAL_BITS) - 1);
/// How often a walk starts over because another vCPU changed an entry under it. Each loss means that somebody else made
/// progress; past this many, the bits are set without looking, so that no Guest can hold its Launcher here.
const RACE_LIMIT: usize = 100;

/// True when bits 63 to 47 are all alike (SDM vol. 1, 3.3.7.1).
pub const fn canonical(address: u64) -> bool {
    (address << (64 - LINEAR_BITS)) as i64 >> (64 - LINEAR_BITS) == address as i64
}

/// What an access wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intent {
    /// Read data.
    Read,
    /// Write data.
    Write,
    /// Fetch an instruction.
    Execute,
}

/// An access: what, and by whose right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access {
    /// What it wants to do.
    pub intent: Intent,
    /// Made in user mode (CPL 3, and not by the processor itself).
    pub user: bool,
    /// A supervisor access that SMAP lets through: explicit, with the AC flag set.
    pub smap_allowed: bool,
}

impl Access {
    /// An access by an instruction's operand at the current privilege level.
    pub fn by_operand(cpu: &Cpu, intent: Intent) -> Access {
        Access { intent, user: cpu.cpl == 3, smap_allowed: cpu.rflags & flags::AC != 0 }
    }

    /// An access by the processor itself, to descriptor tables and the like: the supervisor's at any privilege level,
    /// and never excused from SMAP (SDM vol. 3, 4.6.1, "implicit supervisor-mode accesses").
    pub fn by_processor(intent: Intent) -> Access {
        Access { intent, user: false, smap_allowed: false }
    }
}

/// The first tables of the four kinds of paging (SDM vol. 3, 4.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Root {
    /// No paging.
    Off,
    /// 32-bit paging: the page directory, and whether it may name pages of 4 MiB.
    Two {
        /// Its physical address.
        table: u64,
        /// CR4.PSE.
        large: bool,
    },
    /// PAE paging: the four page-directory pointers.
    Three([u64; 4]),
    /// Long mode's: the physical address of the first table.
    Four(u64),
}

impl Root {
    fn of(cpu: &Cpu) -> Root {
        if cpu.cr0 & cr0::PG == 0 {
            Root::Off
        } else if cpu.long_mode() {
            Root::Four(cpu.cr3 & ADDRESS)
        } else if cpu.cr4 & cr4::PAE != 0 {
            Root::Three(cpu.directories)
        } else {
            Root::Two { table: cpu.cr3 & 0xffff_f000, large: cpu.cr4 & cr4::PSE != 0 }
        }
    }
}

/// The control bits that a walk depends on, taken from a [`Cpu`] once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Paging {
    /// Where a walk begins.
    pub root: Root,
    /// CR0.WP: the supervisor heeds read-only pages too.
    pub write_protect: bool,
    /// EFER.NXE: bit 63 of an entry forbids execution, rather than being reserved.
    pub no_execute: bool,
    /// CR4.SMEP: the supervisor may not execute user pages.
    pub smep: bool,
    /// CR4.SMAP: the supervisor may not touch user pages.
    pub smap: bool,
    /// CR4.PGE: the G bit means something.
    pub global: bool,
    /// Outside long mode: the first linear address that nothing maps ([`crate::hosted`]).
    pub ceiling: u64,
}

impl Paging {
    /// The bits as they are now.
    pub fn of(cpu: &Cpu) -> Paging {
        Paging {
            root: Root::of(cpu),
            write_protect: cpu.cr0 & cr0::WP != 0,
            no_execute: cpu.efer & efer::NXE != 0 && cpu.cr4 & cr4::PAE != 0,
            smep: cpu.cr4 & cr4::SMEP != 0,
            smap: cpu.cr4 & cr4::SMAP != 0,
            global: cpu.cr4 & cr4::PGE != 0,
            ceiling: cpu.hosted.map_or(u64::MAX, |hosted| hosted.ceiling),
        }
    }

    fn reserved(&self, level: u32, entry: u64) -> bool {
        let mut reserved = BEYOND_PHYSICAL;
        if !matches!(self.root, Root::Four(_)) {
            // Long mode's tables leave these to the system (SDM vol. 3, tables 4-9 and 4-15).
            reserved |= 0x7ff << 52;
        }
        if !self.no_execute {
            reserved |= NO_EXECUTE;
        }
        if level == 3 {
            reserved |= PAGE_SIZE_BIT;
        } else if level > 0 && entry & PAGE_SIZE_BIT != 0 {
            // A large page's address starts above its offset; bit 12 is its PAT bit.
            reserved |= (1 << page_bits(level)) - (1 << 13);
        }
        entry & reserved != 0
    }

    /// The end of a walk: the page, if the access may be made.
    fn permitted(
        &self,
        translation: Translation,
        path: Path,
        address: u64,
        access: Access,
    ) -> Result<(Translation, Path), Exception> {
        if translation.permits(self, access) {
            Ok((translation, path))
        } else {
            Err(self.fault(address, access, page_fault::PRESENT))
        }
    }

    /// The error code of a fault on this access; `why` says PRESENT and RESERVED.
    fn fault(&self, address: u64, access: Access, why: u32) -> Exception {
        let mut code = why;
        if access.user {
            code |= page_fault::USER;
        }
        match access.intent {
            Intent::Write => code |= page_fault::WRITE,
            // Fetches are told apart only where something could forbid them (SDM vol. 3, 4.7).
            Intent::Execute if self.no_execute || self.smep => code |= page_fault::FETCH,
            _ => {}
        }
        Exception::pf(address, code)
    }
}

/// log2 of the size of a page that ends at `level`.
const fn page_bits(level: u32) -> u32 {
    12 + 9 * level
}

/// Where an address leads and what may be done there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Translation {
    /// The physical address, offset included.
    pub physical: u64,
    /// log2 of the page's size: 12, 21, 22 or 30.
    pub page_bits: u8,
    /// U/S is set at every level: a user page.
    pub user: bool,
    /// R/W is set at every level.
    pub writable: bool,
    /// No level forbids execution.
    pub executable: bool,
    /// Stays in the TLB when CR3 is written: G in the last entry, and CR4.PGE.
    pub global: bool,
    /// The last entry's dirty bit, as this walk left it. A page that is not dirty must be walked again on its
    /// first write.
    pub dirty: bool,
}

impl Translation {
    /// Whether this page may be accessed so (SDM vol. 3, 4.6.1).
    pub fn permits(&self, paging: &Paging, access: Access) -> bool {
        if access.user {
            return self.user
                && match access.intent {
                    Intent::Read => true,
                    Intent::Write => self.writable,
                    Intent::Execute => self.executable,
                };
        }
        let smap_forbids = self.user && paging.smap && !access.smap_allowed;
        match access.intent {
            Intent::Read => !smap_forbids,
            Intent::Write => !smap_forbids && (self.writable || !paging.write_protect),
            Intent::Execute => self.executable && !(self.user && paging.smep),
        }
    }
}

/// The entries a walk went through, to be marked when it succeeds.
struct Path {
    steps: [Step; 4],
    used: usize,
}

/// One of them: the eight bytes that hold it, and how far up it begins there.
#[derive(Clone, Copy, Default)]
struct Step {
    place: u64,
    word: u64,
    shift: u32,
}

impl Path {
    fn new() -> Path {
        Path { steps: [Step::default(); 4], used: 0 }
    }

    fn add(&mut self, place: u64, word: u64, shift: u32) {
        self.steps[self.used] = Step { place, word, shift };
        self.used += 1;
    }

    /// Each entry with the bits that an access leaves in it.
    fn marks(&self, intent: Intent) -> impl Iterator<Item = (Step, u64)> {
        self.steps[..self.used].iter().enumerate().map(move |(n, &step)| {
            let dirty = n + 1 == self.used && intent == Intent::Write;
            (step, (if dirty { ACCESSED | DIRTY } else { ACCESSED }) << step.shift)
        })
    }
}

/// Translates `address` for `access`, and marks the entries used: accessed, and dirty for a write.
///
/// Fails with the exception an instruction making that access gets: #PF with its exact error code, or #GP(0) for an
/// address that is not canonical (callers that access a stack turn that into #SS).
pub fn walk(ram: &Ram, paging: &Paging, address: u64, access: Access) -> Result<Translation, Exception> {
    for _ in 0..RACE_LIMIT {
        let (mut translation, path) = follow(ram, paging, address, access)?;
        if mark(ram, &path, access.intent) {
            translation.dirty |= access.intent == Intent::Write;
            return Ok(translation);
        }
    }
    let (mut translation, path) = follow(ram, paging, address, access)?;
    for (step, bits) in path.marks(access.intent) {
        ram.set_bits(step.place, bits);
    }
    translation.dirty |= access.intent == Intent::Write;
    Ok(translation)
}

/// Translates as [`walk`] does and marks nothing: for asking whether a translation still holds.
pub fn walk_quiet(
    ram: &Ram,
    paging: &Paging,
    address: u64,
    access: Access,
) -> Result<Translation, Exception> {
    follow(ram, paging, address, access).map(|(translation, _)| translation)
}

fn follow(
    ram: &Ram,
    paging: &Paging,
    address: u64,
    access: Access,
) -> Result<(Translation, Path), Exception> {
    let narrow = address & 0xffff_ffff;
    match paging.root {
        Root::Off => Ok((unpaged(narrow), Path::new())),
        Root::Two { .. } | Root::Three(_) if narrow >= paging.ceiling => Err(paging.fault(narrow, access, 0)),
        Root::Two { table, large } => follow_narrow(ram, paging, table, large, narrow, access),
        Root::Three(directories) => {
            let directory = directories[(narrow >> 30) as usize];
            if directory & PRESENT == 0 {
                return Err(paging.fault(narrow, access, 0));
            }
            follow_wide(ram, paging, directory & ADDRESS, 2, narrow, access)
        }
        Root::Four(_) if !canonical(address) => Err(Exception::gp(0)),
        Root::Four(table) => follow_wide(ram, paging, table, 4, address, access),
    }
}

/// Everything is allowed everywhere.
fn unpaged(address: u64) -> Translation {
    Translation {
        physical: address,
        page_bits: 12,
        user: true,
        writable: true,
        executable: true,
        global: false,
        dirty: true,
    }
}

/// `levels` levels of 512 entries of eight bytes.
fn follow_wide(
    ram: &Ram,
    paging: &Paging,
    table: u64,
    levels: u32,
    address: u64,
    access: Access,
) -> Result<(Translation, Path), Exception> {
    let mut path = Path::new();
    let mut table = table;
    let (mut all, mut any) = (u64::MAX, 0);
    for level in (0..levels).rev() {
        let place = table | (address >> page_bits(level) & 511) << 3;
        let entry = ram.read_u64(place).unwrap_or(u64::MAX);
        if entry & PRESENT == 0 {
            return Err(paging.fault(address, access, 0));
        }
        if paging.reserved(level, entry) {
            return Err(paging.fault(address, access, page_fault::PRESENT | page_fault::RESERVED));
        }
        path.add(place, entry, 0);
        (all, any) = (all & entry, any | entry);
        if level == 0 || entry & PAGE_SIZE_BIT != 0 {
            let offset = (1 << page_bits(level)) - 1;
            let translation = Translation {
                physical: entry & ADDRESS & !offset | address & offset,
                page_bits: page_bits(level) as u8,
                user: all & USER != 0,
                writable: all & WRITABLE != 0,
                executable: any & NO_EXECUTE == 0,
                global: entry & GLOBAL != 0 && paging.global,
                dirty: entry & DIRTY != 0,
            };
            return paging.permitted(translation, path, address, access);
        }
        table = entry & ADDRESS;
    }
    unreachable!("level 0 always ends the walk")
}

/// Two levels of 1024 entries of four bytes. A page of 4 MiB may lie above 4 GiB: bits 13 to 20 of its entry are bits 32 to
/// 39 of its address, and bit 21 is reserved (SDM vol. 3, table 4-4).
fn follow_narrow(
    ram: &Ram,
    paging: &Paging,
    table: u64,
    large: bool,
    address: u64,
    access: Access,
) -> Result<(Translation, Path), Exception> {
    const LARGE_BITS: u32 = 22;
    const LARGE_RESERVED: u64 = 1 << 21;
    let mut path = Path::new();
    let mut table = table;
    let mut all = u64::MAX;
    for bits in [LARGE_BITS, 12] {
        let place = table | (address >> bits & 1023) << 2;
        let shift = 8 * (place & 4) as u32;
        let word = ram.read_u64(place & !7).unwrap_or(u64::MAX);
        let entry = word >> shift & 0xffff_ffff;
        if entry & PRESENT == 0 {
            return Err(paging.fault(address, access, 0));
        }
        let ends = bits == 12 || large && entry & PAGE_SIZE_BIT != 0;
        if ends && bits == LARGE_BITS && entry & LARGE_RESERVED != 0 {
            return Err(paging.fault(address, access, page_fault::PRESENT | page_fault::RESERVED));
        }
        path.add(place & !7, word, shift);
        all &= entry;
        if ends {
            let offset = (1 << bits) - 1;
            let above = if bits == LARGE_BITS { (entry >> 13 & 0xff) << 32 } else { 0 };
            let translation = Translation {
                physical: above | entry & 0xffff_ffff & !offset | address & offset,
                page_bits: bits as u8,
                user: all & USER != 0,
                writable: all & WRITABLE != 0,
                executable: true,
                global: entry & GLOBAL != 0 && paging.global,
                dirty: entry & DIRTY != 0,
            };
            return paging.permitted(translation, path, address, access);
        }
        table = entry & 0xffff_f000;
    }
    unreachable!("the second level always ends the walk")
}

/// Sets the bits the access leaves behind, each only if the entry is still what the walk read: another vCPU may have
/// taken the page away, and an absent entry's bits belong to the Guest. False when one had changed.
fn mark(ram: &Ram, path: &Path, intent: Intent) -> bool {
    path.marks(intent).all(|(step, bits)| {
        step.word | bits == step.word || ram.replace_u64(step.place, step.word, step.word | bits)
    })
}

#[cfg(test)]
mod tests;
