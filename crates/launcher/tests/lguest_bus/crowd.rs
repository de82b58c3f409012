//! Four machines on one link.

use crate::guest::{Guest, engines, folder};

#[test]
fn four_machines_hear_a_broadcast_and_only_a_promiscuous_one_overhears() {
    engines("four_machines_hear_a_broadcast_and_only_a_promiscuous_one_overhears")
        .into_iter()
        .for_each(overhear);
}

fn overhear(engine: &str) {
    let folder = folder();
    let (mut one, first) = Guest::on_link_by(engine, &folder, "crowd");
    let (mut two, second) = Guest::on_link_by(engine, &folder, "crowd");
    let (mut spy, _) = Guest::on_link_by(engine, &folder, "crowd");
    let (mut deaf, _) = Guest::on_link_by(engine, &folder, "crowd");
    assert!(one.ask("net ping all").ends_with("3 sent, 3 answered"));

    assert_eq!(one.ask("net send all good morning"), "3 took it");
    for guest in [&mut two, &mut spy, &mut deaf] {
        let counts = guest.ask("net");
        assert!(counts.contains("received 2 packets"), "{counts}");
    }

    assert_eq!(spy.ask("net promiscuous"), "");
    // They are at it for seconds; the secret is sent while they are.
    for guest in [&mut two, &mut spy, &mut deaf] {
        guest.begin("net listen 4");
    }
    one.ask(&format!("net send {second} a secret"));
    let line = format!("{first} > {second}");
    for guest in [&mut two, &mut spy] {
        let said = guest.answer();
        assert!(said.contains(&line) && said.contains("a secret"), "{said:?}");
    }
    assert_eq!(deaf.answer(), "");

    assert_eq!(spy.ask("net promiscuous off"), "");
    assert_eq!(one.ask(&format!("net send {second} another secret")), "1 took it");
    for guest in [one, two, spy, deaf] {
        guest.power_off();
    }
}
