//! What can be seen of a run: `--stats` at the end and on a signal, `--perf-map`.

use crate::command::{lguest, run, wait};
use std::io::{BufRead, BufReader, Read, Write};
use std::process::Stdio;
use std::time::{Duration, Instant};

#[test]
fn a_finished_run_gives_its_account_when_asked() {
    let done = run(&["run", "--engine", "translator", "--stats"], "help\n");
    assert_eq!(done.status, Some(0), "{}", done.messages);
    for row in ["generated code", "units", "code bytes", "ports", "halts", "wrmsr", "guest ram"] {
        assert!(done.messages.contains(row), "{row} is missing: {}", done.messages);
    }
    assert!(!done.output.contains("generated code"), "standard output is the Guest's");
}

#[test]
fn a_run_that_is_not_asked_gives_none() {
    let done = run(&["run", "--engine", "translator"], "help\n");
    assert!(!done.messages.contains("generated code"), "{}", done.messages);
}

#[test]
fn a_signal_asks_for_an_account_while_the_guest_sleeps() {
    let mut child = lguest()
        .args(["run", "--engine", "translator", "--stats=json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut keyboard = child.stdin.take().unwrap();
    let mut screen = child.stdout.take().unwrap();
    let mut messages = BufReader::new(child.stderr.take().unwrap());
    // At its prompt the Guest waits in `hlt`.
    until_prompt(&mut screen);
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::USR1).unwrap();
    let account = loop {
        let mut line = String::new();
        assert_ne!(messages.read_line(&mut line).unwrap(), 0, "no account came");
        if line.starts_with('{') {
            break line;
        }
    };
    assert!(account.contains("\"asleep_in_hlt\":["), "{account}");
    // The Guest did not notice: it takes another command and goes off cleanly.
    keyboard.write_all(b"poweroff\n").unwrap();
    drop(keyboard);
    let status = wait(&mut child, Duration::from_secs(30));
    assert_eq!(status, Some(0));
}

fn until_prompt(screen: &mut impl Read) {
    let end = Instant::now() + Duration::from_secs(30);
    let mut seen = Vec::new();
    while !seen.ends_with(b"lguest> ") {
        let mut byte = [0];
        assert!(Instant::now() < end && screen.read(&mut byte).unwrap() == 1, "no prompt");
        seen.push(byte[0]);
    }
}

#[test]
fn a_map_for_perf_names_the_guests_code_by_its_symbols() {
    let folder = crate::command::folder("a_map_for_perf");
    let names = folder.join("names");
    // The default Guest is linked at 1 MiB; its last symbol names what follows within a page.
    std::fs::write(&names, "0000000000100000 T the_beginning\n0000000000100800 T further_on\n").unwrap();
    let mut child = lguest()
        .args(["run", "--engine", "translator", "--perf-map", "--symbols"])
        .arg(&names)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let map = format!("/tmp/perf-{}.map", child.id());
    drop(child.stdin.take());
    assert_eq!(wait(&mut child, Duration::from_secs(30)), Some(0));
    let text = std::fs::read_to_string(&map).unwrap();
    std::fs::remove_file(map).unwrap();
    assert!(text.lines().next().unwrap().ends_with("[lguest doors]"), "{text}");
    assert!(text.contains("[guest] the_beginning"), "{text}");
    assert!(text.lines().all(|line| line.split(' ').count() >= 3), "start, size, name");
}

#[test]
fn names_without_a_map_and_files_without_names_are_mistakes() {
    let alone = run(&["run", "--engine", "translator", "--symbols", "/proc/self/maps"], "");
    assert_eq!(alone.status, Some(125));
    assert!(alone.messages.contains("--symbols"), "{}", alone.messages);
    let form = run(&["run", "--stats=xml"], "");
    assert_eq!(form.status, Some(125));
    assert!(form.messages.contains("--stats xml"), "{}", form.messages);
}
