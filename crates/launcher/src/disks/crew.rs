//! Who moves a disk's bytes: the vCPU that asks where nothing has to wait, else one of a few threads.
//!
//! ```text
//!   vCPU ──► take: in the host's page cache? ──yes──► done, before the vCPU goes on
//!                        │ no
//!                        ▼
//!                     waiting ──► worker: read, write, flush, discard ──► done ──► Waker ──► the device gives it back
//! ```
//! A read tells whether it would wait (RWF_NOWAIT). A short write goes into the host's page cache, which ext4 cannot promise
//! beforehand; so the vCPU writes while that is quick, and leaves it to the workers after one that was not, until theirs are
//! quick. A fixed number of writes in their place (256) made 4 KiB at random 2 to 5 times slower on a busy host, where the
//! scheduler alone makes many a write slow.
//!
//! Measured interleaved on two busy processors, 4 KiB at random with O_DIRECT in the Guest, microseconds a request: reads 16
//! by the vCPU and 44 by a worker, writes 35 and 87; a mebibyte at a time there is no difference (142 to 200), so long
//! requests are the workers', and the vCPU goes on meanwhile. io_uring is left out: a thread that may fill its queue may ask
//! for what no filter of system calls sees.

use std::collections::VecDeque;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use lguest_devices::virtio::block::Storage;
use lguest_devices::virtio::block::request::{Done, Job};
use lguest_devices::virtio::block::storage::Crew;
use lguest_devices::virtio::waker::Waker;

/// Threads of a disk. The host's disk sees that many requests at a time; more than a few gain little, and each waits most
/// of its life.
const WORKERS: usize = 4;

/// The longest write that a vCPU does itself: longer ones gain nothing by it.
const SHORT: u64 = 64 << 10;
/// A write that took longer than this waited for something: copying that much takes a twentieth of it.
const QUICK: Duration = Duration::from_micros(500);
/// Quick writes of the workers, one after another, after which the next is a vCPU's again. Where the host holds writers back
/// it does so every few dozen writes.
const AGAIN: u32 = 4;

/// Whether short writes are quick at the moment, by the last ones of whoever did them.
#[derive(Default)]
struct Pace {
    /// Quick ones that are wanted before a vCPU does one itself.
    wanted: AtomicU32,
}

impl Pace {
    /// Whether a vCPU may do the next write of so many bytes itself.
    fn is_quick(&self, bytes: u64) -> bool {
        bytes <= SHORT && self.wanted.load(Relaxed) == 0
    }

    /// A short one took so long.
    fn took(&self, time: Duration) {
        if time > QUICK {
            self.wanted.store(AGAIN, Relaxed);
        } else if self.wanted.load(Relaxed) > 0 {
            // Another thread may have counted down the last one meanwhile.
            let _ = self.wanted.fetch_update(Relaxed, Relaxed, |wanted| wanted.checked_sub(1));
        }
    }
}

/// What the vCPUs and the workers share.
struct Yard {
    storage: Arc<dyn Storage>,
    pace: Pace,
    books: Mutex<Books>,
    /// There is work, or the end.
    work: Condvar,
    /// Nobody is busy.
    idle: Condvar,
    waker: OnceLock<Waker>,
}

#[derive(Default)]
struct Books {
    /// At most a queue full of each queue: the device takes no more on.
    waiting: VecDeque<Job>,
    done: VecDeque<Done>,
    busy: usize,
    workers: usize,
    /// Somebody is on the way to the device already, and will bring all that is done.
    told: bool,
    closed: bool,
}

impl Yard {
    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does what a job asks, and notes how long a short write takes.
    fn carry_out(&self, job: Job, buffer: &mut Vec<u8>) -> Done {
        let short = job.writes().is_some_and(|bytes| bytes <= SHORT);
        let start = short.then(Instant::now);
        let done = job.carry_out(&*self.storage, buffer);
        if let Some(start) = start {
            self.pace.took(start.elapsed());
        }
        done
    }

    /// A worker's life.
    fn work(&self) {
        let mut buffer = Vec::new();
        while let Some(job) = self.next() {
            let done = self.carry_out(job, &mut buffer);
            let mut books = self.books();
            books.busy -= 1;
            books.done.push_back(done);
            let first = !std::mem::replace(&mut books.told, true);
            drop(books);
            // Who waits for us holds the device, so it hears that we are done before we ask for the device.
            self.idle.notify_all();
            if let (true, Some(waker)) = (first, self.waker.get()) {
                waker.wake();
            }
        }
    }

    fn next(&self) -> Option<Job> {
        let mut books = self.books();
        loop {
            if books.closed {
                return None;
            }
            if let Some(job) = books.waiting.pop_front() {
                books.busy += 1;
                return Some(job);
            }
            books = self.work.wait(books).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Forgets what waits, and comes back when nobody is busy.
    fn settle(&self) {
        let mut books = self.books();
        books.waiting.clear();
        while books.busy > 0 {
            books = self.idle.wait(books).unwrap_or_else(PoisonError::into_inner);
        }
        books.done.clear();
        books.told = false;
    }
}

/// A disk's crew.
pub struct Workers {
    yard: Arc<Yard>,
    buffer: Vec<u8>,
}

/// Where the crew hears which device it works for, and begins.
pub struct Start(Arc<Yard>);

impl Workers {
    /// A crew for this disk that has not begun.
    pub fn new(storage: Arc<dyn Storage>) -> (Workers, Start) {
        let yard = Arc::new(Yard {
            storage,
            pace: Pace::default(),
            books: Mutex::default(),
            work: Condvar::new(),
            idle: Condvar::new(),
            waker: OnceLock::new(),
        });
        (Workers { yard: yard.clone(), buffer: Vec::new() }, Start(yard))
    }
}

impl Start {
    /// Begins. On a host that refuses threads, who asks does the work.
    pub fn with(self, waker: Waker) {
        let _ = self.0.waker.set(waker);
        for _ in 0..WORKERS {
            let yard = self.0.clone();
            let started = std::thread::Builder::new().name("disk".to_owned()).spawn(move || yard.work());
            self.0.books().workers += usize::from(started.is_ok());
        }
    }
}

impl Crew for Workers {
    fn take(&mut self, job: Job) -> Option<Done> {
        let storage = &*self.yard.storage;
        let job = match job.carry_out_at_once(storage, &mut self.buffer) {
            Ok(done) => return Some(done),
            Err(job) => *job,
        };
        if job.writes().is_some_and(|bytes| self.yard.pace.is_quick(bytes)) {
            return Some(self.yard.carry_out(job, &mut self.buffer));
        }
        let mut books = self.yard.books();
        if books.workers == 0 {
            drop(books);
            return Some(self.yard.carry_out(job, &mut self.buffer));
        }
        books.waiting.push_back(job);
        drop(books);
        self.yard.work.notify_one();
        None
    }

    fn done(&mut self) -> Option<Done> {
        let mut books = self.yard.books();
        let done = books.done.pop_front();
        books.told = done.is_some();
        done
    }

    fn settle(&mut self) {
        self.yard.settle();
    }
}

impl Drop for Workers {
    /// The machine has ended. What its Guest wrote is given to the host, as pulling a disk's plug gently does.
    fn drop(&mut self) {
        self.yard.settle();
        self.yard.books().closed = true;
        self.yard.work.notify_all();
        let _ = self.yard.storage.flush();
    }
}

#[cfg(test)]
#[path = "crew_tests.rs"]
mod tests;
