//! A processor on a workbench, for tests: long mode, a megabyte of RAM, small tables whose places are all named here.
//!
//! ```text
//!   0x01000 PML4   0x02000 PDPT   0x03000 PD   0x04000 PT: identity, supervisor, writable
//!   0x10000 GDT    0x11000 IDT (every gate: interrupt, DPL 0, handler HANDLER + vector)    0x12000 TSS
//!   0x20000 top of the kernel's stack (RSP0)    0x22000 IST1    0x24000 the stack in use    0x30000 user page
//! ```

use std::fs::File;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::LongModeEntry;
use crate::cpu::cpuid::Cpuid;
use crate::cpu::descriptors::system;
use crate::cpu::segments::{CS, SS, Segment, TableRegister, attributes};
use crate::cpu::{Cpu, RSP, cr4, efer};
use crate::memory::access::GuestMemory;
use crate::memory::ram::{Ram, RamRegion};

pub const PML4: u64 = 0x1000;
pub const PDPT: u64 = 0x2000;
pub const PD: u64 = 0x3000;
pub const PT: u64 = 0x4000;
pub const GDT: u64 = 0x10000;
pub const IDT: u64 = 0x11000;
pub const TSS: u64 = 0x12000;
pub const RSP0: u64 = 0x20000;
pub const IST1: u64 = 0x22000;
pub const STACK: u64 = 0x24000;
pub const USER_PAGE: u64 = 0x30000;
pub const RAM_BYTES: u64 = 0x10_0000;
/// First of the handlers, one byte each: their addresses are all that matters.
pub const HANDLER: u64 = 0x40000;

pub const KERNEL_CODE: u16 = 0x10;
pub const KERNEL_DATA: u16 = 0x18;
pub const USER_CODE_32: u16 = 0x23;
pub const USER_DATA: u16 = 0x2b;
pub const USER_CODE: u16 = 0x33;
pub const CONFORMING: u16 = 0x38;
pub const ABSENT_DATA: u16 = 0x40;
pub const READ_ONLY: u16 = 0x48;
pub const TASK: u16 = 0x50;
pub const LOCAL: u16 = 0x60;
pub const EXECUTE_ONLY: u16 = 0x70;
pub const LEVEL_1_CODE: u16 = 0x79;
/// Bytes of the GDT.
pub const GDT_BYTES: u16 = 0x80;

/// Entry bits for [`Workbench::map`].
pub const P: u64 = 1;
pub const W: u64 = 2;
pub const U: u64 = 4;
pub const A: u64 = 0x20;
pub const D: u64 = 0x40;
pub const PS: u64 = 0x80;
pub const G: u64 = 0x100;
pub const NX: u64 = 1 << 63;

pub struct Workbench {
    pub ram: Ram,
    pub cpu: Cpu,
}

/// RAM of `length` bytes from guest-physical 0, on a file that nobody else can name any more.
pub fn ram(length: u64) -> Ram {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let name = format!("lguest-workbench-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let path = std::env::temp_dir().join(name);
    let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    file.set_len(length).unwrap();
    Ram::new(&file, length, vec![RamRegion { start: 0, length, offset: 0 }]).unwrap()
}

impl Workbench {
    /// At CPL 0, interrupts on, NX, SMEP and SMAP on, every table in its place.
    pub fn new() -> Workbench {
        let ram = ram(RAM_BYTES);
        let mut cpu = Cpu::at_power_on(Cpuid::of_host(&crate::Options::default()).xcr0());
        cpu.enter_long_mode(&LongModeEntry {
            rip: 0x5000,
            rsp: STACK,
            rsi: 0,
            cr3: PML4,
            gdt: GDT,
            gdt_limit: GDT_BYTES - 1,
        });
        cpu.rflags |= crate::cpu::flags::IF;
        cpu.cr4 |= cr4::SMEP | cr4::SMAP | cr4::PGE;
        cpu.efer |= efer::NXE | efer::SCE;
        cpu.idtr = TableRegister { base: IDT, limit: 0xfff };
        cpu.tr = Segment {
            selector: TASK,
            attributes: attributes::PRESENT | system::TSS_BUSY as u16,
            limit: 0x67,
            base: TSS,
        };
        let bench = Workbench { ram, cpu };
        bench.lay_tables();
        bench
    }

    fn lay_tables(&self) {
        for (table, next) in [(PML4, PDPT), (PDPT, PD), (PD, PT)] {
            self.put(table, next | P | W | U);
        }
        for page in 0..RAM_BYTES >> 12 {
            self.map(page << 12, page << 12 | P | W);
        }
        self.map(USER_PAGE, USER_PAGE | P | W | U);
        let descriptors = [
            (KERNEL_CODE, 0x00af_9b00_0000_ffff),
            (KERNEL_DATA, 0x00cf_9300_0000_ffff),
            (USER_CODE_32, 0x00cf_fb00_0000_ffff),
            (USER_DATA, 0x00cf_f300_0000_ffff),
            (USER_CODE, 0x00af_fb00_0000_ffff),
            (CONFORMING, 0x00af_9f00_0000_ffff),
            (ABSENT_DATA, 0x00cf_1300_0000_ffff),
            // Not accessed yet, with a base and a limit of bytes.
            (READ_ONLY, 0x1245_9034_5678_0fff),
            (TASK, 0x0000_8901_2000_0067),
            (LOCAL, 0x0000_8201_3000_000f),
            (EXECUTE_ONLY, 0x00af_9900_0000_ffff),
            (LEVEL_1_CODE, 0x00af_bb00_0000_ffff),
        ];
        for (selector, descriptor) in descriptors {
            self.put(GDT + (selector & !7) as u64, descriptor);
        }
        for vector in 0..=255 {
            self.gate(vector, HANDLER + vector as u64, KERNEL_CODE, 0x8e, 0);
        }
        self.put(TSS + 4, RSP0);
        self.put(TSS + 36, IST1);
    }

    pub fn memory(&self) -> GuestMemory<'_> {
        GuestMemory::new(&self.ram)
    }

    pub fn put(&self, physical: u64, value: u64) {
        assert!(self.ram.write(physical, &value.to_le_bytes()));
    }

    pub fn get(&self, physical: u64) -> u64 {
        let mut bytes = [0; 8];
        assert!(self.ram.read(physical, &mut bytes));
        u64::from_le_bytes(bytes)
    }

    /// Puts `entry` where the small-page entry of `linear` is.
    pub fn map(&self, linear: u64, entry: u64) {
        self.put(PT + (linear >> 12 << 3), entry);
    }

    pub fn page_entry(&self, linear: u64) -> u64 {
        self.get(PT + (linear >> 12 << 3))
    }

    /// Puts a gate: `kind` is byte 5 of it (present, privilege level, type).
    pub fn gate(&self, vector: u8, offset: u64, selector: u16, kind: u8, stack: u8) {
        let low = offset & 0xffff
            | (selector as u64) << 16
            | (stack as u64) << 32
            | (kind as u64) << 40
            | (offset >> 16 & 0xffff) << 48;
        self.put(IDT + vector as u64 * 16, low);
        self.put(IDT + vector as u64 * 16 + 8, offset >> 32);
    }

    /// Moves the processor to user mode, as a return from the kernel leaves it.
    pub fn go_user(&mut self) {
        self.cpu.cpl = 3;
        self.cpu.segments = [Segment::null(0); 6];
        self.cpu.segments[CS] = Segment::long_code(USER_CODE, 3);
        self.cpu.segments[SS] = Segment::flat_data(USER_DATA, 3);
        self.cpu.gpr[RSP] = USER_PAGE + 0x800;
    }
}
