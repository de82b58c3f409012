//! What the user wants to see of a run: `--stats`, `--perf-map`, `--symbols`.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use crate::board::{Machine, Outcome};
use crate::cli::RunArguments;
use crate::engine::Engine;
use crate::memory_account::AccountBook;
use crate::perf_map::{self, PerfMap};
use crate::request::Mistake;
use crate::stats::{self, Account, Form};
use crate::symbols::Symbols;
use crate::terminal;

/// The wishes, read and found possible.
#[derive(Debug, Default)]
pub struct Watching {
    stats: Option<Form>,
    perf_map: Option<Symbols>,
}

impl Watching {
    /// Reads the options.
    ///
    /// # Errors
    /// For a form that does not exist, a file of symbols that cannot be read or serves nothing, and for a map of code
    /// that the engine does not make.
    pub fn read(arguments: &RunArguments, engine: Engine) -> Result<Watching, Mistake> {
        let stats = arguments.stats.as_deref().map(stats::form).transpose()?;
        let symbols = arguments.symbols.as_deref().map(Symbols::open).transpose()?;
        let perf_map = match (arguments.perf_map, engine) {
            (true, Engine::Translator) => Some(symbols.unwrap_or_default()),
            (true, Engine::Kvm) => {
                return Err(Mistake(
                    "--perf-map: KVM runs the Guest's own code; use perf kvm, or --engine translator"
                        .to_owned(),
                ));
            }
            (false, _) if symbols.is_some() => {
                return Err(Mistake("--symbols: gives names to --perf-map; add that".to_owned()));
            }
            (false, _) => None,
        };
        Ok(Watching { stats, perf_map })
    }

    /// True when anything was asked for.
    pub fn is_wanted(&self) -> bool {
        self.stats.is_some() || self.perf_map.is_some()
    }

    /// Makes the machine note what was asked for, before it runs.
    ///
    /// # Errors
    /// When the map cannot be written or the signal cannot be caught.
    pub fn begin(self, machine: &mut Machine) -> Result<Watch, Mistake> {
        let start = Instant::now();
        let mut book = None;
        if let Some(form) = self.stats {
            machine.vcpus().for_each(|vcpu| vcpu.watch_itself());
            // Two, for they are read on two threads, each from its own place.
            stats::print_on_signal(form, start, machine.summoner(), AccountBook::open()?)?;
            book = Some(AccountBook::open()?);
        }
        if let Some(symbols) = self.perf_map {
            let place = perf_map::place();
            let map = PerfMap::create(symbols).map_err(|cause| {
                Mistake(format!("--perf-map: {} cannot be written: {cause}", place.display()))
            })?;
            let map = Arc::new(Mutex::new(map));
            for vcpu in machine.vcpus() {
                vcpu.keep_journal(PerfMap::journal(&map));
            }
            terminal::say(&format!("perf finds names in {}", place.display()));
        }
        Ok(Watch { stats: self.stats, start, book })
    }
}

/// A run that is watched.
pub struct Watch {
    stats: Option<Form>,
    start: Instant,
    book: Option<AccountBook>,
}

impl Watch {
    /// Runs the machine to its end, with the account that was asked for. Each of its threads calls `settle` first.
    pub fn run(self, machine: Machine, settle: &(dyn Fn() + Sync)) -> (Outcome, FinalAccount) {
        let Some(form) = self.stats else { return (machine.run(settle), FinalAccount(None)) };
        let mut account = None;
        let outcome = machine.run_watched(settle, |reports| {
            let memory = self.book.as_ref().and_then(AccountBook::read);
            account = Some((Account { elapsed: self.start.elapsed(), reports, memory }, form));
        });
        (outcome, FinalAccount(account))
    }
}

/// The account of a run that is over, to be printed when the terminal is as it was.
pub struct FinalAccount(Option<(Account, Form)>);

impl FinalAccount {
    /// Prints it, if one was asked for.
    pub fn print(&self) {
        if let Some((account, form)) = &self.0 {
            stats::print(account, *form);
        }
    }
}
