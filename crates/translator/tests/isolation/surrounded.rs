//! A machine whose memory lies in the middle of a memory file. What is before and behind belongs to the host.
//!
//! ```text
//!   file:    | secret, 64 KiB | the Guest's 16 MiB | secret, 64 KiB |
//! ```
//! The secret is one byte repeated, so that a single stolen piece of four bytes is recognised wherever it turns up.

use crate::machine::*;
use lguest_translator::{Exit, Ram, RamRegion};
use std::fs::File;
use std::os::unix::fs::FileExt;

/// Bytes of secret on either side.
const MARGIN: u64 = 64 << 10;
/// What they are.
const SECRET: u8 = 0xe7;
/// A run of the secret that is no accident.
const STOLEN: [u8; 4] = [SECRET; 4];

/// A Guest between secrets.
pub struct Surrounded {
    /// The machine.
    pub machine: Machine,
    file: File,
}

impl Surrounded {
    /// A machine as [`Machine::new`] makes it.
    pub fn new() -> Surrounded {
        let length = RAM_BYTES + 2 * MARGIN;
        let file = memory_file(length);
        let secret = vec![SECRET; MARGIN as usize];
        for place in [0, MARGIN + RAM_BYTES] {
            file.write_all_at(&secret, place).expect("a memory file can be written");
        }
        let regions = vec![RamRegion { start: 0, length: RAM_BYTES, offset: MARGIN }];
        let ram = Ram::new(&file, length, regions).expect("memory can be mapped");
        Surrounded { machine: Machine::on(ram), file }
    }

    /// The host's bytes are as they were, and none of them is in the Guest's registers or memory.
    #[track_caller]
    pub fn assert_untouched(&mut self, attack: &str) {
        self.assert_margins(attack);
        for number in 0..16 {
            assert!(
                !holds_secret(&self.machine.vcpu.gpr(number).to_le_bytes()),
                "{attack}: register {number}"
            );
        }
        for vector in self.machine.vcpu.vectors() {
            assert!(!holds_secret(vector), "{attack}: a vector register");
        }
    }

    /// The same with a look through all of the Guest's memory, which takes a while.
    #[track_caller]
    pub fn assert_nothing_stolen(&mut self, attack: &str) {
        self.assert_untouched(attack);
        let mut memory = vec![0; RAM_BYTES as usize];
        assert!(self.machine.ram.read(0, &mut memory));
        assert!(!holds_secret(&memory), "{attack}: the Guest's memory holds a secret");
    }

    #[track_caller]
    fn assert_margins(&self, attack: &str) {
        let mut bytes = vec![0; MARGIN as usize];
        for place in [0, MARGIN + RAM_BYTES] {
            self.file.read_exact_at(&mut bytes, place).expect("a memory file can be read");
            assert!(bytes.iter().all(|&byte| byte == SECRET), "{attack}: bytes of the host's changed");
        }
    }

    /// Runs until the Guest traps, halts or dies, answering its devices with zeros; the vector if it trapped.
    #[track_caller]
    pub fn run(&mut self, attack: &str) -> Option<u64> {
        // A string instruction on a device, or a Guest that runs on into zeros, comes back often but not for ever.
        for _ in 0..20_000 {
            match self.machine.run() {
                Stop::Trap(trapped) => return Some(trapped.vector),
                Stop::Exit(Exit::Halt | Exit::TripleFault | Exit::Event(_) | Exit::Dead(_)) => return None,
                Stop::Exit(Exit::PortIn { .. } | Exit::MmioRead { .. } | Exit::ReadMsr { .. }) => {
                    self.machine.vcpu.reply(0)
                }
                Stop::Exit(Exit::WriteMsr { .. }) => self.machine.vcpu.refuse(),
                Stop::Exit(_) => {}
            }
        }
        panic!("{attack}: does not come to an end");
    }
}

fn holds_secret(bytes: &[u8]) -> bool {
    bytes.windows(STOLEN.len()).any(|window| window == STOLEN)
}
