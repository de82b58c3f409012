//! Debian packages without installing them: fetched with apt-get into a private state (neither root nor the system's
//! package lists), with all that they depend on, and unpacked side by side into one folder of the cache.
//!
//! The host that packages come from is never written down here: it is the one that this machine's own apt uses.

use crate::errand::Errand;
use crate::inputs;
use crate::programs::{need, run};
use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Folders of a package that no program in a Guest reads at run time.
const LEFT_OUT: [&str; 4] = ["usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/lintian"];

/// Debian's own keys, where its keyring package puts them.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Where the packages come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Origin {
    /// What this machine's apt would install.
    Release,
    /// The newest of the release's backports.
    Backports,
}

/// Some packages that belong together.
#[derive(Debug, Clone, Copy, Hash)]
pub struct Packages {
    /// The folder's name.
    pub name: &'static str,
    /// What is wanted; what these depend on follows.
    pub wanted: &'static [&'static str],
    /// Which packages of that name.
    pub origin: Origin,
}

impl Packages {
    /// The folder that holds the packages' files; made once, found by what was asked for.
    pub fn unpacked(&self) -> Result<PathBuf, Errand> {
        let folder = self.folder()?;
        let root = folder.join("root");
        if folder.join("complete").is_file() {
            return Ok(root);
        }
        std::fs::create_dir_all(&root).map_err(Errand::file(&root))?;
        let apt = Apt::new(&folder.join("apt"), self.origin)?;
        let packages = apt.with_dependencies(self)?;
        eprintln!("xtask: fetching {} packages for {}", packages.len(), self.name);
        let debs = folder.join("debs");
        std::fs::create_dir_all(&debs).map_err(Errand::file(&debs))?;
        run(apt.get()?.arg("download").args(self.release()?).args(&packages).current_dir(&debs))?;
        let unpack = need("dpkg-deb", "dpkg")?;
        for deb in std::fs::read_dir(&debs).map_err(Errand::file(&debs))?.flatten() {
            run(Command::new(&unpack).arg("-x").arg(deb.path()).arg(&root))?;
        }
        for path in LEFT_OUT.map(|path| root.join(path)).iter().filter(|path| path.is_dir()) {
            std::fs::remove_dir_all(path).map_err(Errand::file(path))?;
        }
        std::fs::remove_dir_all(&debs).map_err(Errand::file(&debs))?;
        finish(&folder)?;
        Ok(root)
    }

    fn folder(&self) -> Result<PathBuf, Errand> {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        Ok(inputs::store()?.join("packages").join(format!("{}-{:016x}", self.name, hasher.finish())))
    }

    /// Words that make apt prefer this origin.
    fn release(&self) -> Result<Vec<String>, Errand> {
        match self.origin {
            Origin::Release => Ok(Vec::new()),
            Origin::Backports => {
                Ok(vec![format!("--target-release={}-backports", System::found()?.codename)])
            }
        }
    }
}

/// A Debian source package's own sources, unpacked and with Debian's patches; made once.
pub fn source(name: &str) -> Result<PathBuf, Errand> {
    let folder = inputs::store()?.join("packages").join(format!("source-{name}"));
    let tree = folder.join("tree");
    if folder.join("complete").is_file() {
        return Ok(tree);
    }
    // Half of an earlier try would be in the way.
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).map_err(Errand::file(&folder))?;
    let unpack = need("dpkg-source", "dpkg-dev")?;
    let apt = Apt::new(&folder.join("apt"), Origin::Backports)?;
    eprintln!("xtask: fetching the sources of {name}");
    run(apt.get()?.args(["source", "--download-only", name]).current_dir(&folder))?;
    let description = std::fs::read_dir(&folder)
        .map_err(Errand::file(&folder))?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "dsc"));
    let description = description.ok_or_else(|| Errand::Failed {
        what: format!("the sources of {name}"),
        why: "apt-get brought no .dsc file".into(),
    })?;
    run(Command::new(unpack).arg("-x").arg(description).arg(&tree))?;
    finish(&folder)?;
    Ok(tree)
}

/// The mark that a folder is whole: an errand that was interrupted starts it anew.
fn finish(folder: &Path) -> Result<(), Errand> {
    let complete = folder.join("complete");
    std::fs::write(&complete, "").map_err(Errand::file(&complete))
}

/// What this machine's apt says of the Debian release it installs from.
struct System {
    site: String,
    codename: String,
}

impl System {
    fn found() -> Result<System, Errand> {
        let words =
            ["indextargets", "--format", "$(SITE) $(CODENAME)", "Created-By: Packages", "Origin: Debian"];
        let targets = run(Command::new(need("apt-get", "apt")?).args(words))?;
        System::read(&targets).ok_or_else(|| Errand::Failed {
            what: "finding this machine's Debian release".into(),
            why: "apt-get indextargets names none; `apt-get update` may help".into(),
        })
    }

    /// The release itself among its updates and security updates: their names have a dash.
    fn read(targets: &str) -> Option<System> {
        let mut pairs = targets.lines().filter_map(|line| line.split_once(' '));
        let (site, codename) = pairs.find(|(_, codename)| !codename.contains('-'))?;
        Some(System { site: site.to_owned(), codename: codename.to_owned() })
    }

    /// Sources for the release, its backports and its source packages.
    fn sources(&self) -> String {
        let (site, codename) = (&self.site, &self.codename);
        let keys =
            if Path::new(KEYRING).is_file() { format!("[signed-by={KEYRING}] ") } else { String::new() };
        format!(
            "deb {keys}{site} {codename} main\ndeb {keys}{site} {codename}-backports main\n\
             deb-src {keys}{site} {codename} main\n"
        )
    }
}

/// apt with a state of its own.
struct Apt {
    options: Vec<String>,
}

impl Apt {
    /// Makes the state and fetches the lists.
    fn new(folder: &Path, origin: Origin) -> Result<Apt, Errand> {
        for path in [folder.join("lists/partial"), folder.join("cache/archives/partial")] {
            std::fs::create_dir_all(&path).map_err(Errand::file(&path))?;
        }
        let status = folder.join("status");
        std::fs::write(&status, "").map_err(Errand::file(&status))?;
        let option = |name: &str, path: PathBuf| format!("{name}={}", path.display());
        let mut options = vec![
            option("Dir::State::lists", folder.join("lists")),
            option("Dir::State::status", status),
            option("Dir::Cache", folder.join("cache")),
            "APT::Sandbox::User=".to_owned(),
            "APT::Install-Recommends=false".to_owned(),
            "Debug::NoLocking=true".to_owned(),
        ];
        if origin == Origin::Backports {
            let list = folder.join("sources.list");
            std::fs::write(&list, System::found()?.sources()).map_err(Errand::file(&list))?;
            options.extend([option("Dir::Etc::sourcelist", list), "Dir::Etc::sourceparts=-".to_owned()]);
        }
        let apt = Apt { options };
        run(apt.get()?.arg("update"))?;
        Ok(apt)
    }

    fn get(&self) -> Result<Command, Errand> {
        let mut command = Command::new(need("apt-get", "apt")?);
        command.arg("--quiet");
        for option in &self.options {
            command.arg("-o").arg(option);
        }
        Ok(command)
    }

    /// The wanted packages and all that they depend on, as apt resolves an installation on an empty system.
    fn with_dependencies(&self, packages: &Packages) -> Result<BTreeSet<String>, Errand> {
        let words = ["--simulate", "install"];
        let plan = run(self.get()?.args(words).args(packages.release()?).args(packages.wanted))?;
        Ok(plan
            .lines()
            .filter_map(|line| line.strip_prefix("Inst ")?.split(' ').next())
            .map(str::to_owned)
            .collect())
    }
}

#[test]
fn the_release_is_told_from_its_updates() {
    let targets = "site-a x-security\nsite-b x-updates\nsite-b x\n";
    let system = System::read(targets).expect("a release");
    assert_eq!((system.site.as_str(), system.codename.as_str()), ("site-b", "x"));
    assert!(system.sources().contains("site-b x-backports main"));
    assert!(System::read("").is_none());
}
