//! The sandbox: what this process may still ask of the host once its machine is built.
//!
//! ```text
//!   build the machine: open, map, connect, start threads
//!   ── [`Sandbox::close`] ──────────────────────────────────────────────────────────────────────────────
//!   every thread          seccomp: what a running machine needs (`calls`), nothing by name
//!   the vCPU's thread     landlock: no file, no port; seccomp: the shorter list for what this machine has
//!   the link's broker     landlock, and a list of its own; it is another process
//! ```
//! The translator's own argument (its `isolation` room) is that a Guest reaches its own memory and nothing else. This
//! room assumes that the argument is wrong somewhere: what a Guest would then hold is a thread that can compute, read and
//! write what the run holds open, and little else. A call that is not on the list ends the run with a sentence.
//!
//! Landlock binds the thread that asks and those it starts; from ABI 8 on (Linux 7.0) every thread. Before that the
//! threads that carry input and output are held by seccomp alone, under which nothing can be opened by name.

mod calls;
mod reports;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, RestrictSelfAttr, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus,
};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};

use crate::request::Mistake;
use crate::supervise::StopButton;
use calls::Call;

/// The newest landlock whose rights we know: files and TCP. Older kernels enforce what they know of it.
const LANDLOCK: ABI = ABI::V5;

/// How often all threads are asked to agree on a filter, and the time in between: a tenth of a second in all.
const ATTEMPTS: u32 = 100;
const PAUSE: Duration = Duration::from_millis(1);

/// What `--sandbox` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// As much as this host has.
    Auto,
    /// All of it, or no run.
    On,
    /// None.
    Off,
}

impl Wish {
    /// Reads `--sandbox`.
    ///
    /// # Errors
    /// For another word, and for `on` where the host lacks a part: one sentence.
    pub fn read(word: &str) -> Result<Wish, Mistake> {
        match word {
            "auto" => Ok(Wish::Auto),
            "off" => Ok(Wish::Off),
            "on" => match Offered::here().lacking() {
                None => Ok(Wish::On),
                Some(part) => Err(Mistake(format!(
                    "--sandbox on: this host's kernel offers no {part}; --sandbox auto takes what there is"
                ))),
            },
            _ => Err(Mistake(format!("--sandbox {word}: is no choice; give auto, on or off"))),
        }
    }
}

/// What this host has to build a sandbox from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offered {
    /// Filters of system calls.
    pub seccomp: bool,
    /// Rules for files.
    pub landlock: bool,
}

impl Offered {
    /// Asks the kernel. Nothing is restricted by it but a thread that ends at once.
    pub fn here() -> Offered {
        // Asking is trying: a container may forbid what the kernel has.
        let tried = std::thread::spawn(|| {
            let landlock = close_files(false, false, &[]);
            let all = SeccompFilter::new(
                Default::default(),
                SeccompAction::Allow,
                SeccompAction::Trap,
                TargetArch::x86_64,
            );
            let program: Option<BpfProgram> = all.ok().and_then(|filter| filter.try_into().ok());
            let seccomp = program.is_some_and(|program| seccompiler::apply_filter(&program).is_ok());
            Offered { seccomp, landlock }
        });
        tried.join().unwrap_or(Offered { seccomp: false, landlock: false })
    }

    /// The first part that is missing.
    pub fn lacking(self) -> Option<&'static str> {
        match self {
            Offered { seccomp: false, .. } => Some("seccomp filters"),
            Offered { landlock: false, .. } => Some("landlock"),
            _ => None,
        }
    }

    /// The line of `lguest doctor`.
    pub fn in_words(self) -> &'static str {
        match (self.seccomp, self.landlock) {
            (true, true) => "seccomp and landlock hold a running machine",
            (true, false) => "seccomp holds a running machine; landlock is not offered here",
            (false, true) => "landlock holds a running machine's files; seccomp is not offered here",
            (false, false) => "neither seccomp nor landlock is offered here: do not run a hostile Guest",
        }
    }
}

/// What a machine's vCPUs do besides computing.
#[derive(Clone, Debug, Default)]
pub struct Needs {
    /// KVM runs the Guest.
    pub kvm: bool,
    /// There are disks.
    pub disks: bool,
    /// There are networks.
    pub networks: bool,
    /// There are sockets between Guest and host.
    pub sockets: bool,
    /// The Guest may call programs of the host's by them.
    pub calls: bool,
    /// The user network makes connections for the Guest.
    pub internet: bool,
    /// Somebody watches (`watching`).
    pub watched: bool,
    /// Directories that are shared with the Guest.
    pub shares: Vec<Arc<OwnedFd>>,
}

/// The sandbox of one machine.
#[derive(Clone, Debug)]
pub struct Sandbox {
    wish: Wish,
    needs: Needs,
}

impl Sandbox {
    /// A sandbox that is not closed yet.
    pub fn new(wish: Wish, needs: Needs) -> Sandbox {
        Sandbox { wish, needs }
    }

    /// Closes it around all threads there are, and those that come. A stopped call presses `button`.
    ///
    /// # Errors
    /// When it was asked for by name and the host refuses.
    pub fn close(&self, button: &StopButton) -> Result<(), Mistake> {
        if self.wish == Wish::Off {
            return Ok(());
        }
        // A core file of ours would hold the Guest's memory, and could fill a disk.
        let none = rustix::process::Rlimit { current: Some(0), maximum: Some(0) };
        let _ = rustix::process::setrlimit(rustix::process::Resource::Core, none);
        reports::start(button.clone())?;
        let landlock = close_files(true, self.needs.internet, &self.needs.shares);
        let lists = self.whole_process();
        let no_clone3 = filter(
            &[&[(libc::SYS_clone3, calls::Only::Any)]],
            SeccompAction::Errno(libc::ENOSYS as u32),
            SeccompAction::Allow,
        );
        // The last filter decides what may still be installed, so the long list comes last.
        let all = filter(&lists, SeccompAction::Allow, SeccompAction::Trap);
        let seccomp = [self.refuse_quietly(), no_clone3, all]
            .iter()
            .try_for_each(|program| program.as_ref().map_or(Err(()), apply_to_all));
        tracing::info!(landlock, seccomp = seccomp.is_ok(), "the sandbox is closed");
        match self.wish {
            Wish::On if !landlock || seccomp.is_err() => Err(Mistake(
                "--sandbox on: this host's kernel refused a part of it; --sandbox auto takes what there is"
                    .to_owned(),
            )),
            _ => Ok(()),
        }
    }

    /// Leaves the calling thread what a vCPU needs. For the thread that will run the Guest, as its last act before.
    pub fn confine_vcpu(&self) {
        if self.wish == Wish::Off {
            return;
        }
        let shorter = filter(&self.vcpu(), SeccompAction::Allow, SeccompAction::Trap);
        for program in [self.refuse_quietly(), shorter].iter().flatten() {
            // A host that has no filters has said so before.
            let _ = seccompiler::apply_filter(program);
        }
    }

    fn whole_process(&self) -> Vec<&'static [Call]> {
        let mut lists = self.vcpu();
        lists.extend([calls::MESSAGES, calls::THREADS, calls::VISITORS]);
        if self.needs.internet {
            lists.push(calls::INTERNET);
        }
        if self.needs.sockets {
            lists.push(calls::SOCKETS);
        }
        if self.needs.calls {
            lists.push(calls::UNIX_SOCKETS);
        }
        lists
    }

    fn vcpu(&self) -> Vec<&'static [Call]> {
        let mut lists = vec![calls::MEMORY, calls::LIVING, calls::HELD_FILES, calls::REFUSED_QUIETLY];
        if self.needs.kvm {
            lists.push(calls::KVM);
        }
        if self.needs.disks {
            lists.push(calls::DISKS);
        }
        if self.needs.networks || self.needs.sockets {
            lists.push(calls::MESSAGES);
        }
        if self.needs.watched {
            lists.push(calls::WATCHED);
        }
        if !self.needs.shares.is_empty() {
            lists.extend([calls::DISKS, calls::SHARES]);
        }
        lists
    }

    /// The filter under which opening by name fails like any other open that may not be. Who serves a share opens names
    /// in a directory that is held; landlock says which directories those may be.
    fn refuse_quietly(&self) -> Option<BpfProgram> {
        let list =
            if self.needs.shares.is_empty() { calls::REFUSED_QUIETLY } else { calls::REFUSED_BESIDE_SHARES };
        filter(&[list], SeccompAction::Errno(libc::EACCES as u32), SeccompAction::Allow)
    }
}

/// Closes the sandbox of the broker's process. A call that is not on its list kills it: nobody would hear a sentence.
pub fn confine_broker() {
    close_files(true, false, &[]);
    let lists =
        [calls::MEMORY, calls::LIVING, calls::HELD_FILES, calls::DISKS, calls::MESSAGES, calls::BROKER];
    if let Some(program) = filter(&lists, SeccompAction::Allow, SeccompAction::KillProcess) {
        // A host without filters runs brokers without.
        let _ = seccompiler::apply_filter(&program);
    }
}

/// A filter: `matching` for what the lists hold, `otherwise` for the rest.
fn filter(lists: &[&[Call]], matching: SeccompAction, otherwise: SeccompAction) -> Option<BpfProgram> {
    let filter =
        SeccompFilter::new(calls::rules(lists).ok()?, otherwise, matching, TargetArch::x86_64).ok()?;
    filter.try_into().ok()
}

fn apply_to_all(program: &BpfProgram) -> Result<(), ()> {
    // A thread that tried a filter of its own and ended may not be gone yet; until then all cannot agree.
    for _ in 1..ATTEMPTS {
        match seccompiler::apply_filter_all_threads(program) {
            Err(seccompiler::Error::ThreadSync(_)) => std::thread::sleep(PAUSE),
            done => return done.map_err(|error| tracing::info!(%error, "no seccomp")),
        }
    }
    Err(())
}

/// No file by name but below `shares`, and no TCP port, from here on, for this thread or for all; with `internet` connections
/// may be made, but no port taken. False when the kernel has no landlock.
fn close_files(all_threads: bool, internet: bool, shares: &[Arc<OwnedFd>]) -> bool {
    let ports = if internet { AccessNet::BindTcp.into() } else { AccessNet::from_all(LANDLOCK) };
    // Below a share nothing is run, and devices are neither made nor spoken to.
    let never = AccessFs::Execute | AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::IoctlDev;
    let below = AccessFs::from_all(LANDLOCK) & !never;
    let ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(LANDLOCK))
        .and_then(|ruleset| ruleset.handle_access(ports))
        .and_then(Ruleset::create)
        .and_then(|ruleset| {
            ruleset
                .add_rules(shares.iter().map(|share| Ok::<_, RulesetError>(PathBeneath::new(share, below))))
        });
    let restricted = ruleset.and_then(|ruleset| ruleset.all_threads(all_threads)?.restrict_self());
    restricted.is_ok_and(|status| status.ruleset != RulesetStatus::NotEnforced)
}

#[cfg(test)]
mod tests;
