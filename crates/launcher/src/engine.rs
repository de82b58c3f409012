//! Which engine executes the Guest's instructions, and why.

use std::fs::File;
use std::path::Path;

use lguest_host::kvm::{Calibrated, calibrate};
pub use lguest_host::platform::Engine;
use lguest_translator::requirements;

use crate::request::Mistake;

/// Where the Host offers KVM.
const KVM: &str = "/dev/kvm";

/// The name that `--engine` takes.
pub fn name(engine: Engine) -> &'static str {
    match engine {
        Engine::Translator => "translator",
        Engine::Kvm => "kvm",
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

/// Chooses the engine for `--engine`. `auto` takes KVM only when a small Guest runs on it at hardware speed.
///
/// # Errors
/// For a word that is no engine, for a KVM that was asked for and does not run, and for a processor that lacks
/// what the translator's code uses.
pub fn choose(word: &str) -> Result<EngineChoice, Mistake> {
    let asked = "asked for with --engine";
    let reason = match word {
        "translator" => asked.to_owned(),
        "kvm" => {
            return match kvm_speed() {
                Ok(_) => Ok(EngineChoice { engine: Engine::Kvm, reason: asked.to_owned() }),
                Err(reason) => {
                    Err(Mistake(format!("--engine kvm: {reason}; --engine translator needs no KVM")))
                }
            };
        }
        "auto" => match kvm_speed() {
            Ok(speed) if speed.is_hardware() => {
                let reason = format!("{KVM} runs {}", in_words(speed));
                return Ok(EngineChoice { engine: Engine::Kvm, reason });
            }
            Ok(speed) => format!("{KVM} opens, but only interprets: {}", in_words(speed)),
            Err(reason) => reason,
        },
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

/// How fast KVM is here, or why there is none.
fn kvm_speed() -> Result<Calibrated, String> {
    match kvm_state() {
        (true, _) => calibrate().map_err(|error| error.to_string()),
        (false, state) => Err(state),
    }
}

/// A speed as a person says it.
fn in_words(speed: Calibrated) -> String {
    format!("{:.1} million instructions a second", speed.per_second as f64 / 1e6)
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
    fn auto_takes_kvm_only_at_hardware_speed_and_always_says_why() {
        let choice = choose("auto").unwrap();
        let fast = kvm_speed().is_ok_and(Calibrated::is_hardware);
        assert_eq!(choice.engine == Engine::Kvm, fast, "{choice:?}");
        assert!(choice.reason.contains(KVM), "{}", choice.reason);
    }

    #[test]
    fn an_interpreter_loses_and_hardware_wins() {
        assert!(!Calibrated { per_second: 1_600_000 }.is_hardware());
        assert!(Calibrated { per_second: 800_000_000 }.is_hardware());
    }

    #[test]
    fn kvm_is_what_was_asked_for_or_a_sentence() {
        match choose("kvm") {
            Ok(choice) => assert_eq!(choice.engine, Engine::Kvm),
            Err(mistake) => assert!(mistake.0.starts_with("--engine kvm: "), "{mistake}"),
        }
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
