//! ICMP echo: our own addresses answer here, others by the host's unprivileged ICMP sockets, where the host lets its users
//! have them (net.ipv4.ping_group_range); where it does not, the Guest is told that it is prohibited.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use lguest_devices::frame::Frame;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{EthernetAddress, Icmpv4DstUnreachable, Icmpv4Packet, Icmpv4Repr};

use super::addresses;
use super::outbox::Outbox;
use super::packets::{self, Packet};
use super::sockets::{self, Owner, Sockets};

/// Programs that ping at a time. The longest silent makes room.
const MOST: usize = 32;
/// A ping is forgotten after this much silence; answers come within seconds.
const SILENCE: Duration = Duration::from_secs(30);
/// Answers taken from one socket in a turn.
const AT_ONCE: usize = 16;

/// Who pings whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Pinger {
    guest: Ipv4Addr,
    ident: u16,
    target: Ipv4Addr,
}

struct Ping {
    pinger: Pinger,
    hardware: EthernetAddress,
    socket: OwnedFd,
    last: Instant,
}

/// All pings under way.
#[derive(Default)]
pub struct Pings {
    by_pinger: BTreeMap<Pinger, u32>,
    all: BTreeMap<u32, Ping>,
    next: u32,
}

/// The echo request in a packet.
fn request<'a>(packet: &Packet<'a>) -> Option<(u16, u16, &'a [u8])> {
    let message = Icmpv4Packet::new_checked(packet.payload).ok()?;
    match Icmpv4Repr::parse(&message, &ChecksumCapabilities::ignored()).ok()? {
        Icmpv4Repr::EchoRequest { ident, seq_no, data } => Some((ident, seq_no, data)),
        _ => None,
    }
}

/// Whether somebody is pinged.
pub fn is_request(packet: &Packet<'_>) -> bool {
    request(packet).is_some()
}

/// What our own addresses answer.
pub fn answer(packet: &Packet<'_>) -> Option<Frame> {
    let (ident, seq_no, data) = request(packet).filter(|_| addresses::is_ours(packet.header.dst_addr))?;
    let reply = Icmpv4Repr::EchoReply { ident, seq_no, data };
    Some(packets::icmp(packet.hardware, packet.header.dst_addr, packet.header.src_addr, &reply))
}

impl Pings {
    /// A packet for another machine, which is `to` on the host.
    pub fn send(
        &mut self,
        packet: &Packet<'_>,
        to: Ipv4Addr,
        now: Instant,
        sockets: &Sockets,
        outbox: &mut Outbox,
    ) {
        let Some((ident, seq_no, data)) = request(packet) else { return };
        let pinger = Pinger { guest: packet.header.src_addr, ident, target: packet.header.dst_addr };
        let id = match self.by_pinger.get(&pinger) {
            Some(id) => *id,
            None => match self.open(pinger, packet.hardware, to, now, sockets) {
                Ok(id) => id,
                Err(_) => {
                    let frame = packet.refuse(Icmpv4DstUnreachable::CommProhibited);
                    return frame.into_iter().for_each(|frame| outbox.put(frame));
                }
            },
        };
        let Some(ping) = self.all.get_mut(&id) else { return };
        ping.last = now;
        // The host puts its own identifier and checksum into the message.
        let message = Icmpv4Repr::EchoRequest { ident, seq_no, data };
        let mut bytes = vec![0; message.buffer_len()];
        message.emit(&mut Icmpv4Packet::new_unchecked(&mut bytes[..]), &ChecksumCapabilities::default());
        // One that the host does not send gets no answer, as if it were lost on the way.
        let _ = rustix::io::write(&ping.socket, &bytes);
    }

    fn open(
        &mut self,
        pinger: Pinger,
        hardware: EthernetAddress,
        to: Ipv4Addr,
        now: Instant,
        sockets: &Sockets,
    ) -> std::io::Result<u32> {
        if self.all.len() >= MOST {
            let oldest = self.all.iter().min_by_key(|(_, ping)| ping.last).map(|(id, _)| *id);
            oldest.into_iter().for_each(|id| self.remove(id));
        }
        let socket = sockets::echoes(to)?;
        let id = self.next;
        sockets.watch_input(&socket, Owner::Ping(id))?;
        self.next = self.next.wrapping_add(1);
        self.by_pinger.insert(pinger, id);
        self.all.insert(id, Ping { pinger, hardware, socket, last: now });
        Ok(id)
    }

    /// A socket has answers.
    pub fn event(&mut self, id: u32, now: Instant, buffer: &mut [u8], outbox: &mut Outbox) {
        let Some(ping) = self.all.get_mut(&id) else { return };
        for _ in 0..AT_ONCE {
            let Ok(length) = rustix::io::read(&ping.socket, &mut *buffer) else { return };
            ping.last = now;
            let message = Icmpv4Packet::new_checked(&buffer[..length]);
            let Ok(message) = &message else { continue };
            let Pinger { guest, ident, target } = ping.pinger;
            if let Ok(Icmpv4Repr::EchoReply { seq_no, data, .. }) =
                Icmpv4Repr::parse(message, &ChecksumCapabilities::ignored())
            {
                let reply = Icmpv4Repr::EchoReply { ident, seq_no, data };
                outbox.put(packets::icmp(ping.hardware, target, guest, &reply));
            }
        }
    }

    fn remove(&mut self, id: u32) {
        if let Some(ping) = self.all.remove(&id) {
            self.by_pinger.remove(&ping.pinger);
        }
    }

    /// Forgets who was silent for long.
    pub fn tick(&mut self, now: Instant) {
        let old = |ping: &Ping| now.duration_since(ping.last) >= SILENCE;
        let ids: Vec<u32> = self.all.iter().filter(|(_, one)| old(one)).map(|(id, _)| *id).collect();
        ids.into_iter().for_each(|id| self.remove(id));
    }

    /// When somebody may be forgotten.
    pub fn deadline(&self) -> Option<Instant> {
        self.all.values().map(|ping| ping.last + SILENCE).min()
    }
}
