//! The files that a Guest is made of: its kernel and its initial RAM disk, from the user or from the cache.

use std::io;
use std::path::Path;

use crate::cache::Cache;
use crate::debian;
use crate::debian::modules::{Drivers, Modules};
use crate::debian::package::PackageName;
use crate::initramfs::{self, Initramfs};
use crate::kernel_image::program::Kernel;
use crate::kernel_image::{KernelError, KernelImage};
use crate::progress::Progress;
use crate::request::{self, Mistake};
use crate::root;

/// The largest initial RAM disk read. It has to fit the Guest's memory besides.
const LARGEST_INITRD: u64 = 4 << 30;
/// What a kernel needs beside its own file and its initrd. Debian's panic with 16 MiB and boot with 32.
const LEAST_TO_LIVE_ON: u64 = 32 << 20;

/// The kernel in a file of the user's, which `option` names; one sentence for what is none.
pub(crate) fn open_kernel(option: &str, path: &Path) -> Result<Kernel, Mistake> {
    KernelImage::open(path).map(Kernel::from).map_err(|error| {
        let name = path.display();
        let later = match error {
            KernelError::NoKernel | KernelError::Compressed(_) => later_guest(path),
            _ => None,
        };
        match later {
            Some(kind) => Mistake(format!(
                "{option} {name}: is {kind}, which a later version will start; give debian or a kernel"
            )),
            None => Mistake(format!("{option} {name}: {error}")),
        }
    })
}

fn later_guest(path: &Path) -> Option<&'static str> {
    request::later_guest(&request::beginning(path))
}

/// The initial RAM disk that the user named, if it fits a Guest of this much memory.
pub(crate) fn read_initrd(path: &Path, memory: u64) -> Result<Vec<u8>, Mistake> {
    let name = path.display();
    let fault = |cause: io::Error| Mistake(format!("--initrd {name}: cannot be read: {cause}"));
    let file = std::fs::File::open(path).map_err(fault)?;
    let length = file.metadata().map_err(fault)?.len();
    if length >= memory.min(LARGEST_INITRD) {
        return Err(Mistake(format!(
            "--initrd {name}: is {} MiB, which does not fit a Guest of {} MiB; give more --memory",
            length >> 20,
            memory >> 20
        )));
    }
    let mut bytes = Vec::with_capacity(length as usize);
    // The file may grow while we read; the limit holds all the same.
    io::Read::read_to_end(&mut io::Read::take(file, memory.min(LARGEST_INITRD)), &mut bytes)
        .map_err(fault)?;
    Ok(bytes)
}

/// Debian's kernel, and busybox with the modules for these drivers, where the user has none of their own.
pub(crate) fn debian_files(
    name: &PackageName,
    own_kernel: Option<Kernel>,
    own_initrd: Option<Vec<u8>>,
    drivers: &Drivers,
    progress: &Progress,
) -> Result<(Kernel, Vec<u8>), Mistake> {
    let (own_kernel, own_initrd) = match (own_kernel, own_initrd) {
        (Some(kernel), Some(initrd)) => return Ok((kernel, initrd)),
        other => other,
    };
    let cache = user_cache()?;
    let (kernel, modules) = match own_kernel {
        Some(kernel) => (kernel, Modules::default()),
        None => debian::kernel(&cache, name, drivers, progress)?,
    };
    let mut initrd = match own_initrd {
        Some(initrd) => initrd,
        None => Initramfs::new(&debian::busybox(&cache, progress)?).finish(),
    };
    if initramfs::is_ours(&initrd) && modules != Modules::default() {
        initrd.resize(initrd.len().next_multiple_of(4), 0);
        initrd.extend(initramfs::modules::archive(&modules));
    }
    Ok((kernel, initrd))
}

/// The user's cache.
///
/// # Errors
/// When the environment does not say where it is.
pub fn user_cache() -> Result<Cache, Mistake> {
    Cache::of_the_user().ok_or_else(|| {
        Mistake("there is no place for a cache; set LGUEST_CACHE to a folder that can be written".to_owned())
    })
}

/// The kernel and the initrd have to be in memory together, and the kernel unpacks the latter beside itself.
pub(crate) fn check_room(initrd: u64, kernel: u64, memory: u64) -> Result<(), Mistake> {
    let needed = initrd.saturating_mul(2).saturating_add(kernel).saturating_add(LEAST_TO_LIVE_ON);
    if needed <= memory {
        return Ok(());
    }
    Err(Mistake(format!(
        "--memory {}M: the kernel ({} MiB) and its initial RAM disk ({} MiB) do not fit; give at least {}M",
        memory >> 20,
        kernel >> 20,
        initrd >> 20,
        needed.div_ceil(1 << 20)
    )))
}

/// A root's kernel, Debian's unless there is another, and what leads from the one to the other.
pub(crate) fn root_files(
    own_kernel: Option<Kernel>,
    drivers: &Drivers,
    progress: &Progress,
) -> Result<(Kernel, Vec<u8>), Mistake> {
    let (kernel, modules) = match own_kernel {
        Some(kernel) => (kernel, Modules::default()),
        None => {
            let name = PackageName::new(debian::DEFAULT_KERNEL).expect("a well-formed name");
            debian::kernel(&user_cache()?, &name, drivers, progress)?
        }
    };
    Ok((kernel, root::initramfs(&modules)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_do_not_fit_name_the_memory_that_would_do() {
        let Mistake(sentence) = check_room(100 << 20, 50 << 20, 128 << 20).unwrap_err();
        assert!(sentence.ends_with("give at least 282M"), "{sentence}");
    }
}
