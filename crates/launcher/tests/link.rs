//! Several default Guests on one link, each in a process of its own.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

const PROMPT: &str = "lguest> ";

/// A Guest somebody sits at. The time limit ends one that hangs, and with it the test's wait.
struct Guest {
    child: Child,
    keys: ChildStdin,
    screen: BufReader<ChildStdout>,
}

impl Guest {
    /// Starts a Guest; it is on the link when its prompt is there.
    fn start(folder: &Path) -> Guest {
        let mut child = Command::new(env!("CARGO_BIN_EXE_lguest"))
            .args([
                "run",
                "--engine",
                "translator",
                "--timeout",
                "60",
                "--memory",
                "64M",
                "--net",
                "link=test",
            ])
            .env("XDG_RUNTIME_DIR", folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (keys, screen) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut guest = Guest { child, keys, screen };
        guest.until_prompt();
        guest
    }

    fn until_prompt(&mut self) -> String {
        let mut text = Vec::new();
        while !text.ends_with(PROMPT.as_bytes()) {
            let mut byte = [0];
            assert_eq!(self.screen.read(&mut byte).unwrap(), 1, "{}", String::from_utf8_lossy(&text));
            text.push(byte[0]);
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    fn ask(&mut self, line: &str) -> String {
        self.keys.write_all(format!("{line}\n").as_bytes()).unwrap();
        self.until_prompt()
    }

    fn off(mut self) {
        self.keys.write_all(b"poweroff\n").unwrap();
        let mut rest = String::new();
        while self.screen.read_line(&mut rest).is_ok_and(|length| length > 0) {}
        assert_eq!(self.child.wait().unwrap().code(), Some(0), "{rest}");
    }
}

#[test]
fn four_guests_broadcast_and_sniff_and_one_that_is_killed_leaves_the_others_working() {
    let folder = tempfile::tempdir().unwrap();
    let mut guests: Vec<Guest> = (0..4).map(|_| Guest::start(folder.path())).collect();
    for (slot, guest) in guests.iter_mut().enumerate() {
        let text = guest.ask("net");
        assert!(text.contains(&format!("slot {slot}\r\n")), "{text}");
    }
    let text = guests[1].ask("net address");
    let to_1 = &format!("net send {} secret", text.split_whitespace().nth(3).unwrap());
    let text = guests[0].ask("net ping all");
    assert!(text.contains("3 sent, 3 answered"), "one send for every other slot: {text}");
    assert!(guests[0].ask(to_1).contains("1 took it"), "a word to one is for one");
    guests[3].ask("net promiscuous");
    assert!(guests[0].ask(to_1).contains("2 took it"), "a sniffer hears it too");
    guests[3].ask("net promiscuous off");
    assert!(guests[0].ask(to_1).contains("1 took it"), "until it stops");
    let mut killed = guests.remove(2);
    killed.child.kill().unwrap();
    killed.child.wait().unwrap();
    let text = guests[0].ask("net ping all");
    assert!(text.contains(", 2 answered"), "the others go on: {text}");
    guests.into_iter().for_each(Guest::off);
}
