//! What a compiler expects of every system it compiles for: the C library's four, and two of the unwinder's.
//!
//! String instructions do the work: they are short, and fast where it matters.

use core::arch::asm;

/// C's memcpy.
///
/// # Safety
/// As in C: both ranges are valid and do not overlap.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    // SAFETY: the caller's promise.
    unsafe {
        asm!("rep movsb", inout("rcx") count => _, inout("rsi") from => _, inout("rdi") to => _,
            options(nostack, preserves_flags));
    }
    to
}

/// C's memmove.
///
/// # Safety
/// As in C: both ranges are valid.
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    if (to as usize).wrapping_sub(from as usize) >= count {
        // SAFETY: going up, no byte is written before it is read.
        return unsafe { memcpy(to, from, count) };
    }
    // SAFETY: going down, no byte is written before it is read; the direction flag is put back.
    unsafe {
        asm!("std", "rep movsb", "cld", inout("rcx") count => _,
            inout("rsi") from.wrapping_add(count).wrapping_sub(1) => _,
            inout("rdi") to.wrapping_add(count).wrapping_sub(1) => _, options(nostack));
    }
    to
}

/// C's memset.
///
/// # Safety
/// As in C: the range is valid.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, value: i32, count: usize) -> *mut u8 {
    // SAFETY: the caller's promise.
    unsafe {
        asm!("rep stosb", inout("rcx") count => _, inout("rdi") to => _, in("al") value as u8,
            options(nostack, preserves_flags));
    }
    to
}

/// C's memcmp.
///
/// # Safety
/// As in C: both ranges are valid.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(left: *const u8, right: *const u8, count: usize) -> i32 {
    for index in 0..count {
        let (left, right) = (left.wrapping_add(index), right.wrapping_add(index));
        // SAFETY: the caller's promise. Volatile, or the compiler would make this loop a call to itself.
        let a = unsafe { left.read_volatile() };
        // SAFETY: the caller's promise.
        let b = unsafe { right.read_volatile() };
        if a != b {
            return i32::from(a) - i32::from(b);
        }
    }
    0
}

/// C's bcmp, for which memcmp is good enough.
///
/// # Safety
/// As in C: both ranges are valid.
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(left: *const u8, right: *const u8, count: usize) -> i32 {
    // SAFETY: the caller's promise.
    unsafe { memcmp(left, right, count) }
}

/// Named by the compiled `core`, called by nobody: panics abort.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

/// Named by the compiled `alloc`, called by nobody: panics abort.
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() -> ! {
    super::instructions::stop()
}
