//! Wild addresses, by every form of operand: not canonical, around 2^64, the host's own, and aliases of mapped pages.

use crate::machine::*;
use crate::surrounded::Surrounded;

/// A form of access: its name and the code, which finds the address in rbx and in r10.
fn forms() -> Vec<(&'static str, Vec<u8>)> {
    let mut forms = loads_and_stores();
    forms.extend(strings_and_areas());
    forms.extend(flows());
    forms
}

fn loads_and_stores() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("load", assembled!("mov rax, [rbx]", "int3")),
        ("store", assembled!("mov [rbx], rax", "int3")),
        ("byte store", assembled!("mov [rbx], al", "int3")),
        ("short displacement", assembled!("mov rax, [rbx + 0x7f]", "mov [rbx - 0x80], rax", "int3")),
        (
            "long displacement",
            assembled!("lea rcx, [rbx - 0x7fffffff]", "mov [rcx + 0x7fffffff], rax", "int3"),
        ),
        ("scaled index", assembled!("xor ecx, ecx", "mov [rbx + rcx * 8], rax", "int3")),
        (
            "index that overflows",
            assembled!(
                "mov rcx, rbx",
                "shr rcx, 3",
                "mov rdx, rbx",
                "and edx, 7",
                "mov [rdx + rcx * 8], rax",
                "int3"
            ),
        ),
        (
            "registers without a home",
            assembled!("xor r11d, r11d", "mov r9, [r10 + r11 * 4]", "mov [r10 + r11], r9", "int3"),
        ),
        ("stack pointer as base", assembled!("mov rsp, rbx", "mov [rsp], rax", "mov rax, [rsp + 4]", "int3")),
        ("gs prefix", assembled!("mov rax, gs:[rbx]", "mov gs:[rbx], rax", "int3")),
        ("fs prefix", assembled!("mov fs:[r10], rax", "int3")),
        ("gs prefix without a register", assembled!("mov rax, gs:[0x1000]", "mov gs:[0x1000], rax", "int3")),
        ("32-bit address", assembled!("mov rax, [ebx]", "mov [ebx + 8], rax", "int3")),
        ("read and write", assembled!("lock xadd [rbx], rax", "int3")),
        ("sixteen bytes at once", assembled!("lock cmpxchg16b [rbx]", "int3")),
        ("vector", assembled!("vmovups ymm3, [rbx]", "vmovups [rbx], ymm3", "int3")),
        (
            "masked vector",
            assembled!(
                "vpcmpeqd ymm1, ymm1, ymm1",
                "vmaskmovps ymm2, ymm1, [rbx]",
                "vmaskmovps [rbx], ymm1, ymm2",
                "int3"
            ),
        ),
        (
            "gather",
            assembled!(
                "vpcmpeqd ymm1, ymm1, ymm1",
                "vpxor ymm2, ymm2, ymm2",
                "vpgatherqq ymm3, [rbx + ymm2], ymm1",
                "int3"
            ),
        ),
        ("masked bytes", assembled!("pcmpeqb xmm1, xmm1", "mov rdi, rbx", "maskmovdqu xmm2, xmm1", "int3")),
        ("ten bytes", assembled!("fld1", "fstp tbyte ptr [rbx]", "fld tbyte ptr [rbx]", "int3")),
        ("bit string", assembled!("xor ecx, ecx", "bts qword ptr [rbx], rcx", "int3")),
        (
            "bit string with a far bit",
            assembled!(
                "xor edx, edx",
                "mov rcx, rbx",
                "shr rcx, 3",
                "bts qword ptr [rdx], rcx",
                "bts dword ptr [rbx], ecx",
                "int3"
            ),
        ),
    ]
}

fn strings_and_areas() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        (
            "rep movs to it",
            assembled!("mov rdi, rbx", "mov esi, {data}", "mov ecx, 64", "rep movsq", "int3"; data = DATA),
        ),
        (
            "rep movs from it",
            assembled!("mov rsi, rbx", "mov edi, {data}", "mov ecx, 4096", "rep movsb", "int3"; data = DATA),
        ),
        ("rep stos", assembled!("mov rdi, rbx", "mov ecx, 512", "rep stosq", "int3")),
        ("a huge rep stos", assembled!("mov rdi, rbx", "mov rcx, -1", "rep stosb", "int3")),
        ("rep stos downward", assembled!("std", "mov rdi, rbx", "mov ecx, 512", "rep stosq", "cld", "int3")),
        ("lods", assembled!("mov rsi, rbx", "lodsq", "int3")),
        ("scas", assembled!("mov rdi, rbx", "mov ecx, 9", "repne scasb", "int3")),
        ("cmps", assembled!("mov rdi, rbx", "mov rsi, rbx", "mov ecx, 9", "repe cmpsq", "int3")),
        ("outs", assembled!("mov rsi, rbx", "mov edx, 0x80", "mov ecx, 4", "rep outsd", "int3")),
        ("ins", assembled!("mov rdi, rbx", "mov edx, 0x80", "mov ecx, 4", "rep insd", "int3")),
        ("xlat", assembled!("xor eax, eax", "xlatb", "int3")),
        ("fxsave", assembled!("fxsave [rbx]", "int3")),
        ("fxrstor", assembled!("fxrstor [rbx]", "int3")),
        ("xsave", assembled!("mov eax, -1", "mov edx, -1", "xsave [rbx]", "int3")),
        ("xrstor", assembled!("mov eax, -1", "mov edx, -1", "xrstor [rbx]", "int3")),
        ("fnsave", assembled!("fnsave [rbx]", "frstor [rbx]", "int3")),
        ("fldenv", assembled!("fldenv [rbx]", "int3")),
        ("sgdt", assembled!("sgdt [rbx]", "int3")),
        ("lgdt", assembled!("lgdt [rbx]", "int3")),
        ("verr", assembled!("verr word ptr [rbx]", "int3")),
        ("ltr", assembled!("ltr word ptr [rbx]", "int3")),
        ("invlpg", assembled!("invlpg [rbx]", "clflush [rbx]", "int3")),
        ("stmxcsr", assembled!("stmxcsr [rbx]", "ldmxcsr [rbx]", "int3")),
    ]
}

fn flows() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("push", assembled!("mov rsp, rbx", "push rax", "int3")),
        ("push of an operand", assembled!("push qword ptr [rbx]", "int3")),
        ("pop", assembled!("mov rsp, rbx", "pop rax", "int3")),
        ("pop to an operand", assembled!("pop qword ptr [rbx]", "int3")),
        ("pushf and popf", assembled!("mov rsp, rbx", "pushfq", "popfq", "int3")),
        ("call", assembled!("mov rsp, rbx", "call 2f", "2:", "int3")),
        ("call through it", assembled!("call [rbx]", "int3")),
        ("jump through it", assembled!("jmp [rbx]", "int3")),
        ("jump to it", assembled!("jmp rbx")),
        ("call of it", assembled!("call r10")),
        ("far call through it", assembled!("rex64 call fword ptr [rbx]", "int3")),
        ("ret", assembled!("mov rsp, rbx", "ret")),
        ("ret to it", assembled!("push rbx", "ret")),
        ("leave", assembled!("mov rbp, rbx", "leave", "int3")),
        ("enter", assembled!("mov rsp, rbx", "mov rbp, rbx", "enter 16, 3", "int3")),
        ("iret from it", assembled!("mov rsp, rbx", "iretq")),
        (
            "iret to it",
            assembled!("mov ax, ss", "push rax", "push rsp", "pushfq", "push 0x10", "push rbx", "iretq"),
        ),
        (
            "iret to its stack",
            assembled!(
                "push 0x18",
                "push rbx",
                "pushfq",
                "push 0x10",
                "lea rax, [rip + 2f]",
                "push rax",
                "iretq",
                "2:",
                "push rax",
                "int3"
            ),
        ),
        ("sysret to it", assembled!("mov rcx, rbx", "mov r11d, 2", "sysretq")),
    ]
}

/// Addresses that are interesting whatever is mapped: edges of the canonical halves, of the address space, of page 0, and
/// aliases of a mapped page that differ in bits above 47.
fn wild() -> Vec<u64> {
    let mut all = vec![
        0x7fff_ffff_fff9,
        0x8000_0000_0000,
        0x8000_0000_0000 - 1,
        0xffff_7fff_ffff_fff8,
        0xffff_7fff_ffff_ffff,
        0xffff_8000_0000_0000,
        0xffff_8000_0000_0000 - 4,
        u64::MAX,
        u64::MAX - 3,
        u64::MAX - 7,
        u64::MAX - 31,
        u64::MAX - 4095,
        RAM_BYTES - 1,
        RAM_BYTES - 4,
        RAM_BYTES,
        RAM_BYTES + 0x8000,
        0xffff_ffff,
        0x1_0000_0000 - 4,
    ];
    for bit in 47..64 {
        all.push(DATA ^ 1 << bit);
        all.push(DATA.wrapping_add(u64::MAX << bit));
        all.push((RAM_BYTES - 4) ^ 1 << bit);
    }
    all
}

/// Beginnings, ends and middles of what this process has mapped: frames, tables, code, stacks, the program itself.
fn mapped_by_the_host() -> Vec<u64> {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("Linux tells");
    let ranges = maps.lines().filter_map(|line| {
        let (start, end) = line.split_whitespace().next()?.split_once('-')?;
        Some((u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?))
    });
    ranges.flat_map(|(start, end)| [start, (start / 2 + end / 2) & !15, end - 8]).collect()
}

fn attack(addresses: &[u64]) {
    for (name, code) in forms() {
        let mut guest = Surrounded::new();
        let place = guest.machine.load_anew(CODE, &code);
        for &address in addresses {
            let what = format!("{name} at {address:#x}");
            guest.machine.start(place);
            for register in [reg::RBX, 10] {
                guest.machine.vcpu.set_gpr(register, address);
            }
            for register in [reg::RAX, reg::RCX, reg::RDX] {
                guest.machine.vcpu.set_gpr(register, 0x5151_5151_5151_5151);
            }
            let trapped = guest.run(&what);
            guest.assert_untouched(&what);
            if trapped.is_none() {
                // It died, or wrote over its own handlers: a new life for the next attempt.
                guest = Surrounded::new();
                guest.machine.load_anew(CODE, &code);
            }
        }
        guest.assert_nothing_stolen(name);
    }
}

#[test]
fn no_form_of_access_reaches_the_host_by_a_wild_address() {
    attack(&wild());
}

#[test]
fn no_form_of_access_reaches_the_host_by_its_own_addresses() {
    attack(&mapped_by_the_host());
}

#[test]
fn a_host_address_is_a_page_fault_at_that_address() {
    // Not merely something harmless: what the processor of this Guest would do.
    let mut guest = Surrounded::new();
    let place = guest.machine.load_anew(CODE, &assembled!("mov [rbx], rax", "int3"));
    for address in mapped_by_the_host() {
        if address >> 47 != 0 || address < 1 << 32 {
            continue;
        }
        guest.machine.start(place);
        guest.machine.vcpu.set_gpr(reg::RBX, address);
        let trapped = guest.machine.run_to_trap();
        assert_eq!((trapped.vector, trapped.cr2), (14, address));
    }
}

#[test]
fn code_that_ends_the_address_space_does_not_run_on_into_the_host() {
    // The last instruction is relative to the address behind it, which is 0 or not canonical.
    for (page, name) in [(0xffff_ffff_ffff_f000, "the top"), (0x7fff_ffff_f000, "the canonical half's end")] {
        for code in [
            assembled!("mov rax, [rip]"),
            assembled!("mov [rip - 0x1000], rax"),
            assembled!("call 2f", "2:"),
            assembled!("nop"),
            assembled!("lea rax, [rip + 2]", "jmp rax"),
        ] {
            let mut guest = Surrounded::new();
            let start = 4096 - code.len() as u64;
            guest.machine.load(DATA + start, &code);
            guest.machine.map(page, DATA, P | W);
            // Where the address space goes on at 0, nothing is.
            guest.machine.map(0, 0, 0);
            guest.machine.start(page + start);
            assert!(guest.run(name).is_some(), "{name}: the Guest gets an exception");
            guest.assert_nothing_stolen(name);
        }
    }
}
