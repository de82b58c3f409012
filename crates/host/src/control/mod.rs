//! The control interface: what /dev/lguest was, as a library (facts 8 and 11).
//!
//! ```text
//!   initialize(base, page limit, start)   once
//!   run(cpu, buffer)                      "read": runs the Guest; words that say what it wants, or its death
//!   interrupt(cpu, irq), eventfd(address, file), take(key), break_out(), break_done()
//!   drop                                  "close"
//! ```
//! Calls may come from any thread, as with a file; but only the thread that initialised runs the Guest. Words are 64
//! bits. Errors are the original's, each with its number.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::ThreadId;

use lguest_abi::control::INITIALIZED_WORDS;
use lguest_abi::meeting::Irq;
use lguest_translator::{HiddenFeatures, LongModeEntry};

use crate::clock::Calibration;
use crate::dma::{Area, Form};
use crate::engine::{Exit, Vcpu};
use crate::generation1::{Bound, Called, Generation1, GetDmaError};
use crate::irq::lock;
use crate::lguest32::lines::Lines;
use crate::lguest32::{Lguest32Entry, Lguest32Vcpu};
use crate::memory::{GuestAddress, Memory, PAGE_SIZE};
use crate::platform::{Engine, Platform, PlatformError};

/// In the boot parameters (zero-page.rst of Linux): the size of the first entry of the memory map, and the initial RAM disk's.
const BOOT_FIRST_ENTRY_SIZE: u64 = 0x2d8;
const BOOT_RAMDISK_SIZE: u64 = 0x21c;

/// Bytes of a word.
const WORD: usize = 8;

/// What the original answered with an error number.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Initialised twice. EBUSY.
    #[error("this Guest was initialised before")]
    Busy,
    /// The page limit reaches past the memory given. EFAULT.
    #[error("the page limit {limit:#x} reaches past the Guest's memory")]
    Fault {
        /// In bytes.
        limit: u64,
    },
    /// The engine could not start. ENOMEM.
    #[error(transparent)]
    Engine(#[from] PlatformError),
    /// Before INITIALIZE, or a number out of range. EINVAL.
    #[error("{0}")]
    Invalid(&'static str),
    /// Another thread than the one that initialised. EPERM.
    #[error("only the thread that initialised a Guest runs it")]
    WrongThread,
    /// The Guest is dead; running it again tells why. ENOENT.
    #[error("the Guest is dead")]
    Dead,
    /// No free list is bound there. ENOENT.
    #[error("no free list is bound to that key")]
    NoList,
    /// A number that is no open file. EBADF.
    #[error("that number is no open file")]
    BadFile,
    /// The Guest wants its machine to begin anew, now and at every later read. ERESTART.
    #[error("the Guest asked for a restart")]
    Restart,
    /// Somebody asked for the Launcher's attention. EAGAIN.
    #[error("the Guest was called out")]
    Again,
}

impl ControlError {
    /// The original's number for it (Linux's errno.h).
    pub fn number(&self) -> i32 {
        match self {
            ControlError::Busy => libc::EBUSY,
            ControlError::Fault { .. } => libc::EFAULT,
            ControlError::Engine(_) => libc::ENOMEM,
            ControlError::Invalid(_) => libc::EINVAL,
            ControlError::WrongThread => libc::EPERM,
            ControlError::Dead | ControlError::NoList => libc::ENOENT,
            ControlError::BadFile => libc::EBADF,
            ControlError::Restart => libc::ERESTART,
            ControlError::Again => libc::EAGAIN,
        }
    }
}

/// By what a run is ended and let go on.
enum Reins {
    Platform(Platform),
    /// A paravirtual Guest's of 32 bits.
    Lguest32(Arc<Lines>),
}

impl Reins {
    fn stop(&self) {
        match self {
            Reins::Platform(platform) => platform.stop(),
            Reins::Lguest32(lines) => lines.stop(),
        }
    }

    fn resume(&self) {
        match self {
            Reins::Platform(platform) => platform.resume(),
            Reins::Lguest32(lines) => lines.resume(),
        }
    }
}

/// A Guest that was initialised.
struct Session {
    owner: ThreadId,
    host: Generation1,
    reins: Reins,
    /// The Guest asked for a restart.
    restart: AtomicBool,
    /// True from a break until it is done.
    broken: Mutex<bool>,
    done: Condvar,
}

thread_local! {
    /// A processor stays on the thread it was made on, so each thread keeps those of the Guests that it initialised.
    static VCPUS: RefCell<BTreeMap<u64, Box<dyn Vcpu>>> = const { RefCell::new(BTreeMap::new()) };
}

/// One open control file.
pub struct Control {
    id: u64,
    engine: Engine,
    session: Mutex<Option<Arc<Session>>>,
}

impl Control {
    /// A control file with no Guest yet.
    pub fn open(engine: Engine) -> Control {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Control { id: NEXT.fetch_add(1, Ordering::Relaxed), engine, session: Mutex::new(None) }
    }

    /// Makes the Guest: `base` is its memory, of which it has `page_limit` pages, and it starts as `start` says. Answers
    /// the number of words taken, as the original did.
    ///
    /// # Errors
    /// [`ControlError::Busy`], [`ControlError::Fault`], [`ControlError::Engine`].
    pub fn initialize(
        &self,
        base: Arc<Memory>,
        page_limit: u64,
        start: LongModeEntry,
    ) -> Result<usize, ControlError> {
        // Held to the end: of two that initialise at once, one waits and is told EBUSY.
        let mut session = lock(&self.session);
        if session.is_some() {
            return Err(ControlError::Busy);
        }
        let limit = check_limit(&base, page_limit)?;
        let rate = Calibration::start().finish();
        let (platform, vcpus) =
            Platform::start(self.engine, &base, rate, 1, start, &HiddenFeatures::default())?;
        let host =
            Generation1::new(Area::new(base, limit, Form::Bits64), Vec::new(), platform.interrupts(), rate);
        *session = Some(self.adopt(host, Reins::Platform(platform), vcpus));
        Ok(INITIALIZED_WORDS)
    }

    /// The same for a paravirtual Guest of 32 bits ([`crate::lguest32`]), always on the translator. It begins at `start`, a
    /// physical address; what a kernel of 2009 wants of its first page tables it finds by its boot parameters, at 0.
    ///
    /// # Errors
    /// As for [`Self::initialize`].
    pub fn initialize_lguest32(
        &self,
        base: Arc<Memory>,
        page_limit: u64,
        start: u32,
    ) -> Result<usize, ControlError> {
        let mut session = lock(&self.session);
        if session.is_some() {
            return Err(ControlError::Busy);
        }
        let limit = check_limit(&base, page_limit)?;
        let rate = Calibration::start().finish();
        let lines = Lines::new(rate).map_err(PlatformError::Thread)?;
        let ram = Arc::new(base.ram().map_err(PlatformError::from)?);
        let entry = lguest32_entry(&base, limit, start);
        let mut vcpu = Lguest32Vcpu::new(ram, lines.clone(), rate, entry, &HiddenFeatures::default())
            .map_err(PlatformError::from)?;
        vcpu.hand_over_text();
        let host = Generation1::new(Area::new(base, limit, Form::Bits64), Vec::new(), lines.clone(), rate);
        *session = Some(self.adopt(host, Reins::Lguest32(lines), vec![Box::new(vcpu)]));
        Ok(INITIALIZED_WORDS)
    }

    /// A session that this thread runs.
    fn adopt(&self, host: Generation1, reins: Reins, vcpus: Vec<Box<dyn Vcpu>>) -> Arc<Session> {
        VCPUS.with_borrow_mut(|all| all.extend(vcpus.into_iter().map(|vcpu| (self.id, vcpu))));
        Arc::new(Session {
            owner: std::thread::current().id(),
            host,
            reins,
            restart: AtomicBool::new(false),
            broken: Mutex::new(false),
            done: Condvar::new(),
        })
    }

    fn session(&self) -> Result<Arc<Session>, ControlError> {
        lock(&self.session).clone().ok_or(ControlError::Invalid("the Guest was not initialised"))
    }

    /// The session, for what a dead Guest cannot do any more.
    fn alive(&self) -> Result<Arc<Session>, ControlError> {
        let session = self.session()?;
        if session.host.death().is_some() { Err(ControlError::Dead) } else { Ok(session) }
    }

    /// Runs the Guest on vCPU `cpu` until it wants something. Fills the buffer with one word, the address of a notify that
    /// nobody listens for, or with two, the address and the key of a list that was sent; or, once it is dead, with the
    /// reason and a NUL, cut to what fits. Answers the bytes filled.
    ///
    /// # Errors
    /// [`ControlError::Invalid`] for a cpu that is not there, a Guest that was not initialised, or a buffer too small for the
    /// words; [`ControlError::WrongThread`]; [`ControlError::Again`]; [`ControlError::Dead`] when it died just now.
    pub fn run(&self, cpu: u64, buffer: &mut [u8]) -> Result<usize, ControlError> {
        check_cpu(cpu)?;
        let session = self.session()?;
        if session.owner != std::thread::current().id() {
            return Err(ControlError::WrongThread);
        }
        if session.restart.load(Ordering::Acquire) {
            return Err(ControlError::Restart);
        }
        if let Some(reason) = session.host.death() {
            return Ok(fill(buffer, reason.as_bytes().iter().copied().chain([0])));
        }
        if buffer.len() < 2 * WORD {
            return Err(ControlError::Invalid("the buffer has no room for two words"));
        }
        if *lock(&session.broken) {
            return Err(ControlError::Again);
        }
        let words = VCPUS.with_borrow_mut(|vcpus| {
            let vcpu = vcpus.get_mut(&self.id).expect("the thread that initialised keeps the processor");
            session.run(vcpu.as_mut())
        })?;
        Ok(fill(buffer, words.into_iter().flat_map(u64::to_ne_bytes)))
    }

    /// Raises an interrupt of the bus.
    ///
    /// # Errors
    /// [`ControlError::Invalid`] for cpu or irq out of range, or before INITIALIZE; [`ControlError::Dead`].
    pub fn interrupt(&self, cpu: u64, irq: u8) -> Result<(), ControlError> {
        check_cpu(cpu)?;
        let session = self.alive()?;
        let irq = Irq::new(irq).ok_or(ControlError::Invalid("there are interrupts 0 to 31"))?;
        session.host.interrupt(irq);
        Ok(())
    }

    /// From now on, notifies at `address` count on `eventfd`.
    ///
    /// # Errors
    /// [`ControlError::Invalid`] for address 0 or too many listeners, or before INITIALIZE; [`ControlError::Dead`].
    pub fn eventfd(&self, address: u64, eventfd: OwnedFd) -> Result<(), ControlError> {
        let attached = self.alive()?.host.notifies().attach(address, eventfd);
        attached.map_err(|_| ControlError::Invalid("nobody can listen at that address"))
    }

    /// GETDMA: reserves a free list bound to `key`. [`Self::finish`] gives it back.
    ///
    /// # Errors
    /// [`ControlError::NoList`], also for a key that just killed the Guest; [`ControlError::Invalid`];
    /// [`ControlError::Dead`].
    pub fn take(&self, key: u64) -> Result<Bound, ControlError> {
        self.alive()?.host.take(key).map_err(|error| match error {
            GetDmaError::None | GetDmaError::Killed(_) => ControlError::NoList,
        })
    }

    /// Stores a list's `used_len`.
    ///
    /// # Errors
    /// [`ControlError::Invalid`] before INITIALIZE; [`ControlError::Dead`].
    pub fn finish(&self, list: u64, used: u32) -> Result<(), ControlError> {
        self.alive()?.host.finish(list, used);
        Ok(())
    }

    /// Makes a run answer [`ControlError::Again`], the one that is under way or the next: a signal came for who runs it. From any
    /// thread; nothing before INITIALIZE. [`Self::resume`] takes it back.
    pub fn call_out(&self) {
        if let Ok(session) = self.session() {
            session.reins.stop();
        }
    }

    /// The next run goes on. For the thread that was called out.
    pub fn resume(&self) {
        if let Ok(session) = self.session() {
            session.reins.resume();
        }
    }

    /// Why the Guest is dead, if it is.
    pub fn death(&self) -> Option<String> {
        self.session().ok()?.host.death()
    }

    /// BREAK 1, the Waker's: makes [`Self::run`] answer `Again` and waits for [`Self::break_done`].
    ///
    /// # Errors
    /// [`ControlError::Invalid`] before INITIALIZE; [`ControlError::Dead`].
    pub fn break_out(&self) -> Result<(), ControlError> {
        let session = self.alive()?;
        let mut broken = lock(&session.broken);
        *broken = true;
        session.reins.stop();
        while *broken {
            broken = session.done.wait(broken).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(())
    }

    /// BREAK 0, the Launcher's: the Guest may go on, and so may the Waker.
    ///
    /// # Errors
    /// [`ControlError::Invalid`] before INITIALIZE; [`ControlError::Dead`].
    pub fn break_done(&self) -> Result<(), ControlError> {
        let session = self.alive()?;
        session.reins.resume();
        *lock(&session.broken) = false;
        session.done.notify_all();
        Ok(())
    }
}

impl Drop for Control {
    /// Close: stops the Guest, lets a Waker go, and forgets the processor if this is its thread. On another thread
    /// the processor goes with the thread.
    fn drop(&mut self) {
        if let Some(session) = lock(&self.session).take() {
            session.reins.stop();
            *lock(&session.broken) = false;
            session.done.notify_all();
        }
        let _ = VCPUS.try_with(|vcpus| vcpus.try_borrow_mut().map(|mut vcpus| vcpus.remove(&self.id)));
    }
}

impl Session {
    /// The original's loop, with a whole processor in it.
    fn run(&self, vcpu: &mut dyn Vcpu) -> Result<Vec<u64>, ControlError> {
        loop {
            match vcpu.run() {
                Exit::Hypercall { number, arguments } => match self.host.call(number, arguments) {
                    Called::Answer(value) => vcpu.reply(value),
                    Called::Done => {}
                    Called::Sent { key, list } => return Ok(vec![list, key]),
                    Called::Notify(address) => return Ok(vec![address]),
                    // No device tree here: -ENODEV.
                    Called::Transfer { .. } => vcpu.reply(-19i64 as u64),
                    Called::PowerOff => return self.died("Power down".to_owned()),
                    Called::Dead(reason) => return self.died(reason),
                },
                // There is no board: nobody is at any port or register.
                Exit::PortIn { .. } | Exit::MmioRead { .. } => vcpu.reply(u64::MAX),
                Exit::PortOut { .. } | Exit::MmioWrite { .. } => {}
                Exit::Notify { value } if self.host.notifies().notify(value) => {}
                Exit::Notify { value } => return Ok(vec![value]),
                // It was handed over as a notify.
                Exit::Text(_) => {}
                // As the original told of it.
                Exit::Off => return self.died("CRASH: Power down".to_owned()),
                Exit::Restart => {
                    self.restart.store(true, Ordering::Release);
                    self.host.kill("the Guest asked for a restart".to_owned());
                    return Err(ControlError::Restart);
                }
                Exit::Shutdown => return self.died(format!("unhandled trap 8 at {:#x}", vcpu.rip())),
                Exit::Dead(reason) => return self.died(reason),
                Exit::Stopped | Exit::Summoned | Exit::Debug(_) => return Err(ControlError::Again),
            }
        }
    }

    fn died(&self, reason: String) -> Result<Vec<u64>, ControlError> {
        self.host.kill(reason);
        Err(ControlError::Dead)
    }
}

/// The page limit in bytes, if it lies in memory.
fn check_limit(base: &Memory, page_limit: u64) -> Result<u64, ControlError> {
    let limit = page_limit.saturating_mul(PAGE_SIZE);
    let last = limit.checked_sub(1).map(GuestAddress);
    match last.and_then(|last| base.place(last)) {
        Some(_) => Ok(limit),
        None => Err(ControlError::Fault { limit }),
    }
}

/// How such a Guest begins. Its RAM is the first entry of its memory map, and 2.6.32's first tables end where its initial RAM
/// disk begins (facts of generation 2, 2.4 and 14); without such boot parameters all of its memory is RAM.
fn lguest32_entry(base: &Memory, limit: u64, start: u32) -> Lguest32Entry {
    let word = |at: u64| {
        let mut bytes = [0; 4];
        base.read(GuestAddress(at), &mut bytes).map_or(0, |()| u32::from_le_bytes(bytes))
    };
    let limit = u32::try_from(limit).unwrap_or(!(PAGE_SIZE as u32 - 1));
    let told = word(BOOT_FIRST_ENTRY_SIZE);
    let whole = told != 0 && told <= limit && told.is_multiple_of(PAGE_SIZE as u32);
    let memory = if whole { told } else { limit };
    let device_pages = (limit - memory) / PAGE_SIZE as u32;
    let tables_end = memory.saturating_sub(word(BOOT_RAMDISK_SIZE)) & !(PAGE_SIZE as u32 - 1);
    Lguest32Entry { eip: start, memory, device_pages, tables_end }
}

fn check_cpu(cpu: u64) -> Result<(), ControlError> {
    if cpu == 0 { Ok(()) } else { Err(ControlError::Invalid("a Guest has one processor, number 0")) }
}

/// Fills as much of the buffer as there are bytes; how many.
fn fill(buffer: &mut [u8], bytes: impl Iterator<Item = u8>) -> usize {
    buffer.iter_mut().zip(bytes).map(|(to, byte)| *to = byte).count()
}

mod words;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod resources;
