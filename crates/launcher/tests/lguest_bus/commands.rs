//! `lguest run -- COMMAND`: one command of the default Guest's shell, and its exit status.

use std::process::{Command, Output, Stdio};

use crate::guest::engines;

fn run(engine: &str, command: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_lguest"))
        .args(["run", "--engine", engine, "--timeout", "60", "--"])
        .args(command)
        .stdin(Stdio::null())
        .output()
        .expect("the built command starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (status.code(), text(&stdout), text(&stderr))
}

#[test]
fn a_command_prints_its_answer_and_nothing_else_and_its_status_is_lguests() {
    for engine in engines("a_command_prints_its_answer_and_nothing_else_and_its_status_is_lguests") {
        for (command, status, output) in [
            (&["echo", "one", "two"][..], 0, "one two\n"),
            (&["cat /sys/bus/lguest/devices/0/status"], 0, "7"),
            (&["read", "lgbz", "0"], 1, "read: no such disk: see devices\n"),
            (&["dance"], 127, "dance: no such command; try help\n"),
            (&["dance; echo done"], 0, "dance: no such command; try help\ndone\n"),
            (&["poweroff"], 0, ""),
        ] {
            let (code, said, messages) = run(engine, command);
            assert_eq!((code, said.as_str()), (Some(status), output), "{engine}, {command:?}: {messages}");
            assert_eq!(messages.lines().count(), 1, "the engine and no more: {messages}");
        }
        let (code, _, messages) = run(engine, &["panic", "at", "the", "disco"]);
        assert!(code == Some(126) && messages.contains("at the disco"), "{messages}");
    }
}

#[test]
fn a_command_that_the_shell_cannot_take_is_refused_before_anything_starts() {
    let (code, said, messages) = run("translator", &["echo", "caf\u{e9}"]);
    assert_eq!((code, said.as_str(), messages.lines().count()), (Some(125), "", 1), "{messages}");
    assert!(messages.starts_with("lguest: COMMAND echo: "), "{messages}");
}
