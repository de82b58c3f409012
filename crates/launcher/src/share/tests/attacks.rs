//! Ways out of a share, tried one by one; none leads anywhere.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use lguest_devices::virtio::fs::FuseServer;
use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::driver::*;

const SECRET: &str = "what is outside";

/// A folder with a share in it, and a secret beside the share.
fn house() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let share = folder.path().join("share");
    fs::create_dir(&share).unwrap();
    fs::create_dir(folder.path().join("outside")).unwrap();
    fs::write(folder.path().join("outside/secret"), SECRET).unwrap();
    (folder, share)
}

#[test]
fn no_name_leads_out() {
    let (_folder, share) = house();
    let mut driver = Driver::new(&share, false);
    let outside = format!("{}/outside", share.parent().unwrap().display());
    for name in ["..", ".", "", "../outside", &outside, "a/../../outside", "/"] {
        assert_eq!(driver.lookup(1, name).map(drop), Err(libc::EINVAL), "{name}");
        assert_eq!(driver.mkdir(1, name, 0o755), Err(libc::EINVAL), "{name}");
        assert_eq!(driver.create(1, name, 0o644), Err(libc::EINVAL), "{name}");
        assert_eq!(driver.rename((1, "x"), (1, name), 0), Err(libc::EINVAL), "{name}");
        assert_eq!(driver.rename((1, name), (1, "x"), 0), Err(libc::EINVAL), "{name}");
        let with_nul = [name.as_bytes(), b"\0"].concat();
        assert_eq!(driver.call(UNLINK, 1, &with_nul), Err(libc::EINVAL), "{name}");
    }
}

#[test]
fn a_link_is_never_followed() {
    let (folder, share) = house();
    symlink("../outside", share.join("way")).unwrap();
    symlink(folder.path().join("outside/secret"), share.join("file")).unwrap();
    symlink("../outside/made", share.join("dangling")).unwrap();
    let mut driver = Driver::new(&share, false);
    let (way, seen) = driver.lookup(1, "way").unwrap();
    assert_eq!(seen.mode & 0o170_000, 0o120_000);
    assert_eq!(driver.lookup(way, "secret").map(drop), Err(libc::ENOTDIR));
    assert_eq!(driver.create(way, "x", 0o644), Err(libc::ENOTDIR));
    assert_eq!(driver.call(OPENDIR, way, &words(&[0, 0])), Err(libc::ENOTDIR));
    let (file, _) = driver.lookup(1, "file").unwrap();
    assert_eq!(driver.open(file, libc::O_RDONLY), Err(libc::ELOOP));
    let long = Seen { size: 1, mode: 0o777, uid: 7, gid: 7 };
    assert_eq!(driver.change(file, 8, long), Err(libc::ELOOP));
    let _ = driver.change(file, 1, long);
    for name in ["file", "dangling"] {
        assert_eq!(driver.create(1, name, 0o644), Err(libc::ELOOP), "{name}");
    }
    assert_eq!(fs::read_dir(folder.path().join("outside")).unwrap().count(), 1);
    assert_eq!(fs::read_to_string(folder.path().join("outside/secret")).unwrap(), SECRET);
}

#[test]
fn a_pipe_a_socket_and_a_device_are_not_opened() {
    let (_folder, share) = house();
    let mut driver = Driver::new(&share, false);
    driver.call(MKNOD, 1, &[&words(&[0o010_600, 0, 0, 0])[..], b"pipe\0"].concat()).unwrap();
    let (pipe, _) = driver.lookup(1, "pipe").unwrap();
    // A server that opened it would wait here for a writer, for ever.
    assert_eq!(driver.open(pipe, libc::O_RDONLY), Err(libc::ENXIO));
    assert_eq!(driver.create(1, "pipe", 0o644), Err(libc::ENXIO));
    drop(driver);
    let mut dev = Driver::new(Path::new("/dev"), true);
    let (null, _) = dev.lookup(1, "null").unwrap();
    assert_eq!(dev.open(null, libc::O_RDONLY), Err(libc::ENXIO));
}

#[test]
fn proc_inside_a_share_is_closed() {
    let mut driver = Driver::new(Path::new("/"), true);
    assert_eq!(driver.lookup(1, "proc").map(drop), Err(libc::EACCES));
    assert!(driver.list(1, READDIRPLUS, 60_000).iter().all(|(name, node)| name != "proc" || *node == 0));
    assert!(driver.lookup(1, "etc").is_ok());
}

#[test]
fn numbers_that_were_never_given_out_are_nobodys() {
    let (_folder, share) = house();
    let mut driver = Driver::new(&share, false);
    for number in [0, 2, 77, u64::MAX] {
        assert_eq!(driver.attributes(number), Err(libc::ESTALE));
        assert_eq!(driver.lookup(number, "x").map(drop), Err(libc::ESTALE));
        assert_eq!(driver.open(number, libc::O_RDONLY), Err(libc::ESTALE));
        assert_eq!(driver.read(number, 0, 10), Err(libc::EBADF));
        let mut nothing = Vec::new();
        let forget = driver.message(FORGET, number, &longs(&[u64::MAX]));
        driver.share.serve(&forget, 0, false, &mut nothing);
        assert!(nothing.is_empty());
    }
    driver.attributes(1).unwrap();
}

/// Somebody on the host swaps a directory and a link to the outside as fast as they can, while the Guest goes through
/// the name again and again. It may fail; it may never come out.
#[test]
fn a_host_that_renames_meanwhile_opens_no_way_out() {
    let (folder, share) = house();
    fs::create_dir(share.join("door")).unwrap();
    fs::write(share.join("door/secret"), "what is inside").unwrap();
    symlink("../outside", share.join("link")).unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let (ended, place) = (over.clone(), share.clone());
    let renamer = std::thread::spawn(move || {
        let mut swaps = 0u64;
        while !ended.load(Ordering::Relaxed) {
            let (door, link) = (place.join("door"), place.join("link"));
            renameat_with(CWD, &door, CWD, &link, RenameFlags::EXCHANGE).unwrap();
            swaps += 1;
        }
        swaps
    });
    let mut driver = Driver::new(&share, false);
    driver.share.nodes.keep_at_most(0);
    let (mut inside, mut refused) = (0, 0);
    for _ in 0..20_000 {
        let read = driver.lookup(1, "door").and_then(|(door, _)| {
            let written = driver.create(door, "written", 0o644);
            if let Ok((node, handle)) = written {
                driver.call(RELEASE, node, &longs(&[handle, 0, 0])).unwrap();
            }
            let (file, _) = driver.lookup(door, "secret")?;
            let handle = driver.open(file, libc::O_RDONLY)?;
            let text = driver.read(handle, 0, 100);
            driver.call(RELEASE, file, &longs(&[handle, 0, 0])).unwrap();
            text
        });
        match read {
            Ok(text) => {
                assert_eq!(text, b"what is inside");
                inside += 1;
            }
            Err(_) => refused += 1,
        }
    }
    over.store(true, Ordering::Relaxed);
    let swaps = renamer.join().unwrap();
    assert!(inside > 0 && refused > 0 && swaps > 100, "{inside} times in, {refused} refused, {swaps} swaps");
    assert_eq!(fs::read_dir(folder.path().join("outside")).unwrap().count(), 1, "nothing was made outside");
}

#[test]
fn a_guest_that_opens_without_end_is_stopped() {
    let (_folder, share) = house();
    fs::write(share.join("f"), b"").unwrap();
    let mut driver = Driver::new(&share, false);
    driver.share.most_open = 50;
    let (file, _) = driver.lookup(1, "f").unwrap();
    let opened: Vec<_> = (0..60).map(|_| driver.open(file, libc::O_RDONLY)).collect();
    assert_eq!(opened.iter().filter(|one| one.is_ok()).count(), 50);
    assert_eq!(opened[59], Err(libc::ENFILE));
    driver.share.reset();
    assert!(driver.share.open.is_empty());
}

#[test]
fn messages_of_chance_harm_nothing() {
    let (folder, share) = house();
    fs::write(share.join("f"), b"text").unwrap();
    let mut driver = Driver::new(&share, false);
    let mut state = 0x1234_5678_u64;
    let mut chance = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut answer = Vec::new();
    for _ in 0..30_000 {
        let length = chance() as usize % 110;
        // Small numbers: handles, nodes and names that exist are hit now and then.
        let content: Vec<u8> =
            (0..length).map(|_| [0, 0, 1, 2, b'f', b'.', 8, 255][chance() as usize % 8]).collect();
        let (opcode, node) = (chance() as u32 % 53, chance() % 5);
        let room = chance() as usize % 5000;
        let message = driver.message(opcode, node, &content);
        driver.share.serve(&message, room, false, &mut answer);
        assert!(answer.len() <= room.max(16), "{opcode}");
    }
    assert_eq!(fs::read_to_string(folder.path().join("outside/secret")).unwrap(), SECRET);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
}
