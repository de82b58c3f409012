//! One input: raw bytes as a Guest's code, in a machine of its own, and what must hold whatever they do.
//!
//! ```text
//!   byte 0   bit 0: as a user; bits 1 to 3: how far before a page's end the code begins (0: at a page's start)
//!   1 to 8   what the registers are made from
//!   9 ..     code
//! ```
//! The machine must come back with one of its exits, not panic, and not meet a host fault that is no Guest's; what lies behind
//! the Guest's memory in the memory file must stay as it is; and what the vCPU keeps must stay below its limits.

use crate::machine::{CODE, DATA, Machine, RAM_BYTES, Stop, USER_CODE, USER_DATA, memory_file};
use lguest_translator::{Exit, Ram, RamRegion};
use std::os::unix::fs::FileExt;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

/// Bytes behind the Guest's memory that it must not reach.
const BEHIND: u64 = 1 << 16;
/// What they hold.
const MARK: u8 = 0xa5;
/// Exits after which an input has shown what it does.
const MOST_EXITS: usize = 48;
/// Longest code of an input.
const MOST_CODE: usize = 512;
/// How long an input may run before it is taken for an endless loop and kicked. A slow host kicks more, and loses nothing.
const PATIENCE: Duration = Duration::from_millis(20);
/// Code and tables one vCPU may keep: the arena's size, and room for the tables of eight address spaces.
const MOST_KEPT: u64 = 512 << 20;

/// Runs one input; panics when a promise is broken.
pub fn run(input: &[u8]) {
    let (head, code) = input.split_at(input.len().min(9));
    let mut seed = [0; 9];
    seed[..head.len()].copy_from_slice(head);
    let code = &code[..code.len().min(MOST_CODE)];
    let file = memory_file(RAM_BYTES + BEHIND);
    file.write_all_at(&[MARK; BEHIND as usize], RAM_BYTES).expect("the memory file takes bytes");
    let regions = vec![RamRegion { start: 0, length: RAM_BYTES, offset: 0 }];
    let ram = Ram::new(&file, RAM_BYTES + BEHIND, regions).expect("memory can be mapped");
    let mut machine = Machine::on(ram);
    place(&mut machine, seed, code);
    let watch = keep_watch(&machine);
    for _ in 0..MOST_EXITS {
        match machine.run() {
            Stop::Trap(_)
            | Stop::Exit(Exit::PortOut { .. } | Exit::MmioWrite { .. } | Exit::WriteMsr { .. }) => {}
            Stop::Exit(Exit::PortIn { .. } | Exit::MmioRead { .. }) => {
                machine.vcpu.reply(0x5a5a_5a5a_5a5a_5a5a)
            }
            Stop::Exit(Exit::ReadMsr { .. }) => machine.vcpu.refuse(),
            Stop::Exit(Exit::Hypercall | Exit::InterruptWindow) => {}
            Stop::Exit(Exit::Debug(_)) => unreachable!("no debugger asked"),
            Stop::Exit(Exit::Halt | Exit::Kicked | Exit::TripleFault | Exit::Event(_) | Exit::Dead(_)) => {
                break;
            }
        }
    }
    drop(watch);
    let mut behind = vec![0; BEHIND as usize];
    file.read_exact_at(&mut behind, RAM_BYTES).expect("the memory file gives bytes");
    assert!(behind.iter().all(|&byte| byte == MARK), "the Guest wrote behind its memory");
    let kept = machine.vcpu.statistics();
    assert!(kept.code_bytes + kept.table_bytes < MOST_KEPT, "the vCPU keeps {kept:?}");
}

/// Puts the code where the first byte says, and numbers into the registers that lead somewhere more often than not.
fn place(machine: &mut Machine, seed: [u8; 9], code: &[u8]) {
    let user = seed[0] & 1 != 0;
    let base = if user { USER_CODE } else { CODE };
    let before_end = u64::from(seed[0] >> 1 & 7);
    let start = base + if before_end == 0 { 0 } else { 0x1000 - before_end };
    machine.load(start, code);
    if user {
        machine.start_user(start)
    } else {
        machine.start(start)
    }
    let data = if user { USER_DATA } else { DATA };
    for (number, byte) in seed[1..].iter().enumerate() {
        let value = match byte >> 6 {
            0 => u64::from(*byte),
            1 => data + u64::from(byte & 63) * 64,
            2 => data + 0x1000 - u64::from(byte & 63),
            _ => u64::MAX << (byte & 63),
        };
        // Not rsp, which leads to the frame that the start is made from.
        let register = [0, 1, 2, 3, 5, 6, 7, 9][number];
        machine.vcpu.set_gpr(register, value);
    }
}

/// Kicks the machine when it runs for too long, until the sender is dropped.
fn keep_watch(machine: &Machine) -> Sender<()> {
    let (sender, receiver) = channel();
    let kicker = machine.vcpu.kicker();
    std::thread::spawn(move || {
        while receiver.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
            kicker.kick();
        }
    });
    sender
}
