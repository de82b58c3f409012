//! Instructions that Rust carries out: privileged ones, those that need the whole state, and rare ones.
//!
//! The rooms in [`crate::cpu`] and [`crate::events`] know the rules; here each mnemonic finds its rule, and what the rule
//! left to do (a flush, an exit, another privilege level) is done.

pub(crate) mod registers;
mod control;
pub(crate) mod segments;
mod state;
mod strings;
mod legacy;
mod masked;
mod gather;

use crate::classify::{Class, classify};
use crate::cpu::control::Effect;
use crate::cpu::flags;
use crate::events::exception::{Exception, Refusal};
use crate::exit::Exit;
use crate::memory::access::Fault;
use crate::mend::is_masked_move;
use crate::run::Resume;
use crate::unit::Site;
use crate::vcpu::Vcpu;
use crate::vector_state::refusal;
use iced_x86::{Instruction, Mnemonic as M};

/// Where the Guest goes after an instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    /// On with the next one.
    Next,
    /// `rip` says.
    Moved,
}

/// Why an instruction did not complete.
pub(crate) enum Stop {
    Exception(Exception),
    Exit(Exit),
}

impl From<Exception> for Stop {
    fn from(exception: Exception) -> Stop {
        Stop::Exception(exception)
    }
}

impl From<Exit> for Stop {
    fn from(exit: Exit) -> Stop {
        Stop::Exit(exit)
    }
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Stop {
        match refusal {
            Refusal::Exception(exception) => Stop::Exception(exception),
            Refusal::Dead(death) => Stop::Exit(Exit::Dead(death)),
        }
    }
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Stop {
        match fault {
            Fault::Exception(exception) => Stop::Exception(exception),
            // Operands of system instructions in a device's registers: no machine offers that.
            Fault::NotRam { .. } => Stop::Exception(Exception::gp(0)),
        }
    }
}

/// What an instruction's execution ends with.
pub(crate) type Done = Result<Then, Stop>;

impl Vcpu {
    /// A system site called.
    pub(crate) fn system_site(&mut self) -> Result<(), Exit> {
        self.statistics.system += 1;
        let after_call = self.frame().site;
        let Site::System { unit, mark, resumes } = *self.site() else {
            unreachable!("system calls come from system sites")
        };
        // Decoded again, which takes 30 ns; kept, it would take 48 bytes for each of some ten thousand.
        let pc = self.cache.unit(unit).key.pc + u64::from(self.cache.marks(unit)[usize::from(mark)].guest);
        let instruction = self.decode_at(unit, pc);
        self.sight.carried_out(instruction.mnemonic());
        let cpu = self.cpu_mut();
        cpu.rip = instruction.ip();
        cpu.interrupt_shadow = false;
        let resets = self.cache.resets;
        self.carry_out(&instruction)?;
        let ragged = self.cpu().stack_is_ragged();
        let on = self.cpu().rip == instruction.next_ip();
        if on && resumes && !ragged && resets == self.cache.resets && self.cache.unit(unit).alive {
            // The site's number is four bytes long; the code goes on behind it.
            self.resume = Some(Resume::at(after_call + 4));
        }
        Ok(())
    }

    /// Carries the current instruction out, or delivers the exception it raises.
    pub(crate) fn carry_out(&mut self, instruction: &Instruction) -> Result<(), Exit> {
        self.debug.note(instruction.mnemonic());
        match self.execute(instruction) {
            Ok(Then::Next) => self.cpu_mut().rip = instruction.next_ip(),
            Ok(Then::Moved) => {}
            Err(Stop::Exception(exception)) => self.raise(exception)?,
            Err(Stop::Exit(exit)) => return Err(exit),
        }
        Ok(())
    }

    /// Does what a change of control state left to do.
    pub(crate) fn apply(&mut self, effect: Effect) {
        self.with_reach(|spaces, reach| spaces.apply(reach, effect));
        self.refresh_shortcuts();
    }

    /// Carries one instruction out.
    fn execute(&mut self, instruction: &Instruction) -> Done {
        let class = classify(instruction);
        if class == Class::Undefined || self.cpuid.lacks(instruction) {
            return Err(Exception::ud().into());
        }
        if let Some(exception) = refusal(self.cpu(), instruction) {
            return Err(exception.into());
        }
        match instruction.mnemonic() {
            _ if class != Class::System => self.ordinary(instruction, class),
            M::Cpuid
            | M::Rdtsc
            | M::Rdtscp
            | M::Rdpid
            | M::Rdpmc
            | M::Xgetbv
            | M::Xsetbv
            | M::Rdmsr
            | M::Wrmsr
            | M::Rdfsbase
            | M::Rdgsbase
            | M::Wrfsbase
            | M::Wrgsbase
            | M::In
            | M::Out
            | M::Hlt
            | M::Vmcall
            | M::Vmmcall => self.outward(instruction),
            M::Pause => {
                self.rest();
                Ok(Then::Next)
            }
            M::Cli
            | M::Sti
            | M::Cld
            | M::Std
            | M::Stac
            | M::Clac
            | M::Clts
            | M::Lmsw
            | M::Smsw
            | M::Invlpg
            | M::Invpcid
            | M::Wbinvd
            | M::Invd
            | M::Pushfq
            | M::Pushfd
            | M::Pushf
            | M::Popfq
            | M::Popfd
            | M::Popf => self.control(instruction),
            M::Mov if instruction.op0_register().is_cr() || instruction.op1_register().is_cr() => {
                self.control(instruction)
            }
            M::Mov if instruction.op0_register().is_dr() || instruction.op1_register().is_dr() => {
                self.control(instruction)
            }
            M::Swapgs
            | M::Syscall
            | M::Sysret
            | M::Sysretq
            | M::Sysenter
            | M::Sysexit
            | M::Sysexitq
            | M::Into
            | M::Iret
            | M::Iretd
            | M::Iretq
            | M::Int
            | M::Int3
            | M::Int1
            | M::Retf
            | M::Jmp
            | M::Call
            | M::Mov
            | M::Push
            | M::Pop
            | M::Lss
            | M::Lds
            | M::Les
            | M::Lfs
            | M::Lgs
            | M::Lgdt
            | M::Lidt
            | M::Sgdt
            | M::Sidt
            | M::Lldt
            | M::Ltr
            | M::Sldt
            | M::Str
            | M::Lar
            | M::Lsl
            | M::Verr
            | M::Verw
            | M::Enter
            | M::Leave
            | M::Xlatb => self.segment_or_transfer(instruction),
            M::Xsave
            | M::Xsave64
            | M::Xsaveopt
            | M::Xsaveopt64
            | M::Xsavec
            | M::Xsavec64
            | M::Xsaves
            | M::Xsaves64
            | M::Xrstors
            | M::Xrstors64
            | M::Xrstor
            | M::Xrstor64
            | M::Fxsave
            | M::Fxsave64
            | M::Fxrstor
            | M::Fxrstor64 => self.vector_area(instruction),
            M::Aaa
            | M::Aas
            | M::Aam
            | M::Aad
            | M::Daa
            | M::Das
            | M::Salc
            | M::Bound
            | M::Arpl
            | M::Pusha
            | M::Pushad
            | M::Popa
            | M::Popad => self.legacy(instruction),
            M::Fnstenv | M::Fnsave => self.environment(instruction),
            M::Maskmovdqu | M::Vmaskmovdqu | M::Maskmovq => self.masked_bytes(instruction),
            _ if instruction.is_vsib() => self.gather(instruction),
            _ if instruction.is_string_instruction() => self.string(instruction),
            _ => Err(Exception::ud().into()),
        }
    }

    /// What units do in place: it comes here when it could not be encoded anew, where a setting of the vector state forbids
    /// other instructions of its kind, and where code has no units.
    fn ordinary(&mut self, instruction: &Instruction, class: Class) -> Done {
        match class {
            Class::Nothing => Ok(Then::Next),
            Class::Harmless
                if matches!(instruction.mnemonic(), M::Vzeroall | M::Vzeroupper)
                    && !self.cpu().in_64_bit_mode() =>
            {
                self.clear_vectors(instruction.mnemonic() == M::Vzeroall);
                Ok(Then::Next)
            }
            Class::Harmless => {
                self.run_snippet(instruction, 0)??;
                Ok(Then::Next)
            }
            Class::Address => {
                let offset = self.offset_of(instruction, 1).unwrap_or(0);
                self.set_register(instruction.op0_register(), offset);
                Ok(Then::Next)
            }
            Class::Stack | Class::Flow => {
                self.near(instruction)?;
                Ok(Then::Moved)
            }
            _ if is_masked_move(instruction) => self.masked_move(instruction),
            _ => {
                self.play(instruction)?;
                Ok(Then::Moved)
            }
        }
    }

    /// Sets or clears flags.
    fn set_flags(&mut self, flags: u64, on: bool) {
        let cpu = self.cpu_mut();
        if on { cpu.rflags |= flags } else { cpu.rflags &= !flags }
    }

    /// True when string instructions go downward.
    fn downward(&self) -> bool {
        self.cpu().rflags & flags::DF != 0
    }
}
