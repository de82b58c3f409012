//! Instructions that a kernel of level 1 may not carry out and still does: ports, and one `cli` (facts 8.5, 8.6 and 15.3).
//!
//! A kernel without a bus of ports only probes: it reads ones, and what it writes is lost. From 4.1 on its devices are on PCI, and
//! configuration goes by ports 0xcf8 to 0xcff to the board.
//!
//! 4.1 with CONFIG_MICROCODE_EARLY calls its loader of microcode before it looks for a Host at all (arch/x86/kernel/head_32.S), and on Intel's
//! processors that asks for the microcode's revision with no handler for the fault. It gets zeros, finds nothing to load and
//! goes on. Kernels from 2.6.37 on with CONFIG_OLPC, as distributions have it, keep their firmware's CR3 in the same place (head_32.S);
//! it is 0, and nobody calls that firmware. From LGUEST_INIT on such a fault is the kernel's own.

use super::data::Generation;
use super::vcpu::Lguest32Vcpu;
use crate::engine::Exit;

/// PCI's configuration mechanism 1.
const CONFIGURATION: std::ops::RangeInclusive<u16> = 0xcf8..=0xcff;
/// The keyboard controller's status, which a kernel waits on before it resets the machine: it takes commands.
const KEYBOARD_STATUS: u16 = 0x64;
const KEYBOARD_READY: u32 = 1;

/// What an instruction at level 1 that raised #GP(0) turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refused {
    ClearInterrupts,
    In { port: Option<u8>, size: u8 },
    Out { port: Option<u8>, size: u8 },
}

/// Decodes it; its length comes with it.
fn decode(bytes: &[u8]) -> Option<(Refused, u32)> {
    let narrow = bytes.first() == Some(&0x66);
    let prefix = usize::from(narrow);
    let opcode = *bytes.get(prefix)?;
    let wide = if narrow { 2 } else { 4 };
    let size = if opcode & 1 == 0 { 1 } else { wide };
    let port = || bytes.get(prefix + 1).copied();
    let (what, length) = match opcode {
        0xfa => (Refused::ClearInterrupts, 1),
        0xe4 | 0xe5 => (Refused::In { port: Some(port()?), size }, 2),
        0xe6 | 0xe7 => (Refused::Out { port: Some(port()?), size }, 2),
        0xec | 0xed => (Refused::In { port: None, size }, 1),
        0xee | 0xef => (Refused::Out { port: None, size }, 1),
        _ => return None,
    };
    Some((what, length + prefix as u32))
}

/// Port access that the board has to answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    size: u8,
    next: u64,
}

/// `rdmsr`, `wrmsr`, and `mov` from a control register with the number of CR3 in its third byte.
const READ_REGISTER: [u8; 2] = [0x0f, 0x32];
const WRITE_REGISTER: [u8; 2] = [0x0f, 0x30];
const READ_CONTROL: [u8; 2] = [0x0f, 0x20];
const CR3: u8 = 0xd8;

const RAX: usize = 0;
const RDX: usize = 2;

impl Lguest32Vcpu {
    /// #GP(0) at level 1: `Some` when it was one of these, with what the board has to do.
    pub(super) fn emulate(&mut self) -> Option<Option<Exit>> {
        let bytes = self.cpu.instruction_bytes();
        if self.data.is_none() && self.early_register(&bytes) {
            return Some(None);
        }
        let (what, length) = decode(&bytes)?;
        let next = self.cpu.rip().wrapping_add(length.into()) & 0xffff_ffff;
        let by_register = self.cpu.gpr(RDX) as u16;
        let configures = |port: &u16| {
            CONFIGURATION.contains(port)
                && self.data.as_ref().is_some_and(|data| data.generation == Generation::G41)
        };
        match what {
            Refused::ClearInterrupts => {}
            Refused::In { port, size } => {
                self.counts.ports += 1;
                let port = port.map_or(by_register, u16::from);
                let asked = Asked { size, next };
                if configures(&port) {
                    self.asked = Some(asked);
                    return Some(Some(Exit::PortIn { port, size }));
                }
                let ready = port == KEYBOARD_STATUS && size == 1;
                self.answer(asked, if ready { KEYBOARD_READY } else { u32::MAX });
            }
            Refused::Out { port, size } => {
                self.counts.ports += 1;
                let port = port.map_or(by_register, u16::from);
                if configures(&port) {
                    let value = self.cpu.gpr(RAX) as u32;
                    self.cpu.set_rip(next);
                    return Some(Some(Exit::PortOut { port, size, value }));
                }
            }
        }
        self.cpu.set_rip(next);
        Some(None)
    }

    /// A register that a kernel looks at before LGUEST_INIT: true when the instruction was one of these.
    fn early_register(&mut self, bytes: &[u8]) -> bool {
        let length = match *bytes {
            [a, b, ..] if [a, b] == READ_REGISTER => {
                self.cpu.set_gpr(RAX, 0);
                self.cpu.set_gpr(RDX, 0);
                2
            }
            [a, b, ..] if [a, b] == WRITE_REGISTER => 2,
            [a, b, c, ..] if [a, b] == READ_CONTROL && c & 0xf8 == CR3 => {
                self.cpu.set_gpr(usize::from(c & 7), 0);
                3
            }
            _ => return false,
        };
        self.cpu.set_rip(self.cpu.rip().wrapping_add(length) & 0xffff_ffff);
        true
    }

    /// The answer to a read of a port.
    pub(super) fn answer(&mut self, asked: Asked, value: u32) {
        let mask = u32::MAX >> (32 - 8 * u32::from(asked.size));
        let old = self.cpu.gpr(RAX) as u32;
        self.cpu.set_gpr(RAX, (old & !mask | value & mask).into());
        self.cpu.set_rip(asked.next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_and_written_in_three_sizes() {
        assert_eq!(decode(&[0xec]), Some((Refused::In { port: None, size: 1 }, 1)));
        assert_eq!(decode(&[0x66, 0xed]), Some((Refused::In { port: None, size: 2 }, 2)));
        assert_eq!(decode(&[0xe5, 0x71]), Some((Refused::In { port: Some(0x71), size: 4 }, 2)));
        assert_eq!(decode(&[0xe6, 0x21]), Some((Refused::Out { port: Some(0x21), size: 1 }, 2)));
        assert_eq!(decode(&[0x66, 0xef]), Some((Refused::Out { port: None, size: 2 }, 2)));
        assert_eq!(decode(&[0xfa]), Some((Refused::ClearInterrupts, 1)));
    }

    #[test]
    fn everything_else_is_the_guests_business() {
        for bytes in [&[0xfb][..], &[0xf4], &[0x0f, 0x32], &[0x6c], &[0x66, 0x6f], &[]] {
            assert_eq!(decode(bytes), None, "{bytes:x?}");
        }
    }
}
