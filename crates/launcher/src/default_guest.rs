//! The Guest that comes with lguest: its image, and the command line by which a COMMAND reaches its shell.
//!
//! What stands behind `--` on its command line it runs instead of asking for lines; then it reports its status on the
//! control channel and turns itself off (kernel/src/main.rs).

use crate::kernel_image::KernelImage;
use crate::request::{self, Mistake};

/// What stands between a Guest's own words and the COMMAND.
const COMMAND_MARK: &str = "--";

/// A COMMAND's output goes to a pipe or a file, whose lines end with a line feed alone.
const PLAIN: &str = " plain";

/// The image.
pub fn image() -> KernelImage {
    KernelImage { vmlinux: lguest_kernel::IMAGE.to_vec(), setup_header: None }
}

/// Its command line: the user's words, then the COMMAND. `attached`: a terminal shows what it prints.
///
/// # Errors
/// For a COMMAND that its shell cannot take: other than printable ASCII, longer than a command line, or one beside a COMMAND
/// that stands in `--cmdline` already.
pub fn cmdline(given: Option<&str>, command: &[String], attached: bool) -> Result<String, Mistake> {
    let given = given.unwrap_or_default();
    let Some(first) = command.first() else { return Ok(given.to_owned()) };
    let fault = |what: &str| Err(Mistake(format!("COMMAND {}: {what}", first.escape_default())));
    if given.split(' ').any(|word| word == COMMAND_MARK) {
        return fault("stands beside one in --cmdline, behind its --; give one of the two");
    }
    let command = command.join(" ");
    if !command.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return fault("holds what the default Guest's shell does not know; give printable ASCII");
    }
    let plain = if attached { "" } else { PLAIN };
    let whole = format!("{given}{plain} {COMMAND_MARK} {command}");
    if request::cmdline(&whole).is_err() {
        return fault("is too long for the default Guest; give it on standard input, a command a line");
    }
    Ok(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn a_command_stands_behind_the_users_words() {
        assert_eq!(cmdline(None, &[], true).unwrap(), "");
        assert_eq!(cmdline(Some("noconsole"), &[], false).unwrap(), "noconsole");
        let command = words(&["net", "ping", "all"]);
        assert_eq!(cmdline(None, &command, true).unwrap(), " -- net ping all");
        assert_eq!(cmdline(Some("noconsole"), &command, false).unwrap(), "noconsole plain -- net ping all");
    }

    #[test]
    fn a_command_that_the_shell_cannot_take_is_told_in_one_sentence() {
        let long = "x".repeat(3000);
        for (given, command, hint) in [
            (None, "caf\u{e9}", "printable ASCII"),
            (None, "echo\npoweroff", "printable ASCII"),
            (None, &long, "too long"),
            (Some("-- devices"), "devices", "one of the two"),
        ] {
            let Mistake(sentence) = cmdline(given, &words(&[command]), true).unwrap_err();
            assert!(sentence.starts_with("COMMAND ") && sentence.contains(hint), "{sentence}");
            assert_eq!(sentence.lines().count(), 1);
        }
    }
}
