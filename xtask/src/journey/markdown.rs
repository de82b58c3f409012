//! As much of Markdown as module docs use: what is drawn and what is prose, links, headings, words.

/// A line, and whether it stands in a drawing.
pub fn lines(text: &str) -> impl Iterator<Item = (&str, Kind)> {
    let mut drawn = false;
    text.lines().map(move |line| {
        if line.trim_start().starts_with("```") {
            drawn = !drawn;
            (line, if drawn { Kind::Opens } else { Kind::Closes })
        } else {
            (line, if drawn { Kind::Drawn } else { Kind::Prose })
        }
    })
}

/// What a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A sentence, a table, a heading, or nothing.
    Prose,
    /// The fence above a drawing or code.
    Opens,
    /// A line of it.
    Drawn,
    /// The fence below it.
    Closes,
}

/// The first fenced block, without its fences.
pub fn first_block(text: &str) -> Option<String> {
    let inside: Vec<&str> =
        lines(text).skip_while(|line| line.1 != Kind::Opens).skip(1).map_while(drawn).collect();
    (!inside.is_empty()).then(|| inside.join("\n"))
}

fn drawn((line, kind): (&str, Kind)) -> Option<&str> {
    (kind == Kind::Drawn).then_some(line)
}

/// Up to the first empty line.
pub fn first_paragraph(text: &str) -> String {
    let taken: Vec<&str> = text.lines().take_while(|line| !line.trim().is_empty()).collect();
    taken.join("\n")
}

/// The prose begins with a whole sentence: a capital or a code word, four words, and an end.
pub fn begins_with_a_sentence(text: &str) -> bool {
    let paragraph = first_paragraph(text.trim_start());
    let ends = paragraph
        .split_whitespace()
        .any(|word| word.trim_end_matches([')', '*', '"', '`']).ends_with(['.', ':', '?', '!']));
    ends && paragraph.split_whitespace().count() >= 4
}

/// Words that somebody reads, in prose and drawings: strokes and arrows are not.
pub fn words(text: &str) -> usize {
    text.split_whitespace().filter(|word| word.contains(|c: char| c.is_alphanumeric())).count()
}

/// A heading's depth and its text.
pub fn heading(line: &str) -> Option<(usize, &str)> {
    let rest = line.trim_start_matches('#');
    let depth = line.len() - rest.len();
    (depth > 0).then(|| rest.strip_prefix(' ').map(|text| (depth, text.trim())))?
}

/// The name by which mdBook lets a link reach a heading.
pub fn anchor(heading: &str) -> String {
    let kept = heading.trim().chars().filter_map(|c| match c {
        c if c.is_alphanumeric() || c == '_' || c == '-' => Some(c.to_ascii_lowercase()),
        c if c.is_whitespace() => Some('-'),
        _ => None,
    });
    kept.collect()
}

/// A piece of a prose line.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// As it stands.
    Text(&'a str),
    /// Between backticks.
    Code(&'a str),
    /// `[text](target)`; a shortcut such as ``[`Name`]`` has no target.
    Link {
        /// Between the brackets.
        text: &'a str,
        /// Between the parentheses.
        target: Option<&'a str>,
    },
}

/// Cuts a prose line into pieces. Brackets that are no link stay text.
pub fn pieces(line: &str) -> Vec<Piece<'_>> {
    let mut found = Vec::new();
    let (mut rest, mut from) = (line, 0);
    while let Some(at) = rest[from..].find(['`', '[']).map(|at| at + from) {
        match piece(&rest[at..]) {
            Some((piece, length)) => {
                if at > 0 {
                    found.push(Piece::Text(&rest[..at]));
                }
                found.push(piece);
                rest = &rest[at + length..];
                from = 0;
            }
            None => from = at + 1,
        }
    }
    if !rest.is_empty() {
        found.push(Piece::Text(rest));
    }
    found
}

/// The link or code word that `text` begins with, and its length.
fn piece(text: &str) -> Option<(Piece<'_>, usize)> {
    if let Some(rest) = text.strip_prefix('`') {
        let end = rest.find('`')?;
        return Some((Piece::Code(&rest[..end]), end + 2));
    }
    let end = closing_bracket(text)?;
    let inside = &text[1..end];
    if let Some(behind) = text[end + 1..].strip_prefix('(') {
        let length = behind.find(')')?;
        let link = Piece::Link { text: inside, target: Some(&behind[..length]) };
        return Some((link, end + 1 + length + 2));
    }
    let shortcut = inside.len() > 2 && inside.starts_with('`') && inside.ends_with('`');
    shortcut.then_some((Piece::Link { text: inside, target: None }, end + 1))
}

/// The bracket that closes the first one; those in code words do not count.
fn closing_bracket(text: &str) -> Option<usize> {
    let mut code = false;
    text.char_indices().skip(1).find_map(|(at, c)| {
        code ^= c == '`';
        (c == ']' && !code).then_some(at)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_shortcuts_and_code_are_told_apart() {
        let line = "see [`a::B`], `[rsp + 8]`, [the map](x.md#y) and [1]";
        let expected = [
            Piece::Text("see "),
            Piece::Link { text: "`a::B`", target: None },
            Piece::Text(", "),
            Piece::Code("[rsp + 8]"),
            Piece::Text(", "),
            Piece::Link { text: "the map", target: Some("x.md#y") },
            Piece::Text(" and [1]"),
        ];
        assert_eq!(pieces(line), expected);
    }

    #[test]
    fn a_backtick_without_its_other_half_is_text() {
        assert_eq!(pieces("a ` b"), [Piece::Text("a ` b")]);
    }

    #[test]
    fn what_stands_between_fences_is_drawn() {
        let text = "One.\n\n```text\n# not a heading\n```\nTwo.";
        assert_eq!(first_block(text).as_deref(), Some("# not a heading"));
        assert_eq!(first_paragraph(text), "One.");
        let prose: Vec<_> = lines(text).filter(|line| line.1 == Kind::Prose).map(|line| line.0).collect();
        assert_eq!(prose, ["One.", "", "Two."]);
    }

    #[test]
    fn a_sentence_has_words_and_an_end() {
        assert!(begins_with_a_sentence("What stands between a line and a vCPU."));
        assert!(!begins_with_a_sentence("Registers."));
        assert!(!begins_with_a_sentence("what is not finished"));
    }

    #[test]
    fn anchors_are_those_of_mdbook() {
        assert_eq!(anchor("`cpu::mode`"), "cpumode");
        assert_eq!(anchor("On 64 bits"), "on-64-bits");
        assert_eq!(heading("## On 64 bits"), Some((2, "On 64 bits")));
        assert_eq!(heading("#![no_std]"), None);
    }
}
