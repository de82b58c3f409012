//! Asking the kernel for addresses and routes (rtnetlink(7)): one message, one answer.
//!
//! ```text
//!   header   length u32, type u16, flags u16, sequence u32, port u32      (netlink(7))
//!   body     of the message's type
//!   attributes   length u16, type u16, value; each begins at a multiple of four
//! ```
//! Numbers are the host's own order; addresses are the network's.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

/// Types of messages.
const ERROR: u16 = 2;
const NEW_LINK: u16 = 16;
const NEW_ADDRESS: u16 = 20;
const DELETE_ADDRESS: u16 = 21;
const NEW_ROUTE: u16 = 24;
/// Flags: a request, with an answer, that makes something or takes the place of what is there.
const REQUEST: u16 = 1 | 4;
const CREATE: u16 = 0x400;
const REPLACE: u16 = 0x100;
/// Attributes of an address (if_addr.h): the other end, ours, and for how long.
const ADDRESS: u16 = 1;
const LOCAL: u16 = 2;
const BROADCAST: u16 = 4;
const LIFETIMES: u16 = 6;
/// Attributes of a route (rtnetlink.h): the interface and the router.
const INTERFACE: u16 = 4;
const ROUTER: u16 = 5;
/// AF_INET, as a family in a message.
const INET: u8 = 2;
const HEADER: usize = 16;

/// What a card is told of its network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    /// The card's address.
    pub address: Ipv4Addr,
    /// Bits of the network's part of it, up to 32.
    pub prefix: u8,
    /// Who passes on what is for elsewhere.
    pub router: Option<Ipv4Addr>,
}

impl Network {
    fn broadcast(&self) -> Ipv4Addr {
        let host = u32::MAX.checked_shr(u32::from(self.prefix)).unwrap_or(0);
        Ipv4Addr::from(u32::from(self.address) | host)
    }
}

/// A message in the making.
struct Message(Vec<u8>);

impl Message {
    fn new(kind: u16, flags: u16, body: &[u8]) -> Message {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(REQUEST | flags).to_ne_bytes());
        bytes.extend(body);
        Message(bytes)
    }

    fn with(mut self, kind: u16, value: &[u8]) -> Message {
        self.0.extend((4 + value.len() as u16).to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    fn finish(mut self) -> Vec<u8> {
        let length = self.0.len() as u32;
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        self.0
    }
}

/// What the kernel answered: nothing was wrong, or an error's number.
fn verdict(answer: &[u8]) -> io::Result<()> {
    let kind = answer.get(4..6).map(|bytes| u16::from_ne_bytes(bytes.try_into().expect("two bytes")));
    let error = answer.get(HEADER..HEADER + 4);
    let number = error.map(|bytes| i32::from_ne_bytes(bytes.try_into().expect("four bytes")));
    match (kind, number) {
        (Some(ERROR), Some(0)) => Ok(()),
        (Some(ERROR), Some(number)) => Err(io::Error::from_raw_os_error(number.wrapping_neg())),
        _ => Err(io::Error::other("the kernel answered something else")),
    }
}

/// The way to the kernel.
pub struct Kernel(OwnedFd);

impl Kernel {
    /// Opens it.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn open() -> io::Result<Kernel> {
        let flags = SockFlag::SOCK_CLOEXEC;
        Ok(Kernel(socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?))
    }

    fn ask(&mut self, message: Message) -> io::Result<()> {
        send(self.0.as_raw_fd(), &message.finish(), MsgFlags::empty())?;
        let mut answer = [0; 512];
        let length = recv(self.0.as_raw_fd(), &mut answer, MsgFlags::empty())?;
        verdict(&answer[..length])
    }

    /// Switches an interface on (ifinfomsg: family, type, index, flags, which of them change).
    ///
    /// # Errors
    /// What the kernel says.
    pub fn switch_on(&mut self, index: u32) -> io::Result<()> {
        const UP: u32 = 1;
        let mut body = [0; 16];
        body[4..8].copy_from_slice(&index.to_ne_bytes());
        body[8..12].copy_from_slice(&UP.to_ne_bytes());
        body[12..16].copy_from_slice(&UP.to_ne_bytes());
        self.ask(Message::new(NEW_LINK, 0, &body))
    }

    /// Gives an interface its address, for so many seconds if they have an end.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn address(&mut self, index: u32, network: &Network, seconds: Option<u32>) -> io::Result<()> {
        let mut message = address_message(NEW_ADDRESS, CREATE | REPLACE, index, network)
            .with(BROADCAST, &network.broadcast().octets());
        if let Some(seconds) = seconds {
            // ifa_cacheinfo: preferred, valid, and two that the kernel fills in. It takes the address away by itself.
            let facts = [seconds, seconds, 0, 0].map(u32::to_ne_bytes);
            message = message.with(LIFETIMES, facts.as_flattened());
        }
        self.ask(message)
    }

    /// Makes an interface that is on the way to everywhere else, if its network has one.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn route(&mut self, index: u32, network: &Network) -> io::Result<()> {
        // Of several cards' networks the first one leads elsewhere: the second route is there already, and stays.
        match network.router.map(|router| self.ask(default_route(index, router))) {
            Some(Err(error)) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        }
    }

    /// Takes an address away again, and the routes that need it.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn leave(&mut self, index: u32, network: &Network) -> io::Result<()> {
        self.ask(address_message(DELETE_ADDRESS, 0, index, network))
    }
}

/// ifaddrmsg: family, prefix, flags, scope, index.
fn address_message(kind: u16, flags: u16, index: u32, network: &Network) -> Message {
    let mut body = [0; 8];
    (body[0], body[1]) = (INET, network.prefix);
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    let address = network.address.octets();
    Message::new(kind, flags, &body).with(LOCAL, &address).with(ADDRESS, &address)
}

/// rtmsg: family, bits of destination and source, service, table, who made it, scope, type, flags.
fn default_route(index: u32, router: Ipv4Addr) -> Message {
    const MAIN: u8 = 254;
    const AT_BOOT: u8 = 3;
    const UNICAST: u8 = 1;
    let body = [INET, 0, 0, 0, MAIN, AT_BOOT, 0, UNICAST, 0, 0, 0, 0];
    Message::new(NEW_ROUTE, CREATE, &body)
        .with(ROUTER, &router.octets())
        .with(INTERFACE, &index.to_ne_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_tells_its_length_and_pads_its_attributes() {
        let bytes = Message::new(NEW_ADDRESS, CREATE, &[1; 8]).with(7, &[2; 5]).with(8, &[3; 4]).finish();
        assert_eq!(bytes.len(), 16 + 8 + 12 + 8);
        assert_eq!(bytes[..4], (bytes.len() as u32).to_ne_bytes());
        assert_eq!(bytes[24..26], 9u16.to_ne_bytes(), "an attribute's length is without its padding");
        assert_eq!(bytes[36..38], 8u16.to_ne_bytes());
    }

    #[test]
    fn an_answer_is_an_error_or_none() {
        let answer = |kind: u16, number: i32| {
            let mut bytes = [0; 20];
            bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
            bytes[16..].copy_from_slice(&number.to_ne_bytes());
            verdict(&bytes)
        };
        assert!(answer(ERROR, 0).is_ok());
        assert_eq!(answer(ERROR, -17).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert!(answer(ERROR, i32::MIN).is_err() && answer(3, 0).is_err() && verdict(&[2; 7]).is_err());
    }

    #[test]
    fn a_networks_broadcast_address_has_all_ones_behind_the_prefix() {
        let network = |prefix| Network { address: Ipv4Addr::new(10, 0, 2, 15), prefix, router: None };
        assert_eq!(network(24).broadcast(), Ipv4Addr::new(10, 0, 2, 255));
        assert_eq!(network(32).broadcast(), Ipv4Addr::new(10, 0, 2, 15));
        assert_eq!(network(0).broadcast(), Ipv4Addr::BROADCAST);
    }

    #[test]
    fn the_kernel_knows_our_messages() {
        // An interface that is not there: the message is understood, and nothing is changed. Without the right, that is said
        // first.
        let mut kernel = Kernel::open().unwrap();
        let network = Network { address: Ipv4Addr::LOCALHOST, prefix: 8, router: None };
        for error in [kernel.switch_on(0x7fff_fff0), kernel.address(0x7fff_fff0, &network, Some(60))] {
            let number = error.unwrap_err().raw_os_error();
            assert!(matches!(number, Some(19 | 1)), "ENODEV or EPERM, not {number:?}");
        }
    }
}
