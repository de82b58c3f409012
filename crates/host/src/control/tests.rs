//! The control file's errors and answers, with Guests of a few bytes on the translator.

use std::time::Duration;

use lguest_abi::meeting::HYPERCALL_PORT;
use rustix::event::{EventfdFlags, eventfd};

use super::*;
use crate::memory::GuestAddress;

const RAM: u64 = 1 << 20;
const CODE: u64 = 0x10000;
const LIST: u64 = 0x5000;

/// Identity page tables for the first two mebibytes (not every KVM has larger pages), two flat segments, and the code.
pub(super) fn memory(code: &[u8]) -> (Arc<Memory>, LongModeEntry) {
    let memory = Memory::new(RAM).unwrap();
    let put = |at: u64, value: u64| memory.write(GuestAddress(at), &value.to_le_bytes()).unwrap();
    put(0x1000, 0x2003);
    put(0x2000, 0x9003);
    put(0x9000, 0x83);
    put(0x3010, 0x00af_9b00_0000_ffff);
    put(0x3018, 0x00cf_9300_0000_ffff);
    memory.write(GuestAddress(CODE), code).unwrap();
    let entry = LongModeEntry { rip: CODE, rsp: 0x8000, rsi: 0, cr3: 0x1000, gdt: 0x3000, gdt_limit: 0x1f };
    (Arc::new(memory), entry)
}

/// Code that makes these calls by port and then jumps to itself.
pub(super) fn calls(calls: &[(u32, u32, u32, u32)]) -> Vec<u8> {
    let mut code = Vec::new();
    for (number, first, second, third) in calls {
        for (opcode, value) in [(0xb8, number), (0xbe, first), (0xbb, second), (0xb9, third)] {
            code.push(opcode);
            code.extend(value.to_le_bytes());
        }
        code.push(0xba);
        code.extend(u32::from(HYPERCALL_PORT).to_le_bytes());
        code.push(0xef);
    }
    code.extend([0xeb, 0xfe]);
    code
}

fn guest(code: &[u8]) -> Control {
    let control = Control::open(Engine::Translator);
    let (memory, entry) = memory(code);
    assert_eq!(control.initialize(memory, RAM / PAGE_SIZE, entry).unwrap(), 3);
    control
}

pub(super) fn number<T>(result: Result<T, ControlError>) -> i32 {
    result.err().map_or(0, |error| error.number())
}

pub(super) fn words(control: &Control) -> Vec<u64> {
    let mut buffer = [0; 64];
    let length = control.run(0, &mut buffer).unwrap();
    buffer[..length].chunks(8).map(|word| u64::from_ne_bytes(word.try_into().unwrap())).collect()
}

#[test]
fn nothing_works_before_initialize_and_initialize_works_once() {
    let control = Control::open(Engine::Translator);
    assert_eq!(number(control.run(0, &mut [0; 16])), libc::EINVAL);
    assert_eq!(number(control.interrupt(0, 1)), libc::EINVAL);
    assert_eq!(number(control.take(0)), libc::EINVAL);
    assert_eq!(number(control.break_out()), libc::EINVAL);
    let event = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
    assert_eq!(number(control.eventfd(8, event)), libc::EINVAL);
    let (memory, entry) = memory(&[]);
    assert_eq!(number(control.initialize(memory.clone(), RAM / PAGE_SIZE + 1, entry)), libc::EFAULT);
    assert_eq!(number(control.initialize(memory.clone(), u64::MAX, entry)), libc::EFAULT);
    assert_eq!(number(control.initialize(memory.clone(), 0, entry)), libc::EFAULT);
    assert_eq!(control.initialize(memory.clone(), RAM / PAGE_SIZE, entry).unwrap(), 3);
    assert_eq!(number(control.initialize(memory, RAM / PAGE_SIZE, entry)), libc::EBUSY);
}

#[test]
fn of_two_that_initialise_at_once_one_wins() {
    let control = Control::open(Engine::Translator);
    let (memory, entry) = memory(&[]);
    let initialise = || number(control.initialize(memory.clone(), RAM / PAGE_SIZE, entry));
    let results = std::thread::scope(|scope| {
        let threads = [scope.spawn(initialise), scope.spawn(initialise)];
        let mut results = threads.map(|thread| thread.join().unwrap());
        results.sort_unstable();
        results
    });
    assert_eq!(results, [0, libc::EBUSY]);
}

#[test]
fn there_is_one_processor_and_32_interrupts() {
    let control = guest(&[0xeb, 0xfe]);
    assert_eq!(number(control.run(1, &mut [0; 16])), libc::EINVAL);
    assert_eq!(number(control.interrupt(1, 1)), libc::EINVAL);
    assert_eq!(number(control.interrupt(0, 31)), 0);
    assert_eq!(number(control.interrupt(0, 32)), libc::EINVAL);
    assert_eq!(number(control.run(0, &mut [0; 15])), libc::EINVAL);
}

#[test]
fn only_the_thread_that_initialised_runs_the_guest() {
    let control = guest(&[0xeb, 0xfe]);
    let other = std::thread::scope(|s| s.spawn(|| number(control.run(0, &mut [0; 16]))).join().unwrap());
    assert_eq!(other, libc::EPERM);
}

#[test]
fn a_send_to_the_launcher_comes_back_as_two_words_and_a_notify_as_one() {
    let control = guest(&calls(&[(13, 0, LIST as u32, 0), (1, 0x6000, 0, 0), (17, 0, 0x7000, 0)]));
    assert_eq!(words(&control), [LIST, 0]);
    assert_eq!(words(&control), [0x7000]);
}

#[test]
fn a_notify_that_an_eventfd_listens_for_does_not_come_back() {
    let control = guest(&calls(&[(1, 0x6000, 0, 0), (17, 0, 0x7000, 0), (17, 0, 0x7000, 0), (17, 0, 8, 0)]));
    let event = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
    control.eventfd(0x7000, event.try_clone().unwrap()).unwrap();
    assert_eq!(words(&control), [8]);
    let mut count = [0; 8];
    rustix::io::read(&event, &mut count).unwrap();
    assert_eq!(u64::from_ne_bytes(count), 2);
    assert_eq!(number(control.eventfd(0, event)), libc::EINVAL);
}

#[test]
fn a_list_that_the_guest_bound_is_taken_and_given_back() {
    let control = guest(&calls(&[(1, 0x6000, 0, 0), (12, 0x4000, LIST as u32, 1 << 8 | 5), (17, 0, 8, 0)]));
    assert_eq!(words(&control), [8]);
    let bound = control.take(0x4000).unwrap();
    assert_eq!((bound.list, bound.irq.number()), (LIST, 5));
    assert_eq!(number(control.take(0x4000)), libc::ENOENT);
    control.finish(bound.list, 0).unwrap();
    assert_eq!(control.take(0x4000).unwrap(), bound);
    assert_eq!(number(control.take(0x4001)), libc::ENOENT);
    assert_eq!(number(control.take(0x4000)), libc::ENOENT, "a key that is none killed the Guest");
}

#[test]
fn a_dead_guest_says_enoent_once_and_then_why() {
    let control = guest(&calls(&[(99, 0, 0, 0)]));
    assert_eq!(number(control.run(0, &mut [0; 16])), libc::ENOENT);
    let mut text = [0xff; 32];
    assert_eq!(control.run(0, &mut text).unwrap(), 17);
    assert_eq!(&text[..17], b"Bad hypercall 99\0");
    let mut short = [0; 3];
    assert_eq!(control.run(0, &mut short).unwrap(), 3);
    assert_eq!(&short, b"Bad");
    assert_eq!(number(control.interrupt(0, 1)), libc::ENOENT);
    assert_eq!(number(control.break_out()), libc::ENOENT);
    let (memory, entry) = memory(&[]);
    assert_eq!(number(control.initialize(memory, RAM / PAGE_SIZE, entry)), libc::EBUSY);
}

#[test]
fn a_break_gets_a_guest_out_of_an_endless_loop_and_lets_it_go_on() {
    let control = guest(&[0xeb, 0xfe]);
    std::thread::scope(|scope| {
        let waker = scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(30));
            number(control.break_out())
        });
        assert_eq!(number(control.run(0, &mut [0; 16])), libc::EAGAIN);
        assert_eq!(number(control.run(0, &mut [0; 16])), libc::EAGAIN, "until the break is done");
        assert!(!waker.is_finished(), "the Waker waits");
        control.break_done().unwrap();
        assert_eq!(waker.join().unwrap(), 0);
        let again = scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(30));
            number(control.break_out())
        });
        assert_eq!(number(control.run(0, &mut [0; 16])), libc::EAGAIN, "it ran on, and was called out again");
        control.break_done().unwrap();
        again.join().unwrap();
    });
}

#[test]
fn closing_lets_a_waker_go_and_a_file_without_a_guest_closes_too() {
    drop(Control::open(Engine::Translator));
    let control = Arc::new(guest(&[0xeb, 0xfe]));
    drop(control);
    assert!(VCPUS.with_borrow(|vcpus| vcpus.is_empty()));
}

#[test]
fn requests_in_words_have_the_originals_errors() {
    use std::os::fd::AsRawFd;
    let control = Control::open(Engine::Translator);
    for words in [&[2, 1][..], &[9], &[4, 8, 0], &[]] {
        assert_eq!(number(control.write(0, words)), libc::EINVAL, "{words:?} before INITIALIZE");
    }
    assert_eq!(number(control.write(0, &[0, 0, 16, 0])), libc::EFAULT, "a number is no memory");
    let control = guest(&calls(&[(1, 0x6000, 0, 0), (12, 0x4000, LIST as u32, 1 << 8 | 5), (17, 0, 8, 0)]));
    assert_eq!(number(control.write(0, &[0, 0, 16, 0])), libc::EBUSY);
    assert_eq!(words(&control), [8]);
    for request in [&[5][..], &[u64::MAX], &[2, 32], &[2, 257], &[2], &[4, 0, 0], &[4, 8]] {
        assert_eq!(number(control.write(0, request)), libc::EINVAL, "{request:?}");
    }
    assert_eq!(number(control.write(1, &[2, 1])), libc::EINVAL, "one processor");
    assert_eq!(control.write(0, &[2, 31]).unwrap(), 0);
    assert_eq!(control.write(0, &[1, 0x4000]).unwrap(), LIST);
    assert_eq!(number(control.write(0, &[1, 0x4000])), libc::ENOENT);
    for file in [u64::MAX, 1 << 32, i32::MAX as u64] {
        assert_eq!(number(control.write(0, &[4, 8, file])), libc::EBADF);
    }
    let event = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
    assert_eq!(control.write(0, &[4, 8, event.as_raw_fd() as u64]).unwrap(), 0);
}
