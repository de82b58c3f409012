//! The session's port: a person's terminal, or bytes that pass as they are.

use std::fs::File;

use rustix::termios::{
    ControlModes, InputModes, LocalModes, OptionalActions, OutputModes, SpecialCodeIndex, Termios, Winsize,
    tcgetattr, tcsetattr, tcsetwinsize,
};

/// Two bytes keep a meaning on the way in, and the Launcher quotes them: ^D ends the input, ^V quotes.
const END: u8 = 4;
const QUOTE: u8 = 0x16;
/// No byte has this meaning (_POSIX_VDISABLE).
const NONE: u8 = 0;

const CODES: [SpecialCodeIndex; 15] = [
    SpecialCodeIndex::VINTR,
    SpecialCodeIndex::VQUIT,
    SpecialCodeIndex::VERASE,
    SpecialCodeIndex::VKILL,
    SpecialCodeIndex::VEOF,
    SpecialCodeIndex::VSTART,
    SpecialCodeIndex::VSTOP,
    SpecialCodeIndex::VSUSP,
    SpecialCodeIndex::VEOL,
    SpecialCodeIndex::VREPRINT,
    SpecialCodeIndex::VDISCARD,
    SpecialCodeIndex::VWERASE,
    SpecialCodeIndex::VLNEXT,
    SpecialCodeIndex::VEOL2,
    SpecialCodeIndex::VSWTC,
];

/// Opens it for both directions.
pub fn open(port: &str) -> std::io::Result<File> {
    File::options().read(true).write(true).open(port)
}

fn set(port: &File, change: impl FnOnce(&mut Termios)) {
    // A console that is no terminal carries bytes all the same.
    let Ok(mut modes) = tcgetattr(port) else { return };
    change(&mut modes);
    let _ = tcsetattr(port, OptionalActions::Now, &modes);
}

/// For pipes: no echo, no signals, no newline games. RTS stops the Launcher while our buffers are full.
pub fn carry_bytes(port: &File) {
    set(port, |modes| {
        modes.input_modes = InputModes::empty();
        modes.output_modes = OutputModes::empty();
        modes.local_modes = LocalModes::ICANON | LocalModes::IEXTEN;
        modes.control_modes |= ControlModes::CRTSCTS | ControlModes::CREAD | ControlModes::CS8;
        CODES.into_iter().for_each(|code| modes.special_codes[code] = NONE);
        modes.special_codes[SpecialCodeIndex::VEOF] = END;
        modes.special_codes[SpecialCodeIndex::VLNEXT] = QUOTE;
    });
}

/// For a person: lines, echo, job control. With RTS, a paste that is larger than the tty's buffers waits instead of
/// losing its end.
pub fn serve_a_person(port: &File, columns: u16, rows: u16) {
    set(port, |modes| {
        modes.input_modes = InputModes::BRKINT | InputModes::ICRNL | InputModes::IMAXBEL | InputModes::IUTF8;
        modes.output_modes = OutputModes::OPOST | OutputModes::ONLCR;
        modes.local_modes = LocalModes::ISIG
            | LocalModes::ICANON
            | LocalModes::IEXTEN
            | LocalModes::ECHO
            | LocalModes::ECHOE
            | LocalModes::ECHOK
            | LocalModes::ECHOCTL
            | LocalModes::ECHOKE;
        modes.control_modes |= ControlModes::CRTSCTS | ControlModes::CREAD | ControlModes::CS8;
    });
    let _ = tcsetwinsize(port, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 });
}

/// For the control channel: bytes at once, and no waiting for a carrier.
pub fn make_raw(port: &File) {
    set(port, |modes| {
        modes.make_raw();
        modes.control_modes |= ControlModes::CLOCAL;
    });
}

/// Waits until all that was written has left the port.
pub fn drain(port: &File) {
    let _ = rustix::termios::tcdrain(port);
}
