//! `cargo xtask journey`: the house as a book, in the seven stages of lguest's own documentation.
//!
//! lguest of 2007 could be read like a story: a script drew its comments out of the code, in an order that somebody had
//! thought about. Here the order is the `mod` lines' and the story is the modules' docs, so the book cannot fall behind:
//!
//! ```text
//!   plan ──► tour      follows `mod` lines from a stage's rooms      source   a file's docs, its `mod` lines, its items
//!              │
//!   docs/journey/*.md ─┬─► book ─► pages    links: places, markdown
//!   translator's unit ─┘     ├─► html       mdBook's folder, and its HTML if mdbook is there
//!                            └─► terminal   the same as plain text
//! ```
//! `xtask/tests/journey` says what a gap is, and that there is none.

pub mod plan;
pub mod source;
pub mod tour;
pub mod markdown;
pub mod places;
pub mod pages;
pub mod book;
pub mod html;
pub mod terminal;

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::errand::Errand;
use book::Book;
use plan::{STAGES, WORDS_A_MINUTE};
use tour::Tour;

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Wish {
    /// A folder with mdBook's files.
    Book,
    /// Plain text: one stage (from 0), or all.
    Print(Option<usize>),
}

/// A stage by its name or number.
///
/// # Errors
/// When there is no such stage.
pub fn stage(word: &str) -> Result<usize, Errand> {
    let by_name = STAGES.iter().position(|stage| stage.name.eq_ignore_ascii_case(word));
    let by_number = word.parse::<usize>().ok().filter(|n| (1..=STAGES.len()).contains(n)).map(|n| n - 1);
    by_name.or(by_number).ok_or_else(|| {
        let names: Vec<_> = STAGES.iter().map(|stage| stage.name).collect();
        Errand::Argument(format!("--stage {word}; the stages are {}", names.join(", ")))
    })
}

/// The workspace's root folder.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace").to_path_buf()
}

/// Makes the book, or prints it.
///
/// # Errors
/// When a file cannot be read or written, or a page asks for something that is not there.
pub fn run(wish: &Wish) -> Result<(), Errand> {
    let root = root();
    let tour = Tour::walk(&root, &STAGES)?;
    let unit = unit(&root);
    if unit.is_none() {
        eprintln!(
            "xtask: the translated unit is left out: cargo run -p lguest-translator --example unit does not run here"
        );
    }
    let book = Book::write(&root, &tour, unit.as_deref())?;
    match wish {
        Wish::Print(stage) => {
            let standard_output = Errand::file("standard output");
            terminal::print(&book, *stage, &mut io::stdout().lock()).map_err(standard_output)
        }
        Wish::Book => {
            let place = html::write(&root, &book)?;
            let where_to = match html::build(&place)? {
                Some(index) => index.display().to_string(),
                None => format!(
                    "{}: Markdown, from src/SUMMARY.md on; with mdbook (cargo install mdbook) it would be HTML too",
                    place.display()
                ),
            };
            // The book is made; a reader of these lines who is gone misses them.
            let _ = writeln!(io::stdout(), "{}\n{where_to}", summary(&book));
            Ok(())
        }
    }
}

/// What was made, in a sentence.
fn summary(book: &Book) -> String {
    let words = book.words();
    let minutes = words.div_ceil(WORDS_A_MINUTE);
    let folded = match book.folded {
        0 => String::new(),
        folded => format!(", {folded} of them told by their first paragraph"),
    };
    format!(
        "{} stages, {} modules{folded}, {} pages, {words} words: {} h {:02} min at {WORDS_A_MINUTE} words a minute",
        STAGES.len(),
        book.modules,
        book.evening().count(),
        minutes / 60,
        minutes % 60
    )
}

/// The listing of a translated unit, from the translator itself; none when it cannot be built or run here.
fn unit(root: &Path) -> Option<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["run", "--quiet", "-p", "lguest-translator", "--example", "unit"]).current_dir(root);
    if !io::stderr().is_terminal() {
        command.stderr(std::process::Stdio::null());
    }
    let output = command.output().ok().filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok().map(|text| text.trim_end().to_owned())
}

#[test]
fn a_stage_is_known_by_name_and_number() {
    assert_eq!(stage("drivers").ok(), Some(2));
    assert_eq!(stage("7").ok(), Some(6));
    assert!(stage("0").is_err() && stage("Epilogue").is_err());
}
