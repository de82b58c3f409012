//! `net`: who we are, a word to a peer, an ear on the wire, a ping.
//!
//! A packet of ours carries IEEE's "local experimental" type, a letter that says what it is, and a text; every Guest of this
//! kind answers a ping while its shell waits. With an internet address it also pings, and answers, whatever has one.

use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;

use lguest_abi::net::{EthernetAddress, FRAME_MAXIMUM};
use lguest_guest::drivers::net::{Frame, NetDevice};

use super::internet::{self, Station};
use super::words;
use crate::say;
use crate::system::System;

/// Local experimental Ethertype 1 (IEEE 802-2014, 9.2.3).
const TYPE: [u8; 2] = [0x88, 0xb5];
const HEADER: usize = 14;
const TEXT: u8 = b't';
const ASK: u8 = b'?';
const ANSWER: u8 = b'!';
const SECOND: u64 = 1_000_000_000;
/// How long a ping waits.
const PING_PATIENCE: u64 = SECOND;
/// How long `net listen` listens, when not told.
const LISTEN_SECONDS: u32 = 5;

type Complaint = &'static str;

fn first(system: &System) -> Result<Rc<NetDevice>, Complaint> {
    let device = system.networks.devices().into_iter().next().ok_or("no network: see devices")?;
    device.open().map_err(|_| "the network cannot be opened")?;
    Ok(device)
}

/// Joins every network, so that peers find this Guest. Called at the start; a network that refuses is told of by `net`.
pub fn join(system: &System) {
    for device in system.networks.devices() {
        let _ = device.open();
    }
}

/// Serves what came while nobody listened: pings are answered, the rest is forgotten.
pub fn serve(system: &System) {
    for device in system.networks.devices() {
        while let Some(frame) = device.receive() {
            answer(system, &device, &frame);
        }
    }
}

/// `net WHAT TO TEXT`.
pub fn command(system: &System, what: &str, to: &str, text: &str) -> Result<(), Complaint> {
    let device = first(system)?;
    match what {
        "" | "address" => system.networks.devices().iter().for_each(|device| status(system, device)),
        "send" => {
            let to = words::ethernet(to).ok_or("net send ADDRESS|all TEXT")?;
            let taken = device.transmit(&frame(&device, to, TEXT, text.as_bytes()));
            say!(system, "{taken} took it\n");
        }
        "ip" => system.internet.set(Some(internet::parse(to).ok_or("net ip 10.0.0.2")?)),
        "ping" if internet::parse(to).is_some() => {
            echo(system, &device, internet::parse(to).unwrap_or_default())?
        }
        "ping" => ping(system, &device, words::ethernet(to).ok_or("net ping ADDRESS|all")?),
        "listen" => listen(system, &device, words::number(to).unwrap_or(LISTEN_SECONDS)),
        "promiscuous" => device.set_promiscuous(to != "off"),
        "close" => device.close(),
        _ => return Err("net [address | ip | send | ping | listen | promiscuous | close]"),
    }
    Ok(())
}

fn status(system: &System, device: &NetDevice) {
    let counts = device.statistics();
    say!(system, "address {} slot {}\n", Shown(device.address().0), device.slot());
    say!(
        system,
        "sent {} packets {} bytes, {} carrier errors; received {} packets {} bytes, {} dropped\n",
        counts.tx_packets,
        counts.tx_bytes,
        counts.tx_carrier_errors,
        counts.rx_packets,
        counts.rx_bytes,
        counts.rx_dropped
    );
}

fn ping(system: &System, device: &NetDevice, to: EthernetAddress) {
    let begun = system.clock.now();
    let deadline = begun + PING_PATIENCE;
    let sent = device.transmit(&frame(device, to, ASK, b"ping"));
    let mut answers = 0;
    while answers < sent && system.clock.now() < deadline {
        while let Some(frame) = device.receive() {
            if kind(&frame) == Some(ANSWER) && destination(&frame) == device.address().0 {
                let microseconds = (system.clock.now() - begun) / 1000;
                say!(system, "answer from {} after {microseconds} microseconds\n", Shown(source(&frame)));
                answers += 1;
            } else {
                answer(system, device, &frame);
            }
        }
        if answers < sent {
            system.wait(Some(deadline));
        }
    }
    say!(system, "{sent} sent, {answers} answered\n");
}

/// Who we are on the internet.
fn station(system: &System, device: &NetDevice) -> Option<Station> {
    let address = system.internet.get()?;
    Some(Station { ethernet: device.address(), address })
}

/// Finds who has an internet address, and asks for an echo.
fn echo(system: &System, device: &NetDevice, to: internet::Address) -> Result<(), Complaint> {
    let me = station(system, device).ok_or("no address of our own: net ip 10.0.0.2")?;
    let begun = system.clock.now();
    let deadline = begun + PING_PATIENCE;
    device.transmit(&internet::who_has(me, to));
    let found = await_frame(system, device, deadline, |frame| internet::has(frame, to));
    let ethernet = found.ok_or("nobody has that address")?;
    device.transmit(&internet::echo(me, Station { ethernet, address: to }));
    let heard = |frame: &[u8]| internet::is_echo_answer(frame, me, to).then_some(());
    await_frame(system, device, deadline, heard).ok_or("no answer")?;
    let microseconds = (system.clock.now() - begun) / 1000;
    say!(system, "answer from {} after {microseconds} microseconds\n", Shown(ethernet.0));
    Ok(())
}

/// The first frame that means something to `wanted`. Others are answered as usual.
fn await_frame<T>(
    system: &System,
    device: &NetDevice,
    deadline: u64,
    wanted: impl Fn(&[u8]) -> Option<T>,
) -> Option<T> {
    loop {
        while let Some(frame) = device.receive() {
            if let Some(found) = wanted(&frame.bytes) {
                return Some(found);
            }
            answer(system, device, &frame);
        }
        if system.clock.now() >= deadline {
            return None;
        }
        system.wait(Some(deadline));
    }
}

fn listen(system: &System, device: &NetDevice, seconds: u32) {
    let deadline = system.clock.now() + u64::from(seconds) * SECOND;
    while system.clock.now() < deadline {
        while let Some(frame) = device.receive() {
            show(system, &frame);
            answer(system, device, &frame);
        }
        system.wait(Some(deadline));
    }
}

fn show(system: &System, frame: &Frame) {
    let text: String = frame
        .bytes
        .iter()
        .skip(HEADER + 1)
        .map(|byte| if (b' '..=b'~').contains(byte) { char::from(*byte) } else { '.' })
        .collect();
    let (from, to) = (Shown(source(frame)), Shown(destination(frame)));
    say!(system, "{from} > {to} {} bytes: {text}\n", frame.bytes.len());
}

/// Answers a ping that is for this Guest or for everybody. What a sniffer overhears it leaves alone.
fn answer(system: &System, device: &NetDevice, frame_in: &Frame) {
    if let Some(reply) = station(system, device).and_then(|me| internet::answer(&frame_in.bytes, me)) {
        device.transmit(&reply);
        return;
    }
    let to = EthernetAddress(destination(frame_in));
    let for_us = to == device.address() || to.is_multicast();
    if for_us && kind(frame_in) == Some(ASK) {
        let from = EthernetAddress(source(frame_in));
        device.transmit(&frame(device, from, ANSWER, b"pong"));
    }
}

fn frame(device: &NetDevice, to: EthernetAddress, kind: u8, text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(to.0);
    bytes.extend(device.address().0);
    bytes.extend(TYPE);
    bytes.push(kind);
    let room = FRAME_MAXIMUM as usize - bytes.len();
    bytes.extend(&text[..text.len().min(room)]);
    bytes
}

/// Six bytes of a frame, which is never shorter than a header.
fn address(frame: &Frame, at: usize) -> [u8; 6] {
    let mut address = [0; 6];
    address.copy_from_slice(&frame.bytes[at..at + 6]);
    address
}

fn destination(frame: &Frame) -> [u8; 6] {
    address(frame, 0)
}

fn source(frame: &Frame) -> [u8; 6] {
    address(frame, 6)
}

/// The letter of a packet of ours.
fn kind(frame: &Frame) -> Option<u8> {
    frame.bytes.get(12..)?.strip_prefix(&TYPE)?.first().copied()
}

/// An address as people write it.
struct Shown([u8; 6]);

impl core::fmt::Display for Shown {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        write!(formatter, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}
