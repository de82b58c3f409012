//! One open device file: requests and answers, with the errors of the facts (generation 2, 12).

use std::ffi::c_int;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lguest_abi::control::Request;
use lguest_host::control::{Control, ControlError};
use lguest_host::memory::Memory;
use lguest_host::platform::Engine;

use crate::coherence::Coherence;
use crate::long_mode;
use crate::machine::Machine;
use crate::signals::{self, Heard, Watcher};
use crate::space::{self, PAGE};
use crate::table::Mode;

/// Bytes of a word: a native long.
const WORD: usize = 8;
/// Words of the longest request.
const MOST_WORDS: usize = 4;
/// A reason is never longer; a read asks for no more at once.
const LONGEST_ANSWER: usize = 4096;

/// A device file.
pub struct Device {
    control: Arc<Control>,
    mode: Mode,
    /// The process that opened it.
    process: u32,
    guest: Mutex<Option<Arc<Guest>>>,
}

/// What an INITIALIZE made.
struct Guest {
    coherence: Coherence,
    watcher: Watcher,
}

impl Device {
    /// A file with no Guest yet.
    pub fn new(mode: Mode) -> Device {
        Device {
            control: Arc::new(Control::open(Engine::Translator)),
            mode,
            process: std::process::id(),
            guest: Mutex::new(None),
        }
    }

    /// Whether this process opened it: a child of fork has the number, and nothing of what is behind it.
    pub fn is_ours(&self) -> bool {
        self.process == std::process::id()
    }

    fn guest(&self) -> MutexGuard<'_, Option<Arc<Guest>>> {
        self.guest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn initialize(&self, words: [u64; 3]) -> Result<usize, c_int> {
        // Held to the end: of two that initialise at once, one waits and is told EBUSY.
        let mut guest = self.guest();
        if guest.is_some() {
            return Err(libc::EBUSY);
        }
        let machine = Machine::chosen().ok_or(libc::EINVAL)?;
        let [base, page_limit, start] = words;
        let bytes = page_limit.checked_mul(PAGE).ok_or(libc::EFAULT)?;
        let range = space::Range::check(base, bytes).ok_or(libc::EFAULT)?;
        let memory = Arc::new(Memory::new(bytes).map_err(|_| libc::ENOMEM)?);
        range.copy_into(&memory)?;
        // What begins in long mode wants tables, which are the program's to see as well.
        let entry = match machine {
            Machine::Lguest32 => None,
            Machine::LongMode => Some(long_mode::prepare(&memory, bytes, start).ok_or(libc::EFAULT)?),
        };
        range.become_the_guests(&memory)?;
        let made = signals::quietly(|| match (entry, u32::try_from(start)) {
            (Some(entry), _) => self.control.initialize(memory.clone(), page_limit, entry),
            (None, Ok(start)) => self.control.initialize_lguest32(memory.clone(), page_limit, start),
            (None, Err(_)) => Err(ControlError::Invalid("an address of 32 bits")),
        });
        let words = made.map_err(|error| error.number())?;
        // Not a share of it: the processor goes with the thread that drops the last one.
        let control = Arc::downgrade(&self.control);
        let watcher = Watcher::start(move || {
            control.upgrade().into_iter().for_each(|control| control.call_out());
        })?;
        *guest = Some(Arc::new(Guest { coherence: Coherence::new(memory), watcher }));
        Ok(words * WORD)
    }

    /// Runs the Guest until it wants something, or a signal's handler wants read to end.
    fn run(&self, cpu: u64, guest: Option<&Guest>, buffer: &mut [u8]) -> Result<usize, c_int> {
        loop {
            let Some(guest) = guest else {
                return self.control.run(cpu, buffer).map_err(|error| error.number());
            };
            guest.coherence.look();
            let watched = guest.watcher.watch();
            let result = self.control.run(cpu, buffer);
            let heard = watched.end();
            match result {
                Err(ControlError::Again) => {
                    self.control.resume();
                    if heard == Heard::Interrupt {
                        return Err(libc::EINTR);
                    }
                }
                other => return other.map_err(|error| error.number()),
            }
        }
    }
}

/// write(2) on the device file.
///
/// # Errors
/// Error numbers of errno.h.
pub fn write(device: &Device, cpu: i64, address: usize, count: usize) -> Result<usize, c_int> {
    if !device.mode.writes {
        return Err(libc::EBADF);
    }
    if !device.is_ours() {
        return Err(libc::EPERM);
    }
    let words = count.min(MOST_WORDS * WORD) / WORD;
    let mut request = [0; MOST_WORDS];
    space::read_words(address, &mut request[..words.max(1)])?;
    if words == 0 {
        return Err(libc::EINVAL);
    }
    let request = &request[..words];
    if Request::from_word(request[0]) == Some(Request::Initialize) {
        return match *request {
            [_, base, page_limit, start] => device.initialize([base, page_limit, start]),
            _ => Err(if device.guest().is_some() { libc::EBUSY } else { libc::EINVAL }),
        };
    }
    // The requests of the first generation went with it (facts 12.1).
    let gone = [Request::GetDma, Request::Break];
    if Request::from_word(request[0]).is_some_and(|request| gone.contains(&request)) {
        return Err(libc::EINVAL);
    }
    let guest = device.guest().clone();
    if let Some(guest) = guest.filter(|_| request[0] == Request::Irq as u64) {
        guest.coherence.look();
    }
    let cpu = u64::try_from(cpu).map_err(|_| libc::EINVAL)?;
    device.control.write(cpu, request).map_or_else(|error| Err(error.number()), |_| Ok(0))
}

/// read(2) on the device file: runs the Guest.
///
/// # Errors
/// Error numbers of errno.h.
pub fn read(device: &Device, cpu: i64, address: usize, count: usize) -> Result<usize, c_int> {
    if !device.mode.reads {
        return Err(libc::EBADF);
    }
    if !device.is_ours() {
        return Err(libc::EPERM);
    }
    let cpu = u64::try_from(cpu).map_err(|_| libc::EINVAL)?;
    // A word that the program has no room for would be lost; a reason is cut.
    if count < WORD && device.control.death().is_none() {
        return Err(libc::EINVAL);
    }
    let mut buffer = vec![0; count.clamp(2 * WORD, LONGEST_ANSWER)];
    let guest = device.guest().clone();
    let length = device.run(cpu, guest.as_deref(), &mut buffer)?.min(count);
    space::write(address, &buffer[..length])?;
    Ok(length)
}
