//! What happens at a vector.
//!
//! An interrupt sets a bit and ends: whoever waits looks at the bits when it is ready, with interrupts off. So no driver
//! ever runs in the middle of another, and no lock exists in this kernel. An exception is a mistake of the kernel, and
//! the last thing that happens.

use core::arch::global_asm;
use core::sync::atomic::{AtomicU32, Ordering};

use lguest_abi::meeting::{FIRST_VECTOR, Irq};

use super::instructions::port_out;

/// Vectors with a gate: the processor's 32, and the bus's 32.
pub(super) const VECTORS: usize = 64;
/// Bytes of one stub in the table of stubs.
const STUB_SIZE: u64 = 16;
/// x2APIC's end-of-interrupt register.
const EOI: u32 = 0x80b;

/// One bit an irq that came and was not looked at.
#[unsafe(no_mangle)]
static PENDING_IRQS: AtomicU32 = AtomicU32::new(0);

macro_rules! stubs {
    ($($vector:literal)*) => {
        global_asm!(
            ".balign 16",
            "interrupt_stubs:",
            $(concat!(".balign 16\n push ", $vector, "\n jmp interrupt_entry"),)*
        );
    };
}

stubs!(
    0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31
    32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60 61 62 63
);

global_asm!(
    "interrupt_entry:",
    "cmp dword ptr [rsp], {first}",
    "jb 2f",
    "push rax",
    "push rcx",
    "push rdx",
    "mov ecx, [rsp + 24]",
    "sub ecx, {first}",
    "mov eax, 1",
    "shl eax, cl",
    "lock or dword ptr [rip + {pending}], eax",
    "mov ecx, {eoi}",
    "xor eax, eax",
    "xor edx, edx",
    "wrmsr",
    "pop rdx",
    "pop rcx",
    "pop rax",
    "add rsp, 8",
    "iretq",
    // Vector on top, then the error code of those that have one, then the frame.
    "2: mov rdi, rsp",
    "and rsp, -16",
    "call {exception}",
    first = const FIRST_VECTOR,
    pending = sym PENDING_IRQS,
    eoi = const EOI,
    exception = sym exception,
);

unsafe extern "C" {
    static interrupt_stubs: u8;
}

/// Address of a vector's stub.
pub(super) fn stub(vector: usize) -> u64 {
    (&raw const interrupt_stubs) as u64 + vector as u64 * STUB_SIZE
}

/// Takes the interrupts that came since the last time, lowest first.
pub fn take() -> impl Iterator<Item = Irq> {
    let pending = PENDING_IRQS.swap(0, Ordering::Acquire);
    (0..32).filter(move |number| pending & 1 << number != 0).filter_map(Irq::new)
}

/// Whether any came.
pub fn any() -> bool {
    PENDING_IRQS.load(Ordering::Acquire) != 0
}

/// Masks every line of the two 8259s: this kernel hears the local APIC only.
pub(super) fn mask_legacy() {
    const DATA: [u16; 2] = [0x21, 0xa1];
    DATA.into_iter().for_each(|port| port_out(port, 0xff));
}

/// Whether the processor pushes an error code (SDM vol. 3, table 6-1).
fn has_error_code(vector: u64) -> bool {
    matches!(vector, 8 | 10..=14 | 17 | 21 | 29 | 30)
}

extern "C" fn exception(stack: *const u64) -> ! {
    let word = |index: usize| {
        let at = stack.wrapping_add(index);
        // SAFETY: the stub pushed the vector on top of the processor's frame of at least five words.
        unsafe { at.read() }
    };
    let vector = word(0);
    let (error, rip) = if has_error_code(vector) { (word(1), word(2)) } else { (0, word(1)) };
    let cr2: u64;
    // SAFETY: reading the fault address has no effect.
    unsafe { core::arch::asm!("mov {}, cr2", out(reg) cr2, options(nomem, nostack)) };
    panic!("exception {vector} at {rip:#x}, error {error:#x}, address {cr2:#x}");
}
