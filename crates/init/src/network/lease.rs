//! A card's lease, from the first question to the machine's end (RFC 2131, 4.4).
//!
//! ```text
//!   Discover ──Offer──► Take ──Granted──► settled ──half of its time──► Keep, to the server
//!      ▲                 │                   ▲                            │     then, near its end, to everybody
//!      └───── Refused ◄──┘                   └──────────Granted───────────┤
//!      └──────────────── the address is given up ◄── Refused, or its end ─┘
//! ```
//! A card that somebody else gives an address is theirs: a user by hand, or the root's own client. Then nobody is asked any more;
//! a server on this very machine would hear its own host's question and give the address away.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, SockaddrStorage, bind, setsockopt, socket,
    sockopt::{BindToDevice, Broadcast},
};

use super::dhcp::{Answer, CLIENT_PORT, LONGEST, Lease, Question, SERVER_PORT, read};
use super::netlink::{Kernel, Network};
use super::{Card, name_resolvers, tell};

/// The first wait for an answer; each is twice as long (RFC 2131, 4.1) ...
const FIRST_WAIT: Duration = Duration::from_secs(4);
/// ... up to this.
const LONGEST_WAIT: Duration = Duration::from_secs(64);
/// Questions with one offer before everybody is asked anew.
const ATTEMPTS: u32 = 4;
/// A server that lends for less would have us ask all the time.
const SHORTEST_LEASE: u32 = 60;
/// Messages that are no answer, looked at within one wait: more is a flood, which ends the wait.
const MOST_STRANGE: u32 = 1000;

/// One card and its conversation.
struct Client<'a> {
    card: &'a Card,
    socket: UdpSocket,
    xid: u32,
}

/// Gets and keeps a lease for this card. Comes back when that is done: the card cannot be used or is somebody else's, or the
/// lease has no end.
pub fn keep(card: &Card, kept: bool) {
    if let Err(error) = try_to_keep(card, kept) {
        tell(&format!("{}: asking for an address", card.name), &error);
    }
}

fn try_to_keep(card: &Card, kept: bool) -> io::Result<()> {
    let mut client = Client { card, socket: open(&card.name)?, xid: 0 };
    let mut kernel = Kernel::open()?;
    loop {
        let Some(mut lease) = client.obtain()? else { return Ok(()) };
        loop {
            let network = Network { address: lease.address, prefix: lease.prefix, router: lease.router };
            let seconds = lease.seconds.map(|seconds| seconds.max(SHORTEST_LEASE));
            kernel.address(card.index, &network, seconds)?;
            kernel.route(card.index, &network)?;
            name_resolvers(&lease.resolvers, kept);
            let Some(seconds) = seconds else { return Ok(()) };
            match client.renew(&lease, Duration::from_secs(seconds.into()))? {
                Some(next) => {
                    if (next.address, next.prefix) != (lease.address, lease.prefix) {
                        let _ = kernel.leave(card.index, &network);
                    }
                    lease = next;
                }
                None => {
                    // The kernel may have taken it away by itself.
                    let _ = kernel.leave(card.index, &network);
                    break;
                }
            }
        }
    }
}

/// A socket for one card, which has no address yet.
fn open(name: &str) -> io::Result<UdpSocket> {
    let inner = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&inner, BindToDevice, &name.into())?;
    setsockopt(&inner, Broadcast, &true)?;
    use std::os::fd::AsRawFd;
    bind(inner.as_raw_fd(), &SockaddrIn::new(0, 0, 0, 0, CLIENT_PORT))?;
    Ok(inner.into())
}

impl Client<'_> {
    /// Asks until there is a lease, however long that takes: a server may come later. None when somebody else gave the card an
    /// address meanwhile.
    ///
    /// It is one conversation until it is refused (RFC 2131, 4.1, lets one ask again so): a server that first looks whether
    /// the address is free offers it after we asked again, and has nothing left for another conversation.
    fn obtain(&mut self) -> io::Result<Option<Lease>> {
        let mut wait = FIRST_WAIT;
        self.begin();
        while !self.is_taken()? {
            self.ask(Question::Discover, Ipv4Addr::BROADCAST);
            if let Some(Answer::Offer(offer)) = self.answer(wait, |one| matches!(one, Answer::Offer(_)))? {
                match self.take(&offer)? {
                    Some(Answer::Granted(lease)) => return Ok((!self.is_taken()?).then_some(lease)),
                    Some(_) => self.begin(),
                    None => {}
                }
            }
            wait = (wait * 2).min(LONGEST_WAIT);
        }
        Ok(None)
    }

    /// Asks for what was offered, until it is granted or refused. None when nobody says anything.
    fn take(&self, offer: &Lease) -> io::Result<Option<Answer>> {
        let mut patience = FIRST_WAIT;
        for _ in 0..ATTEMPTS {
            self.ask(Question::Take(offer.address, offer.server), Ipv4Addr::BROADCAST);
            let answer = self.answer(patience, |one| !matches!(one, Answer::Offer(_)))?;
            if answer.is_some() {
                return Ok(answer);
            }
            patience *= 2;
        }
        Ok(None)
    }

    /// Whether the card has an IPv4 address, which is not ours while we ask for one.
    fn is_taken(&self) -> io::Result<bool> {
        let ours = |name: &str| name.split(':').next() == Some(&self.card.name);
        let is_inet = |address: SockaddrStorage| address.as_sockaddr_in().is_some();
        Ok(getifaddrs()?.any(|one| ours(&one.interface_name) && one.address.is_some_and(is_inet)))
    }

    /// Sleeps through half of a lease and asks to keep it, first its server, then everybody. None when it was refused or
    /// nobody answered to its end.
    fn renew(&mut self, lease: &Lease, time: Duration) -> io::Result<Option<Lease>> {
        let start = Instant::now();
        std::thread::sleep(time / 2);
        self.begin();
        while start.elapsed() < time {
            let left = time.saturating_sub(start.elapsed());
            let near_its_end = left < time / 8;
            self.ask(
                Question::Keep(lease.address),
                if near_its_end { Ipv4Addr::BROADCAST } else { lease.server },
            );
            // Half of what is left, but not more often than once a minute (4.4.5).
            let wait = (left / 2).max(LONGEST_WAIT).min(left.max(Duration::from_millis(1)));
            match self.answer(wait, |one| !matches!(one, Answer::Offer(_)))? {
                Some(Answer::Granted(lease)) => return Ok(Some(lease)),
                Some(_) => return Ok(None),
                None => {}
            }
        }
        Ok(None)
    }

    /// A new conversation, so that late answers of the old one are nobody's.
    fn begin(&mut self) {
        let mut bytes = [0; 4];
        // Without random numbers the time will do; it need only differ from other machines'.
        if rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::NONBLOCK).is_err() {
            bytes = std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .map_or(1, |time| time.subsec_nanos())
                .to_ne_bytes();
        }
        self.xid = u32::from_ne_bytes(bytes);
    }

    fn ask(&self, question: Question, whom: Ipv4Addr) {
        let message = question.write(self.xid, self.card.hardware);
        // A card without a cable loses it, and the next attempt asks again.
        let _ = self.socket.send_to(&message, SocketAddrV4::new(whom, SERVER_PORT));
    }

    /// Waits so long for an answer that is wanted.
    fn answer(&self, limit: Duration, wanted: impl Fn(&Answer) -> bool) -> io::Result<Option<Answer>> {
        let end = Instant::now() + limit;
        let mut bytes = [0; LONGEST];
        for _ in 0..MOST_STRANGE {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.socket.set_read_timeout(Some(left))?;
            let length = match self.socket.recv(&mut bytes) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // The card was switched off for a while.
                Err(error) if error.kind() == io::ErrorKind::NetworkDown => {
                    std::thread::sleep(left);
                    return Ok(None);
                }
                Err(error) => return Err(error),
            };
            let answer = read(&bytes[..length], self.xid, self.card.hardware);
            if let Some(answer) = answer.filter(|answer| wanted(answer)) {
                return Ok(Some(answer));
            }
        }
        std::thread::sleep(end.saturating_duration_since(Instant::now()));
        Ok(None)
    }
}
