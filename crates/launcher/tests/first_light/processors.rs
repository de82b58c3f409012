//! Several processors: what a Debian kernel makes of them, and every way such a machine ends.

use crate::command::{Finished, debian_is_here, run};
use crate::terminal::Terminal;
use std::time::Duration;

/// For a boot to the prompt.
const BOOT: Duration = Duration::from_secs(90);
/// For an answer at the prompt, and for the end.
const ANSWER: Duration = Duration::from_secs(30);

fn on(cpus: &str, script: &str) -> Finished {
    run(&["run", "debian", "--engine", "translator", "--cpus", cpus, "--", "sh", "-c", script], "")
}

#[test]
fn every_processor_that_was_asked_for_works_and_is_interrupted() {
    if !debian_is_here("every_processor_that_was_asked_for_works_and_is_interrupted") {
        return;
    }
    // Each takes a program of its own, and has had timer interrupts (LOC) by then.
    let script = "nproc; n=$(nproc); i=0; while [ $i -lt $n ]; do taskset -c $i sh -c 'cut -d\" \" -f39 /proc/self/stat'; \
                  i=$((i+1)); done; awk '/LOC:/ { for (i = 2; i <= 9; i++) if ($i ~ /^[0-9]+$/) n += $i > 0; print n }' \
                  /proc/interrupts; dmesg | grep -E 'BUG:|Oops|Call Trace|WARNING:|soft lockup|Clocksource'";
    for cpus in [2, 4, 8] {
        let finished = on(&cpus.to_string(), script);
        let expected: Vec<String> =
            [cpus].into_iter().chain(0..cpus).chain([cpus]).map(|n: u32| n.to_string()).collect();
        let lines: Vec<&str> = finished.output.lines().map(str::trim_end).collect();
        assert_eq!(lines, expected, "{finished:?}");
    }
}

#[test]
fn programs_on_two_processors_agree_with_each_other() {
    if !debian_is_here("programs_on_two_processors_agree_with_each_other") {
        return;
    }
    // Pipes, forks and sums on both at once: a hundred shells, and the same sum over two ways.
    let script = "for i in $(seq 1 50); do (seq 1 2000 | sha256sum) & (seq 1 2000 | sha256sum) & wait; done | sort -u | wc -l";
    let finished = on("2", script);
    assert_eq!(finished.output.trim_end(), "1", "{finished:?}");
}

#[test]
fn one_time_holds_on_all_processors() {
    if !debian_is_here("one_time_holds_on_all_processors") {
        return;
    }
    let script = "for i in $(seq 1 200); do taskset -c $((i % 4)) cut -d' ' -f1 /proc/uptime; done | sort -c -n && echo order; \
                  cat /sys/devices/system/clocksource/clocksource0/current_clocksource";
    let finished = on("4", script);
    let lines: Vec<&str> = finished.output.lines().map(str::trim_end).collect();
    assert!(lines == ["order", "tsc"] || lines == ["order", "kvm-clock"], "{finished:?}");
}

#[test]
fn a_machine_ends_from_whichever_processor_ends_it() {
    if !debian_is_here("a_machine_ends_from_whichever_processor_ends_it") {
        return;
    }
    for cpu in ["0", "1", "2"] {
        let finished = on("3", &format!("exec taskset -c {cpu} sh -c 'exit 7'"));
        assert_eq!(finished.status, Some(7), "{finished:?}");
        let finished = on("3", &format!("taskset -c {cpu} poweroff -f; sleep 60"));
        assert_eq!(finished.status, Some(0), "from {cpu}: {finished:?}");
        let finished = on("3", &format!("taskset -c {cpu} sh -c 'echo c > /proc/sysrq-trigger'; sleep 60"));
        assert_eq!(finished.status, Some(126), "from {cpu}: {finished:?}");
    }
}

#[test]
fn processors_that_are_busy_or_asleep_end_at_the_time_limit() {
    if !debian_is_here("processors_that_are_busy_or_asleep_end_at_the_time_limit") {
        return;
    }
    for script in ["sleep 1000", "while :; do :; done & while :; do :; done"] {
        let words = ["run", "debian", "--cpus", "4", "--timeout", "8", "--", "sh", "-c", script];
        let finished = run(&words, "");
        assert_eq!(finished.status, Some(124), "{finished:?}");
        assert!(finished.took < Duration::from_secs(20), "{finished:?}");
    }
}

#[test]
fn a_halted_kernel_whose_processors_all_sleep_for_ever_ends_with_a_sentence() {
    if !debian_is_here("a_halted_kernel_whose_processors_all_sleep_for_ever_ends_with_a_sentence") {
        return;
    }
    let finished = on("2", "halt -f; sleep 60");
    assert_eq!(finished.status, Some(126), "{finished:?}");
    assert!(finished.messages.contains("halted with interrupts off"), "{finished:?}");
}

#[test]
fn a_kernel_that_may_not_read_the_acpi_tables_ends_with_the_likely_cause() {
    if !debian_is_here("a_kernel_that_may_not_read_the_acpi_tables_ends_with_the_likely_cause") {
        return;
    }
    let finished = run(&["run", "debian", "--cmdline", "console=ttyS0 panic=-1 acpi=off", "--", "true"], "");
    assert_eq!(finished.status, Some(126), "{finished:?}");
    assert!(finished.messages.contains("acpi=off on the kernel's command line"), "{finished:?}");
}

#[test]
fn control_a_x_stops_all_processors() {
    if !debian_is_here("control_a_x_stops_all_processors") {
        return;
    }
    let mut terminal = Terminal::start(&["run", "debian", "--cpus", "2"]);
    terminal.until("# ", BOOT);
    terminal.types("while :; do :; done &\r");
    terminal.until("# ", ANSWER);
    terminal.types("\x01x");
    assert_eq!(terminal.ends(ANSWER), Some(0));
}
