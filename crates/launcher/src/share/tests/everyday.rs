//! What a Guest does all day.

use std::fs;
use std::sync::{Arc, Mutex};

use lguest_devices::virtio::fs::{FuseServer, Served};
use lguest_devices::virtio::waker::{Waker, Wakes};

use super::driver::*;

#[test]
fn a_file_is_made_written_read_renamed_and_removed() {
    let folder = tempfile::tempdir().unwrap();
    let mut driver = Driver::new(folder.path(), false);
    let directory = driver.mkdir(1, "a", 0o755).unwrap();
    let (node, handle) = driver.create(directory, "b", 0o644).unwrap();
    assert_eq!(driver.write(handle, 3, b"hello"), Ok(5));
    assert_eq!(driver.read(handle, 0, 100), Ok(b"\0\0\0hello".to_vec()));
    assert_eq!(driver.attributes(node).unwrap().size, 8);
    assert_eq!(fs::read(folder.path().join("a/b")).unwrap(), b"\0\0\0hello");
    assert_eq!(driver.rename((directory, "b"), (1, "c"), 0), Ok(()));
    assert_eq!(driver.attributes(node).unwrap().size, 8, "a node is its file, whatever its name");
    assert_eq!(driver.call(RMDIR, 1, b"a\0"), Ok(vec![]));
    assert_eq!(driver.call(UNLINK, 1, b"c\0"), Ok(vec![]));
    assert_eq!(driver.read(handle, 3, 5), Ok(b"hello".to_vec()), "open files outlive their names");
    assert_eq!(driver.attributes(node).unwrap().size, 8, "and keep their facts");
    assert_eq!(driver.call(RELEASE, node, &longs(&[handle, 0, 0])), Ok(vec![]));
    assert_eq!(driver.read(handle, 0, 5), Err(libc::EBADF));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn an_exchange_leaves_both_nodes_their_files() {
    let folder = tempfile::tempdir().unwrap();
    let mut driver = Driver::new(folder.path(), false);
    let (one, handle) = driver.create(1, "one", 0o644).unwrap();
    driver.write(handle, 0, b"1").unwrap();
    let (two, _) = driver.create(1, "two", 0o644).unwrap();
    assert_eq!(driver.rename((1, "one"), (1, "two"), 1), Err(libc::EEXIST));
    driver.rename((1, "one"), (1, "two"), 2).unwrap();
    assert_eq!((driver.attributes(one).unwrap().size, driver.attributes(two).unwrap().size), (1, 0));
    assert_eq!(driver.rename((1, "one"), (1, "two"), 4), Err(libc::EINVAL), "no device nodes as whiteouts");
}

#[test]
fn a_directory_is_listed_in_pieces_of_any_size_with_nodes_that_work() {
    let folder = tempfile::tempdir().unwrap();
    let names: Vec<String> = (0..200).map(|number| format!("file-{number:03}")).collect();
    names.iter().for_each(|name| fs::write(folder.path().join(name), name).unwrap());
    let mut driver = Driver::new(folder.path(), false);
    for (opcode, size) in [(READDIR, 200), (READDIR, 60_000), (READDIRPLUS, 400), (READDIRPLUS, 60_000)] {
        let found = driver.list(1, opcode, size);
        let without_dots: Vec<_> = found.iter().filter(|(name, _)| !name.starts_with('.')).collect();
        assert!(without_dots.iter().map(|(name, _)| name).eq(&names), "{opcode} {size}");
        if opcode == READDIRPLUS {
            assert_eq!(driver.attributes(without_dots[7].1).unwrap().size, 8);
        }
    }
}

#[test]
fn links_are_text_and_names() {
    let folder = tempfile::tempdir().unwrap();
    let mut driver = Driver::new(folder.path(), false);
    let link = u64_at(&driver.call(SYMLINK, 1, b"link\0../../etc/passwd\0").unwrap(), 0);
    assert_eq!(driver.call(READLINK, link, b""), Ok(b"../../etc/passwd".to_vec()));
    let (file, _) = driver.create(1, "file", 0o600).unwrap();
    let entry = driver.call(LINK, 1, &[&longs(&[file])[..], b"other\0"].concat()).unwrap();
    assert_eq!(u64_at(&entry, 0), file, "a second name of the same file is the same node");
    assert_eq!(driver.call(READLINK, file, b""), Err(libc::EINVAL));
    assert_eq!(
        driver.call(MKNOD, 1, &[&words(&[0o010_644, 0, 0, 0])[..], b"pipe\0"].concat()).map(drop),
        Ok(())
    );
}

#[test]
fn a_file_grows_shrinks_has_holes_and_is_copied() {
    let folder = tempfile::tempdir().unwrap();
    let mut driver = Driver::new(folder.path(), false);
    let (node, handle) = driver.create(1, "a", 0o644).unwrap();
    driver.write(handle, 1 << 20, b"end").unwrap();
    let (_, other) = driver.create(1, "b", 0o644).unwrap();
    let range = longs(&[handle, 1 << 20, 1, other, 10, 3, 0]);
    assert_eq!(driver.call(COPY, node, &range).map(|answer| u32_at(&answer, 0)), Ok(3));
    assert_eq!(driver.read(other, 9, 9), Ok(b"\0end".to_vec()));
    let data = driver.call(LSEEK, node, &[longs(&[handle, 0]), words(&[3, 0])].concat()).unwrap();
    assert!(u64_at(&data, 0) <= 1 << 20);
    assert_eq!(driver.call(LSEEK, node, &[longs(&[handle, 0]), words(&[0, 0])].concat()), Err(libc::EINVAL));
    let allocate = |mode| [longs(&[handle, 0, 8192]), words(&[mode, 0])].concat();
    assert_eq!(driver.call(FALLOCATE, node, &allocate(0)), Ok(vec![]));
    assert_eq!(driver.call(FALLOCATE, node, &allocate(0x20)), Err(libc::EOPNOTSUPP), "inserting a range");
    let short = Seen { size: 5, mode: 0, uid: 0, gid: 0 };
    assert_eq!(driver.change(node, 8, short).unwrap().size, 5);
}

#[test]
fn what_the_host_does_is_found_and_what_it_took_away_is_stale() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("d")).unwrap();
    fs::write(folder.path().join("d/f"), b"1").unwrap();
    let mut driver = Driver::new(folder.path(), false);
    let (directory, _) = driver.lookup(1, "d").unwrap();
    let (file, _) = driver.lookup(directory, "f").unwrap();
    fs::write(folder.path().join("d/f"), b"four").unwrap();
    assert_eq!(driver.attributes(file).unwrap().size, 4);
    fs::rename(folder.path().join("d"), folder.path().join("e")).unwrap();
    assert_eq!(driver.attributes(file).unwrap().size, 4, "its directory is still the same one");
    fs::remove_file(folder.path().join("e/f")).unwrap();
    assert_eq!(driver.attributes(file), Err(libc::ESTALE));
    assert_eq!(driver.lookup(1, "d").map(drop), Err(libc::ENOENT));
}

#[test]
fn more_files_than_descriptors_are_found_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut driver = Driver::new(folder.path(), false);
    let mut nodes = Vec::new();
    let mut parent = 1;
    for level in 0..20 {
        for name in ["x", "y", "z"] {
            let (node, handle) = driver.create(parent, name, 0o644).unwrap();
            driver.write(handle, 0, format!("{level}{name}").as_bytes()).unwrap();
            driver.call(RELEASE, node, &longs(&[handle, 0, 0])).unwrap();
            nodes.push((node, format!("{level}{name}")));
        }
        parent = driver.mkdir(parent, "deeper", 0o755).unwrap();
    }
    driver.share.nodes.keep_at_most(4);
    for (node, text) in nodes.iter().rev().chain(&nodes) {
        let handle = driver.open(*node, libc::O_RDONLY).unwrap();
        assert_eq!(driver.read(handle, 0, 100), Ok(text.clone().into_bytes()));
        driver.call(RELEASE, *node, &longs(&[handle, 0, 0])).unwrap();
    }
}

#[test]
fn a_readonly_share_refuses_every_change() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("f"), b"text").unwrap();
    let mut driver = Driver::new(folder.path(), true);
    let (file, _) = driver.lookup(1, "f").unwrap();
    assert_eq!(driver.mkdir(1, "d", 0o755), Err(libc::EROFS));
    assert_eq!(driver.create(1, "g", 0o644), Err(libc::EROFS));
    assert_eq!(driver.rename((1, "f"), (1, "g"), 0), Err(libc::EROFS));
    for flags in [libc::O_WRONLY, libc::O_RDWR, libc::O_RDONLY | libc::O_TRUNC] {
        assert_eq!(driver.open(file, flags), Err(libc::EROFS));
    }
    let plain = Seen { size: 0, mode: 0o600, uid: 0, gid: 0 };
    assert_eq!(driver.change(file, 9, plain), Err(libc::EROFS));
    for (opcode, content) in [
        (UNLINK, b"f\0".to_vec()),
        (RMDIR, b"f\0".to_vec()),
        (SYMLINK, b"l\0f\0".to_vec()),
        (LINK, [&longs(&[file])[..], b"l\0"].concat()),
        (MKNOD, [&words(&[0o100_644, 0, 0, 0])[..], b"n\0"].concat()),
        (SETXATTR, [&words(&[1, 0])[..], b"user.x\0y"].concat()),
    ] {
        assert_eq!(driver.call(opcode, 1, &content), Err(libc::EROFS), "{opcode}");
    }
    let handle = driver.open(file, libc::O_RDONLY).unwrap();
    assert_eq!(driver.read(handle, 0, 10), Ok(b"text".to_vec()));
    assert_eq!(driver.write(handle, 0, b"new"), Err(libc::EROFS));
    assert_eq!(fs::read(folder.path().join("f")).unwrap(), b"text");
}

/// Where a crew's end of work is heard.
struct Bell(std::sync::mpsc::Sender<()>);

impl Wakes for Bell {
    fn wake(&mut self) {
        self.0.send(()).unwrap();
    }
}

#[test]
fn to_synchronise_holds_up_nobody_else_and_a_file_may_be_closed_meanwhile() {
    let folder = tempfile::tempdir().unwrap();
    let mut driver = Driver::new(folder.path(), false);
    let (node, handle) = driver.create(1, "f", 0o644).unwrap();
    driver.write(handle, 0, b"text").unwrap();
    let (sender, bell) = std::sync::mpsc::channel();
    let carrier = Arc::new(Mutex::new(Bell(sender)));
    driver.share.start().with(Waker::new(&carrier));
    let mut answer = Vec::new();
    let sync = driver.message(FSYNC, node, &[longs(&[handle]), words(&[0, 0])].concat());
    let Served::Later(file) = driver.share.serve(&sync, 100, true, &mut answer) else { panic!("waited") };
    let all = driver.message(SYNCFS, 1, &longs(&[0]));
    let Served::Later(whole) = driver.share.serve(&all, 100, true, &mut answer) else { panic!("waited") };
    driver.call(RELEASE, node, &longs(&[handle, 0, 0])).unwrap();
    assert_eq!(driver.attributes(node).unwrap().size, 4);
    let mut done = Vec::new();
    while done.len() < 2 {
        bell.recv().unwrap();
        done.extend(std::iter::from_fn(|| driver.share.done()));
    }
    done.sort_by_key(|(ticket, _)| ticket.0);
    assert_eq!([done[0].0, done[1].0], [file, whole]);
    for (_, bytes) in done {
        assert_eq!((u32_at(&bytes, 0), u32_at(&bytes, 4), u64_at(&bytes, 8)), (16, 0, 99));
    }
    // What is no file's any more is refused at once, and so is waited for who may not wait.
    assert_eq!(driver.share.serve(&sync, 100, true, &mut answer), Served::Answered);
    assert_eq!(u32_at(&answer, 4) as i32, -libc::EBADF);
    assert_eq!(driver.share.serve(&all, 100, false, &mut answer), Served::Answered);
}
