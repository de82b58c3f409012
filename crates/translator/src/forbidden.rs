//! System calls that the process's sandbox stops: the last line of the isolation argument.
//!
//! Generated code makes no system calls, and the Rust around it makes few. Whoever builds a machine may therefore
//! forbid the rest (seccomp, action "trap"); a call that is stopped is a bug of ours or a Guest that broke out. Either
//! way the thread that made it must not go on. This room holds it still and tells the one who ends the process.
//! It stands in this crate because a signal handler is unsafe code; which calls are forbidden is not its business.

#![allow(unsafe_code)] // A signal handler and what it is handed.

use crate::SetupError;
use std::fs::File;
use std::io::Read;
use std::os::fd::{IntoRawFd, OwnedFd};
use std::sync::atomic::{AtomicI32, Ordering};

/// Where handlers write; -1 before anybody listens.
static REPORTS: AtomicI32 = AtomicI32::new(-1);

/// Bytes of a thread's name with its NUL (TASK_COMM_LEN, Linux's sched.h).
const NAME: usize = 16;
/// Bytes of a report: the call's number and the thread's name.
const REPORT: usize = 4 + NAME;
/// Words of `siginfo_t` up to and with the number of the call: three, padding, an address, the number (sigaction(2)).
const SIGINFO_CALL: usize = 6;
/// How long a stopped thread waits for somebody to end the process, in seconds. Longer than any orderly end takes.
const PATIENCE: i64 = 10;
/// Exit status when nobody does: the same as for a Guest that died.
const STATUS: i32 = 126;

/// A call that was stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForbiddenCall {
    /// Its number on x86-64.
    pub number: i32,
    /// The name of the thread that made it.
    pub thread: String,
}

/// Makes stopped calls of all threads known at the other end of the pipe `to`; see [`ForbiddenCall::wait`].
///
/// # Errors
/// When the host refuses the handler.
pub fn report_forbidden_calls(to: OwnedFd) -> Result<(), SetupError> {
    REPORTS.store(to.into_raw_fd(), Ordering::SeqCst);
    // SAFETY: an all-zero sigaction is a valid one.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_forbidden as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: the structure is valid for the call, and the handler only makes calls that signals may interrupt.
    match unsafe { libc::sigaction(libc::SIGSYS, &action, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(SetupError::host("cannot install a signal handler")),
    }
}

impl ForbiddenCall {
    /// Waits for the next stopped call. None when the pipe is closed.
    pub fn wait(from: &mut File) -> Option<ForbiddenCall> {
        let mut report = [0; REPORT];
        from.read_exact(&mut report).ok()?;
        let (number, name) = report.split_first_chunk()?;
        let length = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
        let thread = String::from_utf8_lossy(&name[..length]).into_owned();
        Some(ForbiddenCall { number: i32::from_le_bytes(*number), thread })
    }
}

extern "C" fn on_forbidden(_: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel hands a handler a siginfo of 128 bytes, aligned for words.
    let number = unsafe { info.cast::<i32>().wrapping_add(SIGINFO_CALL).read() };
    let mut report = [0; REPORT];
    report[..4].copy_from_slice(&number.to_le_bytes());
    // SAFETY: the kernel writes at most sixteen bytes there.
    unsafe { libc::prctl(libc::PR_GET_NAME, report[4..].as_mut_ptr()) };
    // SAFETY: the bytes are valid for the call; a descriptor that is not open makes it fail, which is fine.
    unsafe { libc::write(REPORTS.load(Ordering::SeqCst), report.as_ptr().cast(), REPORT) };
    let second = libc::timespec { tv_sec: 1, tv_nsec: 0 };
    for _ in 0..PATIENCE {
        // SAFETY: a valid time; the rest is not asked for.
        unsafe { libc::clock_nanosleep(libc::CLOCK_MONOTONIC, 0, &second, std::ptr::null_mut()) };
    }
    // SAFETY: ends the process; nothing runs after it.
    unsafe { libc::_exit(STATUS) };
}
