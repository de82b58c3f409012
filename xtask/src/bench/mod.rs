//! `cargo xtask bench`: the same programs natively, under lguest, under QEMU's emulation, in User-Mode Linux; and
//! whether the figures that were asked for are met.
//!
//! One kernel and one initramfs for all (User-Mode Linux brings its own kernel). Rounds are interleaved, because a
//! machine's speed drifts, and every figure is a median. Each step has a time limit: a machine that hangs costs its row.

mod rows;
mod source;
mod kit;
mod measure;
mod results;
mod verdicts;
mod json;
pub mod io;
pub mod lguest32;

use crate::arguments::Arguments;
use crate::errand::Errand;
use crate::inputs;
use crate::machine::{Carriers, Machine, is_kernel};
use crate::table::{columns, figure, geometric_mean};
use kit::Kit;
use measure::Bench;
use results::Results;
use rows::{CODE, Class, HOST_ROWS, IDLE, RESIDENT, ROWS, START, TABLES};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// What was asked for on the command line.
struct Wish {
    rounds: usize,
    machines: Vec<Machine>,
    rows: Vec<&'static str>,
    kernel: Option<PathBuf>,
    json: Option<PathBuf>,
}

impl Wish {
    fn read(mut arguments: Arguments) -> Result<Wish, Errand> {
        let rounds = arguments.value("--rounds")?.map_or(Ok(3), |word| Arguments::count(&word))?;
        let quick = arguments.flag("--quick");
        let machines = arguments.value("--machines")?;
        let only = arguments.value("--only")?;
        let kernel = arguments.value("--kernel")?.map(PathBuf::from);
        let json = arguments.value("--json")?.map(PathBuf::from);
        arguments.end()?;
        if let Some(kernel) = kernel.as_ref().filter(|kernel| !is_kernel(kernel)) {
            return Err(Errand::Argument(format!("--kernel {}, which is no bzImage", kernel.display())));
        }
        let machines = match machines {
            Some(keys) => keys.split(',').map(Machine::named).collect::<Result<_, _>>()?,
            None => Machine::ALL.to_vec(),
        };
        let rows = match only {
            Some(names) => names.split(',').map(named).collect::<Result<_, _>>()?,
            None => ROWS.iter().map(|row| row.name).chain(HOST_ROWS).collect(),
        };
        Ok(Wish { rounds: if quick { 1 } else { rounds }, machines, rows, kernel, json })
    }

    fn wants(&self, row: &str) -> bool {
        self.rows.contains(&row)
    }

    /// The rows of these classes.
    fn of(&self, class: impl Fn(Class) -> bool) -> Vec<&'static str> {
        ROWS.iter().filter(|row| class(row.class) && self.wants(row.name)).map(|row| row.name).collect()
    }
}

/// A row by its name, with or without the unit.
fn named(name: &str) -> Result<&'static str, Errand> {
    let mut names = ROWS.iter().map(|row| row.name).chain(HOST_ROWS);
    let found =
        names.find(|row| *row == name || row.rsplit_once('_').is_some_and(|(short, _)| short == name));
    found.ok_or_else(|| Errand::Argument(format!("--only {name}, which is no row")))
}

/// Runs the bench and prints its tables.
pub fn run(arguments: Arguments) -> Result<(), Errand> {
    let mut wish = Wish::read(arguments)?;
    let lguest = inputs::lguest()?;
    let kernel = match wish.kernel.take() {
        Some(kernel) => kernel,
        None => inputs::vmlinuz(&lguest, inputs::KERNELS[0])?,
    };
    let kit = Kit::gather(&lguest, kernel)?;
    let carriers = Carriers::gather(lguest, &mut wish.machines);
    let bench = Bench { carriers, kit };
    let mut results = Results::default();
    for round in 1..=wish.rounds {
        for machine in wish.machines.clone() {
            eprintln!("xtask: round {round} of {}: {}", wish.rounds, machine.key());
            measure(&bench, &wish, machine, &mut results);
        }
    }
    let verdicts = verdicts::verdicts(&results);
    print!("{}", report(&bench.carriers, &wish, &results));
    let mut lines = vec![["asked", "bound", "measured", "verdict"].map(str::to_owned).to_vec()];
    lines.extend(verdicts.iter().map(verdicts::Verdict::line));
    print!("\n{}", columns(&lines));
    print!("{}", absences(&results));
    if let Some(path) = &wish.json {
        let text = json::text(&wish.machines, &bench.carriers, &results, &verdicts);
        std::fs::write(path, text).map_err(Errand::file(path))?;
    }
    Ok(())
}

/// All rows of one machine, once.
fn measure(bench: &Bench, wish: &Wish, machine: Machine, results: &mut Results) {
    let plain = wish.of(|class| class != Class::Processors);
    for (row, outcome) in bench.rows(machine, &plain, 1) {
        results.add(machine, row, outcome);
    }
    // User-Mode Linux has one processor in Debian's build.
    if machine != Machine::UserMode {
        for (row, outcome) in bench.rows(machine, &wish.of(|class| class == Class::Processors), 2) {
            results.add(machine, row, outcome);
        }
    }
    if machine == Machine::Native {
        return;
    }
    if wish.wants(START) {
        match bench.start(machine) {
            Ok(time) => results.figure(machine, START, time),
            Err(error) => results.failed(machine, START, error.to_string()),
        }
    }
    // User-Mode Linux is several processes, whose memory is the Guest's.
    if machine != Machine::UserMode && [IDLE, RESIDENT, CODE, TABLES].iter().any(|row| wish.wants(row)) {
        match bench.rest(machine) {
            Ok(figures) => figures.into_iter().for_each(|(row, value)| results.figure(machine, row, value)),
            Err(error) => results.failed(machine, IDLE, error.to_string()),
        }
    }
}

/// What could not be measured, rows with the same reason together.
fn absences(results: &Results) -> String {
    let mut by_reason: BTreeMap<(Machine, &str, &str), Vec<&str>> = BTreeMap::new();
    for (machine, row, kind, why) in results.missing() {
        by_reason.entry((machine, kind, why)).or_default().push(row);
    }
    let words = |((machine, kind, why), rows): ((Machine, &str, &str), Vec<&str>)| {
        format!("\n{}, {}: {kind}:\n  {why}\n", machine.key(), rows.join(", "))
    };
    by_reason.into_iter().map(words).collect()
}

/// The rows by machine, each beside its ratio to native.
fn report(carriers: &Carriers, wish: &Wish, results: &Results) -> String {
    let mut head = vec!["less is better".to_owned()];
    let native = wish.machines.contains(&Machine::Native);
    let compared = |machine: &Machine| native && *machine != Machine::Native;
    for machine in &wish.machines {
        head.push(machine.title(carriers));
        head.extend(compared(machine).then(|| "x native".to_owned()));
    }
    let mut lines = vec![head];
    for name in &wish.rows {
        let mut line = vec![(*name).to_owned()];
        for machine in &wish.machines {
            line.push(results.cell(*machine, name));
            if compared(machine) {
                line.push(results.ratio(name, *machine, Machine::Native).map_or(String::new(), figure));
            }
        }
        lines.push(line);
    }
    let mut mean = vec!["compute, mean of ratios".to_owned()];
    for machine in &wish.machines {
        mean.push(String::new());
        if compared(machine) {
            let ratios = wish.of(|class| class == Class::Compute).into_iter();
            let ratios: Option<Vec<f64>> =
                ratios.map(|row| results.ratio(row, *machine, Machine::Native)).collect();
            let ratios = ratios.filter(|ratios| !ratios.is_empty());
            mean.push(ratios.map_or("-".to_owned(), |ratios| figure(geometric_mean(&ratios))));
        }
    }
    lines.push(mean);
    columns(&lines)
}

#[test]
fn rows_are_named_with_or_without_their_unit() {
    assert_eq!(named("hash").ok(), Some("hash_ns"));
    assert_eq!(named("start_ms").ok(), Some("start_ms"));
    assert!(named("hush").is_err());
}
