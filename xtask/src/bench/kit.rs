//! What the machines are given: a kernel, two initramfs archives and a folder with the same programs for the native run.

use super::source;
use crate::errand::Errand;
use crate::initramfs::Contents;
use crate::inputs;
use crate::packages::{Origin, Packages};
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Programs of Debian's that run in the machines.
const PROGRAMS: Packages =
    Packages { name: "programs", wanted: &["python3-minimal", "gcc", "libc6-dev"], origin: Origin::Release };
/// Libraries that are linked into `librarybench`.
const LIBRARIES: Packages = Packages {
    name: "libraries",
    wanted: &["liblua5.4-dev", "libsqlite3-dev", "zlib1g-dev"],
    origin: Origin::Release,
};
/// Parts of the compiler's packages that compiling one C file does not touch: 100 MB that each Guest would unpack.
const NOT_NEEDED: [&str; 6] = [
    "usr/lib/gcc/x86_64-linux-gnu/12/lto1",
    "usr/lib/gcc/x86_64-linux-gnu/12/libasan.a",
    "usr/lib/gcc/x86_64-linux-gnu/12/libtsan.a",
    "usr/lib/gcc/x86_64-linux-gnu/12/liblsan.a",
    "usr/lib/gcc/x86_64-linux-gnu/12/libubsan.a",
    "usr/lib/gcc/x86_64-linux-gnu/12/plugin",
];
/// The scripts of `bench/` that go into the folder of tools.
const SCRIPTS: [&str; 5] = ["rows.sh", "thousand.sh", "compile.sh", "processors.sh", "work.py"];

/// Everything that a comparison needs.
pub struct Kit {
    /// Debian's cloud kernel, or the one that was asked for.
    pub kernel: PathBuf,
    /// busybox and nothing else.
    pub small: PathBuf,
    /// All programs.
    pub large: PathBuf,
    tools: PathBuf,
    root: PathBuf,
}

impl Kit {
    /// Compiles, fetches and packs what is missing.
    pub fn gather(lguest: &Path, kernel: PathBuf) -> Result<Kit, Errand> {
        let root = PROGRAMS.unpacked()?;
        for path in NOT_NEEDED.map(|path| root.join(path)) {
            // Gone already the second time; another release's compiler has other paths, and then it is only larger.
            let _ = std::fs::remove_file(&path);
            let _ = std::fs::remove_dir_all(&path);
        }
        let tools = tools()?;
        let small = Contents::new().archive(lguest, "start")?;
        let mut contents = Contents::new();
        contents.add_root(&root)?;
        contents.add(&tools, "/bench");
        let large = contents.archive(lguest, "bench")?;
        Ok(Kit { kernel, small, large, tools, root })
    }

    /// The rows, natively: the script that the Guests run, with the same programs.
    pub fn native(&self, rows: &str, limit: u64) -> Command {
        let mut command = Command::new(self.tools.join("busybox"));
        command.arg("sh").arg(self.tools.join("rows.sh"));
        command.env("TOOLS", &self.tools).env("ROOT", &self.root);
        command.env("ROWS", rows).env("LIMIT", limit.to_string());
        command
    }
}

/// The folder of our own programs and scripts.
fn tools() -> Result<PathBuf, Errand> {
    let folder = inputs::workshop()?.join("tools");
    std::fs::create_dir_all(&folder).map_err(Errand::file(&folder))?;
    let copy = |from: &Path, name: &str| -> Result<(), Errand> {
        // A running program's file cannot be written, but it can be replaced.
        let draft = folder.join(format!("{name}.draft"));
        std::fs::copy(from, &draft).map_err(Errand::file(from))?;
        std::fs::set_permissions(&draft, Permissions::from_mode(0o755)).map_err(Errand::file(&draft))?;
        std::fs::rename(&draft, folder.join(name)).map_err(Errand::file(&draft))
    };
    let libraries = LIBRARIES.unpacked()?;
    let at = |option: &str, path: &str| format!("{option}{}", libraries.join(path).display());
    let words = [
        at("-I", "usr/include/lua5.4"),
        at("-I", "usr/include/x86_64-linux-gnu"),
        at("-idirafter", "usr/include"),
        at("-L", "usr/lib/x86_64-linux-gnu"),
    ];
    let libraries = ["-llua5.4", "-lsqlite3", "-lz", "-lm"].map(str::to_owned);
    copy(&inputs::compiled("guestbench", &[])?, "guestbench")?;
    copy(&inputs::compiled("timed", &[])?, "timed")?;
    copy(&inputs::compiled("librarybench", &[&words[..], &libraries].concat())?, "librarybench")?;
    copy(&inputs::busybox()?, "busybox")?;
    for name in SCRIPTS {
        copy(&inputs::root().join("bench").join(name), name)?;
    }
    let program = folder.join("program.c");
    std::fs::write(&program, source::text()).map_err(Errand::file(&program))?;
    Ok(folder)
}
