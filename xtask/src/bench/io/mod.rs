//! `cargo xtask bench io`: disks, the user network, shared directories, the console and the start, beside the host itself,
//! QEMU's emulation and User-Mode Linux; and whether the figures that were asked for are met.
//!
//! One kernel and one initramfs for all (User-Mode Linux brings its own kernel), one file as everybody's disk, one tree. All
//! carriers keep the file in the host's page cache, and there the host's own figures are taken too: a Guest's O_DIRECT is
//! about the Guest's cache, and the host's disk would be measured by nobody. QEMU shares by 9p and has the network of
//! libslirp; User-Mode Linux shares by hostfs and has no network of this kind in Debian's build.

mod host;
mod kit;
mod rows;
mod starts;

use super::results::Results;
use super::verdicts::Verdict;
use crate::arguments::Arguments;
use crate::errand::Errand;
use crate::inputs;
use crate::machine::{Boot, Carriers, Machine};
use crate::session::{Ending, Heard, LAST_SIGN, Session};
use crate::table::columns;
use kit::Kit;
use rows::Group;
use std::net::TcpListener;
use std::process::Command;
use std::time::{Duration, Instant};

/// Seconds for each row that runs for a time.
const SPAN: u64 = 3;
/// Longest for a machine's boot and rows; the tree under emulation takes a minute on a quiet machine.
const LIMIT: Duration = Duration::from_secs(300);
/// RAM in MiB.
const MEMORY: u32 = 1024;

struct Bench {
    carriers: Carriers,
    kit: Kit,
    /// Where the errand's server listens.
    port: u16,
    groups: Vec<Group>,
}

/// Measures, interleaved, and prints medians and whether what was asked for is met.
pub fn run(mut arguments: Arguments) -> Result<(), Errand> {
    let rounds = arguments.value("--rounds")?.map_or(Ok(3), |word| Arguments::count(&word))?;
    let machines = arguments.value("--machines")?;
    let only = arguments.value("--only")?;
    arguments.end()?;
    let mut machines = match machines {
        Some(keys) => keys.split(',').map(Machine::named).collect::<Result<_, _>>()?,
        None => vec![Machine::Native, Machine::Lguest, Machine::Qemu, Machine::UserMode],
    };
    let groups = match only {
        Some(keys) => keys.split(',').map(group).collect::<Result<_, _>>()?,
        None => Group::ALL.to_vec(),
    };
    let lguest = inputs::lguest()?;
    let kit = Kit::gather(&lguest)?;
    let carriers = Carriers::gather(lguest, &mut machines);
    let bench = Bench { carriers, kit, port: host::serve()?, groups };
    let mut results = Results::default();
    for round in 1..=rounds {
        for machine in &machines {
            eprintln!("xtask: round {round} of {rounds}: {}", machine.key());
            bench.measure(*machine, &mut results);
        }
    }
    print!("{}", bench.report(&machines, &results));
    Ok(())
}

fn group(key: &str) -> Result<Group, Errand> {
    let found = Group::ALL.into_iter().find(|group| group.key() == key);
    found.ok_or_else(|| Errand::Argument(format!("--only {key}, which is no group of rows")))
}

/// Whether a machine has what this group measures.
fn offers(machine: Machine, group: Group) -> bool {
    match group {
        Group::Net => machine != Machine::UserMode,
        // A process' pipe is no console.
        Group::Console | Group::Command => machine != Machine::Native,
        Group::Devices => machine == Machine::Lguest,
        Group::Block | Group::Tree => true,
    }
}

impl Bench {
    /// All rows of one machine, once. Each group has a machine of its own: one that hangs costs its group.
    fn measure(&self, machine: Machine, results: &mut Results) {
        for group in self.groups.iter().copied().filter(|group| offers(machine, *group)) {
            let found = match group {
                Group::Command => starts::commands(machine, &self.carriers, &self.kit),
                Group::Devices => starts::devices(&self.carriers.lguest, &self.kit),
                inside => self.inside(machine, inside),
            };
            match found {
                Ok(figures) => {
                    figures.into_iter().for_each(|(row, value)| results.figure(machine, row, value))
                }
                Err(error) => {
                    group.rows().iter().for_each(|row| results.failed(machine, row, error.to_string()));
                }
            }
        }
    }

    /// One run of a machine with one group.
    fn inside(&self, machine: Machine, group: Group) -> Result<Vec<(&'static str, f64)>, Errand> {
        let failed =
            |why: String| Errand::Failed { what: format!("{} on {}", group.key(), machine.key()), why };
        let asked = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let asked = asked.map_err(|error| failed(error.to_string()))?.port();
        let mut session = Session::start(&mut self.command(machine, group, asked))?;
        let (mut found, mut console) = (Vec::new(), None);
        let ending = session.listen(LIMIT, |line| {
            if let Some((row, value)) = figure(line) {
                found.push((row, value));
            } else if line.contains("bench: serving") {
                // A connection that breaks is a figure that is missing.
                found.extend(host::ask(asked, SPAN).ok().map(|time| (rows::ASKED_TURNS, time)));
            } else if line.contains("bench: console begins") {
                console = Some(Instant::now());
            } else if let (true, Some(start)) = (line.contains("bench: console ends"), console) {
                found.push((rows::CONSOLE, kit::CONSOLE as f64 / 1e3 / start.elapsed().as_secs_f64()));
            }
            if line.contains(LAST_SIGN) { Heard::Last } else { Heard::Nothing }
        });
        let ended = match ending {
            Ending::Done => true,
            Ending::Early(Some(status)) => machine == Machine::Native && status.success(),
            _ => false,
        };
        let whole = group.rows().iter().all(|row| found.iter().any(|(name, _)| name == row));
        if ended && whole { Ok(found) } else { Err(failed(session.last_lines())) }
    }

    /// The machine with what the group needs of devices, and nothing else.
    fn command(&self, machine: Machine, group: Group, asked: u16) -> Command {
        let tree = self.kit.tree.display();
        let (disk, share) = match machine {
            Machine::UserMode => ("/dev/ubda", tree.to_string()),
            Machine::Lguest => ("/dev/vda", "virtiofs".to_owned()),
            _ => ("/dev/vda", "9p".to_owned()),
        };
        let share = if group == Group::Tree { format!(" SHARE={share}") } else { String::new() };
        let words = format!(
            "WORK=io ROWS={} DISK={disk} SIZE={}M SPAN={SPAN} PORT={} ASK={asked}{share}",
            group.key(),
            kit::DISK_MIB,
            self.port
        );
        let boot = Boot {
            kernel: &self.kit.kernel,
            initramfs: &self.kit.initramfs,
            memory: MEMORY,
            cpus: 1,
            words: words.clone(),
        };
        let Some(mut command) = machine.boot(&self.carriers, &boot) else { return self.kit.native(&words) };
        let file = self.kit.disk.display();
        let word = match (machine, group) {
            (Machine::Lguest, Group::Block) => format!("--net none --disk {file},format=raw"),
            (Machine::Lguest, Group::Net) => format!("--net user,host=yes,forward=tcp:{asked}:{asked}"),
            (Machine::Lguest, Group::Tree) => format!("--net none --share {tree}:tree"),
            (Machine::Lguest, _) => "--net none".to_owned(),
            (Machine::UserMode, Group::Block) => format!("ubd0={file}"),
            (Machine::UserMode, _) => String::new(),
            (_, Group::Block) => format!("-drive file={file},format=raw,if=virtio,cache=writeback"),
            (_, Group::Net) => format!(
                "-netdev user,id=n,hostfwd=tcp:127.0.0.1:{asked}-:{asked} -device virtio-net-pci,netdev=n,romfile="
            ),
            (_, Group::Tree) => format!("-virtfs local,path={tree},mount_tag=tree,security_model=none"),
            (_, _) => String::new(),
        };
        command.args(word.split(' ').filter(|word| !word.is_empty()));
        command
    }

    fn report(&self, machines: &[Machine], results: &Results) -> String {
        let mut lines = vec![vec!["by host and machine".to_owned()]];
        lines[0].extend(machines.iter().map(|machine| machine.title(&self.carriers)));
        for row in self.groups.iter().flat_map(|group| group.rows()) {
            let mut line = vec![(*row).to_owned()];
            line.extend(machines.iter().map(|machine| results.cell(*machine, row)));
            lines.push(line);
        }
        let mut text = columns(&lines);
        let asked = |verdict: &Verdict| {
            self.groups.iter().any(|group| group.rows().contains(&verdict.asked.as_str()))
        };
        let mut lines = vec![["asked", "bound", "measured", "verdict"].map(str::to_owned).to_vec()];
        let verdicts = rows::verdicts(|machine, row| results.median(machine, row));
        lines.extend(verdicts.iter().filter(|verdict| asked(verdict)).map(Verdict::line));
        text += &format!("\n{}", columns(&lines));
        text + &super::absences(results)
    }
}

/// The row in this line of a console, if it is one: `name figure`, and a check behind a time.
fn figure(line: &str) -> Option<(&'static str, f64)> {
    let mut words = line.split_whitespace();
    let (row, value) = (rows::named(words.next()?)?, words.next()?.parse().ok()?);
    (words.count() <= 1).then_some((row, value))
}

#[test]
fn only_lines_of_the_script_are_rows() {
    assert_eq!(figure("tar_ms 10.5 d92d"), Some(("tar_ms", 10.5)));
    assert_eq!(figure("net_out_mbit 5900.1"), Some(("net_out_mbit", 5900.1)));
    assert_eq!(figure("tar_ms 10.5 d92d more words"), None);
    assert_eq!(figure("[    0.5] some words"), None);
}

#[test]
fn groups_are_named_and_a_machine_without_one_is_not_asked() {
    assert_eq!(group("net").ok(), Some(Group::Net));
    assert!(group("nest").is_err());
    assert!(!offers(Machine::UserMode, Group::Net));
    assert!(offers(Machine::Lguest, Group::Devices));
}
