//! docs/checklist.md names tests; a name that no test has proves nothing.

use std::collections::BTreeSet;

use crate::files::texts;

/// A word with fewer underscores is a file, a constant or a function, not one of our sentences.
const LEAST_UNDERSCORES: usize = 3;

/// The functions under a `#[test]`, in all files.
fn tests() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (_, text) in texts().iter().filter(|(path, _)| path.ends_with(".rs")) {
        for after in text.split("#[test]").skip(1) {
            let name = after.split_once("fn ").and_then(|(_, rest)| rest.split('(').next());
            found.extend(name.map(str::to_owned));
        }
    }
    found
}

/// The words in the table's rows that are written as tests' names are: `module::a_sentence_of_words`.
fn named(text: &str) -> Vec<&str> {
    let rows = text.lines().filter(|line| line.starts_with("| "));
    let words =
        rows.flat_map(|line| line.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':')));
    let last = words.filter_map(|word| word.trim_end_matches(':').rsplit("::").next());
    last.filter(|word| word.matches('_').count() >= LEAST_UNDERSCORES).collect()
}

#[test]
fn every_test_that_the_checklist_names_exists() {
    let texts = texts();
    let (_, checklist) = texts.iter().find(|(path, _)| path == "docs/checklist.md").expect("a checklist");
    let (tests, named) = (tests(), named(checklist));
    assert!(named.len() > 100, "the checklist was read");
    let missing: Vec<_> = named.iter().filter(|name| !tests.contains(**name)).collect();
    assert!(missing.is_empty(), "docs/checklist.md names tests that do not exist: {missing:?}");
}

#[test]
fn a_name_is_found_behind_its_module_and_between_commas() {
    let row = "| 1 | `x_y` | `abi` dma::a_list_that_ends, no_list_that_does_not: end_to |\nno_row_at_all";
    assert_eq!(named(row), ["a_list_that_ends", "no_list_that_does_not"]);
}
