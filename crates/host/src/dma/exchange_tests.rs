//! The rules of a delivery, one by one, between machines that are nothing but memory.

use std::sync::Arc;

use lguest_abi::dma::Dma64;
use zerocopy::IntoBytes;

use super::super::list::Form;
use super::*;
use crate::memory::Memory;

const LIMIT: u64 = 0x10000;
const LIST: u64 = 0x1000;
const DATA: u64 = 0x4000;
const KEY: u64 = 8;
const A: PeerId = PeerId(1);
const B: PeerId = PeerId(2);
const STRIDE: u64 = size_of::<Dma64>() as u64;

struct Pair {
    exchange: Exchange,
    a: Arc<Memory>,
    b: Arc<Memory>,
}

fn pair() -> Pair {
    let mut exchange = Exchange::default();
    let [a, b] = [A, B].map(|peer| {
        let memory = Arc::new(Memory::new(LIMIT).unwrap());
        exchange.join(peer, Area::new(memory.clone(), LIMIT, Form::Bits64));
        memory
    });
    Pair { exchange, a, b }
}

fn put(memory: &Memory, at: u64, used: u32, sections: &[(u64, u16)]) {
    let mut dma = Dma64 { used_len: used, ..Dma64::default() };
    for (index, (address, length)) in sections.iter().enumerate() {
        (dma.addr[index], dma.len[index]) = (*address, *length);
    }
    memory.write(GuestAddress(at), dma.as_bytes()).unwrap();
}

fn used(memory: &Memory, at: u64) -> u32 {
    memory.load_word(GuestAddress(at)).unwrap()
}

fn bytes(memory: &Memory, at: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    memory.read(GuestAddress(at), &mut bytes).unwrap();
    bytes
}

fn irq(number: u8) -> Irq {
    Irq::new(number).unwrap()
}

impl Pair {
    fn bind(&mut self, count: u16) {
        self.exchange.bind(B, KEY, LIST, count, irq(3)).unwrap();
    }
    fn send(&mut self) -> Sent {
        self.exchange.send(A, KEY, LIST, &mut |_, _| {})
    }
    fn killed(&mut self) -> (PeerId, String) {
        let sent = self.send();
        assert_eq!((sent.used, sent.killed.len()), (0, 1), "{sent:?}");
        sent.killed[0].clone()
    }
}

#[test]
fn a_send_of_100_bytes_arrives_and_both_sides_learn_it() {
    let mut pair = pair();
    let text: Vec<u8> = (0..100).collect();
    pair.a.write(GuestAddress(DATA), &text).unwrap();
    put(&pair.a, LIST, 0, &[(DATA, 100)]);
    put(&pair.b, LIST, 0, &[(DATA, 1000)]);
    pair.bind(1);
    let sent = pair.send();
    assert_eq!(sent, Sent { used: 100, interrupt: Some((B, irq(3))), killed: vec![] });
    assert_eq!((used(&pair.a, LIST), used(&pair.b, LIST)), (100, 100));
    assert_eq!(bytes(&pair.b, DATA, 100), text);
}

#[test]
fn eight_sends_land_in_eight_lists_and_the_ninth_in_none() {
    let mut pair = pair();
    for n in 0..8 {
        put(&pair.b, LIST + n * STRIDE, 0, &[(DATA + n * 16, 16)]);
    }
    pair.bind(8);
    for n in 0..8u8 {
        pair.a.write(GuestAddress(DATA), &[n; 16]).unwrap();
        put(&pair.a, LIST, 0, &[(DATA, 16)]);
        assert_eq!(pair.send().used, 16);
        assert_eq!(bytes(&pair.b, DATA + u64::from(n) * 16, 16), [n; 16]);
    }
    put(&pair.a, LIST, 0, &[(DATA, 16)]);
    let ninth = pair.send();
    assert_eq!((ninth.used, used(&pair.a, LIST)), (0, 0));
    assert_eq!(ninth.interrupt, Some((B, irq(3))), "the receiver is called so that it refills");
}

#[test]
fn a_receiver_without_a_free_list_is_called_and_looked_at_exactly_once_more() {
    let mut pair = pair();
    put(&pair.a, LIST, 0, &[(DATA, 16)]);
    put(&pair.b, LIST, 7, &[(DATA, 16)]);
    pair.bind(1);
    // It refills on this call; one that waits for a second call waits for ever.
    for (refills_on, taken) in [(1, 16), (2, 0)] {
        pair.a.store_word(GuestAddress(LIST), 0).unwrap();
        pair.b.store_word(GuestAddress(LIST), 7).unwrap();
        let (receiver, mut calls) = (pair.b.clone(), Vec::new());
        let sent = pair.exchange.send(A, KEY, LIST, &mut |peer, irq| {
            calls.push((peer, irq));
            if calls.len() == refills_on {
                receiver.store_word(GuestAddress(LIST), 0).unwrap();
            }
        });
        assert_eq!(calls, [(B, irq(3))]);
        assert_eq!((sent.used, used(&pair.a, LIST)), (taken, taken));
        assert_eq!(sent.interrupt, Some((B, irq(3))));
    }
}

#[test]
fn a_receiver_with_a_free_list_is_not_called_beforehand() {
    let mut pair = pair();
    put(&pair.a, LIST, 0, &[(DATA, 16)]);
    put(&pair.b, LIST, 0, &[(DATA, 16)]);
    pair.bind(1);
    let sent = pair.exchange.send(A, KEY, LIST, &mut |_, _| panic!("nothing is full"));
    assert_eq!(sent.used, 16);
}

#[test]
fn busy_lists_are_skipped() {
    let mut pair = pair();
    put(&pair.b, LIST, 7, &[(DATA, 16)]);
    put(&pair.b, LIST + STRIDE, 0, &[(DATA + 64, 16)]);
    put(&pair.a, LIST, 0, &[(DATA, 16)]);
    pair.bind(2);
    assert_eq!(pair.send().used, 16);
    assert_eq!((used(&pair.b, LIST), used(&pair.b, LIST + STRIDE)), (7, 16));
}

#[test]
fn unequal_splits_go_on_where_they_were() {
    let mut pair = pair();
    let text: Vec<u8> = (0..=255).cycle().take(3000).collect();
    pair.a.write(GuestAddress(DATA), &text).unwrap();
    put(&pair.a, LIST, 0, &[(DATA, 1), (DATA + 1, 1999), (DATA + 2000, 1000)]);
    put(&pair.b, LIST, 0, &[(0x5000, 700), (0x6001, 13), (0x7000, 4096)]);
    pair.bind(1);
    assert_eq!(pair.send().used, 3000);
    let mut arrived = bytes(&pair.b, 0x5000, 700);
    arrived.extend(bytes(&pair.b, 0x6001, 13));
    arrived.extend(bytes(&pair.b, 0x7000, 2287));
    assert_eq!(arrived, text);
}

#[test]
fn what_does_not_fit_is_dropped() {
    let mut pair = pair();
    put(&pair.a, LIST, 0, &[(DATA, 4096), (DATA + 4096, 4096)]);
    put(&pair.b, LIST, 0, &[(DATA, 10)]);
    pair.bind(1);
    assert_eq!(pair.send().used, 10);
}

#[test]
fn an_empty_list_interrupts_and_leaves_the_receivers_free() {
    let mut pair = pair();
    put(&pair.a, LIST, 0, &[]);
    put(&pair.b, LIST, 0, &[(DATA, 10)]);
    pair.bind(1);
    let sent = pair.send();
    assert_eq!((sent.used, sent.interrupt), (0, Some((B, irq(3)))));
    assert_eq!(used(&pair.b, LIST), 0);
}

#[test]
fn sixteen_full_sections_need_no_end_mark() {
    let mut pair = pair();
    let each: Vec<(u64, u16)> = (0..16).map(|n| (DATA + n * 8, 8)).collect();
    put(&pair.a, LIST, 0, &each);
    put(&pair.b, LIST, 0, &each);
    pair.bind(1);
    assert_eq!(pair.send().used, 128);
}

#[test]
fn the_owner_of_a_list_that_crosses_a_page_dies_and_the_other_goes_on() {
    for (address, length, good) in [(DATA, 4096, true), (DATA + 2, 4095, false), (DATA + 1, 4096, false)] {
        let mut pair = pair();
        put(&pair.a, LIST, 0, &[(address, length)]);
        put(&pair.b, LIST, 0, &[(DATA, 4096)]);
        pair.bind(1);
        let sent = pair.send();
        let reason = format!("bad DMA entry: {length}@{address:x}");
        let killed = if good { vec![] } else { vec![(A, reason)] };
        assert_eq!(sent.killed, killed);
        // And the same list at the receiver kills the receiver.
        put(&pair.a, LIST, 0, &[(DATA, 4)]);
        put(&pair.b, LIST, 0, &[(address, length)]);
        let sent = pair.send();
        assert_eq!(
            sent.killed.iter().map(|(peer, _)| *peer).collect::<Vec<_>>(),
            if good { vec![] } else { vec![B] }
        );
    }
}

#[test]
fn a_section_may_end_at_the_limit_and_not_a_byte_above() {
    let mut pair = pair();
    pair.bind(1);
    put(&pair.b, LIST, 0, &[(DATA, 4096)]);
    put(&pair.a, LIST, 0, &[(LIMIT - 16, 16)]);
    assert_eq!(pair.send().used, 16);
    put(&pair.b, LIST, 0, &[(DATA, 4096)]);
    for (address, length) in [(LIMIT - 16, 17), (LIMIT, 1), (u64::MAX - 3, 16), (1 << 40, 1)] {
        put(&pair.a, LIST, 0, &[(address, length)]);
        assert_eq!(pair.killed(), (A, format!("bad DMA entry: {length}@{address:x}")));
    }
}

#[test]
fn whoever_points_at_its_device_pages_dies_and_the_other_goes_on() {
    for (bad, at_a, at_b) in [(A, LIMIT, DATA), (B, DATA, LIMIT)] {
        let mut pair = pair();
        for peer in [A, B] {
            let memory = Arc::new(Memory::with_device_pages(LIMIT, 2).unwrap());
            *(if peer == A { &mut pair.a } else { &mut pair.b }) = memory.clone();
            pair.exchange.join(peer, Area::new(memory, LIMIT + 0x2000, Form::Bits64));
        }
        put(&pair.a, LIST, 0, &[(at_a, 4)]);
        put(&pair.b, LIST, 0, &[(at_b, 4)]);
        pair.bind(1);
        assert_eq!(pair.killed(), (bad, format!("bad DMA entry: 4@{LIMIT:x}")));
    }
}

#[test]
fn a_bound_array_outside_memory_kills_its_owner_when_it_is_read() {
    for array in [LIMIT - STRIDE + 1, LIMIT, u64::MAX, u64::MAX - STRIDE] {
        let mut pair = pair();
        put(&pair.a, LIST, 0, &[(DATA, 4)]);
        pair.exchange.bind(B, KEY, array, 2, irq(1)).unwrap();
        assert_eq!(pair.killed(), (B, "bad address in registered DMA struct".to_owned()));
    }
}

#[test]
fn a_sent_list_outside_memory_kills_the_sender() {
    let mut pair = pair();
    put(&pair.b, LIST, 0, &[(DATA, 4)]);
    pair.bind(1);
    for list in [LIMIT, LIMIT - 4, u64::MAX] {
        assert_eq!(
            pair.exchange.send(A, KEY, list, &mut |_, _| {}).killed.first().map(|(peer, _)| *peer),
            Some(A)
        );
    }
}

#[test]
fn nothing_bound_other_keys_own_bindings_and_the_dead_get_nothing() {
    let mut pair = pair();
    put(&pair.a, LIST, 0, &[(DATA, 4)]);
    put(&pair.b, LIST, 0, &[(DATA, 4)]);
    assert_eq!(pair.send(), Sent::default());
    pair.exchange.bind(A, KEY, LIST, 1, irq(1)).unwrap();
    assert_eq!(pair.send(), Sent::default(), "itself");
    pair.bind(1);
    assert_eq!(pair.exchange.send(A, KEY + 4, LIST, &mut |_, _| {}), Sent::default(), "another key");
    assert!(pair.exchange.unbind(B, KEY, LIST) && !pair.exchange.unbind(B, KEY, LIST));
    assert_eq!(pair.send(), Sent::default(), "unbound");
    pair.bind(1);
    pair.exchange.leave(B);
    assert_eq!(pair.send(), Sent::default(), "gone");
}

#[test]
fn a_count_of_zero_is_always_full() {
    let mut pair = pair();
    put(&pair.a, LIST, 0, &[(DATA, 4)]);
    pair.bind(0);
    assert_eq!(pair.send().used, 0);
}

#[test]
fn random_lists_end_in_a_delivery_or_in_a_reason() {
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let mut pair = pair();
    for _ in 0..20_000 {
        let noise: Vec<u8> = (0..STRIDE / 8).flat_map(|_| (next() & next()).to_le_bytes()).collect();
        let memory = if next() & 1 == 0 { &pair.a } else { &pair.b };
        memory.write(GuestAddress(LIST), &noise).unwrap();
        let _ =
            pair.exchange.bind(B, KEY, if next() & 15 == 0 { next() } else { LIST }, next() as u16, irq(1));
        let list = if next() & 15 == 0 { next() } else { LIST };
        let sent = pair.exchange.send(A, KEY, list, &mut |_, _| {});
        assert!(sent.used as usize <= lguest_abi::dma::MAX_BYTES, "{sent:?}");
    }
}
