//! A machine may be killed at any moment: no write that its Guest flushed is lost, and what is left is what a power cut leaves.
//!
//! ```text
//!   Guest: write record n, flush, print n;  write record n+1, ...     Host: reads the numbers, and kills at one of them
//!                                                                          then looks for every record that was printed
//! ```
//! A number that was printed was flushed. The same disk goes on from kill to kill, as a real one does. `LGUEST_KILLS` says how
//! often (`cargo xtask kills`).

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::command::{folder, lguest};
use crate::disks::{drivers_are_here, qcow2};

/// Kills of each kind of disk where nobody says how many: about ten seconds.
const KILLS: u32 = 4;
/// Bytes of a record.
const RECORD: usize = 512;
/// The machine is killed at latest after so many records.
const MOST_RECORDS: u64 = 40;

fn kills() -> u32 {
    let asked =
        std::env::var("LGUEST_KILLS").ok().map(|word| word.parse().expect("LGUEST_KILLS is a number"));
    asked.map_or(KILLS, |all: u32| all.div_ceil(3))
}

fn skip(test: &str, why: &str) {
    let sentence = format!("SKIPPED {test}: {why}\n");
    std::io::stderr().lock().write_all(sentence.as_bytes()).expect("standard error takes a line");
}

/// The record that a Guest writes, as its `printf` makes it.
fn record(kill: u32, number: u64) -> Vec<u8> {
    format!("{:<width$}\n", format!("kill {kill} record {number}"), width = RECORD - 1).into_bytes()
}

/// The loop that a Guest runs: `target` is where `dd` writes.
fn writer(kill: u32, target: &str) -> String {
    format!(
        "n=0; while :; do n=$((n+1)); printf '%-511s\\n' \"kill {kill} record $n\" | \
         dd of={target} bs={RECORD} seek=$n conv=notrunc,fsync 2>/dev/null && echo $n; done"
    )
}

/// Starts a machine, kills it at a moment that `kill` chooses, and says which record was certainly flushed.
fn run_and_kill(words: &[&str], kill: u32) -> u64 {
    let mut child = lguest()
        .args(["run", "debian", "--timeout", "100"])
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the command starts");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    // Some way into a record's making, which takes a few milliseconds: the moments differ from kill to kill.
    let until = 1 + u64::from(kill).wrapping_mul(0x9e37_79b9) % MOST_RECORDS;
    let later = std::time::Duration::from_micros(u64::from(kill).wrapping_mul(0x85eb_ca6b) % 5000);
    let mut flushed = 0;
    let mut hear = |lines: &mut dyn Iterator<Item = std::io::Result<String>>, until: u64| {
        for line in lines {
            flushed = line.expect("text").trim().parse().expect("a number");
            if flushed >= until {
                break;
            }
        }
        flushed
    };
    hear(&mut lines, until);
    std::thread::sleep(later);
    child.kill().expect("a child can be ended");
    child.wait().expect("as above");
    // What it said before it was killed counts too.
    let flushed = hear(&mut lines, u64::MAX);
    assert!(flushed >= until, "the machine ended by itself after {flushed} records");
    flushed
}

fn expect_records(disk: &[u8], kill: u32, flushed: u64) {
    for number in 1..=flushed {
        let found = disk.get(number as usize * RECORD..(number as usize + 1) * RECORD).unwrap_or_default();
        assert!(found == record(kill, number), "kill {kill}: record {number} of {flushed} flushed is lost");
    }
}

#[test]
fn no_flushed_write_to_a_raw_disk_is_lost_when_the_machine_is_killed() {
    let test = "no_flushed_write_to_a_raw_disk_is_lost_when_the_machine_is_killed";
    if !drivers_are_here(test) {
        return;
    }
    let disk = folder(test).join("disk.img");
    std::fs::write(&disk, vec![0; 1 << 20]).expect("a file can be written");
    for kill in 0..kills() {
        let words = ["--disk", disk.to_str().expect("UTF-8"), "--", "sh", "-c", &writer(kill, "/dev/vda")];
        let flushed = run_and_kill(&words, kill);
        expect_records(&std::fs::read(&disk).expect("the disk is there"), kill, flushed);
    }
}

/// A qcow2 disk's bytes, as another reader finds them.
fn read_qcow2(path: &Path) -> Vec<u8> {
    use imago::{DenyImplicitOpenGate, FormatAccess, FormatDriverBuilder, file::File, qcow2::Qcow2};
    let file = std::fs::File::open(path).expect("the disk is there");
    let image = Qcow2::<File>::builder(File::try_from(file).expect("a file"))
        .backing(None)
        .open(DenyImplicitOpenGate::default())
        .expect("what a killed machine leaves can be opened");
    let mut bytes = vec![0; 16 << 20];
    FormatAccess::new(image).read(&mut bytes[..], 0).expect("and read");
    bytes
}

#[test]
fn no_flushed_write_to_a_qcow2_disk_is_lost_when_the_machine_is_killed() {
    let test = "no_flushed_write_to_a_qcow2_disk_is_lost_when_the_machine_is_killed";
    if !drivers_are_here(test) {
        return;
    }
    let path = folder(test).join("disk.qcow2");
    let disk = qcow2(&path);
    for kill in 0..kills() {
        // Elsewhere each time, so that clusters are allocated under the kill.
        let start = u64::from(kill % 255) * 128;
        let target = writer(kill, "/dev/vda").replace("seek=$n", &format!("seek=$((n+{start}))"));
        let flushed = run_and_kill(&["--disk", &disk, "--", "sh", "-c", &target], kill);
        let bytes = read_qcow2(&path);
        let place = (start as usize * RECORD).min(bytes.len());
        expect_records(&bytes[place..], kill, flushed);
    }
    match Command::new("qemu-img").arg("check").arg(&path).output() {
        // 3: room that nobody uses, which a power cut leaves too.
        Ok(output) => assert!(matches!(output.status.code(), Some(0 | 3)), "{output:?}"),
        Err(_) => skip(test, "its last step, qemu-img check: there is no qemu-img"),
    }
}

/// A tool of e2fsprogs; ordinary users do not always have its folder in their path.
fn tool(name: &str, words: &[&str], disk: &Path) -> Option<std::process::Output> {
    let place = ["/usr/sbin", "/sbin"].map(|folder| Path::new(folder).join(name));
    let program = place.iter().find(|path| path.is_file())?;
    Command::new(program).args(words).arg(disk).stdin(Stdio::null()).output().ok()
}

#[test]
fn a_file_system_is_whole_after_each_kill_and_has_every_record_that_was_flushed() {
    let test = "a_file_system_is_whole_after_each_kill_and_has_every_record_that_was_flushed";
    if !drivers_are_here(test) {
        return;
    }
    let disk = folder(test).join("disk.img");
    std::fs::write(&disk, vec![0; 32 << 20]).expect("a file can be written");
    let made = tool("mkfs.ext4", &["-q", "-F"], &disk).is_some_and(|output| output.status.success());
    if !made {
        return skip(test, "it needs mkfs.ext4 and e2fsck of e2fsprogs");
    }
    let words = ["--disk", disk.to_str().expect("UTF-8"), "--"];
    for kill in 0..kills() {
        // Debian's kernel has ext4 built in.
        let mount = "mkdir -p /mnt && mount -t ext4 /dev/vda /mnt || exit 9; ";
        let script = format!("{mount} rm -f /mnt/records; {}", writer(kill, "/mnt/records"));
        let flushed = run_and_kill(&[&words[..], &["sh", "-c", &script]].concat(), kill);
        // First what a mount does after a power cut, then the look of somebody who changes nothing.
        tool("e2fsck", &["-y", "-E", "journal_only"], &disk).expect("e2fsck");
        let checked = tool("e2fsck", &["-f", "-n"], &disk).expect("e2fsck");
        assert_eq!(checked.status.code(), Some(0), "kill {kill}: {checked:?}");
        let read = tool("debugfs", &["-R", "cat /records"], &disk).expect("debugfs");
        expect_records(&read.stdout, kill, flushed);
    }
}
