//! What the Launcher asks of the first process: the contract between the two, written by one and read by the other.
//!
//! The file `/lguest/plan` of the initramfs is a list of words, each ended by a NUL, in pairs: a key and its value. Words
//! are bytes that mean nothing else, so no argument, name or path needs quoting. An unknown key is an error: both sides come
//! from one build.

use std::fmt;
use std::net::Ipv4Addr;

/// Where the Launcher leaves it.
pub const PLACE: &str = "/lguest/plan";
/// Where the modules are, in the order of their names.
pub const MODULES: &str = "/lguest/modules";
/// Where those are that a machine is better for, but that no program waits for: they are loaded once it has run for a second,
/// so that a command that is done by then does not pay for them.
pub const SOON: &str = "/lguest/soon";
/// Where those are that are only loaded when somebody asks for the agent, which few runs do.
pub const LATER: &str = "/lguest/later";
/// How a shared directory that is the root is called by virtio-fs; a user's own shares have tags without a colon.
pub const ROOT_TAG: &str = "lguest:root";

/// The session's port unless the plan names another: the first serial port.
pub const SERIAL: &str = "/dev/ttyS0";

/// How the address of a card of the user network begins: locally administered (IEEE 802-2014, 8.4). There everybody has the
/// same address, so nobody asks for one.
pub const USER_CARD: [u8; 3] = [0x02, b'l', b'g'];

/// What the session's program talks to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Terminal {
    /// A person's, of this many columns and rows and this kind (`$TERM`).
    Person {
        /// Characters in a line.
        columns: u16,
        /// Lines.
        rows: u16,
        /// `$TERM`.
        kind: String,
    },
    /// A pipe or a file at either end: bytes pass as they are.
    Pipes,
}

/// Where the root is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Root {
    /// A directory of the host's, shared as [`ROOT_TAG`].
    Shared,
    /// A disk, by its device in the Guest.
    Disk(String),
    /// The initramfs itself, which holds all there is.
    Here,
}

/// A share of the host's, mounted at `/mnt/TAG`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// Its tag.
    pub tag: String,
    /// Whether it can only be read.
    pub readonly: bool,
}

/// What a card has on a network where nobody is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FixedAddress {
    /// Which card, by the order in which the kernel finds them.
    pub card: usize,
    /// The card's address.
    pub address: Ipv4Addr,
    /// Bits of it that name the network, at most 32.
    pub prefix: u8,
    /// Who leads elsewhere.
    pub router: Option<Ipv4Addr>,
    /// Who knows names.
    pub resolver: Option<Ipv4Addr>,
}

impl FixedAddress {
    /// One word of the plan: card, address with prefix, router and resolver, where an address of zeroes stands for none.
    fn write(&self) -> String {
        let FixedAddress { card, address, prefix, router, resolver } = self;
        let [router, resolver] = [router, resolver].map(|one| one.unwrap_or(Ipv4Addr::UNSPECIFIED));
        format!("{card} {address} {prefix} {router} {resolver}")
    }

    fn read(word: &str) -> Option<FixedAddress> {
        let mut parts = word.split(' ');
        let mut next = || parts.next();
        let (card, address, prefix) = (next()?.parse().ok()?, next()?.parse().ok()?, next()?.parse().ok()?);
        let mut other = || next()?.parse().ok().map(|one: Ipv4Addr| (!one.is_unspecified()).then_some(one));
        Some(FixedAddress { card, address, prefix, router: other()?, resolver: other()? })
    }
}

/// All of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// What the program talks to.
    pub terminal: Terminal,
    /// The device in the Guest that leads there.
    pub port: String,
    /// Names of virtio's ports, each to be found as /dev/virtio-ports/NAME.
    pub named_ports: Vec<String>,
    /// The word of the marks around its output.
    pub word: String,
    /// The root.
    pub root: Root,
    /// What the Guest changes in the root stays; without it, it is gone at the end.
    pub keep: bool,
    /// Directories to mount besides.
    pub shares: Vec<Share>,
    /// Addresses that were said beforehand.
    pub addresses: Vec<FixedAddress>,
    /// The program and its arguments; empty for a shell.
    pub command: Vec<Vec<u8>>,
    /// `NAME=value`, besides PATH, HOME and TERM.
    pub environment: Vec<Vec<u8>>,
    /// `USER`, `UID`, `USER:GROUP` or `UID:GID`; root when there is none.
    pub user: Option<String>,
    /// Where the program starts; the user's home when there is none.
    pub directory: Option<Vec<u8>>,
}

/// The words are none of ours: the two sides are of two builds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Strange(String);

impl fmt::Display for Strange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "the plan holds {:?}, which this lguest-init does not know", self.0)
    }
}

impl Plan {
    /// What to do where nobody says it: the initramfs in somebody else's machine is a shell for whoever sits there.
    pub fn without_a_launcher() -> Plan {
        Plan {
            terminal: Terminal::Person { columns: 80, rows: 24, kind: "linux".to_owned() },
            port: SERIAL.to_owned(),
            named_ports: Vec::new(),
            word: String::new(),
            root: Root::Here,
            keep: false,
            shares: Vec::new(),
            addresses: Vec::new(),
            command: Vec::new(),
            environment: Vec::new(),
            user: None,
            directory: None,
        }
    }

    /// The file's bytes. A NUL in a word, which no program could be given either, ends it there.
    pub fn write(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut pair = |key: &str, value: &[u8]| {
            let value = value.split(|byte| *byte == 0).next().unwrap_or_default();
            [key.as_bytes(), b"\0", value, b"\0"].iter().for_each(|part| bytes.extend_from_slice(part));
        };
        if let Terminal::Person { columns, rows, kind } = &self.terminal {
            pair("columns", columns.to_string().as_bytes());
            pair("rows", rows.to_string().as_bytes());
            pair("terminal", kind.as_bytes());
        }
        if self.port != SERIAL {
            pair("port", self.port.as_bytes());
        }
        self.named_ports.iter().for_each(|name| pair("named-port", name.as_bytes()));
        pair("word", self.word.as_bytes());
        match &self.root {
            Root::Shared => {}
            Root::Disk(device) => pair("disk", device.as_bytes()),
            Root::Here => pair("here", b""),
        }
        if self.keep {
            pair("keep", b"");
        }
        for share in &self.shares {
            pair(if share.readonly { "share-readonly" } else { "share" }, share.tag.as_bytes());
        }
        self.addresses.iter().for_each(|address| pair("address", address.write().as_bytes()));
        self.command.iter().for_each(|word| pair("command", word));
        self.environment.iter().for_each(|word| pair("environment", word));
        self.user.iter().for_each(|user| pair("user", user.as_bytes()));
        self.directory.iter().for_each(|directory| pair("directory", directory));
        bytes
    }

    /// Reads what [`Plan::write`] wrote.
    ///
    /// # Errors
    /// [`Strange`] for anything else.
    pub fn read(bytes: &[u8]) -> Result<Plan, Strange> {
        let mut plan = Plan { terminal: Terminal::Pipes, root: Root::Shared, ..Plan::without_a_launcher() };
        let (mut columns, mut rows) = (80, 24);
        let mut words = bytes.strip_suffix(b"\0").unwrap_or_default().split(|byte| *byte == 0);
        while let Some(key) = words.next().filter(|_| !bytes.is_empty()) {
            let strange = || Strange(String::from_utf8_lossy(key).into_owned());
            let value = words.next().ok_or_else(strange)?;
            let text = || String::from_utf8_lossy(value).into_owned();
            match key {
                b"columns" => columns = text().parse().map_err(|_| strange())?,
                b"rows" => rows = text().parse().map_err(|_| strange())?,
                b"terminal" => plan.terminal = Terminal::Person { columns, rows, kind: text() },
                b"port" => plan.port = text(),
                b"named-port" => plan.named_ports.push(text()),
                b"word" => plan.word = text(),
                b"disk" => plan.root = Root::Disk(text()),
                b"here" => plan.root = Root::Here,
                b"keep" => plan.keep = true,
                b"share" => plan.shares.push(Share { tag: text(), readonly: false }),
                b"share-readonly" => plan.shares.push(Share { tag: text(), readonly: true }),
                b"address" => plan.addresses.push(FixedAddress::read(&text()).ok_or_else(strange)?),
                b"command" => plan.command.push(value.to_vec()),
                b"environment" => plan.environment.push(value.to_vec()),
                b"user" => plan.user = Some(text()),
                b"directory" => plan.directory = Some(value.to_vec()),
                _ => return Err(strange()),
            }
        }
        Ok(plan)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        Plan {
            terminal: Terminal::Person { columns: 100, rows: 30, kind: "xterm; $(x)".to_owned() },
            port: "/dev/hvc0".to_owned(),
            named_ports: vec!["a".to_owned(), "b.c".to_owned()],
            word: "0123".to_owned(),
            root: Root::Disk("/dev/vda".to_owned()),
            keep: true,
            shares: vec![
                Share { tag: "a".to_owned(), readonly: false },
                Share { tag: "b".to_owned(), readonly: true },
            ],
            addresses: vec![
                FixedAddress {
                    card: 1,
                    address: [10, 9, 0, 2].into(),
                    prefix: 24,
                    router: None,
                    resolver: Some([10, 9, 0, 3].into()),
                },
                FixedAddress {
                    card: 2,
                    address: [10, 8, 0, 2].into(),
                    prefix: 32,
                    router: Some([10, 8, 0, 1].into()),
                    resolver: None,
                },
            ],
            command: vec![b"sh".to_vec(), b"".to_vec(), b"it's \"new\"\n\xff".to_vec()],
            environment: vec![b"A=1".to_vec()],
            user: Some("www-data:www-data".to_owned()),
            directory: Some(b"/srv".to_vec()),
        }
    }

    #[test]
    fn a_plan_is_read_back_as_it_was() {
        assert_eq!(Plan::read(&plan().write()), Ok(plan()));
        let plain = Plan {
            terminal: Terminal::Pipes,
            port: SERIAL.to_owned(),
            named_ports: vec![],
            root: Root::Shared,
            keep: false,
            shares: vec![],
            addresses: vec![],
            command: vec![],
            environment: vec![],
            user: None,
            directory: None,
            ..plan()
        };
        assert_eq!(Plan::read(&plain.write()), Ok(plain));
        let here = Plan::without_a_launcher();
        assert_eq!(Plan::read(&here.write()), Ok(here));
    }

    #[test]
    fn no_word_becomes_two() {
        let sly = Plan { command: vec![b"x\0keep\0".to_vec()], keep: false, ..plan() };
        let read = Plan::read(&sly.write()).unwrap();
        assert_eq!((read.command, read.keep), (vec![b"x".to_vec()], false));
    }

    #[test]
    fn a_key_of_another_build_is_told() {
        assert!(Plan::read(b"colour\0red\0").unwrap_err().to_string().contains("colour"));
        assert!(Plan::read(b"word\0").is_err());
        assert!(Plan::read(b"rows\0many\0").is_err());
        assert!(Plan::read(b"address\x001 10.9.0.2 24 0.0.0.0\0").is_err());
    }
}
