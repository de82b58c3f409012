//! The network: the loopback interface, and for each card an address, a route and a resolver.
//!
//! lguest's user network has one plan of addresses and is known by its card's own address (the Launcher's `networks`), so
//! nobody has to be asked and the program finds it ready. So it is where the plan says a card's address. On any other network
//! a DHCP server is asked while the program begins, and for as long as the machine runs (`lease`).

mod netlink;
mod dhcp;
mod lease;

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use lguest_init::plan::{FixedAddress, USER_CARD};
use netlink::{Kernel, Network};

/// Where programs look for resolvers (resolv.conf(5)).
const RESOLVERS: &str = "/etc/resolv.conf";
/// What lies over it where the root's own must not change: in the one place that every root has and that is gone at the end.
const OVER_RESOLVERS: &str = "/dev/lguest-resolv.conf";
/// The user network's plan of addresses.
const USER: Network =
    Network { address: Ipv4Addr::new(10, 0, 2, 15), prefix: 24, router: Some(Ipv4Addr::new(10, 0, 2, 2)) };
const USER_RESOLVER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);
/// The ARP type of Ethernet (Linux' if_arp.h), which is also that of every virtio card.
const ETHERNET: &str = "1";

/// A network card.
#[derive(Debug, Clone)]
struct Card {
    name: String,
    index: u32,
    hardware: [u8; 6],
}

/// Brings up what there is, where `fixed` says so with these addresses. `kept`: the root is the user's own and stays, so that
/// its files are not ours to change.
///
/// A Guest without a network is of use, so what fails is told and no more.
pub fn bring_up(fixed: &[FixedAddress], kept: bool) {
    let mut kernel = match Kernel::open() {
        Ok(kernel) => kernel,
        Err(error) => return tell("the network", &error),
    };
    if let Some(index) = number("lo", "ifindex") {
        // The kernel gives it its address.
        kernel.switch_on(index).unwrap_or_else(|error| tell("the loopback interface", &error));
    }
    let mut user = false;
    for (number, card) in cards().into_iter().enumerate() {
        let is_user = card.hardware[..3] == USER_CARD;
        let network = match fixed.iter().find(|one| one.card == number) {
            Some(FixedAddress { address, prefix, router, resolver, .. }) => {
                Some((Network { address: *address, prefix: *prefix, router: *router }, *resolver))
            }
            None => (is_user && !user).then_some((USER, Some(USER_RESOLVER))),
        };
        let done = match &network {
            Some((network, resolver)) => join(&mut kernel, &card, network, *resolver, kept),
            None => kernel.switch_on(card.index),
        };
        user |= is_user && done.is_ok();
        match done {
            Err(error) => tell(&card.name, &error),
            Ok(()) if is_user || network.is_some() => {}
            // A program that is about to start need not wait for a server that may not be there.
            Ok(()) => drop(std::thread::spawn(move || lease::keep(&card, kept))),
        }
    }
}

/// A card that has its address when it is switched on tells its neighbours of it (arp_notify), so that connections to
/// forwarded ports come in although the Guest has said nothing yet.
fn join(
    kernel: &mut Kernel,
    card: &Card,
    network: &Network,
    resolver: Option<Ipv4Addr>,
    kept: bool,
) -> std::io::Result<()> {
    kernel.address(card.index, network, None)?;
    let _ = fs::write(format!("/proc/sys/net/ipv4/conf/{}/arp_notify", card.name), "1");
    kernel.switch_on(card.index)?;
    kernel.route(card.index, network)?;
    name_resolvers(resolver.as_slice(), kept);
    Ok(())
}

fn tell(what: &str, error: &std::io::Error) {
    eprintln!("lguest-init: {what}: {error}");
}

/// A fact of an interface (sysfs-class-net).
fn fact(name: &str, fact: &str) -> Option<String> {
    fs::read_to_string(format!("/sys/class/net/{name}/{fact}")).ok().map(|text| text.trim().to_owned())
}

fn number(name: &str, which: &str) -> Option<u32> {
    fact(name, which)?.parse().ok()
}

/// The Ethernet cards, in the order in which the kernel found them.
fn cards() -> Vec<Card> {
    let names = fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    let card = |name: String| {
        let ethernet = fact(&name, "type").is_some_and(|kind| kind == ETHERNET);
        let hardware = hardware(&fact(&name, "address")?)?;
        ethernet.then_some(Card { index: number(&name, "ifindex")?, hardware, name })
    };
    let mut cards: Vec<Card> = names.filter_map(|name| card(name.file_name().into_string().ok()?)).collect();
    cards.sort_by_key(|card| card.index);
    cards
}

/// Six bytes in hexadecimal between colons.
fn hardware(text: &str) -> Option<[u8; 6]> {
    let bytes: Vec<u8> =
        text.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<_, _>>().ok()?;
    bytes.try_into().ok()
}

/// Tells programs whom to ask for names. Where the root's own files stay as they are, ours is mounted over; a root that has
/// no such file gets an empty one to mount at.
fn name_resolvers(servers: &[Ipv4Addr], kept: bool) {
    if servers.is_empty() || !Path::new("/etc").is_dir() {
        return;
    }
    let text: String = servers.iter().map(|server| format!("nameserver {server}\n")).collect();
    let done = if kept { lay_over(&text) } else { replace(&text) };
    done.unwrap_or_else(|error| tell(RESOLVERS, &error));
}

/// In a root that is thrown away. Debian's may be a link to where nobody of ours writes.
fn replace(text: &str) -> std::io::Result<()> {
    if fs::symlink_metadata(RESOLVERS).is_ok_and(|facts| facts.is_symlink()) {
        fs::remove_file(RESOLVERS)?;
    }
    fs::write(RESOLVERS, text)
}

fn lay_over(text: &str) -> std::io::Result<()> {
    let first = !Path::new(OVER_RESOLVERS).exists();
    fs::write(OVER_RESOLVERS, text)?;
    if !first {
        return Ok(());
    }
    // A mount follows links, as whoever reads the file does; where a link leads must be there.
    if fs::metadata(RESOLVERS).is_err() {
        let place = fs::read_link(RESOLVERS).map_or(RESOLVERS.into(), |link| Path::new("/etc").join(link));
        place.parent().map_or(Ok(()), fs::create_dir_all)?;
        fs::write(place, "")?;
    }
    rustix::mount::mount_bind(OVER_RESOLVERS, RESOLVERS).map_err(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cards_own_address_is_six_bytes() {
        assert_eq!(hardware("02:6c:67:00:00:0a"), Some([2, 0x6c, 0x67, 0, 0, 10]));
        for text in ["", "02:6c:67:00:00", "02:6c:67:00:00:0a:0b", "02:6c:67:00:00:xx"] {
            assert_eq!(hardware(text), None, "{text}");
        }
    }
}
