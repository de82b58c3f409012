//! What the agent in a Guest says, on its way to whoever runs `lguest exec`.
//!
//! ```text
//!   the machine's door ──► greeting: Hello ──► hear: Output, Errors, Taken ... Ended ──► the streams, and an ending
//! ```
//! A Guest may be anybody's, so all of it is read as a lie would be: a frame is held at a time, and is at most as long as
//! [`lguest_init::exec`] says; what is no frame is the end; what an agent does not say is not answered.

use std::io::{self, Read, Write};

use lguest_init::exec::{Frame, VERSION};
use signal_hook::consts::SIGPIPE;

use crate::ending::Ending;

/// Why there is no conversation.
#[derive(Debug, PartialEq, Eq)]
pub enum Silence {
    /// Nothing came in time.
    Late,
    /// The rest of a sentence: it is not the agent, or not ours.
    Strange(String),
}

/// The agent's first words.
///
/// # Errors
/// [`Silence`]; of the stream no more was read than one frame.
pub fn greeting(from: &mut impl Read) -> Result<(), Silence> {
    let hello = Frame::read(from).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => Silence::Late,
        _ => Silence::Strange(format!("its agent cannot be understood: {error}")),
    })?;
    match hello {
        Some(Frame::Hello(VERSION)) => Ok(()),
        Some(Frame::Hello(other)) => Err(Silence::Strange(format!(
            "its agent is of another lguest (version {other} of what they say, not {VERSION}); use the one that started it"
        ))),
        _ => Err(Silence::Strange("its agent could not start, or the machine ended".to_owned())),
    }
}

/// The rest, to the program's end. `taken` hears how many bytes of input the program's side took, by what the agent says.
pub fn hear(
    from: &mut impl Read,
    output: &mut impl Write,
    errors: &mut impl Write,
    mut taken: impl FnMut(u32),
) -> Ending {
    loop {
        let frame = match Frame::read(from) {
            Ok(Some(frame)) => frame,
            Ok(None) => return Ending::Dead("it ended before the program did".to_owned()),
            Err(error) => return Ending::Dead(format!("its agent cannot be understood any more: {error}")),
        };
        let shown = match frame {
            Frame::Output(bytes) => output.write_all(&bytes).and_then(|()| output.flush()),
            Frame::Errors(bytes) => errors.write_all(&bytes),
            Frame::Taken(bytes) => {
                taken(bytes);
                Ok(())
            }
            Frame::Ended(status) => return Ending::Status(status),
            // An agent says nothing else; one that does is not answered.
            _ => Ok(()),
        };
        if shown.is_err() {
            return Ending::Signal(SIGPIPE);
        }
    }
}
