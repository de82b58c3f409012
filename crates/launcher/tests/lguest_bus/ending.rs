//! How a session of the default Guest goes and ends, on every engine that runs here.

use crate::guest::{Guest, TRANSLATOR, engines, folder};

#[test]
fn a_session_reaches_its_prompt_obeys_and_powers_off_with_status_0() {
    let folder = folder();
    for engine in engines("a_session_reaches_its_prompt_obeys_and_powers_off_with_status_0") {
        let mut guest = Guest::start(engine, &folder, &[]);
        assert!(guest.ask("help").contains("poweroff"), "{engine}");
        let devices = guest.ask("devices");
        assert!(devices.contains("bus lguest") && devices.contains("driven by lguestcons"), "{devices}");
        assert_eq!(guest.ask("echo one two"), "one two");
        // The same pipe on two transports: the descriptor page, and the device tree.
        let words = "34 bytes: The driver need not know the bus.";
        assert_eq!(guest.ask("pipe"), format!("0: {words}\npipe@1: {words}"));
        assert!(guest.ask("uptime").starts_with("up "), "{engine}");
        assert_eq!(guest.ask("dance"), "dance: no such command; try help");
        guest.power_off();
    }
}

#[test]
fn a_panic_is_a_death_with_its_text_and_status_126() {
    let folder = folder();
    for engine in engines("a_panic_is_a_death_with_its_text_and_status_126") {
        let mut guest = Guest::start(engine, &folder, &[]);
        guest.type_line("panic the roof is on fire");
        let ended = guest.end();
        assert_eq!(ended.status, Some(126), "{engine}: {ended:?}");
        let last = ended.messages.lines().last().unwrap_or_default();
        assert!(last.contains("the Guest died: ") && last.ends_with("the roof is on fire"), "{ended:?}");
    }
}

#[test]
fn the_end_of_input_lets_the_last_command_end_and_turns_the_machine_off() {
    let folder = folder();
    for engine in engines("the_end_of_input_lets_the_last_command_end_and_turns_the_machine_off") {
        let mut guest = Guest::start(engine, &folder, &[]);
        guest.type_line("pipe");
        let ended = guest.hang_up();
        assert_eq!(ended.status, Some(0), "{engine}: {ended:?}");
        assert!(ended.output.contains("The driver need not know the bus."), "{ended:?}");
    }
}

#[test]
fn a_signal_ends_a_session_with_the_signals_status() {
    let folder = folder();
    let guest = Guest::start(TRANSLATOR, &folder, &[]);
    guest.signal("TERM");
    let ended = guest.end();
    assert_eq!(ended.status, Some(128 + 15), "{ended:?}");
}

#[test]
fn the_host_reads_every_status_from_the_page_when_no_driver_has_the_console() {
    let folder = folder();
    let disk = folder.path().join("disk");
    std::fs::write(&disk, [0; 512]).unwrap();
    let options = ["--disk", disk.to_str().unwrap(), "--cmdline", "noconsole", "--log-level", "info"];
    for engine in engines("the_host_reads_every_status_from_the_page_when_no_driver_has_the_console") {
        let mut guest = Guest::start(engine, &folder, &options);
        // Nobody hears what is typed, so the machine is ended from outside.
        guest.type_line("help");
        guest.signal("TERM");
        let ended = guest.end();
        // Disk and pipe have drivers; the console got no further than ACKNOWLEDGE.
        assert!(ended.messages.contains("statuses at the end: 0:7 1:7 2:1"), "{engine}: {ended:?}");
    }
}
