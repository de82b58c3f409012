//! Who sits where: one package, a core for each vCPU, a thread for each core, in every way that `cpuid` has learnt to say it.
//!
//! APIC identities are the vCPUs' numbers, so that all of them agree.

use crate::CpuidLeaf;

/// How many of a host's caches are described; a host that goes on longer is not believed.
const CACHES: u32 = 8;
/// Topology level types of leaf 0xB.
const LEVEL_THREAD: u32 = 1;
const LEVEL_CORE: u32 = 2;

/// This vCPU's place.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    /// Number of this vCPU, and its APIC identity.
    pub index: u32,
    /// How many there are, at least one.
    pub count: u32,
}

impl Place {
    /// Bits of an APIC identity that tell the cores apart.
    fn core_bits(self) -> u32 {
        self.count.next_power_of_two().trailing_zeros()
    }

    /// What goes to leaf 1's ebx above the cache-line size: how many, and which.
    pub fn basic_b(self) -> u32 {
        self.count.next_power_of_two().min(255) << 16 | self.index << 24
    }

    /// The HTT bit of leaf 1's edx: the count in ebx means something.
    pub fn basic_d(self) -> u32 {
        u32::from(self.count > 1) << 28
    }

    /// The CMP_LEGACY bit of AMD's leaf 0x8000_0001's ecx: those are cores, not threads.
    pub fn extended_c(self) -> u32 {
        u32::from(self.count > 1) << 1
    }

    /// AMD's leaf 0x8000_0008, ecx: cores minus one, and how many bits of an identity they take.
    pub fn sizes_c(self) -> u32 {
        (self.count - 1).min(255) | self.core_bits() << 12
    }

    /// Leaf 0xB: threads of a core, cores of the package.
    pub fn levels(self) -> [CpuidLeaf; 3] {
        let level = |subleaf, shift, threads, kind: u32| CpuidLeaf {
            leaf: 0xb,
            subleaf,
            answer: [shift, threads, kind << 8 | subleaf, self.index],
        };
        [level(0, 0, 1, LEVEL_THREAD), level(1, self.core_bits(), self.count, LEVEL_CORE), level(2, 0, 0, 0)]
    }

    /// AMD's leaf 0x8000_001E: identity, core and node.
    pub fn amd_identity(self) -> [u32; 4] {
        [self.index, self.index & 0xff, 0, 0]
    }

    /// The host's caches from `leaf` (4, or AMD's 0x8000_001D), shared as this machine's cores share them: the third
    /// level by all, the others by nobody.
    pub fn caches(self, leaf: u32, host: &dyn Fn(u32, u32) -> [u32; 4]) -> Vec<CpuidLeaf> {
        let mut found = Vec::new();
        for subleaf in 0..CACHES {
            let [eax, ebx, ecx, edx] = host(leaf, subleaf);
            if eax & 0x1f == 0 {
                break;
            }
            let identities = (1 << self.core_bits()) - 1;
            let sharing = if eax >> 5 & 7 >= 3 { identities } else { 0 };
            // Only Intel's leaf says how many cores a package holds.
            let cores = if leaf == 4 { identities.min(63) } else { 0 };
            let eax = eax & 0x3fff | sharing << 14 | cores << 26;
            found.push(CpuidLeaf { leaf, subleaf, answer: [eax, ebx, ecx, edx] });
        }
        found
    }
}
