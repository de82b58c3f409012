//! The raw form of a request: what a program wrote to /dev/lguest, word by word (facts 8.1 and 11.2).

use std::os::fd::OwnedFd;

use lguest_abi::control::Request;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

use super::{Control, ControlError, check_cpu};

impl Control {
    /// A request as words, the first of which names it; `cpu` is the file's offset. Answers what the request answers:
    /// GETDMA the address of the list, the others 0.
    ///
    /// INITIALIZE is [`Control::initialize`]'s: memory has a type here and is no number.
    ///
    /// # Errors
    /// [`ControlError::Invalid`] for an unknown request, one cut short, or any before INITIALIZE; [`ControlError::Fault`] for
    /// an INITIALIZE in words, [`ControlError::Busy`] for a second one; [`ControlError::BadFile`] for an EVENTFD that is no
    /// open file; and those of the request's own function.
    pub fn write(&self, cpu: u64, words: &[u64]) -> Result<u64, ControlError> {
        check_cpu(cpu)?;
        let word =
            |index: usize| words.get(index).copied().ok_or(ControlError::Invalid("the request is cut short"));
        let request = Request::from_word(word(0)?);
        let initialised = self.session().map(drop);
        if request == Some(Request::Initialize) {
            let limit = word(2)?;
            return Err(initialised.map_or(ControlError::Fault { limit }, |()| ControlError::Busy));
        }
        initialised?;
        match request.ok_or(ControlError::Invalid("there is no such request"))? {
            Request::Initialize => unreachable!("answered above"),
            Request::GetDma => return self.take(word(1)?).map(|bound| bound.list),
            Request::Irq => self.interrupt(cpu, u8::try_from(word(1)?).unwrap_or(u8::MAX))?,
            Request::Break if word(1)? == 0 => self.break_done()?,
            Request::Break => self.break_out()?,
            Request::EventFd => {
                let (address, file) = (word(1)?, word(2)?);
                if address == 0 {
                    return Err(ControlError::Invalid("nobody can listen at that address"));
                }
                self.eventfd(address, own_file(file)?)?;
            }
        }
        Ok(0)
    }
}

/// A second descriptor of this process's file of that number, which the caller goes on to own.
fn own_file(number: u64) -> Result<OwnedFd, ControlError> {
    let number = i32::try_from(number).map_err(|_| ControlError::BadFile)?;
    let this = pidfd_open(getpid(), PidfdFlags::empty()).map_err(|_| ControlError::BadFile)?;
    pidfd_getfd(this, number, PidfdGetfdFlags::empty()).map_err(|_| ControlError::BadFile)
}
