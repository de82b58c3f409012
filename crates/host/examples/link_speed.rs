//! SEND_DMA between two machines through a broker: what a packet costs, and how many bytes a second.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use lguest_abi::dma::Dma64;
use lguest_abi::meeting::Irq;
use lguest_host::dma::Form;
use lguest_host::interrupts::Interrupts;
use lguest_host::link::{Joining, Link, broker};
use lguest_host::memory::{GuestAddress, Memory};
use zerocopy::IntoBytes;

const RAM: u64 = 1 << 20;
const LIST: u64 = 0x1000;
const DATA: u64 = 0x10000;
const ROUNDS: u32 = 20_000;

struct Nobody;

impl Interrupts for Nobody {
    fn raise(&self, _irq: Irq) {}
}

fn start(listener: OwnedFd) -> std::io::Result<()> {
    std::thread::spawn(move || broker::serve(listener));
    Ok(())
}

fn list(memory: &Memory, sections: usize, length: u16) {
    let mut dma = Dma64::default();
    for index in 0..sections {
        (dma.addr[index], dma.len[index]) = (DATA + index as u64 * 4096, length);
    }
    memory.write(GuestAddress(LIST), dma.as_bytes()).expect("the list is in memory");
}

fn main() {
    let folder = std::env::temp_dir().join(format!("lguest-link-speed-{}", std::process::id()));
    let [sender, receiver] = [(); 2].map(|()| {
        let memory = Memory::with_device_pages(RAM, 2).expect("a mebibyte");
        let limit = RAM + 2 * 4096;
        let joining = Joining { memory: &memory, size: (RAM, 2), limit, form: Form::Bits64 };
        let (mut link, _page) = Link::join(&folder, "speed", &start, &joining).expect("a link");
        link.listen(Arc::new(Nobody), Box::new(|_| ())).expect("a thread");
        (memory, link)
    });
    receiver.1.bind(4, LIST, 1, Irq::new(1).expect("there is one"));
    for (sections, length) in [(1, 64), (1, 1514), (16, 4096)] {
        list(&receiver.0, sections, length);
        list(&sender.0, sections, length);
        let start = Instant::now();
        for _ in 0..ROUNDS {
            receiver.0.store_word(GuestAddress(LIST), 0).expect("in memory");
            sender.1.send(4, LIST).expect("a good list");
        }
        let took = start.elapsed();
        let bytes = sections as f64 * f64::from(length) * f64::from(ROUNDS);
        let (each, rate) = (took / ROUNDS, bytes / took.as_secs_f64() / 1e6);
        println!("{:6} bytes a packet: {each:?} each, {rate:.0} MB/s", sections * usize::from(length));
    }
    let _ = std::fs::remove_dir_all(folder);
}
