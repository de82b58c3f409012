//! The functions by which a file gets another number, or loses one.
//!
//! A copy of a device's number is a second name of the same Guest, which lives until the last of its numbers is closed: dup(2)'s two
//! numbers are one open file. A relative ([`relatives`]) has numbers of its own, about which nothing is noted.
//!
//! `fcntl` is variadic in C, see [`crate::calls`]. A Guest whose last number is in a range that is closed goes first, and gives back by
//! itself what it had open. One that is to live on loses files of its own to a range that holds them, as it does when each number is
//! closed by itself: such a program closes what it opened, and nothing else.

use std::ffi::{c_int, c_uint, c_ulong};

use crate::calls::answer;
use crate::table::{self, Found};
use crate::{real, relatives};

/// `CLOSE_RANGE_CLOEXEC`: nothing is closed yet.
const AT_EXEC: c_int = 4;

/// What the number that a copy got is from now on: a name of what it was made from, which may be no device.
fn name(from: Found, to: c_int) -> c_int {
    if to < 0 || relatives::is_one() {
        return to;
    }
    // A device that had this number is closed with it.
    drop(table::remove(to));
    let Found::Device(device) = from else { return to };
    if table::share(to, device) {
        return to;
    }
    real::close(to);
    answer(Err(libc::EMFILE)) as c_int
}

/// close(2).
#[unsafe(no_mangle)]
pub extern "C" fn close(file: c_int) -> c_int {
    // Out of the table first: the number may be somebody else's as soon as it is closed.
    let device = table::remove(file);
    let closed = real::close(file);
    drop(device);
    closed
}

/// dup(2).
#[unsafe(no_mangle)]
pub extern "C" fn dup(from: c_int) -> c_int {
    let device = table::look(from);
    name(device, real::dup(from))
}

/// dup2(2): a device file that had the number is closed by it.
#[unsafe(no_mangle)]
pub extern "C" fn dup2(from: c_int, to: c_int) -> c_int {
    let device = table::look(from);
    let copy = real::dup2(from, to);
    if from == to { copy } else { name(device, copy) }
}

/// dup3(2), likewise; of a number to itself it is an error.
#[unsafe(no_mangle)]
pub extern "C" fn dup3(from: c_int, to: c_int, flags: c_int) -> c_int {
    let device = table::look(from);
    name(device, real::dup3(from, to, flags))
}

/// fcntl(2): two of its commands copy.
#[unsafe(no_mangle)]
pub extern "C" fn fcntl(file: c_int, command: c_int, argument: c_ulong) -> c_int {
    if !matches!(command, libc::F_DUPFD | libc::F_DUPFD_CLOEXEC) {
        return real::fcntl(file, command, argument);
    }
    let device = table::look(file);
    name(device, real::fcntl(file, command, argument))
}

/// fcntl(2) by the name it has where offsets are said to have 64 bits.
#[unsafe(no_mangle)]
pub extern "C" fn fcntl64(file: c_int, command: c_int, argument: c_ulong) -> c_int {
    fcntl(file, command, argument)
}

/// close_range(2). Not the C library's: older ones have none, and a program may look whether there is one.
#[unsafe(no_mangle)]
pub extern "C" fn close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int {
    if first <= last && flags & AT_EXEC == 0 {
        drop(table::remove_range(first..=last));
    }
    // SAFETY: the kernel takes three numbers.
    unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) as c_int }
}

/// closefrom(3).
#[unsafe(no_mangle)]
pub extern "C" fn closefrom(first: c_int) {
    drop(table::remove_range(first.max(0).cast_unsigned()..=c_uint::MAX));
    real::closefrom(first);
}
