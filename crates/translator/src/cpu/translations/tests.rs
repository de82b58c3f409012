use super::*;
use crate::workbench::*;

const OPERAND: u64 = 0x6000;

fn ask(bench: &Workbench, kind: u64, tag: u64, address: u64) -> Result<Invalidation, Exception> {
    bench.put(OPERAND, tag);
    bench.put(OPERAND + 8, address);
    invpcid(&bench.cpu, &bench.memory(), kind, OPERAND)
}

#[test]
fn each_kind_names_what_to_forget() {
    let mut bench = Workbench::new();
    bench.cpu.cr4 |= cr4::PCIDE;
    let page = Invalidation::Page { address: 0x5000, pcid: 7, global_too: false };
    assert_eq!(ask(&bench, 0, 7, 0x5000), Ok(page));
    assert_eq!(ask(&bench, 1, 7, 1 << 63), Ok(Invalidation::Space { pcid: 7 }));
    assert_eq!(ask(&bench, 2, 7, 0), Ok(Invalidation::All));
    assert_eq!(ask(&bench, 3, 7, 0), Ok(Invalidation::NonGlobal));
}

#[test]
fn a_request_that_breaks_the_rules_is_refused() {
    let mut bench = Workbench::new();
    bench.cpu.cr4 |= cr4::PCIDE;
    let refused = Err(Exception::gp(0));
    assert_eq!(ask(&bench, 4, 0, 0), refused);
    assert_eq!(ask(&bench, 2, 1 << 12, 0), refused);
    assert_eq!(ask(&bench, 0, 0, 1 << 63), refused);
    bench.cpu.cr4 &= !cr4::PCIDE;
    assert_eq!(ask(&bench, 1, 7, 0), refused);
    assert_eq!(ask(&bench, 1, 0, 0), Ok(Invalidation::Space { pcid: 0 }));
    bench.go_user();
    assert_eq!(ask(&bench, 2, 0, 0), refused);
}

#[test]
fn an_absent_request_is_a_page_fault() {
    let bench = Workbench::new();
    bench.map(OPERAND, 0);
    let refused = invpcid(&bench.cpu, &bench.memory(), 2, OPERAND);
    assert_eq!(refused, Err(Exception::pf(OPERAND, 0)));
}

#[test]
fn invlpg_forgets_global_pages_too_and_nothing_outside_the_address_space() {
    let mut bench = Workbench::new();
    bench.cpu.cr3 = PML4 | 0x18;
    let page = |pcid| Invalidation::Page { address: 0x5000, pcid, global_too: true };
    assert_eq!(invlpg(&bench.cpu, 0x5000), Ok(page(0)));
    bench.cpu.cr4 |= cr4::PCIDE;
    assert_eq!(invlpg(&bench.cpu, 0x5000), Ok(page(0x18)));
    assert_eq!(invlpg(&bench.cpu, 1 << 47), Ok(Invalidation::Nothing));
    bench.go_user();
    assert_eq!(invlpg(&bench.cpu, 0x5000), Err(Exception::gp(0)));
}
