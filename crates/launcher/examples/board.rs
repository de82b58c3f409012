//! The board without the command line around it: `board VMLINUX [INITRD] [CMDLINE]`, ttyS0 on standard output,
//! standard input to ttyS0, and the exits counted at the end. For those who work on the engine.

use std::io::Read;

use lguest_launcher::board::{BusSpec, Machine, MachineSpec, VirtioSpec};
use lguest_launcher::engine::Engine;
use lguest_launcher::kernel_image::program::{Kernel, Program};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let kernel = arguments.next().expect("usage: board VMLINUX [INITRD] [CMDLINE]");
    let vmlinux = std::fs::File::open(&kernel).expect("the kernel can be read");
    let initrd = arguments
        .next()
        .filter(|name| !name.is_empty())
        .map(|name| std::fs::read(name).expect("the initrd can be read"));
    let cmdline = arguments.next().unwrap_or_else(|| "console=ttyS0 earlyprintk=ttyS0".into());
    let spec = MachineSpec {
        engine: Engine::Translator,
        bus: BusSpec::Virtio(VirtioSpec::bare()),
        memory: 512 << 20,
        cpus: 1,
        hidden: Default::default(),
        kernel: Kernel { program: Program::File(vmlinux), setup_header: None },
        initrd: initrd.unwrap_or_default(),
        cmdline,
    };
    let machine = match Machine::new(spec, [Box::new(std::io::stdout()), Box::new(std::io::stderr())]) {
        Ok(machine) => machine,
        Err(error) => return eprintln!("board: {error}"),
    };
    let input = machine.console_input(0);
    std::thread::spawn(move || {
        let mut bytes = [0; 256];
        while let Ok(length @ 1..) = std::io::stdin().read(&mut bytes) {
            if input.send(&bytes[..length]).is_err() {
                return;
            }
        }
    });
    let outcome = machine.run_watched(&|| (), |reports| eprintln!("board: {reports:?}"));
    eprintln!("board: {outcome:?}");
}
