//! The default Guest: a kernel with a shell, and the shortest one that can show every device of its machine.
//!
//! How to write a bare-metal Guest of your own, in the order in which things happen here:
//!
//! 1. `no_std`, `no_main`, and [`entry!`](lguest_kernel::entry): the library has put up a stack, segments, page tables,
//!    vectors and a heap when your `main` is called, with interrupts off. `build.rs` shows how it is compiled.
//! 2. Find the devices. On a machine with the lguest bus, say LGUEST_INIT first; `System::start` does both.
//! 3. Loop: take what interrupts left, do what there is to do, sleep. Nothing runs behind your back.
//! 4. Turn the machine off. `hlt` alone would sleep for ever.
//!
//! `examples/hello.rs` is 1 and 4 alone, `examples/sectors.rs` adds a disk.
#![cfg_attr(lguest_guest, no_std)]
#![cfg_attr(lguest_guest, no_main)]

#[cfg(lguest_guest)]
use lguest_kernel::{
    hardware::{boot::BootInfo, power, serial},
    say,
    shell::Shell,
    system::System,
};

#[cfg(lguest_guest)]
lguest_kernel::entry!(main);

#[cfg(lguest_guest)]
fn main(info: BootInfo) -> ! {
    let system = System::start(info);
    let mut shell = Shell::new(&system);
    if let Some(text) = commands(info.command_line) {
        serial::report(shell.run_script(text));
        power::off()
    }
    say!(system, "lguest: a Guest in {} KiB. Type help.\n", info.low_ram_end >> 10);
    shell.run()
}

/// What stands after `--` on the command line: commands to run in place of a person's, before turning off.
#[cfg(lguest_guest)]
fn commands(command_line: &'static str) -> Option<&'static str> {
    let text =
        command_line.strip_prefix("-- ").or_else(|| command_line.split_once(" -- ").map(|(_, text)| text));
    text.map(str::trim).filter(|text| !text.is_empty())
}

/// On a system that has an operating system already, this program is only a hint.
#[cfg(not(lguest_guest))]
fn main() {
    println!("This is a Guest, for a machine of its own. Start it with: lguest run");
}
