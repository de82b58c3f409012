//! The configuration file: what somebody types often, written down once.
//!
//! ```toml
//! # $XDG_CONFIG_HOME/lguest/config.toml, or ~/.config/lguest/config.toml
//! memory = "1G"
//! cpus = 2
//! engine = "translator"
//! net = ["user"]
//! ```
//! Each key is an option of `lguest run`; what the command line says comes before it. `net` is for Guests that are named: the
//! default Guest has another bus. A value is judged where the option's is, and the sentence then says file and line.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use crate::cli::RunArguments;
use crate::request::Mistake;

/// The longest file taken; this one has four keys.
const LONGEST: u64 = 64 << 10;

/// One value of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Setting {
    key: Key,
    value: String,
    line: usize,
}

/// What the file may say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    Memory,
    Cpus,
    Engine,
    Net,
}

impl Key {
    const ALL: [Key; 4] = [Key::Memory, Key::Cpus, Key::Engine, Key::Net];

    /// The option's name, and the file's.
    fn name(self) -> &'static str {
        match self {
            Key::Memory => "memory",
            Key::Cpus => "cpus",
            Key::Engine => "engine",
            Key::Net => "net",
        }
    }
}

/// The file's settings.
#[derive(Clone, Debug, Default)]
pub struct Config {
    path: PathBuf,
    settings: Vec<Setting>,
}

impl Config {
    /// The user's file; one that is not there says nothing.
    ///
    /// # Errors
    /// When it cannot be read, or holds what it cannot hold: one sentence with file and line.
    pub fn of_the_user() -> Result<Config, Mistake> {
        let folder = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let base = folder("XDG_CONFIG_HOME").or_else(|| Some(folder("HOME")?.join(".config")));
        match base {
            Some(base) => Config::read(&base.join("lguest/config.toml")),
            None => Ok(Config::default()),
        }
    }

    /// Reads a file.
    ///
    /// # Errors
    /// As [`Config::of_the_user`].
    pub fn read(path: &Path) -> Result<Config, Mistake> {
        let fault = |what: String| Mistake(format!("{}: {what}", path.display()));
        let mut text = String::new();
        match File::open(path).and_then(|file| file.take(LONGEST + 1).read_to_string(&mut text)) {
            Ok(_) => {}
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(Config::default()),
            Err(cause) => return Err(fault(format!("cannot be read: {cause}"))),
        }
        if text.len() as u64 > LONGEST {
            return Err(fault(format!("has more than {} KiB", LONGEST >> 10)));
        }
        Ok(Config { path: path.to_owned(), settings: settings(path, &text)? })
    }

    /// Gives the options that the command line left out their values. `given` tells which it did not.
    pub fn complete(&self, arguments: &mut RunArguments, given: impl Fn(&str) -> bool) {
        let named = arguments.guest.is_some() || arguments.kernel.is_some();
        for setting in self.settings.iter().filter(|setting| !given(setting.key.name())) {
            let value = setting.value.clone();
            match setting.key {
                Key::Memory => arguments.memory = value,
                Key::Cpus => arguments.cpus = value,
                Key::Engine => arguments.engine = value,
                Key::Net if named => arguments.net.push(value),
                Key::Net => {}
            }
        }
    }

    /// A mistake in an option's value, told where the value stands if it is this file's.
    pub fn locate(&self, sentence: String, given: impl Fn(&str) -> bool) -> String {
        let from_here = self.settings.iter().find(|setting| {
            let start = format!("--{} {}: ", setting.key.name(), setting.value);
            !given(setting.key.name()) && sentence.starts_with(&start)
        });
        match from_here {
            Some(setting) => format!("{}:{}: {sentence}", self.path.display(), setting.line),
            None => sentence,
        }
    }
}

fn settings(path: &Path, text: &str) -> Result<Vec<Setting>, Mistake> {
    let line = |at: usize| 1 + text.bytes().take(at).filter(|byte| *byte == b'\n').count();
    let fault = |at: usize, what: &str| Mistake(format!("{}:{}: {what}", path.display(), line(at)));
    let table = DeTable::parse(text)
        .map_err(|error| fault(error.span().map_or(0, |span| span.start), error.message()))?;
    let mut found = Vec::new();
    for (name, value) in table.get_ref() {
        let at = name.span().start;
        let name = name.get_ref();
        let Some(key) = Key::ALL.into_iter().find(|key| key.name() == name) else {
            let known = Key::ALL.map(Key::name).join(", ");
            return Err(fault(at, &format!("{name} is no key of this file; there are {known}")));
        };
        let values = match (key, value.get_ref()) {
            (Key::Net, DeValue::Array(values)) => values.iter().map(|one| text_of(one.get_ref())).collect(),
            (_, value) => text_of(value).map(|text| vec![text]),
        };
        let Some(values) = values else {
            return Err(fault(at, &format!("{name} needs a text in quotes, as --{name} has it")));
        };
        found.extend(values.into_iter().map(|value| Setting { key, value, line: line(at) }));
    }
    Ok(found)
}

/// A text, or a whole number as people write it.
fn text_of(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => Some(number.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    fn config(text: &str) -> Result<Config, Mistake> {
        let path = PathBuf::from("config.toml");
        Ok(Config { settings: settings(&path, text)?, path })
    }

    fn arguments(words: &[&str]) -> RunArguments {
        match Cli::try_parse_from(words).unwrap().command {
            Command::Run(arguments) => *arguments,
            other => panic!("{other:?}"),
        }
    }

    const ALL: &str = "memory = \"1G\"\ncpus = 2\nengine = \"translator\"\nnet = [\"user\", \"link=x\"]\n";

    #[test]
    fn every_key_becomes_its_option() {
        let mut run = arguments(&["lguest", "run", "debian"]);
        config(ALL).unwrap().complete(&mut run, |_| false);
        assert_eq!((run.memory.as_str(), run.cpus.as_str(), run.engine.as_str()), ("1G", "2", "translator"));
        assert_eq!(run.net, ["user", "link=x"]);
    }

    #[test]
    fn the_command_line_comes_first() {
        let mut run = arguments(&["lguest", "run", "debian", "--memory", "2G"]);
        config(ALL).unwrap().complete(&mut run, |name| name == "memory");
        assert_eq!((run.memory.as_str(), run.cpus.as_str()), ("2G", "2"));
    }

    #[test]
    fn the_default_guest_gets_no_network_of_the_files() {
        let mut run = arguments(&["lguest", "run"]);
        config(ALL).unwrap().complete(&mut run, |_| false);
        assert!(run.net.is_empty());
    }

    #[test]
    fn mistakes_are_named_by_file_and_line() {
        for (text, start, word) in [
            ("cpus = 2\nmemroy = \"1G\"\n", "config.toml:2: ", "memroy is no key"),
            ("cpus = 2\n\nmemory =\n", "config.toml:3: ", ""),
            ("cpus = true\n", "config.toml:1: ", "needs a text"),
            ("net = [1.5]\n", "config.toml:1: ", "needs a text"),
            ("[run]\ncpus = 2\n", "config.toml:1: ", "run is no key"),
        ] {
            let Mistake(sentence) = config(text).unwrap_err();
            assert!(sentence.starts_with(start) && sentence.contains(word), "{sentence}");
            assert_eq!(sentence.lines().count(), 1, "{sentence}");
        }
    }

    #[test]
    fn a_value_that_cannot_work_is_told_with_its_place() {
        let config = config("# mine\nmemory = \"lots\"\n").unwrap();
        let sentence = "--memory lots: is no size".to_owned();
        assert_eq!(config.locate(sentence.clone(), |_| false), format!("config.toml:2: {sentence}"));
        assert_eq!(config.locate(sentence.clone(), |_| true), sentence);
    }

    #[test]
    fn a_file_that_is_not_there_says_nothing() {
        assert!(Config::read(Path::new("/no/such/file")).unwrap().settings.is_empty());
    }
}
