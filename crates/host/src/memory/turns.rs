//! The order in which a shared word changes hands.
//!
//! `used_len` says whose turn a DMA list is: 0 the deliverer's, anything else its owner's. Each side works on the list
//! in its turn and then passes the word on (facts 6.4): bytes, barrier, length; new address, barrier, 0.
//! [`GIVE`] is that barrier, [`TAKE`] its partner on the side that looks. The model below tries every order in which two
//! processors can see each other's writes, which no run on one kind of processor does.

use std::sync::atomic::Ordering;

/// Reading the word: what the other side did before it passed the word on is seen.
pub(super) const TAKE: Ordering = Ordering::Acquire;
/// Passing the word on: what was done before is seen by whoever sees the word.
pub(super) const GIVE: Ordering = Ordering::Release;

#[cfg(test)]
mod tests {
    use super::*;
    use loom::cell::UnsafeCell;
    use loom::sync::Arc;
    use loom::sync::atomic::AtomicU32;

    /// A list: the word, and the two things that it guards.
    #[derive(Default)]
    struct List {
        used: AtomicU32,
        address: UnsafeCell<u32>,
        bytes: UnsafeCell<u32>,
    }

    /// The memory of two processors; loom refuses two at one cell at a time, unless an order lies between them.
    fn at(cell: &UnsafeCell<u32>, value: Option<u32>) -> u32 {
        match value {
            // SAFETY: the pointer is the cell's own, and loom ends the test if another thread may hold it.
            Some(value) => cell.with_mut(|place| unsafe { std::mem::replace(&mut *place, value) }),
            // SAFETY: as above.
            None => cell.with(|place| unsafe { *place }),
        }
    }

    /// One turn of the deliverer's, if it is its turn: looks where the bytes go, brings them, says how many.
    fn deliver(list: &List, take: Ordering, give: Ordering) {
        if list.used.load(take) == 0 {
            let address = at(&list.address, None);
            at(&list.bytes, Some(100 + address));
            list.used.store(1, give);
        }
    }

    /// One turn of the owner's: takes the bytes of the address it gave, gives a new address, says it is free.
    fn refill(list: &List, take: Ordering, give: Ordering) {
        if list.used.load(take) != 0 {
            let address = at(&list.address, None);
            assert_eq!(at(&list.bytes, None), 100 + address, "the length came before the bytes");
            at(&list.address, Some(address + 1));
            list.used.store(0, give);
        }
    }

    fn every_order(take: Ordering, give: Ordering) {
        loom::model(move || {
            let list = Arc::new(List::default());
            let (first, second) = (list.clone(), list);
            let deliverer = loom::thread::spawn(move || (0..2).for_each(|_| deliver(&first, take, give)));
            let owner = loom::thread::spawn(move || (0..2).for_each(|_| refill(&second, take, give)));
            deliverer.join().unwrap();
            owner.join().unwrap();
        });
    }

    #[test]
    fn in_no_order_is_a_length_seen_before_its_bytes_or_a_free_list_before_its_address() {
        every_order(TAKE, GIVE);
    }

    #[test]
    #[should_panic(expected = "Causality violation")]
    fn the_model_finds_what_a_missing_barrier_on_the_giving_side_does() {
        every_order(TAKE, Ordering::Relaxed);
    }

    #[test]
    #[should_panic(expected = "Causality violation")]
    fn the_model_finds_what_a_missing_barrier_on_the_taking_side_does() {
        every_order(Ordering::Relaxed, GIVE);
    }
}
