//! Who runs the program, and from where: the steps of a new process before it becomes the program.
//!
//! They are a process's own (a session, an owner), so the first process starts itself again and the copy takes them.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use lguest_init::plan::{Plan, Root, Terminal};
use rustix::process::{Gid, Uid};

use crate::{Failure, NOT_STARTED};

/// The first argument of such a copy.
pub const LEADER: &str = "become";
/// The second: whether standard input becomes its terminal.
pub const TERMINAL: &str = "terminal";
pub const NO_TERMINAL: &str = "pipes";

/// What a shell reports for a program that is not there.
const NOT_FOUND: u8 = 127;
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Shells in the order of preference, when there is no command.
const SHELLS: [&str; 3] = ["/bin/bash", "/bin/sh", "/bin/busybox"];

/// Who somebody is in the root's own books (passwd(5), group(5)).
#[derive(Debug, Clone, PartialEq, Eq)]
struct Person {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    home: String,
}

/// A status and the reason for standard error.
type Refusal = (u8, Failure);

/// Becomes the program, or ends with what a shell would report.
pub fn become_the_program() -> ExitCode {
    let words: Vec<_> = std::env::args_os().skip(2).collect();
    let has_terminal = words.first().is_some_and(|word| word == TERMINAL);
    let plan = words.get(1..).unwrap_or_default().join(OsStr::from_bytes(&[0]));
    let (status, failure) = match Plan::read(plan.as_bytes()) {
        Ok(plan) => become_it(&plan, has_terminal),
        Err(strange) => (NOT_STARTED, strange.to_string()),
    };
    eprintln!("lguest-init: {failure}");
    ExitCode::from(status)
}

/// Comes back only when something is in the way.
fn become_it(plan: &Plan, has_terminal: bool) -> Refusal {
    match prepare(plan, has_terminal) {
        Ok(mut command) => {
            let name = command.get_program().to_string_lossy().into_owned();
            let error = command.exec();
            let status = if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { NOT_STARTED };
            (status, format!("{name}: {error}"))
        }
        Err(failure) => (NOT_STARTED, failure),
    }
}

fn prepare(plan: &Plan, has_terminal: bool) -> Result<Command, Failure> {
    // A session of its own: signals of the terminal are for it and not for the first process.
    let _ = rustix::process::setsid();
    if has_terminal {
        let _ = rustix::process::ioctl_tiocsctty(rustix::stdio::stdin());
    }
    let person = match &plan.user {
        None => look_up("0", "/"),
        Some(user) => look_up(user, "/"),
    }?;
    let mut command = match plan.command.split_first() {
        Some((program, arguments)) => {
            let mut command = Command::new(OsStr::from_bytes(program));
            command.args(arguments.iter().map(|argument| OsStr::from_bytes(argument)));
            command
        }
        None => {
            let shell = SHELLS.into_iter().find(|shell| fs::metadata(shell).is_ok());
            let shell = shell.ok_or("the root has no shell; give a COMMAND that it has, behind --")?;
            let mut command = Command::new(shell);
            command.args((shell == "/bin/busybox").then_some("sh"));
            command
        }
    };
    environment(&mut command, plan, &person);
    let directory = plan.directory.as_deref().map_or(OsStr::new(&person.home), OsStr::from_bytes);
    if let Err(error) = std::env::set_current_dir(directory) {
        // A home may be missing; a directory that was asked for may not.
        if plan.directory.is_some() {
            return Err(format!("the directory {}: {error}", directory.display()));
        }
        let _ = std::env::set_current_dir("/");
    }
    become_them(&person).map_err(|error| format!("becoming the user {}: {error}", person.uid))?;
    Ok(command)
}

fn environment(command: &mut Command, plan: &Plan, person: &Person) {
    // The names are looked up in this process, so its PATH counts as well as the program's.
    command.env("PATH", PATH).env("HOME", &person.home);
    if let Terminal::Person { kind, .. } = &plan.terminal {
        command.env("TERM", kind);
        // Nothing in an initramfs says how busybox' shell should ask.
        if plan.root == Root::Here {
            command.env("PS1", r"\h:\w\$ ");
        }
    }
    for pair in &plan.environment {
        let end = pair.iter().position(|byte| *byte == b'=').unwrap_or(pair.len());
        let (name, value) = (&pair[..end], pair.get(end + 1..).unwrap_or_default());
        if !name.is_empty() {
            command.env(OsStr::from_bytes(name), OsStr::from_bytes(value));
        }
    }
}

/// Groups first: who is not root any more may not choose them.
fn become_them(person: &Person) -> rustix::io::Result<()> {
    let groups: Vec<Gid> = person.groups.iter().copied().map(Gid::from_raw).collect();
    rustix::thread::set_thread_groups(&groups)?;
    let (uid, gid) = (Uid::from_raw(person.uid), Gid::from_raw(person.gid));
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)
}

/// Lines of one of the books, cut at their colons.
fn book(root: &str, name: &str) -> Vec<Vec<String>> {
    let text = fs::read(format!("{root}/etc/{name}")).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    text.lines().map(|line| line.split(':').map(str::to_owned).collect()).collect()
}

/// Finds `USER[:GROUP]`, by name or number, in the books of this root. A number needs no entry.
fn look_up(wanted: &str, root: &str) -> Result<Person, Failure> {
    let (user, group) = wanted.split_once(':').map_or((wanted, None), |(user, group)| (user, Some(group)));
    let users = book(root, "passwd");
    // The largest number is nobody's: the kernel takes it for "as before" (setresuid(2)), and before is root.
    let read = |text: &str| text.parse::<u32>().ok().filter(|number| *number != u32::MAX);
    let number = |text: Option<&String>| text.and_then(|text| read(text));
    let found = users.iter().find(|line| line.first().is_some_and(|name| name == user));
    let found = found.or_else(|| users.iter().find(|line| line.get(2).is_some_and(|uid| uid == user)));
    let uid = number(found.and_then(|line| line.get(2))).or_else(|| read(user));
    let uid = uid.ok_or_else(|| format!("the user {user} is not in the root's /etc/passwd"))?;
    let groups = book(root, "group");
    let gid = match group {
        None => number(found.and_then(|line| line.get(3))).unwrap_or(0),
        Some(group) => {
            let named = groups.iter().find(|line| line.first().is_some_and(|name| name == group));
            let gid = number(named.and_then(|line| line.get(2))).or_else(|| read(group));
            gid.ok_or_else(|| format!("the group {group} is not in the root's /etc/group"))?
        }
    };
    let name = found.and_then(|line| line.first());
    let member = |line: &&Vec<String>| {
        let members = line.get(3).map_or("", String::as_str);
        name.is_some_and(|name| members.split(',').any(|member| member == name))
    };
    let mut own: Vec<u32> = groups.iter().filter(member).filter_map(|line| number(line.get(2))).collect();
    own.push(gid);
    let home = found.and_then(|line| line.get(5)).filter(|home| home.starts_with('/'));
    let home = home.cloned().unwrap_or_else(|| if uid == 0 { "/root" } else { "/" }.to_owned());
    Ok(Person { uid, gid, groups: own, home })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(wanted: &str) -> Result<Person, Failure> {
        // A place for each look: tests run side by side.
        let name = format!("lguest-init-books-{}-{}", std::process::id(), wanted.replace(':', "-"));
        let root = std::env::temp_dir().join(name);
        fs::create_dir_all(root.join("etc")).unwrap();
        let users = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:44:web:/srv:/bin/false\n# odd line\n";
        fs::write(root.join("etc/passwd"), users).unwrap();
        fs::write(root.join("etc/group"), "root:x:0:\nweb:x:44:\ntape:x:26:web,root\n").unwrap();
        let found = look_up(wanted, root.to_str().unwrap());
        fs::remove_dir_all(root).unwrap();
        found
    }

    #[test]
    fn a_user_is_found_by_name_and_by_number() {
        let web = Person { uid: 33, gid: 44, groups: vec![26, 44], home: "/srv".to_owned() };
        assert_eq!(found("web"), Ok(web.clone()));
        assert_eq!(found("33"), Ok(web.clone()));
        assert_eq!(found("web:tape"), Ok(Person { gid: 26, groups: vec![26, 26], ..web.clone() }));
        assert_eq!(found("33:7"), Ok(Person { gid: 7, groups: vec![26, 7], ..web }));
    }

    #[test]
    fn a_number_needs_no_entry_and_a_name_does() {
        let person = Person { uid: 1234, gid: 0, groups: vec![0], home: "/".to_owned() };
        assert_eq!(found("1234"), Ok(person));
        assert!(found("nobody").unwrap_err().contains("nobody"));
        assert!(found("4294967295").is_err() && found("0:4294967295").is_err(), "else it would be root");
        assert!(found("web:nothing").unwrap_err().contains("nothing"));
    }
}
