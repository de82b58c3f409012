//! The pipe of the 2007 mail on virtio: a named port whose other end says a fixed text and takes what it is told.

use lguest_abi::pipe::GREETING;
use lguest_devices::virtio::console::{End, Room, VirtioConsole};

use crate::board::Plug;

/// How the port is called.
const NAME: &str = "pipe";

/// The Host's end.
#[derive(Default)]
struct Greeting {
    given: usize,
}

impl End for Greeting {
    /// It listens to all and keeps nothing.
    fn room(&mut self) -> Room {
        Room::Nobody
    }

    fn put(&mut self, _bytes: &[u8]) {}

    fn take(&mut self, bytes: &mut [u8]) -> usize {
        let rest = &GREETING.as_bytes()[self.given..];
        let length = rest.len().min(bytes.len());
        bytes[..length].copy_from_slice(&rest[..length]);
        self.given += length;
        length
    }
}

/// The device.
pub fn pipe() -> Plug {
    Plug::new(VirtioConsole::with_ports(None, vec![(NAME.to_owned(), Box::new(Greeting::default()))]))
}
