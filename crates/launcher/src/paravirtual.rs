//! `--machine`: whether a kernel gets a PC, or the machine of lguest's own that its sub-architecture asks for.

use crate::cli::RunArguments;
use crate::engine::{self, EngineChoice};
use crate::kernel_image::lguest;
use crate::kernel_image::program::{Kernel, Program};
use crate::request::Mistake;

/// The command line of such a kernel when the user gives none. Its console is virtio's; a panic is told to the Host at once.
pub const USUAL_CMDLINE: &str = "console=hvc0";

/// A machine of 32 bits was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lguest32 {
    /// Its kernel looks for its devices on PCI.
    pub pci: bool,
}

/// Chooses the machine of this kernel; none for a PC. A bzImage that was unpacked to be looked at is started from there.
///
/// # Errors
/// One sentence for a word that is no machine, for a kernel that cannot run on the one asked for, and for an option that it does
/// not have.
pub fn choose(
    arguments: &RunArguments,
    cpus: u32,
    kernel: Option<&mut Kernel>,
) -> Result<Option<Lguest32>, Mistake> {
    let asked = match arguments.machine.as_str() {
        "auto" => false,
        "lguest32" => true,
        "pc" => return Ok(None),
        word => return Err(Mistake(format!("--machine {word}: is no machine; give auto, pc or lguest32"))),
    };
    let Some(kernel) = kernel else {
        return if asked {
            Err(Mistake("--machine lguest32: needs a Linux of 32 bits as --kernel".to_owned()))
        } else {
            Ok(None)
        };
    };
    let Some(found) = lguest::examine(kernel) else {
        return if asked {
            Err(Mistake(
                "--machine lguest32: the kernel is no Linux of 32 bits; give pc or leave it out".to_owned(),
            ))
        } else {
            Ok(None)
        };
    };
    let by_bus = arguments.bus.as_deref() == Some("lguest");
    if !(asked || found.paravirtual || by_bus) {
        return Ok(None);
    }
    refuse_options(arguments, cpus)?;
    if let Some(bytes) = found.unpacked {
        *kernel = Kernel { program: Program::Bytes(bytes), setup_header: None };
    }
    let pci = found.pci || arguments.bus.as_deref() == Some("pci");
    Ok(Some(Lguest32 { pci }))
}

/// What executes such a Guest.
///
/// # Errors
/// For a processor that lacks what the translator's code uses.
pub fn engine() -> Result<EngineChoice, Mistake> {
    let reason = "for lguest's machine of 32 bits".to_owned();
    Ok(EngineChoice { reason, ..engine::choose("translator")? })
}

/// What this machine does not have.
fn refuse_options(arguments: &RunArguments, cpus: u32) -> Result<(), Mistake> {
    let refused = |what: String| {
        Err(Mistake(format!("{what} (--machine pc makes a PC of it, if the kernel can run on one)")))
    };
    if arguments.engine == "kvm" {
        return refused(
            "--engine kvm: lguest's machine of 32 bits is the translator's; leave it out".to_owned(),
        );
    }
    if cpus != 1 {
        return refused(format!("--cpus {cpus}: lguest's machine of 32 bits has one processor"));
    }
    if !arguments.share.is_empty() {
        return refused("--share: kernels with lguest's sub-architecture have no virtio-fs".to_owned());
    }
    let other = |bus: &&str| *bus == "lguest-dma" || bus.starts_with("mmio");
    if let Some(bus) = arguments.bus.as_deref().filter(other) {
        return refused(format!(
            "--bus {bus}: lguest's machine of 32 bits has lguest, or pci from Linux 4.0 on"
        ));
    }
    if arguments.gdb.is_some() {
        return refused("--gdb: does not stop Guests of lguest's machine of 32 bits".to_owned());
    }
    Ok(())
}
