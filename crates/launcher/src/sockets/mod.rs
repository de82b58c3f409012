//! The host's side of a machine's sockets (virtio's vsock device): Unix sockets, as Firecracker and Cloud Hypervisor have them.
//!
//! ```text
//!   --vsock PATH
//!   PATH          a program of the host's connects, says "CONNECT port\n", hears "OK port\n", and is at the Guest's port
//!   PATH_port     where a program of the host's listens for the Guest's connections to the host (address 2) at that port
//! ```
//! The Guest's address is 3. A program that is at the Guest's side of the agent comes another way (`running`): it is handed over
//! with a [`Visits`].
//!
//! The device moves bytes by itself, with calls that never wait; a thread (`service`) knows when a socket has bytes or room,
//! hears what visitors of PATH want, and finds programs that the Guest calls.

mod streams;
mod service;

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lguest_devices::virtio::vsock::VirtioVsock;

use crate::board::Plug;
use crate::request::Mistake;
use streams::{HostStreams, Shared};

/// The longest name of a Unix socket on Linux (unix(7)), its NUL aside ...
const LONGEST_NAME: usize = 107;
/// ... and what a port adds to PATH.
const LONGEST_PORT: usize = "_4294967295".len();

/// `--vsock PATH`, held.
#[derive(Debug)]
pub struct Place {
    listener: UnixListener,
    path: PathBuf,
}

impl Place {
    /// Takes PATH. A socket that nobody listens at any more, which a machine leaves that has ended, is replaced.
    ///
    /// # Errors
    /// One sentence for what cannot work.
    pub fn take(path: &Path) -> Result<Place, Mistake> {
        let fault = |what: &str| Mistake(format!("--vsock {}: {what}", path.display()));
        if path.as_os_str().len() > LONGEST_NAME - LONGEST_PORT {
            let most = LONGEST_NAME - LONGEST_PORT;
            return Err(fault(&format!("is too long for a socket and its ports; give at most {most} bytes")));
        }
        if let Ok(facts) = std::fs::symlink_metadata(path) {
            if !facts.file_type().is_socket() {
                return Err(fault("is there already and is no socket; give another path"));
            }
            if UnixStream::connect(path).is_ok() {
                return Err(fault("another program listens there; give another path"));
            }
            std::fs::remove_file(path).map_err(|cause| fault(&format!("cannot be replaced: {cause}")))?;
        }
        let listener =
            UnixListener::bind(path).map_err(|cause| fault(&format!("cannot be made: {cause}")))?;
        Ok(Place { listener, path: path.to_owned() })
    }
}

/// Hands programs of the host's over to the Guest's ports.
#[derive(Clone, Debug)]
pub struct Visits(Arc<Shared>);

impl Visits {
    /// A program at the other end of this socket, which never waits, is on its way to a port of the Guest's. Where there is no
    /// room for it, the socket is closed.
    pub fn hand_over(&self, socket: OwnedFd, port: u32) {
        self.0.arrive(socket, port);
    }
}

/// A device for these sockets, and who may be handed over to it.
///
/// # Errors
/// When the host refuses a descriptor or a thread.
pub fn start(place: Option<Place>) -> io::Result<(Plug, Visits)> {
    let shared = Arc::new(Shared::new()?);
    let start = service::start(shared.clone(), place.map(|place| (place.listener, place.path)))?;
    let device = VirtioVsock::new(HostStreams(shared.clone()));
    Ok((Plug::woken(device, start), Visits(shared)))
}

#[cfg(test)]
mod tests;
