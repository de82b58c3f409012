//! One machine, one round: its rows, its start, itself at rest.

use super::kit::Kit;
use super::rows::{CODE, IDLE, Line, RESIDENT, TABLES};
use crate::errand::Errand;
use crate::machine::{Boot, Carriers, Machine};
use crate::proc::Process;
use crate::session::{Ending, FIRST_SIGN, Heard, LAST_SIGN, Session};
use std::time::Duration;

/// Longest for a boot. QEMU's emulation needs a tenth of it on a quiet machine.
const BOOT_LIMIT: Duration = Duration::from_secs(90);
/// Longest for one row, in seconds. The slowest, a compiler under emulation, needs a fifth of it on a quiet machine.
pub const ROW_LIMIT: u64 = 180;
/// What the Host waits longer than the Guest, which says itself that a row took too long.
const GRACE: Duration = Duration::from_secs(20);
/// RAM where rows run, in MiB: the archive, the same unpacked, and room for a compiler.
const LARGE: u32 = 1280;
/// RAM where the start is measured, in MiB.
const SMALL: u32 = 256;
/// How long a Guest at its prompt is left alone before it is looked at.
const SETTLE: Duration = Duration::from_secs(3);
/// How long it is looked at.
const LOOK: Duration = Duration::from_secs(10);

/// Where and with what a round is measured.
pub struct Bench {
    /// The programs that carry Guests.
    pub carriers: Carriers,
    /// What the Guests are given.
    pub kit: Kit,
}

/// What came of one row.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// A figure and the work's result.
    Figure(f64, String),
    /// No figure, and why.
    None(&'static str, String),
}

/// Why there is no figure.
pub const FAILED: &str = "failed";
/// The row, or the machine while it ran, took longer than its time.
pub const LATE: &str = "did not finish";
/// This machine does not offer what the row needs.
pub const UNAVAILABLE: &str = "not available";

impl Bench {
    /// Runs these rows on a machine with so many processors. A machine that stops answering is started anew with the
    /// rows that are left, so that each row has an outcome.
    pub fn rows(&self, machine: Machine, wanted: &[&'static str], cpus: u32) -> Vec<(&'static str, Outcome)> {
        let mut left = wanted.to_vec();
        let mut outcomes = Vec::new();
        while !left.is_empty() {
            let before = outcomes.len();
            let rest = match self.run(machine, &left, cpus, &mut outcomes) {
                Ok(rest) => rest,
                Err(error) => Outcome::None(FAILED, error.to_string()),
            };
            left.retain(|name| outcomes.iter().all(|(done, _)| done != name));
            // No row came and none was under way: a further try would end the same.
            if outcomes.len() == before {
                outcomes.extend(left.drain(..).map(|name| (name, rest.clone())));
            }
        }
        outcomes
    }

    /// One boot that runs rows until the machine ends or one of them takes too long. Returns what to say of the rows
    /// that were not reached.
    fn run(
        &self,
        machine: Machine,
        rows: &[&'static str],
        cpus: u32,
        done: &mut Vec<(&'static str, Outcome)>,
    ) -> Result<Outcome, Errand> {
        let names = rows.join(",");
        let words = format!("WORK=rows ROWS={names} LIMIT={ROW_LIMIT}");
        let boot = Boot { kernel: &self.kit.kernel, initramfs: &self.kit.large, memory: LARGE, cpus, words };
        let command = machine.boot(&self.carriers, &boot);
        let mut session = Session::start(&mut command.unwrap_or_else(|| self.kit.native(&names, ROW_LIMIT)))?;
        let mut under_way = None;
        let ending = session.listen(BOOT_LIMIT, |line| {
            if let Some(line) = Line::read(line) {
                done.push((line.name, Outcome::Figure(line.time, line.check)));
                under_way = None;
            } else if let Some((_, name)) = line.split_once("bench: row ") {
                under_way = rows.iter().copied().find(|row| *row == name.trim());
                return Heard::Step(Duration::from_secs(ROW_LIMIT) + GRACE);
            } else if let (Some(row), Some((_, why))) = (under_way, line.split_once("bench: failed ")) {
                // timeout(1) of busybox ends with 143, that of coreutils with 124.
                let late = why.ends_with("status 143") || why.ends_with("status 124");
                done.push((row, Outcome::None(if late { LATE } else { FAILED }, why.to_owned())));
                under_way = None;
            } else if line.contains(LAST_SIGN) {
                return Heard::Last;
            }
            Heard::Nothing
        });
        let refused = matches!(ending, Ending::Early(Some(status)) if status.code() == Some(125));
        let kind = match ending {
            Ending::DidNotFinish => LATE,
            _ if refused => UNAVAILABLE,
            _ => FAILED,
        };
        let rest = Outcome::None(kind, session.last_lines());
        done.extend(under_way.map(|row| (row, rest.clone())));
        Ok(rest)
    }

    /// Command start to first user instruction, in ms.
    pub fn start(&self, machine: Machine) -> Result<f64, Errand> {
        let mut session = self.small(machine, "WORK=nothing")?;
        let time = session.wait_for(FIRST_SIGN, BOOT_LIMIT)?;
        // It is let go to its end: that a machine ends is part of what is measured.
        session
            .listen(BOOT_LIMIT, |line| if line.contains(LAST_SIGN) { Heard::Last } else { Heard::Nothing });
        Ok(time.as_secs_f64() * 1e3)
    }

    /// A Guest at its prompt, left alone: what it uses of a core, and what of memory beyond its RAM.
    pub fn rest(&self, machine: Machine) -> Result<Vec<(&'static str, f64)>, Errand> {
        let mut session = self.small(machine, "WORK=idle")?;
        session.wait_for("bench: prompt", BOOT_LIMIT)?;
        let process = Process::new(session.process());
        std::thread::sleep(SETTLE);
        let before = process.processor_time()?;
        std::thread::sleep(LOOK);
        let used = process.processor_time()? - before;
        let memory = process.memory(u64::from(SMALL) << 20)?;
        let megabytes = |bytes: u64| bytes as f64 / 1e6;
        let mut figures = vec![
            (IDLE, used.as_secs_f64() / LOOK.as_secs_f64() * 100.0),
            (RESIDENT, megabytes(memory.beyond_ram())),
        ];
        if machine == Machine::Lguest {
            figures.extend([(CODE, megabytes(memory.code)), (TABLES, megabytes(memory.tables))]);
        }
        Ok(figures)
    }

    fn small(&self, machine: Machine, words: &str) -> Result<Session, Errand> {
        let boot = Boot {
            kernel: &self.kit.kernel,
            initramfs: &self.kit.small,
            memory: SMALL,
            cpus: 1,
            words: words.to_owned(),
        };
        let command = machine.boot(&self.carriers, &boot);
        Session::start(&mut command.ok_or_else(|| Errand::Argument("a boot of this Linux".into()))?)
    }
}
