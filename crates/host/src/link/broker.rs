//! The broker: one thread that serves all machines of a link, one message at a time.
//!
//! Being alone is what makes a send atomic with respect to every other bind, unbind and send (facts 6.4). Nothing a
//! machine does makes it wait: all its sockets are non-blocking, what a machine does not read is kept as one bit an
//! interrupt, and a machine that breaks the protocol is shown the door.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use lguest_abi::meeting::Irq;
use lguest_abi::net::{ADDRESS_SIZE, SLOTS, slot_offset};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags};
use zerocopy::IntoBytes;

use super::wire::{self, Answer, Hello, News, Request, Welcome};
use crate::dma::{Area, Exchange, Form, PeerId};
use crate::memory::{Memory, shared_page};

/// How long an empty broker stays: a machine may be just about to join.
const LINGER: Duration = Duration::from_secs(1);

/// A machine on the link.
struct Peer {
    control: OwnedFd,
    /// None until it has said hello.
    joined: Option<Joined>,
}

struct Joined {
    slot: u16,
    news: OwnedFd,
    /// Interrupts it has not been told of.
    pending: u32,
    /// Why its Guest dies, not told yet.
    verdict: Option<String>,
}

/// The link and everybody on it.
struct Broker {
    listener: OwnedFd,
    page: File,
    exchange: Exchange,
    peers: BTreeMap<PeerId, Peer>,
    next: u32,
}

/// Serves a link until nobody has been on it for a second.
///
/// # Errors
/// When the host refuses the page or the listener fails; the link is then gone.
pub fn serve(listener: OwnedFd) -> std::io::Result<()> {
    rustix::io::ioctl_fionbio(&listener, true)?;
    let mut broker = Broker {
        listener,
        page: shared_page()?,
        exchange: Exchange::default(),
        peers: BTreeMap::new(),
        next: 0,
    };
    while broker.turn()? {}
    Ok(())
}

/// What a poll found.
enum Ready {
    Listener,
    Control(PeerId),
    News(PeerId),
}

impl Broker {
    /// Waits for something and serves it. False when it is time to go.
    fn turn(&mut self) -> std::io::Result<bool> {
        let ready = self.wait()?;
        if ready.is_empty() && self.peers.is_empty() {
            return Ok(false);
        }
        for event in ready {
            match event {
                Ready::Listener => self.accept(),
                Ready::Control(id) => {
                    if !self.serve_peer(id) {
                        self.drop_peer(id);
                    }
                }
                Ready::News(id) => tell(&mut self.peers, id),
            }
        }
        Ok(true)
    }

    fn wait(&self) -> std::io::Result<Vec<Ready>> {
        let mut who = vec![Ready::Listener];
        let mut polled = vec![PollFd::new(&self.listener, PollFlags::IN)];
        for (id, peer) in &self.peers {
            who.push(Ready::Control(*id));
            polled.push(PollFd::new(&peer.control, PollFlags::IN));
            let waiting = |joined: &&Joined| joined.pending != 0 || joined.verdict.is_some();
            if let Some(joined) = peer.joined.as_ref().filter(waiting) {
                who.push(Ready::News(*id));
                polled.push(PollFd::new(&joined.news, PollFlags::OUT));
            }
        }
        let linger = Timespec { tv_sec: LINGER.as_secs() as i64, tv_nsec: 0 };
        let timeout = if self.peers.is_empty() { Some(&linger) } else { None };
        match rustix::event::poll(&mut polled, timeout) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let events: Vec<bool> = polled.iter().map(|poll| !poll.revents().is_empty()).collect();
        Ok(who.into_iter().zip(events).filter_map(|(who, event)| event.then_some(who)).collect())
    }

    fn accept(&mut self) {
        // Twice the slots: more than can ever join, and an end to what a crowd can cost.
        if self.peers.len() >= 2 * usize::from(SLOTS) {
            return;
        }
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        if let Ok(control) = rustix::net::accept_with(&self.listener, flags) {
            self.peers.insert(PeerId(self.next), Peer { control, joined: None });
            self.next = self.next.wrapping_add(1);
        }
    }

    fn drop_peer(&mut self, id: PeerId) {
        self.exchange.leave(id);
        // Its slot in the page stays as it was: who sends to a dead machine sees a carrier error.
        self.peers.remove(&id);
    }

    /// Takes one message. False ends the connection.
    fn serve_peer(&mut self, id: PeerId) -> bool {
        let Some(peer) = self.peers.get(&id) else { return true };
        if peer.joined.is_none() {
            return self.greet(id);
        }
        let request = match wire::receive::<Request>(peer.control.as_fd()) {
            Ok(Some(request)) => request,
            Ok(None) => return false,
            Err(error) => return error.kind() == std::io::ErrorKind::WouldBlock,
        };
        let Some(answer) = self.answer(id, &request) else { return false };
        let Some(peer) = self.peers.get(&id) else { return true };
        rustix::net::send(&peer.control, answer.as_bytes(), SendFlags::NOSIGNAL).is_ok()
    }

    fn answer(&mut self, id: PeerId, request: &Request) -> Option<Answer> {
        let done = match request.what {
            wire::BIND => {
                let irq = u8::try_from(request.irq).ok().and_then(Irq::new)?;
                let count = request.count as u16;
                self.exchange.bind(id, request.offset, request.address, count, irq).is_ok()
            }
            wire::UNBIND => self.exchange.unbind(id, request.offset, request.address),
            wire::SEND => return Some(self.send(id, request)),
            _ => return None,
        };
        Some(Answer::new(done.into(), None))
    }

    fn send(&mut self, id: PeerId, request: &Request) -> Answer {
        let peers = &mut self.peers;
        let sent = self.exchange.send(id, request.offset, request.address, &mut |receiver, irq| {
            ring(peers, receiver, irq);
            // A receiver on another core may refill meanwhile; one on ours gets the core.
            std::thread::yield_now();
        });
        if let Some((receiver, irq)) = sent.interrupt {
            ring(peers, receiver, irq);
        }
        let mut own = None;
        for (killed, reason) in sent.killed {
            if killed == id {
                own = Some(reason);
            } else if let Some(joined) = joined(peers, killed) {
                joined.verdict.get_or_insert(reason);
                tell(peers, killed);
            }
        }
        Answer::new(1, own.as_deref())
    }

    /// A machine's first message. False ends the connection.
    fn greet(&mut self, id: PeerId) -> bool {
        let Some(peer) = self.peers.get(&id) else { return true };
        let (hello, files) = match wire::receive_with_files::<Hello>(peer.control.as_fd()) {
            Ok((Some(hello), files)) => (hello, files),
            Ok((None, _)) => return false,
            Err(error) => return error.kind() == std::io::ErrorKind::WouldBlock,
        };
        let welcome = match self.admit(id, &hello, files) {
            Ok(slot) => Welcome::new(slot.into(), None),
            Err(reason) => Welcome::new(0, Some(&reason)),
        };
        let Some(peer) = self.peers.get(&id) else { return true };
        let files = [self.page.as_fd()];
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        ancillary.push(SendAncillaryMessage::ScmRights(&files));
        let bytes = [std::io::IoSlice::new(welcome.as_bytes())];
        let sent = rustix::net::sendmsg(&peer.control, &bytes, &mut ancillary, SendFlags::NOSIGNAL);
        sent.is_ok() && peer.joined.is_some()
    }

    fn admit(&mut self, id: PeerId, hello: &Hello, files: Vec<OwnedFd>) -> Result<u16, String> {
        if hello.version != wire::VERSION {
            return Err("the link was started by another version of lguest".to_owned());
        }
        let form = match hello.bits {
            32 => Form::Bits32,
            64 => Form::Bits64,
            bits => return Err(format!("{bits} bits")),
        };
        let [memory, news] =
            <[OwnedFd; 2]>::try_from(files).map_err(|_| "two files are missing".to_owned())?;
        let memory =
            Memory::adopt(File::from(memory), hello.ram, hello.pages).map_err(|error| error.to_string())?;
        let slot = self.free_slot().ok_or_else(|| format!("all {SLOTS} places are taken"))?;
        self.clear_slot(slot).map_err(|error| error.to_string())?;
        self.exchange.join(id, Area::new(Arc::new(memory), hello.limit, form));
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.joined = Some(Joined { slot, news, pending: 0, verdict: None });
        }
        Ok(slot)
    }

    /// The lowest slot that no machine on the link has.
    fn free_slot(&self) -> Option<u16> {
        let taken: Vec<u16> = self.peers.values().filter_map(|p| p.joined.as_ref()).map(|j| j.slot).collect();
        (0..SLOTS).find(|slot| !taken.contains(slot))
    }

    /// Whatever a dead machine left there is not the new one's address.
    fn clear_slot(&self, slot: u16) -> std::io::Result<()> {
        use std::os::unix::fs::FileExt;
        self.page.write_all_at(&[0; ADDRESS_SIZE], slot_offset(slot))
    }
}

type Peers = BTreeMap<PeerId, Peer>;

fn joined(peers: &mut Peers, id: PeerId) -> Option<&mut Joined> {
    peers.get_mut(&id)?.joined.as_mut()
}

/// Raises an interrupt of a machine's.
fn ring(peers: &mut Peers, id: PeerId, irq: Irq) {
    if let Some(joined) = joined(peers, id) {
        joined.pending |= 1 << irq.number();
    }
    tell(peers, id);
}

/// Tells a machine what waits for it, if it listens now; otherwise the next poll says when it does.
fn tell(peers: &mut Peers, id: PeerId) {
    let Some(joined) = joined(peers, id) else { return };
    if joined.pending == 0 && joined.verdict.is_none() {
        return;
    }
    let news = News::new(joined.pending, joined.verdict.as_deref());
    match rustix::net::send(&joined.news, news.as_bytes(), SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
        Err(rustix::io::Errno::AGAIN) => {}
        // Told, or nobody there to be told.
        _ => (joined.pending, joined.verdict) = (0, None),
    }
}
