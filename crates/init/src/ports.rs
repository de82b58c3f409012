//! Virtio's named ports, found by their names: what udev does where there is one.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// Where the kernel lists them.
const LIST: &str = "/sys/class/virtio-ports";
/// Where programs look.
const PLACE: &str = "/dev/virtio-ports";
/// How long they are waited for: the driver hears of them in messages, right after it was loaded.
const PATIENCE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(1);

/// Names these ports. One that does not come has no name; whoever looks for it says so.
pub fn name(wanted: &[String]) {
    if wanted.is_empty() || fs::create_dir_all(PLACE).is_err() {
        return;
    }
    let end = Instant::now() + PATIENCE;
    let mut missing: Vec<&String> = wanted.iter().collect();
    while !missing.is_empty() && Instant::now() < end {
        let ports = fs::read_dir(LIST).into_iter().flatten().flatten();
        for port in ports {
            let Ok(name) = fs::read_to_string(port.path().join("name")) else { continue };
            let Some(found) = missing.iter().position(|wanted| *wanted == name.trim_end()) else { continue };
            let _ =
                symlink(Path::new("..").join(port.file_name()), Path::new(PLACE).join(missing.remove(found)));
        }
        thread::sleep(PAUSE);
    }
}
