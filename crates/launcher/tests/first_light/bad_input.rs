//! What bad input gets: status 125, and one sentence that names the option and its value, before anything starts.

use crate::command::{cached_kernel, debian_is_here, folder, run};
use std::path::Path;

/// The request is refused with one line that holds each of these words.
fn assert_refused(words: &[&str], named: &[&str]) {
    let finished = run(words, "");
    assert_eq!(finished.status, Some(125), "{words:?}: {finished:?}");
    let sentences = finished.sentences();
    assert_eq!(sentences.len(), 1, "{words:?}: {finished:?}");
    for name in named {
        assert!(sentences[0].contains(name), "{words:?}: `{}` does not name {name}", sentences[0]);
    }
    assert_eq!(finished.output, "", "{words:?}");
}

fn file(test: &str, content: &[u8]) -> String {
    let path = folder(test).join("input");
    std::fs::write(&path, content).expect("a file can be written");
    path.to_str().expect("in UTF-8").to_owned()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("in UTF-8")
}

#[test]
fn memory_that_no_guest_could_use_is_refused() {
    for size in ["0", "16M", "lots", "-1", "1X", "1T", "999999999999T"] {
        assert_refused(&["run", "debian", "--memory", size], &["--memory", size]);
    }
}

#[test]
fn an_option_that_does_not_exist_is_refused() {
    assert_refused(&["run", "debian", "--memroy", "256M"], &["--memroy"]);
}

#[test]
fn an_engine_that_does_not_exist_is_refused() {
    assert_refused(&["run", "debian", "--engine", "warp"], &["--engine", "warp"]);
}

#[test]
fn numbers_that_make_no_sense_are_refused() {
    assert_refused(&["run", "debian", "--cpus", "0"], &["--cpus", "0"]);
    assert_refused(&["run", "debian", "--cpus", "9"], &["--cpus", "9", "8"]);
    assert_refused(&["run", "debian", "--cpus", "many"], &["--cpus", "many"]);
    assert_refused(&["run", "debian", "--timeout", "soon"], &["--timeout", "soon"]);
}

#[test]
fn files_that_are_not_there_are_refused() {
    assert_refused(&["run", "--kernel", "/nowhere/vmlinuz"], &["/nowhere/vmlinuz"]);
    assert_refused(&["run", "/nowhere/vmlinuz"], &["/nowhere/vmlinuz"]);
}

#[test]
fn a_file_that_is_no_kernel_is_refused() {
    let path = file("no_kernel", b"#!/bin/sh\necho I am a script\n");
    assert_refused(&["run", "--kernel", &path], &["--kernel", &path]);
    let empty = file("empty_kernel", b"");
    assert_refused(&["run", "--kernel", &empty], &["--kernel", &empty]);
}

#[test]
fn a_kernel_for_another_architecture_is_refused() {
    // An arm64 Image has its magic at 56 (Documentation/arch/arm64/booting.rst); an ELF names its machine at 18.
    let mut image = vec![0; 4096];
    image[56..60].copy_from_slice(b"ARM\x64");
    let image = file("arm64_image", &image);
    assert_refused(&["run", "--kernel", &image], &[&image]);
    let mut elf = vec![0; 4096];
    elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
    elf[18] = 183;
    let elf = file("arm64_elf", &elf);
    assert_refused(&["run", "--kernel", &elf], &[&elf]);
}

#[test]
fn a_kernel_cut_short_is_refused() {
    if !debian_is_here("a_kernel_cut_short_is_refused") {
        return;
    }
    let whole = std::fs::read(cached_kernel()).expect("the cached kernel can be read");
    for length in [0x208, 4096, whole.len() / 2] {
        let path = file(&format!("cut_to_{length}"), &whole[..length]);
        assert_refused(&["run", "--kernel", &path], &["--kernel", &path]);
    }
}

#[test]
fn an_initrd_larger_than_memory_is_refused() {
    if !debian_is_here("an_initrd_larger_than_memory_is_refused") {
        return;
    }
    let path = folder("large_initrd").join("initrd");
    // Holes take no room on the disk.
    std::fs::File::create(&path).and_then(|file| file.set_len(200 << 20)).expect("a file can have holes");
    let kernel = cached_kernel();
    let words = ["run", "--kernel", text(&kernel), "--initrd", text(&path), "--memory", "128M"];
    assert_refused(&words, &["initrd"]);
}
