//! Builds this same crate a second time, as a program for a machine without an operating system.
//!
//! The ordinary build has one target installed, x86_64-unknown-linux-gnu, and it will do: no `std`, no C start
//! files, a linker script of ours. The inner build runs with `--cfg lguest_guest`, under which the library is a kernel's
//! hardware and `main.rs` a kernel; the outer one gets the finished file by `include_bytes!`. Its target folder is its
//! own, so the two cargos do not wait for each other.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Set for the inner build, which must not build a third.
const INNER: &str = "LGUEST_KERNEL_INNER_BUILD";
const TARGET: &str = "x86_64-unknown-linux-gnu";
/// What the image may take. The promise; the default Guest is read in an evening, and starts in no time.
const LARGEST_IMAGE: u64 = 256 * 1024;

fn main() {
    for path in ["src", "examples", "build.rs", "link.ld", "Cargo.toml", "../guest/src", "../abi/src"] {
        println!("cargo::rerun-if-changed={path}");
    }
    println!("cargo::rerun-if-env-changed={INNER}");
    if env::var_os(INNER).is_some() {
        return;
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    build(&out);
    let built = out.join("inner").join(TARGET).join("release");
    for (file, name) in
        [("lguest-kernel", "lguest-kernel"), ("examples/hello", "hello"), ("examples/sectors", "sectors")]
    {
        let (from, to) = (built.join(file), out.join(name));
        let size =
            std::fs::copy(&from, &to).expect("the inner build leaves its programs where cargo puts them");
        assert!(size < LARGEST_IMAGE, "{name} takes {size} bytes, and a Guest of ours has {LARGEST_IMAGE}");
    }
}

fn build(out: &Path) {
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let script = here.join("link.ld");
    let flags = [
        "--cfg=lguest_guest",
        "-Cpanic=abort",
        "-Crelocation-model=static",
        // No vector registers: interrupts need not save them, and a KVM that interprets knows few vector instructions. The
        // compiler warns that the ABI passes floats in them; a Guest of ours has no floats. Link-time optimisation
        // compiles `core` and `alloc` again with these flags, so theirs are gone too. Should the warning become an error,
        // the target x86_64-unknown-none is the same thing by another name.
        "-Ctarget-feature=+crt-static,-mmx,-sse,-sse2",
        // The processor pushes an interrupt's frame on the interrupt's own stack, but nothing is lost by being careful.
        "-Cno-redzone=yes",
        "-Clink-arg=-nostartfiles",
        "-Clink-arg=-nostdlib",
        "-Clink-arg=-static",
        "-Clink-arg=-no-pie",
        "-Clink-arg=-Wl,--build-id=none,--gc-sections,-z,noexecstack,-z,max-page-size=4096",
        &format!("-Clink-arg=-Wl,-T,{}", script.display()),
    ];
    let mut cargo = Command::new(env::var_os("CARGO").expect("cargo sets CARGO"));
    cargo.args([
        "build",
        "--release",
        "--locked",
        "--bin",
        "lguest-kernel",
        "--example",
        "hello",
        "--example",
        "sectors",
    ]);
    cargo.args(["--target", TARGET, "--target-dir"]).arg(out.join("inner")).current_dir(&here);
    // The outer build's wrappers and flags are for the outer build: a coverage run must not instrument a kernel.
    for name in [
        "RUSTFLAGS",
        "CARGO_BUILD_TARGET",
        "CARGO_TARGET_DIR",
        "RUSTC_WORKSPACE_WRAPPER",
        "CARGO_MAKEFLAGS",
        "MAKEFLAGS",
    ] {
        cargo.env_remove(name);
    }
    cargo.env(INNER, "1").env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    for (name, value) in [
        ("OPT_LEVEL", "s"),
        ("LTO", "true"),
        ("CODEGEN_UNITS", "1"),
        ("PANIC", "abort"),
        ("DEBUG", "0"),
        ("STRIP", "symbols"),
    ] {
        cargo.env(format!("CARGO_PROFILE_RELEASE_{name}"), value);
    }
    let status = cargo.status().expect("cargo can start cargo");
    assert!(status.success(), "the default Guest does not build: {status}");
}
