//! `cargo xtask initramfs-extras`: Debian's own Python and OpenSSL inside the Guest, and their self-tests.
//!
//! The packages are unpacked side by side into one folder (packages.rs), and that folder becomes an initramfs.

use crate::arguments::Arguments;
use crate::errand::Errand;
use crate::inputs;
use crate::packages::{Origin, Packages};
#[cfg(test)]
use crate::programs::find;
use crate::programs::run as run_program;
use std::path::{Path, PathBuf};
use std::process::Command;

const PACKAGES: Packages =
    Packages { name: "extras", wanted: &["python3-minimal", "openssl"], origin: Origin::Release };

/// The self-tests: a command for the Guest's shell, and what its output must hold. The right results are known:
/// digests from FIPS 180-4's examples, the block from FIPS 197's appendix C.1, 2**200 and the sum by hand.
const SELF_TESTS: [(&str, &str); 5] = [
    ("printf abc | openssl dgst -sha256", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
    ("printf abc | openssl dgst -sha1", "a9993e364706816aba3e25717850c26c9cd0d89d"),
    ("openssl prime 1000000007", "is prime"),
    (AES_TEST, "69c4e0d86a7b0430d8cdb78070b4c55a"),
    (PYTHON_TEST, "python: 1606938044258990275541962092341162602522202993782792835301376 5000050000 ok"),
];

/// One AES block: the processor's own AES instructions where it has them.
const AES_TEST: &str = r#"printf '\000\021\042\063\104\125\146\167\210\231\252\273\314\335\356\377' |
openssl enc -aes-128-ecb -nopad -K 000102030405060708090a0b0c0d0e0f | od -An -tx1 | tr -d ' \n'"#;

/// Big integers, loops, floats, strings, dictionaries: Python's interpreter and allocator at work.
const PYTHON_TEST: &str = r#"python3 -S -c '
import math, sys
d = {i: str(i) for i in range(100000)}
assert sum(int(v) for v in d.values()) == 4999950000
assert sorted(d, key=lambda k: -k)[0] == 99999
assert abs(sum(1.0 / (n * n) for n in range(1, 200000)) - math.pi ** 2 / 6) < 1e-5
print("python:", 2 ** 200, sum(range(100001)), "ok")
'"#;

/// Builds the larger initramfs; unless told otherwise, runs the self-tests in a Guest.
pub fn run(mut arguments: Arguments) -> Result<(), Errand> {
    let output = arguments
        .value("--output")?
        .map_or_else(|| Ok(inputs::workshop()?.join("extras.cpio")), |path| Ok(path.into()))?;
    let build_only = arguments.flag("--build-only");
    arguments.end()?;
    let lguest = inputs::lguest()?;
    let root = PACKAGES.unpacked()?;
    let script = self_test_script()?;
    let mut command = Command::new(&lguest);
    command.arg("initramfs").arg("--output").arg(&output);
    for entry in std::fs::read_dir(&root).map_err(Errand::file(&root))?.flatten() {
        let name = entry.file_name();
        command.arg("--add").arg(format!("{}:/{}", entry.path().display(), name.to_string_lossy()));
    }
    command.arg("--add").arg(format!("{}:/self-test", script.display()));
    run_program(&mut command)?;
    println!("{}", output.display());
    if build_only { Ok(()) } else { self_test(&lguest, &output) }
}

/// A script for the Guest that runs every self-test and says which failed; its status is how many.
fn self_test_script() -> Result<PathBuf, Errand> {
    let mut script = String::from("failed=0\n");
    for (i, (command, wanted)) in SELF_TESTS.iter().enumerate() {
        script += &format!(
            "out=$({command})\ncase \"$out\" in *'{wanted}'*) echo \"self-test {i} ok\";; \
             *) echo \"self-test {i} failed: $out\"; failed=$((failed + 1));; esac\n"
        );
    }
    script += "exit $failed\n";
    let path = inputs::workshop()?.join("self-test");
    std::fs::write(&path, script).map_err(Errand::file(&path))?;
    Ok(path)
}

fn self_test(lguest: &Path, initramfs: &Path) -> Result<(), Errand> {
    let mut command = Command::new(lguest);
    command.args(["run", "debian", "--memory", "512M", "--timeout", "300", "--initrd"]).arg(initramfs);
    let output = run_program(command.args(["--", "sh", "/self-test"]))?;
    print!("{output}");
    let done = (0..SELF_TESTS.len()).all(|i| output.contains(&format!("self-test {i} ok")));
    let why = || "not every self-test said ok".to_owned();
    if done { Ok(()) } else { Err(Errand::Failed { what: "the self-tests".into(), why: why() }) }
}

#[test]
fn the_self_tests_are_right_about_this_machine() {
    // The same commands natively, where the programs are installed: a self-test that is wrong must not blame the Guest.
    for (command, wanted) in SELF_TESTS {
        let program = if command.starts_with("python3") { "python3" } else { "openssl" };
        if find(program).is_none() {
            println!("SKIPPED: {program} is not installed here");
            continue;
        }
        let output = Command::new("sh").args(["-c", command]).output().expect("sh starts");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains(wanted), "`{command}` printed {text}");
    }
}
