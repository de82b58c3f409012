//! `--net link=NAME` for virtio: a member of the link that is no Guest but this thread, so that machines of both
//! generations meet on one link.
//!
//! ```text
//!   0000 ....   1000 receive lists   2000 send list   3000 send buffer   4000 .. receive buffers, a page each
//!   1_4000      a descriptor page nobody reads        1_5000 the link's page: everybody's Ethernet address
//! ```
//! The link copies from memory to memory by keys (`host::link`); a Linux Guest's driver knows nothing of keys. So this
//! thread joins with a small memory of its own, keeps its receive lists bound, looks into the page for who wants a frame,
//! and sends to each, as the default Guest's driver does in its Guest (`guest::drivers::net`).

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread;

use lguest_abi::dma::{Dma64, Section, Sections};
use lguest_abi::meeting::Irq;
use lguest_abi::net::{
    ADDRESS_SIZE, EthernetAddress, FRAME_MAXIMUM, FRAME_MINIMUM, SLOTS, key_offset, slot_offset, wants,
};
use lguest_devices::frame::{Abilities, Frame};
use lguest_devices::virtio::waker::Waker;
use lguest_host::dma::{Area, Form};
use lguest_host::interrupts::Interrupts;
use lguest_host::link::{Joining, Link, LinkError};
use lguest_host::memory::{GuestAddress, Memory, MemoryError, PAGE_SIZE};
use lguest_host::number::GuestNumber;
use rustix::event::{EventfdFlags, PollFd, PollFlags, poll};
use zerocopy::IntoBytes;

use crate::board::LinkPlace;
use crate::user_network::outbox::Outbox;
use crate::user_network::port::{self, Berth, Port};

/// Receive lists: twice the default Guest's, for this one answers to a thread and not to an interrupt.
const LISTS: u16 = 16;
const RECEIVE: u64 = 0x1000;
const SEND: u64 = 0x2000;
const SEND_BUFFER: u64 = 0x3000;
const BUFFERS: u64 = 0x4000;
const RAM: u64 = BUFFERS + LISTS as u64 * PAGE_SIZE;
const PAGES: u64 = 2;
const TABLE: u64 = RAM + PAGE_SIZE;
const LIMIT: u64 = RAM + PAGES * PAGE_SIZE;
/// The interrupt that means news; any would do.
const IRQ: u8 = 1;

/// Why a machine is not on its link.
#[derive(Debug, thiserror::Error)]
pub enum MemberError {
    /// The link.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The member's memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// A number, a descriptor or a thread.
    #[error("the host refuses to serve it: {0}")]
    Host(#[from] io::Error),
    /// The broker has no room for one more array.
    #[error("the link's broker has no room for this machine")]
    Full,
}

/// On the link.
struct Member {
    area: Area,
    link: Link,
    slot: u16,
    /// The list that is filled next.
    next: u16,
    news: Arc<OwnedFd>,
    /// Ours while we are here: nobody else has our Ethernet address.
    _number: GuestNumber,
}

/// Rings when a list was filled.
struct Bell(Arc<OwnedFd>);

impl Interrupts for Bell {
    fn raise(&self, _irq: Irq) {
        // It can only fail when it was rung very often already.
        let _ = rustix::io::write(&*self.0, &1u64.to_ne_bytes());
    }
}

/// A device's end of the link, its Ethernet address, and who wants its waker.
type Joined<F> = (Port, [u8; ADDRESS_SIZE], F);

/// Joins the link `name` as this machine's network number `network`.
///
/// # Errors
/// [`MemberError`].
pub fn start(
    name: &str,
    network: u8,
    place: &LinkPlace,
) -> Result<Joined<impl FnOnce(Waker) + Send + 'static>, MemberError> {
    let number = GuestNumber::claim()?;
    let address = EthernetAddress::of_guest(number.get(), network);
    let mut memory = Memory::with_device_pages(RAM, PAGES)?;
    let joining = Joining { memory: &memory, size: (RAM, PAGES), limit: LIMIT, form: Form::Bits64 };
    let (mut link, page) = Link::join(&place.folder, name, &place.start, &joining)?;
    memory.graft(GuestAddress(TABLE), page)?;
    let news = Arc::new(
        rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(io::Error::from)?,
    );
    let died: Box<dyn Fn(String) + Send> = Box::new(|reason| tracing::warn!("the link is lost: {reason}"));
    link.listen(Arc::new(Bell(news.clone())), died)?;
    let slot = link.slot();
    let area = Area::new(Arc::new(memory), LIMIT, Form::Bits64);
    let member = Member { area, link, slot, next: 0, news, _number: number };
    member.settle_in(address)?;

    let (port, berth) = port::pair(Abilities::default())?;
    let (give, wait) = std::sync::mpsc::channel::<Waker>();
    thread::Builder::new().name("lguest-member".to_owned()).spawn(move || {
        // No waker means that the machine was not built after all.
        if let Ok(waker) = wait.recv() {
            serve(member, &berth, &waker);
        }
    })?;
    Ok((port, address.0, move |waker| {
        let _ = give.send(waker);
    }))
}

fn serve(mut member: Member, berth: &Berth, waker: &Waker) {
    let mut outbox = Outbox::default();
    loop {
        let mut polled = [
            PollFd::from_borrowed_fd(berth.bell(), PollFlags::IN),
            PollFd::from_borrowed_fd(member.news.as_fd(), PollFlags::IN),
        ];
        match poll(&mut polled, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return tracing::warn!("the link is lost: {error}"),
        }
        let arrivals = berth.fetch();
        if arrivals.closed {
            return;
        }
        for frame in arrivals.frames {
            member.send(&frame.bytes);
        }
        let _ = rustix::io::read(&*member.news, &mut [0; 8]);
        member.receive(&mut outbox);
        if berth.pour(&mut outbox) || arrivals.refused {
            waker.wake();
        }
    }
}

impl Member {
    /// Offers the receive lists and shows the address to the others.
    fn settle_in(&self, address: EthernetAddress) -> Result<(), MemberError> {
        for list in 0..LISTS {
            let buffer = BUFFERS + u64::from(list) * PAGE_SIZE;
            self.describe(RECEIVE + u64::from(list) * Form::Bits64.stride(), buffer, FRAME_MAXIMUM as u16)?;
        }
        let Some(irq) = Irq::new(IRQ) else { return Err(MemberError::Full) };
        if !self.link.bind(key_offset(self.slot), RECEIVE, LISTS, irq) {
            return Err(MemberError::Full);
        }
        Ok(self.area.write(TABLE + slot_offset(self.slot), &address.0)?)
    }

    /// Writes a list of one section.
    fn describe(&self, list: u64, address: u64, length: u16) -> Result<(), MemoryError> {
        let mut sections = Sections::default();
        // One section has room in an empty list, and no frame is empty.
        let _ = sections.push(Section { address, length });
        self.area.write(list, Dma64::new(&sections).as_bytes())
    }

    /// Sends a frame to everybody who wants it. Who has no room, or is gone, does not get it.
    fn send(&self, frame: &[u8]) {
        let mut table = [0; SLOTS as usize * ADDRESS_SIZE];
        let fits = (FRAME_MINIMUM..=FRAME_MAXIMUM).contains(&(frame.len() as u32));
        let Some(destination) = frame.first_chunk().filter(|_| fits) else { return };
        let destination = EthernetAddress(*destination);
        let written =
            self.area.write(SEND_BUFFER, frame).is_ok() && self.area.read(TABLE, &mut table).is_ok();
        let (peers, _) = table.as_chunks::<ADDRESS_SIZE>();
        for (slot, peer) in (0..SLOTS).zip(peers) {
            let wanted = written && slot != self.slot && wants(*peer, destination);
            if wanted && self.describe(SEND, SEND_BUFFER, frame.len() as u16).is_ok() {
                // A rule that this thread broke would be our mistake; the frame is lost.
                let _ = self.link.send(key_offset(slot), SEND);
            }
        }
    }

    /// Takes what came, in the order in which the lists were filled, and offers the lists again.
    fn receive(&mut self, outbox: &mut Outbox) {
        for _ in 0..LISTS {
            let list = RECEIVE + u64::from(self.next) * Form::Bits64.stride();
            let Ok(used @ 1..) = self.area.used(list) else { return };
            let mut bytes = vec![0; used.min(FRAME_MAXIMUM) as usize];
            let buffer = BUFFERS + u64::from(self.next) * PAGE_SIZE;
            if self.area.read(buffer, &mut bytes).is_ok() && used >= FRAME_MINIMUM {
                outbox.put(Frame::whole(bytes));
            }
            if self.area.set_used(list, 0).is_err() {
                return;
            }
            self.next = (self.next + 1) % LISTS;
        }
    }
}
