//! How many instructions the default Guest needs to its prompt: KVM runs it one at a time and counts.
//!
//! A truthful count needs an engine that stops after each; the translator does not, and a processor's own counter is
//! hidden from most virtual hosts. Whether a string instruction counts once or once a turn is KVM's to say.

use std::io::Write;
use std::path::PathBuf;

use lguest_host::Vcpu;
use lguest_launcher::attachments::Attachment;
use lguest_launcher::board::{BusSpec, LinkPlace, Machine, MachineSpec, Stopper};
use lguest_launcher::default_guest;
use lguest_launcher::engine::Engine;

/// What the shell says when it waits for a line.
const PROMPT: &[u8] = b"lguest> ";

/// A screen that stops the machine at its prompt.
struct UntilPrompt {
    said: Vec<u8>,
    stopper: std::sync::mpsc::Receiver<Stopper>,
}

impl Write for UntilPrompt {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.said.extend(bytes);
        if self.said.ends_with(PROMPT)
            && let Ok(stopper) = self.stopper.recv()
        {
            stopper.stop();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn main() {
    let links = LinkPlace { folder: PathBuf::new(), start: |_| Err(std::io::ErrorKind::Unsupported.into()) };
    let spec = MachineSpec {
        engine: Engine::Kvm,
        bus: BusSpec::LguestDma { attachments: vec![Attachment::Pipe], links },
        memory: 256 << 20,
        cpus: 1,
        hidden: Default::default(),
        kernel: default_guest::image().into(),
        initrd: Vec::new(),
        cmdline: String::new(),
    };
    let (give, stopper) = std::sync::mpsc::channel();
    let screen = UntilPrompt { said: Vec::new(), stopper };
    let mut machine = match Machine::new(spec, [Box::new(screen), Box::new(std::io::sink())]) {
        Ok(machine) => machine,
        Err(error) => return eprintln!("left out: {error}"),
    };
    if let Err(error) = machine.vcpus().try_for_each(Vcpu::count_instructions) {
        return eprintln!("left out: {error}");
    }
    give.send(machine.stopper()).expect("the screen waits for it");
    let mut steps = 0;
    let outcome =
        machine.run_watched(&|| (), |reports| steps = reports.iter().map(|vcpu| vcpu.exits.steps).sum());
    println!("{steps} instructions, then {outcome:?}");
}
