//! The page in a machine's memory, and what its Guest may call.

use std::io::Write;
use std::sync::mpsc::{Sender, channel};

use lguest_abi::device_page::{SIZE, check, entries};
use lguest_abi::meeting::{BOOT_SUBARCH, BOOT_SUBARCH_DATA, HYPERCALL_BY_PORT};
use lguest_host::irq::Controllers;
use lguest_host::memory::{GuestAddress, PAGE_SIZE};

use super::super::layout;
use super::*;

const NOTIFY: u64 = Hypercall::Notify as u64;

struct Shown(Sender<Vec<u8>>);

impl Write for Shown {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let _ = self.0.send(bytes.to_vec());
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A bus with no devices but those that are always there, after LGUEST_INIT; its memory, and what its screen shows.
fn bus() -> (PageBus, Arc<Memory>, std::sync::mpsc::Receiver<Vec<u8>>) {
    let spec = PageSpec::new(Vec::new()).unwrap();
    let memory = Arc::new(Memory::with_device_pages(1 << 20, spec.pages().unwrap()).unwrap());
    let rate = TscRate::from_khz(1_000_000);
    let platform = Platform::Translator(Controllers::new(1, rate).unwrap());
    let (shown, screen) = channel();
    let screen_pump = OutputPump::start(Box::new(Shown(shown))).unwrap();
    let mut bus = PageBus::new(spec, &memory, &platform, rate, screen_pump, true).unwrap();
    assert!(matches!(bus.call(Hypercall::Init as u64, [0x5000, 0, 0]), Next::Go(None)));
    (bus, memory, screen)
}

fn dead(next: Next) -> String {
    let Next::Dead(reason) = next else { panic!("it lives") };
    reason
}

#[test]
fn the_page_lies_at_the_end_of_low_ram_with_the_console_last_and_the_boot_parameters_say_so() {
    let (bus, memory, _screen) = bus();
    let mut page = [0; SIZE];
    memory.read(memory.low_end(), &mut page).unwrap();
    assert_eq!(check(&page, (1 << 20) / PAGE_SIZE as u32), Ok(()));
    let kinds: Vec<u8> = entries(&page).map(|entry| entry.unwrap().kind).collect();
    assert_eq!((kinds, bus.statuses()), (vec![4, 3], "0:0 1:0".to_owned()));
    let word = |offset: usize| {
        let mut bytes = [0; 4];
        memory.read(GuestAddress(layout::BOOT_PARAMETERS.0 + offset as u64), &mut bytes).unwrap();
        u32::from_le_bytes(bytes)
    };
    let how = (GENERATION_2 | HYPERCALL_BY_PORT) as u32;
    assert_eq!((word(BOOT_SUBARCH), word(BOOT_SUBARCH_DATA)), (1, how));
}

#[test]
fn early_text_is_on_the_screen_and_a_notify_for_nothing_is_a_death() {
    let (mut bus, memory, screen) = bus();
    memory.write(GuestAddress(0x6000), b"early\0").unwrap();
    assert!(matches!(bus.call(NOTIFY, [0, 0x6000, 0]), Next::Go(None)));
    assert_eq!(screen.recv().unwrap(), b"early");
    let base = memory.low_end().0;
    assert!(matches!(bus.call(NOTIFY, [0, base, 0]), Next::Go(None)), "a word about the first device");
    let reason = dead(bus.call(NOTIFY, [0, base + 1, 0]));
    assert_eq!(reason, "it notified 0x100001, where no device of its page listens");
    assert_eq!(bus.death(), Some(reason));
}

#[test]
fn the_first_generations_calls_are_gone() {
    for number in [12, 13, 32, 33, 3, 99] {
        let (mut bus, _memory, _screen) = bus();
        assert_eq!(dead(bus.call(number, [0, 0x5000, 1 << 8 | 3])), format!("Bad hypercall {number}"));
    }
}

#[test]
fn input_waits_in_a_buffer_with_an_end_and_whoever_sends_to_a_machine_that_is_gone_hears_it() {
    let (bus, _memory, _screen) = bus();
    let input = bus.input.clone();
    input.send(&[1; MOST_WAITING]).unwrap();
    let more = input.clone();
    let sender = std::thread::spawn(move || more.send(&[2]));
    let mut taken = [0; 100];
    assert_eq!(input.0.clone().take(&mut taken), 100);
    assert_eq!(sender.join().unwrap(), Ok(()), "there was room again");
    drop(bus);
    assert_eq!(input.send(&[3; MOST_WAITING]), Err(MachineGone));
}
