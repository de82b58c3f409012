//! How a processor begins: after power-on, and as a 64-bit boot loader leaves it.

use crate::cpu::inert::InertMsrs;
use crate::cpu::segments::{CS, DS, ES, FS, GS, SS, Segment, TableRegister, attributes};
use crate::cpu::{Cpu, RAX, RBX, RDX, RSI, RSP, Sysenter, cr0, cr4, debug, descriptors, efer, flags, xcr0};

/// Selectors of the boot protocols.
const BOOT_CS: u16 = 0x10;
const BOOT_DS: u16 = 0x18;

/// State a 64-bit boot loader hands over (Linux x86 boot protocol, "64-bit boot protocol").
#[derive(Debug, Clone, Copy)]
pub struct LongModeEntry {
    /// First instruction.
    pub rip: u64,
    /// Stack pointer.
    pub rsp: u64,
    /// Second argument register: the address of the boot parameters.
    pub rsi: u64,
    /// Page-table root; the tables identity-map at least the kernel, the boot parameters and the command line.
    pub cr3: u64,
    /// Descriptor table with __BOOT_CS (0x10) and __BOOT_DS (0x18).
    pub gdt: u64,
    /// Its size in bytes minus one.
    pub gdt_limit: u16,
}

/// State a 32-bit boot loader hands over: protected mode without paging, flat segments, interrupts off, as Multiboot
/// (0.6.96, 3.2), Multiboot 2 (3.3), PVH (Xen, docs/misc/pvh.pandoc) and Linux' 32-bit boot protocol all have it. They differ
/// in the registers that point at what the loader left.
#[derive(Debug, Clone, Copy)]
pub struct ProtectedModeEntry {
    /// First instruction.
    pub eip: u32,
    /// Multiboot's magic number.
    pub eax: u32,
    /// Where Multiboot's or PVH's information is.
    pub ebx: u32,
    /// Where Linux' boot parameters are.
    pub esi: u32,
    /// Stack pointer: no protocol promises one, and a kernel that forgot to make its own then spoils nothing else.
    pub esp: u32,
    /// Descriptor table with 32-bit code at 0x10 and data at 0x18.
    pub gdt: u32,
    /// Its size in bytes minus one.
    pub gdt_limit: u16,
}

/// How a loader enters a kernel.
#[derive(Debug, Clone, Copy)]
pub enum StartState {
    /// In 64-bit mode.
    Long(LongModeEntry),
    /// In 32-bit protected mode.
    Protected(ProtectedModeEntry),
}

impl From<LongModeEntry> for StartState {
    fn from(entry: LongModeEntry) -> StartState {
        StartState::Long(entry)
    }
}

impl Cpu {
    /// A processor at power-on (SDM vol. 3, table 9-1), in real mode, about to run the sixteen bytes at the end of the
    /// first 4 GiB; `xcr0_offered` comes from [`super::cpuid::Cpuid::xcr0`].
    pub fn at_power_on(xcr0_offered: u64) -> Cpu {
        let code = Segment { selector: 0xf000, base: 0xffff_0000, ..Segment::at_reset() };
        let data = Segment::at_reset();
        let system = |kind: u8| Segment {
            attributes: attributes::PRESENT | kind as u16,
            limit: 0xffff,
            ..Segment::default()
        };
        Cpu {
            gpr: [0; 16],
            rip: 0xfff0,
            rflags: flags::ALWAYS_ONE,
            cpl: 0,
            interrupt_shadow: false,
            nmi_blocked: false,
            segments: [data, code, data, data, data, data],
            ldtr: system(descriptors::system::LDT),
            tr: system(descriptors::system::TSS_BUSY),
            gdtr: TableRegister { base: 0, limit: 0xffff },
            idtr: TableRegister { base: 0, limit: 0xffff },
            cr0: cr0::CD | cr0::NW | cr0::ET,
            cr2: 0,
            cr3: 0,
            directories: [0; 4],
            cr4: 0,
            xcr0: xcr0::X87,
            efer: 0,
            star: 0,
            lstar: 0,
            cstar: 0,
            sfmask: 0,
            sysenter: Sysenter::default(),
            kernel_gs_base: 0,
            tsc_aux: 0,
            tsc_offset: 0,
            tsc_adjust: 0,
            dr: [0, 0, 0, 0, 0, 0, debug::DR6_FIXED, debug::DR7_FIXED],
            xcr0_offered,
            inert: InertMsrs::at_power_on(),
            reloadable: 0,
            hosted: None,
        }
    }

    /// The processor's state after INIT (SDM vol. 3, table 9-1): as at power-on but for what INIT leaves alone, the
    /// model-specific registers, XCR0 and the caches' switches; edx tells the `signature` of leaf 1. Vector and x87 registers
    /// stay too, and are elsewhere.
    pub fn initialize(&mut self, signature: u32) {
        let fresh = Cpu::at_power_on(self.xcr0_offered);
        let caches = cr0::CD | cr0::NW;
        let mut gpr = fresh.gpr;
        gpr[RDX] = signature.into();
        *self = Cpu {
            gpr,
            cr0: fresh.cr0 & !caches | self.cr0 & caches,
            xcr0: self.xcr0,
            star: self.star,
            lstar: self.lstar,
            cstar: self.cstar,
            sfmask: self.sfmask,
            kernel_gs_base: self.kernel_gs_base,
            tsc_aux: self.tsc_aux,
            tsc_offset: self.tsc_offset,
            tsc_adjust: self.tsc_adjust,
            sysenter: self.sysenter,
            inert: self.inert.clone(),
            ..fresh
        };
    }

    /// Puts a processor that has just been reset at the start of the page `vector`, in real mode: what a start-up message
    /// from another processor does (SDM vol. 3, 11.4.4.2).
    pub fn start_up(&mut self, vector: u8) {
        let selector = u16::from(vector) << 8;
        self.segments[CS] = Segment::at_reset().real(selector);
        self.rip = 0;
    }

    /// Puts the processor where the 64-bit boot protocol wants it: long mode, paging, flat segments, interrupts off
    /// (Linux Documentation/arch/x86/boot.rst, "64-bit boot protocol").
    pub fn enter_long_mode(&mut self, entry: &LongModeEntry) {
        self.cr0 = cr0::PE | cr0::MP | cr0::ET | cr0::NE | cr0::WP | cr0::PG;
        self.cr3 = entry.cr3;
        self.cr4 = cr4::PAE;
        self.efer = efer::LME | efer::LMA;
        self.cpl = 0;
        self.interrupt_shadow = false;
        self.rflags = flags::ALWAYS_ONE;
        self.segments[CS] = Segment::long_code(BOOT_CS, 0);
        for index in [ES, SS, DS, FS, GS] {
            self.segments[index] = Segment::flat_data(BOOT_DS, 0);
        }
        self.gdtr = TableRegister { base: entry.gdt, limit: entry.gdt_limit };
        self.idtr = TableRegister { base: 0, limit: 0 };
        self.gpr = [0; 16];
        self.gpr[RSP] = entry.rsp;
        self.gpr[RSI] = entry.rsi;
        self.rip = entry.rip;
    }

    /// Puts the processor where 32-bit boot protocols want it: protected mode, no paging, flat segments, interrupts off. PVH
    /// asks in addition for a busy 32-bit task state at zero (Xen, docs/misc/pvh.pandoc).
    pub fn enter_protected_mode(&mut self, entry: &ProtectedModeEntry) {
        (self.cr0, self.cr3, self.cr4, self.efer) = (cr0::PE | cr0::ET, 0, 0, 0);
        self.cpl = 0;
        self.interrupt_shadow = false;
        self.rflags = flags::ALWAYS_ONE;
        self.segments[CS] = Segment::flat_code(BOOT_CS, 0);
        for index in [ES, SS, DS, FS, GS] {
            self.segments[index] = Segment::flat_data(BOOT_DS, 0);
        }
        self.tr = Segment {
            attributes: attributes::PRESENT | u16::from(descriptors::system::TSS_BUSY),
            limit: 0x67,
            ..Segment::default()
        };
        self.gdtr = TableRegister { base: entry.gdt.into(), limit: entry.gdt_limit };
        self.idtr = TableRegister { base: 0, limit: 0 };
        self.gpr = [0; 16];
        let registers = [(RAX, entry.eax), (RBX, entry.ebx), (RSI, entry.esi), (RSP, entry.esp)];
        registers.into_iter().for_each(|(register, value)| self.gpr[register] = value.into());
        self.rip = entry.eip.into();
    }
}

impl Segment {
    /// Every segment register after a reset: 64 KiB from zero on, present, readable and writable, 16 bits.
    fn at_reset() -> Segment {
        let kind = attributes::ACCESSED | attributes::WRITABLE_OR_READABLE | attributes::NOT_SYSTEM;
        Segment { attributes: kind | attributes::PRESENT, limit: 0xffff, ..Segment::default() }
    }
}
