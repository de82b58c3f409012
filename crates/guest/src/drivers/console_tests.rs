use lguest_abi::console::KEY;

use super::*;
use crate::mock_host::MockHost;
use crate::model::Registry;
use crate::transport::EarlyConsole;

fn console() -> (Rc<MockHost>, Registry, Rc<Console>) {
    let host = MockHost::new();
    host.describe(2, kind::CONSOLE, 0, 0);
    let driver = Rc::new(ConsoleDriver::new(&host.memory()));
    let registry = host.with_driver(driver.clone());
    let console = driver.console().unwrap();
    (host, registry, console)
}

#[test]
fn text_leaves_before_there_is_a_bus() {
    let host = MockHost::new();
    host.describe(0, kind::CONSOLE, 0, 0);
    let early = EarlyConsole::new(&host.memory(), &host.host()).unwrap();
    assert_eq!(early.write(b"early"), 5);
    assert_eq!(host.sent.borrow()[0].0, KEY);
    assert_eq!(host.sent.borrow()[0].2, b"early");
    assert_eq!(host.status(0), 0, "and no descriptor was touched");
}

#[test]
fn all_is_written_whatever_the_host_took() {
    let (host, _, console) = console();
    *host.taker.borrow_mut() = Box::new(|_, _| 1);
    assert_eq!(console.put(&[b'x'; 600]), 600);
    let lengths: alloc::vec::Vec<_> = host.sent.borrow().iter().map(|(_, _, bytes)| bytes.len()).collect();
    assert_eq!(lengths, [256, 256, 88]);
    let one_page =
        host.sent.borrow().iter().all(|(_, list, _)| list.as_slice()[0].check_page_rule(u64::MAX).is_ok());
    assert!(one_page, "the buffer never crosses a page");
}

#[test]
fn any_input_arrives_as_it_was_typed_and_the_buffer_is_offered_again_only_when_empty() {
    for length in [1, 15, 16, 17, 100, 255, 256] {
        let (host, registry, console) = console();
        let typed: alloc::vec::Vec<u8> = (0..length).map(|byte| byte as u8).collect();
        assert!(host.deliver(&registry, KEY, &typed));
        let mut read: alloc::vec::Vec<u8> = alloc::vec::Vec::new();
        while read.len() < length {
            assert!(!host.deliver(&registry, KEY, b"too early"), "used_len is not 0 before the last byte");
            let mut bytes = [0; 64];
            let count = console.get(&mut bytes);
            assert!((1..=16).contains(&count), "sixteen at a time");
            read.extend(&bytes[..count]);
        }
        assert_eq!(read, typed);
        assert_eq!(console.get(&mut [0; 16]), 0);
        assert!(host.deliver(&registry, KEY, b"next"));
        let mut bytes = [0; 16];
        assert_eq!(console.get(&mut bytes), 4);
    }
}

#[test]
fn a_host_that_lies_about_the_length_is_believed_up_to_the_buffer() {
    let (host, _, console) = console();
    let (_, list) = host.free_list(KEY).unwrap();
    host.poke(list.unwrap(), &u32::MAX.to_le_bytes());
    let mut total = 0;
    for _ in 0..16 {
        total += console.get(&mut [0; 16]);
    }
    assert_eq!(total, 256);
    assert_eq!(console.get(&mut [0; 16]), 0);
}

#[test]
fn the_probe_binds_one_list_with_the_devices_irq() {
    let (host, _registry, _console) = console();
    let bindings = host.bindings.borrow();
    assert_eq!(bindings.len(), 1);
    assert_eq!((bindings[0].key, bindings[0].count, bindings[0].irq), (KEY, 1, 3));
    assert_eq!(host.status(2), 7);
}

#[test]
fn a_refused_binding_leaves_status_3_and_no_memory_behind() {
    let host = MockHost::new();
    host.describe(0, kind::CONSOLE, 0, 0);
    host.refuse_bindings.set(true);
    let registry = Registry::new();
    let bus = host.start(&registry);
    let before = host.live.get();
    let driver = Rc::new(ConsoleDriver::new(&host.memory()));
    registry.add_driver(driver.clone()).unwrap();
    assert_eq!((host.status(0), host.live.get()), (3, before));
    assert!(driver.console().is_none());
    drop(bus);
}
