//! The folder where fetched things stay, and the two rules that keep it whole: one writer, and nothing half done.

use std::fmt::Write as _;
use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::debian::package::PackageName;
use crate::progress::Progress;

/// What a draft's folder name begins with; a leftover of a killed run is known by it.
const DRAFT: &str = "draft-";

/// The kinds of things that are kept, each in a folder of the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shelf {
    /// What comes from Debian's packages.
    Debian,
    /// Unpacked images.
    Images,
}

impl Shelf {
    fn name(self) -> &'static str {
        match self {
            Shelf::Debian => "debian",
            Shelf::Images => "images",
        }
    }
}

/// The Launcher's cache folder.
#[derive(Clone, Debug)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// The cache in this folder, which need not exist yet.
    pub fn at(root: PathBuf) -> Cache {
        Cache { root }
    }

    /// The user's cache: `$LGUEST_CACHE`, or `lguest` in `$XDG_CACHE_HOME`, or `~/.cache/lguest`; none when the
    /// environment names neither of the three.
    pub fn of_the_user() -> Option<Cache> {
        // The XDG base directory specification: a relative path is to be ignored.
        let folder = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let own = std::env::var_os("LGUEST_CACHE").filter(|path| !path.is_empty());
        let root = own
            .and_then(|path| std::path::absolute(path).ok())
            .or_else(|| folder("XDG_CACHE_HOME").map(|path| path.join("lguest")))
            .or_else(|| folder("HOME").map(|path| path.join(".cache/lguest")))?;
        Some(Cache { root })
    }

    /// The cache's folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder of everything of one kind.
    pub fn shelf(&self, shelf: Shelf) -> PathBuf {
        self.root.join(shelf.name())
    }

    /// Where a package's unpacked files are, once they are.
    pub fn package(&self, name: &PackageName) -> PathBuf {
        self.shelf(Shelf::Debian).join(name.as_str())
    }

    /// The names of the packages in the cache, sorted.
    pub fn kept(&self) -> Vec<String> {
        let entries = fs::read_dir(self.shelf(Shelf::Debian)).into_iter().flatten();
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut names: Vec<String> = names.filter(|name| !name.starts_with(DRAFT)).collect();
        names.sort();
        names
    }

    /// Waits until no other run fills this cache. The lock ends with the returned file, or with this process.
    ///
    /// # Errors
    /// When the folder or the lock cannot be made.
    pub fn lock(&self, progress: &Progress) -> io::Result<File> {
        fs::create_dir_all(&self.root)?;
        let file = File::options().create(true).append(true).open(self.root.join("lock"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let step = progress.step("waiting for another lguest that fills the cache".to_owned());
                file.lock()?;
                step.finish();
            }
            Err(TryLockError::Error(cause)) => return Err(cause),
        }
        Ok(file)
    }

    /// An empty folder beside the kept ones. The caller holds the lock, so every older draft is a leftover of a
    /// run that was killed, and goes.
    ///
    /// # Errors
    /// When the Host refuses.
    pub fn draft(&self, shelf: Shelf) -> io::Result<TempDir> {
        let parent = self.shelf(shelf);
        fs::create_dir_all(&parent)?;
        for entry in fs::read_dir(&parent)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(DRAFT) {
                fs::remove_dir_all(entry.path())?;
            }
        }
        tempfile::Builder::new().prefix(DRAFT).tempdir_in(parent)
    }

    /// Turns a finished draft into a kept folder, in one step. An older folder of that name goes; who has opened its files
    /// keeps them.
    ///
    /// # Errors
    /// When the Host refuses; the draft is gone then.
    pub fn keep(&self, draft: TempDir, folder: &Path) -> io::Result<()> {
        let shelf = folder.parent().ok_or(io::ErrorKind::InvalidInput)?;
        let old = shelf.join(format!("{DRAFT}old"));
        if folder.exists() {
            fs::rename(folder, &old)?;
        }
        fs::rename(draft.path(), folder)?;
        if old.exists() {
            fs::remove_dir_all(old)?;
        }
        // Nothing is left under the draft's name; forget it without looking.
        let _ = draft.keep();
        File::open(shelf)?.sync_all()
    }

    /// Takes a kept folder away, in one step. The caller holds the lock.
    ///
    /// # Errors
    /// When the Host refuses.
    pub fn discard(&self, folder: &Path) -> io::Result<()> {
        let shelf = folder.parent().ok_or(io::ErrorKind::InvalidInput)?;
        let old = shelf.join(format!("{DRAFT}old"));
        if old.exists() {
            fs::remove_dir_all(&old)?;
        }
        fs::rename(folder, &old)?;
        fs::remove_dir_all(old)
    }
}

/// Writes a file and waits until it is on disk, so that a rename after it cannot overtake it.
///
/// # Errors
/// When the Host refuses, for instance because the disk is full.
pub fn write_through(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// A file's SHA-256 in lower-case hexadecimal.
///
/// # Errors
/// When the file cannot be read.
pub fn sha256(path: &Path) -> io::Result<String> {
    let mut hash = Sha256::new();
    let mut file = File::open(path)?;
    let mut buffer = vec![0; 1 << 16];
    loop {
        match io::Read::read(&mut file, &mut buffer)? {
            0 => break,
            length => hash.update(&buffer[..length]),
        }
    }
    let mut text = String::new();
    for byte in hash.finalize() {
        write!(text, "{byte:02x}").expect("a string takes every letter");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> PackageName {
        PackageName::new("linux-image-test").unwrap()
    }

    #[test]
    fn a_kept_draft_is_there_whole() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path().join("deep/cache"));
        let _lock = cache.lock(&Progress::hidden()).unwrap();
        let draft = cache.draft(Shelf::Debian).unwrap();
        write_through(&draft.path().join("vmlinux"), b"kernel").unwrap();
        cache.keep(draft, &cache.package(&name())).unwrap();
        assert_eq!(fs::read(cache.package(&name()).join("vmlinux")).unwrap(), b"kernel");
    }

    #[test]
    fn a_kept_draft_takes_the_place_of_an_older_folder() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path().to_owned());
        for content in [b"old", b"new"] {
            let draft = cache.draft(Shelf::Debian).unwrap();
            write_through(&draft.path().join("vmlinux"), content).unwrap();
            cache.keep(draft, &cache.package(&name())).unwrap();
        }
        assert_eq!(fs::read(cache.package(&name()).join("vmlinux")).unwrap(), b"new");
        assert_eq!(cache.kept(), ["linux-image-test"]);
        assert_eq!(fs::read_dir(folder.path().join("debian")).unwrap().count(), 1);
    }

    #[test]
    fn a_dropped_draft_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path().to_owned());
        drop(cache.draft(Shelf::Debian).unwrap());
        assert_eq!(fs::read_dir(folder.path().join("debian")).unwrap().count(), 0);
    }

    #[test]
    fn the_leftover_of_a_killed_run_goes() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path().to_owned());
        let leftover = cache.draft(Shelf::Debian).unwrap().keep();
        let draft = cache.draft(Shelf::Debian).unwrap();
        assert!(!leftover.exists());
        assert!(draft.path().exists());
    }

    #[test]
    fn a_second_writer_waits_for_the_first() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path().to_owned());
        let first = cache.lock(&Progress::hidden()).unwrap();
        let (sender, receiver) = std::sync::mpsc::channel();
        let other = cache.clone();
        let waiter = std::thread::spawn(move || {
            let _lock = other.lock(&Progress::hidden()).unwrap();
            sender.send(()).unwrap();
        });
        assert!(receiver.recv_timeout(std::time::Duration::from_millis(100)).is_err());
        drop(first);
        receiver.recv().unwrap();
        waiter.join().unwrap();
    }

    #[test]
    fn a_hash_is_the_known_one() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), b"abc").unwrap();
        // FIPS 180-4's example.
        let known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256(file.path()).unwrap(), known);
    }
}
