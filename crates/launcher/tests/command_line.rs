//! The command as a stranger meets it: every mistake is exit status 125 and one sentence that names what was wrong.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

/// Runs the command in a world without Debian: an empty cache, and no apt-get to fill it with.
fn lguest(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lguest"))
        .args(arguments)
        .env("LGUEST_CACHE", folder.join("cache"))
        .env("PATH", folder)
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap()
}

/// The one sentence of a mistake.
fn mistake(arguments: &[&str]) -> String {
    let folder = tempfile::tempdir().unwrap();
    sentence_of(&lguest(folder.path(), arguments))
}

fn sentence_of(output: &Output) -> String {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(125), "{text}");
    assert!(output.stdout.is_empty());
    assert_eq!(text.lines().count(), 1, "{text}");
    text.strip_prefix("lguest: ").expect("a sentence of ours").trim_end().to_owned()
}

#[test]
fn memory_that_cannot_work_names_the_value_and_what_would() {
    for (value, hint) in
        [("0", "at least 64M"), ("16M", "at least 64M"), ("1024T", "at most"), ("much", "for instance 256M")]
    {
        let sentence = mistake(&["run", "debian", "--memory", value]);
        assert!(sentence.starts_with(&format!("--memory {value}: ")), "{sentence}");
        assert!(sentence.contains(hint), "{sentence}");
    }
}

#[test]
fn what_the_default_guest_does_not_drive_on_virtio_is_refused() {
    for bus in ["pci", "mmio"] {
        let sentence = mistake(&["run", "--bus", bus, "--share", "/tmp"]);
        assert!(sentence.starts_with("--share: "), "{sentence}");
    }
}

#[test]
fn every_value_that_cannot_work_is_named_with_its_option() {
    for (option, value) in [
        ("--cpus", "9"),
        ("--cpus", "none"),
        ("--engine", "steam"),
        ("--cpu-features", "-avx3"),
        ("--cpu-features", "x86-64-v9"),
        ("--timeout", "0"),
        ("--timeout", "-3"),
        ("--log-level", "loud"),
        ("--bus", "isa"),
        ("--bus", "mmio,announce=smoke"),
        // Debian's kernels cannot be told of devices this way.
        ("--bus", "mmio,announce=cmdline"),
        ("--net", "wifi"),
        ("--net", "link=office,ip=10.9.0.2"),
        ("--disk", "/no/such/disk"),
    ] {
        let sentence = mistake(&["run", "debian", option, value]);
        assert!(sentence.starts_with(&format!("{option} {value}: ")), "{sentence}");
    }
}

#[test]
fn a_guest_that_is_neither_debian_nor_a_file_is_named() {
    assert!(mistake(&["run", "windows"]).starts_with("GUEST windows: "));
    // A directory is a root, which needs a kernel.
    assert!(mistake(&["run", "/"]).contains("--kernel"));
    assert!(mistake(&["run", "debian:Bad Name"]).starts_with("GUEST debian:Bad Name: "));
}

#[test]
fn a_command_that_is_none_is_named() {
    assert!(mistake(&["fly"]).contains("fly"));
}

#[test]
fn a_machine_without_apt_get_names_the_two_files_to_give() {
    let sentence = mistake(&["run", "debian"]);
    assert!(sentence.contains("--kernel") && sentence.contains("--initrd"), "{sentence}");
}

#[test]
fn files_that_are_no_kernel_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let mut arm = vec![0; 4096];
    arm[0x38..0x3c].copy_from_slice(b"ARM\x64");
    let mut header = tar::Header::new_ustar();
    header.set_size(0);
    header.set_cksum();
    let archive = [&header.as_bytes()[..], &[0; 1024]].concat();
    for (contents, hint) in [
        (b"#!/bin/sh\necho hello\n".to_vec(), "is no kernel"),
        (Vec::new(), "is empty"),
        (arm, "64-bit ARM"),
        (b"\x7fELF\x02\x01\x01".to_vec(), "truncated"),
        (archive, "archive"),
        (b"QFI\xfb\0\0\0\x03".to_vec(), "qcow2"),
    ] {
        let file = folder.path().join("file");
        fs::write(&file, contents).unwrap();
        let name = file.to_str().unwrap();
        for arguments in [vec!["run", name], vec!["run", "--kernel", name]] {
            let sentence = sentence_of(&lguest(folder.path(), &arguments));
            assert!(sentence.contains(name) && sentence.contains(hint), "{sentence}");
        }
    }
}

#[test]
fn a_file_that_is_not_there_is_named_with_its_option() {
    assert!(mistake(&["run", "--kernel", "/no/such"]).starts_with("--kernel /no/such: cannot be read"));
    assert!(
        mistake(&["run", "debian", "--initrd", "/no/such"]).starts_with("--initrd /no/such: cannot be read")
    );
}

#[test]
fn an_initrd_larger_than_memory_is_refused_before_it_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("initrd");
    // A hole: it takes no room on the Host.
    fs::File::create(&file).unwrap().set_len(100 << 20).unwrap();
    let name = file.to_str().unwrap();
    let output = lguest(folder.path(), &["run", "debian", "--memory", "64M", "--initrd", name]);
    let sentence = sentence_of(&output);
    assert!(sentence.contains("does not fit") && sentence.contains("--memory"), "{sentence}");
}

#[test]
fn a_command_for_a_guest_that_cannot_take_one_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kernel");
    fs::write(&file, b"kernel").unwrap();
    let output = lguest(folder.path(), &["run", file.to_str().unwrap(), "--", "ls"]);
    assert!(sentence_of(&output).starts_with("COMMAND ls: "));
}

#[test]
fn help_shows_examples_and_is_no_mistake() {
    let folder = tempfile::tempdir().unwrap();
    for arguments in [vec!["--help"], vec!["run", "--help"]] {
        let output = lguest(folder.path(), &arguments);
        assert!(output.status.success());
        assert!(String::from_utf8(output.stdout).unwrap().contains("lguest run debian -- uname -a"));
    }
}

#[test]
fn doctor_and_devices_report() {
    let folder = tempfile::tempdir().unwrap();
    let doctor = String::from_utf8(lguest(folder.path(), &["doctor"]).stdout).unwrap();
    assert!(doctor.contains("missing; give a kernel with --kernel"), "{doctor}");
    let devices = String::from_utf8(lguest(folder.path(), &["devices"]).stdout).unwrap();
    for word in ["ttyS0", "--disk PATH", "--net link=NAME", "--bus lguest-dma"] {
        assert!(devices.contains(word), "{devices}");
    }
}

#[test]
fn an_initramfs_is_built_from_a_busybox_in_the_cache_without_network() {
    let folder = tempfile::tempdir().unwrap();
    let kept = folder.path().join("cache/debian/busybox-static");
    fs::create_dir_all(&kept).unwrap();
    fs::write(kept.join("busybox"), b"\x7fELF\0[\0[[\0ar\0ash\0awk\0cat\0chmod\0cp\0date\0dd\0df\0").unwrap();
    let output = folder.path().join("out.cpio");
    let out = output.to_str().unwrap();
    let built =
        lguest(folder.path(), &["initramfs", "--output", out, "--add", "/proc/self/status:/etc/status"]);
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let archive = fs::read(&output).unwrap();
    assert!(archive.starts_with(b"070701"));
    assert!(archive.windows(10).any(|window| window == b"etc/status"));
    let refused = lguest(folder.path(), &["initramfs", "--output", out, "--add", "/no/such:/x"]);
    assert!(sentence_of(&refused).starts_with("--add /no/such:/x: "));
    assert_eq!(fs::read(&output).unwrap(), archive);
}
