//! The errands' few arguments, read by hand: a parser crate would be larger than what it parses.

use crate::errand::Errand;
use std::collections::VecDeque;

/// What is left to read of the command line.
pub struct Arguments(VecDeque<String>);

impl Arguments {
    /// The arguments behind the program's name.
    pub fn of_this_process() -> Arguments {
        Arguments(std::env::args().skip(1).collect())
    }

    /// The next word.
    pub fn next(&mut self) -> Option<String> {
        self.0.pop_front()
    }

    /// Takes the next word if it is this one.
    pub fn next_is(&mut self, word: &str) -> bool {
        let is = self.0.front().is_some_and(|next| next == word);
        is && self.0.pop_front().is_some()
    }

    /// Takes `NAME VALUE` out, wherever it stands.
    pub fn value(&mut self, name: &str) -> Result<Option<String>, Errand> {
        let Some(place) = self.0.iter().position(|word| word == name) else { return Ok(None) };
        self.0.remove(place);
        self.0.remove(place).map(Some).ok_or_else(|| Errand::Argument(format!("{name} without a value")))
    }

    /// Takes `NAME` out; true when it stood there.
    pub fn flag(&mut self, name: &str) -> bool {
        let place = self.0.iter().position(|word| word == name);
        place.is_some_and(|place| self.0.remove(place).is_some())
    }

    /// A word that is a number above zero.
    pub fn count(word: &str) -> Result<usize, Errand> {
        let number = word.parse().ok().filter(|number| *number > 0);
        number.ok_or_else(|| Errand::Argument(format!("{word} (a number above zero is needed)")))
    }

    /// Refuses what nobody took.
    pub fn end(mut self) -> Result<(), Errand> {
        self.next().map_or(Ok(()), |left| Err(Errand::Argument(left)))
    }
}

#[test]
fn values_and_flags_are_found_wherever_they_stand() {
    let words = ["5", "--kernel", "k", "--build-only"].map(str::to_owned);
    let mut arguments = Arguments(words.into());
    assert_eq!(arguments.value("--kernel").ok(), Some(Some("k".to_owned())));
    assert!(!arguments.next_is("--build-only"));
    assert!(arguments.flag("--build-only"));
    assert!(!arguments.flag("--build-only"));
    assert_eq!(arguments.next().as_deref(), Some("5"));
    assert!(arguments.end().is_ok());
}

#[test]
fn what_nobody_took_is_refused() {
    assert!(Arguments(["--verbose".to_owned()].into()).end().is_err());
    assert!(Arguments(["--rounds".to_owned()].into()).value("--rounds").is_err());
    assert!(Arguments::count("0").is_err());
}
