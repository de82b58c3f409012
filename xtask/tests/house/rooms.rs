//! What may stand in a room: where `unsafe` lives, how long a file may be, and what no file may say.

use crate::files::texts;

/// Where `unsafe` may live. Each is a folder or, with `.rs`, one file.
const UNSAFE_ROOMS: [&str; 9] = [
    "crates/translator/src/",
    // The differential test jumps into instructions it made up; nothing else could.
    "crates/translator/tests/",
    "crates/host/src/kvm/",
    "crates/host/src/kvm.rs",
    "crates/host/src/memory/",
    "crates/host/src/memory.rs",
    // Called with a C program's raw pointers, in place of the C library; src/lib.rs says more.
    "crates/preload/src/",
    // The Guest's hardware: port and device memory access.
    "crates/guest/src/hardware/",
    "crates/kernel/src/hardware/",
];

/// A file longer than this is two concepts.
const MOST_LINES: usize = 500;

/// Names that tell a reader nothing about what is inside.
const EMPTY_NAMES: [&str; 6] = ["utils", "common", "helpers", "types", "misc", "manager"];

#[test]
fn unsafe_code_is_allowed_only_in_the_named_rooms() {
    // Put together here, or this file would find itself.
    let openings = ["allow", "expect", "warn"].map(|level| format!("{level}({}_code", "unsafe"));
    for (path, text) in texts().iter().filter(|(path, _)| path.ends_with(".rs")) {
        let named = UNSAFE_ROOMS.iter().any(|room| path.starts_with(room));
        let opened = openings.iter().any(|opening| text.contains(opening));
        assert!(named || !opened, "{path} allows unsafe code and is not a named room");
    }
}

#[test]
fn no_file_has_outgrown_a_reader() {
    for (path, text) in texts() {
        let read = [".rs", ".c", ".md", ".sh", ".toml"].iter().any(|ending| path.ends_with(ending));
        let lines = text.lines().count();
        assert!(!read || lines <= MOST_LINES, "{path} has {lines} lines; split it by concept");
    }
}

#[test]
fn no_file_is_named_by_what_it_is_not() {
    for (path, _) in texts().iter().filter(|(path, _)| path.ends_with(".rs")) {
        for part in path.trim_end_matches(".rs").split('/') {
            assert!(!EMPTY_NAMES.contains(&part), "{path}: `{part}` names no concept");
        }
    }
}

#[test]
fn no_file_names_a_place_that_packages_come_from() {
    let mut hosts: Vec<String> =
        ["debian.org", "ubuntu.com", "static.crates.io", "index.crates.io"].map(str::to_owned).into();
    hosts.extend(this_machines_sources());
    for (path, text) in texts() {
        for host in &hosts {
            // This file must name them to look for them.
            assert!(path.ends_with("house/rooms.rs") || !text.contains(host.as_str()), "{path} names {host}");
        }
    }
}

/// Hosts in this machine's own package lists: a mirror's name must not slip into a file either.
fn this_machines_sources() -> Vec<String> {
    let mut files = vec!["/etc/apt/sources.list".into()];
    files.extend(
        std::fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten().map(|e| e.path()),
    );
    let lists = files.iter().filter_map(|file: &std::path::PathBuf| std::fs::read_to_string(file).ok());
    lists.flat_map(|list| hosts_of(&list)).collect()
}

/// The hosts behind every `://` in a text.
fn hosts_of(text: &str) -> Vec<String> {
    text.split("://")
        .skip(1)
        .map(|rest| {
            rest.split(|c: char| !(c.is_ascii_alphanumeric() || ".-".contains(c))).next().unwrap_or("")
        })
        .filter(|host| host.contains('.'))
        .map(str::to_owned)
        .collect()
}

#[test]
fn a_host_is_found_behind_its_scheme() {
    assert_eq!(hosts_of("deb http://mirror.example.net/debian x"), ["mirror.example.net"]);
    assert_eq!(hosts_of("deb file:///srv x"), Vec::<String>::new());
}
