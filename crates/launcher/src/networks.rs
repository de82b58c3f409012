//! `--net`: which networks a machine is on, and the virtio interfaces that carry them.
//!
//! Every network has a thread of its own behind a `Port` (`user_network::port`): the interface gives frames to the port and
//! takes them from it, and waits for nobody.

use lguest_devices::virtio::net::VirtioNet;

use crate::attachments::Attachment;
use crate::board::{Plug, tap};
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
    match text.split_once('=') {
        None if text == "none" => Ok(None),
        Some(("tap", name)) if tap::is_name(name) => open_tap(text, name).map(Some),
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

/// Takes hold of a tap, or says in one sentence who may.
fn open_tap(text: &str, name: &str) -> Result<Attachment, Mistake> {
    tap::Tap::open(name).map(Attachment::Tap).map_err(|cause| {
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
    // Locally administered (IEEE 802-2014, 8.4); the network has no other machine.
    let address = [0x02, b'l', b'g', 0, 0, number as u8 + 1];
    Ok(Plug::woken(VirtioNet::new(port, address), listener))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_the_user_network_a_link_a_tap_or_none() {
        assert!(matches!(read("none"), Ok(None)));
        assert!(matches!(read("user"), Ok(Some(Attachment::User(_)))));
        assert!(matches!(read("link=office"), Ok(Some(Attachment::Link(name))) if name == "office"));
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
        ] {
            assert!(read(text).unwrap_err().0.starts_with(&format!("--net {text}: ")), "{text}");
        }
    }
}
