//! `--net user[,OPTION...]`: what was asked for, read and held before anything starts.
//!
//! ```text
//!   forward=tcp:[ADDRESS:]PORT:GUESTPORT   a port of the host's leads to the Guest's; also udp; usual ADDRESS 127.0.0.1
//!   allow=ADDRESS[/BITS][:PORT]            nothing but this may be reached; repeatable
//!   host=yes                               the gateway's address is the host's loopback
//!   dns=ADDRESS[:PORT] | none              in place of the host's resolvers
//! ```
//! Without `host=yes` the host's loopback is out of reach; its other addresses are addresses like any, and what listens
//! there for everybody can be reached unless `allow` leaves it out. Questions for the resolver are always passed on, for
//! a list without names is of little use; `dns=none` stops that too.

use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket};

use super::allow::{Allowed, Destination};
use crate::request::Mistake;

/// The port of DNS (RFC 1035, 4.2).
const DNS_PORT: u16 = 53;
/// Resolvers asked in turn: as many as the C library takes (resolv.conf(5)).
const MOST_RESOLVERS: usize = 3;
/// Forwarded ports: each is a descriptor, and nobody types more.
const MOST_FORWARDS: usize = 64;

/// A forwarded port, held.
#[derive(Debug)]
pub enum Forward {
    /// Connections.
    Tcp(TcpListener, u16),
    /// Datagrams.
    Udp(UdpSocket, u16),
}

/// Everything that was asked for.
#[derive(Debug, Default)]
pub struct Options {
    /// Ports of the host's, and the Guest's port of each.
    pub forwards: Vec<Forward>,
    /// What may be reached.
    pub allowed: Allowed,
    /// Resolvers, asked in turn; without any, every question is refused.
    pub resolvers: Vec<SocketAddrV4>,
}

impl Options {
    /// Reads the words behind `user`, and takes the ports. `whole` is the option's value, for the sentence.
    ///
    /// # Errors
    /// One sentence for the first that cannot work.
    pub fn read(whole: &str, words: &[&str]) -> Result<Options, Mistake> {
        let fault = |what: String| Mistake(format!("--net {whole}: {what}"));
        let mut options = Options::default();
        let mut resolver = None;
        for word in words {
            match word.split_once('=').unwrap_or((word, "")) {
                ("forward", value) => options.forwards.push(forward(value).map_err(fault)?),
                ("allow", value) => options
                    .allowed
                    .destinations
                    .push(Destination::read(value).ok_or_else(|| {
                    fault(format!(
                        "{value} is no destination; give ADDRESS[/BITS][:PORT], as in allow=192.0.2.0/24:443"
                    ))
                })?),
                ("host", "yes") => options.allowed.host = true,
                ("host", "no") => options.allowed.host = false,
                ("dns", "none") => resolver = Some(Vec::new()),
                ("dns", value) => {
                    resolver = Some(vec![read_resolver(value).ok_or_else(|| {
                        fault(format!(
                            "{value} is no resolver; give ADDRESS[:PORT] or none, as in dns=192.0.2.53"
                        ))
                    })?])
                }
                _ => {
                    return Err(fault(format!(
                        "{word} is no option of the user network; give forward=tcp:8080:80, allow=192.0.2.0/24:443, host=yes or dns=192.0.2.53"
                    )));
                }
            }
        }
        if options.forwards.len() > MOST_FORWARDS {
            return Err(fault(format!("at most {MOST_FORWARDS} ports can be forwarded")));
        }
        options.resolvers = resolver.unwrap_or_else(host_resolvers);
        Ok(options)
    }
}

fn read_resolver(text: &str) -> Option<SocketAddrV4> {
    text.parse().ok().or_else(|| Some(SocketAddrV4::new(text.parse().ok()?, DNS_PORT)))
}

/// The host's resolvers, as far as they have IPv4 addresses.
fn host_resolvers() -> Vec<SocketAddrV4> {
    resolvers(&std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default())
}

/// `nameserver` lines (resolv.conf(5)).
fn resolvers(text: &str) -> Vec<SocketAddrV4> {
    let address = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        words.next().filter(|word| *word == "nameserver")?;
        Some(SocketAddrV4::new(words.next()?.parse().ok()?, DNS_PORT))
    };
    text.lines().filter_map(address).take(MOST_RESOLVERS).collect()
}

/// A forward's parts: the protocol, the host's end and the Guest's port.
fn parts(text: &str) -> Option<(&str, SocketAddrV4, u16)> {
    let mut parts: Vec<&str> = text.split(':').collect();
    let number = |text: &str| text.parse().ok().filter(|port| *port != 0);
    let (guest, port) = (number(parts.pop()?)?, number(parts.pop()?)?);
    let (protocol, address) = match parts[..] {
        [protocol] => (protocol, Ipv4Addr::LOCALHOST),
        [protocol, address] => (protocol, address.parse().ok()?),
        _ => return None,
    };
    Some((protocol, SocketAddrV4::new(address, port), guest))
}

fn forward(text: &str) -> Result<Forward, String> {
    let wrong = || {
        format!(
            "forward={text} is no forward; give PROTOCOL:[ADDRESS:]PORT:GUESTPORT, as in forward=tcp:8080:80"
        )
    };
    let (protocol, here, guest) = parts(text).ok_or_else(wrong)?;
    let refused = |cause: std::io::Error| explain(text, here, &cause);
    match protocol {
        "tcp" => {
            let listener = TcpListener::bind(here).map_err(refused)?;
            listener.set_nonblocking(true).map_err(refused)?;
            Ok(Forward::Tcp(listener, guest))
        }
        "udp" => {
            let socket = UdpSocket::bind(here).map_err(refused)?;
            socket.set_nonblocking(true).map_err(refused)?;
            Ok(Forward::Udp(socket, guest))
        }
        _ => Err(wrong()),
    }
}

fn explain(text: &str, here: SocketAddrV4, cause: &std::io::Error) -> String {
    let port = here.port();
    let hint = match cause.kind() {
        std::io::ErrorKind::AddrInUse => format!("another program has port {port}; choose another port"),
        std::io::ErrorKind::PermissionDenied => {
            format!("port {port} needs root here; choose one from 1024 on")
        }
        std::io::ErrorKind::AddrNotAvailable => {
            format!("{} is no address of this host's; leave it out for 127.0.0.1", here.ip())
        }
        _ => format!("the host says: {cause}"),
    };
    format!("forward={text} cannot work: {hint}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(whole: &str) -> String {
        let words: Vec<&str> = whole.split(',').skip(1).collect();
        Options::read(whole, &words).unwrap_err().0
    }

    #[test]
    fn a_mistake_is_one_sentence_that_names_option_value_and_remedy() {
        for (text, hint) in [
            ("user,fast", "fast is no option"),
            ("user,forward=tcp:80", "is no forward"),
            ("user,forward=sctp:8080:80", "is no forward"),
            ("user,forward=tcp:0:80", "is no forward"),
            ("user,forward=tcp:70000:80", "is no forward"),
            ("user,forward=tcp:192.0.2.1:18080:80", "no address of this host's"),
            ("user,allow=example.org", "is no destination"),
            ("user,dns=example.org", "is no resolver"),
            ("user,host=maybe", "is no option"),
        ] {
            let sentence = refusal(text);
            assert!(
                sentence.starts_with(&format!("--net {text}: ")) && sentence.contains(hint),
                "{sentence}"
            );
            assert!(!sentence.contains('\n'));
        }
    }

    #[test]
    fn a_port_that_is_taken_is_told_before_anything_starts() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let sentence = refusal(&format!("user,forward=tcp:{port}:80"));
        assert!(sentence.contains(&format!("another program has port {port}; choose another")), "{sentence}");
    }

    #[test]
    fn the_hosts_resolvers_are_those_of_resolv_conf() {
        let text = "# nameserver 192.0.2.9\nsearch example.org\nnameserver 192.0.2.1\nnameserver fe80::1\n  nameserver\t192.0.2.2 # x\n";
        let expected: Vec<SocketAddrV4> =
            ["192.0.2.1:53", "192.0.2.2:53"].iter().map(|text| text.parse().unwrap()).collect();
        assert_eq!(resolvers(text), expected);
        assert_eq!(
            Options::read("user", &["dns=127.0.0.1:5353"]).unwrap().resolvers,
            ["127.0.0.1:5353".parse().unwrap()]
        );
        assert!(Options::read("user", &["dns=none"]).unwrap().resolvers.is_empty());
    }
}
