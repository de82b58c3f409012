//! The kernel's drivers: those that the Launcher chose, in the order that it found.

use std::fs;

use lguest_init::plan::MODULES;

use crate::Failure;

/// Loads them and takes their room back.
pub fn load() -> Result<(), Failure> {
    let Ok(entries) = fs::read_dir(MODULES) else { return Ok(()) };
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let module = fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        match rustix::system::init_module(&module, c"") {
            // Another one may be built in, or have been loaded for a device.
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            // Which driver is missing, the mount that needs it would not say.
            Err(errno) => eprintln!("lguest-init: {}: {}", path.display(), std::io::Error::from(errno)),
        }
        let _ = fs::remove_file(&path);
    }
    Ok(())
}
