//! The journey has no gap: every module belongs to one stage and says what it is, every stage has what it promises, and
//! every link leads somewhere. Each sentence that can fail here names the file to mend.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use xtask::journey::book::Book;
use xtask::journey::html;
use xtask::journey::markdown;
use xtask::journey::plan::{EVENING_WORDS, Room, STAGES};
use xtask::journey::root;
use xtask::journey::tour::Tour;

fn tour() -> Tour {
    Tour::walk(&root(), &STAGES).expect("the house can be read")
}

fn book() -> Book {
    Book::write(&root(), &tour(), Some("a unit")).expect("the book can be made")
}

/// Every `.rs` file below a folder, from the workspace's root.
fn files_below(folder: &str, found: &mut BTreeSet<String>) {
    let Ok(entries) = std::fs::read_dir(root().join(folder)) else { return };
    for entry in entries.flatten() {
        let name = format!("{folder}/{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() {
            files_below(&name, found);
        } else if name.ends_with(".rs") {
            found.insert(name);
        }
    }
}

/// The `src` folders of all crates.
fn sources() -> Vec<String> {
    let crates = std::fs::read_dir(root().join("crates")).expect("there are crates");
    let mut folders: Vec<_> =
        crates.flatten().map(|entry| format!("crates/{}/src", entry.file_name().to_string_lossy())).collect();
    folders.push("xtask/src".to_owned());
    folders.sort();
    folders
}

#[test]
fn every_module_on_disk_belongs_to_a_stage() {
    let tour = tour();
    let told: BTreeSet<_> = tour.stages.iter().flatten().map(|module| module.source.path.clone()).collect();
    for folder in sources() {
        let mut files = BTreeSet::new();
        files_below(&folder, &mut files);
        let left: Vec<_> =
            files.iter().filter(|file| !told.contains(*file) && !tour.tests.contains(*file)).collect();
        assert!(
            left.is_empty(),
            "no `mod` line that the journey follows leads to {left:?}; a new crate belongs into a stage of \
             xtask/src/journey/plan.rs"
        );
    }
}

#[test]
fn no_module_is_told_twice() {
    let mut told = BTreeMap::new();
    for (number, modules) in tour().stages.iter().enumerate() {
        for module in modules {
            let path = module.source.path.clone();
            let before = told.insert(path.clone(), STAGES[number].name);
            assert_eq!(before, None, "{path} is told in {} too", STAGES[number].name);
        }
    }
    assert!(told.len() > 300, "the house was walked");
}

#[test]
fn every_module_says_what_it_is() {
    let tour = tour();
    let modules = tour.stages.iter().flatten();
    let silent: Vec<_> = modules
        .filter(|module| !markdown::begins_with_a_sentence(&module.source.docs.join("\n")))
        .map(|module| module.source.path.as_str())
        .collect();
    assert!(
        silent.is_empty(),
        "these need a `//!` sentence at their top that says what they are: {silent:?}"
    );
}

#[test]
fn nothing_in_the_plan_is_missing() {
    let tour = tour();
    assert!(tour.absent.is_empty(), "xtask/src/journey/plan.rs names {:?}, which is not there", tour.absent);
    assert!(tour.missing.is_empty(), "these `mod` lines lead to no file: {:?}", tour.missing);
    let programs = STAGES.iter().flat_map(|stage| stage.rooms).filter_map(|room| match room {
        Room::Programs(folder) => Some(*folder),
        Room::Tree(_) => None,
    });
    let named: BTreeSet<_> = programs.collect();
    for folder in sources() {
        let (krate, _) = folder.rsplit_once('/').expect("ends in src");
        for kind in ["tests", "examples", "fuzz/fuzz_targets"] {
            let place = format!("{krate}/{kind}");
            let there = root().join(&place).is_dir();
            assert!(
                !there || named.contains(place.as_str()),
                "{place} is in no stage of xtask/src/journey/plan.rs"
            );
        }
    }
}

#[test]
fn every_stage_has_an_opening_modules_and_the_drawings_it_promises() {
    let (tour, book) = (tour(), book());
    for (number, stage) in STAGES.iter().enumerate() {
        assert!(!tour.stages[number].is_empty(), "{} has no module", stage.name);
        let opening = book.pages.iter().find(|page| page.file == stage.opening).expect("an opening page");
        let own = std::fs::read_to_string(root().join("docs/journey").join(stage.opening)).expect("a page");
        assert!(markdown::words(&own) > 200, "docs/journey/{} is too short to open a stage", stage.opening);
        for caption in stage.drawings {
            assert!(
                opening.drawing(caption).is_some(),
                "docs/journey/{} promises a drawing: a line **Drawing: {caption}**, and the drawing below it",
                stage.opening
            );
        }
    }
}

#[test]
fn every_page_that_opens_a_stage_is_in_the_plan() {
    let entries = std::fs::read_dir(root().join("docs/journey")).expect("docs/journey");
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        assert!(
            STAGES.iter().any(|stage| stage.opening == name),
            "docs/journey/{name} opens no stage of the plan"
        );
    }
}

#[test]
fn every_link_of_the_book_leads_somewhere() {
    let broken = book().broken_links();
    assert!(broken.is_empty(), "links that lead nowhere, as (page, target): {broken:?}");
}

#[test]
fn every_link_between_modules_reaches_the_heading_that_was_meant() {
    let book = book();
    let links: usize = book.pages.iter().map(|page| page.links().len()).sum();
    assert!(links > 100, "the docs' links were followed: {links}");
    for page in &book.pages {
        let mut seen = BTreeSet::new();
        for (_, text) in page.headings() {
            let anchor = markdown::anchor(text);
            assert!(
                seen.insert(anchor),
                "{}: two headings are called {text}; a link reaches the first",
                page.file
            );
        }
    }
}

#[test]
fn the_table_of_contents_lists_every_page_once() {
    let book = book();
    let contents = html::contents(&book);
    for page in &book.pages {
        assert_eq!(contents.matches(&format!("({})", page.file)).count(), 1, "{}", page.file);
    }
}

#[test]
fn it_is_read_in_an_evening() {
    let book = book();
    let words = book.words();
    assert!(words <= EVENING_WORDS, "{words} words, and an evening has {EVENING_WORDS}");
    assert!(words > 20_000, "all of it was told: {words}");
}

#[test]
fn every_room_that_the_opening_pages_name_is_there() {
    let book = book();
    for stage in &STAGES {
        let text = std::fs::read_to_string(root().join("docs/journey").join(stage.opening)).expect("a page");
        let prose = markdown::lines(&text).filter(|line| line.1 == markdown::Kind::Prose);
        for piece in prose.flat_map(|(line, _)| markdown::pieces(line)) {
            let markdown::Piece::Code(code) = piece else { continue };
            // A path of modules is in small letters; one that ends in a capital is an item's.
            if code.contains("::") && code.chars().all(|c| c.is_ascii_lowercase() || "_:".contains(c)) {
                let opening =
                    book.pages.iter().find(|page| page.file == stage.opening).expect("an opening page");
                let linked = opening.body.contains(&format!("[`{code}`]("));
                assert!(linked, "docs/journey/{} names {code}, which is no module", stage.opening);
            }
            // Only a path with a folder means a file of the house; `run.rs` alone is a word.
            if code.contains('/') && code.ends_with(".rs") {
                let below = Path::new("crates").join(code);
                let there = root().join(&below).is_file() || root().join(code).is_file();
                assert!(there, "docs/journey/{} names {code}, which is not there", stage.opening);
            }
        }
    }
}
