//! The default Guest from outside: what docs/checklist.md calls end to end.

use std::io::Write;
use std::process::{Command, Stdio};

/// Seconds after which a Guest that hangs is ended.
const PATIENCE: &str = "60";

/// Runs the default Guest on the translator with these options and lines typed; what it printed. It must power off.
fn guest(options: &[&str], lines: &str) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lguest"));
    command.args(["run", "--engine", "translator", "--timeout", PATIENCE]).args(options);
    typed(command, lines)
}

fn typed(mut command: Command, lines: &str) -> String {
    let pipe = Stdio::piped;
    let mut child = command.stdin(pipe()).stdout(pipe()).stderr(pipe()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(format!("{lines}poweroff\n").as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).replace('\r', "");
    assert_eq!(output.status.code(), Some(0), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// What one command printed.
fn answer<'a>(text: &'a str, command: &str) -> &'a str {
    let (_, rest) = text.split_once(&format!("lguest> {command}\n")).expect(command);
    rest.split("lguest> ").next().unwrap()
}

#[test]
fn the_same_driver_reads_the_same_text_over_both_transports() {
    let text = guest(&[], "devices\npipe\n");
    let devices = answer(&text, "devices");
    assert!(devices.contains("id 1d6b:3456 irq 17 driven by virt_pipe"), "{text}");
    assert!(devices.contains("id 4c47:0004 irq 1 driven by virt_pipe"), "{text}");
    let said: Vec<&str> = answer(&text, "pipe")
        .lines()
        .filter_map(|line| line.split_once(": "))
        .map(|(_, said)| said)
        .collect();
    assert_eq!(said, ["34 bytes: The driver need not know the bus."; 2], "{text}");
}

#[test]
fn devices_lie_in_sysfs_with_the_originals_bytes() {
    let text = guest(
        &["--memory", "64M"],
        "ls /sys/devices/lguest\ncat /sys/bus/lguest/devices/0/type\ncat /sys/bus/lguest/devices/0/pfn\n\
         cat /sys/bus/lguest/devices/1/pfn\ncat /sys/bus/lguest/devices/0/status\n\
         echo 0x10 > /sys/bus/lguest/devices/0/status\ncat /sys/bus/lguest/devices/0/status\n",
    );
    assert_eq!(answer(&text, "ls /sys/devices/lguest"), "0\n1\n");
    assert_eq!(answer(&text, "cat /sys/bus/lguest/devices/0/type"), "4", "and no newline");
    // 64 MiB: descriptors at 0x4000000, the first device's page behind them, and the console has none.
    assert_eq!(answer(&text, "cat /sys/bus/lguest/devices/0/pfn"), (0x4001).to_string());
    assert_eq!(answer(&text, "cat /sys/bus/lguest/devices/1/pfn"), "0");
    assert_eq!(answer(&text, "cat /sys/bus/lguest/devices/0/status"), "7");
    assert!(text.ends_with("10lguest> poweroff\n"), "{text}");
}

#[test]
fn what_a_guest_writes_is_in_the_file_and_what_is_in_the_file_it_reads() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk");
    std::fs::write(&path, vec![0; 1 << 20]).unwrap();
    let text = guest(
        &["--disk", path.to_str().unwrap()],
        "devices\nwrite lgba 2047 hello\nread lgba 2047\nchecksum lgba\n\
         cat /sys/bus/lguest/devices/0/features\n",
    );
    assert!(answer(&text, "devices").contains("lgba 2048 sectors"), "{text}");
    assert!(answer(&text, "read lgba 2047").contains("hello"), "{text}");
    assert_eq!(answer(&text, "cat /sys/bus/lguest/devices/0/features"), "8000");
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!(bytes.len(), 1 << 20);
    assert!(bytes[2047 * 512..].starts_with(b"hello") && bytes[..2047 * 512].iter().all(|byte| *byte == 0));
}

#[test]
fn a_guest_pings_the_host_through_a_tap() {
    let script = "ip tuntap add dev lgt0 mode tap && ip addr add 10.97.3.1/24 dev lgt0 && ip link set lgt0 up && \
                  exec \"$0\" run --engine translator --timeout 60 --net tap=lgt0";
    let isolated = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["--net", "sh", "-c", script, env!("CARGO_BIN_EXE_lguest")]);
        command
    };
    let can =
        isolated("ip tuntap add dev lgt0 mode tap").output().is_ok_and(|output| output.status.success());
    if !can {
        let name = "a_guest_pings_the_host_through_a_tap";
        return eprintln!("SKIPPED {name}: a network namespace with a tap needs root, ip and /dev/net/tun");
    }
    let text = typed(isolated(script), "net\nnet ip 10.97.3.2\nnet ping 10.97.3.1\n");
    assert!(answer(&text, "net").contains("slot 1"), "{text}");
    assert!(answer(&text, "net ping 10.97.3.1").starts_with("answer from "), "{text}");
}
