//! A trap becomes a call of the Guest's own handler (facts 8.2 to 8.5).

use lguest_abi::lguest32::{INTERRUPT_FLAG, KERNEL_CODE, RingCall, TRAP_ENTRY};
use lguest_translator::HandlerCall;
use lguest_translator::cpu::segments::SS;
use lguest_translator::events::deliver::Event;
use lguest_translator::events::exception::{Exception, vectors};

use super::Death;
use super::data::{Field, Generation};
use super::segments::Gate;
use super::vcpu::Lguest32Vcpu;
use crate::engine::Exit;

/// Numbers of the registers that carry a call, as instructions encode them: eax, then ebx, ecx, edx, esi.
const CALL_REGISTERS: [usize; 5] = [0, 3, 1, 2, 6];
/// Bytes of `vmcall`.
const VMCALL_LENGTH: u64 = 3;
/// Error-code bit: the index is one of the interrupt table.
const IN_IDT: u32 = 2;

impl Lguest32Vcpu {
    /// True while the Guest's kernel runs.
    pub(super) fn in_kernel(&self) -> bool {
        self.cpu.cpu().cpl == 1
    }

    /// What the registers ask for.
    fn call(&self) -> RingCall {
        let [number, arguments @ ..] = CALL_REGISTERS.map(|register| self.cpu.gpr(register) as u32);
        RingCall { number, arguments }
    }

    /// `vmcall`, above the user: the call of 2.6.32. To later kernels it is an instruction that does not exist, and `rip` is
    /// behind it.
    pub(super) fn vmcall(&mut self) -> Result<Option<Exit>, Death> {
        if self.data.as_ref().is_none_or(|data| data.generation == Generation::G26) {
            return self.trapped(self.call());
        }
        self.cpu.set_rip(self.cpu.rip().wrapping_sub(VMCALL_LENGTH) & 0xffff_ffff);
        self.deliver(Exception::ud()).map(|()| None)
    }

    /// An exception or a software interrupt.
    pub(super) fn event(&mut self, event: Event) -> Result<Option<Exit>, Death> {
        match event {
            Event::Software { vector: TRAP_ENTRY, next_rip } if self.in_kernel() => {
                self.cpu.set_rip(next_rip);
                return self.trapped(self.call());
            }
            Event::Software { vector, next_rip } => {
                let allowed = self.gates.get(vector).filter(|gate| gate.dpl >= self.cpu.cpu().cpl);
                match allowed {
                    Some(gate) => self.reflect(gate, None, next_rip as u32)?,
                    None => self.deliver(Exception::gp(u32::from(vector) << 3 | IN_IDT))?,
                }
            }
            Event::Exception(exception) => {
                let kernel = self.in_kernel();
                if exception == Exception::gp(0)
                    && kernel
                    && let Some(done) = self.emulate()
                {
                    return Ok(done);
                }
                if let Some(address) = exception.cr2 {
                    self.refuse_hole(address as u32)?;
                    self.data.as_ref().inspect(|data| data.set(Field::Cr2, address as u32));
                }
                self.deliver(exception)?;
            }
            Event::Interrupt(vector) => unreachable!("nobody sent interrupt {vector} to a hosted processor"),
        }
        Ok(None)
    }

    /// What the kernel touches in the Host's part of the address space kills it, as its original Host did; 4.1's let it fault.
    fn refuse_hole(&self, address: u32) -> Result<(), Death> {
        let strict = self.data.as_ref().is_some_and(|data| data.generation != Generation::G41);
        if strict && self.in_kernel() && address >= self.ceiling {
            return Err(Death::new(format_args!(
                "its kernel touched {address:#x} at {:#x}, in the part of the address space that the Host keeps",
                self.cpu.rip()
            )));
        }
        Ok(())
    }

    /// Delivers an exception of the current instruction.
    fn deliver(&mut self, exception: Exception) -> Result<(), Death> {
        let Some(gate) = self.gates.get(exception.vector) else {
            let what = match exception {
                Exception { cr2: Some(address), .. } => format!(", touching {address:#x}"),
                Exception { error_code: Some(code), .. } => format!(", with the error code {code:#x}"),
                _ => String::new(),
            };
            let vector = exception.vector;
            return Err(Death::new(format_args!(
                "it has no handler for trap {vector}{}, which happened at {:#x}{what}",
                name_of(vector),
                self.cpu.rip()
            )));
        };
        self.reflect(gate, exception.error_code, self.cpu.rip() as u32)
    }

    /// Calls a handler: the frame shows the Guest's own interrupt flag, and an interrupt gate turns it off.
    pub(super) fn reflect(&mut self, gate: Gate, error_code: Option<u32>, back: u32) -> Result<(), Death> {
        let Some(data) = &self.data else {
            return Err(Death::new("an event before LGUEST_INIT"));
        };
        let from_user = self.cpu.cpu().segments[SS].selector & 3 != 1;
        let enabled = data.get(Field::IrqEnabled) & INTERRUPT_FLAG;
        let call = HandlerCall {
            code: KERNEL_CODE,
            eip: gate.offset,
            stack: from_user.then_some(self.stack),
            flags: self.cpu.rflags() as u32 & !INTERRUPT_FLAG | enabled,
            return_address: back,
            error_code,
        };
        if gate.masks {
            data.set(Field::IrqEnabled, 0);
        }
        self.cpu.call_handler(&call).map_err(|exception| {
            let place = exception.cr2.map_or_else(String::new, |address| format!(" at {address:#x}"));
            Death::new(format_args!(
                "its kernel's stack has no room for a trap's frame{place} (trap {} while one was delivered at {back:#x})",
                exception.vector
            ))
        })
    }
}

/// A trap's name, for those that a person knows by name.
fn name_of(vector: u8) -> &'static str {
    match vector {
        vectors::DE => " (divide error)",
        vectors::UD => " (invalid instruction)",
        vectors::NM => " (no floating-point unit)",
        vectors::GP => " (general protection)",
        vectors::PF => " (page fault)",
        _ => "",
    }
}
