//! The tables as an operating system reads them: by signature, length and checksum.

use std::collections::BTreeMap;

use super::*;

fn machine(cpus: u32) -> (Memory, GuestAddress) {
    let memory = Memory::new(2 << 20).unwrap();
    let root = place(&memory, cpus, Virtio::Pci(31)).unwrap();
    (memory, root)
}

fn read(memory: &Memory, address: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    memory.read(GuestAddress(address), &mut bytes).unwrap();
    bytes
}

fn number(bytes: &[u8], at: usize, size: usize) -> u64 {
    bytes[at..at + size].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

/// A table with a standard header, checked.
fn table(memory: &Memory, address: u64) -> Vec<u8> {
    let length = number(&read(memory, address, 8), 4, 4) as usize;
    let bytes = read(memory, address, length);
    assert_eq!(sum(&bytes), 0, "{:?}", String::from_utf8_lossy(&bytes[..4]));
    bytes
}

/// Everything the root pointer leads to, by signature.
fn tables(memory: &Memory, root: GuestAddress) -> BTreeMap<String, Vec<u8>> {
    let pointer = read(memory, root.0, 36);
    assert_eq!(&pointer[..8], b"RSD PTR ");
    assert_eq!((sum(&pointer[..20]), sum(&pointer)), (0, 0));
    let xsdt = table(memory, number(&pointer, 24, 8));
    let mut tables: Vec<_> = xsdt[36..].chunks(8).map(|entry| table(memory, number(entry, 0, 8))).collect();
    let fadt = tables.iter().find(|table| table.starts_with(b"FACP")).unwrap();
    let (facs, dsdt) = (number(fadt, 36, 4), number(fadt, 40, 4));
    assert_eq!(number(fadt, 140, 8), dsdt, "both pointers to the DSDT agree");
    assert_eq!(facs % 64, 0);
    let (facs, dsdt) = (read(memory, facs, 64), table(memory, dsdt));
    tables.extend([facs, dsdt]);
    tables.into_iter().map(|table| (String::from_utf8_lossy(&table[..4]).into_owned(), table)).collect()
}

#[test]
fn the_root_pointer_leads_to_sound_tables() {
    let (memory, root) = machine(1);
    let found = tables(&memory, root);
    assert_eq!(found.keys().collect::<Vec<_>>(), ["APIC", "DSDT", "FACP", "FACS"]);
}

#[test]
fn the_fadt_names_the_registers_that_are_wired() {
    let (memory, root) = machine(1);
    let fadt = &tables(&memory, root)["FACP"];
    assert_eq!(number(fadt, 46, 2), 9, "SCI");
    assert_eq!((number(fadt, 56, 4), fadt[88]), (0x600, 4), "PM1a events");
    assert_eq!((number(fadt, 64, 4), fadt[89]), (0x604, 2), "PM1a control");
    assert_eq!((number(fadt, 76, 4), fadt[91]), (0x608, 4), "PM timer");
    assert_eq!(number(fadt, 48, 4), 0, "no SMI command: ACPI mode is on");
    assert_eq!(fadt[108], 0x32, "century");
    assert_eq!((number(fadt, 120, 8), fadt[128]), (0xcf9, 6), "reset register");
    assert_eq!(number(fadt, 109, 2) & 2, 0, "no keyboard controller");
    assert_eq!(number(fadt, 112, 4) >> 20 & 1, 0, "not hardware-reduced");
}

#[test]
fn the_madt_names_every_processor_and_where_the_timer_went() {
    let (memory, root) = machine(3);
    let madt = &tables(&memory, root)["APIC"];
    assert_eq!((number(madt, 36, 4), number(madt, 40, 4)), (0xfee0_0000, 1));
    let mut at = 44;
    let mut entries = Vec::new();
    while at < madt.len() {
        entries.push(madt[at..at + usize::from(madt[at + 1])].to_vec());
        at += entries.last().unwrap().len();
    }
    let kinds: Vec<u8> = entries.iter().map(|entry| entry[0]).collect();
    assert_eq!(kinds, [0, 0, 0, 1, 2, 2, 4]);
    assert_eq!(entries[2][2..4], [2, 2]);
    assert_eq!(number(&entries[3], 4, 4), 0xfec0_0000);
    assert_eq!((entries[4][3], entries[4][4]), (0, 2), "the timer is on pin 2");
    assert_eq!((entries[5][3], entries[5][4], entries[5][8]), (9, 9, 0b1101), "the SCI is level and high");
}

/// The interrupt overrides that say level and high.
fn level_lines(virtio: Virtio) -> Vec<u8> {
    let memory = Memory::new(2 << 20).unwrap();
    let root = place(&memory, 1, virtio).unwrap();
    let madt = &tables(&memory, root)["APIC"];
    let (mut at, mut lines) = (44, Vec::new());
    while at < madt.len() {
        if madt[at] == 2 && madt[at + 8] == 0b1101 {
            assert_eq!(u64::from(madt[at + 3]), number(madt, at + 4, 4), "the pin of the same number");
            lines.push(madt[at + 3]);
        }
        at += usize::from(madt[at + 1]);
    }
    lines
}

#[test]
fn a_device_in_memory_has_a_level_line_whoever_names_it_and_a_name_only_where_the_tables_do() {
    assert_eq!(level_lines(Virtio::Pci(3)), [9]);
    for virtio in [Virtio::Mmio(3), Virtio::Lines(3)] {
        assert_eq!(level_lines(virtio), [9, 5, 6, 7]);
        let memory = Memory::new(2 << 20).unwrap();
        let root = place(&memory, 1, virtio).unwrap();
        let dsdt = &tables(&memory, root)["DSDT"];
        let named = |name: &[u8]| dsdt.windows(4).any(|window| window == name);
        assert_eq!(named(b"VIO2"), virtio == Virtio::Mmio(3));
        assert!(!named(b"VIO3"));
    }
}

#[test]
fn the_dsdt_has_soft_off_the_pci_root_and_the_serial_ports() {
    let (memory, root) = machine(1);
    let dsdt = &tables(&memory, root)["DSDT"];
    for name in [&b"_S5_"[..], b"PCI0", b"COM1", b"COM2", b"RTC0"] {
        assert!(dsdt.windows(4).any(|window| window == name), "{}", String::from_utf8_lossy(name));
    }
}

/// Intel's own disassembler, where it is installed (`acpica-tools`): it must read every byte of the DSDT.
#[test]
fn the_reference_disassembler_reads_the_dsdt() {
    let (memory, root) = machine(1);
    let directory = std::env::temp_dir().join(format!("lguest-dsdt-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let file = directory.join("dsdt.aml");
    std::fs::write(&file, &tables(&memory, root)["DSDT"]).unwrap();
    match std::process::Command::new("iasl").arg("-d").arg(&file).output() {
        Err(_) => eprintln!("SKIPPED: iasl is not installed"),
        Ok(output) => {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let source = std::fs::read_to_string(directory.join("dsdt.dsl")).unwrap();
            for wanted in ["Name (\\_S5, Package (0x04)", "PNP0A03", "PNP0501", "0x03F8", "0x02F8"] {
                assert!(source.contains(wanted), "{wanted} is not in\n{source}");
            }
        }
    }
    std::fs::remove_dir_all(&directory).unwrap();
}
