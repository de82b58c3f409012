//! The words of `--disk`, read and not yet believed.

use std::path::PathBuf;

use lguest_devices::virtio::block::SERIAL;

/// Backing files in a row: each is looked into for what those above it lack, on every read.
const MOST_BACKING: usize = 8;

/// How a file holds a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Byte for byte.
    Raw,
    /// In clusters (QEMU's docs/interop/qcow2.txt).
    Qcow2,
}

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskOption {
    /// The file.
    pub path: PathBuf,
    /// Whether the Guest may write.
    pub writable: bool,
    /// What it holds.
    pub format: Format,
    /// The user said `format=raw`, and did not just leave the format out.
    pub raw_was_said: bool,
    /// The serial number that the Guest sees.
    pub serial: Option<String>,
    /// The files that may be read for what the first lacks, each for what those before it lack.
    pub backing: Vec<PathBuf>,
}

impl DiskOption {
    /// Reads `PATH[,readonly][,format=raw|qcow2][,serial=TEXT][,backing=PATH]...`.
    ///
    /// # Errors
    /// The rest of a sentence that began with the option.
    pub fn read(text: &str) -> Result<DiskOption, String> {
        let mut parts = text.split(',');
        let path = PathBuf::from(parts.next().unwrap_or_default());
        let mut disk = DiskOption {
            path,
            writable: true,
            format: Format::Raw,
            raw_was_said: false,
            serial: None,
            backing: Vec::new(),
        };
        for part in parts {
            match part.split_once('=').unwrap_or((part, "")) {
                ("readonly" | "ro", "") => disk.writable = false,
                ("format", "raw") => (disk.format, disk.raw_was_said) = (Format::Raw, true),
                ("format", "qcow2") => disk.format = Format::Qcow2,
                ("format", other) => {
                    return Err(format!("format={other} is no format of a disk; give raw or qcow2"));
                }
                ("serial", number) => disk.serial = Some(serial(number)?),
                ("backing", path) if !path.is_empty() => disk.backing.push(PathBuf::from(path)),
                _ => {
                    return Err(format!(
                        "{part} is no option of a disk; give readonly, format=raw or qcow2, serial=TEXT or backing=PATH"
                    ));
                }
            }
        }
        match disk.backing.len() {
            0 => Ok(disk),
            _ if disk.format == Format::Raw => {
                Err("a raw disk has no backing file; add format=qcow2 if it is one".to_owned())
            }
            count if count > MOST_BACKING => Err(format!(
                "{count} backing files are more than {MOST_BACKING}; merge some of them with qemu-img commit"
            )),
            _ => Ok(disk),
        }
    }
}

/// A serial number is what Linux shows as one word (5.2.6: 20 bytes of ASCII).
fn serial(number: &str) -> Result<String, String> {
    let good = number.bytes().all(|byte| byte.is_ascii_graphic());
    if good && (1..=SERIAL).contains(&number.len()) {
        return Ok(number.to_owned());
    }
    Err(format!("serial={number} is no serial number; give 1 to {SERIAL} letters, digits or signs"))
}
