//! What of each kind of device fits a page that carries thirty-two features: its legacy form (virtio 1.2, 1.3.1).
//!
//! Only what works there is offered. A page tells nobody of a changed configuration, so a network interface has no link status:
//! a driver that saw it down would wait for ever. Merged buffers would make its header twelve bytes long; the drivers
//! of this page have ten (facts of generation 2, 11.5). A disk has one queue, as there, and no discarding, whose fields lie behind those that
//! the original's drivers read.

use super::super::{DeviceKind, VirtioDevice, feature};

/// A device's legacy form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Legacy {
    /// Features on offer.
    pub features: u32,
    /// Queues, the first ones of the device.
    pub queues: usize,
    /// Bytes of its configuration, the first ones.
    pub configuration: usize,
}

/// A network interface: checksums either way, its address, segments either way.
const NETWORK: u64 = 1 << 0 | 1 << 1 | 1 << 5 | 1 << 7 | 1 << 11;
/// A disk: size and number of segments, read only, sector size, flush.
const BLOCK: u64 = 1 << 1 | 1 << 2 | 1 << 5 | 1 << 6 | 1 << 9;

/// The form of this device; none for one that has no legacy form, or that nobody drives there.
pub(super) fn form(device: &dyn VirtioDevice) -> Option<Legacy> {
    let (mask, added, queues, configuration) = match device.kind() {
        // Address and status, which stays as it was found.
        DeviceKind::Network => (NETWORK, feature::NOTIFY_ON_EMPTY | feature::INDIRECT_DESCRIPTORS, 2, 8),
        // Up to the size of a sector.
        DeviceKind::Block => (BLOCK, 0, 1, 24),
        DeviceKind::Entropy => (0, 0, 1, 0),
        // One port, and the size of its terminal is its own business.
        DeviceKind::Console => (0, 0, 2, 0),
        DeviceKind::Balloon | DeviceKind::Socket | DeviceKind::FileSystem => return None,
    };
    Some(Legacy {
        features: (device.features() & mask | added) as u32,
        queues: device.queue_sizes().len().min(queues),
        configuration: device.configuration().len().min(configuration),
    })
}
