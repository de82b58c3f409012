//! The control channel: "begun" at once, "ready" when input may come, "status N" when the program has ended.

use std::fs::File;
use std::io::{Read, Write};

use rustix::process::{Pid, Signal};
use rustix::system::RebootCommand;

use crate::{root, terminal};

/// The second serial port.
const PORT: &str = "/dev/ttyS1";

/// The channel, which a machine of somebody else's may not have.
pub struct Control(Option<File>);

impl Control {
    /// Before there are devices.
    pub fn none() -> Control {
        Control(None)
    }

    /// Opens it.
    pub fn open() -> Control {
        let port = File::options().read(true).write(true).open(PORT).ok();
        port.iter().for_each(terminal::make_raw);
        let mut control = Control(port);
        control.say("begun\n");
        control
    }

    fn say(&mut self, line: &str) {
        if let Some(port) = &mut self.0 {
            let _ = port.write_all(line.as_bytes());
        }
    }

    /// Input may come.
    pub fn ready(&mut self) {
        self.say("ready\n");
    }

    /// Waits for the Launcher's word that it has seen the end of the output.
    pub fn wait_for_answer(&mut self) {
        let Some(port) = &mut self.0 else { return };
        let mut byte = [0];
        while matches!(port.read(&mut byte), Ok(1)) && byte != *b"\n" {}
    }

    /// Reports the status and turns the machine off.
    pub fn end(mut self, status: u8) -> ! {
        // Whoever is left goes, so that nothing is written any more: the group "1" means everybody but us (kill(2)).
        let _ = rustix::process::kill_process_group(Pid::INIT, Signal::KILL);
        root::leave();
        self.say(&format!("status {status}\n"));
        self.0.iter().for_each(terminal::drain);
        loop {
            let _ = rustix::system::reboot(RebootCommand::PowerOff);
            std::thread::sleep(std::time::Duration::from_secs(1));
        }
    }
}
