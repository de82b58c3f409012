//! `--disk`, `--net` and `--bus`: what is attached to a machine, checked before anything starts.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use crate::board::Announced;
use crate::board::tap::Tap;
use crate::disks::AttachedDisk;
use crate::networks;
use crate::request::Mistake;
use crate::user_network::options::Options;

/// How a broker process knows what it is. The name is no option of the command line, only an agreement with ourselves.
pub const BROKER: &str = "link-broker";

/// The bus of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BusChoice {
    /// Virtio on PCI, the default for Linux.
    Pci,
    /// Virtio in memory, which a kernel learns of in this way.
    Mmio(Announced),
    /// lguest's first generation, the default for the default Guest.
    LguestDma,
    /// lguest's second: virtio on a page of descriptors.
    Lguest,
}

/// Reads `--bus`; `usual` when it was not given.
///
/// # Errors
/// For a word that is no bus.
pub fn bus(word: Option<&str>, usual: BusChoice) -> Result<BusChoice, Mistake> {
    match word {
        None => Ok(usual),
        Some("pci") => Ok(BusChoice::Pci),
        Some("mmio" | "mmio,announce=acpi") => Ok(BusChoice::Mmio(Announced::Acpi)),
        Some("mmio,announce=cmdline") => Ok(BusChoice::Mmio(Announced::CommandLine)),
        Some("lguest-dma") => Ok(BusChoice::LguestDma),
        Some("lguest") => Ok(BusChoice::Lguest),
        Some(word) if word.starts_with("mmio,") => Err(Mistake(format!(
            "--bus {word}: mmio is announced by ACPI or by the kernel's command line; give mmio or mmio,announce=cmdline"
        ))),
        Some(word) => Err(Mistake(format!(
            "--bus {word}: is no bus; give lguest-dma or lguest for the default Guest, or mmio or pci for Linux"
        ))),
    }
}

/// One device.
#[derive(Debug)]
pub enum Attachment {
    /// A disk in a file.
    Disk(AttachedDisk),
    /// A network of the machine's own, by sockets of the host's.
    User(Options),
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
        attachments.push(Attachment::Disk(AttachedDisk::open(text)?));
    }
    for text in nets {
        attachments.extend(networks::read(text)?);
    }
    Ok(attachments)
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

    #[test]
    fn a_bus_is_one_of_four() {
        assert_eq!(bus(None, BusChoice::Pci), Ok(BusChoice::Pci));
        for (word, announced) in [
            ("mmio", Announced::Acpi),
            ("mmio,announce=acpi", Announced::Acpi),
            ("mmio,announce=cmdline", Announced::CommandLine),
        ] {
            assert_eq!(bus(Some(word), BusChoice::Pci), Ok(BusChoice::Mmio(announced)));
        }
        assert_eq!(bus(Some("lguest-dma"), BusChoice::Pci), Ok(BusChoice::LguestDma));
        assert_eq!(bus(Some("lguest"), BusChoice::Pci), Ok(BusChoice::Lguest));
        for word in ["lguest32", "isa", "", "mmio,", "mmio,announce=fdt", "pci,announce=acpi"] {
            assert!(bus(Some(word), BusChoice::Pci).unwrap_err().0.starts_with(&format!("--bus {word}: ")));
        }
    }
}
