use super::*;
use crate::workbench::Workbench;

const AMD: [u32; 3] = [0x6874_7541, 0x444d_4163, 0x6974_6e65];
const INTEL: [u32; 3] = [0x756e_6547, 0x6c65_746e, 0x4965_6e69];
const ALL_STATE: u64 = 0xe7;

/// A host of this vendor (ebx, ecx, edx) on which every bit of every leaf is as `fill` says.
fn host(vendor: [u32; 3], fill: u32) -> impl Fn(u32, u32) -> [u32; 4] {
    move |leaf, subleaf| match leaf {
        0 => [0x20, vendor[0], vendor[1], vendor[2]],
        // Three caches: data, code, and a third level; then none.
        4 | 0x8000_001d if subleaf < 3 => [[0x121, 0x122, 0x163][subleaf as usize] | 0xfff << 14, 1, 2, 3],
        4 | 0x8000_001d => [0; 4],
        // The standard format of a processor without MPX.
        0xd if subleaf > 1 => match subleaf {
            2 => [256, 576, 0, 0],
            5 => [64, 832, 0, 0],
            6 => [512, 896, 0, 0],
            7 => [1024, 1408, 0, 0],
            _ => [0; 4],
        },
        _ => [fill; 4],
    }
}

fn table(vendor: [u32; 3], fill: u32, xcr0: u64, index: u32, count: u32) -> Cpuid {
    Cpuid::build(&host(vendor, fill), xcr0, &Options { index, count, ..Options::default() })
}

fn ask(table: &Cpuid, leaf: u32, subleaf: u32) -> [u32; 4] {
    table.answer(&Workbench::new().cpu, leaf, subleaf)
}

#[test]
fn a_host_that_has_everything_passes_on_only_what_the_engine_does() {
    for vendor in [AMD, INTEL] {
        let everything = table(vendor, u32::MAX, u64::MAX, 0, 1);
        let [_, _, c, d] = ask(&everything, 1, 0);
        // DTES64, MONITOR, DS-CPL, VMX, SMX, EST, TM2, CNXT-ID, SDBG, xTPR, PDCM, DCA, OSXSAVE.
        let forbidden = [2, 3, 4, 5, 6, 7, 8, 10, 11, 14, 15, 18, 27];
        assert!(forbidden.iter().all(|bit| c >> bit & 1 == 0), "{c:#x}");
        // VME, DS, ACPI, TM, PBE.
        assert!([1, 21, 22, 29, 31].iter().all(|bit| d >> bit & 1 == 0), "{d:#x}");
        let [last, b, c, d] = ask(&everything, 7, 0);
        // SGX, HLE, RTM, MPX, AVX-512 ER and PF, PT.
        let forbidden = [2, 4, 11, 12, 14, 15, 22, 25, 26, 27];
        assert!(last == 1 && forbidden.iter().all(|bit| b >> bit & 1 == 0), "{b:#x}");
        // VBMI, VBMI2, GFNI, VAES, VPCLMULQDQ, VNNI, BITALG, VPOPCNTDQ, RDPID.
        assert_eq!(c, [1, 6, 8, 9, 10, 11, 12, 14, 22].iter().map(|bit| 1 << bit).sum::<u32>());
        // FSRM, VP2INTERSECT.
        assert_eq!(d, 1 << 4 | 1 << 8 | 1 << 26 | 1 << 29);
        assert_eq!(ask(&everything, 7, 1), [1 << 4 | 1 << 5, 0, 0, 0]);
        assert_eq!(ask(&everything, 0xd, 0), [0xe7, 576, 2432, 0]);
        assert_eq!(ask(&everything, 0xd, 1), [0b1011, 576, 0, 0]);
        // No performance counters, no SGX, no trace; SVM, SME.
        for leaf in [5, 0xa, 0x12, 0x14, 0x8000_000a, 0x8000_001f] {
            assert_eq!(ask(&everything, leaf, 0), [0; 4], "{leaf:#x}");
        }
    }
}

#[test]
fn a_host_that_has_nothing_still_offers_what_the_engine_does_itself() {
    let nothing = table(INTEL, 0, 0, 0, 1);
    let [_, _, c, d] = ask(&nothing, 1, 0);
    // PCID, x2APIC, TSC deadline, hypervisor.
    assert_eq!(c, 1 << 17 | 1 << 21 | 1 << 24 | 1 << 31);
    // PSE, PAE, APIC, PGE, PAT among them, and no FPU, which would be the host's.
    assert_eq!((d >> 3 & 1, d >> 6 & 1, d >> 9 & 1, d & 1), (1, 1, 1, 0));
    // FSGSBASE, TSC_ADJUST, SMEP, INVPCID, SMAP.
    assert_eq!(ask(&nothing, 7, 0)[1], 1 | 1 << 1 | 1 << 7 | 1 << 10 | 1 << 20);
    // SYSCALL, NX, 1 GiB pages, RDTSCP, long mode.
    assert_eq!(ask(&nothing, 0x8000_0001, 0)[3], 1 << 11 | 1 << 20 | 1 << 26 | 1 << 27 | 1 << 29);
    assert_eq!(ask(&nothing, 0xd, 0), [0; 4]);
    assert_eq!(nothing.xcr0(), 0);
}

#[test]
fn wide_vectors_are_offered_only_when_their_state_can_be_saved() {
    let vex = 1 << 12 | 1 << 28 | 1 << 29;
    let narrow = table(AMD, u32::MAX, 3, 0, 1);
    assert_eq!(ask(&narrow, 1, 0)[2] & (vex | 1 << 26), 1 << 26);
    assert_eq!(ask(&narrow, 7, 0)[1] >> 5 & 1, 0);
    assert_eq!(ask(&narrow, 7, 0)[2] & 0x600, 0);
    assert_eq!(ask(&narrow, 0xd, 0), [3, 576, 576, 0]);
    assert_eq!(ask(&narrow, 0xd, 2), [0; 4]);
    let middle = table(AMD, u32::MAX, 7, 0, 1);
    assert_eq!(ask(&middle, 7, 0)[1] >> 5 & 1, 1);
    assert_eq!(ask(&middle, 7, 0)[1] >> 16 & 1, 0);
    assert_eq!(ask(&middle, 7, 1), [1 << 4, 0, 0, 0]);
    assert_eq!(ask(&middle, 0xd, 0), [7, 576, 832, 0]);
    assert_eq!(ask(&middle, 0xd, 6), [0; 4]);
    let none = table(AMD, u32::MAX, 0, 0, 1);
    assert_eq!(ask(&none, 1, 0)[2] & (vex | 1 << 26), 0);
}

#[test]
fn the_answer_follows_the_switches() {
    let table = table(AMD, u32::MAX, ALL_STATE, 0, 1);
    let mut cpu = Workbench::new().cpu;
    assert_eq!(table.answer(&cpu, 1, 0)[2] & OSXSAVE, 0);
    cpu.cr4 |= cr4::OSXSAVE;
    cpu.xcr0 = 7;
    assert_eq!(table.answer(&cpu, 1, 0)[2] & OSXSAVE, OSXSAVE);
    assert_eq!(table.answer(&cpu, 0xd, 0)[1], 832);
    assert_eq!(table.answer(&cpu, 0xd, 1)[1], 832);
    assert_eq!(table.answer(&cpu, 0xd, 2), [256, 576, 0, 0]);
    cpu.xcr0 = 0xe7;
    assert_eq!(table.answer(&cpu, 0xd, 0)[1], 2432);
    assert_eq!(table.answer(&cpu, 0xd, 7), [1024, 1408, 0, 0]);
}

#[test]
fn every_way_of_telling_the_topology_agrees() {
    for (count, bits) in [(1, 0), (2, 1), (3, 2), (4, 2), (8, 3)] {
        let index = count - 1;
        for vendor in [AMD, INTEL] {
            let table = table(vendor, u32::MAX, ALL_STATE, index, count);
            let [_, b, _, d] = ask(&table, 1, 0);
            assert_eq!((b >> 24, b >> 16 & 0xff, d >> 28 & 1), (index, 1 << bits, (count > 1) as u32));
            assert_eq!(ask(&table, 0xb, 0), [0, 1, 0x100, index]);
            assert_eq!(ask(&table, 0xb, 1), [bits, count, 0x201, index]);
            assert_eq!(ask(&table, 0xb, 2), [0, 0, 2, index]);
            assert_eq!(ask(&table, 0xb, 9), [0, 0, 9, index]);
            let leaf = if vendor == AMD { 0x8000_001d } else { 4 };
            let sharing = [0, 1, 2].map(|cache| ask(&table, leaf, cache)[0] >> 14 & 0xfff);
            assert_eq!(sharing, [0, 0, (1 << bits) - 1]);
            assert_eq!(ask(&table, leaf, 3), [0; 4]);
        }
        let amd = table(AMD, u32::MAX, ALL_STATE, index, count);
        assert_eq!(ask(&amd, 0x8000_0008, 0)[2], (count - 1) | bits << 12);
        assert_eq!(ask(&amd, 0x8000_001e, 0), [index, index, 0, 0]);
    }
}

#[test]
fn the_physical_address_size_is_the_page_walks() {
    let table = table(INTEL, u32::MAX, ALL_STATE, 0, 1);
    assert_eq!(ask(&table, 0x8000_0008, 0)[0], PHYSICAL_BITS | LINEAR_BITS << 8);
}

#[test]
fn amd_repeats_its_basic_features_and_intel_does_not() {
    let basic = ask(&table(AMD, u32::MAX, ALL_STATE, 0, 1), 1, 0)[3];
    let [amd, intel] =
        [AMD, INTEL].map(|vendor| ask(&table(vendor, u32::MAX, ALL_STATE, 0, 1), 0x8000_0001, 0)[3]);
    assert_eq!(amd & 0x0183_f3ff, basic & 0x0183_f3ff);
    assert_eq!(intel & 0x0183_f3ff, 0);
}

#[test]
fn the_machines_leaves_are_added_and_win() {
    let extra = |leaf, subleaf, first| CpuidLeaf { leaf, subleaf, answer: [first, 1, 2, 3] };
    let cpuid = vec![extra(0x4000_0000, 0, 0x4000_0001), extra(6, 0, 9)];
    let table =
        Cpuid::build(&host(AMD, 0), ALL_STATE, &Options { index: 0, count: 1, cpuid, ..Options::default() });
    assert_eq!(ask(&table, 0x4000_0000, 0), [0x4000_0001, 1, 2, 3]);
    // ecx means nothing to this leaf.
    assert_eq!(ask(&table, 0x4000_0000, 5), [0x4000_0001, 1, 2, 3]);
    assert_eq!(ask(&table, 6, 0), [9, 1, 2, 3]);
}

#[test]
fn leaves_beyond_the_last_are_zero() {
    let table = table(AMD, u32::MAX, ALL_STATE, 0, 1);
    for leaf in [0x17, 0x1f, 0x4000_0000, 0x8000_0022, 0xffff_ffff] {
        assert_eq!(ask(&table, leaf, 0), [0; 4]);
    }
    assert_eq!(ask(&table, 0, 0)[0], 0x16);
    assert_eq!(ask(&table, 0x8000_0000, 0)[0], 0x8000_0021);
}

#[test]
fn this_hosts_table_has_what_a_64_bit_system_requires() {
    let options = Options { index: 0, count: 1, ..Options::default() };
    let table = Cpuid::of_host(&options);
    let [_, _, _, d] = ask(&table, 1, 0);
    // Linux's REQUIRED_MASK0: FPU, PSE, MSR, PAE, CX8, PGE, CMOV, FXSR, SSE, SSE2.
    for bit in [0, 3, 5, 6, 8, 13, 15, 24, 25, 26] {
        assert_eq!(d >> bit & 1, 1, "{bit}");
    }
    assert_eq!(ask(&table, 0x8000_0001, 0)[3] >> 29 & 1, 1);
    assert_eq!(ask(&table, 0, 0)[1..], host_answer(0, 0)[1..]);
}
