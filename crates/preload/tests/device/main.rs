//! A C program that knows /dev/lguest, compiled here and started with the library before its own: rows 98 to 111 of the
//! checklist through the real calls. Without a C compiler these tests are skipped, and say so.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The program; none without a compiler.
fn program() -> Option<&'static Path> {
    static PROGRAM: OnceLock<Option<(PathBuf, tempfile::TempDir)>> = OnceLock::new();
    let built = PROGRAM.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("program");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/device/program.c");
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

fn run(test: &str, case: &str) {
    let Some(program) = program() else {
        let skipped = format!("SKIPPED {test}: there is no cc here\n");
        return std::io::stderr().lock().write_all(skipped.as_bytes()).expect("standard error takes a line");
    };
    let output = Command::new(program).arg(case).env("LD_PRELOAD", library()).output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stdout);
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && said.ends_with("SUCCESS\n"),
        "{:?}: {said}{complaints}",
        output.status
    );
}

macro_rules! cases {
    ($($test:ident = $case:literal;)*) => {$(
        #[test]
        fn $test() {
            run(stringify!($test), $case);
        }
    )*};
}

cases! {
    initialize_answers_three_words_once_and_efault_for_what_is_no_memory = "initialize";
    an_initialize_that_the_host_has_nothing_for_fails_and_may_be_tried_again = "nomem";
    the_offset_is_the_processors_number_and_there_is_one = "cpu";
    requests_are_checked_and_those_of_the_first_generation_are_gone = "requests";
    a_dead_guest_says_enoent_once_and_then_its_reason_cut_to_the_buffer = "death";
    a_notify_counts_on_its_eventfd_and_read_goes_on = "eventfd";
    attaching_while_the_guest_notifies_loses_none = "attach";
    one_thread_reads_and_each_notify_comes_once = "reader";
    closing_gives_everything_back_but_the_programs_memory = "close";
    the_device_is_a_file_like_others_and_others_are_as_they_were = "file";
    of_two_threads_that_initialise_one_wins = "race";
    the_guest_lives_in_the_programs_memory_and_sees_new_code_there = "memory";
    a_child_has_a_copy_of_the_memory_and_no_guest = "fork";
    a_signal_ends_a_read_unless_its_handler_restarts_calls = "signals";
}
