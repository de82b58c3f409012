//! One page: the opening of a stage, a few modules, or an appendix.

use std::path::Path;

use super::markdown::{self, Kind, Piece};
use super::places::Places;
use super::plan::Stage;
use super::source::Source;
use super::tour::Module;
use crate::errand::Errand;

/// A page of the book.
#[derive(Debug)]
pub struct Page {
    /// Its file, in the book's folder.
    pub file: String,
    /// For the table of contents.
    pub title: String,
    /// From 0; an appendix has none.
    pub stage: Option<usize>,
    /// It opens its stage.
    pub opens: bool,
    /// Markdown.
    pub body: String,
}

/// How a module is called in the book.
pub fn title(module: &Module) -> String {
    module.name.clone()
}

/// Told by its first paragraph when only levels up to `whole` are told whole.
pub fn folds(module: &Module, whole: usize) -> bool {
    module.depth > whole && module.source.docs.iter().any(|line| line.trim().is_empty())
}

/// The page that opens a stage, with what it asks for put in.
pub fn opening(
    root: &Path,
    number: usize,
    stage: &Stage,
    places: &Places,
    unit: Option<&str>,
) -> Result<Page, Errand> {
    let path = format!("docs/journey/{}", stage.opening);
    let text = std::fs::read_to_string(root.join(&path)).map_err(Errand::file(&path))?;
    let mut body = format!("# {}. {}\n\n", number + 1, stage.name);
    for line in places.linked(&path, &text).lines() {
        match line.strip_prefix("{{").and_then(|line| line.strip_suffix("}}")) {
            Some(wish) if wish != "reading" => body.push_str(&quoted(root, &path, wish, unit)?),
            _ => body.push_str(line),
        }
        body.push('\n');
    }
    let title = format!("{}: {}", stage.name, stage.about);
    Ok(Page { file: stage.opening.to_owned(), title, stage: Some(number), opens: true, body })
}

/// What stands for `{{drawing FILE}}`, `{{code FILE ITEM}}` and `{{unit}}`.
fn quoted(root: &Path, page: &str, wish: &str, unit: Option<&str>) -> Result<String, Errand> {
    let not_there =
        || Errand::Failed { what: format!("{page}: {{{{{wish}}}}}"), why: "there is no such thing".into() };
    let mut words = wish.splitn(3, ' ');
    let (kind, file, item) = (words.next(), words.next(), words.next());
    match (kind, file, item) {
        (Some("unit"), None, None) => Ok(fenced("text", unit.unwrap_or(UNIT_COMMAND))),
        (Some("drawing"), Some(file), None) => {
            let block = markdown::first_block(&Source::read(root, file)?.docs.join("\n"));
            Ok(fenced("text", &block.ok_or_else(not_there)?))
        }
        (Some("code"), Some(file), Some(item)) => {
            let item = Source::read(root, file)?.item(item).ok_or_else(not_there)?;
            Ok(fenced("rust,ignore", &item))
        }
        _ => Err(not_there()),
    }
}

/// What stands in the unit's place when nobody could ask the translator.
const UNIT_COMMAND: &str = "cargo run -p lguest-translator --example unit      prints it";

fn fenced(language: &str, text: &str) -> String {
    format!("```{language}\n{text}\n```")
}

/// A page of modules.
pub fn rooms(number: usize, file: &str, modules: &[Module], places: &Places, whole: usize) -> Page {
    let (first, last) = (&modules[0], &modules[modules.len() - 1]);
    // Its first module is what the page is about, or it is one among others.
    let about = modules.len() == 1 || first.has_rooms || first.depth == 0 && first.folder.is_none();
    let heading = match first.folder {
        _ if about => title(first),
        Some(folder) => folder.trim_start_matches("crates/").to_owned(),
        None => format!("{} to {}", title(first), title(last)),
    };
    let mut body = String::new();
    if !about {
        body += &format!("# {heading}\n\n");
    }
    for module in modules {
        let level = 1 + usize::from(!about) + module.depth - first.depth.min(module.depth);
        section(&mut body, module, level.min(5), places, whole);
    }
    Page { file: file.to_owned(), title: heading, stage: Some(number), opens: false, body }
}

fn section(body: &mut String, module: &Module, level: usize, places: &Places, whole: usize) {
    let hashes = "#".repeat(level);
    body.push_str(&format!("{hashes} {}\n\n*{}*\n\n", title(module), module.source.path));
    let docs = module.source.docs.join("\n");
    let folded = folds(module, whole);
    let told = if folded { markdown::first_paragraph(&docs) } else { docs };
    for (line, kind) in markdown::lines(&places.linked(&module.source.path, &told)) {
        match markdown::heading(line).filter(|_| kind == Kind::Prose) {
            Some((depth, text)) => {
                body.push_str(&format!("{} {text}", "#".repeat((level + depth).min(6))));
            }
            None => body.push_str(line),
        }
        body.push('\n');
    }
    if folded {
        body.push_str("\nThe rest of it stands in the file.\n");
    }
    body.push('\n');
}

/// A text of `docs/` behind the stages.
pub fn appendix(root: &Path, title: &str, path: &str, places: &Places) -> Result<Page, Errand> {
    let text = std::fs::read_to_string(root.join(path)).map_err(Errand::file(path))?;
    let file = format!("appendix-{}", path.trim_start_matches("docs/"));
    Ok(Page { file, title: title.to_owned(), stage: None, opens: false, body: places.linked(path, &text) })
}

impl Page {
    /// Targets of its links.
    pub fn links(&self) -> Vec<String> {
        let prose = markdown::lines(&self.body).filter(|line| line.1 == Kind::Prose);
        let targets = prose.flat_map(|(line, _)| markdown::pieces(line)).filter_map(|piece| match piece {
            Piece::Link { target, .. } => target.map(str::to_owned),
            _ => None,
        });
        targets.collect()
    }

    /// Has a heading that a link reaches by this name.
    pub fn has_anchor(&self, anchor: &str) -> bool {
        self.headings().any(|(_, text)| markdown::anchor(text) == anchor)
    }

    /// Its headings, with their depths.
    pub fn headings(&self) -> impl Iterator<Item = (usize, &str)> {
        markdown::lines(&self.body)
            .filter(|line| line.1 == Kind::Prose)
            .filter_map(|line| markdown::heading(line.0))
    }

    /// The drawing under this caption, if it has both.
    pub fn drawing(&self, caption: &str) -> Option<String> {
        let caption = format!("**Drawing: {caption}**");
        let (_, below) = self.body.split_once(&caption)?;
        below.trim_start().starts_with("```").then(|| markdown::first_block(below))?
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journey::root;

    fn asked(wish: &str) -> Result<String, String> {
        quoted(&root(), "docs/journey/x.md", wish, Some("a listing")).map_err(|error| error.to_string())
    }

    #[test]
    fn an_item_that_is_gone_is_named_with_the_page_that_wants_it() {
        let gone = asked("code xtask/src/journey/pages.rs fn that_never_was").unwrap_err();
        assert!(gone.contains("docs/journey/x.md") && gone.contains("that_never_was"), "{gone}");
        assert!(asked("drawing xtask/src/errand.rs").is_err(), "it has no drawing");
        assert!(asked("poem").is_err());
    }

    #[test]
    fn an_item_a_drawing_and_the_unit_are_quoted() {
        let item = asked("code xtask/src/journey/pages.rs fn fenced").unwrap();
        assert!(item.starts_with("```rust,ignore\nfn fenced(") && item.ends_with("\n}\n```"), "{item}");
        assert!(asked("drawing xtask/src/journey/mod.rs").unwrap().contains("plan ──► tour"));
        assert_eq!(asked("unit").unwrap(), "```text\na listing\n```");
    }
}
