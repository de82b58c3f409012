//! `--net tap=NAME`: the host at the other end of a Guest's network, by a network interface of the host's.
//!
//! ```text
//!   Guest --SEND_DMA--> LguestNet --> TapFrames --write--> /dev/net/tun --> the host's network
//!   Guest <--interrupt-- input()  <--  thread   <--read---
//! ```
//! Frames are bare: no packet information and no virtio header, as with the original's `--tunnet`.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, Weak};

use lguest_abi::net::FRAME_MAXIMUM;
use lguest_devices::lguest::net::{self, Frames};
use lguest_host::generation1::Generation1;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::lguest_bus::Wires;

/// The longest name of a network interface (IFNAMSIZ without its NUL, Linux's if.h).
const LONGEST_NAME: usize = 15;
/// How often the reader looks whether its machine is still there: a fifth of a second is no load and no wait.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };

/// An interface of the host's that this process holds.
#[derive(Debug)]
pub struct Tap {
    file: File,
    address: [u8; 6],
}

/// Whether a network interface can have this name.
pub fn is_name(name: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (1..=LONGEST_NAME).contains(&name.len()) && name.chars().all(good) && !matches!(name, "." | "..")
}

impl Tap {
    /// Takes hold of the tap `name`. One that is not there is made, and goes with the machine; root may do that.
    ///
    /// # Errors
    /// What the host says: no /dev/net/tun, no right to it, not a tap, or in use by another machine.
    pub fn open(name: &str) -> io::Result<Tap> {
        let device = tun_rs::DeviceBuilder::new()
            .name(name)
            .layer(tun_rs::Layer::L2)
            // Whether it is up, and its addresses, are the host's business.
            .inherit_enable_state()
            .build_sync()?;
        let address = device.mac_address()?;
        let file = device.as_fd().try_clone_to_owned()?;
        Ok(Tap { file: file.into(), address })
    }

    /// The descriptor, for who reads and writes frames alone.
    pub fn into_file(self) -> File {
        self.file
    }

    /// The Host's side of the device, and what the Guest finds at `page`: the host in slot 0, itself in slot 1.
    ///
    /// # Errors
    /// When the host refuses a second descriptor or a thread.
    pub fn start(self, host: &Arc<Generation1>, page: u64) -> io::Result<TapFrames> {
        rustix::io::ioctl_fionbio(&self.file, true)?;
        net::announce(&Wires(host), page, self.address);
        let writer = self.file.try_clone()?;
        let (reader, host) = (self.file, Arc::downgrade(host));
        std::thread::Builder::new().name("tap".to_owned()).spawn(move || listen(reader, &host, page))?;
        Ok(TapFrames { file: writer })
    }
}

/// Gives the Guest what the host sends, until its machine is gone. A frame without a free list is lost, as on any wire.
fn listen(mut tap: File, host: &Weak<Generation1>, page: u64) {
    // A byte more than a frame may have, so that a longer one is seen as one.
    let mut frame = [0; FRAME_MAXIMUM as usize + 1];
    loop {
        let ready = poll(&mut [PollFd::new(&tap, PollFlags::IN)], Some(&LOOK));
        let Some(host) = host.upgrade().filter(|host| host.death().is_none()) else { return };
        match ready {
            Ok(0) | Err(rustix::io::Errno::INTR) => continue,
            Ok(_) => {}
            Err(_) => return,
        }
        match tap.read(&mut frame) {
            Ok(length) => {
                net::input(&Wires(&host), page, &frame[..length]);
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            // The interface was taken away. The Guest's sends fail from now on, which it counts as carrier errors.
            Err(error) => return tracing::warn!("the tap is lost: {error}"),
        }
    }
}

/// Where the Guest's frames go.
pub struct TapFrames {
    file: File,
}

impl Frames for TapFrames {
    fn put(&mut self, frame: &[u8]) -> bool {
        // An interface that is down or full loses the frame; it never waits.
        self.file.write(frame).is_ok_and(|length| length == frame.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_that_linux_takes() {
        for name in ["tap0", "a", "vm-1_x.y", "abcdefghijklmno"] {
            assert!(is_name(name), "{name}");
        }
        for name in ["", ".", "..", "a/b", "a b", "abcdefghijklmnop", "tap%d"] {
            assert!(!is_name(name), "{name}");
        }
    }

    #[test]
    fn what_is_no_tap_is_refused() {
        // The loopback is an interface of every host, and nobody's tap. Without the right to ask, that is the refusal.
        assert!(Tap::open("lo").is_err());
    }
}
