//! The host's end of the network's rows (`bench/network.c`): the server that the machines talk to, and the one who asks.

use crate::errand::Errand;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// Bytes at a time at the host's end.
const PIECE: usize = 256 << 10;
/// Longest that an answer of one byte may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The server at the host's end, on a thread for as long as the errand lives; its port.
pub fn serve() -> Result<u16, Errand> {
    let failed =
        |why: io::Error| Errand::Failed { what: "a server on the loopback".into(), why: why.to_string() };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(failed)?;
    let port = listener.local_addr().map_err(failed)?.port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A connection that breaks is the other end's figure that is missing.
            std::thread::spawn(move || answer(stream));
        }
    });
    Ok(port)
}

/// Microseconds for a byte to the server in a machine and back, by a port of this host's, over so many seconds.
pub fn ask(port: u16, seconds: u64) -> io::Result<f64> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let (start, mut turns, mut byte) = (Instant::now(), 0u64, [b'x']);
    while start.elapsed() < Duration::from_secs(seconds) {
        stream.write_all(&byte)?;
        stream.read_exact(&mut byte)?;
        turns += 1;
    }
    Ok(start.elapsed().as_secs_f64() * 1e6 / turns as f64)
}

/// Does what the first byte of a connection says (`bench/network.c`).
fn answer(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut what, mut piece, mut got) = ([0], vec![0; PIECE], 0u64);
    stream.read_exact(&mut what)?;
    loop {
        match what {
            [b'i'] => stream.write_all(&piece)?,
            [b't'] => {
                stream.read_exact(&mut what[..])?;
                stream.write_all(&what)?;
                what = [b't'];
            }
            _ => match stream.read(&mut piece)? {
                0 => return stream.write_all(&got.to_le_bytes()),
                length => got += length as u64,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_counts_sends_and_answers() {
        let port = serve().unwrap();
        let connect = |what: &[u8]| {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
            stream.write_all(what).unwrap();
            stream
        };
        let mut out = connect(b"ohello");
        out.shutdown(std::net::Shutdown::Write).unwrap();
        let mut count = [0; 8];
        out.read_exact(&mut count).unwrap();
        assert_eq!(u64::from_le_bytes(count), 5);
        connect(b"i").read_exact(&mut [0; 100_000]).unwrap();
        let mut turns = connect(b"tx");
        let mut byte = [0];
        turns.read_exact(&mut byte).unwrap();
        assert_eq!(byte, *b"x");
    }
}
