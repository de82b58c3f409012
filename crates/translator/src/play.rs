//! One instruction by hand: accesses that cross pages, reach devices or write over code.
//!
//! The operand is copied to a buffer of ours, the instruction runs on the buffer, and what it wrote is copied back.
//! Both pages are looked up before anything happens, so an instruction that faults has done nothing. Where the
//! operand is a device's register, the copies are exits, and the vCPU waits for the answer in between.

use crate::classify::{Class, classify};
use crate::events::exception::Exception;
use crate::exit::{Death, Exit};
use crate::memory::access::Fault;
use crate::memory::walk::{Access, Intent};
use crate::mend::{is_masked, is_masked_move, misaligned, refused_address, through_stack};
use crate::rewrite::{self, operand_size};
use crate::trap::{Attached, signal_stack};
use crate::vcpu::Vcpu;
use crate::vector_state::needs_avx512;
use iced_x86::{Instruction, InstructionInfoFactory, InstructionInfoOptions, Mnemonic, OpAccess, OpKind};

/// What an exit left to do.
#[derive(Debug, Clone)]
pub(crate) enum Pending {
    /// The Guest is over; the next `run` says so.
    Over(Exit),
    /// An exit that came up outside `run`, for the next `run` to tell, and what it leaves to do in turn.
    Tell(Exit, Option<Box<Pending>>),
    /// The answer goes to the accumulator, `size` bytes of it.
    Accumulator { size: u8, next: u64 },
    /// The answer goes to edx:eax.
    Pair { next: u64 },
    /// The answer is the task priority, for `mov r64, cr8`.
    Priority { number: usize, next: u64 },
    /// No answer; the instruction is over.
    Nothing { next: u64 },
    /// The answer is the device's bytes for an instruction that is being played.
    Played(Box<Played>),
    /// The answer is an element of a string instruction.
    Element { instruction: Box<Instruction> },
}

/// An instruction in the middle of a device access.
#[derive(Debug, Clone)]
pub(crate) struct Played {
    instruction: Instruction,
    address: u64,
    physical: u64,
    size: usize,
    done: usize,
    writing: bool,
}

impl Played {
    /// Bytes of the next exit: the largest power of two that is left, eight at most.
    fn piece(&self) -> usize {
        let left = (self.size - self.done).min(8);
        1 << left.ilog2()
    }
}

impl Vcpu {
    /// What `run` has to say before the Guest runs.
    pub(crate) fn take_over(&mut self) -> Option<Exit> {
        match self.pending.take() {
            Some(Pending::Over(exit)) => {
                self.pending = Some(Pending::Over(exit));
                Some(exit)
            }
            Some(Pending::Tell(exit, then)) => {
                self.pending = then.map(|then| *then);
                Some(exit)
            }
            // An unanswered question: ports and devices that nobody serves read as ones.
            Some(other) => {
                self.pending = Some(other);
                self.finish(Some(u64::MAX));
                self.take_over()
            }
            None => None,
        }
    }

    /// Plays the current instruction.
    pub(crate) fn play(&mut self, instruction: &Instruction) -> Result<(), Exit> {
        self.statistics.played += 1;
        self.resume = None;
        if is_locked(instruction) {
            // Between the copies nobody else may touch the bytes (SDM vol. 3, 9.1.2).
            return self.alone(|vcpu| vcpu.play_alone(instruction));
        }
        self.play_alone(instruction)
    }

    fn play_alone(&mut self, instruction: &Instruction) -> Result<(), Exit> {
        match classify(instruction) {
            Class::Memory if is_masked_move(instruction) => self.carry_out(instruction),
            Class::Memory if is_masked(instruction) => self.play_masked(instruction),
            Class::Memory | Class::BitString => self.play_operand(instruction),
            Class::Stack | Class::Flow => match self.near(instruction) {
                Ok(()) => Ok(()),
                Err(Fault::Exception(exception)) => self.raise(exception),
                // A stack or a jump table in a device's registers.
                Err(Fault::NotRam { .. }) => self.raise(Exception::gp(0)),
            },
            _ => self.carry_out(instruction),
        }
    }

    /// The Guest met something real processors do and this engine does not.
    pub(crate) fn unsupported(&mut self, instruction: &Instruction) -> Result<(), Exit> {
        let what = match instruction.mnemonic() {
            _ if instruction.is_string_instruction() => "a string instruction on a device's registers",
            _ => "an instruction that has no encoding with other registers",
        };
        Err(Exit::Dead(Death::UnsupportedInstruction { what, rip: instruction.ip() }))
    }

    fn play_operand(&mut self, instruction: &Instruction) -> Result<(), Exit> {
        let size = operand_size(instruction);
        let access = operand_access(instruction);
        let reads = access != OpAccess::Write;
        let writes = !matches!(access, OpAccess::Read | OpAccess::CondRead | OpAccess::NoMemAccess);
        let address = match self.operand_place(instruction, size, writes) {
            Ok(Some(address)) => address,
            Ok(None) => return self.unsupported(instruction),
            // Here too the host looks at the alignment first: it is #GP(0) where the stack's limit would be #SS(0).
            Err(exception) => {
                let unaligned =
                    self.operand_address(instruction).is_some_and(|at| misaligned(instruction, at));
                return self.refuse_access(instruction, if unaligned { Exception::gp(0) } else { exception });
            }
        };
        if let Some(exception) = refused_address(instruction, address, size, through_stack(instruction)) {
            return self.refuse_access(instruction, exception);
        }
        let mut bytes = vec![0; size];
        let read = self.with_memory(|cpu, memory| {
            // What is only written is read too: an x87 store whose exception is not masked writes nothing.
            let intent = if writes { Intent::Write } else { Intent::Read };
            memory.read_virtual(cpu, address, &mut bytes, Access::by_operand(cpu, intent))
        });
        match read {
            Ok(()) => {
                self.bounce.write(address, &bytes);
                self.execute_played(instruction, address, size, writes, None)
            }
            Err(Fault::Exception(exception)) => self.refuse_access(instruction, exception),
            Err(Fault::NotRam { physical }) if reads => {
                let played =
                    Played { instruction: *instruction, address, physical, size, done: 0, writing: false };
                self.ask_device(played)
            }
            Err(Fault::NotRam { physical }) => {
                self.execute_played(instruction, address, size, writes, Some(physical))
            }
        }
    }

    /// Runs the instruction on the buffer and brings back what it wrote.
    fn execute_played(
        &mut self,
        instruction: &Instruction,
        address: u64,
        size: usize,
        writes: bool,
        device: Option<u64>,
    ) -> Result<(), Exit> {
        if let Err(exception) = self.run_snippet(instruction, address)? {
            return self.raise(exception);
        }
        self.cpu_mut().rip = instruction.next_ip();
        if !writes {
            return Ok(());
        }
        let mut bytes = vec![0; size];
        self.bounce.read(address, &mut bytes);
        if let Some(physical) = device {
            let played =
                Played { instruction: *instruction, address, physical, size, done: 0, writing: true };
            return self.ask_device(played);
        }
        let written = self.with_memory(|cpu, memory| {
            memory.write_virtual(cpu, address, &bytes, Access::by_operand(cpu, Intent::Write))
        });
        debug_assert!(written.is_ok(), "the pages were looked up before");
        Ok(())
    }

    /// Executes one instruction whose operand is in the buffer.
    pub(crate) fn run_snippet(
        &mut self,
        instruction: &Instruction,
        address: u64,
    ) -> Result<Result<(), Exception>, Exit> {
        let place = self.cache.snippet_address();
        let class = classify(instruction);
        let Some(code) = rewrite::snippet(&mut self.tools, &self.cache.thunks, instruction, class, place)
        else {
            return self.unsupported(instruction).map(Ok);
        };
        self.cache.write_snippet(&code);
        let host = self.bounce.host(address);
        let mut kicked = 0;
        if needs_avx512(instruction) {
            self.frame().awake = 1;
        }
        let result = loop {
            self.frame().scratch = host;
            match self.enter(place) {
                crate::cache::thunks::Reason::Played => break Ok(()),
                // What is begun is finished first.
                crate::cache::thunks::Reason::Kicked => kicked |= self.kicker.0.take_all(),
                crate::cache::thunks::Reason::Fault => {
                    let fault = self.frame().fault;
                    break Err(match fault.signal {
                        libc::SIGFPE => crate::mend::arithmetic_fault(fault.code),
                        libc::SIGILL => Exception::ud(),
                        _ => Exception::gp(0),
                    });
                }
                reason => unreachable!("a snippet does not leave for {reason:?}"),
            }
        };
        self.kicker.0.put_back(kicked);
        Ok(result)
    }

    /// Asks for, or delivers, the next up to eight bytes of a device access.
    fn ask_device(&mut self, played: Played) -> Result<(), Exit> {
        let size = played.piece();
        let address = played.physical.wrapping_add(played.done as u64);
        let exit = if played.writing {
            let mut bytes = [0; 8];
            let mut all = vec![0; played.size];
            self.bounce.read(played.address, &mut all);
            bytes[..size].copy_from_slice(&all[played.done..played.done + size]);
            Exit::MmioWrite { address, size: size as u8, value: u64::from_le_bytes(bytes) }
        } else {
            Exit::MmioRead { address, size: size as u8 }
        };
        self.pending = Some(Pending::Played(Box::new(played)));
        Err(exit)
    }

    /// Takes the answer to the last exit; `None` refuses it.
    pub(crate) fn finish(&mut self, answer: Option<u64>) {
        let Some(pending) = self.pending.take() else { return };
        // A played instruction goes on with its operand here, and may fault like any other.
        signal_stack().expect("the host takes a signal stack of the right size");
        self.running.cache = &raw mut *self.cache;
        let _attached = Attached::new(&raw mut *self.running);
        let Some(value) = answer else {
            if let Err(exit) = self.raise(Exception::gp(0)) {
                self.tell(exit);
            }
            return;
        };
        use crate::cpu::{RAX, RDX};
        let cpu = self.cpu_mut();
        match pending {
            Pending::Over(_) | Pending::Tell(..) => self.pending = Some(pending),
            Pending::Nothing { next } => cpu.rip = next,
            Pending::Accumulator { size, next } => {
                cpu.gpr[RAX] = match size {
                    1 => cpu.gpr[RAX] & !0xff | value & 0xff,
                    2 => cpu.gpr[RAX] & !0xffff | value & 0xffff,
                    _ => value & 0xffff_ffff,
                };
                cpu.rip = next;
            }
            Pending::Pair { next } => {
                cpu.gpr[RAX] = value & 0xffff_ffff;
                cpu.gpr[RDX] = value >> 32;
                cpu.rip = next;
            }
            Pending::Priority { number, next } => {
                cpu.gpr[number] = value >> 4;
                cpu.rip = next;
            }
            Pending::Played(played) => {
                if let Err(exit) = self.continue_played(*played, value) {
                    self.tell(exit);
                }
            }
            Pending::Element { instruction } => {
                if let Err(exit) = self.store_element(&instruction, value) {
                    self.tell(exit);
                }
            }
        }
    }

    /// Keeps an exit that came up while no `run` was there to return it.
    fn tell(&mut self, exit: Exit) {
        let then = self.pending.take().map(Box::new);
        self.pending = Some(match exit {
            Exit::MmioRead { .. } | Exit::MmioWrite { .. } | Exit::Event(_) => Pending::Tell(exit, then),
            _ => Pending::Over(exit),
        });
    }

    fn continue_played(&mut self, mut played: Played, value: u64) -> Result<(), Exit> {
        let size = played.piece();
        if !played.writing {
            let within = (played.address & 0xfff) as usize + played.done;
            self.bounce.write_at(within, &value.to_le_bytes()[..size]);
        }
        played.done += size;
        if played.done < played.size {
            return self.ask_device(played);
        }
        if played.writing {
            return Ok(());
        }
        let writes = !matches!(operand_access(&played.instruction), OpAccess::Read | OpAccess::CondRead);
        let device = writes.then_some(played.physical);
        self.execute_played(&played.instruction, played.address, played.size, writes, device)
    }
}

/// Whether a processor carries the instruction out with the bus locked: by prefix, or because it is `xchg` with memory.
fn is_locked(instruction: &Instruction) -> bool {
    let memory = (0..instruction.op_count()).any(|n| instruction.op_kind(n) == OpKind::Memory);
    instruction.has_lock_prefix() || memory && instruction.mnemonic() == Mnemonic::Xchg
}

/// What an instruction does to its memory operand.
pub(crate) fn operand_access(instruction: &Instruction) -> OpAccess {
    let mut factory = InstructionInfoFactory::new();
    let options = InstructionInfoOptions::NO_MEMORY_USAGE | InstructionInfoOptions::NO_REGISTER_USAGE;
    let info = factory.info_options(instruction, options);
    (0..instruction.op_count())
        .find(|&n| instruction.op_kind(n) == OpKind::Memory)
        .map_or(OpAccess::None, |n| info.op_access(n))
}
