//! `cargo xtask bench lguest32`: what was asked of unmodified lguest kernels of 32 bits, and whether it is met.
//!
//! The kernel is the one of the Launcher's tests, in C (`crates/launcher/tests/lguest32/guest`): the real ones are not at hand. Its only
//! process is `bench/compute32.c`, an ordinary program of 32 bits, and the same file runs natively beside it. Both read
//! the processor's counter, so that a row is the same ticks on both sides; what the work came to must be the same too. How long
//! a notify takes until somebody wakes is the Host's example `exit_speed`, with the same of two threads and no Guest as the floor: what
//! the machine's kernel takes to wake a thread is in both.

use super::verdicts::Verdict;
use crate::arguments::Arguments;
use crate::errand::Errand;
use crate::inputs;
use crate::programs;
use crate::table::{columns, figure, geometric_mean, median};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

/// The kernels' forms, as `guest/build.sh` takes them; the program's rows are measured on the middle one.
const FORMS: [&str; 3] = ["26", "31", "41"];
const MEASURED: &str = "31";
/// What the program says first.
const FIRST: &str = "first process";
/// Seconds that one machine may take.
const LIMIT: &str = "120";

/// The row that is the kernel's work too, and so no compute.
const KERNELS: &str = "syscall";

/// A row of the program's: name, thousands of ticks, what the work came to.
type Row = (String, f64, String);

/// Runs the bench and prints its tables.
pub fn run(mut arguments: Arguments) -> Result<(), Errand> {
    let rounds = arguments.value("--rounds")?.map_or(Ok(3), |word| Arguments::count(&word))?;
    arguments.end()?;
    let lguest = inputs::lguest()?;
    let program = program()?;
    let kernels = FORMS.into_iter().map(kernel).collect::<Result<Vec<_>, _>>()?;
    let (mut native, mut guest, mut starts, mut wakes) = (vec![], vec![], vec![vec![]; FORMS.len()], vec![]);
    for round in 1..=rounds {
        eprintln!("xtask: round {round} of {rounds}");
        native.push(rows(&programs::run(&mut Command::new(&program))?));
        for ((form, kernel), starts) in FORMS.iter().zip(&kernels).zip(&mut starts) {
            let (start, said) = machine(&lguest, kernel, &program, *form == MEASURED)?;
            starts.push(start);
            if *form == MEASURED {
                guest.push(rows(&said));
            }
        }
        wakes.push(inputs::example("lguest-host", "exit_speed")?);
    }
    let compared = compared(&native, &guest)?;
    let wake = |of| median(&wakes.iter().filter_map(|said| woken(said, of)).collect::<Vec<_>>());
    let starts: Vec<f64> = starts.iter().map(|starts| median(starts)).collect();
    let wakes = ["native", "lguest32-alone", "lguest32"].map(wake);
    print!("{}", report(&compared, &starts, wakes));
    Ok(())
}

/// The program, compiled.
fn program() -> Result<PathBuf, Errand> {
    let (source, program) = (inputs::root().join("bench/compute32.c"), inputs::workshop()?.join("compute32"));
    let words = ["-m32", "-O2", "-ffreestanding", "-nostdlib", "-static", "-o"];
    programs::run(Command::new("cc").args(words).arg(&program).arg(source))?;
    Ok(program)
}

/// A kernel of this form, compiled.
fn kernel(form: &str) -> Result<PathBuf, Errand> {
    let build = inputs::root().join("crates/launcher/tests/lguest32/guest/build.sh");
    let kernel = inputs::workshop()?.join(format!("lguest32-{form}"));
    programs::run(Command::new("sh").arg(build).args([form, "narrow"]).arg(&kernel))?;
    Ok(kernel)
}

/// Milliseconds from the command to the first process, and what that said if it may go on to its end.
fn machine(lguest: &Path, kernel: &Path, program: &Path, whole: bool) -> Result<(f64, String), Errand> {
    let begun = Instant::now();
    let mut child = Command::new(lguest)
        .args(["run", "--memory", "64M", "--bus", "lguest", "--timeout", LIMIT, "--cmdline", "program"])
        .arg("--kernel")
        .arg(kernel)
        .arg("--initrd")
        .arg(program)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(Errand::file(lguest))?;
    let (mut said, mut start) = (String::new(), None);
    for line in BufReader::new(child.stdout.take().expect("piped")).lines().map_while(Result::ok) {
        said += &line;
        said.push('\n');
        if line.trim_end() == FIRST {
            start = Some(begun.elapsed().as_secs_f64() * 1e3);
            if !whole {
                child.kill().map_err(Errand::file(lguest))?;
                break;
            }
        }
    }
    let status = child.wait().map_err(Errand::file(lguest))?;
    match start {
        Some(start) if !whole || status.success() => Ok((start, said)),
        _ => {
            Err(Errand::Failed { what: "the kernel of 32 bits".to_owned(), why: format!("it said {said:?}") })
        }
    }
}

fn rows(said: &str) -> Vec<Row> {
    said.lines().filter_map(row).collect()
}

/// `sort 75228 941454880`.
fn row(line: &str) -> Option<Row> {
    let mut words = line.split_whitespace();
    let (name, ticks, check) = (words.next()?, words.next()?.parse().ok()?, words.next()?);
    check.parse::<u32>().ok()?;
    words.next().is_none().then(|| (name.to_owned(), ticks, check.to_owned()))
}

/// `lguest32 notify_wake_ns 3400`: of that line the last word.
fn woken(said: &str, of: &str) -> Option<f64> {
    let line = said.lines().find(|line| line.split(' ').next() == Some(of))?;
    line.split_once("notify_wake_ns ")?.1.trim().parse().ok()
}

/// Medians of each row's ticks, natively and in the Guest.
fn compared(native: &[Vec<Row>], guest: &[Vec<Row>]) -> Result<Vec<(String, f64, f64)>, Errand> {
    let wrong = |why| Errand::Failed { what: "bench/compute32.c".to_owned(), why };
    let first = native.first().filter(|rows| !rows.is_empty());
    let first = first.ok_or_else(|| wrong("it printed nothing natively".to_owned()))?;
    let of = |rounds: &[Vec<Row>], (name, _, check): &Row| {
        let found: Vec<_> = rounds.iter().flatten().filter(|row| row.0 == *name).collect();
        if found.is_empty() || found.iter().any(|row| row.2 != *check) {
            return Err(wrong(format!(
                "its row {name} came to {check} natively, and to {found:?} in a Guest"
            )));
        }
        Ok(median(&found.iter().map(|row| row.1 / 1e3).collect::<Vec<_>>()))
    };
    first.iter().map(|row| Ok((row.0.clone(), of(native, row)?, of(guest, row)?))).collect()
}

fn report(rows: &[(String, f64, f64)], starts: &[f64], [floor, alone, wake]: [f64; 3]) -> String {
    let mut lines = vec![["million ticks", "native", "lguest", "times"].map(str::to_owned).to_vec()];
    for (name, native, guest) in rows {
        lines.push(vec![name.clone(), figure(*native), figure(*guest), figure(guest / native)]);
    }
    let mut text = columns(&lines);
    let known = |value: f64| (!value.is_nan()).then_some(value);
    let compute = rows.iter().filter(|(name, ..)| name != KERNELS);
    let ratios: Vec<f64> = compute.map(|(_, native, guest)| guest / native).collect();
    let mut verdicts = vec![Verdict::at_most(
        "compute of 32 bits, mean".to_owned(),
        1.8,
        " x native",
        Some(geometric_mean(&ratios)),
    )];
    for (form, start) in FORMS.iter().zip(starts) {
        let asked = format!("command to first process, our kernel in the form of {}", version(form));
        verdicts.push(Verdict::at_most(asked, 500.0, " ms", known(*start)));
    }
    let asked = format!(
        "NOTIFY to a woken eventfd (nobody asleep: {} ns; two threads without a Guest: {} ns)",
        figure(alone),
        figure(floor)
    );
    verdicts.push(Verdict::at_most(asked, 5000.0, " ns", known(wake)));
    let mut lines = vec![["asked", "bound", "measured", ""].map(str::to_owned).to_vec()];
    lines.extend(verdicts.iter().map(Verdict::line));
    text.push('\n');
    text + &columns(&lines)
}

fn version(form: &str) -> &'static str {
    match form {
        "26" => "2.6.32",
        "31" => "3.1",
        _ => "4.1",
    }
}

#[test]
fn the_programs_rows_are_read_and_nothing_else() {
    assert_eq!(row("sort 75228 941454880"), Some(("sort".into(), 75228.0, "941454880".into())));
    assert_eq!(rows("first process\nvirtio0: entropy\na process has ended\n"), []);
}

#[test]
fn a_row_that_came_to_something_else_is_no_figure() {
    let rows = |check: &str| vec![vec![("lz".to_owned(), 2000.0, check.to_owned())]];
    assert_eq!(compared(&rows("1"), &rows("1")).unwrap(), [("lz".to_owned(), 2.0, 2.0)]);
    assert!(compared(&rows("1"), &rows("2")).is_err());
    assert!(compared(&rows("1"), &[]).is_err());
    assert!(compared(&[], &rows("1")).is_err());
}

#[test]
fn verdicts_follow_the_rows() {
    let said = "translator exit_ns 1 notify_wake_ns 2\nlguest32 notify_wake_ns 6000\n";
    assert_eq!((woken(said, "lguest32"), woken(said, "native")), (Some(6000.0), None));
    let text = report(&[("lz".into(), 2.0, 4.0)], &[40.0, 600.0, f64::NAN], [f64::NAN, f64::NAN, 6000.0]);
    let ends: Vec<_> = text.lines().skip(4).map(|line| line.rsplit("  ").next().unwrap()).collect();
    assert_eq!(ends, ["not met", "met", "not met", "not measured", "not met"]);
}
