//! Page tables that point where no memory is, at devices, at themselves, and nowhere.

use crate::machine::*;
use crate::surrounded::Surrounded;
use lguest_translator::Exit;

/// A linear page whose mapping varies.
const PAGE: u64 = 0xffff_9000_0000_0000;

/// Physical addresses that are no memory; the first lies where the host's bytes begin in the memory file.
const OUTSIDE: [u64; 7] = [
    RAM_BYTES,
    RAM_BYTES + 0x8000,
    DEVICE,
    0xfee0_0000,
    0x1_0000_0000,
    0x7_ffff_ffff_f000 & 0xff_ffff_f000,
    0xff_ffff_f000,
];

#[test]
fn a_page_outside_memory_is_a_devices_and_not_the_hosts() {
    let code = assembled!("mov rax, [rbx]", "mov [rbx + 8], rax", "hlt");
    for physical in OUTSIDE {
        let mut guest = Surrounded::new();
        guest.machine.map(PAGE, physical, P | W);
        guest.machine.load(CODE, &code);
        guest.machine.start(CODE);
        guest.machine.vcpu.set_gpr(reg::RBX, PAGE);
        assert_eq!(guest.machine.run(), Stop::Exit(Exit::MmioRead { address: physical, size: 8 }));
        guest.machine.vcpu.reply(0x55);
        let write = Exit::MmioWrite { address: physical + 8, size: 8, value: 0x55 };
        assert_eq!(guest.machine.run(), Stop::Exit(write));
        guest.machine.run_to_halt();
        guest.assert_nothing_stolen("a page outside memory");
    }
}

#[test]
fn a_large_page_that_begins_in_memory_and_ends_outside_gives_only_the_memory() {
    let mut guest = Surrounded::new();
    // A gibibyte from 0, of which 16 MiB are memory.
    let directory = guest.machine.new_table();
    guest.machine.put(directory, P | W | PS);
    guest.machine.put(ROOT + 8 * (PAGE >> 39 & 511), directory | P | W);
    guest.machine.load(CODE, &assembled!("mov rax, [rbx]", "hlt"));
    guest.machine.put(DATA, 0x1234);
    for (offset, expected) in
        [(DATA, None), (RAM_BYTES - 8, None), (RAM_BYTES, Some(8)), (RAM_BYTES + 0x8000, Some(8))]
    {
        guest.machine.start(CODE);
        guest.machine.vcpu.set_gpr(reg::RBX, PAGE + offset);
        match expected {
            None => guest.machine.run_to_halt(),
            Some(size) => {
                assert_eq!(guest.machine.run(), Stop::Exit(Exit::MmioRead { address: offset, size }));
                guest.machine.vcpu.reply(0);
                guest.machine.run_to_halt();
            }
        }
        guest.assert_untouched("a large page");
    }
    guest.assert_nothing_stolen("a large page");
}

#[test]
fn a_page_root_outside_memory_ends_the_guest_and_nothing_else() {
    for root in OUTSIDE {
        let mut guest = Surrounded::new();
        guest.machine.load(CODE, &assembled!("mov cr3, rbx", "mov rax, [rbx]", "hlt"));
        guest.machine.start(CODE);
        guest.machine.vcpu.set_gpr(reg::RBX, root);
        assert_eq!(guest.run("a root outside memory"), None);
        guest.assert_nothing_stolen("a root outside memory");
    }
}

#[test]
fn tables_that_are_no_memory_map_nothing() {
    for level in [39, 30, 21] {
        for physical in OUTSIDE {
            let mut guest = Surrounded::new();
            let mut table = ROOT;
            for shift in [39, 30, 21] {
                let place = table + (PAGE >> shift & 511) * 8;
                table = if shift == level { physical } else { guest.machine.new_table() };
                guest.machine.put(place, table | P | W);
                if shift == level {
                    break;
                }
            }
            guest.machine.load(CODE, &assembled!("mov rax, [rbx]", "mov [rbx], rax", "int3"));
            guest.machine.start(CODE);
            guest.machine.vcpu.set_gpr(reg::RBX, PAGE);
            guest.run("tables outside memory");
            guest.assert_nothing_stolen("tables outside memory");
        }
    }
}

#[test]
fn a_page_that_is_taken_away_is_gone_at_once_and_its_neighbours_are_not_the_hosts() {
    let mut guest = Surrounded::new();
    let entry = guest.machine.entry(ROOT, PAGE);
    guest.machine.load(
        CODE,
        &assembled!(
            "mov [rbx], rax",         // filled
            "mov qword ptr [rcx], 0", // unmapped
            "invlpg [rbx]",
            "mov [rbx], rax",
            "int3"
        ),
    );
    guest.machine.map(PAGE, RAM_BYTES - 4096, P | W);
    guest.machine.start(CODE);
    guest.machine.vcpu.set_gpr(reg::RBX, PAGE);
    guest.machine.vcpu.set_gpr(reg::RCX, entry);
    let trapped = guest.machine.run_to_trap();
    assert_eq!((trapped.vector, trapped.cr2), (14, PAGE));
    guest.assert_nothing_stolen("an unmapped page");
}

#[test]
fn descriptor_tables_at_wild_places_end_the_guest_and_nothing_else() {
    for base in [0, RAM_BYTES - 4, RAM_BYTES, 1 << 47, u64::MAX - 15, PAGE] {
        for code in [
            assembled!("push rbx", "push -1", "lidt [rsp + 6]", "int3"),
            assembled!(
                "push rbx",
                "push -1",
                "lgdt [rsp + 6]",
                "mov ax, 0x28",
                "mov ds, ax",
                "push 0x10",
                "push rbx",
                "retfq"
            ),
            assembled!("push rbx", "push -1", "lgdt [rsp + 6]", "mov ax, 0x40", "ltr ax", "int3"),
            assembled!(
                "push rbx",
                "push -1",
                "lgdt [rsp + 6]",
                "mov ax, 0x40",
                "lldt ax",
                "mov ax, 0xfffc",
                "mov ds, ax",
                "int3"
            ),
        ] {
            let mut guest = Surrounded::new();
            guest.machine.map(PAGE, DEVICE, P | W);
            guest.machine.load(CODE, &code);
            guest.machine.start(CODE);
            guest.machine.vcpu.set_gpr(reg::RBX, base);
            guest.run("a descriptor table");
            guest.assert_nothing_stolen("a descriptor table");
        }
    }
}
