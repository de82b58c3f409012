//! Stack accesses skip the check for page ends because an aligned one cannot cross. So: every way to a stack pointer that
//! is not aligned, at the end of the Guest's last page of memory, with the host's bytes right behind.

use crate::machine::*;
use crate::surrounded::Surrounded;

/// Where the Guest's last page of memory is seen; nothing is mapped behind it.
const LAST: u64 = 0xffff_a000_0000_0000;
/// And its first, with nothing before it.
const FIRST: u64 = 0xffff_b000_0000_0000;

/// Ways to put rbx into rsp.
fn ways() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("mov", assembled!("mov rsp, rbx")),
        ("lea", assembled!("lea rsp, [rbx]")),
        ("xchg", assembled!("xchg rsp, rbx")),
        ("add", assembled!("xor esp, esp", "add rsp, rbx")),
        ("or", assembled!("xor esp, esp", "or rsp, rbx")),
        ("cmov", assembled!("test ebx, ebx", "cmovz rsp, rbx", "cmovnz rsp, rbx")),
        ("pop", assembled!("push rbx", "pop rsp")),
        ("load", assembled!("push rbx", "mov rsp, [rsp]")),
        ("low byte", assembled!("mov rsp, rbx", "and rsp, -8", "mov spl, bl")),
        ("low word", assembled!("mov rsp, rbx", "and rsp, -8", "mov sp, bx")),
        (
            "leave",
            assembled!(
                "lea rbp, [rbx - 8]",
                "and rbp, -8",
                "mov ecx, ebx",
                "and ecx, 7",
                "mov rsp, rbp",
                "add rsp, rcx",
                "add rsp, 8"
            ),
        ),
        ("inc", assembled!("lea rsp, [rbx - 1]", "inc rsp")),
        ("bswap", assembled!("mov rsp, rbx", "bswap rsp", "bswap rsp")),
        ("imul", assembled!("imul rsp, rbx, 1")),
        ("sarx", assembled!("xor ecx, ecx", "sarx rsp, rbx, rcx")),
        ("vmovq", assembled!("vmovq xmm0, rbx", "vmovq rsp, xmm0")),
        ("xadd", assembled!("xor esp, esp", "xadd rsp, rbx")),
        ("cmpxchg", assembled!("mov rax, rsp", "cmpxchg rsp, rbx")),
        ("bts", assembled!("mov rsp, rbx", "btr rsp, 0", "test bl, 1", "jz 2f", "bts rsp, 0", "2:")),
        (
            "iret",
            assembled!(
                "push 0x18",
                "push rbx",
                "pushfq",
                "push 0x10",
                "lea rax, [rip + 2f]",
                "push rax",
                "iretq",
                "2:"
            ),
        ),
        ("cr2", assembled!("mov cr2, rbx", "mov rsp, cr2")),
        ("enter", assembled!("lea rsp, [rbx + 8]", "enter 0, 0")),
    ]
}

/// What is done there.
fn accesses() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("push", assembled!("push rax", "int3")),
        ("pop", assembled!("pop rax", "pop rcx", "int3")),
        ("call", assembled!("call 2f", "2:", "int3")),
        ("ret", assembled!("ret")),
        ("load", assembled!("mov rax, [rsp]", "mov rcx, [rsp + 8]", "int3")),
        ("store", assembled!("mov [rsp], rax", "mov [rsp - 8], rax", "int3")),
        ("wide store", assembled!("vmovups [rsp], ymm0", "int3")),
        ("pushf", assembled!("pushfq", "popfq", "popfq", "int3")),
        (
            "in a loop",
            assembled!("mov ecx, 40", "2:", "push rax", "pop rax", "pop rax", "dec ecx", "jnz 2b", "int3"),
        ),
    ]
}

#[test]
fn no_ragged_stack_pointer_reaches_over_the_end_of_memory() {
    for (way, setting) in ways() {
        for (access, doing) in accesses() {
            let what = format!("rsp by {way}, then {access}");
            let mut guest = Surrounded::new();
            guest.machine.map(LAST, RAM_BYTES - 4096, P | W);
            guest.machine.map(FIRST, 0, P | W);
            let code = [setting.as_slice(), &doing].concat();
            let place = guest.machine.load_anew(CODE, &code);
            for address in (LAST + 4096 - 16..LAST + 4096 + 9).chain(FIRST - 8..FIRST + 9) {
                // Once aligned first: the unit that is made for that must not serve the others.
                for address in [LAST + 0x800, address] {
                    guest.machine.start(place);
                    guest.machine.vcpu.set_gpr(reg::RBX, address);
                    guest.run(&what);
                    guest.assert_untouched(&what);
                }
            }
        }
    }
}

#[test]
fn operands_of_every_size_stop_at_the_end_of_memory() {
    let operations = [
        assembled!("mov ax, [rbx]", "mov [rbx], ax", "int3"),
        assembled!("mov eax, [rbx]", "mov [rbx], eax", "int3"),
        assembled!("mov rax, [rbx]", "mov [rbx], rax", "int3"),
        assembled!("fstp tbyte ptr [rbx]", "fld tbyte ptr [rbx]", "int3"),
        assembled!("movups xmm0, [rbx]", "movups [rbx], xmm0", "int3"),
        assembled!("vmovups ymm0, [rbx]", "vmovups [rbx], ymm0", "int3"),
        assembled!("movsxd rax, dword ptr [rbx]", ".byte 0x66, 0x63, 0x03", "int3"),
        assembled!("vbroadcastf128 ymm1, [rbx]", "vpmovzxbq ymm2, [rbx]", "int3"),
        assembled!("fbstp [rbx]", "fbld [rbx]", "int3"),
        assembled!("fldenv [rbx]", "int3"),
        assembled!("frstor [rbx]", "int3"),
        assembled!("mov rdi, rbx", "mov ecx, 64", "rep stosb", "int3"),
        assembled!("mov rsi, rbx", "mov rdi, {data}", "mov ecx, 64", "rep movsb", "int3"; data = DATA),
        assembled!("mov rdi, rbx", "mov ecx, 0x40000001", "rep stosd", "int3"),
        assembled!("mov rdi, rbx", "mov rcx, 0x2000000000000001", "rep stosq", "int3"),
        assembled!("pinsrq xmm0, [rbx], 1", "pextrq [rbx], xmm0, 1", "movhps [rbx], xmm0", "int3"),
        assembled!("cmpxchg8b [rbx]", "int3"),
        assembled!("lock cmpxchg16b [rbx]", "int3"),
        assembled!("crc32 rax, qword ptr [rbx]", "popcnt rax, [rbx]", "movbe [rbx], rax", "int3"),
    ];
    for (n, code) in operations.iter().enumerate() {
        let what = format!("operation {n}");
        let mut guest = Surrounded::new();
        guest.machine.map(LAST, RAM_BYTES - 4096, P | W);
        // Behind the last page of memory comes one that is none: an access that crosses is played by hand.
        guest.machine.map(LAST + 4096, RAM_BYTES, P | W);
        let place = guest.machine.load_anew(CODE, code);
        for address in LAST + 4096 - 130..LAST + 4096 {
            guest.machine.start(place);
            guest.machine.vcpu.set_gpr(reg::RBX, address);
            if guest.run(&what).is_none() {
                guest = Surrounded::new();
                guest.machine.map(LAST, RAM_BYTES - 4096, P | W);
                guest.machine.map(LAST + 4096, RAM_BYTES, P | W);
                guest.machine.load_anew(CODE, code);
            }
            guest.assert_untouched(&what);
        }
    }
}
