//! Guest instructions to host code: one room a class.
//!
//! ```text
//!   Guest register      rax rcx rdx rbx rsp rbp rsi rdi r8  r9  r10 r11 r12..r15
//!   lives in            rax rcx rdx rbx r9  rbp rsi rdi r8  [ in the frame ] r12..r15
//!   host rsp            the vCPU's frame          host r10, r11       scratch
//! ```
//! Guest r9, r10 and r11 are the least used registers of compiled code (half a percent of operands), so they are
//! the ones that give way. A unit is written in two parts: the hot path, and, in another part of the arena, the cold
//! stubs that call out to Rust. A stub never returns into the middle of an instruction: Rust mends what was missing and starts the
//! instruction again, or plays it by hand and goes on behind it. That works because Guest registers change only
//! after an instruction's last access.

mod cold;
mod operands;
mod flags;
mod memory;
mod together;
mod remembered;
mod stack;
mod flow;
mod arrival;
mod inline;
mod strings;
mod legacy;

use crate::assemble::host::{GUEST_RSP, RCX, S0, S1};
use crate::assemble::{Code, Mem, Patch, cond};
use crate::cache::gates::NO_GATE;
use crate::cache::thunks::Thunks;
use crate::classify::Class;
use crate::decode::{Block, resumes};
use crate::frame::{Frame, SPANS};
use crate::spans::{Roles, Spans};
use crate::swaps::{self, Swaps};
use crate::unit::{Exit, Key, Lent, Mark, Parts, Site, UnitIndex};
use crate::vector_state::needs_avx512;
use cold::{Ask, Cold, Restore};
use flags::touches_flags;
use iced_x86::{Encoder, Instruction, InstructionInfoFactory, Mnemonic};
pub use memory::{address_bits, operand_size};
use smallvec::smallvec;
use std::mem::offset_of;
use std::num::NonZeroU16;

/// What a rewritten unit consists of, before it has a place in the arena's books.
pub struct Rewritten {
    /// Host code, to be placed at the two addresses the rewriter was given.
    pub code: Vec<u8>,
    /// Bytes of it that are the hot path.
    pub hot: u16,
    /// Offset of the entry for linked jumps.
    pub entry: u16,
    /// See [`crate::unit::Unit::door`].
    pub door: u16,
    /// See [`crate::unit::Unit::gate`].
    pub gate: u16,
    /// See [`crate::unit::Unit::swaps`].
    pub swaps: Swaps,
    /// Sites are to be numbered from the first number the rewriter was given.
    pub parts: Parts,
    /// Memos it uses, from the first one the rewriter was given.
    pub memos: u32,
}

/// Tools that are costly to make and used for every unit.
pub struct Tools {
    encoder: Encoder,
    info: InstructionInfoFactory,
    spans: Spans,
    /// Empty buffers that once held a unit's code, its stubs and its parts.
    buffer: Vec<u8>,
    colds: Vec<Cold>,
    parts: Parts,
    /// The machine has other vCPUs, which this one may be waiting for.
    several: bool,
}

impl Tools {
    /// Fresh tools for one vCPU, of `several` or not.
    pub fn new(several: bool) -> Tools {
        Tools {
            encoder: Encoder::new(64),
            info: InstructionInfoFactory::new(),
            spans: Spans::default(),
            buffer: Vec::with_capacity(4096),
            colds: Vec::new(),
            parts: Parts::default(),
            several,
        }
    }

    /// Takes back a finished unit's code, and its parts, which the cache has emptied, for their memory.
    pub fn keep(&mut self, mut code: Vec<u8>, parts: Parts) {
        code.clear();
        (self.buffer, self.parts) = (code, parts);
    }
}

/// Where the unit will stand and what its numbers are.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// Host address of the unit's first byte.
    pub address: u64,
    /// Host address of its first stub.
    pub stubs: u64,
    /// Its number in the cache.
    pub unit: UnitIndex,
    /// Number its first site will get.
    pub first_site: u32,
    /// Its last instruction ends in another page than it begins in.
    pub two_pages: bool,
    /// What its gate looks at: see `cache/gates.rs`.
    pub gate: u16,
    /// First memo that is free, and how many there are.
    pub memos: (u32, u32),
}

/// One unit in the making.
struct Rewriter<'a> {
    code: Code,
    colds: Vec<Cold>,
    /// Stubs that a short jump must reach by way of a jump nearby.
    islands: Vec<(Patch, Cold)>,
    marks: Vec<Mark>,
    exits: Vec<Exit>,
    sites: Vec<Site>,
    tools: &'a mut Tools,
    thunks: &'a Thunks,
    key: Key,
    place: Place,
    /// The Guest's bytes from its first instruction on.
    bytes: &'a [u8],
    /// Flags live before the current instruction.
    live: bool,
    /// Flags live after it.
    live_after: bool,
    /// The Guest's flags stand in the frame's `saved_flags`; the host's are free to use.
    aside: bool,
    /// What the current instruction's accesses have to do with others.
    roles: Roles,
    /// Spans whose addend is in its slot, a bit each.
    found: u32,
    /// Where spans' addends are, by slot.
    slots: [usize; SPANS],
    /// Memos used so far.
    memos: u32,
    /// Registers that are elsewhere between here and the exits.
    swaps: Swaps,
    /// Where jumps to the unit's own beginning arrive with registers swapped.
    inner: Option<NonZeroU16>,
    /// AVX-512's registers are in the processor: see `cache/wide.rs`.
    awake: bool,
    /// The current instruction is the unit's last.
    last: bool,
    /// The current instruction could not be encoded with its registers renamed.
    failed: bool,
}

/// Rewrites a block. `live` is what [`crate::liveness::live_before`] says of it; `bytes` its Guest bytes.
pub fn unit(
    tools: &mut Tools,
    thunks: &Thunks,
    key: Key,
    place: Place,
    block: &Block,
    live: &[u32],
    bytes: &[u8],
) -> Rewritten {
    let mut spans = std::mem::take(&mut tools.spans);
    let swappable = key.mode.long() && !key.mode.single();
    let swaps = if swappable { swaps::choose(&block.instructions) } else { Swaps::default() };
    let Parts { marks, exits, sites } = std::mem::take(&mut tools.parts);
    let roles = spans.find(&block.instructions, key.mode, &mut tools.info);
    let mut rewriter = Rewriter {
        code: Code { bytes: std::mem::take(&mut tools.buffer), apart: None },
        colds: std::mem::take(&mut tools.colds),
        islands: Vec::new(),
        marks,
        exits,
        sites,
        tools,
        thunks,
        key,
        place,
        bytes,
        live: true,
        live_after: true,
        aside: false,
        roles: Roles::default(),
        found: 0,
        slots: [0; SPANS],
        memos: 0,
        swaps,
        inner: None,
        awake: false,
        last: false,
        failed: false,
    };
    let gate = rewriter.check_target();
    let entry = rewriter.near_here();
    rewriter.swap();
    rewriter.inner = NonZeroU16::new(rewriter.near_here());
    for (n, (instruction, class)) in block.instructions.iter().enumerate() {
        rewriter.last = n + 1 == block.instructions.len();
        rewriter.roles = roles[n];
        rewriter.live = live[n] != 0;
        rewriter.live_after = live.get(n + 1).is_none_or(|&f| f != 0);
        rewriter.instruction(instruction, *class);
    }
    if !block.leaves {
        let next = block.instructions.last().map_or(key.pc, |(i, _)| i.next_ip());
        rewriter.leave_to(next);
    }
    let hot = rewriter.near_here();
    rewriter.set_apart();
    rewriter.write_colds();
    let (mut door, mut gate) = (entry, gate.unwrap_or(entry));
    if place.two_pages && key.mode.user {
        door = rewriter.near_here();
        gate = door;
        rewriter.leave_by_table(key.pc);
    }
    rewriter.tools.spans = spans;
    Rewritten {
        code: rewriter.code.bytes,
        hot,
        entry,
        door,
        gate,
        swaps,
        parts: Parts { marks: rewriter.marks, exits: rewriter.exits, sites: rewriter.sites },
        memos: rewriter.memos,
    }
}

/// Rewrites one instruction so that its memory operand, if it has one, is wherever the first scratch register points: how
/// Rust plays accesses that cross pages or reach devices. `None` when the host has no encoding for it.
pub fn snippet(
    tools: &mut Tools,
    thunks: &Thunks,
    instruction: &Instruction,
    class: Class,
    address: u64,
) -> Option<Vec<u8>> {
    let key = Key { pc: instruction.ip(), page: 0, mode: Default::default() };
    let place = Place {
        address,
        stubs: address,
        unit: 0,
        first_site: 0,
        two_pages: false,
        gate: NO_GATE,
        memos: (0, 0),
    };
    let mut rewriter = Rewriter {
        code: Code::default(),
        colds: Vec::new(),
        islands: Vec::new(),
        marks: Vec::new(),
        exits: Vec::new(),
        sites: Vec::new(),
        tools,
        thunks,
        key,
        place,
        bytes: &[],
        live: true,
        live_after: true,
        aside: false,
        roles: Roles::default(),
        found: 0,
        slots: [0; SPANS],
        memos: 0,
        swaps: Swaps::default(),
        inner: None,
        awake: true,
        last: false,
        failed: false,
    };
    match class {
        Class::BitString => rewriter.bit_string_operation(instruction, Mem::at(S0, 0)),
        Class::Harmless => rewriter.operation(instruction, None),
        _ => rewriter.operation(instruction, Some(Mem::at(S0, 0))),
    }
    rewriter.call(thunks.played);
    rewriter.code.dword(0);
    (!rewriter.failed).then_some(rewriter.code.bytes)
}

impl Rewriter<'_> {
    fn instruction(&mut self, instruction: &Instruction, class: Class) {
        self.marks.push(Mark {
            host: self.near_here(),
            guest: (instruction.ip() - self.key.pc) as u16,
            lent: Lent::Nothing,
            flags_aside: false,
        });
        if !self.live {
            self.aside = false;
        }
        if !self.key.mode.vectors.allows(instruction) || self.is_out_of_date(instruction) {
            return self.system(instruction);
        }
        if !self.awake && needs_avx512(instruction) {
            self.wake();
        }
        let (code, colds, sites, aside) = (self.code.here(), self.colds.len(), self.sites.len(), self.aside);
        match class {
            Class::Nothing => {}
            Class::Harmless => self.harmless(instruction),
            Class::Address => self.address_only(instruction),
            Class::Memory => self.memory(instruction),
            Class::BitString => self.bit_string(instruction),
            Class::Stack => self.stack(instruction),
            Class::Flow => self.flow(instruction),
            Class::System if self.inline(instruction) || self.repeated(instruction) => {
                self.found = 0;
                // `mov rsp, cr2` and `mov sp, ds`.
                self.keep_stack_aligned(instruction);
            }
            Class::System | Class::Undefined => self.system(instruction),
        }
        if self.failed {
            self.failed = false;
            self.aside = aside;
            self.code.bytes.truncate(code);
            self.colds.truncate(colds);
            self.sites.truncate(sites);
            return self.system(instruction);
        }
        if !matches!(class, Class::Stack | Class::Flow | Class::System | Class::Undefined) {
            self.keep_stack_aligned(instruction);
        }
    }

    /// Before a unit's first instruction that needs AVX-512's registers: fetches them if they sleep.
    fn wake(&mut self) {
        self.set_flags_aside();
        self.code.cmp32_memory(Mem::frame(offset_of!(Frame, awake)), 0);
        let asleep = self.code.jump_if(cond::Z);
        let back = self.code.here();
        self.colds.push(Cold {
            jumps: smallvec![asleep],
            restore: Restore::Nothing,
            ask: Ask::Wake { back },
        });
        self.awake = true;
    }

    /// Bytes from the unit's start.
    fn near_here(&self) -> u16 {
        self.near(self.code.here())
    }

    fn near(&self, offset: usize) -> u16 {
        u16::try_from(offset).expect("a unit's code is far smaller than 64 KiB")
    }

    /// An instruction that Rust carries out.
    fn system(&mut self, instruction: &Instruction) {
        // What Rust does may change any table.
        self.found = 0;
        self.settle_flags();
        // No unit with such an instruction swaps, except one that turned out to have no encoding.
        let resumes = resumes(instruction) && !self.key.mode.single() && self.swaps.none();
        self.swap_back();
        let site = self.system_site(resumes);
        self.call_site(self.thunks.system, site);
    }

    fn call(&mut self, to: u64) {
        let patch = self.code.call();
        self.far(patch, to);
    }

    fn jump_to(&mut self, to: u64) {
        let patch = self.code.jump();
        self.far(patch, to);
    }

    /// Binds a jump to an address outside this unit.
    fn far(&mut self, patch: Patch, to: u64) {
        self.code.bind_far(patch, to.wrapping_sub(self.place.address) as i64);
    }

    /// After an instruction that may have moved the stack pointer off its alignment: stack accesses do not check
    /// for page crossings, because an aligned eight-byte access cannot cross. A ragged stack pointer leaves the unit
    /// and goes on in units of one carefully checked instruction.
    fn keep_stack_aligned(&mut self, instruction: &Instruction) {
        if operands::may_misalign_stack(self.tools, instruction, self.key.mode.word()) {
            self.force_stack_check(instruction);
        }
    }

    /// The check itself.
    fn force_stack_check(&mut self, instruction: &Instruction) {
        if self.key.mode.single() {
            return;
        }
        self.settle_flags();
        let long = self.key.mode.long();
        if self.live_after {
            self.code.mov(S1, RCX);
            let (wide, narrow) = (offset_of!(Frame, stack_mask), offset_of!(Frame, narrow_stack_mask));
            self.code.pext(RCX, GUEST_RSP, Mem::frame(if long { wide } else { narrow }));
            let fine = self.code.jrcxz();
            let ragged = self.code.jump();
            self.code.bind_short(fine);
            self.code.mov(RCX, S1);
            self.colds.push(Cold {
                jumps: smallvec![ragged],
                restore: Restore::Counter,
                ask: Ask::Resync(instruction.next_ip()),
            });
        } else {
            // The flags are dead for the code that follows, but not for whoever looks from outside: that is a
            // fault's view, see liveness.rs.
            self.code.test8(GUEST_RSP, if long { 7 } else { 3 });
            let ragged = self.code.jump_if(cond::NZ);
            self.colds.push(Cold {
                jumps: smallvec![ragged],
                restore: Restore::Nothing,
                ask: Ask::Resync(instruction.next_ip()),
            });
        }
    }

    /// Copies an instruction that touches registers only.
    fn harmless(&mut self, instruction: &Instruction) {
        if touches_flags(instruction) {
            self.settle_flags();
        }
        // It may raise an arithmetic exception.
        self.note_flags();
        if self.renamed(instruction) || !self.key.mode.long() {
            // The same bytes may mean something else to the host.
            self.operation(instruction, None);
        } else {
            let start = (instruction.ip() - self.key.pc) as usize;
            self.code.raw(&self.bytes[start..start + instruction.len()]);
        }
    }

    /// `lea`: the address is the result.
    fn address_only(&mut self, instruction: &Instruction) {
        let target = instruction.op0_register();
        let number = target.full_register().number() as u8;
        let wide = target.size() == 8 && memory::address_is_wide(instruction);
        if instruction.is_ip_rel_memory_operand()
            && target.size() >= 4
            && let Some(home) = self.home(number)
        {
            let address = instruction.memory_displacement64();
            return self.code.constant(home, if wide { address } else { address & 0xffff_ffff });
        }
        let address = self.effective_address_without_segment(instruction);
        match (target.size(), self.home(number)) {
            (2, home) => {
                // A 16-bit result keeps the rest of its register.
                self.code.lea(memory::address_is_wide(instruction), S0, address);
                let to = home.unwrap_or(S1);
                if home.is_none() {
                    self.code.load(S1, Mem::frame(self.frame_place(number)));
                }
                self.code.mov16(to, S0);
                if home.is_none() {
                    self.code.store(Mem::frame(self.frame_place(number)), S1);
                }
            }
            (_, Some(home)) => self.code.lea(wide, home, address),
            (_, None) => {
                self.code.lea(wide, S0, address);
                self.code.store(Mem::frame(self.frame_place(number)), S0);
            }
        }
    }

    /// True for `xchg`-like instructions that write memory under `instruction`'s first operand.
    fn writes_memory(&mut self, instruction: &Instruction) -> bool {
        !matches!(instruction.mnemonic(), Mnemonic::Cmp | Mnemonic::Test | Mnemonic::Bt)
            && operands::writes_memory(self.tools, instruction)
    }
}
