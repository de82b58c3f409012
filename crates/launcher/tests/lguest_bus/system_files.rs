//! The bus in the Guest's `/sys`, with values that the Host put there.

use crate::guest::{Guest, engines, folder};

#[test]
fn the_attributes_are_the_descriptors_that_the_host_wrote() {
    let folder = folder();
    let disk = folder.path().join("disk");
    std::fs::write(&disk, [0; 512]).unwrap();
    let options = ["--memory", "64M", "--disk", disk.to_str().unwrap(), "--net", "link=files"];
    for engine in engines("the_attributes_are_the_descriptors_that_the_host_wrote") {
        let mut guest = Guest::start(engine, &folder, &options);
        // Disk, network, the pipe that is always there, and the console, which is always last.
        assert_eq!(guest.ask("ls /sys/devices/lguest"), "0\n1\n2\n3");
        assert_eq!(guest.ask("ls /sys/bus/lguest/devices/0"), "features\npfn\nstatus\ntype");
        let types = ["3", "2", "4", "1"];
        // 64 MiB are 16384 pages; the descriptors have the one behind them, and each device but the console the next.
        let pages = ["16385", "16386", "16387", "0"];
        for device in 0..4 {
            let mut attribute =
                |name: &str| guest.ask(&format!("cat /sys/bus/lguest/devices/{device}/{name}"));
            assert_eq!(attribute("type"), types[device], "{engine}, device {device}");
            assert_eq!(attribute("pfn"), pages[device], "{engine}, device {device}");
            // ACKNOWLEDGE, DRIVER and DRIVER_OK: every device has found its driver.
            assert_eq!(attribute("status"), "7", "{engine}, device {device}");
        }
        assert_eq!(guest.ask("echo 128 > /sys/bus/lguest/devices/2/status"), "");
        assert_eq!(guest.ask("cat /sys/bus/lguest/devices/2/status"), "80");
        guest.power_off();
    }
}
