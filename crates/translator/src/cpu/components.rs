//! Where `xsave` keeps what: the components of the vector state and their places in an area (SDM vol. 1, 13.4 and 13.5).
//!
//! ```text
//!   0 x87, xmm, MXCSR   512 header   576 then one of two formats:
//!     standard   each component at an offset of its own, the host's, whatever else is there
//!     compact    those present one behind the other, with no gaps but for alignment
//! ```

use crate::cpu::xcr0;
use std::ops::Range;

/// Bytes of the legacy region.
pub const LEGACY: usize = 512;
/// Bytes of the legacy region and the header behind it.
pub const LEGACY_AND_HEADER: usize = 576;
/// Number of the component that holds the upper halves of ymm registers; its place is the same everywhere.
pub const YMM: usize = 2;
/// Number of the component of mask registers.
pub const MASKS: usize = 5;
/// Number of the component that holds the upper halves of zmm0 to zmm15.
pub const ZMM_UPPER: usize = 6;
/// Number of the component of zmm16 to zmm31.
pub const ZMM_MORE: usize = 7;
/// All components behind the header, ascending, with their bytes (SDM vol. 1, 13.4.3 and 13.5).
pub const EXTENDED: [(usize, usize); 4] = [(YMM, 256), (MASKS, 64), (ZMM_UPPER, 512), (ZMM_MORE, 1024)];

/// One component's place in the standard format, and whether the compact one aligns it to 64 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Place {
    standard: usize,
    aligned: bool,
}

/// The places on this host: a Guest is told the host's, as a processor of this model has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Layout {
    places: [Place; EXTENDED.len()],
}

impl Layout {
    /// As a host answers `cpuid` leaf 0xD. None where it has a component that is not of the size the manual gives.
    pub fn of_host(host: &dyn Fn(u32, u32) -> [u32; 4], state: u64) -> Option<Layout> {
        let mut layout = Layout::default();
        for (place, (number, bytes)) in layout.places.iter_mut().zip(EXTENDED) {
            if state >> number & 1 == 0 {
                continue;
            }
            let [size, offset, properties, _] = host(0xd, number as u32);
            let fits =
                size as usize == bytes && (LEGACY_AND_HEADER..4096 - bytes).contains(&(offset as usize));
            if !fits {
                return None;
            }
            *place = Place { standard: offset as usize, aligned: properties & 2 != 0 };
        }
        Some(layout)
    }

    /// What leaf 0xD says of a component: eax, ebx, ecx, edx.
    pub fn answer(&self, component: usize) -> [u32; 4] {
        EXTENDED
            .iter()
            .zip(self.places)
            .find(|((number, _), _)| *number == component)
            .map_or([0; 4], |((_, bytes), place)| {
                [*bytes as u32, place.standard as u32, u32::from(place.aligned) << 1, 0]
            })
    }

    /// Bytes of an area that holds the components of `state`.
    pub fn size(&self, state: u64, compact: bool) -> usize {
        self.extended(state, compact).map(|(_, bytes)| bytes.end).fold(LEGACY_AND_HEADER, usize::max)
    }

    /// The components of `state` behind the header, each with its place in an area; a compact one is of just these.
    pub fn extended(&self, state: u64, compact: bool) -> impl Iterator<Item = (usize, Range<usize>)> {
        let places = self.places;
        let mut next = LEGACY_AND_HEADER;
        EXTENDED.into_iter().zip(places).filter(move |((number, _), _)| state >> number & 1 != 0).map(
            move |((number, bytes), place)| {
                let start = match (compact, place.aligned) {
                    (false, _) => place.standard,
                    (true, true) => next.next_multiple_of(64),
                    (true, false) => next,
                };
                next = start + bytes;
                (number, start..next)
            },
        )
    }
}

/// Whether a value may be XCR0, as far as the bits depend on each other (SDM vol. 1, 13.3): x87 is always there, AVX needs
/// SSE, AVX-512 is there as a whole and needs AVX.
pub fn is_consistent(state: u64) -> bool {
    let has = |part: u64| state & part == part;
    let any = |part: u64| state & part != 0;
    has(xcr0::X87)
        && (!any(xcr0::AVX) || has(xcr0::SSE))
        && (!any(xcr0::AVX512) || has(xcr0::AVX | xcr0::AVX512))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An AMD processor's answers, which has no gap where Intel kept MPX.
    fn host(_: u32, component: u32) -> [u32; 4] {
        match component {
            2 => [256, 576, 0, 0],
            5 => [64, 832, 0, 0],
            6 => [512, 896, 2, 0],
            7 => [1024, 1408, 2, 0],
            _ => [0; 4],
        }
    }

    #[test]
    fn the_standard_format_ends_with_its_last_component() {
        let layout = Layout::of_host(&host, 0xe7).unwrap();
        assert_eq!([3, 7, 0x27, 0xe7].map(|state| layout.size(state, false)), [576, 832, 896, 2432]);
        assert_eq!(layout.answer(ZMM_MORE), [1024, 1408, 2, 0]);
    }

    #[test]
    fn the_compact_format_leaves_out_what_is_absent_and_aligns() {
        let layout = Layout::of_host(&host, 0xe7).unwrap();
        let places: Vec<_> = layout.extended(0b1100_0000, true).collect();
        assert_eq!(places, [(6, 576..1088), (7, 1088..2112)]);
        let mut odd = layout;
        odd.places[1].standard = 900;
        let aligned: Vec<_> = odd.extended(0b0110_0000, true).collect();
        assert_eq!(aligned, [(5, 576..640), (6, 640..1152)]);
    }

    #[test]
    fn a_host_with_other_sizes_is_not_believed() {
        assert_eq!(Layout::of_host(&|_, _| [u32::MAX; 4], 0xe7), None);
        assert!(Layout::of_host(&|_, _| [u32::MAX; 4], 3).is_some());
    }

    #[test]
    fn wide_vectors_come_together_and_with_the_narrower() {
        for state in [1, 3, 7, 0xe7] {
            assert!(is_consistent(state), "{state:#x}");
        }
        for state in [0, 2, 5, 0x27, 0x67, 0xe3, 0xe5, 0x87] {
            assert!(!is_consistent(state), "{state:#x}");
        }
    }
}
