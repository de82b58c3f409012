//! What a shell and a manual's reader are told: made from the command line's one definition, so that they agree with it.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::cli::Cli;
use crate::request::Mistake;

/// A script that completes lguest's words in this shell.
pub fn completions(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "lguest", &mut script);
    script
}

/// The manual's page of the command, or of one of its subcommands, in the format of man(7).
///
/// # Errors
/// For a word that is no subcommand.
pub fn page(subcommand: Option<&str>) -> Result<Vec<u8>, Mistake> {
    let mut command = Cli::command();
    command.build();
    let wanted = match subcommand {
        None => command,
        Some(name) => match command.find_subcommand(name) {
            Some(found) => found.clone(),
            None => {
                let known =
                    command.get_subcommands().map(|one| one.get_name()).collect::<Vec<_>>().join(", ");
                return Err(Mistake(format!("SUBCOMMAND {name}: is none; give one of {known}")));
            }
        },
    };
    let mut text = Vec::new();
    clap_mangen::Man::new(wanted).render(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shells_script_knows_the_options() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = String::from_utf8(completions(shell)).unwrap();
            assert!(script.contains("timeout") && script.contains("images"), "{shell}");
        }
    }

    #[test]
    fn the_pages_are_the_commands() {
        let whole = String::from_utf8(page(None).unwrap()).unwrap();
        assert!(whole.contains(".TH") && whole.contains("images"), "{whole}");
        let run = String::from_utf8(page(Some("run")).unwrap()).unwrap();
        assert!(run.contains("memory") && run.contains(".SH"), "{run}");
        let Mistake(sentence) = page(Some("fly")).unwrap_err();
        assert!(sentence.starts_with("SUBCOMMAND fly: "), "{sentence}");
    }
}
