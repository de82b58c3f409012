//! Requests that cannot work, and handles that cross threads. Whole runs are tested where there is a Guest to run.

use super::*;
use crate::kernel_image::program::Program;

fn refused(spec: MachineSpec) -> String {
    match Machine::new(spec, [Box::new(std::io::sink()), Box::new(std::io::sink())]) {
        Ok(_) => panic!("that machine cannot work"),
        Err(error) => error.to_string(),
    }
}

fn spec(memory: u64, cpus: u32, vmlinux: &[u8]) -> MachineSpec {
    let kernel = Kernel { program: Program::Bytes(vmlinux.to_vec()), setup_header: None };
    MachineSpec {
        engine: Engine::Translator,
        bus: BusSpec::Virtio(VirtioSpec::bare()),
        memory,
        cpus,
        hidden: Default::default(),
        kernel,
        initrd: Vec::new(),
        cmdline: String::new(),
    }
}

#[test]
fn no_processors_and_more_than_eight_are_refused() {
    for cpus in [0, 9, u32::MAX] {
        let sentence = refused(spec(64 << 20, cpus, b""));
        assert!(sentence.contains(&format!("--cpus {cpus}")) && sentence.contains("1 to 8"), "{sentence}");
    }
}

#[test]
fn no_memory_is_refused_and_so_is_a_file_that_is_no_kernel() {
    assert!(refused(spec(0, 1, b"")).contains("at least one"));
    assert!(refused(spec(64 << 20, 1, b"hello")).contains("not an ELF file"));
}

#[test]
fn handles_go_to_other_threads() {
    fn crosses<T: Clone + Send + 'static>() {}
    crosses::<ConsoleInput>();
    crosses::<Stopper>();
}

#[test]
fn the_first_wish_of_the_guest_wins() {
    let power = Power::default();
    assert_eq!(power.outcome(), None);
    power.ask(PowerChange::Reset);
    power.ask(PowerChange::Off);
    assert_eq!(power.outcome(), Some(Outcome::Reset));
}

#[test]
fn every_port_of_the_map_has_one_owner() {
    let controllers = lguest_host::irq::Controllers::new(1, Calibration::start().finish()).unwrap();
    let platform = Platform::Translator(controllers.clone());
    let mut ports = Bus::new();
    let sink = || OutputPump::start(Box::new(std::io::sink())).unwrap();
    let outputs = [sink(), sink()];
    attach_serial(&mut ports, &platform, 0, &outputs).unwrap();
    attach_serial(&mut ports, &platform, 1, &outputs).unwrap();
    let pci = PciBus::new(layout::PCI_MEMORY);
    attach_chipset(&mut ports, &mut Bus::new(), pci, &platform, &Power::default()).unwrap();
    assert_eq!(ports.read(layout::SERIAL[0] + 5, 1), 0x60, "a serial port with nothing to send");
    assert_eq!(ports.read(layout::PM + 4, 2), 1, "ACPI mode");
    assert_eq!(ports.read(0x80, 1), 0xff, "nobody");
    for port in 0..=0xffff {
        let ours = controllers.read_port(port, 1).is_some();
        assert!(!ours || ports.read(port.into(), 1) == 0xff, "{port:#x} has two owners");
    }
}
