//! `lguest doctor`: what this machine offers, which engine would run, and what would make it faster.

use std::fmt::Write as _;

use lguest_translator::{offered_features, requirements};

use crate::cache::Cache;
use crate::debian::apt::Apt;
use crate::engine;
use crate::sandbox::Offered;

/// The report, and whether a machine can start here.
pub fn examine() -> (String, bool) {
    let mut report = String::new();
    let can_run = processor(&mut report);
    memory(&mut report);
    kvm(&mut report);
    line(&mut report, "sandbox", Offered::here().in_words());
    debian(&mut report);
    let verdict = match engine::choose("auto") {
        Ok(choice) => format!("{} ({})", engine::name(choice.engine), choice.reason),
        Err(mistake) => format!("none ({mistake})"),
    };
    line(&mut report, "engine", &verdict);
    (report, can_run)
}

fn line(report: &mut String, name: &str, text: &str) {
    writeln!(report, "{name:<12} {text}").expect("a string takes every letter");
}

fn processor(report: &mut String) -> bool {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name| engine::cpuinfo_field(&text, name).unwrap_or("unknown");
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    line(
        report,
        "processor",
        &format!("{}, {} ({processors} usable)", field("vendor_id"), field("model name")),
    );
    let needed = requirements();
    for requirement in &needed {
        let purpose = requirement.purpose;
        let text = match requirement.present {
            true => format!("yes: {purpose}"),
            false => format!("MISSING: {purpose}; {}", requirement.since),
        };
        line(report, &format!("  {}", requirement.name), &text);
    }
    line(report, "  features", &format!("{} (--cpu-features hides them)", offered_features().join(" ")));
    needed.iter().all(|requirement| requirement.present)
}

/// This machine's RAM in bytes.
pub fn host_memory() -> u64 {
    let facts = rustix::system::sysinfo();
    // Both are `unsigned long` and `unsigned int` of sysinfo(2).
    #[allow(clippy::unnecessary_cast)]
    (facts.totalram as u64).saturating_mul(u64::from(facts.mem_unit))
}

fn memory(report: &mut String) {
    line(report, "memory", &format!("{} MiB", host_memory() >> 20));
}

fn kvm(report: &mut String) {
    let (opens, state) = engine::kvm_state();
    line(report, "kvm", &state);
    if !opens {
        line(report, "", "access to a working /dev/kvm would make Guests run at hardware speed");
    }
}

fn debian(report: &mut String) {
    let state = match Apt::check() {
        Ok(()) => "there; `lguest run debian` can fetch a kernel",
        Err(_) => "missing; give a kernel with --kernel and an initial RAM disk with --initrd",
    };
    line(report, "apt-get", state);
    let cache = match Cache::of_the_user() {
        Some(cache) => {
            let kept = cache.kept();
            let kept = if kept.is_empty() { "nothing yet".to_owned() } else { kept.join(", ") };
            format!("{} (holds {kept})", cache.root().display())
        }
        None => "nowhere; set LGUEST_CACHE, XDG_CACHE_HOME or HOME".to_owned(),
    };
    line(report, "cache", &cache);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_names_every_part() {
        let (report, _) = examine();
        for name in ["processor", "memory", "kvm", "sandbox", "apt-get", "cache", "engine"] {
            assert!(report.lines().any(|line| line.starts_with(name)), "{name} in\n{report}");
        }
    }

    #[test]
    fn this_machine_has_memory() {
        assert!(host_memory() > 64 << 20);
    }
}
