//! Hypercalls against bare memory: what a Guest gets and what it dies of.

use lguest_abi::dma::Dma64;
use lguest_abi::hypercall::{Bind, pack_bind};
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::dma::Form;

const RAM: u64 = 0x10000;
const LIMIT: u64 = RAM + 0x2000;
const LIST: u64 = 0x1000;
const KEY: u64 = RAM + 0x1000;

#[derive(Default)]
struct Lines(AtomicU32);

impl Interrupts for Lines {
    fn raise(&self, irq: Irq) {
        self.0.fetch_or(1 << irq.number(), Ordering::Relaxed);
    }
}

fn fresh() -> Generation1 {
    let memory = Arc::new(Memory::with_device_pages(RAM, 2).unwrap());
    let area = Area::new(memory, LIMIT, Form::Bits64);
    Generation1::new(area, Vec::new(), Arc::new(Lines::default()), TscRate::from_khz(2_000_000))
}

fn started() -> Generation1 {
    let guest = fresh();
    assert_eq!(call(&guest, Hypercall::Init, [0x800, 0, 0]), Called::Done);
    guest
}

fn call(guest: &Generation1, call: Hypercall, arguments: Arguments) -> Called {
    guest.call(call as u64, arguments)
}

fn bind(guest: &Generation1, key: u64, array: u64, count: u16, irq: u8) -> Called {
    call(guest, Hypercall::BindDma, [key, array, pack_bind(Bind { count, irq })])
}

fn dead(reason: &str) -> Called {
    Called::Dead(reason.to_owned())
}

fn put(guest: &Generation1, at: u64, used_len: u32, address: u64, length: u16) {
    let mut dma = Dma64 { used_len, ..Dma64::default() };
    (dma.addr[0], dma.len[0]) = (address, length);
    guest.area().write(at, dma.as_bytes()).unwrap();
}

#[test]
fn init_tells_the_counters_rate_and_works_once() {
    let guest = started();
    let mut data = [0; 8];
    guest.area().read(0x800, &mut data).unwrap();
    assert_eq!(data, [0x80, 0x84, 0x1e, 0, 0, 0, 0, 0]);
    assert_eq!(call(&guest, Hypercall::Init, [0x800, 0, 0]), dead("already have lguest_data"));
}

#[test]
fn before_init_only_the_consoles_send_and_the_crash_work() {
    assert_eq!(bind(&fresh(), KEY, LIST, 1, 1), dead("hypercall 12 before LGUEST_INIT"));
    assert_eq!(call(&fresh(), Hypercall::SendDma, [KEY, LIST, 0]), dead("hypercall 13 before LGUEST_INIT"));
    let sent = Called::Sent { key: 0, list: LIST };
    assert_eq!(call(&fresh(), Hypercall::SendDma, [0, LIST, 0]), sent);
}

#[test]
fn unknown_numbers_and_those_of_32_bits_kill() {
    for number in [3, 14, 18, 99, u64::MAX] {
        assert_eq!(started().call(number, [0; 3]), dead(&format!("Bad hypercall {number}")));
    }
}

#[test]
fn a_crash_says_why_and_power_down_is_none() {
    let guest = started();
    guest.area().write(0x2000, b"out of \x1b[31mink\0junk").unwrap();
    assert_eq!(call(&guest, Hypercall::Crash, [0x2000, 0, 0]), dead("CRASH: out of  [31mink"));
    let guest = started();
    guest.area().write(0x2000, b"Power down\0").unwrap();
    assert_eq!(call(&guest, Hypercall::Crash, [0x2000, 0, 0]), Called::PowerOff);
    let guest = started();
    guest.area().write(0x2000, &[b'x'; 128]).unwrap();
    assert_eq!(call(&guest, Hypercall::Crash, [0x2000, 0, 0]), dead(&format!("CRASH: {}", "x".repeat(127))));
    let reason = format!("bad read address {:#x} len 128", LIMIT - 127);
    assert_eq!(call(&started(), Hypercall::Crash, [LIMIT - 127, 0, 0]), dead(&reason));
}

#[test]
fn the_first_reason_wins_and_a_dead_guest_stays_dead() {
    let guest = started();
    assert_eq!(guest.call(99, [0; 3]), dead("Bad hypercall 99"));
    assert_eq!(guest.call(98, [0; 3]), dead("Bad hypercall 99"));
    assert_eq!(guest.kill("late".to_owned()), "Bad hypercall 99");
    assert_eq!(call(&guest, Hypercall::GetWallClock, [0; 3]), dead("Bad hypercall 99"));
}

#[test]
fn keys_that_are_misaligned_or_no_memory_kill() {
    for key in [KEY + 1, KEY + 2, KEY + 3, LIMIT, u64::MAX - 3] {
        assert_eq!(bind(&started(), key, LIST, 1, 1), dead(&format!("bad dma key {key:x}")));
        assert_eq!(call(&started(), Hypercall::SendDma, [key, LIST, 0]), dead("bad sending DMA key"));
        let guest = started();
        assert!(matches!(guest.take(key), Err(GetDmaError::Killed(_))));
        assert_eq!(guest.death().as_deref(), Some("bad registered DMA buffer"));
    }
}

#[test]
fn interrupts_out_of_range_a_33rd_binding_and_a_second_unbind_answer_0() {
    let guest = started();
    for irq in [32, 33, 255] {
        assert_eq!(bind(&guest, KEY, LIST, 1, irq), Called::Answer(0));
    }
    for n in 0..32 {
        assert_eq!(bind(&guest, KEY + n * 4, LIST, 1, 31), Called::Answer(1));
    }
    assert_eq!(bind(&guest, KEY + 400, LIST, 1, 1), Called::Answer(0));
    assert_eq!(bind(&guest, KEY, LIST, 0, 0), Called::Answer(1), "unbind");
    assert_eq!(bind(&guest, KEY, LIST, 0, 0), Called::Answer(0), "again");
    assert_eq!(bind(&guest, KEY + 400, LIST, 1, 1), Called::Answer(1));
}

#[test]
fn a_device_takes_free_lists_in_order_and_none_twice() {
    let guest = started();
    put(&guest, LIST, 5, 0x4000, 16);
    put(&guest, LIST + 168, 0, 0x5000, 16);
    bind(&guest, KEY, LIST, 2, 7);
    let bound = guest.take(KEY).unwrap();
    assert_eq!((bound.list, bound.irq.number()), (LIST + 168, 7));
    assert_eq!(guest.area().used(LIST + 168).unwrap(), 7, "reserved by its irq");
    assert_eq!(guest.take(KEY), Err(GetDmaError::None), "all busy");
    assert_eq!(guest.area().used(LIST).unwrap(), 5, "a busy list is left alone");
    guest.finish(bound.list, 0);
    assert_eq!(guest.take(KEY).unwrap(), bound);
    assert_eq!(guest.take(KEY + 4), Err(GetDmaError::None), "nothing bound");
}

#[test]
fn a_bound_list_outside_memory_kills_when_it_is_taken() {
    let guest = started();
    bind(&guest, KEY, LIMIT - 167, 1, 7);
    assert!(matches!(guest.take(KEY), Err(GetDmaError::Killed(_))));
    let guest = started();
    put(&guest, LIST, 0, LIMIT - 15, 16);
    bind(&guest, KEY, LIST, 1, 7);
    assert_eq!(guest.take(KEY), Err(GetDmaError::Killed(format!("bad DMA entry: 16@{:x}", LIMIT - 15))));
}

#[test]
fn a_sent_list_may_cross_a_page_on_its_way_to_the_launcher_and_not_leave_memory() {
    let guest = started();
    put(&guest, LIST, 0, 0x4ff0, 256);
    assert_eq!(guest.sent(LIST).unwrap().total(), 256);
    put(&guest, LIST, 0, u64::MAX, 256);
    assert_eq!(guest.sent(LIST), Err("bad DMA entry: 256@ffffffffffffffff".to_owned()));
    assert!(guest.sent(LIMIT - 1).is_err());
}

#[test]
fn sections_that_point_at_descriptors_or_device_pages_kill() {
    for address in [RAM - 1, RAM, KEY, KEY + 0xff0] {
        let guest = started();
        put(&guest, LIST, 0, address, 16);
        let bad = format!("bad DMA entry: 16@{address:x}");
        assert_eq!(guest.sent(LIST), Err(bad.clone()));
        bind(&guest, KEY, LIST, 1, 7);
        assert_eq!(guest.take(KEY), Err(GetDmaError::Killed(bad)));
    }
    let guest = started();
    put(&guest, LIST, 0, RAM - 16, 16);
    assert_eq!(guest.sent(LIST).unwrap().total(), 16, "the last bytes of RAM");
}

#[test]
fn the_wall_clock_is_the_hosts() {
    let Called::Answer(seconds) = call(&started(), Hypercall::GetWallClock, [0; 3]) else {
        panic!("no answer")
    };
    assert!(seconds.abs_diff(seconds_since_1970()) <= 1);
}

#[test]
fn random_calls_never_panic() {
    let mut seed = 0x1234_5678_9abc_def1u64;
    let mut next = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    for _ in 0..200 {
        let guest = started();
        for _ in 0..100 {
            let mut word = || if next() & 1 == 0 { next() % (LIMIT + 64) } else { next() };
            let arguments = [word(), word(), word()];
            guest.call(next() % 40, arguments);
            let _ = guest.take(arguments[0]);
            let _ = guest.sent(arguments[1]);
        }
    }
}
