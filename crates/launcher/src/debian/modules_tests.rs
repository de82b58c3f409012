//! Packages made by hand: what is kept of them, and in which order it comes out.

use super::*;

/// An ELF file of three sections: none, `.modinfo` with these dependencies, and names.
fn module(depends: &str) -> Vec<u8> {
    let info = format!("license=GPL\0depends={depends}\0name=x\0").into_bytes();
    let names = b"\0.modinfo.not\0.modinfo\0".to_vec();
    let table = 64 + info.len() + names.len();
    let mut file = vec![0; 64];
    file[0x28..0x30].copy_from_slice(&(table as u64).to_le_bytes());
    file[0x3c..0x40].copy_from_slice(&[3, 0, 2, 0]);
    let places = [(0, 0, 0), (14, 64, info.len()), (1, 64 + info.len(), names.len())];
    file.extend(info);
    file.extend(names);
    for (name, offset, size) in places {
        let mut header = [0; 64];
        header[0] = name;
        header[0x18..0x20].copy_from_slice(&(offset as u64).to_le_bytes());
        header[0x20..0x28].copy_from_slice(&(size as u64).to_le_bytes());
        file.extend(header);
    }
    file
}

fn package(files: &[(&str, Vec<u8>)]) -> tempfile::NamedTempFile {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, path, &bytes[..]).unwrap();
    }
    let tar = tar.into_inner().unwrap();
    let deb = tempfile::NamedTempFile::new().unwrap();
    let mut archive = ar::Builder::new(deb.reopen().unwrap());
    archive.append(&ar::Header::new(b"data.tar".to_vec(), tar.len() as u64), &tar[..]).unwrap();
    deb
}

fn unpacked(files: &[(&str, Vec<u8>)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    unpack(package(files).path(), &folder.path().join(FOLDER)).unwrap();
    folder
}

fn names(folder: &tempfile::TempDir, wanted: &[&str]) -> Vec<String> {
    read(folder.path(), wanted).unwrap().into_iter().map(|module| module.name).collect()
}

#[test]
fn what_a_module_depends_on_comes_before_it() {
    let folder = unpacked(&[
        ("./lib/modules/6.1/kernel/a/virtio_blk.ko", module("virtio,virtio-ring")),
        ("./lib/modules/6.1/kernel/b/virtio_ring.ko", module("")),
        ("./lib/modules/6.1/kernel/b/virtio.ko", module("virtio_ring")),
        ("./lib/modules/6.1/kernel/b/virtio_mmio.ko", module("virtio,virtio_ring")),
        ("./lib/modules/6.1/kernel/b/unrelated.ko", module("virtio")),
        ("./lib/modules/6.1/modules.order", b"list".to_vec()),
    ]);
    assert_eq!(names(&folder, &["virtio_blk"]), ["virtio_ring", "virtio", "virtio_blk"]);
    assert_eq!(names(&folder, &["virtio_mmio"]), ["virtio_ring", "virtio", "virtio_mmio"]);
    assert_eq!(names(&folder, &["virtio_blk", "virtio_mmio"]).len(), 4);
    assert!(!folder.path().join(FOLDER).join("unrelated.ko").exists());
}

#[test]
fn what_is_built_in_is_left_out() {
    let folder = unpacked(&[("./boot/vmlinuz-6.12", b"kernel".to_vec())]);
    assert!(names(&folder, &["virtio_blk", "virtio_mmio"]).is_empty());
}

#[test]
fn compressed_modules_are_kept_uncompressed() {
    let plain = module("");
    let xz = liblzma::encode_all(&plain[..], 1).unwrap();
    let zstd = zstd::encode_all(&plain[..], 1).unwrap();
    let folder = unpacked(&[
        ("./usr/lib/modules/6.12/kernel/virtio-rng.ko.xz", xz),
        ("./lib/modules/6.12/kernel/virtio_blk.ko.zst", zstd),
    ]);
    let modules = read(folder.path(), &["virtio_rng", "virtio_blk"]).unwrap();
    assert!(modules.iter().all(|module| module.bytes == plain) && modules.len() == 2);
}

#[test]
fn a_circle_of_dependencies_ends() {
    let folder = unpacked(&[
        ("./lib/modules/6.1/virtio_blk.ko", module("virtio")),
        ("./lib/modules/6.1/virtio.ko", module("virtio_blk")),
    ]);
    assert_eq!(names(&folder, &["virtio_blk"]).len(), 2);
}

#[test]
fn a_module_that_is_no_elf_file_depends_on_nothing() {
    let whole = module("a,b");
    assert_eq!(depends(&whole), ["a", "b"]);
    for length in 0..whole.len() {
        assert!(depends(&whole[..length]).len() <= 2, "{length} bytes");
    }
    let mut wild = whole.clone();
    wild[0x28..0x30].fill(0xff);
    assert!(depends(&wild).is_empty());
}
