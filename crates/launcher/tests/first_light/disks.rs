//! Disks of a Debian Guest: what one side writes the other reads, and what may not be written is not.

use std::io::Write;
use std::path::Path;

use crate::command::{cached_kernel, debian_is_here, folder, run};

const SECTOR: usize = 512;
const SECTORS: usize = 16 << 11;

/// Sixteen mebibytes of which every sector is its own.
fn pattern() -> Vec<u8> {
    let word = |at: usize| (at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
    (0..SECTORS * SECTOR / 8).flat_map(word).collect()
}

/// A disk of [`pattern`], and the option's value.
fn disk(test: &str) -> String {
    let path = folder(test).join("disk.img");
    std::fs::write(&path, pattern()).expect("a file can be written");
    path.to_str().expect("in UTF-8").to_owned()
}

fn script(disk: &str, script: &str) -> Vec<String> {
    let finished = run(&["run", "debian", "--disk", disk, "--", "sh", "-c", script], "");
    assert_eq!(finished.status, Some(0), "{finished:?}");
    finished.output.lines().map(|line| line.trim_end().to_owned()).collect()
}

/// True when the cache holds the kernel's modules too, or they can be fetched: older versions kept none.
fn drivers_are_here(test: &str) -> bool {
    let modules = || cached_kernel().with_file_name("modules").is_dir();
    if !debian_is_here(test) {
        return false;
    }
    if !modules() {
        let disk = disk("drivers_are_here");
        run(&["run", "debian", "--disk", &format!("{disk},ro"), "--", "true"], "");
    }
    if !modules() {
        let skipped =
            format!("SKIPPED {test}: the cached kernel has no modules, and they cannot be fetched\n");
        std::io::stderr().lock().write_all(skipped.as_bytes()).expect("standard error takes a line");
    }
    modules()
}

/// The same sum that the Guest's `cksum` prints (POSIX).
fn cksum(bytes: &[u8]) -> String {
    let mut sum = 0u32;
    let lengths =
        std::iter::successors(Some(bytes.len()), |rest| Some(rest >> 8)).take_while(|rest| *rest != 0);
    for byte in bytes.iter().copied().chain(lengths.map(|rest| rest as u8)) {
        sum ^= u32::from(byte) << 24;
        for _ in 0..8 {
            sum = if sum >> 31 == 1 { sum << 1 ^ 0x04c1_1db7 } else { sum << 1 };
        }
    }
    format!("{} {}", !sum, bytes.len())
}

#[test]
fn a_debian_guest_finds_reads_and_writes_its_disk() {
    if !drivers_are_here("a_debian_guest_finds_reads_and_writes_its_disk") {
        return;
    }
    let path = disk("a_debian_guest_finds_reads_and_writes_its_disk");
    let lines = script(
        &path,
        "ls /sys/bus/virtio/devices | wc -l; cat /sys/block/vda/size /sys/block/vda/ro /sys/block/vda/serial; \
         cat /sys/class/misc/hw_random/rng_current; \
         cksum </dev/vda; \
         dd if=/dev/vda of=/dev/vda bs=64k count=16 seek=32 conv=notrunc 2>/dev/null; \
         dd if=/dev/zero bs=1k count=1 2>/dev/null | tr '\\0' x | dd of=/dev/vda bs=512 seek=32766 conv=fsync 2>/dev/null; \
         sync; dmesg | grep -ciE 'oops|I/O error|call trace'; true",
    );
    let size = SECTORS.to_string();
    assert_eq!(lines[..5], ["2", &size, "0", "lguest-disk-0", "virtio_rng.0"], "{lines:?}");
    assert_eq!(lines[5..], [cksum(&pattern()), "0".to_owned()], "{lines:?}");
    let mut expected = pattern();
    expected.copy_within(0..1 << 20, 2 << 20);
    let end = expected.len();
    expected[end - 1024..].fill(b'x');
    assert!(
        std::fs::read(Path::new(&path)).expect("the disk is there") == expected,
        "the file has what was written"
    );
}

#[test]
fn a_readonly_disk_of_a_debian_guest_stays_as_it_was() {
    if !drivers_are_here("a_readonly_disk_of_a_debian_guest_stays_as_it_was") {
        return;
    }
    let path = disk("a_readonly_disk_of_a_debian_guest_stays_as_it_was");
    let lines = script(
        &format!("{path},ro"),
        "cat /sys/block/vda/ro; dd if=/dev/zero of=/dev/vda bs=512 count=1 conv=fsync 2>/dev/null || echo refused; \
         cksum </dev/vda",
    );
    assert_eq!(lines, ["1".to_owned(), "refused".to_owned(), cksum(&pattern())]);
    assert!(std::fs::read(Path::new(&path)).expect("the disk is there") == pattern());
}

#[test]
fn eight_disks_are_one_too_many() {
    let path = format!("{},ro", disk("eight_disks_are_one_too_many"));
    let mut words = vec!["run", "debian"];
    words.extend(["--disk", &path].repeat(8));
    let finished = run(&words, "");
    assert_eq!(finished.status, Some(125), "{finished:?}");
    assert!(finished.messages.contains("room for 7 disks, and 8"), "{finished:?}");
}
