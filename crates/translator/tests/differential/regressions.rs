//! Cases that once differed, kept for ever.

use crate::case::{Case, State};
use crate::random::Random;
use crate::world::{CODE, PAGE, SLOT, SLOT_HEAD, STACK};

/// One case a line: `code bytes ; register=value ... ; why`. Values are hexadecimal, with `+` counted
/// from the first instruction. Registers that are not named are random.
const LIST: &str = include_str!("regressions.txt");

/// The list's cases, each at both levels; but what only a user is refused (`@3` before its reason), and 32-bit
/// code (`@compat`), at level 3 both times.
pub fn cases() -> impl Iterator<Item = Case> {
    LIST.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .enumerate()
        .flat_map(|(i, line)| [3, 0].map(|ring| parse(line, i as u64 * 2 + u64::from(ring == 0), ring)))
}

fn parse(line: &str, number: u64, ring: u8) -> Case {
    let mut fields = line.split(';').map(str::trim);
    let (bytes, registers) = (fields.next().unwrap_or(""), fields.next().unwrap_or(""));
    assert!(fields.next().is_some_and(|why| !why.is_empty()), "`{line}` does not say why it is here");
    let digits: String = bytes.split_whitespace().collect();
    let code = (0..digits.len())
        .step_by(2)
        .map(|i| {
            u8::from_str_radix(&digits[i..i + 2], 16).unwrap_or_else(|_| panic!("`{line}`: not hexadecimal"))
        })
        .collect();
    let mut random = Random::new(number);
    let mut state = State::zero();
    state.gpr = [(); 16].map(|()| random.number());
    state.gpr[4] = STACK.start + PAGE;
    state.rip = CODE + number * SLOT + SLOT_HEAD;
    for setting in registers.split_whitespace() {
        set(&mut state, setting);
    }
    let compatible = line.contains("@compat");
    if compatible {
        state.narrow();
    }
    let ring = if line.contains("@3") || compatible { 3 } else { ring };
    let bits = if compatible { 32 } else { 64 };
    Case { seed: number, code, state, memory_seed: number, patches: Vec::new(), ring, bits }
}

fn set(state: &mut State, setting: &str) {
    let (name, value) =
        setting.split_once('=').unwrap_or_else(|| panic!("`{setting}` is not register=value"));
    let (digits, from) = value.strip_prefix('+').map_or((value, 0), |digits| (digits, state.rip));
    let value = from + u64::from_str_radix(digits, 16).expect("a hexadecimal value");
    match crate::report::NAMES.iter().position(|known| *known == name) {
        Some(number) => state.gpr[number] = value,
        None if name.starts_with('k') => {
            state.set_mask(name[1..].parse().expect("a mask register's number"), value);
        }
        None if name == "rflags" => state.rflags = value,
        None if name == "fs" => state.fs_base = value,
        None if name == "gs" => state.gs_base = value,
        None => panic!("`{name}` is no register"),
    }
}

#[test]
fn every_line_is_a_case_with_a_reason() {
    assert_eq!(
        cases().count(),
        2 * LIST.lines().filter(|l| !l.trim().is_empty() && !l.starts_with('#')).count()
    );
}
