//! A translated unit to look at: a Guest of five instructions is run, and what was made of its loop is printed.
//!
//! The left column is the Guest's code, the right one the host's that ran in its place. `cargo xtask journey` puts the
//! same listing into the book.

use std::fs::File;
use std::sync::Arc;

use lguest_translator::listing::{Listing, Of};
use lguest_translator::{Exit, LongModeEntry, Options, Ram, RamRegion, Vcpu};

const MEMORY: u64 = 4 << 20;
/// Where the program stands.
const CODE: u64 = 0x10_0000;
/// Numbers that it adds up.
const NUMBERS: u64 = 0x20_0000;

/// `again: add rax, [rsi]; inc [rsi]; add rsi, 8; dec ecx; jnz again; hlt`.
const PROGRAM: [u8; 16] =
    [0x48, 0x03, 0x06, 0x48, 0xff, 0x06, 0x48, 0x83, 0xc6, 0x08, 0xff, 0xc9, 0x75, 0xf2, 0xf4, 0x90];
/// Turns of the loop.
const TURNS: u64 = 100;

/// Columns of the left side.
const LEFT: usize = 30;

fn main() {
    let mut vcpu = guest();
    vcpu.set_gpr(0, 0);
    vcpu.set_gpr(1, TURNS);
    let exit = vcpu.run();
    assert_eq!(exit, Exit::Halt, "the program ends with hlt");
    assert_eq!(vcpu.gpr(0), TURNS * (TURNS - 1) / 2, "the sum of its numbers");
    for listing in vcpu.listings(CODE) {
        print(&listing);
    }
}

fn print(listing: &Listing) {
    println!(
        "{:LEFT$}  {} bytes of host code",
        format!("{} bytes of Guest code", listing.guest_bytes),
        listing.host_bytes
    );
    for part in &listing.parts {
        let left = match &part.of {
            Of::Door => vec!["(for computed jumps)".to_owned()],
            Of::Guest(bytes, text) => {
                vec![text.clone(), bytes.iter().map(|byte| format!("{byte:02x} ")).collect()]
            }
            Of::Cold => vec!["(cold: the ways out)".to_owned()],
        };
        println!();
        for row in 0..part.host.len().max(left.len()) {
            let left = left.get(row).map_or("", String::as_str);
            match part.host.get(row) {
                Some((offset, host)) => println!("{left:LEFT$}  {offset:03x}  {host}"),
                None => println!("{}", left.trim_end()),
            }
        }
    }
}

/// A processor in 64-bit mode before [`PROGRAM`], with memory where it is and [`NUMBERS`] to add.
fn guest() -> Vcpu {
    let path = std::env::temp_dir().join(format!("lguest-unit-{}", std::process::id()));
    let file =
        File::options().read(true).write(true).create_new(true).open(&path).expect("a file for memory");
    std::fs::remove_file(&path).expect("nobody else took it");
    file.set_len(MEMORY).expect("room for memory");
    let ram =
        Ram::new(&file, MEMORY, vec![RamRegion { start: 0, length: MEMORY, offset: 0 }]).expect("memory");
    let put = |address: u64, value: u64| assert!(ram.write(address, &value.to_le_bytes()));
    // Page tables: two pages of 2 MiB, where they are. Then a code and a data segment.
    put(0x1000, 0x2003);
    put(0x2000, 0x3003);
    (0..2).for_each(|page| put(0x3000 + 8 * page, page << 21 | 0x83));
    put(0x4010, 0x00af_9b00_0000_ffff);
    put(0x4018, 0x00cf_9300_0000_ffff);
    assert!(ram.write(CODE, &PROGRAM));
    (0..TURNS).for_each(|number| put(NUMBERS + 8 * number, number));
    let mut vcpu = Vcpu::new(Arc::new(ram), Options { count: 1, ..Options::default() }).expect("a processor");
    vcpu.enter_long_mode(LongModeEntry {
        rip: CODE,
        rsp: 0x9000,
        rsi: NUMBERS,
        cr3: 0x1000,
        gdt: 0x4000,
        gdt_limit: 31,
    });
    vcpu
}
