//! `cargo xtask stress`: stress-ng in the Guest, which checks what it computes. What it finds no test names.

use crate::arguments::Arguments;
use crate::errand::Errand;
use crate::initramfs::Contents;
use crate::inputs;
use crate::machine::{Boot, Carriers, Machine};
use crate::packages::{Origin, Packages};
use crate::session::{Ending, Heard, LAST_SIGN, Session};
use crate::table::columns;
use std::time::Duration;

const PACKAGES: Packages = Packages { name: "stress", wanted: &["stress-ng"], origin: Origin::Release };

/// The stressors: each is an option of stress-ng's, and each leans on another part of the engine: arithmetic, page
/// tables, processes, address-space switches, waiting, mappings, signal frames, string instructions, vectors.
const CLASSES: [&str; 9] = ["cpu", "vm", "fork", "switch", "futex", "mmap", "signal", "memcpy", "vecmath"];
/// RAM in MiB.
const MEMORY: u32 = 1024;
/// Longest for a boot.
const BOOT_LIMIT: Duration = Duration::from_secs(120);
/// What a class may take beyond its own time: its workers start, end and are counted.
const GRACE: Duration = Duration::from_secs(120);
/// What a kernel says when something is wrong with it.
const COMPLAINTS: [&str; 7] =
    ["BUG:", "Oops", "Call Trace", "soft lockup", "rcu_", "general protection", "segfault"];

/// What the Guest said of one class.
#[derive(Debug, Default, PartialEq)]
struct Class {
    name: String,
    /// Bogus operations, as stress-ng counts them.
    operations: u64,
    /// stress-ng's status; None when it did not come to its end.
    status: Option<i32>,
    /// Lines that a person should read.
    complaints: Vec<String>,
}

impl Class {
    /// A stressor that this Guest cannot run is skipped with status 0: without operations nothing was shown.
    fn is_well(&self) -> bool {
        self.status == Some(0) && self.complaints.is_empty() && self.operations > 0
    }

    fn verdict(&self) -> String {
        match self.status {
            Some(0) if self.is_well() => "well".to_owned(),
            Some(0) if self.complaints.is_empty() => "ran nothing".to_owned(),
            Some(status) => format!("status {status}, {} complaints", self.complaints.len()),
            None => "did not finish".to_owned(),
        }
    }
}

/// Runs the classes and prints what came of each.
pub fn run(mut arguments: Arguments) -> Result<(), Errand> {
    let minutes = arguments.value("--minutes")?.map_or(Ok(10), |word| Arguments::count(&word))?;
    let cpus = arguments.value("--cpus")?.map_or(Ok(1), |word| Arguments::count(&word))?;
    let machine = arguments.value("--machine")?.map_or(Ok(Machine::Lguest), |key| Machine::named(&key))?;
    let classes = arguments.value("--classes")?.unwrap_or_else(|| CLASSES.join(","));
    arguments.end()?;
    let lguest = inputs::lguest()?;
    let kernel = inputs::vmlinuz(&lguest, inputs::KERNELS[0])?;
    let mut contents = Contents::new();
    contents.add_root(&PACKAGES.unpacked()?)?;
    contents.add(inputs::root().join("bench/stress.sh"), "/work.sh");
    let initramfs = contents.archive(&lguest, "stress")?;
    let carriers = Carriers::gather(lguest, &mut vec![machine]);
    let steps = classes.split(',').count() + 1;
    let seconds = (minutes * 60).div_ceil(steps);
    let words = format!("WORK=script CLASSES={classes} TIME={seconds} WORKERS={cpus} loglevel=5");
    let boot = Boot { kernel: &kernel, initramfs: &initramfs, memory: MEMORY, cpus: cpus as u32, words };
    let Some(mut command) = machine.boot(&carriers, &boot) else {
        return Err(Errand::Argument("--machine native: stress-ng runs there without us".into()));
    };
    let mut session = Session::start(&mut command)?;
    let mut done: Vec<Class> = Vec::new();
    let ending = session.listen(BOOT_LIMIT, |line| {
        if let Some((_, name)) = line.split_once("stress: begin ") {
            eprintln!("xtask: {name}, {seconds} s");
            done.push(Class { name: name.to_owned(), ..Class::default() });
            return Heard::Step(Duration::from_secs(seconds as u64) + GRACE);
        }
        if let Some(class) = done.last_mut() {
            hear(class, line);
        }
        if line.contains(LAST_SIGN) { Heard::Last } else { Heard::Nothing }
    });
    print!("{}", report(&done));
    let whole = matches!(ending, Ending::Done) && done.len() == steps;
    if whole && done.iter().all(Class::is_well) {
        return Ok(());
    }
    let why = format!("{ending:?}; its last lines:\n  {}", session.last_lines());
    Err(Errand::Failed { what: format!("the stress on {}", machine.key()), why })
}

/// Takes what a line says of the class that runs.
fn hear(class: &mut Class, line: &str) {
    if let Some((_, end)) = line.split_once("stress: end ") {
        class.status = end.rsplit(' ').next().and_then(|status| status.parse().ok());
    } else if let Some((_, metrics)) = line.split_once("metrc: ") {
        // `[pid] cpu   1234  10.00 ...`: one line a stressor, and headings.
        let mut words = metrics.split_whitespace().skip(2);
        class.operations += words.next().and_then(|count| count.parse().ok()).unwrap_or(0);
    } else if line.contains(" fail: ") || COMPLAINTS.iter().any(|words| line.contains(words)) {
        class.complaints.push(line.to_owned());
    }
}

fn report(done: &[Class]) -> String {
    let mut lines = vec![["class", "operations", "verdict"].map(str::to_owned).to_vec()];
    for class in done {
        lines.push(vec![class.name.clone(), class.operations.to_string(), class.verdict()]);
    }
    let mut text = columns(&lines);
    for class in done {
        for complaint in &class.complaints {
            text += &format!("{}: {complaint}\n", class.name);
        }
    }
    text
}

#[test]
fn a_failed_check_is_heard_though_the_status_is_zero() {
    let mut class = Class { name: "cpu".into(), ..Class::default() };
    hear(&mut class, "stress: end cpu 0");
    assert_eq!(class.verdict(), "ran nothing");
    hear(&mut class, "stress-ng: metrc: [99] cpu               1650     10.00      9.90      0.01");
    hear(&mut class, "stress-ng: metrc: [99] stressor       bogo ops real time  usr time  sys time");
    hear(&mut class, "stress: end cpu 0");
    assert!(class.is_well() && class.operations == 1650);
    hear(&mut class, "stress-ng: fail:  [101] cpu: fft error detected");
    assert!(!class.is_well());
}
