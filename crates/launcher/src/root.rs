//! `lguest run DIR` and `lguest run DISK.img`: a root that the user has, and the first process that goes there.
//!
//! The initramfs of such a machine holds lguest-init, the modules that it needs to reach the root, and a plan
//! (`lguest_init::plan`). Unless asked with `--keep`, the root itself is only read, and what the Guest changes lies in
//! its memory: the host then offers the directory or the disk read only, whatever the Guest thinks of it.

use std::path::Path;

use lguest_devices::fuse::Validity;
use lguest_init::plan;

use crate::attachments::Attachment;
use crate::cli::RunArguments;
use crate::debian::modules::Modules;
use crate::disks::AttachedDisk;
use crate::initramfs::newc::{Archive, FileKind};
use crate::initramfs::session::RootPlace;
use crate::request::{GuestChoice, Mistake};
use crate::share::option::ShareSpec;

/// Nobody should change a directory under an overlay (overlayfs says so), so the Guest need not look: once an hour.
const UNCHANGED: Validity = Validity(3600);
/// A root that is written is shared like any other directory.
const LIVE: Validity = Validity(1);
/// Where Linux finds the first disk.
const FIRST_DISK: &str = "/dev/vda";

/// A root that can work: it is open.
pub struct Root {
    place: plan::Root,
    keep: bool,
    modules: [&'static str; 2],
}

impl Root {
    /// Opens the root, if GUEST is one, and puts it among what is attached: a disk before all others.
    ///
    /// # Errors
    /// One sentence: it cannot be opened, or an option is for roots and GUEST is none, or the other way round.
    pub fn open(
        guest: &GuestChoice,
        arguments: &RunArguments,
        attachments: &mut Vec<Attachment>,
        shares: &mut Vec<ShareSpec>,
    ) -> Result<Option<Root>, Mistake> {
        let keep = arguments.keep;
        let (place, modules) = match guest {
            GuestChoice::Directory(path) => {
                shares.push(directory(path, keep)?);
                (plan::Root::Shared, ["virtiofs", "overlay"])
            }
            GuestChoice::Image(path) => {
                attachments.insert(0, Attachment::Disk(disk(path, keep)?));
                (plan::Root::Disk(FIRST_DISK.to_owned()), ["ext4", "overlay"])
            }
            _ => return only_for_roots(arguments).map_or(Ok(None), Err),
        };
        if arguments.initrd.is_some() {
            return Err(Mistake(
                "--initrd: GUEST is a root, which lguest starts with one of its own; leave it out".to_owned(),
            ));
        }
        Ok(Some(Root { place, keep, modules }))
    }

    /// The modules that reach it.
    pub fn modules(&self) -> &[&'static str] {
        &self.modules
    }

    /// What the first process is told of it.
    pub fn place(&self) -> RootPlace {
        RootPlace { root: self.place.clone(), keep: self.keep }
    }
}

/// The initramfs: the first process, and what the kernel opens as its standard files.
pub fn initramfs(modules: &Modules) -> Vec<u8> {
    let mut archive = Archive::new();
    archive.entry("lguest", FileKind::Directory, 0o755, b"");
    for directory in ["dev", "proc", "sys"] {
        archive.entry(directory, FileKind::Directory, 0o755, b"");
    }
    archive.entry("dev/console", FileKind::Character(5, 1), 0o600, b"");
    archive.entry("init", FileKind::Regular, 0o755, lguest_init::IMAGE);
    let mut bytes = archive.finish();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes.extend(crate::initramfs::modules::archive(modules));
    bytes
}

fn directory(path: &Path, keep: bool) -> Result<ShareSpec, Mistake> {
    let validity = if keep { LIVE } else { UNCHANGED };
    ShareSpec::open(format!("GUEST {}", path.display()), path, plan::ROOT_TAG, !keep, validity)
}

fn disk(path: &Path, keep: bool) -> Result<AttachedDisk, Mistake> {
    let mut option =
        path.to_str().filter(|text| !text.contains(',')).map(str::to_owned).ok_or_else(|| {
            Mistake(format!("GUEST {}: has a comma or worse in its name; rename it", path.display()))
        })?;
    option += if keep { ",format=raw" } else { ",format=raw,readonly" };
    AttachedDisk::open(&option)
}

/// The option that only a root has a use for.
fn only_for_roots(arguments: &RunArguments) -> Option<Mistake> {
    arguments.keep.then(|| {
        Mistake("--keep: is for a GUEST that is a root: a directory, or an image of a file system".to_owned())
    })
}
