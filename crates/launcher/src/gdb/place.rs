//! `--gdb`: where a debugger finds the machine.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use crate::request::Mistake;

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// An address and a port.
    Port(SocketAddr),
    /// A socket in the file system.
    Path(PathBuf),
}

impl Place {
    /// Reads `[ADDRESS:]PORT` or `unix:PATH`. Without an address only this host can connect: whoever can, owns the Guest.
    ///
    /// # Errors
    /// For anything else.
    pub fn read(word: &str) -> Result<Place, Mistake> {
        if let Some(path) = word.strip_prefix("unix:").filter(|path| !path.is_empty()) {
            return Ok(Place::Path(path.into()));
        }
        let port = word.strip_prefix(':').unwrap_or(word).parse::<u16>().ok();
        let here = port.map(|port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
        here.or_else(|| word.parse().ok()).map(Place::Port).ok_or_else(|| {
            Mistake(format!("--gdb {word}: is no place; give PORT, ADDRESS:PORT or unix:PATH"))
        })
    }

    /// Listens there.
    ///
    /// # Errors
    /// When the place is taken or may not be used.
    pub fn listen(&self) -> Result<Listener, Mistake> {
        match self {
            Place::Port(address) => TcpListener::bind(address).map(Listener::Port),
            Place::Path(path) => {
                UnixListener::bind(path).map(|listener| Listener::Path(listener, path.clone()))
            }
        }
        .map_err(|cause| Mistake(format!("--gdb: cannot listen at {}: {cause}", self.in_words())))
    }

    fn in_words(&self) -> String {
        match self {
            Place::Port(address) => address.to_string(),
            Place::Path(path) => path.display().to_string(),
        }
    }
}

/// Waits for a debugger; its socket in the file system goes with it.
pub enum Listener {
    /// See [`Place::Port`].
    Port(TcpListener),
    /// See [`Place::Path`].
    Path(UnixListener, PathBuf),
}

impl Listener {
    /// What to tell GDB after `target remote`.
    pub fn in_words(&self) -> String {
        match self {
            Listener::Port(listener) => {
                listener.local_addr().map_or_else(|e| e.to_string(), |a| a.to_string())
            }
            Listener::Path(_, path) => path.display().to_string(),
        }
    }

    /// The debugger's connection, twice: to read from and to write to.
    ///
    /// # Errors
    /// When the host cannot.
    pub fn accept(&self) -> io::Result<[Connection; 2]> {
        match self {
            Listener::Port(listener) => {
                let (stream, _) = listener.accept()?;
                // Packets are small, and each waits for its answer.
                stream.set_nodelay(true)?;
                Ok([Connection::Port(stream.try_clone()?), Connection::Port(stream)])
            }
            Listener::Path(listener, _) => {
                let (stream, _) = listener.accept()?;
                Ok([Connection::Path(stream.try_clone()?), Connection::Path(stream)])
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Listener::Path(_, path) = self {
            // Somebody may have cleaned up before us.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// A stream of bytes to and from the debugger.
pub enum Connection {
    /// Over TCP.
    Port(TcpStream),
    /// Over a local socket.
    Path(UnixStream),
}

impl Connection {
    /// Reads what there is; 0 when the debugger hung up.
    pub fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Connection::Port(stream) => stream.read(bytes),
            Connection::Path(stream) => stream.read(bytes),
        }
    }

    /// Ends the conversation, and whoever is reading.
    pub fn hang_up(&self) {
        // One that is closed already is closed.
        let _ = match self {
            Connection::Port(stream) => stream.shutdown(Shutdown::Both),
            Connection::Path(stream) => stream.shutdown(Shutdown::Both),
        };
    }
}

/// Answers are collected and sent whole.
pub struct Answers {
    stream: Connection,
    waiting: Vec<u8>,
}

impl Answers {
    /// Answers into this connection.
    pub fn new(stream: Connection) -> Answers {
        Answers { stream, waiting: Vec::new() }
    }

    /// Ends the conversation.
    pub fn hang_up(&self) {
        self.stream.hang_up();
    }

    /// Answers `vKill`, which gdbstub leaves to those who can start a program anew; GDB calls no answer a lost connection.
    pub fn say_killed(&mut self) {
        self.waiting.extend(b"$OK#9a");
        // A debugger that is gone has what it wanted.
        let _ = gdbstub::conn::Connection::flush(self);
        self.hang_up();
    }
}

impl gdbstub::conn::Connection for Answers {
    type Error = io::Error;

    fn write(&mut self, byte: u8) -> io::Result<()> {
        self.waiting.push(byte);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        let bytes = std::mem::take(&mut self.waiting);
        match &mut self.stream {
            Connection::Port(stream) => Write::write_all(stream, &bytes),
            Connection::Path(stream) => Write::write_all(stream, &bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_alone_is_for_this_host_only() {
        let here = Place::Port("127.0.0.1:1234".parse().unwrap());
        assert_eq!(Place::read("1234").unwrap(), here);
        assert_eq!(Place::read(":1234").unwrap(), here);
        assert_eq!(Place::read("0.0.0.0:1234").unwrap(), Place::Port("0.0.0.0:1234".parse().unwrap()));
        assert_eq!(Place::read("unix:/run/x").unwrap(), Place::Path("/run/x".into()));
    }

    #[test]
    fn what_is_no_place_is_refused_by_name() {
        for word in ["", "unix:", "70000", "host", "1.2.3.4"] {
            let Mistake(sentence) = Place::read(word).unwrap_err();
            assert!(sentence.contains("--gdb") && sentence.contains("unix:PATH"), "{sentence}");
        }
    }
}
