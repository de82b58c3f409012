//! `lguest devices`: the machine that a Guest sees today.

/// A device of the board: its name, where the Guest finds it, what it is for.
const DEVICES: [(&str, &str, &str); 9] = [
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
    ("PCI root", "ports 0xcf8-0xcff", "host bridge of an empty bus"),
];

/// The bus's name and what it is.
const BUSES: [(&str, &str); 2] = [
    ("ISA", "the devices above at their usual places, described by ACPI tables"),
    ("PCI", "one root without devices; disks and network cards come in a later version"),
];

/// The list, as text.
pub fn list() -> String {
    let mut text = String::from("Devices\n");
    for (name, place, purpose) in DEVICES {
        text += &format!("  {name:<11} {place:<37} {purpose}\n");
    }
    text += "Buses\n";
    for (name, purpose) in BUSES {
        text += &format!("  {name:<11} {purpose}\n");
    }
    text + "None of them has an option in this version.\n"
}
