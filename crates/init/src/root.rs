//! The root: what the user named, with a layer over it that is thrown away, and what the kernel shows in it.
//!
//! ```text
//!   /                  the initramfs, until the end of `enter`
//!   /lower             the shared directory or the disk, read only
//!   /upper             a tmpfs: what the Guest changes
//!   /new               the two as one (overlay); with `keep`, the root itself, to be written
//! ```
//! Where the initramfs is the root, nothing of this is needed. Else /new becomes the root, in the way of switch_root(8).

use std::fs;
use std::io;
use std::path::Path;

use lguest_init::plan::{Plan, ROOT_TAG, Root};
use rustix::fs::CWD;
use rustix::mount::{MountFlags, mount, mount_move};

use crate::Failure;

/// The file system that a root disk has; its driver serves the older ext2 and ext3 as well.
const KIND: &str = "ext4";
/// What the kernel shows, and where.
const KERNELS_OWN: [&str; 3] = ["/proc", "/sys", "/dev"];

/// The kernel's file systems, for ourselves to begin with.
pub fn mount_the_kernels_own() -> Result<(), Failure> {
    for (kind, place) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev")] {
        let _ = fs::create_dir(place);
        match mount(kind, place, kind, MountFlags::empty(), None) {
            // A kernel may mount its devices by itself.
            Ok(()) | Err(rustix::io::Errno::BUSY) => {}
            Err(errno) => return Err(failed(&format!("mounting {place}"), errno)),
        }
    }
    Ok(())
}

fn failed(what: &str, errno: rustix::io::Errno) -> Failure {
    format!("{what}: {}", io::Error::from(errno))
}

/// Mounts the root and goes there, unless we are there already.
pub fn enter(plan: &Plan) -> Result<(), Failure> {
    let here = plan.root == Root::Here;
    if !here {
        go(plan)?;
    }
    furnish(here);
    for share in &plan.shares {
        let place = format!("/mnt/{}", share.tag);
        make_place(&place);
        let flags = if share.readonly { MountFlags::RDONLY } else { MountFlags::empty() };
        // The Guest is of use without it, and who looks for it is told.
        if let Err(errno) = mount(&*share.tag, &*place, "virtiofs", flags, None) {
            eprintln!("lguest-init: {}", failed(&format!("mounting {place}"), errno));
        }
    }
    Ok(())
}

fn go(plan: &Plan) -> Result<(), Failure> {
    for place in ["/lower", "/upper", "/new"] {
        fs::create_dir(place).map_err(|error| format!("{place}: {error}"))?;
    }
    if plan.keep {
        mount_root(&plan.root, "/new", MountFlags::empty())?;
    } else {
        mount_root(&plan.root, "/lower", MountFlags::RDONLY)?;
        lay_over()?;
    }
    for place in KERNELS_OWN {
        let there = format!("/new{place}");
        make_place(&there);
        mount_move(place, &there).map_err(|errno| failed(&format!("moving {place} into the root"), errno))?;
    }
    rustix::process::chdir("/new").map_err(|errno| failed("the new root", errno))?;
    mount_move(".", "/").map_err(|errno| failed("the new root", errno))?;
    rustix::process::chroot(".").map_err(|errno| failed("the new root", errno))?;
    Ok(())
}

fn mount_root(root: &Root, place: &str, flags: MountFlags) -> Result<(), Failure> {
    let device = match root {
        Root::Shared => {
            return mount(ROOT_TAG, place, "virtiofs", flags, None)
                .map_err(|errno| failed("mounting the root directory (virtiofs)", errno));
        }
        Root::Here => return Ok(()),
        Root::Disk(device) => device,
    };
    // A journal that was left behind cannot be played back on a disk that may only be read; without it we see the last
    // state that was written whole.
    let unplayed = flags.contains(MountFlags::RDONLY).then_some(c"noload");
    let mounted = mount(&**device, place, KIND, flags, None).or_else(|errno| match unplayed {
        Some(option) => mount(&**device, place, KIND, flags, Some(option)),
        None => Err(errno),
    });
    mounted.map_err(|errno| failed(&format!("mounting the root disk {device} ({KIND})"), errno))
}

/// The layer that is thrown away.
fn lay_over() -> Result<(), Failure> {
    mount("tmpfs", "/upper", "tmpfs", MountFlags::empty(), Some(c"mode=755"))
        .map_err(|errno| failed("mounting a tmpfs", errno))?;
    for place in ["/upper/upper", "/upper/work"] {
        fs::create_dir(place).map_err(|error| format!("{place}: {error}"))?;
    }
    let options = c"lowerdir=/lower,upperdir=/upper/upper,workdir=/upper/work";
    mount("overlay", "/new", "overlay", MountFlags::empty(), Some(options))
        .map_err(|errno| failed("laying an overlay over the root", errno))
}

/// A directory to mount at; a root that may not be written may have it already.
fn make_place(place: &str) {
    if let Err(error) = fs::create_dir_all(place)
        && !Path::new(place).is_dir()
    {
        eprintln!("lguest-init: {place}: {error}");
    }
}

/// What programs expect beside the kernel's own: terminals, shared memory, and room for what is gone at the end anyway.
/// What cannot be had is done without. An initramfs is such room itself.
fn furnish(here: bool) {
    let _ = fs::create_dir("/dev/pts");
    let _ = mount("devpts", "/dev/pts", "devpts", MountFlags::empty(), Some(c"gid=5,mode=620,ptmxmode=666"));
    let _ = fs::create_dir("/dev/shm");
    let tmpfs = |place: &str| mount("tmpfs", place, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, None);
    let _ = tmpfs("/dev/shm");
    let _ = tmpfs("/run");
    if !here {
        let _ = tmpfs("/tmp");
    }
    for (target, link) in [
        ("/proc/self/fd", "/dev/fd"),
        ("fd/0", "/dev/stdin"),
        ("fd/1", "/dev/stdout"),
        ("fd/2", "/dev/stderr"),
    ] {
        let _ = rustix::fs::symlinkat(target, CWD, link);
    }
}

/// Makes the disks' file systems clean, the root's among them: nobody is left who uses them. A shared directory needs
/// nothing: what was written there is the host's already, and asking the host to write all of it to its disk takes long.
pub fn leave() {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    for line in mounts.lines() {
        let mut words = line.split(' ');
        if let (Some(device), Some(place)) = (words.next(), words.next())
            && device.starts_with("/dev/")
        {
            let _ = rustix::mount::mount_remount(place, MountFlags::RDONLY, "");
        }
    }
}
