//! apt-get, with a state of its own.
//!
//! The system's apt knows where packages come from and whose signature to trust; we use those (`/etc/apt`) and
//! nothing else of it. Package lists, downloads and locks lie in our cache, so that neither root nor the system's
//! lists are needed or touched. apt checks the signature on the index; we check a package against the index.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use thiserror::Error;

use super::package::{PackageName, Stanza};
use crate::progress::Progress;

/// How often a download's length is looked at.
const GLANCE: Duration = Duration::from_millis(100);

/// The longest part of apt's own words repeated in a message.
const LONGEST_QUOTE: usize = 300;

/// Why apt could not help.
#[derive(Debug, Error)]
pub enum AptError {
    /// There is no apt-get.
    #[error(
        "this machine has no apt-get to fetch Debian's files with; give a kernel with --kernel PATH and an initial \
         RAM disk with --initrd PATH"
    )]
    Missing,
    /// It could not be started, or its folder could not be made.
    #[error("cannot use apt-get in {path}: {cause}")]
    Unusable {
        /// The private state's folder.
        path: PathBuf,
        /// What the Host said.
        cause: io::Error,
    },
    /// The lists could not be fetched.
    #[error("Debian's package index cannot be fetched ({said}); without network, give --kernel and --initrd")]
    NoIndex {
        /// apt's own words.
        said: String,
    },
    /// No source has the package.
    #[error(
        "no package source of this machine has {package}; try debian:linux-image-amd64, or give --kernel and --initrd"
    )]
    Unknown {
        /// The package's name.
        package: String,
    },
    /// The download failed.
    #[error("the package {package} cannot be downloaded ({said}); try again, or give --kernel and --initrd")]
    NoDownload {
        /// The package's name.
        package: String,
        /// apt's own words.
        said: String,
    },
}

/// apt-get and apt-cache on a private state.
#[derive(Debug)]
pub struct Apt {
    folder: PathBuf,
}

/// The index is fetched once in a process, however many packages are.
static REFRESHED: AtomicBool = AtomicBool::new(false);

impl Apt {
    /// Whether there is an apt-get at all.
    ///
    /// # Errors
    /// `Missing` when there is none.
    pub fn check() -> Result<(), AptError> {
        let found = Command::new("apt-get").arg("--version").stdin(Stdio::null()).output();
        found.map(|_| ()).map_err(|_| AptError::Missing)
    }

    /// Makes the private state in `folder`.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn prepare(folder: &Path) -> Result<Apt, AptError> {
        let made = ["state/lists/partial", "cache/archives/partial"]
            .iter()
            .try_for_each(|name| fs::create_dir_all(folder.join(name)))
            .and_then(|()| fs::write(folder.join("installed"), ""))
            .and_then(|()| fs::write(folder.join("apt.conf"), configuration(folder)));
        match made {
            Ok(()) => Ok(Apt { folder: folder.to_owned() }),
            Err(cause) => Err(AptError::Unusable { path: folder.to_owned(), cause }),
        }
    }

    /// Fetches the package lists, unless this process has done so already.
    ///
    /// # Errors
    /// When they cannot be fetched or their signature is wrong.
    pub fn refresh_once(&self, progress: &Progress) -> Result<(), AptError> {
        if REFRESHED.load(Ordering::Relaxed) {
            return Ok(());
        }
        let step = progress.step("refreshing Debian's package index".to_owned());
        // Without this, a list that cannot be fetched is only a warning.
        let output = self.run("apt-get", &["-o", "APT::Update::Error-Mode=any", "update"])?;
        if !output.status.success() {
            return Err(AptError::NoIndex { said: first_error(&output) });
        }
        step.finish();
        REFRESHED.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// What the index says of the version that apt would take; none when no source has the package.
    ///
    /// # Errors
    /// When apt-cache cannot be started.
    pub fn show(&self, name: &PackageName) -> Result<Option<Stanza>, AptError> {
        let output = self.run("apt-cache", &["show", "--no-all-versions", name.as_str()])?;
        Ok(Stanza::parse(&String::from_utf8_lossy(&output.stdout)))
    }

    /// The names of packages that begin so.
    ///
    /// # Errors
    /// When apt-cache cannot be started.
    pub fn names(&self, prefix: &str) -> Result<Vec<PackageName>, AptError> {
        let output = self.run("apt-cache", &["pkgnames", prefix])?;
        Ok(String::from_utf8_lossy(&output.stdout).lines().filter_map(PackageName::new).collect())
    }

    /// Downloads a package into `folder` and returns the file's path.
    ///
    /// # Errors
    /// When it cannot be downloaded.
    pub fn download(
        &self,
        package: &Stanza,
        folder: &Path,
        progress: &Progress,
    ) -> Result<PathBuf, AptError> {
        let step = progress.transfer(format!("downloading {}", package.name), package.size);
        let mut command = self.command("apt-get");
        command.arg("download").arg(format!("{}={}", package.name, package.version)).current_dir(folder);
        let output = thread::scope(|scope| {
            let worker = scope.spawn(move || command.output());
            while !worker.is_finished() {
                thread::sleep(GLANCE);
                step.at(bytes_in(folder));
            }
            worker.join().expect("waiting for a child does not panic")
        });
        let output = output.map_err(|cause| AptError::Unusable { path: self.folder.clone(), cause })?;
        step.finish();
        let deb = fs::read_dir(folder)
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| path.extension().is_some_and(|extension| extension == "deb"));
        match (output.status.success(), deb) {
            (true, Some(deb)) => Ok(deb),
            _ => Err(AptError::NoDownload { package: package.name.clone(), said: first_error(&output) }),
        }
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        // A fixed language, so that what apt says can be read and repeated.
        command.env("LC_ALL", "C").stdin(Stdio::null()).arg("-c").arg(self.folder.join("apt.conf"));
        command
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Result<Output, AptError> {
        let output = self.command(program).args(arguments).output();
        output.map_err(|cause| match cause.kind() {
            io::ErrorKind::NotFound => AptError::Missing,
            _ => AptError::Unusable { path: self.folder.clone(), cause },
        })
    }
}

/// What differs from the system's configuration. apt reads this file last (apt.conf(5)).
fn configuration(folder: &Path) -> String {
    let folder = folder.display();
    format!(
        r#"// Written by lguest; apt reads it after the system's own configuration.
Dir::State "{folder}/state";
Dir::State::status "{folder}/installed";
Dir::Cache "{folder}/cache";
Dir::Cache::pkgcache "pkgcache.bin";
Dir::Cache::srcpkgcache "";
// Guests are 64-bit x86, whatever else is installed here.
APT::Architecture "amd64";
// As root, apt would become the user _apt, who may not write here.
APT::Sandbox::User "";
// The system's hooks are about the system's packages.
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
// Only lists of packages.
Acquire::Languages "none";
Acquire::PDiffs "false";
Acquire::GzipIndexes "true";
Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled "false";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Acquire::IndexTargets::deb::CNF::DefaultEnabled "false";
"#
    )
}

fn bytes_in(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten();
    entries.filter_map(|entry| Some(entry.ok()?.metadata().ok()?.len())).sum()
}

/// The first error that apt printed, on one line: the ones after it are only its consequences.
fn first_error(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let line = text.lines().find(|line| line.starts_with("E:")).or_else(|| text.lines().next_back());
    let line = line.map_or("it did not say why", |line| line.trim_start_matches("E:").trim());
    line.chars().filter(|letter| !letter.is_control()).take(LONGEST_QUOTE).collect()
}
