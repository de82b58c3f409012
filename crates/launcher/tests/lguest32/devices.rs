//! The devices: on the page of descriptors before 4.0, on PCI from then on.

use crate::kernel::*;

/// Bytes of descriptors before the console's: the source of entropy's.
const ENTROPY: u32 = 13;
/// The console's descriptor: type, queues, two lengths of nothing, status, then eight bytes a queue.
const CONSOLE: u32 = MACHINE + ENTROPY;
/// Its output queue's page number, and its interrupt.
const OUTPUT_PAGE: u32 = CONSOLE + 5 + 8 + 4;
const OUTPUT_IRQ: u32 = 3;
const WORDS: &[u8] = b"written by a driver\n";

#[test]
fn a_driver_on_the_page_writes_to_the_console_and_hears_its_interrupt() {
    for form in [Form::G26, Form::G31] {
        let mut kernel = Kernel::new(form, |program| {
            program.begin();
            program.gate(32 + OUTPUT_IRQ, 0x8e);
            program.set(DATA + data::BLOCKED, 0);
            program.set(DATA + data::IRQ_ENABLED, 0x200);
            // The descriptor's first word, for the test's own map: type 3, two queues.
            program.load(EAX, CONSOLE);
            program.store(BUFFERS + 0x800, EAX);
            // Reset, acknowledge, driver; the accepted features are none. Then the device starts.
            for status in [0, 1, 3, 7] {
                program.db(&[0xc6, 0x05]); // mov byte [status], value
                program.db(&(CONSOLE + 4).to_le_bytes());
                program.db(&[status]);
                // 3.1 tells of a reset and of features, 2.6.32 of every status.
                if form == Form::G26 || matches!(status, 0 | 3) {
                    program.call(call::NOTIFY, [CONSOLE, 0, 0]);
                }
            }
            program.load(ESI, OUTPUT_PAGE);
            program.db(&[0xc1, 0xe6, 12]); // shl esi, 12: the ring
            // One descriptor: address, length.
            for (offset, value) in [(0u8, BUFFERS), (4, 0), (8, WORDS.len() as u32), (12, 0)] {
                program.db(&[0xc7, 0x46, offset]); // mov dword [esi + offset], value
                program.db(&value.to_le_bytes());
            }
            // The available ring, behind as many descriptors as the entry says: no flags, one entry, number 0.
            program.db(&[0x0f, 0xb7, 0x3d]); // movzx edi, word [num]
            program.db(&(OUTPUT_PAGE - 4).to_le_bytes());
            program.db(&[0xc1, 0xe7, 4]); // shl edi, 4
            program.db(&[0xc7, 0x04, 0x3e]); // mov dword [esi + edi], 0x10000
            program.db(&0x1_0000u32.to_le_bytes());
            program.db(&[0x89, 0xf3]); // mov ebx, esi
            program.mov(EAX, call::NOTIFY);
            program.trap();
            program.wait_for(SHOWN);
            program.power_down();
        })
        .handle(32 + OUTPUT_IRQ, |program| {
            program.set(SHOWN, 1);
            program.set(DATA + data::IRQ_ENABLED, 0x200);
            program.db(&[0xcf]);
        });
        kernel.load(BUFFERS, WORDS);
        let finished = kernel.run("page", &["--bus", "lguest"], "");
        assert_eq!(finished.status, Some(0), "{form:?}: {finished:?}");
        assert_eq!(finished.output, "written by a driver\n", "{form:?}: {finished:?}");
    }
}

/// Sets a port.
fn outl(program: &mut Program, port: u32, value: u32) {
    program.mov(EDX, port);
    program.mov(EAX, value);
    program.db(&[0xef]); // out dx, eax
}

/// A register of the function in slot 1, by the two ports.
fn configure(program: &mut Program, register: u32, value: u32) {
    outl(program, 0xcf8, 0x8000_0800 | register);
    outl(program, 0xcfc, value);
}

/// Reads one, and dies of an invalid instruction when the masked bits are others.
fn expect(program: &mut Program, register: u32, mask: u32, value: u32) {
    outl(program, 0xcf8, 0x8000_0800 | register);
    program.mov(EDX, 0xcfc);
    program.db(&[0xed, 0x25]); // in eax, dx; and eax, mask
    program.db(&mask.to_le_bytes());
    program.db(&[0x3d]);
    program.db(&value.to_le_bytes());
    program.db(&[0x74, 2, 0x0f, 0x0b]);
}

#[test]
fn on_pci_the_console_is_in_slot_1_and_speaks_without_a_driver() {
    // Where the capabilities are is for the kernel to find; here they are known: common, interrupt, device, notify, access.
    let (device, access) = (0x60, 0x84);
    let kernel = Kernel::new(Form::G41, |program| {
        program.begin();
        expect(program, 0, u32::MAX, 0x1043_1af4);
        expect(program, 8, 0xff00_0000, 0x0700_0000);
        expect(program, 0x3c, 0xff, 1);
        expect(program, 0x10, u32::MAX, MACHINE + 0x10_0000);
        // A vendor's capability of kind 4, then its place in the registers; one of kind 5.
        expect(program, device, 0xff00_00ff, 0x0400_0009);
        expect(program, access, 0xff00_00ff, 0x0500_0009);
        // The byte for emergencies, at 8 in the device's configuration.
        for byte in WORDS {
            configure(program, access + 4, 0);
            configure(program, access + 8, 0x2000 + 8);
            configure(program, access + 12, 4);
            configure(program, access + 16, u32::from(*byte));
        }
        // The registers answer in memory once they may; the device's configuration has zeros at its start.
        configure(program, 4, 6);
        program.set(DEVICES + 4 * 0x102, (MACHINE + 0x10_2000) | 0x1b);
        program.load(EAX, MACHINE + 0x10_2000);
        program.db(&[0x85, 0xc0, 0x74, 2, 0x0f, 0x0b]); // test eax, eax; je over a ud2
        program.power_down();
    });
    let finished = kernel.run("pci", &["--bus", "lguest"], "");
    assert_eq!(finished.status, Some(0), "{finished:?}");
    assert_eq!(finished.output, "written by a driver\n", "{finished:?}");
}
