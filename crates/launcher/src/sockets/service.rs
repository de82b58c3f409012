//! The thread beside the device: hears visitors of PATH, finds whom the Guest calls, and wakes the device when a socket has
//! bytes or room.

use std::collections::BTreeMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use lguest_devices::virtio::waker::Waker;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SocketAddrUnix, SocketFlags, SocketType};

use super::streams::{BELL, DOOR, Shared};

/// Visitors at PATH who have not said where to; one more sends the oldest away.
const MOST_VISITORS: usize = 32;
/// How long a visitor may take to say it.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest line of a visitor: "CONNECT 4294967295".
const LONGEST_LINE: usize = 18;
/// Events taken at once.
const AT_ONCE: usize = 64;

/// A visitor who has not said where to.
struct Visitor {
    socket: OwnedFd,
    line: Vec<u8>,
    since: Instant,
}

struct Service {
    shared: Arc<Shared>,
    place: Option<(UnixListener, PathBuf)>,
    visitors: BTreeMap<u64, Visitor>,
}

/// Starts the thread. It begins its work when it is given the device's waker, and goes when the device does.
///
/// # Errors
/// When the host refuses a descriptor or a thread.
pub fn start(
    shared: Arc<Shared>,
    place: Option<(UnixListener, PathBuf)>,
) -> io::Result<impl FnOnce(Waker) + Send + 'static> {
    if let Some((listener, _)) = &place {
        listener.set_nonblocking(true)?;
        epoll::add(&shared.events, listener, epoll::EventData::new_u64(DOOR), epoll::EventFlags::IN)?;
    }
    let (give, wait) = std::sync::mpsc::channel::<Waker>();
    thread::Builder::new().name("lguest-sockets".to_owned()).spawn(move || {
        // No waker means that the machine was not built after all.
        if let Ok(waker) = wait.recv()
            && let Err(error) = (Service { shared, place, visitors: BTreeMap::new() }).serve(&waker)
        {
            tracing::warn!("the machine's sockets end: {error}");
        }
    })?;
    Ok(move |waker| {
        // A thread that is gone is a machine that is ending.
        let _ = give.send(waker);
    })
}

impl Service {
    fn serve(&mut self, waker: &Waker) -> io::Result<()> {
        let mut events = [MaybeUninit::uninit(); AT_ONCE];
        while !self.shared.is_closed() {
            let patience = self.patience().and_then(|time| Timespec::try_from(time).ok());
            let happened: Vec<u64> = match epoll::wait(&self.shared.events, &mut events, patience.as_ref()) {
                Ok((happened, _)) => happened.iter().map(|event| event.data.u64()).collect(),
                Err(Errno::INTR) => Vec::new(),
                Err(error) => return Err(error.into()),
            };
            let mut wake = false;
            for number in happened {
                wake |= match number {
                    BELL => {
                        let _ = rustix::io::read(&self.shared.bell, &mut [0; 8]);
                        self.find();
                        true
                    }
                    DOOR => {
                        self.open();
                        false
                    }
                    _ => self.hear(number),
                };
            }
            self.visitors.retain(|_, visitor| visitor.since.elapsed() < PATIENCE);
            if wake {
                waker.wake();
            }
        }
        Ok(())
    }

    /// Until the first visitor has waited long enough.
    fn patience(&self) -> Option<Duration> {
        let oldest = self.visitors.values().map(|visitor| visitor.since).min()?;
        Some(PATIENCE.saturating_sub(oldest.elapsed()))
    }

    /// Whoever waits at PATH.
    fn open(&mut self) {
        let Some((listener, _)) = &self.place else { return };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let Ok(socket) = rustix::net::accept_with(listener.as_fd(), flags) else { return };
        if self.visitors.len() >= MOST_VISITORS {
            let _oldest = self.visitors.pop_first();
        }
        if let Some(number) = self.shared.watch(&socket) {
            self.visitors.insert(number, Visitor { socket, line: Vec::new(), since: Instant::now() });
        }
    }

    /// A visitor's words, or something for the device: then true. What follows the line is the Guest's, so bytes are taken
    /// one by one.
    fn hear(&mut self, number: u64) -> bool {
        let Some(visitor) = self.visitors.get_mut(&number) else { return true };
        let mut byte = [0];
        loop {
            match rustix::net::recv(&visitor.socket, &mut byte[..], RecvFlags::empty()) {
                Ok((1, _)) if byte == *b"\n" => break,
                Ok((1, _)) if visitor.line.len() < LONGEST_LINE => visitor.line.push(byte[0]),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return false,
                _ => {
                    self.visitors.remove(&number);
                    return false;
                }
            }
        }
        let Some(Visitor { socket, line, .. }) = self.visitors.remove(&number) else { return false };
        match port(&line) {
            Some(port) => {
                self.shared.admit(number, socket, port, true);
                true
            }
            None => false,
        }
    }

    /// Finds whom the Guest calls.
    fn find(&mut self) {
        while let Some(call) = self.shared.next_call() {
            let socket = self.place.as_ref().and_then(|(_, path)| connect(path, call.port).ok());
            self.shared.answer(call.stream, socket);
        }
    }
}

/// The port in "CONNECT port".
fn port(line: &[u8]) -> Option<u32> {
    let digits = std::str::from_utf8(line).ok()?.strip_prefix("CONNECT ")?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

/// The program that listens at PATH_port.
fn connect(path: &Path, port: u32) -> Result<OwnedFd, Errno> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!("_{port}"));
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // A Unix socket is connected at once or, when its queue is full, not at all.
    rustix::net::connect(&socket, &SocketAddrUnix::new(name.as_os_str())?)?;
    Ok(socket)
}
