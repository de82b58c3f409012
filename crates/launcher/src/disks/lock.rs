//! One writer or many readers of a file, and the sentences for a file that cannot be had.

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Duration;

use rustix::fs::FlockOperation;

/// How often a disk's lock is asked for, and the time in between: a tenth of a second in all.
const LOCK_ATTEMPTS: u32 = 10;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// Opens a file for a disk and locks it.
///
/// # Errors
/// The rest of a sentence: missing, a directory, no right to it, in use.
pub fn open(path: &Path, writable: bool) -> Result<File, String> {
    let file = File::options()
        .read(true)
        .write(writable)
        .open(path)
        .map_err(|cause| explain(&cause, path, writable))?;
    let facts = file.metadata().map_err(|cause| format!("cannot be looked at: {cause}"))?;
    if facts.is_dir() {
        return Err("is a directory; a disk is a file".to_owned());
    }
    lock(&file, writable)
        .map_err(|()| "another machine uses it; give each machine its own, or all readonly".to_owned())?;
    Ok(file)
}

fn explain(cause: &io::Error, path: &Path, writable: bool) -> String {
    match cause.kind() {
        io::ErrorKind::NotFound => "there is no such file; truncate -s 64M makes one".to_owned(),
        io::ErrorKind::IsADirectory => "is a directory; a disk is a file".to_owned(),
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem if writable => {
            format!("may not be written; add ,readonly as in --disk {},readonly", path.display())
        }
        _ => format!("cannot be opened: {cause}"),
    }
}

fn lock(file: &File, writable: bool) -> Result<(), ()> {
    let operation = if writable {
        FlockOperation::NonBlockingLockExclusive
    } else {
        FlockOperation::NonBlockingLockShared
    };
    for _ in 0..LOCK_ATTEMPTS {
        match rustix::fs::flock(file, operation) {
            // A process that is being started holds a copy of our descriptors until it runs its program, and a machine
            // that just ended may not be gone yet.
            Err(rustix::io::Errno::WOULDBLOCK) => std::thread::sleep(LOCK_PAUSE),
            // A file system without locks has no second opinion.
            _ => return Ok(()),
        }
    }
    Err(())
}
