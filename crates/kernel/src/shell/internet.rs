//! As much of the internet protocol as a ping takes: who has that address (RFC 826), and an echo (RFC 792).
//!
//! Frames in, frames out. Options, fragments and everything else are not answered: a Guest that needs more is a Linux.

use alloc::vec::Vec;

use lguest_abi::net::EthernetAddress;

/// An address of version 4.
pub type Address = [u8; 4];

/// Who a station is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Station {
    /// On the wire.
    pub ethernet: EthernetAddress,
    /// On the internet.
    pub address: Address,
}

const TYPE: usize = 12;
const BODY: usize = 14;
const ARP: [u8; 2] = [0x08, 0x06];
const IPV4: [u8; 2] = [0x08, 0x00];
/// Ethernet, IPv4, their address lengths.
const ARP_HEADER: [u8; 6] = [0, 1, 8, 0, 6, 4];
const ARP_ASK: u8 = 1;
const ARP_ANSWER: u8 = 2;
const ARP_SIZE: usize = 28;
/// Version 4, a header of five words: no options.
const VERSION: u8 = 0x45;
const HEADER: usize = 20;
const PROTOCOL_ICMP: u8 = 1;
const LIFETIME: u8 = 64;
const ECHO_ASK: u8 = 8;
const ECHO_ANSWER: u8 = 0;
/// What an echo of ours carries: type, code, sum, identifier, sequence, text.
const ECHO_TEXT: &[u8] = b"\x08\0\0\0lg\0\x01The driver need not know the bus.";
const EVERYBODY: EthernetAddress = EthernetAddress([0xff; 6]);

/// Four numbers with dots between.
#[must_use]
pub fn parse(word: &str) -> Option<Address> {
    let mut address = [0; 4];
    let mut parts = word.split('.');
    for byte in &mut address {
        *byte = parts.next()?.parse().ok()?;
    }
    parts.next().is_none().then_some(address)
}

/// "Who has that address?"
#[must_use]
pub fn who_has(me: Station, wanted: Address) -> Vec<u8> {
    arp(me, ARP_ASK, EVERYBODY, Station { ethernet: EthernetAddress([0; 6]), address: wanted })
}

/// The station that says it has an address.
#[must_use]
pub fn has(frame: &[u8], wanted: Address) -> Option<EthernetAddress> {
    let (operation, sender, _) = read_arp(frame)?;
    (operation == ARP_ANSWER && sender.address == wanted).then_some(sender.ethernet)
}

/// An echo for a station.
#[must_use]
pub fn echo(me: Station, to: Station) -> Vec<u8> {
    packet(me, to, ECHO_TEXT)
}

/// Whether a frame is that station's answer to [`echo`].
#[must_use]
pub fn is_echo_answer(frame: &[u8], me: Station, from: Address) -> bool {
    read_icmp(frame).is_some_and(|(source, destination, body)| {
        source == from && destination == me.address && body[0] == ECHO_ANSWER && body[4..] == ECHO_TEXT[4..]
    })
}

/// The answer a frame asks this station for.
#[must_use]
pub fn answer(frame: &[u8], me: Station) -> Option<Vec<u8>> {
    if let Some((ARP_ASK, sender, wanted)) = read_arp(frame) {
        return (wanted == me.address).then(|| arp(me, ARP_ANSWER, sender.ethernet, sender));
    }
    let (source, destination, body) = read_icmp(frame)?;
    if destination != me.address || body[0] != ECHO_ASK {
        return None;
    }
    let ethernet = EthernetAddress(frame[6..12].try_into().ok()?);
    let mut body = body.to_vec();
    body[0] = ECHO_ANSWER;
    Some(packet(me, Station { ethernet, address: source }, &body))
}

fn arp(me: Station, operation: u8, to: EthernetAddress, about: Station) -> Vec<u8> {
    let mut frame = ethernet(me, to, ARP);
    frame.extend(ARP_HEADER);
    frame.extend([0, operation]);
    for station in [me, about] {
        frame.extend(station.ethernet.0);
        frame.extend(station.address);
    }
    frame
}

/// Operation, sender and the address that is asked about.
fn read_arp(frame: &[u8]) -> Option<(u8, Station, Address)> {
    let body = frame.get(BODY..BODY + ARP_SIZE).filter(|_| frame[TYPE..BODY] == ARP)?;
    if body[..6] != ARP_HEADER || body[6] != 0 {
        return None;
    }
    let ethernet = EthernetAddress(body[8..14].try_into().ok()?);
    let address = body[14..18].try_into().ok()?;
    Some((body[7], Station { ethernet, address }, body[24..28].try_into().ok()?))
}

fn packet(me: Station, to: Station, body: &[u8]) -> Vec<u8> {
    let mut frame = ethernet(me, to.ethernet, IPV4);
    let length = ((HEADER + body.len()) as u16).to_be_bytes();
    let mut header = [0; HEADER];
    header[0] = VERSION;
    header[2..4].copy_from_slice(&length);
    (header[8], header[9]) = (LIFETIME, PROTOCOL_ICMP);
    header[12..16].copy_from_slice(&me.address);
    header[16..20].copy_from_slice(&to.address);
    let header_sum = sum(&header).to_be_bytes();
    header[10..12].copy_from_slice(&header_sum);
    frame.extend(header);
    let at = frame.len();
    frame.extend(body);
    frame[at + 2..at + 4].fill(0);
    let body_sum = sum(&frame[at..]).to_be_bytes();
    frame[at + 2..at + 4].copy_from_slice(&body_sum);
    frame
}

/// Source, destination and a control message of at least eight bytes.
fn read_icmp(frame: &[u8]) -> Option<(Address, Address, &[u8])> {
    let packet = frame.get(BODY..).filter(|_| frame[TYPE..BODY] == IPV4)?;
    let header = packet.get(..HEADER)?;
    let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let body = packet.get(HEADER..length).filter(|body| body.len() >= 8)?;
    let whole = u16::from_be_bytes([header[6], header[7]]) & 0x3fff == 0;
    if header[0] != VERSION || header[9] != PROTOCOL_ICMP || !whole || sum(header) != 0 || sum(body) != 0 {
        return None;
    }
    Some((header[12..16].try_into().ok()?, header[16..20].try_into().ok()?, body))
}

fn ethernet(me: Station, to: EthernetAddress, kind: [u8; 2]) -> Vec<u8> {
    let mut frame = Vec::new();
    frame.extend(to.0);
    frame.extend(me.ethernet.0);
    frame.extend(kind);
    frame
}

/// The internet's sum (RFC 1071): zero over anything that carries its own.
fn sum(bytes: &[u8]) -> u16 {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low));
    let mut total: u32 = bytes.chunks(2).map(word).sum();
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    !(total as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Station = Station { ethernet: EthernetAddress([2, 0, 1, 0, 0, 0]), address: [10, 0, 0, 1] };
    const B: Station = Station { ethernet: EthernetAddress([2, 0, 2, 0, 0, 0]), address: [10, 0, 0, 2] };

    #[test]
    fn two_stations_find_and_hear_each_other() {
        let ask = who_has(A, B.address);
        assert_eq!(answer(&ask, A), None, "not for the asker");
        let told = answer(&ask, B).unwrap();
        assert_eq!(has(&told, B.address), Some(B.ethernet));
        assert_eq!(has(&told, A.address), None);
        let echoed = answer(&echo(A, B), B).unwrap();
        assert!(is_echo_answer(&echoed, A, B.address));
        assert!(!is_echo_answer(&echo(A, B), A, B.address));
        assert_eq!(echoed[..6], A.ethernet.0);
    }

    #[test]
    fn the_sum_is_the_rfcs_example() {
        // RFC 1071, section 3: the sum of these is 0xddf2.
        assert_eq!(!sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
    }

    #[test]
    fn damaged_and_short_frames_are_not_answered() {
        for whole in [who_has(A, B.address), echo(A, B)] {
            for end in 0..whole.len() {
                assert_eq!(answer(&whole[..end], B), None, "{end}");
            }
        }
        let mut damaged = echo(A, B);
        *damaged.last_mut().unwrap() ^= 1;
        assert_eq!(answer(&damaged, B), None);
    }

    #[test]
    fn addresses_have_four_numbers() {
        assert_eq!(parse("10.0.0.255"), Some([10, 0, 0, 255]));
        for wrong in ["", "10.0.0", "10.0.0.256", "1.2.3.4.5", "a.b.c.d", "02:00:00:00:00:00"] {
            assert_eq!(parse(wrong), None);
        }
    }
}
