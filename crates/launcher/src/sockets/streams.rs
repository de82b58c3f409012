//! What the device and the thread share: the sockets there are, who is on the way in, and what the Guest calls.
//!
//! Every socket here never waits, so both sides may hold the lock while they use one.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use lguest_devices::virtio::vsock::{MOST_CONNECTIONS, Received, Stream, Streams};
use rustix::event::{EventfdFlags, epoll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown};

/// What an event of the bell is called; sockets have the numbers of their streams.
pub const BELL: u64 = 0;
/// The same for PATH.
pub const DOOR: u64 = 1;
/// The first stream.
const FIRST: u64 = 2;

/// One stream's end here.
#[derive(Debug)]
struct Held {
    /// None while the Guest's call is open.
    socket: Option<OwnedFd>,
    /// Somebody took the Guest's call, or nobody did.
    answered: Option<bool>,
    /// A visitor of PATH, who is told when the Guest lets it in.
    greeted: bool,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    held: BTreeMap<u64, Held>,
    arrivals: VecDeque<(Stream, u32)>,
    calls: VecDeque<(Stream, u32)>,
    closed: bool,
}

/// What both share.
#[derive(Debug)]
pub struct Shared {
    pub bell: OwnedFd,
    pub events: OwnedFd,
    state: Mutex<State>,
}

/// A call of the Guest's that somebody has to take.
pub struct Call {
    /// The stream that it becomes.
    pub stream: Stream,
    /// The host's port.
    pub port: u32,
}

impl Shared {
    /// Nothing yet.
    ///
    /// # Errors
    /// When the host refuses a descriptor.
    pub fn new() -> io::Result<Shared> {
        let bell = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let events = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&events, &bell, epoll::EventData::new_u64(BELL), epoll::EventFlags::IN)?;
        let state = Mutex::new(State { next: FIRST, ..State::default() });
        Ok(Shared { bell, events, state })
    }

    /// A panic elsewhere must not take the sockets with it: what is held is plain state.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ring(&self) {
        // It can only fail when it was rung very often already.
        let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
    }

    /// A number for a socket, under which its events come from now on. Each change comes once.
    pub fn watch(&self, socket: &OwnedFd) -> Option<u64> {
        let number = {
            let mut state = self.lock();
            state.next += 1;
            state.next
        };
        let flags =
            epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
        epoll::add(&self.events, socket, epoll::EventData::new_u64(number), flags).ok().map(|()| number)
    }

    /// A visitor who said where to.
    pub fn admit(&self, number: u64, socket: OwnedFd, port: u32, greeted: bool) {
        let mut state = self.lock();
        // Whoever is one too many is sent away by the end of its socket.
        if !state.closed && state.held.len() < MOST_CONNECTIONS {
            state.held.insert(number, Held { socket: Some(socket), answered: None, greeted });
            state.arrivals.push_back((Stream(number), port));
        }
    }

    /// A visitor who need not say where to.
    pub fn arrive(&self, socket: OwnedFd, port: u32) {
        if let Some(number) = self.watch(&socket) {
            self.admit(number, socket, port, false);
            self.ring();
        }
    }

    /// The next call of the Guest's.
    pub fn next_call(&self) -> Option<Call> {
        let (stream, port) = self.lock().calls.pop_front()?;
        Some(Call { stream, port })
    }

    /// Somebody took a call, at this socket, or nobody did.
    pub fn answer(&self, stream: Stream, socket: Option<OwnedFd>) {
        let flags =
            epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
        let data = epoll::EventData::new_u64(stream.0);
        let socket = socket.filter(|socket| epoll::add(&self.events, socket, data, flags).is_ok());
        // A Guest that hung up meanwhile has no such stream any more.
        if let Some(held) = self.lock().held.get_mut(&stream.0) {
            held.answered = Some(socket.is_some());
            held.socket = socket;
        }
    }

    /// Whether the device is gone.
    pub fn is_closed(&self) -> bool {
        self.lock().closed
    }
}

/// The device's side.
pub struct HostStreams(pub std::sync::Arc<Shared>);

impl HostStreams {
    fn with<T>(&self, stream: Stream, act: impl FnOnce(&OwnedFd) -> T) -> Option<T> {
        self.0.lock().held.get(&stream.0)?.socket.as_ref().map(act)
    }
}

impl Streams for HostStreams {
    fn connect(&mut self, port: u32) -> Option<Stream> {
        let mut state = self.0.lock();
        if state.held.len() >= MOST_CONNECTIONS {
            return None;
        }
        state.next += 1;
        let stream = Stream(state.next);
        state.held.insert(stream.0, Held { socket: None, answered: None, greeted: false });
        state.calls.push_back((stream, port));
        drop(state);
        self.0.ring();
        Some(stream)
    }

    fn answered(&mut self, stream: Stream) -> Option<bool> {
        self.0.lock().held.get(&stream.0).map_or(Some(false), |held| held.answered)
    }

    fn arrived(&mut self) -> Option<(Stream, u32)> {
        self.0.lock().arrivals.pop_front()
    }

    fn granted(&mut self, stream: Stream, port: u32) {
        let greeted = self.0.lock().held.get(&stream.0).is_some_and(|held| held.greeted);
        if greeted {
            // The first bytes of a socket that was just made have room; a visitor that is gone needs none.
            let line = format!("OK {port}\n");
            let _ =
                self.with(stream, |socket| rustix::net::send(socket, line.as_bytes(), SendFlags::NOSIGNAL));
        }
    }

    fn send(&mut self, stream: Stream, bytes: &[u8]) -> Option<usize> {
        match self.with(stream, |socket| rustix::net::send(socket, bytes, SendFlags::NOSIGNAL))? {
            Ok(length) => Some(length),
            Err(Errno::AGAIN | Errno::INTR) => Some(0),
            Err(_) => None,
        }
    }

    fn receive(&mut self, stream: Stream, bytes: &mut [u8]) -> Received {
        match self.with(stream, |socket| rustix::net::recv(socket, bytes, RecvFlags::empty())) {
            Some(Ok((0, _))) => Received::End,
            Some(Ok((length, _))) => Received::Bytes(length),
            Some(Err(Errno::AGAIN | Errno::INTR)) => Received::Nothing,
            Some(Err(_)) | None => Received::Gone,
        }
    }

    fn end(&mut self, stream: Stream) {
        let _ = self.with(stream, |socket| rustix::net::shutdown(socket, Shutdown::Write));
    }

    fn close(&mut self, stream: Stream) {
        let mut state = self.0.lock();
        state.held.remove(&stream.0);
        state.calls.retain(|(one, _)| *one != stream);
    }
}

impl Drop for HostStreams {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.closed = true;
        state.held.clear();
        drop(state);
        self.0.ring();
    }
}
