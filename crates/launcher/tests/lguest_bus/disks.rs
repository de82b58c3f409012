//! `--disk` from end to end: the shell's `read`, `write` and `checksum`, and what the file holds afterwards.

use crate::guest::{Guest, TRANSLATOR, engines, folder};
use std::process::{Command, Stdio};

const SECTOR: usize = 512;

/// CRC-32 as zlib, cksum -a crc32b and the Guest's `checksum` have it, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 })
    })
}

/// 300 sectors, no two alike: more than one request carries, and no whole number of requests.
fn content() -> Vec<u8> {
    (0..300 * SECTOR).map(|at| (at / SECTOR) as u8 ^ (at as u8).wrapping_mul(37)).collect()
}

#[test]
fn a_disk_is_read_written_and_summed_by_one_driver_on_every_bus_and_the_file_agrees() {
    let folder = folder();
    let engines = engines("a_disk_is_read_written_and_summed_by_one_driver_on_every_bus_and_the_file_agrees");
    let buses = ["lguest-dma", "lguest", "pci", "mmio"];
    for (engine, bus) in engines.iter().flat_map(|engine| buses.map(|bus| (*engine, bus))) {
        let path = folder.path().join(format!("{engine}-{bus}"));
        let mut expected = content();
        std::fs::write(&path, &expected).unwrap();
        let mut guest = Guest::start(engine, &folder, &["--bus", bus, "--disk", path.to_str().unwrap()]);
        let devices = guest.ask("devices");
        assert!(devices.contains("driven by lguestblk") && devices.contains("lgba 300 sectors"), "{devices}");
        assert_eq!(guest.ask("checksum lgba"), format!("{:08x}", crc32(&expected)), "{engine}");
        assert_eq!(guest.ask("write lgba 299 the last sector"), "");
        let said = guest.ask("read lgba 299");
        assert!(
            said.starts_with("000  74 68 65 20 6c 61 73 74") && said.contains("the last sector"),
            "{said}"
        );
        expected[299 * SECTOR..].fill(0);
        expected[299 * SECTOR..][..15].copy_from_slice(b"the last sector");
        assert_eq!(guest.ask("checksum lgba"), format!("{:08x}", crc32(&expected)), "{engine}");
        for beyond in ["300", "4294967295"] {
            assert_eq!(guest.ask(&format!("read lgba {beyond}")), "read: Input/output error");
            assert_eq!(guest.ask(&format!("write lgba {beyond} x")), "write: Input/output error");
        }
        guest.power_off();
        assert!(std::fs::read(&path).unwrap() == expected, "{engine}, {bus}: the file differs");
    }
}

#[test]
fn two_disks_have_their_order_and_a_readonly_one_refuses_writes() {
    let folder = folder();
    let (first, second) = (folder.path().join("first"), folder.path().join("second"));
    std::fs::write(&first, content()).unwrap();
    std::fs::write(&second, [7; 2 * SECTOR]).unwrap();
    let readonly = format!("{},readonly", first.display());
    let mut guest =
        Guest::start(TRANSLATOR, &folder, &["--disk", &readonly, "--disk", second.to_str().unwrap()]);
    let devices = guest.ask("devices");
    assert!(devices.contains("lgba 300 sectors") && devices.contains("lgbb 2 sectors"), "{devices}");
    assert_eq!(guest.ask("write lgba 0 x"), "write: Input/output error");
    assert_eq!(guest.ask("checksum lgba"), format!("{:08x}", crc32(&content())));
    assert_eq!(guest.ask("write lgbb 1 y"), "");
    guest.power_off();
    assert!(std::fs::read(&first).unwrap() == content(), "a read-only disk was written");
    assert_eq!(std::fs::read(&second).unwrap()[SECTOR..][..2], *b"y\0");
}

#[test]
fn a_disk_cut_short_under_a_guest_is_its_error_and_not_its_end() {
    let folder = folder();
    let path = folder.path().join("disk");
    std::fs::write(&path, content()).unwrap();
    let mut guest = Guest::start(TRANSLATOR, &folder, &["--disk", path.to_str().unwrap()]);
    std::fs::File::options().write(true).open(&path).unwrap().set_len(SECTOR as u64).unwrap();
    assert_eq!(guest.ask("checksum lgba"), "checksum: Input/output error");
    assert!(guest.ask("read lgba 0").starts_with("000  "));
    guest.power_off();
}

#[test]
fn a_disk_that_cannot_work_is_refused_before_anything_starts() {
    let folder = folder();
    std::fs::write(folder.path().join("empty"), b"").unwrap();
    std::fs::write(folder.path().join("odd"), [0; 1000]).unwrap();
    std::fs::write(folder.path().join("used"), [0; SECTOR]).unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let _user = Guest::start(TRANSLATOR, &folder, &["--disk", &path("used")]);
    for (value, hint) in [
        (path("missing"), "there is no such file"),
        (path(""), "is a directory"),
        (path("empty"), "is empty"),
        (path("odd"), "no multiple of 512"),
        (path("used"), "another machine uses it"),
        ("/dev/null".to_owned(), "is empty"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_lguest"))
            .args(["run", "--disk", &value])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let sentence = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((output.status.code(), sentence.lines().count()), (Some(125), 1), "{sentence}");
        assert!(sentence.starts_with(&format!("lguest: --disk {value}: ")), "{sentence}");
        assert!(sentence.contains(hint) && output.stdout.is_empty(), "{sentence}");
    }
}
