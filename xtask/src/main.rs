//! The project's own errands, as `cargo xtask ERRAND`. They use the built `lguest` as a stranger would: by its command.
//!
//! - `bench`: the same programs natively, under lguest, under QEMU's emulation and in User-Mode Linux.
//! - `bench lguest`: what the default Guest and its bus cost, on each engine.
//! - `bench lguest32`: what was asked of lguest kernels of 32 bits.
//! - `bench io`: disks, the user network, shared directories, the console and the start, beside the same.
//! - `boots`: many boots of each kernel, counting those that fail.
//! - `stress`: stress-ng in the Guest, which checks what it computes.
//! - `conformance`: a suite of system call tests on lguest and on QEMU, compared test by test.
//! - `fuzz`: made-up bytes where a Guest's or a stranger's enter, which must harm nobody.
//! - `kills`: machines killed while they write, and whether a flushed write is ever lost.
//! - `guest-tools`: Debian's own tools in a root of its packages, and whether they agree on our devices.
//! - `initramfs-extras`: a larger initramfs with Debian's Python and OpenSSL, and their self-tests run in the Guest.
//! - `journey`: the modules' docs as a book in seven stages; the walk is [`xtask::journey`].

mod arguments;
mod programs;
mod inputs;
mod initramfs;
mod packages;
mod machine;
mod session;
mod proc;
mod table;
mod bench;
mod lguest_bus;
mod boots;
mod stress;
mod conformance;
mod extras;
mod fuzz;
mod kills;
mod guest_tools;

use arguments::Arguments;
use std::process::ExitCode;
use xtask::errand::{self, Errand};
use xtask::journey;

const HELP: &str = "\
cargo xtask bench [--rounds N | --quick] [--machines native,lguest,qemu,newqemu,uml] [--only ROW,...]
                  [--kernel VMLINUZ] [--json FILE]
    all rows on each machine, medians of N interleaved rounds (default 3, --quick one), and whether what was
    asked for is met
cargo xtask bench lguest [--rounds N]
    the default Guest on its own bus: start, hypercall, disk, link; and the size of its drivers
cargo xtask bench lguest32 [--rounds N]
    unmodified lguest kernels of 32 bits: the same compiled program natively and as a Guest's process, the start, the way
    from NOTIFY to a woken eventfd, and whether what was asked for is met
cargo xtask bench io [--rounds N] [--machines native,lguest,qemu,uml] [--only block,net,tree,console,command,devices]
    disks, TCP over --net user, shared directories, the console and the start, and whether what was asked for is met
cargo xtask boots [N] [--cpus N]
    N boots (default 10) of each of the three Debian kernels
cargo xtask stress [--minutes N] [--cpus N] [--classes cpu,vm,...] [--machine lguest]
    stress-ng in the Guest with --verify, N minutes (default 10) over all classes
cargo xtask conformance [--areas signals,memory,...] [--cpus N]
    the Open POSIX Test Suite on lguest and on QEMU, compared test by test
cargo xtask fuzz [code|coverage|drivers|share|frames|kernel|disk|layer|exec|parsers] [SECONDS]
    made-up bytes for 60 seconds or as many as said: as a Guest's code on the translator (code), and, with cargo-fuzz, the
    same led by coverage, drivers of virtio devices, requests for a share, frames into the user network, a kernel's file, a
    qcow2 image, an image's layer, an agent's words, and whatever else is read (docs/doors.md)
cargo xtask kills [N]
    kills N machines (default 100) that write and flush, and looks for every flushed record
cargo xtask guest-tools
    lspci, ethtool, ping, iperf3, e2fsck, stress-ng ... in a root of Debian's packages, each answer compared
cargo xtask initramfs-extras [--output FILE] [--build-only]
    an initramfs with Python and OpenSSL; runs their self-tests in the Guest
cargo xtask journey [--print] [--stage NAME]
    the modules' docs as a book in seven stages: target/journey, HTML too if mdbook is installed; --print shows it as
    plain text, --stage one stage of it (Preparation, Guest, Drivers, Launcher, Host, Switcher, Mastery)
";

fn main() -> ExitCode {
    let mut arguments = Arguments::of_this_process();
    let done = match arguments.next().as_deref() {
        Some("bench") if arguments.next_is("lguest") => lguest_bus::run(arguments),
        Some("bench") if arguments.next_is("lguest32") => bench::lguest32::run(arguments),
        Some("bench") if arguments.next_is("io") => bench::io::run(arguments),
        Some("bench") => bench::run(arguments),
        Some("boots") => boots::run(arguments),
        Some("conformance") => conformance::run(arguments),
        Some("fuzz") => fuzz::run(arguments),
        Some("journey") => walk(arguments),
        Some("kills") => kills::run(arguments),
        Some("guest-tools") => guest_tools::run(arguments),
        Some("stress") => stress::run(arguments),
        Some("initramfs-extras") => extras::run(arguments),
        Some("help" | "--help" | "-h") | None => {
            print!("{HELP}");
            Ok(())
        }
        Some(other) => Err(Errand::Argument(other.to_owned())),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The journey, as a book or on the terminal.
fn walk(mut arguments: Arguments) -> Result<(), Errand> {
    let stage = arguments.value("--stage")?.map(|word| journey::stage(&word)).transpose()?;
    let print = arguments.flag("--print") || stage.is_some();
    arguments.end()?;
    journey::run(&if print { journey::Wish::Print(stage) } else { journey::Wish::Book })
}
