//! What a vCPU did so far, for a person who asks: counts always, times only when they were asked for in advance.

use std::time::Duration;

use lguest_translator::Statistics;
pub use lguest_translator::sight::{CodeNews, Journal};

use crate::engine::ExitCounts;

/// One vCPU's account.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// What it came back for.
    pub exits: ExitCounts,
    /// What the translator counts; none on KVM.
    pub translator: Option<Statistics>,
    /// Where its time went; none where nobody asked for it in advance, and on KVM.
    pub times: Option<Times>,
    /// Instructions that Rust carried out and how often, the most frequent first. Empty as `times` is none.
    pub carried_out: Vec<(String, u64)>,
}

/// Where a vCPU's time went.
#[derive(Debug, Clone, Copy, Default)]
pub struct Times {
    /// In generated code.
    pub generated: Duration,
    /// Making generated code.
    pub translating: Duration,
    /// In the processor's own Rust otherwise: page walks, system instructions, events.
    pub processor: Duration,
    /// Asleep in `hlt`.
    pub asleep: Duration,
}
