use alloc::vec;

use super::*;
use crate::mock_host::{MockHost, page_of};
use crate::model::Registry;
use crate::transport::flat_tree::tests::sample;
use crate::transport::tree_bus;

const TEXT: &[u8] = b"The driver need not know the bus.\n";

fn read_all(pipe: &Pipe) -> Vec<u8> {
    let mut all = vec![];
    loop {
        let mut bytes = [0; 10];
        match pipe.read(&mut bytes).unwrap() {
            0 => return all,
            count => all.extend(&bytes[..count]),
        }
    }
}

/// One driver, two machines: the same pipe on a page and on a tree.
fn both(host: &Rc<MockHost>) -> (Registry, Rc<PipeDriver>) {
    host.describe(0, kind::PIPE, 0, 1);
    let driver = Rc::new(PipeDriver::new(&host.memory()));
    let registry = host.with_driver(driver.clone());
    assert_eq!(tree_bus::start(&sample(DEVICE.into(), 5, 17), &host.host(), &registry), Ok(1));
    (registry, driver)
}

#[test]
fn both_transports_bring_identical_bytes() {
    let host = MockHost::new();
    let (registry, driver) = both(&host);
    let pipes = driver.pipes();
    assert_eq!(pipes.iter().map(|pipe| pipe.name()).collect::<Vec<_>>(), ["0", "pipe@5"]);
    assert!(pipes.iter().all(|pipe| read_all(pipe).is_empty()), "nothing has come");
    assert!(host.deliver(&registry, page_of(0), TEXT));
    host.tree_pipe.borrow_mut().extend(TEXT);
    assert_eq!((read_all(&pipes[0]), read_all(&pipes[1])), (TEXT.to_vec(), TEXT.to_vec()));
    assert!(host.deliver(&registry, page_of(0), b"again"), "the page is offered again when it is empty");
    assert_eq!(read_all(&pipes[0]), b"again");
}

#[test]
fn both_transports_take_bytes() {
    let host = MockHost::new();
    let (_, driver) = both(&host);
    assert!(driver.pipes().iter().all(|pipe| pipe.write(TEXT) == Ok(TEXT.len())));
    assert_eq!(host.sent.borrow()[0].2, TEXT);
}

#[test]
fn the_interrupt_is_the_devices_and_comes_from_its_bus() {
    let host = MockHost::new();
    let (registry, _) = both(&host);
    let irqs: Vec<u8> = registry.list().iter().map(|(device, _)| device.irq.number()).collect();
    assert_eq!(irqs, [1, 17]);
}

#[test]
fn an_id_is_vendor_and_device_and_both_must_match() {
    for (device, found) in [(DEVICE, 1), (DEVICE + 1, 0), (kind::PIPE, 0)] {
        let host = MockHost::new();
        let registry = Registry::new();
        let driver = Rc::new(PipeDriver::new(&host.memory()));
        tree_bus::start(&sample(device.into(), 5, 17), &host.host(), &registry).unwrap();
        registry.add_driver(driver.clone()).unwrap();
        assert_eq!(driver.pipes().len(), found, "vendor linux, device {device:#x}");
    }
}

#[test]
fn a_handle_the_host_does_not_know_is_an_error_of_the_first_read() {
    let host = MockHost::new();
    let registry = Registry::new();
    tree_bus::start(&sample(DEVICE.into(), 6, 17), &host.host(), &registry).unwrap();
    let driver = Rc::new(PipeDriver::new(&host.memory()));
    registry.add_driver(driver.clone()).unwrap();
    let mut bytes = [0; 4];
    // A read of nothing asks the Host nothing on this bus, so the first real read tells.
    let outcome = driver.pipes()[0].read(&mut bytes);
    assert_eq!(outcome, Err(TransferError::Refused(-19)));
}

#[test]
fn a_node_with_an_impossible_interrupt_or_number_is_left_out() {
    for (device, irq) in [(0x1_0000, 17), (DEVICE.into(), 32), (DEVICE.into(), 0x1_0001)] {
        let host = MockHost::new();
        assert_eq!(tree_bus::start(&sample(device, 5, irq), &host.host(), &Registry::new()), Ok(0));
    }
}
