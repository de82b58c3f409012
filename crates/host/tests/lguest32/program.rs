//! Machine code of 32 bits that speaks as the kernels do, in whichever form, and where its parts go.
//!
//! ```text
//!   0x001000 text of SHUTDOWN    0x100000 code   0x140000 handlers, 256 bytes a vector   0x200000 lguest_data
//!   0x210000 what it noted       0x211000 what its handlers were shown                    0x220000 page tables
//!   0x280000 the user's code     0x290000 top of the user's stack    0x300000 top of the kernel's stacks
//! ```
//! Before it looks at anything it has called LGUEST_INIT, loaded descriptors and gates as Linux does, and left the identity
//! mapping for tables of its own, which map the first 4 MiB at 0 and at 0xc0000000.

#![allow(dead_code, reason = "several test programs use different parts of it")]

pub const MEMORY: u32 = 8 << 20;
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
