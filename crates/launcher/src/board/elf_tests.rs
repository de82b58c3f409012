//! Kernels that lie, and one that does not.

use super::*;

const MEBIBYTE: u64 = 1 << 20;

/// A program with one segment of `code` at 16 MiB.
fn kernel(code: &[u8]) -> Vec<u8> {
    let mut file = vec![0; 0x78];
    file[..6].copy_from_slice(b"\x7fELF\x02\x01");
    put(&mut file, 16, &2u16.to_le_bytes());
    put(&mut file, 18, &62u16.to_le_bytes());
    put(&mut file, 24, &(16 * MEBIBYTE).to_le_bytes());
    put(&mut file, 32, &64u64.to_le_bytes());
    put(&mut file, 54, &56u16.to_le_bytes());
    put(&mut file, 56, &1u16.to_le_bytes());
    put(&mut file, 64, &1u32.to_le_bytes());
    put(&mut file, 72, &0x78u64.to_le_bytes());
    put(&mut file, 80, &0xffff_ffff_8100_0000u64.to_le_bytes());
    put(&mut file, 88, &(16 * MEBIBYTE).to_le_bytes());
    put(&mut file, 96, &(code.len() as u64).to_le_bytes());
    put(&mut file, 104, &(code.len() as u64 + 4096).to_le_bytes());
    file.extend_from_slice(code);
    file
}

fn put(file: &mut [u8], at: usize, bytes: &[u8]) {
    file[at..at + bytes.len()].copy_from_slice(bytes);
}

fn load(file: &[u8], memory: &Memory) -> Result<LoadedKernel, ElfError> {
    super::load(&Program::Bytes(file.to_vec()), memory)
}

fn memory() -> Memory {
    Memory::new(32 * MEBIBYTE).unwrap()
}

#[test]
fn a_kernel_lands_at_its_physical_address() {
    let memory = memory();
    let loaded = load(&kernel(b"\xf4\xeb\xfd"), &memory).unwrap();
    assert_eq!(loaded.entry, GuestAddress(16 * MEBIBYTE));
    assert_eq!(loaded.occupied, 16 * MEBIBYTE..16 * MEBIBYTE + 4096 + 3);
    let mut bytes = [0; 3];
    memory.read(loaded.entry, &mut bytes).unwrap();
    assert_eq!(&bytes, b"\xf4\xeb\xfd");
}

#[test]
fn a_virtual_entry_point_is_translated() {
    let mut file = kernel(&[0; 64]);
    put(&mut file, 24, &0xffff_ffff_8100_0010u64.to_le_bytes());
    assert_eq!(load(&file, &memory()).unwrap().entry, GuestAddress(16 * MEBIBYTE + 16));
}

#[test]
fn a_kernel_for_something_else_is_told_apart() {
    for (at, byte, sentence) in
        [(0, 0, "magic"), (5, 2, "architecture"), (18, 183, "architecture"), (16, 1, "program")]
    {
        let mut file = kernel(&[0; 8]);
        file[at] = byte;
        let error = load(&file, &memory()).unwrap_err().to_string();
        assert!(error.contains(sentence), "{error}");
    }
}

#[test]
fn a_kernel_cut_anywhere_is_an_error() {
    let file = kernel(&[0x90; 100]);
    for length in 0..file.len() {
        assert!(load(&file[..length], &memory()).is_err(), "{length} bytes");
    }
}

#[test]
fn a_segment_outside_memory_names_both_ranges() {
    for start in [0, 0x7000, 32 * MEBIBYTE, 31 * MEBIBYTE + 0xf_f000, 0xfee0_0000] {
        let mut file = kernel(&[0x90; 100]);
        put(&mut file, 88, &start.to_le_bytes());
        let error = load(&file, &memory()).unwrap_err();
        assert!(matches!(error, ElfError::OutsideMemory { .. }), "{start:#x}: {error}");
        assert!(error.to_string().contains("--memory"));
    }
}

#[test]
fn lies_in_the_program_headers_are_sentences() {
    let lies: [(usize, &[u8], &str); 6] = [
        (56, &0xffffu16.to_le_bytes(), "more than 64"),
        (54, &8u16.to_le_bytes(), "unknown size"),
        (32, &u64::MAX.to_le_bytes(), "wrap"),
        (88, &u64::MAX.to_le_bytes(), "wraps"),
        (104, &1u64.to_le_bytes(), "larger in the file"),
        (24, &0x1234u64.to_le_bytes(), "entry point"),
    ];
    for (at, bytes, sentence) in lies {
        let mut file = kernel(&[0x90; 100]);
        put(&mut file, at, bytes);
        let error = load(&file, &memory()).unwrap_err().to_string();
        assert!(error.contains(sentence), "{error} for {sentence}");
    }
}

#[test]
fn two_segments_in_one_place_are_refused() {
    let mut file = kernel(&[0x90; 200]);
    let header = file[64..120].to_vec();
    put(&mut file, 56, &2u16.to_le_bytes());
    put(&mut file, 120, &header);
    let error = load(&file, &memory()).unwrap_err().to_string();
    assert!(error.contains("two segments"), "{error}");
}
