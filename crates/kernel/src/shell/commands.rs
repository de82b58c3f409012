//! The commands: one line each here, a room for those that need one.

use super::line::{Line, Typed};
use super::{bench, disks, files, network, words};
use crate::hardware::power;
use crate::say;
use crate::system::System;

const PROMPT: &str = "lguest> ";
const HELP: &str = "\
help                          this
devices                       what is there, and who drives it
ls [PATH]  cat PATH           look at /sys and /proc
echo TEXT [> PATH]            print a text, or write it to a file
read DISK SECTOR              print a sector
write DISK SECTOR TEXT        write one
checksum DISK                 CRC-32 of a whole disk
net [address]                 who we are on the wire, and what it carried
net send ADDRESS|all TEXT     a word to a peer
net ping ADDRESS|all          ask who hears us; an internet address will do
net ip ADDRESS                our own internet address
net listen [SECONDS]          print what comes
net promiscuous [off]         hear everything
pipe [TEXT]                   read every pipe, or write to the first
bench [WHAT OF TIMES]         what a hypercall, a disk read or a frame costs
uptime                        seconds since the start
panic [TEXT]                  die, and say why
poweroff                      turn the machine off
";
/// Bytes taken from a pipe at a time.
const PIPE_READ: usize = 512;

/// What went wrong, as the user reads it.
type Complaint = &'static str;
const NO_SUCH: Complaint = "no such command; try help";
/// The statuses of a command that went wrong, and of one that is none: those of every shell.
const FAILED: u8 = 1;
const NOT_FOUND: u8 = 127;

/// The shell of one system.
pub struct Shell<'a> {
    system: &'a System,
    line: Line,
}

impl<'a> Shell<'a> {
    /// A shell; networks are joined, so that peers are answered from the beginning.
    #[must_use]
    pub fn new(system: &'a System) -> Shell<'a> {
        network::join(system);
        Shell { system, line: Line::default() }
    }

    /// Reads and runs commands until one turns the machine off.
    pub fn run(&mut self) -> ! {
        say!(self.system, "{PROMPT}");
        loop {
            while let Some(byte) = self.system.get() {
                self.take(byte);
            }
            network::serve(self.system);
            self.system.wait(None);
        }
    }

    /// Runs commands separated by semicolons. The last one's status: 0 for done, as in any shell.
    pub fn run_script(&mut self, text: &str) -> u8 {
        text.split(';').fold(0, |_, line| self.execute(line))
    }

    fn take(&mut self, byte: u8) {
        match self.line.take(byte) {
            Typed::Nothing => {}
            Typed::Echo(text, times) => (0..times).for_each(|_| self.system.put(text)),
            Typed::Enter => {
                say!(self.system, "\n");
                let line = core::mem::take(&mut self.line);
                let _ = self.execute(line.text());
                // The other half of a line end may still come.
                let _ = self.line.take(byte);
                self.line.clear();
                say!(self.system, "{PROMPT}");
            }
        }
    }

    fn execute(&self, line: &str) -> u8 {
        let words = words::split(line);
        let done = self.command(line.trim(), words);
        if let Err(complaint) = done {
            say!(self.system, "{}: {complaint}\n", words[0]);
        }
        match done {
            Ok(()) => 0,
            Err(NO_SUCH) => NOT_FOUND,
            Err(_) => FAILED,
        }
    }

    fn command(
        &self,
        line: &str,
        [name, first, second, third]: [&str; words::MAX_WORDS],
    ) -> Result<(), Complaint> {
        let system = self.system;
        match name {
            "" => {}
            "help" => say!(system, "{HELP}"),
            "devices" => self.devices(),
            "ls" => {
                for name in files::list(system, first)? {
                    say!(system, "{name}\n");
                }
            }
            "cat" => say!(system, "{}", files::read(system, first)?),
            "echo" => self.echo(line.strip_prefix("echo").unwrap_or("").trim())?,
            "read" => disks::read(system, &*disks::find(system, first)?, sector(second)?)?,
            "write" => disks::write(system, &*disks::find(system, first)?, sector(second)?, third)?,
            "checksum" => say!(system, "{:08x}\n", disks::checksum(system, &*disks::find(system, first)?)?),
            "net" => network::command(system, first, second, third)?,
            "pipe" => self.pipe(line.strip_prefix("pipe").unwrap_or("").trim())?,
            "bench" => bench::command(system, first, second, third)?,
            "uptime" => self.uptime(),
            "panic" => panic!(
                "{}",
                if first.is_empty() { "the user asked for it" } else { line.trim_start_matches("panic ") }
            ),
            "poweroff" => power::off(),
            _ => return Err(NO_SUCH),
        }
        Ok(())
    }

    fn devices(&self) {
        for bus in self.system.registry.buses() {
            say!(self.system, "bus {bus}\n");
        }
        for (device, driver) in self.system.registry.list() {
            let id = device.carrier.id();
            let driver = driver.unwrap_or("nobody");
            say!(
                self.system,
                "{} id {:04x}:{:04x} irq {} driven by {driver}\n",
                device.name,
                id.vendor,
                id.device,
                device.irq.number()
            );
        }
        for disk in self.system.disks.disks() {
            say!(self.system, "{} {} sectors\n", disk.name(), disk.sectors());
        }
        if self.system.registry.buses().is_empty() {
            say!(self.system, "no lguest bus on this machine\n");
        }
    }

    /// A text to the console, or after `>` to a file, without a newline there: a number is all a file takes.
    fn echo(&self, text: &str) -> Result<(), Complaint> {
        match text.split_once('>') {
            None => say!(self.system, "{text}\n"),
            Some((text, path)) => files::write(self.system, path.trim(), text.trim()).map(drop)?,
        }
        Ok(())
    }

    fn pipe(&self, text: &str) -> Result<(), Complaint> {
        let pipes = self.system.pipes.pipes();
        let first = pipes.first().ok_or("no pipe: see devices")?;
        if !text.is_empty() {
            let taken = first.write(text.as_bytes()).map_err(|_| "the pipe refuses")?;
            say!(self.system, "{taken} bytes taken\n");
            return Ok(());
        }
        for pipe in pipes {
            let mut bytes = [0; PIPE_READ];
            let count = pipe.read(&mut bytes).map_err(|_| "the pipe refuses")?;
            let text = alloc::string::String::from_utf8_lossy(&bytes[..count]);
            say!(self.system, "{}: {count} bytes: {}\n", pipe.name(), text.trim_end());
        }
        Ok(())
    }

    fn uptime(&self) {
        say!(self.system, "up {} seconds", files::uptime(self.system));
        match self.system.wall_clock() {
            Some(seconds) => say!(self.system, ", {seconds} since 1970\n"),
            None => say!(self.system, "\n"),
        }
    }
}

fn sector(word: &str) -> Result<u32, Complaint> {
    words::number(word).ok_or("the sector is not a number")
}
