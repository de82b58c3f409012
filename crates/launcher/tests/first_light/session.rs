//! Debian Guests without a person: commands, pipes, limits, and how idle an idle one is.

use crate::command::{PATIENCE, debian_is_here, lguest, run, wait};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// Clock ticks a second of the figures in /proc/PID/stat: fixed for user space on x86 (USER_HZ).
const TICKS: f64 = 100.0;
/// Most often that an idle Guest's threads, all together, may go back to sleep in a second. A Guest that is woken by a tick sleeps
/// 250 times a second, one whose Launcher polls more often still; ours of one processor and of four do it 26 and 36 times.
const MOST_SLEEPS: f64 = 100.0;
/// Most of one core that it may use: one that spins takes all of it and never sleeps. What is asked for is under 1 % (`bench`
/// looks), but each wake costs a busy host several times what it costs a quiet one: 0.2 % there has been 3.1 % in CI.
const MOST_USED: f64 = 0.2;

#[test]
fn a_script_from_a_pipe_prints_its_answer_and_ends() {
    if !debian_is_here("a_script_from_a_pipe_prints_its_answer_and_ends") {
        return;
    }
    let finished = run(&["run", "debian"], "echo $((6*7))\n");
    assert_eq!((finished.output.trim_end(), finished.status), ("42", Some(0)), "{finished:?}");
}

#[test]
fn a_commands_status_and_output_are_the_runs() {
    if !debian_is_here("a_commands_status_and_output_are_the_runs") {
        return;
    }
    let finished = run(&["run", "debian", "--", "sh", "-c", "echo here; exit 7"], "");
    assert_eq!((finished.output.trim_end(), finished.status), ("here", Some(7)), "{finished:?}");
}

#[test]
fn the_kernel_is_debians_own_and_finds_its_machine_in_order() {
    if !debian_is_here("the_kernel_is_debians_own_and_finds_its_machine_in_order") {
        return;
    }
    let script =
        "uname -srm; dmesg | grep -iE 'oops|BUG:|Call Trace|WARNING:' | head; cat /proc/sys/kernel/tainted";
    let finished = run(&["run", "debian", "--", "sh", "-c", script], "");
    let lines: Vec<&str> = finished.output.lines().map(str::trim_end).collect();
    assert!(
        lines.first().is_some_and(|line| line.starts_with("Linux 6.") && line.ends_with("x86_64")),
        "{finished:?}"
    );
    assert_eq!(&lines[1..], ["0"], "the kernel complains: {finished:?}");
}

#[test]
fn numbers_come_out_right_in_the_guest() {
    if !debian_is_here("numbers_come_out_right_in_the_guest") {
        return;
    }
    // FIPS 180-4's million times "a", and a walk through awk's floating point.
    let script = "head -c 1000000 /dev/zero | tr '\\0' a | sha256sum; \
                  awk 'BEGIN { for (i = 1; i < 100000; i++) s += 1 / (i * i); printf \"%.6f\\n\", s }'";
    let finished = run(&["run", "debian", "--", "sh", "-c", script], "");
    assert!(
        finished.output.contains("cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"),
        "{finished:?}"
    );
    assert!(finished.output.contains("1.644924"), "{finished:?}");
}

#[test]
fn the_time_limit_ends_the_run() {
    if !debian_is_here("the_time_limit_ends_the_run") {
        return;
    }
    let finished = run(&["run", "debian", "--timeout", "5", "--", "sleep", "1000"], "");
    assert_eq!(finished.status, Some(124), "{finished:?}");
    assert!(finished.took < Duration::from_secs(15), "{finished:?}");
}

#[test]
fn an_idle_guest_uses_next_to_nothing() {
    if !debian_is_here("an_idle_guest_uses_next_to_nothing") {
        return;
    }
    expect_idleness("1");
}

#[test]
fn four_idle_processors_use_next_to_nothing_too() {
    if !debian_is_here("four_idle_processors_use_next_to_nothing_too") {
        return;
    }
    expect_idleness("4");
}

/// Watches an idle Guest for ten seconds.
fn expect_idleness(cpus: &str) {
    let words = ["run", "debian", "--cpus", cpus, "--", "sh", "-c", "echo up; sleep 18"];
    let (mut child, lines) = start(&words, Stdio::null());
    assert_eq!(lines.recv_timeout(PATIENCE).as_deref(), Ok("up"));
    // What start-up left undone is done in the first seconds.
    std::thread::sleep(Duration::from_secs(3));
    let (before, slept_before) = (cpu_seconds(child.id()), sleeps(child.id()));
    std::thread::sleep(Duration::from_secs(10));
    let used = (cpu_seconds(child.id()) - before) / 10.0;
    let slept = (sleeps(child.id()) - slept_before) / 10.0;
    assert_eq!(wait(&mut child, Duration::from_secs(20)), Some(0));
    assert!(slept < MOST_SLEEPS, "{cpus} idle processors went to sleep {slept} times a second");
    assert!(used < MOST_USED, "{cpus} idle processors used {:.1} % of a core", used * 100.0);
}

#[test]
fn a_line_from_a_pipe_is_answered_before_the_next_one_comes() {
    if !debian_is_here("a_line_from_a_pipe_is_answered_before_the_next_one_comes") {
        return;
    }
    let (mut child, lines) = start(&["run", "debian"], Stdio::piped());
    let mut input = child.stdin.take().expect("piped");
    for (question, answer) in [("echo $((1+1))\n", "2"), ("echo $((2+3))\n", "5")] {
        input.write_all(question.as_bytes()).expect("the command takes input");
        let heard = lines.recv_timeout(Duration::from_secs(30));
        if heard.is_err() {
            child.kill().expect("a child can be ended");
        }
        assert_eq!(heard.as_deref(), Ok(answer), "to {question:?}");
    }
    drop(input);
    assert_eq!(wait(&mut child, Duration::from_secs(20)), Some(0), "the end of input ends the Guest");
}

/// Starts the command; its lines arrive as it prints them.
fn start(words: &[&str], input: Stdio) -> (Child, Receiver<String>) {
    let mut child = lguest()
        .args(words)
        .stdin(input)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the command starts");
    let output = BufReader::new(child.stdout.take().expect("piped"));
    let (sender, lines) = channel();
    std::thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
    (child, lines)
}

/// User and system time of all threads of a process (proc(5), fields 14 and 15 of stat).
fn cpu_seconds(process: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).expect("the process lives");
    let behind = stat.rsplit_once(')').expect("a name in parentheses").1;
    let fields: Vec<&str> = behind.split_whitespace().collect();
    let ticks = |field: usize| fields[field - 3].parse::<f64>().expect("a number");
    (ticks(14) + ticks(15)) / TICKS
}

/// How often the process's threads have gone to sleep, of those that live.
fn sleeps(process: u32) -> f64 {
    let threads = std::fs::read_dir(format!("/proc/{process}/task")).expect("the process lives");
    let of = |status: String| -> Option<f64> {
        status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?.trim().parse().ok()
    };
    threads
        .flatten()
        .filter_map(|thread| of(std::fs::read_to_string(thread.path().join("status")).ok()?))
        .sum()
}
