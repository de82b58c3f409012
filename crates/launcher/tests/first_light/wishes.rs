//! `--env` and `--workdir`, and a pipe through a command.

use crate::command::{debian_is_here, run};

#[test]
fn a_command_finds_its_variables_and_its_directory() {
    if !debian_is_here("a_command_finds_its_variables_and_its_directory") {
        return;
    }
    let script = "printf '%s|' \"$WORD\" \"$EMPTY\"; pwd";
    let words = [
        "run",
        "debian",
        "--env",
        "WORD=it's $x",
        "--env",
        "EMPTY=",
        "--workdir",
        "/proc",
        "--",
        "sh",
        "-c",
        script,
    ];
    let done = run(&words, "");
    assert_eq!((done.status, done.output.as_str()), (Some(0), "it's $x||/proc\n"), "{}", done.messages);
    let lost = run(&["run", "debian", "--workdir", "/no/such", "--", "true"], "");
    assert_eq!(lost.status, Some(126), "{}", lost.messages);
}

#[test]
fn a_pipe_passes_through_a_command_byte_for_byte() {
    if !debian_is_here("a_pipe_passes_through_a_command_byte_for_byte") {
        return;
    }
    let input: String = (0..2000).map(|line| format!("line {line}\t\u{e9}\x04\x16\x03\r\n")).collect();
    let done = run(&["run", "debian", "--", "cat"], &input);
    assert_eq!(done.status, Some(0), "{}", done.messages);
    assert!(done.output == input, "{} bytes of {}", done.output.len(), input.len());
}
