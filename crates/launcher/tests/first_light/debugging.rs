//! `--gdb`, with the real GDB. Where it is not installed these tests say SKIPPED, loudly.

use crate::command::{debian_is_here, folder, lguest, run, wait};
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// For a boot with a debugger in it, on a machine that does other things too.
const PATIENCE: Duration = Duration::from_secs(120);

/// A machine that waits for its debugger at `socket`, and gets this input.
fn waiting(words: &[&str], socket: &Path, input: &str) -> Child {
    let mut child = lguest()
        .args(["run", "--engine", "translator", "--timeout", "100"])
        .arg("--gdb")
        .arg(format!("unix:{}", socket.display()))
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let end = Instant::now() + Duration::from_secs(30);
    while !socket.exists() {
        assert!(Instant::now() < end, "the machine does not wait for a debugger");
        std::thread::sleep(Duration::from_millis(10));
    }
    child
}

/// What GDB prints when it is told this; none when there is no GDB here.
fn gdb(test: &str, socket: &Path, commands: &[&str]) -> Option<String> {
    let mut command = Command::new("gdb");
    command.args(["-nx", "--batch", "-ex", "set pagination off", "-ex"]);
    command.arg(format!("target remote {}", socket.display()));
    for one in commands {
        command.args(["-ex", one]);
    }
    match command.output() {
        Ok(output) => Some(String::from_utf8_lossy(&output.stdout).into_owned()),
        Err(_) => {
            let skipped = format!("SKIPPED {test}: gdb is not installed\n");
            std::io::stderr().lock().write_all(skipped.as_bytes()).unwrap();
            None
        }
    }
}

/// What the machine printed, and its status.
fn over(mut child: Child) -> (String, Option<i32>) {
    let mut output = String::new();
    let mut screen = child.stdout.take().unwrap();
    let status = wait(&mut child, PATIENCE);
    screen.read_to_string(&mut output).unwrap();
    (output, status)
}

#[test]
fn gdb_breaks_steps_and_lets_the_default_guest_go_on_to_power_off() {
    let name = "gdb_breaks_steps_and_lets_the_default_guest_go_on_to_power_off";
    let socket = folder(name).join("socket");
    let child = waiting(&[], &socket, "help\n");
    // The entry, by the ELF header of the Guest that comes with lguest.
    let entry = u64::from_le_bytes(lguest_kernel::IMAGE[24..32].try_into().unwrap());
    let print = |what: &str| format!("printf \"{what}=%#lx\\n\", ${what}");
    let said = gdb(
        name,
        &socket,
        &[
            &print("rip"),
            "stepi",
            &print("rip"),
            &format!("break *{:#x}", entry + 8),
            "continue",
            &print("rip"),
            &print("efer"),
            &format!("x/1xb {:#x}", entry + 8),
            "delete",
            "continue",
        ],
    );
    let Some(said) = said else {
        return drop(over(child));
    };
    let (output, status) = over(child);
    assert!(said.contains(&format!("rip={entry:#x}")), "{said}");
    assert!(said.contains(&format!("rip={:#x}", entry + 1)), "one step: {said}");
    assert!(said.contains(&format!("rip={:#x}", entry + 8)), "the breakpoint: {said}");
    assert!(said.contains("efer=0x500"), "{said}");
    assert!(!said.contains("0xcc"), "no byte of the Guest's changed: {said}");
    assert!(said.contains("exited normally"), "{said}");
    assert!(output.contains("poweroff") && status == Some(0), "{status:?} {output}");
}

#[test]
fn gdb_looks_into_debians_kernel_while_it_boots() {
    let name = "gdb_looks_into_debians_kernel_while_it_boots";
    if !debian_is_here(name) {
        return;
    }
    let names = run(&["run", "debian", "--engine", "translator", "--", "cat", "/proc/kallsyms"], "").output;
    let address = |symbol: &str| {
        let line = names.lines().find(|line| line.split_whitespace().nth(2) == Some(symbol));
        u64::from_str_radix(line.unwrap().split_whitespace().next().unwrap(), 16).unwrap()
    };
    let (called, counted) = (address("kernel_execve"), address("jiffies_64"));
    let socket = folder(name).join("socket");
    let child = waiting(&["debian"], &socket, "echo $((6*7))\n");
    let said = gdb(
        name,
        &socket,
        &[
            &format!("hbreak *{called:#x}"),
            "continue",
            "printf \"rip=%#lx\\n\", $rip",
            "stepi",
            "backtrace 3",
            "delete",
            &format!("watch *(unsigned long *){counted:#x}"),
            "continue",
            "delete",
            "continue",
        ],
    );
    let Some(said) = said else {
        return drop(over(child));
    };
    let (output, status) = over(child);
    assert!(said.contains(&format!("rip={called:#x}")), "{said}");
    assert!(said.contains("#1"), "a backtrace: {said}");
    assert!(said.contains("Hardware watchpoint") && said.contains("New value"), "{said}");
    assert!(said.contains("exited normally"), "{said}");
    assert!(output.contains("42") && status == Some(0), "{status:?} {output}");
}

#[test]
fn a_debugger_that_hangs_up_leaves_a_machine_that_runs() {
    let name = "a_debugger_that_hangs_up_leaves_a_machine_that_runs";
    let socket = folder(name).join("socket");
    let child = waiting(&[], &socket, "help\n");
    drop(std::os::unix::net::UnixStream::connect(&socket).unwrap());
    let (output, status) = over(child);
    assert!(output.contains("poweroff") && status == Some(0), "{status:?} {output}");
}

#[test]
fn what_is_no_packet_does_not_hurt_the_machine() {
    let name = "what_is_no_packet_does_not_hurt_the_machine";
    let socket = folder(name).join("socket");
    let child = waiting(&[], &socket, "help\n");
    let mut stream = std::os::unix::net::UnixStream::connect(&socket).unwrap();
    let _ = stream.write_all(&[0x24, 0xff, 0x23, 0x30, 0x30, 3, 3, 3, 0x24, 0x67, 0x23, 0x36, 0x37]);
    drop(stream);
    assert_eq!(over(child).1, Some(0));
}

#[test]
fn a_place_that_is_none_is_a_mistake() {
    let done = run(&["run", "--engine", "translator", "--gdb", "nowhere"], "");
    assert_eq!(done.status, Some(125));
    assert!(done.messages.contains("--gdb nowhere"), "{}", done.messages);
}

/// Waits until a file holds these words.
fn wait_for(path: &Path, words: &str) {
    let end = Instant::now() + PATIENCE;
    while !std::fs::read_to_string(path).unwrap_or_default().contains(words) {
        assert!(Instant::now() < end, "no {words:?} in {}", path.display());
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn ctrl_c_in_gdb_stops_a_guest_that_runs_and_kill_ends_it() {
    let name = "ctrl_c_in_gdb_stops_a_guest_that_runs_and_kill_ends_it";
    let folder = folder(name);
    let (socket, log) = (folder.join("socket"), folder.join("said"));
    // No end of input: the Guest idles at its prompt until somebody ends it.
    let mut child = lguest()
        .args(["run", "--engine", "translator", "--timeout", "100", "--cpus", "2"])
        .arg("--gdb")
        .arg(format!("unix:{}", socket.display()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let end = Instant::now() + PATIENCE;
    while !socket.exists() {
        assert!(Instant::now() < end, "the machine does not wait for a debugger");
        std::thread::sleep(Duration::from_millis(10));
    }
    let said = std::fs::File::create(&log).unwrap();
    let debugger = Command::new("gdb")
        .args(["-nx", "-q", "-ex", "set pagination off", "-ex", "set confirm off", "-ex"])
        .arg(format!("target remote {}", socket.display()))
        .stdin(Stdio::piped())
        .stdout(said.try_clone().unwrap())
        .stderr(said)
        .spawn();
    let Ok(mut debugger) = debugger else {
        let skipped = format!("SKIPPED {name}: gdb is not installed\n");
        std::io::stderr().lock().write_all(skipped.as_bytes()).unwrap();
        child.kill().unwrap();
        return drop(child.wait());
    };
    let mut words = debugger.stdin.take().unwrap();
    for round in 0..3 {
        writeln!(words, "echo round {round}\\n\ncontinue").unwrap();
        wait_for(&log, &format!("round {round}"));
        // Whether it idles already or still starts: it stops where it is.
        std::thread::sleep(Duration::from_millis(300 * round));
        let gdb = rustix::process::Pid::from_child(&debugger);
        rustix::process::kill_process(gdb, rustix::process::Signal::INT).unwrap();
        writeln!(words, "printf \"stopped {round} %d\\n\", $rip != 0\ninfo threads").unwrap();
        wait_for(&log, &format!("stopped {round} 1"));
    }
    writeln!(words, "kill\nquit").unwrap();
    drop(words);
    assert!(wait(&mut debugger, PATIENCE).is_some(), "gdb ends");
    let said = std::fs::read_to_string(&log).unwrap();
    assert_eq!(said.matches("SIGINT").count(), 3, "{said}");
    assert!(said.contains("killed]"), "{said}");
    assert_eq!(wait(&mut child, PATIENCE), Some(0), "{said}");
}
