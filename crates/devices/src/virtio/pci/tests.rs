//! A driver by the book over PCI, and every other.

use std::sync::{Arc, Mutex};

use super::super::VirtioDevice;
use super::super::bench::{AVAILABLE, Bench, DESCRIPTORS, Echo, Keeper, USED};
use super::super::life::status;
use super::*;
use crate::hostile::Random;

/// An address and what was written there.
type Sent = (u64, u32);

/// What the world outside saw: the line's level, and messages.
#[derive(Clone, Default)]
struct World(Arc<Mutex<(bool, Vec<Sent>)>>);

impl InterruptLine for World {
    fn set(&self, up: bool) {
        self.0.lock().unwrap().0 = up;
    }
}

impl Messages for World {
    fn send(&self, address: u64, data: u32) {
        self.0.lock().unwrap().1.push((address, data));
    }
}

impl World {
    fn line(&self) -> bool {
        self.0.lock().unwrap().0
    }
    /// Messages since this was asked last.
    fn messages(&self) -> Vec<Sent> {
        std::mem::take(&mut self.0.lock().unwrap().1)
    }
}

type Transport = PciTransport<World, World>;

fn transport_of(device: impl VirtioDevice + 'static) -> (Transport, Bench, World) {
    let mut bench = Bench::new(device);
    let memory = bench.memory.clone();
    let life = std::mem::replace(&mut bench.life, Life::new(Box::new(Echo::default()), memory));
    let world = World::default();
    let mut transport = PciTransport::new(life, 0xe000_0000, world.clone(), world.clone());
    transport.write_configuration(4, &[6, 0]);
    (transport, bench, world)
}

fn transport() -> (Transport, Bench, World) {
    transport_of(Echo::default())
}

fn get(transport: &mut Transport, at: u64, length: usize) -> u64 {
    let mut bytes = [0; 8];
    transport.read_memory(at, &mut bytes[..length]);
    u64::from_le_bytes(bytes)
}

fn set(transport: &mut Transport, at: u64, length: usize, value: u64) {
    transport.write_memory(at, &value.to_le_bytes()[..length]);
}

/// As Linux's virtio_pci_modern.c does it, for queue 0.
fn start(transport: &mut Transport) {
    for value in [0, 1, 3] {
        set(transport, 0x14, 1, value);
    }
    for word in 0..2 {
        set(transport, 0, 4, word);
        // All but EVENT_IDX: this driver hears of every chain.
        let offered = get(transport, 4, 4) & !(1 << 29);
        set(transport, 8, 4, word);
        set(transport, 0xc, 4, offered);
        assert_eq!(get(transport, 0xc, 4), offered);
    }
    set(transport, 0x14, 1, 0xb);
    assert_eq!(get(transport, 0x14, 1), 0xb);
    set(transport, 0x16, 2, 0);
    for (at, address) in [(0x20, DESCRIPTORS), (0x28, AVAILABLE), (0x30, USED)] {
        set(transport, at, 4, address);
        set(transport, at + 4, 4, 0);
        assert_eq!(get(transport, at, 8), address);
    }
    set(transport, 0x1c, 2, 1);
    set(transport, 0x14, 1, 0xf);
}

/// The capability of this identifier and virtio kind.
fn capability(transport: &mut Transport, id: u8, kind: Option<u8>) -> usize {
    let mut at = [0];
    transport.read_configuration(0x34, &mut at);
    while at[0] != 0 {
        let mut head = [0; 4];
        transport.read_configuration(at[0].into(), &mut head);
        if head[0] == id && kind.is_none_or(|kind| kind == head[3]) {
            return at[0].into();
        }
        at = [head[1]];
    }
    panic!("no such capability");
}

/// Turns messages on, with vector n saying n at an address of its own, queue 0 at vector 1, the configuration at 0.
fn use_messages(transport: &mut Transport) {
    let control = capability(transport, 0x11, None) + 2;
    transport.write_configuration(control, &ENABLE.to_le_bytes());
    for vector in 0..3 {
        set(transport, 0x4000 + vector * 16, 8, 0xfee0_0000 + vector * 0x1000);
        set(transport, 0x4008 + vector * 16, 4, 0x40 + vector);
        set(transport, 0x400c + vector * 16, 4, 0);
    }
    set(transport, 0x10, 2, 0);
    set(transport, 0x16, 2, 0);
    set(transport, 0x1a, 2, 1);
}

const ONE: Sent = (0xfee0_1000, 0x41);
const CHANGE: Sent = (0xfee0_0000, 0x40);

#[test]
fn a_driver_finds_the_parts_by_their_capabilities() {
    let (mut transport, ..) = transport();
    let mut head = [0; 4];
    transport.read_configuration(0, &mut head);
    assert_eq!(u32::from_le_bytes(head), 0x1044_1af4);
    for (kind, offset, length) in
        [(1u8, 0u32, 0x1000u32), (3, 0x1000, 0x1000), (4, 0x2000, 0x1000), (2, 0x3000, 0x1000)]
    {
        let at = capability(&mut transport, 9, Some(kind));
        let mut body = [0; 16];
        (0..4).for_each(|word| transport.read_configuration(at + word * 4, &mut body[word * 4..][..4]));
        assert_eq!((body[2], body[4]), (if kind == 2 { 20 } else { 16 }, 0), "kind {kind}");
        assert_eq!(body[8..], [offset.to_le_bytes(), length.to_le_bytes()].concat());
    }
    let msix = capability(&mut transport, 0x11, None);
    transport.read_configuration(msix, &mut head);
    assert_eq!(head[2..], [2, 0], "three vectors: two queues and the configuration");
}

#[test]
fn a_driver_without_messages_is_interrupted_by_the_line_until_it_reads_why() {
    let (mut transport, mut bench, world) = transport();
    start(&mut transport);
    bench.offer(0, &[(0x8000, 1, true)]);
    set(&mut transport, 0x3000, 2, 0);
    assert_eq!((bench.used(), world.line()), (vec![(0, 0)], true));
    let mut pci_status = [0; 2];
    transport.read_configuration(6, &mut pci_status);
    assert_eq!(pci_status[0] & 8, 8);
    assert_eq!((get(&mut transport, 0x1000, 1), world.line()), (1, false));
    assert_eq!(get(&mut transport, 0x1000, 1), 0);
    // The line is the driver's to turn off, and comes back with its cause.
    transport.write_configuration(4, &[6, 4]);
    bench.offer(1, &[(0x8000, 1, true)]);
    set(&mut transport, 0x3000, 2, 0);
    assert!(!world.line());
    transport.write_configuration(4, &[6, 0]);
    assert!(world.line());
    assert!(world.messages().is_empty());
}

#[test]
fn each_queue_interrupts_by_its_own_message() {
    let (mut transport, mut bench, world) = transport_of(Keeper::default());
    start(&mut transport);
    use_messages(&mut transport);
    bench.offer(0, &[(0x8000, 4, true)]);
    set(&mut transport, 0x3000, 2, 0);
    assert!(world.messages().is_empty());
    transport.wake();
    assert_eq!((world.messages(), world.line()), (vec![ONE, CHANGE], false));
    assert_eq!(get(&mut transport, 0x1000, 1), 0, "no cause of a line");
    assert_eq!(get(&mut transport, 0x15, 1), 1, "the configuration's generation");
}

#[test]
fn a_masked_vector_waits_and_shows_that_it_does() {
    let (mut transport, mut bench, world) = transport();
    start(&mut transport);
    use_messages(&mut transport);
    set(&mut transport, 0x401c, 4, 1);
    bench.offer(0, &[(0x8000, 1, true)]);
    set(&mut transport, 0x3000, 2, 0);
    assert_eq!((world.messages(), get(&mut transport, 0x4800, 8)), (vec![], 2));
    set(&mut transport, 0x401c, 4, 0);
    assert_eq!((world.messages(), get(&mut transport, 0x4800, 8)), (vec![ONE], 0));
    // The same by the function's mask, and by a function that may not write memory.
    let control = capability(&mut transport, 0x11, None) + 2;
    for (at, off, on) in [(control, ENABLE | FUNCTION_MASK, ENABLE), (4, 2, 6)] {
        transport.write_configuration(at, &off.to_le_bytes());
        bench.offer(0, &[(0x8000, 1, true)]);
        set(&mut transport, 0x3000, 2, 0);
        assert!(world.messages().is_empty());
        transport.write_configuration(at, &on.to_le_bytes());
        assert_eq!(world.messages(), [ONE]);
    }
}

#[test]
fn a_vector_that_is_none_is_read_back_as_none_and_interrupts_nobody() {
    let (mut transport, mut bench, world) = transport();
    start(&mut transport);
    use_messages(&mut transport);
    for vector in [3, 0x7f, 0xfffe] {
        set(&mut transport, 0x1a, 2, vector);
        set(&mut transport, 0x10, 2, vector);
        assert_eq!((get(&mut transport, 0x1a, 2), get(&mut transport, 0x10, 2)), (0xffff, 0xffff));
    }
    bench.offer(0, &[(0x8000, 1, true)]);
    set(&mut transport, 0x3000, 2, 0);
    bench.set_available_index(1000);
    set(&mut transport, 0x3000, 2, 0);
    assert_eq!(get(&mut transport, 0x14, 1) & 0x40, 0x40, "the device needs a reset");
    assert!(world.messages().is_empty() && !world.line());
}

#[test]
fn a_reset_takes_back_vectors_causes_and_what_waited() {
    let (mut transport, mut bench, world) = transport();
    start(&mut transport);
    bench.offer(0, &[(0x8000, 1, true)]);
    set(&mut transport, 0x3000, 2, 0);
    set(&mut transport, 0x14, 1, 0);
    assert!(!world.line());
    assert_eq!(
        (get(&mut transport, 0x10, 2), get(&mut transport, 0x1a, 2), get(&mut transport, 0x1c, 2)),
        (0xffff, 0xffff, 0)
    );
    use_messages(&mut transport);
    assert!(world.messages().is_empty());
}

#[test]
fn a_queue_in_use_is_not_moved_and_not_taken_out_of_use() {
    let (mut transport, mut bench, _) = transport();
    start(&mut transport);
    set(&mut transport, 0x20, 4, 0x6000);
    set(&mut transport, 0x18, 2, 2);
    set(&mut transport, 0x1c, 2, 0);
    assert_eq!(
        (get(&mut transport, 0x20, 8), get(&mut transport, 0x18, 2), get(&mut transport, 0x1c, 2)),
        (DESCRIPTORS, 8, 1)
    );
    bench.offer(7, &[(0x8000, 1, true)]);
    set(&mut transport, 0x3000, 2, 0);
    assert_eq!(bench.used(), [(7, 0)]);
}

#[test]
fn registers_are_reached_through_the_configuration_space_too() {
    let (mut transport, mut bench, _) = transport();
    start(&mut transport);
    let at = capability(&mut transport, 9, Some(5));
    let mut reach = |bar: u8, offset: u32, length: u32, data: Option<u32>| {
        transport.write_configuration(at + 4, &[bar]);
        transport.write_configuration(at + 8, &offset.to_le_bytes());
        transport.write_configuration(at + 12, &length.to_le_bytes());
        if let Some(data) = data {
            transport.write_configuration(at + 16, &data.to_le_bytes());
        }
        let mut data = [0; 4];
        transport.read_configuration(at + 16, &mut data);
        u32::from_le_bytes(data)
    };
    assert_eq!(reach(0, 0x14, 1, None), 0xf);
    assert_eq!(reach(0, 0x2000, 4, None), 0x0403_0201);
    bench.offer(0, &[(0x8000, 1, true)]);
    reach(0, 0x3000, 2, Some(0));
    assert_eq!(bench.used(), [(0, 0)]);
    for (bar, offset, length) in
        [(1, 0x14, 1), (0, 0x15, 2), (0, 0x14, 3), (0, 0x8000, 4), (0, u32::MAX - 3, 4), (0, 0, u32::MAX)]
    {
        reach(bar, offset, length, Some(0));
    }
    assert_eq!(get(&mut transport, 0x14, 1), 0xf, "and nothing else was reached");
}

#[test]
fn random_accesses_leave_a_device_that_can_be_reset() {
    for seed in 1..=8 {
        let (mut transport, bench, world) = transport();
        let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ seed);
        start(&mut transport);
        for _ in 0..20_000 {
            let bytes = random.next().to_le_bytes();
            let length = [1, 2, 4, 8][(random.next() % 4) as usize];
            let part = [0, 0x1000, 0x2000, 0x3000, 0x4000, 0x4800, 0x7ff8][(random.next() % 7) as usize];
            let at = part + random.next() % 0x48;
            let register = (random.next() % 256) as usize;
            match random.next() % 10 {
                0 => start(&mut transport),
                1 => use_messages(&mut transport),
                2 => bench.write(DESCRIPTORS + random.next() % 0x2080, &bytes),
                3..6 => transport.write_memory(at & !(length as u64 - 1), &bytes[..length]),
                6 => transport.write_memory(at, &bytes[..length]),
                7 => transport.write_configuration(register, &bytes[..1 + register % 4]),
                8 => transport.read_configuration(register, &mut [0; 4]),
                _ => transport.read_memory(at, &mut [0xff; 8][..length]),
            }
            world.messages();
        }
        start(&mut transport);
        assert_eq!(transport.life().status() & status::NEEDS_RESET, 0);
    }
}
