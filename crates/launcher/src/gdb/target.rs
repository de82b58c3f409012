//! The machine as `gdbstub` sees it: vCPUs are threads, numbered from 1.

use std::convert::Infallible;
use std::sync::Arc;

use gdbstub::common::{Signal, Tid};
use gdbstub::stub::MultiThreadStopReason;
use gdbstub::target::ext::base::BaseOps;
use gdbstub::target::ext::base::multithread::{
    MultiThreadBase, MultiThreadResume, MultiThreadResumeOps, MultiThreadSchedulerLocking,
    MultiThreadSchedulerLockingOps, MultiThreadSingleStep, MultiThreadSingleStepOps,
};
use gdbstub::target::ext::breakpoints as ext;
use gdbstub::target::ext::breakpoints::{
    Breakpoints, BreakpointsOps, HwBreakpoint, HwBreakpointOps, HwWatchpoint, HwWatchpointOps, SwBreakpoint,
    SwBreakpointOps,
};
use gdbstub::target::{Target, TargetError, TargetResult};
use lguest_host::debug::{Debuggee, Stop, WatchKind};

use super::arch::{Numbered, X86};
use crate::board::desk::{Cause, Desk};
use crate::board::errands::Summoner;

/// `EFAULT`: no memory there, or no such vCPU.
const FAULT: u8 = 14;

/// What the debugger holds of a machine.
pub struct Machine {
    desk: Arc<Desk>,
    summoner: Summoner,
    /// Why each vCPU stands; none while it runs.
    standing: Vec<Option<Cause>>,
    /// What each vCPU is to do next.
    actions: Vec<Action>,
    /// vCPUs that were not told anything stay where they are.
    locked: bool,
    /// What was set, to take it back when the debugger leaves.
    points: Vec<Point>,
}

/// How a vCPU goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Unsaid,
    Continue,
    Step,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Point {
    Break(u64),
    Watch(u64, u64, WatchKind),
}

fn tid(index: usize) -> Tid {
    Tid::new(index + 1).expect("a number after 0")
}

fn index(tid: Tid) -> usize {
    tid.get() - 1
}

impl Machine {
    /// A machine whose vCPUs all run.
    pub fn new(desk: Arc<Desk>, summoner: Summoner) -> Machine {
        let vcpus = desk.vcpus();
        Machine {
            desk,
            summoner,
            standing: vec![None; vcpus],
            actions: vec![Action::Unsaid; vcpus],
            locked: false,
            points: Vec::new(),
        }
    }

    /// A vCPU stands. True when all do.
    pub fn stands(&mut self, index: usize, cause: Cause) -> bool {
        self.standing[index] = Some(cause);
        self.all_stand()
    }

    /// Whether all vCPUs stand.
    pub fn all_stand(&self) -> bool {
        self.standing.iter().all(Option::is_some)
    }

    /// Calls those that still run.
    pub fn call_the_others(&self) {
        for (index, _) in self.standing.iter().enumerate().filter(|(_, cause)| cause.is_none()) {
            self.desk.call(index, &self.summoner);
        }
    }

    /// What to tell the debugger when all stand: the vCPU that stopped by itself, or else the first.
    pub fn reason(&self) -> MultiThreadStopReason<u64> {
        let own = self.standing.iter().position(|cause| matches!(cause, Some(Cause::Stop(_))));
        let tid = tid(own.unwrap_or(0));
        match own.and_then(|index| self.standing[index]) {
            Some(Cause::Stop(Stop::Breakpoint)) => MultiThreadStopReason::SwBreak(tid),
            Some(Cause::Stop(Stop::Watch { address, kind })) => {
                let kind = match kind {
                    WatchKind::Write => ext::WatchKind::Write,
                    WatchKind::Read => ext::WatchKind::Read,
                    WatchKind::ReadWrite => ext::WatchKind::ReadWrite,
                };
                MultiThreadStopReason::Watch { tid, kind, addr: address }
            }
            Some(Cause::Stop(Stop::Step)) => {
                MultiThreadStopReason::SignalWithThread { tid, signal: Signal::SIGTRAP }
            }
            _ => MultiThreadStopReason::SignalWithThread { tid, signal: Signal::SIGINT },
        }
    }

    /// Takes back every point, and lets the machine run as if nobody had been there.
    pub fn leave(&mut self) {
        for point in std::mem::take(&mut self.points) {
            self.set_everywhere(point, false);
        }
        for index in 0..self.standing.len() {
            self.desk.ask(index, |vcpu| vcpu.step(false));
        }
        self.desk.close();
    }

    fn act(&mut self, tid: Tid, action: Action) {
        if let Some(place) = self.actions.get_mut(index(tid)) {
            *place = action;
        }
    }

    /// Asks one vCPU that stands.
    fn ask<T: Send + 'static>(
        &self,
        tid: Tid,
        question: impl FnOnce(&mut dyn Debuggee) -> T + Send + 'static,
    ) -> TargetResult<T, Self> {
        let stands = self.standing.get(index(tid)).is_some_and(Option::is_some);
        let answer = if stands { self.desk.ask(index(tid), question) } else { None };
        answer.ok_or(TargetError::Errno(FAULT))
    }

    /// Sets a point on every vCPU; false when one has too many.
    fn set_everywhere(&mut self, point: Point, on: bool) -> bool {
        let mut done = true;
        for vcpu in 0..self.standing.len() {
            done &= self.desk.ask(vcpu, move |vcpu| match point {
                Point::Break(address) => vcpu.breakpoint(address, on),
                Point::Watch(address, length, kind) => vcpu.watch(address, length, kind, on),
            }) == Some(true);
        }
        done
    }

    fn set(&mut self, point: Point, on: bool) -> TargetResult<bool, Self> {
        self.points.retain(|&other| other != point);
        let done = self.set_everywhere(point, on);
        if on && done {
            self.points.push(point);
        } else if on {
            self.set_everywhere(point, false);
        }
        Ok(done)
    }
}

impl Target for Machine {
    type Arch = X86;
    type Error = Infallible;

    fn base_ops(&mut self) -> BaseOps<'_, X86, Infallible> {
        BaseOps::MultiThread(self)
    }

    fn support_breakpoints(&mut self) -> Option<BreakpointsOps<'_, Self>> {
        Some(self)
    }
}

impl MultiThreadBase for Machine {
    fn read_registers(&mut self, registers: &mut Numbered, tid: Tid) -> TargetResult<(), Self> {
        registers.0 = self.ask(tid, |vcpu| vcpu.registers())?;
        Ok(())
    }

    fn write_registers(&mut self, registers: &Numbered, tid: Tid) -> TargetResult<(), Self> {
        let new = registers.0;
        self.ask(tid, move |vcpu| vcpu.set_registers(&new))
    }

    fn read_addrs(&mut self, start: u64, data: &mut [u8], tid: Tid) -> TargetResult<usize, Self> {
        let length = data.len();
        let bytes = self.ask(tid, move |vcpu| {
            let mut bytes = vec![0; length];
            let found = vcpu.read(start, &mut bytes);
            bytes.truncate(found);
            bytes
        })?;
        if bytes.is_empty() && length > 0 {
            return Err(TargetError::Errno(FAULT));
        }
        data[..bytes.len()].copy_from_slice(&bytes);
        Ok(bytes.len())
    }

    fn write_addrs(&mut self, start: u64, data: &[u8], tid: Tid) -> TargetResult<(), Self> {
        let bytes = data.to_vec();
        let done = self.ask(tid, move |vcpu| vcpu.write(start, &bytes))?;
        if done { Ok(()) } else { Err(TargetError::Errno(FAULT)) }
    }

    fn list_active_threads(&mut self, thread_is_active: &mut dyn FnMut(Tid)) -> Result<(), Infallible> {
        (0..self.standing.len()).for_each(|index| thread_is_active(tid(index)));
        Ok(())
    }

    fn support_resume(&mut self) -> Option<MultiThreadResumeOps<'_, Self>> {
        Some(self)
    }
}

impl MultiThreadResume for Machine {
    fn resume(&mut self) -> Result<(), Infallible> {
        for index in 0..self.standing.len() {
            let action = self.actions[index];
            if self.locked && action == Action::Unsaid {
                // It has no news of its own.
                self.standing[index] = Some(Cause::Interrupt);
                continue;
            }
            self.standing[index] = None;
            self.desk.ask(index, move |vcpu| vcpu.step(action == Action::Step));
            self.desk.go(index);
        }
        Ok(())
    }

    fn clear_resume_actions(&mut self) -> Result<(), Infallible> {
        self.actions.fill(Action::Unsaid);
        self.locked = false;
        Ok(())
    }

    fn set_resume_action_continue(&mut self, tid: Tid, _signal: Option<Signal>) -> Result<(), Infallible> {
        // There are no signals to pass to a machine.
        self.act(tid, Action::Continue);
        Ok(())
    }

    fn support_scheduler_locking(&mut self) -> Option<MultiThreadSchedulerLockingOps<'_, Self>> {
        Some(self)
    }

    fn support_single_step(&mut self) -> Option<MultiThreadSingleStepOps<'_, Self>> {
        Some(self)
    }
}

impl MultiThreadSingleStep for Machine {
    fn set_resume_action_step(&mut self, tid: Tid, _signal: Option<Signal>) -> Result<(), Infallible> {
        self.act(tid, Action::Step);
        Ok(())
    }
}

impl MultiThreadSchedulerLocking for Machine {
    fn set_resume_action_scheduler_lock(&mut self) -> Result<(), Infallible> {
        self.locked = true;
        Ok(())
    }
}

impl Breakpoints for Machine {
    fn support_sw_breakpoint(&mut self) -> Option<SwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_breakpoint(&mut self) -> Option<HwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_watchpoint(&mut self) -> Option<HwWatchpointOps<'_, Self>> {
        Some(self)
    }
}

// Both kinds are the same here: no byte of the Guest's changes for either.
impl SwBreakpoint for Machine {
    fn add_sw_breakpoint(&mut self, address: u64, _kind: usize) -> TargetResult<bool, Self> {
        self.set(Point::Break(address), true)
    }

    fn remove_sw_breakpoint(&mut self, address: u64, _kind: usize) -> TargetResult<bool, Self> {
        self.set(Point::Break(address), false)
    }
}

impl HwBreakpoint for Machine {
    fn add_hw_breakpoint(&mut self, address: u64, _kind: usize) -> TargetResult<bool, Self> {
        self.set(Point::Break(address), true)
    }

    fn remove_hw_breakpoint(&mut self, address: u64, _kind: usize) -> TargetResult<bool, Self> {
        self.set(Point::Break(address), false)
    }
}

impl HwWatchpoint for Machine {
    fn add_hw_watchpoint(
        &mut self,
        address: u64,
        length: u64,
        kind: ext::WatchKind,
    ) -> TargetResult<bool, Self> {
        self.set(Point::Watch(address, length, ours(kind)), true)
    }

    fn remove_hw_watchpoint(
        &mut self,
        address: u64,
        length: u64,
        kind: ext::WatchKind,
    ) -> TargetResult<bool, Self> {
        self.set(Point::Watch(address, length, ours(kind)), false)
    }
}

fn ours(kind: ext::WatchKind) -> WatchKind {
    match kind {
        ext::WatchKind::Write => WatchKind::Write,
        ext::WatchKind::Read => WatchKind::Read,
        ext::WatchKind::ReadWrite => WatchKind::ReadWrite,
    }
}
