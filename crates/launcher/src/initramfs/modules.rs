//! Modules for a Guest's kernel, as a further archive behind an initramfs of ours.
//!
//! They depend on the machine and not on the root, so they are added when both are known. The first process loads them in the
//! order of their numbers and takes their room back: some before the session begins, some when they are asked for.

use super::newc::{Archive, FileKind};
use crate::debian::modules::Modules;
use lguest_init::plan;

/// The archive to append; it begins at a multiple of four.
pub fn archive(modules: &Modules) -> Vec<u8> {
    let mut archive = Archive::new();
    archive.entry("lguest", FileKind::Directory, 0o755, b"");
    for (folder, modules) in
        [(plan::MODULES, &modules.now), (plan::SOON, &modules.soon), (plan::LATER, &modules.later)]
    {
        let folder = folder.trim_start_matches('/');
        archive.entry(folder, FileKind::Directory, 0o755, b"");
        for (number, module) in modules.iter().enumerate() {
            let path = format!("{folder}/{number:03}-{}.ko", module.name);
            archive.entry(&path, FileKind::Regular, 0o644, &module.bytes);
        }
    }
    archive.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::debian::modules::Module;

    #[test]
    fn modules_are_numbered_in_their_order() {
        let module = |name: &str| Module { name: name.to_owned(), bytes: name.as_bytes().to_vec() };
        let now = vec![module("virtio"), module("a_second_one")];
        let archive = archive(&Modules { now, soon: vec![], later: vec![module("vsock")] });
        let text = String::from_utf8_lossy(&archive).into_owned();
        let place = |name: &str| text.find(name).unwrap_or_else(|| panic!("{name} is missing"));
        assert!(place("lguest/modules\0") < place("000-virtio.ko"));
        assert!(place("000-virtio.ko") < place("001-a_second_one.ko"));
        assert!(place("lguest/later\0") < place("000-vsock.ko"));
    }
}
