//! A Host of a few dozen lines for the tests: slow, obvious, and honest unless told otherwise.
//!
//! One megabyte of RAM with the descriptor page at [`PAGE`], device pages above it, and memory to allocate below.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use lguest_abi::descriptor::Descriptor;
use lguest_abi::dma::{Dma64, Sections};
use lguest_abi::hypercall::{Hypercall, unpack_bind};
use lguest_abi::meeting::{Irq, PLATFORM_NAME};
use zerocopy::{FromBytes, IntoBytes};

use crate::model::{Driver, Memory, Registry};
use crate::transport::{Hypercalls, LguestBus};

pub(crate) const PAGE: u64 = 0x8_0000;
pub(crate) const FIRST_DEVICE_PAGE: u64 = PAGE + 0x1000;
const RAM: usize = 1 << 20;
const LIST: u64 = size_of::<Dma64>() as u64;

/// What the Guest did to memory, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    Write(u64),
    Barrier,
}

pub(crate) struct Binding {
    pub key: u64,
    pub array: u64,
    pub count: u16,
    pub irq: u8,
}

type Taker = Box<dyn FnMut(u64, &[u8]) -> u32>;

/// The Host, and the Guest's memory.
pub(crate) struct MockHost {
    ram: RefCell<Vec<u8>>,
    next: Cell<u64>,
    /// Bytes allocated and not given back.
    pub live: Cell<usize>,
    /// Allocations that succeed before the next fails.
    pub allocations_left: Cell<usize>,
    pub bindings: RefCell<Vec<Binding>>,
    pub refuse_bindings: Cell<bool>,
    /// Every send: key, list, bytes.
    pub sent: RefCell<Vec<(u64, Sections, Vec<u8>)>>,
    /// What becomes `used_len` of a send.
    pub taker: RefCell<Taker>,
    pub events: RefCell<Vec<Event>>,
    /// The other end of the pipe on the device tree: handle 5.
    pub tree_pipe: RefCell<VecDeque<u8>>,
    pub calls: RefCell<Vec<Hypercall>>,
    /// Values of NOTIFY, in order.
    pub notified: RefCell<Vec<u64>>,
}

impl MockHost {
    pub fn new() -> Rc<MockHost> {
        Rc::new(MockHost {
            ram: RefCell::new(vec![0; RAM]),
            next: Cell::new(0x1000),
            live: Cell::new(0),
            allocations_left: Cell::new(usize::MAX),
            bindings: RefCell::default(),
            refuse_bindings: Cell::new(false),
            sent: RefCell::default(),
            taker: RefCell::new(Box::new(|_, bytes| bytes.len() as u32)),
            events: RefCell::default(),
            tree_pipe: RefCell::default(),
            calls: RefCell::default(),
            notified: RefCell::default(),
        })
    }

    pub fn memory(self: &Rc<Self>) -> Rc<dyn Memory> {
        self.clone()
    }

    pub fn host(self: &Rc<Self>) -> Rc<dyn Hypercalls> {
        self.clone()
    }

    /// Puts a device into the page; its memory lies at its index above the page.
    pub fn describe(&self, index: usize, kind: u16, features: u16, num_pages: u16) {
        let pfn = if num_pages == 0 { 0 } else { page_of(index) / 4096 };
        let descriptor = Descriptor { kind, features, status: 0, num_pages, pfn: pfn as u32 };
        self.poke(PAGE + index as u64 * 12, descriptor.as_bytes());
    }

    pub fn status(&self, index: usize) -> u16 {
        let bytes = self.peek(PAGE + index as u64 * 12 + 4, 2);
        u16::from_le_bytes([bytes[0], bytes[1]])
    }

    pub fn peek(&self, at: u64, count: usize) -> Vec<u8> {
        self.ram.borrow()[at as usize..at as usize + count].to_vec()
    }

    pub fn peek_u32(&self, at: u64) -> u32 {
        u32::from_le_bytes(self.peek(at, 4).try_into().unwrap())
    }

    pub fn poke(&self, at: u64, bytes: &[u8]) {
        self.ram.borrow_mut()[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
    }

    /// Starts the lguest bus with nothing registered yet.
    pub fn start(self: &Rc<Self>, registry: &Registry) -> LguestBus {
        let quiet = &mut |failed| panic!("{failed:?}");
        let bus = LguestBus::start(PLATFORM_NAME, PAGE, &self.memory(), &self.host(), registry, quiet);
        bus.unwrap().unwrap()
    }

    /// A bus, and one driver on it.
    pub fn with_driver(self: &Rc<Self>, driver: Rc<dyn Driver>) -> Registry {
        let registry = Registry::new();
        self.start(&registry);
        registry.add_driver(driver).unwrap();
        registry
    }

    /// Puts bytes into the first free list of a key. Says whether there was one, and raises the interrupt anyway.
    pub fn deliver(&self, registry: &Registry, key: u64, bytes: &[u8]) -> bool {
        let Some((irq, list)) = self.free_list(key) else { return false };
        if let Some(list) = list {
            self.fill(list, bytes);
            self.poke(list, &(bytes.len() as u32).to_le_bytes());
        }
        registry.interrupt(Irq::new(irq).unwrap());
        list.is_some()
    }

    /// The irq of a key's newest binding, and its first free list.
    pub fn free_list(&self, key: u64) -> Option<(u8, Option<u64>)> {
        let bindings = self.bindings.borrow();
        let binding = bindings.iter().rev().find(|binding| binding.key == key)?;
        let mut lists = (0..binding.count).map(|list| binding.array + u64::from(list) * LIST);
        Some((binding.irq, lists.find(|list| self.peek_u32(*list) == 0)))
    }

    /// Writes bytes where a list points.
    pub fn fill(&self, list: u64, bytes: &[u8]) {
        let mut rest = bytes;
        for section in self.list(list).as_slice() {
            let (part, after) = rest.split_at(rest.len().min(section.length.into()));
            self.poke(section.address, part);
            rest = after;
        }
    }

    pub fn list(&self, at: u64) -> Sections {
        Dma64::read_from_bytes(&self.peek(at, LIST as usize)).unwrap().sections()
    }

    fn send(&self, key: u64, list: u64) {
        let sections = self.list(list);
        let stretches = sections.as_slice().iter();
        let bytes: Vec<u8> =
            stretches.flat_map(|section| self.peek(section.address, section.length.into())).collect();
        let used = (self.taker.borrow_mut())(key, &bytes);
        self.sent.borrow_mut().push((key, sections, bytes));
        self.poke(list, &used.to_le_bytes());
    }

    fn bind(&self, key: u64, array: u64, word: u64) -> u64 {
        let bind = unpack_bind(word);
        let mut bindings = self.bindings.borrow_mut();
        if bind.irq == 0 {
            let before = bindings.len();
            bindings.retain(|binding| binding.key != key || binding.array != array);
            return u64::from(bindings.len() < before);
        }
        if self.refuse_bindings.get() {
            return 0;
        }
        bindings.push(Binding { key, array, count: bind.count, irq: bind.irq });
        1
    }
}

/// Where the memory of the device at an index lies.
pub(crate) fn page_of(index: usize) -> u64 {
    FIRST_DEVICE_PAGE + index as u64 * 4096
}

impl Memory for MockHost {
    fn read(&self, at: u64, bytes: &mut [u8]) {
        bytes.copy_from_slice(&self.peek(at, bytes.len()));
    }

    fn write(&self, at: u64, bytes: &[u8]) {
        self.events.borrow_mut().push(Event::Write(at));
        self.poke(at, bytes);
    }

    fn barrier(&self) {
        self.events.borrow_mut().push(Event::Barrier);
    }

    fn allocate(&self, bytes: usize) -> Option<u64> {
        self.allocations_left.set(self.allocations_left.get().checked_sub(1)?);
        let at = self.next.get().next_multiple_of((bytes as u64).next_power_of_two().clamp(16, 4096));
        self.next.set(at + bytes as u64);
        assert!(self.next.get() <= PAGE, "a test that needs more memory than there is");
        self.live.set(self.live.get() + bytes);
        Some(at)
    }

    fn free(&self, _: u64, bytes: usize) {
        self.live.set(self.live.get() - bytes);
    }
}

impl Hypercalls for MockHost {
    fn call(&self, call: Hypercall, [first, second, third]: [u64; 3]) -> u64 {
        self.calls.borrow_mut().push(call);
        match call {
            Hypercall::SendDma => {
                self.send(first, second);
                0
            }
            Hypercall::Notify => {
                self.notified.borrow_mut().push(second);
                0
            }
            Hypercall::BindDma => self.bind(first, second, third),
            Hypercall::Read if first == 5 => {
                let mut pipe = self.tree_pipe.borrow_mut();
                let count = pipe.len().min(third as usize);
                let bytes: Vec<u8> = pipe.drain(..count).collect();
                self.poke(second, &bytes);
                count as u64
            }
            Hypercall::Write if first == 5 => third,
            _ => -19i64 as u64,
        }
    }
}
