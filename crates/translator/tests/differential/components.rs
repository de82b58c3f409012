//! Where this host keeps what in an XSAVE image of the standard format (SDM vol. 1, 13.4): both sides of the comparison use
//! that format, and the Guest is told the host's places.

use std::arch::x86_64::__cpuid_count;
use std::sync::LazyLock;

/// Bytes of the largest image: Intel's, which keeps the places of MPX.
pub const XSAVE_BYTES: usize = 2688;
/// Where the header lies in it; its first eight bytes say which parts are not in their initial state.
pub const XSAVE_HEADER: usize = 512;
/// Place of the upper halves of ymm0 to ymm15.
pub const YMM_UPPER: usize = 576;

/// Places of AVX-512's components; None where the host has none.
#[derive(Debug, Clone, Copy)]
pub struct Wide {
    /// k0 to k7.
    pub masks: usize,
    /// Upper halves of zmm0 to zmm15.
    pub upper: usize,
    /// zmm16 to zmm31.
    pub more: usize,
}

/// This host's.
pub fn wide() -> Option<Wide> {
    static WIDE: LazyLock<Option<Wide>> = LazyLock::new(|| {
        let place = |component| __cpuid_count(0xd, component).ebx as usize;
        let found = Wide { masks: place(5), upper: place(6), more: place(7) };
        let fits = found.more + 1024 <= XSAVE_BYTES;
        (is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw") && fits).then_some(found)
    });
    *WIDE
}

/// What XCR0 is in the Guest, and may be in a header.
pub fn state() -> u64 {
    match (wide(), is_x86_feature_detected!("avx")) {
        (Some(_), _) => 0xe7,
        (None, true) => 7,
        (None, false) => 3,
    }
}
