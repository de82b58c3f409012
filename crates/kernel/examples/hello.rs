//! The smallest Guest: one line, and off.
#![cfg_attr(lguest_guest, no_std)]
#![cfg_attr(lguest_guest, no_main)]

#[cfg(lguest_guest)]
lguest_kernel::entry!(main);

/// Called with a stack, a heap and page tables; the serial port prints.
#[cfg(lguest_guest)]
fn main(_: lguest_kernel::hardware::boot::BootInfo) -> ! {
    use core::fmt::Write;
    use lguest_kernel::hardware::{power, serial::Serial};

    let _ = writeln!(Serial, "Hello from a Guest of twenty lines.\r");
    power::off()
}

#[cfg(not(lguest_guest))]
fn main() {
    println!("This is a Guest: build lguest-kernel and start it with `lguest run --kernel`.");
}
