//! From the words of a command line to values that can work, or one sentence why not.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lguest_translator::HiddenFeatures;

use crate::board::MOST_CPUS;
use crate::debian::DEFAULT_KERNEL;
use crate::debian::package::PackageName;

/// A request that cannot work: one sentence that names the option, the value and what would do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake(pub String);

impl fmt::Display for Mistake {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl<E: std::error::Error> From<E> for Mistake {
    fn from(error: E) -> Mistake {
        Mistake(error.to_string())
    }
}

/// The size of a page, which memory is counted in.
const PAGE: u64 = 4096;

/// The least memory a Guest gets: Debian's unpacked kernel alone takes fifty megabytes.
pub const LEAST_MEMORY: u64 = 64 << 20;

/// The longest time limit, some thirty years. Longer ones are a mistake of unit.
const LONGEST_TIMEOUT: f64 = 1e9;

/// The longest command line of a kernel for x86: `COMMAND_LINE_SIZE` without its NUL (arch/x86/include/asm/setup.h).
const LONGEST_CMDLINE: usize = 2047;

/// Reads `--memory`: bytes, no less than a Guest needs and no more than this machine has.
///
/// # Errors
/// A sentence for each way to be wrong.
pub fn memory(text: &str, host: u64) -> Result<u64, Mistake> {
    let mistake = |what: &str| Err(Mistake(format!("--memory {text}: {what}")));
    let Some(bytes) = size(text) else {
        return mistake("is no size; give a whole number with K, M, G or T, for instance 256M");
    };
    if bytes < LEAST_MEMORY {
        return mistake(&format!("is too little for a Guest; give at least {}M", LEAST_MEMORY >> 20));
    }
    if bytes > host {
        return mistake(&format!("is more than this machine has; give at most {}M", host >> 20));
    }
    if !bytes.is_multiple_of(PAGE) {
        return mistake("is no whole number of 4 KiB pages; give a size in M");
    }
    Ok(bytes)
}

/// A number with an optional unit of 1024; one that does not fit 64 bits is as large as it gets.
fn size(text: &str) -> Option<u64> {
    let upper = text.to_ascii_uppercase();
    let units = [('K', 10), ('M', 20), ('G', 30), ('T', 40)];
    let (digits, shift) = units
        .iter()
        .find_map(|(letter, shift)| Some((upper.strip_suffix(*letter)?, *shift)))
        .unwrap_or((&upper, 0));
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().unwrap_or(u64::MAX);
    Some(number.saturating_mul(1 << shift))
}

/// Reads `--cpus`.
///
/// # Errors
/// For anything but 1 to 8.
pub fn cpus(text: &str) -> Result<u32, Mistake> {
    match text.parse::<u32>() {
        Ok(cpus @ 1..=MOST_CPUS) => Ok(cpus),
        Ok(0) | Err(_) => {
            Err(Mistake(format!("--cpus {text}: is no number of processors; give 1 to {MOST_CPUS}")))
        }
        Ok(_) => Err(Mistake(format!(
            "--cpus {text}: is more processors than a machine has; give 1 to {MOST_CPUS}"
        ))),
    }
}

/// Reads `--cpu-features`.
///
/// # Errors
/// For a word that is no feature: a sentence that lists them.
pub fn cpu_features(list: &str) -> Result<HiddenFeatures, Mistake> {
    HiddenFeatures::read(list).map_err(|error| Mistake(format!("--cpu-features {list}: {error}")))
}

/// Reads `--timeout`.
///
/// # Errors
/// For anything but a positive number of seconds.
pub fn timeout(text: &str) -> Result<Duration, Mistake> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds > 0.0 && seconds <= LONGEST_TIMEOUT => Ok(Duration::from_secs_f64(seconds)),
        _ => Err(Mistake(format!(
            "--timeout {text}: is no time limit; give a positive number of seconds, for instance 30 or 0.5"
        ))),
    }
}

/// Reads `--cmdline`.
///
/// # Errors
/// When the kernel could not take it.
pub fn cmdline(text: &str) -> Result<String, Mistake> {
    if text.len() > LONGEST_CMDLINE {
        let length = text.len();
        return Err(Mistake(format!(
            "--cmdline: is {length} bytes long and a kernel takes {LONGEST_CMDLINE}; leave something out"
        )));
    }
    if text.contains(['\0', '\n']) {
        return Err(Mistake("--cmdline: holds a line break; give everything on one line".to_owned()));
    }
    Ok(text.to_owned())
}

/// Reads `--log-level`.
///
/// # Errors
/// For a word that is no level.
pub fn log_level(text: &str) -> Result<tracing::Level, Mistake> {
    text.parse().map_err(|_| {
        Mistake(format!("--log-level {text}: is no level; give error, warn, info, debug or trace"))
    })
}

/// Reads `--add`: what on the Host, and where in the Guest.
///
/// # Errors
/// When a half is missing.
pub fn addition(text: &str) -> Result<(PathBuf, String), Mistake> {
    match text.rsplit_once(':') {
        Some((host, guest)) if !host.is_empty() && guest.starts_with('/') => {
            Ok((PathBuf::from(host), guest.to_owned()))
        }
        _ => Err(Mistake(format!(
            "--add {text}: give a path on the Host and an absolute path in the Guest, for instance ./tool:/bin/tool"
        ))),
    }
}

/// What the word GUEST means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GuestChoice {
    /// Nothing was said.
    Unsaid,
    /// Debian, with the kernel of this package.
    Debian(PackageName),
    /// A file that should be a kernel.
    Kernel(PathBuf),
    /// A directory that is to be the root.
    Directory(PathBuf),
    /// An image of a file system that is to be the root.
    Image(PathBuf),
}

impl GuestChoice {
    /// Reads GUEST. Of a file only the beginning is looked at.
    ///
    /// # Errors
    /// For a package name that is none, and a file that is not there.
    pub fn read(word: Option<&str>) -> Result<GuestChoice, Mistake> {
        let Some(word) = word else { return Ok(GuestChoice::Unsaid) };
        if word == "debian" {
            let name = PackageName::new(DEFAULT_KERNEL).expect("a well-formed name");
            return Ok(GuestChoice::Debian(name));
        }
        if let Some(package) = word.strip_prefix("debian:") {
            return PackageName::new(package).map(GuestChoice::Debian).ok_or_else(|| {
                Mistake(format!(
                    "GUEST {word}: is no name of a package; give for instance debian:linux-image-amd64"
                ))
            });
        }
        let path = Path::new(word);
        if path.is_dir() {
            return Ok(GuestChoice::Directory(path.to_owned()));
        }
        if !path.exists() {
            return Err(Mistake(format!(
                "GUEST {word}: there is no such file; give debian or the path of a kernel, a directory or an image"
            )));
        }
        if is_file_system(&beginning(path)) {
            return Ok(GuestChoice::Image(path.to_owned()));
        }
        Ok(GuestChoice::Kernel(path.to_owned()))
    }
}

/// As much of a file as tells what it is; nothing of one that cannot be read.
pub fn beginning(path: &Path) -> Vec<u8> {
    let mut bytes = vec![0; 4096];
    let length = std::fs::File::open(path).and_then(|mut file| std::io::Read::read(&mut file, &mut bytes));
    bytes.truncate(length.unwrap_or(0));
    bytes
}

/// Whether a file begins as an ext2, ext3 or ext4 does: two sectors for who boots, then a superblock. In a kernel's place
/// for those sectors there is a kernel (its own marks: the boot protocol's, ELF's).
fn is_file_system(beginning: &[u8]) -> bool {
    let holds = |at: usize, mark: &[u8]| beginning.get(at..at + mark.len()) == Some(mark);
    holds(0x438, b"\x53\xef") && !holds(0x202, b"HdrS") && !holds(0, b"\x7fELF")
}

/// The name of what a file that is no kernel is, when it is something that a later version will start.
pub fn later_guest(beginning: &[u8]) -> Option<&'static str> {
    let holds = |at: usize, mark: &[u8]| beginning.get(at..at + mark.len()) == Some(mark);
    let marks: [(usize, &[u8], &str); 4] = [
        (0, b"QFI\xfb", "a qcow2 disk image"),
        (0, b"hsqs", "a file system image"),
        (257, b"ustar", "an archive"),
        (510, b"\x55\xaa", "a disk image"),
    ];
    marks.iter().find(|(at, mark, _)| holds(*at, mark)).map(|(_, _, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: u64 = 8 << 30;

    #[test]
    fn sizes_are_read_with_every_unit() {
        assert_eq!(memory("256M", HOST), Ok(256 << 20));
        assert_eq!(memory("262144k", HOST), Ok(256 << 20));
        assert_eq!(memory("1G", HOST), Ok(1 << 30));
        assert_eq!(memory("268435456", HOST), Ok(256 << 20));
        assert_eq!(memory("8g", HOST), Ok(HOST));
    }

    #[test]
    fn memory_that_cannot_work_names_what_would() {
        for (text, hint) in [
            ("0", "at least 64M"),
            ("16M", "at least 64M"),
            ("1T", "at most 8192M"),
            ("99999999999999999999T", "at most 8192M"),
            ("lots", "is no size"),
            ("", "is no size"),
            ("M", "is no size"),
            ("-1G", "is no size"),
            ("1.5G", "is no size"),
            ("67108865", "4 KiB"),
        ] {
            let Mistake(sentence) = memory(text, HOST).unwrap_err();
            assert!(sentence.starts_with(&format!("--memory {text}: ")), "{sentence}");
            assert!(sentence.contains(hint), "{sentence}");
        }
    }

    #[test]
    fn one_to_eight_processors_are_offered() {
        assert_eq!((cpus("1"), cpus("8")), (Ok(1), Ok(8)));
        for text in ["0", "9", "-1", "many", "4294967296"] {
            let Mistake(sentence) = cpus(text).unwrap_err();
            assert!(
                sentence.starts_with(&format!("--cpus {text}: ")) && sentence.ends_with("1 to 8"),
                "{sentence}"
            );
        }
    }

    #[test]
    fn a_time_limit_is_a_positive_number() {
        assert_eq!(timeout("0.5"), Ok(Duration::from_millis(500)));
        for text in ["0", "-1", "soon", "inf", "NaN", "1e300", ""] {
            assert!(timeout(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_command_line_too_long_for_a_kernel_is_refused() {
        assert!(cmdline(&"x".repeat(2047)).is_ok());
        assert!(cmdline(&"x".repeat(2048)).is_err());
        assert!(cmdline("a\nb").is_err());
    }

    #[test]
    fn an_addition_needs_both_halves() {
        assert_eq!(addition("a:b:/c").unwrap(), (PathBuf::from("a:b"), "/c".to_owned()));
        for text in ["a", ":/b", "a:", "a:b"] {
            assert!(addition(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_guest_is_debian_or_a_file() {
        assert_eq!(GuestChoice::read(None), Ok(GuestChoice::Unsaid));
        let Ok(GuestChoice::Debian(name)) = GuestChoice::read(Some("debian")) else { panic!("not Debian") };
        assert_eq!(name.as_str(), "linux-image-cloud-amd64");
        for (word, hint) in [("debian:-o", "package"), ("/no/such", "no such file"), ("ubuntu", "debian")] {
            let Mistake(sentence) = GuestChoice::read(Some(word)).unwrap_err();
            assert!(sentence.contains(hint) && sentence.contains(word), "{sentence}");
        }
    }

    #[test]
    fn a_directory_and_an_image_are_roots() {
        assert_eq!(GuestChoice::read(Some("/")), Ok(GuestChoice::Directory("/".into())));
        let mut image = vec![0; 4096];
        image[0x438..0x43a].copy_from_slice(b"\x53\xef");
        assert!(is_file_system(&image));
        image[0x202..0x206].copy_from_slice(b"HdrS");
        assert!(!is_file_system(&image), "a kernel with two odd bytes");
        assert!(!is_file_system(b"short"));
    }

    #[test]
    fn images_of_later_versions_are_told_apart() {
        assert_eq!(later_guest(b"QFI\xfb\0\0\0\x03"), Some("a qcow2 disk image"));
        assert_eq!(later_guest(b"hello"), None);
    }
}
