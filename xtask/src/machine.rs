//! The machines that are compared, and the command that starts each.

use crate::errand::Errand;
use crate::packages::{Origin, Packages};
use crate::programs::{find, need, run};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The newest QEMU that Debian offers for its release.
const NEW_QEMU: Packages =
    Packages { name: "qemu", wanted: &["qemu-system-x86", "seabios"], origin: Origin::Backports };

/// Where a program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Machine {
    /// As a process of this Linux.
    Native,
    /// In a Guest of ours.
    Lguest,
    /// In a Guest that the installed QEMU emulates.
    Qemu,
    /// In a Guest that the newest QEMU of Debian's backports emulates.
    NewQemu,
    /// In User-Mode Linux, which brings its own kernel.
    UserMode,
}

/// What a Guest is started with.
pub struct Boot<'a> {
    /// A bzImage.
    pub kernel: &'a Path,
    /// The initramfs whose first process is `bench/init.sh`.
    pub initramfs: &'a Path,
    /// RAM in MiB.
    pub memory: u32,
    /// Processors.
    pub cpus: u32,
    /// Words for the first process, `NAME=VALUE`: the kernel makes variables of them.
    pub words: String,
}

/// The programs that carry Guests.
#[derive(Debug)]
pub struct Carriers {
    /// Our command.
    pub lguest: PathBuf,
    /// The folder that the newer QEMU was unpacked into.
    new_qemu: Option<PathBuf>,
}

impl Carriers {
    /// Our command, and the others where these machines need them. A machine that is not to be had here is left out of
    /// the list with a sentence.
    pub fn gather(lguest: PathBuf, machines: &mut Vec<Machine>) -> Carriers {
        let mut carriers = Carriers { lguest, new_qemu: None };
        machines.retain(|machine| {
            let here = match machine {
                Machine::Native | Machine::Lguest => Ok(()),
                Machine::Qemu => need("qemu-system-x86_64", "qemu-system-x86").map(drop),
                Machine::UserMode => need("linux.uml", "user-mode-linux").map(drop),
                Machine::NewQemu => NEW_QEMU.unpacked().map(|root| carriers.new_qemu = Some(root)),
            };
            if let Err(error) = &here {
                eprintln!("xtask: {} is left out: {error}", machine.key());
            }
            here.is_ok()
        });
        carriers
    }

    /// The newer QEMU, run by its own dynamic linker with its own libraries: this system's may be older.
    fn new_qemu(&self) -> Option<Command> {
        let root = self.new_qemu.as_ref()?;
        let at = |path: &str| root.join(path);
        let mut libraries = Vec::new();
        for folder in ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"] {
            libraries.push(at(folder).display().to_string());
        }
        let mut command = Command::new(at("lib64/ld-linux-x86-64.so.2"));
        command.arg("--library-path").arg(libraries.join(":")).arg(at("usr/bin/qemu-system-x86_64"));
        for folder in ["usr/share/qemu", "usr/share/seabios"] {
            command.arg("-L").arg(at(folder));
        }
        Some(command)
    }
}

impl Machine {
    /// All, in the order of the table.
    pub const ALL: [Machine; 5] =
        [Machine::Native, Machine::Lguest, Machine::Qemu, Machine::NewQemu, Machine::UserMode];

    /// The name on the command line.
    pub fn key(self) -> &'static str {
        ["native", "lguest", "qemu", "newqemu", "uml"][self as usize]
    }

    /// The machine of this name.
    pub fn named(key: &str) -> Result<Machine, Errand> {
        let found = Machine::ALL.into_iter().find(|machine| machine.key() == key);
        found.ok_or_else(|| Errand::Argument(format!("the machine {key}")))
    }

    /// The name in the table, with the version where there is one.
    pub fn title(self, carriers: &Carriers) -> String {
        match self {
            Machine::Native | Machine::Lguest => self.key().to_owned(),
            Machine::UserMode => "UML".to_owned(),
            Machine::Qemu | Machine::NewQemu => {
                let version = self.qemu(carriers).and_then(|mut command| run(command.arg("--version")).ok());
                let number = version.as_deref().and_then(|text| text.split_whitespace().nth(3));
                format!("QEMU {}", number.unwrap_or(self.key()))
            }
        }
    }

    fn qemu(self, carriers: &Carriers) -> Option<Command> {
        if self == Machine::NewQemu { carriers.new_qemu() } else { Some(Command::new("qemu-system-x86_64")) }
    }

    /// The command that boots a Guest there; None natively, where there is nothing to boot.
    pub fn boot(self, carriers: &Carriers, boot: &Boot) -> Option<Command> {
        let words = format!("console=ttyS0 quiet panic=-1 {}", boot.words);
        let memory = format!("{}M", boot.memory);
        let cpus = boot.cpus.to_string();
        let mut command;
        match self {
            Machine::Native => return None,
            Machine::Lguest => {
                command = Command::new(&carriers.lguest);
                command.args(["run", "--engine", "translator", "--quiet", "--memory", &memory]);
                if boot.cpus > 1 {
                    command.args(["--cpus", &cpus]);
                }
                command.arg("--kernel").arg(boot.kernel).arg("--initrd").arg(boot.initramfs);
                command.args(["--cmdline", &words]);
            }
            Machine::Qemu | Machine::NewQemu => {
                command = self.qemu(carriers)?;
                // Not microvm, whose only clock to calibrate by is the PIT: on a busy Host the kernel's calibration
                // fails, and then it waits for ever for a tick. q35 has an HPET, and its start costs the Host the
                // same: 1.74 s of processor time against 1.72 s, medians of three.
                command.args(["-M", "q35", "-accel", "tcg", "-cpu", "max", "-nodefaults", "-no-user-config"]);
                command.args(["-m", &memory, "-smp", &cpus, "-display", "none", "-serial", "stdio"]);
                command.args(["-no-reboot", "-append", &words]);
                command.arg("-kernel").arg(boot.kernel).arg("-initrd").arg(boot.initramfs);
            }
            Machine::UserMode => {
                command = Command::new(find("linux.uml").unwrap_or_else(|| "linux.uml".into()));
                command.arg(format!("initrd={}", boot.initramfs.display())).arg(format!("mem={memory}"));
                command.args(["con0=null,fd:1", "con=null", "quiet", "panic=-1"]);
                command.args(boot.words.split(' '));
            }
        }
        Some(command)
    }
}

/// True when this file is a bzImage: nobody wants minutes of silence for a wrong name.
pub fn is_kernel(path: &Path) -> bool {
    let mut head = [0; 0x206];
    let read = std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut head));
    read.is_ok() && &head[0x202..] == b"HdrS"
}

#[test]
fn every_machine_is_found_by_its_name() {
    for machine in Machine::ALL {
        assert_eq!(Machine::named(machine.key()).expect("a machine"), machine);
    }
    assert!(Machine::named("abacus").is_err());
}
