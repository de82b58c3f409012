//! Builds this same crate a second time, as a program that needs nothing in the root where it starts.
//!
//! As the default Guest's `build.rs` does it: the installed target, x86_64-unknown-linux-gnu, with flags of its own; here the
//! C library is linked in. The inner build runs with `--cfg lguest_guest`, and the outer one gets the finished file by
//! `include_bytes!`. Its target folder is its own, so the two cargos do not wait for each other.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Set for the inner build, which must not build a third.
const INNER: &str = "LGUEST_INIT_INNER_BUILD";
const TARGET: &str = "x86_64-unknown-linux-gnu";
/// What the program may take: the kernel unpacks it at every start.
const LARGEST: u64 = 2 << 20;

fn main() {
    for path in ["src", "build.rs", "Cargo.toml"] {
        println!("cargo::rerun-if-changed={path}");
    }
    println!("cargo::rerun-if-env-changed={INNER}");
    if env::var_os(INNER).is_some() {
        return;
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    build(&out);
    let built = out.join("inner").join(TARGET).join("release/lguest-init");
    let size = std::fs::copy(&built, out.join("lguest-init"))
        .expect("the inner build leaves its program where cargo puts it");
    assert!(size < LARGEST, "lguest-init takes {size} bytes, and may take {LARGEST}");
}

fn build(out: &Path) {
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let flags = ["--cfg=lguest_guest", "-Ctarget-feature=+crt-static", "-Crelocation-model=static"];
    let mut cargo = Command::new(env::var_os("CARGO").expect("cargo sets CARGO"));
    cargo.args(["build", "--release", "--locked", "--bin", "lguest-init"]);
    cargo.args(["--target", TARGET, "--target-dir"]).arg(out.join("inner")).current_dir(&here);
    // The outer build's wrappers and flags are for the outer build.
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
    assert!(status.success(), "lguest-init does not build: {status}");
}
