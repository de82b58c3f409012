//! What layers that mean harm get. After every attempt [`Place::unpack`] looks whether anything outside was touched.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;

use super::layer::{self, LayerError};
use super::made::{Made, Place, gzip};
use super::tree::{MOST_BYTES, MOST_ENTRIES, Tree, TreeError};

fn refused(layer: Made) -> LayerError {
    Place::new().unpack(&[&layer.finish()]).expect_err("this layer is to be refused")
}

#[test]
fn a_path_above_the_root_is_refused() {
    for path in ["../secret", "a/../../secret", "..", "/../secret", "a/.."] {
        let error = refused(Made::default().file(path, b"x"));
        assert!(matches!(error, LayerError::Tree(TreeError::BadPath(_))), "{path}: {error}");
    }
}

#[test]
fn an_absolute_path_lies_in_the_root() {
    let place = Place::new();
    let layer = Made::default().file("/etc/passwd", b"x").file("//etc//group", b"y").finish();
    place.unpack(&[&layer]).unwrap();
    assert_eq!(place.read("etc/passwd").unwrap(), b"x");
    assert_eq!(place.read("etc/group").unwrap(), b"y");
}

#[test]
fn a_link_to_the_outside_is_followed_inside() {
    let place = Place::new();
    let outside = place.outside().to_str().unwrap().to_owned();
    // In a machine whose root this is, the way up ends at the root and an absolute path begins there.
    for target in [outside.as_str(), "..", "../..", "/", "/proc/self/cwd"] {
        let layer = Made::default().link("way", target).file("way/secret", b"overwritten").finish();
        // Where the way leads to nothing it is refused; nowhere does it leave, as `unpack` checks.
        let _ = place.unpack(&[&layer]);
    }
    let layer = Made::default().link("up", "../..").file("up/caught", b"x").finish();
    place.unpack(&[&layer]).unwrap();
    assert_eq!(place.read("caught").unwrap(), b"x");
}

#[test]
fn a_file_at_the_place_of_a_link_does_not_follow_it() {
    let place = Place::new();
    let secret = place.outside().join("secret");
    let layer = Made::default().link("way", secret.to_str().unwrap()).file("way", b"x").finish();
    place.unpack(&[&layer]).unwrap();
    assert_eq!(place.read("way").unwrap(), b"x");
    assert!(!place.root().join("way").is_symlink());
}

#[test]
fn a_second_name_of_a_file_outside_is_refused() {
    let place = Place::new();
    let secret = place.outside().join("secret");
    for first in [secret.to_str().unwrap(), "../secret", "absent", "folder", "."] {
        let layer = Made::default().folder("folder").second_name("mine", first).finish();
        assert!(place.unpack(&[&layer]).is_err(), "{first}");
    }
    // Through a link it is the link that gets a second name, as linkat(2) has it.
    let layer = Made::default().link("way", secret.to_str().unwrap()).second_name("mine", "way").finish();
    place.unpack(&[&layer]).unwrap();
    assert!(place.root().join("mine").is_symlink());
}

#[test]
fn whiteouts_reach_nothing_outside() {
    let place = Place::new();
    for name in [".wh.", ".wh..", ".wh..."] {
        let error = place.unpack(&[&Made::default().file(name, b"").finish()]).unwrap_err();
        assert!(matches!(error, LayerError::Odd { .. }), "{name}: {error}");
    }
    let outside = place.outside().to_str().unwrap();
    let layer = Made::default()
        .link("way", outside)
        .link("up", "..")
        .file("way/.wh.secret", b"")
        .file("way/.wh..wh..opq", b"")
        .file("up/.wh.secret", b"")
        .finish();
    place.unpack(&[&layer]).unwrap();
}

#[test]
fn an_older_layers_link_is_removed_and_not_what_it_leads_to() {
    let place = Place::new();
    let old = Made::default().link("way", place.outside().to_str().unwrap()).finish();
    let new = Made::default().file(".wh.way", b"").finish();
    place.unpack(&[&old, &new]).unwrap();
    assert!(!place.root().join("way").is_symlink());
    place.unpack(&[&old, &Made::default().folder("way").file("way/secret", b"x").finish()]).unwrap();
    assert_eq!(place.read("way/secret").unwrap(), b"x");
}

#[test]
fn devices_and_pipes_are_plain_files_and_no_bit_runs_as_another_user() {
    let place = Place::new();
    let mut layer = Made::default();
    for (name, kind) in [("char", b'3'), ("block", b'4'), ("pipe", b'6'), ("su", b'0')] {
        layer = layer.entry(kind, name.as_bytes(), b"", (0, 0o6777), b"");
    }
    place.unpack(&[&layer.finish()]).unwrap();
    for name in ["char", "block", "pipe", "su"] {
        let facts = fs::symlink_metadata(place.root().join(name)).unwrap();
        assert!(facts.is_file() && facts.permissions().mode() & 0o7000 == 0, "{name}");
    }
}

#[test]
fn links_in_a_circle_and_files_in_the_way_are_refused() {
    for layer in [
        Made::default().link("a", "b").link("b", "a").file("a/x", b""),
        Made::default().file("a", b"").file("a/x", b""),
        Made::default().link("a", "nowhere").file("a/x", b""),
    ] {
        let error = refused(layer);
        assert!(matches!(error, LayerError::Tree(TreeError::NoFolder(_))), "{error}");
    }
}

#[test]
fn a_tree_that_grows_deeper_through_links_ends() {
    let place = Place::new();
    let deep = vec!["d"; 40].join("/");
    let mut layer = Made::default();
    for round in 0..10 {
        // Each link leads to the bottom of what the one before it made.
        let from = if round == 0 { String::new() } else { format!("w{}/", round - 1) };
        layer = layer.folder(&format!("{from}{deep}"));
        let target = vec![deep.as_str(); round + 1].join("/");
        layer = match target.len() {
            0..=99 => layer.link(&format!("w{round}"), &target),
            _ => layer.entry(b'K', b"long", b"", (0, 0), target.as_bytes()).link(&format!("w{round}"), "cut"),
        };
    }
    let error = place.unpack(&[&layer.finish()]).unwrap_err();
    assert!(matches!(error, LayerError::Tree(TreeError::TooDeep(_))), "{error}");
    fs::remove_dir_all(place.root()).unwrap();
    fs::create_dir(place.root()).unwrap();
}

#[test]
fn odd_kinds_and_sizes_are_refused_by_name() {
    let longer = b"26 size=99999999999999999\n".as_slice();
    for (layer, word) in [
        (Made::default().entry(b'S', b"sparse", b"", (0, 0o644), b""), "neither"),
        (Made::default().entry(b'x', b"pax", b"", (0, 0), longer).file("large", b""), "of a size"),
        (Made::default().entry(b'2', b"link", b"", (0, 0), b""), "link to nothing"),
        (Made::default().entry(b'L', b"long", b"", (0, 0), &vec![b'a'; 2 << 20]).file("x", b""), "name"),
        (Made::default().entry(b'L', b"long", b"", (0, 0), &vec![b'a'; 5000]).file("x", b""), "none"),
    ] {
        let error = refused(layer).to_string();
        assert!(error.contains(word), "{error}");
    }
}

#[test]
fn a_name_that_a_terminal_would_obey_is_shown_harmless() {
    let error = refused(Made::default().file("\x1b[2J\n/..", b"")).to_string();
    assert!(!error.contains(['\x1b', '\n']), "{error:?}");
}

#[test]
fn an_archive_cut_anywhere_is_refused_or_whole() {
    let whole = Made::default().file("a", &[7; 3000]).file("b", &[8; 700]).finish();
    for length in (0..whole.len() - 1024).step_by(100) {
        let place = Place::new();
        if place.unpack(&[&whole[..length]]).is_ok() {
            // tar has no length of its own: between two entries an end is an end. The sum says that it came early.
            assert!(length % 512 == 0 || length < 512, "{length}");
        }
    }
}

#[test]
fn the_bytes_of_a_bomb_are_counted_before_they_are_written() {
    let mut tree = Tree::new(&Place::new().root()).unwrap();
    tree.count(MOST_BYTES).unwrap();
    assert!(matches!(tree.count(1), Err(TreeError::TooLarge)));
    // A header that promises more ends it before a byte is read.
    let mut bomb = Made::default().entry(b'0', b"bomb", b"", (0, 0o644), b"").finish();
    bomb[124..136].copy_from_slice(&[0x80, 0, 0, 0, 0, 0xff, 0, 0, 0, 0, 0, 0]);
    bomb[148..156].fill(b' ');
    let sum: u32 = bomb[..512].iter().map(|byte| u32::from(*byte)).sum();
    bomb[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let error = Place::new().unpack(&[&bomb]).unwrap_err();
    assert!(matches!(error, LayerError::Tree(TreeError::TooLarge)), "{error}");
}

#[test]
fn the_entries_of_a_bomb_are_counted() {
    let mut tree = Tree::new(&Place::new().root()).unwrap();
    let last = (0..=MOST_ENTRIES).map(|_| tree.count(0)).last().unwrap();
    assert!(matches!(last, Err(TreeError::TooMany)));
}

#[test]
fn data_behind_the_end_is_not_unpacked_for_ever() {
    let mut tree = Tree::new(&Place::new().root()).unwrap();
    let endless = gzip(&vec![0; 4 << 20]);
    let stream = layer::unpacked(&endless[..]).unwrap();
    assert!(matches!(layer::apply(stream, &mut tree), Err(LayerError::Trailing)));
    // Noise is no archive, whatever it seems to be packed with.
    for beginning in [&[0x1f, 0x8b, 8][..], &[0x28, 0xb5, 0x2f, 0xfd], b"BZh9", b"noise"] {
        let noise = [beginning, &[0xa5; 2000]].concat();
        let stream = layer::unpacked(&noise[..]).map(|stream| stream.take(1 << 20));
        assert!(stream.is_err() || layer::apply(stream.unwrap(), &mut tree).is_err(), "{beginning:?}");
    }
}
