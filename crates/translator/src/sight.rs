//! What a vCPU notes about itself when it is asked to: where its time goes, which instructions Rust carries out, and
//! where generated code stands. Counters that cost nothing are always kept ([`crate::Statistics`]); these cost a look at
//! the clock or a call, so a vCPU that nobody asked pays one comparison for each, outside generated code.

use crate::system::registers::host_tsc;
use crate::vcpu::Vcpu;
use iced_x86::Mnemonic;
use rustc_hash::FxHashMap;

/// Ticks of the host's time-stamp counter, by what they were spent on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ticks {
    /// Inside [`Vcpu::run`], altogether.
    pub running: u64,
    /// Of these, in generated code.
    pub generated: u64,
    /// Of these, making generated code.
    pub translating: u64,
}

/// Something happened to the code cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CodeNews {
    /// Host code of `size` bytes at `host` was made from the Guest's code at `pc`; `pc` is none for the doors between
    /// Rust and generated code.
    Made {
        /// First byte on the host.
        host: u64,
        /// Bytes.
        size: u32,
        /// Guest-virtual address.
        pc: Option<u64>,
        /// Made for privilege level 3.
        user: bool,
    },
    /// All of it is gone; addresses will be used again.
    StartedOver,
}

/// Who is told of [`CodeNews`], on the vCPU's thread.
pub type Journal = Box<dyn FnMut(CodeNews) + Send>;

/// What is noted, for those who asked.
#[derive(Default)]
pub(crate) struct Sight {
    asked: Option<Box<Asked>>,
    journal: Option<Journal>,
}

#[derive(Default)]
struct Asked {
    ticks: Ticks,
    /// How often Rust carried out each mnemonic.
    system: FxHashMap<Mnemonic, u64>,
}

/// The moment something began, if anybody wants to know how long it takes.
#[derive(Clone, Copy)]
pub(crate) struct Since(Option<u64>);

impl Sight {
    /// Now, if it matters.
    pub(crate) fn now(&self) -> Since {
        Since(self.asked.as_ref().map(|_| host_tsc()))
    }

    /// Adds the time since then to what `field` chooses.
    pub(crate) fn spent(&mut self, since: Since, field: impl FnOnce(&mut Ticks) -> &mut u64) {
        if let (Some(asked), Since(Some(began))) = (&mut self.asked, since) {
            *field(&mut asked.ticks) += host_tsc().saturating_sub(began);
        }
    }

    /// Rust carries this instruction out.
    pub(crate) fn carried_out(&mut self, mnemonic: Mnemonic) {
        if let Some(asked) = &mut self.asked {
            *asked.system.entry(mnemonic).or_default() += 1;
        }
    }

    /// Tells the journal, if there is one.
    pub(crate) fn tell(&mut self, news: CodeNews) {
        if let Some(journal) = &mut self.journal {
            journal(news);
        }
    }
}

impl Vcpu {
    /// Notes times and instructions from now on.
    pub fn watch_itself(&mut self) {
        self.sight.asked.get_or_insert_default();
    }

    /// Where the time went; none before [`Self::watch_itself`].
    pub fn ticks(&self) -> Option<Ticks> {
        self.sight.asked.as_ref().map(|asked| asked.ticks)
    }

    /// Names of the instructions that Rust carried out, and how often; the most frequent first.
    pub fn carried_out(&self) -> Vec<(String, u64)> {
        let Some(asked) = &self.sight.asked else { return Vec::new() };
        let mut list: Vec<(String, u64)> =
            asked.system.iter().map(|(m, &n)| (format!("{m:?}").to_lowercase(), n)).collect();
        list.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        list
    }

    /// Tells `journal` of all code there is and of all that is made from now on.
    pub fn keep_journal(&mut self, mut journal: Journal) {
        let doors = CodeNews::Made {
            host: self.cache.arena.address(0),
            size: self.cache.doors() as u32,
            pc: None,
            user: false,
        };
        journal(doors);
        for unit in &self.cache.units {
            for (place, size) in [(unit.start, unit.hot), (unit.cold, unit.size - unit.hot)] {
                journal(CodeNews::Made {
                    host: self.cache.arena.address(place as usize),
                    size: size.into(),
                    pc: Some(unit.key.pc),
                    user: unit.key.mode.user,
                });
            }
        }
        self.sight.journal = Some(journal);
    }
}
