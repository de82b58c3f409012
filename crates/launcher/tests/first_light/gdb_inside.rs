//! The real GDB inside the Guest, on a small program: it breaks, steps, watches and goes on, with the Guest's kernel between it
//! and the processor's trap flag and debug registers. Where GDB or a compiler is not installed this says SKIPPED, loudly.

use crate::command::{debian_is_here, folder, lguest, run};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Adds up 0 to 4 in `counter`; its status is 7.
const PROGRAM: &str = "int counter;\n\
    int add(int n) { counter += n; return counter; }\n\
    int main(void) { for (int i = 0; i < 5; i++) add(i); return 7; }\n";

/// What GDB is told. `watch` takes a debug register, `next` steps over a call, `hbreak` takes a debug register too.
const COMMANDS: &str = "set pagination off\n\
    break add\nrun\nbacktrace\nstepi\nprintf \"stepped %ld\\n\", $rip - (long)add\n\
    finish\nnext\nwatch counter\ncontinue\ncontinue\ndelete\nhbreak add\ncontinue\ndelete\ncontinue\n";

/// What a program of the Host's needs besides itself: the libraries that the loader names, and the loader.
fn libraries(program: &str) -> Option<Vec<PathBuf>> {
    let listed = Command::new("ldd").arg(program).output().ok()?;
    let text = String::from_utf8(listed.stdout).ok()?;
    let paths = text.split_whitespace().filter(|word| word.starts_with('/'));
    Some(paths.map(|word| PathBuf::from(word.trim_end_matches(':'))).collect())
}

/// Python's own library, without which GDB does not start. Its half of GDB is in `/usr/share/gdb`.
fn python() -> Option<PathBuf> {
    let entries = std::fs::read_dir("/usr/lib").ok()?.flatten().map(|entry| entry.path());
    entries.into_iter().find(|path| path.join("encodings").is_dir())
}

/// An initial RAM disk with GDB, the program and the commands; None when something for it is missing here.
fn initrd(folder: &Path) -> Option<PathBuf> {
    let at = |name: &str| folder.join(name);
    std::fs::write(at("program.c"), PROGRAM).ok()?;
    std::fs::write(at("commands"), COMMANDS).ok()?;
    let compiled = Command::new("cc")
        .args(["-g", "-O0", "-static", "-o"])
        .args([at("program"), at("program.c")])
        .status();
    let gdb = PathBuf::from("/usr/bin/gdb");
    if !compiled.ok()?.success() || !gdb.exists() {
        return None;
    }
    let mut files = libraries("/usr/bin/gdb")?;
    files.extend([gdb, python()?, PathBuf::from("/usr/share/gdb")]);
    let image = at("initrd");
    let mut command = lguest();
    command.arg("initramfs").arg("--output").arg(&image);
    for file in &files {
        // A link is followed: the loader asks for the library by the link's name.
        let real = file.canonicalize().ok()?;
        command.arg("--add").arg(format!("{}:{}", real.display(), file.display()));
    }
    for name in ["program", "commands"] {
        command.arg("--add").arg(format!("{}:/{name}", at(name).display()));
    }
    assert!(command.status().expect("the built command starts").success());
    Some(image)
}

#[test]
fn gdb_inside_the_guest_breaks_steps_watches_and_goes_on() {
    let name = "gdb_inside_the_guest_breaks_steps_watches_and_goes_on";
    if !debian_is_here(name) {
        return;
    }
    let Some(image) = initrd(&folder(name)) else {
        let skipped = format!("SKIPPED {name}: gdb or a compiler for static programs is not installed\n");
        std::io::stderr().lock().write_all(skipped.as_bytes()).expect("standard error takes a line");
        return;
    };
    let image = image.to_str().expect("a plain path");
    let request = ["run", "debian", "--engine", "translator", "--memory", "1G", "--initrd", image];
    let command = ["--", "gdb", "-nx", "--batch", "-x", "/commands", "/program"];
    let said = run(&[&request[..], &command].concat(), "").output;
    let in_order = [
        "Breakpoint 1, add (n=0)",
        "#1 ",
        "stepped ",
        "Value returned is $1 = 0",
        "Breakpoint 1, add (n=1)",
        "Old value = 0\n",
        "New value = 1\n",
        "Breakpoint 1, add (n=2)",
        "Breakpoint 3, add (n=3)",
        "exited with code 07",
    ];
    let mut rest = &said[..];
    for words in in_order {
        let Some(place) = rest.find(words) else { panic!("no {words:?} in order: {said}") };
        rest = &rest[place + words.len()..];
    }
}
