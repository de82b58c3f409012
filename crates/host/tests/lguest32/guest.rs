//! A Guest of a few instructions that speaks as the kernels do, in whichever form, and a Host around it.
//!
//! ```text
//!   0x001000 text of SHUTDOWN    0x100000 code   0x140000 handlers, 256 bytes a vector   0x200000 lguest_data
//!   0x210000 what it noted       0x211000 what its handlers were shown                    0x220000 page tables
//!   0x280000 the user's code     0x290000 top of the user's stack    0x300000 top of the kernel's stacks
//! ```
//! Before it looks at anything it has called LGUEST_INIT, loaded descriptors and gates as Linux does, and left the identity
//! mapping for tables of its own, which map the first 4 MiB at 0 and at 0xc0000000.

use std::sync::Arc;

use lguest_host::clock::TscRate;
use lguest_host::engine::{Exit, Vcpu};
use lguest_host::lguest32::lines::Lines;
use lguest_host::lguest32::{Lguest32Entry, Lguest32Vcpu};
use lguest_host::memory::{GuestAddress, Memory};

pub const MEMORY: u32 = 8 << 20;
pub const DEVICE_PAGES: u32 = 4;
pub const LIMIT: u32 = MEMORY + 4096 * DEVICE_PAGES;
pub const TEXT: u32 = 0x1000;
pub const CODE: u32 = 0x10_0000;
pub const HANDLERS: u32 = 0x14_0000;
pub const DATA: u32 = 0x20_0000;
pub const NOTES: u32 = 0x21_0000;
pub const SHOWN: u32 = 0x21_1000;
pub const DIRECTORY: u32 = 0x22_0000;
pub const TABLE: u32 = 0x22_1000;
pub const USER: u32 = 0x28_0000;
pub const USER_STACK: u32 = 0x29_0000;
pub const STACK: u32 = 0x2f_0000;
pub const TRAP_STACK: u32 = 0x30_0000;
pub const KERNEL: u32 = 0xc000_0000;

/// The three forms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    G26,
    G31,
    G41,
}
pub const FORMS: [Form; 3] = [Form::G26, Form::G31, Form::G41];

/// Numbers of calls, as the facts have them.
pub mod call {
    pub const FLUSH_ASYNC: u32 = 0;
    pub const INIT: u32 = 1;
    pub const SHUTDOWN: u32 = 2;
    pub const NEW_PGTABLE: u32 = 4;
    pub const FLUSH_TLB: u32 = 5;
    pub const LOAD_IDT_ENTRY: u32 = 6;
    pub const SET_STACK: u32 = 7;
    pub const TS: u32 = 8;
    pub const SET_CLOCKEVENT: u32 = 9;
    pub const HALT: u32 = 10;
    pub const SET_PMD: u32 = 13;
    pub const SET_PTE: u32 = 14;
    pub const SET_PGD: u32 = 15;
    pub const LOAD_TLS: u32 = 16;
    pub const NOTIFY: u32 = 17;
    pub const LOAD_GDT_ENTRY: u32 = 18;
    pub const SEND_INTERRUPTS: u32 = 19;
}

/// Places in `lguest_data`.
pub mod data {
    pub const IRQ_ENABLED: u32 = 0;
    pub const BLOCKED: u32 = 4;
    pub const CR2: u32 = 8;
    pub const SECONDS: u32 = 12;
    pub const IRQ_PENDING: u32 = 20;
    pub const STATUS: u32 = 24;
    pub const RING: u32 = 88;
    pub const RESERVE_MEM: u32 = 1368;
    pub const TSC_KHZ: u32 = 1372;
    pub const FORM: u32 = 1376;
}

/// Registers as instructions number them.
pub const EAX: u8 = 0;
pub const ECX: u8 = 1;
pub const EDX: u8 = 2;
pub const EBX: u8 = 3;
pub const ESP: u8 = 4;
pub const EBP: u8 = 5;
pub const ESI: u8 = 6;
pub const EDI: u8 = 7;

/// A program being written: machine code of 32 bits.
pub struct Program {
    pub bytes: Vec<u8>,
    pub form: Form,
    notes: u32,
}

impl Program {
    pub fn new(form: Form) -> Program {
        Program { bytes: Vec::new(), form, notes: 0 }
    }

    pub fn db(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
    }

    fn with_word(&mut self, bytes: &[u8], word: u32) {
        self.db(bytes);
        self.db(&word.to_le_bytes());
    }

    /// mov register, value
    pub fn mov(&mut self, register: u8, value: u32) {
        self.with_word(&[0xb8 + register], value);
    }

    /// mov register, [address]
    pub fn load(&mut self, register: u8, address: u32) {
        self.with_word(&[0x8b, 5 | register << 3], address);
    }

    /// mov [address], register
    pub fn store(&mut self, address: u32, register: u8) {
        self.with_word(&[0x89, 5 | register << 3], address);
    }

    /// mov dword [address], value
    pub fn set(&mut self, address: u32, value: u32) {
        self.with_word(&[0xc7, 0x05], address);
        self.db(&value.to_le_bytes());
    }

    /// push value
    pub fn push(&mut self, value: u32) {
        self.with_word(&[0x68], value);
    }

    /// Calls itself until [address] is not zero: `cmp dword [address], 0; je $-7`.
    pub fn wait_for(&mut self, address: u32) {
        self.with_word(&[0x83, 0x3d], address);
        self.db(&[0, 0x74, 0xf7]);
    }

    /// The call's instruction: registers are set.
    pub fn trap(&mut self) {
        match self.form {
            Form::G26 => self.db(&[0x0f, 0x01, 0xc1]),
            _ => self.db(&[0xcd, 0x1f]),
        }
    }

    pub fn call(&mut self, number: u32, [b, c, d]: [u32; 3]) {
        self.mov(EAX, number);
        self.mov(EBX, b);
        self.mov(ECX, c);
        self.mov(EDX, d);
        self.trap();
    }

    /// Stores a register where the test finds it: the n-th note of the program.
    pub fn note(&mut self, register: u8) {
        self.store(NOTES + 4 * self.notes, register);
        self.notes += 1;
    }

    /// Stores a word of memory there; changes eax.
    pub fn note_word(&mut self, address: u32) {
        self.load(EAX, address);
        self.note(EAX);
    }

    pub fn off(&mut self) {
        self.call(call::SHUTDOWN, [TEXT, 1, 0]);
    }

    /// INIT, descriptors, tables, stacks; gates come from [`Guest::handle`].
    pub fn begin(&mut self) {
        self.mov(ESP, STACK);
        self.call(call::INIT, [DATA, 0, 0]);
        for (index, high) in [(12, 0x00cf_9a00), (13, 0x00cf_9200), (14, 0x00cf_fa00), (15, 0x00cf_f200)] {
            self.call(call::LOAD_GDT_ENTRY, [index, 0xffff, high]);
        }
        self.call(call::NEW_PGTABLE, [DIRECTORY, 0, 0]);
        self.call(call::SET_STACK, [0x69, TRAP_STACK, 1]);
    }

    /// The gate of a vector, whose handler [`Guest::handle`] puts in its place. `kind`: 0x8e, 0x8f, or with the user 0xee, 0xef.
    pub fn gate(&mut self, vector: u32, kind: u32) {
        let handler = HANDLERS + 256 * vector;
        self.call(
            call::LOAD_IDT_ENTRY,
            [vector, 0x60 << 16 | handler & 0xffff, handler & 0xffff_0000 | kind << 8],
        );
    }

    /// `iret` to the user's code, with the user's data segments.
    pub fn enter_user(&mut self) {
        self.mov(EAX, 0x7b);
        self.db(&[0x8e, 0xd8, 0x8e, 0xc0]); // mov ds, eax; mov es, eax
        for word in [0x7b, USER_STACK, 0x202, 0x73, USER] {
            self.push(word);
        }
        self.db(&[0xcf]);
    }

    /// A handler that stores what [`Guest::shown`] tells, and ends the machine.
    pub fn show(&mut self, vector: u32) {
        self.set(SHOWN, vector);
        for n in 0..6u32 {
            // mov eax, [esp + 4 * n]
            self.db(&[0x8b, 0x44, 0x24, 4 * n as u8]);
            self.store(SHOWN + 4 + 4 * n, EAX);
        }
        self.load(EAX, DATA + data::IRQ_ENABLED);
        self.store(SHOWN + 28, EAX);
        self.off();
    }
}

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
