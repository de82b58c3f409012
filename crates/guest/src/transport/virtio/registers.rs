//! What every transport's registers can do (virtio 1.2, 4.1.4.3 and 4.2.2), and how a device is brought up (3.1.1).

use crate::model::Buffer;

/// One device's registers.
pub trait Registers {
    /// What it is (section 5).
    fn kind(&self) -> u32;
    /// Its status byte.
    fn status(&self) -> u8;
    /// Writes the status; 0 resets.
    fn set_status(&self, status: u8);
    /// Thirty-two of the features on offer: word 0 or 1.
    fn offered(&self, word: u32) -> u32;
    /// Accepts features of a word.
    fn accept(&self, word: u32, bits: u32);
    /// The largest size of a queue; 0 where there is none.
    fn queue_limit(&self, queue: u16) -> u16;
    /// Whether the device is from before virtio 1.0: its bus has no place for VERSION_1 and FEATURES_OK.
    fn is_legacy(&self) -> bool {
        false
    }
    /// Descriptors, available and used ring of a queue whose place the Host chose, zeroed; its size is then its limit. None
    /// where the driver chooses.
    fn placed_queue(&self, queue: u16) -> Option<[Buffer; 3]> {
        let _ = queue;
        None
    }
    /// Takes a queue into use: its size, and where descriptors, available and used ring are.
    fn start_queue(&self, queue: u16, size: u16, parts: [u64; 3]);
    /// Says that a queue has something.
    fn notify(&self, queue: u16);
    /// Takes note of an interrupt, before its causes are looked at.
    fn acknowledge(&self);
    /// Four bytes of the device's own configuration.
    fn configuration(&self, at: u64) -> u32;
}

const ACKNOWLEDGE: u8 = 1;
const DRIVER: u8 = 2;
const DRIVER_OK: u8 = 4;
const FEATURES_OK: u8 = 8;
/// The device cannot go on.
pub(super) const NEEDS_RESET: u8 = 64;
/// VIRTIO_F_VERSION_1, bit 32: the one feature that every device has to have.
const VERSION_1_WORD: u32 = 1;
const VERSION_1_BIT: u32 = 1;

/// The features of its kind that a device after reset offers. None when it is from before version 1 on a bus that is not.
pub(super) fn offered(registers: &dyn Registers) -> Option<u32> {
    registers.set_status(0);
    registers.set_status(ACKNOWLEDGE);
    registers.set_status(ACKNOWLEDGE | DRIVER);
    let usable = registers.is_legacy() || registers.offered(VERSION_1_WORD) & VERSION_1_BIT != 0;
    usable.then(|| registers.offered(0))
}

/// From reset to agreement on these features of its kind. False when the device does not agree, or is from before version 1
/// on a bus that is not.
pub(super) fn agree(registers: &dyn Registers, features: u32) -> bool {
    if offered(registers).is_none() {
        return false;
    }
    registers.accept(0, features);
    if registers.is_legacy() {
        return true;
    }
    registers.accept(VERSION_1_WORD, VERSION_1_BIT);
    registers.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK);
    registers.status() & FEATURES_OK != 0
}

/// The queues are there: the device may begin.
pub(super) fn begin(registers: &dyn Registers) {
    let agreed = if registers.is_legacy() { 0 } else { FEATURES_OK };
    registers.set_status(ACKNOWLEDGE | DRIVER | agreed | DRIVER_OK);
}
