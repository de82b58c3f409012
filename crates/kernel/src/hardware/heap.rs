//! The heap: blocks of powers of two, each aligned to its size, at most to a page.
//!
//! A free block is a link in the list of its size; a list that is empty takes fresh memory. Nothing is ever joined: a Guest
//! that uses a size once will use it again. The alignment is what devices want: a block of up to a page never
//! crosses one.

use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::ptr::{self, NonNull};

use lguest_abi::meeting::PAGE_SIZE;

/// The smallest block, 16 bytes: room for a link.
const SMALLEST: u32 = 4;
/// Lists: 16 bytes to 2 GiB.
const SIZES: usize = 28;

struct Free {
    next: Option<NonNull<Free>>,
}

struct State {
    lists: [Option<NonNull<Free>>; SIZES],
    next: usize,
    end: usize,
}

/// The one heap.
struct Heap(UnsafeCell<State>);

// SAFETY: one processor, and interrupt handlers allocate nothing.
unsafe impl Sync for Heap {}

#[global_allocator]
static HEAP: Heap = Heap(UnsafeCell::new(State { lists: [None; SIZES], next: 0, end: 0 }));

/// Gives the heap its memory. Called once, by [`super::boot::start`].
pub(super) fn give(start: u64, end: u64) {
    let state = HEAP.0.get();
    // SAFETY: called before the first allocation; nobody else holds the state.
    let state = unsafe { &mut *state };
    (state.next, state.end) = (start as usize, end as usize);
}

/// Bytes that were never used.
pub fn untouched() -> usize {
    let state = HEAP.0.get();
    // SAFETY: one processor, and no reference to the state outlives a call into this file.
    let state = unsafe { &*state };
    state.end - state.next
}

/// The list for a layout: the power of two that holds both its size and its alignment.
fn list(layout: Layout) -> Option<usize> {
    let size = layout.size().max(layout.align()).max(1 << SMALLEST).checked_next_power_of_two()?;
    let list = (size.trailing_zeros() - SMALLEST) as usize;
    (list < SIZES).then_some(list)
}

impl State {
    fn allocate(&mut self, list: usize) -> *mut u8 {
        if let Some(block) = self.lists[list] {
            // SAFETY: what is in a list is a free block that `release` wrote.
            let free = unsafe { block.as_ref() };
            self.lists[list] = free.next;
            return block.as_ptr().cast();
        }
        let size = 1usize << (list as u32 + SMALLEST);
        let start = self.next.next_multiple_of(size.min(PAGE_SIZE as usize));
        match start.checked_add(size) {
            Some(end) if end <= self.end => {
                self.next = end;
                start as *mut u8
            }
            _ => ptr::null_mut(),
        }
    }

    fn release(&mut self, list: usize, block: *mut u8) {
        let Some(block) = NonNull::new(block.cast::<Free>()) else { return };
        // SAFETY: the block was given out for this list and is at least as large as a link.
        unsafe { block.write(Free { next: self.lists[list] }) };
        self.lists[list] = Some(block);
    }
}

// SAFETY: a block is given out once until it comes back, and is as large and as aligned as its layout, up to a page;
// nothing in a Guest asks for a larger alignment.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let state = self.0.get();
        // SAFETY: one processor, and no reference to the state outlives a call into this file.
        let state = unsafe { &mut *state };
        list(layout).map_or(ptr::null_mut(), |list| state.allocate(list))
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let state = self.0.get();
        // SAFETY: one processor, and no reference to the state outlives a call into this file.
        let state = unsafe { &mut *state };
        if let Some(list) = list(layout) {
            state.release(list, block);
        }
    }
}
