//! Kernels of a few instructions that are no 64-bit Linux: each is entered by the protocol that its file asks for, finds its
//! command line and its initial RAM disk where that protocol says, prints both, and switches the machine off.

use crate::command::{Finished, cached_kernel, debian_is_here, folder, run};

/// Where all of them are loaded.
const LOAD: u32 = 0x10_0000;
/// What each is given and has to print.
const CMDLINE: &str = "found by asking";
const INITRD: &[u8] = b"the disk\0";

/// Stays here for ever while paging is on: mov ecx, cr0; test ecx, ecx; js to itself.
const NO_PAGING: &[u8] = &[0x0f, 0x20, 0xc1, 0x85, 0xc9, 0x78, 0xfe];
/// Prints the text at esi up to its NUL, and a line break: mov edx, 0x3f8; lodsb; test al, al; jz; out dx, al; jmp; and mov
/// al, 10; out dx, al.
const PRINT: &[u8] =
    &[0xba, 0xf8, 0x03, 0, 0, 0xac, 0x84, 0xc0, 0x74, 0x03, 0xee, 0xeb, 0xf8, 0xb0, b'\n', 0xee];
/// mov dx, 0x604; mov ax, 0x3400; out dx, ax: ACPI's soft-off. Then hlt; jmp.
const OFF: &[u8] = &[0x66, 0xba, 0x04, 0x06, 0x66, 0xb8, 0x00, 0x34, 0x66, 0xef, 0xf4, 0xeb, 0xfd];

/// cmp dword ptr [ebx], "xEn3"; jne to itself; mov esi, [ebx + 24]; print; mov esi, [ebx + 16]; mov esi, [esi]; print.
fn pvh_kernel() -> Vec<u8> {
    let magic = [0x81, 0x3b, 0x78, 0xc5, 0x6e, 0x33, 0x75, 0xfe];
    [NO_PAGING, &magic, &[0x8b, 0x73, 0x18], PRINT, &[0x8b, 0x73, 0x10, 0x8b, 0x36], PRINT, OFF].concat()
}

/// cmp eax, 0x2badb002; jne to itself; mov esi, [ebx + 16]; print; mov esi, [ebx + 24]; mov esi, [esi]; print.
fn multiboot1_kernel() -> Vec<u8> {
    let magic = [0x3d, 0x02, 0xb0, 0xad, 0x2b, 0x75, 0xfe];
    [NO_PAGING, &magic, &[0x8b, 0x73, 0x10], PRINT, &[0x8b, 0x73, 0x18, 0x8b, 0x36], PRINT, OFF].concat()
}

/// cmp eax, 0x36d76289; jne to itself; lea edi, [ebx + 8]; then tag by tag: at 0 the end, at 1 print edi + 8, at 3 print
/// what [edi + 8] points at; add its size up to a multiple of eight.
fn multiboot2_kernel() -> Vec<u8> {
    let magic = [0x3d, 0x89, 0x62, 0xd7, 0x36, 0x75, 0xfe, 0x8d, 0x7b, 0x08];
    let end = [0x83, 0x3f, 0x00, 0x74, 0x3d];
    let text = [0x83, 0x3f, 0x01, 0x75, 0x13, 0x8d, 0x77, 0x08];
    let module = [0x83, 0x3f, 0x03, 0x75, 0x13, 0x8b, 0x77, 0x08];
    let next = [0x8b, 0x47, 0x04, 0x83, 0xc0, 0x07, 0x83, 0xe0, 0xf8, 0x01, 0xc7, 0xeb, 0xbe];
    [NO_PAGING, &magic, &end, &text, PRINT, &module, PRINT, &next, OFF].concat()
}

/// cmp dword ptr [esi + 0x202], "HdrS"; jne to itself; mov ebp, esi; mov esi, [ebp + 0x228]; print; mov esi, [ebp + 0x218]; print.
fn linux_kernel() -> Vec<u8> {
    let magic = [0x81, 0xbe, 0x02, 0x02, 0, 0, b'H', b'd', b'r', b'S', 0x75, 0xfe, 0x89, 0xf5];
    let (text, disk) = ([0x8b, 0xb5, 0x28, 0x02, 0, 0], [0x8b, 0xb5, 0x18, 0x02, 0, 0]);
    [NO_PAGING, &magic, &text, PRINT, &disk, PRINT, OFF].concat()
}

fn words(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn halves(values: &[u16]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn longs(values: &[u64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// An ELF32 file (System V ABI): one segment with `contents` at [`LOAD`], entered `entry` bytes behind its beginning, and, if
/// there is one, a note in the file only.
fn elf32(contents: &[u8], entry: u32, note: &[u8]) -> Vec<u8> {
    let (start, size) = (52 + 2 * 32, contents.len() as u32);
    let file = [
        b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0".to_vec(),
        halves(&[2, 3, 1, 0]),
        words(&[LOAD + entry, 52, 0, 0]),
        halves(&[52, 32, 2, 0, 0, 0]),
        words(&[1, start, LOAD, LOAD, size, size, 7, 4]),
        words(&[4, start + size, 0, 0, note.len() as u32, note.len() as u32, 4, 4]),
        contents.to_vec(),
        note.to_vec(),
    ];
    file.concat()
}

/// The same as an ELF64 file.
fn elf64(contents: &[u8], entry: u64, note: &[u8]) -> Vec<u8> {
    let (start, size, load, note_size) = (64 + 2 * 56, contents.len() as u64, LOAD.into(), note.len() as u64);
    let file = [
        b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec(),
        halves(&[2, 62, 1, 0]),
        longs(&[u64::from(LOAD) + entry, 64, 0]),
        halves(&[0, 0, 64, 56, 2, 0, 0, 0]),
        words(&[1, 7]),
        longs(&[start, load, load, size, size, 4]),
        words(&[4, 4]),
        longs(&[start + size, 0, 0, note_size, note_size, 4]),
        contents.to_vec(),
        note.to_vec(),
    ];
    file.concat()
}

/// XEN_ELFNOTE_PHYS32_ENTRY.
fn note(entry: u32) -> Vec<u8> {
    [words(&[4, 4, 18]), b"Xen\0".to_vec(), words(&[entry])].concat()
}

/// Multiboot's header with these flags and fields.
fn multiboot1_header(flags: u32, fields: &[u32]) -> Vec<u8> {
    let magic = 0x1bad_b002_u32;
    [words(&[magic, flags, 0u32.wrapping_sub(magic).wrapping_sub(flags)]), words(fields)].concat()
}

/// Multiboot 2's header with these tags: type, flags, words.
fn multiboot2_header(tags: &[(u16, u16, &[u32])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (kind, flags, contents) in tags.iter().chain(&[(0, 0, &[][..])]) {
        bytes.extend(halves(&[*kind, *flags]));
        bytes.extend(words(&[8 + 4 * contents.len() as u32]));
        bytes.extend(words(contents));
        bytes.resize(bytes.len().next_multiple_of(8), 0);
    }
    let (magic, length) = (0xe852_50d6_u32, 16 + bytes.len() as u32);
    [words(&[magic, 0, length, 0u32.wrapping_sub(magic).wrapping_sub(length)]), bytes].concat()
}

fn run_kernel(test: &str, engine: &str, kernel: &[u8]) -> Finished {
    let folder = folder(test);
    let (path, disk) = (folder.join("kernel"), folder.join("disk"));
    std::fs::write(&path, kernel).expect("a file can be written");
    std::fs::write(&disk, INITRD).expect("a file can be written");
    let (path, disk) = (path.to_str().expect("a plain path"), disk.to_str().expect("a plain path"));
    let common = ["--engine", engine, "--memory", "64M", "--timeout", "60"];
    run(&[&["run", path, "--initrd", disk, "--cmdline", CMDLINE][..], &common].concat(), "")
}

/// The kernel runs on every engine that is here, and finds everything.
fn assert_enters(test: &str, kernel: &[u8]) {
    let kvm = std::fs::File::options().read(true).write(true).open("/dev/kvm").is_ok();
    if !kvm {
        eprintln!("SKIPPED {test} on kvm: /dev/kvm does not open here");
    }
    for engine in ["translator", "kvm"].into_iter().take(1 + usize::from(kvm)) {
        let finished = run_kernel(test, engine, kernel);
        let expected = format!("{CMDLINE}\nthe disk\n");
        assert_eq!((&*finished.output, finished.status), (&*expected, Some(0)), "{engine}: {finished:?}");
    }
}

/// The request is refused in one sentence that holds this.
fn assert_refused(test: &str, kernel: &[u8], hint: &str) {
    let finished = run_kernel(test, "translator", kernel);
    assert_eq!(finished.status, Some(125), "{finished:?}");
    // What the loader finds is told behind the engine's announcement, what the file's reader finds before it.
    let last = finished.messages.lines().last().expect("there is a sentence");
    assert!(last.contains(hint) && finished.messages.lines().count() <= 2, "{finished:?}");
}

#[test]
fn a_note_makes_a_file_of_either_width_a_pvh_kernel() {
    // The file's own entry is a trap: only the note's leads to the kernel.
    let code = [&[0x0f, 0x0b, 0x90, 0x90], &pvh_kernel()[..]].concat();
    assert_enters("pvh_32", &elf32(&code, 0, &note(LOAD + 4)));
    assert_enters("pvh_64", &elf64(&code, 0, &note(LOAD + 4)));
}

#[test]
fn a_multiboot_kernel_is_an_elf_file_or_tells_its_addresses() {
    let elf = [multiboot1_header(3, &[]), multiboot1_kernel()].concat();
    assert_enters("multiboot1_32", &elf32(&elf, 12, &[]));
    assert_enters("multiboot1_64", &elf64(&elf, 12, &[]));
    let addresses = [LOAD, LOAD, 0, LOAD + 0x8000, LOAD + 32];
    let flat = [multiboot1_header(1 << 16 | 3, &addresses), multiboot1_kernel()].concat();
    assert_enters("multiboot1_flat", &flat);
}

#[test]
fn a_multiboot_2_kernel_is_an_elf_file_or_tells_its_addresses() {
    let wishes: [(u16, u16, &[u32]); 3] = [(1, 0, &[1, 3, 6]), (5, 1, &[0, 0, 32]), (6, 0, &[])];
    let header = multiboot2_header(&wishes);
    // The header is found at multiples of eight of the file: four bytes make up for ELF's 116.
    let elf = [vec![0x90; 4], header.clone(), multiboot2_kernel()].concat();
    assert_enters("multiboot2_32", &elf32(&elf, 4 + header.len() as u32, &[]));
    let length = multiboot2_header(&[(2, 0, &[0; 4]), (3, 0, &[0])]).len() as u32;
    let tags: [(u16, u16, &[u32]); 2] = [(2, 0, &[LOAD, u32::MAX, 0, 0]), (3, 0, &[LOAD + length])];
    assert_enters("multiboot2_flat", &[multiboot2_header(&tags), multiboot2_kernel()].concat());
}

#[test]
fn any_other_32_bit_elf_file_is_entered_as_linux_would_be() {
    assert_enters("linux_32", &elf32(&linux_kernel(), 0, &[]));
}

#[test]
fn a_bzimage_without_a_64_bit_entry_is_entered_in_32_bits() {
    let mut image = vec![0; 5 * 512];
    image[0x1f1] = 4;
    image[0x1fe..0x202].copy_from_slice(&[0x55, 0xaa, 0xeb, 0x6a]);
    image[0x202..0x208].copy_from_slice(b"HdrS\x0f\x02");
    for (at, value) in [(0x22c, 0x37ff_ffff_u32), (0x230, 0x20_0000), (0x238, 2047), (0x258, 0x100_0000)] {
        image[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
    image[0x260..0x264].copy_from_slice(&0x10_0000_u32.to_le_bytes());
    let mut code = linux_kernel();
    code.resize(code.len().next_multiple_of(16), 0);
    image[0x1f4..0x1f8].copy_from_slice(&(code.len() as u32 / 16).to_le_bytes());
    image.extend(code);
    assert_enters("bzimage_32", &image);
}

#[test]
fn wishes_that_cannot_be_met_are_sentences() {
    let screen = [multiboot1_header(7, &[0; 9]), multiboot1_kernel()].concat();
    assert_refused("screen1", &elf32(&screen, 48, &[]), "asks for a screen");
    let screen = [vec![0; 4], multiboot2_header(&[(5, 0, &[1024, 768, 32])])].concat();
    assert_refused("screen2", &elf32(&screen, 0, &[]), "asks for a screen");
    assert_refused("unknown", &multiboot1_header(1 << 5, &[]), "flag 5");
    let contradiction = multiboot1_header(1 << 16, &[LOAD, LOAD, LOAD + 0x1000, 0, LOAD]);
    assert_refused("contradiction", &contradiction, "contradict");
    let low = multiboot1_header(1 << 16, &[0x7000, 0x7000, 0, 0, 0x7000]);
    assert_refused("low", &low, "0x7000");
    assert_refused("stray_note", &elf32(&pvh_kernel(), 0, &note(0x5000)), "in no segment");
}

#[test]
fn debians_kernel_as_an_elf_file_boots_by_its_note_and_finds_the_same_machine() {
    if !debian_is_here("debians_kernel_as_an_elf_file_boots_by_its_note_and_finds_the_same_machine") {
        return;
    }
    let script = "cat /proc/sys/kernel/bootloader_type /proc/cmdline; grep System.RAM /proc/iomem\n\
                  ls /sys/firmware/acpi/tables; cat /proc/interrupts | grep -c timer\n";
    let found = |file: &str| {
        let kernel = cached_kernel().with_file_name(file);
        let kernel = kernel.to_str().expect("a plain path");
        let finished = run(&["run", "debian", "--kernel", kernel, "--engine", "translator"], script);
        assert_eq!(finished.status, Some(0), "{finished:?}");
        let (loader, rest) = finished.output.split_once('\n').expect("several lines");
        (loader.to_owned(), rest.to_owned())
    };
    let (linux, pvh) = (found("vmlinuz"), found("vmlinux"));
    // arch/x86/platform/pvh/enlighten.c: from bit 4 on, 11: PVH, but not Xen.
    assert_eq!(pvh.0, "176");
    assert_ne!(linux.0, pvh.0);
    assert_eq!(linux.1, pvh.1);
}
