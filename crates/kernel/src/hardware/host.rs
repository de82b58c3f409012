//! Hypercalls: see `lguest_abi`, "On 64 bits", 4.

use core::arch::asm;
use core::sync::atomic::{AtomicU8, Ordering};

use lguest_abi::hypercall::Hypercall;
use lguest_abi::meeting::HYPERCALL_PORT;
use lguest_guest::transport::Hypercalls;

use super::instructions::cpuid;

const INTEL: u8 = 0;
const AMD: u8 = 1;
const PORT: u8 = 2;
/// "cAMD" and "uine", the ends of AMD's and Hygon's names in ecx of leaf 0.
const AMD_NAMES: [u32; 2] = [0x444d_4163, 0x656e_6975];

/// How a call leaves.
static WAY: AtomicU8 = AtomicU8::new(INTEL);

/// Chooses the way. Called once, by [`super::boot::start`].
pub(super) fn choose(by_port: bool) {
    let amd = AMD_NAMES.contains(&cpuid(0, 0).ecx);
    let way = match (by_port, amd) {
        (true, _) => PORT,
        (false, true) => AMD,
        (false, false) => INTEL,
    };
    WAY.store(way, Ordering::Relaxed);
}

/// Makes a call with three arguments and returns rax.
#[must_use]
pub fn call(call: Hypercall, [first, second, third]: [u64; 3]) -> u64 {
    let mut rax = call as u64;
    // rbx belongs to the compiler, so the second argument is swapped in around the call.
    match WAY.load(Ordering::Relaxed) {
        // SAFETY: the calls this crate makes name memory whose owner expects the Host to touch it.
        PORT => unsafe {
            asm!("xchg {second}, rbx", "out dx, eax", "xchg {second}, rbx", second = inout(reg) second => _,
                in("dx") HYPERCALL_PORT, inout("rax") rax, in("rsi") first, in("rcx") third, options(nostack));
        },
        // SAFETY: as above.
        AMD => unsafe {
            asm!("xchg {second}, rbx", "vmmcall", "xchg {second}, rbx", second = inout(reg) second => _,
                inout("rax") rax, in("rdx") first, in("rcx") third, options(nostack));
        },
        // SAFETY: as above.
        _ => unsafe {
            asm!("xchg {second}, rbx", "vmcall", "xchg {second}, rbx", second = inout(reg) second => _,
                inout("rax") rax, in("rdx") first, in("rcx") third, options(nostack));
        },
    }
    rax
}

/// The Host behind this processor.
pub struct Host;

impl Hypercalls for Host {
    fn call(&self, number: Hypercall, arguments: [u64; 3]) -> u64 {
        call(number, arguments)
    }
}
