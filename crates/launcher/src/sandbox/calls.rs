//! The system calls that a running machine makes. Each list was found by tracing every test, and says what for.
//!
//! What is not here: opening a file by name, a new program or process, a new socket, another process's memory, mounts,
//! keys, BPF, io_uring, and memory that is executable. A disk, a tap, a link or the terminal is a descriptor that was
//! opened before.

use std::collections::BTreeMap;

use seccompiler::SeccompCmpArgLen::{Dword, Qword};
use seccompiler::SeccompCmpOp::{Eq, MaskedEq};
use seccompiler::{BackendError, SeccompCondition, SeccompRule};

/// What an argument of a call may be.
#[derive(Clone, Copy, Debug)]
pub enum Only {
    /// Anything.
    Any,
    /// One of these values in the argument of this number, compared as 32 bits.
    OneOf(u8, &'static [u64]),
    /// An argument that has these bits as given: number, mask, value.
    Bits(u8, u64, u64),
    /// This process in the argument of this number.
    Ourselves(u8),
}

/// A call and what of it is allowed.
pub type Call = (libc::c_long, Only);

const NOT_EXECUTABLE: Only = Only::Bits(2, libc::PROT_EXEC as u64, 0);

/// Memory: the heap, threads' stacks, the tables that the translator maps anew when a Guest touched too many, and
/// holes punched where they were. Never executable: all code arenas are mapped before the Guest starts.
pub const MEMORY: &[Call] = &[
    (libc::SYS_brk, Only::Any),
    (libc::SYS_mmap, NOT_EXECUTABLE),
    (libc::SYS_mprotect, NOT_EXECUTABLE),
    (libc::SYS_munmap, Only::Any),
    (libc::SYS_mremap, Only::Any),
    (libc::SYS_madvise, Only::Any),
    (libc::SYS_fallocate, Only::Any),
];

/// Waiting, being kicked and coming back, telling the time, and ending.
pub const LIVING: &[Call] = &[
    (libc::SYS_futex, Only::Any),
    (libc::SYS_sched_yield, Only::Any),
    (libc::SYS_sched_getaffinity, Only::Any),
    (libc::SYS_getpid, Only::Any),
    (libc::SYS_gettid, Only::Any),
    (libc::SYS_tgkill, Only::Ourselves(0)),
    (libc::SYS_rt_sigreturn, Only::Any),
    (libc::SYS_rt_sigprocmask, Only::Any),
    // A fault that is no Guest's gets back the disposition it had, and ends the process.
    (libc::SYS_rt_sigaction, Only::Any),
    (libc::SYS_sigaltstack, Only::Any),
    (libc::SYS_restart_syscall, Only::Any),
    // A Guest's spinlock that several vCPUs want, and code changed under another vCPU.
    (libc::SYS_membarrier, Only::Any),
    (libc::SYS_nanosleep, Only::Any),
    (libc::SYS_clock_nanosleep, Only::Any),
    (libc::SYS_clock_gettime, Only::Any),
    (libc::SYS_getrandom, Only::Any),
    (libc::SYS_prctl, Only::OneOf(0, &[libc::PR_GET_NAME as u64])),
    // Whichever thread catches a signal to the process passes it on to the one that waits for it: over a socket that
    // is connected, so without an address.
    (libc::SYS_sendto, Only::Bits(4, u64::MAX, 0)),
    (libc::SYS_exit, Only::Any),
    (libc::SYS_exit_group, Only::Any),
];

/// Asking for a terminal's mode and setting it, by the old structure and by the new, and asking for its size.
const TERMINAL_MODES: &[u64] = &[libc::TCGETS, libc::TCSETS, libc::TCGETS2, libc::TCSETS2, libc::TIOCGWINSZ];

/// Standard input and output, and every other descriptor that is held already.
pub const HELD_FILES: &[Call] = &[
    (libc::SYS_read, Only::Any),
    (libc::SYS_write, Only::Any),
    (libc::SYS_writev, Only::Any),
    (libc::SYS_close, Only::Any),
    // Debug builds ask whether what they close is open.
    (libc::SYS_fcntl, Only::OneOf(1, &[libc::F_GETFD as u64])),
    (libc::SYS_poll, Only::Any),
    (libc::SYS_ppoll, Only::Any),
    // The terminal's mode, which every way out puts back, and its size.
    (libc::SYS_ioctl, Only::OneOf(1, TERMINAL_MODES)),
];

/// Disks: read and written at a place, flushed, and qcow2 files made longer.
pub const DISKS: &[Call] = &[
    (libc::SYS_pread64, Only::Any),
    (libc::SYS_pwrite64, Only::Any),
    (libc::SYS_preadv, Only::Any),
    // What is in the page cache is read without waiting.
    (libc::SYS_preadv2, Only::Any),
    (libc::SYS_pwritev, Only::Any),
    (libc::SYS_fdatasync, Only::Any),
    (libc::SYS_fsync, Only::Any),
    (libc::SYS_ftruncate, Only::Any),
];

/// Messages over sockets that are connected already: the link's broker, and the thread that waits for signals.
pub const MESSAGES: &[Call] = &[
    (libc::SYS_recvfrom, Only::Any),
    (libc::SYS_recvmsg, Only::Any),
    (libc::SYS_sendmsg, Only::Any),
    (libc::SYS_shutdown, Only::Any),
];

/// The user network's own thread: new connections for the Guest, by IPv4 only, and those that come to forwarded ports.
/// vCPUs have none of it.
pub const INTERNET: &[Call] = &[
    (libc::SYS_socket, Only::OneOf(0, &[libc::AF_INET as u64])),
    (libc::SYS_connect, Only::Any),
    (libc::SYS_accept4, Only::Any),
    // To the peers of a forwarded UDP port; no bit has to be as given.
    (libc::SYS_sendto, Only::Bits(4, 0, 0)),
    // Whether a connection came about; no delay; a reset in place of an end.
    (libc::SYS_getsockopt, Only::Any),
    (libc::SYS_setsockopt, Only::Any),
    (libc::SYS_ioctl, Only::OneOf(1, &[libc::FIONBIO])),
    (libc::SYS_epoll_ctl, Only::Any),
    (libc::SYS_epoll_wait, Only::Any),
    (libc::SYS_epoll_pwait, Only::Any),
    (libc::SYS_epoll_pwait2, Only::Any),
];

/// The machine's sockets: which of them have something. Theirs are read and written as they are held.
pub const SOCKETS: &[Call] = &[
    (libc::SYS_epoll_ctl, Only::Any),
    (libc::SYS_epoll_wait, Only::Any),
    (libc::SYS_epoll_pwait, Only::Any),
    (libc::SYS_epoll_pwait2, Only::Any),
];

/// The Guest's calls to programs of the host's (`--vsock`). A filter cannot see whom a socket is connected to; that it is a
/// Unix socket it can, and the vCPUs have none of it.
pub const UNIX_SOCKETS: &[Call] =
    &[(libc::SYS_socket, Only::OneOf(0, &[libc::AF_UNIX as u64])), (libc::SYS_connect, Only::Any)];

/// `lguest stop` comes to a socket that listens already.
pub const VISITORS: &[Call] = &[(libc::SYS_accept4, Only::Any)];

/// For `--stats` and `--perf-map`: the kernel's account of our memory is read again from its beginning, and a map of code
/// that is gone is written anew. Both files are held already.
pub const WATCHED: &[Call] = &[(libc::SYS_lseek, Only::Any), (libc::SYS_ftruncate, Only::Any)];

/// Shared directories: names in a directory that is held, files found that way, and what is in them. The calls with a path
/// and no directory are for the attributes of /proc/self/fd/N; there is no other way to those of a file that was not
/// opened.
pub const SHARES: &[Call] = &[
    (libc::SYS_openat, Only::Any),
    (libc::SYS_newfstatat, Only::Any),
    (libc::SYS_fstat, Only::Any),
    (libc::SYS_statx, Only::Any),
    (libc::SYS_fstatfs, Only::Any),
    (libc::SYS_getdents64, Only::Any),
    (libc::SYS_readlinkat, Only::Any),
    (libc::SYS_mkdirat, Only::Any),
    (libc::SYS_mknodat, Only::Any),
    (libc::SYS_symlinkat, Only::Any),
    (libc::SYS_linkat, Only::Any),
    (libc::SYS_unlinkat, Only::Any),
    (libc::SYS_renameat2, Only::Any),
    (libc::SYS_fchmodat, Only::Any),
    (libc::SYS_fchownat, Only::Any),
    (libc::SYS_utimensat, Only::Any),
    (libc::SYS_getxattr, Only::Any),
    (libc::SYS_lgetxattr, Only::Any),
    (libc::SYS_fgetxattr, Only::Any),
    (libc::SYS_setxattr, Only::Any),
    (libc::SYS_listxattr, Only::Any),
    (libc::SYS_removexattr, Only::Any),
    (libc::SYS_lseek, Only::Any),
    (libc::SYS_ftruncate, Only::Any),
    (libc::SYS_copy_file_range, Only::Any),
    (libc::SYS_syncfs, Only::Any),
];

/// KVM's own requests, on its descriptors: their second byte is KVMIO (Linux's kvm.h).
pub const KVM: &[Call] = &[(libc::SYS_ioctl, Only::Bits(1, 0xff00, 0xae00))];

/// A thread more, with its name, and a tighter list for itself.
pub const THREADS: &[Call] = &[
    (libc::SYS_clone, Only::Bits(0, libc::CLONE_THREAD as u64, libc::CLONE_THREAD as u64)),
    // Its flags are in memory, where a filter cannot look; a filter of its own answers that there is no such call.
    (libc::SYS_clone3, Only::Any),
    (libc::SYS_set_robust_list, Only::Any),
    (libc::SYS_rseq, Only::Any),
    (libc::SYS_prctl, Only::OneOf(0, &[libc::PR_SET_NAME as u64, libc::PR_SET_NO_NEW_PRIVS as u64])),
    (libc::SYS_seccomp, Only::Any),
];

/// Opening by name fails as if there were no such right, and the thread goes on: C libraries look into /sys and /proc
/// unasked and do without.
pub const REFUSED_QUIETLY: &[Call] = &[
    (libc::SYS_open, Only::Any),
    (libc::SYS_openat, Only::Any),
    (libc::SYS_openat2, Only::Any),
    (libc::SYS_readlink, Only::Any),
    (libc::SYS_access, Only::Any),
];

/// In place of a directory that is held, the working directory.
const NO_DIRECTORY: &[u64] = &[libc::AT_FDCWD as u32 as u64];

/// The same where directories are shared: a name that belongs to no directory held is refused.
pub const REFUSED_BESIDE_SHARES: &[Call] = &[
    (libc::SYS_open, Only::Any),
    (libc::SYS_openat, Only::OneOf(0, NO_DIRECTORY)),
    (libc::SYS_readlinkat, Only::OneOf(0, NO_DIRECTORY)),
    (libc::SYS_mkdirat, Only::OneOf(0, NO_DIRECTORY)),
    (libc::SYS_mknodat, Only::OneOf(0, NO_DIRECTORY)),
    (libc::SYS_symlinkat, Only::OneOf(1, NO_DIRECTORY)),
    (libc::SYS_linkat, Only::OneOf(0, NO_DIRECTORY)),
    (libc::SYS_linkat, Only::OneOf(2, NO_DIRECTORY)),
    (libc::SYS_unlinkat, Only::OneOf(0, NO_DIRECTORY)),
    (libc::SYS_renameat2, Only::OneOf(0, NO_DIRECTORY)),
    (libc::SYS_renameat2, Only::OneOf(2, NO_DIRECTORY)),
    (libc::SYS_fchmodat, Only::OneOf(0, NO_DIRECTORY)),
    (libc::SYS_fchownat, Only::OneOf(0, NO_DIRECTORY)),
    (libc::SYS_utimensat, Only::OneOf(0, NO_DIRECTORY)),
    (libc::SYS_openat2, Only::Any),
    (libc::SYS_readlink, Only::Any),
    (libc::SYS_access, Only::Any),
];

/// A second descriptor, and whether a memory file can shrink under its reader: the broker wants to know before it maps.
const FILE_QUESTIONS: &[u64] =
    &[libc::F_DUPFD_CLOEXEC as u64, libc::F_GET_SEALS as u64, libc::F_ADD_SEALS as u64];

/// The broker of a link: machines come and go, and hand it their memory files.
pub const BROKER: &[Call] = &[
    (libc::SYS_accept4, Only::Any),
    (libc::SYS_memfd_create, Only::Any),
    (libc::SYS_ftruncate, Only::Any),
    (libc::SYS_lseek, Only::Any),
    (libc::SYS_statx, Only::Any),
    (libc::SYS_fstat, Only::Any),
    (libc::SYS_ioctl, Only::OneOf(1, &[libc::FIONBIO])),
    (libc::SYS_fcntl, Only::OneOf(1, FILE_QUESTIONS)),
];

/// The rules of these lists together, as the compiler of filters takes them.
///
/// # Errors
/// None in practice: an argument's number is at most 5.
pub fn rules(lists: &[&[Call]]) -> Result<BTreeMap<i64, Vec<SeccompRule>>, BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for (number, only) in lists.iter().copied().flatten() {
        let alternatives = rules.entry(*number).or_default();
        let condition = |argument, length, operation, value| {
            SeccompRule::new(vec![SeccompCondition::new(argument, length, operation, value)?])
        };
        match *only {
            // No alternative at all means any arguments.
            Only::Any => {}
            Only::OneOf(argument, values) => {
                for &value in values {
                    alternatives.push(condition(argument, Dword, Eq, value)?);
                }
            }
            Only::Bits(argument, mask, value) => {
                alternatives.push(condition(argument, Qword, MaskedEq(mask), value)?);
            }
            Only::Ourselves(argument) => {
                alternatives.push(condition(argument, Dword, Eq, std::process::id().into())?);
            }
        }
    }
    Ok(rules)
}
