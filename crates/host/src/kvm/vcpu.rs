//! One processor of KVM's: where it starts, what it says it is, and what it comes back for.

use std::sync::Arc;

use kvm_bindings::{
    CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_SINGLESTEP,
    KVM_MAX_CPUID_ENTRIES, KVM_MP_STATE_HALTED, kvm_cpuid_entry2, kvm_guest_debug, kvm_regs, kvm_segment,
};
use kvm_ioctls::{VcpuExit, VcpuFd};
use lguest_abi::meeting::HYPERCALL_PORT;
use lguest_translator::{HiddenFeatures, LongModeEntry, ProtectedModeEntry, StartState};

use super::kick::Seat;
use super::machine::{KvmError, KvmMachine, refuses};
use crate::clock::TscRate;
use crate::clock::paravirtual;
use crate::engine::{Exit, ExitCounts, HALTED_FOR_EVER, Vcpu};
use crate::irq::timer_register::APIC_BUS_KHZ;

/// Selectors of the boot protocols.
const BOOT_CS: u16 = 0x10;
const BOOT_DS: u16 = 0x18;
/// CR0: protection, monitor, extension type, numeric errors, write protection, paging.
const CR0: u64 = 1 | 1 << 1 | 1 << 4 | 1 << 5 | 1 << 16 | 1 << 31;
/// CR0 without paging: protection, extension type.
const CR0_PROTECTED: u64 = 1 | 1 << 4;
/// CR4: physical address extension.
const CR4: u64 = 1 << 5;
/// RFLAGS: interrupts are taken (SDM vol. 1, 3.4.3.3).
const INTERRUPT_FLAG: u64 = 1 << 9;
/// EFER: long mode, enabled and active.
const EFER: u64 = 1 << 8 | 1 << 10;
/// CPUID leaf 1, ecx: a timer with deadlines; a hypervisor is there.
const TSC_DEADLINE: u32 = 1 << 24;
const HYPERVISOR: u32 = 1 << 31;
/// CPUID leaf 1, edx: the count of identities in ebx means something.
const SEVERAL: u32 = 1 << 28;
/// The leaf of counter and bus rates, and the one that says how far such leaves go.
const LEAF_HYPERVISOR: u32 = 0x4000_0000;
const LEAF_TIMING: u32 = 0x4000_0010;

/// What a question of the Guest's waits for.
#[derive(Debug, Clone, Copy)]
enum Asked {
    /// Bytes of a port, `size` each, at this place in the shared page.
    Port { offset: usize, size: usize },
    /// Bytes of a register.
    Mmio,
    /// The answer of a hypercall by port.
    Hypercall,
}

/// One access of a string instruction that moves several at once.
#[derive(Debug, Clone, Copy)]
struct Repeat {
    port: u16,
    size: usize,
    /// Place of the next element in the shared page, and how many are left.
    offset: usize,
    left: usize,
    input: bool,
}

/// One vCPU on KVM.
pub struct KvmVcpu {
    fd: VcpuFd,
    seat: Seat,
    machine: Arc<KvmMachine>,
    asked: Option<Asked>,
    repeat: Option<Repeat>,
    counts: ExitCounts,
}

impl KvmVcpu {
    /// vCPU `index` of `count` at its power-on state: the first runs, the others wait for its start-up message.
    ///
    /// # Errors
    /// [`KvmError`].
    pub fn new(
        machine: &Arc<KvmMachine>,
        index: u32,
        count: u32,
        rate: TscRate,
        hidden: &HiddenFeatures,
    ) -> Result<KvmVcpu, KvmError> {
        let fd = machine.vm.create_vcpu(index.into()).map_err(refuses("a processor"))?;
        let supported =
            machine.kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(refuses("its CPUID"))?;
        fd.set_cpuid2(&cpuid(&supported, index, count, rate, hidden)).map_err(refuses("a CPUID"))?;
        let seat = machine.kicks.seat();
        Ok(KvmVcpu {
            fd,
            seat,
            machine: machine.clone(),
            asked: None,
            repeat: None,
            counts: ExitCounts::default(),
        })
    }

    /// Puts the processor where a boot loader leaves it.
    ///
    /// # Errors
    /// [`KvmError::Refuses`].
    pub fn begin(&mut self, start: StartState) -> Result<(), KvmError> {
        match start {
            StartState::Long(entry) => self.enter_long_mode(entry),
            StartState::Protected(entry) => self.enter_protected_mode(entry),
        }
    }

    fn enter_protected_mode(&mut self, entry: ProtectedModeEntry) -> Result<(), KvmError> {
        let mut state = self.fd.get_sregs().map_err(refuses("its registers"))?;
        let data = segment(BOOT_DS, 3, false);
        // 32-bit code is what 64-bit code is not.
        let code = kvm_segment { l: 0, db: 1, ..segment(BOOT_CS, 11, true) };
        (state.cs, state.ds, state.es, state.ss) = (code, data, data, data);
        (state.fs, state.gs) = (data, data);
        // A busy 32-bit task state at zero, as PVH asks.
        (state.tr.base, state.tr.limit, state.tr.type_) = (0, 0x67, 11);
        (state.gdt.base, state.gdt.limit) = (entry.gdt.into(), entry.gdt_limit);
        (state.idt.base, state.idt.limit) = (0, 0);
        (state.cr0, state.cr3, state.cr4, state.efer) = (CR0_PROTECTED, 0, 0, 0);
        self.fd.set_sregs(&state).map_err(refuses("registers"))?;
        let registers = kvm_regs {
            rip: entry.eip.into(),
            rax: entry.eax.into(),
            rbx: entry.ebx.into(),
            rsi: entry.esi.into(),
            rsp: entry.esp.into(),
            rflags: 2,
            ..Default::default()
        };
        self.fd.set_regs(&registers).map_err(refuses("registers"))
    }

    fn enter_long_mode(&mut self, entry: LongModeEntry) -> Result<(), KvmError> {
        let mut state = self.fd.get_sregs().map_err(refuses("its registers"))?;
        let data = segment(BOOT_DS, 3, false);
        (state.cs, state.ds, state.es, state.ss) = (segment(BOOT_CS, 11, true), data, data, data);
        (state.fs, state.gs) = (data, data);
        (state.gdt.base, state.gdt.limit) = (entry.gdt, entry.gdt_limit);
        (state.idt.base, state.idt.limit) = (0, 0);
        (state.cr0, state.cr3, state.cr4, state.efer) = (CR0, entry.cr3, CR4, EFER);
        self.fd.set_sregs(&state).map_err(refuses("registers"))?;
        let registers =
            kvm_regs { rip: entry.rip, rsp: entry.rsp, rsi: entry.rsi, rflags: 2, ..Default::default() };
        self.fd.set_regs(&registers).map_err(refuses("registers"))
    }

    /// Real mode at a page below 1 MiB, with ecx set: where the calibration's Guest starts.
    pub(super) fn enter_real_mode(&mut self, address: u16, ecx: u32) -> Result<(), KvmError> {
        let mut state = self.fd.get_sregs().map_err(refuses("its registers"))?;
        (state.cs.base, state.cs.selector) = (0, 0);
        self.fd.set_sregs(&state).map_err(refuses("registers"))?;
        let registers = kvm_regs { rip: address.into(), rcx: ecx.into(), rflags: 2, ..Default::default() };
        self.fd.set_regs(&registers).map_err(refuses("registers"))
    }

    /// Lets KVM finish the instruction of the last exit without running another one.
    fn settle(&mut self) {
        self.fd.set_kvm_immediate_exit(1);
        let _ = self.fd.run();
        self.fd.set_kvm_immediate_exit(0);
    }

    /// The exit for a hypercall by port (lguest-abi, "On 64 bits", 4).
    fn hypercall(&mut self) -> Exit {
        self.settle();
        self.asked = Some(Asked::Hypercall);
        match self.fd.get_regs() {
            Ok(registers) => {
                let arguments = [registers.rsi, registers.rbx, registers.rcx];
                Exit::Hypercall { number: registers.rax & 0xffff_ffff, arguments }
            }
            Err(error) => Exit::Dead(format!("KVM does not tell the Guest's registers: {error}")),
        }
    }

    /// Whether this processor, the only one, waits in `hlt` for an interrupt that it does not take.
    fn halted_for_ever(&self) -> bool {
        let halted = self.fd.get_mp_state().is_ok_and(|state| state.mp_state == KVM_MP_STATE_HALTED);
        let deaf = || self.fd.get_regs().is_ok_and(|registers| registers.rflags & INTERRUPT_FLAG == 0);
        halted && self.machine.kicks.alone() && deaf()
    }

    /// What KVM came back for, turned into what a board answers; None to go on.
    fn translate(&mut self) -> Option<Exit> {
        let (seat, kicks) = (&self.seat, &self.machine.kicks);
        let entered = seat.within(kicks, || {
            Some(match self.fd.run() {
                Ok(VcpuExit::IoOut(..) | VcpuExit::IoIn(..)) => Back::Port,
                Ok(VcpuExit::MmioRead(address, data)) => {
                    Back::Exit(Exit::MmioRead { address, size: data.len() as u8 })
                }
                Ok(VcpuExit::MmioWrite(address, data)) => {
                    let mut value = [0; 8];
                    value[..data.len()].copy_from_slice(data);
                    let value = u64::from_le_bytes(value);
                    Back::Exit(Exit::MmioWrite { address, size: data.len() as u8, value })
                }
                Ok(VcpuExit::Shutdown) => Back::Exit(Exit::Shutdown),
                Ok(VcpuExit::Hlt | VcpuExit::Intr | VcpuExit::IrqWindowOpen) => return None,
                Ok(VcpuExit::Debug(_)) => Back::Step,
                Ok(VcpuExit::FailEntry(reason, _)) => {
                    dead(format!("the processor refuses the Guest's state (reason {reason:#x})"))
                }
                Ok(VcpuExit::InternalError) => Back::Internal,
                Ok(other) => dead(format!("KVM came back for what lguest does not know: {other:?}")),
                Err(error) if [libc::EINTR, libc::EAGAIN].contains(&error.errno()) => return None,
                Err(error) => dead(format!("KVM cannot run the Guest: {error}")),
            })
        });
        match entered {
            None => Some(Exit::Stopped),
            Some(None) => None,
            Some(Some(Back::Step)) => {
                self.counts.steps += 1;
                None
            }
            Some(Some(Back::Port)) => Some(self.port()),
            Some(Some(Back::Internal)) => Some(Exit::Dead(self.internal_error())),
            Some(Some(Back::Exit(exit))) => {
                if matches!(exit, Exit::MmioRead { .. }) {
                    self.asked = Some(Asked::Mmio);
                }
                self.counts.mmio += u64::from(matches!(exit, Exit::MmioRead { .. } | Exit::MmioWrite { .. }));
                Some(exit)
            }
        }
    }

    /// What KVM says about an instruction that it does not run (Documentation/virt/kvm/api.rst, KVM_EXIT_INTERNAL_ERROR).
    fn internal_error(&mut self) -> String {
        let rip = self.rip();
        let run = self.fd.get_kvm_run();
        // SAFETY: the exit reason was "internal error", so this is the member that KVM filled.
        let internal = unsafe { run.__bindgen_anon_1.internal };
        // Flags, then a length byte and fifteen bytes of code.
        let bytes: Vec<String> = internal.data[1..3]
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .skip(1)
            .take((internal.data[1] & 0xff).min(15) as usize)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let which = if internal.ndata >= 3 && !bytes.is_empty() {
            format!("the instruction {} ", bytes.join(" "))
        } else {
            String::new()
        };
        format!(
            "this host's KVM does not run {which}at {rip:#x} (internal error {}); --engine translator may",
            internal.suberror
        )
    }

    /// A port exit, which a string instruction makes for many accesses at once.
    fn port(&mut self) -> Exit {
        let run = self.fd.get_kvm_run();
        // SAFETY: the exit reason was "port", so this is the member that KVM filled.
        let io = unsafe { run.__bindgen_anon_1.io };
        let input = u32::from(io.direction) == kvm_bindings::KVM_EXIT_IO_IN;
        if !input && io.port == HYPERCALL_PORT && io.size == 4 && io.count == 1 {
            return self.hypercall();
        }
        let size = usize::from(io.size);
        self.repeat = Some(Repeat {
            port: io.port,
            size,
            offset: io.data_offset as usize,
            left: io.count as usize,
            input,
        });
        self.next_port().unwrap_or(Exit::Dead("KVM reported a port access of no bytes".to_owned()))
    }

    /// The next access of the string instruction under way.
    fn next_port(&mut self) -> Option<Exit> {
        let repeat = self.repeat.as_mut().filter(|repeat| repeat.left > 0)?;
        let Repeat { port, size, offset, input, .. } = *repeat;
        (repeat.offset, repeat.left) = (offset + size, repeat.left - 1);
        self.counts.ports += 1;
        if input {
            self.asked = Some(Asked::Port { offset, size });
            return Some(Exit::PortIn { port, size: size as u8 });
        }
        let mut value = [0; 4];
        if let Some(bytes) = self.shared(offset, size) {
            value[..size].copy_from_slice(bytes);
        }
        Some(Exit::PortOut { port, size: size as u8, value: u32::from_le_bytes(value) })
    }

    /// Bytes of the page shared with the kernel, at a place that the kernel named.
    fn shared(&mut self, offset: usize, size: usize) -> Option<&mut [u8]> {
        /// KVM puts port data right behind the first page of the shared mapping, one page of it.
        const PAGE: usize = 4096;
        let end = offset.checked_add(size).filter(|end| *end <= 2 * PAGE && size <= 4)?;
        debug_assert!(end > offset);
        let start = std::ptr::from_mut(self.fd.get_kvm_run()).cast::<u8>();
        // SAFETY: the mapping has at least three pages on x86 (the run page, its port page, the coalesced ring),
        // and nobody else refers to it while `self` is borrowed.
        Some(unsafe { std::slice::from_raw_parts_mut(start.wrapping_add(offset), size) })
    }
}

enum Back {
    Step,
    Port,
    Internal,
    Exit(Exit),
}

fn dead(reason: String) -> Back {
    Back::Exit(Exit::Dead(reason))
}

impl Vcpu for KvmVcpu {
    fn run(&mut self) -> Exit {
        self.asked = None;
        if self.machine.kicks.stopped() {
            return Exit::Stopped;
        }
        if let Some(exit) = self.next_port() {
            return exit;
        }
        self.repeat = None;
        loop {
            let steps = self.counts.steps;
            if let Some(exit) = self.translate() {
                return exit;
            }
            if self.counts.steps != steps {
                continue;
            }
            self.counts.kicks += 1;
            if self.halted_for_ever() {
                return Exit::Dead(HALTED_FOR_EVER.to_owned());
            }
        }
    }

    fn reply(&mut self, value: u64) {
        match self.asked.take() {
            Some(Asked::Port { offset, size }) => {
                if let Some(bytes) = self.shared(offset, size) {
                    bytes.copy_from_slice(&value.to_le_bytes()[..size]);
                }
            }
            Some(Asked::Mmio) => {
                let run = self.fd.get_kvm_run();
                // SAFETY: the exit reason was "memory-mapped", so this is the member that KVM reads the answer from.
                let mmio = unsafe { &mut run.__bindgen_anon_1.mmio };
                mmio.data = value.to_le_bytes();
            }
            Some(Asked::Hypercall) => {
                let done = self
                    .fd
                    .get_regs()
                    .and_then(|registers| self.fd.set_regs(&kvm_regs { rax: value, ..registers }));
                debug_assert!(done.is_ok(), "registers that were read can be written");
            }
            None => {}
        }
    }

    fn counts(&self) -> ExitCounts {
        self.counts
    }

    fn count_instructions(&mut self) -> Result<(), String> {
        let control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP;
        let debug = kvm_guest_debug { control, ..Default::default() };
        self.fd.set_guest_debug(&debug).map_err(|error| refuses("single steps")(error).to_string())
    }

    fn rip(&self) -> u64 {
        self.fd.get_regs().map_or(0, |registers| registers.rip)
    }
}

fn segment(selector: u16, kind: u8, code: bool) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector,
        type_: kind,
        present: 1,
        dpl: 0,
        db: u8::from(!code),
        s: 1,
        l: u8::from(code),
        g: 1,
        ..Default::default()
    }
}

/// Takes away what the user hides, and the state that belongs to it: leaf 0xd says in eax what XCR0 may hold.
fn hide(entry: &mut kvm_cpuid_entry2, hidden: &HiddenFeatures) {
    let mut answer = [entry.eax, entry.ebx, entry.ecx, entry.edx];
    hidden.filter(entry.function, entry.index, &mut answer);
    if (entry.function, entry.index) == (0xd, 0) {
        answer[0] = hidden.state(answer[0].into()) as u32;
    }
    [entry.eax, entry.ebx, entry.ecx, entry.edx] = answer;
}

/// What the processor says it is: all that KVM supports here, our own number, and the counter's rate.
fn cpuid(supported: &CpuId, index: u32, count: u32, rate: TscRate, hidden: &HiddenFeatures) -> CpuId {
    let core_bits = count.next_power_of_two().trailing_zeros();
    let mut entries: Vec<kvm_cpuid_entry2> = supported.as_slice().to_vec();
    for entry in &mut entries {
        hide(entry, hidden);
        match entry.function {
            1 => {
                entry.ebx = entry.ebx & 0x0000_ffff | 1 << (16 + core_bits) | index << 24;
                entry.edx = entry.edx & !SEVERAL | if count > 1 { SEVERAL } else { 0 };
                entry.ecx |= TSC_DEADLINE | HYPERVISOR;
            }
            // Topology: one thread to a core, whatever the host's processor has.
            0xb | 0x1f => {
                (entry.eax, entry.ebx) = match entry.index {
                    0 => (0, 1),
                    1 => (core_bits, count),
                    _ => (0, 0),
                };
                entry.edx = index;
            }
            // AMD's words for the same.
            0x8000_0008 => entry.ecx = entry.ecx & !0xf0ff | (count - 1) | core_bits << 12,
            0x8000_001e => (entry.eax, entry.ebx, entry.ecx) = (index, index, 0),
            LEAF_HYPERVISOR => entry.eax = LEAF_TIMING,
            _ => {}
        }
    }
    entries.retain(|entry| !(LEAF_TIMING - 0xd..=LEAF_TIMING).contains(&entry.function));
    let khz = u32::try_from(rate.khz()).unwrap_or(u32::MAX);
    let hypervisor = entries.iter().any(|entry| entry.function == LEAF_HYPERVISOR);
    if !hypervisor {
        let ours = paravirtual::cpuid(rate, APIC_BUS_KHZ);
        entries.extend(ours.iter().filter(|leaf| leaf.leaf == LEAF_HYPERVISOR).map(|leaf| {
            let [eax, ebx, ecx, edx] = leaf.answer;
            kvm_cpuid_entry2 { function: leaf.leaf, eax, ebx, ecx, edx, ..Default::default() }
        }));
    }
    entries.push(kvm_cpuid_entry2 {
        function: LEAF_TIMING,
        eax: khz,
        ebx: APIC_BUS_KHZ,
        ..Default::default()
    });
    debug_assert!(entries.iter().all(|entry| entry.flags & !KVM_CPUID_FLAG_SIGNIFCANT_INDEX <= 6));
    CpuId::from_entries(&entries).expect("KVM named fewer leaves than it takes")
}
