//! The C library's own functions, behind ours: found by name the first time they are wanted.

use std::ffi::{CStr, c_char, c_int, c_ulong, c_void};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Finds the next definition of a name behind this library's own.
///
/// # Panics
/// When there is none: a C library without `read` is none.
fn find(cache: &AtomicUsize, name: &CStr) -> usize {
    let known = cache.load(Ordering::Relaxed);
    if known != 0 {
        return known;
    }
    // SAFETY: RTLD_NEXT and a name with its NUL are what dlsym wants.
    let found = unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr()) } as usize;
    assert_ne!(found, 0, "the C library has no {name:?}");
    cache.store(found, Ordering::Relaxed);
    found
}

macro_rules! real {
    ($($(#[$doc:meta])* $name:ident = $symbol:literal ($($argument:ident: $kind:ty),*) -> $answer:ty as $function:ty;)*) => {$(
        $(#[$doc])*
        pub fn $name($($argument: $kind),*) -> $answer {
            static FOUND: AtomicUsize = AtomicUsize::new(0);
            let address = find(&FOUND, $symbol);
            // SAFETY: the C library's function of that name has this type.
            let function = unsafe { std::mem::transmute::<usize, $function>(address) };
            // SAFETY: the arguments are those that the program passed for exactly this function.
            unsafe { function($($argument),*) }
        }
    )*};
}

real! {
    /// open(2)
    open = c"open"(path: *const c_char, flags: c_int, mode: libc::mode_t) -> c_int
        as unsafe extern "C" fn(*const c_char, c_int, ...) -> c_int;
    /// openat(2)
    openat = c"openat"(folder: c_int, path: *const c_char, flags: c_int, mode: libc::mode_t) -> c_int
        as unsafe extern "C" fn(c_int, *const c_char, c_int, ...) -> c_int;
    /// dup(2)
    dup = c"dup"(from: c_int) -> c_int as unsafe extern "C" fn(c_int) -> c_int;
    /// dup2(2)
    dup2 = c"dup2"(from: c_int, to: c_int) -> c_int as unsafe extern "C" fn(c_int, c_int) -> c_int;
    /// dup3(2)
    dup3 = c"dup3"(from: c_int, to: c_int, flags: c_int) -> c_int as unsafe extern "C" fn(c_int, c_int, c_int) -> c_int;
    /// fcntl(2)
    fcntl = c"fcntl"(file: c_int, command: c_int, argument: c_ulong) -> c_int
        as unsafe extern "C" fn(c_int, c_int, ...) -> c_int;
    /// closefrom(3)
    closefrom = c"closefrom"(first: c_int) -> () as unsafe extern "C" fn(c_int);
    /// close(2)
    close = c"close"(file: c_int) -> c_int as unsafe extern "C" fn(c_int) -> c_int;
    /// read(2)
    read = c"read"(file: c_int, bytes: *mut c_void, count: usize) -> isize
        as unsafe extern "C" fn(c_int, *mut c_void, usize) -> isize;
    /// write(2)
    write = c"write"(file: c_int, bytes: *const c_void, count: usize) -> isize
        as unsafe extern "C" fn(c_int, *const c_void, usize) -> isize;
    /// pread(2)
    pread = c"pread"(file: c_int, bytes: *mut c_void, count: usize, offset: i64) -> isize
        as unsafe extern "C" fn(c_int, *mut c_void, usize, i64) -> isize;
    /// pwrite(2)
    pwrite = c"pwrite"(file: c_int, bytes: *const c_void, count: usize, offset: i64) -> isize
        as unsafe extern "C" fn(c_int, *const c_void, usize, i64) -> isize;
}
