//! What a trapped call of a paravirtual Guest of 32 bits costs: hypercalls that do nothing, a user's system calls, and NOTIFYs to
//! the board. `cargo run --release --example lguest32_speed -p lguest-host`

#[path = "../tests/lguest32/program.rs"]
mod program;

use std::sync::Arc;
use std::time::Instant;

use lguest_host::clock::Calibration;
use lguest_host::engine::{Exit, Vcpu};
use lguest_host::lguest32::lines::Lines;
use lguest_host::lguest32::{Lguest32Entry, Lguest32Vcpu};
use lguest_host::memory::{GuestAddress, Memory};
use program::*;

const ROUNDS: u32 = 300_000;

/// What a loop's Guest runs.
type Write = fn(&mut Program);

fn main() {
    let loops: [(&str, Write); 3] = [
        ("a hypercall", |program| {
            program.mov(EDI, ROUNDS);
            program.mov(EAX, call::SEND_INTERRUPTS);
            program.db(&[0xcd, 0x1f, 0x4f, 0x75, 0xfb]); // int 0x1f; dec edi; jnz back
        }),
        ("a NOTIFY seen by the board", |program| {
            program.mov(EDI, ROUNDS);
            program.mov(EAX, call::NOTIFY);
            program.mov(EBX, MEMORY + 0x1000);
            program.db(&[0xcd, 0x1f, 0x4f, 0x75, 0xfb]);
        }),
        ("a user's system call and its return", |program| {
            program.gate(0x80, 0xef);
            program.gate(13, 0x8e);
            program.enter_user();
        }),
    ];
    for (name, write) in loops {
        let mut vcpu = guest(write);
        let began = Instant::now();
        while let Exit::Notify { .. } = vcpu.run() {}
        println!("{name}: {} ns", began.elapsed().as_nanos() / u128::from(ROUNDS));
    }
}

/// A Guest of 3.1's form; its user makes system calls until it is done, and its handlers return.
fn guest(write: impl FnOnce(&mut Program)) -> Lguest32Vcpu {
    let memory = Memory::with_device_pages(MEMORY.into(), 2).expect("the host has memory");
    let put =
        |at: u32, bytes: &[u8]| memory.write(GuestAddress(at.into()), bytes).expect("it lies in memory");
    let mut program = Program::new(Form::G31);
    program.begin();
    write(&mut program);
    program.off();
    put(CODE, &program.bytes);
    put(TEXT, b"Power down\0");
    put(HANDLERS + 256 * 0x80, &[0xcf]);
    let mut end = Program::new(Form::G31);
    end.off();
    put(HANDLERS + 256 * 13, &end.bytes);
    let mut user = Program::new(Form::G31);
    user.mov(EDI, ROUNDS);
    user.db(&[0xcd, 0x80, 0x4f, 0x75, 0xfb, 0xfa]); // int 0x80; dec edi; jnz back; cli
    put(USER, &user.bytes);
    put(DATA + data::STATUS, &[0xff; 64]);
    for (n, word) in (0..).zip([0xffff_fff0, 0xffff_fff0, KERNEL, 0x80]) {
        put(DATA + data::FORM + 4 * n, &u32::to_le_bytes(word));
    }
    for slot in [0, KERNEL >> 22] {
        put(DIRECTORY + 4 * slot, &u32::to_le_bytes(TABLE | 7));
    }
    for page in 0..1024u32 {
        put(TABLE + 4 * page, &u32::to_le_bytes(page << 12 | 7));
    }
    let rate = Calibration::start().finish();
    let lines = Lines::new(rate).expect("the host has threads");
    let entry = Lguest32Entry { eip: CODE, memory: MEMORY, device_pages: 2, tables_end: MEMORY };
    let ram = Arc::new(memory.ram().expect("it is mapped"));
    Lguest32Vcpu::new(ram, lines, rate, entry, &Default::default()).expect("the host's processor will do")
}
