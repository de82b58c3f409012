//! Roots of the user's own: a directory and an image of a file system, with Debian's kernel.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::command::{Finished, cached_kernel, debian_is_here, folder, run};

/// A root around the busybox of the command's cache, which [`debian_is_here`] has seen to.
pub fn busybox_root(test: &str) -> PathBuf {
    let root = folder(test).join("root");
    for directory in ["bin", "etc", "srv"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    let cache = cached_kernel().parent().unwrap().parent().unwrap().join("busybox-static/busybox");
    fs::copy(cache, root.join("bin/busybox")).unwrap();
    fs::set_permissions(root.join("bin/busybox"), fs::Permissions::from_mode(0o755)).unwrap();
    let tools = "sh id pwd cat ls true false kill touch mkdir grep ping wget nslookup httpd echo sleep stty head wc trap";
    for name in tools.split(' ') {
        let _ = symlink("busybox", root.join("bin").join(name));
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nweb:x:33:44::/srv:/bin/sh\n").unwrap();
    root
}

fn guest(root: &Path, options: &[&str], command: &[&str]) -> Finished {
    let root = root.to_str().expect("in UTF-8");
    run(&[&["run", root], options, &["--"], command].concat(), "")
}

fn is_missing(program: &str, test: &str) -> bool {
    let missing = Command::new(program).arg("-V").output().is_err();
    if missing {
        let skipped = format!("SKIPPED {test}: {program} is not installed\n");
        std::io::stderr().lock().write_all(skipped.as_bytes()).expect("standard error takes a line");
    }
    missing
}

#[test]
fn a_directory_is_a_root_whose_commands_status_is_the_commands() {
    let test = "a_directory_is_a_root_whose_commands_status_is_the_commands";
    if !debian_is_here(test) {
        return;
    }
    let root = busybox_root(test);
    for (command, status) in [
        (&["true"][..], 0),
        (&["false"], 1),
        (&["sh", "-c", "exit 42"], 42),
        (&["nosuch"], 127),
        (&["sh", "-c", "kill -9 $$"], 137),
    ] {
        let finished = guest(&root, &[], command);
        assert_eq!(finished.status, Some(status), "{command:?}: {finished:?}");
    }
    let before = fs::read_dir(&root).unwrap().count();
    let finished = guest(
        &root,
        &["--env", "ANSWER=42", "--user", "web", "--workdir", "/etc"],
        &["sh", "-c", "id -u; id -g; pwd; echo $ANSWER; touch /new 2>/dev/null || echo no"],
    );
    assert_eq!(finished.output, "33\n44\n/etc\n42\nno\n", "{finished:?}");
    let finished = guest(&root, &[], &["sh", "-c", "touch /new && mkdir /d && ls -d /new /d"]);
    assert_eq!(finished.output, "/d\n/new\n", "{finished:?}");
    assert_eq!(fs::read_dir(&root).unwrap().count(), before, "what a Guest changes is thrown away");
    let finished = guest(&root, &["--keep"], &["sh", "-c", "echo kept > /srv/file"]);
    assert_eq!(finished.status, Some(0), "{finished:?}");
    assert_eq!(fs::read_to_string(root.join("srv/file")).unwrap(), "kept\n");
}

#[test]
fn input_passes_through_a_root_to_its_command() {
    let test = "input_passes_through_a_root_to_its_command";
    if !debian_is_here(test) {
        return;
    }
    let root = busybox_root(test);
    let input: String = (0..3000).map(|line| format!("line {line} \u{4}\u{16}\n")).collect();
    let finished = run(&["run", root.to_str().unwrap(), "--", "cat"], &input);
    assert_eq!((finished.status, finished.output == input), (Some(0), true));
}

#[test]
fn an_image_of_a_file_system_is_a_root() {
    let test = "an_image_of_a_file_system_is_a_root";
    if !debian_is_here(test) || is_missing("mkfs.ext4", test) {
        return;
    }
    let root = busybox_root(test);
    let image = root.with_file_name("root.img");
    let _ = fs::remove_file(&image);
    let made =
        Command::new("mkfs.ext4").args(["-q", "-d"]).args([&root, &image]).arg("16M").output().unwrap();
    assert!(made.status.success(), "{made:?}");
    let bytes = fs::read(&image).unwrap();
    let script =
        "grep ' / ' /proc/mounts >&2; cat /srv/note 2>/dev/null || echo nothing; echo kept > /srv/note";
    let finished = guest(&image, &[], &["sh", "-c", script]);
    assert_eq!((finished.status, finished.output.lines().last()), (Some(0), Some("nothing")), "{finished:?}");
    assert!(fs::read(&image).unwrap() == bytes, "an image that is not kept does not change");
    assert_eq!(guest(&image, &["--keep"], &["sh", "-c", script]).status, Some(0));
    let finished = guest(&image, &["--keep"], &["sh", "-c", script]);
    assert_eq!(finished.output.lines().last(), Some("kept"), "{finished:?}");
    let checked = Command::new("fsck.ext4").args(["-fn"]).arg(&image).output().unwrap();
    assert!(checked.status.success(), "{checked:?}");
}

#[test]
fn a_root_that_cannot_work_is_told_in_one_sentence() {
    let empty = folder("a_root_that_cannot_work_is_told_in_one_sentence");
    let path = empty.to_str().unwrap();
    for (words, hint) in [
        (&["run", path, "--initrd", "/dev/null"][..], "--initrd: "),
        (&["run", path, "--workdir", "relative"], "--workdir relative: "),
        (&["run", path, "--env", "=x"], "--env =x: "),
        (&["run", path, "--env", "LGUEST_NO_SUCH_VARIABLE"], "--env LGUEST_NO_SUCH_VARIABLE: "),
        (&["run", "debian", "--keep"], "--keep: "),
        (&["run", "--user", "web"], "--user: "),
        (&["run", "/proc/self"], "/proc"),
        (&["run", path, "--bus", "lguest-dma"], "--bus pci"),
    ] {
        let finished = run(words, "");
        assert_eq!(finished.status, Some(125), "{words:?}: {finished:?}");
        let sentences = finished.sentences();
        assert!(sentences.len() == 1 && sentences[0].contains(hint), "{words:?}: {finished:?}");
    }
}
