//! What travels: a header of 44 bytes, little-endian, and for one operation a stream's bytes (virtio 1.2, 5.10.6).

/// Bytes of a header (`struct virtio_vsock_hdr`).
pub const HEADER: usize = 44;
/// The only type of socket here: a stream of bytes.
pub const STREAM: u16 = 1;
/// The host's address (5.10.4).
pub const HOST: u64 = 2;
/// The Guest's: the first that is nobody's.
pub const GUEST: u64 = 3;

/// What a packet asks or says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Operation {
    /// Asks for a connection.
    Request = 1,
    /// Grants it.
    Response = 2,
    /// There is no such connection, or none any more.
    Reset = 3,
    /// One side sends or takes no more.
    Shutdown = 4,
    /// Bytes.
    Data = 5,
    /// How much room there is.
    CreditUpdate = 6,
    /// Asks for that.
    CreditRequest = 7,
}

impl Operation {
    fn read(number: u16) -> Option<Operation> {
        use Operation::*;
        [Request, Response, Reset, Shutdown, Data, CreditUpdate, CreditRequest]
            .into_iter()
            .find(|operation| *operation as u16 == number)
    }
}

/// Flags of [`Operation::Shutdown`].
pub mod shutdown {
    /// The sender takes no more.
    pub const RECEIVE: u32 = 1;
    /// The sender sends no more.
    pub const SEND: u32 = 2;
    /// Both.
    pub const BOTH: u32 = RECEIVE | SEND;
}

/// A connection's name: a port of each side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ports {
    /// The Guest's.
    pub guest: u32,
    /// The host's.
    pub host: u32,
}

/// A header, as far as it says something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// Whose.
    pub ports: Ports,
    /// What.
    pub operation: Operation,
    /// Bytes behind the header.
    pub length: u32,
    /// Of a shutdown.
    pub flags: u32,
    /// All the room of the sender's side.
    pub room: u32,
    /// Bytes that the sender's side has passed on, ever; it runs over.
    pub passed_on: u32,
}

/// A header that is not answered with a packet of its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Odd {
    /// From or to somebody who is not there: nobody to answer to.
    Address,
    /// Another type of socket or operation: there is no such connection.
    Unknown(Ports),
}

impl Packet {
    /// Reads what a driver sent.
    ///
    /// # Errors
    /// [`Odd`].
    pub fn read(bytes: &[u8; HEADER]) -> Result<Packet, Odd> {
        let number = |at: usize, size: usize| {
            bytes[at..at + size].iter().rev().fold(0u64, |value, byte| value << 8 | u64::from(*byte))
        };
        let word = |at: usize| number(at, 4) as u32;
        if number(0, 8) != GUEST || number(8, 8) != HOST {
            return Err(Odd::Address);
        }
        let ports = Ports { guest: word(16), host: word(20) };
        let operation = Operation::read(number(30, 2) as u16).filter(|_| number(28, 2) as u16 == STREAM);
        let operation = operation.ok_or(Odd::Unknown(ports))?;
        let (length, flags) = (word(24), word(32));
        Ok(Packet { ports, operation, length, flags, room: word(36), passed_on: word(40) })
    }

    /// Writes what the Guest is sent.
    pub fn write(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        let mut put = |at: usize, part: &[u8]| bytes[at..at + part.len()].copy_from_slice(part);
        put(0, &HOST.to_le_bytes());
        put(8, &GUEST.to_le_bytes());
        put(16, &self.ports.host.to_le_bytes());
        put(20, &self.ports.guest.to_le_bytes());
        put(24, &self.length.to_le_bytes());
        put(28, &STREAM.to_le_bytes());
        put(30, &(self.operation as u16).to_le_bytes());
        put(32, &self.flags.to_le_bytes());
        put(36, &self.room.to_le_bytes());
        put(40, &self.passed_on.to_le_bytes());
        bytes
    }
}
