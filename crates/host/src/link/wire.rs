//! What travels between a machine and its link's broker: fixed messages, one to a packet.
//!
//! Both ends run the same program, but a broker may outlive an update of it: the first message carries a version.

use std::io::IoSliceMut;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::Joining;
use crate::dma::Form;

/// Changes when a message does.
pub const VERSION: u32 = 1;
/// [`Request::what`]: bind an array.
pub const BIND: u32 = 1;
/// [`Request::what`]: take a binding back.
pub const UNBIND: u32 = 2;
/// [`Request::what`]: send a list.
pub const SEND: u32 = 3;
/// Bytes of a reason; longer ones are cut.
const REASON: usize = 120;

/// A machine's first message. Its memory file and its end of the news come along.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Hello {
    /// [`VERSION`].
    pub version: u32,
    /// 32 or 64: the layout of its lists.
    pub bits: u32,
    /// Bytes of RAM.
    pub ram: u64,
    /// Pages of device memory.
    pub pages: u64,
    /// The page limit in bytes.
    pub limit: u64,
}

impl Hello {
    /// What `joining` says.
    pub fn new(joining: &Joining) -> Hello {
        let bits = if joining.form == Form::Bits32 { 32 } else { 64 };
        let (ram, pages) = joining.size;
        Hello { version: VERSION, bits, ram, pages, limit: joining.limit }
    }
}

/// The answer to it. The shared page comes along.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Welcome {
    /// The machine's slot.
    pub slot: u32,
    reason: [u8; REASON],
}

/// A question.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Request {
    /// [`BIND`], [`UNBIND`] or [`SEND`].
    pub what: u32,
    /// The interrupt of a binding.
    pub irq: u32,
    /// Which byte of the shared page.
    pub offset: u64,
    /// The array or the list.
    pub address: u64,
    /// Lists in the array.
    pub count: u64,
}

impl Request {
    /// A question about byte `offset` of the page.
    pub fn new(what: u32, offset: u64, address: u64, count: u16, irq: u8) -> Request {
        Request { what, irq: irq.into(), offset, address, count: count.into() }
    }
}

/// The answer to it.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Answer {
    /// 1 for done.
    pub done: u32,
    reason: [u8; REASON],
}

/// What a machine is told unasked.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct News {
    /// One bit for every interrupt to raise.
    pub interrupts: u32,
    reason: [u8; REASON],
}

macro_rules! reasoned {
    ($name:ident, $field:ident) => {
        impl $name {
            /// The message, with the reason its Guest dies of, if it does.
            pub fn new($field: u32, why: Option<&str>) -> $name {
                let mut reason = [0; REASON];
                if let Some(why) = why {
                    let length = why.len().min(REASON);
                    reason[..length].copy_from_slice(&why.as_bytes()[..length]);
                }
                $name { $field, reason }
            }

            /// The reason, if there is one.
            pub fn reason(&self) -> Option<String> {
                let length = self.reason.iter().position(|byte| *byte == 0).unwrap_or(REASON);
                (length > 0).then(|| String::from_utf8_lossy(&self.reason[..length]).into_owned())
            }
        }
    };
}
reasoned!(Welcome, slot);
reasoned!(Answer, done);
reasoned!(News, interrupts);

/// One message; None at the end of the connection or for one of another size.
///
/// # Errors
/// What the host says; `WouldBlock` when there is nothing (yet, or within the time limit).
pub fn receive<T: FromBytes + IntoBytes>(socket: BorrowedFd<'_>) -> std::io::Result<Option<T>> {
    let mut message = T::new_zeroed();
    let bytes: &mut [u8] = message.as_mut_bytes();
    let wanted = bytes.len();
    loop {
        match rustix::net::recv(socket, &mut *bytes, RecvFlags::TRUNC) {
            Ok((_, length)) => return Ok((length == wanted).then_some(message)),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The same, with the files that came along, at most two.
///
/// # Errors
/// As [`receive`].
pub fn receive_with_files<T: FromBytes + IntoBytes>(
    socket: BorrowedFd<'_>,
) -> std::io::Result<(Option<T>, Vec<OwnedFd>)> {
    let mut message = T::new_zeroed();
    let wanted = size_of::<T>();
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let length = {
        let mut slices = [IoSliceMut::new(message.as_mut_bytes())];
        rustix::net::recvmsg(socket, &mut slices, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?.bytes
    };
    let mut files = Vec::new();
    for part in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = part {
            files.extend(rights);
        }
    }
    Ok(((length == wanted).then_some(message), files))
}
