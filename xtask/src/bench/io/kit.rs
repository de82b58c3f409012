//! What the machines are given: Debian's general kernel with the drivers that a Guest of each kind needs, an initramfs with
//! fio, git and our own programs, a disk, a tree of files, and a root.

use crate::errand::Errand;
use crate::initramfs::Contents;
use crate::inputs;
use crate::packages::{Origin, Packages};
use crate::programs::run;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Programs of Debian's.
const PROGRAMS: Packages = Packages { name: "io", wanted: &["fio", "git"], origin: Origin::Release };
/// Those of them that run, without the leading slash.
const RUN: [&str; 2] = ["usr/bin/fio", "usr/bin/git"];
/// The kernel: not the cloud one, which lacks the file system that QEMU shares directories by.
const KERNEL: Packages = Packages { name: "kernel", wanted: &["linux-image-amd64"], origin: Origin::Release };
/// Its drivers, each after all that it depends on. What is built in is not found, and not missed.
const MODULES: [&str; 17] = [
    "virtio_ring",
    "virtio",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "virtio_blk",
    "failover",
    "net_failover",
    "virtio_net",
    "fuse",
    "virtiofs",
    "netfs",
    "fscache",
    "9pnet",
    "9pnet_virtio",
    "9p",
    "virtio_console",
];
/// The disk's size in MiB: more than any cache of a processor, and less than a host leaves unwritten.
pub const DISK_MIB: u64 = 512;
/// The tree: folders, files in each, and bytes of the largest file.
const TREE: (usize, usize, usize) = (500, 20, 16_000);
/// Bytes that the console carries, in lines of 64.
pub const CONSOLE: usize = 1 << 20;

/// Everything that the comparison needs.
pub struct Kit {
    /// A bzImage, the same for all but User-Mode Linux.
    pub kernel: PathBuf,
    /// All programs.
    pub initramfs: PathBuf,
    /// busybox and nothing else.
    pub small: PathBuf,
    /// The disk, as large as [`DISK_MIB`] says and full of bytes.
    pub disk: PathBuf,
    /// The tree, with a repository.
    pub tree: PathBuf,
    /// A root that a Guest can start from.
    pub root: PathBuf,
    /// Our own programs, and what stands before the `/usr` of Debian's.
    tools: PathBuf,
    programs: PathBuf,
}

impl Kit {
    /// Compiles, fetches and makes what is missing.
    pub fn gather(lguest: &Path) -> Result<Kit, Errand> {
        let folder = inputs::workshop()?.join("io");
        let at = |name: &str| folder.join(name);
        for name in ["tools", "modules", "tree/src", "root/bin"] {
            fs::create_dir_all(at(name)).map_err(Errand::file(at(name)))?;
        }
        // Also brings busybox into the command's cache.
        inputs::vmlinuz(lguest, inputs::KERNELS[0])?;
        let programs = closure(&PROGRAMS.unpacked()?, &at("programs"))?;
        let tools = tools(&at("tools"))?;
        let kernel = kernel(&at("modules"))?;
        let small = Contents::new().archive(lguest, "start")?;
        let mut contents = Contents::new();
        contents.add_root(&programs)?;
        contents.add(&tools, "/bench");
        contents.add(at("modules"), "/modules");
        let initramfs = contents.archive(lguest, "io")?;
        for name in ["busybox", "true"] {
            copy(&inputs::busybox()?, &at("root/bin").join(name))?;
        }
        let kit = Kit {
            kernel,
            initramfs,
            small,
            disk: at("disk"),
            tree: at("tree"),
            root: at("root"),
            tools,
            programs,
        };
        kit.fill_disk()?;
        kit.grow_tree()?;
        Ok(kit)
    }

    /// A command with the variables of `bench/io.sh` for this Linux; `words` are the others' kernel's, `NAME=VALUE`.
    pub fn native(&self, words: &str) -> Command {
        let mut command = Command::new(self.tools.join("busybox"));
        command.arg("sh").arg(self.tools.join("io.sh"));
        command.env("TOOLS", &self.tools).env("ROOT", &self.programs).env("TREE", &self.tree);
        command.env("HOST", "127.0.0.1").env("DISK", &self.disk).env("DIRECT", "0").env("GUEST", "");
        command.envs(words.split(' ').filter_map(|word| word.split_once('=')).filter(|(name, _)| {
            // Where the Guests find what is elsewhere here.
            !["DISK", "SHARE", "WORK"].contains(name)
        }));
        command
    }

    /// A disk of holes would be read from nowhere.
    fn fill_disk(&self) -> Result<(), Errand> {
        let whole = DISK_MIB << 20;
        if fs::metadata(&self.disk).is_ok_and(|facts| facts.len() == whole) {
            return Ok(());
        }
        let mut file = fs::File::create(&self.disk).map_err(Errand::file(&self.disk))?;
        let mut piece = vec![0; 1 << 20];
        for number in 0..DISK_MIB {
            piece.iter_mut().enumerate().for_each(|(at, byte)| *byte = (at as u64 * 31 + number) as u8);
            file.write_all(&piece).map_err(Errand::file(&self.disk))?;
        }
        Ok(())
    }

    /// Files of all sizes up to the largest, and a repository that holds them.
    fn grow_tree(&self) -> Result<(), Errand> {
        let whole = self.tree.join(".whole");
        if whole.exists() {
            return Ok(());
        }
        let (folders, files, largest) = TREE;
        let mut text = String::new();
        for line in 0..largest / 16 {
            writeln!(text, "line {line:10}").expect("a string takes text");
        }
        for folder in 0..folders {
            let place = self.tree.join(format!("src/{}/{folder}", folder % 20));
            fs::create_dir_all(&place).map_err(Errand::file(&place))?;
            for file in 0..files {
                let path = place.join(format!("{file}.txt"));
                let length = (folder * files + file) * 7919 % text.len();
                fs::write(&path, &text[..length]).map_err(Errand::file(&path))?;
            }
        }
        let git = |words: &[&str]| {
            let mut command = Command::new(self.programs.join("usr/bin/git"));
            let libraries = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"];
            let paths = libraries.map(|path| self.programs.join(path).display().to_string()).join(":");
            command.env("LD_LIBRARY_PATH", paths).env("GIT_CONFIG_NOSYSTEM", "1").env("HOME", &self.tree);
            for side in ["AUTHOR", "COMMITTER"] {
                command
                    .env(format!("GIT_{side}_NAME"), "bench")
                    .env(format!("GIT_{side}_EMAIL"), "bench@bench");
            }
            run(command.arg("-C").arg(&self.tree).args(words))
        };
        git(&["init", "--quiet"])?;
        git(&["add", "src"])?;
        git(&["commit", "--quiet", "--message", "all"])?;
        fs::write(self.tree.join(".git/info/exclude"), ".whole\n").map_err(Errand::file(&self.tree))?;
        fs::write(&whole, "").map_err(Errand::file(&whole))
    }
}

/// A running program's file cannot be written, but it can be replaced.
fn copy(from: &Path, to: &Path) -> Result<(), Errand> {
    use std::os::unix::fs::PermissionsExt;
    let draft = to.with_extension("draft");
    fs::copy(from, &draft).map_err(Errand::file(from))?;
    let mode = fs::Permissions::from_mode(0o755);
    fs::set_permissions(&draft, mode).and_then(|()| fs::rename(&draft, to)).map_err(Errand::file(to))
}

/// Our own programs and scripts.
fn tools(folder: &Path) -> Result<PathBuf, Errand> {
    for name in ["network", "timed"] {
        copy(&inputs::compiled(name, &[])?, &folder.join(name))?;
    }
    copy(&inputs::busybox()?, &folder.join("busybox"))?;
    copy(&inputs::root().join("bench/io.sh"), &folder.join("io.sh"))?;
    let lines = format!("{}\n", "0123456".repeat(9)).repeat(CONSOLE / 64);
    fs::write(folder.join("lines"), lines).map_err(Errand::file(folder))?;
    Ok(folder.to_path_buf())
}

/// The programs with the libraries that they name, and nothing else: packages bring ten times as much.
fn closure(unpacked: &Path, folder: &Path) -> Result<PathBuf, Errand> {
    // The last is where a library of fio's looks for its own.
    let libraries = ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu/ceph"];
    let search = libraries.map(|path| unpacked.join(path).display().to_string()).join(":");
    let loader = "lib64/ld-linux-x86-64.so.2";
    let mut wanted: BTreeSet<PathBuf> = BTreeSet::from([PathBuf::from(loader)]);
    for program in RUN {
        wanted.insert(program.into());
        let mut list = Command::new(unpacked.join(loader));
        let list = run(list.arg("--library-path").arg(&search).arg("--list").arg(unpacked.join(program)))?;
        let paths = list.lines().filter_map(|line| line.split_once(" => ")?.1.split(' ').next());
        wanted
            .extend(paths.filter_map(|path| Path::new(path).strip_prefix(unpacked).ok().map(PathBuf::from)));
    }
    for path in wanted {
        let to = folder.join(&path);
        let above = to.parent().expect("below a folder");
        fs::create_dir_all(above).map_err(Errand::file(above))?;
        copy(&unpacked.join(&path), &to)?;
    }
    Ok(folder.to_path_buf())
}

/// The kernel's image; its drivers go into `folder`, with the order to load them in.
fn kernel(folder: &Path) -> Result<PathBuf, Errand> {
    let root = KERNEL.unpacked()?;
    let mut found = run(Command::new("find").arg(root.join("lib/modules")).args(["-name", "*.ko"]))?;
    found.push('\n');
    for name in MODULES {
        let file = |line: &&str| {
            let stem = line.rsplit('/').next().and_then(|file| file.strip_suffix(".ko"));
            stem.is_some_and(|stem| stem.replace('-', "_") == name)
        };
        if let Some(path) = found.lines().find(file) {
            copy(Path::new(path), &folder.join(format!("{name}.ko")))?;
        }
    }
    fs::write(folder.join("order"), MODULES.join("\n")).map_err(Errand::file(folder))?;
    let boot = root.join("boot");
    let images = fs::read_dir(&boot).map_err(Errand::file(&boot))?.flatten().map(|entry| entry.path());
    let image = images
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz")));
    image.max().ok_or_else(|| Errand::Failed {
        what: "finding a kernel".into(),
        why: format!("there is none in {}", boot.display()),
    })
}
