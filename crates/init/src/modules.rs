//! The kernel's drivers: those that the Launcher chose, in the order that it found.
//!
//! One process loads them all, and the kernel reads each file itself (finit_module(2)): a process for each module and a copy
//! of its bytes cost a boot more than the modules' own work. What few machines need is only held, and loaded when it is asked
//! for.

use std::fs::{self, File};
use std::path::PathBuf;

use std::time::Duration;

use lguest_init::plan::{LATER, MODULES, SOON};

/// How long a machine runs before it gets what it does not need at once.
const A_WHILE: Duration = Duration::from_secs(1);

/// Loads them and takes their room back.
pub fn load() {
    for path in files(MODULES) {
        match File::open(&path) {
            Ok(file) => insert(&file, &path.display().to_string()),
            Err(error) => eprintln!("lguest-init: {}: {error}", path.display()),
        }
        let _ = fs::remove_file(&path);
    }
}

/// Drivers that are held for later.
pub struct Later(Vec<(File, String)>);

impl Later {
    /// Those of the agent.
    pub fn of_the_agent() -> Later {
        Later::hold(LATER)
    }

    /// Takes hold of them, for the initramfs is out of sight behind most roots.
    fn hold(folder: &str) -> Later {
        let hold = |path: PathBuf| {
            let file = File::open(&path).ok();
            let _ = fs::remove_file(&path);
            Some((file?, path.display().to_string()))
        };
        Later(files(folder).into_iter().filter_map(hold).collect())
    }

    /// Loads them, and gives their room back.
    pub fn load(self) {
        self.0.iter().for_each(|(file, name)| insert(file, name));
    }
}

/// Loads the rest when the machine has run for a while.
pub fn load_soon() {
    let rest = Later::hold(SOON);
    if !rest.0.is_empty() {
        std::thread::spawn(move || {
            std::thread::sleep(A_WHILE);
            rest.load();
        });
    }
}

/// The files of a folder in the order of their names; none of one that is not there.
fn files(folder: &str) -> Vec<PathBuf> {
    let mut paths: Vec<_> =
        fs::read_dir(folder).into_iter().flatten().flatten().map(|one| one.path()).collect();
    paths.sort();
    paths
}

fn insert(file: &File, name: &str) {
    match rustix::system::finit_module(file, c"", 0) {
        // Another one may be built in, or have been loaded for a device.
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        // Which driver is missing, the mount that needs it would not say.
        Err(errno) => eprintln!("lguest-init: {name}: {}", std::io::Error::from(errno)),
    }
}
