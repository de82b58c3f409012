//! The host's side without a Guest: the streams are asked as the device asks them.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use lguest_devices::virtio::vsock::{MOST_CONNECTIONS, Received, Stream, Streams};
use lguest_devices::virtio::waker::{Waker, Wakes};

use super::*;

/// A device that counts its calls.
struct Counter(u64);

impl Wakes for Counter {
    fn wake(&mut self) {
        self.0 += 1;
    }
}

/// Both sides, with PATH in a folder of its own.
struct Host {
    streams: HostStreams,
    folder: tempfile::TempDir,
    _device: Arc<std::sync::Mutex<Counter>>,
}

impl Host {
    fn start() -> Host {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::take(&folder.path().join("v")).unwrap();
        let shared = Arc::new(Shared::new().unwrap());
        let device = Arc::new(std::sync::Mutex::new(Counter(0)));
        service::start(shared.clone(), Some((place.listener, place.path))).unwrap()(Waker::new(&device));
        Host { streams: HostStreams(shared), folder, _device: device }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("v")
    }
}

/// Asks until there is an answer.
fn wait<T>(mut ask: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < end, "no answer");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn receive(streams: &mut HostStreams, stream: Stream) -> Vec<u8> {
    let mut bytes = [0; 100];
    wait(|| match streams.receive(stream, &mut bytes) {
        Received::Bytes(length) => Some(length),
        Received::Nothing => None,
        other => panic!("{other:?}"),
    });
    bytes.into_iter().take_while(|byte| *byte != 0).collect()
}

#[test]
fn a_visitor_says_where_to_and_what_follows_is_the_guests() {
    let mut host = Host::start();
    let mut visitor = UnixStream::connect(host.path()).unwrap();
    visitor.write_all(b"CONNECT 1234\nfor the Guest").unwrap();
    let (stream, port) = wait(|| host.streams.arrived());
    assert_eq!(port, 1234);
    host.streams.granted(stream, 1 << 30);
    assert_eq!(receive(&mut host.streams, stream), b"for the Guest");
    assert_eq!(host.streams.send(stream, b"for the host"), Some(12));
    host.streams.end(stream);
    let mut heard = String::new();
    visitor.read_to_string(&mut heard).unwrap();
    assert_eq!(heard, "OK 1073741824\nfor the host");
    drop(visitor);
    wait(|| (host.streams.receive(stream, &mut [0; 9]) == Received::End).then_some(()));
    host.streams.close(stream);
    assert_eq!(host.streams.receive(stream, &mut [0; 9]), Received::Gone);
}

#[test]
fn a_visitor_that_says_something_else_is_sent_away() {
    let host = Host::start();
    for words in [&b"CONNECT\n"[..], b"CONNECT -1\n", b"CONNECT 4294967296\n", b"connect 1\n", &[b'x'; 19]] {
        let mut visitor = UnixStream::connect(host.path()).unwrap();
        visitor.write_all(words).unwrap();
        // The end, or a reset where bytes were left unread.
        assert!(!matches!(visitor.read(&mut [0; 9]), Ok(1..)), "{words:?}");
    }
}

#[test]
fn the_guest_finds_who_listens_at_its_port_and_nobody_else() {
    let mut host = Host::start();
    let listener = UnixListener::bind(host.folder.path().join("v_80")).unwrap();
    let found = host.streams.connect(80).unwrap();
    assert!(wait(|| host.streams.answered(found)));
    assert_eq!(host.streams.send(found, b"hello"), Some(5));
    let (mut program, _) = listener.accept().unwrap();
    let mut word = [0; 5];
    program.read_exact(&mut word).unwrap();
    assert_eq!(&word, b"hello");
    program.write_all(b"and back").unwrap();
    assert_eq!(receive(&mut host.streams, found), b"and back");
    let nobody = host.streams.connect(81).unwrap();
    assert!(!wait(|| host.streams.answered(nobody)));
}

#[test]
fn no_more_streams_than_the_device_has() {
    let mut host = Host::start();
    let streams: Vec<_> = (0..1000).map_while(|_| host.streams.connect(80)).collect();
    assert_eq!(streams.len(), MOST_CONNECTIONS);
    // A visitor more is sent away by the end of its socket.
    let (mut visitor, other) = UnixStream::pair().unwrap();
    Visits(host.streams.0.clone()).hand_over(other.into(), 1);
    assert_eq!(visitor.read(&mut [0; 9]).unwrap(), 0);
    assert_eq!(host.streams.arrived(), None);
}

#[test]
fn a_place_that_is_taken_or_no_socket_is_one_sentence_and_a_dead_one_is_taken_over() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("v");
    let refusal = |path: &Path| Place::take(path).unwrap_err().0;
    let first = Place::take(&path).unwrap();
    assert!(refusal(&path).contains("another program listens there"));
    drop(first);
    drop(Place::take(&path).unwrap());
    let file = folder.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    assert!(refusal(&file).contains("is no socket"));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
    assert!(refusal(&folder.path().join("x".repeat(100))).contains("too long"));
    assert!(refusal(Path::new("/no/such/folder/v")).starts_with("--vsock /no/such/folder/v: cannot be made"));
}
