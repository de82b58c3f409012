//! One source file, as far as the journey reads it: its docs, the modules it declares, and items that a page quotes.

use std::path::{Path, PathBuf};

use crate::errand::Errand;

/// A module's file.
#[derive(Debug)]
pub struct Source {
    /// From the workspace's root, with `/`.
    pub path: String,
    /// Its `//!` lines without their mark.
    pub docs: Vec<String>,
    /// The `mod NAME;` lines, in order.
    pub modules: Vec<Declared>,
    /// The whole text.
    pub text: String,
}

/// A `mod NAME;` line.
#[derive(Debug, PartialEq, Eq)]
pub struct Declared {
    /// The name.
    pub name: String,
    /// What `#[path]` says.
    pub path: Option<String>,
    /// Only compiled for tests.
    pub test: bool,
}

impl Source {
    /// Reads a file below `root`.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(root: &Path, path: &str) -> Result<Source, Errand> {
        let place = root.join(path);
        let text = std::fs::read_to_string(&place).map_err(Errand::file(place))?;
        Ok(Source { path: path.to_owned(), docs: docs(&text), modules: declared(&text), text })
    }

    /// The folder in which its modules lie.
    fn folder(&self) -> PathBuf {
        let path = Path::new(&self.path);
        let parent = path.parent().unwrap_or(Path::new(""));
        match path.file_name().and_then(|name| name.to_str()) {
            Some("lib.rs" | "main.rs" | "mod.rs") | None => parent.to_owned(),
            Some(name) => parent.join(name.trim_end_matches(".rs")),
        }
    }

    /// Where a module that it declares is, from the workspace's root; none if there is no such file.
    pub fn file_of(&self, root: &Path, module: &Declared) -> Option<String> {
        let candidates = match &module.path {
            Some(path) => vec![Path::new(&self.path).parent()?.join(path)],
            None => {
                let stem = self.folder().join(&module.name);
                vec![stem.with_extension("rs"), stem.join("mod.rs")]
            }
        };
        let found = candidates.into_iter().find(|path| root.join(path).is_file())?;
        Some(found.to_string_lossy().into_owned())
    }

    /// The text of an item with its docs: the first line that begins with `opening`, to the line that closes it.
    pub fn item(&self, opening: &str) -> Option<String> {
        let lines: Vec<&str> = self.text.lines().collect();
        let start = lines.iter().position(|line| line.trim_start().starts_with(opening))?;
        let indent = lines[start].len() - lines[start].trim_start().len();
        let ends = |line: &&str| {
            line.len() - line.trim_start().len() == indent && (line.trim_end().ends_with(['}', ';']))
        };
        let length = 1 + lines[start..].iter().position(ends)?;
        let is_doc = |line: &&&str| line.trim_start().starts_with("///");
        let docs = lines[..start].iter().rev().take_while(is_doc).count();
        let item = &lines[start - docs..start + length];
        Some(item.iter().map(|line| line.get(indent..).unwrap_or("")).collect::<Vec<_>>().join("\n"))
    }
}

/// The lines of a file's own docs.
fn docs(text: &str) -> Vec<String> {
    let lines = text.lines().filter_map(|line| line.strip_prefix("//!"));
    lines.map(|line| line.strip_prefix(' ').unwrap_or(line).to_owned()).collect()
}

fn declared(text: &str) -> Vec<Declared> {
    let mut found = Vec::new();
    let (mut test, mut path) = (false, None);
    for line in text.lines() {
        if let Some(attribute) = line.strip_prefix("#[") {
            test |= attribute.starts_with("cfg(") && only_for_tests(attribute);
            if let Some(value) = attribute.strip_prefix("path = \"") {
                path = value.split('"').next().map(str::to_owned);
            }
        } else if let Some(name) = module_name(line) {
            found.push(Declared { name: name.to_owned(), path: path.take(), test });
            test = false;
        } else if !line.starts_with("//") {
            (test, path) = (false, None);
        }
    }
    found
}

/// `cfg(test)`, alone or among what must all hold. `any(.., not(test))` is compiled elsewhere too.
fn only_for_tests(attribute: &str) -> bool {
    let inside = attribute.trim_start_matches("cfg(").trim_start_matches("all(");
    inside.split([',', '(', ')']).any(|word| word.trim() == "test")
        && !attribute.contains("not(test)")
        && !attribute.contains("any(")
}

/// The name in `mod NAME;`, whoever may see it.
fn module_name(line: &str) -> Option<&str> {
    let line = line.strip_suffix(';')?;
    let rest = match line.strip_prefix("pub") {
        Some(rest) if rest.starts_with('(') => rest.split_once(") ")?.1,
        Some(rest) => rest.strip_prefix(' ')?,
        None => line,
    };
    let name = rest.strip_prefix("mod ")?;
    name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_').then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "//! First.\n//!\n//!   drawn\n#![no_std]\n\npub mod one;\n#[cfg(test)]\n#[path = \"x.rs\"]\nmod two;\n\
        pub(crate) mod three;\n#[cfg(any(a, not(test)))]\nmod four;\nmod inline {\n}\n\n/// What.\nfn it() {\n    1;\n}\nfn other() {}\n";

    #[test]
    fn docs_keep_their_shape_and_lose_their_mark() {
        assert_eq!(docs(TEXT), ["First.", "", "  drawn"]);
    }

    #[test]
    fn modules_come_in_their_order_and_say_whether_they_are_tests() {
        let found = declared(TEXT);
        let names: Vec<_> = found.iter().map(|module| (module.name.as_str(), module.test)).collect();
        assert_eq!(names, [("one", false), ("two", true), ("three", false), ("four", false)]);
        assert_eq!(found[1].path.as_deref(), Some("x.rs"));
    }

    #[test]
    fn an_item_is_taken_with_its_docs_and_to_its_end() {
        let source =
            Source { path: String::new(), docs: Vec::new(), modules: Vec::new(), text: TEXT.to_owned() };
        assert_eq!(source.item("fn it(").as_deref(), Some("/// What.\nfn it() {\n    1;\n}"));
        assert_eq!(source.item("fn other").as_deref(), Some("fn other() {}"));
        assert_eq!(source.item("fn none"), None);
    }
}
