//! `cpuid`: the host's answers, cut down to what this engine does and filled up with what it adds.
//!
//! The table is built once. Three things in it move with the state and are put in when asked: OSXSAVE, and the two
//! sizes of an `xsave` area.

mod features;
pub mod hidden;
mod topology;

use crate::cache::wide::has_wide_vectors;
use crate::cpu::components::Layout;
use crate::cpu::{Cpu, cr4, xcr0};
use crate::memory::walk::{LINEAR_BITS, PHYSICAL_BITS};
use crate::{CpuidLeaf, Options};
use features::{Circumstances, Word, offered, repeated};
use hidden::AbsentSets;
use topology::Place;

/// Last basic leaf: `xsave`. The two beyond it, 0x15 and 0x16, are the host's clocks, told where the host tells them.
const LAST_BASIC: u32 = 0xd;
const LAST_WITH_CLOCKS: u32 = 0x16;
const EXTENDED: u32 = 0x8000_0000;
/// Last extended leaves: sizes of addresses; AMD goes on to its second word of features.
const LAST_EXTENDED: u32 = 0x8000_0008;
const LAST_EXTENDED_AMD: u32 = 0x8000_0021;
/// The bit of leaf 1's ecx that mirrors CR4.OSXSAVE.
const OSXSAVE: u32 = 1 << 27;
/// Leaves whose answer depends on ecx: an absent subleaf is zero, not the first one's answer.
const SUBLEAVED: [u32; 5] = [4, 7, 0xb, 0xd, 0x8000_001d];

/// What `cpuid` answers on one vCPU.
#[derive(Debug, Clone)]
pub struct Cpuid {
    leaves: Vec<CpuidLeaf>,
    xcr0: u64,
    layout: Layout,
    absent: AbsentSets,
}

impl Cpuid {
    /// The table for a vCPU on this host.
    pub fn of_host(options: &Options) -> Cpuid {
        Cpuid::build(&host_answer, host_xcr0(), options)
    }

    /// The table for a vCPU on a host that answers `host` and whose system saves the vector state `host_xcr0`.
    pub fn build(host: &dyn Fn(u32, u32) -> [u32; 4], host_xcr0: u64, options: &Options) -> Cpuid {
        let [host_last, b, c, d] = host(0, 0);
        let amd = [b, d, c].map(u32::to_le_bytes).as_flattened() == b"AuthenticAMD"
            || [b, d, c].map(u32::to_le_bytes).as_flattened() == b"HygonGenuine";
        let (xcr0, layout) = vector_state(host, options.hidden.state(host_xcr0));
        let builder = Builder {
            host,
            place: Place { index: options.index, count: options.count.max(1) },
            layout,
            circumstances: Circumstances { amd, xcr0 },
        };
        let last = if host_last >= LAST_WITH_CLOCKS { LAST_WITH_CLOCKS } else { LAST_BASIC };
        let mut leaves = vec![CpuidLeaf { leaf: 0, subleaf: 0, answer: [last, b, c, d] }];
        leaves.extend(builder.basic(last));
        leaves.extend(builder.extended());
        // What the Host's embedder says of the processor besides is told, and takes no instruction away.
        let absent = AbsentSets::of(|leaf, subleaf| {
            let mut answer = find(&leaves, leaf, subleaf);
            options.hidden.filter(leaf, subleaf, &mut answer);
            answer
        });
        for extra in &options.cpuid {
            leaves.retain(|have| (have.leaf, have.subleaf) != (extra.leaf, extra.subleaf));
            leaves.push(*extra);
        }
        for leaf in &mut leaves {
            options.hidden.filter(leaf.leaf, leaf.subleaf, &mut leaf.answer);
        }
        Cpuid { leaves, xcr0, layout, absent }
    }

    /// What XCR0 may hold: [`Cpu::at_power_on`] wants it. Zero when there is no `xsave`.
    pub fn xcr0(&self) -> u64 {
        self.xcr0
    }

    /// True for an instruction that this processor does not have, or that the user took away: it is undefined then.
    pub fn lacks(&self, instruction: &iced_x86::Instruction) -> bool {
        self.absent.hold(instruction)
    }

    /// Where `xsave` keeps what.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// eax, ebx, ecx and edx for a `cpuid` with this eax and ecx. Zeros for what is not there.
    pub fn answer(&self, cpu: &Cpu, leaf: u32, subleaf: u32) -> [u32; 4] {
        let mut answer = self.stored(leaf, subleaf);
        match (leaf, subleaf) {
            (1, _) if cpu.cr4 & cr4::OSXSAVE != 0 => answer[2] |= OSXSAVE,
            (0xd, 0 | 1) if self.xcr0 != 0 => {
                answer[1] = self.layout.size(cpu.xcr0, subleaf == 1) as u32;
            }
            // Beyond the last level, the subleaf and the identity are still told (SDM vol. 2, CPUID).
            (0xb, 3..) => (answer[2], answer[3]) = (subleaf & 0xff, self.stored(0xb, 0)[3]),
            _ => {}
        }
        answer
    }

    /// Family, model and stepping: leaf 1's eax, and edx after INIT.
    pub fn signature(&self) -> u32 {
        self.stored(1, 0)[0]
    }

    fn stored(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
        find(&self.leaves, leaf, subleaf)
    }
}

/// What a table holds of a leaf and subleaf.
fn find(leaves: &[CpuidLeaf], leaf: u32, subleaf: u32) -> [u32; 4] {
    let of_leaf = || leaves.iter().filter(|have| have.leaf == leaf);
    let exact = of_leaf().find(|have| have.subleaf == subleaf);
    let first = || of_leaf().find(|have| have.subleaf == 0 && !SUBLEAVED.contains(&leaf));
    exact.or_else(first).map_or([0; 4], |have| have.answer)
}

struct Builder<'a> {
    host: &'a dyn Fn(u32, u32) -> [u32; 4],
    place: Place,
    layout: Layout,
    circumstances: Circumstances,
}

impl Builder<'_> {
    /// A leaf of nothing but feature words, as the table of features lets them through.
    fn features(&self, leaf: u32, subleaf: u32) -> CpuidLeaf {
        let host = (self.host)(leaf, subleaf);
        let answer = std::array::from_fn(|register| {
            offered(Word(leaf, subleaf, register), host[register], self.circumstances)
        });
        CpuidLeaf { leaf, subleaf, answer }
    }

    fn as_host(&self, leaf: u32) -> CpuidLeaf {
        CpuidLeaf { leaf, subleaf: 0, answer: (self.host)(leaf, 0) }
    }

    fn basic(&self, last: u32) -> Vec<CpuidLeaf> {
        let mut identity = self.features(1, 0);
        let host = (self.host)(1, 0);
        // Family, model and stepping; the size of a cache line.
        identity.answer[0] = host[0];
        identity.answer[1] = host[1] & 0xff00 | self.place.basic_b();
        identity.answer[3] |= self.place.basic_d();
        let more = self.features(7, 1);
        let mut first = self.features(7, 0);
        // The last subleaf.
        first.answer[0] = u32::from(more.answer != [0; 4]);
        let mut leaves = vec![identity, self.features(6, 0), first, more];
        if !self.circumstances.amd {
            leaves.push(self.as_host(2));
            leaves.extend(self.place.caches(4, self.host));
        }
        leaves.extend(self.place.levels());
        leaves.extend(self.xsave());
        if last == LAST_WITH_CLOCKS {
            leaves.extend([self.as_host(0x15), self.as_host(0x16)]);
        }
        leaves
    }

    /// Leaf 0xD: which state, how large, how it may be saved. The sizes in ebx are put in by [`Cpuid::answer`].
    fn xsave(&self) -> Vec<CpuidLeaf> {
        let state = self.circumstances.xcr0;
        if state == 0 {
            return Vec::new();
        }
        let sizes = [state as u32, 0, self.layout.size(state, false) as u32, 0];
        let mut leaves = vec![CpuidLeaf { leaf: 0xd, subleaf: 0, answer: sizes }, self.features(0xd, 1)];
        leaves.extend(self.layout.extended(state, false).map(|(component, _)| CpuidLeaf {
            leaf: 0xd,
            subleaf: component as u32,
            answer: self.layout.answer(component),
        }));
        leaves
    }

    fn extended(&self) -> Vec<CpuidLeaf> {
        let amd = self.circumstances.amd;
        let last = if amd { LAST_EXTENDED_AMD } else { LAST_EXTENDED };
        let [_, b, c, d] = (self.host)(EXTENDED, 0);
        let mut leaves = vec![CpuidLeaf { leaf: EXTENDED, subleaf: 0, answer: [last, b, c, d] }];

        let mut identity = self.features(0x8000_0001, 0);
        let basic_d = self.features(1, 0).answer[3];
        identity.answer[3] |= repeated(basic_d, self.circumstances);
        let mut sizes = self.features(0x8000_0008, 0);
        sizes.answer[0] = PHYSICAL_BITS | LINEAR_BITS << 8;
        if amd {
            let [eax, ebx, ..] = (self.host)(0x8000_0001, 0);
            (identity.answer[0], identity.answer[1]) = (eax, ebx);
            identity.answer[2] |= self.place.extended_c();
            sizes.answer[2] = self.place.sizes_c();
        }
        leaves.extend([identity, sizes, self.features(0x8000_0007, 0)]);
        // The brand's three leaves; the caches' and TLBs' two, of which Intel fills the second.
        leaves.extend((0x8000_0002..=0x8000_0006).map(|leaf| self.as_host(leaf)));
        if amd {
            leaves.extend([self.as_host(0x8000_0019), self.as_host(0x8000_001a)]);
            leaves.extend(self.place.caches(0x8000_001d, self.host));
            let answer = self.place.amd_identity();
            leaves.push(CpuidLeaf { leaf: 0x8000_001e, subleaf: 0, answer });
            leaves.push(self.features(0x8000_0021, 0));
        }
        leaves
    }
}

/// What of the host's vector state is offered, and where `xsave` keeps it.
fn vector_state(host: &dyn Fn(u32, u32) -> [u32; 4], host_xcr0: u64) -> (u64, Layout) {
    let narrow = host_xcr0 & (xcr0::X87 | xcr0::SSE | xcr0::AVX);
    [narrow | host_xcr0 & xcr0::AVX512, narrow, narrow & !xcr0::AVX]
        .into_iter()
        .find_map(|state| Layout::of_host(host, state).map(|layout| (state, layout)))
        .unwrap_or_default()
}

/// The host's answer, zeros beyond its last leaf (where Intel would repeat another leaf's).
fn host_answer(leaf: u32, subleaf: u32) -> [u32; 4] {
    use std::arch::x86_64::{__cpuid_count, __get_cpuid_max};
    let (last, _) = __get_cpuid_max(leaf & EXTENDED);
    if leaf > last {
        return [0; 4];
    }
    let answer = __cpuid_count(leaf, subleaf);
    [answer.eax, answer.ebx, answer.ecx, answer.edx]
}

/// The vector state that the host's system saves, of what is known here.
fn host_xcr0() -> u64 {
    const HOST_OSXSAVE: u32 = OSXSAVE;
    if host_answer(1, 0)[2] & HOST_OSXSAVE == 0 {
        0
    } else if has_wide_vectors() {
        xcr0::X87 | xcr0::SSE | xcr0::AVX | xcr0::AVX512
    } else if std::arch::is_x86_feature_detected!("avx") {
        xcr0::X87 | xcr0::SSE | xcr0::AVX
    } else {
        xcr0::X87 | xcr0::SSE
    }
}

#[cfg(test)]
mod tests;
