//! Whether a kernel has lguest's sub-architecture in it, and which generation's Host it expects.
//!
//! A Linux of 32 bits with CONFIG_LGUEST_GUEST carries the name by which it marks the memory map that it had from its Host
//! (`LGUEST`, NUL and all), as no other kernel does, and like every Linux its own version. From 4.0 on its devices are on PCI,
//! before it they are on the page of descriptors (facts of generation 2, 14 to 16). A bzImage is unpacked to be looked at, and
//! then started from what came out: its own decompressor would only take longer.

use memchr::memmem;

use super::elf;
use super::elf_headers::Class;
use super::payload;
use super::program::{Kernel, Program};
use super::setup_header;

/// What such a kernel calls its memory map.
const MARK: &[u8] = b"LGUEST\0";
/// What every Linux begins its banner with.
const BANNER: &[u8] = b"Linux version ";
/// The first version whose devices are on PCI.
const PCI_SINCE: u32 = 4;

/// What was found out about a Linux of 32 bits.
#[derive(Debug)]
pub struct Found {
    /// It has lguest's sub-architecture.
    pub paravirtual: bool,
    /// It looks for its devices on PCI.
    pub pci: bool,
    /// The kernel proper, if it had to be unpacked and could be.
    pub unpacked: Option<Vec<u8>>,
}

/// Looks at a kernel; none if it is no Linux of 32 bits, or cannot be read.
pub fn examine(kernel: &Kernel) -> Option<Found> {
    if let Some(header) = &kernel.setup_header {
        if setup_header::has_64_bit_entry(header) {
            return None;
        }
        let Program::Bytes(code) = &kernel.program else { return None };
        let unpacked = setup_header::payload_of(header, code)
            .and_then(|payload| payload::unpack(payload).ok())
            .filter(|program| elf::machine(program) == Ok(Class::Bits32));
        return Some(match unpacked {
            Some(bytes) => {
                let found = look(&bytes);
                Found { unpacked: Some(bytes), ..found }
            }
            // Of what cannot be unpacked here (LZO) only the header is known; it may unpack itself.
            None => Found { paravirtual: false, pci: setup_header::is_late(header), unpacked: None },
        });
    }
    let bytes = match &kernel.program {
        Program::Bytes(bytes) => std::borrow::Cow::Borrowed(&bytes[..]),
        Program::File(_) => kernel.program.read(0, kernel.program.length().ok()?).ok()?.into(),
    };
    (elf::machine(&bytes) == Ok(Class::Bits32)).then(|| look(&bytes))
}

fn look(bytes: &[u8]) -> Found {
    let paravirtual = memmem::find(bytes, MARK).is_some();
    // A kernel speaks of versions elsewhere too; its own is a number.
    let major = memmem::find_iter(bytes, BANNER).find_map(|at| {
        let digits = bytes[at + BANNER.len()..].iter().take_while(|byte| byte.is_ascii_digit()).take(4);
        digits.map(|digit| u32::from(digit - b'0')).reduce(|number, digit| 10 * number + digit)
    });
    Found { paravirtual, pci: major.is_some_and(|major| major >= PCI_SINCE), unpacked: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elf32(rest: &[u8]) -> Kernel {
        let mut file = vec![0; 64];
        file[..7].copy_from_slice(b"\x7fELF\x01\x01\x01");
        (file[16], file[18]) = (2, 3);
        file.extend(rest);
        Kernel { program: Program::Bytes(file), setup_header: None }
    }

    #[test]
    fn a_kernels_mark_and_version_say_what_it_expects() {
        let found = examine(&elf32(b"..Linux version 3.1.10 (me).\0LGUEST\0..")).unwrap();
        assert!(found.paravirtual && !found.pci);
        let found = examine(&elf32(b"Linux version 4.1.15\0.LGUEST\0")).unwrap();
        assert!(found.paravirtual && found.pci);
        let found = examine(&elf32(b"Linux version 4.1.15, which says lguest and LGUEST: once")).unwrap();
        assert!(!found.paravirtual);
        let found = examine(&elf32(b"Linux version %s\0Linux version 4.1.15\0.LGUEST\0")).unwrap();
        assert!(found.pci, "what a kernel prints is not its version");
    }

    #[test]
    fn a_kernel_that_only_it_can_unpack_is_told_by_its_header() {
        for (version, pci) in [(0x020a_u16, false), (0x020c, false), (0x020d, true)] {
            let mut header = vec![0; 0x80];
            header[0x206 - setup_header::START..][..2].copy_from_slice(&version.to_le_bytes());
            let kernel = Kernel {
                program: Program::Bytes(b"\x89LZO and what follows".to_vec()),
                setup_header: Some(header),
            };
            let found = examine(&kernel).unwrap();
            assert_eq!((found.paravirtual, found.pci, found.unpacked), (false, pci, None), "{version:#x}");
        }
    }

    #[test]
    fn other_kernels_are_not_looked_at() {
        let mut wide = elf32(b"LGUEST\0");
        if let Program::Bytes(bytes) = &mut wide.program {
            (bytes[4], bytes[18]) = (2, 62);
        }
        assert!(examine(&wide).is_none());
    }
}
