//! DHCP's messages, as a client needs them (RFC 2131, section 2; options: RFC 2132).
//!
//! ```text
//!   0 op  1 htype  2 hlen  3 hops  4 xid  8 secs  10 flags
//!   12 ciaddr  16 yiaddr  20 siaddr  24 giaddr  28 chaddr (16)  44 sname (64)  108 file (128)
//!   236 magic cookie  240 options: a number, a length, so many bytes; 0 is padding, 255 the end
//! ```

use std::net::Ipv4Addr;

/// The ports of both sides.
pub const CLIENT_PORT: u16 = 68;
/// The server's.
pub const SERVER_PORT: u16 = 67;
/// Longest message taken; what a network of 1500 bytes carries.
pub const LONGEST: usize = 1500;
/// Servers of names that are taken: as many as the C library asks (resolv.conf(5)).
const MOST_RESOLVERS: usize = 3;

const OPTIONS: usize = 240;
const COOKIE: [u8; 4] = [99, 130, 83, 99];
/// Answers shall come to everybody: we have no address yet.
const BROADCAST: u16 = 0x8000;
/// Bytes that every server takes as a whole message (BOOTP's, RFC 1542, 2.1).
const SHORTEST: usize = 300;

mod option {
    pub const MASK: u8 = 1;
    pub const ROUTER: u8 = 3;
    pub const RESOLVERS: u8 = 6;
    pub const ADDRESS: u8 = 50;
    pub const SECONDS: u8 = 51;
    pub const KIND: u8 = 53;
    pub const SERVER: u8 = 54;
    pub const WANTED: u8 = 55;
    pub const END: u8 = 255;
}

/// What a client says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// Who has an address for me?
    Discover,
    /// I take this address from this server.
    Take(Ipv4Addr, Ipv4Addr),
    /// May I keep this address?
    Keep(Ipv4Addr),
}

/// What a server answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// This could be had.
    Offer(Lease),
    /// It is yours.
    Granted(Lease),
    /// It is not.
    Refused,
}

/// What a server gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The address.
    pub address: Ipv4Addr,
    /// Bits of its network's part.
    pub prefix: u8,
    /// The first router.
    pub router: Option<Ipv4Addr>,
    /// Resolvers.
    pub resolvers: Vec<Ipv4Addr>,
    /// Who gave it.
    pub server: Ipv4Addr,
    /// How long it lasts; none is for ever.
    pub seconds: Option<u32>,
}

impl Question {
    /// The message, for this conversation and this card.
    pub fn write(self, xid: u32, hardware: [u8; 6]) -> Vec<u8> {
        let mut bytes = vec![0; OPTIONS];
        // A request, by Ethernet, with addresses of six bytes.
        bytes[..3].copy_from_slice(&[1, 1, 6]);
        bytes[4..8].copy_from_slice(&xid.to_be_bytes());
        bytes[28..34].copy_from_slice(&hardware);
        bytes[236..240].copy_from_slice(&COOKIE);
        let mut option = |kind: u8, value: &[u8]| {
            bytes.extend([kind, value.len() as u8]);
            bytes.extend(value);
        };
        match self {
            Question::Discover => option(option::KIND, &[1]),
            Question::Take(address, server) => {
                option(option::KIND, &[3]);
                option(option::ADDRESS, &address.octets());
                option(option::SERVER, &server.octets());
            }
            Question::Keep(_) => option(option::KIND, &[3]),
        }
        option(option::WANTED, &[option::MASK, option::ROUTER, option::RESOLVERS, option::SECONDS]);
        bytes.push(option::END);
        bytes.resize(bytes.len().max(SHORTEST), 0);
        match self {
            // Who has an address can be answered there (4.3.6).
            Question::Keep(address) => bytes[12..16].copy_from_slice(&address.octets()),
            _ => bytes[10..12].copy_from_slice(&BROADCAST.to_be_bytes()),
        }
        bytes
    }
}

fn address(bytes: &[u8]) -> Option<Ipv4Addr> {
    let bytes: [u8; 4] = bytes.get(..4)?.try_into().ok()?;
    Some(Ipv4Addr::from(bytes))
}

/// The value of an option; of one that is said twice, the first. [`option::END`] is one without a value.
fn find(mut options: &[u8], wanted: u8) -> Option<&[u8]> {
    loop {
        match *options {
            [0, ref rest @ ..] => options = rest,
            [option::END, ..] => return (wanted == option::END).then_some(&[]),
            [kind, length, ref rest @ ..] => {
                let value = rest.get(..usize::from(length))?;
                if kind == wanted {
                    return Some(value);
                }
                options = &rest[usize::from(length)..];
            }
            _ => return None,
        }
    }
}

/// Reads a server's message; none when it is not for this conversation or makes no sense.
pub fn read(bytes: &[u8], xid: u32, hardware: [u8; 6]) -> Option<Answer> {
    let reply = bytes.first() == Some(&2) && bytes.get(4..8)? == xid.to_be_bytes();
    if !reply || bytes.get(28..34)? != hardware || bytes.get(236..240)? != COOKIE {
        return None;
    }
    let options = &bytes[OPTIONS..];
    let said = |kind| find(options, kind);
    // What is cut short might have said more.
    said(option::END)?;
    let lease = || {
        let given = address(&bytes[16..20])?;
        let mask = u32::from(said(option::MASK).and_then(address).unwrap_or(Ipv4Addr::new(255, 255, 255, 0)));
        let usable = !given.is_unspecified() && !given.is_broadcast() && !given.is_multicast();
        let seconds = u32::from(address(said(option::SECONDS)?)?);
        (usable && mask.leading_ones() + mask.trailing_zeros().min(32) == 32).then_some(())?;
        Some(Lease {
            address: given,
            prefix: mask.leading_ones() as u8,
            router: said(option::ROUTER).and_then(address),
            // A network need not have any.
            resolvers: said(option::RESOLVERS)
                .unwrap_or_default()
                .chunks_exact(4)
                .filter_map(address)
                .take(MOST_RESOLVERS)
                .collect(),
            server: address(said(option::SERVER)?)?,
            seconds: Some(seconds).filter(|seconds| *seconds != u32::MAX),
        })
    };
    match said(option::KIND)? {
        [2] => lease().map(Answer::Offer),
        [5] => lease().map(Answer::Granted),
        [6] => Some(Answer::Refused),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CARD: [u8; 6] = [2, 0, 0, 0, 0, 1];

    /// A server's message with these options.
    fn message(options: &[u8]) -> Vec<u8> {
        let mut bytes = Question::Discover.write(7, CARD)[..OPTIONS].to_vec();
        bytes[0] = 2;
        bytes[16..20].copy_from_slice(&[192, 0, 2, 9]);
        bytes.extend(options);
        bytes
    }

    const GRANTED: &[u8] = &[
        53, 1, 5, 0, 0, 1, 4, 255, 255, 255, 128, 51, 4, 0, 0, 14, 16, 54, 4, 192, 0, 2, 1, 3, 8, 192, 0, 2,
        1, 192, 0, 2, 2, 6, 8, 192, 0, 2, 3, 192, 0, 2, 4, 255,
    ];

    #[test]
    fn a_lease_is_read_with_all_that_it_says() {
        let lease = Lease {
            address: Ipv4Addr::new(192, 0, 2, 9),
            prefix: 25,
            router: Some(Ipv4Addr::new(192, 0, 2, 1)),
            resolvers: vec![Ipv4Addr::new(192, 0, 2, 3), Ipv4Addr::new(192, 0, 2, 4)],
            server: Ipv4Addr::new(192, 0, 2, 1),
            seconds: Some(3600),
        };
        assert_eq!(read(&message(GRANTED), 7, CARD), Some(Answer::Granted(lease)));
    }

    #[test]
    fn a_network_without_a_router_and_resolvers_gives_a_lease_too() {
        let options = [53, 1, 2, 1, 4, 255, 255, 255, 0, 51, 4, 0, 0, 14, 16, 54, 4, 192, 0, 2, 1, 255];
        let Some(Answer::Offer(lease)) = read(&message(&options), 7, CARD) else { panic!("no offer") };
        assert_eq!((lease.prefix, lease.router, lease.resolvers), (24, None, vec![]));
    }

    #[test]
    fn what_is_cut_short_lies_or_is_for_somebody_else_is_no_answer() {
        let whole = message(GRANTED);
        assert!((0..whole.len()).all(|length| read(&whole[..length], 7, CARD).is_none()));
        assert_eq!(read(&whole, 8, CARD), None);
        assert_eq!(read(&whole, 7, [9; 6]), None);
        let mut hole = whole.clone();
        hole[OPTIONS + 8] = 0;
        assert_eq!(read(&hole, 7, CARD), None, "a mask with a hole");
        assert_eq!(read(&message(&[53, 1, 6, 255]), 7, CARD), Some(Answer::Refused));
    }

    #[test]
    fn a_question_is_one_that_servers_take() {
        let server = Ipv4Addr::new(192, 0, 2, 1);
        let take = Question::Take(Ipv4Addr::new(192, 0, 2, 9), server).write(7, CARD);
        assert!(take.len() >= SHORTEST);
        assert_eq!(find(&take[OPTIONS..], option::KIND), Some(&[3][..]));
        assert_eq!(find(&take[OPTIONS..], option::SERVER), Some(&server.octets()[..]));
        let keep = Question::Keep(Ipv4Addr::new(192, 0, 2, 9)).write(7, CARD);
        assert_eq!((&keep[12..16], &keep[10..12]), (&[192, 0, 2, 9][..], &[0, 0][..]));
        assert_eq!(
            find(&keep[OPTIONS..], option::ADDRESS),
            None,
            "RFC 2131, 4.3.2: a renewal names it in ciaddr"
        );
    }
}
