//! A Guest's number, which no other Guest of this host has: its Ethernet addresses say it.
//!
//! The original's number was the Guest's place in the kernel's table. Without a table that all Launchers share, the
//! number is a name in the host's abstract socket namespace: binding it succeeds for one process at a time, whoever
//! its user is, nothing is left on disk, and a Launcher that is killed gives it back. That namespace belongs to the
//! network namespace, as taps and bridges do, so two Guests that can meet through the host's network differ.

use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// A number, ours for as long as this lives.
#[derive(Debug)]
pub struct GuestNumber {
    number: u16,
    /// The name bound.
    _claim: OwnedFd,
}

impl GuestNumber {
    /// Takes the lowest number that is free.
    ///
    /// # Errors
    /// What the host says: it refuses a socket, or all 65,536 numbers are taken (`AddrInUse`).
    pub fn claim() -> std::io::Result<GuestNumber> {
        for number in 0..=u16::MAX {
            let name = format!("lguest/guest/{number}");
            let socket =
                rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
            match rustix::net::bind(&socket, &SocketAddrUnix::new_abstract_name(name.as_bytes())?) {
                Ok(()) => return Ok(GuestNumber { number, _claim: socket }),
                Err(rustix::io::Errno::ADDRINUSE) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(std::io::ErrorKind::AddrInUse.into())
    }

    /// The number itself.
    pub fn get(&self) -> u16 {
        self.number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_guests_never_have_one_number_and_a_number_given_back_is_taken_again() {
        let numbers: Vec<GuestNumber> = (0..10).map(|_| GuestNumber::claim().unwrap()).collect();
        let mut values: Vec<u16> = numbers.iter().map(GuestNumber::get).collect();
        values.dedup();
        assert_eq!(values.len(), 10, "ascending, so that equal ones would stand together");
        assert!(values.is_sorted());
        let highest = values[9];
        drop(numbers);
        // Other Guests of this host may take some of them meanwhile, but not all ten and ten more.
        let again: Vec<u16> = (0..10).map(|_| GuestNumber::claim().unwrap().get()).collect();
        assert!(again.iter().all(|number| *number <= highest), "{again:?} after {values:?}");
    }
}
