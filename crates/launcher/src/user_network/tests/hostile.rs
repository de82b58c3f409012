//! Frames that lie.

use std::time::Instant;

use lguest_devices::frame::Frame;
use smoltcp::wire::{EthernetFrame, EthernetProtocol};

use crate::user_network::addresses::{GATEWAY, GUEST, OURS};
use crate::user_network::bench::{self, MAC, World, is_tcp, ping};
use crate::user_network::packets;

use super::harness;

/// A small generator (xorshift64), the same at every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}

/// A SYN to the gateway, with a good header.
fn syn(port: u16) -> Vec<u8> {
    let mut tcp = vec![0; 20];
    tcp[..2].copy_from_slice(&port.to_be_bytes());
    tcp[2..4].copy_from_slice(&9u16.to_be_bytes());
    tcp[12] = 5 << 4;
    tcp[13] = 2;
    let header = packets::header(GUEST, GATEWAY, smoltcp::wire::IpProtocol::Tcp, tcp.len());
    let mut bytes = packets::ipv4(OURS, &header, |place| place.copy_from_slice(&tcp));
    EthernetFrame::new_unchecked(&mut bytes[..]).set_src_addr(MAC);
    bytes
}

#[test]
fn frames_with_bytes_changed_at_random_neither_panic_nor_grow_anything() {
    let mut random = Random(0x1234_5678_9abc_def1);
    let to = |port| std::net::SocketAddrV4::new(GATEWAY, port);
    let resolver = std::net::SocketAddrV4::new(crate::user_network::addresses::RESOLVER, 53);
    let broadcast = std::net::SocketAddrV4::new(std::net::Ipv4Addr::BROADCAST, 67);
    let good: Vec<Vec<u8>> = vec![
        syn(50_000),
        ping(GATEWAY, 3).bytes,
        bench::datagram(5000, to(9), b"hello").bytes,
        bench::datagram(5000, resolver, b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x03www\0\0\x01\0\x01").bytes,
        bench::datagram(68, broadcast, &[1; 300]).bytes,
        packets::ethernet(OURS, EthernetProtocol::Arp, 28, |bytes| bytes.fill(1)),
    ];
    for _ in 0..200 {
        let mut input = Vec::new();
        for _ in 0..100 {
            let mut bytes = good[random.below(good.len())].clone();
            for _ in 0..random.below(4) {
                let at = packets::ETHERNET + random.below(bytes.len() - packets::ETHERNET);
                bytes[at] = random.next() as u8;
            }
            if random.below(4) == 0 {
                bytes.truncate(random.below(bytes.len() + 1));
            }
            input.extend((bytes.len() as u16).to_le_bytes());
            input.extend(bytes);
        }
        harness::run(&input);
    }
}

/// The fuzz target's corpus: every form that a Guest's frames have here, and lies about each.
#[test]
fn the_corpus_of_frames_neither_panics_nor_grows_anything() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/frames");
    let entries = std::fs::read_dir(folder).expect("the corpus lies in the repository");
    let mut count = 0;
    for entry in entries {
        let entry = entry.expect("a folder can be read");
        println!("{}", entry.file_name().display());
        harness::run(&std::fs::read(entry.path()).expect("a file can be read"));
        count += 1;
    }
    assert!(count >= 10, "the corpus was read");
}

#[test]
fn connections_have_a_limit_and_one_more_is_refused() {
    // A port whose queue nobody empties takes the connections.
    let listener = std::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).unwrap();
    let mut world = World::new(&["host=yes"]);
    let port = listener.local_addr().unwrap().port();
    for guest in 1..=600u16 {
        let mut bytes = syn(guest);
        bytes[36..38].copy_from_slice(&port.to_be_bytes());
        world.stack.input(Frame::whole(bytes), Instant::now());
    }
    assert_eq!(world.stack.load().0, 512);
    let mut bytes = syn(700);
    bytes[36..38].copy_from_slice(&port.to_be_bytes());
    while world.stack.outbox.take().is_some() {}
    let answer = world.ask(Frame::whole(bytes), is_tcp);
    assert_eq!(answer[20 + 13] & 4, 4, "a reset");
}

#[test]
fn a_segment_of_no_connection_is_reset_and_a_reset_is_not_answered() {
    let mut world = World::new(&[]);
    for (flags, answered) in [(0x10, true), (0x11, true), (0x12, true), (0x04, false), (0x14, false)] {
        let mut bytes = syn(50_000);
        bytes[14 + 20 + 13] = flags;
        world.stack.input(Frame::whole(bytes), Instant::now());
        assert_eq!(world.stack.outbox.take().is_some(), answered, "{flags:#x}");
    }
}

#[test]
fn fragments_and_frames_for_others_are_dropped() {
    let mut world = World::new(&[]);
    let mut fragment = ping(GATEWAY, 1).bytes;
    fragment[20] = 0x20;
    let mut elsewhere = ping(GATEWAY, 1).bytes;
    elsewhere[..6].copy_from_slice(&[2, 9, 9, 9, 9, 9]);
    let mut six = ping(GATEWAY, 1).bytes;
    six[12..14].copy_from_slice(&[0x86, 0xdd]);
    for bytes in [fragment, elsewhere, six] {
        world.stack.input(Frame::whole(bytes), Instant::now());
        assert!(world.stack.outbox.is_empty());
    }
}
