//! The same question to the translator: a Guest with the same windows at the same linear addresses.
//!
//! ```text
//! guest-physical            what                      linear
//! 0x0000_8000 .. 0x2_0000   descriptor and page tables
//! 0x0010_0000 .. 0x13_0000  stubs, save area, stack   + SUPERVISOR
//! 0x0020_0000 ..            the windows               world.rs
//! 0x0100_0000 .. 0x200_1000 code slots                CODE
//! ```

use crate::case::{Case, Outcome, State};
use crate::components::{self, XSAVE_BYTES};
use crate::stubs::{self, EXCEPTION_STACK, GATES, READY_PORT, SAVE, STUBS, SUPERVISOR, save};
use crate::world::{self, CODE, Memory, PAGE, SLOT, SLOT_HEAD, SLOTS};
use lguest_translator::{Exit, Kicker, LongModeEntry, Options, Ram, RamRegion, Vcpu};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Bytes of the Guest's memory.
const RAM_BYTES: u64 = 0x220_0000;
const GDT: u64 = 0x8000;
const IDT: u64 = 0x9000;
const TSS: u64 = 0xa000;
const TABLES: u64 = 0x1_0000;
const WINDOWS_AT: u64 = 0x20_0000;
const CODE_AT: u64 = 0x100_0000;
/// How often the watch looks, and how often it must see the same case before it is taken for an endless loop.
const WATCH_PERIOD: Duration = Duration::from_millis(500);
/// See [`WATCH_PERIOD`].
const WATCH_PATIENCE: u32 = 10;
/// Page-table bits: present, writable, user, no-execute.
/// Page-table bit: present.
const P: u64 = 1;
/// Page-table bit: writable.
const W: u64 = 2;
/// Page-table bit: user.
const U: u64 = 4;
/// Page-table bit: not executable.
const NX: u64 = 1 << 63;
/// Descriptors in Linux' order, so that a selector read natively and in the Guest is the same number.
const DESCRIPTORS: [u64; 7] = [
    0,
    0,
    0x00af_9b00_0000_ffff, // 0x10 supervisor code
    0x00cf_9300_0000_ffff, // 0x18 supervisor data
    0x00cf_fb00_0000_ffff, // 0x23 user code of 32 bits
    0x00cf_f300_0000_ffff, // 0x2b user data
    0x00af_fb00_0000_ffff, // 0x33 user code
];

/// User data of 4 GiB less a page.
const LIMITED: u64 = 0x00cf_f300_0000_fffe;

/// A Guest that runs cases one after the other.
pub struct Guest {
    pub(crate) ram: Arc<Ram>,
    pub(crate) vcpu: Vcpu,
    /// Odd while the vCPU runs.
    runs: Arc<AtomicU64>,
    before: Box<Memory>,
    after: Box<Memory>,
}

impl Guest {
    /// A Guest whose code slots are all unused. Its users' data segment ends a page early if `limited`, which no case
    /// notices; but then the translator has no units of 32-bit code and carries out each instruction by itself.
    pub fn new(limited: bool) -> Guest {
        let ram = Arc::new(ram());
        let mut tables = Tables { ram: &ram, next: TABLES + PAGE };
        tables.map(SUPERVISOR, 0, 0x20_0000 / PAGE, P | W);
        tables.map(CODE, CODE_AT, SLOTS * SLOT / PAGE + 1, P | U | W);
        for (offset, window) in world::windows() {
            let rights = P | U | NX | if window.writable { W } else { 0 };
            tables.map(window.start, WINDOWS_AT + offset as u64, window.pages, rights);
        }
        write_descriptors(&ram);
        if limited {
            write_u64(&ram, GDT + 0x28, LIMITED);
        }
        write(&ram, STUBS, stubs::bytes());
        write_u64(&ram, SAVE + save::XCR0, components::state());
        let options = Options { index: 0, count: 1, ..Options::default() };
        let mut vcpu = Vcpu::new(ram.clone(), options).expect("a vCPU can be made on this machine");
        vcpu.enter_long_mode(LongModeEntry {
            rip: SUPERVISOR + STUBS,
            rsp: SUPERVISOR + EXCEPTION_STACK,
            rsi: 0,
            cr3: TABLES,
            gdt: SUPERVISOR + GDT,
            gdt_limit: 0x4f,
        });
        let runs = Arc::new(AtomicU64::new(0));
        let (watched, kicker) = (runs.clone(), vcpu.kicker());
        std::thread::spawn(move || keep_watch(&watched, &kicker));
        let mut guest = Guest { ram, vcpu, runs, before: zeroed(), after: zeroed() };
        guest.until_ready().expect("the stubs come to their first case");
        guest
    }

    /// Runs one case; an error says in words why there is no answer.
    pub fn run(&mut self, case: &Case) -> Result<Box<Outcome>, String> {
        self.place(case);
        self.until_ready()?;
        Ok(self.conclude(case))
    }

    /// The answer of a case that ran to the stubs.
    pub(crate) fn conclude(&mut self, case: &Case) -> Box<Outcome> {
        // Whoever reads a slot that is not its own finds zeros, as natively.
        let slot = (case.state.rip - CODE) / SLOT * SLOT;
        write(&self.ram, CODE_AT + slot, &[0; (SLOT + SLOT_HEAD) as usize]);
        self.collect()
    }

    /// Runs until the stubs say that they are ready for the next case.
    fn until_ready(&mut self) -> Result<(), String> {
        match self.run_once() {
            Exit::PortOut { port: READY_PORT, .. } => Ok(()),
            Exit::Kicked => Err(format!("runs without end; now at {:#x}", self.vcpu.rip())),
            other => Err(format!("came back with {other:?} at {:#x}", self.vcpu.rip())),
        }
    }

    /// Runs to the next exit, under the watch.
    pub(crate) fn run_once(&mut self) -> Exit {
        self.runs.fetch_add(1, Ordering::Relaxed);
        let exit = self.vcpu.run();
        self.runs.fetch_add(1, Ordering::Relaxed);
        exit
    }

    pub(crate) fn place(&mut self, case: &Case) {
        world::fill(&mut self.before, case.memory_seed, &case.patches);
        write(&self.ram, WINDOWS_AT, &self.before[..]);
        let slot = (case.state.rip - CODE) / SLOT * SLOT;
        write(&self.ram, CODE_AT + slot, &[0xcc; (SLOT + SLOT_HEAD) as usize]);
        write(&self.ram, CODE_AT + case.state.rip - CODE, &case.code);
        for (number, value) in case.state.gpr.iter().enumerate() {
            write_u64(&self.ram, SAVE + save::GPR + number as u64 * 8, *value);
        }
        let (cs, ss) = match (case.ring, case.bits) {
            (3, 64) => (0x33, 0x2b),
            (3, _) => (0x23, 0x2b),
            _ => (0x10, 0x18),
        };
        write_u64(&self.ram, SAVE + save::DATA, if case.bits == 64 { 0 } else { 0x2b });
        let frame = [case.state.rip, cs, case.state.rflags, case.state.gpr[4], ss];
        for (place, value) in frame.iter().enumerate() {
            write_u64(&self.ram, SAVE + save::FRAME + place as u64 * 8, *value);
        }
        write_u64(&self.ram, SAVE + save::FS_BASE, case.state.fs_base);
        write_u64(&self.ram, SAVE + save::GS_BASE, case.state.gs_base);
        write(&self.ram, SAVE + save::VECTORS, &case.state.vectors);
    }

    /// Reads the answer: from below, the exception stack holds the registers, vector, error code, and the frame.
    fn collect(&mut self) -> Box<Outcome> {
        let stack = |place: u64| read_u64(&self.ram, EXCEPTION_STACK - 22 * 8 + place * 8);
        let found = |place: u64| read_u64(&self.ram, SAVE + place);
        let mut state = State::zero();
        // rax was pushed last and lies lowest; rsp is in the frame.
        for (place, number) in [0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15].into_iter().enumerate() {
            state.gpr[number] = stack(place as u64);
        }
        let vector = stack(15);
        state.rip = stack(17);
        state.rflags = stack(19);
        state.gpr[4] = stack(20);
        state.fs_base = found(save::FS_FOUND);
        state.gs_base = found(save::GS_FOUND);
        let mut vectors = [0; XSAVE_BYTES];
        read(&self.ram, SAVE + save::VECTORS_FOUND, &mut vectors);
        state.vectors = vectors;
        state.settle_vectors();
        let mut outcome = Box::new(Outcome {
            state,
            vector,
            error_code: stack(16),
            fault_address: if vector == 14 { found(save::CR2) } else { 0 },
            changed: 0,
            changes: [Default::default(); crate::case::MOST_CHANGES],
        });
        read(&self.ram, WINDOWS_AT, &mut self.after[..]);
        outcome.note_changes(&self.before, &self.after);
        outcome
    }
}

/// Kicks the vCPU when it has been inside one run for too long; ends with the Guest.
fn keep_watch(runs: &Arc<AtomicU64>, kicker: &Kicker) {
    let (mut last, mut seen) = (0, 0);
    while Arc::strong_count(runs) > 1 {
        std::thread::sleep(WATCH_PERIOD);
        let now = runs.load(Ordering::Relaxed);
        seen = if now == last { seen + 1 } else { 0 };
        last = now;
        if now % 2 == 1 && seen >= WATCH_PATIENCE {
            kicker.kick();
        }
    }
}

fn zeroed() -> Box<Memory> {
    Box::new([0; world::BYTES])
}

fn ram() -> Ram {
    // SAFETY: a new file descriptor that nothing else owns.
    let descriptor = unsafe { libc::memfd_create(c"differential".as_ptr(), libc::MFD_CLOEXEC) };
    assert!(descriptor >= 0, "a memory file can be made");
    // SAFETY: made just now.
    let file = unsafe { <std::fs::File as std::os::fd::FromRawFd>::from_raw_fd(descriptor) };
    file.set_len(RAM_BYTES).expect("the memory file takes its length");
    let all = RamRegion { start: 0, length: RAM_BYTES, offset: 0 };
    Ram::new(&file, RAM_BYTES, vec![all]).expect("the Guest's memory can be mapped")
}

pub(crate) fn write(ram: &Ram, address: u64, bytes: &[u8]) {
    assert!(ram.write(address, bytes), "{address:#x} is the Guest's memory");
}

fn read(ram: &Ram, address: u64, bytes: &mut [u8]) {
    assert!(ram.read(address, bytes), "{address:#x} is the Guest's memory");
}

fn write_u64(ram: &Ram, address: u64, value: u64) {
    write(ram, address, &value.to_le_bytes());
}

pub(crate) fn read_u64(ram: &Ram, address: u64) -> u64 {
    let mut bytes = [0; 8];
    read(ram, address, &mut bytes);
    u64::from_le_bytes(bytes)
}

/// Four levels of page tables that grow as pages are mapped.
struct Tables<'a> {
    ram: &'a Ram,
    next: u64,
}

impl Tables<'_> {
    fn map(&mut self, linear: u64, physical: u64, pages: u64, rights: u64) {
        for page in 0..pages {
            let linear = linear + page * PAGE;
            let mut table = TABLES;
            for level in [39, 30, 21] {
                table = self.below(table + (linear >> level & 511) * 8);
            }
            write_u64(self.ram, table + (linear >> 12 & 511) * 8, (physical + page * PAGE) | rights);
        }
    }

    /// The table that an entry points to, made if there is none.
    fn below(&mut self, entry: u64) -> u64 {
        let there = read_u64(self.ram, entry);
        if there & P != 0 {
            return there & !0xfff;
        }
        let new = self.next;
        self.next += PAGE;
        assert!(self.next <= STUBS, "the page tables fit below the stubs");
        write_u64(self.ram, entry, new | P | W | U);
        new
    }
}

/// The descriptor tables and the task state with its one exception stack (SDM vol. 3, 3.4.5, 6.14.1, 8.2.3).
fn write_descriptors(ram: &Ram) {
    for (place, descriptor) in DESCRIPTORS.iter().enumerate() {
        write_u64(ram, GDT + place as u64 * 8, *descriptor);
    }
    let tss = SUPERVISOR + TSS;
    write_u64(ram, GDT + 0x40, 0x67 | (tss & 0xff_ffff) << 16 | 0x89 << 40 | (tss >> 24 & 0xff) << 56);
    write_u64(ram, GDT + 0x48, tss >> 32);
    let stack = SUPERVISOR + EXCEPTION_STACK;
    write_u64(ram, TSS + 4, stack);
    write_u64(ram, TSS + 0x24, stack);
    // No port bitmap: ports are the supervisor's (SDM vol. 1, 19.5.2).
    write(ram, TSS + 0x66, &0x68u16.to_le_bytes());
    for vector in 0..GATES {
        let gate = SUPERVISOR + stubs::gate(vector);
        // Interrupt gates on stack 1; int3 and into are the user's to raise, as under Linux.
        let rights: u64 = if vector == 3 || vector == 4 { 0xee01 } else { 0x8e01 };
        let low = gate & 0xffff | 0x10 << 16 | rights << 32 | (gate >> 16 & 0xffff) << 48;
        write_u64(ram, IDT + vector * 16, low);
        write_u64(ram, IDT + vector * 16 + 8, gate >> 32);
    }
    let mut idtr = [0; 10];
    idtr[..2].copy_from_slice(&0xfffu16.to_le_bytes());
    idtr[2..].copy_from_slice(&(SUPERVISOR + IDT).to_le_bytes());
    write(ram, SAVE + save::IDTR, &idtr);
}
