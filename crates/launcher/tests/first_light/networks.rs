//! `--net user` from both ends: a Debian Guest's own tools, and sockets of the test's on the host's loopback.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use super::command::{debian_is_here, run};

/// A DNS server that knows one name: everything is at 192.0.2.7.
pub fn resolver() -> u16 {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = socket.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let mut question = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut question) {
            let mut answer = question[..length].to_vec();
            (answer[2], answer[3]) = (0x81, 0x80);
            // An address is asked for (type 1), or something that there is none of.
            if question[length - 4..length] == [0, 1, 0, 1] {
                answer[7] = 1;
                answer.extend([0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 7]);
            }
            let _ = socket.send_to(&answer, from);
        }
    });
    port
}

/// A server that reads all of a connection, sends the bytes back in reverse order and closes.
fn mirror() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).unwrap();
            bytes.reverse();
            stream.write_all(&bytes).unwrap();
        }
    });
    port
}

/// A port that nobody has now.
pub fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

#[test]
fn a_debian_guest_reaches_the_gateway_a_name_and_the_host_byte_for_byte() {
    if !debian_is_here("a_debian_guest_reaches_the_gateway_a_name_and_the_host_byte_for_byte") {
        return;
    }
    let (dns, mirror, nobody) = (resolver(), mirror(), free_port());
    // Text, so that busybox can turn it round: the last line's order and each line's bytes.
    let script = format!(
        "ping -c 1 10.0.2.2 >/dev/null && echo ping $?\n\
         nslookup www.example 2>&1 | grep -o 192.0.2.7\n\
         udhcpc -i eth0 -n -q -s /bin/true 2>&1 | grep -o 'lease of 10.0.2.15'\n\
         head -c 1000000 /dev/urandom | base64 | tr -d '\\n' >there\n\
         nc 10.0.2.2 {mirror} <there >back\n\
         wc -c <back\n\
         rev there | tr -d '\\n' | cmp - back && echo same\n\
         wget -q -O - http://10.0.2.2:{nobody}/ 2>&1 | grep -o refused\n\
         wget -q -O - http://127.0.0.1:9/ 2>&1 | grep -o refused\n"
    );
    let net = format!("user,host=yes,dns=127.0.0.1:{dns}");
    let done = run(&["run", "debian", "--engine", "translator", "--net", &net], &script);
    assert_eq!(
        done.output, "ping 0\n192.0.2.7\nlease of 10.0.2.15\n1333336\nsame\nrefused\nrefused\n",
        "{}",
        done.messages
    );
    assert_eq!(done.status, Some(0));
}

#[test]
fn a_page_is_fetched_through_a_forwarded_port() {
    if !debian_is_here("a_page_is_fetched_through_a_forwarded_port") {
        return;
    }
    let port = free_port();
    // The connection waits until the Guest is there; the Guest shows itself when its server is.
    let client = std::thread::spawn(move || {
        let end = Instant::now() + Duration::from_secs(100);
        let mut page = String::new();
        while !page.contains("hello") && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(50));
            let Ok(mut stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) else { continue };
            page.clear();
            let _ = stream.write_all(b"GET /page HTTP/1.0\r\n\r\n");
            let _ = stream.read_to_string(&mut page);
        }
        page
    });
    let script = "mkdir www; echo hello from the Guest >www/page\n\
                  httpd -p 80 -h www; ping -c 1 10.0.2.2 >/dev/null; sleep 5\n";
    let net = format!("user,forward=tcp:{port}:80");
    let done = run(&["run", "debian", "--engine", "translator", "--net", &net], script);
    let page = client.join().unwrap();
    assert!(page.contains("200 OK") && page.ends_with("hello from the Guest\n"), "{page} {}", done.messages);
}

#[test]
fn a_resolver_that_does_not_answer_is_a_failure_that_comes_in_time() {
    if !debian_is_here("a_resolver_that_does_not_answer_is_a_failure_that_comes_in_time") {
        return;
    }
    let silent = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let net = format!("user,dns=127.0.0.1:{}", silent.local_addr().unwrap().port());
    let done = run(
        &[
            "run",
            "debian",
            "--engine",
            "translator",
            "--net",
            &net,
            "--",
            "nslookup",
            "-type=a",
            "www.example",
        ],
        "",
    );
    assert!(done.output.contains("SERVFAIL"), "{} {}", done.output, done.messages);
    assert_eq!(done.status, Some(1));
}

#[test]
fn a_port_that_is_taken_is_a_mistake_in_one_sentence() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let net = format!("user,forward=tcp:{port}:80");
    let done = run(&["run", "debian", "--net", &net], "");
    assert_eq!(done.status, Some(125));
    let expected = format!(
        "lguest: --net {net}: forward=tcp:{port}:80 cannot work: another program has port {port}; choose another port"
    );
    assert_eq!(done.sentences(), [expected]);
}

#[test]
fn two_debian_machines_on_a_link_ping_each_other() {
    if !debian_is_here("two_debian_machines_on_a_link_ping_each_other") {
        return;
    }
    let net = format!("link=debian-{}", std::process::id());
    let machine = |me: u8, other: u8| {
        let net = format!("{net},ip=10.9.0.{me}/24");
        std::thread::spawn(move || {
            // Each waits for the other, and stays until the other has seen it too.
            let script = format!(
                "for try in $(seq 60); do ping -c 1 -W 1 10.9.0.{other} >/dev/null && break; done\n\
                 ping -c 3 -s 1400 10.9.0.{other} | grep -o '[0-9]* packets received'\n\
                 sleep 5\n"
            );
            run(&["run", "debian", "--engine", "translator", "--net", &net], &script)
        })
    };
    for machine in [machine(1, 2), machine(2, 1)] {
        let done = machine.join().unwrap();
        assert_eq!((done.status, &*done.output), (Some(0), "3 packets received\n"), "{}", done.messages);
    }
}

#[test]
fn a_debian_machine_and_a_default_guest_meet_on_one_link() {
    if !debian_is_here("a_debian_machine_and_a_default_guest_meet_on_one_link") {
        return;
    }
    let net = format!("link=mixed-{}", std::process::id());
    let debian = {
        let net = net.clone();
        std::thread::spawn(move || {
            // Stays until the other has answered; its own ping is the proof both ways.
            let script = "ifconfig eth0 10.9.0.1 netmask 255.255.255.0\n\
                          for try in $(seq 60); do ping -c 1 -W 1 10.9.0.3 >/dev/null && break; done\n\
                          ping -c 2 10.9.0.3 | grep -o '[0-9]* packets received'\n";
            run(&["run", "debian", "--engine", "translator", "--net", &net], script)
        })
    };
    // The end of its input would end the default Guest, so it is held open until Debian has seen it.
    let mut guest = super::command::lguest()
        .args(["run", "--engine", "translator", "--net", &net])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let mut commands = guest.stdin.take().unwrap();
    commands.write_all(b"net ip 10.9.0.3\n").unwrap();
    // A default Guest answers while its shell waits for a line.
    while !debian.is_finished() {
        std::thread::sleep(Duration::from_millis(200));
        commands.write_all(b"net ping 10.9.0.1\n").unwrap();
    }
    drop(commands);
    let done = debian.join().unwrap();
    assert_eq!(done.output, "2 packets received\n", "{}", done.messages);
    assert_eq!(super::command::wait(&mut guest, super::command::PATIENCE), Some(0));
}

/// A tap of the host's with this address, for as long as it lives; none where it cannot be made.
struct Tap(String);

impl Tap {
    fn new(test: &str, letter: char, address: &str) -> Option<Tap> {
        let tap = Tap(format!("lgt{letter}{}", std::process::id() % 100_000));
        if !host(&["tuntap", "add", "dev", &tap.0, "mode", "tap"]) {
            eprintln!("SKIPPED {test}: making a tap needs root and the program ip");
            return None;
        }
        assert!(host(&["addr", "add", address, "dev", &tap.0]) && host(&["link", "set", &tap.0, "up"]));
        Some(tap)
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        host(&["tuntap", "del", "dev", &self.0, "mode", "tap"]);
    }
}

fn host(words: &[&str]) -> bool {
    let done = std::process::Command::new("ip").args(words).stderr(std::process::Stdio::null()).status();
    done.is_ok_and(|status| status.success())
}

#[test]
fn a_tap_of_the_hosts_leads_to_the_host_from_the_address_that_was_said() {
    let test = "a_tap_of_the_hosts_leads_to_the_host_from_the_address_that_was_said";
    let Some(tap) = Tap::new(test, 'd', "10.8.77.1/24") else { return };
    if !debian_is_here(test) {
        return;
    }
    // Beside the user network, whose card is the first.
    let net = format!("tap={},ip=10.8.77.2/24,dns=10.8.77.3", tap.0);
    let script = "ping -c 3 -s 1400 10.8.77.1 | grep -o '[0-9]* packets received'\n\
                  cat /etc/resolv.conf; ifconfig eth1 | grep -o 'addr:10.8.77.2'\n\
                  ifconfig eth0 | grep -o 'addr:10.0.2.15'\n";
    let done = run(&["run", "debian", "--engine", "translator", "--net", "user", "--net", &net], script);
    assert_eq!(
        done.output, "3 packets received\nnameserver 10.8.77.3\naddr:10.8.77.2\naddr:10.0.2.15\n",
        "{}",
        done.messages
    );
}

#[test]
fn a_tap_leads_the_default_guest_to_the_host_on_each_bus_of_virtios() {
    let test = "a_tap_leads_the_default_guest_to_the_host_on_each_bus_of_virtios";
    let Some(tap) = Tap::new(test, 'g', "10.8.78.1/24") else { return };
    for bus in ["pci", "mmio", "lguest"] {
        // A busy host may take its second; each question is a new one.
        let script = format!("net ip 10.8.78.2\n{}poweroff\n", "net ping 10.8.78.1\n".repeat(5));
        let net = format!("tap={}", tap.0);
        let done = run(&["run", "--engine", "translator", "--bus", bus, "--net", &net], &script);
        assert_eq!(done.status, Some(0), "{bus}: {}", done.messages);
        assert!(done.output.contains("answer from "), "{bus}: {}", done.output);
    }
}
