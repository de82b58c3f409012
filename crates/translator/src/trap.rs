//! Host signals: what the host's processor says about generated code, and kicks.
//!
//! A fault inside a unit (a write to a read-only page, a division by zero, an address that is not canonical) becomes
//! an exit: the handler notes what happened and lets the thread go on at the way out, with all Guest registers
//! still in place. A kick makes the interrupted unit's ways out lead to Rust. Units therefore carry no checks for
//! interrupts at all; measured elsewhere, a check at each unit's entry costs 3 to 7 % (facts/translation.md).

#![allow(unsafe_code)] // Signal handlers and what they are handed.

use crate::SetupError;
use crate::cache::Cache;
use crate::frame::{Fault, Frame};
use crate::unit::UnitIndex;
use crate::x87::Registers;
use std::cell::{Cell, OnceCell};
use std::sync::Arc;
use std::sync::Once;
use std::sync::atomic::{AtomicI32, AtomicU8, Ordering};

/// The signal a kick travels by. glibc keeps 32 and 33 for itself.
pub fn kick_signal() -> i32 {
    libc::SIGRTMIN() + 3
}

/// What a handler needs to know of the vCPU that runs on its thread.
pub struct Running {
    /// The frame generated code uses.
    pub frame: *mut Frame,
    /// Where its code is.
    pub cache: *mut Cache,
    /// The unit whose ways out the handler closed.
    pub closed: Option<UnitIndex>,
    /// The Guest's x87 registers while it is not attached.
    pub x87: Registers,
}

// SAFETY: the pointers lead to parts of the same vCPU, which moves between threads as a whole and only while it does not
// run.
unsafe impl Send for Running {}

thread_local! {
    static RUNNING: Cell<*mut Running> = const { Cell::new(std::ptr::null_mut()) };
}

/// Tells this thread's handlers which vCPU runs, and has its x87 registers in the processor, for as long as the guard
/// lives. No generated code runs without one: whatever faults in it would end the process.
pub struct Attached(*mut Running);

impl Attached {
    /// `running` must stay where it is until the guard is dropped.
    pub fn new(running: *mut Running) -> Attached {
        // SAFETY: the caller vouches for it; nothing else refers to it.
        unsafe { &(*running).x87 }.load();
        RUNNING.set(running);
        Attached(running)
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        RUNNING.set(std::ptr::null_mut());
        // SAFETY: as in `new`.
        unsafe { &mut (*self.0).x87 }.store();
    }
}

/// Signals that generated code can cause.
const FAULTS: [i32; 4] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL];

/// Bytes of a thread's signal stack: a frame with AVX-512 state takes three kilobytes.
const SIGNAL_STACK: usize = 64 << 10;

static mut PREVIOUS: [std::mem::MaybeUninit<libc::sigaction>; 4] =
    [const { std::mem::MaybeUninit::uninit() }; 4];

/// Installs the handlers, once for the process.
pub fn install() -> Result<(), SetupError> {
    static ONCE: Once = Once::new();
    let mut result = Ok(());
    ONCE.call_once(|| {
        for (n, signal) in FAULTS.into_iter().enumerate() {
            if !handle(signal, on_fault as *const () as usize, Some(n)) {
                result = Err(SetupError::host("cannot install a signal handler"));
            }
        }
        if !handle(kick_signal(), on_kick as *const () as usize, None) {
            result = Err(SetupError::host("cannot install a signal handler"));
        }
    });
    result
}

fn handle(signal: i32, handler: usize, previous: Option<usize>) -> bool {
    // SAFETY: an all-zero sigaction is a valid one.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
    let old = match previous {
        // SAFETY: `install` runs once, so nobody else refers to the table.
        Some(n) => unsafe { (&raw mut PREVIOUS[n]).cast() },
        None => std::ptr::null_mut(),
    };
    // SAFETY: both structures are valid for the call.
    unsafe { libc::sigaction(signal, &action, old) == 0 }
}

/// A thread's signal stack; while the Guest runs, `rsp` points at the frame, where none may be pushed.
struct SignalStack {
    memory: Vec<u8>,
}

thread_local! {
    /// Made once a thread, for every exit to the board comes through [`signal_stack`].
    static STACK: OnceCell<SignalStack> = const { OnceCell::new() };
    /// The kernel's number of this thread; 0 until asked for.
    static THREAD: Cell<i32> = const { Cell::new(0) };
}

/// Makes the thread's handlers run on a stack of their own, from now to the thread's end.
pub fn signal_stack() -> Result<(), SetupError> {
    STACK.with(|stack| {
        if stack.get().is_none() {
            let _ = stack.set(SignalStack::new()?);
        }
        Ok(())
    })
}

impl SignalStack {
    fn new() -> Result<SignalStack, SetupError> {
        let mut memory = vec![0; SIGNAL_STACK];
        let stack = libc::stack_t { ss_sp: memory.as_mut_ptr().cast(), ss_flags: 0, ss_size: SIGNAL_STACK };
        // SAFETY: the memory lives until the stack is given up in `drop`.
        if unsafe { libc::sigaltstack(&stack, std::ptr::null_mut()) } != 0 {
            return Err(SetupError::host("cannot set a signal stack"));
        }
        Ok(SignalStack { memory })
    }
}

impl Drop for SignalStack {
    fn drop(&mut self) {
        // What was there before may be gone by now: the thread ends.
        let none = libc::stack_t {
            ss_sp: std::ptr::null_mut(),
            ss_flags: libc::SS_DISABLE,
            ss_size: self.memory.len(),
        };
        // SAFETY: no handler runs on the stack, for this thread runs `drop`.
        unsafe { libc::sigaltstack(&none, std::ptr::null_mut()) };
    }
}

fn this_thread() -> i32 {
    if THREAD.get() == 0 {
        // SAFETY: takes nothing, touches nothing.
        THREAD.set(unsafe { libc::gettid() });
    }
    THREAD.get()
}

extern "C" fn on_fault(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let running = RUNNING.get();
    // SAFETY: the kernel hands a handler valid structures.
    let context = unsafe { &mut *context.cast::<libc::ucontext_t>() };
    let rip = context.uc_mcontext.gregs[libc::REG_RIP as usize] as u64;
    if !running.is_null() {
        // SAFETY: `Attached` vouches for it; the thread that uses it is this one, and stands still.
        let running = unsafe { &mut *running };
        // SAFETY: as above; the cache is not being changed, for generated code runs.
        let cache = unsafe { &*running.cache };
        if cache.arena.offset(rip).is_some() {
            // SAFETY: as above.
            let frame = unsafe { &mut *running.frame };
            // SAFETY: the kernel hands a handler valid structures.
            let info = unsafe { &*info };
            // SAFETY: the fields that `si_addr` reads are those of the signals in `FAULTS`.
            let address = unsafe { info.si_addr() } as u64;
            let code = context.uc_mcontext.gregs[libc::REG_TRAPNO as usize] as i32;
            frame.fault = Fault { rip, address, signal, code };
            context.uc_mcontext.gregs[libc::REG_RIP as usize] = cache.thunks.fault as i64;
            return;
        }
    }
    pass_on(signal);
}

/// Not ours: let the previous handler have it when the instruction runs again.
fn pass_on(signal: i32) {
    let Some(n) = FAULTS.iter().position(|&s| s == signal) else { return };
    // SAFETY: `install` filled the table before any handler could run.
    let previous = unsafe { (&raw const PREVIOUS[n]).cast::<libc::sigaction>() };
    // SAFETY: restores a disposition the process had.
    unsafe { libc::sigaction(signal, previous, std::ptr::null_mut()) };
}

extern "C" fn on_kick(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let running = RUNNING.get();
    if running.is_null() {
        return;
    }
    // SAFETY: `Attached` vouches for it; the thread that uses it is this one, and stands still.
    let running = unsafe { &mut *running };
    // SAFETY: the kernel hands a handler valid structures.
    let context = unsafe { &mut *context.cast::<libc::ucontext_t>() };
    let rip = context.uc_mcontext.gregs[libc::REG_RIP as usize] as u64;
    // SAFETY: as above; where `rip` is in the arena, no Rust of this thread is in the middle of changing the cache.
    let cache = unsafe { &mut *running.cache };
    if (cache.thunks.enter..cache.thunks.enter_end).contains(&rip) {
        // The way in ends with a jump through the frame.
        // SAFETY: as above.
        unsafe { (*running.frame).target = cache.thunks.kicked };
    } else if (cache.thunks.landing..cache.thunks.landing_end).contains(&rip) {
        context.uc_mcontext.gregs[libc::REG_RIP as usize] = cache.thunks.landing as i64;
    } else if (cache.thunks.second_end_from..cache.thunks.second_end).contains(&rip) {
        context.uc_mcontext.gregs[libc::REG_RIP as usize] = cache.thunks.second_end_from as i64;
    } else if running.closed.is_none()
        && let Some(unit) = cache.unit_at(rip)
    {
        cache.close(unit);
        running.closed = Some(unit);
    }
    // Elsewhere Rust runs, or a thunk on its way to Rust: it looks at the flag before it enters again.
}

/// Why a vCPU is wanted: a bit of [`Kick`]'s byte each.
const HOST: u8 = 1;
const MAIL: u8 = 2;

/// What wakes a vCPU, shared by everyone who may.
#[derive(Debug, Default)]
pub struct Kick {
    asked: AtomicU8,
    thread: AtomicI32,
}

impl Kick {
    /// True once for every time the Host asked for it.
    pub fn take(&self) -> bool {
        self.take_bit(HOST)
    }

    /// True once for every time another vCPU, or a device, wrote a letter.
    pub fn take_mail(&self) -> bool {
        self.take_bit(MAIL)
    }

    fn take_bit(&self, bit: u8) -> bool {
        self.asked.load(Ordering::SeqCst) & bit != 0
            && self.asked.fetch_and(!bit, Ordering::SeqCst) & bit != 0
    }

    /// Forgets all that was asked for and says what; [`Self::put_back`] is its reverse.
    pub fn take_all(&self) -> u8 {
        self.asked.swap(0, Ordering::SeqCst)
    }

    /// Asks again, on the vCPU's own thread.
    pub fn put_back(&self, asked: u8) {
        self.asked.fetch_or(asked, Ordering::SeqCst);
    }

    /// True when asked for.
    pub fn pending(&self) -> bool {
        self.asked.load(Ordering::SeqCst) != 0
    }

    /// Address of the byte, which the way into generated code looks at.
    pub fn flag(&self) -> u64 {
        self.asked.as_ptr() as u64
    }

    /// The current thread runs the Guest now.
    pub fn start(&self) {
        self.thread.store(this_thread(), Ordering::SeqCst);
    }

    /// No thread does.
    pub fn stop(&self) {
        self.thread.store(0, Ordering::SeqCst);
    }
}

/// Makes a vCPU's `run` come back soon, from any thread.
#[derive(Debug, Clone, Default)]
pub struct Kicker(pub(crate) Arc<Kick>);

impl Kicker {
    /// The vCPU's current or next `run` returns [`crate::Exit::Kicked`].
    pub fn kick(&self) {
        self.0.asked.fetch_or(HOST, Ordering::SeqCst);
        self.signal();
    }

    /// The vCPU reads its mail before it enters generated code again.
    pub(crate) fn mail(&self) {
        self.0.asked.fetch_or(MAIL, Ordering::SeqCst);
    }

    /// Brings the vCPU out of generated code, to see what was asked.
    pub(crate) fn signal(&self) {
        let thread = self.0.thread.load(Ordering::SeqCst);
        if thread != 0 && thread != this_thread() {
            let process = std::process::id();
            // SAFETY: sends a signal whose handler this crate installed to a thread of this process; a thread that
            // ended in between makes the call fail, which is fine.
            unsafe { libc::syscall(libc::SYS_tgkill, process, thread, kick_signal()) };
        }
    }
}
