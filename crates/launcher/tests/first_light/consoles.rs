//! Virtio's console and ports in a Debian Guest: the terminal's size, sessions of pipes, named ports to sockets and files.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::command::{PATIENCE, debian_is_here, folder, run};
use crate::terminal::Terminal;

/// The kernel and its modules may be unpacked first.
const BOOT: Duration = Duration::from_secs(120);
const SOON: Duration = Duration::from_secs(30);

#[test]
fn a_session_on_virtios_console_follows_the_terminals_size() {
    if !debian_is_here("a_session_on_virtios_console_follows_the_terminals_size") {
        return;
    }
    for bus in ["pci", "mmio"] {
        let words = ["run", "debian", "--console", "virtio", "--bus", bus, "--net", "none", "--quiet"];
        let mut terminal = Terminal::start(&words);
        terminal.until("# ", BOOT);
        terminal.types("tty; stty size\n");
        terminal.until("/dev/hvc0", SOON);
        terminal.until("24 80", SOON);
        terminal.resize(132, 50);
        // The word comes on its own time; a loop in the Guest waits for it.
        terminal.types("until [ \"$(stty size)\" = '50 132' ]; do sleep 0.1; done; echo followed=$((6*7))\n");
        terminal.until("followed=42", SOON);
        terminal.types("exit 3\n");
        assert_eq!(terminal.ends(SOON), Some(3), "on {bus}");
        assert!(!terminal.modes().are_raw());
    }
}

#[test]
fn a_session_of_pipes_on_virtios_console_carries_every_byte() {
    if !debian_is_here("a_session_of_pipes_on_virtios_console_carries_every_byte") {
        return;
    }
    let input: String = (0..20_000).map(|line| format!("{line} \u{4}\u{16}line\n")).collect();
    let words = ["run", "debian", "--console", "virtio", "--net", "none", "--", "cat"];
    let cat = run(&words, &input);
    assert_eq!(cat.status, Some(0), "{}", cat.messages);
    assert!(cat.output == input, "{} of {} bytes", cat.output.len(), input.len());
}

#[test]
fn a_named_port_carries_bytes_both_ways_and_a_file_takes_what_is_written() {
    if !debian_is_here("a_named_port_carries_bytes_both_ways_and_a_file_takes_what_is_written") {
        return;
    }
    let folder = folder("a_named_port");
    let (socket, file) = (folder.join("socket"), folder.join("log"));
    let (agent, log) =
        (format!("org.x.agent=unix:{}", socket.display()), format!("log=file:{}", file.display()));
    // The Guest writes a line, and sends the first line that comes back to its output and into the file.
    let script = "exec 3<>/dev/virtio-ports/org.x.agent; echo hello from the guest >&3; read line <&3; \
                  echo \"heard $line\"; echo \"wrote $line\" >/dev/virtio-ports/log";
    let visitor = std::thread::spawn(move || {
        let end = Instant::now() + PATIENCE;
        let mut stream = loop {
            match UnixStream::connect(&socket) {
                Ok(stream) => break stream,
                Err(cause) => assert!(Instant::now() < end, "{cause}"),
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut heard = [0; "hello from the guest\n".len()];
        stream.read_exact(&mut heard).unwrap();
        stream.write_all(b"a line of the host's\n").unwrap();
        // Held open until the Guest is gone.
        let _ = stream.read_to_end(&mut Vec::new());
        String::from_utf8_lossy(&heard).into_owned()
    });
    let words =
        ["run", "debian", "--net", "none", "--port", &agent, "--port", &log, "--", "sh", "-c", script];
    let guest = run(&words, "");
    assert_eq!((guest.status, guest.output.as_str()), (Some(0), "heard a line of the host's\n"), "{guest:?}");
    assert_eq!(visitor.join().unwrap(), "hello from the guest\n");
    assert_eq!(std::fs::read_to_string(file).unwrap(), "wrote a line of the host's\n");
}

#[test]
fn what_a_console_or_port_cannot_be_is_said_in_one_sentence() {
    let refused = |words: &[&str], beginning: &str| {
        let end = run(&[&["run"], words].concat(), "");
        assert_eq!(end.status, Some(125), "{words:?}: {}", end.messages);
        assert!(end.messages.contains(&format!("lguest: {beginning}")), "{}", end.messages);
        assert_eq!(end.messages.lines().count(), 1, "{}", end.messages);
    };
    refused(&["debian", "--console", "vga"], "--console vga: is no console");
    refused(&["debian", "--port", "x"], "--port x: is no port");
    refused(&["debian", "--port", "a/b=file:/dev/null"], "--port a/b=file:/dev/null: a port's name");
    refused(
        &["debian", "--port", "a=file:/dev/null", "--port", "a=file:/dev/null"],
        "--port a=file:/dev/null: a is taken",
    );
    refused(&["--port", "a=file:/dev/null"], "--port: needs --bus pci or mmio");
}
