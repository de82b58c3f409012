//! `--perf-map`: tells `perf` what generated code was made from.
//!
//! `perf` looks for the names of code that no file holds in `/tmp/perf-PID.map`, a line `START SIZE NAME` each in
//! hexadecimal (tools/perf/Documentation/jit-interface.txt). A unit of a kernel whose symbols are known is called by
//! function and offset, another by its Guest address. `perf` does not add up a function's units.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use lguest_host::sight::{CodeNews, Journal};

use crate::symbols::Symbols;
use crate::terminal;

/// Bytes written at most. A Guest that makes new code all the time fills the code cache every million units and starts
/// it over; this holds the units of one full cache, and no disk is filled behind anybody's back.
const LARGEST: u64 = 64 << 20;

/// The map of one process.
pub struct PerfMap {
    file: File,
    written: u64,
    symbols: Symbols,
    /// vCPUs that write here. With one, a cache that starts over starts the map over.
    writers: usize,
    over: bool,
}

/// Where the map of this process has to be for `perf` to find it.
pub fn place() -> PathBuf {
    PathBuf::from(format!("/tmp/perf-{}.map", std::process::id()))
}

impl PerfMap {
    /// An empty map in its place. A file of that name is a dead process's and is replaced, never written through.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn create(symbols: Symbols) -> io::Result<PerfMap> {
        let place = place();
        match std::fs::remove_file(&place) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = File::create_new(place)?;
        Ok(PerfMap { file, written: 0, symbols, writers: 0, over: false })
    }

    /// A journal that writes here, for one vCPU.
    pub fn journal(map: &Arc<Mutex<PerfMap>>) -> Journal {
        map.lock().unwrap_or_else(PoisonError::into_inner).writers += 1;
        let map = map.clone();
        Box::new(move |news| map.lock().unwrap_or_else(PoisonError::into_inner).note(news))
    }

    /// One write a unit: 1.5 us beside the 20 to 50 us that a unit takes to make, and nothing is lost when the process
    /// ends in whatever way.
    fn note(&mut self, news: CodeNews) {
        if self.over {
            return;
        }
        let done = match news {
            CodeNews::StartedOver if self.writers == 1 => self.start_over(),
            CodeNews::StartedOver => Ok(()),
            CodeNews::Made { host, size, pc, user } => {
                let line = format!("{host:x} {size:x} {}\n", self.name(pc, user));
                self.written += line.len() as u64;
                self.file.write_all(line.as_bytes())
            }
        };
        if done.is_err() || self.written > LARGEST {
            self.over = true;
            terminal::say(
                "--perf-map: the map is full or cannot be written; code made from now on has no names",
            );
        }
    }

    fn start_over(&mut self) -> io::Result<()> {
        self.written = 0;
        self.file.set_len(0)?;
        self.file.rewind()
    }

    fn name(&self, pc: Option<u64>, user: bool) -> String {
        let Some(pc) = pc else { return "[lguest doors]".to_owned() };
        match self.symbols.find(pc) {
            Some((name, 0)) if !user => format!("[guest] {name}"),
            Some((name, offset)) if !user => format!("[guest] {name}+{offset:#x}"),
            _ if user => format!("[guest user] {pc:#x}"),
            _ => format!("[guest] {pc:#x}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map() -> PerfMap {
        let file = tempfile::tempfile().unwrap();
        PerfMap { file, written: 0, symbols: Symbols::default(), writers: 1, over: false }
    }

    fn text(map: &mut PerfMap) -> String {
        map.file.rewind().unwrap();
        io::read_to_string(&map.file).unwrap()
    }

    fn made(host: u64, pc: Option<u64>, user: bool) -> CodeNews {
        CodeNews::Made { host, size: 0x40, pc, user }
    }

    #[test]
    fn a_line_has_start_size_and_name() {
        let mut map = map();
        map.note(made(0x7f00_0000, None, false));
        map.note(made(0x7f00_1000, Some(0x401000), true));
        assert_eq!(text(&mut map), "7f000000 40 [lguest doors]\n7f001000 40 [guest user] 0x401000\n");
    }

    #[test]
    fn a_cache_that_starts_over_starts_the_map_over() {
        let mut map = map();
        map.note(made(0x7f00_0000, Some(1), false));
        map.note(CodeNews::StartedOver);
        map.note(made(0x7f00_0000, Some(2), false));
        assert_eq!(text(&mut map), "7f000000 40 [guest] 0x2\n");
    }

    #[test]
    fn a_full_map_takes_no_more() {
        let mut map = map();
        map.written = LARGEST;
        map.note(made(0, Some(1), false));
        map.note(made(0, Some(2), false));
        assert_eq!(text(&mut map).lines().count(), 1);
    }
}
