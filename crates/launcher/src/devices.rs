//! `lguest devices`: the machine that a Guest sees today, and the options that add to it.

/// A device or a bus: its name, where the Guest finds it or how it is asked for, what it is.
type Row = (&'static str, &'static str, &'static str);

/// On every machine.
const BOARD: [Row; 9] = [
    ("serial 0", "ports 0x3f8-0x3ff, IRQ 4", "16550A; the console, ttyS0"),
    ("serial 1", "ports 0x2f8-0x2ff, IRQ 3", "16550A; ttyS1, where lguest's first process reports"),
    ("clock", "ports 0x70-0x71", "CMOS clock and memory, in UTC"),
    ("timer", "ports 0x40-0x43, 0x61", "8254 interval timer"),
    (
        "interrupts",
        "0xfec00000, 0xfee00000",
        "I/O APIC, local APIC with TSC deadline; a pair of 8259 for the start",
    ),
    ("power", "ports from 0x600", "ACPI power button, power-off and sleep state S5"),
    ("reset", "ports 0xcf9 and 0x64", "reset register and the keyboard controller's reset line"),
    (
        "kvmclock",
        "MSRs of KVM's paravirtual interface",
        "the time of day and of the processor, without calibration",
    ),
    ("PCI root", "ports 0xcf8-0xcff", "host bridge, and what --bus pci puts beside it"),
];

/// On `--bus pci` and `--bus mmio`: `--disk`, `--net`, `--share`, `--console`, then `--port`, each in the order given, then the
/// last two.
const VIRTIO: [Row; 7] = [
    (
        "block",
        "--disk PATH[,ro][,format=raw|qcow2]",
        "virtio 1.2: a disk in a file: vda, vdb, ...; also ,serial=TEXT and ,backing=PATH; repeatable",
    ),
    (
        "net",
        "--net user[,...]|link=NAME|tap=NAME",
        "virtio 1.2: eth0; user, by the host's own sockets, is usual for debian; link and tap take ,ip=; repeatable, or none",
    ),
    (
        "fs",
        "--share DIR[:TAG][,readonly]",
        "virtio 1.2: a directory of the host's, found at /mnt/TAG; repeatable",
    ),
    ("console", "--console virtio", "virtio 1.2: hvc0 in place of serial 0; it follows the terminal's size"),
    (
        "ports",
        "--port NAME=unix:PATH|file:PATH",
        "virtio 1.2: /dev/virtio-ports/NAME, to a socket or a file; pipes of the default Guest; repeatable",
    ),
    ("entropy", "always there", "virtio 1.2: the host's random numbers"),
    (
        "balloon",
        "always there, the last",
        "virtio 1.2: what the Guest frees goes back to the host (free page reporting)",
    ),
];

/// On `--bus lguest-dma`, in the order in which the Guest finds them: `--disk`, `--net`, then these two.
const LGUEST_BUS: [Row; 4] = [
    ("block", "--disk PATH[,ro][,format=raw|qcow2]", "a disk in a file: lgba, lgbb, ...; repeatable"),
    (
        "net",
        "--net link=NAME | none",
        "a network of your machines on this host that give the same name; repeatable",
    ),
    ("pipe", "always there", "bytes from and to the Host: the example of the 2007 mail"),
    ("console", "always there, the last", "the terminal, or standard input and output"),
];

/// On `--bus lguest`, in the order in which the Guest finds them.
const LGUEST_PAGE: [Row; 4] = [
    (
        "block",
        "--disk PATH[,ro][,format=raw|qcow2]",
        "virtio, its form from before 1.0; lgba, lgbb, ...; repeatable",
    ),
    ("net", "--net user[,...]|link=NAME|tap=NAME", "virtio, likewise; repeatable, or none"),
    ("entropy", "always there", "virtio: the host's random numbers"),
    (
        "console",
        "always there, the last",
        "virtio: text of a Guest that has a driver for it, or no console yet",
    ),
];

const BUSES: [Row; 4] = [
    ("pci", "--bus pci", "usual for Linux; virtio on PCI with MSI-X, up to 29 devices"),
    (
        "mmio",
        "--bus mmio[,announce=cmdline]",
        "virtio in memory from 0xd0000000, announced by ACPI or virtio_mmio.device=; up to 6 devices",
    ),
    ("lguest", "--bus lguest", "for the default Guest; virtio on a page of descriptors above memory (2009)"),
    ("lguest-dma", "--bus lguest-dma", "usual for the default Guest; a page of 16 descriptors above memory"),
];

/// The list, as text.
pub fn list() -> String {
    let mut text = section("Buses", &BUSES);
    text += &section("On every machine", &BOARD);
    text += &section(
        "On the buses pci and mmio, for Linux; the default Guest drives disks, networks, console and ports",
        &VIRTIO,
    );
    text += &section("On the bus lguest-dma, for the default Guest or one that has its drivers", &LGUEST_BUS);
    text += &section("On the bus lguest, for the default Guest", &LGUEST_PAGE);
    text
}

fn section(title: &str, rows: &[Row]) -> String {
    let mut text = format!("{title}\n");
    for (name, place, purpose) in rows {
        text += &format!("  {name:<11} {place:<37} {purpose}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attachments::{self, BusChoice};
    use crate::board::Announced;

    #[test]
    fn every_option_that_is_listed_is_one_and_every_bus_that_there_is_is_listed() {
        let run = <crate::cli::Cli as clap::CommandFactory>::command();
        let run = run.find_subcommand("run").unwrap();
        for (_, place, _) in BUSES.iter().chain(&LGUEST_BUS).chain(&LGUEST_PAGE) {
            let Some(option) = place.strip_prefix("--") else { continue };
            let option = option.split(' ').next().unwrap();
            assert!(run.get_arguments().any(|argument| argument.get_long() == Some(option)), "{option}");
        }
        for (name, ..) in BUSES {
            assert!(attachments::bus(Some(name), BusChoice::Pci).is_ok(), "{name}");
        }
        for choice in
            [BusChoice::Pci, BusChoice::Mmio(Announced::Acpi), BusChoice::LguestDma, BusChoice::Lguest]
        {
            let listed = |row: &Row| attachments::bus(Some(row.0), BusChoice::Pci) == Ok(choice);
            assert!(BUSES.iter().any(listed), "{choice:?}");
        }
    }

    #[test]
    fn columns_line_up() {
        for (name, place, _) in
            BOARD.iter().chain(&VIRTIO).chain(&LGUEST_BUS).chain(&LGUEST_PAGE).chain(&BUSES)
        {
            assert!(name.len() <= 11 && place.len() <= 37, "{name}: {place}");
        }
    }
}
