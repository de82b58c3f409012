//! `--stats`: what a machine did, as a table for a person or as JSON for a program, at its end and on SIGUSR1.
//!
//! One list of rows serves both, so they cannot disagree. A row has one figure a vCPU; times and instructions are there
//! because `--stats` made the vCPUs note them ([`lguest_host::Vcpu::watch_itself`]).

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::thread;
use std::time::{Duration, Instant};

use lguest_host::sight::Report;
use signal_hook::consts::SIGUSR1;
use signal_hook::iterator::Signals;

use crate::board::errands::Summoner;
use crate::memory_account::{AccountBook, MemoryAccount};
use crate::request::Mistake;

/// How many kinds of instructions are listed: the rest are rare, and a table is to be read.
const INSTRUCTIONS_LISTED: usize = 12;
/// How long a vCPU may take to come to the door: it answers between two units, unless its device waits for a reader.
const PATIENCE: Duration = Duration::from_secs(2);

/// How the account is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A table.
    Table,
    /// One JSON object on one line.
    Json,
}

/// Reads `--stats`.
///
/// # Errors
/// For a word that is no form.
pub fn form(word: &str) -> Result<Form, Mistake> {
    match word {
        "table" => Ok(Form::Table),
        "json" => Ok(Form::Json),
        _ => Err(Mistake(format!("--stats {word}: is no form; give --stats alone, or --stats=json"))),
    }
}

/// A figure and its unit.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Figure {
    Count(u64),
    Bytes(u64),
    Time(Duration),
}

impl Figure {
    fn for_people(self) -> String {
        match self {
            Figure::Count(count) => count.to_string(),
            Figure::Bytes(bytes) => format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20)),
            Figure::Time(time) => format!("{:.3} s", time.as_secs_f64()),
        }
    }

    fn for_programs(self) -> String {
        match self {
            Figure::Count(number) | Figure::Bytes(number) => number.to_string(),
            Figure::Time(time) => format!("{:.6}", time.as_secs_f64()),
        }
    }
}

/// A line of the table: its heading if it begins a part, its name, and a figure a vCPU or one for all.
struct Row {
    part: &'static str,
    name: String,
    figures: Vec<Figure>,
}

/// What a machine did in `elapsed`.
pub struct Account {
    /// Since its start.
    pub elapsed: Duration,
    /// A report a vCPU.
    pub reports: Vec<Report>,
    /// What the process takes.
    pub memory: Option<MemoryAccount>,
}

impl Account {
    /// Writes it in the form that was asked for, with an end of line.
    pub fn write(&self, form: Form) -> String {
        match form {
            Form::Table => self.table(),
            Form::Json => self.json(),
        }
    }

    fn rows(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        self.times(&mut rows);
        self.exits(&mut rows);
        self.translator(&mut rows);
        self.instructions(&mut rows);
        if let Some(memory) = &self.memory {
            let mut row = |name: &str, bytes| {
                rows.push(Row { part: "memory", name: name.to_owned(), figures: vec![Figure::Bytes(bytes)] });
            };
            row("guest_ram", memory.guest);
            row("code_cache", memory.code);
            row("address_tables", memory.tables);
            row("launcher", memory.rest);
            row("host_page_tables", memory.page_tables);
        }
        rows
    }

    /// A row of one figure a vCPU, if all of them have it.
    fn each(
        &self,
        rows: &mut Vec<Row>,
        part: &'static str,
        name: &str,
        figure: impl Fn(&Report) -> Option<Figure>,
    ) {
        if let Some(figures) = self.reports.iter().map(figure).collect::<Option<Vec<_>>>() {
            rows.push(Row { part, name: name.to_owned(), figures });
        }
    }

    fn times(&self, rows: &mut Vec<Row>) {
        let all = self.elapsed;
        rows.push(Row { part: "time", name: "elapsed".to_owned(), figures: vec![Figure::Time(all)] });
        let mut row = |name, pick: fn(&lguest_host::sight::Times) -> Duration| {
            self.each(rows, "time", name, |r| r.times.as_ref().map(|t| Figure::Time(pick(t))));
        };
        row("generated_code", |t| t.generated);
        row("translating", |t| t.translating);
        row("processor_in_rust", |t| t.processor);
        row("asleep_in_hlt", |t| t.asleep);
        self.each(rows, "time", "devices_and_board", |r| {
            let t = r.times.as_ref()?;
            Some(Figure::Time(all.saturating_sub(t.generated + t.translating + t.processor + t.asleep)))
        });
    }

    fn exits(&self, rows: &mut Vec<Row>) {
        let mut row = |name, pick: fn(&Report) -> u64| {
            self.each(rows, "exits", name, |r| Some(Figure::Count(pick(r))));
        };
        row("ports", |r| r.exits.ports);
        row("mmio", |r| r.exits.mmio);
        row("msrs", |r| r.exits.msrs);
        row("halts", |r| r.exits.halts);
        row("kicks", |r| r.exits.kicks);
        row("interrupt_windows", |r| r.exits.windows);
        row("interrupts_delivered", |r| r.exits.interrupts);
    }

    fn translator(&self, rows: &mut Vec<Row>) {
        let mut row = |name, pick: fn(&lguest_translator::Statistics) -> Figure| {
            self.each(rows, "translator", name, |r| r.translator.as_ref().map(pick));
        };
        row("units", |s| Figure::Count(s.units));
        row("instructions_translated", |s| Figure::Count(s.instructions));
        row("code_bytes", |s| Figure::Bytes(s.code_bytes));
        row("table_bytes", |s| Figure::Bytes(s.table_bytes));
        row("cache_resets", |s| Figure::Count(s.resets));
        row("entries", |s| Figure::Count(s.entries));
        row("lookups", |s| Figure::Count(s.lookups));
        row("links", |s| Figure::Count(s.links));
        row("fills", |s| Figure::Count(s.fills));
        row("spaces_emptied", |s| Figure::Count(s.flushes));
        row("accesses_played", |s| Figure::Count(s.played));
        row("host_faults", |s| Figure::Count(s.faults));
        row("events_delivered", |s| Figure::Count(s.events));
        row("instructions_in_rust", |s| Figure::Count(s.system));
        row("others_asked", |s| Figure::Count(s.asked));
        row("letters_read", |s| Figure::Count(s.letters));
    }

    /// The instructions that Rust carries out most often on the first vCPU, for all vCPUs.
    fn instructions(&self, rows: &mut Vec<Row>) {
        let Some(first) = self.reports.first() else { return };
        for (name, _) in first.carried_out.iter().take(INSTRUCTIONS_LISTED) {
            let count = |r: &Report| r.carried_out.iter().find(|(n, _)| n == name).map_or(0, |(_, c)| *c);
            self.each(rows, "instructions_in_rust", name, |r| Some(Figure::Count(count(r))));
        }
    }

    fn table(&self) -> String {
        let mut text = String::new();
        let mut part = "";
        for row in self.rows() {
            if row.part != part {
                part = row.part;
                let _ = writeln!(text, "{}", part.replace('_', " "));
            }
            let _ = write!(text, "  {:<26}", row.name.replace('_', " "));
            for figure in &row.figures {
                let _ = write!(text, "{:>14}", figure.for_people());
            }
            text.push('\n');
        }
        text
    }

    /// Names are ours and numbers are numbers, so nothing needs escaping.
    fn json(&self) -> String {
        let mut parts: Vec<(&str, Vec<String>)> = Vec::new();
        for row in self.rows() {
            let figures: Vec<String> = row.figures.iter().map(|f| f.for_programs()).collect();
            let entry = format!("\"{}\":[{}]", row.name, figures.join(","));
            match parts.last_mut().filter(|(part, _)| *part == row.part) {
                Some((_, entries)) => entries.push(entry),
                None => parts.push((row.part, vec![entry])),
            }
        }
        let parts: Vec<String> =
            parts.iter().map(|(part, entries)| format!("\"{part}\":{{{}}}", entries.join(","))).collect();
        format!("{{{}}}\n", parts.join(","))
    }
}

/// Prints an account. In a raw terminal a line has to end with its own return.
pub fn print(account: &Account, form: Form) {
    let text = account.write(form).replace('\n', crate::terminal::line_end());
    // Nobody can be told that standard error is closed.
    let _ = io::stderr().write_all(text.as_bytes());
}

/// Prints an account whenever SIGUSR1 comes, as long as the process lives.
///
/// # Errors
/// When the signal cannot be caught.
pub fn print_on_signal(form: Form, start: Instant, summoner: Summoner, book: AccountBook) -> io::Result<()> {
    let mut signals = Signals::new([SIGUSR1])?;
    thread::spawn(move || {
        for _ in signals.forever() {
            let reports = summoner.ask(PATIENCE, |vcpu| vcpu.report());
            if reports.is_empty() {
                crate::terminal::say("--stats: this engine gives an account only at the end of the run");
                continue;
            }
            print(&Account { elapsed: start.elapsed(), reports, memory: book.read() }, form);
        }
    });
    Ok(())
}

#[cfg(test)]
#[path = "stats_tests.rs"]
mod tests;
