//! Who listens where: arrays of lists bound to keys.
//!
//! The table is a plain list with the newest binding first, because the newest wins. It is short: a Guest binds at
//! most thirty-two arrays, and a link has at most 682 slots with one binding each in practice.

use lguest_abi::dma::MAX_BINDINGS;
use lguest_abi::meeting::Irq;

/// One array bound to a key by `owner`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Binding<O> {
    /// Whose lists.
    pub owner: O,
    /// Which byte of the memory under the key: equal bytes are equal keys.
    pub key: u64,
    /// Guest-physical address of the array. Not checked until it is read (facts 6.1).
    pub array: u64,
    /// Lists in it.
    pub count: u16,
    /// The interrupt of an arrival, never 0.
    pub irq: Irq,
    /// Where the next search begins.
    pub cursor: u16,
}

/// Why a binding was not made; the Guest sees 0, and its driver ENOMEM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BindError {
    /// The Guest has thirty-two already.
    #[error("a Guest binds at most {MAX_BINDINGS} DMA arrays")]
    Full,
    /// Interrupt 0 means unbind.
    #[error("interrupt 0 is the timer's")]
    Timer,
}

/// All bindings that one lock protects.
#[derive(Debug)]
pub struct Bindings<O> {
    newest_first: Vec<Binding<O>>,
}

impl<O> Default for Bindings<O> {
    fn default() -> Self {
        Bindings { newest_first: Vec::new() }
    }
}

impl<O: Copy + PartialEq> Bindings<O> {
    /// Binds an array; it wins over older ones at the same key.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn bind(&mut self, owner: O, key: u64, array: u64, count: u16, irq: Irq) -> Result<(), BindError> {
        if irq.number() == 0 {
            return Err(BindError::Timer);
        }
        if self.of(owner) >= MAX_BINDINGS {
            return Err(BindError::Full);
        }
        self.newest_first.insert(0, Binding { owner, key, array, count, irq, cursor: 0 });
        Ok(())
    }

    /// Takes the binding of this owner, key and array back. False when there is none, also the second time (D2).
    pub fn unbind(&mut self, owner: O, key: u64, array: u64) -> bool {
        let same = |b: &Binding<O>| b.owner == owner && b.key == key && b.array == array;
        // The original searches its slots from the first one, so of several the oldest goes.
        match self.newest_first.iter().rposition(same) {
            Some(place) => {
                self.newest_first.remove(place);
                true
            }
            None => false,
        }
    }

    /// Takes everything of an owner back.
    pub fn forget(&mut self, owner: O) {
        self.newest_first.retain(|binding| binding.owner != owner);
    }

    /// How many an owner has.
    pub fn of(&self, owner: O) -> usize {
        self.newest_first.iter().filter(|binding| binding.owner == owner).count()
    }

    /// The newest binding at `key` that is not `sender`'s own: nobody sends to itself.
    pub fn receiver(&mut self, key: u64, sender: O) -> Option<&mut Binding<O>> {
        self.newest_first.iter_mut().find(|binding| binding.key == key && binding.owner != sender)
    }

    /// The newest binding of `owner` at `key`: what GETDMA looks for.
    pub fn own(&self, key: u64, owner: O) -> Option<&Binding<O>> {
        self.newest_first.iter().find(|binding| binding.key == key && binding.owner == owner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn irq(number: u8) -> Irq {
        Irq::new(number).unwrap()
    }

    #[test]
    fn a_33rd_binding_is_refused_and_freeing_one_makes_room() {
        let mut bindings = Bindings::default();
        for n in 0..32 {
            bindings.bind(1, n * 4, 0x1000, 1, irq(2)).unwrap();
        }
        assert_eq!(bindings.bind(1, 400, 0x1000, 1, irq(2)), Err(BindError::Full));
        bindings.bind(2, 400, 0x1000, 1, irq(2)).expect("another Guest has its own thirty-two");
        assert!(bindings.unbind(1, 8, 0x1000));
        assert_eq!(bindings.bind(1, 400, 0x1000, 1, irq(2)), Ok(()));
    }

    #[test]
    fn a_second_unbind_finds_nothing() {
        let mut bindings = Bindings::default();
        bindings.bind(1, 4, 0x1000, 1, irq(2)).unwrap();
        assert!(!bindings.unbind(1, 4, 0x1004), "another array");
        assert!(!bindings.unbind(2, 4, 0x1000), "another Guest's");
        assert!(bindings.unbind(1, 4, 0x1000));
        assert!(!bindings.unbind(1, 4, 0x1000));
    }

    #[test]
    fn the_newest_binding_wins_and_nobody_sends_to_itself() {
        let mut bindings = Bindings::default();
        bindings.bind(1, 4, 0x1000, 1, irq(2)).unwrap();
        assert!(bindings.receiver(4, 1).is_none());
        bindings.bind(2, 4, 0x2000, 1, irq(2)).unwrap();
        bindings.bind(3, 4, 0x3000, 1, irq(2)).unwrap();
        assert_eq!(bindings.receiver(4, 1).unwrap().owner, 3);
        assert_eq!(bindings.receiver(4, 3).unwrap().owner, 2);
        bindings.forget(3);
        assert_eq!(bindings.receiver(4, 1).unwrap().owner, 2);
    }

    #[test]
    fn interrupt_0_is_not_bound() {
        assert_eq!(Bindings::default().bind(1, 0, 0, 1, irq(0)), Err(BindError::Timer));
    }
}
