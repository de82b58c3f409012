//! `,ip=ADDRESS/PREFIX[,gateway=ADDRESS][,dns=ADDRESS]` behind a link or a tap: what the Guest's card has there, where no DHCP
//! server is. The first process of lguest's own gives it to the card; no other Guest would.

use std::net::Ipv4Addr;

use lguest_init::plan::FixedAddress;

use crate::request::Mistake;

/// Reads these words of the option `text`, for the card of this number; none where they say no address.
///
/// # Errors
/// One sentence for a word that is none of these, and for an address that a card cannot have.
pub fn read(text: &str, words: &[&str], card: usize) -> Result<Option<FixedAddress>, Mistake> {
    let mistake = |what: String| Mistake(format!("--net {text}: {what}"));
    let (mut own, mut router, mut resolver) = (None, None, None);
    for word in words {
        match word.split_once('=') {
            Some(("ip", value)) if own.is_none() => {
                own = Some(network(value).ok_or_else(|| {
                    mistake(format!(
                        "ip={value} is no address of a card with its network's bits; give for instance ip=10.9.0.2/24"
                    ))
                })?);
            }
            Some((key @ ("gateway" | "dns"), value)) => {
                let place = if key == "dns" { &mut resolver } else { &mut router };
                let address = value.parse().ok().filter(usable);
                *place = Some(address.ok_or_else(|| {
                    mistake(format!("{key}={value} is no IPv4 address; give for instance {key}=10.9.0.1"))
                })?);
            }
            _ => {
                return Err(mistake(format!(
                    "{word} is no word of a link or a tap; give ip=, gateway= or dns="
                )));
            }
        }
    }
    match (own, router, resolver) {
        (None, None, None) => Ok(None),
        (None, ..) => Err(mistake("gateway= and dns= need an ip=ADDRESS/PREFIX beside them".to_owned())),
        (Some((address, prefix)), Some(router), _)
            if !same_network(address, router, prefix) || router == address =>
        {
            Err(mistake(format!(
                "gateway={router} is no neighbour of ip={address}/{prefix}; give one in its network"
            )))
        }
        (Some((address, prefix)), router, resolver) => {
            Ok(Some(FixedAddress { card, address, prefix, router, resolver }))
        }
    }
}

/// `ADDRESS/PREFIX`, for one machine of the network: neither its own name nor everybody's.
fn network(text: &str) -> Option<(Ipv4Addr, u8)> {
    let (address, prefix) = text.split_once('/')?;
    let (address, prefix): (Ipv4Addr, u8) = (address.parse().ok()?, prefix.parse().ok()?);
    let host = u32::MAX.checked_shr(prefix.into()).unwrap_or(0);
    let number = u32::from(address) & host;
    // Networks of two and of one have no such names (RFC 3021).
    let taken = prefix < 31 && (number == 0 || number == host);
    (usable(&address) && (1..=32).contains(&prefix) && !taken).then_some((address, prefix))
}

fn usable(address: &Ipv4Addr) -> bool {
    !address.is_unspecified() && !address.is_multicast() && !address.is_broadcast() && !address.is_loopback()
}

fn same_network(one: Ipv4Addr, other: Ipv4Addr, prefix: u8) -> bool {
    let differ = u32::from(one) ^ u32::from(other);
    differ.checked_shr(32 - u32::from(prefix)).unwrap_or(0) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(words: &str) -> Result<Option<FixedAddress>, Mistake> {
        let text = format!("link=a,{words}");
        read(&text, &words.split(',').collect::<Vec<_>>(), 1)
    }

    #[test]
    fn a_card_has_what_was_said() {
        let bare =
            FixedAddress { card: 1, address: [10, 9, 0, 2].into(), prefix: 24, router: None, resolver: None };
        assert_eq!(read("link=a", &[], 1), Ok(None));
        assert_eq!(of("ip=10.9.0.2/24"), Ok(Some(bare)));
        let (router, resolver) = (Some([10, 9, 0, 1].into()), Some([192, 0, 2, 7].into()));
        assert_eq!(
            of("gateway=10.9.0.1,dns=192.0.2.7,ip=10.9.0.2/24"),
            Ok(Some(FixedAddress { router, resolver, ..bare }))
        );
        assert!(of("ip=10.9.0.0/31").is_ok() && of("ip=10.9.0.0/32").is_ok());
    }

    #[test]
    fn what_a_card_cannot_have_is_one_sentence() {
        for words in [
            "ip=10.9.0.2",
            "ip=10.9.0.2/33",
            "ip=10.9.0.2/0",
            "ip=10.9.0.0/24",
            "ip=10.9.0.255/24",
            "ip=224.0.0.1/24",
            "ip=127.0.0.2/8",
            "ip=fe80::1/64",
            "ip=10.9.0.2/24,ip=10.9.0.3/24",
            "ip=10.9.0.2/24,gateway=10.8.0.1",
            "ip=10.9.0.2/24,gateway=10.9.0.2",
            "ip=10.9.0.2/24,gateway=there",
            "ip=10.9.0.2/24,dns=0.0.0.0",
            "gateway=10.9.0.1",
            "mac=1",
            "",
        ] {
            let sentence = of(words).unwrap_err().0;
            assert!(sentence.starts_with(&format!("--net link=a,{words}: ")), "{sentence}");
        }
    }
}
