//! `vsock PORT` and `vsock -l PORT` in a `debian` Guest, which has no other program for it: standard input and output at a port
//! of the host's (a program at PATH_port, of `lguest run --vsock PATH`), or at one of the Guest's, for one connection.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::ExitCode;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, VsockAddr, connect, socket};
use rustix::net::{Shutdown, SocketFlags, accept_with, shutdown};

use crate::agent::listen_at;

/// The program's name.
pub const NAME: &str = "vsock";
/// The host's address, for every Guest (vsock(7)).
const HOST: u32 = 2;

/// The tool; it ends when both sides have.
pub fn run(words: impl Iterator<Item = OsString>) -> ExitCode {
    let words: Vec<String> = words.map(|word| word.to_string_lossy().into_owned()).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let opened = match words[..] {
        ["-l", port] => port.parse().map(wait_at),
        [port] => port.parse().map(call),
        _ => {
            eprintln!("vsock: give a port of the host's, or -l and one of this machine's");
            return ExitCode::from(2);
        }
    };
    let done = match opened {
        Ok(socket) => socket.and_then(|socket| carry(&socket.into())),
        Err(error) => Err(io::Error::other(format!("the port: {error}"))),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vsock: {error}");
            ExitCode::FAILURE
        }
    }
}

fn call(port: u32) -> io::Result<OwnedFd> {
    let socket = socket(AddressFamily::Vsock, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    connect(socket.as_raw_fd(), &VsockAddr::new(HOST, port))?;
    Ok(socket)
}

fn wait_at(port: u32) -> io::Result<OwnedFd> {
    Ok(accept_with(&listen_at(port)?, SocketFlags::CLOEXEC)?)
}

fn carry(socket: &File) -> io::Result<()> {
    let mut there = socket.try_clone()?;
    let speaker = std::thread::spawn(move || {
        let _ = io::copy(&mut io::stdin(), &mut there);
        let _ = shutdown(&there, Shutdown::Write);
    });
    // Each direction has its own end: a side that says no more may still listen.
    let heard = io::copy(&mut &*socket, &mut io::stdout()).map(drop);
    let _ = speaker.join();
    heard
}
