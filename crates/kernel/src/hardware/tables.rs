//! Segments, the task state with its interrupt stacks, and the table of vectors.
//!
//! Layouts: SDM vol. 3, 3.4.5 (segments), 8.7 (64-bit task state), 6.14.1 (64-bit gates).

use core::arch::asm;
use core::ptr;

use super::interrupts::{self, VECTORS};

/// Selectors; the loader's, so that nothing has to be reloaded in a hurry.
const CODE: u16 = 0x10;
const TASK: u16 = 0x20;
const CODE_DESCRIPTOR: u64 = 0x00af_9b00_0000_ffff;
const DATA_DESCRIPTOR: u64 = 0x00cf_9300_0000_ffff;
/// Present, 64-bit interrupt gate, level 0.
const INTERRUPT_GATE: u64 = 0x8e;
/// Present, available 64-bit task state.
const TASK_AVAILABLE: u64 = 0x89;
/// First vector that is no exception.
const FIRST_INTERRUPT: usize = 32;
/// Which interrupt stack a vector uses: compiled code keeps data below its stack pointer (the red zone), so none
/// of them may use the stack that was in use.
const STACK_OF_INTERRUPTS: u64 = 1;
const STACK_OF_EXCEPTIONS: u64 = 2;
const STACK_SIZE: usize = 8192;

#[repr(C, align(16))]
struct Stack([u8; STACK_SIZE]);

#[repr(C, packed(4))]
struct TaskState {
    reserved: u32,
    stacks: [u64; 3],
    reserved_1: u64,
    interrupt_stacks: [u64; 7],
    reserved_2: [u16; 5],
    io_map: u16,
}

const _: () = assert!(size_of::<TaskState>() == 104);

#[repr(C, packed)]
struct Pointer {
    limit: u16,
    base: u64,
}

static mut STACKS: [Stack; 2] = [const { Stack([0; STACK_SIZE]) }; 2];
static mut STATE: TaskState = TaskState {
    reserved: 0,
    stacks: [0; 3],
    reserved_1: 0,
    interrupt_stacks: [0; 7],
    reserved_2: [0; 5],
    io_map: size_of::<TaskState>() as u16,
};
static mut SEGMENTS: [u64; 6] = [0; 6];
static mut GATES: [[u64; 2]; VECTORS] = [[0; 2]; VECTORS];

/// Fills the tables and loads them. Called once, by [`super::boot::start`].
pub(super) fn load() {
    let stacks = (&raw const STACKS) as u64;
    let state = &raw mut STATE;
    // SAFETY: called once, before any interrupt; nobody else names the task state.
    let state = unsafe { &mut *state };
    let size = STACK_SIZE as u64;
    state.interrupt_stacks = [stacks + size, stacks + 2 * size, 0, 0, 0, 0, 0];
    load_segments(ptr::from_ref(state) as u64);
    load_gates();
}

fn load_segments(state: u64) {
    let limit = size_of::<TaskState>() as u64 - 1;
    let low = limit | (state & 0xff_ffff) << 16 | TASK_AVAILABLE << 40 | (state >> 24 & 0xff) << 56;
    let raw = &raw mut SEGMENTS;
    // SAFETY: called once, before any interrupt; nobody else names the segments.
    let segments = unsafe { &mut *raw };
    *segments = [0, 0, CODE_DESCRIPTOR, DATA_DESCRIPTOR, low, state >> 32];
    let pointer = Pointer { limit: size_of_val(segments) as u16 - 1, base: segments.as_ptr() as u64 };
    // SAFETY: the table has the loader's code and data segments at the loader's selectors.
    unsafe { asm!("lgdt [{}]", in(reg) &raw const pointer, options(readonly, nostack)) };
    // SAFETY: the descriptor was just written and its task state lives for ever.
    unsafe { asm!("ltr {:x}", in(reg) TASK, options(nostack)) };
}

fn load_gates() {
    let raw = &raw mut GATES;
    // SAFETY: called once, before any interrupt; nobody else names the gates.
    let gates = unsafe { &mut *raw };
    for (vector, gate) in gates.iter_mut().enumerate() {
        let handler = interrupts::stub(vector);
        let stack = if vector < FIRST_INTERRUPT { STACK_OF_EXCEPTIONS } else { STACK_OF_INTERRUPTS };
        let low = handler & 0xffff | u64::from(CODE) << 16 | stack << 32;
        *gate = [low | INTERRUPT_GATE << 40 | (handler >> 16 & 0xffff) << 48, handler >> 32];
    }
    let pointer = Pointer { limit: size_of_val(gates) as u16 - 1, base: gates.as_ptr() as u64 };
    // SAFETY: every gate leads to a stub, on a stack of its own.
    unsafe { asm!("lidt [{}]", in(reg) &raw const pointer, options(readonly, nostack)) };
}
