//! What makes the command pleasant to have, from outside: a file for habits, lists, stopping, times, completions.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Longest that anything here may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// The command in a world of its own: cache, configuration and running machines of this folder.
fn lguest(world: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lguest"));
    command
        .args(words)
        .env("LGUEST_CACHE", world.join("cache"))
        .env("XDG_CONFIG_HOME", world.join("config"))
        .env("XDG_RUNTIME_DIR", world)
        .stdin(Stdio::null());
    command
}

fn output(world: &Path, words: &[&str]) -> Output {
    lguest(world, words).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The one sentence of a mistake.
fn mistake(world: &Path, words: &[&str]) -> String {
    let output = output(world, words);
    let text = text(&output.stderr);
    assert_eq!(output.status.code(), Some(125), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    text
}

fn configure(world: &Path, text: &str) {
    fs::create_dir_all(world.join("config/lguest")).unwrap();
    fs::write(world.join("config/lguest/config.toml"), text).unwrap();
}

/// Waits until something is so.
fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A default Guest whose input stays open, so that it runs until it is stopped.
fn start(world: &Path) -> Child {
    lguest(world, &["run"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn running_machines_are_listed_and_stopped() {
    let world = tempfile::tempdir().unwrap();
    let list = || text(&output(world.path(), &["ps"]).stdout);
    assert_eq!(list(), "no machine runs\n");
    let mut machines = [start(world.path()), start(world.path())];
    wait_until("both are listed", || list().lines().count() == 3);
    let ids = machines.each_ref().map(|machine| machine.id().to_string());
    assert!(ids.iter().all(|id| list().contains(id)), "{}", list());
    let stopped = output(world.path(), &["stop", &ids[0]]);
    assert!(stopped.status.success(), "{}", text(&stopped.stderr));
    // As a signal would have ended it: nobody takes it for a command that went well.
    assert_eq!(machines[0].wait().unwrap().code(), Some(143));
    assert!(!list().contains(&ids[0]) && list().contains(&ids[1]), "{}", list());
    // One that is killed leaves its files; the next list takes them away.
    machines[1].kill().unwrap();
    machines[1].wait().unwrap();
    assert_eq!(list(), "no machine runs\n");
    assert_eq!(fs::read_dir(world.path().join("lguest/machines")).unwrap().count(), 0);
    let sentence = mistake(world.path(), &["stop", &ids[0]]);
    assert!(sentence.contains(&format!("ID {}: no such machine", ids[0])), "{sentence}");
}

#[test]
fn a_wish_for_patience_that_is_none_is_named() {
    let world = tempfile::tempdir().unwrap();
    let sentence = mistake(world.path(), &["stop", "1", "--patience", "-2"]);
    assert!(sentence.contains("--patience -2: "), "{sentence}");
}

#[test]
fn the_file_of_habits_is_read_and_its_mistakes_have_a_line() {
    let world = tempfile::tempdir().unwrap();
    configure(world.path(), "# habits\nmemory = \"3M\"\n");
    let sentence = mistake(world.path(), &["run"]);
    assert!(sentence.contains("config.toml:2: --memory 3M: "), "{sentence}");
    let sentence = mistake(world.path(), &["run", "--memory", "2M"]);
    assert!(sentence.contains("lguest: --memory 2M: "), "{sentence}");
    configure(world.path(), "cpus = 2\nprocessors = 3\n");
    let sentence = mistake(world.path(), &["run"]);
    assert!(sentence.contains("config.toml:2: processors is no key"), "{sentence}");
    configure(world.path(), "engine = \"translator\"\n");
    let ran = output(world.path(), &["run", "--", "devices"]);
    assert!(ran.status.success() && text(&ran.stderr).contains("engine translator ("), "{ran:?}");
}

#[test]
fn completions_and_the_manual_are_printed() {
    let world = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let script = output(world.path(), &["completions", shell]);
        assert!(script.status.success() && text(&script.stdout).contains("workdir"), "{shell}");
    }
    assert!(mistake(world.path(), &["completions", "cmd.com"]).contains("cmd.com"));
    assert!(text(&output(world.path(), &["man", "run"]).stdout).starts_with(".ie"));
    assert!(mistake(world.path(), &["man", "fly"]).contains("SUBCOMMAND fly: "));
}

#[test]
fn the_time_of_a_run_is_broken_down() {
    let world = tempfile::tempdir().unwrap();
    let ran = output(world.path(), &["run", "--time", "--", "devices"]);
    let text = text(&ran.stderr);
    assert!(text.contains("to the kernel's first instruction") && text.contains("in all"), "{text}");
}

#[test]
fn images_are_taken_listed_and_removed() {
    let world = tempfile::tempdir().unwrap();
    let path = |name: &str| world.path().join(name).to_str().unwrap().to_owned();
    assert_eq!(text(&output(world.path(), &["images"]).stdout), "there are no images\n");
    fs::File::create(path("noise")).unwrap().write_all(b"noise\n\x1b[2J").unwrap();
    for (image, hint) in [
        (path("noise"), "is neither an OCI layout"),
        (path("absent"), "cannot be read"),
        ("debian".to_owned(), "begins with its registry"),
        ("localhost:1/none:v1".to_owned(), "cannot be reached"),
    ] {
        let sentence = mistake(world.path(), &["images", "pull", &image]);
        assert!(sentence.contains(&format!("IMAGE {image}: ")) && sentence.contains(hint), "{sentence}");
    }
    assert!(mistake(world.path(), &["images", "rm", "none"]).contains("NAME none: there is no such image"));
    assert_eq!(text(&output(world.path(), &["images", "prune"]).stdout), "freed 0 B\n");
}
