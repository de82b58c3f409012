//! The command line. Names and meaning are a contract (design.md, "Command line"); values are read elsewhere.
//!
//! Values that can be wrong in more than one way arrive here as text, so that the room that knows what would do
//! can say it in its own sentence.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

use crate::images::command::ImagesArguments;
use crate::running::command::StopArguments;
use crate::running::exec::ExecArguments;

const EXAMPLES: &str = "\
Examples:
  lguest run                                     the default Guest: a small kernel with a shell; try help
  echo 'net ping all' | lguest run --net link=x  its commands from a pipe; the end of input turns it off
  lguest run -- devices                          one of its commands; its exit status is lguest's
  lguest run debian                              a shell on Debian's own kernel; the first time it is downloaded
  lguest run debian -- uname -a                  one command; its exit status is lguest's
  echo 'echo $((6*7))' | lguest run debian       a script from a pipe
  lguest run debian:linux-image-amd64            another kernel package of Debian's
  lguest run ./rootfs -- ls /                    a directory as root, or an image; changes are thrown away
  lguest run image.tar; lguest run localhost:5000/tool:v1    an image, from docker save or a registry
  lguest run bzImage --initrd initrd.img         your own kernel and initial RAM disk

Exit status:
  COMMAND's or the shell's own; 0 when the Guest switches itself off; 124 at the time limit;
  125 for a mistake in the request; 126 for a Guest that died; 128+N when signal N ended lguest.

While the console is attached, Ctrl-A X stops the machine and Ctrl-A Ctrl-A sends Ctrl-A.";

/// Virtual machines that start anywhere Linux runs on x86-64, with KVM or without, as an ordinary user.
#[derive(Debug, Parser)]
#[command(name = "lguest", version, after_help = EXAMPLES, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a machine
    #[command(after_help = EXAMPLES)]
    Run(Box<RunArguments>),
    /// List the machines that run
    Ps,
    /// Run a program in a machine that runs: debian, a directory or an image as root
    Exec(ExecArguments),
    /// Stop machines: press the power button, and pull the plug when that is of no use
    Stop(StopArguments),
    /// Tell what this machine offers, which engine would run, and what would make it faster
    Doctor,
    /// List the devices and buses of the machine that a Guest sees
    Devices,
    /// Print where the library is that gives /dev/lguest to programs that know it, as in
    /// `LD_PRELOAD=$(lguest preload) ./program`
    Preload,
    /// List the images in the cache, or remove some
    Images(ImagesArguments),
    /// Build an initial RAM disk around Debian's busybox, for `lguest run --initrd`
    Initramfs(InitramfsArguments),
    /// Print a script that completes lguest's words in a shell, as in `source <(lguest completions bash)`
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the manual's page, as in `lguest man run | man -l -`
    Man {
        /// A subcommand with a page of its own
        subcommand: Option<String>,
    },
}

/// `lguest run`.
#[derive(Clone, Debug, Args)]
pub struct RunArguments {
    /// What to run: `debian`, `debian:PACKAGE` for one of Debian's kernel packages, or the path of a kernel
    /// (bzImage; ELF of 64 or 32 bits, PVH and Multiboot among them). Without it, the default Guest, which comes with lguest
    pub guest: Option<String>,

    /// The kernel: a bzImage, an ELF file, or any file with a Multiboot header. With the Guest `debian` it takes the place of Debian's
    #[arg(long, value_name = "PATH")]
    pub kernel: Option<PathBuf>,

    /// The initial RAM disk. With the Guest `debian` it takes the place of the one that lguest builds
    #[arg(long, value_name = "PATH")]
    pub initrd: Option<PathBuf>,

    /// The kernel's whole command line, in place of lguest's own
    #[arg(long, value_name = "TEXT")]
    pub cmdline: Option<String>,

    /// The Guest's memory, in bytes or with K, M, G or T
    #[arg(long, value_name = "SIZE", default_value = "256M", allow_hyphen_values = true)]
    pub memory: String,

    /// How many processors, 1 to 8
    #[arg(long, value_name = "N", default_value = "1", allow_hyphen_values = true)]
    pub cpus: String,

    /// Which of the processor's features the Guest finds: host or x86-64-v1 to x86-64-v4, then -NAME to hide and +NAME to
    /// show again, as in x86-64-v2,+movbe or -avx512f,-avx2; names as in /proc/cpuinfo
    #[arg(long, value_name = "LIST", default_value = "host", allow_hyphen_values = true)]
    pub cpu_features: String,

    /// What executes the Guest's instructions: auto, kvm or translator
    #[arg(long, value_name = "ENGINE", default_value = "auto")]
    pub engine: String,

    /// Which machine: pc, lguest32 for a Linux of 32 bits with lguest's sub-architecture (CONFIG_LGUEST_GUEST), or auto, which
    /// looks at the kernel
    #[arg(long, value_name = "MACHINE", default_value = "auto")]
    pub machine: String,

    /// A disk: PATH[,readonly][,format=raw|qcow2][,serial=TEXT][,backing=PATH]; Linux finds the first as /dev/vda. A qcow2
    /// file's backing files are opened only when each is named, from the top down. May be repeated
    #[arg(long, value_name = "PATH")]
    pub disk: Vec<String>,

    /// A network: user[,forward=tcp:8080:80][,allow=ADDRESS/BITS:PORT][,host=yes][,dns=ADDRESS] by the host's own sockets
    /// (usual for debian), link=NAME for machines of yours on this host, tap=NAME, or none. Behind a link or a tap
    /// ,ip=ADDRESS/PREFIX[,gateway=ADDRESS][,dns=ADDRESS] is the Guest's there, in place of what a DHCP server says. May be repeated
    #[arg(long, value_name = "NET")]
    pub net: Vec<String>,

    /// Sockets between the Guest and this host, for Linux (AF_VSOCK; the host's address is 2, the Guest's 3): a program that
    /// connects to the Unix socket PATH and says "CONNECT port" is at that port of the Guest's, and PATH_port is where the
    /// Guest finds a program of the host's
    #[arg(long, value_name = "PATH")]
    pub vsock: Option<PathBuf>,

    /// A directory of this host's, for Linux: DIR[:TAG][,readonly]; found at /mnt/TAG, TAG being DIR's last name unless
    /// given. May be repeated
    #[arg(long, value_name = "DIR")]
    pub share: Vec<String>,

    /// What the Guest changes in its root, a directory or an image, stays. Without it the root is only read, and changes
    /// are gone at the end
    #[arg(long)]
    pub keep: bool,

    /// Who runs COMMAND or the shell in the Guest, by name or number; root unless given
    #[arg(long, value_name = "USER[:GROUP]")]
    pub user: Option<String>,

    /// How the Guest finds its devices: pci (usual for Linux) or mmio, both virtio; lguest-dma is the default Guest's own,
    /// which finds its devices on the other two as well, and disks on lguest (virtio on a page of descriptors).
    /// A kernel learns of mmio by ACPI; mmio,announce=cmdline says it by virtio_mmio.device= on its command line
    #[arg(long, value_name = "BUS")]
    pub bus: Option<String>,

    /// The console: serial, or virtio, which follows the terminal's size; Linux finds it as hvc0
    #[arg(long, value_name = "KIND", default_value = "serial")]
    pub console: String,

    /// A port between a program in the Guest, where Linux shows it as /dev/virtio-ports/NAME, and a socket or a file of this
    /// host's: NAME=unix:PATH is listened at, NAME=file:PATH is written. May be repeated
    #[arg(long, value_name = "NAME=PLACE")]
    pub port: Vec<String>,

    /// A variable for COMMAND or the shell; without VALUE, with the value it has here. May be repeated
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub env: Vec<String>,

    /// The directory in the Guest that COMMAND or the shell starts in
    #[arg(long, value_name = "PATH")]
    pub workdir: Option<String>,

    /// Stop the machine after so many seconds, with exit status 124
    #[arg(long, value_name = "SECONDS", allow_hyphen_values = true)]
    pub timeout: Option<String>,

    /// At the end, and on SIGUSR1, print what the machine did on standard error: code made, memory taken, exits by
    /// cause, time by kind; --stats=json for programs
    #[arg(long, value_name = "FORM", num_args = 0..=1, require_equals = true, default_missing_value = "table")]
    pub stats: Option<String>,

    /// At the end, print on standard error where the time went: to the kernel, to the first process, to the command, to its end
    #[arg(long)]
    pub time: bool,

    /// Write /tmp/perf-PID.map, so that perf shows which of the Guest's code runs
    #[arg(long)]
    pub perf_map: bool,

    /// Wait for GDB before the Guest's first instruction; without an ADDRESS only this host can connect
    #[arg(long, value_name = "[ADDRESS:]PORT|unix:PATH")]
    pub gdb: Option<String>,

    /// The kernel's function names for --perf-map: an ELF file with symbols, or a list like System.map and /proc/kallsyms
    #[arg(long, value_name = "FILE")]
    pub symbols: Option<PathBuf>,

    /// What the run may ask of the host once its machine is built: auto (little, as far as the kernel can enforce
    /// it), on (or it is refused) or off
    #[arg(long, value_name = "WISH", default_value = "auto")]
    pub sandbox: String,

    /// Print no progress, only what the Guest prints, the engine and what went wrong
    #[arg(long)]
    pub quiet: bool,

    /// What lguest tells about itself on standard error: error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", default_value = "warn")]
    pub log_level: String,

    /// A command to run in the Guest in place of a shell, with its arguments
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// `lguest initramfs`.
#[derive(Debug, Args)]
pub struct InitramfsArguments {
    /// Where to write it
    #[arg(long, value_name = "PATH")]
    pub output: PathBuf,

    /// Add a file or a directory: what it is on the Host, and its path in the Guest. May be repeated
    #[arg(long, value_name = "HOSTPATH:GUESTPATH")]
    pub add: Vec<String>,

    /// A script or program to start as the first process, in place of lguest's own. It then decides what
    /// happens; COMMAND and a piped standard input need lguest's own
    #[arg(long, value_name = "SCRIPT")]
    pub init: Option<PathBuf>,
}

/// What clap says of a mistake, on one line and without its own decoration.
pub fn one_sentence(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let first = text.split("\n\n").next().unwrap_or_default();
    let words: Vec<&str> = first.split_whitespace().collect();
    let sentence = words.join(" ");
    let sentence = sentence.strip_prefix("error: ").unwrap_or(&sentence);
    format!("{sentence}; lguest --help lists what there is")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_follows_two_dashes_is_the_command_as_it_stands() {
        let cli = Cli::try_parse_from(["lguest", "run", "debian", "--", "ls", "--all", "--", "-x"]).unwrap();
        let Command::Run(run) = cli.command else { panic!("another subcommand") };
        assert_eq!(run.guest.as_deref(), Some("debian"));
        assert_eq!(run.command, ["ls", "--all", "--", "-x"]);
    }

    #[test]
    fn a_mistake_of_the_command_line_is_one_line() {
        let error = Cli::try_parse_from(["lguest", "run", "--disc", "x"]).unwrap_err();
        let sentence = one_sentence(&error);
        assert!(!sentence.contains('\n') && sentence.contains("--disc"), "{sentence}");
    }
}
