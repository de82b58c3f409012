//! What a Guest takes from its host: refused by an engine that cannot start, and all given back at the close.
//!
//! A process' limits and open files are one for all its threads, so these tests run in a process of their own.

use std::process::Command;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::tests::{calls, memory, number, words};
use super::*;

/// Set in the process that a test runs in alone.
const ALONE: &str = "LGUEST_TEST_ALONE";
const RAM_PAGES: u64 = (1 << 20) / PAGE_SIZE;
/// Guests opened and closed; a leak of one thing a Guest is a hundred things.
const OPENS: usize = 100;
/// Threads end a little after they were told to.
const PATIENCE: Duration = Duration::from_secs(10);

/// True in the process of this test's own; elsewhere runs that process, and fails if it fails.
fn alone(test: &str) -> bool {
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let name = format!("control::resources::{test}");
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &name, "--nocapture", "--test-threads", "1"])
        .env(ALONE, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains(" 1 passed"),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    for line in String::from_utf8_lossy(&output.stderr).lines().filter(|line| line.starts_with("SKIPPED")) {
        eprintln!("{line}");
    }
    false
}

/// The engines of this host.
fn engines(test: &str) -> Vec<Engine> {
    if std::fs::File::options().read(true).write(true).open("/dev/kvm").is_ok() {
        return vec![Engine::Translator, Engine::Kvm];
    }
    eprintln!("SKIPPED {test} on kvm: /dev/kvm does not open here");
    vec![Engine::Translator]
}

#[test]
fn an_engine_that_cannot_start_is_enomem_and_initialize_may_be_tried_again() {
    if !alone("an_engine_that_cannot_start_is_enomem_and_initialize_may_be_tried_again") {
        return;
    }
    let files = getrlimit(Resource::Nofile);
    for engine in engines("an_engine_that_cannot_start_is_enomem_and_initialize_may_be_tried_again") {
        let control = Control::open(engine);
        let (memory, entry) = memory(&[0xeb, 0xfe]);
        // Not one file more: no code cache, no /dev/kvm.
        setrlimit(Resource::Nofile, Rlimit { current: Some(0), maximum: files.maximum }).unwrap();
        let refused = control.initialize(memory.clone(), RAM_PAGES, entry);
        setrlimit(Resource::Nofile, files).unwrap();
        assert!(matches!(refused, Err(ControlError::Engine(_))), "{refused:?}");
        assert_eq!(number(refused), libc::ENOMEM);
        assert_eq!(number(control.run(0, &mut [0; 16])), libc::EINVAL, "there is no Guest");
        assert_eq!(number(control.initialize(memory, RAM_PAGES, entry)), 0, "{engine:?}");
    }
}

/// What this process holds of its host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Held {
    files: usize,
    threads: usize,
    /// Mappings of a file: Guest memory, a processor's page, a code cache.
    of_files: usize,
    /// Mappings of nothing: tables, and what the C library keeps for reuse.
    anonymous: usize,
}

/// Mappings of nothing that the C library may come to keep: glibc holds up to 40 MiB of ended threads' stacks, 20 of
/// 2 MiB with a guard page each, and two mappings for each of its arenas, eight a core. How many depends on how the
/// threads overlap (44 more were seen on one host); a leak would be one a Guest at least.
const KEPT_FOR_REUSE: usize = OPENS * 3 / 4;

impl Held {
    fn now() -> Held {
        let entries = |path: &str| std::fs::read_dir(path).unwrap().count();
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        // The fifth word is the inode: zero is no file.
        let of_files = maps.lines().filter(|line| line.split_whitespace().nth(4) != Some("0")).count();
        let anonymous = maps.lines().count() - of_files;
        Held { files: entries("/proc/self/fd"), threads: entries("/proc/self/task"), of_files, anonymous }
    }

    fn is_no_more_than(self, before: Held) -> bool {
        self.files <= before.files
            && self.threads <= before.threads
            && self.of_files <= before.of_files
            && self.anonymous < before.anonymous + KEPT_FOR_REUSE
    }
}

/// A Guest that binds a list, is listened to, has run and is closed.
fn live_and_close(engine: Engine) {
    let control = Control::open(engine);
    let code = calls(&[(1, 0x6000, 0, 0), (12, 0x4000, 0x5000, 1 << 8 | 5), (17, 0, 8, 0)]);
    let (memory, entry) = memory(&code);
    control.initialize(memory.clone(), RAM_PAGES, entry).unwrap();
    control.eventfd(0x7000, eventfd(0, EventfdFlags::NONBLOCK).unwrap()).unwrap();
    assert_eq!(words(&control), [8]);
    assert!(control.take(0x4000).is_ok(), "the list is bound");
    drop(control);
    let end = Instant::now() + PATIENCE;
    while Arc::strong_count(&memory) > 1 {
        assert!(Instant::now() < end, "somebody still holds the memory of a Guest that is closed");
        std::thread::yield_now();
    }
}

#[test]
fn a_hundred_guests_that_were_closed_leave_no_file_thread_mapping_or_binding() {
    if !alone("a_hundred_guests_that_were_closed_leave_no_file_thread_mapping_or_binding") {
        return;
    }
    for engine in engines("a_hundred_guests_that_were_closed_leave_no_file_thread_mapping_or_binding") {
        // The first ones pay for what a process has once.
        (0..3).for_each(|_| live_and_close(engine));
        let before = Held::now();
        (0..OPENS).for_each(|_| live_and_close(engine));
        let end = Instant::now() + PATIENCE;
        let mut after = Held::now();
        while !after.is_no_more_than(before) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
            after = Held::now();
        }
        assert!(after.is_no_more_than(before), "{engine:?}: {before:?}, then {after:?}");
    }
}
