//! What a hostile Guest asks of a shared directory: no answer is longer than its room, and nothing outside is reached.
//!
//! ```text
//!   byte 0   the share may only be read (bit 0)
//!   then     requests, again and again: what (fuse.h's number), about which node, the length of the rest, the rest
//! ```

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use lguest_devices::fuse::Validity;
use lguest_devices::virtio::fs::FuseServer;
use lguest_launcher::share::Share;
use rustix::fs::{Mode, OFlags};

/// Requests of an input at most.
const MOST: usize = 128;
/// Room for an answer: a few names of a directory.
const ROOM: usize = 600;
const HEADER: usize = 40;
const UNIQUE: u64 = 77;
const SECRET: &[u8] = b"what is outside";
/// FALLOCATE, and where its length's upper bytes are: a Guest may fill the host's disk, and a test need not.
const ALLOCATE: u8 = 43;
const ALLOCATED: std::ops::Range<usize> = 18..24;
/// Requests that no answer belongs to, unless they cannot be understood: FORGET, BATCH_FORGET, INTERRUPT.
const UNANSWERED: [u8; 3] = [2, 42, 36];

/// Serves the input's requests.
pub fn run(input: &[u8]) {
    let Some((manner, mut rest)) = input.split_first() else { return };
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    let (share, outside) = (folder.path().join("share"), folder.path().join("outside"));
    furnish(&share, &outside);
    let root = rustix::fs::open(&share, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty());
    let readonly = manner & 1 != 0;
    let mut server = Share::new(root.expect("it is there").into(), readonly, Validity(1)).expect("a share");
    let mut answer = Vec::new();
    let init = [7u32, 40, 1 << 20, u32::MAX, 0].map(u32::to_le_bytes).concat();
    server.serve(&message(26, 1, &init), ROOM, false, &mut answer);
    for _ in 0..MOST {
        let [what, node, length, after @ ..] = rest else { break };
        let (content, after) = after.split_at(after.len().min(usize::from(*length)));
        rest = after;
        server.serve(&message(*what, *node, content), ROOM, false, &mut answer);
        check(*what, &answer);
    }
    server.reset();
    drop(server);
    assert_eq!(fs::read(outside.join("secret")).expect("it is there"), SECRET, "a file outside was changed");
    for (place, count) in [(&outside, 1), (&folder.path().to_owned(), 2)] {
        assert_eq!(fs::read_dir(place).expect("it is there").count(), count, "{}", place.display());
    }
    if readonly {
        assert_eq!(fs::read(share.join("f")).expect("it is there"), b"text", "it was only to be read");
        assert_eq!(fs::read_dir(&share).expect("it is there").count(), 4, "it was only to be read");
    }
}

fn furnish(share: &Path, outside: &Path) {
    for folder in [share, &share.join("d"), outside] {
        fs::create_dir(folder).expect("an empty folder takes another");
    }
    fs::write(share.join("f"), b"text").expect("it takes a file");
    fs::write(outside.join("secret"), SECRET).expect("it takes a file");
    symlink("../outside", share.join("l")).expect("it takes a link");
    symlink(outside.join("secret"), share.join("s")).expect("it takes a link");
}

fn message(what: u8, node: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = [(HEADER + content.len()) as u32, what.into()].map(u32::to_le_bytes).concat();
    // The largest number stands for all that are.
    let node = if node == u8::MAX { u64::MAX } else { node.into() };
    bytes.extend([UNIQUE, node].map(u64::to_le_bytes).concat());
    bytes.extend([1000u32, 1000, 1, 0].map(u32::to_le_bytes).concat());
    bytes.extend(content);
    if let (ALLOCATE, Some(upper)) = (what, bytes[HEADER..].get_mut(ALLOCATED)) {
        upper.fill(0);
    }
    bytes
}

fn check(what: u8, answer: &[u8]) {
    assert!(answer.len() <= ROOM, "{} bytes in a room of {ROOM}", answer.len());
    if UNANSWERED.contains(&what) && answer.is_empty() {
        return;
    }
    let number = |at: usize| u32::from_le_bytes(answer[at..at + 4].try_into().expect("four bytes"));
    let error = number(4).cast_signed();
    assert_eq!((number(0) as usize, number(8), number(12)), (answer.len(), UNIQUE as u32, 0));
    assert!((-4095..=0).contains(&error) && (error == 0 || answer.len() == 16), "error {error}");
}
