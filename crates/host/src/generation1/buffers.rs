//! GETDMA and its answer: how a machine's own devices reach the lists its Guest has bound (facts 8.2).
//!
//! A list that was taken holds its irq in `used_len`: reserved, so that nobody takes it twice. It goes back as filled
//! (`used_len` is the length) or as free (0).

use lguest_abi::dma::Sections;
use lguest_abi::meeting::Irq;

use super::Generation1;
use crate::irq::lock;
use crate::memory::Place;

/// A bound list that a device has reserved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bound {
    /// Where it lies.
    pub list: u64,
    /// What to raise when it is filled.
    pub irq: Irq,
    /// Where its bytes go.
    pub sections: Sections,
}

/// Why there is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GetDmaError {
    /// Nothing bound there, or every list is busy (D3). ENOENT.
    #[error("no free list is bound to that key")]
    None,
    /// The key is no key, or a list was no memory: the Guest is dead.
    #[error("{0}")]
    Killed(String),
}

impl Generation1 {
    /// Reserves the first free list bound to `key`.
    ///
    /// # Errors
    /// [`GetDmaError`].
    pub fn take(&self, key: u64) -> Result<Bound, GetDmaError> {
        let kill = |reason: &str| GetDmaError::Killed(self.kill(reason.to_owned()));
        let Some(place) = self.place(key) else { return Err(kill("bad registered DMA buffer")) };
        let Place::Private(byte) = place else { return Err(GetDmaError::None) };
        let found = {
            // One lock around looking and reserving, so that no unbind comes between.
            let state = lock(&self.state);
            let binding = *state.own.own(byte, ()).ok_or(GetDmaError::None)?;
            self.reserve(binding.array, binding.count, binding.irq)
        };
        let bound = found.map_err(|reason| kill(&reason))?.ok_or(GetDmaError::None)?;
        self.check(&bound.sections).map_err(|reason| kill(&reason))?;
        Ok(bound)
    }

    fn reserve(&self, array: u64, count: u16, irq: Irq) -> Result<Option<Bound>, String> {
        let bad = || "bad address in registered DMA struct".to_owned();
        for index in 0..u64::from(count) {
            let list = array.checked_add(index * self.area.form().stride()).ok_or_else(bad)?;
            if self.area.used(list).map_err(|_| bad())? == 0 {
                let (_, sections) = self.area.list(list).map_err(|_| bad())?;
                self.area.set_used(list, irq.number().into()).map_err(|_| bad())?;
                return Ok(Some(Bound { list, irq, sections }));
            }
        }
        Ok(None)
    }

    /// Gives a list back with `used` bytes in it; 0 leaves it free. The interrupt is the caller's to raise.
    pub fn finish(&self, list: u64, used: u32) {
        // The list was in memory when it was taken, and memory does not shrink.
        let _ = self.area.set_used(list, used);
    }
}
