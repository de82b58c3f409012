//! TCP.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use lguest_devices::frame::Abilities;
use smoltcp::socket::tcp::State;

use crate::user_network::addresses::GATEWAY;
use crate::user_network::bench::World;

/// Bytes that tell their place, so that none can be lost, doubled or swapped unseen.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 31 + at / 251) as u8).collect()
}

const MEGABYTE: usize = 1 << 20;

fn listener() -> (TcpListener, SocketAddrV4) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, SocketAddrV4::new(GATEWAY, port))
}

/// Sends `out` to a server that first reads all of it and then answers with as much; returns what each side got.
fn exchange(mut world: World) -> (Vec<u8>, Vec<u8>) {
    let (listener, place) = listener();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut got = Vec::new();
        stream.read_to_end(&mut got).unwrap();
        stream.write_all(&pattern(MEGABYTE)).unwrap();
        got
    });
    let handle = world.connect(place, 50_001);
    let (out, mut sent, mut got) = (pattern(MEGABYTE), 0, Vec::new());
    world.until("the answer came whole", |world| {
        let socket = world.socket(handle);
        if sent < out.len() && socket.can_send() {
            sent += socket.send_slice(&out[sent..]).unwrap();
            if sent == out.len() {
                // Only this half: the answer comes through the other.
                socket.close();
            }
        }
        while socket.can_recv() {
            socket.recv(|bytes| (got.extend_from_slice(bytes), bytes.len()).into_pair()).unwrap();
        }
        socket.state() == State::TimeWait
    });
    world.until("the connection is forgotten", |world| world.stack.load() == (0, 0));
    (server.join().unwrap(), got)
}

trait IntoPair {
    fn into_pair(self) -> (usize, ());
}

impl IntoPair for ((), usize) {
    fn into_pair(self) -> (usize, ()) {
        (self.1, self.0)
    }
}

#[test]
fn a_megabyte_goes_out_and_comes_back_over_a_half_closed_connection() {
    let (out, back) = exchange(World::new(&["host=yes"]));
    assert!(out == pattern(MEGABYTE) && back == pattern(MEGABYTE));
}

#[test]
fn large_segments_carry_the_same_bytes() {
    let (out, back) = exchange(World::with(&["host=yes"], Abilities { unfinished: true, large: true }));
    assert!(out == pattern(MEGABYTE) && back == pattern(MEGABYTE));
}

#[test]
fn a_side_that_does_not_read_makes_the_other_wait_and_loses_nothing() {
    let mut world = World::new(&["host=yes"]);
    let (listener, place) = listener();
    let handle = world.connect(place, 50_001);
    world.until("connected", |world| world.socket(handle).may_send());
    let (mut stream, _) = listener.accept().unwrap();
    // The Guest sends until nothing moves any more: every buffer on the way is full.
    let (out, mut sent, mut idle) = (pattern(64 * MEGABYTE), 0, 0);
    world.until("the Guest is stopped", |world| {
        let socket = world.socket(handle);
        let more = if socket.can_send() { socket.send_slice(&out[sent..]).unwrap() } else { 0 };
        sent += more;
        idle = if more == 0 { idle + 1 } else { 0 };
        idle > 200
    });
    assert!(sent < out.len(), "64 MiB fit nowhere on the way");
    world.socket(handle).close();
    stream.set_nonblocking(true).unwrap();
    let mut got = Vec::new();
    world.until("everything arrived", |_| {
        let mut piece = vec![0; 1 << 18];
        match stream.read(&mut piece) {
            Ok(0) => true,
            Ok(length) => {
                got.extend_from_slice(&piece[..length]);
                false
            }
            Err(_) => false,
        }
    });
    assert!(got == out[..sent]);
}

#[test]
fn a_connection_that_the_host_refuses_is_reset() {
    let mut world = World::new(&["host=yes"]);
    let (listener, place) = listener();
    drop(listener);
    let handle = world.connect(place, 50_001);
    world.until("refused", |world| world.socket(handle).state() == State::Closed);
    assert_eq!(world.stack.load(), (0, 0));
}

#[test]
fn the_hosts_loopback_is_out_of_reach_unless_asked_for() {
    let mut world = World::new(&[]);
    let (listener, place) = listener();
    listener.set_nonblocking(true).unwrap();
    let _handle = world.connect(place, 50_001);
    for _ in 0..100 {
        world.turn();
    }
    assert!(listener.accept().is_err() && world.stack.load() == (0, 0));
}

#[test]
fn a_reset_of_either_side_reaches_the_other() {
    let mut world = World::new(&["host=yes"]);
    let (listener, place) = listener();
    let handle = world.connect(place, 50_001);
    world.until("connected", |world| world.socket(handle).may_send());
    let (mut stream, _) = listener.accept().unwrap();
    world.socket(handle).abort();
    world.until("forgotten", |world| world.stack.load() == (0, 0));
    assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);

    let handle = world.connect(place, 50_002);
    world.until("connected", |world| world.socket(handle).may_send());
    let (stream, _) = listener.accept().unwrap();
    rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
    drop(stream);
    world.until("reset", |world| world.socket(handle).state() == State::Closed);
}

#[test]
fn a_forwarded_port_leads_to_the_guest_once_it_is_there() {
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    let mut world = World::new(&[&format!("forward=tcp:{free}:80")]);
    // Before the Guest is there: the connection waits in the host's queue.
    let client = thread::spawn(move || {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, free)).unwrap();
        stream.write_all(b"question").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    });
    let handle = world.listen(80);
    for _ in 0..20 {
        world.turn();
    }
    assert_eq!(world.stack.load(), (0, 0), "nobody knows the Guest yet");
    let stray = world.connect(SocketAddrV4::new(GATEWAY, 9), 50_009);
    let mut got = Vec::new();
    world.until("the question came", |world| {
        let socket = world.socket(handle);
        while socket.can_recv() {
            socket.recv(|bytes| (got.extend_from_slice(bytes), bytes.len()).into_pair()).unwrap();
        }
        got == b"question"
    });
    world.sockets.remove(stray);
    world.socket(handle).send_slice(b"answer").unwrap();
    world.socket(handle).close();
    world.until("the client has it", |_| client.is_finished());
    assert_eq!(client.join().unwrap(), "answer");
}

#[test]
fn a_list_of_destinations_is_kept() {
    let mut world = World::new(&["host=yes", "allow=10.0.2.2:9"]);
    let (listener, place) = listener();
    listener.set_nonblocking(true).unwrap();
    let _handle = world.connect(place, 50_001);
    for _ in 0..100 {
        world.turn();
    }
    assert!(listener.accept().is_err() && world.stack.load() == (0, 0));
}
