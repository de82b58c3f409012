//! Which bus a machine has, and what is put on it: the attachments of the command line become devices.

use lguest_devices::virtio::fs::VirtioFs;

use crate::attachments::{self, Attachment, BusChoice};
use crate::board::{Announced, BusSpec, LinkPlace, MOST_MAPPED, PageSpec, Plug, Transport, VirtioSpec};
use crate::cli::RunArguments;
use crate::debian::modules::Drivers;
use crate::networks;
use crate::ports::{self, Ports};
use crate::request::{GuestChoice, Mistake};
use crate::root::Root;
use crate::share::option::ShareSpec;

/// The networks of this run. Debian and roots have one unless it was said otherwise: people expect apt-get to work. What
/// nobody asked for is no reason to refuse what somebody did, so a bus in memory that is full goes without.
pub fn nets(guest: &GuestChoice, arguments: &RunArguments) -> Vec<String> {
    // The root's own device among them.
    let root = matches!(guest, GuestChoice::Directory(_) | GuestChoice::Image(_));
    let others = arguments.disk.len() + arguments.share.len() + usize::from(root) + port_devices(arguments);
    let room = !arguments.bus.as_deref().is_some_and(|bus| bus.starts_with("mmio")) || others < MOST_MAPPED;
    match guest {
        GuestChoice::Debian(_) | GuestChoice::Directory(_) | GuestChoice::Image(_)
            if room && arguments.net.is_empty() =>
        {
            vec!["user".to_owned()]
        }
        _ => arguments.net.clone(),
    }
}

/// Devices for `--console` and `--port`: one for the console, one for all ports.
fn port_devices(arguments: &RunArguments) -> usize {
    usize::from(arguments.console == "virtio") + usize::from(!arguments.port.is_empty())
}

/// Devices that are neither attachments nor shares.
pub struct Extras<'a> {
    /// A console and named ports.
    pub ports: &'a mut Ports,
    /// Sockets between Guest and host.
    pub sockets: Option<Plug>,
}

impl Extras<'_> {
    fn plugs(self) -> Vec<Plug> {
        let mut plugs = self.ports.take_plugs();
        plugs.extend(self.sockets);
        plugs
    }
}

/// Whether this Guest's kernel can be told of its devices in the way that was asked for.
///
/// # Errors
/// One sentence for kernels that are known to read no devices from their command line.
pub fn check_announced(
    choice: BusChoice,
    guest: &GuestChoice,
    arguments: &RunArguments,
) -> Result<(), Mistake> {
    let why = match guest {
        _ if choice != BusChoice::Mmio(Announced::CommandLine) || arguments.kernel.is_some() => return Ok(()),
        GuestChoice::Kernel(_) => return Ok(()),
        GuestChoice::Unsaid => "the default Guest reads a device tree; leave announce= out",
        GuestChoice::Debian(_) | GuestChoice::Directory(_) | GuestChoice::Image(_) => {
            "Debian builds its kernels without CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES; leave announce= out, or give --kernel"
        }
    };
    Err(Mistake(format!("--bus {}: {why}", arguments.bus.as_deref().unwrap_or_default())))
}

/// The bus with what is attached to it.
///
/// # Errors
/// One sentence for what this bus cannot have, and for what the host refuses.
pub fn bus_spec(
    bus: BusChoice,
    mut attachments: Vec<Attachment>,
    shares: Vec<ShareSpec>,
    extras: Extras,
    cpus: u32,
) -> Result<BusSpec, Mistake> {
    match bus {
        BusChoice::LguestDma if extras.ports.option().is_some() => {
            Err(no_console(extras.ports.option().unwrap_or_default()))
        }
        BusChoice::LguestDma if !shares.is_empty() => {
            Err(Mistake("--share: needs a Linux Guest on --bus pci or mmio, which have virtio-fs".to_owned()))
        }
        BusChoice::LguestDma => {
            // The mail's example device, so that there is something to read.
            attachments.push(Attachment::Pipe);
            Ok(BusSpec::LguestDma { attachments, links: link_place() })
        }
        BusChoice::Lguest => Err(Mistake(
            "--bus lguest: is the default Guest's, and of kernels with lguest's sub-architecture; give pci or mmio to others"
                .to_owned(),
        )),
        BusChoice::Mmio(announced) => {
            let bus = virtio(Transport::Mmio, attachments, shares, extras.plugs(), cpus)?;
            Ok(BusSpec::Virtio(bus.announced(announced)))
        }
        BusChoice::Pci => virtio(Transport::Pci, attachments, shares, extras.plugs(), cpus).map(BusSpec::Virtio),
    }
}

/// The bus of a default Guest, with the mail's example on each. It reads device trees and no ACPI tables.
///
/// # Errors
/// One sentence for what it could not use.
pub fn own_bus_spec(
    bus: BusChoice,
    mut attachments: Vec<Attachment>,
    shares: Vec<ShareSpec>,
    extras: Extras<'_>,
    cpus: u32,
) -> Result<BusSpec, Mistake> {
    let on_virtio = bus != BusChoice::LguestDma;
    if on_virtio && !shares.is_empty() {
        return Err(Mistake(
            "--share: needs a Linux Guest, which has virtio-fs; name one, as debian".to_owned(),
        ));
    }
    if let (BusChoice::Lguest, Some(option)) = (bus, extras.ports.option()) {
        return Err(no_console(option));
    }
    if bus == BusChoice::Lguest {
        return page_spec(attachments);
    }
    if on_virtio {
        attachments.push(Attachment::Pipe);
    }
    Ok(match bus_spec(bus, attachments, shares, extras, cpus)? {
        BusSpec::Virtio(virtio) => BusSpec::Virtio(virtio.with_tree()),
        other => other,
    })
}

fn no_console(option: &str) -> Mistake {
    Mistake(format!("{option}: needs --bus pci or mmio, which have virtio's console"))
}

/// lguest's page of virtio devices. Its disks have one queue each, for there a queue is no vCPU's own.
///
/// # Errors
/// One sentence for what the page cannot have, and for what the host refuses.
pub fn page_spec(attachments: Vec<Attachment>) -> Result<BusSpec, Mistake> {
    Ok(BusSpec::Lguest(PageSpec::new(plugs(attachments, 1, 0)?)?))
}

/// The same devices for a machine of 32 bits, whose kernel looks for them on the page or on PCI.
///
/// # Errors
/// As [`page_spec`].
pub fn lguest32_spec(
    attachments: Vec<Attachment>,
    extras: &Extras<'_>,
    pci: bool,
) -> Result<BusSpec, Mistake> {
    if let Some(option) = extras.ports.option() {
        return Err(no_console(option));
    }
    Ok(BusSpec::Lguest32 { devices: PageSpec::new(plugs(attachments, 1, 0)?)?, pci })
}

/// Virtio devices for what is attached; the mail's example, which nobody asked for, where that leaves room.
fn plugs(attachments: Vec<Attachment>, cpus: u32, room: usize) -> Result<Vec<Plug>, Mistake> {
    let mut plugs = Vec::new();
    for (number, attachment) in attachments.into_iter().enumerate() {
        match attachment {
            Attachment::Disk(disk) => plugs.push(Plug::disk(number, disk, cpus)),
            Attachment::User(options) => plugs.push(networks::user(number, options)?),
            Attachment::Tap(tap) => plugs.push(networks::tap(tap)?),
            Attachment::Link(name) => plugs.push(networks::link(number, &name, &link_place())?),
            // Nobody asked for it, so it takes nobody's place.
            Attachment::Pipe if plugs.len() < room => plugs.push(ports::pipe()),
            Attachment::Pipe => {}
        }
    }
    Ok(plugs)
}

/// Virtio devices for what is attached, on PCI or in memory.
fn virtio(
    transport: Transport,
    attachments: Vec<Attachment>,
    shares: Vec<ShareSpec>,
    named: Vec<Plug>,
    cpus: u32,
) -> Result<VirtioSpec, Mistake> {
    let mut plugs = plugs(attachments, cpus, transport.most() - named.len())?;
    for share in shares {
        let tag = share.tag.clone();
        let server = share.serve()?;
        let start = server.start();
        plugs.push(Plug::woken(VirtioFs::new(&tag, server), |waker| start.with(waker)));
    }
    plugs.extend(named);
    Ok(VirtioSpec::new(transport, plugs)?)
}

/// The modules that a Linux kernel needs to find and drive what is on the bus, if it has them as modules.
/// With a root, those that reach it.
pub fn drivers(bus: &BusSpec, root: Option<&Root>) -> Drivers {
    let (mut now, soon, later) = match bus {
        BusSpec::Virtio(virtio) => (virtio.modules(), virtio.soon_modules(), virtio.later_modules()),
        BusSpec::LguestDma { .. } | BusSpec::Lguest(_) | BusSpec::Lguest32 { .. } => Default::default(),
    };
    now.extend(root.into_iter().flat_map(Root::modules));
    Drivers { now, soon, later }
}

/// Where this user's links are.
fn link_place() -> LinkPlace {
    LinkPlace { folder: attachments::link_folder(), start: attachments::start_broker }
}
