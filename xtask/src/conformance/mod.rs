//! `cargo xtask conformance`: a suite of system call tests in the same Guest on lguest and on QEMU, compared test by
//! test. What a test should say is the suite's matter; that both machines say the same is ours.

mod posix;

use crate::arguments::Arguments;
use crate::errand::Errand;
use crate::initramfs::Contents;
use crate::inputs;
use crate::machine::{Boot, Carriers, Machine};
use crate::packages::{Origin, Packages};
use crate::session::{Ending, Heard, LAST_SIGN, Session};
use crate::table::columns;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What the tests need at run time.
const LIBRARY: Packages = Packages { name: "libc", wanted: &["libc6"], origin: Origin::Release };
/// RAM in MiB.
const MEMORY: u32 = 512;
/// Longest for a boot.
const BOOT_LIMIT: Duration = Duration::from_secs(120);
/// Longest for one test, in seconds. The slowest that ends by itself sleeps for ten.
const TEST_LIMIT: u64 = 15;
/// What the Host waits longer than the Guest.
const GRACE: Duration = Duration::from_secs(45);
/// How often tests that differ are tried on both machines before they count as different.
const TRIES: usize = 3;
/// What is said of a test during which the machine stopped.
const MACHINE_STOPPED: &str = "the machine stopped";

/// What each test said in each try, on one machine.
type Said = BTreeMap<String, Vec<String>>;

/// What both machines are given.
struct Suite {
    carriers: Carriers,
    kernel: PathBuf,
    tests: PathBuf,
    root: PathBuf,
    cpus: u32,
}

/// Runs the tests on both machines and prints the comparison.
pub fn run(mut arguments: Arguments) -> Result<(), Errand> {
    let areas = arguments.value("--areas")?;
    let cpus = arguments.value("--cpus")?.map_or(Ok(1), |word| Arguments::count(&word))? as u32;
    let mut machines = vec![Machine::Lguest, Machine::Qemu];
    arguments.end()?;
    let wanted: Vec<&str> = areas.as_deref().map_or_else(Vec::new, |areas| areas.split(',').collect());
    if let Some(unknown) = wanted.iter().find(|area| posix::AREAS.iter().all(|(name, _)| name != *area)) {
        return Err(Errand::Argument(format!("the area {unknown}")));
    }
    let lguest = inputs::lguest()?;
    let kernel = inputs::vmlinuz(&lguest, inputs::KERNELS[0])?;
    let (tests, mut names) = posix::build()?;
    names.retain(|name| wanted.is_empty() || posix::area(name).is_some_and(|area| wanted.contains(&area)));
    let root = LIBRARY.unpacked()?;
    let carriers = Carriers::gather(lguest, &mut machines);
    let [ours, theirs] = machines[..] else {
        let why = "QEMU is what is compared with".to_owned();
        return Err(Errand::Failed { what: "the comparison".into(), why });
    };
    let suite = Suite { carriers, kernel, tests, root, cpus };
    let (mut one, mut other) = (Said::new(), Said::new());
    let mut left = names.clone();
    for attempt in 1..=TRIES {
        eprintln!("xtask: try {attempt}: {} tests on both machines", left.len());
        // Side by side: most tests sleep most of their time.
        let done = std::thread::scope(|scope| {
            let first = scope.spawn(|| suite.run(ours, &left, &mut one));
            let second = suite.run(theirs, &left, &mut other);
            first.join().expect("no panic").and(second)
        });
        done?;
        left.retain(|name| !agree(&one, &other, name));
        if left.is_empty() {
            break;
        }
    }
    print!("{}", report(&names, &one, &other));
    match left.len() {
        0 => Ok(()),
        n => Err(Errand::Failed {
            what: format!("{n} of {} tests", names.len()),
            why: format!("they said something else on QEMU in each of {TRIES} tries"),
        }),
    }
}

/// True when both machines have said the same in some try: a test that is not steady on either is no difference.
fn agree(one: &Said, other: &Said, name: &str) -> bool {
    let said = |said: &Said| said.get(name).cloned().unwrap_or_default();
    let others = said(other);
    said(one).iter().any(|result| others.contains(result))
}

impl Suite {
    /// Runs these tests on a machine and adds what they said. A machine that stops is started anew with those left.
    fn run(&self, machine: Machine, names: &[String], said: &mut Said) -> Result<(), Errand> {
        let mut left = names.to_vec();
        while !left.is_empty() {
            let done = self.boot(machine, &left)?;
            if done.is_empty() {
                let what = format!("the tests on {}", machine.key());
                return Err(Errand::Failed { what, why: "it ran none".to_owned() });
            }
            left.retain(|name| !done.contains_key(name));
            for (name, result) in done {
                said.entry(name).or_default().push(result);
            }
        }
        Ok(())
    }

    fn boot(&self, machine: Machine, names: &[String]) -> Result<BTreeMap<String, String>, Errand> {
        let list = inputs::workshop()?.join(format!("{}-tests", machine.key()));
        std::fs::write(&list, names.join("\n") + "\n").map_err(Errand::file(&list))?;
        let initramfs = self.archive(machine, &list)?;
        let words = format!("WORK=script LIMIT={TEST_LIMIT}");
        let boot =
            Boot { kernel: &self.kernel, initramfs: &initramfs, memory: MEMORY, cpus: self.cpus, words };
        let Some(mut command) = machine.boot(&self.carriers, &boot) else {
            return Err(Errand::Argument("a boot of this Linux".into()));
        };
        let mut session = Session::start(&mut command)?;
        let mut done = BTreeMap::new();
        let mut under_way = None;
        let ending = session.listen(BOOT_LIMIT, |line| {
            if line.contains(LAST_SIGN) {
                return Heard::Last;
            }
            let Some((_, said)) = line.split_once("conformance: ") else { return Heard::Nothing };
            match said.split_once(' ') {
                Some(("begin", name)) => under_way = Some(name.to_owned()),
                Some((name, status)) => {
                    let result = status.parse().map_or_else(|_| status.to_owned(), posix::meaning);
                    done.insert(name.to_owned(), result);
                    under_way = None;
                }
                None => {}
            }
            Heard::Step(Duration::from_secs(TEST_LIMIT) + GRACE)
        });
        if let Some(name) = under_way {
            eprintln!("xtask: {}, {name}: {ending:?}: {}", machine.key(), session.last_lines());
            done.insert(name, MACHINE_STOPPED.to_owned());
        } else if !matches!(ending, Ending::Done) {
            eprintln!("xtask: {}: {ending:?}: {}", machine.key(), session.last_lines());
        }
        Ok(done)
    }

    fn archive(&self, machine: Machine, list: &Path) -> Result<PathBuf, Errand> {
        let mut contents = Contents::new();
        contents.add_root(&self.root)?;
        contents.add(&self.tests, "/tests");
        contents.add(list, "/tests/list");
        contents.add(inputs::root().join("bench/conformance.sh"), "/work.sh");
        contents.archive(&self.carriers.lguest, &format!("conformance-{}", machine.key()))
    }
}

/// The areas with their counts, then every test that was not simply the same.
fn report(names: &[String], one: &Said, other: &Said) -> String {
    let heads = ["area", "tests", "passed on both", "same", "unsteady", "different"];
    let mut lines = vec![heads.map(str::to_owned).to_vec()];
    let mut details = String::new();
    let mut totals = [0; 5];
    for (area, _) in posix::AREAS {
        let mut counts = [0; 5];
        for name in names.iter().filter(|name| posix::area(name) == Some(area)) {
            let [ours, theirs] = [one, other].map(|said| said.get(name).cloned().unwrap_or_default());
            let same = ours == theirs && ours.len() == 1;
            let verdict = if same {
                2
            } else if agree(one, other, name) {
                3
            } else {
                4
            };
            counts[0] += 1;
            counts[1] += usize::from(same && ours[0] == "passed");
            counts[verdict] += 1;
            if !same {
                let word = if verdict == 3 { "unsteady" } else { "different" };
                details +=
                    &format!("{word} {name}: lguest {}; QEMU {}\n", ours.join(", "), theirs.join(", "));
            }
        }
        if counts[0] > 0 {
            lines.push([area.to_owned()].into_iter().chain(counts.map(|count| count.to_string())).collect());
            totals.iter_mut().zip(counts).for_each(|(total, count)| *total += count);
        }
    }
    lines.push(["all".to_owned()].into_iter().chain(totals.map(|count| count.to_string())).collect());
    columns(&lines) + &details
}

#[test]
fn a_test_that_once_said_the_same_is_unsteady_and_not_different() {
    let said = |words: &[&str]| {
        BTreeMap::from([("fork/1-1".to_owned(), words.iter().map(|word| (*word).to_owned()).collect())])
    };
    let names = ["fork/1-1".to_owned()];
    let (one, other) = (said(&["failed", "passed"]), said(&["passed", "passed"]));
    assert!(agree(&one, &other, "fork/1-1"));
    assert!(report(&names, &one, &other).contains("unsteady fork/1-1"));
    let one = said(&["failed", "failed"]);
    assert!(!agree(&one, &other, "fork/1-1"));
    assert!(report(&names, &one, &other).contains("different fork/1-1: lguest failed, failed; QEMU"));
}
