//! `cargo xtask boots`: many boots of each kernel. One that fails in fifty is a fault that one boot does not show.

use crate::arguments::Arguments;
use crate::errand::Errand;
use crate::inputs;
use crate::machine::{Machine, Parts};
use crate::table::{figure, median};

/// Boots each of the three kernels as often as asked and prints who failed and how long it took.
pub fn run(mut arguments: Arguments) -> Result<(), Errand> {
    let times = arguments.next().map_or(Ok(10), |word| Arguments::count(&word))?;
    arguments.end()?;
    let lguest = inputs::lguest()?;
    let initramfs = inputs::initramfs(&lguest, "boots.cpio", &[])?;
    let mut failures = 0;
    for package in inputs::KERNELS {
        let kernel = inputs::vmlinuz(&lguest, package)?;
        let parts = Parts {
            lguest: lguest.clone(),
            kernel,
            initramfs: initramfs.clone(),
            guestbench: Default::default(),
        };
        let mut took = Vec::new();
        for time in 1..=times {
            match Machine::Lguest.boots(&parts) {
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
