//! A machine as small as a kernel needs: sixteen MiB, tables, one handler for everything, and a way to write Guests in
//! this processor's own assembly language.
//!
//! ```text
//!   0x01000 IDTR    0x02000 GDT    0x03000 TSS    0x04000 IDT    0x05000 gates, 16 bytes each    0x07000 common handler
//!   0x09000 top of the interrupt stack (IST1)    0x0a000 top of RSP0             0x0c000 top of the stack in use
//!   0x0d000 a second processor's TSS    0x0e000 top of its interrupt stack    0x0f000 top of its stack
//!   0x10000 page tables, as they are needed
//!   0x100000 CODE  0x200000 DATA  0x300000 USER_CODE  0x400000 USER_DATA
//! ```
//! All of it is mapped one to one with pages of 4 KiB, for the supervisor but for the user's two. Every vector leads to
//! a gate that pushes its number and tells the host by a write to a port; the host looks, changes what it likes, and
//! the handler returns. Exceptions arrive on a stack of their own, so that a test may ruin the other.

use lguest_translator::{Exit, LongModeEntry, Options, Ram, RamRegion, Vcpu};
use std::os::fd::FromRawFd;
use std::sync::Arc;

/// Bytes of RAM.
pub const RAM_BYTES: u64 = 16 << 20;
/// Where a test's supervisor code goes.
pub const CODE: u64 = 0x10_0000;
/// A supervisor's data.
pub const DATA: u64 = 0x20_0000;
/// A user's code: pages with the user bit.
pub const USER_CODE: u64 = 0x30_0000;
/// A user's data and stack.
pub const USER_DATA: u64 = 0x40_0000;
/// Top of the stack that [`Machine::start`] gives.
pub const STACK: u64 = 0xc000;
/// Physical addresses from here on are no RAM.
pub const DEVICE: u64 = 0xd000_0000;
/// Root of the page tables.
pub const ROOT: u64 = 0x1_0000;

const TABLES_END: u64 = 0x10_0000;
const IDTR: u64 = 0x1000;
const GDT: u64 = 0x2000;
const TSS: u64 = 0x3000;
const IDT: u64 = 0x4000;
const GATES: u64 = 0x5000;
const COMMON: u64 = 0x7000;
const PROLOGUE: u64 = 0x7800;
const RETURN: u64 = 0x7f00;
/// Where `syscall` goes: an exception of the supervisor's.
pub const CALLED: u64 = 0x7f80;
const INTERRUPT_STACK: u64 = 0x9000;
const RSP0: u64 = 0xa000;
const SECOND_TSS: u64 = 0xd000;
const SECOND_INTERRUPT_STACK: u64 = 0xe000;
const SECOND_STACK: u64 = 0xf000;
const TASK: u64 = 0x40;
const SECOND_TASK: u64 = 0x50;
const GDT_LIMIT: u16 = 0x5f;
const PAGE: u64 = 4096;
/// The port the common handler writes to.
const TRAP_PORT: u16 = 0xf4;

/// Page-table bit: present.
pub const P: u64 = 1;
/// Page-table bit: writable.
pub const W: u64 = 2;
/// Page-table bit: user.
pub const U: u64 = 4;
/// Page-table bit: accessed.
pub const A: u64 = 0x20;
/// Page-table bit: dirty.
pub const D: u64 = 0x40;
/// Page-table bit: a large page.
pub const PS: u64 = 0x80;
/// Page-table bit: global.
pub const G: u64 = 0x100;
/// Page-table bit: not executable.
pub const NX: u64 = 1 << 63;

/// Register numbers as instructions encode them.
pub mod reg {
    #![allow(missing_docs)]
    pub const RAX: usize = 0;
    pub const RCX: usize = 1;
    pub const RDX: usize = 2;
    pub const RBX: usize = 3;
    pub const RSP: usize = 4;
    pub const RSI: usize = 6;
    pub const RDI: usize = 7;
    pub const R8: usize = 8;
    pub const R9: usize = 9;
}

/// Bytes of assembly language, for no particular address. `{name}` stands for constants given behind a semicolon.
macro_rules! assembled {
    ($($line:literal),+ $(; $($name:ident = $value:expr),+)? $(,)?) => {{
        let (start, end): (*const u8, *const u8);
        // SAFETY: two `lea`; the lines themselves go to read-only data.
        unsafe {
            std::arch::asm!(
                ".pushsection .rodata.guest, \"a\"", "771:", $($line,)+ "772:", ".popsection",
                "lea {start_of_bytes}, [rip + 771b]", "lea {end_of_bytes}, [rip + 772b]",
                start_of_bytes = out(reg) start, end_of_bytes = out(reg) end,
                $($($name = const $value),+,)?
                options(nomem, nostack, preserves_flags),
            )
        };
        // SAFETY: the assembler laid both labels around one piece of read-only data.
        unsafe { std::slice::from_raw_parts(start, end as usize - start as usize) }.to_vec()
    }};
}
pub(crate) use assembled;

/// What a handler was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trapped {
    /// Which exception or interrupt.
    pub vector: u64,
    /// Its error code, 0 if it has none.
    pub error_code: u64,
    /// Where it happened.
    pub rip: u64,
    /// CS there.
    pub cs: u64,
    /// The flags there.
    pub rflags: u64,
    /// The stack pointer there.
    pub rsp: u64,
    /// CR2.
    pub cr2: u64,
}

/// Why a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// A handler was entered.
    Trap(Trapped),
    /// Anything else.
    Exit(Exit),
}

/// See the module.
pub struct Machine {
    /// Its memory.
    pub ram: Arc<Ram>,
    /// Its processor.
    pub vcpu: Vcpu,
    next_table: u64,
    next_place: u64,
    stack: u64,
    interrupt_stack: u64,
}

impl Machine {
    /// At CPL 0 with everything switched on: NX, WP, SMEP and SMAP, SSE and AVX, global pages.
    pub fn new() -> Machine {
        Machine::on(ram(RAM_BYTES))
    }

    /// The same on memory whose first [`RAM_BYTES`] are RAM from guest-physical 0.
    pub fn on(ram: Ram) -> Machine {
        let ram = Arc::new(ram);
        let options = Options { index: 0, count: 1, ..Options::default() };
        let vcpu = Vcpu::new(ram.clone(), options).expect("a vCPU can be made on this machine");
        let mut machine = Machine {
            ram,
            vcpu,
            next_table: ROOT + PAGE,
            next_place: 0,
            stack: STACK,
            interrupt_stack: INTERRUPT_STACK,
        };
        for page in 0..RAM_BYTES / PAGE {
            let user = matches!(page * PAGE, USER_CODE..0x50_0000);
            machine.map(page * PAGE, page * PAGE, P | W | if user { U } else { 0 });
        }
        machine.lay_descriptors();
        machine.lay_handlers();
        machine.begin(TASK);
        machine
    }

    fn begin(&mut self, task: u64) {
        let entry = LongModeEntry {
            rip: PROLOGUE,
            rsp: self.stack,
            rsi: task,
            cr3: ROOT,
            gdt: GDT,
            gdt_limit: GDT_LIMIT,
        };
        self.vcpu.enter_long_mode(entry);
        assert_eq!(self.run(), Stop::Exit(Exit::Halt), "the prologue runs to its end");
    }

    /// A second processor of the same machine, with stacks and a task state of its own. Tables are made by the first.
    pub fn beside(&self) -> Machine {
        let options = Options { index: 1, count: 2, ..Options::default() };
        let vcpu = Vcpu::new(self.ram.clone(), options).expect("a second vCPU can be made on this machine");
        let mut machine = Machine {
            ram: self.ram.clone(),
            vcpu,
            next_table: TABLES_END,
            next_place: 0,
            stack: SECOND_STACK,
            interrupt_stack: SECOND_INTERRUPT_STACK,
        };
        machine.begin(SECOND_TASK);
        machine
    }

    /// Puts bytes into memory, as a device would.
    pub fn load(&self, at: u64, bytes: &[u8]) {
        assert!(self.ram.write(at, bytes), "{at:#x} is RAM");
    }

    /// Puts code on a page of its own behind `base` ([`CODE`] or [`USER_CODE`]), so that pieces do not mix.
    pub fn load_anew(&mut self, base: u64, code: &[u8]) -> u64 {
        self.next_place += PAGE;
        self.load(base + self.next_place, code);
        base + self.next_place
    }

    /// A machine about to run `code` at [`CODE`].
    pub fn with(code: &[u8]) -> Machine {
        let mut machine = Machine::new();
        machine.load(CODE, code);
        machine.start(CODE);
        machine
    }

    /// Goes on at `rip`, supervisor, interrupts off.
    pub fn start(&mut self, rip: u64) {
        self.return_through([rip, 0x10, 2, self.stack, 0x18]);
    }

    /// Goes on at `rip` as a user, interrupts on.
    pub fn start_user(&mut self, rip: u64) {
        self.return_through([rip, 0x33, 0x202, USER_DATA + 0x1_0000, 0x2b]);
    }

    /// Goes on at an `iretq` of the supervisor's with `frame` on the stack, as a kernel does it.
    pub fn return_through(&mut self, frame: [u64; 5]) {
        self.return_through_at(self.interrupt_stack - 0x800, frame);
    }

    /// The same with the frame at `place`.
    pub fn return_through_at(&mut self, place: u64, frame: [u64; 5]) {
        for (n, word) in frame.iter().enumerate() {
            self.put(place + 8 * n as u64, *word);
        }
        let cpu = self.vcpu.cpu_mut();
        cpu.gpr[reg::RSP] = place;
        cpu.rip = RETURN;
    }

    /// Runs until something happens.
    pub fn run(&mut self) -> Stop {
        match self.vcpu.run() {
            Exit::PortOut { port: TRAP_PORT, .. } => Stop::Trap(self.trapped()),
            exit => Stop::Exit(exit),
        }
    }

    /// Runs to `hlt`.
    #[track_caller]
    pub fn run_to_halt(&mut self) {
        let stop = self.run();
        assert_eq!(stop, Stop::Exit(Exit::Halt), "at {:#x}", self.vcpu.rip());
    }

    /// Runs to an exception or interrupt.
    #[track_caller]
    pub fn run_to_trap(&mut self) -> Trapped {
        match self.run() {
            Stop::Trap(trapped) => trapped,
            Stop::Exit(exit) => panic!("{exit:?} at {:#x}, not a trap", self.vcpu.rip()),
        }
    }

    fn trapped(&self) -> Trapped {
        let word = |n: u64| self.get(self.vcpu.gpr(reg::RSP) + 8 * n);
        Trapped {
            vector: word(0),
            error_code: word(1),
            rip: word(2),
            cs: word(3),
            rflags: word(4),
            rsp: word(5),
            cr2: self.vcpu.cpu().cr2,
        }
    }

    /// Makes the handler that is running return to `rip`.
    pub fn return_to(&mut self, rip: u64) {
        self.put(self.vcpu.gpr(reg::RSP) + 16, rip);
    }

    /// Makes the handler that is running return with these flags.
    pub fn return_with_flags(&mut self, rflags: u64) {
        self.put(self.vcpu.gpr(reg::RSP) + 32, rflags);
    }

    /// Writes a word, as a device would.
    pub fn put(&self, address: u64, value: u64) {
        self.load(address, &value.to_le_bytes());
    }

    /// Reads a word.
    pub fn get(&self, address: u64) -> u64 {
        let mut bytes = [0; 8];
        assert!(self.ram.read(address, &mut bytes), "{address:#x} is RAM");
        u64::from_le_bytes(bytes)
    }

    /// Maps one page. The processor is not told: the Guest does that.
    pub fn map(&mut self, linear: u64, physical: u64, rights: u64) {
        let entry = self.entry(ROOT, linear);
        self.put(entry, physical | rights);
    }

    /// Place of the last entry for `linear` below `root`; tables are made on the way.
    pub fn entry(&mut self, root: u64, linear: u64) -> u64 {
        let mut table = root;
        for level in [39, 30, 21] {
            let place = table + (linear >> level & 511) * 8;
            if self.get(place) & P == 0 {
                let new = self.new_table();
                self.put(place, new | P | W | U);
            }
            table = self.get(place) & 0xf_ffff_ffff_f000;
        }
        table + (linear >> 12 & 511) * 8
    }

    /// An empty page for a page table.
    pub fn new_table(&mut self) -> u64 {
        let new = self.next_table;
        self.next_table += PAGE;
        assert!(self.next_table <= TABLES_END, "the page tables fit");
        self.load(new, &[0; PAGE as usize]);
        new
    }

    /// The descriptor tables and the task state (SDM vol. 3, 3.4.5, 6.14.1, 8.2.3), in Linux' order.
    fn lay_descriptors(&self) {
        let descriptors = [
            0,
            0,
            0x00af_9b00_0000_ffff,
            0x00cf_9300_0000_ffff,
            0,
            0x00cf_f300_0000_ffff,
            0x00af_fb00_0000_ffff,
            0,
            0x67 | TSS << 16 | 0x89 << 40,
            0,
            0x67 | SECOND_TSS << 16 | 0x89 << 40,
            0,
        ];
        for (n, descriptor) in descriptors.into_iter().enumerate() {
            self.put(GDT + 8 * n as u64, descriptor);
        }
        for (task, top) in [(TSS, INTERRUPT_STACK), (SECOND_TSS, SECOND_INTERRUPT_STACK)] {
            self.put(task + 4, RSP0);
            self.put(task + 0x24, top);
            // No port bitmap: ports are the supervisor's (SDM vol. 1, 19.5.2).
            self.load(task + 0x66, &0x68u16.to_le_bytes());
        }
        for vector in 0..256 {
            let gate = GATES + 16 * vector;
            // Interrupt gates on stack 1; `int3` is the user's to raise.
            let rights: u64 = if vector == 3 { 0xee01 } else { 0x8e01 };
            self.put(IDT + vector * 16, gate & 0xffff | 0x10 << 16 | rights << 32 | (gate >> 16) << 48);
            self.put(IDT + vector * 16 + 8, 0);
        }
    }

    fn lay_handlers(&self) {
        self.load(IDTR, &0xfffu16.to_le_bytes());
        self.put(IDTR + 2, IDT);
        for vector in 0..256u64 {
            let place = GATES + 16 * vector;
            // Those that push an error code themselves: #DF, #TS, #NP, #SS, #GP, #PF, #AC, #CP.
            let coded = matches!(vector, 8 | 10..=14 | 17 | 21);
            let mut code = if coded { vec![] } else { vec![0x6a, 0] };
            code.push(0x68);
            code.extend((vector as u32).to_le_bytes());
            code.push(0xe9);
            let distance = COMMON as i64 - (place as i64 + code.len() as i64 + 4);
            code.extend((distance as i32).to_le_bytes());
            self.load(place, &code);
        }
        self.load(COMMON, &assembled!("out {port}, al", "add rsp, 16", "iretq"; port = TRAP_PORT));
        self.load(RETURN, &assembled!("iretq"));
        self.load(CALLED, &assembled!("ud2"));
        self.load(
            PROLOGUE,
            &assembled!(
                "mov rax, cr4",
                "or rax, 0x350680", // PGE, OSFXSR, OSXMMEXCPT, FSGSBASE, OSXSAVE, SMEP, SMAP
                "mov cr4, rax",
                "mov rax, cr0",
                "and rax, ~0xc", // EM, TS
                "or rax, 0x10022", // WP, NE, MP
                "mov cr0, rax",
                "mov ecx, 0xc0000080",
                "rdmsr",
                "or eax, 0x801", // NXE, SCE
                "wrmsr",
                "mov ecx, 0xc0000081", // STAR: supervisor from 0x10, user from 0x23
                "xor eax, eax",
                "mov edx, 0x230010",
                "wrmsr",
                "inc ecx", // LSTAR
                "mov eax, {called}",
                "xor edx, edx",
                "wrmsr",
                "mov ecx, 0xc0000084", // SFMASK: all that can be masked
                "mov eax, 0x257fd5",
                "wrmsr",
                "xor ecx, ecx",
                "mov eax, 7",
                "xor edx, edx",
                "xsetbv",
                "mov ebx, {idtr}",
                "lidt [rbx]",
                "mov eax, esi",
                "ltr ax",
                "fninit",
                "hlt"; idtr = IDTR, called = CALLED
            ),
        );
    }
}

/// RAM of `length` bytes from guest-physical 0.
pub fn ram(length: u64) -> Ram {
    let regions = vec![RamRegion { start: 0, length, offset: 0 }];
    Ram::new(&memory_file(length), length, regions).expect("memory can be mapped")
}

/// A file of `length` zeros in memory.
pub fn memory_file(length: u64) -> std::fs::File {
    // SAFETY: the name is a constant C string.
    let descriptor = unsafe { libc::memfd_create(c"kernel-test".as_ptr(), libc::MFD_CLOEXEC) };
    assert!(descriptor >= 0, "a memory file can be made");
    // SAFETY: the descriptor is fresh and belongs to nobody else.
    let file = unsafe { std::fs::File::from_raw_fd(descriptor) };
    file.set_len(length).expect("the memory file takes its length");
    file
}
