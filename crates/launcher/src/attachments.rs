//! `--disk`, `--net` and `--bus`: what is attached to a machine, checked before anything starts.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use crate::board::tap::{self, Tap};
use crate::disks::AttachedDisk;
use crate::request::Mistake;

/// How a broker process knows what it is. The name is no option of the command line, only an agreement with ourselves.
pub const BROKER: &str = "link-broker";

/// The bus of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BusChoice {
    /// Virtio on PCI, the default for Linux.
    Pci,
    /// Virtio in memory.
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
    Disk(AttachedDisk),
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
    fn a_bus_is_one_of_three() {
        assert_eq!(bus(None, BusChoice::Pci), Ok(BusChoice::Pci));
        assert_eq!(bus(Some("mmio"), BusChoice::Pci), Ok(BusChoice::Mmio));
        assert_eq!(bus(Some("lguest-dma"), BusChoice::Pci), Ok(BusChoice::LguestDma));
        for word in ["lguest", "isa", ""] {
            assert!(bus(Some(word), BusChoice::Pci).unwrap_err().0.starts_with(&format!("--bus {word}: ")));
        }
    }
}
