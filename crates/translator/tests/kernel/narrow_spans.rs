//! Accesses of 32-bit code that share one look, and hot ones that remember their page: the same wherever they lie, across a page's
//! end, around the ends of the 4 GiB where addresses wrap, and wherever one of them faults.

use crate::hosted::{CODE, DIRECTORY, Hosted, USER};
use crate::machine::*;
use lguest_translator::events::exception::Exception;

/// A table of this test's own; the pages it maps lie elsewhere in memory than behind each other.
const PAGES: u64 = 0x1_6000;
const FIRST: u64 = 0x40_0000;
const SECOND: u64 = FIRST + 0x1000;
const BEHIND_FIRST: u64 = 0x60_0000;
const BEHIND_SECOND: u64 = 0x70_0000;

/// Who runs the code: the kernel of level 1, its user, or its user with code that is hot.
const WHO: [(bool, bool); 3] = [(false, false), (true, false), (true, true)];

/// A processor about to run `code` as this one, with two pages from `first` on, the second one with these rights.
fn machine(who: (bool, bool), code: &[u8], first: u64, second: u64) -> Hosted {
    let mut hosted = Hosted::with(&assembled!(
        ".code32",
        "push 0x7b",
        "push 0x3f0000",
        "push 0x202",
        "push 0x73",
        "push 0x110000",
        "mov eax, 0x7b",
        "mov ds, eax",
        "mov es, eax",
        "iretd",
        ".code64"
    ));
    let (user, hot) = who;
    hosted.load(if user { USER } else { CODE }, code);
    for (page, (behind, rights)) in (first >> 12..).zip([(BEHIND_FIRST, P | W | U), (BEHIND_SECOND, second)])
    {
        let page = page & 0xf_ffff;
        // The table's neighbours are its own: both pages may lie in one table, or around the end of all.
        let table = if page < 1024 && first >> 22 != 0 { PAGES + 0x1000 } else { PAGES };
        hosted.put(DIRECTORY + 4 * (page >> 10), table | P | W | U);
        hosted.put(table + 4 * (page & 1023), behind | rights);
    }
    // The code is where it was, whatever else is in the first 4 MiB.
    if first >> 22 == 0x3ff {
        for page in [CODE >> 12, USER >> 12, 0x3ef, 0xb] {
            hosted.put(PAGES + 0x1000 + 4 * page, page << 12 | P | W | U);
        }
    }
    hosted.paging();
    hosted.vcpu.take_all_code_for_hot(hot);
    hosted
}

/// Runs the user's or the kernel's code, with these in ebx and, if so, esp.
fn start(hosted: &mut Hosted, user: bool, ebx: u64, esp: Option<u64>) {
    if user {
        // Into level 3 and to its first event, which is not there: its code begins with `int 0x1e`.
        assert_eq!(hosted.exception_or_call(), Err(0x1e));
    }
    hosted.vcpu.set_gpr(reg::RBX, ebx);
    if let Some(esp) = esp {
        hosted.vcpu.set_gpr(reg::RSP, esp);
    }
}

/// Where a linear address of the two pages is.
fn physical(first: u64, address: u64) -> u64 {
    let address = address & 0xffff_ffff;
    let page = if address & !0xfff == first { BEHIND_FIRST } else { BEHIND_SECOND };
    page + (address & 0xfff)
}

fn word_at(hosted: &Hosted, first: u64, address: u64) -> u64 {
    let byte = |at: u64| (hosted.word(physical(first, at) & !3) >> (8 * (physical(first, at) & 3))) as u8;
    u32::from_le_bytes(std::array::from_fn(|n| byte(address.wrapping_add(n as u64)))).into()
}

/// Four words that follow each other, added up and written back, four times; and the same by hand.
fn words() -> Vec<u8> {
    assembled!(
        ".code32",
        "mov ecx, 4",
        "2: mov eax, [ebx]",
        "add eax, [ebx + 4]",
        "lea edx, [ebx + 32]",
        "add eax, [edx - 24]",
        "add eax, [edx - 20]",
        "mov [ebx + 12], eax",
        "mov [edx - 28], ecx",
        "dec ecx",
        "jnz 2b",
        "int 0x1f",
        ".code64"
    )
}

fn added_up(mut words: [u32; 4]) -> [u32; 4] {
    for count in (1..=4).rev() {
        words[3] = words.iter().fold(0, |sum, word| sum.wrapping_add(*word));
        words[1] = count;
    }
    words
}

/// The first instruction of a user's code, by which its start is known.
fn code_of(user: bool, code: &[u8]) -> Vec<u8> {
    if user { [&[0xcd, 0x1e], code].concat() } else { code.to_vec() }
}

/// Addresses to try. A word across the end of all is beyond its segment's limit, which is another test's.
fn places(first: u64, around: std::ops::Range<u64>) -> impl Iterator<Item = u64> {
    let step = if first == FIRST { 1 } else { 4 };
    around.step_by(step).chain([first + 0x10, first + 0x800])
}

#[test]
fn words_are_the_same_in_one_page_across_two_and_around_the_end_of_all() {
    let values = [0x8000_0005, 0x1234_5678, 11, 0xffff_fff0];
    for who in WHO {
        for first in [FIRST, 0xffff_f000] {
            let second = first + 0x1000;
            for start_at in places(first, second - 40..second + 8) {
                let start_at = start_at & 0xffff_ffff;
                let mut hosted = machine(who, &code_of(who.0, &words()), first, P | W | U);
                let bytes: Vec<u8> = values.iter().flat_map(|word: &u32| word.to_le_bytes()).collect();
                for (address, byte) in (start_at..).zip(&bytes) {
                    hosted.load(physical(first, address), &[*byte]);
                }
                start(&mut hosted, who.0, start_at, None);
                assert_eq!(hosted.exception_or_call(), Err(0x1f), "{who:?} at {start_at:#x}");
                let found: [u32; 4] =
                    std::array::from_fn(|n| word_at(&hosted, first, start_at + 4 * n as u64) as u32);
                assert_eq!(found, added_up(values), "{who:?} at {start_at:#x}");
            }
        }
    }
}

/// A function's beginning and end: registers saved, a few words of its frame, and all back.
fn function() -> Vec<u8> {
    assembled!(
        ".code32",
        "mov ebp, 0x11",
        "mov edi, 0x22",
        "mov esi, 0x33",
        "stc",
        "push ebp",
        "push edi",
        "push esi",
        "push ebx",
        "adc esi, [esp + 4]",
        "mov [esp + 8], esi",
        "add edi, [esp]",
        "pop eax",
        "pop edx",
        "pop ecx",
        "pop ebp",
        "int 0x1f",
        ".code64"
    )
}

#[test]
fn a_stack_is_the_same_in_one_page_across_two_and_around_the_end_of_all() {
    for who in WHO {
        for first in [FIRST, 0xffff_f000] {
            let second = first + 0x1000;
            for esp in places(first, second - 8..second + 28) {
                let esp = esp & 0xffff_ffff;
                let mut hosted = machine(who, &code_of(who.0, &function()), first, P | W | U);
                start(&mut hosted, who.0, 0x44, Some(esp));
                assert_eq!(hosted.exception_or_call(), Err(0x1f), "{who:?} at {esp:#x}");
                let registers = [reg::RAX, reg::RDX, reg::RCX, 5, 7].map(|n| hosted.vcpu.gpr(n));
                assert_eq!(registers, [0x44, 0x33, 0x67, 0x11, 0x66], "{who:?} at {esp:#x}");
                assert_eq!(hosted.vcpu.gpr(reg::RSP), esp, "{who:?}");
                let saved: [u64; 4] =
                    std::array::from_fn(|n| word_at(&hosted, first, esp.wrapping_sub(4 * (n as u64 + 1))));
                assert_eq!(saved, [0x11, 0x67, 0x33, 0x44], "{who:?} at {esp:#x}");
            }
        }
    }
}

#[test]
fn a_push_that_faults_has_not_moved_the_stack_pointer() {
    for who in WHO {
        // Two words fit; the third one's page may not be written, or is not there.
        for rights in [0, P | U] {
            let mut hosted = machine(who, &code_of(who.0, &function()), FIRST, P | W | U);
            let below = FIRST - 0x1000;
            hosted.put(DIRECTORY, 0x1_1000 | P | W | U);
            hosted.put(0x1_1000 + 4 * (below >> 12), 0x50_0000 | rights);
            start(&mut hosted, who.0, 0x44, Some(FIRST + 8));
            let user = if who.0 { 4 } else { 0 };
            let present = if rights == 0 { 0 } else { 1 };
            let fault = Exception::pf(FIRST - 4, 2 | user | present);
            assert_eq!(hosted.exception_or_call(), Ok(fault), "{who:?}");
            assert_eq!(hosted.vcpu.gpr(reg::RSP), FIRST, "{who:?}: two words are there");
            assert_eq!(hosted.vcpu.gpr(reg::RSI), 0x33, "{who:?}");
            // Mapped now, it goes on where it was, with the carry.
            hosted.put(0x1_1000 + 4 * (below >> 12), 0x50_0000 | P | W | U);
            assert_eq!(hosted.exception_or_call(), Err(0x1f), "{who:?}");
            let registers = [reg::RAX, reg::RDX, reg::RCX, 5, 7].map(|n| hosted.vcpu.gpr(n));
            assert_eq!(registers, [0x44, 0x33, 0x67, 0x11, 0x66], "{who:?}");
        }
    }
}

#[test]
fn hot_code_forgets_where_a_page_was_when_it_moves() {
    let code = assembled!(
        ".code32",
        "mov ecx, 3",
        "2: mov eax, [ebx]",
        "add eax, [ebx + 4]",
        "add eax, [ebx + ecx * 4]",
        "jmp 3f",
        "3: pop edx",
        "push edx",
        "dec ecx",
        "jnz 2b",
        "mov [ebx + 8], ecx",
        "mov eax, [ebx]",
        "mov esi, [ebx + ecx * 4 + 4]",
        "jmp 4f",
        "4: pop edx",
        "int 0x1f",
        ".code64"
    );
    let mut hosted = machine((true, true), &code_of(true, &code), FIRST, P | W | U);
    hosted.put(PAGES, BEHIND_FIRST | P | U);
    for page in [BEHIND_FIRST, BEHIND_SECOND] {
        (0..4).for_each(|n| hosted.put(page + 4 * n, page + n));
    }
    // The stack is on a page of its own until the write moves that too.
    start(&mut hosted, true, FIRST, Some(SECOND + 0x10));
    hosted.put(BEHIND_SECOND + 0x10, 77);
    assert_eq!(hosted.exception_or_call(), Ok(Exception::pf(FIRST + 8, 7)));
    assert_eq!((hosted.vcpu.gpr(reg::RAX), hosted.vcpu.gpr(reg::RDX)), (3 * BEHIND_FIRST + 2, 77));
    // The two pages change places.
    hosted.put(PAGES, BEHIND_SECOND | P | W | U);
    hosted.put(PAGES + 4, BEHIND_FIRST | P | W | U);
    hosted.put(BEHIND_FIRST + 0x10, 78);
    let all = lguest_translator::cpu::translations::Invalidation::All;
    hosted.vcpu.forget_translations(all);
    assert_eq!(hosted.exception_or_call(), Err(0x1f));
    let found = [reg::RAX, reg::RSI, reg::RDX].map(|register| hosted.vcpu.gpr(register));
    assert_eq!(found, [BEHIND_SECOND, BEHIND_SECOND + 1, 78]);
    assert_eq!(hosted.word(BEHIND_FIRST + 8), BEHIND_FIRST + 2, "the old page is as it was");
}
