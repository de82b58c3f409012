//! What the devices write is what the Guest runs.

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

#[test]
fn every_device_has_a_place_and_no_more_devices_than_places_are_taken() {
    let folder = tempfile::tempdir().unwrap();
    let disks = |count: usize| -> Vec<Plug> {
        (0..count)
            .map(|number| {
                let path = folder.path().join(format!("{count}-{number}"));
                std::fs::write(&path, [0; 512]).unwrap();
                Plug::disk(number, AttachedDisk::open(path.to_str().unwrap()).unwrap())
            })
            .collect()
    };
    let refused = VirtioSpec::new(disks(8)).err().unwrap();
    assert!(refused.to_string().contains("room for 7 devices, and 8"));
    let (memory, platform, _vcpu) = guest();
    let mut mapped = Bus::new();
    let spec = VirtioSpec::new(disks(7)).unwrap();
    assert_eq!(spec.slots(), layout::VIRTIO_SLOTS);
    attach(&mut mapped, spec, &memory, &platform).unwrap();
    let kind = |slot| mapped.read(layout::virtio_window(slot) + 8, 4);
    assert_eq!((0..8).map(kind).collect::<Vec<_>>(), [2, 2, 2, 2, 2, 2, 2, 4]);
}

#[test]
fn a_device_that_the_outside_wakes_is_given_its_waker_when_it_has_its_place() {
    let (memory, platform, _vcpu) = guest();
    let (sender, wakers) = std::sync::mpsc::channel();
    let plug = Plug::woken(VirtioRng::new(HostEntropy), move |waker| sender.send(waker).unwrap());
    let mut mapped = Bus::new();
    attach(&mut mapped, VirtioSpec::new(vec![plug]).unwrap(), &memory, &platform).unwrap();
    // Without a driver it stays asleep; the lock is free again for the vCPU.
    wakers.recv().unwrap().wake();
    assert_eq!(mapped.read(layout::virtio_window(0) + 8, 4), 4);
}
