//! What the machines are given: the built command, kernels, the benchmark and an initramfs around it.

use crate::errand::Errand;
use crate::programs::{need, run};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Debian's kernel packages that every release must boot, as `lguest run debian:NAME` takes them.
pub const KERNELS: [&str; 3] =
    ["linux-image-cloud-amd64", "linux-image-amd64", "linux-image-6.12-cloud-amd64"];

/// The workspace's root folder.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace").to_path_buf()
}

/// The folder for what errands make; git ignores it.
pub fn workshop() -> Result<PathBuf, Errand> {
    let folder = root().join("target/xtask");
    std::fs::create_dir_all(&folder).map_err(Errand::file(&folder))?;
    Ok(folder)
}

/// Builds the command with optimisation and returns its path.
pub fn lguest() -> Result<PathBuf, Errand> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.args(["build", "--release", "--package", "lguest-launcher"]).current_dir(root());
    // What cargo tells us of ourselves is no news for what it builds; ring would be built anew each time.
    for (name, _) in std::env::vars_os() {
        if name
            .to_str()
            .is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_"))
        {
            build.env_remove(name);
        }
    }
    run(&mut build)?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    Ok(target.join("release/lguest"))
}

/// A Debian kernel as Debian ships it, from the command's own cache; the first time the command fetches it.
pub fn vmlinuz(lguest: &Path, package: &str) -> Result<PathBuf, Errand> {
    let path = cache()?.join("debian").join(package).join("vmlinuz");
    if !path.is_file() {
        eprintln!("xtask: fetching {package}");
        let guest = format!("debian:{package}");
        // The Guest need not live long: what counts is that its kernel is in the cache afterwards.
        let fetched = run(Command::new(lguest).args(["run", &guest, "--timeout", "120", "--", "true"]));
        if !path.is_file() {
            fetched?;
            return Err(Errand::Failed {
                what: format!("fetching {package}"),
                why: "it is not in the cache".into(),
            });
        }
    }
    Ok(path)
}

/// The command's cache folder, found as it finds it.
fn cache() -> Result<PathBuf, Errand> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("LGUEST_CACHE")
        .or_else(|| variable("XDG_CACHE_HOME").map(|folder| folder.join("lguest")))
        .or_else(|| variable("HOME").map(|folder| folder.join(".cache/lguest")))
        .ok_or_else(|| Errand::Failed { what: "finding the cache".into(), why: "HOME is not set".into() })
}

/// The errands' own folder in the cache: what takes long to make and is the same for every checkout.
pub fn store() -> Result<PathBuf, Errand> {
    let folder = cache()?.join("xtask");
    std::fs::create_dir_all(&folder).map_err(Errand::file(&folder))?;
    Ok(folder)
}

/// Debian's static busybox, as the command put it into its cache with the first Guest.
pub fn busybox() -> Result<PathBuf, Errand> {
    Ok(cache()?.join("debian/busybox-static/busybox"))
}

/// Compiles a program of `bench/` to a static one, with these further words for the compiler.
pub fn compiled(name: &str, words: &[String]) -> Result<PathBuf, Errand> {
    let (source, program) = (root().join("bench").join(format!("{name}.c")), workshop()?.join(name));
    let compiler = need("gcc", "gcc (and libc6-dev)")?;
    run(Command::new(compiler).args(["-O2", "-static", "-o"]).arg(&program).arg(&source).args(words))?;
    Ok(program)
}

/// What an example of ours prints.
pub fn example(package: &str, name: &str) -> Result<String, Errand> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let words = ["run", "--quiet", "--release", "--package", package, "--example", name];
    run(Command::new(cargo).args(words).current_dir(root()))
}
