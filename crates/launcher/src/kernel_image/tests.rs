//! Synthetic images: a bzImage around any payload, and every way to break one.

use std::io::Write;

use super::*;

/// The smallest ELF file that counts as a kernel: one segment of `length` bytes after the headers.
fn small_elf(length: u64) -> Vec<u8> {
    let mut elf = vec![0; 120];
    elf[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    elf[16..18].copy_from_slice(&2u16.to_le_bytes());
    elf[18..20].copy_from_slice(&62u16.to_le_bytes());
    elf[32..40].copy_from_slice(&64u64.to_le_bytes());
    elf[54..56].copy_from_slice(&56u16.to_le_bytes());
    elf[56..58].copy_from_slice(&1u16.to_le_bytes());
    elf[64..68].copy_from_slice(&1u32.to_le_bytes());
    elf[72..80].copy_from_slice(&120u64.to_le_bytes());
    elf[96..104].copy_from_slice(&length.to_le_bytes());
    // Text that repeats, so that every compressor does something, and not all the same.
    elf.extend((0..length).map(|at| (at * at / 97) as u8));
    elf
}

fn bzimage(payload: &[u8]) -> Vec<u8> {
    let mut image = vec![0; 5 * 512];
    image[0x1f1] = 4;
    image[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    image[0x200..0x202].copy_from_slice(&[0xeb, 0x6a]);
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x206..0x208].copy_from_slice(&0x020f_u16.to_le_bytes());
    image[0x236..0x238].copy_from_slice(&0x7f_u16.to_le_bytes());
    image[0x248..0x24c].copy_from_slice(&0x40_u32.to_le_bytes());
    image[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    image.extend([0xcc; 0x40]);
    image.extend(payload);
    image.resize(image.len().next_multiple_of(16), 0);
    let paragraphs = ((image.len() - 5 * 512) / 16) as u32;
    image[0x1f4..0x1f8].copy_from_slice(&paragraphs.to_le_bytes());
    image
}

fn with_length(mut stream: Vec<u8>, kernel: &[u8]) -> Vec<u8> {
    stream.extend((kernel.len() as u32).to_le_bytes());
    stream
}

fn gzip(kernel: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(kernel).unwrap();
    encoder.finish().unwrap()
}

fn lz4_legacy(kernel: &[u8]) -> Vec<u8> {
    let mut stream = 0x184c_2102_u32.to_le_bytes().to_vec();
    for block in kernel.chunks(8 << 20) {
        let compressed = lz4_flex::block::compress(block);
        stream.extend((compressed.len() as u32).to_le_bytes());
        stream.extend(compressed);
    }
    stream
}

/// xz with the branch filter that the kernel's build adds (scripts/xz_wrap.sh).
fn xz_with_branch_filter(kernel: &[u8]) -> Vec<u8> {
    use liblzma::stream::{Check, Filters, LzmaOptions, Stream};
    let mut filters = Filters::new();
    filters.x86().lzma2(&LzmaOptions::new_preset(1).unwrap());
    let stream = Stream::new_stream_encoder(&filters, Check::Crc32).unwrap();
    let mut encoder = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
    encoder.write_all(kernel).unwrap();
    encoder.finish().unwrap()
}

fn lzma(kernel: &[u8]) -> Vec<u8> {
    use liblzma::stream::{LzmaOptions, Stream};
    let stream = Stream::new_lzma_encoder(&LzmaOptions::new_preset(1).unwrap()).unwrap();
    let mut encoder = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
    encoder.write_all(kernel).unwrap();
    encoder.finish().unwrap()
}

fn bzip2(kernel: &[u8]) -> Vec<u8> {
    let mut encoder = ::bzip2::write::BzEncoder::new(Vec::new(), ::bzip2::Compression::fast());
    encoder.write_all(kernel).unwrap();
    encoder.finish().unwrap()
}

fn every_payload(kernel: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("gzip", gzip(kernel)),
        ("xz", with_length(xz_with_branch_filter(kernel), kernel)),
        ("lzma", with_length(lzma(kernel), kernel)),
        ("bzip2", with_length(bzip2(kernel), kernel)),
        ("lz4", with_length(lz4_legacy(kernel), kernel)),
        ("zstd", with_length(zstd::encode_all(kernel, 1).unwrap(), kernel)),
    ]
}

#[test]
fn a_kernel_of_every_compression_is_unpacked() {
    let kernel = small_elf(200_000);
    for (format, payload) in every_payload(&kernel) {
        let image = KernelImage::parse(bzimage(&payload)).unwrap_or_else(|error| panic!("{format}: {error}"));
        assert!(image.vmlinux == kernel, "{format}");
        assert_eq!(image.setup_header.unwrap().len(), 0x202 + 0x6a - 0x1f1);
    }
}

#[test]
fn an_lz4_kernel_of_several_blocks_is_unpacked() {
    let kernel = small_elf(20 << 20);
    let image = KernelImage::parse(bzimage(&with_length(lz4_legacy(&kernel), &kernel))).unwrap();
    assert!(image.vmlinux == kernel);
}

#[test]
fn a_payload_cut_anywhere_is_refused_and_never_panics() {
    let kernel = small_elf(5_000);
    for (format, payload) in every_payload(&kernel) {
        for length in (0..payload.len()).step_by(7) {
            let parsed = KernelImage::parse(bzimage(&payload[..length]));
            assert!(parsed.is_err(), "{format} cut to {length}");
        }
    }
}

#[test]
fn a_wrong_promised_length_is_refused() {
    let kernel = small_elf(5_000);
    let mut payload = zstd::encode_all(&kernel[..], 1).unwrap();
    payload.extend(77u32.to_le_bytes());
    let error = KernelImage::parse(bzimage(&payload)).unwrap_err();
    let expected = PayloadError::WrongLength { format: "zstd", got: kernel.len(), said: 77 };
    assert_eq!(error, KernelError::Payload(expected));
}

#[test]
fn a_truncated_bzimage_names_both_lengths() {
    let image = bzimage(&gzip(&small_elf(5_000)));
    let error = KernelImage::parse(image[..image.len() - 100].to_vec()).unwrap_err();
    let needs = image.len() as u64;
    assert_eq!(error, KernelError::Truncated { has: needs - 100, needs });
    assert!(error.to_string().contains("truncated"));
}

#[test]
fn a_bzimage_cut_at_any_length_is_refused_and_never_panics() {
    let image = bzimage(&gzip(&small_elf(5_000)));
    for length in 0..image.len() - 16 {
        assert!(KernelImage::parse(image[..length].to_vec()).is_err(), "{length} bytes");
    }
}

#[test]
fn a_payload_outside_the_image_is_a_damaged_header() {
    for (at, value) in [(0x248, u32::MAX), (0x24c, u32::MAX), (0x24c, 0)] {
        let mut image = bzimage(&gzip(&small_elf(5_000)));
        image[at..at + 4].copy_from_slice(&value.to_le_bytes());
        assert_eq!(KernelImage::parse(image).unwrap_err(), KernelError::DamagedHeader);
    }
}

#[test]
fn a_bzimage_without_a_64_bit_entry_keeps_its_code_and_unpacks_itself() {
    let mut image = bzimage(&gzip(&small_elf(5_000)));
    image[0x236] = 0;
    let parsed = KernelImage::parse(image.clone()).unwrap();
    assert!(parsed.vmlinux == image[5 * 512..], "the code behind the sectors of setup");
    let kernel = program::Kernel::from(parsed);
    assert_eq!(Protocol::of(&kernel), Ok(Protocol::Compressed32));
    image[0x236] = 1;
    image[0x206..0x208].copy_from_slice(&0x020a_u16.to_le_bytes());
    let kernel = program::Kernel::from(KernelImage::parse(image).unwrap());
    assert_eq!(Protocol::of(&kernel), Ok(Protocol::Compressed32), "2.10 knows no such flag");
}

#[test]
fn an_old_boot_protocol_is_named() {
    let mut image = bzimage(&gzip(&small_elf(5_000)));
    image[0x206..0x208].copy_from_slice(&0x0205_u16.to_le_bytes());
    let error = KernelImage::parse(image).unwrap_err();
    assert_eq!(error.to_string(), "speaks boot protocol 2.05; 2.10 (Linux 2.6.31) or later is needed");
}

#[test]
fn a_payload_that_is_no_kernel_is_told() {
    let image = bzimage(&gzip(b"hello, this is only text"));
    assert_eq!(KernelImage::parse(image).unwrap_err(), KernelError::OddPayload);
    let image = bzimage(b"not compressed at all, not compressed at all");
    assert_eq!(KernelImage::parse(image).unwrap_err(), KernelError::Payload(PayloadError::Unknown));
}

#[test]
fn an_elf_kernel_is_taken_as_it_is() {
    let kernel = small_elf(5_000);
    let image = KernelImage::parse(kernel.clone()).unwrap();
    assert_eq!(image, KernelImage { vmlinux: kernel, setup_header: None });
}

#[test]
fn an_elf_kernel_that_ends_early_is_truncated() {
    let kernel = small_elf(5_000);
    for length in 5..kernel.len() {
        let error = KernelImage::parse(kernel[..length].to_vec()).unwrap_err();
        assert!(matches!(error, KernelError::Truncated { .. }), "{length}: {error}");
    }
}

#[test]
fn kernels_of_other_architectures_are_named() {
    for (machine, name) in
        [(183u16, "64-bit ARM"), (243, "RISC-V"), (21, "PowerPC"), (9999, "another architecture")]
    {
        let mut elf = small_elf(10);
        elf[18..20].copy_from_slice(&machine.to_le_bytes());
        assert_eq!(KernelImage::parse(elf).unwrap_err(), KernelError::OtherArchitecture(name));
    }
    let mut big_endian = small_elf(10);
    big_endian[5] = 2;
    big_endian[18..20].copy_from_slice(&22u16.to_be_bytes());
    assert_eq!(KernelImage::parse(big_endian).unwrap_err(), KernelError::OtherArchitecture("IBM Z"));
    let mut arm = vec![0; 4096];
    arm[0x38..0x3c].copy_from_slice(b"ARM\x64");
    assert_eq!(KernelImage::parse(arm).unwrap_err(), KernelError::OtherArchitecture("64-bit ARM"));
    let mut riscv = vec![0; 4096];
    riscv[0x38..0x3c].copy_from_slice(b"RSC\x05");
    assert_eq!(KernelImage::parse(riscv).unwrap_err(), KernelError::OtherArchitecture("RISC-V"));
}

#[test]
fn a_32_bit_elf_file_is_entered_in_32_bits() {
    let mut elf = vec![0; 52 + 32 + 8];
    elf[..7].copy_from_slice(b"\x7fELF\x01\x01\x01");
    for (at, half) in [(16, 2u16), (18, 3), (42, 32), (44, 1)] {
        elf[at..at + 2].copy_from_slice(&half.to_le_bytes());
    }
    for (at, word) in [(28, 52u32), (52, 1), (56, 84), (68, 8), (72, 8)] {
        elf[at..at + 4].copy_from_slice(&word.to_le_bytes());
    }
    let kernel = program::Kernel::from(KernelImage::parse(elf.clone()).unwrap());
    assert_eq!(Protocol::of(&kernel), Ok(Protocol::Linux32));
    for length in 5..elf.len() {
        let error = KernelImage::parse(elf[..length].to_vec()).unwrap_err();
        assert!(matches!(error, KernelError::Truncated { .. }), "{length}: {error}");
    }
}

#[test]
fn an_object_file_has_nothing_to_load() {
    let mut elf = small_elf(10);
    elf[16] = 1;
    assert_eq!(KernelImage::parse(elf).unwrap_err(), KernelError::NotLoadable);
}

#[test]
fn files_that_are_no_kernel_are_told_apart() {
    assert_eq!(KernelImage::parse(Vec::new()).unwrap_err(), KernelError::Empty);
    assert_eq!(KernelImage::parse(b"#!/bin/sh\n".to_vec()).unwrap_err(), KernelError::NoKernel);
    assert_eq!(KernelImage::parse(vec![0; 10_000]).unwrap_err(), KernelError::NoKernel);
    assert_eq!(KernelImage::parse(gzip(b"Image")).unwrap_err(), KernelError::Compressed("gzip"));
}

#[test]
fn a_file_that_is_not_there_says_so() {
    let error = KernelImage::open(Path::new("/no/such/kernel")).unwrap_err();
    assert!(error.to_string().starts_with("cannot be read: No such file"), "{error}");
}
