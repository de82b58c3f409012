//! A Guest with a purpose: it reads the first sector of its first disk, sums it up, and turns off.
#![cfg_attr(lguest_guest, no_std)]
#![cfg_attr(lguest_guest, no_main)]

#[cfg(lguest_guest)]
lguest_kernel::entry!(main);

#[cfg(lguest_guest)]
fn main(info: lguest_kernel::hardware::boot::BootInfo) -> ! {
    use lguest_guest::drivers::block::{Request, State, Wish};
    use lguest_guest::model::Buffer;
    use lguest_kernel::{hardware::power, say, shell::sums::Crc32, system::System};

    let system = System::start(info);
    let disks = system.disks.disks();
    let Some(disk) = disks.first() else {
        say!(system, "no disk\n");
        power::off()
    };
    let buffer = Buffer::allocate(&system.memory, 512).expect("a new machine has memory");
    let request = Request::new(Wish::Read, 0, buffer.address(), 512).expect("a sector is a whole sector");
    disk.submit(&request).expect("a new disk has an empty queue");
    // Sleep until the disk's interrupt has ended the request.
    while request.state() == State::Waiting {
        system.wait(None);
    }
    let mut sector = [0; 512];
    buffer.read(0, &mut sector);
    let mut sum = Crc32::default();
    sum.add(&sector);
    say!(system, "{} {:?} {:08x}\n", disk.name(), request.state(), sum.value());
    power::off()
}

#[cfg(not(lguest_guest))]
fn main() {
    println!("This is a Guest: build lguest-kernel and start it with `lguest run --kernel`.");
}
