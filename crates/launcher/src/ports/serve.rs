//! The threads of a named port.
//!
//! A socket has one visitor at a time, as a serial cable has: the next is let in when the one before hung up. The Guest is told
//! when somebody is there, and what it writes meanwhile waits, up to the buffer's limit.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use super::{HostEnd, Place};
use crate::request::Mistake;

/// Bytes read at once.
const CHUNK: usize = 4096;

/// Starts what serves this place.
///
/// # Errors
/// When the host refuses a thread.
pub fn start(name: &str, place: Place, end: &HostEnd) -> Result<(), Mistake> {
    let started = match place {
        Place::File(file) => end.write_to(file),
        Place::Socket(listener) => serve_visitors(listener, end),
    };
    started.map_err(|cause| Mistake(format!("--port {name}: the host refuses a thread: {cause}")))
}

/// Whoever is at the socket now.
type Visitor = Arc<Mutex<Option<Arc<UnixStream>>>>;

fn serve_visitors(listener: UnixListener, end: &HostEnd) -> io::Result<()> {
    end.set_connected(false);
    let (visitor, hears, speaks) = (Visitor::default(), end.clone(), end.clone());
    let seen = visitor.clone();
    let thread = |name: &str| thread::Builder::new().name(name.to_owned());
    thread("lguest-port").spawn(move || {
        // A listener that fails for good ends the thread; the machine runs on.
        while let Ok((stream, _)) = listener.accept() {
            // Shared and not duplicated, which the sandbox has no call for.
            let stream = Arc::new(stream);
            *seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(stream.clone());
            speaks.set_connected(true);
            let served = listen_to(&stream, &speaks);
            *seen.lock().unwrap_or_else(PoisonError::into_inner) = None;
            speaks.set_connected(false);
            if !served {
                return;
            }
        }
    })?;
    thread("lguest-port-out").spawn(move || {
        let mut bytes = Vec::new();
        while hears.receive(&mut bytes) {
            let stream = visitor.lock().unwrap_or_else(PoisonError::into_inner).clone();
            // Who hung up in between misses it, as on a cable.
            if let Some(stream) = stream
                && (&*stream).write_all(&bytes).is_err()
            {
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
    })?;
    Ok(())
}

/// Carries what a visitor says until it hangs up. False when the machine is gone.
fn listen_to(mut stream: &UnixStream, end: &HostEnd) -> bool {
    let mut bytes = [0; CHUNK];
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => return true,
            Ok(length) if end.send(&bytes[..length]).is_err() => return false,
            Ok(_) => {}
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return true,
        }
    }
}

#[cfg(test)]
mod tests {
    use lguest_devices::virtio::console::End;

    use super::super::pair;
    use super::*;

    #[test]
    fn visitors_come_one_after_the_other_and_the_device_knows() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let (mut device, host) = pair();
        start("x", Place::Socket(UnixListener::bind(&path).unwrap()), &host).unwrap();
        assert!(!device.is_connected());
        for word in [b"one", b"two"] {
            device.put(word);
            let mut visitor = UnixStream::connect(&path).unwrap();
            let mut heard = [0; 3];
            visitor.read_exact(&mut heard).unwrap();
            assert_eq!(&heard, word);
            assert!(device.is_connected());
            visitor.write_all(b"back").unwrap();
            let mut said = [0; 4];
            let mut length = 0;
            while length < 4 {
                length += device.take(&mut said[length..]);
            }
            assert_eq!(&said, b"back");
            drop(visitor);
            while device.is_connected() {
                thread::yield_now();
            }
        }
    }
}
