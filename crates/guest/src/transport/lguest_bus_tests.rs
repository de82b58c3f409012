use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use lguest_abi::descriptor::feature;
use lguest_abi::meeting::Irq;
use lguest_abi::pipe::VENDOR_LGUEST;

use super::*;
use crate::mock_host::{MockHost, PAGE, page_of};
use crate::model::{DeviceId, Driver, Handler, ProbeError};
use crate::transport::attributes::{self, AttributeError};

/// A driver that notes what it sees.
struct Witness {
    name: &'static str,
    ids: Vec<DeviceId>,
    host: Rc<MockHost>,
    refuses: Cell<bool>,
    probed: RefCell<Vec<(usize, u16)>>,
    interrupts: Rc<Cell<usize>>,
}

struct Counter(Rc<Cell<usize>>);

impl Handler for Counter {
    fn interrupt(&self) -> bool {
        self.0.set(self.0.get() + 1);
        true
    }
}

impl Witness {
    fn new(host: &Rc<MockHost>, kinds: &[u16]) -> Rc<Witness> {
        let ids = kinds.iter().map(|kind| DeviceId { vendor: VENDOR_LGUEST, device: *kind }).collect();
        Rc::new(Witness {
            name: "witness",
            ids,
            host: host.clone(),
            refuses: Cell::new(false),
            probed: RefCell::default(),
            interrupts: Rc::default(),
        })
    }
}

impl Driver for Witness {
    fn name(&self) -> &'static str {
        self.name
    }

    fn ids(&self) -> &[DeviceId] {
        &self.ids
    }

    fn probe(&self, device: &Rc<Device>) -> Result<Rc<dyn Handler>, ProbeError> {
        let index: usize = device.name.parse().unwrap();
        self.probed.borrow_mut().push((index, self.host.status(index)));
        if self.refuses.get() {
            return Err(ProbeError::NotUsable("it was told to refuse"));
        }
        Ok(Rc::new(Counter(self.interrupts.clone())))
    }
}

/// A reproducible stream of numbers (xorshift64).
fn numbers(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    }
}

#[test]
fn another_platform_maps_nothing_and_registers_nothing() {
    let host = MockHost::new();
    host.describe(0, kind::CONSOLE, 0, 0);
    let registry = Registry::new();
    let bus = LguestBus::start("Xen", PAGE, &host.memory(), &host.host(), &registry, &mut |_| {});
    assert!(bus.unwrap().is_none());
    assert_eq!((registry.buses().len(), registry.list().len(), host.status(0)), (0, 0, 0));
    assert!(host.calls.borrow().is_empty());
}

#[test]
fn a_driver_without_a_bus_is_a_success_that_does_nothing() {
    let host = MockHost::new();
    let registry = Registry::new();
    let witness = Witness::new(&host, &[kind::CONSOLE]);
    assert_eq!(registry.add_driver(witness.clone()), Ok(()));
    host.describe(0, kind::CONSOLE, 0, 0);
    host.start(&registry);
    assert!(witness.probed.borrow().is_empty(), "it was not even kept");
}

#[test]
fn a_bus_whose_name_is_taken_is_an_error_to_stop_at() {
    let host = MockHost::new();
    let registry = Registry::new();
    registry.add_bus(NAME).unwrap();
    let bus = LguestBus::start(PLATFORM_NAME, PAGE, &host.memory(), &host.host(), &registry, &mut |_| {});
    assert_eq!(bus.err(), Some(RegisterError::NameTaken));
}

#[test]
fn a_scan_adds_every_entry_that_is_not_empty_in_ascending_order() {
    let mut next = numbers(1);
    for _ in 0..200 {
        let host = MockHost::new();
        let mut expected = vec![];
        for index in 0..MAX_DEVICES {
            let kind = (next() % 3) as u16 * (next() % 5) as u16;
            host.describe(index, kind, next() as u16, 0);
            if kind != 0 {
                expected.push(index.to_string());
            }
        }
        let registry = Registry::new();
        host.start(&registry);
        let names: Vec<_> = registry.list().iter().map(|(device, _)| device.name.clone()).collect();
        assert_eq!(names, expected);
    }
}

#[test]
fn no_random_descriptor_page_is_worse_than_strange_devices() {
    let mut next = numbers(2);
    for _ in 0..200 {
        let host = MockHost::new();
        let page: Vec<u8> = (0..4096).map(|_| next() as u8).collect();
        host.poke(PAGE, &page);
        let registry = Registry::new();
        host.start(&registry);
        assert!(registry.list().len() <= MAX_DEVICES);
        assert!((0..MAX_DEVICES).all(|index| {
            let before = u16::from_le_bytes([page[index * 12 + 4], page[index * 12 + 5]]);
            host.status(index) & Status::REMOVED == before & Status::REMOVED
        }));
    }
}

#[test]
fn acknowledge_stands_before_anything_is_allocated() {
    let host = MockHost::new();
    host.describe(0, kind::CONSOLE, 0, 0);
    host.allocations_left.set(0);
    let registry = Registry::new();
    let mut failures = vec![];
    let report = &mut |failed| failures.push(failed);
    LguestBus::start(PLATFORM_NAME, PAGE, &host.memory(), &host.host(), &registry, report).unwrap();
    assert_eq!(host.status(0), Status::ACKNOWLEDGE | Status::FAILED);
    assert_eq!(failures, [Failed { index: 0, error: None }]);
    // The first two writes to memory were the status, bit by bit.
    let writes = host.events.borrow().clone();
    assert_eq!(writes, [crate::mock_host::Event::Write(PAGE + 4), crate::mock_host::Event::Write(PAGE + 4)]);
}

#[test]
fn one_failing_device_leaves_the_rest_alone() {
    let host = MockHost::new();
    (0..5).for_each(|index| host.describe(index, kind::BLOCK, 0, 1));
    let registry = Registry::new();
    // The name of device 3 is taken when it comes.
    let bus = LguestBus { descriptors: Rc::new(Descriptors::map(&host.memory(), PAGE)) };
    let register = &mut |device: Device| match device.name.as_str() {
        "3" => Err(RegisterError::NameTaken),
        _ => registry.add_device(device),
    };
    let mut failures = vec![];
    bus.scan(&host.memory(), &host.host(), register, &mut |failed| failures.push(failed));
    assert_eq!((0..5).map(|index| host.status(index)).collect::<Vec<_>>(), [1, 1, 1, 129, 1]);
    assert_eq!(failures, [Failed { index: 3, error: Some(RegisterError::NameTaken) }]);
    assert_eq!(registry.list().len(), 4);
}

#[test]
fn a_probe_sees_3_and_leaves_7_or_3() {
    let host = MockHost::new();
    host.describe(2, kind::NET, 0, 1);
    let witness = Witness::new(&host, &[kind::NET]);
    host.with_driver(witness.clone());
    assert_eq!(*witness.probed.borrow(), [(2, 3)]);
    assert_eq!(host.status(2), 7);

    let host = MockHost::new();
    host.describe(2, kind::NET, 0, 1);
    let witness = Witness::new(&host, &[kind::NET]);
    witness.refuses.set(true);
    let registry = host.with_driver(witness);
    assert_eq!(host.status(2), 3, "D9: a probe that fails does not set FAILED");
    assert_eq!(registry.driver_of("2"), None);
}

#[test]
fn devices_and_drivers_find_each_other_in_either_order() {
    let statuses = |drivers_first: bool| {
        let host = MockHost::new();
        [kind::BLOCK, kind::NET, 0, kind::CONSOLE].into_iter().enumerate().for_each(|(index, kind)| {
            host.describe(index, kind, 0, 1);
        });
        let registry = Registry::new();
        let witness = Witness::new(&host, &[kind::BLOCK, kind::CONSOLE]);
        if drivers_first {
            // A bus that is there before its devices: the registry knows one already.
            registry.add_bus("earlier").unwrap();
            registry.add_driver(witness.clone()).unwrap();
            host.start(&registry);
        } else {
            host.start(&registry);
            registry.add_driver(witness.clone()).unwrap();
        }
        assert_eq!(*witness.probed.borrow(), [(0, 3), (3, 3)]);
        (0..4).map(|index| host.status(index)).collect::<Vec<_>>()
    };
    assert_eq!(statuses(false), [7, 1, 0, 7]);
    assert_eq!(statuses(true), statuses(false));
}

#[test]
fn pairs_are_exactly_the_equal_types() {
    let mut next = numbers(3);
    for _ in 0..100 {
        let host = MockHost::new();
        let kinds: Vec<u16> = (0..MAX_DEVICES).map(|_| (next() % 6) as u16).collect();
        kinds.iter().enumerate().for_each(|(index, kind)| host.describe(index, *kind, 0, 0));
        let wanted: Vec<u16> = (0..next() % 4).map(|_| (next() % 6) as u16).collect();
        let witness = Witness::new(&host, &wanted);
        host.with_driver(witness.clone());
        let expected = kinds.iter().enumerate().filter(|(_, kind)| **kind != 0 && wanted.contains(kind));
        let expected: Vec<_> = expected.map(|(index, _)| (index, 3)).collect();
        assert_eq!(*witness.probed.borrow(), expected);
    }
}

#[test]
fn the_device_at_index_5_interrupts_on_6() {
    let host = MockHost::new();
    host.describe(0, kind::BLOCK, 0, 0);
    host.describe(5, kind::BLOCK, 0, 0);
    let witness = Witness::new(&host, &[kind::BLOCK]);
    let registry = host.with_driver(witness.clone());
    let irq = |number| Irq::new(number).unwrap();
    assert_eq!((registry.interrupt(irq(0)), registry.interrupt(irq(5))), (0, 0));
    assert_eq!((registry.interrupt(irq(6)), registry.interrupt(irq(1))), (1, 1));
    assert_eq!(witness.interrupts.get(), 2);
}

#[test]
fn removed_in_the_page_changes_nothing() {
    let host = MockHost::new();
    host.describe(0, kind::BLOCK, 0, 0);
    let witness = Witness::new(&host, &[kind::BLOCK]);
    let registry = host.with_driver(witness);
    host.poke(PAGE + 4, &(7 | Status::REMOVED).to_le_bytes());
    assert_eq!(registry.interrupt(Irq::new(1).unwrap()), 1);
    assert_eq!(host.status(0), 7 | Status::REMOVED);
    assert_eq!(registry.driver_of("0"), Some("witness"));
}

#[test]
fn attributes_are_the_originals_to_the_byte() {
    let host = MockHost::new();
    let registry = Registry::new();
    host.describe(0, kind::BLOCK, feature::RANDOMNESS | feature::NET_NO_CHECKSUM | 5, 1);
    let bus = host.start(&registry);
    let show = |name| attributes::show(bus.descriptors(), 0, name);
    assert_eq!(show("type").as_deref(), Ok("3"));
    assert_eq!(show("features").as_deref(), Ok("c005"));
    assert_eq!(show("pfn").unwrap(), (page_of(0) / 4096).to_string());
    bus.descriptors().set_status(0, 0x10);
    assert_eq!(show("status").as_deref(), Ok("10"));
    assert_eq!(show("num_pages"), Err(AttributeError::NotFound));
    let store = |name, text| attributes::store(bus.descriptors(), 0, name, text);
    assert_eq!(store("status", "10\n"), Ok(3), "every byte is taken");
    assert_eq!(host.status(0), 10, "D10: not what was shown");
    assert_eq!(store("status", "zz"), Err(AttributeError::Invalid));
    assert_eq!(store("status", "0"), Ok(1));
    assert_eq!(host.status(0), 0, "a store replaces");
    for name in ["type", "features", "pfn"] {
        assert_eq!(store(name, "1"), Err(AttributeError::ReadOnly));
    }
}
