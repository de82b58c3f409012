//! Processes that share the program's memory without being it: what `clone(CLONE_VM)` makes without CLONE_THREAD.
//!
//! The original's Launchers served each ring from such a process: it sleeps on an eventfd, and raises an interrupt by a write to the
//! device file that it has a copy of. It shares its parent's thread-local storage too (clone(2) was not told otherwise), so it may neither
//! allocate nor hold a lock here, and it may be killed at any time. So it puts its request on a desk and waits, and a clerk, a thread
//! of the program's own, does what it asks:
//!
//! ```text
//!   relative   takes a place at the desk ── what it asks ──► rings the bell, waits
//!   clerk      hears the bell, looks at all places ── the answer ──► wakes who waits there
//! ```
//! All it may ask for is an interrupt; running the Guest is its reader's alone, and numbers of files mean others to it.
//!
//! A child of fork is no relative: its memory is a copy. The mark that tells them apart is in a page that the kernel clears
//! for such a child (MADV_WIPEONFORK).

use std::ffi::c_int;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, AtomicI64, AtomicIsize, AtomicU32, AtomicUsize, Ordering};

use lguest_abi::control::Request;

use crate::space::{self, this_process};
use crate::{device, signals, table};

/// Places at the desk: more relatives than a Launcher has rings.
const PLACES: usize = 64;
/// How long a relative waits before it looks whether the program is still there, in seconds.
const LOOK_AGAIN: libc::time_t = 1;

/// A place's states.
const FREE: u32 = 0;
const ASKED: u32 = 1;
const ANSWERED: u32 = 2;

/// Where one relative asks.
struct Place {
    /// Whose it is; 0 for nobody's.
    process: AtomicI32,
    state: AtomicU32,
    file: AtomicI32,
    cpu: AtomicI64,
    address: AtomicUsize,
    count: AtomicUsize,
    /// Bytes, or an error's number made negative.
    answer: AtomicIsize,
}

static DESK: [Place; PLACES] = [const {
    Place {
        process: AtomicI32::new(0),
        state: AtomicU32::new(FREE),
        file: AtomicI32::new(0),
        cpu: AtomicI64::new(0),
        address: AtomicUsize::new(0),
        count: AtomicUsize::new(0),
        answer: AtomicIsize::new(0),
    }
}; PLACES];
/// Changes with every question.
static BELL: AtomicU32 = AtomicU32::new(0);
/// The process that has the clerk; 0 for none.
static PROGRAM: AtomicI32 = AtomicI32::new(0);
/// The mark: a word that a child of fork finds cleared.
static MARK: OnceLock<&'static AtomicU32> = OnceLock::new();

/// From now on relatives are told from others, and served. Where the host's kernel or memory does not allow it, they are refused.
pub fn expect() {
    let Some(mark) = mark() else { return };
    let clerk = || std::thread::Builder::new().name("lguest-clerk".into()).spawn(serve);
    if signals::quietly(clerk).is_ok() {
        mark.store(1, Ordering::Release);
        let _ = MARK.set(mark);
        PROGRAM.store(this_process(), Ordering::Release);
    }
}

/// A word in a page of its own.
fn mark() -> Option<&'static AtomicU32> {
    let (rights, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping where the kernel likes.
    let page = unsafe { libc::mmap(std::ptr::null_mut(), space::PAGE as usize, rights, kind, -1, 0) };
    if page == libc::MAP_FAILED {
        return None;
    }
    // SAFETY: the page is ours, and only what a child of fork sees of it changes.
    let wiped = unsafe { libc::madvise(page, space::PAGE as usize, libc::MADV_WIPEONFORK) };
    // SAFETY: the page is never unmapped, is aligned, and holds zeroes.
    (wiped == 0).then(|| unsafe { &*page.cast::<AtomicU32>() })
}

/// Whether the caller is a relative of the program.
pub fn is_one() -> bool {
    let program = PROGRAM.load(Ordering::Acquire);
    program != 0
        && program != this_process()
        && MARK.get().is_some_and(|mark| mark.load(Ordering::Acquire) != 0)
}

/// A relative's write(2) on a device file.
///
/// # Errors
/// As for the program's own, EPERM for what is not a relative's to ask, and ENOENT when the program is gone.
pub fn write(file: c_int, cpu: i64, address: usize, count: usize) -> Result<usize, c_int> {
    let place = DESK.iter().find(|place| take(place)).ok_or(libc::EAGAIN)?;
    place.file.store(file, Ordering::Relaxed);
    place.cpu.store(cpu, Ordering::Relaxed);
    place.address.store(address, Ordering::Relaxed);
    place.count.store(count, Ordering::Relaxed);
    place.state.store(ASKED, Ordering::Release);
    BELL.fetch_add(1, Ordering::AcqRel);
    wake(&BELL);
    while place.state.load(Ordering::Acquire) != ANSWERED {
        if !wait(&place.state, ASKED) && !lives(PROGRAM.load(Ordering::Acquire)) {
            return Err(libc::ENOENT);
        }
    }
    let answer = place.answer.load(Ordering::Relaxed);
    place.state.store(FREE, Ordering::Release);
    place.process.store(0, Ordering::Release);
    usize::try_from(answer).map_err(|_| -answer as c_int)
}

/// Takes a place, if it is nobody's or that of somebody who died there.
fn take(place: &Place) -> bool {
    let before = place.process.load(Ordering::Acquire);
    // What is asked is being answered still, whoever asked it.
    let free = before == 0 || (place.state.load(Ordering::Acquire) != ASKED && !lives(before));
    free && place
        .process
        .compare_exchange(before, this_process(), Ordering::AcqRel, Ordering::Relaxed)
        .is_ok()
}

fn lives(process: libc::pid_t) -> bool {
    // SAFETY: signal 0 only asks.
    unsafe { libc::kill(process, 0) == 0 }
}

/// The clerk, for as long as the program lives.
fn serve() {
    loop {
        let heard = BELL.load(Ordering::Acquire);
        for place in DESK.iter().filter(|place| place.state.load(Ordering::Acquire) == ASKED) {
            let answer = match raise(place) {
                Ok(bytes) => bytes as isize,
                Err(number) => -(number as isize),
            };
            place.answer.store(answer, Ordering::Relaxed);
            place.state.store(ANSWERED, Ordering::Release);
            wake(&place.state);
        }
        wait(&BELL, heard);
    }
}

/// What a relative asked.
fn raise(place: &Place) -> Result<usize, c_int> {
    let (address, count) = (place.address.load(Ordering::Relaxed), place.count.load(Ordering::Relaxed));
    let mut request = [0];
    space::read_words(address, &mut request)?;
    if Request::from_word(request[0]) != Some(Request::Irq) {
        return Err(libc::EPERM);
    }
    let device = table::find(place.file.load(Ordering::Relaxed)).ok_or(libc::EBADF)?;
    device::write(&device, place.cpu.load(Ordering::Relaxed), address, count)
}

/// Sleeps while the word is so, for a while; false when that is over.
fn wait(word: &AtomicU32, value: u32) -> bool {
    let most = libc::timespec { tv_sec: LOOK_AGAIN, tv_nsec: 0 };
    let operation = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
    // SAFETY: the kernel reads the word and the time, both of which live.
    let done = unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), operation, value, &most) };
    done == 0 || std::io::Error::last_os_error().raw_os_error() != Some(libc::ETIMEDOUT)
}

fn wake(word: &AtomicU32) {
    let operation = libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG;
    // SAFETY: the kernel looks for who sleeps on this address.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), operation, c_int::MAX) };
}
