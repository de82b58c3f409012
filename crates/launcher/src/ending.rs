//! How a run can end, and what the shell that started it is told.

use std::time::Duration;

use lguest_host::engine::HALTED_FOR_EVER;

/// Exit status of a run that the time limit ended; timeout(1) uses the same.
pub const TIME_LIMIT: u8 = 124;
/// Exit status of a request that could not work, whatever the reason.
pub const MISTAKE: u8 = 125;
/// Exit status of a Guest that died.
pub const DEAD: u8 = 126;
/// What a shell adds to a signal's number.
const SIGNAL_BASE: i32 = 128;

/// Why a run is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The Guest's session ended with this status.
    Status(u8),
    /// The Guest switched itself off.
    PowerOff,
    /// The user pressed Ctrl-A X.
    UserStop,
    /// `kill` in a debugger.
    DebuggerStop,
    /// The time limit.
    TimeLimit(Duration),
    /// A signal to lguest, or SIGPIPE for a reader of our output that went away.
    Signal(i32),
    /// The request could not work; nothing was started.
    Mistake(String),
    /// The Guest died.
    Dead(String),
    /// The sandbox stopped a system call: a bug of ours, or a Guest that broke out.
    Forbidden(String),
}

/// What a death's reason is followed by where the kernel's command line makes it likely. A kernel that is told not to read the
/// ACPI tables finds neither the interrupt controllers nor the processors, for this machine has no older tables that name them;
/// Linux of 64 bits then halts for ever.
pub fn likely_cause(verdict: &str, cmdline: &str) -> Option<&'static str> {
    // What stands behind "--" is the first process's.
    let mut words = cmdline.split_whitespace().take_while(|word| *word != "--");
    (verdict == HALTED_FOR_EVER && words.any(|word| word == "acpi=off")).then_some(
        "acpi=off on the kernel's command line is the likely cause: this machine tells of its interrupts by ACPI alone, so leave it out",
    )
}

impl Ending {
    /// The exit status.
    pub fn code(&self) -> u8 {
        match self {
            Ending::Status(status) => *status,
            Ending::PowerOff | Ending::UserStop | Ending::DebuggerStop => 0,
            Ending::TimeLimit(_) => TIME_LIMIT,
            Ending::Signal(number) => u8::try_from(SIGNAL_BASE + number).unwrap_or(u8::MAX),
            Ending::Mistake(_) => MISTAKE,
            Ending::Dead(_) | Ending::Forbidden(_) => DEAD,
        }
    }

    /// What to say on standard error, when there is something to say.
    pub fn sentence(&self) -> Option<String> {
        match self {
            Ending::Status(_) | Ending::PowerOff | Ending::Signal(_) => None,
            Ending::UserStop => Some("stopped by Ctrl-A X".to_owned()),
            Ending::DebuggerStop => Some("ended by the debugger".to_owned()),
            Ending::TimeLimit(limit) => {
                Some(format!("the time limit of {} s (--timeout) was reached", limit.as_secs_f64()))
            }
            Ending::Mistake(sentence) | Ending::Forbidden(sentence) => Some(sentence.clone()),
            Ending::Dead(reason) => Some(format!("the Guest died: {reason}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acpi_off_is_a_likely_cause_where_the_kernel_reads_it() {
        for (cmdline, likely) in [
            ("console=ttyS0 acpi=off panic=-1", true),
            ("acpi=off", true),
            ("acpi=on", false),
            ("myacpi=off quiet", false),
            ("quiet -- acpi=off", false),
        ] {
            assert_eq!(likely_cause(HALTED_FOR_EVER, cmdline).is_some(), likely, "{cmdline}");
        }
        assert_eq!(likely_cause("triple fault", "acpi=off"), None);
    }

    #[test]
    fn every_ending_has_the_status_of_the_contract() {
        let limit = Ending::TimeLimit(Duration::from_millis(1500));
        assert_eq!(limit.code(), 124);
        assert_eq!(limit.sentence().unwrap(), "the time limit of 1.5 s (--timeout) was reached");
        assert_eq!(Ending::Mistake(String::new()).code(), 125);
        assert_eq!(Ending::Dead(String::new()).code(), 126);
        assert_eq!(Ending::Forbidden(String::new()).code(), 126);
        assert_eq!(Ending::Status(3).code(), 3);
        assert_eq!(Ending::PowerOff.code(), 0);
        assert_eq!(Ending::Signal(15).code(), 143);
        assert_eq!(Ending::Signal(64_000).code(), 255);
    }
}
