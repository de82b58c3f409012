//! What a Guest frees, the host has again.

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::command::{cached_kernel, folder, lguest};
use crate::disks::drivers_are_here;

/// Memory that the Guest takes and frees.
const TAKEN: u64 = 160 << 20;
/// Linux reports what has been free for two seconds; the machine may be busy with other tests.
const LONGEST: Duration = Duration::from_secs(60);

/// Bytes of shared memory that a process has: a Guest's memory file, in as many mappings as were touched.
fn shared(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("a process has a status");
    let line = status.lines().find_map(|line| line.strip_prefix("RssShmem:")).expect("a line of it");
    let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kibibytes << 10
}

#[test]
fn memory_that_a_guest_frees_goes_back_to_the_host_while_it_runs() {
    let test = "memory_that_a_guest_frees_goes_back_to_the_host_while_it_runs";
    if !drivers_are_here(test) {
        return;
    }
    if !cached_kernel().with_file_name("modules").join("virtio_balloon.ko").is_file() {
        let skipped = format!("SKIPPED {test}: the cached kernel's modules are from before the balloon\n");
        return std::io::stderr().lock().write_all(skipped.as_bytes()).expect("standard error takes a line");
    }
    let disk = folder(test).join("disk.img");
    std::fs::write(&disk, [0; 4096]).expect("a file can be written");
    let script = format!(
        "tr '\\0' m </dev/zero | head -c {TAKEN} >/tmp/file; echo taken; rm /tmp/file; echo freed; sleep 1000"
    );
    let mut child = lguest()
        .args(["run", "debian", "--memory", "512M", "--timeout", "100", "--disk"])
        .arg(&disk)
        .args(["--", "sh", "-c", &script])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the command starts");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut line = || lines.next().map(|line| line.expect("text").trim().to_owned());
    assert_eq!(line().as_deref(), Some("taken"));
    let taken = shared(child.id());
    assert_eq!(line().as_deref(), Some("freed"));
    let end = Instant::now() + LONGEST;
    let mut left = taken;
    while left + TAKEN * 9 / 10 > taken && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(100));
        left = shared(child.id());
    }
    child.kill().expect("a child can be ended");
    child.wait().expect("as above");
    eprintln!("{} MiB when taken, {} MiB when freed", taken >> 20, left >> 20);
    assert!(taken >= TAKEN && left + TAKEN * 9 / 10 <= taken, "{taken} bytes when taken, {left} when freed");
}
