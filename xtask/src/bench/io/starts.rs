//! What the host measures with a clock: commands from their start to their end, and what a device adds.

use super::kit::Kit;
use super::rows::{DEBIAN, DIRECTORY};
use crate::errand::Errand;
use crate::machine::{Boot, Carriers, Machine};
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

/// What each device adds to `lguest run debian -- true`, in milliseconds.
pub fn devices(lguest: &Path, kit: &Kit) -> Result<Vec<(&'static str, f64)>, Errand> {
    let disk = format!("{},readonly", kit.disk.display());
    let share = format!("{}:tree,readonly", kit.tree.display());
    let with: [(&'static str, &[&str]); 4] = [
        ("", &["--net", "none"]),
        ("disk_ms", &["--net", "none", "--disk", &disk]),
        ("net_ms", &["--net", "user"]),
        ("share_ms", &["--net", "none", "--share", &share]),
    ];
    let mut shortest = [f64::INFINITY; 4];
    for _ in 0..TRIES {
        for ((_, options), shortest) in with.iter().zip(&mut shortest) {
            let took = time(ours(lguest, &[&["debian"], *options].concat(), None))?;
            *shortest = shortest.min(took);
        }
    }
    Ok(with.iter().zip(shortest).skip(1).map(|((name, _), time)| (*name, time - shortest[0])).collect())
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
