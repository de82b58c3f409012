//! A kernel's modules: which ones a machine of ours needs, and in which order they can be loaded.
//!
//! Debian's cloud kernel has nearly every driver as a module. A package names no dependencies (depmod makes that list where
//! a kernel is installed), but each module does, in its `.modinfo` section. We unpack a package's modules, follow the names
//! from the few that a machine of ours may need, keep those and a list:
//!
//! ```text
//! CACHE/debian/PACKAGE/modules/order          a name a line, each after all that it depends on
//!                              looked-for     the few
//!                              virtio.ko ...  uncompressed
//! ```
//! A name that the package has no module for is built into the kernel, or the kernel cannot do it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::path::Path;

use super::deb::{self, DebError};
use crate::cache;

/// The folder in a kernel's folder of the cache.
pub const FOLDER: &str = "modules";
/// Its list.
const ORDER: &str = "order";
/// What was looked for, whether or not the package had it: a later version may want more.
const LOOKED_FOR: &str = "looked-for";

/// What machines may need: virtio's transports and devices, and the file system that most disk images have.
const KEPT: [&str; 11] = [
    "virtio_mmio",
    "virtio_pci",
    "virtio_blk",
    "virtio_rng",
    "virtio_net",
    "virtio_console",
    "virtio_balloon",
    "vmw_vsock_virtio_transport",
    "ext4",
    "virtiofs",
    "overlay",
];
/// Those that the first version to unpack modules looked for, which left no list of them.
const FIRST_KEPT: [&str; 7] =
    ["virtio_mmio", "virtio_pci", "virtio_blk", "virtio_rng", "virtio_net", "virtio_console", "ext4"];

/// The largest module taken; the largest of Debian's, a graphics driver, has 20 MB.
const LARGEST: u64 = 64 << 20;
/// Modules in a package at most; Debian's general kernel has about 4,000.
const MOST: usize = 20_000;

/// The names of modules that a machine needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drivers {
    /// Before its program starts.
    pub now: Vec<&'static str>,
    /// When it has run for a while.
    pub soon: Vec<&'static str>,
    /// When somebody asks for what they drive, which few do.
    pub later: Vec<&'static str>,
}

/// The modules themselves, each with all that it needs, in an order that works.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Modules {
    /// Before the program starts.
    pub now: Vec<Module>,
    /// Those that come a while after it, and are not there by then.
    pub soon: Vec<Module>,
    /// Those that come later and are not there by then.
    pub later: Vec<Module>,
}

/// A module, ready to be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// Its name, with underscores.
    pub name: String,
    /// The ELF file.
    pub bytes: Vec<u8>,
}

/// Takes the modules that machines may need out of a kernel's package into `folder`, which is made.
///
/// # Errors
/// When the package is damaged or the Host refuses.
pub fn unpack(deb: &Path, folder: &Path) -> Result<(), DebError> {
    fs::create_dir(folder)?;
    // All of them, as they are packed: which are needed is only known when all are there.
    let all = tempfile::tempdir_in(folder)?;
    let mut packed = BTreeMap::new();
    deb::each(deb, LARGEST, |path, contents| {
        let Some((name, packing)) = name_of(path).filter(|_| packed.len() < MOST) else { return Ok(()) };
        io::copy(contents, &mut fs::File::create(all.path().join(&name))?)?;
        packed.insert(name, packing);
        Ok(())
    })?;
    let mut order = Vec::new();
    for name in KEPT {
        keep(name, &packed, all.path(), folder, &mut order)?;
    }
    cache::write_through(&folder.join(LOOKED_FOR), KEPT.join("\n").as_bytes())?;
    cache::write_through(&folder.join(ORDER), order.join("\n").as_bytes())?;
    Ok(())
}

/// Whether a kernel's folder tells of each of these modules where it is or that it is not.
pub fn tells_of(kernel: &Path, wanted: &[&str]) -> bool {
    let folder = kernel.join(FOLDER);
    let list = fs::read_to_string(folder.join(LOOKED_FOR)).ok();
    let told = |name: &&str| match &list {
        Some(list) => list.lines().any(|line| line == *name),
        None => FIRST_KEPT.contains(name),
    };
    folder.join(ORDER).is_file() && wanted.iter().all(told)
}

/// How a module's file is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Packing {
    Plain,
    Xz,
    Zstd,
}

/// The name and packing of the module at this path of a package; none for other files.
fn name_of(path: &str) -> Option<(String, Packing)> {
    let inside = path.strip_prefix("usr/").unwrap_or(path).strip_prefix("lib/modules/")?;
    let file = inside.rsplit('/').next()?;
    let (stem, packing) = [(".ko", Packing::Plain), (".ko.xz", Packing::Xz), (".ko.zst", Packing::Zstd)]
        .into_iter()
        .find_map(|(ending, packing)| Some((file.strip_suffix(ending)?, packing)))?;
    // The kernel takes both signs for one; the names that others depend on are written with this one.
    let name = stem.replace('-', "_");
    let good = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    (good && !name.is_empty()).then_some((name, packing))
}

/// Keeps a module and, before it, what it depends on. What is kept already is not kept again, so a circle ends.
fn keep(
    name: &str,
    packed: &BTreeMap<String, Packing>,
    all: &Path,
    folder: &Path,
    order: &mut Vec<String>,
) -> io::Result<()> {
    let place = folder.join(format!("{name}.ko"));
    let Some(packing) = packed.get(name).filter(|_| !place.exists()) else { return Ok(()) };
    let file = fs::File::open(all.join(name))?;
    let mut bytes = Vec::new();
    match packing {
        Packing::Plain => file.take(LARGEST).read_to_end(&mut bytes)?,
        Packing::Xz => liblzma::read::XzDecoder::new(file).take(LARGEST).read_to_end(&mut bytes)?,
        Packing::Zstd => zstd::stream::read::Decoder::new(file)?.take(LARGEST).read_to_end(&mut bytes)?,
    };
    cache::write_through(&place, &bytes)?;
    for other in depends(&bytes) {
        keep(&other, packed, all, folder, order)?;
    }
    order.push(name.to_owned());
    Ok(())
}

/// The modules that must be loaded before this one: `depends=` among the NUL-ended strings of its `.modinfo`.
pub fn depends(module: &[u8]) -> Vec<String> {
    let strings = section(module, b".modinfo").unwrap_or_default();
    let line = strings.split(|byte| *byte == 0).find_map(|string| string.strip_prefix(b"depends="));
    let names = String::from_utf8_lossy(line.unwrap_or_default()).replace('-', "_");
    names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// The bytes of a section of a 64-bit ELF file (ELF-64, sections 3 and 4); none when there is no such section.
fn section<'a>(file: &'a [u8], wanted: &[u8]) -> Option<&'a [u8]> {
    const HEADER: usize = 64;
    let number = |at: usize, size: usize| {
        let bytes = file.get(at..at.checked_add(size)?)?;
        Some(bytes.iter().rev().fold(0u64, |value, byte| value << 8 | u64::from(*byte)) as usize)
    };
    let (table, count, names) = (number(0x28, 8)?, number(0x3c, 2)?, number(0x3e, 2)?);
    let header = |index: usize| table.checked_add(index * HEADER);
    let body = |index: usize| {
        let field = |at: usize| number(header(index)?.checked_add(at)?, 8);
        let (offset, size) = (field(0x18)?, field(0x20)?);
        file.get(offset..offset.checked_add(size)?)
    };
    let names = body(names)?;
    (0..count).find_map(|index| {
        let name = names.get(number(header(index)?, 4)?..)?;
        let found = name.starts_with(wanted) && name.get(wanted.len()) == Some(&0);
        if found { body(index) } else { None }
    })
}

/// The modules of a kernel's folder that these need, themselves included, in an order that works. What is built into the
/// kernel is left out.
///
/// # Errors
/// When the cache cannot be read.
pub fn read(kernel: &Path, wanted: &[&str]) -> io::Result<Vec<Module>> {
    let folder = kernel.join(FOLDER);
    let order = fs::read_to_string(folder.join(ORDER))?;
    let mut modules = Vec::new();
    let mut needed: Vec<String> = wanted.iter().map(ToString::to_string).collect();
    // From the end, so that who needs a module was seen before it.
    for name in order.lines().rev() {
        if needed.iter().any(|needed| needed == name) {
            let bytes = fs::read(folder.join(format!("{name}.ko")))?;
            needed.extend(depends(&bytes));
            modules.push(Module { name: name.to_owned(), bytes });
        }
    }
    modules.reverse();
    Ok(modules)
}

/// Both kinds of [`read`].
///
/// # Errors
/// When the cache cannot be read.
pub fn read_both(kernel: &Path, drivers: &Drivers) -> io::Result<Modules> {
    let now = read(kernel, &drivers.now)?;
    let (mut soon, mut later) = (read(kernel, &drivers.soon)?, read(kernel, &drivers.later)?);
    soon.retain(|module| !now.contains(module));
    later.retain(|module| !now.contains(module));
    Ok(Modules { now, soon, later })
}

#[cfg(test)]
#[path = "modules_tests.rs"]
mod tests;
