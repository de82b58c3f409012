//! `cargo xtask bench`: the same static programs natively, under lguest, under QEMU's emulation, in User-Mode Linux.
//!
//! One kernel and one initramfs for all (User-Mode Linux brings its own kernel). Runs are interleaved, because a
//! machine's speed drifts, and every figure is a median.

use crate::arguments::Arguments;
use crate::errand::Errand;
use crate::inputs;
use crate::machine::{Machine, Parts, Run, is_kernel};
use crate::table::{columns, figure, geometric_mean, median};
use std::path::PathBuf;

/// Rows that are the processor's and memory's work alone; the others measure a kernel too.
const COMPUTE: [&str; 5] = ["hash_ns", "sort_ms", "chase_ns", "float_ns", "memcpy_us"];

/// Runs the bench and prints its table.
pub fn run(mut arguments: Arguments) -> Result<(), Errand> {
    let rounds = arguments.value("--rounds")?.map_or(Ok(3), |word| Arguments::count(&word))?;
    let kernel = arguments.value("--kernel")?.map(PathBuf::from);
    let only = arguments.value("--only")?;
    arguments.end()?;
    let machines = chosen(only.as_deref())?;
    let parts = parts(kernel)?;
    let mut runs: Vec<(Machine, Vec<Run>)> =
        machines.into_iter().map(|machine| (machine, Vec::new())).collect();
    for round in 1..=rounds {
        for (machine, done) in &mut runs {
            eprintln!("xtask: round {round} of {rounds}: {}", machine.title());
            match machine.run(&parts) {
                Ok(run) => done.push(run),
                // One machine's failure leaves the others' figures standing; the table then has no column for it.
                Err(error) => eprintln!("xtask: {error}"),
            }
        }
    }
    let failed = runs.iter().any(|(_, done)| done.len() < rounds);
    runs.retain(|(_, done)| !done.is_empty());
    check_results(&runs)?;
    print!("{}", report(&runs));
    if failed {
        let why = "the table holds what was measured".to_owned();
        return Err(Errand::Failed { what: "one or more runs".to_owned(), why });
    }
    Ok(())
}

/// The machines that are installed, or those named.
fn chosen(only: Option<&str>) -> Result<Vec<Machine>, Errand> {
    let mut machines = Vec::new();
    match only {
        Some(names) => {
            for name in names.split(',') {
                let machine = Machine::ALL.into_iter().find(|machine| machine.key() == name);
                let machine = machine.ok_or_else(|| Errand::Argument(format!("--only {name}")))?;
                machine.is_here()?;
                machines.push(machine);
            }
        }
        None => {
            for machine in Machine::ALL {
                match machine.is_here() {
                    Ok(()) => machines.push(machine),
                    Err(error) => eprintln!("xtask: left out: {error}"),
                }
            }
        }
    }
    Ok(machines)
}

fn parts(kernel: Option<PathBuf>) -> Result<Parts, Errand> {
    let lguest = inputs::lguest()?;
    let kernel = match kernel {
        Some(kernel) if !is_kernel(&kernel) => {
            return Err(Errand::Argument(format!("--kernel {}, which is no bzImage", kernel.display())));
        }
        Some(kernel) => kernel,
        None => inputs::vmlinuz(&lguest, inputs::KERNELS[0])?,
    };
    let guestbench = inputs::guestbench()?;
    let initramfs = inputs::initramfs(&lguest, "bench.cpio", &[(guestbench.clone(), "/guestbench")])?;
    Ok(Parts { lguest, kernel, initramfs, guestbench })
}

/// A fast wrong answer is no result: every machine must have computed the same.
fn check_results(runs: &[(Machine, Vec<Run>)]) -> Result<(), Errand> {
    let mut all = runs.iter().flat_map(|(machine, done)| done.iter().map(move |run| (machine, run)));
    let Some((_, first)) = all.next() else { return Ok(()) };
    for (machine, run) in all {
        for (row, other) in first.rows.iter().zip(&run.rows) {
            if row.check != other.check {
                let what = format!("{} on {}", other.name, machine.title());
                return Err(Errand::Failed {
                    what,
                    why: format!("result {} is not {}", other.check, row.check),
                });
            }
        }
    }
    Ok(())
}

fn row(runs: &[Run], name: &str) -> f64 {
    let figures: Vec<f64> =
        runs.iter().flat_map(|run| &run.rows).filter(|row| row.name == name).map(|row| row.time).collect();
    median(&figures)
}

fn report(runs: &[(Machine, Vec<Run>)]) -> String {
    let of = |machine: Machine| runs.iter().find(|(found, _)| *found == machine).map(|(_, done)| done);
    let native = of(Machine::Native);
    let mut head = vec!["row (less is better)".to_owned()];
    for (machine, _) in runs {
        head.push(machine.title().to_owned());
        if *machine != Machine::Native && native.is_some() {
            head.push("x native".to_owned());
        }
    }
    let mut lines = vec![head];
    let names: Vec<String> =
        runs.iter().flat_map(|(_, done)| &done[0].rows).map(|row| row.name.clone()).collect();
    let mut seen = Vec::new();
    for name in names {
        if seen.contains(&name) {
            continue;
        }
        let mut line = vec![name.clone()];
        for (machine, done) in runs {
            let value = row(done, &name);
            line.push(figure(value));
            if let (Some(native), true) = (native, *machine != Machine::Native) {
                line.push(figure(value / row(native, &name)));
            }
        }
        lines.push(line);
        seen.push(name);
    }
    lines.extend(means(runs));
    for (label, value) in [("boot_ms", boot as fn(&[Run]) -> f64), ("whole_ms", whole)] {
        let mut line = vec![label.to_owned()];
        for (machine, done) in runs {
            line.push(figure(value(done)));
            if *machine != Machine::Native && native.is_some() {
                line.push(String::new());
            }
        }
        lines.push(line);
    }
    let mut text = columns(&lines);
    if let (Some(ours), Some(qemu)) = (of(Machine::Lguest), of(Machine::Qemu)) {
        let ratios: Vec<f64> = COMPUTE.iter().map(|name| row(qemu, name) / row(ours, name)).collect();
        text += &format!(
            "lguest is {} times as fast as QEMU TCG on the compute rows (geometric mean), {} times to user code\n",
            figure(geometric_mean(&ratios)),
            figure(boot(qemu) / boot(ours)),
        );
    }
    text
}

/// The line of geometric means over the compute rows.
fn means(runs: &[(Machine, Vec<Run>)]) -> Option<Vec<String>> {
    let (_, native) = runs.iter().find(|(machine, _)| *machine == Machine::Native)?;
    let mut line = vec!["compute rows, mean".to_owned()];
    for (machine, done) in runs {
        line.push(String::new());
        if *machine != Machine::Native {
            let ratios: Vec<f64> = COMPUTE.iter().map(|name| row(done, name) / row(native, name)).collect();
            line.push(figure(geometric_mean(&ratios)));
        }
    }
    Some(line)
}

/// Command start to the first user instruction, in ms.
fn boot(runs: &[Run]) -> f64 {
    median(&runs.iter().filter_map(|run| run.boot).map(|time| time.as_secs_f64() * 1e3).collect::<Vec<_>>())
}

/// Command start to its end, in ms.
fn whole(runs: &[Run]) -> f64 {
    median(&runs.iter().map(|run| run.whole.as_secs_f64() * 1e3).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Row;
    use std::time::Duration;

    fn run(scale: f64, check: &str) -> Run {
        let row = |name: &&str| Row { name: (*name).to_owned(), time: scale, check: check.to_owned() };
        let time = Duration::from_secs_f64(scale);
        Run { boot: Some(time), whole: time, rows: COMPUTE.iter().map(row).collect() }
    }

    #[test]
    fn the_table_says_how_often_faster_than_qemu() {
        let runs = [
            (Machine::Native, vec![run(1.0, "a")]),
            (Machine::Lguest, vec![run(2.0, "a")]),
            (Machine::Qemu, vec![run(8.0, "a")]),
        ];
        let text = report(&runs);
        assert!(text.contains("lguest is 4.00 times as fast as QEMU TCG"), "{text}");
        assert!(text.lines().any(|line| line.starts_with("hash_ns") && line.contains("8.00")), "{text}");
    }

    #[test]
    fn a_wrong_result_is_no_result() {
        let runs = [(Machine::Native, vec![run(1.0, "a")]), (Machine::Lguest, vec![run(1.0, "b")])];
        assert!(check_results(&runs).is_err());
    }
}
