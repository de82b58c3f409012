//! The sandbox bites. Each attempt runs in a process of its own, for a sandbox cannot be taken off again: the test
//! starts this same test program with the name of the attempt, and looks how it ends.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output};

use super::calls::{self, Only, rules};
use super::*;
use crate::supervise::Supervisor;

/// Says which attempt a process is to make.
const ATTEMPT: &str = "LGUEST_TEST_ATTEMPT";
/// The directory that is shared meanwhile, if one is.
const SHARE: &str = "LGUEST_TEST_SHARE";
/// What an attempt that got through prints.
const THROUGH: &str = "got through";
/// What an attempt prints that was told no.
const REFUSED: &str = "was refused";

/// Runs an attempt behind a closed sandbox.
fn attempt(name: &str) -> Output {
    attempt_with(name, None)
}

/// The same with a directory that is shared.
fn attempt_with(name: &str, share: Option<&std::path::Path>) -> Output {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "sandbox::tests::an_attempt", "--ignored", "--nocapture", "--test-threads=1"])
        .env(ATTEMPT, name)
        .envs(share.map(|path| (SHARE, path)))
        .output()
        .unwrap()
}

/// What a thread that a Guest has taken over would like to do.
fn act(name: &str) -> std::io::Result<()> {
    use rustix::{fs, net, process, thread};
    match name {
        "open" => std::fs::read("/etc/passwd").map(drop),
        "create" => std::fs::write("/tmp/lguest-sandbox-test", b"x"),
        "list" => std::fs::read_dir("/").map(drop),
        "delete" => Ok(fs::unlink("/tmp/lguest-sandbox-test")?),
        "chmod" => Ok(fs::chmod("/tmp", fs::Mode::RWXU)?),
        "internet" => {
            net::socket(net::AddressFamily::INET, net::SocketType::STREAM, None).map(drop).map_err(Into::into)
        }
        "unix" => {
            net::socket(net::AddressFamily::UNIX, net::SocketType::STREAM, None).map(drop).map_err(Into::into)
        }
        "execute" => Command::new("/bin/true").status().map(drop),
        "kill" => Ok(process::kill_process(process::Pid::INIT, process::Signal::CONT)?),
        "identity" => Ok(thread::set_thread_uid(process::Uid::ROOT)?),
        "change directory" => std::env::set_current_dir("/"),
        "window size" => Ok(rustix::termios::tcsetwinsize(
            std::io::stdin(),
            rustix::termios::Winsize { ws_row: 1, ws_col: 1, ws_xpixel: 0, ws_ypixel: 0 },
        )?),
        "memory file" => Ok(fs::memfd_create("x", fs::MemfdFlags::CLOEXEC).map(drop)?),
        "nothing" => Ok(()),
        other => panic!("{other} is no attempt"),
    }
}

/// Opens a file in a directory that is held.
fn act_in(directory: &OwnedFd, name: &str) -> std::io::Result<()> {
    use rustix::fs::{Mode, OFlags, openat};
    Ok(openat(directory, name, OFlags::RDONLY, Mode::empty()).map(drop)?)
}

/// Every attempt that ends the process, with the number of the call that it dies of.
const FATAL: [(&str, libc::c_long); 9] = [
    ("delete", libc::SYS_unlinkat),
    ("chmod", libc::SYS_fchmodat),
    ("internet", libc::SYS_socket),
    ("unix", libc::SYS_socket),
    ("kill", libc::SYS_kill),
    ("identity", libc::SYS_setuid),
    ("change directory", libc::SYS_chdir),
    ("window size", libc::SYS_ioctl),
    ("memory file", libc::SYS_memfd_create),
];

/// Not a test by itself: what the child process of the tests below does.
#[test]
#[ignore = "started by the tests beside it"]
fn an_attempt() {
    let Ok(name) = std::env::var(ATTEMPT) else { return };
    let (place, name) = name.split_once(' ').unwrap();
    let internet = place.starts_with("online");
    let open = |path: &str| Arc::new(OwnedFd::from(std::fs::File::open(path).unwrap()));
    let (share, outside) = (std::env::var(SHARE).ok(), open("/etc"));
    let shares: Vec<_> = share.iter().map(|path| open(path)).collect();
    let everything = Needs {
        kvm: true,
        disks: true,
        networks: true,
        sockets: true,
        calls: false,
        internet,
        watched: true,
        shares: shares.clone(),
    };
    let sandbox = Sandbox::new(Wish::Auto, everything);
    match place {
        "broker" => confine_broker(),
        _ => {
            let supervisor = Supervisor::new();
            sandbox.close(&supervisor.button()).unwrap();
            std::thread::spawn(move || {
                let reason = supervisor.wait_for_test();
                println!("{}", reason.sentence().unwrap());
                std::process::exit(reason.code().into());
            });
        }
    }
    if place.ends_with("vcpu") {
        sandbox.confine_vcpu();
    }
    let done = match name {
        "inside" => act_in(&shares[0], "file"),
        "outside" => act_in(&outside, "passwd"),
        name => act(name),
    };
    println!("{}", if done.is_ok() { THROUGH } else { REFUSED });
    std::process::exit(0);
}

fn bites() -> bool {
    let offered = Offered::here();
    if !offered.seccomp {
        eprintln!("SKIPPED: {}", offered.in_words());
    }
    offered.seccomp
}

#[test]
fn a_call_that_no_machine_needs_ends_the_run_with_a_sentence() {
    if !bites() {
        return;
    }
    for place in ["vcpu", "thread"] {
        for (name, number) in FATAL {
            let output = attempt(&format!("{place} {name}"));
            let text = String::from_utf8_lossy(&output.stdout);
            assert_eq!(output.status.code(), Some(126), "{place} {name}: {output:?}");
            assert!(text.contains(&format!("stopped system call {number} ")), "{place} {name}: {text}");
            assert!(!text.contains(THROUGH), "{place} {name}: {text}");
        }
    }
}

#[test]
fn on_the_user_network_threads_may_connect_by_ipv4_and_vcpus_may_not() {
    if !bites() {
        return;
    }
    let said = |place: &str, name: &str| {
        let output = attempt(&format!("{place} {name}"));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let stopped = format!("stopped system call {} ", libc::SYS_socket);
    assert!(!said("online-thread", "internet").contains(&stopped));
    for (place, name) in [("online-vcpu", "internet"), ("online-thread", "unix"), ("online-vcpu", "unix")] {
        let text = said(place, name);
        assert!(text.contains(&stopped), "{place} {name}: {text}");
    }
}

#[test]
fn opening_by_name_is_refused_and_the_thread_goes_on() {
    if !bites() {
        return;
    }
    for place in ["vcpu", "thread"] {
        for name in ["open", "create", "list"] {
            let output = attempt(&format!("{place} {name}"));
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(text.contains(REFUSED), "{place} {name}: {output:?}");
        }
    }
}

#[test]
fn where_a_directory_is_shared_names_are_opened_in_it_and_nowhere_else() {
    if !bites() || !Offered::here().landlock {
        eprintln!("SKIPPED where_a_directory_is_shared_names_are_opened_in_it_and_nowhere_else: no landlock");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("file"), b"").unwrap();
    // Other threads are held by landlock only on newer kernels; those that serve shares are the vCPUs'.
    for (name, word) in [
        ("inside", THROUGH),
        ("outside", REFUSED),
        ("open", REFUSED),
        ("create", REFUSED),
        ("list", REFUSED),
        ("delete", REFUSED),
        ("chmod", REFUSED),
    ] {
        let output = attempt_with(&format!("vcpu {name}"), Some(folder.path()));
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains(word), "{name}: {output:?}");
    }
    let output = attempt_with("vcpu internet", Some(folder.path()));
    assert_eq!(output.status.code(), Some(126), "{output:?}");
}

#[test]
fn a_program_cannot_be_started() {
    if !bites() {
        return;
    }
    for place in ["vcpu", "thread"] {
        // Whoever starts one holds signals back, and a stopped call whose signal is held back kills.
        let output = attempt(&format!("{place} execute"));
        assert_eq!(output.status.signal(), Some(libc::SIGSYS), "{place}: {output:?}");
    }
}

#[test]
fn a_broker_that_strays_is_killed() {
    if !bites() {
        return;
    }
    for name in ["open", "delete", "internet", "kill", "execute"] {
        let output = attempt(&format!("broker {name}"));
        assert_eq!(output.status.signal(), Some(libc::SIGSYS), "{name}: {output:?}");
    }
}

#[test]
fn an_attempt_at_nothing_gets_through() {
    for place in ["vcpu", "thread", "broker"] {
        let output = attempt(&format!("{place} nothing"));
        assert!(String::from_utf8_lossy(&output.stdout).contains(THROUGH), "{place}: {output:?}");
    }
}

#[test]
fn no_list_holds_a_call_that_reaches_outside() {
    let all = [
        calls::MEMORY,
        calls::LIVING,
        calls::HELD_FILES,
        calls::DISKS,
        calls::MESSAGES,
        calls::KVM,
        calls::THREADS,
        calls::BROKER,
    ];
    let held = rules(&all).unwrap();
    for number in [
        libc::SYS_ptrace,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_execve,
        libc::SYS_execveat,
        libc::SYS_fork,
        libc::SYS_vfork,
        libc::SYS_socket,
        libc::SYS_connect,
        libc::SYS_bind,
        libc::SYS_open,
        libc::SYS_openat,
        libc::SYS_mount,
        libc::SYS_bpf,
        libc::SYS_io_uring_setup,
        libc::SYS_userfaultfd,
        libc::SYS_keyctl,
        libc::SYS_kill,
        libc::SYS_tkill,
        libc::SYS_pkey_mprotect,
        libc::SYS_arch_prctl,
        libc::SYS_modify_ldt,
    ] {
        assert!(!held.contains_key(&number), "{number} is allowed");
    }
}

#[test]
fn memory_is_never_made_executable() {
    for list in [calls::MEMORY] {
        for (number, only) in list {
            if [libc::SYS_mmap, libc::SYS_mprotect].contains(number) {
                assert!(matches!(only, Only::Bits(2, 4, 0)), "{number}: {only:?}");
            }
        }
    }
}

#[test]
fn a_wish_is_one_of_three() {
    assert_eq!(Wish::read("auto"), Ok(Wish::Auto));
    assert_eq!(Wish::read("off"), Ok(Wish::Off));
    assert!(Wish::read("maybe").unwrap_err().0.starts_with("--sandbox maybe: "));
}

/// A thread under a filter that refuses these calls, as a container's filter does.
fn where_refused(refused: &'static [calls::Call]) -> (Offered, Result<Wish, Mistake>) {
    let program = filter(&[refused], SeccompAction::Errno(libc::EPERM as u32), SeccompAction::Allow).unwrap();
    let thread = std::thread::spawn(move || {
        seccompiler::apply_filter(&program).unwrap();
        (Offered::here(), Wish::read("on"))
    });
    thread.join().unwrap()
}

#[test]
fn a_host_without_a_part_says_so_when_it_was_asked_for() {
    if !bites() {
        return;
    }
    let (offered, wish) = where_refused(&[(libc::SYS_landlock_create_ruleset, Only::Any)]);
    assert_eq!(offered, Offered { seccomp: true, landlock: false });
    assert!(wish.unwrap_err().0.contains("offers no landlock"));
    let (offered, wish) = where_refused(&[(libc::SYS_seccomp, Only::Any)]);
    assert!(!offered.seccomp);
    assert!(wish.unwrap_err().0.contains("offers no seccomp"));
}
