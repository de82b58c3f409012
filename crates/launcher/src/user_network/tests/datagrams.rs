//! UDP, ICMP, DHCP, ARP and DNS.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, DhcpMessageType, DhcpPacket, DhcpRepr, EthernetFrame, EthernetProtocol,
    Ipv4Packet,
};

use crate::user_network::addresses::{GATEWAY, GUEST, MASK, OURS, RESOLVER};
use crate::user_network::bench::{self, MAC, World, data, datagram, is_icmp, is_udp, ping};
use crate::user_network::packets;

use lguest_devices::frame::Frame;

fn server() -> (UdpSocket, SocketAddrV4) {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let port = socket.local_addr().unwrap().port();
    (socket, SocketAddrV4::new(GATEWAY, port))
}

#[test]
fn a_datagram_goes_out_and_its_answer_comes_back() {
    let mut world = World::new(&["host=yes"]);
    let (socket, place) = server();
    let echo = thread::spawn(move || {
        let mut bytes = [0; 65_536];
        for _ in 0..2 {
            let (length, from) = socket.recv_from(&mut bytes).unwrap();
            bytes[..length].reverse();
            socket.send_to(&bytes[..length], from).unwrap();
        }
    });
    assert_eq!(data(&world.ask(datagram(5000, place, b"abc"), is_udp)), b"cba");
    let large: Vec<u8> = (0..60_000).map(|at| at as u8).collect();
    let mut back = large.clone();
    back.reverse();
    assert!(data(&world.ask(datagram(5000, place, &large), is_udp)) == back);
    assert_eq!(world.stack.load(), (0, 1), "one pair of ends, one socket");
    echo.join().unwrap();
}

#[test]
fn a_datagram_that_nobody_takes_is_told() {
    let mut world = World::new(&["host=yes"]);
    let (socket, place) = server();
    drop(socket);
    let error = world.ask(datagram(5000, place, b"abc"), is_icmp);
    assert_eq!(error[20..22], [3, 3], "destination unreachable, port");
    let refused = world.ask(datagram(5000, SocketAddrV4::new(Ipv4Addr::LOCALHOST, 9), b"abc"), is_icmp);
    assert_eq!(refused[20..22], [3, 13], "prohibited");
}

#[test]
fn pairs_of_ends_have_a_limit() {
    let mut world = World::new(&["host=yes"]);
    let (_socket, place) = server();
    for port in 1..1000 {
        world.stack.input(datagram(port, place, b"x"), Instant::now());
    }
    assert_eq!(world.stack.load(), (0, 256));
}

#[test]
fn our_own_addresses_answer_a_ping() {
    let mut world = World::new(&[]);
    for address in [GATEWAY, RESOLVER] {
        let answer = world.ask(ping(address, 77), is_icmp);
        let packet = Ipv4Packet::new_checked(&answer[..]).unwrap();
        assert_eq!((packet.src_addr(), packet.dst_addr()), (address, GUEST));
        assert_eq!(packet.payload()[..2], [0, 0]);
        assert_eq!(packet.payload()[4..], [0, 77, 0, 7, b'h', b'e', b'l', b'l', b'o']);
    }
}

#[test]
fn another_machine_is_pinged_where_the_host_lets_its_users_ping() {
    // With host=yes the gateway still answers by itself, so the loopback is pinged by way of a list that names it: no.
    let mut world = World::new(&[]);
    let answer = world.ask(ping(Ipv4Addr::new(127, 0, 0, 1), 77), is_icmp);
    assert_eq!(answer[20..22], [3, 13], "the host itself is prohibited");
}

#[test]
fn the_gateway_says_where_it_is() {
    let mut world = World::new(&[]);
    let question = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr: MAC,
        source_protocol_addr: GUEST,
        target_hardware_addr: MAC,
        target_protocol_addr: GATEWAY,
    };
    let bytes = packets::ethernet(OURS, EthernetProtocol::Arp, question.buffer_len(), |bytes| {
        question.emit(&mut ArpPacket::new_unchecked(bytes));
    });
    world.stack.input(bench::from_guest(Frame::whole(bytes)), Instant::now());
    let answer = world.stack.outbox.take().unwrap();
    let frame = EthernetFrame::new_checked(&answer.bytes[..]).unwrap();
    assert_eq!((frame.dst_addr(), frame.src_addr()), (MAC, OURS));
    let ArpRepr::EthernetIpv4 { source_hardware_addr, source_protocol_addr, .. } =
        ArpRepr::parse(&ArpPacket::new_checked(frame.payload()).unwrap()).unwrap()
    else {
        panic!("no ARP for IPv4")
    };
    assert_eq!((source_hardware_addr, source_protocol_addr), (OURS, GATEWAY));
}

fn dhcp(world: &mut World, message: DhcpMessageType, wanted: Option<Ipv4Addr>) -> Vec<u8> {
    let asked = DhcpRepr {
        message_type: message,
        transaction_id: 0x1234_5678,
        secs: 0,
        client_hardware_address: MAC,
        client_ip: Ipv4Addr::UNSPECIFIED,
        your_ip: Ipv4Addr::UNSPECIFIED,
        server_ip: Ipv4Addr::UNSPECIFIED,
        router: None,
        subnet_mask: None,
        relay_agent_ip: Ipv4Addr::UNSPECIFIED,
        broadcast: false,
        requested_ip: wanted,
        client_identifier: None,
        server_identifier: None,
        parameter_request_list: None,
        dns_servers: None,
        max_size: None,
        lease_duration: None,
        renew_duration: None,
        rebind_duration: None,
        additional_options: &[],
    };
    let mut bytes = vec![0; asked.buffer_len()];
    asked.emit(&mut DhcpPacket::new_unchecked(&mut bytes[..])).unwrap();
    let from = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 68);
    let frame = packets::udp(OURS, from, SocketAddrV4::new(Ipv4Addr::BROADCAST, 67), &bytes);
    data(&world.ask(bench::from_guest(frame), is_udp))
}

#[test]
fn a_guest_that_asks_for_an_address_gets_the_one_there_is() {
    let mut world = World::new(&[]);
    for (asked, wanted, expected) in [
        (DhcpMessageType::Discover, None, DhcpMessageType::Offer),
        (DhcpMessageType::Request, Some(GUEST), DhcpMessageType::Ack),
        (DhcpMessageType::Request, Some(Ipv4Addr::new(192, 0, 2, 1)), DhcpMessageType::Nak),
    ] {
        let answer = dhcp(&mut world, asked, wanted);
        let packet = DhcpPacket::new_checked(&answer[..]).unwrap();
        let answer = DhcpRepr::parse(&packet).unwrap();
        assert_eq!((answer.message_type, answer.transaction_id), (expected, 0x1234_5678));
        let leased = expected != DhcpMessageType::Nak;
        let when_leased = |address| Some(address).filter(|_| leased);
        assert_eq!(answer.your_ip, when_leased(GUEST).unwrap_or(Ipv4Addr::UNSPECIFIED));
        assert_eq!((answer.router, answer.subnet_mask), (when_leased(GATEWAY), when_leased(MASK)));
        assert_eq!(answer.dns_servers.map(|servers| servers[0]), when_leased(RESOLVER));
    }
}

const QUESTION: &[u8] = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x03www\x07example\0\0\x01\0\x01";

#[test]
fn a_question_is_answered_by_the_hosts_resolver() {
    let (resolver, place) = server();
    let mut world = World::new(&[&format!("dns=127.0.0.1:{}", place.port())]);
    let answers = thread::spawn(move || {
        let mut bytes = [0; 512];
        let (length, from) = resolver.recv_from(&mut bytes).unwrap();
        assert_eq!(&bytes[..length], QUESTION);
        // A stranger's number is no answer.
        resolver.send_to(b"\x99\x99\x81\x80\0\0\0\0\0\0\0\0", from).unwrap();
        bytes[2] = 0x81;
        resolver.send_to(&bytes[..length], from).unwrap();
    });
    let answer = data(&world.ask(datagram(5000, SocketAddrV4::new(RESOLVER, 53), QUESTION), is_udp));
    assert_eq!((&answer[..3], &answer[3..]), (&b"\x12\x34\x81"[..], &QUESTION[3..]));
    answers.join().unwrap();
}

#[test]
fn resolvers_that_do_not_answer_are_a_failure_in_time() {
    // One that nobody listens at and one that is silent.
    let (silent, place) = server();
    for resolver in [9, place.port()] {
        let mut world = World::new(&[&format!("dns=127.0.0.1:{resolver}")]);
        let start = Instant::now();
        let answer = data(&world.ask(datagram(5000, SocketAddrV4::new(RESOLVER, 53), QUESTION), is_udp));
        assert_eq!(answer[..4], *b"\x12\x34\x81\x82", "SERVFAIL");
        assert!(start.elapsed() < Duration::from_secs(5));
    }
    drop(silent);
    let mut world = World::new(&["dns=none"]);
    let answer = data(&world.ask(datagram(5000, SocketAddrV4::new(RESOLVER, 53), QUESTION), is_udp));
    assert_eq!(answer[3] & 0xf, 5, "REFUSED");
}

#[test]
fn a_forwarded_datagram_and_its_answer_find_their_ways() {
    let port = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    let mut world = World::new(&[&format!("forward=udp:{port}:7000")]);
    let (client, _) = server();
    client.send_to(b"question", (Ipv4Addr::LOCALHOST, port)).unwrap();
    // The Guest shows itself.
    let packet = world.ask(ping(GATEWAY, 1), is_udp);
    let packet = Ipv4Packet::new_checked(&packet[..]).unwrap();
    let datagram_in = smoltcp::wire::UdpPacket::new_checked(packet.payload()).unwrap();
    assert_eq!(
        (packet.src_addr(), datagram_in.dst_port(), datagram_in.payload()),
        (GATEWAY, 7000, &b"question"[..])
    );
    let back = SocketAddrV4::new(GATEWAY, datagram_in.src_port());
    world.stack.input(datagram(7000, back, b"answer"), Instant::now());
    let mut bytes = [0; 16];
    assert_eq!(client.recv_from(&mut bytes).map(|(length, _)| length).unwrap(), 6);
    assert_eq!(&bytes[..6], b"answer");
}
