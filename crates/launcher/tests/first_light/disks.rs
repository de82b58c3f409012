//! Disks of a Debian Guest: what one side writes the other reads, and what may not be written is not.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::Stdio;

use sha2::{Digest, Sha256};

use crate::command::{cached_kernel, debian_is_here, folder, lguest, run};

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

/// The lines that a script prints in a Guest of two processors with this disk.
fn script(disk: &str, script: &str) -> Vec<String> {
    let finished = run(&["run", "debian", "--cpus", "2", "--disk", disk, "--", "sh", "-c", script], "");
    assert_eq!(finished.status, Some(0), "{finished:?}");
    finished.output.lines().map(|line| line.trim_end().to_owned()).collect()
}

/// True when the cache holds the kernel's modules too, or they can be fetched: older versions kept none.
pub fn drivers_are_here(test: &str) -> bool {
    let modules = || cached_kernel().with_file_name("modules").is_dir();
    if !debian_is_here(test) {
        return false;
    }
    if !modules() {
        let disk = format!("{},ro", disk(&format!("{test}_fetches")));
        run(&["run", "debian", "--disk", &disk, "--", "true"], "");
    }
    if !modules() {
        let skipped =
            format!("SKIPPED {test}: the cached kernel has no modules, and they cannot be fetched\n");
        std::io::stderr().lock().write_all(skipped.as_bytes()).expect("standard error takes a line");
    }
    modules()
}

/// As the Guest's `sha256sum` prints it.
fn sha256(bytes: &[u8]) -> String {
    let digits: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{digits}  -")
}

#[test]
fn a_debian_guest_finds_reads_and_writes_its_disk() {
    if !drivers_are_here("a_debian_guest_finds_reads_and_writes_its_disk") {
        return;
    }
    let path = disk("a_debian_guest_finds_reads_and_writes_its_disk");
    let lines = script(
        &path,
        "for device in /sys/bus/virtio/devices/*; do cat $device/device; done | sort | xargs; cat /sys/block/vda/size /sys/block/vda/ro; \
         until grep -q virtio /sys/class/misc/hw_random/rng_current; do sleep 1; done; \
         echo $(cat /sys/block/vda/serial) $(cat /sys/class/misc/hw_random/rng_current); \
         sha256sum </dev/vda; \
         dd if=/dev/vda of=/dev/vda bs=64k count=16 seek=32 conv=notrunc 2>/dev/null; \
         head -c 1024 /dev/zero | tr '\\0' x | dd of=/dev/vda bs=512 seek=32766 conv=fsync 2>/dev/null && echo flushed; \
         blkdiscard -o 8388608 -l 1048576 /dev/vda && echo discarded; \
         dmesg | grep -ciE 'oops|I/O error|call trace'; true",
    );
    let size = SECTORS.to_string();
    let sum = sha256(&pattern());
    // The network that a Debian Guest usually has, the disk, the source of entropy, the balloon, the agent's sockets.
    let kinds = "0x0001 0x0002 0x0004 0x0005 0x0013";
    let told = [kinds, &size, "0", "lguest-disk-0 virtio_rng.0", &sum, "flushed", "discarded", "0"];
    assert_eq!(lines, told);
    let file = std::fs::read(Path::new(&path)).expect("the disk is there");
    let mut expected = pattern();
    expected.copy_within(0..1 << 20, 2 << 20);
    let end = expected.len();
    expected[end - 1024..].fill(b'x');
    // What was discarded may be anything; here it is left out.
    let discarded = 8 << 20..9 << 20;
    assert!(file[..discarded.start] == expected[..discarded.start], "the file has what was written");
    assert!(file[discarded.end..] == expected[discarded.end..], "up to its end");
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
         sha256sum </dev/vda",
    );
    assert_eq!(lines, ["1".to_owned(), "refused".to_owned(), sha256(&pattern())]);
    assert!(std::fs::read(Path::new(&path)).expect("the disk is there") == pattern());
}

#[test]
fn what_a_guest_flushed_is_in_the_file_when_its_machine_is_killed() {
    if !drivers_are_here("what_a_guest_flushed_is_in_the_file_when_its_machine_is_killed") {
        return;
    }
    let path = disk("what_a_guest_flushed_is_in_the_file_when_its_machine_is_killed");
    let script = "tr '\\0' k </dev/zero | dd of=/dev/vda bs=64k count=64 iflag=fullblock conv=fsync 2>/dev/null; \
                  echo flushed; sleep 1000";
    let mut child = lguest()
        .args(["run", "debian", "--timeout", "100", "--disk", &path, "--", "sh", "-c", script])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the command starts");
    let mut line = String::new();
    let output = child.stdout.take().expect("piped");
    BufReader::new(output).read_line(&mut line).expect("its output is text");
    // SIGKILL: nothing is tidied up.
    child.kill().expect("a child can be ended");
    child.wait().expect("as above");
    assert_eq!(line.trim_end(), "flushed");
    let file = std::fs::read(Path::new(&path)).expect("the disk is there");
    assert!(file[..4 << 20].iter().all(|byte| *byte == b'k'));
    assert!(file[4 << 20..] == pattern()[4 << 20..]);
}

/// An image of 16 MiB by imago, whose own tests compare it with QEMU's.
pub fn qcow2(path: &Path) -> String {
    use imago::{FormatCreateBuilder, Storage, StorageCreateOptions, file::File, qcow2::Qcow2};
    let file = File::create_open(StorageCreateOptions::new().filename(path)).expect("a file can be made");
    Qcow2::<File>::create_builder(file).size(16 << 20).create().expect("an image can be made");
    format!("{},format=qcow2", path.display())
}

#[test]
fn a_qcow2_disk_keeps_what_one_machine_wrote_for_the_next() {
    if !drivers_are_here("a_qcow2_disk_keeps_what_one_machine_wrote_for_the_next") {
        return;
    }
    let folder = folder("a_qcow2_disk_keeps_what_one_machine_wrote_for_the_next");
    let disk = format!("{},serial=kept-2026", qcow2(&folder.join("disk.qcow2")));
    let lines = script(
        &disk,
        "cat /sys/block/vda/size /sys/block/vda/serial; echo; \
         tr '\\0' q </dev/zero | dd of=/dev/vda bs=64k count=32 seek=7 iflag=fullblock conv=fsync 2>/dev/null; \
         dd if=/dev/vda bs=64k skip=6 count=5 2>/dev/null | sha256sum; \
         blkdiscard -o 1048576 -l 65536 /dev/vda; sha256sum </dev/vda",
    );
    let part = [vec![0; 1 << 16], vec![b'q'; 4 << 16]].concat();
    assert_eq!(lines[..3], [SECTORS.to_string(), "kept-2026".to_owned(), sha256(&part)]);
    // What was discarded may be anything, and stays it.
    assert_eq!(script(&format!("{disk},ro"), "sha256sum </dev/vda"), lines[3..]);
}

#[test]
fn a_full_host_disk_is_an_error_in_the_guest_and_the_machine_goes_on() {
    let name = "a_full_host_disk_is_an_error_in_the_guest_and_the_machine_goes_on";
    if !drivers_are_here(name) {
        return;
    }
    let folder = folder(name);
    // A file system of 4 MiB, in a namespace of our own as an ordinary user may have it.
    let script = "mount -t tmpfs -o size=4m none \"$1\" && truncate -s 64M \"$1/disk\" && exec \"$2\" run debian \
                  --timeout 100 --disk \"$1/disk\" -- sh -c \"$3\"";
    let guest = "dd if=/dev/zero of=/dev/vda bs=64k count=256 conv=fsync 2>/dev/null || echo refused; \
                 dd if=/dev/vda of=/dev/null bs=64k count=8 2>/dev/null && echo alive";
    let output = std::process::Command::new("unshare")
        .args(["-Urm", "sh", "-c", script, "sh"])
        .arg(&folder)
        .args([env!("CARGO_BIN_EXE_lguest"), guest])
        .stdin(Stdio::null())
        .output();
    let Some(output) =
        output.ok().filter(|output| !String::from_utf8_lossy(&output.stderr).contains("unshare"))
    else {
        let skipped =
            format!("SKIPPED {name}: this host gives ordinary users no namespaces (unshare -Urm)\n");
        return std::io::stderr().lock().write_all(skipped.as_bytes()).expect("standard error takes a line");
    };
    let lines = String::from_utf8_lossy(&output.stdout).replace('\r', "");
    assert_eq!((lines.as_str(), output.status.code()), ("refused\nalive\n", Some(0)), "{output:?}");
}

#[test]
fn seven_disks_in_memory_are_one_too_many() {
    let path = format!("{},ro", disk("seven_disks_in_memory_are_one_too_many"));
    let mut words = vec!["run", "debian", "--net", "none", "--bus", "mmio"];
    words.extend(["--disk", &path].repeat(7));
    let finished = run(&words, "");
    assert_eq!(finished.status, Some(125), "{finished:?}");
    assert!(finished.messages.contains("room for 6 devices, and 7"), "{finished:?}");
}

#[test]
fn a_disk_is_the_same_on_either_bus_and_interrupts_by_message_or_by_line() {
    let test = "a_disk_is_the_same_on_either_bus_and_interrupts_by_message_or_by_line";
    if !drivers_are_here(test) {
        return;
    }
    let disk = format!("{},ro", disk(test));
    let quiet = "console=ttyS0 panic=-1 quiet loglevel=1";
    let no_messages = format!("{quiet} pci=nomsi");
    for (bus, cmdline, interrupt) in
        [("pci", quiet, "PCI-MSI"), ("pci", &no_messages, "IO-APIC"), ("mmio", quiet, "IO-APIC")]
    {
        let words = ["run", "debian", "--cpus", "2", "--bus", bus, "--cmdline", cmdline, "--disk", &disk];
        let command = ["--", "sh", "-c", "sha256sum < /dev/vda; grep virtio0 /proc/interrupts"];
        let finished = run(&[&words[..], &command].concat(), "");
        assert_eq!(finished.status, Some(0), "{finished:?}");
        let (sum, interrupts) = finished.output.split_once('\n').expect("two answers");
        assert_eq!(sum.trim_end(), sha256(&pattern()), "--bus {bus}");
        assert!(interrupts.contains(interrupt), "--bus {bus}, {cmdline}: {interrupts}");
    }
}
