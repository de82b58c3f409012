//! A person at a terminal: the prompt, keys, and a terminal left as it was found.

use crate::command::debian_is_here;
use crate::terminal::Terminal;
use std::time::{Duration, Instant};

/// For a boot to the prompt.
const BOOT: Duration = Duration::from_secs(90);
/// For an answer at the prompt.
const ANSWER: Duration = Duration::from_secs(20);
/// What the shell shows when it waits.
const PROMPT: &str = "# ";

fn at_the_prompt() -> Terminal {
    let mut terminal = Terminal::start(&["run", "debian"]);
    terminal.until(PROMPT, BOOT);
    terminal
}

/// Runs a line at the prompt and returns what it printed.
fn ask(terminal: &mut Terminal, line: &str) -> String {
    terminal.types(&format!("{line}; echo 'do''ne'\r"));
    let answer = terminal.until("done", ANSWER);
    terminal.until(PROMPT, ANSWER);
    answer
}

#[test]
fn at_the_prompt_the_usual_commands_answer() {
    if !debian_is_here("at_the_prompt_the_usual_commands_answer") {
        return;
    }
    let mut terminal = at_the_prompt();
    assert!(terminal.modes().are_raw(), "keys go to the Guest one by one");
    assert!(ask(&mut terminal, "uname -a").contains("Linux lguest 6."));
    assert!(ask(&mut terminal, "cat /proc/cpuinfo").contains("model name"));
    assert!(ask(&mut terminal, "dmesg | head -3").contains("Linux version"));
    assert!(ask(&mut terminal, "seq 1 1000 | grep 7 | wc -l").contains("271"));
    assert!(ask(&mut terminal, "stty size").contains("24 80"));
}

#[test]
fn a_second_of_sleep_is_a_second() {
    if !debian_is_here("a_second_of_sleep_is_a_second") {
        return;
    }
    let mut terminal = at_the_prompt();
    let start = Instant::now();
    ask(&mut terminal, "sleep 1");
    let took = start.elapsed();
    // The answer's way through terminal and shell takes its part on a busy machine.
    assert!(took >= Duration::from_secs(1) && took < Duration::from_millis(1600), "sleep 1 took {took:?}");
}

#[test]
fn control_c_interrupts_the_guests_program_and_nothing_else() {
    if !debian_is_here("control_c_interrupts_the_guests_program_and_nothing_else") {
        return;
    }
    let mut terminal = at_the_prompt();
    terminal.types("sleep 1000\r");
    std::thread::sleep(Duration::from_millis(500));
    terminal.types("\x03");
    terminal.until(PROMPT, ANSWER);
    assert!(ask(&mut terminal, "echo still $((1 + 1)) here").contains("still 2 here"));
}

#[test]
fn power_off_ends_the_run_with_zero_and_the_terminal_as_it_was() {
    if !debian_is_here("power_off_ends_the_run_with_zero_and_the_terminal_as_it_was") {
        return;
    }
    let before = Terminal::start(&["devices"]).modes();
    let mut terminal = at_the_prompt();
    terminal.types("poweroff -f\r");
    assert_eq!(terminal.ends(ANSWER), Some(0));
    assert_eq!(terminal.modes(), before);
}

#[test]
fn control_a_x_stops_the_machine_and_the_terminal_is_as_it_was() {
    if !debian_is_here("control_a_x_stops_the_machine_and_the_terminal_is_as_it_was") {
        return;
    }
    let before = Terminal::start(&["devices"]).modes();
    let mut terminal = at_the_prompt();
    terminal.types("\x01x");
    assert_eq!(terminal.ends(ANSWER), Some(0));
    assert_eq!(terminal.modes(), before);
}

#[test]
fn a_signal_to_the_command_leaves_the_terminal_as_it_was() {
    if !debian_is_here("a_signal_to_the_command_leaves_the_terminal_as_it_was") {
        return;
    }
    let before = Terminal::start(&["devices"]).modes();
    let mut terminal = at_the_prompt();
    let process = rustix::process::Pid::from_raw(terminal.process() as i32).expect("a process number");
    rustix::process::kill_process(process, rustix::process::Signal::TERM).expect("our own child");
    assert_eq!(terminal.ends(ANSWER), Some(128 + 15));
    assert_eq!(terminal.modes(), before);
}
