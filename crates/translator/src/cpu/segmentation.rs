//! From an offset in a segment to a linear address (SDM vol. 3, 3.4 and 5.3 to 5.5): bases are added, limits and types
//! are checked. 64-bit mode has none of it but the bases of FS and GS.

use super::Cpu;
use super::segments::{FS, GS, SS, Segment};
use crate::events::exception::Exception;
use crate::memory::walk::Intent;

impl Cpu {
    /// Linear address of `size` bytes at `offset` in the segment register `index`, for an access that reads or writes.
    ///
    /// # Errors
    /// #SS(0) for SS and #GP(0) for the others: outside the limit, or of a kind that may not be accessed so. An address
    /// that is not canonical is found later, by whoever uses it.
    pub fn linear(&self, index: usize, offset: u64, size: u64, intent: Intent) -> Result<u64, Exception> {
        let segment = &self.segments[index];
        if self.in_64_bit_mode() {
            let base = if matches!(index, FS | GS) { segment.base } else { 0 };
            return Ok(base.wrapping_add(offset));
        }
        segment.linear(offset, size, intent, self.protected()).ok_or(if index == SS {
            Exception::ss(0)
        } else {
            Exception::gp(0)
        })
    }

    /// The same for the byte of code at `offset`.
    ///
    /// # Errors
    /// #GP(0) beyond the limit.
    pub fn linear_code(&self, offset: u64) -> Result<u64, Exception> {
        let segment = &self.segments[super::segments::CS];
        if self.in_64_bit_mode() {
            return Ok(offset);
        }
        if offset > segment.limit.into() {
            return Err(Exception::gp(0));
        }
        Ok(segment.base.wrapping_add(offset) & 0xffff_ffff)
    }
}

impl Segment {
    /// Linear address of `size` bytes at `offset`, outside 64-bit mode. Real mode knows limits but no types.
    pub fn linear(&self, offset: u64, size: u64, intent: Intent, protected: bool) -> Option<u64> {
        let right = !protected
            || self.present()
                && match intent {
                    Intent::Read => self.is_readable(),
                    Intent::Write => self.is_writable_data(),
                    Intent::Execute => self.is_code(),
                };
        let last = offset.checked_add(size.max(1) - 1)?;
        let limit = u64::from(self.limit);
        let inside = if self.grows_up() {
            last <= limit
        } else {
            offset > limit && last <= if self.is_big() { 0xffff_ffff } else { 0xffff }
        };
        (right && inside).then(|| self.base.wrapping_add(offset) & 0xffff_ffff)
    }
}

#[cfg(test)]
mod tests {
    use super::super::segments::attributes;
    use super::*;

    fn data(limit: u32) -> Segment {
        Segment { base: 0x1_0000, limit, ..Segment::flat_data(0x10, 0) }
    }

    #[test]
    fn the_last_byte_of_an_access_counts_against_the_limit() {
        let segment = data(0xfff);
        assert_eq!(segment.linear(0xffc, 4, Intent::Read, true), Some(0x1_0ffc));
        assert_eq!(segment.linear(0xffd, 4, Intent::Read, true), None);
        assert_eq!(segment.linear(u64::MAX, 4, Intent::Read, true), None);
    }

    #[test]
    fn a_segment_that_grows_down_begins_behind_its_limit() {
        let mut segment = data(0xfff);
        segment.attributes |= attributes::EXPAND_DOWN;
        assert_eq!(segment.linear(0xfff, 1, Intent::Write, true), None);
        assert_eq!(segment.linear(0x1000, 4, Intent::Write, true), Some(0x1_1000));
        assert_eq!(segment.linear(0xffff_fffd, 4, Intent::Write, true), None);
        segment.attributes &= !attributes::BIG;
        assert_eq!(segment.linear(0xfffe, 4, Intent::Write, true), None);
    }

    #[test]
    fn protected_mode_looks_at_types_and_real_mode_does_not() {
        let code = Segment { limit: 0xffff, ..Segment::flat_code(0x8, 0) };
        assert_eq!(code.linear(0, 1, Intent::Write, true), None);
        assert_eq!(code.linear(0, 1, Intent::Write, false), Some(0));
        assert_eq!(Segment::null(0).linear(0, 1, Intent::Read, true), None);
    }

    #[test]
    fn a_linear_address_wraps_at_32_bits() {
        let segment = Segment { base: 0xffff_f000, ..Segment::flat_data(0x10, 0) };
        assert_eq!(segment.linear(0x2000, 4, Intent::Read, true), Some(0x1000));
    }
}
