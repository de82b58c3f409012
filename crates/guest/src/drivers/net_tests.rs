use alloc::vec;

use lguest_abi::dma::MAX_SECTIONS;

use super::*;
use crate::mock_host::{Event, MockHost, page_of};
use crate::model::Registry;

const ME: u16 = 3;

struct Rig {
    host: Rc<MockHost>,
    registry: Registry,
    net: Rc<NetDevice>,
}

fn rig(features: u16) -> Rig {
    let host = MockHost::new();
    host.describe(1, kind::NET, features | ME, 1);
    let driver = Rc::new(NetDriver::new(&host.memory(), 7));
    let registry = host.with_driver(driver.clone());
    let net = driver.devices().remove(0);
    Rig { host, registry, net }
}

impl Rig {
    fn peer(&self, slot: u16, address: [u8; 6]) {
        self.host.poke(page_of(1) + slot_offset(slot), &address);
    }

    fn slot(&self, slot: u16) -> Vec<u8> {
        self.host.peek(page_of(1) + slot_offset(slot), 6)
    }

    fn keys(&self) -> Vec<u64> {
        self.host.sent.borrow_mut().drain(..).map(|(key, _, _)| (key - page_of(1)) / 4).collect()
    }

    fn deliver(&self, length: usize) -> bool {
        self.host.deliver(&self.registry, page_of(1) + key_offset(ME), &vec![1; length])
    }
}

fn frame(to: [u8; 6]) -> Vec<u8> {
    let mut frame = vec![0; 60];
    frame[..6].copy_from_slice(&to);
    frame
}

const A: [u8; 6] = [2, 0, 1, 0, 0, 0];
const B: [u8; 6] = [2, 0, 2, 0, 0, 0];
const ALL: [u8; 6] = [0xff; 6];

#[test]
fn each_peer_has_its_own_key_and_a_packet_finds_its_address() {
    let rig = rig(0);
    rig.peer(0, A);
    rig.peer(681, B);
    assert_eq!(rig.net.transmit(&frame(A)), 1);
    assert_eq!(rig.keys(), [0]);
    assert_eq!(rig.net.transmit(&frame(B)), 1);
    assert_eq!(rig.keys(), [681]);
}

#[test]
fn a_promiscuous_peer_sees_what_is_for_others_until_it_stops() {
    let rig = rig(0);
    rig.peer(0, A);
    rig.peer(1, [3, 0, 2, 0, 0, 0]);
    rig.net.transmit(&frame(A));
    assert_eq!(rig.keys(), [0, 1]);
    rig.net.transmit(&frame(B));
    assert_eq!(rig.keys(), [1], "its own address counts without the bit");
    rig.peer(1, B);
    rig.net.transmit(&frame(A));
    assert_eq!(rig.keys(), [0]);
}

#[test]
fn broadcast_and_multicast_are_one_send_for_every_used_slot_but_our_own() {
    let rig = rig(0);
    rig.net.open().unwrap();
    (0..3).for_each(|slot| rig.peer(slot, [2, 0, slot as u8 + 1, 0, 0, 0]));
    for many in [ALL, [1, 0, 0x5e, 0, 0, 1]] {
        assert_eq!(rig.net.transmit(&frame(many)), 3);
        assert_eq!(rig.keys(), [0, 1, 2], "slot 3 is ours, the others are empty");
    }
}

#[test]
fn a_dead_peer_is_a_carrier_error_and_nothing_else() {
    let rig = rig(0);
    rig.peer(0, A);
    rig.peer(1, B);
    let dead = page_of(1) + key_offset(1);
    *rig.host.taker.borrow_mut() =
        Box::new(move |key, bytes| if key == dead { 0 } else { bytes.len() as u32 });
    assert_eq!(rig.net.transmit(&frame(ALL)), 1);
    let counts = rig.net.statistics();
    assert_eq!((counts.tx_packets, counts.tx_bytes, counts.tx_carrier_errors), (1, 60, 1));
}

#[test]
fn statistics_count_a_packet_once_a_peer() {
    let rig = rig(0);
    (0..3).for_each(|slot| rig.peer(slot, [2, 0, slot as u8 + 1, 0, 0, 0]));
    rig.net.transmit(&frame(ALL));
    assert_eq!((rig.net.statistics().tx_packets, rig.net.statistics().tx_bytes), (3, 180));
}

#[test]
fn an_empty_network_takes_every_packet() {
    let rig = rig(0);
    assert_eq!(rig.net.transmit(&frame(ALL)), 0);
    assert_eq!(rig.net.statistics(), Statistics::default());
}

#[test]
fn a_packet_is_cut_at_page_ends_and_at_sixteen_sections() {
    let rig = rig(0);
    rig.peer(0, A);
    rig.host.poke(0x5000 - 10, &A);
    let fragments: Vec<(u64, u16)> = (0..14).map(|index| (0x6000 + index * 0x100, 10)).collect();
    assert_eq!(rig.net.transmit_fragments((0x5000 - 10, 60), &fragments), 1);
    let (_, list, bytes) = rig.host.sent.borrow()[0].clone();
    assert_eq!(list.as_slice()[..2].iter().map(|part| part.length).collect::<Vec<_>>(), [10, 50]);
    assert_eq!((list.as_slice().len(), bytes.len()), (MAX_SECTIONS, 200));
    assert_eq!(rig.net.statistics().tx_truncated, 0);
    let more: Vec<(u64, u16)> = (0..15).map(|index| (0x6000 + index * 0x100, 10)).collect();
    rig.net.transmit_fragments((0x5000 - 10, 60), &more);
    assert_eq!((rig.host.sent.borrow()[1].2.len(), rig.net.statistics().tx_truncated), (200, 1));
}

#[test]
fn opening_publishes_and_closing_clears_and_unbinds() {
    let rig = rig(0);
    assert_eq!(rig.slot(ME), [0; 6]);
    rig.net.open().unwrap();
    assert_eq!(rig.slot(ME), [2, 0, 7, 0, 0, 0]);
    {
        let bindings = rig.host.bindings.borrow();
        assert_eq!((bindings[0].key, bindings[0].count), (page_of(1) + 12, 8));
        assert_eq!(bindings[0].irq, 2);
    }
    assert!(rig.deliver(60));
    rig.net.close();
    assert_eq!(rig.slot(ME), [0; 6]);
    assert!(rig.host.bindings.borrow().is_empty() && !rig.deliver(60));
}

#[test]
fn a_refused_binding_takes_the_address_back_and_frees_the_buffers() {
    let rig = rig(0);
    let before = rig.host.live.get();
    rig.host.refuse_bindings.set(true);
    assert_eq!(rig.net.open(), Err(BindError::NoMemory));
    assert_eq!((rig.slot(ME), rig.host.live.get()), (vec![0; 6], before));
    rig.host.refuse_bindings.set(false);
    rig.host.allocations_left.set(4);
    assert_eq!(rig.net.open(), Err(BindError::NoMemory));
    assert_eq!(rig.host.live.get(), before);
}

#[test]
fn a_burst_of_eight_fits_and_the_ninth_does_not() {
    let rig = rig(0);
    rig.net.open().unwrap();
    let key = page_of(1) + key_offset(ME);
    for _ in 0..8 {
        let (_, list) = rig.host.free_list(key).unwrap();
        assert_eq!(rig.host.list(list.unwrap()).total(), 1514);
        rig.host.poke(list.unwrap(), &60u32.to_le_bytes());
    }
    assert_eq!(rig.host.free_list(key).unwrap().1, None, "the ninth finds nothing");
    assert!(rig.net.interrupt());
    assert_eq!(rig.net.statistics().rx_packets, 8);
    assert!(rig.host.free_list(key).unwrap().1.is_some(), "and all are offered again");
    assert!(!rig.net.interrupt(), "nothing came: not ours");
}

#[test]
fn lengths_from_14_to_1514_pass_and_others_are_dropped() {
    let rig = rig(0);
    rig.net.open().unwrap();
    for (length, passes) in [(13, false), (14, true), (1514, true)] {
        rig.deliver(length);
        assert_eq!(rig.net.receive().map(|frame| frame.bytes.len()), passes.then_some(length));
    }
    // A Host that says more than the buffer holds.
    let (_, list) = rig.host.free_list(page_of(1) + key_offset(ME)).unwrap();
    rig.host.poke(list.unwrap(), &1515u32.to_le_bytes());
    assert!(rig.net.interrupt());
    assert_eq!(rig.net.receive(), None);
    let counts = rig.net.statistics();
    assert_eq!((counts.rx_packets, counts.rx_bytes, counts.rx_dropped), (2, 1500, 2));
}

#[test]
fn a_flood_that_nobody_reads_has_an_end() {
    let rig = rig(0);
    rig.net.open().unwrap();
    (0..MAX_WAITING + 10).for_each(|_| assert!(rig.deliver(60)));
    assert_eq!(rig.net.statistics().rx_dropped, 10);
    assert_eq!(core::iter::from_fn(|| rig.net.receive()).count(), MAX_WAITING);
}

#[test]
fn refilling_writes_the_buffers_then_a_barrier_then_the_offer() {
    let rig = rig(0);
    rig.net.open().unwrap();
    let (_, list) = rig.host.free_list(page_of(1) + key_offset(ME)).unwrap();
    let list = list.unwrap();
    rig.host.poke(list, &60u32.to_le_bytes());
    rig.host.events.borrow_mut().clear();
    rig.net.interrupt();
    let events = rig.host.events.borrow().clone();
    let offer = events.iter().position(|event| *event == Event::Write(list)).unwrap();
    assert_eq!(events[offer - 2..offer], [Event::Write(list + 4), Event::Barrier]);
}

#[test]
fn checksums_are_needless_both_ways_only_on_a_local_link() {
    for (features, local) in [(feature::NET_NO_CHECKSUM, true), (feature::RANDOMNESS, false)] {
        let rig = rig(features);
        rig.net.open().unwrap();
        assert_eq!(rig.net.is_local(), local);
        rig.deliver(60);
        assert_eq!(rig.net.receive().unwrap().checksum_needed, !local);
    }
}

#[test]
fn any_group_sets_the_bit_and_none_clears_it() {
    let rig = rig(0);
    rig.net.open().unwrap();
    rig.net.set_groups(&[EthernetAddress([1, 0, 0x5e, 0, 0, 1])]);
    assert_eq!(rig.slot(ME)[0], 3);
    rig.net.set_groups(&[]);
    assert_eq!(rig.slot(ME)[0], 2);
    rig.net.set_promiscuous(true);
    assert_eq!(rig.slot(ME)[0], 3);
}

#[test]
fn a_slot_past_the_page_is_refused() {
    let host = MockHost::new();
    host.describe(0, kind::NET, SLOTS, 1);
    let driver = Rc::new(NetDriver::new(&host.memory(), 7));
    host.with_driver(driver.clone());
    assert!(driver.devices().is_empty() && host.status(0) == 3);
}

#[test]
fn two_networks_of_a_guest_have_two_addresses_and_the_first_is_the_originals() {
    let host = MockHost::new();
    host.describe(1, kind::NET, ME, 1);
    host.describe(2, kind::NET, ME, 1);
    let driver = Rc::new(NetDriver::new(&host.memory(), 0x0107));
    let _registry = host.with_driver(driver.clone());
    let addresses: Vec<_> = driver.devices().iter().map(|net| net.address().0).collect();
    assert_eq!(addresses, [[2, 0, 7, 1, 0, 0], [2, 0, 7, 1, 0, 1]]);
}
