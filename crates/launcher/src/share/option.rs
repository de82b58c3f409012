//! `--share DIR[:TAG][,readonly]`: which directory, under which name, and every mistake that can be made in saying so.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lguest_devices::fuse::Validity;
use rustix::fs::{Mode, OFlags};

use super::Share;
use crate::initramfs::session::Mount;
use crate::request::Mistake;

/// The longest tag (virtio 1.2, 5.11.4).
const LONGEST_TAG: usize = 36;
/// A Guest sees what the host changed after at most so many seconds. One is what people wait without noticing, and keeps
/// `git status` from asking about every file twice.
const SHARE_VALIDITY: Validity = Validity(1);

/// A share that can work: its directory is open.
#[derive(Debug)]
pub struct ShareSpec {
    /// What the user wrote, for sentences.
    named: String,
    /// The directory.
    pub directory: Arc<OwnedFd>,
    /// How the Guest calls it.
    pub tag: String,
    /// Whether the Guest may only read.
    pub readonly: bool,
    /// How long the Guest may go without looking at the host.
    pub validity: Validity,
}

impl ShareSpec {
    /// Reads the option's value and opens the directory.
    ///
    /// # Errors
    /// One sentence: missing, no directory, a tag that is none.
    pub fn read(text: &str) -> Result<ShareSpec, Mistake> {
        let fault = |what: String| Mistake(format!("--share {text}: {what}"));
        let (place, readonly) = match text.rsplit_once(',') {
            Some((place, "readonly" | "ro")) => (place, true),
            Some((_, option)) if !option.contains('/') => {
                return Err(fault(format!(
                    "{option} is no option of a share; give readonly or leave it out"
                )));
            }
            _ => (text, false),
        };
        let (directory, tag) = match place.rsplit_once(':') {
            Some((directory, tag)) => (PathBuf::from(directory), tag.to_owned()),
            None => {
                let directory = PathBuf::from(place);
                let last = std::fs::canonicalize(&directory).unwrap_or_else(|_| directory.clone());
                let tag = last.file_name().map(|name| name.to_string_lossy().into_owned());
                (directory, tag.unwrap_or_default())
            }
        };
        if !is_tag(&tag) {
            return Err(fault(format!(
                "{tag:?} is no tag; give DIR:TAG with a tag of 1 to {LONGEST_TAG} letters, digits, '-', '_' or '.'"
            )));
        }
        let named = format!("--share {text}");
        Self::open(named, &directory, &tag, readonly, SHARE_VALIDITY)
    }

    /// Opens a directory. `named` begins the sentence of a mistake.
    ///
    /// # Errors
    /// One sentence: missing, or no directory.
    pub fn open(
        named: String,
        directory: &Path,
        tag: &str,
        readonly: bool,
        validity: Validity,
    ) -> Result<ShareSpec, Mistake> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::open(directory, flags, Mode::empty()) {
            Ok(directory) => {
                let directory = Arc::new(directory);
                Ok(ShareSpec { named, directory, tag: tag.to_owned(), readonly, validity })
            }
            Err(errno) => {
                let what = match errno {
                    rustix::io::Errno::NOTDIR => "is a file; a share is a directory".to_owned(),
                    rustix::io::Errno::NOENT => "there is no such directory; mkdir makes one".to_owned(),
                    errno => format!("cannot be opened: {}", std::io::Error::from(errno)),
                };
                Err(Mistake(format!("{named}: {what}")))
            }
        }
    }

    /// The server of it.
    ///
    /// # Errors
    /// One sentence: a directory in /proc, or a host without one.
    pub fn serve(self) -> Result<Share, Mistake> {
        let named = self.named;
        Share::new(self.directory, self.readonly, self.validity).map_err(|errno| {
            let cause = match errno {
                rustix::io::Errno::ACCESS => {
                    "is in /proc, which leads into lguest itself; share another directory".to_owned()
                }
                errno => format!("cannot be served: {}", std::io::Error::from(errno)),
            };
            Mistake(format!("{named}: {cause}"))
        })
    }
}

/// Where the Guest mounts these shares.
///
/// # Errors
/// One sentence when two have the same tag.
pub fn mounts(shares: &[ShareSpec]) -> Result<Vec<Mount>, Mistake> {
    let mut mounts: Vec<Mount> = Vec::new();
    for share in shares {
        if mounts.iter().any(|mount| mount.tag == share.tag) {
            return Err(Mistake(format!(
                "--share: two are called {}; give one another tag as in DIR:TAG",
                share.tag
            )));
        }
        mounts.push(Mount { tag: share.tag.clone(), readonly: share.readonly });
    }
    Ok(mounts)
}

fn is_tag(tag: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (1..=LONGEST_TAG).contains(&tag.len()) && tag.chars().all(good) && !matches!(tag, "." | "..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_a_directory_with_a_tag() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().display().to_string();
        std::fs::create_dir(folder.path().join("src")).unwrap();
        let read = |text: String| ShareSpec::read(&text).unwrap();
        assert_eq!(read(format!("{path}/src")).tag, "src");
        assert_eq!(read(format!("{path}/src/../src/.")).tag, "src");
        let spec = read(format!("{path}:data,readonly"));
        assert_eq!((spec.tag.as_str(), spec.readonly), ("data", true));
    }

    #[test]
    fn a_share_that_cannot_work_is_told_in_one_sentence() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().display().to_string();
        std::fs::write(folder.path().join("file"), b"").unwrap();
        for (text, hint) in [
            (format!("{path}/missing"), "no such directory"),
            (format!("{path}/file"), "is a file"),
            (format!("{path}:a b"), "is no tag"),
            (format!("{path}:"), "is no tag"),
            (format!("{path}:{}", "x".repeat(37)), "is no tag"),
            ("/".to_owned(), "DIR:TAG"),
            (format!("{path},fast"), "fast is no option"),
        ] {
            let Mistake(sentence) = ShareSpec::read(&text).unwrap_err();
            assert!(
                sentence.starts_with(&format!("--share {text}: ")) && sentence.contains(hint),
                "{sentence}"
            );
        }
    }

    #[test]
    fn two_shares_of_one_name_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let text = format!("{}:one", folder.path().display());
        let shares = [ShareSpec::read(&text).unwrap(), ShareSpec::read(&format!("{text},ro")).unwrap()];
        assert_eq!(mounts(&shares[..1]).unwrap()[0].tag, "one");
        assert!(mounts(&shares).unwrap_err().0.contains("two are called one"));
    }

    #[test]
    fn proc_is_not_shared() {
        let spec = ShareSpec::read("/proc/self:me").unwrap();
        let Mistake(sentence) = spec.serve().err().unwrap();
        assert!(sentence.contains("/proc"), "{sentence}");
    }
}
