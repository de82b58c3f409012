//! What the host measures with a clock: commands from their start to their end, and what a device adds.

use super::kit::Kit;
use super::rows::{DEBIAN, DIRECTORY};
use crate::errand::Errand;
use crate::machine::{Boot, Carriers, Machine};
use crate::proc::Process;
use crate::programs::run;
use crate::session::{Heard, LAST_SIGN, Session};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Longest for a boot under emulation on a busy host.
const LIMIT: Duration = Duration::from_secs(90);
/// RAM of the small Guests, in MiB: what `lguest run debian` gives.
const MEMORY: u32 = 512;
/// Runs with each device, in turn with as many without one. What disturbs a run only adds, so the shortest counts.
const TRIES: usize = 10;

/// The commands' rows on one machine, in milliseconds.
pub fn commands(
    machine: Machine,
    carriers: &Carriers,
    kit: &Kit,
) -> Result<Vec<(&'static str, f64)>, Errand> {
    if machine == Machine::Lguest {
        let debian = time(ours(&carriers.lguest, &["debian"], None))?;
        let directory = time(ours(&carriers.lguest, &[], Some(&kit.root)))?;
        return Ok(vec![(DEBIAN, debian), (DIRECTORY, directory)]);
    }
    let kernel = crate::inputs::vmlinuz(&carriers.lguest, crate::inputs::KERNELS[0])?;
    let words = "WORK=nothing".to_owned();
    let boot = Boot { kernel: &kernel, initramfs: &kit.small, memory: MEMORY, cpus: 1, words };
    let Some(mut command) = machine.boot(carriers, &boot) else { return Ok(Vec::new()) };
    let mut session = Session::start(&mut command)?;
    session.listen(LIMIT, |line| if line.contains(LAST_SIGN) { Heard::Last } else { Heard::Nothing });
    Ok(vec![(DEBIAN, session.elapsed().as_secs_f64() * 1e3)])
}

/// What each device adds to `lguest run debian -- true`, in milliseconds: a disk and a share to the usual machine, and the
/// network that the usual machine has, with it the bus, to one without.
pub fn devices(lguest: &Path, kit: &Kit) -> Result<Vec<(&'static str, f64)>, Errand> {
    let disk = format!("{},format=raw,readonly", kit.disk.display());
    let share = format!("{}:tree,readonly", kit.tree.display());
    let with: [&[&str]; 4] = [&["--net", "none"], &[], &["--disk", &disk], &["--share", &share]];
    let mut shortest = [f64::INFINITY; 4];
    let mut used = [0.0; 4];
    for _ in 0..TRIES {
        for (at, options) in with.iter().enumerate() {
            let before = children_time()?;
            let took = time(ours(lguest, &[&["debian"], *options].concat(), None))?;
            shortest[at] = took.min(shortest[at]);
            used[at] += (children_time()? - before) / TRIES as f64;
        }
    }
    let [bare, usual, disk, share] = shortest;
    let processor = [("net_cpu_ms", 1, 0), ("disk_cpu_ms", 2, 1), ("share_cpu_ms", 3, 1)];
    let processor = processor.map(|(name, with, without)| (name, used[with] - used[without]));
    let clock = [("net_ms", usual - bare), ("disk_ms", disk - usual), ("share_ms", share - usual)];
    Ok([clock, processor].concat())
}

/// Milliseconds of processor time of all children that have ended.
fn children_time() -> Result<f64, Errand> {
    Process::new(std::process::id()).time_of_children().map(|time| time.as_secs_f64() * 1e3)
}

fn ours(lguest: &Path, words: &[&str], root: Option<&Path>) -> Command {
    let mut command = Command::new(lguest);
    command.args(["run", "--engine", "translator", "--quiet", "--timeout", "90"]).args(words).args(root);
    command.args(["--", if root.is_some() { "/bin/true" } else { "true" }]).stderr(Stdio::null());
    command
}

/// Milliseconds to the end, which must be a good one.
fn time(mut command: Command) -> Result<f64, Errand> {
    let start = Instant::now();
    run(&mut command)?;
    Ok(start.elapsed().as_secs_f64() * 1e3)
}
