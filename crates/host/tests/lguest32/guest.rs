//! A Guest of a few instructions, and a Host around it.

use std::sync::Arc;

use lguest_host::clock::TscRate;
use lguest_host::engine::{Exit, Vcpu};
use lguest_host::lguest32::lines::Lines;
use lguest_host::lguest32::{Lguest32Entry, Lguest32Vcpu};
use lguest_host::memory::{GuestAddress, Memory};

pub use crate::program::*;

pub const DEVICE_PAGES: u32 = 4;
pub const LIMIT: u32 = MEMORY + 4096 * DEVICE_PAGES;

pub struct Guest {
    pub memory: Arc<Memory>,
    pub lines: Arc<Lines>,
    pub vcpu: Lguest32Vcpu,
    pub form: Form,
}

/// A Guest whose code `write` writes, from the first instruction on.
pub fn raw(form: Form, write: impl FnOnce(&mut Program)) -> Guest {
    let memory = Arc::new(Memory::with_device_pages(MEMORY.into(), DEVICE_PAGES.into()).unwrap());
    let rate = TscRate::from_khz(2_000_000);
    let lines = Lines::new(rate).unwrap();
    let entry =
        Lguest32Entry { eip: CODE, memory: MEMORY, device_pages: DEVICE_PAGES, tables_end: MEMORY - 0x1000 };
    let ram = Arc::new(memory.ram().unwrap());
    let vcpu = Lguest32Vcpu::new(ram, lines.clone(), rate, entry, &Default::default()).unwrap();
    let guest = Guest { memory, lines, vcpu, form };
    let mut program = Program::new(form);
    write(&mut program);
    guest.load(CODE, &program.bytes);
    guest.load(TEXT, b"Power down\0");
    guest.put(DATA + data::BLOCKED, 1);
    guest.load(DATA + data::STATUS, &[0xff; 64]);
    let (nothing, end) = (0xffff_fff0, [KERNEL, 0x80]);
    let form_words = match form {
        Form::G26 => vec![0, nothing, nothing, end[0], end[1]],
        Form::G31 => vec![nothing, nothing, end[0], end[1]],
        Form::G41 => vec![nothing, end[0], end[1]],
    };
    for (n, word) in (0..).zip(form_words) {
        guest.put(DATA + data::FORM + 4 * n, word);
    }
    for slot in [0, KERNEL >> 22] {
        guest.put(DIRECTORY + 4 * slot, TABLE | 7);
    }
    for page in 0..1024 {
        let user = if (USER >> 12..USER_STACK >> 12).contains(&page) { 4 } else { 0 };
        guest.put(TABLE + 4 * page, page << 12 | 3 | user);
    }
    guest
}

/// The same behind [`Program::begin`]; it turns itself off at the end.
pub fn guest(form: Form, write: impl FnOnce(&mut Program)) -> Guest {
    raw(form, |program| {
        program.begin();
        write(program);
        program.off();
    })
}

impl Guest {
    pub fn load(&self, at: u32, bytes: &[u8]) {
        self.memory.write(GuestAddress(at.into()), bytes).unwrap();
    }

    pub fn put(&self, at: u32, value: u32) {
        self.load(at, &value.to_le_bytes());
    }

    pub fn word(&self, at: u32) -> u32 {
        let mut bytes = [0; 4];
        self.memory.read(GuestAddress(at.into()), &mut bytes).unwrap();
        u32::from_le_bytes(bytes)
    }

    pub fn noted(&self, n: u32) -> u32 {
        self.word(NOTES + 4 * n)
    }

    /// The vector, six words of the handler's stack, and `irq_enabled` in the handler.
    pub fn shown(&self) -> [u32; 8] {
        std::array::from_fn(|n| self.word(SHOWN + 4 * n as u32))
    }

    /// The handler of a vector.
    pub fn handle(self, vector: u32, write: impl FnOnce(&mut Program)) -> Guest {
        let mut program = Program::new(self.form);
        write(&mut program);
        let at = HANDLERS + 256 * vector;
        let bytes = program.bytes;
        assert!(bytes.len() <= 256, "a handler of {} bytes", bytes.len());
        self.load(at, &bytes);
        self
    }

    /// The user's code.
    pub fn user(self, write: impl FnOnce(&mut Program)) -> Guest {
        let mut program = Program::new(self.form);
        write(&mut program);
        self.load(USER, &program.bytes);
        self
    }

    pub fn run(&mut self) -> Exit {
        self.vcpu.run()
    }

    #[track_caller]
    pub fn run_to_off(&mut self) {
        let exit = self.run();
        assert_eq!(exit, Exit::Off, "at {:#x}", self.vcpu.rip());
    }

    /// The sentence that it dies with.
    #[track_caller]
    pub fn death(&mut self) -> String {
        match self.run() {
            Exit::Dead(reason) => reason,
            other => panic!("{other:?} at {:#x}", self.vcpu.rip()),
        }
    }
}
