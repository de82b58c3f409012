//! The sandbox from outside: a machine runs in it, and where a host has only a part of it.
//!
//! A container is played by a thread whose own filter refuses what that container would; what it starts inherits it.

use std::process::{Command, Output, Stdio};

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};

/// Runs the default Guest to its end where the host answers EPERM to these calls.
fn run_where_refused(refused: &[libc::c_long], words: &[&str]) -> Output {
    let rules = refused.iter().map(|&number| (number, Vec::new())).collect();
    let refuse = SeccompAction::Errno(libc::EPERM as u32);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, TargetArch::x86_64).unwrap();
    let program: BpfProgram = filter.try_into().unwrap();
    let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
    let thread = std::thread::spawn(move || {
        if let Err(error) = seccompiler::apply_filter(&program) {
            eprintln!("this host has no seccomp to play a container with: {error}");
        }
        let mut command = Command::new(env!("CARGO_BIN_EXE_lguest"));
        command.args(["run", "--engine", "translator"]).args(words).stdin(Stdio::null()).output().unwrap()
    });
    thread.join().unwrap()
}

const LANDLOCK: [libc::c_long; 3] =
    [libc::SYS_landlock_create_ruleset, libc::SYS_landlock_add_rule, libc::SYS_landlock_restrict_self];

#[test]
fn a_machine_runs_where_there_is_no_landlock_and_where_there_is_no_seccomp() {
    for refused in [&[][..], &LANDLOCK, &[libc::SYS_seccomp]] {
        let output = run_where_refused(refused, &[]);
        assert_eq!(output.status.code(), Some(0), "{refused:?}: {output:?}");
    }
}

#[test]
fn a_sandbox_that_was_asked_for_and_cannot_be_had_is_refused() {
    let output = run_where_refused(&LANDLOCK, &["--sandbox", "on"]);
    let sentence = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(125), "{sentence}");
    assert!(sentence.contains("--sandbox on: ") && sentence.contains("landlock"), "{sentence}");
}

#[test]
fn a_word_that_is_no_choice_is_refused() {
    let output = run_where_refused(&[], &["--sandbox", "maybe"]);
    let sentence = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(125), "{sentence}");
    assert!(sentence.starts_with("lguest: --sandbox maybe: "), "{sentence}");
}
