//! `lguest exec`: programs in a machine that runs.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::command::{PATIENCE, debian_is_here, lguest, run, wait};
use crate::roots::busybox_root;
use crate::terminal::Terminal;

/// A machine that waits, killed when it is dropped.
struct Machine(Child);

impl Machine {
    /// One that is listed.
    fn start(guest: &str) -> Machine {
        let mut child = lguest()
            .args(["run", guest, "--", "sh", "-c", "echo up; sleep 300"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "up\n");
        Machine(child)
    }

    fn id(&self) -> String {
        self.0.id().to_string()
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = lguest();
        command.arg("exec").arg(self.id()).args(words);
        command
    }

    fn exec(&self, words: &[&str]) -> Output {
        self.command(words).stdin(Stdio::null()).output().unwrap()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn texts(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn everything_of_exec(guest: &str) {
    let machine = Machine::start(guest);
    let done = machine.exec(&["--", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!(texts(&done), (Some(7), "out\n".to_owned(), "err\n".to_owned()));
    let words = ["--env", "ANSWER=4 2", "--workdir", "/etc", "--user", "33:44", "--", "sh", "-c"];
    let done = machine.exec(&[&words[..], &["id -u; id -g; pwd; echo $ANSWER; kill -9 $$"]].concat());
    assert_eq!(texts(&done).1, "33\n44\n/etc\n4 2\n");
    assert_eq!(done.status.code(), Some(137));
    let missing = machine.exec(&["--", "nosuch"]);
    assert!(missing.status.code() == Some(127) && texts(&missing).2.contains("nosuch"), "{missing:?}");

    // Input longer than any window, byte for byte, and several at once.
    let input: Vec<u8> = (0..1_000_000u32).map(|number| (number.wrapping_mul(7919) >> 8) as u8).collect();
    let mut cats: Vec<Child> = (0..3)
        .map(|_| {
            let mut command = machine.command(&["--", "cat"]);
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    let readers: Vec<_> = cats
        .iter_mut()
        .map(|cat| {
            let (mut to, mut from) = (cat.stdin.take().unwrap(), cat.stdout.take().unwrap());
            let input = input.clone();
            std::thread::spawn(move || to.write_all(&input));
            std::thread::spawn(move || {
                let mut bytes = Vec::new();
                from.read_to_end(&mut bytes).map(|_| bytes)
            })
        })
        .collect();
    for reader in readers {
        assert!(reader.join().unwrap().unwrap() == input, "other bytes came back");
    }
    cats.iter_mut().for_each(|cat| assert_eq!(wait(cat, PATIENCE), Some(0)));

    a_signal_reaches_the_program(&machine);
    a_client_that_is_killed_takes_its_program_along(&machine);
    a_terminal_has_its_size_and_its_keys(&machine);
}

fn a_signal_reaches_the_program(machine: &Machine) {
    let script = "trap 'echo caught; exit 9' TERM; echo ready; while true; do sleep 1; done";
    let mut child = machine
        .command(&["--", "sh", "-c", script])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    let process = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(process, rustix::process::Signal::TERM).unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "caught");
    assert_eq!(wait(&mut child, PATIENCE), Some(9));
    // One that no signal reaches does not keep its client: the third is the client's own.
    let mut child = machine
        .command(&["--", "sh", "-c", "trap '' TERM; echo ready; while true; do sleep 1; done"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    let process = rustix::process::Pid::from_child(&child);
    let end = Instant::now() + PATIENCE;
    while child.try_wait().unwrap().is_none() && Instant::now() < end {
        let _ = rustix::process::kill_process(process, rustix::process::Signal::TERM);
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(wait(&mut child, PATIENCE), Some(143));
}

fn a_client_that_is_killed_takes_its_program_along(machine: &Machine) {
    let mut child = machine
        .command(&["--", "sh", "-c", "echo ready; sleep 4242"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    child.kill().unwrap();
    child.wait().unwrap();
    // The pattern does not find itself.
    let look = "grep -l '424[2]' /proc/[0-9]*/cmdline 2>/dev/null | wc -l";
    let end = Instant::now() + PATIENCE;
    loop {
        let left = texts(&machine.exec(&["--", "sh", "-c", look])).1;
        if left.trim() == "0" {
            return;
        }
        assert!(Instant::now() < end, "the program lives on: {left}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn a_terminal_has_its_size_and_its_keys(machine: &Machine) {
    let id = machine.id();
    let mut terminal = Terminal::start(&["exec", &id]);
    terminal.until("# ", PATIENCE);
    assert!(terminal.modes().are_raw());
    terminal.types("stty size; echo 'do''ne'\r");
    assert!(terminal.until("done", PATIENCE).contains("24 80"));
    terminal.types("sleep 1000\r");
    std::thread::sleep(Duration::from_millis(500));
    terminal.types("\x03");
    terminal.until("# ", PATIENCE);
    terminal.types("exit 5\r");
    assert_eq!(terminal.ends(PATIENCE), Some(5));
    assert!(!terminal.modes().are_raw());
}

#[test]
fn programs_are_started_in_a_debian_machine_that_runs() {
    if debian_is_here("programs_are_started_in_a_debian_machine_that_runs") {
        everything_of_exec("debian");
    }
}

#[test]
fn programs_are_started_in_a_directory_root_that_runs() {
    let test = "programs_are_started_in_a_directory_root_that_runs";
    if debian_is_here(test) {
        everything_of_exec(busybox_root(test).to_str().unwrap());
    }
}

#[test]
fn a_machine_without_an_agent_and_no_machine_at_all_are_sentences() {
    let done = run(&["exec", "1", "--", "true"], "");
    assert_eq!((done.status, done.sentences().len()), (Some(125), 1), "{done:?}");
    assert!(done.messages.contains("ID 1: no such machine runs"), "{done:?}");
    let mut child = lguest()
        .args(["run"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let id = child.id().to_string();
    let end = Instant::now() + PATIENCE;
    let sentence = loop {
        let done = run(&["exec", &id, "--", "true"], "");
        if !done.messages.contains("no such machine") || Instant::now() > end {
            break done;
        }
    };
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(sentence.status == Some(125) && sentence.messages.contains("has no agent"), "{sentence:?}");
}
