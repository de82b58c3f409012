//! Two machines on a link, and a link that is in trouble.

use crate::guest::{Guest, TRANSLATOR, engines, folder};
use std::path::Path;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// An empty broker lingers for a second; a busy machine may need a few more to let it go.
const LINGER: Duration = Duration::from_secs(10);

/// The broker processes of the links in this folder.
fn brokers(folder: &TempDir) -> Vec<String> {
    let wanted = format!("XDG_RUNTIME_DIR={}", folder.path().display());
    let holds = |process: &Path, file: &str, text: &str| {
        let bytes = std::fs::read(process.join(file)).unwrap_or_default();
        bytes.split(|byte| *byte == 0).any(|word| word == text.as_bytes())
    };
    std::fs::read_dir("/proc")
        .expect("there are processes")
        .flatten()
        .map(|entry| entry.path())
        .filter(|process| holds(process, "cmdline", "link-broker") && holds(process, "environ", &wanted))
        .map(|process| process.file_name().expect("a number").to_string_lossy().into_owned())
        .collect()
}

fn await_no_broker(folder: &TempDir) {
    let end = Instant::now() + LINGER;
    while !brokers(folder).is_empty() {
        assert!(Instant::now() < end, "a broker stays behind: {:?}", brokers(folder));
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn kill(process: &str, signal: &str) {
    assert!(std::process::Command::new("kill").args([signal, process]).status().unwrap().success());
}

/// Processes that a test has stopped: they end with it, however it ends.
struct Stuck(Vec<String>);

impl Drop for Stuck {
    fn drop(&mut self) {
        self.0.iter().for_each(|process| kill(process, "-KILL"));
    }
}

#[test]
fn two_machines_ping_by_both_kinds_of_address_and_leave_no_broker() {
    let engines = engines("two_machines_ping_by_both_kinds_of_address_and_leave_no_broker");
    // Each engine with itself and with the other: a link does not know what executes its machines.
    for (ones, twos) in engines.iter().flat_map(|one| engines.iter().map(move |two| (one, two))) {
        ping_and_leave(ones, twos);
    }
}

fn ping_and_leave(ones: &str, twos: &str) {
    let folder = folder();
    let (mut one, first) = Guest::on_link_by(ones, &folder, "pair");
    let (mut two, second) = Guest::on_link_by(twos, &folder, "pair");
    assert_ne!(first, second);
    assert_eq!(brokers(&folder).len(), 1);
    let said = one.ask(&format!("net ping {second}"));
    assert!(
        said.contains(&format!("answer from {second}")) && said.ends_with("1 sent, 1 answered"),
        "{said}"
    );
    assert!(two.ask(&format!("net ping {first}")).ends_with("1 sent, 1 answered"));
    assert_eq!(one.ask("net ip 10.0.0.1"), "");
    assert_eq!(two.ask("net ip 10.0.0.2"), "");
    assert!(two.ask("net ping 10.0.0.1").starts_with(&format!("answer from {first}")));
    let counts = one.ask("net");
    assert!(counts.contains("0 carrier errors") && counts.contains("0 dropped"), "{counts}");
    one.power_off();
    two.power_off();
    await_no_broker(&folder);
}

#[test]
fn machines_on_links_of_different_names_do_not_meet() {
    let folder = folder();
    let (mut one, _) = Guest::on_link(&folder, "east");
    let (_two, _) = Guest::on_link(&folder, "west");
    assert_eq!(one.ask("net ping all"), "0 sent, 0 answered");
    assert_eq!(brokers(&folder).len(), 2);
}

#[test]
fn killing_the_machine_that_started_the_link_leaves_the_others_working() {
    engines("killing_the_machine_that_started_the_link_leaves_the_others_working")
        .into_iter()
        .for_each(kill_the_first);
}

fn kill_the_first(engine: &str) {
    let folder = folder();
    let (first, gone) = Guest::on_link_by(engine, &folder, "office");
    let (mut two, _) = Guest::on_link_by(engine, &folder, "office");
    let (_three, third) = Guest::on_link_by(engine, &folder, "office");
    first.signal("KILL");
    assert_eq!(first.end().status, None);
    assert!(two.ask(&format!("net ping {third}")).ends_with("1 sent, 1 answered"));
    assert!(two.ask(&format!("net ping {gone}")).ends_with("0 answered"));
    assert!(two.ask("net ping all").ends_with("1 sent, 1 answered"));
    // Its place is free again, and whoever takes it is a newcomer like any other.
    let (mut heir, _) = Guest::on_link_by(engine, &folder, "office");
    assert!(heir.ask("net address").contains("slot 0\n"));
    assert!(heir.ask("net ping all").ends_with("2 sent, 2 answered"));
}

#[test]
fn a_machine_that_hangs_does_not_hang_the_rest_and_comes_back() {
    let folder = folder();
    let (mut one, _) = Guest::on_link(&folder, "hung");
    let (_two, second) = Guest::on_link(&folder, "hung");
    let (mut three, third) = Guest::on_link(&folder, "hung");
    three.signal("STOP");
    // More than it has lists for: the rest are carrier errors of the sender, and nobody waits.
    let begun = Instant::now();
    for _ in 0..20 {
        one.ask(&format!("net send {third} hello"));
        assert!(one.ask(&format!("net ping {second}")).ends_with("1 sent, 1 answered"));
    }
    assert!(begun.elapsed() < Duration::from_secs(20), "it took {:?}", begun.elapsed());
    let counts = one.ask("net");
    assert!(!counts.contains(" 0 carrier errors"), "{counts}");
    three.signal("CONT");
    assert_eq!(three.ask("echo awake"), "awake");
    assert!(one.ask(&format!("net ping {third}")).ends_with("1 sent, 1 answered"));
}

#[test]
fn a_broker_that_is_killed_costs_the_link_and_not_the_machines() {
    let folder = folder();
    let (mut one, _) = Guest::on_link(&folder, "lost");
    let (mut two, second) = Guest::on_link(&folder, "lost");
    assert_eq!(brokers(&folder).len(), 1);
    brokers(&folder).iter().for_each(|broker| kill(broker, "-KILL"));
    assert!(one.ask(&format!("net ping {second}")).ends_with("0 answered"));
    assert_eq!(one.ask("echo alive"), "alive");
    assert_eq!(two.ask("echo alive"), "alive");
    one.power_off();
    two.power_off();
}

#[test]
fn a_broker_that_hangs_costs_its_machines_seconds_once() {
    let folder = folder();
    let (mut one, _) = Guest::on_link(&folder, "stuck");
    let (_two, second) = Guest::on_link(&folder, "stuck");
    let stuck = Stuck(brokers(&folder));
    assert_eq!(stuck.0.len(), 1);
    stuck.0.iter().for_each(|broker| kill(broker, "-STOP"));
    let begun = Instant::now();
    for _ in 0..3 {
        assert!(one.ask(&format!("net ping {second}")).ends_with("0 answered"));
    }
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(20), "it took {took:?}");
    one.power_off();
}

#[test]
fn machines_with_two_networks_each_have_four_addresses_and_meet_on_both_links() {
    let folder = folder();
    let addresses = |guest: &mut Guest| {
        let said = guest.ask("net address");
        let lines = said.lines().filter_map(|line| line.strip_prefix("address "));
        lines.filter_map(|line| line.split(' ').next()).map(str::to_owned).collect::<Vec<_>>()
    };
    // In the other order, so that each is the first on one link and the second on the other.
    let mut one = Guest::start(TRANSLATOR, &folder, &["--net", "link=red", "--net", "link=blue"]);
    let mut two = Guest::start(TRANSLATOR, &folder, &["--net", "link=blue", "--net", "link=red"]);
    let (ones, twos) = (addresses(&mut one), addresses(&mut two));
    let mut all = [ones.clone(), twos.clone()].concat();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 4, "{ones:?} {twos:?}");
    // The shell speaks on its first network, and each one's first is the other's second.
    assert!(one.ask(&format!("net ping {}", twos[1])).ends_with("1 sent, 1 answered"));
    assert!(two.ask(&format!("net ping {}", ones[1])).ends_with("1 sent, 1 answered"));
    one.power_off();
    two.power_off();
}
