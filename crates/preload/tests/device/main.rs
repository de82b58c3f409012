//! A C program that knows /dev/lguest, compiled here and started with the library before its own: rows 98 to 111 of the
//! checklist through the real calls. Without a C compiler these tests are skipped, and say so.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The programs, by the machine that their Guests are written for.
const MACHINES: [&str; 2] = ["long-mode", "lguest32"];

type Built = OnceLock<Option<(PathBuf, tempfile::TempDir)>>;

/// The program of a machine; none without a compiler.
fn program(machine: &str) -> Option<&'static Path> {
    static PROGRAMS: [Built; MACHINES.len()] = [const { OnceLock::new() }; MACHINES.len()];
    let number = MACHINES.iter().position(|name| *name == machine).expect("one of them");
    let built = PROGRAMS[number].get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("program");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/device/{machine}.c"));
        let output =
            Command::new("cc").args(["-O1", "-pthread", "-o"]).arg(&path).arg(source).output().ok()?;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Some((path, folder))
    });
    built.as_ref().map(|(path, _)| path.as_path())
}

/// The library, as cargo built it beside this test.
fn library() -> PathBuf {
    let test = std::env::current_exe().expect("this program has a file");
    let folders = test.ancestors().skip(1).take(2);
    let found = folders.map(|folder| folder.join("liblguest_preload.so")).find(|path| path.exists());
    found.expect("cargo builds the library with its tests")
}

fn run(test: &str, machine: &str, case: &str) {
    let Some(program) = program(machine) else {
        let skipped = format!("SKIPPED {test}: there is no cc here\n");
        return std::io::stderr().lock().write_all(skipped.as_bytes()).expect("standard error takes a line");
    };
    let mut command = Command::new(program);
    command.arg(case).env("LD_PRELOAD", library()).env("LGUEST_MACHINE", machine);
    let output = command.output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stdout);
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && said.ends_with("SUCCESS\n"),
        "{:?}: {said}{complaints}",
        output.status
    );
}

#[test]
fn initialize_answers_three_words_once_and_efault_for_what_is_no_memory() {
    run("initialize_answers_three_words_once_and_efault_for_what_is_no_memory", "long-mode", "initialize");
}

#[test]
fn an_initialize_that_the_host_has_nothing_for_fails_and_may_be_tried_again() {
    run("an_initialize_that_the_host_has_nothing_for_fails_and_may_be_tried_again", "long-mode", "nomem");
}

#[test]
fn the_offset_is_the_processors_number_and_there_is_one() {
    run("the_offset_is_the_processors_number_and_there_is_one", "long-mode", "cpu");
}

#[test]
fn requests_are_checked_and_those_of_the_first_generation_are_gone() {
    run("requests_are_checked_and_those_of_the_first_generation_are_gone", "long-mode", "requests");
}

#[test]
fn a_dead_guest_says_enoent_once_and_then_its_reason_cut_to_the_buffer() {
    run("a_dead_guest_says_enoent_once_and_then_its_reason_cut_to_the_buffer", "long-mode", "death");
}

#[test]
fn a_notify_counts_on_its_eventfd_and_read_goes_on() {
    run("a_notify_counts_on_its_eventfd_and_read_goes_on", "long-mode", "eventfd");
}

#[test]
fn attaching_while_the_guest_notifies_loses_none() {
    run("attaching_while_the_guest_notifies_loses_none", "long-mode", "attach");
}

#[test]
fn one_thread_reads_and_each_notify_comes_once() {
    run("one_thread_reads_and_each_notify_comes_once", "long-mode", "reader");
}

#[test]
fn closing_gives_everything_back_but_the_programs_memory() {
    run("closing_gives_everything_back_but_the_programs_memory", "long-mode", "close");
}

#[test]
fn the_device_is_a_file_like_others_and_others_are_as_they_were() {
    run("the_device_is_a_file_like_others_and_others_are_as_they_were", "long-mode", "file");
}

#[test]
fn of_two_threads_that_initialise_one_wins() {
    run("of_two_threads_that_initialise_one_wins", "long-mode", "race");
}

#[test]
fn the_guest_lives_in_the_programs_memory_and_sees_new_code_there() {
    run("the_guest_lives_in_the_programs_memory_and_sees_new_code_there", "long-mode", "memory");
}

#[test]
fn a_child_has_a_copy_of_the_memory_and_no_guest() {
    run("a_child_has_a_copy_of_the_memory_and_no_guest", "long-mode", "fork");
}

#[test]
fn a_signal_ends_a_read_unless_its_handler_restarts_calls() {
    run("a_signal_ends_a_read_unless_its_handler_restarts_calls", "long-mode", "signals");
}

#[test]
fn a_paravirtual_guest_of_32_bits_notifies_restarts_and_powers_off_in_the_programs_memory() {
    run(
        "a_paravirtual_guest_of_32_bits_notifies_restarts_and_powers_off_in_the_programs_memory",
        "lguest32",
        "life",
    );
}

#[test]
fn a_process_that_shares_the_programs_memory_raises_interrupts_and_may_be_killed_at_it() {
    run(
        "a_process_that_shares_the_programs_memory_raises_interrupts_and_may_be_killed_at_it",
        "lguest32",
        "relatives",
    );
}

#[test]
fn copies_of_the_number_are_one_guest_until_the_last_is_closed() {
    run("copies_of_the_number_are_one_guest_until_the_last_is_closed", "lguest32", "copies");
}
