//! What is measured, and what was asked of it.

use crate::bench::verdicts::Verdict;
use crate::machine::Machine::{self, Lguest, Native, Qemu};

/// A group of rows, as `bench/io.sh` takes it, or one that the host measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// A disk, by O_DIRECT in a Guest.
    Block,
    /// TCP over the network that needs no right.
    Net,
    /// A shared tree of files.
    Tree,
    /// The console.
    Console,
    /// A command from its start to its end.
    Command,
    /// What a device adds to that.
    Devices,
}

impl Group {
    /// All, in the order of the table.
    pub const ALL: [Group; 6] =
        [Group::Block, Group::Net, Group::Tree, Group::Console, Group::Command, Group::Devices];

    /// The name on the command line and in the script.
    pub fn key(self) -> &'static str {
        ["block", "net", "tree", "console", "command", "devices"][self as usize]
    }

    /// Its rows: name with unit.
    pub fn rows(self) -> &'static [&'static str] {
        match self {
            Group::Block => &[
                "block_read_mbs",
                "block_write_mbs",
                "random_read_iops",
                "random_write_iops",
                "deep_read_iops",
                "deep_write_iops",
            ],
            Group::Net => &["net_out_mbit", "net_in_mbit", "net_turns_us", ASKED_TURNS],
            Group::Tree => &["tar_ms", "git_status_ms"],
            Group::Console => &[CONSOLE],
            Group::Command => &[DEBIAN, DIRECTORY],
            // By the clock, and by the processors' time, which a busy host does not lengthen as much.
            Group::Devices => &["net_ms", "disk_ms", "share_ms", "net_cpu_ms", "disk_cpu_ms", "share_cpu_ms"],
        }
    }
}

/// Microseconds for a byte there and back when the host began.
pub const ASKED_TURNS: &str = "net_asked_us";
/// Kilobytes a second that the console carries.
pub const CONSOLE: &str = "console_kbs";
/// `lguest run debian -- true`, or another's boot of the same kernel up to its end.
pub const DEBIAN: &str = "debian_true_ms";
/// `lguest run DIR -- true`.
pub const DIRECTORY: &str = "directory_true_ms";

/// The row of this name.
pub fn named(name: &str) -> Option<&'static str> {
    Group::ALL.iter().flat_map(|group| group.rows()).copied().find(|row| *row == name)
}

/// What was asked for, on the figures that `median` knows.
pub fn verdicts(median: impl Fn(Machine, &'static str) -> Option<f64>) -> Vec<Verdict> {
    let ours = |row| median(Lguest, row);
    let times = |row, other| Some(ours(row)? / median(other, row)?);
    let mut verdicts = Vec::new();
    for row in ["block_read_mbs", "block_write_mbs"] {
        // Either is enough; the second only counts where a host's own file does less than 2 GB/s.
        let bound = median(Native, row).map_or(1000.0, |native| (native / 2.0).min(1000.0)).round();
        verdicts.push(Verdict::at_least(row.into(), bound, " MB/s (1000, or half the host's)", ours(row)));
    }
    for row in ["random_read_iops", "random_write_iops", "deep_read_iops", "deep_write_iops"] {
        verdicts.push(Verdict::at_least(row.into(), 3.0, " x QEMU", times(row, Qemu)));
    }
    for row in ["net_out_mbit", "net_in_mbit"] {
        verdicts.push(Verdict::at_least(row.into(), 2000.0, " Mbit/s", ours(row)));
        verdicts.push(Verdict::at_least(row.into(), 3.0, " x QEMU", times(row, Qemu)));
    }
    verdicts.push(Verdict::at_most(DEBIAN.into(), 800.0, " ms", ours(DEBIAN)));
    verdicts.push(Verdict::at_most(DIRECTORY.into(), 1200.0, " ms", ours(DIRECTORY)));
    for row in &Group::Devices.rows()[..3] {
        verdicts.push(Verdict::at_most((*row).into(), 5.0, " ms", ours(row)));
    }
    verdicts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(figures: &'static [(Machine, &'static str, f64)], row: &str) -> Vec<&'static str> {
        let median = |machine, row| {
            figures.iter().find(|(one, name, _)| (*one, *name) == (machine, row)).map(|(.., value)| *value)
        };
        verdicts(median).iter().filter(|verdict| verdict.asked == row).map(Verdict::word).collect()
    }

    #[test]
    fn half_of_a_slow_host_is_enough_and_a_gigabyte_of_any() {
        let row = "block_read_mbs";
        assert_eq!(
            words(&[(Lguest, "block_read_mbs", 600.0), (Native, "block_read_mbs", 1100.0)], row),
            ["met"]
        );
        assert_eq!(
            words(&[(Lguest, "block_read_mbs", 900.0), (Native, "block_read_mbs", 4000.0)], row),
            ["not met"]
        );
        assert_eq!(words(&[(Lguest, "block_read_mbs", 1000.0)], row), ["met"]);
        assert_eq!(words(&[], row), ["not measured"]);
    }

    #[test]
    fn tcp_is_asked_for_twice() {
        let figures: &[_] = &[(Lguest, "net_out_mbit", 2500.0), (Qemu, "net_out_mbit", 1000.0)];
        assert_eq!(words(figures, "net_out_mbit"), ["met", "not met"]);
    }

    #[test]
    fn every_row_is_found_by_its_name() {
        assert_eq!(named("console_kbs"), Some(CONSOLE));
        assert_eq!(named("bench:"), None);
    }
}
