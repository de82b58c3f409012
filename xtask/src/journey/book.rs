//! The journey as a book: a page that opens each stage, and pages for its modules.
//!
//! A module that has rooms of its own begins a page and its rooms are the page's sections; modules without, which follow
//! one another, share a page. So pages come in the order of the `mod` lines, whatever is added.
//!
//! The book is to be read in an evening. When it grows longer than that, the deepest rooms are told by their first
//! paragraph, level after level, until it is not: a rule, so that nobody has to choose.

use std::path::Path;

use super::markdown;
use super::pages::{self, Page};
use super::places::{Place, Places};
use super::plan::{APPENDICES, EVENING_WORDS, STAGES, WORDS_A_MINUTE};
use super::tour::{Module, Tour};
use crate::errand::Errand;

/// The whole book.
#[derive(Debug)]
pub struct Book {
    /// In reading order; appendices last.
    pub pages: Vec<Page>,
    /// Modules told.
    pub modules: usize,
    /// Of these, told by their first paragraph.
    pub folded: usize,
}

/// Which modules stand on a page of their stage: the first, and how many.
struct Share {
    first: usize,
    count: usize,
}

impl Book {
    /// Makes the book from a walk. `unit` is the listing of a translated unit, if there is one.
    ///
    /// # Errors
    /// When an opening page cannot be read, or asks for something that is not there.
    pub fn write(root: &Path, tour: &Tour, unit: Option<&str>) -> Result<Book, Errand> {
        let deepest = tour.stages.iter().flatten().map(|module| module.depth).max().unwrap_or(0);
        // A room's own file and what it declares are always told whole.
        for limit in (2..=deepest).rev() {
            let book = Self::told_to(root, tour, unit, limit)?;
            if book.words() <= EVENING_WORDS || limit == 2 {
                return Ok(book);
            }
        }
        Self::told_to(root, tour, unit, deepest)
    }

    fn told_to(root: &Path, tour: &Tour, unit: Option<&str>, whole: usize) -> Result<Book, Errand> {
        let mut places = Places::default();
        let mut plan = Vec::new();
        for (number, modules) in tour.stages.iter().enumerate() {
            let shares = shares(modules);
            for (page, share) in shares.iter().enumerate() {
                let modules = &modules[share.first..share.first + share.count];
                let file = format!("{}-{:02}-{}.md", number + 1, page + 1, slug(&modules[0].name));
                for module in modules {
                    let anchor = markdown::anchor(&pages::title(module));
                    places.insert(&module.source.path, Place { page: file.clone(), anchor });
                }
                plan.push((number, file, modules));
            }
        }
        let mut book = Book { pages: Vec::new(), modules: 0, folded: 0 };
        for (number, stage) in STAGES.iter().enumerate() {
            book.pages.push(pages::opening(root, number, stage, &places, unit)?);
            for (_, file, modules) in plan.iter().filter(|(of, ..)| *of == number) {
                book.modules += modules.len();
                book.folded += modules.iter().filter(|module| pages::folds(module, whole)).count();
                book.pages.push(pages::rooms(number, file, modules, &places, whole));
            }
        }
        for (title, path) in APPENDICES {
            book.pages.push(pages::appendix(root, title, path, &places)?);
        }
        let reading = book.reading();
        book.pages.iter_mut().for_each(|page| page.body = page.body.replace("{{reading}}", &reading));
        Ok(book)
    }

    /// The pages that are read in an evening: all but the appendices.
    pub fn evening(&self) -> impl Iterator<Item = &Page> {
        self.pages.iter().filter(|page| page.stage.is_some())
    }

    /// Words of the evening.
    pub fn words(&self) -> usize {
        self.evening().map(|page| markdown::words(&page.body)).sum()
    }

    /// How long that takes, stage by stage, as a table.
    fn reading(&self) -> String {
        let mut table = String::from("| stage | words | minutes |\n|---|---|---|\n");
        for (number, stage) in STAGES.iter().enumerate() {
            let pages = self.pages.iter().filter(|page| page.stage == Some(number));
            let words: usize = pages.map(|page| markdown::words(&page.body)).sum();
            let minutes = words.div_ceil(WORDS_A_MINUTE);
            table += &format!("| {}. {} | {words} | {minutes} |\n", number + 1, stage.name);
        }
        let (words, minutes) = (self.words(), self.words().div_ceil(WORDS_A_MINUTE));
        table + &format!("| in all, at {WORDS_A_MINUTE} words a minute | {words} | {minutes} |")
    }

    /// Links of the book that lead nowhere: the page, and the target.
    pub fn broken_links(&self) -> Vec<(String, String)> {
        let mut broken = Vec::new();
        for page in &self.pages {
            for target in page.links() {
                let (file, anchor) = target.split_once('#').unwrap_or((&target, ""));
                let goal = match file {
                    "" => Some(page),
                    file => self.pages.iter().find(|page| page.file == file),
                };
                let reached = goal.is_some_and(|goal| anchor.is_empty() || goal.has_anchor(anchor));
                if !reached && !target.contains("://") {
                    broken.push((page.file.clone(), target.clone()));
                }
            }
        }
        broken
    }
}

/// Cuts a stage's modules into pages.
fn shares(modules: &[Module]) -> Vec<Share> {
    let mut shares: Vec<Share> = Vec::new();
    // The depth of the module whose rooms are being told; a room's own file opens a page that its leaves share.
    let mut inside = None;
    for (index, module) in modules.iter().enumerate() {
        let goes_on = match inside {
            _ if module.folder.is_some() => index > 0 && modules[index - 1].folder == module.folder,
            Some(depth) => module.depth > depth,
            None => module.depth > 0 && !module.has_rooms,
        };
        match shares.last_mut().filter(|_| goes_on) {
            Some(last) => last.count += 1,
            None => {
                shares.push(Share { first: index, count: 1 });
                inside = (module.depth > 0 && module.has_rooms).then_some(module.depth);
            }
        }
    }
    shares
}

/// A name as a file's name.
fn slug(name: &str) -> String {
    let plain = name.replace("::", "-").replace(", the program", "-program");
    plain.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journey::root;

    #[test]
    fn a_book_that_is_too_long_tells_its_deepest_rooms_in_a_paragraph() {
        let tour = Tour::walk(&root(), &STAGES).unwrap();
        let told_to = |whole| Book::told_to(&root(), &tour, None, whole).unwrap();
        let (whole, short) = (told_to(9), told_to(1));
        assert_eq!(whole.folded, 0);
        assert!(short.folded > 20 && short.words() < whole.words(), "{} {}", short.folded, short.words());
        assert_eq!((short.modules, short.broken_links()), (whole.modules, Vec::new()));
    }

    #[test]
    fn a_link_to_a_heading_that_is_not_there_is_broken() {
        let page = |file: &str, body: &str| Page {
            file: file.to_owned(),
            title: String::new(),
            stage: Some(0),
            opens: false,
            body: body.to_owned(),
        };
        let pages = vec![page("a.md", "[x](b.md#one) [x](b.md#two) [x](c.md)"), page("b.md", "# One")];
        let broken = Book { pages, modules: 0, folded: 0 }.broken_links();
        assert_eq!(broken, [("a.md".to_owned(), "b.md#two".to_owned()), ("a.md".into(), "c.md".into())]);
    }
}
