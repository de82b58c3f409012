//! `cargo xtask boots`: many boots of each kernel. One that fails in fifty is a fault that one boot does not show.

use crate::arguments::Arguments;
use crate::errand::Errand;
use crate::initramfs::Contents;
use crate::inputs;
use crate::machine::{Boot, Carriers, Machine};
use crate::session::{Ending, FIRST_SIGN, Heard, LAST_SIGN, Session};
use crate::table::{figure, median};
use std::time::Duration;

/// Longest for one boot, from the command's start to its end.
const LIMIT: Duration = Duration::from_secs(120);
/// RAM in MiB.
const MEMORY: u32 = 256;

/// Boots each of the three kernels as often as asked and prints who failed and how long it took.
pub fn run(mut arguments: Arguments) -> Result<(), Errand> {
    let cpus = arguments.value("--cpus")?.map_or(Ok(1), |word| Arguments::count(&word))?;
    let times = arguments.next().map_or(Ok(10), |word| Arguments::count(&word))?;
    arguments.end()?;
    let lguest = inputs::lguest()?;
    let initramfs = Contents::new().archive(&lguest, "start")?;
    let carriers = Carriers::gather(lguest, &mut Vec::new());
    let mut failures = 0;
    for package in inputs::KERNELS {
        let kernel = inputs::vmlinuz(&carriers.lguest, package)?;
        let boot = Boot {
            kernel: &kernel,
            initramfs: &initramfs,
            memory: MEMORY,
            cpus: cpus as u32,
            words: "WORK=nothing".to_owned(),
        };
        let mut took = Vec::new();
        for time in 1..=times {
            match once(&carriers, &boot) {
                Ok(whole) => took.push(whole.as_secs_f64()),
                Err(error) => {
                    failures += 1;
                    println!("{package}, boot {time} of {times}: {error}");
                }
            }
        }
        println!("{package}: {} of {times} boots, median {} s", took.len(), figure(median(&took)));
    }
    match failures {
        0 => Ok(()),
        n => Err(Errand::Failed {
            what: format!("{n} of {} boots", times * inputs::KERNELS.len()),
            why: "see above".into(),
        }),
    }
}

/// One boot to its end by itself; how long it took. The init's two lines must have come and the status be 0.
fn once(carriers: &Carriers, boot: &Boot) -> Result<Duration, Errand> {
    let Some(mut command) = Machine::Lguest.boot(carriers, boot) else { unreachable!("lguest boots Guests") };
    let mut session = Session::start(&mut command)?;
    let mut signs = 0;
    let ending = session.listen(LIMIT, |line| {
        signs += usize::from(line.contains(FIRST_SIGN)) + usize::from(line.contains(LAST_SIGN));
        Heard::Nothing
    });
    match ending {
        Ending::Early(Some(status)) if status.success() && signs == 2 => Ok(session.elapsed()),
        ending => {
            let why = format!("{ending:?}; its last lines:\n  {}", session.last_lines());
            Err(Errand::Failed { what: "it".to_owned(), why })
        }
    }
}
