//! The network in a root of the user's own, brought up by lguest-init: nobody there has a script for it.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use crate::command::{debian_is_here, run};
use crate::networks::{free_port, resolver};
use crate::roots::busybox_root;

/// A server whose every page is these words.
fn pages(words: &'static str) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            let mut reader = BufReader::new(&stream);
            let mut line = String::new();
            while reader.read_line(&mut line).is_ok_and(|length| length > 2) {
                line.clear();
            }
            let _ = (&stream).write_all(format!("HTTP/1.0 200 OK\r\n\r\n{words}").as_bytes());
        }
    });
    port
}

#[test]
fn a_directory_root_reaches_the_gateway_a_name_and_a_page_of_the_hosts() {
    let test = "a_directory_root_reaches_the_gateway_a_name_and_a_page_of_the_hosts";
    if !debian_is_here(test) {
        return;
    }
    let root = busybox_root(test);
    // As Debian's: a link to where a program of its own would write.
    std::os::unix::fs::symlink("../run/resolve/stub.conf", root.join("etc/resolv.conf")).unwrap();
    let (dns, page) = (resolver(), pages("a page of the host's\n"));
    let script = format!(
        "ping -c 1 10.0.2.2 >/dev/null && echo ping $?\n\
         ping -c 1 127.0.0.1 >/dev/null && echo loopback $?\n\
         nslookup www.example 2>&1 | grep -o 192.0.2.7\n\
         wget -q -O - http://10.0.2.2:{page}/\n"
    );
    let net = format!("user,host=yes,dns=127.0.0.1:{dns}");
    let words = ["run", root.to_str().unwrap(), "--net", &net, "--", "sh", "-c", &script];
    let done = run(&words, "");
    assert_eq!(done.output, "ping 0\nloopback 0\n192.0.2.7\na page of the host's\n", "{}", done.messages);
    assert_eq!(done.status, Some(0));
    assert!(
        fs::symlink_metadata(root.join("etc/resolv.conf")).unwrap().is_symlink(),
        "the host's own is as it was"
    );
}

#[test]
fn a_page_of_a_directory_roots_is_fetched_through_a_forwarded_port() {
    let test = "a_page_of_a_directory_roots_is_fetched_through_a_forwarded_port";
    if !debian_is_here(test) {
        return;
    }
    let root = busybox_root(test);
    fs::write(root.join("srv/page"), "hello from the root\n").unwrap();
    let port = free_port();
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
    let script = "httpd -p 80 -h /srv; sleep 5";
    let net = format!("user,forward=tcp:{port}:80");
    let done = run(&["run", root.to_str().unwrap(), "--net", &net, "--", "sh", "-c", script], "");
    let page = client.join().unwrap();
    assert!(page.contains("200 OK") && page.ends_with("hello from the root\n"), "{page} {}", done.messages);
}

#[test]
fn a_root_that_is_kept_keeps_its_own_resolvers() {
    let test = "a_root_that_is_kept_keeps_its_own_resolvers";
    if !debian_is_here(test) {
        return;
    }
    let root = busybox_root(test);
    fs::write(root.join("etc/resolv.conf"), "nameserver 192.0.2.99\n").unwrap();
    let done = run(&["run", root.to_str().unwrap(), "--keep", "--", "cat", "/etc/resolv.conf"], "");
    assert_eq!(done.output, "nameserver 10.0.2.3\n", "{}", done.messages);
    assert_eq!(fs::read_to_string(root.join("etc/resolv.conf")).unwrap(), "nameserver 192.0.2.99\n");
}

#[test]
fn a_dhcp_server_on_a_link_gives_a_root_its_address() {
    let test = "a_dhcp_server_on_a_link_gives_a_root_its_address";
    if !debian_is_here(test) {
        return;
    }
    let root = busybox_root(test);
    let net = format!("link=dhcp-{}", std::process::id());
    let other = net.clone();
    let server = std::thread::spawn(move || {
        // Debian's busybox has a server; it stays until its client has been seen. The machine's own first process asked too, and
        // must not ask on when the card has its address: the server would hear it and give it the only one there is.
        let script = "ifconfig eth0 10.9.8.1 netmask 255.255.255.0\n\
                      mkdir -p /var/lib/misc /var/run; touch leases\n\
                      printf 'start 10.9.8.20\\nend 10.9.8.20\\ninterface eth0\\nlease_file /root/leases\\n\
                      option subnet 255.255.255.0\\noption router 10.9.8.1\\noption dns 10.9.8.3\\noption lease 120\\noffer_time 3\\n' >conf\n\
                      udhcpd -f conf 2>/dev/null & \n\
                      for try in $(seq 90); do ping -c 1 -W 1 10.9.8.20 >/dev/null && break; done; sleep 3\n";
        run(&["run", "debian", "--net", &other], script)
    });
    let script = "for try in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30; do\n\
                  grep -q nameserver /etc/resolv.conf 2>/dev/null && break; sleep 2; done\n\
                  cat /etc/resolv.conf; ping -c 1 -W 5 10.9.8.1 >/dev/null; echo ping $?; sleep 2\n";
    let done = run(&["run", root.to_str().unwrap(), "--net", &net, "--", "sh", "-c", script], "");
    let served = server.join().unwrap();
    assert_eq!(done.output, "nameserver 10.9.8.3\nping 0\n", "{} {}", done.messages, served.messages);
}
