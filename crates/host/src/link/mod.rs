//! A link: a page that machines in different processes share, and DMA between them.
//!
//! ```text
//!   Launcher A                      broker                        Launcher B
//!   SEND_DMA --- request ------->   maps both memory files,
//!            <-- answer ---------   copies once, A to B   --- news: interrupt --->  irq
//! ```
//! The broker is a process of its own, started by the first machine on a link and gone with the last one, so that
//! any machine can be killed and the others go on. It needs no privilege: machines hand it their memory files over a
//! socket that only their user can reach. A machine that does not listen fills up its own lists and nothing
//! else. A broker that does not answer costs its machines two seconds once; then their link is down, which
//! a Guest sees as carrier errors.
//!
//! Trust (facts 13, D7): whoever is on a link can read and write its page and bind any key in it. It can reach no
//! other byte of a peer than those that the peer's own bound lists name.

pub mod wire;
pub mod broker;

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lguest_abi::meeting::Irq;
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType,
};
use zerocopy::IntoBytes;

use crate::dma::Form;
use crate::interrupts::Interrupts;
use crate::irq::lock;
use crate::memory::Memory;
use wire::{Answer, Hello, News, Request, Welcome};

/// A broker answers in microseconds; one that takes this long is stopped or stuck.
const PATIENCE: Duration = Duration::from_secs(2);
/// Tries to join: between two of them a broker may have gone home, or another machine may have started one.
const TRIES: usize = 3;
/// Connections that may wait for the broker; more than machines start at one moment.
const BACKLOG: i32 = 64;
/// The longest name: it becomes a file name, and a socket's path has 108 bytes in all.
const NAME_MAXIMUM: usize = 32;

/// Why a machine is not on its link.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// A name that is no file name.
    #[error("a link's name is 1 to {NAME_MAXIMUM} letters, digits, '-' or '_'")]
    Name,
    /// No place for the socket.
    #[error("the link's socket {path} cannot be made: {source}")]
    Place {
        /// Where.
        path: PathBuf,
        /// What the host said.
        source: std::io::Error,
    },
    /// The broker did not start, or does not answer.
    #[error(
        "the link's broker does not answer: {0}; end the process that holds the link, or choose another name"
    )]
    Silent(std::io::Error),
    /// All 682 slots are taken, or the broker does not like our memory.
    #[error("the link's broker refuses this machine: {0}")]
    Refused(String),
}

/// What a machine brings to a link.
pub struct Joining<'a> {
    /// Its memory, whose file the broker maps.
    pub memory: &'a Memory,
    /// Bytes of RAM and pages of device memory, as the memory was made with.
    pub size: (u64, u64),
    /// The page limit in bytes.
    pub limit: u64,
    /// The layout of its lists.
    pub form: Form,
}

/// A machine's end of a link.
pub struct Link {
    control: Mutex<Option<OwnedFd>>,
    news: Option<OwnedFd>,
    slot: u16,
}

impl Link {
    /// Joins the link `name`, whose socket lies in `folder`; `start` makes a broker process out of a listening socket
    /// when there is none. Returns our end and the page that all machines of the link share.
    ///
    /// # Errors
    /// [`LinkError`].
    pub fn join(
        folder: &Path,
        name: &str,
        start: &dyn Fn(OwnedFd) -> std::io::Result<()>,
        joining: &Joining,
    ) -> Result<(Link, File), LinkError> {
        let good = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if name.is_empty() || name.len() > NAME_MAXIMUM || !name.chars().all(good) {
            return Err(LinkError::Name);
        }
        let mut last = std::io::Error::from(std::io::ErrorKind::TimedOut);
        for _ in 0..TRIES {
            let control = connect(folder, name, start)?;
            match greet(control, joining) {
                Err(LinkError::Silent(error)) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    return Err(LinkError::Silent(std::io::ErrorKind::TimedOut.into()));
                }
                Err(LinkError::Silent(error)) => last = error,
                done => return done,
            }
        }
        Err(LinkError::Silent(last))
    }

    /// Our slot in the page, 0 to 681. It is ours alone while we are on the link.
    pub fn slot(&self) -> u16 {
        self.slot
    }

    /// Hears of interrupts and verdicts on a thread of its own, until the link is gone: `died` gets the reason when our
    /// Guest broke a rule as a receiver.
    ///
    /// # Errors
    /// When the host refuses a thread.
    pub fn listen(
        &mut self,
        interrupts: Arc<dyn Interrupts>,
        died: Box<dyn Fn(String) + Send>,
    ) -> std::io::Result<()> {
        let Some(news) = self.news.take() else { return Ok(()) };
        std::thread::Builder::new().name("lguest-link".into()).spawn(move || {
            while let Ok(Some(news)) = wire::receive::<News>(news.as_fd()) {
                for irq in (1..32).filter(|n| news.interrupts & 1 << n != 0).filter_map(Irq::new) {
                    interrupts.raise(irq);
                }
                if let Some(reason) = news.reason() {
                    died(reason);
                }
            }
        })?;
        Ok(())
    }

    /// Binds an array at byte `offset` of the shared page. False when the broker has no room or is gone.
    pub fn bind(&self, offset: u64, array: u64, count: u16, irq: Irq) -> bool {
        let request = Request::new(wire::BIND, offset, array, count, irq.number());
        self.ask(&request).is_some_and(|answer| answer.done != 0)
    }

    /// Takes a binding back; false when there was none.
    pub fn unbind(&self, offset: u64, array: u64) -> bool {
        self.ask(&Request::new(wire::UNBIND, offset, array, 0, 0)).is_some_and(|answer| answer.done != 0)
    }

    /// Sends the list at `list`; its `used_len` says what became of it. A link that is down delivers nothing.
    ///
    /// # Errors
    /// The reason our Guest is to be killed with.
    pub fn send(&self, offset: u64, list: u64) -> Result<(), String> {
        let answer = self.ask(&Request::new(wire::SEND, offset, list, 0, 0));
        answer.and_then(|answer| answer.reason()).map_or(Ok(()), Err)
    }

    /// One question, one answer. A broker that fails once is not asked again.
    fn ask(&self, request: &Request) -> Option<Answer> {
        let mut control = lock(&self.control);
        let socket = control.as_ref()?;
        let sent = rustix::net::send(socket, request.as_bytes(), SendFlags::NOSIGNAL);
        let answer = sent.is_ok().then(|| wire::receive::<Answer>(socket.as_fd()).ok().flatten()).flatten();
        if answer.is_none() {
            *control = None;
        }
        answer
    }
}

/// Connects to the link's broker; makes one if nobody listens. A lock file keeps two machines from making two.
fn connect(
    folder: &Path,
    name: &str,
    start: &dyn Fn(OwnedFd) -> std::io::Result<()>,
) -> Result<OwnedFd, LinkError> {
    let path = folder.join(format!("{name}.link"));
    let fault = |source: std::io::Error| LinkError::Place { path: path.clone(), source };
    make_folder(folder).map_err(fault)?;
    let lock = folder.join(format!("{name}.lock"));
    let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let lock =
        rustix::fs::open(&lock, flags, Mode::RUSR | Mode::WUSR).map_err(|error| fault(error.into()))?;
    rustix::fs::flock(&lock, FlockOperation::LockExclusive).map_err(|error| fault(error.into()))?;
    let address = SocketAddrUnix::new(&path).map_err(|error| fault(error.into()))?;
    let control = socket().map_err(fault)?;
    for timeout in [Timeout::Recv, Timeout::Send] {
        set_socket_timeout(&control, timeout, Some(PATIENCE)).map_err(|error| fault(error.into()))?;
    }
    if let Err(error) = rustix::net::connect(&control, &address) {
        if error == rustix::io::Errno::AGAIN {
            return Err(LinkError::Silent(std::io::ErrorKind::TimedOut.into()));
        }
        // Nobody listens: what is there is what a dead broker left.
        let _ = std::fs::remove_file(&path);
        let listener = socket().map_err(fault)?;
        rustix::net::bind(&listener, &address).map_err(|error| fault(error.into()))?;
        rustix::net::listen(&listener, BACKLOG).map_err(|error| fault(error.into()))?;
        start(listener).map_err(LinkError::Silent)?;
        rustix::net::connect(&control, &address).map_err(|error| LinkError::Silent(error.into()))?;
    }
    Ok(control)
}

/// The folder, ours alone.
fn make_folder(folder: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt, MetadataExt};
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let facts = std::fs::symlink_metadata(folder)?;
    let ours = facts.is_dir() && facts.uid() == rustix::process::geteuid().as_raw();
    // Another user's folder would let that user stand in for the broker and be handed our memory.
    if ours && facts.mode() & 0o022 == 0 { Ok(()) } else { Err(std::io::ErrorKind::PermissionDenied.into()) }
}

fn socket() -> std::io::Result<OwnedFd> {
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// Hands over our memory and gets the shared page and our slot.
fn greet(control: OwnedFd, joining: &Joining) -> Result<(Link, File), LinkError> {
    let silent = |error: rustix::io::Errno| LinkError::Silent(error.into());
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(silent)?;
    let hello = Hello::new(joining);
    let files = [joining.memory.file().as_fd(), theirs.as_fd()];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(&files));
    let bytes = [std::io::IoSlice::new(hello.as_bytes())];
    rustix::net::sendmsg(&control, &bytes, &mut ancillary, SendFlags::NOSIGNAL).map_err(silent)?;
    let (welcome, mut files) =
        wire::receive_with_files::<Welcome>(control.as_fd()).map_err(LinkError::Silent)?;
    let Some(welcome) = welcome else {
        return Err(LinkError::Silent(std::io::ErrorKind::ConnectionReset.into()));
    };
    if let Some(reason) = welcome.reason() {
        return Err(LinkError::Refused(reason));
    }
    let page = files.pop().ok_or_else(|| LinkError::Refused("it sent no page".to_owned()))?;
    let slot = welcome.slot as u16;
    Ok((Link { control: Mutex::new(Some(control)), news: Some(ours), slot }, File::from(page)))
}

#[cfg(test)]
mod tests;
