//! Guests of a few instructions that misbehave: each ends in one sentence or in the right result, with bounded memory.

use crate::command::{Finished, PATIENCE, folder, lguest, wait};
use std::io::Read;
use std::process::Stdio;
use std::time::Instant;

/// Guest-physical address that the programs are loaded and entered at, where Linux is too.
const LOAD: u64 = 0x100_0000;

/// Most memory a run may take on the Host besides the Guest's own: code cache, tables, and some for the rest.
const MOST_OVERHEAD: u64 = 512 << 20;
/// Memory of these Guests.
const GUEST_MEMORY: u64 = 128 << 20;

/// `ud2` where no exception can be delivered: the table of handlers is empty.
const NO_HANDLER: &[u8] = &[0x0f, 0x0b];

/// mov rax, 0x7f00000000; jmp rax
const INTO_NOTHING: &[u8] = &[0x48, 0xb8, 0, 0, 0, 0, 0x7f, 0, 0, 0, 0xff, 0xe0];

/// Writes 0x2000003 to 0x2000000, makes that page the root of the page tables, and reads address zero: every level of
/// the walk is the same page.
const LOOPING_TABLES: &[u8] = &[
    0x48, 0xc7, 0xc7, 0, 0, 0, 2, // mov rdi, 0x2000000
    0x48, 0xc7, 0xc0, 3, 0, 0, 2, // mov rax, 0x2000003
    0x48, 0x89, 0x07, // mov [rdi], rax
    0x0f, 0x22, 0xdf, // mov cr3, rdi
    0x48, 0x8b, 0x04, 0x25, 0, 0, 0, 0, // mov rax, [0]
    0xeb, 0xfe, // jmp to itself
];

/// Changes the number in an instruction and runs it, 200,000 times; says ok if it always ran the new one.
const REWRITES_ITSELF: &[u8] = &[
    0xb9, 0x40, 0x0d, 0x03, 0, // mov ecx, 200000
    0x48, 0x8d, 0x3d, 3, 0, 0, 0, // lea rdi, [the number below]
    0xff, 0x07, // inc dword [rdi]
    0xb8, 0, 0, 0, 0, // mov eax, 0
    0xff, 0xc9, // dec ecx
    0x75, 0xf5, // jnz to the inc
    0x3d, 0x40, 0x0d, 0x03, 0, // cmp eax, 200000
    0x75, 0x0d, // jne past the ok
];

/// Makes 786,432 functions that only return, one a cache line, and calls each once.
const FILLS_THE_CACHE: &[u8] = &[
    0x48, 0xc7, 0xc7, 0, 0, 0, 2, // mov rdi, 0x2000000
    0x48, 0xc7, 0xc4, 0, 0, 0xf0, 1, // mov rsp, 0x1f00000
    0xc6, 0x07, 0xc3, // mov byte [rdi], 0xc3
    0xff, 0xd7, // call rdi
    0x48, 0x83, 0xc7, 0x40, // add rdi, 64
    0x48, 0x81, 0xff, 0, 0, 0, 5, // cmp rdi, 0x5000000
    0x72, 0xee, // jb to the mov
];

/// Prints "ok" on the first serial port.
const SAYS_OK: &[u8] = &[0x66, 0xba, 0xf8, 0x03, 0xb0, b'o', 0xee, 0xb0, b'k', 0xee, 0xb0, b'\n', 0xee];

/// Resets the machine by port 0xcf9, then halts for ever.
const RESETS: &[u8] = &[0x66, 0xba, 0xf9, 0x0c, 0xb0, 0x06, 0xee, 0xf4, 0xeb, 0xfd];

/// The smallest ELF kernel: one segment, loaded and entered at [`LOAD`] (System V ABI, ELF-64 object file format).
fn elf(code: &[u8]) -> Vec<u8> {
    const HEADERS: u64 = 64 + 56;
    let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let halves =
        |file: &mut Vec<u8>, values: &[u16]| values.iter().for_each(|v| file.extend(v.to_le_bytes()));
    let longs = |file: &mut Vec<u8>, values: &[u64]| values.iter().for_each(|v| file.extend(v.to_le_bytes()));
    halves(&mut file, &[2, 62, 1, 0]); // executable, x86-64, version 1
    longs(&mut file, &[LOAD, 64, 0]); // entry, program headers, no sections
    halves(&mut file, &[0, 0, 64, 56, 1, 0, 0, 0]);
    halves(&mut file, &[1, 0, 7, 0]); // PT_LOAD, readable, writable, executable
    let size = code.len() as u64;
    longs(&mut file, &[HEADERS, LOAD, LOAD, size, size, 0x1000]);
    file.extend(code);
    file
}

/// Runs a program and returns what it did and the most memory its process held, in bytes.
fn run_bare(test: &str, code: &[&[u8]]) -> (Finished, u64) {
    let path = folder(test).join("kernel");
    std::fs::write(&path, elf(&code.concat())).expect("a file can be written");
    let start = Instant::now();
    let memory = format!("{}M", GUEST_MEMORY >> 20);
    let mut child = lguest()
        .args(["run", "--memory", &memory, "--timeout", "90", "--kernel"])
        .arg(&path)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command starts");
    let mut most = 0;
    let status_file = format!("/proc/{}/status", child.id());
    while child.try_wait().expect("a child can be waited for").is_none() && start.elapsed() < PATIENCE {
        let status = std::fs::read_to_string(&status_file).unwrap_or_default();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
        most = peak.and_then(|kib| kib.parse::<u64>().ok()).map_or(most, |kib| most.max(kib << 10));
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let status = wait(&mut child, std::time::Duration::from_millis(100));
    let (mut output, mut messages) = (String::new(), String::new());
    child.stdout.take().expect("piped").read_to_string(&mut output).expect("text");
    child.stderr.take().expect("piped").read_to_string(&mut messages).expect("text");
    (Finished { status, output, messages, took: start.elapsed() }, most)
}

/// The Guest died, and one sentence says of what.
fn assert_died(test: &str, code: &[&[u8]]) -> String {
    let (finished, _) = run_bare(test, code);
    assert_eq!(finished.status, Some(126), "{finished:?}");
    let sentences = finished.sentences();
    assert_eq!(sentences.len(), 1, "{finished:?}");
    sentences[0].to_owned()
}

#[test]
fn an_exception_nobody_can_take_ends_the_guest_with_its_reason() {
    let sentence = assert_died("triple_fault", &[NO_HANDLER]);
    assert!(sentence.to_lowercase().contains("fault"), "{sentence}");
}

#[test]
fn a_jump_into_nothing_ends_the_guest_with_its_reason() {
    assert_died("into_nothing", &[INTO_NOTHING]);
}

#[test]
fn page_tables_that_loop_end_the_guest_with_its_reason() {
    assert_died("looping_tables", &[LOOPING_TABLES]);
}

#[test]
fn a_guest_that_rewrites_its_own_code_runs_what_it_wrote() {
    let (finished, most) = run_bare("rewrites", &[REWRITES_ITSELF, SAYS_OK, RESETS]);
    assert_eq!(finished.output.trim_end(), "ok", "{finished:?}");
    assert!(most < GUEST_MEMORY + MOST_OVERHEAD, "{most} bytes");
}

#[test]
fn a_guest_that_fills_the_code_cache_goes_on_in_bounded_memory() {
    let (finished, most) = run_bare("fills", &[FILLS_THE_CACHE, SAYS_OK, RESETS]);
    assert_eq!(finished.output.trim_end(), "ok", "{finished:?}");
    assert!(most < GUEST_MEMORY + MOST_OVERHEAD, "{most} bytes");
}

#[test]
fn a_guest_that_resets_the_machine_ends_the_run() {
    let (finished, _) = run_bare("resets", &[SAYS_OK, RESETS]);
    assert_eq!((finished.output.trim_end(), finished.status), ("ok", Some(126)), "{finished:?}");
}
