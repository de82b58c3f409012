//! What is measured. A name ends with its unit, and less is always better.

/// What a row is about; the asked figures are put by class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The processor's and memory's work alone.
    Compute,
    /// One thing that a kernel does.
    Kernel,
    /// Processes that come and go.
    Process,
    /// A compiler.
    Compile,
    /// The same work on one processor and on two.
    Processors,
}

/// A row that `bench/rows.sh` knows.
#[derive(Debug)]
pub struct Row {
    /// The name, as the script takes and prints it.
    pub name: &'static str,
    /// What it is about.
    pub class: Class,
}

const fn row(name: &'static str, class: Class) -> Row {
    Row { name, class }
}

/// All rows that run inside a machine, in the order of the table.
pub const ROWS: [Row; 19] = [
    row("hash_ns", Class::Compute),
    row("sort_ms", Class::Compute),
    row("zlib_ms", Class::Compute),
    row("lua_ms", Class::Compute),
    row("sqlite_ms", Class::Compute),
    row("python_ms", Class::Compute),
    row("chase_ns", Class::Compute),
    row("float_ns", Class::Compute),
    row("memcpy_us", Class::Compute),
    row("syscall_ns", Class::Kernel),
    row("read4k_ns", Class::Kernel),
    row("fault_ns", Class::Kernel),
    row("pipe_us", Class::Kernel),
    row("fork_us", Class::Process),
    row("exec_us", Class::Process),
    row("script_ms", Class::Process),
    row("compile_ms", Class::Compile),
    row("one_ms", Class::Processors),
    row("two_ms", Class::Processors),
];

/// Command start to the first user instruction: cloud kernel, small initramfs, 256 MiB.
pub const START: &str = "start_ms";
/// Share of one core that a Guest at its prompt uses.
pub const IDLE: &str = "idle_percent";
/// Resident memory beyond the Guest's RAM at that prompt, all of it.
pub const RESIDENT: &str = "resident_mb";
/// Of that, the code cache.
pub const CODE: &str = "code_mb";
/// Of that, the tables.
pub const TABLES: &str = "tables_mb";

/// Rows that are measured from the Host.
pub const HOST_ROWS: [&str; 5] = [START, IDLE, RESIDENT, CODE, TABLES];

/// A line of the script's output: `name time check`.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// The row's name.
    pub name: &'static str,
    /// Time; less is better.
    pub time: f64,
    /// Result of the work; the same everywhere.
    pub check: String,
}

impl Line {
    /// The row in this line of a console, if it is one.
    pub fn read(line: &str) -> Option<Line> {
        let mut words = line.split_whitespace();
        let (name, time, check) = (words.next()?, words.next()?.parse().ok()?, words.next()?);
        let row = ROWS.iter().find(|row| row.name == name)?;
        words.next().is_none().then(|| Line { name: row.name, time, check: check.to_owned() })
    }
}

#[test]
fn only_lines_of_the_benchmark_are_rows() {
    let found = Line::read("hash_ns 1.5 d92d").expect("a row");
    assert_eq!((found.name, found.time, found.check.as_str()), ("hash_ns", 1.5, "d92d"));
    assert_eq!(Line::read("[    0.5] some words"), None);
    assert_eq!(Line::read("bash_ns 1.5 d92d"), None);
    assert_eq!(Line::read("hash_ns 1.5 d92d more"), None);
}
