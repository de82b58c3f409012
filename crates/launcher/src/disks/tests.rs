//! Disks that cannot work, and what those that can do to their files.

use std::path::Path;

use super::*;

fn refusal(text: &str) -> String {
    AttachedDisk::open(text).unwrap_err().0
}

fn open(text: &str) -> Arc<dyn Storage> {
    AttachedDisk::open(text).unwrap().image()
}

#[test]
fn a_disk_that_cannot_work_is_told_in_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(path("empty"), b"").unwrap();
    std::fs::write(path("odd"), [0; 513]).unwrap();
    std::fs::write(path("good"), [0; 1024]).unwrap();
    std::fs::write(path("other"), [b"QFI\xfb".to_vec(), vec![0; 1020]].concat()).unwrap();
    for (text, hint) in [
        (path("missing"), "no such file"),
        (path(""), "directory"),
        (format!("{},readonly", path("")), "directory"),
        (path("empty"), "is empty"),
        (path("odd"), "513 bytes"),
        (format!("{},fast", path("good")), "fast is no option"),
        (format!("{},backing=", path("good")), "backing= is no option"),
        (format!("{},backing=x", path("good")), "a raw disk has no backing file"),
        (format!("{},format=vmdk", path("good")), "give raw or qcow2"),
        (format!("{},serial=", path("good")), "1 to 20 letters"),
        (format!("{},serial=a b", path("good")), "1 to 20 letters"),
        (format!("{},serial=123456789012345678901", path("good")), "1 to 20 letters"),
        (format!("{},format=qcow2", path("good")), "cannot be opened as qcow2"),
        (format!("{},format=qcow2{}", path("good"), ",backing=x".repeat(9)), "9 backing files"),
        (path("other"), "looks like qcow2"),
    ] {
        let sentence = refusal(&text);
        assert!(sentence.starts_with(&format!("--disk {text}: ")) && sentence.contains(hint), "{sentence}");
        assert!(!sentence.contains('\n'), "{sentence}");
    }
    open(&format!("{},format=raw", path("other")));
}

#[test]
fn a_disk_has_one_writer_or_many_readers() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk").display().to_string();
    std::fs::write(&path, [0; 1024]).unwrap();
    let readonly = format!("{path},readonly");
    let first = open(&readonly);
    let second = open(&readonly);
    assert!(refusal(&path).contains("another machine uses it"));
    drop((first, second));
    let _writer = open(&path);
    assert!(refusal(&readonly).contains("another machine uses it"));
}

#[test]
fn what_is_written_is_in_the_file_and_a_readonly_disk_refuses() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk").display().to_string();
    std::fs::write(&path, [7; 1024]).unwrap();
    let disk = open(&path);
    disk.write(512, &[9; 512]).unwrap();
    drop(disk);
    assert_eq!(std::fs::read(&path).unwrap()[511..513], [7, 9]);
    let disk = open(&format!("{path},readonly"));
    assert!(disk.write(0, &[1; 512]).is_err());
    let mut bytes = [0; 512];
    disk.read(512, &mut bytes).unwrap();
    assert_eq!(bytes, [9; 512]);
    std::fs::write(&path, [0; 100]).unwrap();
    assert!(disk.read(0, &mut bytes).is_err(), "a file cut short under a disk is an error, not zeroes");
}

#[test]
fn a_disk_zeroes_and_discards_and_keeps_its_length() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk");
    std::fs::write(&path, [7; 64 << 10]).unwrap();
    let disk = open(path.to_str().unwrap());
    disk.zero(512..1024, false).unwrap();
    disk.zero(4096..12288, true).unwrap();
    write_zeroes(&*disk, 32768..(64 << 10)).unwrap();
    disk.discard(60 << 10..64 << 10).unwrap();
    disk.flush().unwrap();
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!(bytes.len(), 64 << 10);
    for (range, value) in [(0..512, 7), (512..1024, 0), (1024..4096, 7), (4096..12288, 0), (12288..32768, 7)]
    {
        assert!(bytes[range.clone()].iter().all(|byte| *byte == value), "{range:?}");
    }
    assert!(bytes[32768..60 << 10].iter().all(|byte| *byte == 0));
}

#[test]
fn a_serial_number_is_the_one_that_was_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk").display().to_string();
    std::fs::write(&path, [0; 512]).unwrap();
    let disk = AttachedDisk::open(&format!("{path},ro,serial=WD-1234567890abcdef")).unwrap();
    assert_eq!(disk.serial(), Some("WD-1234567890abcdef"));
    assert_eq!(AttachedDisk::open(&format!("{path},ro")).unwrap().serial(), None);
}

mod qcow2 {
    use super::*;
    use imago::file::File as ImageFile;
    use imago::{FormatCreateBuilder, Storage as _, StorageCreateOptions};

    const LENGTH: u64 = 4 << 20;

    /// An image of 4 MiB in the folder, over this backing file of this format.
    fn create(folder: &Path, name: &str, backing: Option<(&str, &str)>) -> String {
        let path = folder.join(name);
        let file = StorageCreateOptions::new().filename(path.clone()).overwrite(true);
        let file = ImageFile::create_open(file).unwrap();
        let mut builder = imago::qcow2::Qcow2::<ImageFile>::create_builder(file).size(LENGTH);
        if let Some((name, format)) = backing {
            builder = builder.backing(name.to_owned(), format.to_owned());
        }
        builder.create().unwrap();
        path.display().to_string()
    }

    fn bytes(disk: &Arc<dyn Storage>, at: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0xee; length];
        disk.read(at, &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn what_was_written_and_flushed_is_there_when_it_is_opened_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = format!("{},format=qcow2", create(folder.path(), "disk", None));
        let disk = open(&path);
        assert_eq!(disk.length(), LENGTH);
        assert_eq!(bytes(&disk, LENGTH - 512, 512), [0; 512]);
        disk.write(1 << 20, &[7; 70_000]).unwrap();
        disk.write(LENGTH - 512, &[8; 512]).unwrap();
        disk.zero((1 << 20) + 512..(1 << 20) + 1024, true).unwrap();
        disk.discard(2 << 20..3 << 20).unwrap();
        disk.flush().unwrap();
        assert!(refusal(&path).contains("another machine uses it"));
        drop(disk);
        let disk = open(&format!("{path},ro"));
        let expected = [vec![7; 512], vec![0; 512], vec![7; 70_000 - 1024], vec![0; 10]].concat();
        assert_eq!(bytes(&disk, 1 << 20, 70_010), expected);
        assert_eq!(bytes(&disk, LENGTH - 512, 512), [8; 512]);
        assert!(disk.write(0, &[1; 512]).is_err() && disk.zero(0..512, true).is_err());
        assert!(disk.discard(0..512).is_err() && disk.flush().is_ok());
    }

    #[test]
    fn a_backing_file_is_read_only_when_the_user_named_it_and_is_never_written() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("base"), vec![5; LENGTH as usize]).unwrap();
        std::fs::write(folder.path().join("secret"), vec![6; LENGTH as usize]).unwrap();
        let base = folder.path().join("base").display().to_string();
        let secret = folder.path().join("secret").display().to_string();
        let top = create(folder.path(), "top", Some(("base", "raw")));
        let text = format!("{top},format=qcow2");
        assert!(
            refusal(&text).contains("asks for the backing file base, which was not allowed; add backing=")
        );
        let wrong = refusal(&format!("{text},backing={secret}"));
        assert!(wrong.contains("is not backing="), "{wrong}");
        let disk = open(&format!("{text},backing={base}"));
        disk.write(512, &[9; 512]).unwrap();
        assert_eq!(bytes(&disk, 0, 1536), [vec![5; 512], vec![9; 512], vec![5; 512]].concat());
        disk.flush().unwrap();
        drop(disk);
        assert!(std::fs::read(&base).unwrap().iter().all(|byte| *byte == 5));
        let alone = create(folder.path(), "alone", None);
        let extra = refusal(&format!("{alone},format=qcow2,backing={base}"));
        assert!(extra.contains("no image asks for the backing file"), "{extra}");
    }

    #[test]
    fn backing_files_of_backing_files_are_named_one_by_one_and_never_in_a_circle() {
        let folder = tempfile::tempdir().unwrap();
        let base = create(folder.path(), "base", None);
        open(&format!("{base},format=qcow2")).write(0, &[3; 512]).unwrap();
        let middle = create(folder.path(), "middle", Some(("base", "qcow2")));
        let top = create(folder.path(), "top", Some(("middle", "qcow2")));
        let text = format!("{top},format=qcow2,backing={middle}");
        assert!(refusal(&text).contains("which was not allowed"));
        let disk = open(&format!("{text},backing={base}"));
        assert_eq!(bytes(&disk, 0, 512), [3; 512]);
        drop(disk);
        let first = create(folder.path(), "first", Some(("second", "qcow2")));
        let second = create(folder.path(), "second", Some(("first", "qcow2")));
        let circle = refusal(&format!("{first},ro,format=qcow2,backing={second},backing={first}"));
        assert!(circle.contains("run in a circle"), "{circle}");
        let itself = create(folder.path(), "itself", Some(("itself", "qcow2")));
        assert!(refusal(&format!("{itself},format=qcow2,backing={itself}")).contains("run in a circle"));
    }

    #[test]
    fn a_name_in_an_image_cannot_write_to_a_terminal() {
        let folder = tempfile::tempdir().unwrap();
        let top = create(folder.path(), "top", Some(("\x1b[2J", "raw")));
        let sentence = refusal(&format!("{top},format=qcow2"));
        assert!(sentence.contains(r"\u{1b}[2J") && !sentence.contains('\x1b'), "{sentence}");
    }

    /// Tables that lead back to themselves, as only somebody makes them who wants it: what is read is what the bytes say, a write
    /// stays in the image or is an error, and nothing waits or dies. A chain of backing files is a loop's other form (above).
    #[test]
    fn tables_that_name_themselves_are_read_as_they_stand_and_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = create(folder.path(), "disk", None);
        let text = format!("{path},format=qcow2");
        open(&text).write(0, &[7; 4096]).unwrap();
        let good = std::fs::read(&path).unwrap();
        let word = |image: &[u8], at: u64| {
            u64::from_be_bytes(image[at as usize..at as usize + 8].try_into().unwrap())
        };
        const PLACE: u64 = 0x00ff_ffff_ffff_fe00;
        const ALONE: u64 = 1 << 63;
        let (l1, counts) = (word(&good, 40), word(&good, 48));
        let l2 = word(&good, l1) & PLACE;
        let free = "counts its own header as free";
        for (case, at, value, seen, refused) in [
            ("an L1 entry that names the L1 table", l1, l1 | ALONE, Some(l1), None),
            ("an L2 entry that names its own table", l2, l2 | ALONE, Some(l2), None),
            ("an L2 entry that names the L1 table", l2, l1 | ALONE, Some(l1), None),
            ("an L2 entry that names the refcount table", l2, counts | ALONE, Some(counts), None),
            ("a refcount table that names itself", counts, counts, None, Some(free)),
            ("a refcount table that names nothing", counts, 0, None, Some(free)),
            (
                "a refcount table that names a block twice",
                counts + 8,
                word(&good, counts),
                None,
                Some("in one place"),
            ),
            ("a refcount table in place of the L1 table", 40, counts, None, None),
        ] {
            let mut image = good.clone();
            image[at as usize..at as usize + 8].copy_from_slice(&value.to_be_bytes());
            std::fs::write(&path, &image).unwrap();
            let (text, done) = (text.clone(), std::sync::mpsc::channel());
            let worker = std::thread::spawn(move || {
                let readonly = open(&format!("{text},readonly"));
                let mut first = vec![0; 512];
                let read = readonly.read(0, &mut first);
                drop(readonly);
                let opened = AttachedDisk::open(&text);
                if let Ok(disk) = &opened {
                    for at in [0, 65536, LENGTH - 512] {
                        // Errors are the Guest's to hear; what a table says after the first of these is what was written there.
                        let _ = disk.image().write(at, &[9; 512]);
                        let _ = disk.image().discard(at..at + 512);
                    }
                    let _ = disk.image().flush();
                }
                done.0.send((read.is_ok().then_some(first), opened.err())).unwrap();
            });
            let (read, refusal) = done
                .1
                .recv_timeout(std::time::Duration::from_secs(60))
                .unwrap_or_else(|end| panic!("{case}: {end}"));
            worker.join().unwrap();
            if let Some(seen) = seen {
                assert_eq!(read.expect(case), image[seen as usize..][..512], "{case}");
            }
            match (refused, refusal) {
                (Some(word), Some(Mistake(sentence))) => {
                    assert!(sentence.contains(word), "{case}: {sentence}")
                }
                (word, found) => assert_eq!((word, found.is_some()), (None, false), "{case}"),
            }
            let after = std::fs::read(&path).unwrap();
            assert!(after.len() <= good.len() + (1 << 20), "{case}: the file grew to {}", after.len());
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    /// Bytes of an image that somebody broke on purpose, again and again: errors, never a panic or endless work.
    #[test]
    fn damaged_images_are_refused_or_end_in_errors() {
        let folder = tempfile::tempdir().unwrap();
        let path = create(folder.path(), "disk", None);
        let text = format!("{path},format=qcow2");
        for at in 0..8 {
            open(&text).write(at << 19, &[7; 4096]).unwrap();
        }
        let good = std::fs::read(&path).unwrap();
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = |below: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % below
        };
        let (mut refused, mut failed) = (0, 0);
        for _ in 0..300 {
            let mut image = good.clone();
            for _ in 0..=next(4) {
                // The header, or a word of a table anywhere in the first clusters.
                let at = if next(2) == 0 { next(104) } else { next(good.len() as u64 / 8) * 8 + next(8) };
                let at = (at as usize).min(image.len() - 1);
                image[at] = [0, 0xff, 0x80, next(256) as u8, image[at] ^ 1 << next(8)][next(5) as usize];
            }
            std::fs::write(&path, &image).unwrap();
            let Ok(disk) = AttachedDisk::open(&text) else {
                refused += 1;
                continue;
            };
            let disk = disk.image();
            let mut bytes = vec![0; 4096];
            for at in 0..8 {
                let at = (at << 19).min(disk.length().saturating_sub(4096));
                let length = bytes.len().min(disk.length() as usize);
                let read = disk.read(at, &mut bytes[..length]);
                let written = disk.write(at, &bytes[..length]);
                let zeroed = disk.zero(at..at + length as u64, true);
                failed += u32::from(read.is_err() || written.is_err() || zeroed.is_err());
            }
            let _ = disk.flush();
        }
        assert!(refused > 10 && failed > 10, "{refused} refused, {failed} failed");
    }
}
