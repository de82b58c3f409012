//! The drivers of 2007 on virtio: pipe, network and console of the default Guest on buses nobody had then.

use crate::guest::{Guest, TRANSLATOR, engines, folder};

const VIRTIO: [&str; 2] = ["pci", "mmio"];
/// Those, and the page of descriptors.
const ALL: [&str; 3] = ["pci", "mmio", "lguest"];

#[test]
fn the_pipe_reads_the_mails_text_by_one_driver_on_every_bus() {
    let folder = folder();
    let engines = engines("the_pipe_reads_the_mails_text_by_one_driver_on_every_bus");
    let buses = ["lguest-dma", "pci", "mmio"];
    for (engine, bus) in engines.iter().flat_map(|engine| buses.map(|bus| (*engine, bus))) {
        let mut guest = Guest::start(engine, &folder, &["--bus", bus]);
        let devices = guest.ask("devices");
        assert!(devices.contains("driven by virt_pipe"), "{devices}");
        let said = guest.ask("pipe");
        assert!(said.contains(": 34 bytes: The driver need not know the bus."), "{engine}, {bus}: {said}");
        assert!(guest.ask("pipe").contains(": 0 bytes"), "it is said once");
        assert_eq!(guest.ask("pipe hello"), "5 bytes taken", "{engine}, {bus}");
        guest.power_off();
    }
}

#[test]
fn machines_on_different_buses_ping_each_other_on_one_link() {
    let engines = engines("machines_on_different_buses_ping_each_other_on_one_link");
    for (engine, bus) in engines.iter().flat_map(|engine| ALL.map(|bus| (*engine, bus))) {
        let folder = folder();
        let options = ["--net", "link=mixed", "--bus", bus];
        let mut one = Guest::start(engine, &folder, &options);
        let mut two = Guest::start(TRANSLATOR, &folder, &options);
        let (mut three, third) = Guest::on_link(&folder, "mixed");
        let address = |guest: &mut Guest| {
            let said = guest.ask("net address");
            said.split_whitespace().nth(1).unwrap_or_default().to_owned()
        };
        let (first, second) = (address(&mut one), address(&mut two));
        assert_ne!(first, second);
        for (guest, others) in [(&mut one, [&second, &third]), (&mut three, [&first, &second])] {
            for other in others {
                let said = guest.ask(&format!("net ping {other}"));
                assert!(said.contains(&format!("answer from {other}")), "{engine}, {bus}: {said}");
            }
        }
        // Closed and opened again, it hears as before.
        assert_eq!(two.ask("net close"), "");
        assert!(two.ask(&format!("net ping {first}")).ends_with("1 sent, 1 answered"));
        assert!(two.ask("net").contains("0 carrier errors"));
        [one, two, three].into_iter().for_each(Guest::power_off);
    }
}

#[test]
fn the_host_answers_a_ping_on_the_user_network() {
    for bus in ALL {
        let mut guest = Guest::start(TRANSLATOR, &folder(), &["--net", "user", "--bus", bus]);
        assert_eq!(guest.ask("net ip 10.0.2.15"), "");
        let said = guest.ask("net ping 10.0.2.2");
        assert!(said.starts_with("answer from "), "{bus}: {said}");
        guest.power_off();
    }
}

#[test]
fn the_default_guest_talks_by_virtios_console() {
    let engines = engines("the_default_guest_talks_by_virtios_console");
    for (engine, bus) in engines.iter().flat_map(|engine| VIRTIO.map(|bus| (*engine, bus))) {
        let mut guest = Guest::start(engine, &folder(), &["--console", "virtio", "--bus", bus]);
        assert!(guest.ask("devices").contains("driven by lguestcons"), "{engine}, {bus}");
        // More than one buffer of the driver's at a time, both ways.
        let long = "0123456789".repeat(20);
        assert_eq!(guest.ask(&format!("echo {long}")), long);
        assert!(guest.ask("help").len() > 256);
        guest.power_off();
    }
}

#[test]
fn the_page_of_descriptors_has_a_console_of_its_own() {
    for engine in engines("the_page_of_descriptors_has_a_console_of_its_own") {
        let mut guest = Guest::start(engine, &folder(), &["--bus", "lguest"]);
        assert!(guest.ask("devices").contains("driven by lguestcons"), "{engine}");
        let long = "0123456789".repeat(20);
        assert_eq!(guest.ask(&format!("echo {long}")), long);
        assert!(guest.ask("help").len() > 256);
        guest.power_off();
    }
}

#[test]
fn a_port_of_the_users_is_a_pipe() {
    let folder = folder();
    let path = folder.path().join("said");
    let port = format!("log=file:{}", path.display());
    let mut guest = Guest::start(TRANSLATOR, &folder, &["--bus", "pci", "--port", &port]);
    let devices = guest.ask("devices");
    assert_eq!(devices.matches("driven by virt_pipe").count(), 2, "{devices}");
    let pipes = guest.ask("pipe");
    assert!(pipes.contains(": 34 bytes: ") && pipes.contains(": 0 bytes:"), "{pipes}");
    guest.power_off();
    assert_eq!(std::fs::read(path).unwrap(), b"");
}
