//! The tree builder, on a busybox that is only an applet list.

use super::*;

const BUSYBOX: &[u8] = b"\x7fELF\0[\0[[\0ar\0ash\0awk\0cat\0chmod\0cp\0date\0dd\0df\0zcat\0";

fn names(root: &Initramfs) -> Vec<&str> {
    root.nodes.keys().map(String::as_str).collect()
}

#[test]
fn the_archive_is_recognised_as_ours() {
    let archive = Initramfs::new(BUSYBOX).finish();
    assert!(is_ours(&archive));
    assert!(!is_ours(b"\x1f\x8b\x08"));
    assert!(!is_ours(&[]));
}

#[test]
fn every_applet_is_a_link_to_busybox() {
    let root = Initramfs::new(BUSYBOX);
    for name in ["bin/[", "bin/awk", "bin/zcat", "bin/sh"] {
        assert_eq!(root.nodes[name].kind, FileKind::Link, "{name}");
    }
}

#[test]
fn parents_come_before_their_children() {
    let root = Initramfs::new(BUSYBOX);
    let names = names(&root);
    for (at, name) in names.iter().enumerate() {
        if let Some((parent, _)) = name.rsplit_once('/') {
            assert!(names[..at].contains(&parent), "{name} has no parent before it");
        }
    }
}

#[test]
fn a_file_below_a_link_goes_where_the_link_leads() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("python3");
    fs::write(&file, b"program").unwrap();
    let mut root = Initramfs::new(BUSYBOX);
    root.add(&file, "/usr/bin/python3").unwrap();
    assert_eq!(root.nodes["bin/python3"].data, b"program");
    assert_eq!(root.nodes["usr/bin"].kind, FileKind::Link);
}

#[test]
fn a_directory_is_added_with_its_links_and_modes() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir_all(folder.path().join("usr/lib")).unwrap();
    fs::write(folder.path().join("usr/lib/libx.so.1"), b"x").unwrap();
    fs::set_permissions(folder.path().join("usr/lib/libx.so.1"), fs::Permissions::from_mode(0o750)).unwrap();
    std::os::unix::fs::symlink("usr/lib", folder.path().join("lib")).unwrap();
    let mut root = Initramfs::new(BUSYBOX);
    root.add(folder.path(), "/").unwrap();
    assert_eq!(root.nodes["usr/lib"].kind, FileKind::Directory);
    assert_eq!(root.nodes["usr/lib/libx.so.1"].permissions & 0o7777, 0o750);
    assert_eq!(root.nodes["lib"].data, b"usr/lib");
    assert_eq!(root.nodes["bin"].kind, FileKind::Directory);
}

#[test]
fn a_path_that_leaves_the_root_is_refused() {
    let mut root = Initramfs::new(BUSYBOX);
    let this = Path::new("/proc/self/status");
    for path in ["/../x", "/a/../../x", "/", "/..", "/bin/busybox/x"] {
        let error = root.add(this, path).unwrap_err();
        assert!(matches!(error, InitramfsError::BadGuestPath { .. }), "{path}: {error}");
    }
}

#[test]
fn a_circle_of_links_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("b", folder.path().join("a")).unwrap();
    std::os::unix::fs::symlink("a", folder.path().join("b")).unwrap();
    let mut root = Initramfs::new(BUSYBOX);
    root.add(folder.path(), "/circle").unwrap();
    let error = root.add(Path::new("/proc/self/status"), "/circle/a/x").unwrap_err();
    assert!(matches!(error, InitramfsError::BadGuestPath { .. }));
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error = Initramfs::new(BUSYBOX).add(Path::new("/no/such/file"), "/x").unwrap_err();
    assert!(error.to_string().starts_with("cannot read /no/such/file: "), "{error}");
}

#[test]
fn a_device_is_no_file() {
    let error = Initramfs::new(BUSYBOX).add(Path::new("/dev/null"), "/x").unwrap_err();
    assert!(matches!(error, InitramfsError::OddFile { .. }));
}

#[test]
fn a_first_process_of_the_users_takes_no_session() {
    let mut root = Initramfs::new(BUSYBOX);
    root.set_init(b"#!/bin/sh\n");
    assert!(!is_ours(&root.finish()));
}
