//! Compares two answers, shrinks what differs, and says it so that a person can start looking.

use crate::case::{Case, FLAGS_COMPARED, Outcome};
use crate::components::{YMM_UPPER, wide};
use crate::flags;
use crate::makers::{self, Allowed};
use crate::world;
use iced_x86::{Decoder, DecoderOptions, FastFormatter, Mnemonic};
use std::fmt::Write;

/// Where a Linux process' addresses end: one page below the canonical half's end.
const PROCESS_END: u64 = 0x7fff_ffff_f000;
/// How many of the differing bytes of memory a report lists.
const MOST_BYTES_SHOWN: usize = 12;
/// The general registers' names in encoding order.
pub const NAMES: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
    "r15",
];

/// Every difference between the truth and the translator, one a line; empty when there is none.
pub fn differences(case: &Case, native: &Outcome, translated: &Outcome) -> Vec<String> {
    if is_the_hosts_affair(native, translated)
        || is_a_known_difference(native, translated)
        || strays(case, native)
    {
        return Vec::new();
    }
    let mut found = Vec::new();
    let mut compare = |what: &str, truth: u64, other: u64| {
        if truth != other {
            found.push(format!("{what}: native {truth:#x}, translated {other:#x}"));
        }
    };
    compare("exception", native.vector, translated.vector);
    compare("rip", native.state.rip, translated.state.rip);
    if !is_a_comparison_of_strings(case, native, translated) {
        compare("error code", error_code(case, native), error_code(case, translated));
        compare("fault address", native.fault_address, translated.fault_address);
    }
    for (number, name) in NAMES.iter().enumerate() {
        compare(name, native.state.gpr[number], translated.state.gpr[number]);
    }
    let flags = FLAGS_COMPARED & !flags::without_meaning(case, native.state.rip);
    compare("rflags", native.state.rflags & flags, translated.state.rflags & flags);
    compare("fs.base", native.state.fs_base, translated.state.fs_base);
    compare("gs.base", native.state.gs_base, translated.state.gs_base);
    for (name, place, size) in vector_fields() {
        let [truth, other] = [native, translated].map(|o| &o.state.vectors[place..place + size]);
        if truth != other {
            found.push(format!("{name}: native {}, translated {}", hex(truth), hex(other)));
        }
    }
    found.extend(memory(native, translated));
    match makers::allowed(case, native, translated) {
        Some(Allowed::Everything) => found.clear(),
        Some(Allowed::Fields(names)) => found.retain(|line| !names.iter().any(|name| line.starts_with(name))),
        None => {}
    }
    found
}

/// True when the case touched the kernel's half of the address space: what a process finds there (which exception,
/// which error code) is for its host's kernel to say, and under a hypervisor for that one.
fn is_the_hosts_affair(native: &Outcome, translated: &Outcome) -> bool {
    let faulted = |outcome: &Outcome| matches!(outcome.vector, 12..=14);
    let beyond = |outcome: &Outcome| outcome.vector == 14 && outcome.fault_address >= PROCESS_END;
    // Either way: an operand of ten bytes that ends beyond is two accesses to some processors, the first to a page
    // below the end.
    faulted(native) && beyond(translated) || beyond(native) && faulted(translated)
}

/// `cmps` that faults at both of its operands: no manual says which is accessed first, and a Zen 4 takes the other one than a
/// Zen 5.
fn is_a_comparison_of_strings(case: &Case, native: &Outcome, translated: &Outcome) -> bool {
    use Mnemonic::{Cmpsb, Cmpsd, Cmpsq, Cmpsw};
    let code = Decoder::with_ip(case.bits, &case.code, case.state.rip, DecoderOptions::NONE);
    let stopped = code.into_iter().find(|instruction| instruction.ip() == native.state.rip);
    native.vector == 14
        && translated.vector == 14
        && stopped.is_some_and(|one| {
            matches!(one.mnemonic(), Cmpsb | Cmpsw | Cmpsd | Cmpsq)
                && one.op_count() == 2
                && one.is_string_instruction()
        })
}

/// A computed jump, call or return to an address that is not canonical: #GP on both, but ours comes at the target, with the
/// jump done. The jump table knows where a jump goes, not where it comes from, and telling it would cost each return a
/// store (see "Known differences" in ARCHITECTURE.md).
fn is_a_known_difference(native: &Outcome, translated: &Outcome) -> bool {
    let canonical = (translated.state.rip << 16) as i64 >> 16 == translated.state.rip as i64;
    native.vector == 13 && translated.vector == 13 && translated.error_code == 0 && !canonical
}

/// True when the case went to another case's slot, having spoilt its own jump target: what it finds there is not its own.
fn strays(case: &Case, native: &Outcome) -> bool {
    let slot = |rip: u64| rip.checked_sub(world::CODE).map(|at| at / world::SLOT);
    let (own, at) = (slot(case.state.rip), slot(native.state.rip));
    // The tail of a slot is the next one's head.
    at.is_some_and(|at| at < world::SLOTS) && at != own && at != own.map(|own| own + 1)
}

/// The error code without what must differ: the level bit when the Guest ran the case as supervisor.
fn error_code(case: &Case, outcome: &Outcome) -> u64 {
    if outcome.vector != 14 {
        return outcome.error_code;
    }
    let level = if case.ring == 0 { 4 } else { 0 };
    outcome.error_code & !level
}

fn vector_fields() -> Vec<(String, usize, usize)> {
    let mut fields = vec![
        ("fcw".to_owned(), 0, 2),
        ("fsw".to_owned(), 2, 2),
        ("ftw".to_owned(), 4, 1),
        ("mxcsr".to_owned(), 24, 4),
    ];
    fields.extend((0..8).map(|n| (format!("st{n}"), 32 + n * 16, 10)));
    fields.extend((0..16).map(|n| (format!("xmm{n}"), 160 + n * 16, 16)));
    fields.extend((0..16).map(|n| (format!("ymm{n} upper"), YMM_UPPER + n * 16, 16)));
    if let Some(wide) = wide() {
        fields.extend((0..8).map(|n| (format!("k{n}"), wide.masks + n * 8, 8)));
        fields.extend((0..16).map(|n| (format!("zmm{n} upper"), wide.upper + n * 32, 32)));
        fields.extend((16..32).map(|n| (format!("zmm{n}"), wide.more + (n - 16) * 64, 64)));
    }
    fields
}

fn memory(native: &Outcome, translated: &Outcome) -> Vec<String> {
    if native.changes() == translated.changes() {
        return Vec::new();
    }
    let value = |outcome: &Outcome, index: u16| {
        let changes = outcome.changes();
        changes.binary_search_by_key(&index, |c| c.index).ok().map(|place| changes[place].value)
    };
    let mut places: Vec<u16> = native.changes().iter().chain(translated.changes()).map(|c| c.index).collect();
    places.sort_unstable();
    places.dedup();
    let show = |byte: Option<u8>| byte.map_or("unchanged".to_owned(), |b| format!("{b:#04x}"));
    places
        .into_iter()
        .map(|place| (place, value(native, place), value(translated, place)))
        .filter(|(_, truth, other)| truth != other)
        .take(MOST_BYTES_SHOWN)
        .map(|(place, truth, other)| {
            let address = world::address(place as usize);
            format!("byte at {address:#x}: native {}, translated {}", show(truth), show(other))
        })
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().rev().map(|byte| format!("{byte:02x}")).collect()
}

/// The code in words, with its bytes.
pub fn disassembly(case: &Case) -> String {
    let mut text = String::new();
    let mut decoder = Decoder::with_ip(case.bits, &case.code, case.state.rip, DecoderOptions::NONE);
    let mut formatter = FastFormatter::new();
    while decoder.can_decode() {
        let start = decoder.position();
        let instruction = decoder.decode();
        let mut words = String::new();
        formatter.format(&instruction, &mut words);
        let bytes: String = case.code[start..decoder.position()].iter().map(|b| format!("{b:02x}")).collect();
        writeln!(text, "    {:#x}  {bytes:30}  {words}", instruction.ip()).expect("a string takes text");
    }
    text
}

/// Everything needed to look at one case: the code, the registers it starts from, and what differs.
pub fn failure(case: &Case, native: &Outcome, what: &[String]) -> String {
    let mut text = format!("seed {:#x}, level {}:\n{}", case.seed, case.ring, disassembly(case));
    let start = |place: usize| format!("{}={:#x}", NAMES[place], case.state.gpr[place]);
    let registers: Vec<String> = (0..16).filter(|n| case.state.gpr[*n] != 0).map(start).collect();
    writeln!(text, "  from rflags={:#x} {}", case.state.rflags, registers.join(" "))
        .expect("a string takes text");
    writeln!(text, "  fs.base={:#x} gs.base={:#x}", case.state.fs_base, case.state.gs_base)
        .expect("as above");
    let end = format!("  natively it ends with exception {} at {:#x}", native.vector, native.state.rip);
    writeln!(text, "{end}").expect("as above");
    for line in what {
        writeln!(text, "  {line}").expect("as above");
    }
    text
}

/// What sort of difference this is: how the case ended, and the names of what differs. One example of each sort is
/// worth reading; the rest is most likely the same mistake.
pub fn sort(native: &Outcome, what: &[String]) -> String {
    let name = |line: &String| line.split([':', ' ']).next().unwrap_or_default().to_owned();
    let mut names: Vec<String> = what.iter().map(name).collect();
    names.dedup();
    format!("ends with {}, differs in {}", native.vector, names.join(" "))
}

/// The smallest case that still differs, by leaving out instructions from the end and registers that do not matter.
/// `differs` runs a candidate on both sides.
pub fn shrink(case: &Case, mut differs: impl FnMut(&Case) -> bool) -> Case {
    let mut best = case.clone();
    let mut ends = Vec::new();
    let mut decoder = Decoder::with_ip(case.bits, &case.code, case.state.rip, DecoderOptions::NONE);
    while decoder.can_decode() {
        let _ = decoder.decode();
        ends.push(decoder.position());
    }
    for end in ends {
        let shorter = Case { code: case.code[..end].to_vec(), ..case.clone() };
        if differs(&shorter) {
            best = shorter;
            break;
        }
    }
    for register in (0..16).filter(|n| *n != 4) {
        let mut simpler = best.clone();
        simpler.state.gpr[register] = 0;
        if best.state.gpr[register] != 0 && differs(&simpler) {
            best = simpler;
        }
    }
    best
}
