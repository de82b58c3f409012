//! What is written down of a running machine.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::attachments;
use crate::cli::RunArguments;
use crate::images::store::now;
use crate::request::Mistake;

/// The largest record read back; a command line may be long.
const LARGEST: u64 = 1 << 20;

/// A machine, for those who list it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its process, by which it is named.
    pub pid: u32,
    /// When it began, in seconds since 1970.
    pub since: u64,
    /// GUEST as it was said.
    pub guest: String,
    /// Bytes of memory.
    pub memory: u64,
    /// Processors.
    pub cpus: u32,
    /// COMMAND, empty for a shell.
    pub command: Vec<String>,
    /// The Guest is one that may listen to its power button.
    pub has_button: bool,
    /// Its first process is ours, and starts programs for who asks.
    #[serde(default)]
    pub has_agent: bool,
}

impl Record {
    /// This process's machine.
    pub fn new(
        arguments: &RunArguments,
        memory: u64,
        cpus: u32,
        has_button: bool,
        has_agent: bool,
    ) -> Record {
        let kernel = arguments.kernel.as_deref().map(|path| path.display().to_string());
        Record {
            pid: std::process::id(),
            since: now(),
            guest: arguments.guest.clone().or(kernel).unwrap_or_else(|| "(default Guest)".to_owned()),
            memory,
            cpus,
            command: arguments.command.clone(),
            has_button,
            has_agent,
        }
    }
}

/// The user's folder of running machines.
pub fn folder() -> PathBuf {
    attachments::link_folder().join("machines")
}

/// A machine's entry. It ends with the process: the lock is what counts, the files go when somebody looks.
#[derive(Debug)]
pub struct Entry {
    _lock: File,
}

/// A machine that runs.
#[derive(Debug)]
pub struct Running {
    /// What it says of itself.
    pub record: Record,
    /// Its socket.
    pub socket: PathBuf,
    file: File,
}

impl Running {
    /// True when its process has ended.
    pub fn is_over(&self) -> bool {
        self.file.try_lock_shared().is_ok()
    }
}

/// Enters a machine into the folder. Visitors knock at the socket.
///
/// # Errors
/// When the folder cannot be written, or is somebody else's.
pub fn enter(folder: &Path, record: &Record) -> io::Result<(Entry, UnixListener)> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    if !is_ours(folder) {
        return Err(io::Error::other("the folder is another user's"));
    }
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700))?;
    sweep(folder);
    let path = folder.join(format!("{}.json", record.pid));
    let (draft, socket) = (path.with_extension("new"), path.with_extension("socket"));
    for old in [&draft, &socket] {
        match fs::remove_file(old) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => return Err(cause),
            _ => {}
        }
    }
    let listener = UnixListener::bind(socket)?;
    fs::write(&draft, serde_json::to_vec(record)?)?;
    let lock = File::open(&draft)?;
    lock.lock()?;
    // Seen only now, when it is locked: nobody takes it for a dead one's.
    fs::rename(draft, path)?;
    Ok((Entry { _lock: lock }, listener))
}

/// True when a folder and the one it lies in are real ones of this user's. In the folder for temporary files anybody may
/// have been there first, with a link to where files of ours lie, and leftovers are removed here.
fn is_ours(folder: &Path) -> bool {
    let user = rustix::process::geteuid().as_raw();
    let is_ours =
        |path: &Path| fs::symlink_metadata(path).is_ok_and(|facts| facts.is_dir() && facts.uid() == user);
    is_ours(folder) && folder.parent().is_some_and(is_ours)
}

/// The machines that run, oldest first. Leftovers of those that do not are removed.
pub fn all(folder: &Path) -> Vec<Running> {
    if !is_ours(folder) {
        return Vec::new();
    }
    sweep(folder);
    let mut running: Vec<Running> = records(folder)
        .filter_map(|path| {
            let file = File::open(&path).ok()?;
            let text = io::read_to_string(io::Read::take(&file, LARGEST)).ok()?;
            let record = serde_json::from_str(&text).ok()?;
            Some(Running { record, socket: path.with_extension("socket"), file })
        })
        .filter(|one| !one.is_over())
        .collect();
    running.sort_by_key(|one| (one.record.since, one.record.pid));
    running
}

/// The machine of this number, as `lguest ps` lists it.
///
/// # Errors
/// When none runs.
pub fn find(id: &str) -> Result<Running, Mistake> {
    all(&self::folder())
        .into_iter()
        .find(|one| one.record.pid.to_string() == id)
        .ok_or_else(|| Mistake(format!("ID {id}: no such machine runs; lguest ps lists those that do")))
}

fn records(folder: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|end| end == "json"))
}

/// Removes what dead machines left. What cannot be removed stays for the next.
fn sweep(folder: &Path) {
    for path in records(folder) {
        let Ok(file) = File::open(&path) else { continue };
        if !matches!(file.try_lock(), Err(TryLockError::WouldBlock)) {
            let _ = fs::remove_file(path.with_extension("socket"));
            let _ = fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(pid: u32) -> Record {
        Record {
            pid,
            since: u64::from(pid),
            guest: "debian".to_owned(),
            memory: 256 << 20,
            cpus: 1,
            command: vec!["true".to_owned()],
            has_button: false,
            has_agent: false,
        }
    }

    #[test]
    fn a_machine_is_listed_while_it_lives_and_its_files_go_after() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("machines");
        let (first, second) = (enter(&folder, &record(7)).unwrap(), enter(&folder, &record(3)).unwrap());
        let pids = |folder: &Path| all(folder).iter().map(|one| one.record.pid).collect::<Vec<_>>();
        assert_eq!(pids(&folder), [3, 7]);
        let listed = all(&folder);
        assert!(!listed[1].is_over());
        drop(first);
        assert!(listed[1].is_over());
        drop(listed);
        assert_eq!(pids(&folder), [3]);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 2);
        drop(second);
        assert!(all(&folder).is_empty() && fs::read_dir(&folder).unwrap().count() == 0);
    }

    #[test]
    fn what_is_no_record_lists_nothing() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("1.json"), b"{").unwrap();
        assert!(all(folder.path()).is_empty());
        assert!(all(Path::new("/no/such/folder")).is_empty());
    }

    #[test]
    fn nothing_is_removed_behind_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let precious = folder.path().join("precious");
        fs::create_dir(&precious).unwrap();
        fs::write(precious.join("1.json"), b"{}").unwrap();
        let link = folder.path().join("machines");
        std::os::unix::fs::symlink(&precious, &link).unwrap();
        assert!(all(&link).is_empty() && enter(&link, &record(1)).is_err());
        assert!(precious.join("1.json").exists());
    }

    #[test]
    fn nobody_else_reads_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("machines");
        let _entry = enter(&folder, &record(1)).unwrap();
        assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
    }
}
