//! A hosted processor: privilege level 1 exactly as the manual has it, and every event left to the embedder.

use crate::machine::*;
use lguest_translator::cpu::translations::Invalidation;
use lguest_translator::events::deliver::Event;
use lguest_translator::events::exception::Exception;
use lguest_translator::{Exit, HandlerCall, HostedEntry, HostedPaging, Options, Ram, Vcpu};
use std::sync::Arc;

pub const CODE: u64 = 0x10_0000;
pub const USER: u64 = 0x11_0000;
const STACK: u64 = 0xc000;
pub const DIRECTORY: u64 = 0x1_0000;
const TABLE: u64 = 0x1_1000;

/// Level 1 code and data at 12 and 13, level 3 at 14 and 15, as Linux' lguest has them; data with a base at 6.
fn descriptors() -> [u64; 32] {
    let mut table = [0; 32];
    table[6] = 0x0040_f302_0000_0fff;
    table[12] = 0x00cf_bb00_0000_ffff;
    table[13] = 0x00cf_b300_0000_ffff;
    table[14] = 0x00cf_fb00_0000_ffff;
    table[15] = 0x00cf_f300_0000_ffff;
    table
}

/// A hosted processor, its memory and its tables.
pub struct Hosted {
    ram: Arc<Ram>,
    pub vcpu: Vcpu,
}

impl Hosted {
    pub fn with(code: &[u8]) -> Hosted {
        let ram = Arc::new(ram(RAM_BYTES));
        let mut vcpu = Vcpu::new(ram.clone(), Options::default()).expect("a vCPU can be made");
        let entry = HostedEntry { eip: CODE as u32, table: descriptors(), code: 0x61, data: 0x69 };
        vcpu.begin_hosted(&entry).expect("its segments are there");
        vcpu.set_gpr(reg::RSP, STACK);
        let hosted = Hosted { ram, vcpu };
        hosted.load(CODE, code);
        // The first 4 MiB in pages of 4 KiB, the user's among them.
        hosted.put(DIRECTORY, TABLE | P | W | U);
        for page in 0..1024 {
            let user = if page >= USER >> 12 { U } else { 0 };
            hosted.put(TABLE + 4 * page, page << 12 | P | W | user);
        }
        hosted
    }

    pub fn load(&self, at: u64, bytes: &[u8]) {
        assert!(self.ram.write(at, bytes));
    }

    pub fn put(&self, at: u64, value: u64) {
        self.load(at, &(value as u32).to_le_bytes());
    }

    pub fn word(&self, at: u64) -> u64 {
        let mut bytes = [0; 4];
        assert!(self.ram.read(at, &mut bytes));
        u32::from_le_bytes(bytes).into()
    }

    pub fn paging(&mut self) {
        self.vcpu
            .load_page_tables(DIRECTORY as u32, HostedPaging::Narrow)
            .expect("tables of 32 bits have no rules");
    }

    /// Runs to the next event.
    #[track_caller]
    pub fn event(&mut self) -> Event {
        match self.vcpu.run() {
            Exit::Event(event) => event,
            other => panic!("{other:?} at {:#x}", self.vcpu.rip()),
        }
    }

    #[track_caller]
    pub fn exception(&mut self) -> Exception {
        match self.event() {
            Event::Exception(exception) => exception,
            other => panic!("{other:?} at {:#x}", self.vcpu.rip()),
        }
    }

    /// Runs to the next exception, or to an `int n` and past it: its number.
    #[track_caller]
    pub fn exception_or_call(&mut self) -> Result<Exception, u8> {
        match self.event() {
            Event::Exception(exception) => Ok(exception),
            Event::Software { vector, next_rip } => {
                self.vcpu.set_rip(next_rip);
                Err(vector)
            }
            other => panic!("{other:?} at {:#x}", self.vcpu.rip()),
        }
    }

    /// Runs to an `int n`, and past it.
    #[track_caller]
    pub fn call(&mut self) -> u8 {
        match self.event() {
            Event::Software { vector, next_rip } => {
                self.vcpu.set_rip(next_rip);
                vector
            }
            other => panic!("{other:?} at {:#x}", self.vcpu.rip()),
        }
    }
}

/// Machine code of one instruction that level 1 may not carry out, by name.
fn privileged() -> Vec<(&'static str, Vec<u8>)> {
    macro_rules! each {
        ($($line:literal),+) => { vec![$(($line, assembled!(".code32", $line, ".code64"))),+] };
    }
    each!(
        "cli",
        "sti",
        "hlt",
        "clts",
        "invd",
        "wbinvd",
        "rdmsr",
        "wrmsr",
        "in al, 0x21",
        "in eax, dx",
        "out dx, ax",
        "out 0x80, al",
        "insb",
        "outsd",
        "lgdt [esp]",
        "lidt [esp]",
        "lldt ax",
        "ltr ax",
        "lmsw ax",
        "invlpg [esp]",
        "mov eax, cr0",
        "mov eax, cr2",
        "mov cr3, eax",
        "mov eax, cr4",
        "mov eax, dr7",
        "mov dr0, eax",
        "rdpmc",
        "sysexit",
        "sysenter",
        "xsetbv"
    )
}

#[test]
fn every_privileged_instruction_is_a_general_protection_fault_at_level_1() {
    for (name, bytes) in privileged() {
        if name == "xsetbv" {
            continue; // CR4.OSXSAVE is clear: #UD, below.
        }
        let mut hosted = Hosted::with(&bytes);
        assert_eq!(hosted.exception(), Exception::gp(0), "{name}");
        assert_eq!(hosted.vcpu.rip(), CODE, "{name} was not carried out");
    }
    for line in [
        assembled!(".code32", "stac", ".code64"),
        assembled!(".code32", "syscall", ".code64"),
        assembled!(".code32", ".byte 0x0f, 0x07", ".code64"),
        assembled!(".code32", "vmmcall", ".code64"),
        assembled!(".code32", "xsetbv", ".code64"),
        assembled!(".code32", "ud2", ".code64"),
    ] {
        assert_eq!(Hosted::with(&line).exception(), Exception::ud(), "{line:x?}");
    }
}

#[test]
fn popf_and_iret_leave_the_interrupt_flag_alone_and_say_nothing() {
    // SDM vol. 2, POPF, table 4-18; IRET.
    let mut hosted = Hosted::with(&assembled!(
        ".code32",
        "push 0",
        "popfd",
        "pushfd",
        "pop ebx",
        "push 0x3cd5", // IOPL 3, no IF
        "push 0x61",
        "mov eax, 0x100100",
        "push eax",
        "iretd",
        ".skip 0x100 - (. - 771b)",
        "pushfd",
        "pop ecx",
        "mov edx, cs",
        "int 0x1f",
        ".code64"
    ));
    assert_eq!(hosted.call(), 0x1f);
    assert_eq!(hosted.vcpu.gpr(reg::RBX), 0x202);
    assert_eq!(hosted.vcpu.gpr(reg::RCX), 0x0ed7, "arithmetic, TF off, DF and IF; IOPL 0");
    assert_eq!((hosted.vcpu.gpr(reg::RDX), hosted.vcpu.gpr(reg::RSP)), (0x61, STACK));
}

#[test]
fn what_anybody_may_do_level_1_does_without_an_exit() {
    let mut hosted = Hosted::with(&assembled!(
        ".code32",
        "xor eax, eax",
        "cpuid",
        "mov ebp, ebx",
        "rdtsc",
        "fninit",
        "fxsave [0x200000]",
        "fxrstor [0x200000]",
        "movd xmm0, ebp",
        "lar ecx, dx",
        "mov edx, 0x7b",
        "lsl edi, edx",
        "std",
        "cld",
        "sgdt [0x200100]",
        "smsw ax",
        "vmcall",
        ".code64"
    ));
    assert_eq!(hosted.vcpu.run(), Exit::Hypercall, "at {:#x}", hosted.vcpu.rip());
    assert_eq!(hosted.vcpu.gpr(reg::RDI), 0xffff_ffff);
    assert_ne!(hosted.vcpu.gpr(5), 0, "the vendor's name");
    let end = hosted.vcpu.rip() as usize;
    assert_eq!(&hosted.vcpu.instruction_bytes()[..2], &[0, 0], "{end:#x}");
}

/// The handler of a user's trap, on the inner stack, that returns to `next_rip`.
fn handler_call(next_rip: u64) -> HandlerCall {
    HandlerCall {
        code: 0x61,
        eip: CODE as u32 + 0x100,
        stack: Some((0x69, 0xb000)),
        flags: 0x246,
        return_address: next_rip as u32,
        error_code: None,
    }
}

#[test]
fn a_users_trap_arrives_on_the_inner_stack_and_iret_goes_back_to_it() {
    let mut hosted = Hosted::with(&assembled!(
        ".code32",
        "mov eax, 0x33", // what the user may not keep
        "mov ebx, 0x69",
        "mov fs, ebx",
        "push 0x7b",
        "push 0x3f0000",
        "push 0x202",
        "push 0x73",
        "push 0x110000",
        "iretd",
        ".skip 0x100 - (. - 771b)",
        "add eax, 35",
        "iretd",
        ".code64"
    ));
    hosted.load(
        USER,
        &assembled!(".code32", "mov edi, fs", "mov eax, 7", "int 0x80", "mov ebx, eax", "cli", ".code64"),
    );
    hosted.paging();
    let Event::Software { vector: 0x80, next_rip } = hosted.event() else { panic!("int 0x80") };
    assert_eq!((hosted.vcpu.rip(), hosted.vcpu.cpu().cpl), (next_rip - 2, 3));
    let call = handler_call(next_rip);
    hosted.vcpu.call_handler(&call).expect("the stack is there");
    assert_eq!(hosted.vcpu.cpu().cpl, 1);
    let frame: Vec<u64> = (0..5).map(|n| hosted.word(0xb000 - 20 + 4 * n)).collect();
    assert_eq!(frame, [next_rip, 0x73, 0x246, 0x3f_0000, 0x7b]);
    assert_eq!(hosted.exception(), Exception::gp(0), "the user's cli");
    assert_eq!((hosted.vcpu.gpr(reg::RBX), hosted.vcpu.gpr(reg::RDI)), (42, 0), "fs was level 1's");
    assert_eq!((hosted.vcpu.cpu().cpl, hosted.vcpu.gpr(reg::RSP)), (3, 0x3f_0000));
}

#[test]
fn level_1_heeds_write_protection_and_marks_pages_as_a_supervisor() {
    for wide in [false, true] {
        let mut hosted = Hosted::with(&assembled!(
            ".code32",
            "mov eax, [0x200000]", // a page without the user bit: the supervisor's
            "mov dword ptr [0x201000], 1",
            "mov dword ptr [0x202000], 2", // read-only
            "int 0x1f",
            ".code64"
        ));
        let (entry, size) = if wide { (0x1_4000, 8) } else { (TABLE, 4) };
        if wide {
            hosted.load(0x1_2000, &(0x1_3000u64 | P).to_le_bytes());
            hosted.load(0x1_3000, &(0x1_4000u64 | P | W | U).to_le_bytes());
            hosted.load(0x1_3008, &(0x1_5000u64 | P | W | U).to_le_bytes());
            for page in 0..1024u64 {
                hosted.load(0x1_4000 + 8 * page, &(page << 12 | P | W).to_le_bytes());
            }
        }
        let page = |n: u64| entry + size * n;
        hosted.put(page(0x200), 0x20_0000 | P);
        hosted.put(page(0x202), 0x20_2000 | P);
        let (root, paging) =
            if wide { (0x1_2000, HostedPaging::Wide) } else { (DIRECTORY as u32, HostedPaging::Narrow) };
        hosted.vcpu.load_page_tables(root, paging).expect("its pointers are in order");
        let fault = hosted.exception();
        assert_eq!(fault, Exception::pf(0x20_2000, 3), "present, write, not the user's");
        assert_eq!(hosted.word(page(0x200)) & 0xfff, P | A);
        assert_eq!(hosted.word(page(0x201)) & 0xfff & !U, P | W | A | D);
        hosted.put(page(0x202), 0x20_2000 | P | W);
        hosted.vcpu.forget_translations(Invalidation::Page { address: 0x20_2000, pcid: 0, global_too: true });
        assert_eq!(hosted.call(), 0x1f, "the instruction was tried again");
        assert_eq!(hosted.word(0x20_2000), 2);
    }
}

#[test]
fn nothing_is_mapped_above_the_ceiling_whatever_the_tables_say() {
    let mut hosted =
        Hosted::with(&assembled!(".code32", "mov eax, [0xffbffffc]", "mov eax, [0xffc00000]", ".code64"));
    hosted.put(DIRECTORY + 4 * 1022, TABLE | P | W);
    hosted.put(DIRECTORY + 4 * 1023, TABLE | P | W);
    hosted.paging();
    hosted.vcpu.set_ceiling(0xffc0_0000);
    assert_eq!(hosted.exception(), Exception::pf(0xffc0_0000, 0));
}

#[test]
fn a_segment_is_loaded_from_the_embedders_table_with_all_checks() {
    let mut hosted = Hosted::with(&assembled!(
        ".code32",
        "mov eax, 0x33",
        "mov gs, eax",
        "mov dword ptr gs:[0xffc], 0x11223344",
        "mov eax, 0x3b",
        "mov gs, eax",
        "int 0x1f",
        ".code64"
    ));
    assert_eq!(hosted.exception(), Exception::gp(0x38), "slot 7 is empty");
    assert_eq!(hosted.word(0x2_0ffc), 0x1122_3344);
    hosted.vcpu.set_descriptor(7, 0x0040_f304_0000_0fff);
    assert_eq!(hosted.call(), 0x1f);
    assert_eq!(hosted.vcpu.cpu().segments[5].base, 0x4_0000);
}

#[test]
fn the_task_switched_flag_makes_floating_point_not_available() {
    let codes = [
        assembled!(".code32", "2: fnop", "movd xmm0, eax", "int 0x1f", "jmp 2b", ".code64"),
        assembled!(".code32", "2: fwait", "int 0x1f", "jmp 2b", ".code64"),
    ];
    for code in codes {
        let mut hosted = Hosted::with(&code);
        for _ in 0..3 {
            assert_eq!(hosted.call(), 0x1f);
            hosted.vcpu.set_task_switched(true);
            assert_eq!(hosted.exception(), Exception::nm());
            hosted.vcpu.set_task_switched(false);
        }
    }
}

#[test]
fn a_handlers_frame_that_cannot_be_pushed_changes_nothing() {
    let mut hosted = Hosted::with(&assembled!(".code32", "int 0x1f", ".code64"));
    hosted.paging();
    assert_eq!(hosted.call(), 0x1f);
    let before = hosted.vcpu.cpu().clone();
    let call =
        HandlerCall { code: 0x61, eip: 0, stack: None, flags: 2, return_address: 0, error_code: Some(5) };
    hosted.vcpu.set_gpr(reg::RSP, 0x40_0008);
    let refused = hosted.vcpu.call_handler(&call).expect_err("nothing is mapped there");
    assert_eq!((refused.vector, refused.cr2), (14, Some(0x40_0004)));
    hosted.vcpu.set_gpr(reg::RSP, before.gpr[reg::RSP]);
    assert_eq!(*hosted.vcpu.cpu(), before);
    let wrong = HandlerCall { code: 0x73, ..call };
    assert!(hosted.vcpu.call_handler(&wrong).is_err(), "no handler runs at a level farther out");
}

#[test]
fn a_segment_that_is_loaded_again_is_what_its_descriptor_says_now() {
    let mut hosted = Hosted::with(&assembled!(
        ".code32",
        "mov eax, 0x33",
        "mov gs, eax",
        "2: mov ebx, gs:[0]",
        "int 0x1f",
        "stc",
        "mov gs, eax",
        "push gs",
        "pop es",
        "push gs",
        "pop es",
        "adc ecx, 0",
        "mov edx, es:[0]",
        "pushfd",
        "jmp 2b",
        ".code64"
    ));
    hosted.put(0x2_0000, 5);
    hosted.put(0x3_0000, 6);
    // Of each turn: the words that gs and es showed, and the base that the descriptor has from then on.
    for (turn, (shown, base)) in (0..).zip([(5, 2), (5, 3), (6, 3), (6, 2)]) {
        assert_eq!(hosted.call(), 0x1f);
        let found = [reg::RBX, reg::RCX].map(|register| hosted.vcpu.gpr(register));
        assert_eq!(found, [shown, turn], "turn {turn}");
        assert!(turn == 0 || hosted.vcpu.gpr(reg::RDX) == shown, "turn {turn}");
        assert_eq!(hosted.vcpu.gpr(reg::RSP), STACK - 4 * turn);
        hosted.vcpu.set_descriptor(6, 0x0040_f300_0000_0fff | base << 32);
    }
    // One that is not there any more faults, with nothing done.
    hosted.vcpu.set_descriptor(6, 0);
    assert_eq!(hosted.exception(), Exception::gp(0x30));
    assert_eq!(hosted.vcpu.gpr(reg::RCX), 3);
}

#[test]
fn a_segment_that_a_return_took_away_is_loaded_anew() {
    // The user comes back with what the kernel had in ds taken from it, and the kernel loads the same selector as before.
    let mut hosted = Hosted::with(&assembled!(
        ".code32",
        "mov eax, 0x69",
        "mov ds, eax",
        "mov ds, eax",
        "push 0x7b",
        "push 0x3f0000",
        "push 0x202",
        "push 0x73",
        "push 0x110000",
        "iretd",
        ".skip 0x100 - (. - 771b)",
        "mov ecx, ds",
        "mov eax, 0x69",
        "mov ds, eax",
        "mov edx, [0x200000]",
        "mov ds, eax",
        "int 0x1f",
        ".code64"
    ));
    hosted.load(USER, &assembled!(".code32", "int 0x80", ".code64"));
    hosted.put(0x20_0000, 77);
    hosted.paging();
    let Event::Software { vector: 0x80, next_rip } = hosted.event() else { panic!("int 0x80") };
    let call = handler_call(next_rip);
    hosted.vcpu.call_handler(&call).expect("the stack is there");
    assert_eq!(hosted.call(), 0x1f);
    assert_eq!((hosted.vcpu.gpr(reg::RCX), hosted.vcpu.gpr(reg::RDX)), (0, 77));
}

#[test]
fn a_bit_string_of_32_bit_code_wraps_where_addresses_do() {
    // Words before and behind its address; one whose sum wraps; the carry is the bit.
    let mut hosted = Hosted::with(&assembled!(
        ".code32",
        "mov ebx, 0x200000",
        "mov eax, -32",
        "bts [ebx], eax",
        "mov eax, 65",
        "lock btc [ebx + 4], eax",
        "mov ebx, 0xfffffffc",
        "mov eax, 0x1000020", // 4 + 0x200000 bytes on
        "bt [ebx], eax",
        "setc cl",
        "int 0x1f",
        ".code64"
    ));
    hosted.put(0x20_0000, 1);
    hosted.paging();
    assert_eq!(hosted.call(), 0x1f);
    assert_eq!([hosted.word(0x1f_fffc), hosted.word(0x20_000c)], [1, 2]);
    assert_eq!(hosted.vcpu.gpr(reg::RCX) & 1, 1);
}
