//! A signal ends a read, as one ends any other system call that waits.
//!
//! ```text
//!   the thread that reads     blocks what it let through, runs the Guest, lets through again: handlers run there, as ever
//!   the watcher               waits for those signals meanwhile; passes each on to that thread, and calls the Guest out
//! ```
//! A signal for the whole process goes to whoever does not block it, which is the watcher alone, if no other thread of the program
//! wants it; a handler that asks who sent it is told that this process did. One for that very thread the watcher cannot take; it finds it waiting by looking from time to time. Faults
//! and the engine's own signals stay as they were. One more real-time signal, SIGRTMIN + 5, is the watcher's own.

use std::ffi::c_int;
use std::os::unix::thread::JoinHandleExt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crate::space::this_process;

/// How long a signal for one thread may wait unseen: too short for a person, long enough to cost nothing.
const LOOK_AGAIN: libc::timespec = libc::timespec { tv_sec: 0, tv_nsec: 20_000_000 };
/// Signals of the processor, which generated code may raise, and those that nobody blocks.
const NEVER: [c_int; 9] = [
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGFPE,
    libc::SIGILL,
    libc::SIGTRAP,
    libc::SIGSYS,
    libc::SIGABRT,
    libc::SIGKILL,
    libc::SIGSTOP,
];
/// Numbers there are.
const SIGNALS: std::ops::RangeInclusive<c_int> = 1..=64;

/// What a run's end has to do with signals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// Nothing, or only handlers after which a call goes on.
    GoOn,
    /// A handler ran that was installed without SA_RESTART.
    Interrupt,
}

/// Does something that starts threads. They block everything from their first instruction on, or they would run the
/// program's handlers.
pub fn quietly<T>(act: impl FnOnce() -> T) -> T {
    let before = mask(libc::SIG_SETMASK, &full());
    let done = act();
    mask(libc::SIG_SETMASK, &before);
    done
}

/// The watcher's own, and the engines'.
fn reserved(signal: c_int) -> bool {
    (libc::SIGRTMIN() + 3..=libc::SIGRTMIN() + 5).contains(&signal)
}

fn wake() -> c_int {
    libc::SIGRTMIN() + 5
}

#[derive(Clone, Copy)]
struct Armed {
    signals: libc::sigset_t,
    /// Who reads.
    thread: libc::pid_t,
}

#[derive(Default)]
struct State {
    armed: Option<Armed>,
    closed: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Watches signals while a Guest runs.
pub struct Watcher {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Watcher {
    /// Starts the watcher; `call_out` makes the run end.
    ///
    /// # Errors
    /// ENOMEM when the host refuses a thread.
    pub fn start(call_out: impl Fn() + Send + 'static) -> Result<Watcher, c_int> {
        let shared = Arc::new(Shared::default());
        let theirs = shared.clone();
        let serve = move || while watch_once(&theirs, &call_out) {};
        let thread = quietly(|| std::thread::Builder::new().name("lguest-signals".into()).spawn(serve));
        Ok(Watcher { shared, thread: Some(thread.map_err(|_| libc::ENOMEM)?) })
    }

    /// From now on until the end signals of this thread wait, and end the run.
    pub fn watch(&self) -> Watched<'_> {
        let mut wanted = empty();
        for signal in SIGNALS.filter(|signal| !NEVER.contains(signal) && !reserved(*signal)) {
            add(&mut wanted, signal);
        }
        let before = mask(libc::SIG_BLOCK, &wanted);
        let mut signals = empty();
        for signal in SIGNALS.filter(|signal| has(&wanted, *signal) && !has(&before, *signal)) {
            add(&mut signals, signal);
        }
        // SAFETY: gettid only answers.
        let thread = unsafe { libc::gettid() };
        self.shared.lock().armed = Some(Armed { signals, thread });
        self.shared.changed.notify_all();
        Watched { watcher: self, before, signals }
    }

    fn wake(&self) {
        if let Some(thread) = &self.thread {
            // SAFETY: the thread has not been joined, and it waits for this signal.
            unsafe { libc::pthread_kill(thread.as_pthread_t(), wake()) };
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.changed.notify_all();
        self.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A run under watch.
pub struct Watched<'a> {
    watcher: &'a Watcher,
    before: libc::sigset_t,
    signals: libc::sigset_t,
}

impl Watched<'_> {
    /// Lets the signals through; their handlers have run when this is back.
    pub fn end(self) -> Heard {
        self.watcher.shared.lock().armed = None;
        self.watcher.wake();
        let mut waiting = empty();
        // SAFETY: the set is good for writing.
        unsafe { libc::sigpending(&mut waiting) };
        let interrupts =
            |signal: &c_int| has(&waiting, *signal) && has(&self.signals, *signal) && ends_calls(*signal);
        let heard =
            if SIGNALS.clone().any(|signal| interrupts(&signal)) { Heard::Interrupt } else { Heard::GoOn };
        mask(libc::SIG_SETMASK, &self.before);
        heard
    }
}

/// Waits once for a signal. False when the file is closed.
fn watch_once(shared: &Shared, call_out: &impl Fn()) -> bool {
    let armed = {
        let mut state = shared.lock();
        loop {
            match state.armed {
                _ if state.closed => return false,
                Some(armed) => break armed,
                None => state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    };
    let mut set = armed.signals;
    add(&mut set, wake());
    // SAFETY: the set and the time are good for reading; nobody asks who sent it.
    let signal = unsafe { libc::sigtimedwait(&set, std::ptr::null_mut(), &LOOK_AGAIN) };
    if signal == wake() || (signal > 0 && is_ignored(signal)) {
        return true;
    }
    let waits = signal > 0 || waits_at(armed.thread, &armed.signals);
    // With the state locked, so that a run that has ended is not called out.
    let state = shared.lock();
    if signal > 0 {
        // SAFETY: sends one of this process' own threads a signal; the kernel checks the numbers.
        unsafe { libc::syscall(libc::SYS_tgkill, this_process(), armed.thread, signal) };
    }
    if waits && state.armed.is_some() {
        call_out();
    }
    true
}

/// Whether one of these signals waits for this very thread.
fn waits_at(thread: libc::pid_t, signals: &libc::sigset_t) -> bool {
    let status = std::fs::read_to_string(format!("/proc/self/task/{thread}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("SigPnd:"));
    let waiting = line.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).unwrap_or(0);
    SIGNALS
        .filter(|signal| waiting >> (signal - 1) & 1 != 0)
        .any(|signal| has(signals, signal) && !is_ignored(signal))
}

fn action(signal: c_int) -> libc::sigaction {
    // SAFETY: a sigaction of zeroes is one: the default.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: asks only; the action is good for writing.
    unsafe { libc::sigaction(signal, std::ptr::null(), &mut action) };
    action
}

/// Whether nothing happens when the signal comes.
fn is_ignored(signal: c_int) -> bool {
    let quiet = [libc::SIGCHLD, libc::SIGURG, libc::SIGWINCH, libc::SIGCONT];
    match action(signal).sa_sigaction {
        libc::SIG_IGN => true,
        libc::SIG_DFL => quiet.contains(&signal),
        _ => false,
    }
}

/// Whether a call that waits answers EINTR after the signal's handler (signal(7)).
fn ends_calls(signal: c_int) -> bool {
    let action = action(signal);
    ![libc::SIG_IGN, libc::SIG_DFL].contains(&action.sa_sigaction) && action.sa_flags & libc::SA_RESTART == 0
}

fn empty() -> libc::sigset_t {
    // SAFETY: a set of zeroes is the empty one.
    unsafe { std::mem::zeroed() }
}

fn full() -> libc::sigset_t {
    let mut set = empty();
    // SAFETY: the set is good for writing.
    unsafe { libc::sigfillset(&mut set) };
    set
}

fn add(set: &mut libc::sigset_t, signal: c_int) {
    // SAFETY: the set is good for writing; a number that is none is refused.
    unsafe { libc::sigaddset(set, signal) };
}

fn has(set: &libc::sigset_t, signal: c_int) -> bool {
    // SAFETY: the set is one; a number that is none is refused.
    unsafe { libc::sigismember(set, signal) == 1 }
}

/// Changes what this thread blocks; what it blocked before.
fn mask(how: c_int, set: &libc::sigset_t) -> libc::sigset_t {
    let mut before = empty();
    // SAFETY: both sets are good for what the call does with them.
    unsafe { libc::pthread_sigmask(how, set, &mut before) };
    before
}
