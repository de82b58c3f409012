//! Functions that move: over each other, over nothing, out of the window.

use super::super::configuration::{Configuration, Identity};
use super::*;

const WINDOW: Range<u64> = 0xe000_0000..0xf000_0000;
const BAR: usize = 0x10;
const COMMAND: usize = 4;

/// Answers every read with its number.
struct Numbered(u8, Configuration);

impl Function for Numbered {
    fn read_configuration(&mut self, at: usize, data: &mut [u8]) {
        self.1.read(at, data);
    }
    fn write_configuration(&mut self, at: usize, data: &[u8]) {
        self.1.write(at, data);
    }
    fn memory(&self) -> Option<Range<u64>> {
        self.1.memory()
    }
    fn read_memory(&mut self, _offset: u64, data: &mut [u8]) {
        data.fill(self.0);
    }
    fn write_memory(&mut self, offset: u64, _data: &[u8]) {
        self.0 = offset as u8;
    }
}

fn bus(functions: u8) -> PciBus {
    let mut bus = PciBus::new(WINDOW);
    for number in 1..=functions {
        let identity = Identity { vendor: 0x1af4, device: 0x1040, class: 0, revision: 1 };
        let space = Configuration::new(identity, 0x1000, 0xe000_0000 + u32::from(number) * 0x1000);
        bus.add(Arc::new(Mutex::new(Numbered(number, space)))).unwrap();
    }
    bus
}

fn enable(bus: &PciBus, slot: usize, on: bool) {
    bus.write_configuration(slot, COMMAND, &[if on { 2 } else { 0 }, 0]);
}

fn move_to(bus: &PciBus, slot: usize, address: u32) {
    bus.write_configuration(slot, BAR, &address.to_le_bytes());
}

fn who(bus: &PciBus, address: u64) -> u8 {
    let mut data = [0xff; 4];
    bus.read(address.wrapping_sub(WINDOW.start), &mut data);
    data[0]
}

#[test]
fn a_function_answers_where_it_was_put_once_it_is_turned_on() {
    let bus = bus(2);
    assert_eq!(who(&bus, 0xe000_1000), 0xff);
    enable(&bus, 1, true);
    enable(&bus, 2, true);
    assert_eq!((who(&bus, 0xe000_1000), who(&bus, 0xe000_2ffc), who(&bus, 0xe000_3000)), (1, 2, 0xff));
    move_to(&bus, 1, 0xe800_0000);
    assert_eq!((who(&bus, 0xe000_1000), who(&bus, 0xe800_0ffc)), (0xff, 1));
    enable(&bus, 1, false);
    assert_eq!(who(&bus, 0xe800_0000), 0xff);
}

#[test]
fn of_two_functions_in_one_place_the_lower_slot_answers() {
    let bus = bus(2);
    (1..=2).for_each(|slot| enable(&bus, slot, true));
    move_to(&bus, 1, 0xe000_2000);
    assert_eq!(who(&bus, 0xe000_2000), 1);
    move_to(&bus, 1, 0xe000_5000);
    assert_eq!(who(&bus, 0xe000_2000), 2, "and the other is still there");
}

#[test]
fn a_function_outside_the_window_answers_to_nobody() {
    let bus = Arc::new(bus(1));
    let mut mapped = crate::bus::Bus::new();
    mapped.attach_window(WINDOW, bus.clone()).unwrap();
    enable(&bus, 1, true);
    for address in [0, 0x10_0000, 0xfec0_0000, 0xfee0_0000, 0xffff_f000u32] {
        move_to(&bus, 1, address);
        assert_eq!(mapped.read(address.into(), 4), 0xffff_ffff, "{address:#x}");
        assert_eq!(mapped.read(0xe000_1000, 4), 0xffff_ffff);
    }
    move_to(&bus, 1, 0xefff_f000);
    assert_eq!(mapped.read(0xefff_fff8, 8), 0x0101_0101_0101_0101);
    assert_eq!(mapped.read(0xefff_fffc, 8), u64::MAX, "over the end");
    mapped.write(0xefff_f007, 1, 0);
    assert_eq!(mapped.read(0xefff_f000, 1), 7);
}

#[test]
fn the_last_slot_is_the_last() {
    let mut bus = bus(31);
    let identity = Identity { vendor: 1, device: 1, class: 0, revision: 0 };
    let one_more = Arc::new(Mutex::new(Numbered(0, Configuration::new(identity, 0x1000, 0))));
    assert_eq!(bus.add(one_more), Err(NoSlot));
    let mut data = [0; 4];
    for slot in [0, 32, usize::MAX] {
        bus.read_configuration(slot, 0, &mut data);
        assert_eq!(data, [0xff; 4]);
        bus.write_configuration(slot, COMMAND, &[2]);
    }
}
