//! `lguest run debian`: Debian's own kernel and busybox, fetched once, kept, and used without network from then on.
//!
//! ```text
//! CACHE/debian/PACKAGE/            a kernel, as the user named it (linux-image-cloud-amd64)
//!    package                      which package it came from: name, version, SHA-256
//!    vmlinuz                      the file as Debian ships it, for other machines to boot
//!    vmlinux setup-header         the two parts of a KernelImage, unpacked once
//!    modules/                     drivers that machines of ours may need (modules.rs)
//! CACHE/debian/busybox-static/     package, busybox
//! CACHE/apt/                       apt's private state: package lists, configuration
//! CACHE/lock                       held while something is being fetched
//! ```
//!
//! A folder under `debian/` appears whole, by a rename, or not at all; so a run that finds one needs no lock.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

pub mod apt;
pub mod package;
pub mod deb;
pub mod modules;

use crate::cache::{self, Cache, Shelf};
use crate::kernel_image::program::{Kernel, Program};
use crate::kernel_image::{KernelError, KernelImage};
use crate::progress::Progress;
use apt::{Apt, AptError};
use deb::DebError;
use modules::{Drivers, Modules};
use package::{PackageName, Stanza};

/// The kernel that plain `debian` means: made for virtual machines, a fifth of the size of the general one.
pub const DEFAULT_KERNEL: &str = "linux-image-cloud-amd64";

/// Where the shell and its tools come from.
const BUSYBOX: &str = "busybox-static";

/// The largest busybox taken; Debian's is 2 MB.
const LARGEST_BUSYBOX: u64 = 64 << 20;

/// Why Debian's files could not be had.
#[derive(Debug, Error)]
pub enum DebianError {
    /// apt-get is missing or failed.
    #[error(transparent)]
    Apt(#[from] AptError),
    /// The cache folder cannot be used.
    #[error("the cache folder {path} cannot be used: {cause}; set LGUEST_CACHE to one that can be written")]
    Cache {
        /// The file or folder.
        path: PathBuf,
        /// What the Host said.
        cause: io::Error,
    },
    /// A package that arrived is not what the index describes.
    #[error(
        "the package {package} that arrived differs from the one in the signed index (SHA-256); try again"
    )]
    WrongContents {
        /// The package's name.
        package: String,
    },
    /// A package that cannot be opened.
    #[error("the package {package} cannot be unpacked: {cause}")]
    Deb {
        /// The package's name.
        package: String,
        /// What was wrong.
        cause: DebError,
    },
    /// The kernel in a package is no kernel.
    #[error("the kernel of package {package} {cause}")]
    Kernel {
        /// The package's name.
        package: String,
        /// What was wrong.
        cause: KernelError,
    },
}

/// The kernel of a package, from the cache or from Debian, and those of these drivers that it has as modules, with all
/// that they need, in an order that works.
///
/// # Errors
/// When it is not in the cache and cannot be fetched.
pub fn kernel(
    cache: &Cache,
    name: &PackageName,
    drivers: &Drivers,
    progress: &Progress,
) -> Result<(Kernel, Modules), DebianError> {
    // A kernel that was fetched by a version without modules stays good for machines that need none.
    let wanted = [&drivers.now[..], &drivers.soon, &drivers.later].concat();
    let complete = |folder: &Path| wanted.is_empty() || modules::tells_of(folder, &wanted);
    let folder = obtain(cache, name, complete, progress, unpack_kernel)?;
    let modules = match wanted[..] {
        [] => Modules::default(),
        _ => modules::read_both(&folder, drivers)
            .map_err(|cause| DebianError::Cache { path: folder.join(modules::FOLDER), cause })?,
    };
    let path = folder.join("setup-header");
    let header = fs::read(&path).map_err(|cause| DebianError::Cache { path, cause })?;
    let setup_header = (!header.is_empty()).then_some(header);
    let path = folder.join("vmlinux");
    let vmlinux = fs::File::open(&path).map_err(|cause| DebianError::Cache { path, cause })?;
    Ok((Kernel { program: Program::File(vmlinux), setup_header }, modules))
}

/// Debian's static busybox, from the cache or from Debian.
///
/// # Errors
/// When it is not in the cache and cannot be fetched.
pub fn busybox(cache: &Cache, progress: &Progress) -> Result<Vec<u8>, DebianError> {
    let name = PackageName::new(BUSYBOX).expect("a well-formed name");
    let path = obtain(cache, &name, |_| true, progress, unpack_busybox)?.join("busybox");
    fs::read(&path).map_err(|cause| DebianError::Cache { path, cause })
}

type Unpack = fn(deb: &Path, into: &Path, package: &Stanza, progress: &Progress) -> Result<(), DebianError>;

/// The cache's folder for a package; fetched and unpacked first when it is not there, or is not complete.
fn obtain(
    cache: &Cache,
    name: &PackageName,
    complete: impl Fn(&Path) -> bool,
    progress: &Progress,
    unpack: Unpack,
) -> Result<PathBuf, DebianError> {
    let folder = cache.package(name);
    if folder.is_dir() && complete(&folder) {
        return Ok(folder);
    }
    // Say that apt-get is missing before anything is written.
    Apt::check()?;
    let unusable = |cause| DebianError::Cache { path: cache.root().to_owned(), cause };
    let _lock = cache.lock(progress).map_err(unusable)?;
    // Another run may have been faster.
    if folder.is_dir() && complete(&folder) {
        return Ok(folder);
    }
    let draft = cache.draft(Shelf::Debian).map_err(unusable)?;
    let apt = Apt::prepare(&cache.root().join("apt"))?;
    apt.refresh_once(progress)?;
    let package = package::resolve(name, |name| apt.show(name), |prefix| apt.names(prefix))?;
    let deb = apt.download(&package, draft.path(), progress)?;
    let step = progress.step(format!("checking {}", package.name));
    if cache::sha256(&deb).map_err(unusable)? != package.sha256 {
        return Err(DebianError::WrongContents { package: package.name });
    }
    step.finish();
    unpack(&deb, draft.path(), &package, progress)?;
    let note =
        format!("package: {}\nversion: {}\nsha256: {}\n", package.name, package.version, package.sha256);
    write(draft.path(), "package", note.as_bytes())?;
    fs::remove_file(&deb).map_err(unusable)?;
    cache.keep(draft, &folder).map_err(unusable)?;
    Ok(folder)
}

fn unpack_kernel(deb: &Path, into: &Path, package: &Stanza, progress: &Progress) -> Result<(), DebianError> {
    let step = progress.step(format!("unpacking {}", package.name));
    let vmlinuz =
        deb::extract(deb, crate::kernel_image::LARGEST_FILE, |path| path.starts_with("boot/vmlinuz-"))
            .map_err(|cause| DebianError::Deb { package: package.name.clone(), cause })?;
    step.finish();
    let step = progress.step("decompressing the kernel".to_owned());
    write(into, "vmlinuz", &vmlinuz)?;
    let image = KernelImage::parse(vmlinuz)
        .map_err(|cause| DebianError::Kernel { package: package.name.clone(), cause })?;
    write(into, "vmlinux", &image.vmlinux)?;
    write(into, "setup-header", &image.setup_header.unwrap_or_default())?;
    step.finish();
    let step = progress.step("unpacking its modules".to_owned());
    modules::unpack(deb, &into.join(modules::FOLDER))
        .map_err(|cause| DebianError::Deb { package: package.name.clone(), cause })?;
    step.finish();
    Ok(())
}

fn unpack_busybox(deb: &Path, into: &Path, package: &Stanza, progress: &Progress) -> Result<(), DebianError> {
    let step = progress.step(format!("unpacking {}", package.name));
    let busybox =
        deb::extract(deb, LARGEST_BUSYBOX, |path| matches!(path, "bin/busybox" | "usr/bin/busybox"))
            .map_err(|cause| DebianError::Deb { package: package.name.clone(), cause })?;
    write(into, "busybox", &busybox)?;
    step.finish();
    Ok(())
}

fn write(folder: &Path, name: &str, bytes: &[u8]) -> Result<(), DebianError> {
    let path = folder.join(name);
    cache::write_through(&path, bytes).map_err(|cause| DebianError::Cache { path, cause })
}
