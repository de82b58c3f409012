//! `cargo xtask bench network`: TCP between a machine and its host, over the network that needs no right: both ways, and
//! back and forth. QEMU's is the one of libslirp.

use crate::arguments::Arguments;
use crate::errand::Errand;
use crate::initramfs::Contents;
use crate::inputs;
use crate::machine::{Boot, Carriers, Machine};
use crate::session::{Heard, LAST_SIGN, Session};
use crate::table::{columns, figure, median};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// What `bench/network.c` prints, and what was asked for of each beside QEMU's: times as much, or no more than.
const ROWS: [&str; 3] = ["net_out_mbit", "net_in_mbit", "net_turns_us"];
/// What was asked for: megabits a second on the translator, both ways, and times QEMU's.
const ASKED: (f64, f64) = (2000.0, 3.0);
/// The machines; User-Mode Linux has no network of this kind in Debian's build.
const MACHINES: [Machine; 3] = [Machine::Native, Machine::Lguest, Machine::Qemu];
/// Seconds for each row.
const SECONDS: u32 = 3;
/// Longest for a whole run: a boot under emulation on a busy host, and the rows.
const LIMIT: Duration = Duration::from_secs(120);
/// RAM in MiB.
const MEMORY: u32 = 512;
/// Bytes at a time at the host's end.
const PIECE: usize = 256 << 10;

/// Measures, interleaved, and prints medians and whether what was asked for is met.
pub fn run(mut arguments: Arguments) -> Result<(), Errand> {
    let rounds = arguments.value("--rounds")?.map_or(Ok(3), |word| Arguments::count(&word))?;
    arguments.end()?;
    let lguest = inputs::lguest()?;
    let kernel = inputs::vmlinuz(&lguest, inputs::KERNELS[0])?;
    let program = inputs::compiled("network", &[])?;
    let mut contents = Contents::new();
    contents.add(&program, "/network");
    contents.add(kernel.with_file_name("modules"), "/modules");
    let initramfs = contents.archive(&lguest, "network")?;
    let mut machines = MACHINES.to_vec();
    let carriers = Carriers::gather(lguest, &mut machines);
    let port = serve()?;
    let mut figures = vec![vec![Vec::new(); ROWS.len()]; machines.len()];
    for round in 1..=rounds {
        for (machine, kept) in machines.iter().zip(&mut figures) {
            eprintln!("xtask: round {round} of {rounds}: {}", machine.key());
            let words = format!("WORK=network PORT={port} SPAN={SECONDS}");
            let boot = Boot { kernel: &kernel, initramfs: &initramfs, memory: MEMORY, cpus: 1, words };
            for (figures, value) in kept.iter_mut().zip(once(*machine, &carriers, &boot, &program, port)?) {
                figures.push(value);
            }
        }
    }
    let medians: Vec<Vec<f64>> =
        figures.iter().map(|rows| rows.iter().map(|row| median(row)).collect()).collect();
    print!("{}", report(&machines, &medians));
    Ok(())
}

/// One run of one machine: its rows.
fn once(
    machine: Machine,
    carriers: &Carriers,
    boot: &Boot,
    program: &Path,
    port: u16,
) -> Result<[f64; ROWS.len()], Errand> {
    let mut command = machine.boot(carriers, boot).unwrap_or_else(|| {
        let mut command = Command::new(program);
        command.args(["127.0.0.1", &port.to_string(), &SECONDS.to_string()]);
        command
    });
    match machine {
        Machine::Lguest => command.args(["--net", "user,host=yes"]),
        Machine::Qemu => {
            command.args(["-netdev", "user,id=n", "-device", "virtio-net-pci,netdev=n,romfile="])
        }
        _ => &mut command,
    };
    let mut session = Session::start(&mut command)?;
    let mut found = [f64::NAN; ROWS.len()];
    session.listen(LIMIT, |line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let [name, value] = words[..]
            && let Some(at) = ROWS.iter().position(|row| *row == name)
        {
            found[at] = value.parse().unwrap_or(f64::NAN);
        }
        if line.contains(LAST_SIGN) { Heard::Last } else { Heard::Nothing }
    });
    if found.iter().any(|value| value.is_nan()) {
        return Err(Errand::Failed {
            what: format!("the network of {}", machine.key()),
            why: session.last_lines(),
        });
    }
    Ok(found)
}

fn report(machines: &[Machine], medians: &[Vec<f64>]) -> String {
    let mut lines = vec![vec!["TCP over the user network".to_owned()]];
    lines[0].extend(machines.iter().map(|machine| machine.key().to_owned()));
    for (at, row) in ROWS.iter().enumerate() {
        let mut line = vec![(*row).to_owned()];
        line.extend(medians.iter().map(|rows| figure(rows[at])));
        lines.push(line);
    }
    let of = |machine| machines.iter().position(|one| *one == machine).map(|at| &medians[at]);
    let mut text = columns(&lines);
    let Some(ours) = of(Machine::Lguest) else { return text };
    let slower = ours[0].min(ours[1]);
    text += &format!("\nasked {} Mbit/s: {}\n", ASKED.0, if slower >= ASKED.0 { "met" } else { "missed" });
    if let Some(theirs) = of(Machine::Qemu) {
        let ratio = (ours[0] / theirs[0]).min(ours[1] / theirs[1]);
        let met = if ratio >= ASKED.1 { "met" } else { "missed" };
        text += &format!("asked {} times QEMU's: {} times, {met}\n", ASKED.1, figure(ratio));
    }
    text
}

/// The server at the host's end, on a thread for as long as the errand lives; its port.
fn serve() -> Result<u16, Errand> {
    let failed = |why: std::io::Error| Errand::Failed {
        what: "a server on the loopback".into(),
        why: why.to_string(),
    };
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

/// Does what the first byte of a connection says (`bench/network.c`).
fn answer(mut stream: TcpStream) -> std::io::Result<()> {
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
