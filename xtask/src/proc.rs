//! What the Host's kernel tells of a process: its time and its memory (proc(5)).

use crate::errand::Errand;
use std::path::PathBuf;
use std::time::Duration;

/// A tick of /proc/PID/stat on x86 Linux: USER_HZ is 100. The kernel scales the sum to what really ran.
const TICK: Duration = Duration::from_millis(10);

/// A process of this machine.
pub struct Process(PathBuf);

/// Its resident memory in bytes: proportional set size, so that a page with two views counts once.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// The Guest's RAM.
    pub ram: u64,
    /// The translator's code cache.
    pub code: u64,
    /// The translator's tables.
    pub tables: u64,
    /// All the rest.
    pub rest: u64,
}

impl Memory {
    /// What the Guest costs beyond its own RAM.
    pub fn beyond_ram(&self) -> u64 {
        self.code + self.tables + self.rest
    }

    /// Reads `smaps`. Our memory files have names; another machine's RAM is the mapping that is as large as its RAM.
    fn read(smaps: &str, ram_size: u64) -> Memory {
        let mut memory = Memory::default();
        let mut kind = "";
        for line in smaps.lines() {
            let mut words = line.split_whitespace();
            let first = words.next().unwrap_or_default();
            if let Some(size) = mapping_size(first) {
                kind = match line {
                    line if line.contains("memfd:lguest-memory") => "ram",
                    line if line.contains("memfd:lguest-code") => "code",
                    // Shared memory without a file: nothing of ours but the code cache has two views of such.
                    line if line.contains("/dev/zero (deleted)") => "code",
                    line if line.contains("memfd:lguest-tables") => "tables",
                    _ if size == ram_size => "ram",
                    _ => "rest",
                };
            } else if first == "Pss:" {
                let bytes = words.next().and_then(|word| word.parse::<u64>().ok()).unwrap_or(0) << 10;
                *match kind {
                    "ram" => &mut memory.ram,
                    "code" => &mut memory.code,
                    "tables" => &mut memory.tables,
                    _ => &mut memory.rest,
                } += bytes;
            }
        }
        memory
    }
}

/// The size of a mapping whose line begins with `START-END`.
fn mapping_size(word: &str) -> Option<u64> {
    let (start, end) = word.split_once('-')?;
    let address = |text| u64::from_str_radix(text, 16).ok();
    address(end)?.checked_sub(address(start)?)
}

impl Process {
    /// The process of this number.
    pub fn new(number: u32) -> Process {
        Process(PathBuf::from(format!("/proc/{number}")))
    }

    fn read(&self, name: &str) -> Result<String, Errand> {
        let path = self.0.join(name);
        std::fs::read_to_string(&path).map_err(Errand::file(path))
    }

    /// Processor time of all its threads, in user and kernel mode.
    pub fn processor_time(&self) -> Result<Duration, Errand> {
        self.time(11)
    }

    /// The same of its children that have ended and were waited for.
    pub fn time_of_children(&self) -> Result<Duration, Errand> {
        self.time(13)
    }

    /// A time in user mode and, in the field behind it, in kernel mode.
    fn time(&self, field: usize) -> Result<Duration, Errand> {
        let stat = self.read("stat")?;
        let ticks = ticks(&stat, field).ok_or_else(|| Errand::Failed {
            what: "reading a process's time".into(),
            why: format!("its stat is {stat:?}"),
        })?;
        Ok(TICK * ticks)
    }

    /// Its memory, when the Guest has so many bytes of RAM.
    pub fn memory(&self, ram_size: u64) -> Result<Memory, Errand> {
        Ok(Memory::read(&self.read("smaps")?, ram_size))
    }
}

/// Two fields, so many behind the name: utime and stime are the 14th and 15th of all. The second, the name, may hold spaces and
/// ends with a parenthesis.
fn ticks(stat: &str, field: usize) -> Option<u32> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(field);
    let mut field = || fields.next()?.parse::<u32>().ok();
    Some(field()? + field()?)
}

#[test]
fn a_name_with_spaces_does_not_move_the_times() {
    let stat = "7 (a b) c) S 1 7 7 0 -1 4194304 1 0 0 0 12 30 5 6 20 0";
    assert_eq!((ticks(stat, 11), ticks(stat, 13)), (Some(42), Some(11)));
    assert_eq!(ticks("7 (a) S", 11), None);
}

#[test]
fn memory_is_told_apart_by_its_files() {
    let smaps = "1000-3000 rw-s 0 00:01 5 /memfd:lguest-memory (deleted)\nRss: 8 kB\nPss:  8 kB\n\
                 3000-4000 r-xs 0 00:01 6 /memfd:lguest-code (deleted)\nPss: 1 kB\n\
                 3000-4000 rw-s 0 00:01 6 /dev/zero (deleted)\nPss: 1 kB\n\
                 4000-5000 rw-s 0 00:01 6 /memfd:lguest-tables (deleted)\nPss: 3 kB\n\
                 5000-6000 rw-p 0 00:00 0\nPss: 1 kB\n6000-16000 rw-p 0 00:00 0\nPss: 4 kB\n";
    let wanted = Memory { ram: 12 << 10, code: 2 << 10, tables: 3 << 10, rest: 1 << 10 };
    assert_eq!(Memory::read(smaps, 0x10000), wanted);
    assert_eq!(wanted.beyond_ram(), 6 << 10);
}
