//! What a 32-bit kernel asks of its processor and is refused: task switches and virtual-8086 mode, each in the way that
//! ARCHITECTURE.md tells; and the state in which a 32-bit boot loader hands the processor over.

use crate::bare::*;
use crate::machine::*;
use lguest_translator::{Death, Exit, Options, ProtectedModeEntry, StartState, Vcpu};
use std::sync::Arc;

/// The selector of a task-state segment that is not the current one.
const OTHER_TASK: u64 = 0x50;

/// A task that nobody runs, where [`protected`] has a data segment.
fn another_task(bare: &Bare) {
    bare.put(TABLE + OTHER_TASK, 0x0000_8900_6000_0067);
}

/// The #GP's error code in ebx, its eip in edx.
fn catch_refusals(bare: &Bare) {
    bare.handle(13, 0, &assembled!(".code32", "pop ebx", "pop edx", "hlt", ".code64"));
}

#[test]
fn a_jump_and_a_call_to_another_task_are_refused_by_its_name() {
    // On a processor that switches tasks these do (SDM vol. 3, 8.3); #GP(selector) is what it says of what is no target.
    for opcode in [0xea, 0x9a] {
        let bare = protected(&[&[opcode, 0, 0, 0, 0], &(OTHER_TASK as u16).to_le_bytes()[..]].concat());
        another_task(&bare);
        catch_refusals(&bare);
        let mut bare = bare;
        bare.run_to_halt();
        assert_eq!((bare.low(reg::RBX), bare.low(reg::RDX)), (OTHER_TASK, PROTECTED), "{opcode:#x}");
    }
}

#[test]
fn an_interrupt_through_a_task_gate_is_refused_by_the_gates_number() {
    let mut bare = protected(&assembled!(".code32", "int 0x30", ".code64"));
    another_task(&bare);
    // A task gate: type 5, and the task's selector.
    bare.put(GATES + 8 * 0x30, OTHER_TASK << 16 | 0x8500 << 32);
    catch_refusals(&bare);
    bare.run_to_halt();
    // An error code that points into the interrupt table (SDM vol. 3, 6.13).
    assert_eq!(bare.low(reg::RBX), 0x30 << 3 | 2);
    assert_eq!(bare.low(reg::RDX), PROTECTED);
}

#[test]
fn a_return_from_a_nested_task_is_refused() {
    let mut bare = protected(&assembled!(".code32", "push 0x4002", "popfd", "iretd", ".code64"));
    catch_refusals(&bare);
    bare.run_to_halt();
    assert_eq!((bare.low(reg::RBX), bare.low(reg::RDX)), (0, PROTECTED + 6));
}

#[test]
fn a_return_to_virtual_8086_mode_ends_the_guest_with_a_sentence() {
    let mut bare = protected(&assembled!(
        ".code32",
        "push 0x20002", // VM
        "push 0x1000",
        "push 0x100",
        "iretd",
        ".code64"
    ));
    let Exit::Dead(death @ Death::UnsupportedMode { .. }) = bare.vcpu.run() else { panic!("it goes on") };
    assert!(death.to_string().contains("virtual-8086 mode"), "{death}");
}

#[test]
fn a_32_bit_loader_leaves_flat_segments_no_paging_and_a_busy_task() {
    let ram = Arc::new(ram(RAM_BYTES));
    let code = assembled!(
        ".code32",
        "mov ecx, cr0",
        "mov edx, cs",
        "mov ebp, ss",
        "str edi",
        "pushfd",
        "pop esp",
        "hlt",
        ".code64"
    );
    assert!(ram.write(CODE, &code));
    let mut vcpu = Vcpu::new(ram, Options::default()).expect("a vCPU can be made");
    let entry = ProtectedModeEntry {
        eip: CODE as u32,
        eax: 0x2bad_b002,
        ebx: 0x7000,
        esi: 0x8000,
        esp: 0x9000,
        gdt: TABLE as u32,
        gdt_limit: 31,
    };
    vcpu.begin(StartState::Protected(entry));
    assert_eq!(vcpu.run(), Exit::Halt);
    let [eax, ecx, edx, ebx, esp, ebp, esi, edi] = std::array::from_fn(|n| vcpu.gpr(n));
    // The protocols: PE and no PG; interrupts, VM and traps off; code at 0x10 and data at 0x18 as Linux asks.
    assert_eq!((eax, ebx, esi), (0x2bad_b002, 0x7000, 0x8000));
    assert_eq!((ecx & 0x8000_0001, edx, ebp, edi), (1, 0x10, 0x18, 0));
    assert_eq!(esp & 0x2_0300, 0);
    let cpu = vcpu.cpu();
    assert_eq!((cpu.segments[1].base, cpu.segments[1].limit), (0, u32::MAX));
    assert_eq!((cpu.tr.base, cpu.tr.limit, cpu.tr.system_type()), (0, 0x67, Some(11)));
}
