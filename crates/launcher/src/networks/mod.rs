//! `--net`: which networks a machine is on, and the virtio interfaces that carry them.
//!
//! ```text
//!   VirtioNet ── Port ══ Berth ── thread ─┬─ user    the stack of `user_network`
//!                                         ├─ tap     an interface of the host's
//!                                         └─ member  a link between machines of this user
//! ```
//! The interface gives frames to its port and takes them from it, and waits for nobody; the thread does the same at the
//! other end.

mod fixed;
mod tap;
mod member;

use lguest_abi::net::{LOCAL, MULTICAST};
use lguest_devices::virtio::net::VirtioNet;
use lguest_init::plan::{FixedAddress, USER_CARD};

use crate::attachments::Attachment;
use crate::board::tap::{self as board_tap, Tap};
use crate::board::{LinkPlace, Plug};
use crate::request::Mistake;
use crate::user_network::options::Options;
use crate::user_network::service;

/// Reads one `--net`; none for `none`.
///
/// # Errors
/// One sentence for what cannot work.
pub fn read(text: &str) -> Result<Option<Attachment>, Mistake> {
    let mut words = text.split(',');
    let first = words.next().unwrap_or_default();
    let rest: Vec<&str> = words.collect();
    if first == "user" {
        return Options::read(text, &rest).map(|options| Some(Attachment::User(options)));
    }
    if let Some(("tap" | "link", _)) = first.split_once('=') {
        fixed::read(text, &rest, 0)?;
    }
    match first.split_once('=') {
        None if text == "none" => Ok(None),
        Some(("tap", name)) if board_tap::is_name(name) => open_tap(text, name).map(Some),
        Some(("tap", _)) => Err(Mistake(format!(
            "--net {text}: a tap's name is 1 to 15 letters, digits, '-', '_' or '.', as in tap=tap0"
        ))),
        Some(("link", name)) if link_name(name) => Ok(Some(Attachment::Link(name.to_owned()))),
        Some(("link", _)) => Err(Mistake(format!(
            "--net {text}: a link's name is 1 to 32 letters, digits, '-' or '_', as in link=office"
        ))),
        _ => Err(Mistake(format!("--net {text}: is no network; give user, link=NAME, tap=NAME or none"))),
    }
}

/// The addresses that these `--net` say, each for its card.
///
/// # Errors
/// One sentence for an address that a card cannot have.
pub fn addresses(nets: &[String]) -> Result<Vec<FixedAddress>, Mistake> {
    let mut found = Vec::new();
    for (card, text) in nets.iter().filter(|text| *text != "none").enumerate() {
        let mut words = text.split(',');
        if let Some(("tap" | "link", _)) = words.next().and_then(|first| first.split_once('=')) {
            found.extend(fixed::read(text, &words.collect::<Vec<_>>(), card)?);
        }
    }
    Ok(found)
}

/// Takes hold of a tap, or says in one sentence who may.
fn open_tap(text: &str, name: &str) -> Result<Attachment, Mistake> {
    Tap::open(name).map(Attachment::Tap).map_err(|cause| {
        let hint = match cause.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
            Some(rustix::io::Errno::PERM | rustix::io::Errno::ACCESS) => {
                format!(
                    "making one needs root: `ip tuntap add dev {name} mode tap user $USER` makes it yours for good"
                )
            }
            Some(rustix::io::Errno::BUSY) => "another machine uses it".to_owned(),
            Some(rustix::io::Errno::INVAL) => "an interface of that name is no tap; give another name".to_owned(),
            _ => "taps need /dev/net/tun; link=NAME needs nothing".to_owned(),
        };
        Mistake(format!("--net {text}: cannot be opened ({cause}); {hint}"))
    })
}

fn link_name(name: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    (1..=32).contains(&name.len()) && name.chars().all(good)
}

/// An interface of the `number`th device on a network of its own, where nobody else has an address.
///
/// # Errors
/// When the host refuses a descriptor or a thread.
pub fn user(number: usize, options: Options) -> Result<Plug, Mistake> {
    let refused =
        |cause: std::io::Error| Mistake(format!("--net user: the host refuses to serve it: {cause}"));
    let (port, listener) = service::start(options).map_err(refused)?;
    // By its beginning the first process knows which network it is; the network has no other machine.
    let [first, second, third] = USER_CARD;
    let address = [first, second, third, 0, 0, number as u8 + 1];
    Ok(Plug::woken(VirtioNet::new(port, address), listener))
}

/// An interface on a tap of the host's.
///
/// # Errors
/// When the host refuses a descriptor, a thread or random numbers.
pub fn tap(tap: Tap) -> Result<Plug, Mistake> {
    let refused =
        |cause: std::io::Error| Mistake(format!("--net tap: the host refuses to serve it: {cause}"));
    let (port, listener) = tap::start(tap.into_file()).map_err(refused)?;
    // A tap may be bridged to any network, so the address is drawn: locally administered, for one machine.
    let mut address = [0; 6];
    rustix::rand::getrandom(&mut address, rustix::rand::GetRandomFlags::empty())
        .map_err(|error| refused(error.into()))?;
    address[0] = address[0] & !MULTICAST | LOCAL;
    Ok(Plug::woken(VirtioNet::new(port, address), listener))
}

/// An interface of the `number`th device on a link between machines.
///
/// # Errors
/// When the link cannot be joined.
pub fn link(number: usize, name: &str, place: &LinkPlace) -> Result<Plug, Mistake> {
    let refused = |cause: member::MemberError| Mistake(format!("--net link={name}: {cause}"));
    let (port, address, listener) = member::start(name, number as u8, place).map_err(refused)?;
    Ok(Plug::woken(VirtioNet::new(port, address), listener))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_for_the_card_of_its_network() {
        let nets = ["user", "none", "link=a", "link=b,ip=10.9.0.2/24"].map(str::to_owned);
        let cards: Vec<_> = addresses(&nets).unwrap().iter().map(|one| (one.card, one.prefix)).collect();
        assert_eq!(cards, [(2, 24)]);
    }

    #[test]
    fn a_network_is_the_user_network_a_link_a_tap_or_none() {
        assert!(matches!(read("none"), Ok(None)));
        assert!(matches!(read("user"), Ok(Some(Attachment::User(_)))));
        for text in ["link=office", "link=office,ip=10.9.0.2/24"] {
            assert!(matches!(read(text), Ok(Some(Attachment::Link(name))) if name == "office"));
        }
        for text in [
            "link=",
            "link=a/b",
            "link=../x",
            "users",
            "user,x",
            "tap=",
            "tap=a/b",
            "tap=lo",
            "wifi",
            "none=1",
            "none,ip=10.9.0.2/24",
            "link=office,ip=10.9.0.2",
        ] {
            assert!(read(text).unwrap_err().0.starts_with(&format!("--net {text}: ")), "{text}");
        }
    }
}
