//! The loop: find the unit, enter it, see why it came back.

#![allow(unsafe_code)] // The way into generated code.

use crate::cache::gates::NO_GATE;
use crate::cache::thunks::Reason;
use crate::cpu::{cr4, flags};
use crate::decode::{self, Block, LONGEST_INSTRUCTION};
use crate::events::deliver::Event;
use crate::events::exception::Exception;
use crate::exit::{Death, Exit};
use crate::frame::{ZMM_LANES, pack_flags, unpack_flags};
use crate::liveness;
use crate::memory::tables::Losses;
use crate::memory::walk::{Access, Intent, Paging, canonical, walk};
use crate::rewrite::{self, Place};
use crate::sight::CodeNews;
use crate::trap::{Attached, signal_stack};
use crate::unit::{Key, Mode, Site, Unit, UnitIndex};
use crate::vcpu::Vcpu;
use crate::vector_state::VectorState;

/// Guest bytes a unit is decoded from at most: its longest run of the longest instructions.
const UNIT_BYTES: usize = decode::LONGEST * LONGEST_INSTRUCTION;

/// What a unit is made from, kept between units for its memory.
#[derive(Default)]
pub(crate) struct Draft {
    bytes: Vec<u8>,
    block: Block,
}

/// Bytes looked at behind a jump, to see which flags matter there.
const PEEK_BYTES: usize = 64;

/// Where generated code goes on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Resume {
    /// Host address.
    host: u64,
    /// In the middle of this unit, whose spans (`spans.rs`) know entries of the tables: only while the count of lost ones
    /// is this.
    inside: Option<(UnitIndex, Losses)>,
}

impl Resume {
    /// At a place where nothing of the tables is known and registers are in their places.
    pub(crate) fn at(host: u64) -> Resume {
        Resume { host, inside: None }
    }

    /// In the middle of a unit that was left when so many entries had been lost.
    pub(crate) fn inside(unit: UnitIndex, host: u64, losses: Losses) -> Resume {
        Resume { host, inside: Some((unit, losses)) }
    }

    fn holds(self, losses: Losses) -> bool {
        self.inside.is_none_or(|(_, known)| known == losses)
    }
}

impl Vcpu {
    /// Runs the Guest until it needs something.
    pub fn run(&mut self) -> Exit {
        if let Some(exit) = self.take_over() {
            return exit;
        }
        // The first time on a thread makes its stack; a host that refuses is asked again.
        if signal_stack().is_err() {
            return Exit::Kicked;
        }
        let began = self.sight.now();
        self.running.cache = &raw mut *self.cache;
        let attached = Attached::new(&raw mut *self.running);
        self.kicker.0.start();
        let inside = self.go_inside();
        self.frame().view = 0;
        self.refresh_shortcuts();
        self.refresh_calls();
        self.refresh_returns();
        let exit = loop {
            if self.kicker.0.pending()
                && let Err(exit) = self.called()
            {
                break exit;
            }
            if self.window && self.interruptible() || self.nmi_window && self.takes_nmi() {
                break Exit::InterruptWindow;
            }
            if let Err(exit) = self.step() {
                break exit;
            }
        };
        drop(inside);
        self.kicker.0.stop();
        drop(attached);
        self.sight.spent(began, |ticks| &mut ticks.running);
        exit
    }

    /// From one decision of Rust's to the next.
    fn step(&mut self) -> Result<(), Exit> {
        if self.is_watched() {
            return self.step_watched();
        }
        self.go_once().map(drop)
    }

    /// Enters generated code, and deals with why it came back; none after an exception was delivered instead.
    pub(crate) fn go_once(&mut self) -> Result<Option<Reason>, Exit> {
        let resume = self.resume.take().filter(|resume| resume.holds(self.spaces.tables.losses.get()));
        let host = match resume {
            Some(resume) => resume.host,
            None if !self.in_units() => return self.step_by_hand().map(|()| None),
            None => match self.find()? {
                Some(host) => {
                    // A unit's start looks before it needs.
                    self.frame().awake = 0;
                    host
                }
                None => return Ok(None),
            },
        };
        let inside = resume.and_then(|resume| resume.inside).map(|(unit, _)| unit);
        inside.into_iter().for_each(|unit| self.swap(unit));
        let reason = self.enter(host);
        if reason == Reason::Kicked {
            // It did not get there: registers are where the unit would have had them.
            inside.into_iter().for_each(|unit| self.swap_back(unit));
        }
        self.handle(reason)?;
        Ok(Some(reason))
    }

    fn handle(&mut self, reason: Reason) -> Result<(), Exit> {
        match reason {
            Reason::Lookup => {
                self.statistics.lookups += 1;
                self.cpu_mut().interrupt_shadow = false;
                let target = self.frame().scratch;
                self.cpu_mut().rip = target;
                Ok(())
            }
            Reason::Slow => self.slow_access(),
            Reason::Link => self.link_exit(),
            Reason::System => self.system_site(),
            Reason::Fault => self.host_fault(),
            Reason::Kicked => Ok(()),
            Reason::Played => unreachable!("only `play` enters snippets"),
        }
    }

    /// Enters generated code at a host address and comes back with the reason it left.
    pub(crate) fn enter(&mut self, host: u64) -> Reason {
        self.statistics.entries += 1;
        let base = self.spaces.gs_for(self.spaces.view(self.cpu()), &self.frames);
        if base != self.frame().view {
            self.frame().view = base;
            // SAFETY: the instruction exists (checked when the vCPU was made); nothing of Rust's uses gs.
            unsafe { std::arch::asm!("wrgsbase {}", in(reg) base, options(nostack, preserves_flags)) };
        }
        self.heed_losses();
        let frame = self.frame();
        frame.flags = pack_flags(frame.cpu.rflags);
        frame.target = host;
        if frame.wide & ZMM_LANES != 0 {
            frame.awake = 1;
        }
        let address = self.frames.frame();
        let enter = self.cache.thunks.enter;
        // SAFETY: `thunks::write` made a function of this type there.
        let enter: extern "sysv64" fn(*mut crate::frame::Frame) = unsafe { std::mem::transmute(enter) };
        let began = self.sight.now();
        enter(address);
        self.sight.spent(began, |ticks| &mut ticks.generated);
        if let Some(unit) = self.running.closed.take() {
            self.cache.reopen(unit);
            self.met(unit);
        }
        let frame = self.frame();
        frame.cpu.rflags = frame.cpu.rflags & !flags::ARITHMETIC | unpack_flags(frame.flags);
        Reason::from_number(frame.reason)
    }

    /// A kick met a unit at work: it is made anew, with memos.
    fn met(&mut self, unit: UnitIndex) {
        if self.memos.met(self.cache.unit(unit).key) {
            self.cache.kill(unit, &self.frames);
        }
    }

    /// Forgets memos that may say what no entry says any more.
    fn heed_losses(&mut self) {
        let (losses, space) = (self.spaces.tables.losses.get(), self.frame().view_of_user);
        if losses.of_users != self.losses_known.of_users || space != self.memos_of {
            self.memos.wipe(&self.frames);
        }
        (self.losses_known, self.memos_of) = (losses, space);
    }

    /// How code is translated just now.
    fn mode(&self) -> Mode {
        let cpu = self.cpu();
        Mode {
            size: cpu.code_size(),
            user: cpu.cpl == 3,
            middle: matches!(cpu.cpl, 1 | 2),
            ragged_stack: cpu.stack_is_ragged(),
            apart: false,
            clock_hidden: cpu.cpl != 0 && cpu.cr4 & cr4::TSD != 0,
            vectors: VectorState::enabled(cpu),
            one_step: cpu.interrupt_shadow && (self.window || self.nmi_window || self.kicker.0.pending())
                || self.debug.single(cpu.rip),
        }
    }

    /// Host address of the unit at `rip`; `None` after an exception was delivered instead.
    fn find(&mut self) -> Result<Option<u64>, Exit> {
        if !self.cpu().in_64_bit_mode() {
            self.frame().reach = self.cpu().based_reach();
        }
        match self.unit_at_rip()? {
            Ok(unit) => Ok(Some(self.cache.entry(unit))),
            Err(exception) => self.raise(exception).map(|()| None),
        }
    }

    /// Delivers an exception of the current instruction.
    pub(crate) fn raise(&mut self, exception: Exception) -> Result<(), Exit> {
        self.deliver(Event::Exception(exception))
    }

    /// The unit at `rip`, translated if need be.
    pub(crate) fn unit_at_rip(&mut self) -> Result<Result<UnitIndex, Exception>, Exit> {
        self.unit_in(self.mode())
    }

    /// The same, to run in a mode that others need not find it in.
    fn unit_in(&mut self, mode: Mode) -> Result<Result<UnitIndex, Exception>, Exit> {
        let pc = self.cpu().rip;
        let page = match self.code_page(pc)? {
            Ok(page) => page,
            Err(exception) => return Ok(Err(exception)),
        };
        let key = Key { pc, page, mode };
        let unit = match self.cache.find(&key) {
            Some(unit) => unit,
            None => match self.translate(key)? {
                Ok(unit) => unit,
                Err(exception) => return Ok(Err(exception)),
            },
        };
        if let Some(second) = self.cache.unit(unit).second_page {
            match self.code_page((pc | 0xfff) + 1)? {
                Ok(page) if page == second => {}
                Ok(_) => {
                    self.cache.kill(unit, &self.frames);
                    return self.unit_in(mode);
                }
                Err(exception) => return Ok(Err(exception)),
            }
        }
        if !mode.single() && !mode.apart {
            self.with_reach(|spaces, reach| spaces.set_jump(reach, mode, pc, unit));
        }
        Ok(Ok(unit))
    }

    /// The page of the memory file that code at `pc` comes from.
    fn code_page(&mut self, pc: u64) -> Result<Result<u32, Exception>, Exit> {
        let user = self.cpu().cpl == 3;
        if let Some(page) = self.spaces.code_page(user, pc) {
            return Ok(Ok(page));
        }
        if !canonical(pc) {
            return Ok(Err(Exception::gp(0)));
        }
        let access = Access { intent: Intent::Execute, user, smap_allowed: false };
        let found = match walk(&self.ram, &Paging::of(self.cpu()), pc, access) {
            Ok(found) => found,
            Err(exception) => return Ok(Err(exception)),
        };
        let Some((offset, _)) = self.ram.offset(found.physical) else {
            return Err(Exit::Dead(Death::NoMemoryToExecute { rip: pc, address: found.physical }));
        };
        let page = (offset >> 12) as u32;
        self.with_reach(|spaces, reach| spaces.note_code(reach, user, pc, page, found.global));
        Ok(Ok(page))
    }

    /// Appends Guest bytes from `pc` to the end of its page, `most` at most.
    fn code_bytes(&self, pc: u64, page: u32, most: usize, bytes: &mut Vec<u8>) {
        let within = pc & 0xfff;
        let start = bytes.len();
        bytes.resize(start + most.min(4096 - within as usize), 0);
        self.ram.read_file(u64::from(page) << 12 | within, &mut bytes[start..]);
    }

    fn translate(&mut self, key: Key) -> Result<Result<UnitIndex, Exception>, Exit> {
        // A unit's worth of bytes and instructions is a large allocation, and there are fifty thousand units in a boot.
        let mut draft = std::mem::take(&mut self.draft);
        let began = self.sight.now();
        let result = self.translate_with(key, &mut draft);
        self.sight.spent(began, |ticks| &mut ticks.translating);
        self.draft = draft;
        result
    }

    fn translate_with(&mut self, key: Key, draft: &mut Draft) -> Result<Result<UnitIndex, Exception>, Exit> {
        for attempt in 0..2 {
            self.mark_code(key.page);
            let Draft { bytes, block } = draft;
            bytes.clear();
            self.code_bytes(key.pc, key.page, UNIT_BYTES, bytes);
            let mut second_page = None;
            if !decode::block(bytes, key.pc, key.mode, block) {
                let second = match self.code_page((key.pc | 0xfff) + 1)? {
                    Ok(page) => page,
                    Err(exception) => return Ok(Err(exception)),
                };
                self.mark_code(second);
                self.code_bytes((key.pc | 0xfff) + 1, second, LONGEST_INSTRUCTION, bytes);
                second_page = Some(second);
                if !decode::block(bytes, key.pc, Mode { one_step: true, ..key.mode }, block) {
                    return Ok(Err(Exception::gp(0)));
                }
            }
            self.debug.cut(block);
            // Rust refuses what the processor does not have, before its operands are looked up.
            for (instruction, class) in &mut block.instructions {
                if self.cpuid.lacks(instruction) {
                    *class = crate::classify::Class::System;
                }
            }
            if !self.still_ours(key.page, second_page) {
                // Another vCPU wrote there while we asked. A Guest that never stops must not keep us here.
                return Err(Exit::Kicked);
            }
            if let Some(unit) = self.install(key, block, bytes, second_page) {
                return Ok(Ok(unit));
            }
            assert_eq!(attempt, 0, "an empty arena holds any unit");
            self.start_over();
        }
        unreachable!("the second attempt succeeds or asserts")
    }

    /// Makes the unit; `None` when the arena has no room for it.
    fn install(
        &mut self,
        key: Key,
        block: &Block,
        bytes: &[u8],
        second_page: Option<u32>,
    ) -> Option<UnitIndex> {
        let end = block.instructions.last().map_or(key.pc, |(last, _)| last.next_ip());
        let after = self.live_after(key, block);
        let live = liveness::live_before(&block.instructions, after);
        let gated = key.mode.has_second_table();
        let gate = match gated {
            true => self.with_reach(|spaces, reach| spaces.gate(reach, key.pc, key.page)),
            false => NO_GATE,
        };
        let place = Place {
            address: self.cache.arena.address(self.cache.arena.used()),
            stubs: self.cache.arena.address(self.cache.arena.stubs()),
            unit: self.cache.units.len() as UnitIndex,
            first_site: self.cache.sites.len() as u32,
            two_pages: second_page.is_some(),
            gate,
            memos: self.memos.room(&key),
        };
        let rewritten = rewrite::unit(&mut self.tools, &self.cache.thunks, key, place, block, &live, bytes);
        let (hot, stubs) = rewritten.code.split_at(usize::from(rewritten.hot));
        let (start, cold) = self.cache.arena.append_unit(hot, stubs)?;
        self.statistics.units += 1;
        self.statistics.instructions += block.instructions.len() as u64;
        self.memos.give(rewritten.memos, &self.frames);
        let unit = Unit {
            key,
            second_page,
            start: start as u32,
            hot: rewritten.hot,
            cold: cold as u32,
            entry: rewritten.entry,
            door: rewritten.door,
            gate: rewritten.gate,
            size: rewritten.code.len() as u16,
            marks: 0,
            swaps: rewritten.swaps,
            exits: 0,
            incoming: Default::default(),
            bytes: 0,
            alive: true,
        };
        // `bytes` goes on to the end of the page; the unit ends before.
        let bytes = &bytes[..bytes.len().min(end.wrapping_sub(key.pc) as usize)];
        let made = |host, size| CodeNews::Made { host, size, pc: Some(key.pc), user: key.mode.user };
        self.sight.tell(made(place.address, hot.len() as u32));
        self.sight.tell(made(place.stubs, stubs.len() as u32));
        let mut parts = rewritten.parts;
        let index = self.cache.insert(unit, &mut parts, bytes);
        self.tools.keep(rewritten.code, parts);
        self.link_to_known(index);
        Some(index)
    }

    /// Links a new unit's exits to units that are there already, which spares each of them an exit to Rust when it is first
    /// taken: of a compiler's links that is half.
    fn link_to_known(&mut self, unit: UnitIndex) {
        let key = self.cache.unit(unit).key;
        for exit in 0..self.cache.exits(unit).len() {
            let crate::unit::Exit::Direct { target, apart, .. } = self.cache.exits(unit)[exit] else {
                continue;
            };
            let page = match target >> 12 == key.pc >> 12 {
                true => Some(key.page),
                false => self.spaces.code_page(key.mode.user, target),
            };
            let Some(page) = page else { continue };
            let found = self.cache.find(&Key { pc: target, page, mode: Mode { apart, ..key.mode } });
            if let Some(found) = found
                && self.cache.unit(found).second_page.is_none()
            {
                self.statistics.links += 1;
                self.cache.link(unit, exit as u32, found);
            }
        }
    }

    /// Flags that are live where a block ends: all, unless it goes on at bytes that are part of the same page and
    /// overwrite them first.
    fn live_after(&self, key: Key, block: &Block) -> u32 {
        let Some((last, _)) = block.instructions.last() else { return liveness::ALL };
        let target = match last.flow_control() {
            iced_x86::FlowControl::UnconditionalBranch | iced_x86::FlowControl::Call => {
                last.near_branch_target()
            }
            _ if !block.leaves => last.next_ip(),
            _ => return liveness::ALL,
        };
        if target >> 12 != key.pc >> 12 || key.mode.single() {
            return liveness::ALL;
        }
        let mut bytes = [0; PEEK_BYTES];
        let room = PEEK_BYTES.min(4096 - (target & 0xfff) as usize);
        self.ram.read_file(u64::from(key.page) << 12 | target & 0xfff, &mut bytes[..room]);
        liveness::live_at(&bytes[..room], target, key.mode.size)
    }

    /// A direct exit was taken for the first time: links it, if it may be.
    fn link_exit(&mut self) -> Result<(), Exit> {
        let Site::Link { unit, exit } = *self.site() else { unreachable!("a link site") };
        let crate::unit::Exit::Direct { target, apart, .. } = self.cache.exits(unit)[usize::from(exit)]
        else {
            unreachable!("only direct exits have link sites")
        };
        self.cpu_mut().rip = target;
        self.cpu_mut().interrupt_shadow = false;
        if !self.in_units() {
            return Ok(());
        }
        let resets = self.cache.resets;
        let mode = self.mode();
        let found = match self.unit_in(Mode { apart: apart && !mode.single(), ..mode })? {
            Ok(found) => found,
            Err(exception) => return self.raise(exception),
        };
        self.resume = Some(Resume::at(self.cache.entry(found)));
        self.frame().awake = 0;
        if resets != self.cache.resets {
            // The cache started over to make room; what asked for the link is gone.
            return Ok(());
        }
        let (from, to) = (self.cache.unit(unit).key.mode, self.cache.unit(found).key.mode);
        if from.together() == to.together() && self.cache.unit(unit).alive {
            self.statistics.links += 1;
            self.cache.link(unit, exit.into(), found);
        }
        Ok(())
    }

    /// The site generated code called from.
    pub(crate) fn site(&mut self) -> &Site {
        let after_call = self.frame().site;
        let offset = self.cache.arena.offset(after_call).expect("thunks are called from the arena");
        let number = self.cache.arena.read_u32(offset);
        &self.cache.sites[number as usize]
    }
}
