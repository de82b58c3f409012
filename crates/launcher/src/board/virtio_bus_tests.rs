//! What the devices write is what the Guest runs.

use lguest_devices::outside::InterruptLine;
use lguest_host::clock::Calibration;
use lguest_host::engine::Exit;
use lguest_host::memory::GuestAddress;
use lguest_host::platform::Engine;
use lguest_translator::HiddenFeatures;
use vm_memory::Bytes;

use super::super::boot::Boot;
use super::super::elf::LoadedKernel;
use super::*;

const ENTRY: u64 = 16 << 20;
const ROUTINE: u64 = ENTRY + 0x1000;

/// A routine's code: mov al, value; ret.
fn routine(value: u8) -> [u8; 3] {
    [0xb0, value, 0xc3]
}

/// Memory with a loop that calls the routine and shows al at port 0x80.
fn guest() -> (Arc<Memory>, Platform, Box<dyn lguest_host::Vcpu>) {
    let memory = Arc::new(Memory::new(64 << 20).unwrap());
    // call +0xffb; out 0x80, al; jmp -9
    memory.write(GuestAddress(ENTRY), &[0xe8, 0xfb, 0x0f, 0, 0, 0xe6, 0x80, 0xeb, 0xf7]).unwrap();
    memory.write(GuestAddress(ROUTINE), &routine(1)).unwrap();
    let boot = Boot { setup_header: None, command_line: "", initrd: &[], acpi_root: GuestAddress(0xe_0000) };
    let kernel = LoadedKernel { entry: GuestAddress(ENTRY), occupied: ENTRY..ENTRY + 0x2000 };
    let entry = boot.place(&kernel, &memory).unwrap();
    let rate = Calibration::start().finish();
    let (platform, mut vcpus) =
        Platform::start(Engine::Translator, &memory, rate, 1, entry, &HiddenFeatures::default()).unwrap();
    (memory, platform, vcpus.remove(0))
}

fn shown(vcpu: &mut dyn lguest_host::Vcpu) -> u32 {
    match vcpu.run() {
        Exit::PortOut { port: 0x80, value, .. } => value & 0xff,
        other => panic!("{other:?}"),
    }
}

#[test]
fn code_that_a_device_overwrites_is_run_anew() {
    let (memory, _platform, mut vcpu) = guest();
    let view = view(&memory).unwrap();
    for value in 2..10 {
        assert_eq!(shown(&mut *vcpu), u32::from(value) - 1);
        assert_eq!(shown(&mut *vcpu), u32::from(value) - 1, "again, from the cache");
        view.write_slice(&routine(value), vm_memory::GuestAddress(ROUTINE)).unwrap();
    }
}

#[test]
fn the_view_has_both_parts_of_a_large_memory_and_nothing_between() {
    let memory = Arc::new(Memory::new((3 << 30) + (1 << 20)).unwrap());
    let view = view(&memory).unwrap();
    let high = 4u64 << 30;
    view.write_slice(b"high", vm_memory::GuestAddress(high)).unwrap();
    let mut bytes = [0; 4];
    memory.read(GuestAddress(high), &mut bytes).unwrap();
    assert_eq!(&bytes, b"high");
    for address in [3 << 30, high - 4, high + (1 << 20)] {
        assert!(view.read_slice(&mut bytes, vm_memory::GuestAddress(address)).is_err(), "{address:#x}");
    }
}

fn disks(folder: &tempfile::TempDir, count: usize) -> Vec<Plug> {
    (0..count)
        .map(|number| {
            let path = folder.path().join(format!("{count}-{number}"));
            std::fs::write(&path, [0; 512]).unwrap();
            Plug::disk(number, AttachedDisk::open(path.to_str().unwrap()).unwrap(), 2)
        })
        .collect()
}

/// The buses of a machine with these devices.
fn attached(transport: Transport, plugs: Vec<Plug>) -> (Bus, PciBus, Platform) {
    let (memory, platform, _vcpu) = guest();
    let (mut mapped, mut pci) = (Bus::new(), PciBus::new(layout::PCI_MEMORY));
    let spec = VirtioSpec::new(transport, plugs).unwrap();
    attach(&mut mapped, &mut pci, spec, &memory, &platform).unwrap();
    (mapped, pci, platform)
}

#[test]
fn every_device_has_a_window_and_no_more_devices_than_windows_are_taken() {
    let folder = tempfile::tempdir().unwrap();
    let refused = VirtioSpec::new(Transport::Mmio, disks(&folder, 7)).err().unwrap();
    assert!(refused.to_string().contains("--bus mmio has room for 6 devices, and 7"), "{refused}");
    let (mapped, ..) = attached(Transport::Mmio, disks(&folder, 6));
    let kind = |slot| mapped.read(layout::virtio_window(slot) + 8, 4);
    assert_eq!((0..8).map(kind).collect::<Vec<_>>(), [2, 2, 2, 2, 2, 2, 4, 5]);
}

#[test]
fn a_command_line_names_each_window_with_a_line_that_a_kernel_knows_without_tables() {
    let spec = |transport| VirtioSpec::new(transport, vec![Plug::new(VirtioRng::new(HostEntropy))]).unwrap();
    assert_eq!(spec(Transport::Mmio).on_command_line(), "");
    let said = spec(Transport::Mmio).announced(Announced::CommandLine);
    assert_eq!(
        said.on_command_line(),
        "virtio_mmio.device=0x200@0xd0000000:5:0 virtio_mmio.device=0x200@0xd0001000:6:1 virtio_mmio.device=0x200@0xd0002000:7:2 "
    );
    assert_eq!(said.in_acpi(), acpi::Virtio::Lines(3));
    assert!(layout::MAPPED_GSIS.iter().all(|line| *line < 16 && ![0, 1, 2, 3, 4, 8, 9, 13].contains(line)));
    assert_eq!(spec(Transport::Pci).announced(Announced::CommandLine).on_command_line(), "");
}

#[test]
fn every_device_has_a_slot_on_pci_and_registers_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let refused = VirtioSpec::new(Transport::Pci, disks(&folder, 30)).err().unwrap();
    assert!(refused.to_string().contains("--bus pci has room for 29 devices, and 30"), "{refused}");
    let (mut mapped, pci, _) = attached(Transport::Pci, disks(&folder, 29));
    let pci = Arc::new(pci);
    mapped.attach_window(layout::PCI_MEMORY, pci.clone()).unwrap();
    let mut places = Vec::new();
    for slot in 1..SLOTS {
        let mut head = [0; 4];
        pci.read_configuration(slot, 0, &mut head);
        // Disks with a queue for each of two vCPUs, then entropy, then the balloon.
        let (kind, queues) = [(0x42, 2), (0x44, 1), (0x45, 5)][slot.saturating_sub(29)];
        assert_eq!(head, [0xf4, 0x1a, kind, 0x10], "slot {slot}");
        pci.read_configuration(slot, 0x10, &mut head);
        pci.write_configuration(slot, 4, &[2, 0]);
        let address = u64::from(u32::from_le_bytes(head));
        assert_eq!(mapped.read(address + 0x12, 2), queues, "slot {slot}");
        places.push(address);
    }
    places.dedup();
    assert_eq!(places.len(), 31);
}

#[test]
fn a_device_that_the_outside_wakes_is_given_its_waker_when_it_has_its_place() {
    for transport in [Transport::Mmio, Transport::Pci] {
        let (sender, wakers) = std::sync::mpsc::channel();
        let plug = Plug::woken(VirtioRng::new(HostEntropy), move |waker| sender.send(waker).unwrap());
        let _machine = attached(transport, vec![plug]);
        // Without a driver it stays asleep; the lock is free again for the vCPU.
        wakers.recv().unwrap().wake();
    }
}

#[test]
fn a_shared_line_is_up_while_one_of_its_devices_holds_it() {
    let (_memory, platform, _vcpu) = guest();
    let Platform::Translator(controllers) = &platform else { panic!("another engine") };
    // Entry 16 of the I/O APIC to vector 0x30, level; it shows in its remote IRR while the line is taken.
    let write = |register: u64, value: u64| {
        assert!(controllers.write_memory(0, 0xfec0_0000, 4, register));
        assert!(controllers.write_memory(0, 0xfec0_0010, 4, value));
    };
    write(0x30, 1 << 15 | 0x30);
    let waits = || {
        controllers.write_memory(0, 0xfec0_0000, 4, 0x30);
        controllers.read_memory(0, 0xfec0_0010, 4).unwrap() & 1 << 14 != 0
    };
    let line = SharedLine::new(BoardLine::new(&platform, 16));
    let wires = [line.wire(0), line.wire(8)];
    wires[0].set(true);
    assert!(waits());
    wires[1].set(true);
    wires[0].set(false);
    controllers.write_memory(0, 0xfec0_0040, 4, 0x30);
    assert!(waits(), "the other still holds it, so it comes again");
    wires[1].set(false);
    controllers.write_memory(0, 0xfec0_0040, 4, 0x30);
    assert!(!waits());
}
