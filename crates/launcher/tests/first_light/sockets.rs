//! `--vsock PATH`: programs of the host's and of the Guest's meet, both ways.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use crate::command::{PATIENCE, debian_is_here, folder, run};

#[test]
fn a_guest_finds_a_program_of_the_hosts_and_the_host_one_of_the_guests() {
    let test = "a_guest_finds_a_program_of_the_hosts_and_the_host_one_of_the_guests";
    if !debian_is_here(test) {
        return;
    }
    // A socket's name is short, and cargo's folder for tests may not be.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("v");
    let listener = UnixListener::bind(folder.path().join("v_80")).unwrap();
    let host = std::thread::spawn(move || {
        let (mut guest, _) = listener.accept().unwrap();
        let mut bytes = Vec::new();
        guest.read_to_end(&mut bytes).unwrap();
        bytes.reverse();
        guest.write_all(&bytes).unwrap();
    });
    let visited = path.clone();
    let visitor = std::thread::spawn(move || {
        let end = Instant::now() + PATIENCE;
        // Until the Guest listens, whoever comes is sent away.
        while Instant::now() < end {
            std::thread::sleep(Duration::from_millis(50));
            let Ok(mut stream) = UnixStream::connect(&visited) else { continue };
            if stream.write_all(b"CONNECT 1234\nfrom the host\n").is_err() {
                continue;
            }
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut line = String::new();
            if reader.read_line(&mut line).is_ok_and(|length| length > 0) {
                let _ = stream.shutdown(Shutdown::Write);
                let mut rest = String::new();
                let _ = reader.read_to_string(&mut rest);
                return (line, rest);
            }
        }
        Default::default()
    });
    // A line, so that its reverse ends with none.
    let script = "head -c 300000 /dev/zero | tr '\\0' x >there; echo y >>there\n\
                  vsock 80 <there >back; wc -c <back; head -c 3 back | tail -c 2; echo\n\
                  echo from the guest | vsock -l 1234\n\
                  vsock 81 </dev/null 2>&1 | grep -o 'Connection reset'\n";
    let done = run(&["run", "debian", "--vsock", path.to_str().unwrap(), "--sandbox", "auto"], script);
    let expected = "300002\nyx\nfrom the host\nConnection reset\n";
    assert_eq!((done.output.as_str(), done.status), (expected, Some(0)), "{}", done.messages);
    host.join().unwrap();
    let (greeting, rest) = visitor.join().unwrap();
    assert!(greeting.starts_with("OK ") && rest == "from the guest\n", "{greeting:?} {rest:?}");
}

#[test]
fn sockets_that_cannot_work_are_told_in_one_sentence() {
    let folder = folder("sockets_that_cannot_work_are_told_in_one_sentence");
    let file = folder.join("file");
    std::fs::write(&file, "precious").unwrap();
    for words in [
        &["run", "debian", "--vsock", file.to_str().unwrap()][..],
        &["run", "debian", "--vsock", "/no/such/folder/v"],
        &["run", "--vsock", "v-that-is-not-made"],
    ] {
        let done = run(words, "");
        assert_eq!(done.status, Some(125), "{words:?}: {done:?}");
        assert!(done.sentences().len() == 1 && done.sentences()[0].contains("--vsock"), "{done:?}");
    }
    assert!(!std::path::Path::new("v-that-is-not-made").exists());
}
