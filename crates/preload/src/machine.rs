//! Which machine a program wants: the environment says it, for the program's words do not.

use std::io::Write;

/// The variable.
const VARIABLE: &str = "LGUEST_MACHINE";

/// A machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Machine {
    /// What the original's programs expect: an i386 kernel with lguest's sub-architecture, at privilege level 1.
    Lguest32,
    /// A whole processor of 64 bits ([`crate::long_mode`]).
    LongMode,
}

impl Machine {
    /// What the environment says; none, with a sentence on standard error, for a word that is no machine.
    pub fn chosen() -> Option<Machine> {
        let word = std::env::var(VARIABLE).unwrap_or_default();
        let machine = Machine::read(&word);
        if machine.is_none() {
            let sentence = format!("lguest: {VARIABLE}={word}: is no machine; give lguest32 or long-mode\n");
            // A program without a standard error has an error number all the same.
            let _ = std::io::stderr().lock().write_all(sentence.as_bytes());
        }
        machine
    }

    fn read(word: &str) -> Option<Machine> {
        match word {
            "" | "lguest32" => Some(Machine::Lguest32),
            "long-mode" => Some(Machine::LongMode),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_says_nothing_has_the_originals_machine() {
        assert_eq!(Machine::read(""), Some(Machine::Lguest32));
        assert_eq!(Machine::read("lguest32"), Some(Machine::Lguest32));
        assert_eq!(Machine::read("long-mode"), Some(Machine::LongMode));
        assert_eq!(Machine::read("lguest64"), None);
    }
}
