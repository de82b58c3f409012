//! `--disk`, `--net` and `--bus`: what is attached to a machine, checked before anything starts.

use std::fs::File;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use lguest_devices::lguest::block::{Disk, DiskError};
use lguest_devices::virtio::block::Storage;
use rustix::fs::FallocateFlags;
use rustix::fs::FlockOperation;

use crate::board::tap::{self, Tap};
use crate::request::Mistake;

/// Bytes of a sector, of which a disk has a whole number.
const SECTOR: u64 = 512;
/// How a broker process knows what it is. The name is no option of the command line, only an agreement with ourselves.
pub const BROKER: &str = "link-broker";

/// The bus of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BusChoice {
    /// PCI, the default for Linux without disks.
    Pci,
    /// Virtio in memory, the default for Linux with disks.
    Mmio,
    /// lguest's first generation, the default for the default Guest.
    LguestDma,
}

/// Reads `--bus`; `usual` when it was not given.
///
/// # Errors
/// For a word that is no bus, and for one that a later version will have.
pub fn bus(word: Option<&str>, usual: BusChoice) -> Result<BusChoice, Mistake> {
    match word {
        None => Ok(usual),
        Some("pci") => Ok(BusChoice::Pci),
        Some("mmio") => Ok(BusChoice::Mmio),
        Some("lguest-dma") => Ok(BusChoice::LguestDma),
        Some(word @ "lguest") => Err(Mistake(format!(
            "--bus {word}: a later version will have it; give lguest-dma for the default Guest, or mmio or pci for Linux"
        ))),
        Some(word) => Err(Mistake(format!(
            "--bus {word}: is no bus; give lguest-dma for the default Guest, or mmio or pci for Linux"
        ))),
    }
}

/// One device.
#[derive(Debug)]
pub enum Attachment {
    /// A disk in a file.
    Disk(FileDisk),
    /// A network of machines on this host, by name.
    Link(String),
    /// A network interface of this host's.
    Tap(Tap),
    /// The 2007 mail's example.
    Pipe,
}

/// Reads `--disk` and `--net`, in this order of kinds.
///
/// # Errors
/// One sentence for the first that cannot work.
pub fn read(disks: &[String], nets: &[String]) -> Result<Vec<Attachment>, Mistake> {
    let mut attachments = Vec::new();
    for text in disks {
        attachments.push(Attachment::Disk(FileDisk::open(text)?));
    }
    for text in nets {
        attachments.extend(net(text)?);
    }
    Ok(attachments)
}

fn net(text: &str) -> Result<Option<Attachment>, Mistake> {
    let later = |what: &str| {
        Err(Mistake(format!(
            "--net {text}: {what} comes with a later version; give link=NAME, tap=NAME or none"
        )))
    };
    match text.split_once('=') {
        None if text == "none" => Ok(None),
        None if text == "user" => later("the user-mode network"),
        Some(("tap", name)) if tap::is_name(name) => open_tap(text, name).map(Some),
        Some(("tap", _)) => Err(Mistake(format!(
            "--net {text}: a tap's name is 1 to 15 letters, digits, '-', '_' or '.', as in tap=tap0"
        ))),
        Some(("link", name)) if link_name(name) => Ok(Some(Attachment::Link(name.to_owned()))),
        Some(("link", _)) => Err(Mistake(format!(
            "--net {text}: a link's name is 1 to 32 letters, digits, '-' or '_', as in link=office"
        ))),
        _ if text.starts_with("user,") => later("the user-mode network"),
        _ => Err(Mistake(format!("--net {text}: is no network; give link=NAME, tap=NAME or none"))),
    }
}

/// Takes hold of a tap, or says in one sentence who may.
fn open_tap(text: &str, name: &str) -> Result<Attachment, Mistake> {
    Tap::open(name).map(Attachment::Tap).map_err(|cause| {
        let hint = match cause.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
            Some(rustix::io::Errno::PERM | rustix::io::Errno::ACCESS) => {
                format!(
                    "making one needs root: `ip tuntap add dev {name} mode tap user $USER` makes it yours for good"
                )
            }
            Some(rustix::io::Errno::BUSY) => "another machine uses it".to_owned(),
            Some(rustix::io::Errno::INVAL) => "an interface of that name is no tap; give another name".to_owned(),
            _ => "taps need /dev/net/tun; link=NAME needs nothing".to_owned(),
        };
        Mistake(format!("--net {text}: cannot be opened ({cause}); {hint}"))
    })
}

fn link_name(name: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    (1..=32).contains(&name.len()) && name.chars().all(good)
}

/// A disk in a file, locked against a second machine that would write it.
#[derive(Debug)]
pub struct FileDisk {
    file: File,
    length: u64,
    writable: bool,
}

impl FileDisk {
    /// Opens `PATH[,readonly][,format=raw]`.
    ///
    /// # Errors
    /// One sentence: missing, a directory, empty, no whole number of sectors, in use, another format.
    pub fn open(text: &str) -> Result<FileDisk, Mistake> {
        let fault = |what: String| Mistake(format!("--disk {text}: {what}"));
        let mut parts = text.split(',');
        let path = Path::new(parts.next().unwrap_or_default());
        let mut writable = true;
        for option in parts {
            match option {
                "readonly" | "ro" => writable = false,
                "format=raw" => {}
                "format=qcow2" => {
                    return Err(fault(
                        "qcow2 comes with a later version; convert it to format=raw".to_owned(),
                    ));
                }
                _ => {
                    return Err(fault(format!(
                        "{option} is no option of a disk; give readonly or format=raw"
                    )));
                }
            }
        }
        let file = File::options()
            .read(true)
            .write(writable)
            .open(path)
            .map_err(|cause| fault(explain(&cause, path, writable)))?;
        let facts = file.metadata().map_err(|cause| fault(format!("cannot be looked at: {cause}")))?;
        if facts.is_dir() {
            return Err(fault("is a directory; a disk is a file".to_owned()));
        }
        let length = (&file).seek_end().map_err(|cause| fault(format!("has no length: {cause}")))?;
        if length == 0 {
            return Err(fault("is empty; truncate -s 64M makes a disk of 64 MiB".to_owned()));
        }
        if !length.is_multiple_of(SECTOR) {
            return Err(fault(format!(
                "is {length} bytes long, which is no multiple of {SECTOR}; truncate -s %{SECTOR} rounds it up"
            )));
        }
        lock(&file, writable).map_err(|()| {
            fault("another machine uses it; give each machine its own, or all readonly".to_owned())
        })?;
        Ok(FileDisk { file, length, writable })
    }
}

trait SeekEnd {
    fn seek_end(self) -> std::io::Result<u64>;
}

impl SeekEnd for &File {
    fn seek_end(mut self) -> std::io::Result<u64> {
        std::io::Seek::seek(&mut self, std::io::SeekFrom::End(0))
    }
}

fn explain(cause: &std::io::Error, path: &Path, writable: bool) -> String {
    match cause.kind() {
        std::io::ErrorKind::NotFound => "there is no such file; truncate -s 64M makes one".to_owned(),
        std::io::ErrorKind::IsADirectory => "is a directory; a disk is a file".to_owned(),
        std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem if writable => {
            format!("may not be written; add ,readonly as in --disk {},readonly", path.display())
        }
        _ => format!("cannot be opened: {cause}"),
    }
}

/// How often a disk's lock is asked for, and the time in between: a tenth of a second in all.
const LOCK_ATTEMPTS: u32 = 10;
const LOCK_PAUSE: std::time::Duration = std::time::Duration::from_millis(10);

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

impl Disk for FileDisk {
    fn length(&self) -> u64 {
        self.length
    }

    fn read(&mut self, offset: u64, bytes: &mut [u8]) -> Result<(), DiskError> {
        Ok(self.file.read_exact_at(bytes, offset)?)
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        if !self.writable {
            return Err(std::io::Error::from(std::io::ErrorKind::ReadOnlyFilesystem).into());
        }
        Ok(self.file.write_all_at(bytes, offset)?)
    }
}

impl Storage for FileDisk {
    fn is_writable(&self) -> bool {
        self.writable
    }

    fn flush(&mut self) -> Result<(), DiskError> {
        Ok(self.file.sync_data()?)
    }

    fn discard(&mut self, range: Range<u64>) -> Result<(), DiskError> {
        match self.change_room(FallocateFlags::PUNCH_HOLE, &range) {
            // A file system that frees no room loses nothing by it: the bytes are of no use.
            Err(cause) if is_unsupported(cause) => Ok(()),
            done => Ok(done.map_err(std::io::Error::from)?),
        }
    }

    fn zero(&mut self, range: Range<u64>, unmap: bool) -> Result<(), DiskError> {
        let way = if unmap { FallocateFlags::PUNCH_HOLE } else { FallocateFlags::ZERO_RANGE };
        match self.change_room(way, &range) {
            Err(cause) if is_unsupported(cause) => self.write_zeroes(range),
            done => Ok(done.map_err(std::io::Error::from)?),
        }
    }
}

impl FileDisk {
    fn change_room(&self, way: FallocateFlags, range: &Range<u64>) -> rustix::io::Result<()> {
        let length = range.end - range.start;
        rustix::fs::fallocate(&self.file, way | FallocateFlags::KEEP_SIZE, range.start, length)
    }

    fn write_zeroes(&mut self, range: Range<u64>) -> Result<(), DiskError> {
        static ZEROES: [u8; 1 << 16] = [0; 1 << 16];
        let mut at = range.start;
        while at < range.end {
            let length = (range.end - at).min(ZEROES.len() as u64) as usize;
            self.write(at, &ZEROES[..length])?;
            at += length as u64;
        }
        Ok(())
    }
}

/// The file system, or the host's kernel, has no such thing.
fn is_unsupported(cause: rustix::io::Errno) -> bool {
    matches!(cause, rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS)
}

impl Drop for FileDisk {
    /// The first generation has no way to flush, so the end of the machine is one.
    fn drop(&mut self) {
        if self.writable {
            let _ = self.file.sync_data();
        }
    }
}

/// The user's folder for links' sockets.
pub fn link_folder() -> PathBuf {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_dir());
    let user = rustix::process::geteuid().as_raw();
    runtime.map_or_else(|| std::env::temp_dir().join(format!("lguest-{user}")), |path| path.join("lguest"))
}

/// Starts a broker process: this same program, with the listening socket as its standard input.
///
/// # Errors
/// What the host says.
pub fn start_broker(listener: OwnedFd) -> std::io::Result<()> {
    use std::os::unix::process::CommandExt;
    use std::process::{Command, Stdio};
    Command::new(std::env::current_exe()?)
        .arg0(BROKER)
        .arg(BROKER)
        .stdin(Stdio::from(listener))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // Its own group, so that the Ctrl-C that ends a machine does not end the link of the others.
        .process_group(0)
        .spawn()
        .map(drop)
}

/// The broker process: serves the link whose socket is its standard input, and goes when nobody is left.
///
/// # Errors
/// What the host says.
pub fn be_broker() -> std::io::Result<()> {
    use std::os::fd::AsFd;
    let listener = std::io::stdin().as_fd().try_clone_to_owned()?;
    lguest_host::link::broker::serve(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(text: &str) -> String {
        FileDisk::open(text).unwrap_err().0
    }

    #[test]
    fn a_disk_that_cannot_work_is_told_in_one_sentence() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        std::fs::write(path("empty"), b"").unwrap();
        std::fs::write(path("odd"), [0; 513]).unwrap();
        std::fs::write(path("good"), [0; 1024]).unwrap();
        for (text, hint) in [
            (path("missing"), "no such file"),
            (path(""), "directory"),
            (format!("{},readonly", path("")), "directory"),
            (path("empty"), "is empty"),
            (path("odd"), "513 bytes"),
            (format!("{},fast", path("good")), "fast is no option"),
            (format!("{},format=qcow2", path("good")), "later version"),
        ] {
            let sentence = disk(&text);
            assert!(
                sentence.starts_with(&format!("--disk {text}: ")) && sentence.contains(hint),
                "{sentence}"
            );
        }
    }

    #[test]
    fn a_disk_has_one_writer_or_many_readers() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk").display().to_string();
        std::fs::write(&path, [0; 1024]).unwrap();
        let readonly = format!("{path},readonly");
        let first = FileDisk::open(&readonly).unwrap();
        let _second = FileDisk::open(&readonly).unwrap();
        assert!(disk(&path).contains("another machine uses it"));
        drop((first, _second));
        let _writer = FileDisk::open(&path).unwrap();
        assert!(disk(&readonly).contains("another machine uses it"));
    }

    #[test]
    fn what_is_written_is_in_the_file_and_a_readonly_disk_refuses() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk").display().to_string();
        std::fs::write(&path, [7; 1024]).unwrap();
        let mut disk = FileDisk::open(&path).unwrap();
        disk.write(512, &[9; 512]).unwrap();
        drop(disk);
        assert_eq!(std::fs::read(&path).unwrap()[511..513], [7, 9]);
        let mut disk = FileDisk::open(&format!("{path},readonly")).unwrap();
        assert!(disk.write(0, &[1; 512]).is_err());
        let mut bytes = [0; 512];
        disk.read(512, &mut bytes).unwrap();
        assert_eq!(bytes, [9; 512]);
        std::fs::write(&path, [0; 100]).unwrap();
        assert!(disk.read(0, &mut bytes).is_err(), "a file cut short under a disk is an error, not zeroes");
    }

    #[test]
    fn networks_are_a_link_a_tap_or_none() {
        assert!(matches!(net("none"), Ok(None)));
        assert!(matches!(net("link=office"), Ok(Some(Attachment::Link(name))) if name == "office"));
        for text in [
            "link=",
            "link=a/b",
            "link=../x",
            "user",
            "user,forward=tcp:1:2",
            "tap=",
            "tap=a/b",
            "tap=lo",
            "wifi",
            "none=1",
        ] {
            assert!(net(text).unwrap_err().0.starts_with(&format!("--net {text}: ")), "{text}");
        }
    }

    #[test]
    fn a_disk_zeroes_and_discards_and_keeps_its_length() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        std::fs::write(&path, [7; 64 << 10]).unwrap();
        let mut disk = FileDisk::open(path.to_str().unwrap()).unwrap();
        disk.zero(512..1024, false).unwrap();
        disk.zero(4096..12288, true).unwrap();
        disk.write_zeroes(32768..(64 << 10)).unwrap();
        disk.discard(60 << 10..64 << 10).unwrap();
        disk.flush().unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(bytes.len(), 64 << 10);
        for (range, value) in
            [(0..512, 7), (512..1024, 0), (1024..4096, 7), (4096..12288, 0), (12288..32768, 7)]
        {
            assert!(bytes[range.clone()].iter().all(|byte| *byte == value), "{range:?}");
        }
        assert!(bytes[32768..60 << 10].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn a_bus_is_one_of_three() {
        assert_eq!(bus(None, BusChoice::Pci), Ok(BusChoice::Pci));
        assert_eq!(bus(Some("mmio"), BusChoice::Pci), Ok(BusChoice::Mmio));
        assert_eq!(bus(Some("lguest-dma"), BusChoice::Pci), Ok(BusChoice::LguestDma));
        for word in ["lguest", "isa", ""] {
            assert!(bus(Some(word), BusChoice::Pci).unwrap_err().0.starts_with(&format!("--bus {word}: ")));
        }
    }
}
