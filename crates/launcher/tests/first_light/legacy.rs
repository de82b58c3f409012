//! A 32-bit program under a 64-bit kernel: Debian's runs them, so a Guest must.

use crate::command::{debian_is_here, run};

/// Where the program is loaded.
const BASE: u32 = 0x0804_8000;
/// Bytes of the file's two headers, behind which code begins.
const HEADERS: u32 = 84;

/// An ELF file of one segment for an i386 (System V ABI, Intel386 supplement, chapter 4): `code`, then `data`.
fn program(code: &[u8], data: &[u8]) -> Vec<u8> {
    let mut file = b"\x7fELF\x01\x01\x01".to_vec();
    file.resize(16, 0);
    let size = HEADERS + (code.len() + data.len()) as u32;
    let word = |value: u32| value.to_le_bytes();
    // An executable for machine 3; the entry; where the program header is.
    file.extend([2, 0, 3, 0, 1, 0, 0, 0]);
    file.extend([word(BASE + HEADERS), word(52), word(0), word(0)].as_flattened());
    file.extend([52, 0, 32, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    // Load all of the file, to be read, written and executed.
    let load = [1, 0, BASE, BASE, size, size, 7, 0x1000];
    file.extend(load.map(word).as_flattened());
    file.extend_from_slice(code);
    file.extend_from_slice(data);
    file
}

#[test]
fn a_32_bit_program_calls_the_kernel_and_ends_with_its_status() {
    if !debian_is_here("a_32_bit_program_calls_the_kernel_and_ends_with_its_status") {
        return;
    }
    let text = b"wide enough\n";
    let mut code = vec![
        0xb9, 0, 0, 0, 0, // mov ecx, text
        0xba, 0x0c, 0, 0, 0, // mov edx, 12
        0x31, 0xc0, 0x31, 0xdb, // xor eax, eax; xor ebx, ebx
        0x40, 0x43, 0xc1, 0xe0, 2, // inc eax; inc ebx; shl eax, 2
        0xcd, 0x80, // int 0x80: write(1, text, 12)
        0x60, 0x61, // pusha; popa
        0x8d, 0x58, 0x1e, // lea ebx, [eax + 30]
        0xb8, 1, 0, 0, 0, // mov eax, 1
        0xcd, 0x80, // int 0x80: exit(12 + 30)
    ];
    let place = BASE + HEADERS + code.len() as u32;
    code[1..5].copy_from_slice(&place.to_le_bytes());
    let octal: String = program(&code, text).iter().map(|byte| format!("\\0{byte:03o}")).collect();
    let script = format!("printf '%b' '{octal}' > /p; chmod +x /p; /p; echo $?\n");
    let finished = run(&["run", "debian", "--engine", "translator"], &script);
    assert_eq!((finished.output.trim_end(), finished.status), ("wide enough\n42", Some(0)), "{finished:?}");
}
