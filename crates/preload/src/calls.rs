//! The functions that a program calls in place of the C library's.
//!
//! `open` and `openat` are variadic in C. On x86-64 a third or fourth integer comes in the same register either way; where the
//! program passed none, there is something that nobody looks at.

use std::ffi::{CStr, c_char, c_int, c_void};

use crate::table::{self, Found, Mode};
use crate::{device, real, relatives};

/// The device's name.
const NAME: &CStr = c"/dev/lguest";

/// Sets errno and answers -1 for an error.
pub fn answer(result: Result<usize, c_int>) -> isize {
    match result {
        Ok(value) => value as isize,
        Err(number) => {
            // SAFETY: no argument; it answers where this thread's errno is.
            let errno = unsafe { libc::__errno_location() };
            // SAFETY: that place is this thread's own, and good for writing.
            unsafe { *errno = number };
            -1
        }
    }
}

fn is_device(path: *const c_char) -> bool {
    // SAFETY: the program passed a path; a null one is looked at no further.
    !path.is_null() && unsafe { CStr::from_ptr(path) } == NAME
}

/// The placeholder of a device file: /dev/null, which gives it a number, and lets the kernel close it at an exec.
fn open_device(flags: c_int) -> c_int {
    let file = real::open(c"/dev/null".as_ptr(), flags & !(libc::O_CREAT | libc::O_EXCL | libc::O_TRUNC), 0);
    if file >= 0 && !table::insert(file, Mode::from_flags(flags)) {
        real::close(file);
        return answer(Err(libc::EMFILE)) as c_int;
    }
    file
}

/// The C library's function of this name.
///
/// # Safety
/// As for that one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn open(path: *const c_char, flags: c_int, mode: libc::mode_t) -> c_int {
    if is_device(path) { open_device(flags) } else { real::open(path, flags, mode) }
}

/// The C library's function of this name.
///
/// # Safety
/// As for that one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn open64(path: *const c_char, flags: c_int, mode: libc::mode_t) -> c_int {
    if is_device(path) { open_device(flags) } else { real::open(path, flags, mode) }
}

/// The C library's function of this name.
///
/// # Safety
/// As for that one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn openat(
    folder: c_int,
    path: *const c_char,
    flags: c_int,
    mode: libc::mode_t,
) -> c_int {
    if is_device(path) { open_device(flags) } else { real::openat(folder, path, flags, mode) }
}

/// The C library's function of this name.
///
/// # Safety
/// As for that one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn openat64(
    folder: c_int,
    path: *const c_char,
    flags: c_int,
    mode: libc::mode_t,
) -> c_int {
    if is_device(path) { open_device(flags) } else { real::openat(folder, path, flags, mode) }
}

/// The C library's function of this name.
///
/// # Safety
/// As for that one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __open_2(path: *const c_char, flags: c_int) -> c_int {
    if is_device(path) { open_device(flags) } else { real::open(path, flags, 0) }
}

/// The C library's function of this name.
///
/// # Safety
/// As for that one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __open64_2(path: *const c_char, flags: c_int) -> c_int {
    if is_device(path) { open_device(flags) } else { real::open(path, flags, 0) }
}

/// The C library's function of this name.
///
/// # Safety
/// As for that one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __openat_2(folder: c_int, path: *const c_char, flags: c_int) -> c_int {
    if is_device(path) { open_device(flags) } else { real::openat(folder, path, flags, 0) }
}

/// The C library's function of this name.
///
/// # Safety
/// As for that one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __openat64_2(folder: c_int, path: *const c_char, flags: c_int) -> c_int {
    if is_device(path) { open_device(flags) } else { real::openat(folder, path, flags, 0) }
}

/// read(2).
///
/// # Safety
/// As for the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn read(file: c_int, bytes: *mut c_void, count: usize) -> isize {
    match table::look(file) {
        Found::Another => real::read(file, bytes, count),
        Found::OfARelative => answer(Err(libc::EPERM)),
        Found::Device(device) => answer(device::read(&device, 0, bytes as usize, count)),
    }
}

/// write(2).
///
/// # Safety
/// As for the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn write(file: c_int, bytes: *const c_void, count: usize) -> isize {
    match table::look(file) {
        Found::Another => real::write(file, bytes, count),
        Found::OfARelative => answer(relatives::write(file, 0, bytes as usize, count)),
        Found::Device(device) => answer(device::write(&device, 0, bytes as usize, count)),
    }
}

/// pread(2): the offset is the vCPU's number.
///
/// # Safety
/// As for the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pread(file: c_int, bytes: *mut c_void, count: usize, offset: i64) -> isize {
    match table::look(file) {
        Found::Another => real::pread(file, bytes, count, offset),
        Found::OfARelative => answer(Err(libc::EPERM)),
        Found::Device(device) => answer(device::read(&device, offset, bytes as usize, count)),
    }
}

/// pwrite(2), likewise.
///
/// # Safety
/// As for the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwrite(file: c_int, bytes: *const c_void, count: usize, offset: i64) -> isize {
    match table::look(file) {
        Found::Another => real::pwrite(file, bytes, count, offset),
        Found::OfARelative => answer(relatives::write(file, offset, bytes as usize, count)),
        Found::Device(device) => answer(device::write(&device, offset, bytes as usize, count)),
    }
}

/// pread(2) by its other name.
///
/// # Safety
/// As for the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pread64(file: c_int, bytes: *mut c_void, count: usize, offset: i64) -> isize {
    // SAFETY: the caller keeps what this one's wants.
    unsafe { pread(file, bytes, count, offset) }
}

/// pwrite(2) by its other name.
///
/// # Safety
/// As for the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwrite64(file: c_int, bytes: *const c_void, count: usize, offset: i64) -> isize {
    // SAFETY: the caller keeps what this one's wants.
    unsafe { pwrite(file, bytes, count, offset) }
}

/// What `read` becomes where the compiler knows the room (_FORTIFY_SOURCE).
///
/// # Safety
/// As for the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __read_chk(file: c_int, bytes: *mut c_void, count: usize, room: usize) -> isize {
    assert!(count <= room, "read: more bytes than the buffer has room for");
    // SAFETY: the caller keeps what this one's wants.
    unsafe { read(file, bytes, count) }
}

/// What `pread` becomes there.
///
/// # Safety
/// As for the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __pread_chk(
    file: c_int,
    bytes: *mut c_void,
    count: usize,
    offset: i64,
    room: usize,
) -> isize {
    assert!(count <= room, "pread: more bytes than the buffer has room for");
    // SAFETY: the caller keeps what this one's wants.
    unsafe { pread(file, bytes, count, offset) }
}

/// And `pread64`.
///
/// # Safety
/// As for the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __pread64_chk(
    file: c_int,
    bytes: *mut c_void,
    count: usize,
    offset: i64,
    room: usize,
) -> isize {
    // SAFETY: the caller keeps what this one's wants.
    unsafe { __pread_chk(file, bytes, count, offset, room) }
}
