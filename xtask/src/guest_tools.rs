//! `cargo xtask guest-tools`: a root of Debian's packages, in which Debian's own tools say what they find of our devices; each
//! answer is compared with what it has to be.
//!
//! The errand is the outside: an iperf3 server, a resolver on loopback that knows one name, somebody who fetches a page by a
//! forwarded port, and who pulls the plug of a machine that writes to a disk.

use crate::arguments::Arguments;
use crate::errand::Errand;
use crate::inputs;
use crate::packages::{Origin, Packages};
use crate::programs::{need, run as run_program};
use crate::session::{Ending, Heard, Session};
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// What is in the root besides busybox.
const PACKAGES: Packages = Packages {
    name: "guest-tools",
    wanted: &[
        "dash",
        "coreutils",
        "grep",
        "util-linux",
        "pciutils",
        "ethtool",
        "iproute2",
        "iputils-ping",
        "iperf3",
        "e2fsprogs",
        "libc-bin",
        "stress-ng",
        "libcap2-bin",
    ],
    origin: Origin::Release,
};
/// Longest for a whole run on a busy host.
const LIMIT: Duration = Duration::from_secs(240);
/// The name that our resolver knows; the domain is for documentation (RFC 2606).
const NAME: &str = "guest-tools.example";
/// Its address, for documentation too (RFC 5737).
const ADDRESS: [u8; 4] = [192, 0, 2, 77];
/// The status that the script ends with, and that has to come out of `lguest`.
const STATUS: i32 = 7;
/// Bytes of the disk.
const DISK: u64 = 64 << 20;
/// What is done to it until the plug is pulled.
const WRITES: &str = "mkdir -p /mnt && mount -t ext4 /dev/vda /mnt || exit 9; n=0; while :; do n=$((n + 1)); \
    mkdir -p /mnt/$((n % 20)); echo $n > /mnt/$((n % 20))/$n; sync /mnt/$((n % 20))/$n; rm -f /mnt/$((n % 17))/$((n - 30)); \
    [ $n != 40 ] || echo guest-tools: writes; done";

/// Runs the tools and says of each whether it agreed.
pub fn run(arguments: Arguments) -> Result<(), Errand> {
    arguments.end()?;
    let lguest = inputs::lguest()?;
    inputs::vmlinuz(&lguest, inputs::KERNELS[0])?;
    let packages = PACKAGES.unpacked()?;
    let root = root(&packages)?;
    let disk = inputs::workshop()?.join("guest-tools.disk");
    pull_the_plug(&lguest, &disk)?;
    let mut lines = look(&lguest, &root, &packages, &disk)?;
    lines.sort_by_key(|line| !line.contains(" failed"));
    lines.iter().for_each(|line| println!("{line}"));
    let failed = lines.iter().filter(|line| line.contains(" failed")).count();
    println!("{} agreed, {failed} did not", lines.len() - failed);
    if failed == 0 { Ok(()) } else { Err(fault(format!("{failed} answers differ"))) }
}

fn fault(why: impl ToString) -> Errand {
    Errand::Failed { what: "the Guest's tools".into(), why: why.to_string() }
}

/// A copy of the packages with what their installation would have made.
fn root(packages: &Path) -> Result<PathBuf, Errand> {
    let root = inputs::workshop()?.join("guest-tools");
    if root.exists() {
        fs::remove_dir_all(&root).map_err(Errand::file(&root))?;
    }
    run_program(Command::new(need("cp", "coreutils")?).arg("-a").arg(packages).arg(&root))?;
    for name in ["dev", "proc", "sys", "tmp", "run", "mnt", "root", "etc", "bin"] {
        fs::create_dir_all(root.join(name)).map_err(Errand::file(&root))?;
    }
    let busybox = root.join("bin/busybox");
    fs::copy(inputs::busybox()?, &busybox).map_err(Errand::file(&busybox))?;
    fs::set_permissions(&busybox, fs::Permissions::from_mode(0o755)).map_err(Errand::file(&busybox))?;
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n").map_err(Errand::file(&root))?;
    fs::write(root.join("etc/nsswitch.conf"), "hosts: files dns\n").map_err(Errand::file(&root))?;
    let script = root.join("guest-tools.sh");
    fs::copy(inputs::root().join("bench/guest-tools.sh"), &script).map_err(Errand::file(&script))?;
    Ok(root)
}

/// A file system on which a machine writes until it is killed.
fn pull_the_plug(lguest: &Path, disk: &Path) -> Result<(), Errand> {
    let file = fs::File::create(disk).map_err(Errand::file(disk))?;
    file.set_len(DISK).map_err(Errand::file(disk))?;
    let make = ["/usr/sbin/mkfs.ext4", "/sbin/mkfs.ext4"].into_iter().find(|path| Path::new(path).is_file());
    let make = make.ok_or(Errand::Missing { program: "mkfs.ext4", package: "e2fsprogs" })?;
    run_program(Command::new(make).args(["-q", "-F"]).arg(disk))?;
    let mut command = Command::new(lguest);
    command.args(["run", "debian", "--quiet", "--disk"]).arg(disk).args(["--", "sh", "-c", WRITES]);
    let mut session = Session::start(&mut command)?;
    session.wait_for("guest-tools: writes", LIMIT)?;
    // To drop a session is to kill it.
    Ok(())
}

/// One run of the script; its lines, and ours for what was done from outside.
fn look(lguest: &Path, root: &Path, packages: &Path, disk: &Path) -> Result<Vec<String>, Errand> {
    let server = Iperf::start(packages)?;
    let resolver = resolve()?;
    let page = free_port()?;
    let mut command = Command::new(lguest);
    command.args(["run", "--engine", "translator", "--quiet"]).arg(root);
    command.arg("--net").arg(format!("user,host=yes,dns=127.0.0.1:{resolver},forward=tcp:{page}:80"));
    let files = inputs::workshop()?.join("guest-tools.files");
    if files.exists() {
        fs::remove_dir_all(&files).map_err(Errand::file(&files))?;
    }
    fs::create_dir_all(&files).map_err(Errand::file(&files))?;
    command.arg("--share").arg(format!("{}:files", files.display()));
    command.arg("--disk").arg(disk).args(["--", "/bin/sh", "/guest-tools.sh"]);
    command.arg(server.port.to_string()).args([NAME, &ADDRESS.map(|byte| byte.to_string()).join(".")]);
    let mut session = Session::start(&mut command)?;
    let (mut lines, mut ended) = (Vec::new(), false);
    let ending = session.listen(LIMIT, |line| {
        let line = line.trim();
        if line.starts_with("check ") {
            lines.push(line.to_owned());
        } else if line.contains("guest-tools: serving") {
            lines.push(match fetch(page) {
                Ok(text) if text.ends_with("a page from the Guest\n") => {
                    "check page-by-a-forwarded-port ok".to_owned()
                }
                Ok(text) => format!("check page-by-a-forwarded-port failed: {text:?}"),
                Err(cause) => format!("check page-by-a-forwarded-port failed: {cause}"),
            });
        }
        ended |= line.contains("guest-tools: end");
        Heard::Nothing
    });
    let status = match ending {
        Ending::Early(status) if ended => status.and_then(|status| status.code()),
        _ => return Err(fault(session.last_lines())),
    };
    let word = if status == Some(STATUS) { "ok".to_owned() } else { format!("failed: {status:?}") };
    lines.push(format!("check status-of-the-command {word}"));
    Ok(lines)
}

fn free_port() -> Result<u16, Errand> {
    let listener = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    Ok(listener.map_err(fault)?.port())
}

/// Debian's iperf3 on loopback, by the libraries that came with it.
struct Iperf {
    child: Child,
    port: u16,
}

impl Iperf {
    fn start(packages: &Path) -> Result<Iperf, Errand> {
        let port = free_port()?;
        let libraries = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"];
        let paths = libraries.map(|path| packages.join(path).display().to_string()).join(":");
        let program = packages.join("usr/bin/iperf3");
        let mut command = Command::new(&program);
        command.env("LD_LIBRARY_PATH", paths).args(["-s", "-B", "127.0.0.1", "-p", &port.to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Iperf { child: command.spawn().map_err(Errand::file(&program))?, port })
    }
}

impl Drop for Iperf {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A resolver on loopback, on a thread for as long as the errand lives; its port.
fn resolve() -> Result<u16, Errand> {
    let socket = UdpSocket::bind("127.0.0.1:0").map_err(fault)?;
    let port = socket.local_addr().map_err(fault)?.port();
    std::thread::spawn(move || {
        let mut bytes = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut bytes) {
            if let Some(answer) = answer(&bytes[..length]) {
                let _ = socket.send_to(&answer, from);
            }
        }
    });
    Ok(port)
}

/// The answer to a question for an address (RFC 1035, 4.1): that of [`NAME`], or that there is none.
fn answer(question: &[u8]) -> Option<Vec<u8>> {
    let asked = question.get(12..)?;
    let end = asked.iter().position(|byte| *byte == 0)? + 5;
    let asked = asked.get(..end)?;
    let labels = NAME.split('.').flat_map(|label| [&[label.len() as u8][..], label.as_bytes()].concat());
    let wanted: Vec<u8> = labels.chain([0, 0, 1, 0, 1]).collect();
    let known = asked.eq_ignore_ascii_case(&wanted);
    let mut bytes = question[..2].to_vec();
    // An answer, with recursion; without an error, or "there is no such name".
    bytes.extend([0x81, if known { 0x80 } else { 0x83 }, 0, 1, 0, u8::from(known), 0, 0, 0, 0]);
    bytes.extend(asked);
    if known {
        // The name is the question's; an address of the Internet, good for a minute, of four bytes.
        bytes.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        bytes.extend(ADDRESS);
    }
    Some(bytes)
}

fn fetch(port: u16) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

#[test]
fn the_resolver_knows_one_name() {
    let question = |name: &str, kind: u8| {
        let mut bytes = vec![7, 8, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        name.split('.').for_each(|label| {
            bytes.push(label.len() as u8);
            bytes.extend(label.as_bytes());
        });
        bytes.extend([0, 0, kind, 0, 1]);
        bytes
    };
    let told = answer(&question("Guest-Tools.example", 1)).unwrap();
    assert!(told.starts_with(&[7, 8, 0x81, 0x80]) && told.ends_with(&ADDRESS));
    let other = answer(&question("other.example", 1)).unwrap();
    assert_eq!((other[3], other[7]), (0x83, 0));
    assert_eq!(answer(b"short"), None);
}
