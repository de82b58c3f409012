//! From a file to the cache, and what is refused on the way.

use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;

use super::ImageError;
use super::made::{self, Layout, Made, gzip};
use super::store::{Held, Store};
use crate::cache::Cache;
use crate::progress::Progress;

struct Desk {
    folder: TempDir,
    store: Store,
}

impl Desk {
    fn new() -> Desk {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(Cache::at(folder.path().join("cache")));
        Desk { folder, store }
    }

    fn archive(&self, files: &[(String, Vec<u8>)]) -> PathBuf {
        self.bytes(&made::archive(files))
    }

    fn bytes(&self, bytes: &[u8]) -> PathBuf {
        let path = self.folder.path().join("image.tar");
        fs::write(&path, bytes).unwrap();
        path
    }

    fn take(&self, path: &std::path::Path, tag: Option<&str>) -> Result<Held, ImageError> {
        self.store.take(path, tag, &Progress::hidden())
    }

    /// Takes what must be refused; the cache has no image afterwards, and no draft.
    fn refuse(&self, path: &std::path::Path) -> ImageError {
        let error = self.take(path, None).expect_err("to be refused");
        assert!(self.store.list().is_empty());
        let left: Vec<_> = fs::read_dir(self.store.shelf()).into_iter().flatten().collect();
        assert!(left.is_empty(), "{left:?}");
        error
    }
}

fn layers() -> Vec<Vec<u8>> {
    let base = Made::default().file("etc/name", b"base").file("old", b"x").finish();
    let top = Made::default().file("etc/name", b"top").file(".wh.old", b"").finish();
    vec![base, top]
}

fn is_whole(held: &Held) {
    assert_eq!(fs::read(held.root.join("etc/name")).unwrap(), b"top");
    assert!(!held.root.join("old").exists());
    assert_eq!(held.configuration.config().as_ref().unwrap().user().as_deref(), Some("7:8"));
}

#[test]
fn a_layout_is_taken_in_every_packing_and_form() {
    for pack in [gzip as fn(&[u8]) -> Vec<u8>, |bytes| zstd::encode_all(bytes, 1).unwrap(), <[u8]>::to_vec] {
        let files = Layout::new().image("v1", "amd64", &layers(), pack).finish();
        let desk = Desk::new();
        let layout = desk.folder.path().join("layout");
        made::write(&layout, &files);
        is_whole(&desk.take(&layout, None).unwrap());
        let desk = Desk::new();
        is_whole(&desk.take(&desk.archive(&files), None).unwrap());
    }
}

#[test]
fn what_docker_saves_is_taken_packed_or_not() {
    let files = made::saved(&layers());
    let desk = Desk::new();
    is_whole(&desk.take(&desk.archive(&files), None).unwrap());
    let desk = Desk::new();
    is_whole(&desk.take(&desk.bytes(&gzip(&made::archive(&files))), None).unwrap());
}

#[test]
fn an_image_that_is_there_is_not_unpacked_again() {
    let desk = Desk::new();
    let archive = desk.archive(&made::saved(&layers()));
    let first = desk.take(&archive, None).unwrap();
    fs::write(first.root.join("mark"), b"").unwrap();
    assert!(desk.take(&archive, None).unwrap().root.join("mark").exists());
    assert_eq!(desk.store.list().len(), 1);
    assert_eq!(desk.store.list()[0].note.names, ["made:latest"]);
}

#[test]
fn one_of_several_images_is_taken_by_its_tag() {
    let other = vec![Made::default().file("etc/name", b"other").finish()];
    let layout = Layout::new().image("v1", "amd64", &layers(), gzip).image("v2", "amd64", &other, gzip);
    let desk = Desk::new();
    let archive = desk.archive(&layout.finish());
    let error = desk.refuse(&archive).to_string();
    assert!(error.contains("v1, v2"), "{error}");
    is_whole(&desk.take(&archive, Some("v1")).unwrap());
    assert!(matches!(desk.take(&archive, Some("v3")), Err(ImageError::NoTag { .. })));
}

#[test]
fn an_image_for_another_processor_is_refused_and_beside_ours_passed_over() {
    let desk = Desk::new();
    let files = Layout::new().image("v1", "arm64", &layers(), gzip).finish();
    assert!(desk.refuse(&desk.archive(&files)).to_string().contains("linux/arm64"));
    let files = Layout::new().image("v1", "arm64", &layers(), gzip).image("v1", "amd64", &layers(), gzip);
    is_whole(&desk.take(&desk.archive(&files.finish()), None).unwrap());
}

#[test]
fn a_part_that_is_not_what_it_was_named_is_refused() {
    let files = Layout::new().image("v1", "amd64", &layers(), gzip).finish();
    for index in 1..files.len() - 1 {
        let mut wrong = files.clone();
        let last = wrong[index].1.len() - 1;
        wrong[index].1[last] ^= 1;
        let desk = Desk::new();
        let error = desk.refuse(&desk.archive(&wrong));
        let refused = matches!(error, ImageError::WrongSum { .. } | ImageError::Layer { .. });
        assert!(refused, "{}: {error}", files[index].0);
        let desk = Desk::new();
        let mut without = files.clone();
        without.remove(index);
        assert!(matches!(desk.refuse(&desk.archive(&without)), ImageError::Missing(_)));
    }
}

#[test]
fn another_layer_than_the_configuration_names_is_refused() {
    let mut files = made::saved(&layers());
    files[1].1 = Made::default().file("etc/name", b"other").finish();
    let desk = Desk::new();
    assert!(matches!(desk.refuse(&desk.archive(&files)), ImageError::WrongSum { .. }));
    files[0].1.push(b' ');
    assert!(matches!(desk.refuse(&desk.archive(&files)), ImageError::WrongSum { .. }));
}

#[test]
fn what_is_no_image_is_told_in_a_sentence() {
    let named = |name: &str, bytes: &[u8]| vec![(name.to_owned(), bytes.to_vec())];
    for (files, word) in [
        (named("etc/passwd", b"x"), "neither an OCI layout"),
        (named("index.json", b"{"), "cannot be understood"),
        (named("index.json", b"[]"), "cannot be understood"),
        (named("index.json", br#"{"schemaVersion":2,"manifests":[]}"#), "neither"),
        (named("manifest.json", b"[]"), "neither"),
        (named("manifest.json", br#"[{"Config":"../../etc/passwd","Layers":[]}]"#), "missing"),
        (named("manifest.json", &vec![b' '; 5 << 20]), "more than 4 MiB"),
    ] {
        let desk = Desk::new();
        let error = desk.refuse(&desk.archive(&files)).to_string();
        assert!(error.contains(word), "{error}");
    }
    for bytes in [&b""[..], b"root:x:0:0\n\x1b[2J", &[0x1f, 0x8b, 0, 0], &vec![b'7'; 4096]] {
        let desk = Desk::new();
        let error = desk.refuse(&desk.bytes(bytes)).to_string();
        assert!(!error.contains(char::is_control), "{error:?}");
    }
}

#[test]
fn an_image_in_use_stays() {
    let desk = Desk::new();
    let held = desk.take(&desk.archive(&made::saved(&layers())), None).unwrap();
    let id = held.id.clone();
    assert!(!desk.store.remove(&id, &Progress::hidden()).unwrap());
    is_whole(&held);
    drop(held);
    assert!(desk.store.remove(&id, &Progress::hidden()).unwrap());
    assert!(desk.store.list().is_empty() && desk.store.hold(&id).unwrap().is_none());
}

#[test]
fn a_name_belongs_to_one_image() {
    let desk = Desk::new();
    let other = vec![Made::default().file("etc/name", b"other").finish()];
    let first = desk.take(&desk.archive(&made::saved(&layers())), None).unwrap().id;
    let second = desk.take(&desk.archive(&made::saved(&other)), None).unwrap().id;
    for id in [&first, &second] {
        desk.store.name(id, "here:5000/made", &Progress::hidden()).unwrap();
        let listed = desk.store.list();
        let named: Vec<_> =
            listed.iter().filter(|one| one.note.names.iter().any(|name| name == "here:5000/made")).collect();
        assert_eq!((named.len(), &named[0].id), (1, id));
    }
}
