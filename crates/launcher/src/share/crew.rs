//! Who waits for the host's disk when a Guest synchronises: two threads of the share's own, so that no vCPU does.
//!
//! A file is held by what waits for it, so it may be closed meanwhile. What was written before the request came is in the
//! host's page cache by then, which is what a synchronisation is about.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use lguest_devices::virtio::fs::Ticket;
use lguest_devices::virtio::waker::Waker;
use rustix::fs::{fdatasync, fsync, syncfs};
use rustix::io::Result;

/// Threads of a share: one may be at a whole file system (syncfs) while the other goes on with files.
const WORKERS: usize = 2;

/// What takes as long as a disk.
pub enum Work {
    /// What was written to this file.
    File(Arc<OwnedFd>),
    /// The same, without facts that are not needed to find it.
    Data(Arc<OwnedFd>),
    /// What was written to the file system that this is on.
    All(Arc<OwnedFd>),
}

impl Work {
    /// Comes back when it is safe.
    ///
    /// # Errors
    /// The host's.
    pub fn carry_out(&self) -> Result<()> {
        match self {
            Work::File(file) => fsync(file),
            Work::Data(file) => fdatasync(file),
            Work::All(root) => syncfs(root),
        }
    }
}

#[derive(Default)]
struct Books {
    waiting: VecDeque<(Ticket, u64, Work)>,
    done: VecDeque<(Ticket, u64, Result<()>)>,
    workers: usize,
    closed: bool,
}

#[derive(Default)]
struct Yard {
    books: Mutex<Books>,
    work: Condvar,
    waker: OnceLock<Waker>,
}

impl Yard {
    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A worker's life.
    fn work(&self) {
        while let Some((ticket, unique, work)) = self.next() {
            let done = work.carry_out();
            // A file that the Guest has closed is closed before it hears of this.
            drop(work);
            self.books().done.push_back((ticket, unique, done));
            if let Some(waker) = self.waker.get() {
                waker.wake();
            }
        }
    }

    fn next(&self) -> Option<(Ticket, u64, Work)> {
        let mut books = self.books();
        loop {
            if books.closed {
                return None;
            }
            if let Some(work) = books.waiting.pop_front() {
                return Some(work);
            }
            books = self.work.wait(books).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// A share's crew.
#[derive(Default)]
pub struct Crew {
    yard: Arc<Yard>,
    tickets: u64,
}

/// Where the crew hears which device it works for, and begins.
pub struct Start(Arc<Yard>);

impl Crew {
    /// What begins it. Until then, and on a host that refuses threads, who asks does the work.
    pub fn start(&self) -> Start {
        Start(self.yard.clone())
    }

    /// Takes on what the request of this number wants; gives it back when there is nobody to do it.
    ///
    /// # Errors
    /// The work.
    pub fn take(&mut self, unique: u64, work: Work) -> std::result::Result<Ticket, Work> {
        let mut books = self.yard.books();
        if books.workers == 0 {
            return Err(work);
        }
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        books.waiting.push_back((ticket, unique, work));
        drop(books);
        self.yard.work.notify_one();
        Ok(ticket)
    }

    /// What is done since: the request's number and its end.
    pub fn done(&mut self) -> Option<(Ticket, u64, Result<()>)> {
        self.yard.books().done.pop_front()
    }

    /// Forgets what was taken on. What is under way ends by itself.
    pub fn forget(&mut self) {
        let mut books = self.yard.books();
        books.waiting.clear();
        books.done.clear();
    }
}

impl Start {
    /// Begins.
    pub fn with(self, waker: Waker) {
        let _ = self.0.waker.set(waker);
        for _ in 0..WORKERS {
            let yard = self.0.clone();
            let started = std::thread::Builder::new().name("share".to_owned()).spawn(move || yard.work());
            self.0.books().workers += usize::from(started.is_ok());
        }
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.yard.books().closed = true;
        self.yard.work.notify_all();
    }
}
