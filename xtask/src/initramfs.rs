//! Initramfs archives around busybox, kept in the cache by what is in them: the large ones take seconds to make.

use crate::errand::Errand;
use crate::inputs;
use crate::programs::run;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// How many archives of one name are kept; checkouts that are measured in turn need one each.
const KEPT: usize = 3;

/// An archive to be: files and folders of the Host, and their paths in the Guest. The first process is `bench/init.sh`.
#[derive(Default)]
pub struct Contents {
    files: Vec<(PathBuf, String)>,
}

impl Contents {
    /// Nothing but busybox.
    pub fn new() -> Contents {
        Contents::default()
    }

    /// Adds a file, or a folder with all that it holds.
    pub fn add(&mut self, host: impl Into<PathBuf>, guest: &str) {
        self.files.push((host.into(), guest.to_owned()));
    }

    /// Adds every entry of a folder under the Guest's root.
    pub fn add_root(&mut self, folder: &Path) -> Result<(), Errand> {
        for name in names(folder)? {
            self.files.push((folder.join(&name), format!("/{name}")));
        }
        Ok(())
    }

    /// The archive's file.
    pub fn archive(&self, lguest: &Path, name: &str) -> Result<PathBuf, Errand> {
        let folder = inputs::store()?.join("initramfs");
        std::fs::create_dir_all(&folder).map_err(Errand::file(&folder))?;
        let init = inputs::root().join("bench/init.sh");
        let mut hasher = DefaultHasher::new();
        // What builds the archive counts as much as what goes into it.
        digest(lguest, &mut hasher)?;
        digest(&init, &mut hasher)?;
        for (host, guest) in &self.files {
            guest.hash(&mut hasher);
            digest(host, &mut hasher)?;
        }
        let output = folder.join(format!("{name}-{:016x}.cpio", hasher.finish()));
        if output.is_file() {
            return Ok(output);
        }
        make_room(&folder, name)?;
        let mut command = Command::new(lguest);
        command.arg("initramfs").arg("--output").arg(&output).arg("--init").arg(&init);
        for (host, guest) in &self.files {
            command.arg("--add").arg(format!("{}:{guest}", host.display()));
        }
        run(&mut command)?;
        Ok(output)
    }
}

/// Entries of a folder in a fixed order.
fn names(folder: &Path) -> Result<Vec<String>, Errand> {
    let entries = std::fs::read_dir(folder).map_err(Errand::file(folder))?.flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    Ok(names)
}

fn digest(path: &Path, hasher: &mut DefaultHasher) -> Result<(), Errand> {
    let facts = std::fs::symlink_metadata(path).map_err(Errand::file(path))?;
    facts.permissions().mode().hash(hasher);
    if facts.is_dir() {
        for name in names(path)? {
            name.hash(hasher);
            digest(&path.join(&name), hasher)?;
        }
    } else if facts.is_symlink() {
        std::fs::read_link(path).map_err(Errand::file(path))?.hash(hasher);
    } else {
        std::fs::read(path).map_err(Errand::file(path))?.hash(hasher);
    }
    Ok(())
}

/// Removes the oldest archives of this name, so that there is room for one more.
fn make_room(folder: &Path, name: &str) -> Result<(), Errand> {
    let mut old = Vec::new();
    for file in names(folder)? {
        let ours = file.rsplit_once('-').is_some_and(|(of, _)| of == name);
        let path = folder.join(file);
        if let (true, Ok(made)) = (ours, path.metadata().and_then(|facts| facts.modified())) {
            old.push((made, path));
        }
    }
    old.sort();
    for (_, path) in old.iter().rev().skip(KEPT - 1) {
        std::fs::remove_file(path).map_err(Errand::file(path))?;
    }
    Ok(())
}

#[test]
fn another_byte_is_another_archive() {
    let folder = std::env::temp_dir().join(format!("xtask-digest-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let of = |text: &str| {
        std::fs::write(folder.join("file"), text).expect("a file");
        let mut hasher = DefaultHasher::new();
        digest(&folder, &mut hasher).expect("a digest");
        hasher.finish()
    };
    let (one, two, again) = (of("one"), of("two"), of("one"));
    std::fs::remove_dir_all(&folder).expect("removed");
    assert_ne!(one, two);
    assert_eq!(one, again);
}
