//! Everything else that reads bytes of a stranger's, a table of readers: byte 0 of an input chooses one, the rest is read.

use std::fs;
use std::io::Write;

use lguest_init::plan::Plan;
use lguest_launcher::config::Config;
use lguest_launcher::console::{Console, Stream};
use lguest_launcher::debian::{deb, modules};
use lguest_launcher::images::name::ImageName;
use lguest_launcher::images::registry::Challenge;
use lguest_launcher::images::source::Source;
use lguest_launcher::images::{credentials::Credentials, manifest};
use lguest_launcher::initramfs;
use lguest_launcher::marker::MarkWord;
use lguest_launcher::supervise::Supervisor;
use lguest_launcher::symbols::Symbols;
use oci_spec::image::{ImageConfiguration, ImageIndex, ImageManifest};

/// What a server on the Guest's network says to lguest-init: a file that names nothing of its program's, so it is read here.
#[allow(dead_code, reason = "the questions are the program's")]
#[path = "../../../init/src/network/dhcp.rs"]
mod dhcp;

type Reader = fn(&[u8]);

/// Who reads, by the first byte. New ones come last: the corpus names them by number.
const READERS: [Reader; 13] = [
    archive,
    documents,
    name,
    challenge,
    logins,
    symbols,
    configuration,
    package,
    module,
    initrd,
    plan,
    lease,
    reports,
];

/// Reads an input.
pub fn run(input: &[u8]) {
    if let Some((which, bytes)) = input.split_first() {
        READERS[usize::from(*which) % READERS.len()](bytes);
    }
}

/// In words for the user: one line, and nothing that a terminal would obey.
fn one_sentence(text: &str) {
    assert!(!text.is_empty() && !text.contains(|letter: char| letter.is_control()), "{text:?}");
}

/// A file of these bytes, for readers that open one.
fn with_file(bytes: &[u8], read: impl FnOnce(&std::path::Path, &std::path::Path)) {
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    let path = folder.path().join("file");
    fs::write(&path, bytes).expect("it takes a file");
    read(&path, folder.path());
    assert_eq!(fs::read_dir(folder.path()).expect("it is there").count(), 1, "a file was left");
}

/// `docker save`'s, or a layout in a tar archive.
fn archive(bytes: &[u8]) {
    with_file(bytes, |path, room| {
        let _ = Source::is_one(path);
        let found = Source::open(path, room).and_then(|source| {
            let image = manifest::find(&source, None)?;
            for layer in &image.layers {
                let _ = source.part(&layer.part);
            }
            Ok(image)
        });
        found.map_or_else(|error| one_sentence(&error.to_string()), drop);
    });
}

/// A registry's answers, which are JSON.
fn documents(bytes: &[u8]) {
    let sums = manifest::read::<ImageIndex>("index", bytes)
        .map(|index| index.manifests().iter().filter_map(|one| manifest::sum_of(one).ok()).count());
    let layers = manifest::read::<ImageManifest>("manifest", bytes)
        .map(|one| one.layers().iter().filter_map(|one| manifest::sum_of(one).ok()).count());
    let sentences =
        [sums.err(), layers.err(), manifest::read::<ImageConfiguration>("configuration", bytes).err()];
    sentences.into_iter().flatten().for_each(|error| one_sentence(&error.to_string()));
}

fn name(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _ = ImageName::is_meant(text);
    if let Ok(name) = ImageName::read(text) {
        let again = ImageName::read(&name.whole()).expect("a whole name is a name");
        assert_eq!((again.host(), again.repository()), (name.host(), name.repository()));
    }
}

/// What a registry says for a token to be fetched.
fn challenge(bytes: &[u8]) {
    let _ = Challenge::read(&String::from_utf8_lossy(bytes));
}

fn logins(bytes: &[u8]) {
    with_file(bytes, |path, _| {
        let found = Credentials::of(vec![path.to_owned()]).find("registry.example", "team/tool");
        found.map_or_else(|error| one_sentence(&error.to_string()), drop);
    });
}

/// A kernel's names, in an ELF file or a list.
fn symbols(bytes: &[u8]) {
    let symbols = Symbols::read(bytes);
    for address in [0, 0x1000, 0xffff_ffff_8100_0000, u64::MAX] {
        if let Some((name, _)) = symbols.find(address) {
            assert!(name.bytes().all(|byte| byte.is_ascii_graphic()), "{name:?}");
        }
    }
}

fn configuration(bytes: &[u8]) {
    with_file(bytes, |path, _| drop(Config::read(path)));
}

/// A Debian package.
fn package(bytes: &[u8]) {
    with_file(bytes, |path, _| {
        let found = deb::extract(path, 1 << 20, |name| name.ends_with("vmlinuz"));
        assert!(found.is_err() || found.is_ok_and(|bytes| bytes.len() <= 1 << 20));
    });
}

/// A module of a kernel's.
fn module(bytes: &[u8]) {
    assert!(modules::depends(bytes).iter().all(|name| !name.is_empty()));
}

fn initrd(bytes: &[u8]) {
    let _ = initramfs::is_ours(bytes);
}

/// What a client of `lguest exec` asks for; lguest-init reads it.
fn plan(bytes: &[u8]) {
    if let Ok(plan) = Plan::read(bytes) {
        let again = Plan::read(&plan.write()).expect("what was written is read");
        assert_eq!(again.command, plan.command);
    }
}

/// What a stranger's DHCP server says.
fn lease(bytes: &[u8]) {
    let hardware = [2, 0, 0, 0, 0, 1];
    let mut message = dhcp::Question::Discover.write(7, hardware)[..240].to_vec();
    message[0] = 2;
    // The first bytes are the address that is offered; a whole message goes in as it is, too.
    let (address, options) = bytes.split_at(bytes.len().min(4));
    message[16..16 + address.len()].copy_from_slice(address);
    message.extend(options);
    for answer in [dhcp::read(&message, 7, hardware), dhcp::read(bytes, 7, hardware)].into_iter().flatten() {
        if let dhcp::Answer::Offer(lease) | dhcp::Answer::Granted(lease) = answer {
            assert!(lease.prefix <= 32 && lease.resolvers.len() <= 3, "{lease:?}");
        }
    }
}

/// What a Guest writes to its two serial ports: in pieces it is what it is as a whole.
fn reports(bytes: &[u8]) {
    let Some((piece, bytes)) = bytes.split_first() else { return };
    let word = MarkWord::draw();
    let said = |piece: usize| {
        let console = Console::new(true);
        let button = Supervisor::new().button();
        let mut shown = Vec::new();
        let (mut reports, mut screen) =
            (console.reports(), console.screen(Stream::Session(word.clone()), &mut shown, button));
        for piece in bytes.chunks(piece) {
            reports.write_all(piece).expect("it takes all");
            screen.write_all(piece).expect("it takes all");
        }
        drop(screen);
        (console.status(), console.take_kept().len(), shown)
    };
    let (status, kept, shown) = said(usize::from(*piece).max(1));
    let whole = said(bytes.len().max(1));
    assert_eq!((status, shown), (whole.0, whole.2));
    assert!(kept <= 64 << 10);
}
