//! What the kernel finds, and what a user is told.

use super::*;
use crate::board::placing::{MAP_RESERVED, MAP_USABLE};

const MEBIBYTE: u64 = 1 << 20;

fn kernel() -> LoadedKernel {
    LoadedKernel { entry: GuestAddress(16 * MEBIBYTE), occupied: 16 * MEBIBYTE..20 * MEBIBYTE }
}

fn boot<'a>(initrd: &'a [u8], command_line: &'a str) -> Boot<'a> {
    Boot { setup_header: None, command_line, initrd, acpi_root: GuestAddress(0xe_0000) }
}

fn memory(mebibytes: u64) -> Memory {
    Memory::new(mebibytes * MEBIBYTE).unwrap()
}

fn parameters(memory: &Memory) -> Vec<u8> {
    read(memory, layout::BOOT_PARAMETERS.0, PARAMETERS_SIZE)
}

fn read(memory: &Memory, address: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    memory.read(GuestAddress(address), &mut bytes).unwrap();
    bytes
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// A header as a bzImage of today has it, 0x7b bytes from the magic on.
fn setup_header(command_line_size: u32, ramdisk_maximum: u32) -> Vec<u8> {
    let mut header = vec![0; 0x300];
    let mut set = |at: usize, bytes: &[u8]| header[at - SETUP_HEADER..][..bytes.len()].copy_from_slice(bytes);
    set(SETUP_JUMP, &[0x6a]);
    set(MAGIC, b"HdrS");
    set(VERSION, &0x020fu16.to_le_bytes());
    set(COMMAND_LINE_SIZE, &command_line_size.to_le_bytes());
    set(RAMDISK_MAXIMUM, &ramdisk_maximum.to_le_bytes());
    set(0x26c, b"past the end of the header");
    header
}

#[test]
fn the_kernel_finds_its_command_line_its_initrd_and_acpi() {
    let memory = memory(64);
    let entry = boot(b"initrd!", "console=ttyS0").place(&kernel(), &memory).unwrap();
    assert_eq!((entry.rip, entry.rsi), (16 * MEBIBYTE, layout::BOOT_PARAMETERS.0));
    let parameters = parameters(&memory);
    assert_eq!(&parameters[MAGIC..MAGIC + 4], b"HdrS");
    assert_eq!(parameters[LOADER_TYPE], LOADER_UNKNOWN);
    assert_eq!(word(&parameters, ACPI_ROOT), 0xe_0000);
    let text = get_u32(&parameters, COMMAND_LINE_POINTER);
    assert_eq!(read(&memory, text.into(), 14), b"console=ttyS0\0");
    let (start, size) = (get_u32(&parameters, RAMDISK_IMAGE), get_u32(&parameters, RAMDISK_SIZE));
    assert_eq!(read(&memory, start.into(), size as usize), b"initrd!");
    assert_eq!(u64::from(start), 0x37ff_f000.min(64 * MEBIBYTE - PAGE_SIZE));
}

#[test]
fn the_memory_map_names_ram_around_the_firmware_and_the_hole() {
    let memory = memory(4096);
    boot(b"", "").place(&kernel(), &memory).unwrap();
    let parameters = parameters(&memory);
    let entry = |index: usize| {
        let at = MEMORY_MAP + index * 20;
        (word(&parameters, at), word(&parameters, at + 8), get_u32(&parameters, at + 16))
    };
    assert_eq!(parameters[MEMORY_MAP_COUNT], 4);
    assert_eq!(entry(0), (0, 0x9_fc00, MAP_USABLE));
    assert_eq!(entry(1), (0x9_fc00, 0x6_0400, MAP_RESERVED));
    assert_eq!(entry(2), (MEBIBYTE, (3 << 30) - MEBIBYTE, MAP_USABLE));
    assert_eq!(entry(3), (4 << 30, 1 << 30, MAP_USABLE));
}

#[test]
fn the_page_tables_map_every_address_to_itself() {
    let memory = memory(64);
    let entry = boot(b"", "").place(&kernel(), &memory).unwrap();
    for address in [0u64, layout::BOOT_PARAMETERS.0, 16 * MEBIBYTE + 5, 0xfee0_0000, (4 << 30) - 1] {
        let mut table = entry.cr3;
        for shift in [39, 30] {
            let next = word(&read(&memory, table + (address >> shift & 511) * 8, 8), 0);
            assert_eq!(next & 3, 3);
            table = next & !0xfff;
        }
        let leaf = word(&read(&memory, table + (address >> 21 & 511) * 8, 8), 0);
        assert_eq!(leaf & 0x83, 0x83, "present, writable, large");
        assert_eq!(leaf & !0x1f_ffff, address & !0x1f_ffff);
    }
}

#[test]
fn the_segments_are_flat_and_64_bit() {
    let memory = memory(64);
    let entry = boot(b"", "").place(&kernel(), &memory).unwrap();
    let table = read(&memory, entry.gdt, usize::from(entry.gdt_limit) + 1);
    assert_eq!(word(&table, 0x10) >> 40, 0x00_af9b);
    assert_eq!(word(&table, 0x18) >> 40, 0x00_cf93);
}

#[test]
fn boot_structures_do_not_overlap() {
    let tables = layout::PAGE_TABLES.0;
    let mut ranges = [
        (layout::GDT.0, 32),
        (layout::BOOT_PARAMETERS.0, 4096),
        (tables, (2 + layout::IDENTITY_GIBIBYTES) * PAGE_SIZE),
        (layout::COMMAND_LINE.0, layout::LOW_RAM_END.0 - layout::COMMAND_LINE.0),
        (layout::ACPI_TABLES.start, layout::ACPI_TABLES.end - layout::ACPI_TABLES.start),
    ];
    ranges.sort();
    for pair in ranges.windows(2) {
        assert!(pair[0].0 + pair[0].1 <= pair[1].0, "{pair:x?}");
    }
    assert!(layout::BOOT_STACK.0 < tables && layout::BOOT_STACK.0 > layout::BOOT_PARAMETERS.0 + 4096);
}

#[test]
fn a_setup_header_is_copied_to_its_end_and_no_further() {
    let memory = memory(64);
    let header = setup_header(2047, 0x7fff_ffff);
    let boot = Boot { setup_header: Some(&header), ..boot(b"", "") };
    boot.place(&kernel(), &memory).unwrap();
    let parameters = parameters(&memory);
    assert_eq!(parameters[VERSION..VERSION + 2], 0x020fu16.to_le_bytes());
    assert_eq!(parameters[0x26c..0x270], [0; 4]);
    assert_eq!(parameters[LOAD_FLAGS] & LOADED_HIGH, LOADED_HIGH);
}

#[test]
fn any_bytes_as_a_setup_header_are_an_error_or_harmless() {
    let memory = memory(64);
    let header = setup_header(u32::MAX, u32::MAX);
    for length in 0..header.len() {
        let boot = Boot { setup_header: Some(&header[..length]), ..boot(b"x", "quiet") };
        let placed = boot.place(&kernel(), &memory);
        assert!(length >= 0x15 || matches!(placed, Err(BootError::SetupHeader)), "{length} bytes");
    }
    let boot = Boot { setup_header: Some(&header), ..boot(b"x", "quiet") };
    assert!(boot.place(&kernel(), &memory).is_ok(), "the whole one is fine");
    let garbage = vec![0xff; 0x300];
    let boot = Boot { setup_header: Some(&garbage), ..boot };
    assert!(matches!(boot.place(&kernel(), &memory), Err(BootError::SetupHeader)));
}

#[test]
fn a_command_line_that_does_not_fit_is_a_sentence() {
    let header = setup_header(100, 0);
    let long = "x".repeat(101);
    let boot = Boot { setup_header: Some(&header), ..boot(b"", &long) };
    let error = boot.place(&kernel(), &memory(64)).unwrap_err().to_string();
    assert_eq!(error, "--cmdline is 101 bytes long, and this kernel reads 100");
    let lying = setup_header(u32::MAX, 0);
    let huge = "x".repeat(1 << 20);
    let boot = Boot { setup_header: Some(&lying), ..self::boot(b"", &huge) };
    assert!(matches!(boot.place(&kernel(), &memory(64)), Err(BootError::CommandLineLength { .. })));
    assert!(matches!(self::boot(b"", "a\0b").place(&kernel(), &memory(64)), Err(BootError::CommandLineNul)));
}

#[test]
fn an_initrd_larger_than_memory_names_both_sizes() {
    let initrd = vec![7; 12 * MEBIBYTE as usize + 1];
    let error = boot(&initrd, "").place(&kernel(), &memory(32)).unwrap_err().to_string();
    assert!(error.contains("12582913 bytes") && error.contains("12582912 bytes"), "{error}");
    assert!(boot(&initrd[1..], "").place(&kernel(), &memory(32)).is_ok(), "but it may fill all of it");
}

#[test]
fn a_machine_smaller_than_its_firmware_area_is_a_sentence() {
    let memory = Memory::new(PAGE_SIZE).unwrap();
    let error = boot(b"", "").place(&LoadedKernel { occupied: 0..0, ..kernel() }, &memory).unwrap_err();
    assert!(error.to_string().contains("1 MiB"), "{error}");
}
