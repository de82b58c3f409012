//! A file as a qcow2 image: whatever its tables say, an access is done or is an error, and no other file changes.
//!
//! ```text
//!   byte 0   accesses (bits 0 to 3); it may have a backing file (bit 4); it may only be read (bit 5)
//!   then     three bytes for each access: what and how much, and where on the disk
//!   then     the image
//! ```

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use lguest_launcher::disks::AttachedDisk;

const BACKED: u8 = 0x10;
const READ_ONLY: u8 = 0x20;
/// What the other files hold.
const BASE: [u8; 4096] = [5; 4096];
const SECRET: &[u8] = b"secret";
/// Bytes of the host's disk that an image may take beyond those that were written, for its tables: far more than any of them.
const MOST_TAKEN: u64 = 64 << 20;
const SECTOR: u64 = 512;

/// Opens an image and uses it.
pub fn run(input: &[u8]) {
    let Some((manner, rest)) = input.split_first() else { return };
    let count = usize::from(manner & 15).min(rest.len() / 3);
    let (accesses, image) = rest.split_at(3 * count);
    // In memory where that is to be had: a flush waits for a disk of the host's, and there are thousands.
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
    let folder = folder.expect("a folder for temporary files");
    let path = |name: &str| folder.path().join(name);
    for (name, bytes) in [("disk", image), ("base", &BASE), ("secret", SECRET)] {
        fs::write(path(name), bytes).expect("the folder takes a file");
    }
    let mut text = format!("{},format=qcow2", path("disk").display());
    if manner & BACKED != 0 {
        text += &format!(",backing={}", path("base").display());
    }
    if manner & READ_ONLY != 0 {
        text += ",readonly";
    }
    let written = use_it(&text, accesses);
    assert_eq!(fs::read(path("base")).expect("it is there"), BASE, "a backing file was written");
    assert_eq!(fs::read(path("secret")).expect("it is there"), SECRET, "another file was written");
    assert_eq!(fs::read_dir(folder.path()).expect("it is there").count(), 3, "a file was made");
    if manner & READ_ONLY != 0 {
        assert_eq!(fs::read(path("disk")).expect("it is there"), image, "it was only to be read");
    }
    assert!(taken(&path("disk")) <= image.len() as u64 + written + MOST_TAKEN, "it grows without bound");
}

/// Bytes of the host's disk.
fn taken(path: &Path) -> u64 {
    fs::metadata(path).expect("it is there").blocks() * SECTOR
}

/// Carries the accesses out, and says how much they wrote.
fn use_it(text: &str, accesses: &[u8]) -> u64 {
    let disk = match AttachedDisk::open(text) {
        Ok(disk) => disk.image(),
        Err(mistake) => {
            let sentence = mistake.to_string();
            let told = sentence.starts_with(&format!("--disk {text}: "));
            assert!(told && !sentence.contains(|letter: char| letter.is_control()), "{sentence:?}");
            return 0;
        }
    };
    let (mut bytes, mut written) = (vec![0; 64 << 10], 0);
    for access in accesses.chunks_exact(3) {
        let sectors = disk.length() / SECTOR;
        // A place in the first 256 sectors, or that share of the disk, which may claim to be as large as it likes.
        let at = match access[1] & 1 {
            0 => u64::from(access[2]),
            _ => sectors / 256 * u64::from(access[2]) + u64::from(access[1]),
        }
        .min(sectors - 1);
        let length = (1 << (access[0] >> 4).min(7)).min(sectors - at) * SECTOR;
        let (at, bytes) = (at * SECTOR, &mut bytes[..length as usize]);
        // Errors are the Guest's to hear.
        let _ = match access[0] & 7 {
            0..3 => disk.read(at, bytes),
            3..5 => {
                bytes.fill(access[2]);
                written += length;
                disk.write(at, bytes)
            }
            5 => disk.discard(at..at + length),
            6 => {
                written += length;
                disk.zero(at..at + length, access[1] & 2 != 0)
            }
            _ => disk.flush(),
        };
    }
    written
}
