//! Memory that the Host touches too. Addresses are guest-physical, and the page tables leave them what they are.

use alloc::alloc::{alloc_zeroed, dealloc};
use core::alloc::Layout;
use core::arch::asm;
use core::ptr;
use core::sync::atomic::{Ordering, fence};

use lguest_abi::meeting::PAGE_SIZE;
use lguest_guest::model::Memory;

/// All memory of this Guest.
pub struct Shared;

/// Natural alignment up to a page, as [`Memory::allocate`] promises.
fn layout(bytes: usize) -> Option<Layout> {
    let align = bytes.checked_next_power_of_two()?.clamp(16, PAGE_SIZE as usize);
    Layout::from_size_align(bytes.max(1), align).ok()
}

impl Memory for Shared {
    fn read(&self, at: u64, bytes: &mut [u8]) {
        // What fits one instruction takes one: the other side may write it at once, and device registers have a width.
        match (bytes, at % 4) {
            ([byte], _) => {
                // SAFETY: see `copy`.
                *byte = unsafe { ptr::read_volatile(at as *const u8) };
            }
            (bytes, 0 | 2) if bytes.len() == 2 => {
                // SAFETY: see `copy`.
                let word = unsafe { ptr::read_volatile(at as *const u16) };
                bytes.copy_from_slice(&word.to_ne_bytes());
            }
            (bytes, 0) if bytes.len() == 4 => {
                // SAFETY: see `copy`.
                let word = unsafe { ptr::read_volatile(at as *const u32) };
                bytes.copy_from_slice(&word.to_ne_bytes());
            }
            (bytes, _) => copy(at as *const u8, bytes.as_mut_ptr(), bytes.len()),
        }
    }

    fn write(&self, at: u64, bytes: &[u8]) {
        match *bytes {
            [byte] => {
                // SAFETY: see `copy`.
                unsafe { ptr::write_volatile(at as *mut u8, byte) };
            }
            [a, b] if at.is_multiple_of(2) => {
                // SAFETY: see `copy`.
                unsafe { ptr::write_volatile(at as *mut u16, u16::from_ne_bytes([a, b])) };
            }
            [a, b, c, d] if at.is_multiple_of(4) => {
                // SAFETY: see `copy`.
                unsafe { ptr::write_volatile(at as *mut u32, u32::from_ne_bytes([a, b, c, d])) };
            }
            _ => copy(bytes.as_ptr(), at as *mut u8, bytes.len()),
        }
    }

    fn barrier(&self) {
        fence(Ordering::SeqCst);
    }

    fn allocate(&self, bytes: usize) -> Option<u64> {
        let layout = layout(bytes)?;
        // SAFETY: the size is not zero.
        let block = unsafe { alloc_zeroed(layout) };
        (!block.is_null()).then_some(block as u64)
    }

    fn free(&self, at: u64, bytes: usize) {
        if let Some(layout) = layout(bytes) {
            // SAFETY: it came from `allocate` with the same size, hence the same layout.
            unsafe { dealloc(at as *mut u8, layout) };
        }
    }
}

/// Copies with one instruction, which the compiler can neither split, repeat nor drop.
fn copy(from: *const u8, to: *mut u8, count: usize) {
    // SAFETY: one side is a slice of ours; the other lies in a buffer from `allocate` or in a device's pages, which
    // `Buffer` checked, and which is mapped and no Rust object.
    unsafe {
        asm!("rep movsb", inout("rcx") count => _, inout("rsi") from => _, inout("rdi") to => _,
            options(nostack, preserves_flags));
    }
}
