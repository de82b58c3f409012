//! The journey as mdBook wants it: `target/journey/book.toml`, a table of contents and the pages.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::book::Book;
use super::plan::STAGES;
use crate::errand::Errand;

const SETTINGS: &str = r#"[book]
title = "lguest: the journey"
description = "A hypervisor read in seven stages"
language = "en"
src = "src"

[build]
build-dir = "html"

[output.html]
default-theme = "light"
additional-css = ["wide.css"]
"#;

/// Drawings have up to a hundred and thirty columns, and must not be cut in two.
const STYLE: &str =
    ":root { --content-max-width: 1150px; }\n.content pre code { font-size: 0.8em; line-height: 1.25; }\n";

/// Where the book is made: beside what the workspace's build makes.
fn place(root: &Path) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    root.join(target).join("journey")
}

/// Writes the book's folder anew and says where it is.
///
/// # Errors
/// When it cannot be written.
pub fn write(root: &Path, book: &Book) -> Result<PathBuf, Errand> {
    let place = place(root);
    let pages = place.join("src");
    // Pages of an older book would be found by a reader, and by nobody else.
    if pages.is_dir() {
        std::fs::remove_dir_all(&pages).map_err(Errand::file(&pages))?;
    }
    std::fs::create_dir_all(&pages).map_err(Errand::file(&pages))?;
    let put = |path: PathBuf, text: &str| std::fs::write(&path, text).map_err(Errand::file(path));
    put(place.join("book.toml"), SETTINGS)?;
    put(place.join("wide.css"), STYLE)?;
    put(pages.join("SUMMARY.md"), &contents(book))?;
    book.pages.iter().try_for_each(|page| put(pages.join(&page.file), &page.body))?;
    Ok(place)
}

/// The table of contents.
pub fn contents(book: &Book) -> String {
    let mut out = String::from("# The journey\n\n");
    for (number, _) in STAGES.iter().enumerate() {
        for page in book.pages.iter().filter(|page| page.stage == Some(number)) {
            let indent = if page.opens { "" } else { "  " };
            out += &format!("{indent}- [{}]({})\n", page.title, page.file);
        }
    }
    out += "\n---\n\n";
    for page in book.pages.iter().filter(|page| page.stage.is_none()) {
        out += &format!("[{}]({})\n", page.title, page.file);
    }
    out
}

/// Has mdbook make HTML, if it is installed; says where it begins.
///
/// # Errors
/// When mdbook is there and does not like the book.
pub fn build(place: &Path) -> Result<Option<PathBuf>, Errand> {
    let built = Command::new("mdbook").arg("build").arg(place).stdin(Stdio::null()).output();
    let Ok(output) = built else { return Ok(None) };
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(Errand::Failed { what: "mdbook build".to_owned(), why });
    }
    Ok(Some(place.join("html/index.html")))
}
