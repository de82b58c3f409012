//! Virtio's console and named ports: what is at the host's end of each.
//!
//! ```text
//!   VirtioConsole ── DeviceEnd ══ HostEnd ── threads ─┬─ the screen and the keyboard     --console virtio
//!                                                     ├─ a Unix socket                   --port NAME=unix:PATH
//!                                                     └─ a file, which is written        --port NAME=file:PATH
//! ```
//! Between the ends are two buffers with a limit each: a vCPU waits for nobody, the threads wait for both sides.

mod ends;
mod greeting;
mod option;
mod serve;

use std::os::unix::net::UnixListener;

use lguest_devices::virtio::console::{End, MOST_PORTS, VirtioConsole};

pub use ends::{HostEnd, pair};
pub use greeting::pipe;
pub use option::PortSpec;

use crate::board::Plug;
use crate::request::Mistake;

/// What `--console` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConsoleChoice {
    /// The first serial port, which every kernel has drivers for.
    Serial,
    /// Virtio's, which knows the terminal's size.
    Virtio,
}

impl ConsoleChoice {
    /// Reads `--console`.
    ///
    /// # Errors
    /// For another word.
    pub fn read(word: &str) -> Result<ConsoleChoice, Mistake> {
        match word {
            "serial" => Ok(ConsoleChoice::Serial),
            "virtio" => Ok(ConsoleChoice::Virtio),
            _ => Err(Mistake(format!("--console {word}: is no console; give serial or virtio"))),
        }
    }
}

/// What carries a port's bytes on the host.
#[derive(Debug)]
enum Place {
    Socket(UnixListener),
    File(std::fs::File),
}

/// What the user wants of this kind.
#[derive(Default)]
pub struct Ports {
    /// The host's end of the console, if there is one.
    pub console: Option<HostEnd>,
    /// The named ports', by name.
    pub named: Vec<(String, HostEnd)>,
    plugs: Vec<Plug>,
}

impl Ports {
    /// Opens what `--console` and `--port` name. With a size the console's terminal has one.
    ///
    /// A console is a device of its own, without control queues: Linux' kernels disagree about the order of a size in a control
    /// message, and about none in the configuration.
    ///
    /// # Errors
    /// One sentence for what cannot work.
    pub fn open(
        console: ConsoleChoice,
        size: Option<lguest_devices::virtio::console::Size>,
        ports: &[String],
    ) -> Result<Ports, Mistake> {
        let mut all = Ports::default();
        if console == ConsoleChoice::Virtio {
            let (device, host) = pair();
            if let Some(size) = size {
                host.set_size(size);
            }
            let listens = host.clone();
            all.plugs.push(Plug::woken(VirtioConsole::console(Box::new(device)), move |waker| {
                listens.hear(waker)
            }));
            all.console = Some(host);
        }
        let specs = option::read_all(ports)?;
        if specs.is_empty() {
            return Ok(all);
        }
        let (mut named, mut hosts) = (Vec::new(), Vec::new());
        for spec in specs {
            let (device, host) = pair();
            serve::start(&spec.name, spec.place, &host)?;
            named.push((spec.name.clone(), Box::new(device) as Box<dyn End>));
            all.named.push((spec.name, host.clone()));
            hosts.push(host);
        }
        let device = VirtioConsole::with_ports(None, named);
        all.plugs.push(Plug::woken(device, move |waker| {
            hosts.iter().for_each(|host| host.hear(waker.clone()));
        }));
        Ok(all)
    }

    /// The devices, taken out.
    pub fn take_plugs(&mut self) -> Vec<Plug> {
        std::mem::take(&mut self.plugs)
    }

    /// The host's ends of all of them.
    pub fn ends(&self) -> Vec<HostEnd> {
        self.console.iter().chain(self.named.iter().map(|(_, end)| end)).cloned().collect()
    }

    /// The machine has ended: waits for the console's reader, and a moment for the others.
    pub fn finish(&self) {
        for (_, end) in &self.named {
            end.abandon();
            end.finish();
        }
        self.console.iter().for_each(HostEnd::finish);
    }

    /// The option that asked for a device, for who has no place for one.
    pub fn option(&self) -> Option<&'static str> {
        match (self.console.is_some(), self.plugs.len()) {
            (true, _) => Some("--console virtio"),
            (false, 0) => None,
            (false, _) => Some("--port"),
        }
    }
}
