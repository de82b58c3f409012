//! Which numbers are device files.
//!
//! Every read and write of the program asks, so numbers that are none are told apart by one load; only the others take a lock.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::{c_int, c_uint};
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};

use crate::device::Device;
use crate::{relatives, space};

/// Numbers that are looked at: more files than a program has by the usual limits.
const NUMBERS: usize = 1 << 16;

/// How a file was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mode {
    /// May be read.
    pub reads: bool,
    /// May be written.
    pub writes: bool,
}

impl Mode {
    /// What open's flags say.
    pub fn from_flags(flags: c_int) -> Mode {
        let access = flags & libc::O_ACCMODE;
        Mode { reads: access != libc::O_WRONLY, writes: access != libc::O_RDONLY }
    }
}

static IS_DEVICE: [AtomicBool; NUMBERS] = [const { AtomicBool::new(false) }; NUMBERS];
static DEVICES: Mutex<BTreeMap<c_int, Arc<Device>>> = Mutex::new(BTreeMap::new());

type Devices = MutexGuard<'static, BTreeMap<c_int, Arc<Device>>>;

thread_local! {
    /// Held from before a fork to after it, so that the child finds the table whole.
    static ACROSS_FORK: RefCell<Option<Devices>> = const { RefCell::new(None) };
}

fn devices() -> Devices {
    DEVICES.lock().unwrap_or_else(PoisonError::into_inner)
}

fn flag(file: c_int) -> Option<&'static AtomicBool> {
    IS_DEVICE.get(usize::try_from(file).ok()?)
}

/// From now on this number is a device file. False for one beyond those that are looked at.
pub fn insert(file: c_int, mode: Mode) -> bool {
    static FORKS: Once = Once::new();
    // SAFETY: the three functions do what is allowed around a fork: take a lock, give it back, map memory.
    FORKS.call_once(|| unsafe {
        libc::pthread_atfork(Some(before_fork), Some(after_fork), Some(in_child));
    });
    static RELATIVES: Once = Once::new();
    RELATIVES.call_once(relatives::expect);
    flag(file).is_some() && share(file, Arc::new(Device::new(mode)))
}

/// From now on this number, which is none now, is a name of this device file. False for one beyond those that are looked at.
pub fn share(file: c_int, device: Arc<Device>) -> bool {
    let Some(flag) = flag(file) else { return false };
    devices().insert(file, device);
    flag.store(true, Ordering::Release);
    true
}

/// Whose number this is, in a call of somebody's.
pub enum Found {
    /// No device's.
    Another,
    /// A device's, and the caller is not the program itself: see [`relatives`].
    OfARelative,
    /// A device's.
    Device(Arc<Device>),
}

/// What the caller of read(2) and its kin has there. Before it is known whether the caller may lock anything, nothing is locked.
pub fn look(file: c_int) -> Found {
    let known = flag(file).is_some_and(|flag| flag.load(Ordering::Acquire));
    if known && relatives::is_one() {
        return Found::OfARelative;
    }
    if known { find(file).map_or(Found::Another, Found::Device) } else { Found::Another }
}

/// The device file of this number.
pub fn find(file: c_int) -> Option<Arc<Device>> {
    flag(file).filter(|flag| flag.load(Ordering::Acquire))?;
    devices().get(&file).cloned()
}

/// This number is none any more. What a relative closes is its copy, and the program's stays.
pub fn remove(file: c_int) -> Option<Arc<Device>> {
    flag(file).filter(|flag| flag.load(Ordering::Acquire) && !relatives::is_one())?;
    flag(file).filter(|flag| flag.swap(false, Ordering::AcqRel))?;
    let device = devices().remove(&file);
    match device {
        // What the parent's threads hold of it cannot be given back here.
        Some(device) if !device.is_ours() => {
            std::mem::forget(device);
            None
        }
        device => device,
    }
}

/// These numbers are none any more; the devices that they were.
pub fn remove_range(files: RangeInclusive<c_uint>) -> Vec<Arc<Device>> {
    if relatives::is_one() {
        return Vec::new();
    }
    let numbers: Vec<c_int> =
        devices().keys().copied().filter(|file| files.contains(&file.cast_unsigned())).collect();
    numbers.into_iter().filter_map(remove).collect()
}

extern "C" fn before_fork() {
    let _ = ACROSS_FORK.try_with(|held| *held.borrow_mut() = Some(devices()));
}

extern "C" fn after_fork() {
    let _ = ACROSS_FORK.try_with(|held| held.borrow_mut().take());
}

extern "C" fn in_child() {
    space::leave_to_the_parent();
    after_fork();
}
