//! The host's sockets: how they are made, and which of them have something.
//!
//! Events are edge-triggered: each socket is named once and says when it becomes readable or writable; who owns it
//! remembers, so that nothing is asked of the host for a connection that waits for the Guest.

use std::io;
use std::net::{SocketAddr, SocketAddrV4, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto};

/// Who an event is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    /// The port has frames, or room.
    Port,
    /// A forwarded port has connections or datagrams.
    Forward(u32),
    /// A TCP connection.
    Tcp(u32),
    /// A pair of ends that exchange datagrams.
    Udp(u32),
    /// A Guest's ping.
    Ping(u32),
    /// A question to a resolver.
    Dns(u32),
}

impl Owner {
    fn number(self) -> u64 {
        let (kind, index) = match self {
            Owner::Port => (0, 0),
            Owner::Forward(index) => (1, index),
            Owner::Tcp(index) => (2, index),
            Owner::Udp(index) => (3, index),
            Owner::Ping(index) => (4, index),
            Owner::Dns(index) => (5, index),
        };
        kind << 32 | u64::from(index)
    }

    fn of(number: u64) -> Owner {
        let index = number as u32;
        match number >> 32 {
            1 => Owner::Forward(index),
            2 => Owner::Tcp(index),
            3 => Owner::Udp(index),
            4 => Owner::Ping(index),
            5 => Owner::Dns(index),
            _ => Owner::Port,
        }
    }
}

/// Something happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// To whom.
    pub owner: Owner,
    /// It may be read, or has ended.
    pub readable: bool,
    /// It may be written, or has failed.
    pub writable: bool,
}

/// Events taken from the host at once; what is left comes with the next wait.
const AT_ONCE: usize = 64;

/// All sockets that are watched.
pub struct Sockets {
    epoll: OwnedFd,
}

impl Sockets {
    /// Watches nothing yet.
    ///
    /// # Errors
    /// What the host says.
    pub fn new() -> io::Result<Sockets> {
        Ok(Sockets { epoll: epoll::create(epoll::CreateFlags::CLOEXEC)? })
    }

    /// Watches a socket, until it is closed.
    ///
    /// # Errors
    /// What the host says.
    pub fn watch(&self, socket: impl AsFd, owner: Owner) -> io::Result<()> {
        let what =
            epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
        Ok(epoll::add(&self.epoll, socket, epoll::EventData::new_u64(owner.number()), what)?)
    }

    /// Watches what is only read, and says so for as long as there is something.
    ///
    /// # Errors
    /// What the host says.
    pub fn watch_input(&self, socket: impl AsFd, owner: Owner) -> io::Result<()> {
        let data = epoll::EventData::new_u64(owner.number());
        Ok(epoll::add(&self.epoll, socket, data, epoll::EventFlags::IN)?)
    }

    /// Waits until something happens, at most this long; for ever without a limit.
    ///
    /// # Errors
    /// What the host says.
    pub fn wait(&self, limit: Option<Duration>) -> io::Result<Vec<Event>> {
        let limit = limit.map(|limit| Timespec {
            tv_sec: limit.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: limit.subsec_nanos().into(),
        });
        let mut events = Vec::with_capacity(AT_ONCE);
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), limit.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let event = |event: &epoll::Event| {
            let (flags, data) = (event.flags, event.data);
            let ended = epoll::EventFlags::HUP | epoll::EventFlags::ERR;
            Event {
                owner: Owner::of(data.u64()),
                readable: flags.intersects(epoll::EventFlags::IN | epoll::EventFlags::RDHUP | ended),
                writable: flags.intersects(epoll::EventFlags::OUT | ended),
            }
        };
        Ok(events.iter().map(event).collect())
    }
}

fn socket(kind: SocketType, protocol: Option<rustix::net::Protocol>) -> io::Result<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    Ok(rustix::net::socket_with(AddressFamily::INET, kind, flags, protocol)?)
}

/// Begins a connection. It is there, or has failed, when the socket becomes writable.
///
/// # Errors
/// What the host says at once: no way there, no descriptor left.
pub fn connect(to: SocketAddrV4) -> io::Result<TcpStream> {
    let socket = socket(SocketType::STREAM, None)?;
    match rustix::net::connect(&socket, &SocketAddr::V4(to)) {
        Ok(()) | Err(Errno::INPROGRESS) => {}
        Err(error) => return Err(error.into()),
    }
    let stream = TcpStream::from(socket);
    // Whoever writes pieces has chosen them already: the Guest's own TCP.
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A socket for datagrams to and from this one place.
///
/// # Errors
/// What the host says.
pub fn datagrams(to: SocketAddrV4) -> io::Result<UdpSocket> {
    let socket = socket(SocketType::DGRAM, None)?;
    rustix::net::connect(&socket, &SocketAddr::V4(to))?;
    Ok(socket.into())
}

/// A socket for ICMP echo to and from this one place (icmp(7), ping_group_range).
///
/// # Errors
/// What the host says, for instance that it lets this user have none.
pub fn echoes(to: std::net::Ipv4Addr) -> io::Result<OwnedFd> {
    let socket = socket(SocketType::DGRAM, Some(ipproto::ICMP))?;
    rustix::net::connect(&socket, &SocketAddr::V4(SocketAddrV4::new(to, 0)))?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_owner_is_read_back_from_its_number() {
        let owners = [
            Owner::Port,
            Owner::Forward(3),
            Owner::Tcp(u32::MAX),
            Owner::Udp(0),
            Owner::Ping(7),
            Owner::Dns(9),
        ];
        for owner in owners {
            assert_eq!(Owner::of(owner.number()), owner);
        }
    }
}
