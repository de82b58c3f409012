//! The first instructions of a Guest, before there is anything to stand on.
//!
//! The loader enters in 64-bit mode, with the lower 4 GiB mapped where they are, interrupts off, and rsi pointing at the
//! boot parameters (boot.rst, "64-bit Boot Protocol"). Rust needs a stack besides, and no more: `build.rs` compiles without vector registers.

use core::arch::global_asm;

/// Bytes of the kernel's stack. The deepest path is a formatted line inside a command, a few KiB.
const STACK_SIZE: usize = 64 * 1024;

global_asm!(
    ".section .text.entry, \"ax\"",
    ".global _start",
    "_start:",
    "cli",
    "lea rsp, [rip + {stack} + {size}]",
    "mov rdi, rsi",
    "xor ebp, ebp",
    "call guest_main",
    "2: cli",
    "hlt",
    "jmp 2b",
    ".text",
    stack = sym STACK,
    size = const STACK_SIZE,
);

/// Room for the stack. Only the processor touches it.
#[repr(C, align(16))]
struct Stack([u8; STACK_SIZE]);

static mut STACK: Stack = Stack([0; STACK_SIZE]);

/// Makes a function the kernel's main: `entry!(main)`, where `main` is `fn(BootInfo) -> !`.
#[macro_export]
macro_rules! entry {
    ($main:path) => {
        #[unsafe(no_mangle)]
        extern "C" fn guest_main(parameters: u64) -> ! {
            let main: fn($crate::hardware::boot::BootInfo) -> ! = $main;
            main($crate::hardware::boot::start(parameters))
        }
    };
}
