//! Links between machines that are memory and a thread: the sockets, the slots, the dead and the silent.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;

use lguest_abi::dma::Dma64;
use zerocopy::IntoBytes;

use super::*;
use crate::memory::GuestAddress;

const RAM: u64 = 0x10000;
const LIMIT: u64 = RAM + 0x2000;
const LIST: u64 = 0x1000;
const DATA: u64 = 0x4000;

/// A folder of this test's own, gone with it.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Folder(std::env::temp_dir().join(format!("lguest-link-test-{}-{number}", std::process::id())))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn thread_broker(listener: OwnedFd) -> std::io::Result<()> {
    std::thread::spawn(move || broker::serve(listener));
    Ok(())
}

struct Machine {
    memory: Arc<Memory>,
    link: Link,
    irqs: mpsc::Receiver<Irq>,
    deaths: mpsc::Receiver<String>,
}

struct Bell(Mutex<mpsc::Sender<Irq>>);

impl Interrupts for Bell {
    fn raise(&self, irq: Irq) {
        let _ = self.0.lock().unwrap().send(irq);
    }
}

fn join(folder: &Folder) -> Result<Machine, LinkError> {
    let mut memory = Memory::with_device_pages(RAM, 2).unwrap();
    let joining = Joining { memory: &memory, size: (RAM, 2), limit: LIMIT, form: Form::Bits64 };
    let (mut link, page) = Link::join(&folder.0, "test", &thread_broker, &joining)?;
    memory.graft(GuestAddress(RAM + 0x1000), page).unwrap();
    let (bell, irqs) = mpsc::channel();
    let (died, deaths) = mpsc::channel();
    link.listen(Arc::new(Bell(Mutex::new(bell))), Box::new(move |reason| drop(died.send(reason)))).unwrap();
    Ok(Machine { memory: Arc::new(memory), link, irqs, deaths })
}

impl Machine {
    fn put(&self, used: u32, address: u64, length: u16) {
        let mut dma = Dma64 { used_len: used, ..Dma64::default() };
        (dma.addr[0], dma.len[0]) = (address, length);
        self.memory.write(GuestAddress(LIST), dma.as_bytes()).unwrap();
    }
    fn used(&self) -> u32 {
        self.memory.load_word(GuestAddress(LIST)).unwrap()
    }
    fn irq(&self) -> u8 {
        self.irqs.recv_timeout(Duration::from_secs(5)).unwrap().number()
    }
}

fn irq(number: u8) -> Irq {
    Irq::new(number).unwrap()
}

#[test]
fn machines_share_a_page_have_their_own_slots_and_send_to_each_other() {
    let folder = Folder::new();
    let [a, b, c] = [(); 3].map(|()| join(&folder).unwrap());
    assert_eq!([a.link.slot(), b.link.slot(), c.link.slot()], [0, 1, 2]);
    a.memory.write(GuestAddress(RAM + 0x1000), b"hello").unwrap();
    let mut seen = [0; 5];
    c.memory.read(GuestAddress(RAM + 0x1000), &mut seen).unwrap();
    assert_eq!(&seen, b"hello");
    b.put(0, DATA, 4096);
    assert!(b.link.bind(4, LIST, 1, irq(2)));
    a.memory.write(GuestAddress(DATA), b"ping").unwrap();
    a.put(0, DATA, 4);
    a.link.send(4, LIST).unwrap();
    assert_eq!((a.used(), b.used(), b.irq()), (4, 4, 2));
    let mut seen = [0; 4];
    b.memory.read(GuestAddress(DATA), &mut seen).unwrap();
    assert_eq!(&seen, b"ping");
    assert!(b.link.unbind(4, LIST) && !b.link.unbind(4, LIST));
}

#[test]
fn a_dead_peer_gets_nothing_its_slot_is_free_again_and_the_others_go_on() {
    let folder = Folder::new();
    let [a, b, c] = [(); 3].map(|()| join(&folder).unwrap());
    b.put(0, DATA, 64);
    assert!(b.link.bind(4, LIST, 1, irq(1)));
    drop(b);
    a.put(0, DATA, 4);
    // The broker hears of the death when it next looks, which is before or after this send.
    let gone = (0..100).any(|_| {
        a.memory.store_word(GuestAddress(LIST), 0).unwrap();
        a.link.send(4, LIST).unwrap();
        a.used() == 0
    });
    assert!(gone, "a dead machine still takes packets");
    c.put(0, DATA, 64);
    assert!(c.link.bind(8, LIST, 1, irq(3)));
    a.link.send(8, LIST).unwrap();
    assert_eq!((a.used(), c.irq()), (4, 3));
    assert_eq!(join(&folder).unwrap().link.slot(), 1);
}

#[test]
fn whoever_breaks_a_rule_is_told_and_the_other_is_not() {
    let folder = Folder::new();
    let [a, b] = [(); 2].map(|()| join(&folder).unwrap());
    b.put(0, DATA, 64);
    assert!(b.link.bind(4, LIST, 1, irq(1)));
    a.put(0, DATA + 1, 4096);
    assert_eq!(a.link.send(4, LIST), Err("bad DMA entry: 4096@4001".to_owned()));
    a.put(0, DATA, 8);
    b.put(0, LIMIT, 64);
    assert_eq!(a.link.send(4, LIST), Ok(()));
    let reason = b.deaths.recv_timeout(Duration::from_secs(5)).unwrap();
    assert_eq!(reason, format!("bad DMA entry: 64@{LIMIT:x}"));
    assert!(a.deaths.try_recv().is_err());
}

#[test]
fn a_machine_that_does_not_listen_hangs_nobody() {
    let folder = Folder::new();
    let a = join(&folder).unwrap();
    let mut memory = Memory::with_device_pages(RAM, 2).unwrap();
    let joining = Joining { memory: &memory, size: (RAM, 2), limit: LIMIT, form: Form::Bits64 };
    let (deaf, page) = Link::join(&folder.0, "test", &thread_broker, &joining).unwrap();
    memory.graft(GuestAddress(RAM + 0x1000), page).unwrap();
    memory
        .write(GuestAddress(LIST), Dma64 { addr: [DATA; 16], len: [8; 16], ..Dma64::default() }.as_bytes())
        .unwrap();
    assert!(deaf.bind(4, LIST, 1, irq(1)));
    a.put(0, DATA, 8);
    for _ in 0..5000 {
        memory.store_word(GuestAddress(LIST), 0).unwrap();
        a.link.send(4, LIST).unwrap();
        assert_eq!(a.used(), 8);
    }
}

#[test]
fn a_broker_that_hangs_is_given_up_with_a_sentence() {
    let folder = Folder::new();
    let memory = Memory::with_device_pages(RAM, 2).unwrap();
    let joining = Joining { memory: &memory, size: (RAM, 2), limit: LIMIT, form: Form::Bits64 };
    let kept = Mutex::new(None);
    let hang = |listener| {
        *kept.lock().unwrap() = Some(listener);
        Ok(())
    };
    let error = Link::join(&folder.0, "test", &hang, &joining).err().unwrap();
    assert!(error.to_string().starts_with("the link's broker does not answer"), "{error}");
}

#[test]
fn names_that_are_no_file_names_are_refused() {
    let memory = Memory::with_device_pages(RAM, 2).unwrap();
    let joining = Joining { memory: &memory, size: (RAM, 2), limit: LIMIT, form: Form::Bits64 };
    for name in ["", "../x", "a b", "a/b", &"x".repeat(33)] {
        let error = Link::join(&Folder::new().0, name, &thread_broker, &joining).err().unwrap();
        assert!(matches!(error, LinkError::Name), "{name}: {error}");
    }
}

#[test]
fn noise_on_the_brokers_socket_ends_that_connection_only() {
    let folder = Folder::new();
    let a = join(&folder).unwrap();
    for noise in [&b""[..], b"x", &[0xff; 32], &[1; 200]] {
        let socket = connect(&folder.0, "test", &thread_broker).unwrap();
        let _ = rustix::net::send(&socket, noise, SendFlags::NOSIGNAL);
    }
    let b = join(&folder).unwrap();
    b.put(0, DATA, 64);
    assert!(b.link.bind(4, LIST, 1, irq(1)));
    a.put(0, DATA, 4);
    a.link.send(4, LIST).unwrap();
    assert_eq!(a.used(), 4);
}
