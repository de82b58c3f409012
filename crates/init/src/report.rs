//! The control channel: "begun" at once, "ready" when input may come, "status N" when the program has ended.
//!
//! The Launcher says an empty line when it has seen the end of the output, and "come" when somebody wants the agent, which
//! answers "agent" or "no agent".

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::sync::mpsc::{Receiver, channel};

use rustix::process::{Pid, Signal};
use rustix::system::RebootCommand;

use crate::modules::Later;
use crate::{agent, root, terminal};

/// The second serial port.
const PORT: &str = "/dev/ttyS1";

/// The channel, which a machine of somebody else's may not have.
pub struct Control {
    port: Option<File>,
    /// Empty lines, once somebody listens.
    answers: Option<Receiver<()>>,
}

/// Longest line that is looked at.
const LONGEST: u64 = 32;

impl Control {
    /// Before there are devices.
    pub fn none() -> Control {
        Control { port: None, answers: None }
    }

    /// Opens it.
    pub fn open() -> Control {
        let port = File::options().read(true).write(true).open(PORT).ok();
        port.iter().for_each(terminal::make_raw);
        let mut control = Control { port, answers: None };
        control.say("begun\n");
        control
    }

    fn say(&mut self, line: &str) {
        if let Some(port) = &mut self.port {
            let _ = port.write_all(line.as_bytes());
        }
    }

    /// Input may come.
    pub fn ready(&mut self) {
        self.say("ready\n");
    }

    /// From now on somebody hears what the Launcher says; these are the agent's drivers.
    pub fn listen(&mut self, drivers: Later) {
        let Some(port) = self.port.as_ref().and_then(|port| port.try_clone().ok()) else { return };
        let (answer, answers) = channel();
        self.answers = Some(answers);
        std::thread::spawn(move || {
            let mut drivers = Some(drivers);
            let mut reader = BufReader::new(&port);
            let mut line = Vec::new();
            while let Ok(1..) = (&mut reader).take(LONGEST).read_until(b'\n', &mut line) {
                match &line[..] {
                    b"\n" => drop(answer.send(())),
                    // The first time counts; the agent stays.
                    b"come\n" => drivers.take().into_iter().for_each(|drivers| agent::start(drivers, &port)),
                    _ => {}
                }
                line.clear();
            }
        });
    }

    /// Waits for the Launcher's word that it has seen the end of the output.
    pub fn wait_for_answer(&mut self) {
        if let Some(answers) = &self.answers {
            let _ = answers.recv();
        }
    }

    /// Reports the status and turns the machine off.
    pub fn end(mut self, status: u8) -> ! {
        // Whoever is left goes, so that nothing is written any more: the group "1" means everybody but us (kill(2)).
        let _ = rustix::process::kill_process_group(Pid::INIT, Signal::KILL);
        root::leave();
        self.say(&format!("status {status}\n"));
        self.port.iter().for_each(terminal::drain);
        loop {
            let _ = rustix::system::reboot(RebootCommand::PowerOff);
            std::thread::sleep(std::time::Duration::from_secs(1));
        }
    }
}
