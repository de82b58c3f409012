//! The Open POSIX Test Suite, as Debian has its sources (package `posixtestsuite`): 1,700 small C programs, each one
//! sentence of the standard about a system call or a library call around one. LTP carries a descendant of it; LTP
//! itself is in no Debian release any more.

use crate::errand::Errand;
use crate::inputs;
use crate::packages::{self, Origin, Packages};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

/// The compiler and the C library that the tests are built with; the library comes into the Guest too.
pub const COMPILER: Packages =
    Packages { name: "compiler", wanted: &["gcc", "libc6-dev"], origin: Origin::Release };

/// The suite's areas, and how the folders of their interfaces begin.
pub const AREAS: [(&str, &[&str]); 9] = [
    ("signals", &["sig", "raise", "kill"]),
    ("memory", &["mmap", "munmap", "mlock", "munlock", "shm_"]),
    ("queues", &["mq_"]),
    ("semaphores", &["sem_"]),
    ("timers", &["timer_", "clock_", "nanosleep"]),
    ("scheduling", &["sched_"]),
    ("files", &["aio_", "lio_", "fsync"]),
    ("processes", &["fork", "getpid"]),
    ("threads", &["pthread_"]),
];

/// What a test's exit status means (include/posixtest.h of the suite).
pub fn meaning(status: i32) -> String {
    match status {
        0 => "passed".to_owned(),
        1 => "failed".to_owned(),
        2 => "unresolved".to_owned(),
        4 => "unsupported".to_owned(),
        5 => "untested".to_owned(),
        137 => "did not finish".to_owned(),
        signal if signal > 128 => format!("signal {}", signal - 128),
        other => format!("status {other}"),
    }
}

/// The area of a test `INTERFACE/NAME`.
pub fn area(test: &str) -> Option<&'static str> {
    let starts = |prefixes: &[&str]| prefixes.iter().any(|prefix| test.starts_with(prefix));
    AREAS.iter().find(|(_, prefixes)| starts(prefixes)).map(|(area, _)| *area)
}

/// Builds every test that the compiler takes; the folder they are in and their names. Made once.
pub fn build() -> Result<(PathBuf, Vec<String>), Errand> {
    let folder = inputs::store()?.join("posix-tests");
    let complete = folder.join("complete");
    if let Ok(list) = std::fs::read_to_string(&complete) {
        return Ok((folder.join("tests"), list.lines().map(str::to_owned).collect()));
    }
    let suite = packages::source("posixtestsuite")?;
    let root = COMPILER.unpacked()?;
    let sources = sources(&suite.join("conformance/interfaces"))?;
    eprintln!("xtask: building {} tests", sources.len());
    let left = Mutex::new(sources.into_iter());
    let built = Mutex::new(Vec::new());
    let next = || left.lock().expect("no builder panics").next();
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some((name, source)) = next() {
                    // Some do not build with this century's library; that is no matter of ours.
                    if compile(&root, &suite, &source, &folder.join("tests").join(&name)) {
                        built.lock().expect("no builder panics").push(name);
                    }
                }
            });
        }
    });
    let mut built = built.into_inner().expect("no builder panics");
    built.sort();
    std::fs::write(&complete, built.join("\n")).map_err(Errand::file(&complete))?;
    Ok((folder.join("tests"), built))
}

/// The tests' names, `INTERFACE/NUMBER`, and their sources.
fn sources(interfaces: &Path) -> Result<BTreeMap<String, PathBuf>, Errand> {
    let mut found = BTreeMap::new();
    for interface in std::fs::read_dir(interfaces).map_err(Errand::file(interfaces))?.flatten() {
        let folder = interface.path();
        if !folder.is_dir() {
            continue;
        }
        for source in std::fs::read_dir(&folder).map_err(Errand::file(&folder))?.flatten() {
            let file = source.file_name().to_string_lossy().into_owned();
            let Some(number) = file.strip_suffix(".c") else { continue };
            let name = format!("{}/{number}", interface.file_name().to_string_lossy());
            // A name without a dash is a part that others include; one with `buildonly` is not to be run.
            let runs = number.contains('-') && !number.contains("buildonly");
            if runs && area(&name).is_some() {
                found.insert(name, source.path());
            }
        }
    }
    Ok(found)
}

fn compile(root: &Path, suite: &Path, source: &Path, program: &Path) -> bool {
    if program.parent().is_none_or(|folder| std::fs::create_dir_all(folder).is_err()) {
        return false;
    }
    let mut command = Command::new(root.join("usr/bin/gcc"));
    command
        .env("LD_LIBRARY_PATH", root.join("usr/lib/x86_64-linux-gnu"))
        .env("GCC_EXEC_PREFIX", format!("{}/", root.join("usr/lib/gcc").display()))
        .arg(format!("--sysroot={}/", root.display()))
        .arg(format!("-B{}/", root.join("usr/bin").display()))
        // The words of the suite's own Makefile and of its file LDFLAGS.
        .args(["-O2", "-std=gnu99", "-D_POSIX_C_SOURCE=200112L", "-D_XOPEN_SOURCE=600", "-w"])
        .arg("-I")
        .arg(suite.join("include"))
        .arg(source)
        .arg("-o")
        .arg(program)
        .args(["-lpthread", "-lrt", "-lm"]);
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    quiet.status().is_ok_and(|status| status.success())
}

#[test]
fn a_test_belongs_to_one_area() {
    assert_eq!(area("sigaction/1-1"), Some("signals"));
    assert_eq!(area("pthread_kill/1-1"), Some("threads"));
    assert_eq!(area("strftime/1-1"), None);
}

#[test]
fn statuses_have_the_suites_meaning() {
    assert_eq!(meaning(4), "unsupported");
    assert_eq!(meaning(139), "signal 11");
    assert_eq!(meaning(137), "did not finish");
}
