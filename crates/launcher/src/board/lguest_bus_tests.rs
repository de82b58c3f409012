//! The descriptor page of a machine that has everything, as its Host sees it.

use std::collections::BTreeSet;

use lguest_abi::net::{SLOTS, key_offset};
use lguest_host::irq::Controllers;

use super::*;
use crate::disks::AttachedDisk;

/// A broker that ends with this test's process.
fn thread_broker(listener: OwnedFd) -> std::io::Result<()> {
    std::thread::spawn(move || lguest_host::link::broker::serve(listener));
    Ok(())
}

/// A bus with these devices, and its machine's memory.
fn bus(folder: &std::path::Path, attachments: Vec<Attachment>) -> (LguestBus, Arc<Memory>) {
    let place = LinkPlace { folder: folder.to_owned(), start: thread_broker };
    let mut memory = Memory::with_device_pages(1 << 20, pages(&attachments)).unwrap();
    let links = join_links(&attachments, &mut memory, &place).unwrap();
    let (memory, rate) = (Arc::new(memory), TscRate::from_khz(1_000_000));
    let platform = Platform::Translator(Controllers::new(1, rate).unwrap());
    let screen = OutputPump::start(Box::new(std::io::sink())).unwrap();
    (LguestBus::new(attachments, &memory, links, &platform, rate, screen).unwrap(), memory)
}

/// The keys of a device, by the drivers' rules (facts 7): the console's is 0, a network has one for every slot of its
/// page, every other device has its page.
fn keys(descriptor: &Descriptor) -> Vec<u64> {
    let page = u64::from(descriptor.pfn) * PAGE_SIZE;
    match descriptor.kind {
        kind::CONSOLE => vec![lguest_abi::console::KEY],
        kind::NET => (0..SLOTS).map(|slot| page + key_offset(slot)).collect(),
        _ => vec![page],
    }
}

#[test]
fn the_keys_of_a_whole_machine_never_collide_and_are_where_the_host_listens() {
    let folder = tempfile::tempdir().unwrap();
    let mut attachments = Vec::new();
    for number in 0..6 {
        let path = folder.path().join(format!("disk{number}"));
        std::fs::write(&path, [0; 512]).unwrap();
        attachments.push(Attachment::Disk(AttachedDisk::open(path.to_str().unwrap()).unwrap()));
        attachments.push(Attachment::Link(format!("link{number}")));
    }
    attachments.extend([Attachment::Pipe, Attachment::Pipe, Attachment::Pipe]);
    let (bus, memory) = bus(folder.path(), attachments);

    let descriptors: Vec<Descriptor> =
        (0..MAX_DEVICES).map(|index| described(&memory, index).unwrap()).collect();
    assert!(descriptors.iter().all(|descriptor| descriptor.kind != kind::NONE), "the page is full");
    let all: Vec<u64> = descriptors.iter().flat_map(keys).collect();
    assert_eq!(all.len(), 6 + 6 * usize::from(SLOTS) + 3 + 1);
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len(), "two devices have one key");
    assert!(all.iter().all(|key| key.is_multiple_of(lguest_abi::dma::KEY_ALIGNMENT)));

    let heard: BTreeSet<u64> =
        bus.devices.iter().map(|device| device.key).chain(bus.pipes.iter().map(|(key, _)| *key)).collect();
    let private = descriptors.iter().filter(|descriptor| descriptor.kind != kind::NET).flat_map(keys);
    assert_eq!(heard, private.collect(), "what is no link's has the Launcher at the other end");
}

#[test]
fn statuses_are_what_lies_in_the_page() {
    let folder = tempfile::tempdir().unwrap();
    let (bus, memory) = bus(folder.path(), vec![Attachment::Pipe]);
    assert_eq!(bus.statuses(), "0:0 1:0");
    let pipe = Descriptor { status: 0x87, ..described(&memory, 0).unwrap() };
    describe(&memory, 0, &pipe).unwrap();
    assert_eq!(bus.statuses(), "0:87 1:0");
    assert_eq!(described(&memory, MAX_DEVICES), None);
}
