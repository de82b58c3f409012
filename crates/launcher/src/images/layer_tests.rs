//! What well-made layers leave behind.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use super::made::{Made, Place};
use super::tree::OVERRIDE;

fn attribute(path: &Path) -> Option<String> {
    let mut buffer = [0; 64];
    let length = rustix::fs::getxattr(path, OVERRIDE, &mut buffer).ok()?;
    Some(String::from_utf8(buffer[..length].to_vec()).unwrap())
}

/// False, and says so, where temporary files can have no attributes.
fn attributes_are_kept(test: &str, place: &Place) -> bool {
    let kept =
        rustix::fs::setxattr(place.root(), OVERRIDE, b"0:0:755", rustix::fs::XattrFlags::empty()).is_ok();
    if !kept {
        eprintln!("SKIPPED {test}: temporary files have no extended attributes here");
    }
    kept
}

#[test]
fn files_folders_and_links_are_unpacked() {
    let place = Place::new();
    let layer = Made::default()
        .folder("./")
        .folder("./usr/")
        .file("./usr/file", b"text")
        .link("usr/link", "/etc/passwd")
        .second_name("second", "usr/file")
        .file("implied/deep/file", b"x")
        .finish();
    place.unpack(&[&layer]).unwrap();
    assert_eq!(place.read("usr/file").unwrap(), b"text");
    assert_eq!(fs::read_link(place.root().join("usr/link")).unwrap(), Path::new("/etc/passwd"));
    let inode = |path: &str| fs::metadata(place.root().join(path)).unwrap().ino();
    assert_eq!(inode("second"), inode("usr/file"));
    assert_eq!(place.read("implied/deep/file").unwrap(), b"x");
    assert_eq!(fs::metadata(place.root().join("usr/file")).unwrap().mtime(), 1_000_000);
}

#[test]
fn what_a_user_cannot_set_is_kept_in_the_attribute() {
    let place = Place::new();
    if !attributes_are_kept("what_a_user_cannot_set_is_kept_in_the_attribute", &place) {
        return;
    }
    let layer = Made::default()
        .entry(b'0', b"plain", b"", (0, 0o644), b"")
        .entry(b'0', b"su", b"", (0, 0o4755), b"")
        .entry(b'0', b"theirs", b"", (33, 0o000), b"")
        .entry(b'5', b"closed", b"", (7, 0o1000), b"")
        .entry(b'3', b"null", b"", (0, 0o666), b"")
        .entry(b'4', b"disk", b"", (6, 0o660), b"")
        .entry(b'6', b"pipe", b"", (0, 0o600), b"")
        .finish();
    place.unpack(&[&layer]).unwrap();
    let facts = |path: &str| {
        let path = place.root().join(path);
        (fs::symlink_metadata(&path).unwrap().permissions().mode(), attribute(&path))
    };
    assert_eq!(facts("plain"), (0o100_644, None));
    assert_eq!(facts("su"), (0o100_755, Some("0:0:4755".to_owned())));
    assert_eq!(facts("theirs"), (0o100_600, Some("33:33:0".to_owned())));
    assert_eq!(facts("closed"), (0o040_700, Some("7:7:1000".to_owned())));
    assert_eq!(facts("null"), (0o100_600, Some("0:0:20666:char-1-3".to_owned())));
    assert_eq!(facts("disk"), (0o100_600, Some("6:6:60660:block-1-3".to_owned())));
    assert_eq!(facts("pipe"), (0o100_600, Some("0:0:10600:pipe".to_owned())));
}

#[test]
fn a_later_layer_takes_the_place_of_an_older_one() {
    let place = Place::new();
    let old = Made::default().file("a", b"old").folder("b").file("b/file", b"x").file("c/d", b"y").finish();
    let new = Made::default().file("a", b"new").file("b", b"a file now").folder("c").finish();
    place.unpack(&[&old, &new]).unwrap();
    assert_eq!(place.read("a").unwrap(), b"new");
    assert_eq!(place.read("b").unwrap(), b"a file now");
    assert_eq!(place.read("c/d").unwrap(), b"y");
}

#[test]
fn a_file_that_is_replaced_keeps_its_second_name() {
    let place = Place::new();
    let old = Made::default().file("a", b"old").second_name("b", "a").finish();
    let new = Made::default().file("a", b"new").finish();
    place.unpack(&[&old, &new]).unwrap();
    assert_eq!(place.read("b").unwrap(), b"old");
}

#[test]
fn a_path_through_a_link_leads_where_the_guest_would_go() {
    let place = Place::new();
    let old = Made::default().folder("usr/lib").link("lib", "usr/lib").link("lib64", "/lib").finish();
    let new = Made::default().file("lib/a", b"a").file("lib64/b", b"b").finish();
    place.unpack(&[&old, &new]).unwrap();
    assert_eq!(place.read("usr/lib/a").unwrap(), b"a");
    assert_eq!(place.read("usr/lib/b").unwrap(), b"b");
}

#[test]
fn a_whiteout_removes_what_is_older() {
    let place = Place::new();
    let old = Made::default().file("a/one", b"1").file("a/two", b"2").file("b/deep/three", b"3").finish();
    let new = Made::default().file("a/.wh.one", b"").file(".wh.b", b"").file(".wh.absent", b"").finish();
    place.unpack(&[&old, &new]).unwrap();
    assert_eq!(place.read("a/one"), None);
    assert_eq!(place.read("a/two").unwrap(), b"2");
    assert!(!place.root().join("b").exists());
    assert_eq!(fs::read_dir(place.root().join("a")).unwrap().count(), 1, "no whiteout stays");
}

#[test]
fn a_whiteout_spares_its_own_layer_wherever_it_stands() {
    for whiteout_first in [true, false] {
        let place = Place::new();
        let old = Made::default().file("a/old", b"old").file("a/sub/old", b"old").finish();
        let mark = |made: Made| made.file("a/.wh..wh..opq", b"").file(".wh.b", b"");
        let files = |made: Made| made.file("a/new", b"new").file("a/sub/new", b"new").file("b", b"new");
        let new = if whiteout_first { files(mark(Made::default())) } else { mark(files(Made::default())) };
        place.unpack(&[&old, &new.finish()]).unwrap();
        for path in ["a/new", "a/sub/new", "b"] {
            assert_eq!(place.read(path).as_deref(), Some(&b"new"[..]), "{path}");
        }
        assert_eq!((place.read("a/old"), place.read("a/sub/old")), (None, None));
    }
}

#[test]
fn long_names_of_both_kinds_are_read() {
    let place = Place::new();
    let (gnu, pax) = ("g".repeat(150), "p".repeat(150));
    let record = |key: &str, value: &str| {
        // The length counts its own three digits.
        let length = key.len() + value.len() + 6;
        format!("{length} {key}={value}\n")
    };
    let records = record("path", &pax);
    let layer = Made::default()
        .entry(b'L', b"././@LongLink", b"", (0, 0), format!("{gnu}\0").as_bytes())
        .file("cut short", b"gnu")
        .entry(b'x', b"PaxHeaders/x", b"", (0, 0), records.as_bytes())
        .file("cut short", b"pax")
        .finish();
    place.unpack(&[&layer]).unwrap();
    assert_eq!(place.read(&gnu).unwrap(), b"gnu");
    assert_eq!(place.read(&pax).unwrap(), b"pax");
}

/// A list of PAX records before an entry.
fn records(made: Made, records: &[(&str, &[u8])]) -> Made {
    let mut bytes = Vec::new();
    for (key, value) in records {
        // The length counts its own digits.
        let rest = key.len() + value.len() + 3;
        let length =
            (1..).map(|digits| (digits, rest + digits)).find(|(d, l)| l.to_string().len() == *d).unwrap().1;
        bytes.extend([format!("{length} {key}=").as_bytes(), value, b"\n"].concat());
    }
    made.entry(b'x', b"pax", b"", (0, 0o644), &bytes)
}

#[test]
fn capabilities_and_the_users_attributes_are_kept_and_no_others() {
    let place = Place::new();
    if !attributes_are_kept("capabilities_and_the_users_attributes_are_kept_and_no_others", &place) {
        return;
    }
    // CAP_NET_RAW and CAP_NET_BIND_SERVICE, with a byte that is a line's end.
    let value = [&[1, 0, 0, 2, 0, 0x24, 0, 0, 10][..], &[0; 11]].concat();
    let layer = records(
        Made::default(),
        &[
            ("SCHILY.xattr.security.capability", &value[..]),
            ("SCHILY.xattr.user.note", b"two\nlines"),
            ("SCHILY.xattr.user.containers.override_stat", b"0:0:4777"),
            ("SCHILY.xattr.user.lguest.security.capability", b"x"),
            ("SCHILY.xattr.security.selinux", b"x"),
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
            ("SCHILY.xattr.user.a\0b", b"x"),
            ("SCHILY.xattr.user.large", &[7; 200_000]),
        ],
    );
    let layer = records(layer.file("ping", b"program"), &[("SCHILY.xattr.security.capability", b"odd")]);
    let layer = layer.file("odd", b"").finish();
    place.unpack(&[&layer]).unwrap();
    let get = |path: &str, name: &str| {
        let mut buffer = [0; 100];
        let length = rustix::fs::getxattr(place.root().join(path), name, &mut buffer).ok()?;
        Some(buffer[..length].to_vec())
    };
    assert_eq!(get("ping", crate::share::CAPABILITY), Some(value));
    assert_eq!(get("ping", "user.note"), Some(b"two\nlines".to_vec()));
    let mut names = vec![0; 4096];
    let length = rustix::fs::listxattr(place.root().join("ping"), &mut names).unwrap();
    let theirs = names[..length].split(|byte| *byte == 0).filter(|name| name.starts_with(b"user.")).count();
    assert_eq!(theirs, 2, "{}", String::from_utf8_lossy(&names[..length]));
    assert_eq!(get("odd", crate::share::CAPABILITY), None);
    assert_eq!(place.read("ping").unwrap(), b"program");
}

#[test]
fn folders_keep_their_time_whatever_comes_into_them_later() {
    let place = Place::new();
    let first = Made::default().folder("./").folder("d").folder("d/e").file("d/e/f", b"").finish();
    let second = Made::default().file("d/e/g", b"").file("h/i", b"").finish();
    place.unpack(&[&first, &second]).unwrap().flush().unwrap();
    let time = |path: &str| fs::metadata(place.root().join(path)).unwrap().mtime();
    assert_eq!(["", "d", "d/e"].map(time), [1_000_000; 3]);
    assert_ne!(time("h"), 1_000_000, "the image does not say it");
}

#[test]
fn a_list_of_records_that_is_none_is_refused() {
    for bytes in [
        &b"9 path=x"[..],
        b"99 path=x\n",
        b"path=x\n",
        b"9 pathxx\n",
        b"0 a=b\n",
        b"99999999999999999999 a=b\n",
    ] {
        let layer = Made::default().entry(b'x', b"pax", b"", (0, 0o644), bytes).file("f", b"").finish();
        assert!(Place::new().unpack(&[&layer]).is_err(), "{bytes:?}");
    }
}
