//! The truth: the host's own processor runs the code.
//!
//! A forked child does it, so that whatever the code does it does to a process nobody needs. No assembly is needed
//! to load a whole register state: a signal handler may rewrite the frame it returns to, and the kernel then
//! restores every register from it. Each case is two signals: one to go in, and the fault or trap that comes out.
//! Between the two, not even FS.base is ours, so the handlers use no thread-local storage and never panic.

use crate::alone::be_alone;
use crate::case::{Case, Outcome, State};
use crate::components::{XSAVE_BYTES, XSAVE_HEADER};
use crate::world::{self, CODE, Memory, PAGE, SLOT, SLOT_HEAD, SLOTS};
use std::ptr::{addr_of, addr_of_mut, null_mut};

/// Cases per child: enough that a fork costs little, few enough that a lost child loses little time.
const CASES_A_CHILD: usize = 256;
/// Seconds after which a child that is still running is taken for an endless loop.
const CHILD_SECONDS: u32 = 20;
/// Largest vector state saved around a case: AVX-512 and AMX tiles fit.
const MOST_FP_BYTES: usize = 16384;
/// Place of each general register, in encoding order, among the kernel's saved registers.
const GREGS: [i32; 16] = [
    libc::REG_RAX,
    libc::REG_RCX,
    libc::REG_RDX,
    libc::REG_RBX,
    libc::REG_RSP,
    libc::REG_RBP,
    libc::REG_RSI,
    libc::REG_RDI,
    libc::REG_R8,
    libc::REG_R9,
    libc::REG_R10,
    libc::REG_R11,
    libc::REG_R12,
    libc::REG_R13,
    libc::REG_R14,
    libc::REG_R15,
];

/// What the child's two handlers share. A static, because a handler has no other way to be told.
struct Stage {
    entering: *const State,
    bits: u32,
    outcome: *mut Outcome,
    gregs: [i64; 23],
    fp: [u8; MOST_FP_BYTES],
    fs_base: u64,
    gs_base: u64,
}

static mut STAGE: Stage = Stage {
    entering: null_mut(),
    bits: 64,
    outcome: null_mut(),
    gregs: [0; 23],
    fp: [0; MOST_FP_BYTES],
    fs_base: 0,
    gs_base: 0,
};

/// What the child tells its parent.
#[repr(C)]
struct Board {
    done: u64,
    outcomes: [Outcome; CASES_A_CHILD],
}

/// Runs every case; None where the child did not live to tell (endless loop, or it destroyed itself).
pub fn run(cases: &[Case]) -> Vec<Option<Box<Outcome>>> {
    let board: *mut Board = shared(size_of::<Board>()).cast();
    let memory: *mut Memory = shared(size_of::<Memory>()).cast();
    let mut answers = Vec::with_capacity(cases.len());
    while answers.len() < cases.len() {
        let rest = &cases[answers.len()..];
        let batch = &rest[..rest.len().min(CASES_A_CHILD)];
        // SAFETY: the mapping is ours and holds a Board of plain bytes.
        unsafe { (*board).done = 0 };
        // SAFETY: the child calls nothing that allocates, locks or unwinds, and leaves by `_exit`.
        match unsafe { libc::fork() } {
            -1 => panic!("cannot fork: {}", std::io::Error::last_os_error()),
            0 => child(batch, board, memory),
            pid => {
                // SAFETY: waits for the child just made; no status is asked for.
                unsafe { libc::waitpid(pid, null_mut(), 0) };
            }
        }
        // SAFETY: the child is gone, nobody writes the board any more.
        let done = unsafe { (*board).done } as usize;
        for place in 0..done {
            // SAFETY: the child completed this outcome before it counted it as done.
            let mut outcome = Box::new(unsafe { (*board).outcomes[place].clone() });
            outcome.state.settle_vectors();
            answers.push(Some(outcome));
        }
        if done < batch.len() {
            answers.push(None);
        }
    }
    // SAFETY: mapped above, no reference is left.
    unsafe { libc::munmap(board.cast(), size_of::<Board>()) };
    // SAFETY: as above.
    unsafe { libc::munmap(memory.cast(), size_of::<Memory>()) };
    answers
}

/// Fresh memory that a child shares with its parent.
fn shared(bytes: usize) -> *mut u8 {
    let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping at a place the kernel picks.
    let place = unsafe { libc::mmap(null_mut(), bytes, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
    assert_ne!(place, libc::MAP_FAILED, "cannot map {bytes} bytes");
    place.cast()
}

fn child(cases: &[Case], board: *mut Board, memory: *mut Memory) -> ! {
    let alone = be_alone([board as u64, memory as u64]);
    if !alone || !set_the_stage(memory) {
        // SAFETY: ends the child; the parent sees that no case was done.
        unsafe { libc::_exit(1) }
    }
    let mut before = [0; world::BYTES];
    let stage = addr_of_mut!(STAGE);
    // SAFETY: plain system call.
    let me = unsafe { libc::getpid() };
    for (i, case) in cases.iter().enumerate() {
        world::fill(&mut before, case.memory_seed, &case.patches);
        // SAFETY: the shared memory is this child's alone while it runs.
        unsafe { *memory = before };
        place_code(case);
        // SAFETY: single-threaded; the handlers run only inside `raise` below.
        unsafe { (*stage).entering = &case.state };
        // SAFETY: as above.
        unsafe { (*stage).bits = case.bits };
        // SAFETY: `i` is below the number of outcomes in the shared board.
        let outcome = unsafe { &raw mut (*board).outcomes[i] };
        // SAFETY: as for `entering`.
        unsafe { (*stage).outcome = outcome };
        // SAFETY: the handler of this signal enters the case; the case's end returns here.
        unsafe { libc::syscall(libc::SYS_tgkill, me, me, libc::SIGUSR1) };
        take_code_away(case);
        // SAFETY: nothing writes the shared memory beside us.
        let after = unsafe { &*memory };
        // SAFETY: nor the board.
        let outcome = unsafe { &mut *outcome };
        outcome.note_changes(&before, after);
        // SAFETY: as above.
        unsafe { (*board).done = i as u64 + 1 };
    }
    // SAFETY: ends the child without running anything of the parent's.
    unsafe { libc::_exit(0) }
}

/// Maps the world's windows over the shared memory, the code slots, and takes the signals. False on any failure.
fn set_the_stage(memory: *mut Memory) -> bool {
    let fixed = libc::MAP_FIXED_NOREPLACE | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    let all = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
    // SAFETY: NOREPLACE: nothing of ours can be there.
    let code = unsafe { libc::mmap(CODE as *mut _, (SLOTS * SLOT + PAGE) as usize, all, fixed, -1, 0) };
    let mut failed = code == libc::MAP_FAILED;
    for (offset, window) in world::windows() {
        let bytes = (window.pages * PAGE) as usize;
        // SAFETY: a second view of the shared pages (old size zero duplicates a shared mapping), at a place of no other use.
        let place = unsafe {
            libc::mremap(
                memory.cast::<u8>().wrapping_add(offset).cast(),
                0,
                bytes,
                libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED,
                window.start as *mut libc::c_void,
            )
        };
        failed |= place == libc::MAP_FAILED;
        let rights = if window.writable { libc::PROT_READ | libc::PROT_WRITE } else { libc::PROT_READ };
        // SAFETY: changes the rights of the view just made.
        failed |= unsafe { libc::mprotect(place, bytes, rights) } != 0;
        for page in (0..bytes).step_by(PAGE as usize).filter(|_| !failed) {
            // SAFETY: mapped just now. The touch makes a later fault there say "present", as in the Guest.
            unsafe { place.cast::<u8>().wrapping_add(page).read_volatile() };
        }
    }
    let stack = libc::stack_t { ss_sp: shared(1 << 16).cast(), ss_flags: 0, ss_size: 1 << 16 };
    // SAFETY: a stack of its own for the handlers; the case's stack pointer is anywhere.
    failed |= unsafe { libc::sigaltstack(&stack, null_mut()) } != 0;
    failed |= !take(libc::SIGUSR1, enter as *const () as usize);
    for signal in [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP] {
        failed |= !take(signal, leave as *const () as usize);
    }
    // SAFETY: plain system call; its default action ends the child.
    unsafe { libc::alarm(CHILD_SECONDS) };
    !failed
}

fn take(signal: i32, handler: usize) -> bool {
    // SAFETY: all-zero is a valid sigaction.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
    // SAFETY: the handlers below have the signature that SA_SIGINFO asks for.
    unsafe { libc::sigaction(signal, &action, null_mut()) == 0 }
}

/// Puts the code into its slot, traps all around.
fn place_code(case: &Case) {
    let slot = (case.state.rip - CODE) / SLOT * SLOT + CODE;
    // SAFETY: the slots are this child's own writable mapping, one slot's tail longer than their number.
    unsafe { std::ptr::write_bytes(slot as *mut u8, 0xcc, (SLOT + SLOT_HEAD) as usize) };
    // SAFETY: the generator keeps code inside its slot and the next one's head.
    unsafe { std::ptr::copy_nonoverlapping(case.code.as_ptr(), case.state.rip as *mut u8, case.code.len()) };
}

/// Zeros again, so that whoever reads a slot that is not its own finds the same, whoever ran before.
fn take_code_away(case: &Case) {
    let slot = (case.state.rip - CODE) / SLOT * SLOT + CODE;
    // SAFETY: as in `place_code`.
    unsafe { std::ptr::write_bytes(slot as *mut u8, 0, (SLOT + SLOT_HEAD) as usize) };
}

/// Bytes of vector state in a signal frame (struct _fpx_sw_bytes at byte 464: magic, then the size).
fn fp_bytes(fp: *const u8) -> usize {
    // SAFETY: the kernel's frame always has the 512-byte legacy area.
    let word = |at: usize| unsafe { fp.wrapping_add(at).cast::<u32>().read() };
    if word(464) == 0x4650_5853 { (word(468) as usize).min(MOST_FP_BYTES) } else { 512 }
}

/// Bytes of the XSAVE image in it, without the word by which the kernel knows its end (byte 480: the size).
fn image_bytes(fp: *const u8) -> usize {
    if fp_bytes(fp) > 512 {
        // SAFETY: as in `fp_bytes`.
        (unsafe { fp.wrapping_add(480).cast::<u32>().read() }) as usize
    } else {
        512
    }
}

/// Goes in: keeps the frame, and writes the case's state over it.
extern "C" fn enter(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let context = context.cast::<libc::ucontext_t>();
    // SAFETY: the kernel passes a ucontext to a SA_SIGINFO handler.
    let machine = unsafe { &mut (*context).uc_mcontext };
    let stage = addr_of_mut!(STAGE);
    // SAFETY: one thread; the handlers never overlap.
    let stage = unsafe { &mut *stage };
    let fp: *mut u8 = machine.fpregs.cast();
    stage.gregs = machine.gregs;
    // SAFETY: both hold that many bytes.
    unsafe { std::ptr::copy_nonoverlapping(fp, addr_of_mut!(stage.fp).cast(), fp_bytes(fp)) };
    // SAFETY: the parent's case outlives the child's use of it.
    let state = unsafe { &*stage.entering };
    for (place, value) in GREGS.iter().zip(state.gpr) {
        machine.gregs[*place as usize] = value as i64;
    }
    // The kernel's own selectors: code of either width, and data, which 64-bit code does without.
    let (code, data) = if stage.bits == 64 { (0x33, 0) } else { (0x23, 0x2b) };
    let selectors = &mut machine.gregs[libc::REG_CSGSFS as usize];
    *selectors = *selectors & !0xffff | code;
    load_data_segments(data);
    machine.gregs[libc::REG_RIP as usize] = state.rip as i64;
    machine.gregs[libc::REG_EFL as usize] = state.rflags as i64;
    let source = state.vectors.as_ptr();
    // SAFETY: the legacy area, up to where the kernel keeps its own words.
    unsafe { std::ptr::copy_nonoverlapping(source, fp, 464) };
    let bytes = image_bytes(fp).min(XSAVE_BYTES);
    if bytes > XSAVE_HEADER {
        let (from, to) = (source.wrapping_add(XSAVE_HEADER), fp.wrapping_add(XSAVE_HEADER));
        // SAFETY: header and components lie inside the frame, as just checked.
        unsafe { std::ptr::copy_nonoverlapping(from, to, bytes - XSAVE_HEADER) };
    }
    swap_bases(&mut stage.fs_base, &mut stage.gs_base, state.fs_base, state.gs_base);
}

/// Comes out: keeps what the case made, and puts back the frame that [`enter`] kept.
extern "C" fn leave(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let context = context.cast::<libc::ucontext_t>();
    // SAFETY: as in `enter`.
    let machine = unsafe { &mut (*context).uc_mcontext };
    let stage = addr_of_mut!(STAGE);
    // SAFETY: as in `enter`.
    let stage = unsafe { &mut *stage };
    // SAFETY: points into the board, set before the case began.
    let outcome = unsafe { &mut *stage.outcome };
    let state = &mut outcome.state;
    swap_bases(&mut state.fs_base, &mut state.gs_base, stage.fs_base, stage.gs_base);
    for (place, value) in GREGS.iter().zip(&mut state.gpr) {
        *value = machine.gregs[*place as usize] as u64;
    }
    state.rip = machine.gregs[libc::REG_RIP as usize] as u64;
    state.rflags = machine.gregs[libc::REG_EFL as usize] as u64;
    outcome.vector = machine.gregs[libc::REG_TRAPNO as usize] as u64;
    outcome.error_code = machine.gregs[libc::REG_ERR as usize] as u64;
    outcome.fault_address =
        if outcome.vector == 14 { machine.gregs[libc::REG_CR2 as usize] as u64 } else { 0 };
    let fp: *mut u8 = machine.fpregs.cast();
    let bytes = fp_bytes(fp);
    // SAFETY: the frame holds that many bytes, the image at least as many.
    unsafe { std::ptr::copy_nonoverlapping(fp, state.vectors.as_mut_ptr(), bytes.min(XSAVE_BYTES)) };
    machine.gregs = stage.gregs;
    // SAFETY: every frame of one process has the same layout; these bytes came from one.
    unsafe { std::ptr::copy_nonoverlapping(addr_of!(stage.fp).cast(), fp, bytes) };
}

/// DS and ES stay what they are through signal frames.
fn load_data_segments(selector: u32) {
    // SAFETY: 64-bit code does not use them, and the kernel has such a descriptor, or the selector is null.
    unsafe { std::arch::asm!("mov ds, {0:e}", "mov es, {0:e}", in(reg) selector) };
}

/// Reads FS.base and GS.base and sets them anew, in one piece, because nothing thread-local works in between.
fn swap_bases(old_fs: &mut u64, old_gs: &mut u64, new_fs: u64, new_gs: u64) {
    let (fs, gs): (u64, u64);
    // SAFETY: four instructions without memory access; the caller's code until the signal returns needs no FS or GS.
    unsafe {
        std::arch::asm!(
            "rdfsbase {fs}", "rdgsbase {gs}", "wrfsbase {new_fs}", "wrgsbase {new_gs}",
            fs = out(reg) fs, gs = out(reg) gs, new_fs = in(reg) new_fs, new_gs = in(reg) new_gs,
        )
    };
    *old_fs = fs;
    *old_gs = gs;
}
