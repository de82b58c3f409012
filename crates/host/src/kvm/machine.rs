//! A virtual machine of KVM's: memory slots, interrupt controllers in the kernel, lines and eventfds.

use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER,
    KVM_IRQCHIP_PIC_SLAVE, KVM_PIT_SPEAKER_DUMMY, KvmIrqRouting, kvm_irq_routing_entry, kvm_msi,
    kvm_pit_config, kvm_userspace_memory_region,
};
use kvm_ioctls::{Cap, IoEventAddress, Kvm, NoDatamatch, VmFd};
use lguest_abi::meeting::{IRQS, Irq, vector};
use vmm_sys_util::eventfd::EventFd;

use super::kick::Kicks;
use crate::interrupts::Interrupts;
use crate::irq::Gsi;
use crate::irq::ioapic::PINS;
use crate::memory::Memory;

/// Three pages that Intel's processors want for themselves; below the firmware's place, where nothing of the board is.
const TSS_ADDRESS: usize = 0xfffb_d000;
/// Where a message to a local APIC goes: physical destination 0 (SDM vol. 3A, 11.11).
const MESSAGE_ADDRESS: u32 = 0xfee0_0000;
/// Line number of the bus's irq 0 in KVM's table: behind the I/O APIC's pins.
const BUS_LINES: u32 = PINS as u32;
/// Lines of the two 8259s.
const PIC_LINES: u32 = 16;

/// Between two looks at whether a Guest can still be woken: nobody waits longer for that sentence, and one way out of
/// the Guest in so long costs nothing.
const WATCH: Duration = Duration::from_millis(500);

/// Why KVM cannot run a machine.
#[derive(Debug, thiserror::Error)]
pub enum KvmError {
    /// /dev/kvm does not open, or is not KVM.
    #[error("/dev/kvm cannot be opened: {0}")]
    Open(std::io::Error),
    /// It lacks something that every KVM of the last ten years has.
    #[error("this host's KVM lacks {0}")]
    Lacks(&'static str),
    /// It refused.
    #[error("KVM refuses {what}: {source}")]
    Refuses {
        /// What it was asked for.
        what: &'static str,
        /// What it said.
        source: std::io::Error,
    },
}

/// Gives KVM's refusals their names.
pub(super) fn refuses(what: &'static str) -> impl Fn(kvm_ioctls::Error) -> KvmError {
    move |error| KvmError::Refuses { what, source: std::io::Error::from_raw_os_error(error.errno()) }
}

/// Opens /dev/kvm and checks what it offers.
pub(super) fn open() -> Result<Kvm, KvmError> {
    let kvm = Kvm::new().map_err(|error| KvmError::Open(std::io::Error::from_raw_os_error(error.errno())))?;
    let needed = [
        (Cap::Irqchip, "interrupt controllers in the kernel"),
        (Cap::Ioeventfd, "ioeventfd"),
        (Cap::Irqfd, "irqfd"),
        (Cap::SignalMsi, "message-signalled interrupts"),
        (Cap::Pit2, "a timer in the kernel"),
        (Cap::ImmediateExit, "immediate exits"),
    ];
    match needed.into_iter().find(|(cap, _)| !kvm.check_extension(*cap)) {
        Some((_, what)) => Err(KvmError::Lacks(what)),
        None => Ok(kvm),
    }
}

/// A machine without its processors.
pub struct KvmMachine {
    pub(super) kvm: Kvm,
    pub(super) vm: VmFd,
    pub(super) kicks: Kicks,
    /// Its bytes are in use by the machine for as long as it lives.
    _memory: Arc<Memory>,
}

impl KvmMachine {
    /// A machine with this memory, and controllers as a PC has them.
    ///
    /// # Errors
    /// [`KvmError`].
    pub fn new(memory: Arc<Memory>) -> Result<Arc<KvmMachine>, KvmError> {
        let kvm = open()?;
        let vm = kvm.create_vm().map_err(refuses("a machine"))?;
        vm.set_tss_address(TSS_ADDRESS).map_err(refuses("an address for the task state segment"))?;
        vm.create_irq_chip().map_err(refuses("interrupt controllers"))?;
        let pit = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..Default::default() };
        vm.create_pit2(pit).map_err(refuses("a timer"))?;
        vm.set_gsi_routing(&routing()).map_err(refuses("a table of interrupt lines"))?;
        for (slot, region) in (0..).zip(memory.regions()) {
            let region = kvm_userspace_memory_region {
                slot,
                flags: 0,
                guest_phys_addr: region.start,
                memory_size: region.length,
                userspace_addr: memory.host_address(region),
            };
            // SAFETY: the region is part of one shared mapping that lives until after the machine, which holds it.
            unsafe { vm.set_user_memory_region(region) }.map_err(refuses("memory"))?;
        }
        let kicks = Kicks::new().map_err(|source| KvmError::Refuses { what: "a signal", source })?;
        Ok(Arc::new(KvmMachine { kvm, vm, kicks, _memory: memory }))
    }

    /// A device's line.
    pub fn line(self: &Arc<Self>, gsi: Gsi) -> KvmLine {
        KvmLine { machine: self.clone(), gsi }
    }

    /// A device writes an interrupt message. One that no local APIC understands is lost.
    pub fn send_message(&self, address: u64, data: u32) {
        let (address_lo, address_hi) = (address as u32, (address >> 32) as u32);
        // What the Guest asked for may make no sense; the kernel says so, and nobody else has to know.
        let _ = self.vm.signal_msi(kvm_msi { address_lo, address_hi, data, ..Default::default() });
    }

    /// Ends the run of every vCPU, from any thread.
    pub fn stop(&self) {
        self.kicks.stop();
    }

    /// Takes a stop back.
    pub fn resume(&self) {
        self.kicks.resume();
    }

    /// Calls the vCPUs out now and then for as long as the machine lives. `hlt` is the kernel's own business where the
    /// interrupt controllers are, and it sleeps for ever with a Guest that halted with interrupts off: only a vCPU that
    /// comes out can see that ([`super::vcpu`]).
    ///
    /// # Errors
    /// When the host refuses a thread.
    pub fn watch(self: &Arc<Self>) -> std::io::Result<()> {
        let machine = Arc::downgrade(self);
        let nudge = move || {
            while let Some(machine) = machine.upgrade() {
                machine.kicks.nudge();
                drop(machine);
                std::thread::sleep(WATCH);
            }
        };
        std::thread::Builder::new().name("lguest-watch".into()).spawn(nudge).map(drop)
    }

    /// From now on, `eventfd` raises `irq` of the bus without the Launcher: the kernel hears it itself. For a device in
    /// another process; this process raises by message, see [`Interrupts::raise`] below.
    ///
    /// # Errors
    /// [`KvmError::Refuses`].
    pub fn irqfd(&self, irq: Irq, eventfd: OwnedFd) -> Result<(), KvmError> {
        let line = BUS_LINES + u32::from(irq.number());
        self.vm.register_irqfd(&event(eventfd), line).map_err(refuses("an eventfd for an interrupt"))
    }

    /// From now on, a Guest's write to `address` counts on `eventfd` and never leaves the kernel. For buses whose notify is
    /// such a write; the first generation's is a hypercall by port with its address in rbx, and the kernel can tell
    /// ports and eax apart but not rbx, so that one is [`crate::generation1::notify`]'s.
    ///
    /// # Errors
    /// [`KvmError::Refuses`].
    pub fn ioeventfd(&self, address: u64, eventfd: OwnedFd) -> Result<(), KvmError> {
        let address = IoEventAddress::Mmio(address);
        self.vm
            .register_ioevent(&event(eventfd), &address, NoDatamatch)
            .map_err(refuses("an eventfd for a notify"))
    }
}

/// KVM keeps its own reference to the file, so this one may go.
fn event(eventfd: OwnedFd) -> EventFd {
    // SAFETY: the descriptor was ours alone and is the new owner's alone.
    unsafe { EventFd::from_raw_fd(eventfd.into_raw_fd()) }
}

impl Interrupts for KvmMachine {
    /// By message and not by irqfd: both are one system call (0.5 to 1.3 us here, irqfd 0.7 to 1.4 us, medians of five
    /// times 20,000), and a message needs no descriptor for each of 31 interrupts.
    fn raise(&self, irq: Irq) {
        let message = kvm_msi { address_lo: MESSAGE_ADDRESS, data: vector(irq).into(), ..Default::default() };
        // A Guest whose local APIC is off does not hear it; that is no error of ours.
        let _ = self.vm.signal_msi(message);
    }
}

/// A device's end of its interrupt line.
#[derive(Clone)]
pub struct KvmLine {
    machine: Arc<KvmMachine>,
    gsi: Gsi,
}

impl KvmLine {
    /// Raises (true) or lowers the line.
    pub fn set(&self, up: bool) {
        // The line exists, for a Gsi is checked where it is made; a machine going down may refuse, and needs no line.
        let _ = self.machine.vm.set_irq_line(self.gsi.number().into(), up);
    }
}

/// The lines of a PC (as KVM has them before anybody asks), then the bus's irqs as messages.
fn routing() -> KvmIrqRouting {
    let mut entries = Vec::new();
    let mut pin = |gsi: u32, irqchip: u32, pin: u32| {
        let mut entry = kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_IRQCHIP, ..Default::default() };
        entry.u.irqchip.irqchip = irqchip;
        entry.u.irqchip.pin = pin;
        entries.push(entry);
    };
    for gsi in 0..PIC_LINES {
        let chip = if gsi < 8 { KVM_IRQCHIP_PIC_MASTER } else { KVM_IRQCHIP_PIC_SLAVE };
        pin(gsi, chip, gsi % 8);
    }
    for gsi in 0..PINS as u32 {
        // The legacy timer comes in at pin 2 (the usual override of a PC), and line 2 is the second 8259's.
        match gsi {
            0 => pin(0, KVM_IRQCHIP_IOAPIC, 2),
            2 => {}
            _ => pin(gsi, KVM_IRQCHIP_IOAPIC, gsi),
        }
    }
    for irq in (1..IRQS).filter_map(Irq::new) {
        let gsi = BUS_LINES + u32::from(irq.number());
        let mut entry = kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_MSI, ..Default::default() };
        entry.u.msi.address_lo = MESSAGE_ADDRESS;
        entry.u.msi.data = vector(irq).into();
        entries.push(entry);
    }
    KvmIrqRouting::from_entries(&entries).expect("a few dozen entries are fewer than a table may have")
}
