//! Which engine executes the Guest's instructions, and why.

use std::fmt;
use std::fs::File;
use std::path::Path;

use lguest_translator::requirements;

use crate::request::Mistake;

/// Where the Host offers KVM.
const KVM: &str = "/dev/kvm";

/// What executes a Guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// x86-64 rewritten to x86-64 in this process.
    Translator,
}

impl fmt::Display for Engine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("translator")
    }
}

/// An engine with the reason for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineChoice {
    /// The engine.
    pub engine: Engine,
    /// Why this one, to stand in brackets.
    pub reason: String,
}

/// The state of /dev/kvm in a few words; `true` when it opens.
pub fn kvm_state() -> (bool, String) {
    if !Path::new(KVM).exists() {
        return (false, format!("{KVM} does not exist"));
    }
    match File::options().read(true).write(true).open(KVM) {
        Ok(_) => (true, format!("{KVM} opens")),
        Err(cause) => {
            let words = cause.kind().to_string();
            (false, format!("{KVM} cannot be opened: {words}"))
        }
    }
}

/// Chooses the engine for `--engine`.
///
/// # Errors
/// For a word that is no engine, for the one that this version does not have, and for a processor that lacks
/// what the translator's code uses.
pub fn choose(word: &str) -> Result<EngineChoice, Mistake> {
    let reason = match word {
        "translator" => "asked for with --engine".to_owned(),
        "auto" => match kvm_state() {
            (true, state) => format!("{state}, but this version has no KVM engine yet"),
            (false, state) => state,
        },
        "kvm" => {
            return Err(Mistake(
                "--engine kvm: this version has no KVM engine yet; give translator, or leave the option out"
                    .to_owned(),
            ));
        }
        _ => {
            return Err(Mistake(format!("--engine {word}: is no engine; give auto, kvm or translator")));
        }
    };
    if let Some(missing) = requirements().iter().find(|requirement| !requirement.present) {
        return Err(Mistake(format!(
            "--engine {word}: the translator needs {} ({}), which this machine lacks; lguest doctor tells more",
            missing.name, missing.since
        )));
    }
    Ok(EngineChoice { engine: Engine::Translator, reason })
}

/// A field of the first processor in /proc/cpuinfo.
pub fn cpuinfo_field<'a>(cpuinfo: &'a str, name: &str) -> Option<&'a str> {
    cpuinfo.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kvm_is_refused_honestly() {
        assert!(choose("kvm").unwrap_err().0.contains("no KVM engine yet"));
    }

    #[test]
    fn a_word_that_is_no_engine_is_refused() {
        assert!(choose("warp").unwrap_err().0.starts_with("--engine warp: "));
    }

    #[test]
    fn a_field_of_cpuinfo_is_found_by_its_whole_name() {
        let text = "processor\t: 0\nmodel\t\t: 7\nmodel name\t: A B\n";
        assert_eq!(cpuinfo_field(text, "model name"), Some("A B"));
        assert_eq!(cpuinfo_field(text, "flags"), None);
    }
}
