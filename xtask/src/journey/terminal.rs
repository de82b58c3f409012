//! The journey on a terminal: the book's pages one after the other, for a pager.

use std::io::{self, ErrorKind, Write};

use super::book::Book;
use super::markdown::{self, Kind, Piece};
use super::pages::Page;

/// Columns of a paragraph. Drawings and tables keep their own.
const WIDTH: usize = 100;

/// Prints the pages of one stage, or of all. A reader that goes away is no mistake.
///
/// # Errors
/// When they cannot be written.
pub fn print(book: &Book, stage: Option<usize>, out: &mut dyn Write) -> io::Result<()> {
    for page in book.evening().filter(|page| stage.is_none() || page.stage == stage) {
        match out.write_all(plain(page).as_bytes()) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(()),
            done => done?,
        }
    }
    match out.flush() {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error),
        _ => Ok(()),
    }
}

/// A page as plain text.
fn plain(page: &Page) -> String {
    let mut out = String::new();
    let mut paragraph = String::new();
    for (line, kind) in markdown::lines(&page.body) {
        let ends = kind != Kind::Prose || line.trim().is_empty() || stands_alone(line) || begins_item(line);
        if ends && !paragraph.is_empty() {
            wrap(&mut out, &std::mem::take(&mut paragraph));
        }
        match (kind, markdown::heading(line)) {
            (Kind::Opens | Kind::Closes, _) => {}
            (Kind::Drawn, _) => out += &format!("    {line}\n"),
            (Kind::Prose, Some((depth, text))) => out += &title(depth, &words(text), page.opens),
            (Kind::Prose, None) if stands_alone(line) => out += &format!("{}\n", words(line)),
            (Kind::Prose, None) if line.trim().is_empty() => out.push('\n'),
            (Kind::Prose, None) => {
                // An item's first line says where its others begin.
                let text = if paragraph.is_empty() { line.trim_end() } else { line.trim() };
                let gap = if paragraph.is_empty() { "" } else { " " };
                paragraph += &format!("{gap}{}", words(text));
            }
        }
    }
    wrap(&mut out, &paragraph);
    out + "\n"
}

/// Rows of tables keep their lines.
fn stands_alone(line: &str) -> bool {
    line.starts_with('|') || markdown::heading(line).is_some()
}

/// `- ` or `1. `.
fn begins_item(line: &str) -> bool {
    item_indent(line) > 0
}

/// Columns that stand before an item's text.
fn item_indent(line: &str) -> usize {
    let text = line.trim_start();
    let mark = match text.split_once(' ') {
        Some((mark @ ("-" | "*"), _)) => mark.len() + 1,
        Some((mark, _)) if mark.strip_suffix('.').is_some_and(|n| n.parse::<u8>().is_ok()) => mark.len() + 1,
        _ => return 0,
    };
    line.len() - text.len() + mark
}

fn title(depth: usize, text: &str, opens: bool) -> String {
    let stroke = match (depth, opens) {
        (1, true) => "=",
        (1, false) | (2, true) => "-",
        _ => return format!("{} {text}\n", "─".repeat(depth)),
    };
    let rule = stroke.repeat(if depth == 1 && opens { WIDTH } else { text.chars().count() });
    format!("{text}\n{rule}\n")
}

/// A line without the marks that only a browser needs.
fn words(line: &str) -> String {
    let mut out = String::new();
    for piece in markdown::pieces(line) {
        match piece {
            Piece::Text(text) => out.push_str(&text.replace("**", "")),
            Piece::Code(code) => out.push_str(&format!("`{code}`")),
            Piece::Link { text, .. } => out.push_str(text),
        }
    }
    match out.strip_prefix('*').and_then(|rest| rest.strip_suffix('*')) {
        Some(inside) if !inside.contains('*') => inside.to_owned(),
        _ => out,
    }
}

/// A paragraph in lines of at most [`WIDTH`] columns; an item's lines stand under its first word.
fn wrap(out: &mut String, paragraph: &str) {
    let indent = match item_indent(paragraph) {
        0 => paragraph.len() - paragraph.trim_start().len(),
        item => item,
    };
    let mut column = 0;
    for (number, word) in paragraph.split_whitespace().enumerate() {
        let width = word.chars().count();
        if number > 0 && column + 1 + width > WIDTH {
            *out += &format!("\n{}", " ".repeat(indent));
            column = indent;
        } else if number > 0 {
            out.push(' ');
            column += 1;
        } else {
            let before = paragraph.len() - paragraph.trim_start().len();
            *out += &" ".repeat(before);
            column = before;
        }
        out.push_str(word);
        column += width;
    }
    if !paragraph.is_empty() {
        out.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(body: &str) -> Page {
        Page { file: "x.md".into(), title: "x".into(), stage: Some(0), opens: false, body: body.into() }
    }

    #[test]
    fn a_link_is_its_words_and_a_drawing_is_as_it_was() {
        let text = plain(&page(
            "# `a::b`\n\n*a/src/b.rs*\n\nSee [`c`](c.md#c) and\n**this**.\n\n```text\n a ─► b  [x](y)\n```\n",
        ));
        assert_eq!(text, "`a::b`\n------\n\na/src/b.rs\n\nSee `c` and this.\n\n     a ─► b  [x](y)\n\n");
    }

    #[test]
    fn an_items_lines_stand_under_its_first_word() {
        let long = "word ".repeat(30);
        let text = plain(&page(&format!("- {long}\n- two\n")));
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH));
        let begins: Vec<_> = text.lines().map(|line| line.get(..3).unwrap_or("")).collect();
        assert_eq!(begins, ["- w", "  w", "- t", ""]);
    }
}
