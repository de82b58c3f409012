//! A processor: what it is made of, and its public face.

#![allow(unsafe_code)] // The frame is shared with generated code, so it is reached through a pointer.

use crate::bounce::Bounce;
use crate::cache::Cache;
use crate::cache::calls::Calls;
use crate::cache::returns::Returns;
use crate::cpu::cpuid::Cpuid;
use crate::cpu::cpuid::hidden::HiddenFeatures;
use crate::cpu::start::{LongModeEntry, StartState};
use crate::cpu::{Cpu, cr4, flags, xcr0};
use crate::events::deliver::{Event, TripleFault, deliver};
use crate::exit::Exit;
use crate::frame::{Frame, FrameMapping, YMM_LANES, ZMM_LANES};
use crate::memory::access::GuestMemory;
use crate::memory::ram::Ram;
use crate::memory::tables::Losses;
use crate::memos::Memos;
use crate::play::Pending;
use crate::requirements::requirements;
use crate::rewrite::Tools;
use crate::run::{Draft, Resume};
use crate::spaces::{Reach, Spaces};
use crate::trap::{self, Kicker, Running};
use crate::vector_state::VectorState;
use crate::x87::Registers;
use std::sync::Arc;

/// One leaf of `cpuid`'s answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuidLeaf {
    /// eax asked.
    pub leaf: u32,
    /// ecx asked.
    pub subleaf: u32,
    /// eax, ebx, ecx, edx answered.
    pub answer: [u32; 4],
}

/// What a vCPU is made with.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Number of this vCPU: its APIC identity in `cpuid`.
    pub index: u32,
    /// How many vCPUs the machine has.
    pub count: u32,
    /// Leaves the machine adds to the processor's own (the hypervisor range 0x4000_0000).
    pub cpuid: Vec<CpuidLeaf>,
    /// Features that the user takes away.
    pub hidden: HiddenFeatures,
}

/// Why a vCPU could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The host refused memory, a timer or a signal.
    #[error("{what}: {source}")]
    Host {
        /// What was asked for.
        what: &'static str,
        /// Its answer.
        source: std::io::Error,
    },
    /// The host's processor lacks something.
    #[error("this processor lacks {0}, which the translator needs")]
    Processor(&'static str),
    /// A vCPU's number.
    #[error("there is no place for a vCPU number {0}: a machine has eight, numbered from 0, each once")]
    Number(u32),
}

impl SetupError {
    /// The host's last error.
    pub(crate) fn host(what: &'static str) -> SetupError {
        SetupError::Host { what, source: std::io::Error::last_os_error() }
    }
}

/// What a vCPU did so far, in counts.
#[derive(Debug, Clone, Copy, Default)]
pub struct Statistics {
    /// Times generated code was entered.
    pub entries: u64,
    /// Units translated.
    pub units: u64,
    /// Guest instructions translated.
    pub instructions: u64,
    /// Entries made in the addend tables.
    pub fills: u64,
    /// Accesses played by hand: page crossings, devices, writes to code.
    pub played: u64,
    /// Instructions carried out in Rust.
    pub system: u64,
    /// Targets looked up.
    pub lookups: u64,
    /// Exits linked.
    pub links: u64,
    /// Host faults.
    pub faults: u64,
    /// Events delivered.
    pub events: u64,
    /// Address spaces emptied.
    pub flushes: u64,
    /// Times the code cache started over.
    pub resets: u64,
    /// Times other vCPUs had to be asked for something.
    pub asked: u64,
    /// Letters of other vCPUs and devices that were read.
    pub letters: u64,
    /// Bytes of generated code.
    pub code_bytes: u64,
    /// Bytes of addend tables.
    pub table_bytes: u64,
}

/// A processor. See the crate's documentation for the tour.
pub struct Vcpu {
    pub(crate) ram: Arc<Ram>,
    pub(crate) frames: FrameMapping,
    pub(crate) cache: Box<Cache>,
    pub(crate) spaces: Spaces,
    /// Instructions `pause` so far.
    pub(crate) pauses: u32,
    /// This vCPU's number, which it holds in [`crate::memory::sharing::Sharing`].
    pub(crate) me: usize,
    pub(crate) tools: Tools,
    pub(crate) draft: Draft,
    pub(crate) cpuid: Cpuid,
    pub(crate) kicker: Kicker,
    pub(crate) running: Box<Running>,
    /// An exit's unfinished business.
    pub(crate) pending: Option<Pending>,
    /// Where to go on, when that is not the unit at `rip`.
    pub(crate) resume: Option<Resume>,
    /// [`crate::memory::tables::Tables::losses`] when generated code was left.
    pub(crate) losses_known: Losses,
    pub(crate) memos: Memos,
    /// What users' memos are about.
    pub(crate) memos_of: u64,
    pub(crate) window: bool,
    pub(crate) nmi_window: bool,
    pub(crate) bounce: Bounce,
    /// Control bits that units' modes depend on, as the jump tables know them.
    modes: (VectorState, u64),
    pub(crate) statistics: Statistics,
    pub(crate) sight: crate::sight::Sight,
    pub(crate) debug: crate::debug::Debug,
}

impl Vcpu {
    /// A processor in its state after power-on; `ram` is shared by all vCPUs of the machine.
    ///
    /// # Errors
    /// When the host's processor lacks what generated code uses, or the host refuses memory.
    pub fn new(ram: Arc<Ram>, options: Options) -> Result<Vcpu, SetupError> {
        check_processor()?;
        trap::install()?;
        let frames = FrameMapping::new()?;
        let cpuid = Cpuid::of_host(&options);
        let cache = Box::new(Cache::new()?);
        let mut spaces = Spaces::new()?;
        spaces.forget_all_code(&frames, cache.thunks.lookup);
        let frame = frames.frame();
        // SAFETY: only an address is computed, inside a mapping that is large enough.
        let cpu = unsafe { &raw mut (*frame).cpu };
        // SAFETY: the mapping is fresh and aligned; nobody else knows it yet.
        unsafe { cpu.write(Cpu::at_power_on(cpuid.xcr0())) };
        let mut running =
            Box::new(Running { frame, cache: std::ptr::null_mut(), closed: None, x87: Registers::new() });
        let mut cache = cache;
        running.cache = &raw mut *cache;
        let kicker = Kicker::default();
        let me = options.index as usize;
        if !ram.sharing().join(me, kicker.clone()) {
            return Err(SetupError::Number(options.index));
        }
        let mut vcpu = Vcpu {
            ram,
            me,
            pauses: 0,
            frames,
            cache,
            spaces,
            tools: Tools::new(options.count > 1),
            draft: Draft::default(),
            cpuid,
            kicker,
            running,
            pending: None,
            resume: None,
            losses_known: Losses::default(),
            memos: Memos::default(),
            memos_of: 0,
            window: false,
            nmi_window: false,
            bounce: Bounce::new()?,
            modes: Default::default(),
            statistics: Statistics::default(),
            sight: crate::sight::Sight::default(),
            debug: crate::debug::Debug::default(),
        };
        let kick = vcpu.kicker.0.flag();
        let frame = vcpu.frame();
        frame.page_mask = 0xffff_ffff_f000;
        frame.stack_mask = 7;
        frame.narrow_stack_mask = 3;
        frame.mxcsr = 0x1f80;
        frame.kick = kick;
        frame.returns = Returns::none(frame.cpu.gdtr);
        Ok(vcpu)
    }

    /// Puts the processor where a 64-bit boot loader leaves it.
    pub fn enter_long_mode(&mut self, entry: LongModeEntry) {
        self.begin(StartState::Long(entry));
    }

    /// Puts the processor where a boot loader leaves it.
    pub fn begin(&mut self, start: StartState) {
        match start {
            StartState::Long(entry) => self.cpu_mut().enter_long_mode(&entry),
            StartState::Protected(entry) => self.cpu_mut().enter_protected_mode(&entry),
        }
        let effect = crate::cpu::control::Effect {
            flush_all: true,
            address_space_changed: true,
            ..Default::default()
        };
        self.apply(effect);
    }

    /// Puts a processor that has just been reset where another's start-up message sends it: page `vector`, real mode.
    pub fn start_up(&mut self, vector: u8) {
        self.cpu_mut().start_up(vector);
    }

    /// Answers `PortIn`, `MmioRead` or `ReadMsr`.
    pub fn reply(&mut self, value: u64) {
        self.finish(Some(value));
    }

    /// Refuses `ReadMsr` or `WriteMsr`: the Guest gets #GP(0).
    pub fn refuse(&mut self) {
        self.finish(None);
    }

    /// True when an interrupt would be taken now: IF set, no shadow, and no debug trap that comes first.
    pub fn interruptible(&self) -> bool {
        let open = self.cpu().rflags & flags::IF != 0 && !self.cpu().interrupt_shadow;
        open && self.pending.is_none() && !self.debug.holds_interrupts()
    }

    /// Delivers an external interrupt; only while [`Self::interruptible`]. A Guest that cannot take it shuts down:
    /// the next `run` says so.
    pub fn interrupt(&mut self, vector: u8) {
        debug_assert!(self.interruptible());
        self.resume = None;
        if let Err(exit) = self.deliver(Event::Interrupt(vector)) {
            self.pending = Some(Pending::Over(exit));
        }
    }

    /// While on, `run` returns [`Exit::InterruptWindow`] as soon as the Guest is interruptible.
    pub fn request_interrupt_window(&mut self, on: bool) {
        self.window = on;
        self.frame().window = (on || self.nmi_window).into();
    }

    /// True when a non-maskable interrupt would be taken now: none is being handled, and no shadow.
    pub fn takes_nmi(&self) -> bool {
        !self.cpu().nmi_blocked && !self.cpu().interrupt_shadow && self.pending.is_none()
    }

    /// Delivers a non-maskable interrupt; only while [`Self::takes_nmi`]. As for [`Self::interrupt`] otherwise.
    pub fn nmi(&mut self) {
        const NMI: u8 = 2;
        debug_assert!(self.takes_nmi());
        self.resume = None;
        let delivered = self.deliver(Event::Interrupt(NMI));
        self.cpu_mut().nmi_blocked = true;
        if let Err(exit) = delivered {
            self.pending = Some(Pending::Over(exit));
        }
    }

    /// While on, `run` returns [`Exit::InterruptWindow`] as soon as the Guest takes a non-maskable interrupt.
    pub fn request_nmi_window(&mut self, on: bool) {
        self.nmi_window = on;
        self.frame().window = (self.window || on).into();
    }

    /// INIT: the processor begins anew, in real mode, and forgets what it was asked. It waits for [`Self::start_up`] if the
    /// Host makes it.
    pub fn initialize(&mut self) {
        let signature = self.cpuid.signature();
        self.cpu_mut().initialize(signature);
        (self.pending, self.resume) = (None, None);
        self.apply(crate::cpu::control::Effect {
            flush_all: true,
            address_space_changed: true,
            ..Default::default()
        });
    }

    /// The handle other threads wake this vCPU with.
    pub fn kicker(&self) -> Kicker {
        self.kicker.clone()
    }

    /// Guest TSC minus host TSC, for paravirtual clocks.
    pub fn tsc_offset(&self) -> u64 {
        self.cpu().tsc_offset
    }

    /// A general register by encoding number, for hypercalls and reports.
    pub fn gpr(&self, number: usize) -> u64 {
        self.cpu().gpr[number]
    }

    /// Sets a general register by encoding number.
    pub fn set_gpr(&mut self, number: usize, value: u64) {
        self.cpu_mut().gpr[number] = value;
    }

    /// The flags register, for tests and reports.
    pub fn rflags(&self) -> u64 {
        self.cpu().rflags
    }

    /// The architectural state, for tests and reports.
    pub fn cpu(&self) -> &Cpu {
        // SAFETY: generated code runs only inside `enter`, which borrows the vCPU mutably.
        unsafe { &(*self.frames.frame()).cpu }
    }

    /// The same, to change it between runs. A change of paging or privilege needs what the system instructions do.
    pub fn cpu_mut(&mut self) -> &mut Cpu {
        &mut self.frame().cpu
    }

    /// zmm0 to zmm31 between runs, for tests. Where the host has no AVX-512 only the low halves of the first sixteen count.
    pub fn vectors(&mut self) -> &mut [[u8; 64]; 32] {
        self.note_wide();
        &mut self.frame().vectors
    }

    /// k0 to k7 between runs, for tests.
    pub fn masks(&mut self) -> &mut [u64; 8] {
        &mut self.frame().masks
    }

    /// Looks which lanes hold something, after Rust wrote registers.
    pub(crate) fn measure_width(&mut self) {
        let frame = self.frame();
        let any = |part: std::ops::Range<usize>| {
            frame.vectors[..16].iter().any(|vector| vector[part.clone()].iter().any(|&byte| byte != 0))
        };
        let lanes = |part, lanes| if any(part) { lanes } else { 0 };
        frame.wide = lanes(16..32, YMM_LANES) | lanes(32..64, ZMM_LANES);
    }

    /// From here on any lane of the vectors may hold something.
    pub(crate) fn note_wide(&mut self) {
        let offered = self.cpu().xcr0_offered & xcr0::AVX512 != 0;
        self.frame().wide = YMM_LANES | if offered { ZMM_LANES } else { 0 };
    }

    pub(crate) fn mask(&self, register: iced_x86::Register) -> u64 {
        // SAFETY: as in `cpu`.
        unsafe { (*self.frames.frame()).masks[register.number()] }
    }

    pub(crate) fn vector(&self, number: usize) -> &[u8; 64] {
        // SAFETY: as in `cpu`.
        unsafe { &(*self.frames.frame()).vectors[number] }
    }

    /// MXCSR between runs, for tests.
    pub fn mxcsr(&mut self) -> &mut u32 {
        &mut self.frame().mxcsr
    }

    /// Where the Guest is, for reports.
    pub fn rip(&self) -> u64 {
        self.cpu().rip
    }

    /// What happened so far.
    pub fn statistics(&self) -> Statistics {
        Statistics {
            fills: self.spaces.tables.fills,
            flushes: self.spaces.flushes,
            resets: self.cache.resets,
            code_bytes: self.cache.arena.bytes() as u64,
            table_bytes: self.spaces.tables.resident(),
            ..self.statistics
        }
    }

    pub(crate) fn frame(&mut self) -> &mut Frame {
        // SAFETY: the mapping lives as long as the vCPU; generated code runs only inside `enter`, which uses no
        // reference to it.
        unsafe { &mut *self.frames.frame() }
    }

    /// Everything a change of mapping acts on, beside the spaces themselves.
    pub(crate) fn with_reach<T>(&mut self, act: impl FnOnce(&mut Spaces, &mut Reach) -> T) -> T {
        // SAFETY: as in `cpu`; `act` reads the state and does not reach the frame another way.
        let cpu = unsafe { &(*self.frames.frame()).cpu };
        let mut reach = Reach { cpu, ram: &self.ram, cache: &mut self.cache, jumps: &self.frames };
        act(&mut self.spaces, &mut reach)
    }

    /// Tells generated code what it may do without asking: which views `stac`, `clac`, `syscall` and `sysret` choose between,
    /// and what the latter two load. Jump tables hold units of one mode, so a change of what modes depend on empties them.
    pub(crate) fn refresh_shortcuts(&mut self) {
        let (with, without) = self.spaces.kernel_views(self.cpu());
        let gs_for = |view| self.spaces.gs_for(view, &self.frames);
        let (with, without) = (gs_for(with), gs_for(without));
        let user = gs_for(self.spaces.user_view());
        let space = self.spaces.jump_space(true) * crate::frame::JUMP_SLOTS;
        let frame = self.frame();
        (frame.view_with_user, frame.view_without_user, frame.view_of_user) = (with, without, user);
        frame.jump_space = space as u32;
        let modes = (VectorState::enabled(self.cpu()), self.cpu().cr4 & cr4::TSD);
        if modes != self.modes {
            self.modes = modes;
            let (lookup, no_pair) = (self.cache.thunks.lookup, self.cache.no_pair());
            self.spaces.empty_jump_tables(&self.frames, lookup, no_pair);
        }
    }

    /// The same for what `syscall` and `sysret` load, after a write to one of their registers.
    pub(crate) fn refresh_calls(&mut self) {
        self.frame().calls = Calls::of(self.cpu());
    }

    /// The same for what `iretq` loads, when the descriptor table is another one.
    pub(crate) fn refresh_returns(&mut self) {
        let table = self.cpu().gdtr;
        self.frame().returns.heed_table(table);
    }

    /// From now on, every return is Rust's, which heeds what somebody wants to stop at.
    pub(crate) fn forget_returns(&mut self) {
        let table = self.cpu().gdtr;
        self.frame().returns = Returns::none(table);
    }

    /// Lets a function of the system rooms work on state and memory, and drops code it wrote over.
    pub(crate) fn with_memory<T>(&mut self, act: impl FnOnce(&mut Cpu, &mut GuestMemory) -> T) -> T {
        let ram = self.ram.clone();
        let mut memory = GuestMemory::watched(&ram, std::mem::take(&mut self.debug.points.watches));
        let result = act(self.cpu_mut(), &mut memory);
        let writes = memory.take_code_writes();
        let (watches, hits) = memory.into_watches();
        self.debug.points.watches = watches;
        if hits != 0 {
            self.debug.touched(hits);
        }
        if !writes.is_empty() {
            self.drop_written_code(&writes);
        }
        result
    }

    /// Delivers an event at the current instruction.
    pub(crate) fn deliver(&mut self, event: Event) -> Result<(), Exit> {
        self.statistics.events += 1;
        self.resume = None;
        if self.cpu().hosted.is_some() {
            self.cpu_mut().interrupt_shadow = false;
            self.debug.event();
            return Err(Exit::Event(event));
        }
        let done = self.with_memory(|cpu, memory| {
            cpu.interrupt_shadow = false;
            deliver(cpu, memory, event)
        });
        self.debug.event();
        done.map_err(|TripleFault| Exit::TripleFault)
    }
}

impl Drop for Vcpu {
    fn drop(&mut self) {
        self.ram.sharing().leave(self.me);
    }
}

/// Refuses a host that lacks something generated code uses.
fn check_processor() -> Result<(), SetupError> {
    match requirements().into_iter().find(|requirement| !requirement.present) {
        Some(missing) => Err(SetupError::Processor(missing.name)),
        None => Ok(()),
    }
}
