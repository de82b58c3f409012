//! Where in the book a module is told, and what the names in its docs lead to.
//!
//! Docs link as rustdoc lets them: by the path of an item. The book has a place for each module and none for an item,
//! so a path leads to the nearest module around what it names, and to nothing if that is where the reader stands.

use std::collections::BTreeMap;

use super::markdown::{self, Kind, Piece};

/// A page, and the heading on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The page's file.
    pub page: String,
    /// Of the heading.
    pub anchor: String,
}

impl Place {
    fn link(&self) -> String {
        format!("{}#{}", self.page, self.anchor)
    }
}

/// Every module's place, by its file.
#[derive(Debug, Default)]
pub struct Places {
    by_file: BTreeMap<String, Place>,
    /// (crate's folder, module's path in it) to the file.
    by_module: BTreeMap<(String, String), String>,
}

/// The crate's folder and the module's path in it, for a file: `translator`, `cpu::mode`.
fn module_of(file: &str) -> Option<(String, String)> {
    let (room, rest) = file.strip_prefix("crates/").unwrap_or(file).split_once("/src/")?;
    let path = rest.trim_end_matches(".rs").trim_end_matches("/mod");
    let path = if matches!(path, "lib" | "main") { "" } else { path };
    Some((room.to_owned(), path.replace('/', "::")))
}

impl Places {
    /// Notes a module. A crate's library comes before its program, if both have the same name.
    pub fn insert(&mut self, file: &str, place: Place) {
        if let Some(module) = module_of(file)
            && (!file.ends_with("/main.rs") || !self.by_module.contains_key(&module))
        {
            self.by_module.insert(module, file.to_owned());
        }
        self.by_file.insert(file.to_owned(), place);
    }

    /// The file that an item's path leads to, from a module's docs.
    fn item(&self, from: &str, path: &str) -> Option<&str> {
        let (room, module) = module_of(from)?;
        let path = path.trim_matches('`').trim_end_matches(['!', '(', ')']);
        let mut names = path.split("::").peekable();
        let mut base: Vec<&str> = module.split("::").filter(|name| !name.is_empty()).collect();
        let mut in_room = room.as_str();
        match names.peek().copied()? {
            "crate" => (base.clear(), names.next()).1,
            "self" | "Self" => names.next(),
            "super" => (base.pop(), names.next()).1,
            first => match first.strip_prefix("lguest_") {
                Some(other) => {
                    in_room = other;
                    base.clear();
                    names.next()
                }
                None => None,
            },
        };
        base.extend(names);
        // From the whole path to ever shorter ones; the crate itself only for somebody outside of it.
        let shortest = usize::from(in_room == room);
        let found = (shortest..=base.len())
            .rev()
            .find_map(|length| self.by_module.get(&(in_room.to_owned(), base[..length].join("::"))))?;
        (found != from).then_some(found.as_str())
    }

    /// The file that a name such as `spans.rs` or `launcher/src/run.rs` means, if it means one.
    fn file(&self, from: &str, name: &str) -> Option<&str> {
        let ending = format!("/{name}");
        let room = from.split_inclusive('/').take(2).collect::<String>();
        let ends: Vec<&str> =
            self.by_file.keys().filter(|file| file.ends_with(&ending)).map(String::as_str).collect();
        let near: Vec<&str> = ends.iter().copied().filter(|file| file.starts_with(&room)).collect();
        match (near[..].as_ref(), ends[..].as_ref()) {
            ([one], _) | ([], [one]) => (*one != from).then_some(*one),
            _ => None,
        }
    }

    /// The file of a module that `from` declares itself: a list of rooms names them without more. A page that is no module
    /// names any room of the house: a crate, `crate::module`, or a module whose name no other has.
    fn room(&self, from: &str, name: &str) -> Option<&str> {
        let Some((room, module)) = module_of(from) else {
            let (room, path) = name.split_once("::").unwrap_or((name, ""));
            let named = self.by_module.get(&(room.to_owned(), path.to_owned()));
            let mut called =
                self.by_module.iter().filter(|((_, path), _)| path == name).map(|(_, file)| file);
            let only = called.next().filter(|_| called.next().is_none());
            return named.or(only).map(String::as_str);
        };
        let path = if module.is_empty() { name.to_owned() } else { format!("{module}::{name}") };
        self.by_module.get(&(room, path)).map(String::as_str)
    }

    /// Docs with their links turned into the book's. What leads nowhere stays as words.
    pub fn linked(&self, from: &str, text: &str) -> String {
        let mut out = String::new();
        for (line, kind) in markdown::lines(text) {
            match kind {
                Kind::Prose => {
                    markdown::pieces(line).iter().for_each(|piece| out.push_str(&self.piece(from, piece)));
                }
                // rustdoc would run a block that does not say what it is; a book only shows it.
                Kind::Opens if line.trim() == "```" => out.push_str(&line.replace("```", "```rust,ignore")),
                _ => out.push_str(line),
            }
            out.push('\n');
        }
        out
    }

    fn piece(&self, from: &str, piece: &Piece<'_>) -> String {
        let (words, file) = match *piece {
            Piece::Text(text) => return text.to_owned(),
            Piece::Code(code) if code.ends_with(".rs") => (format!("`{code}`"), self.file(from, code)),
            Piece::Code(code) => (format!("`{code}`"), self.room(from, code)),
            Piece::Link { text, target: None } => (text.to_owned(), self.item(from, text)),
            Piece::Link { text, target: Some(target) } => match target {
                // A page of the book, or the world.
                target if target.contains(".md") || target.contains("://") => {
                    return format!("[{text}]({target})");
                }
                target => (text.to_owned(), self.item(from, target)),
            },
        };
        match file.and_then(|file| self.by_file.get(file)) {
            Some(place) => format!("[{words}]({})", place.link()),
            None => words,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places() -> Places {
        let mut places = Places::default();
        let files = ["a/src/lib.rs", "a/src/cpu/mod.rs", "a/src/cpu/mode.rs", "b/src/lib.rs", "b/src/x.rs"];
        for file in files {
            let place = Place { page: format!("{}.md", &file[..1]), anchor: file.len().to_string() };
            places.insert(&format!("crates/{file}"), place);
        }
        places
    }

    #[test]
    fn a_path_leads_to_the_module_around_what_it_names() {
        let linked = |from: &str, text: &str| places().linked(from, text);
        assert_eq!(
            linked("crates/b/src/x.rs", "[`lguest_a::cpu::mode::Mode`]"),
            "[`lguest_a::cpu::mode::Mode`](a.md#17)\n"
        );
        assert_eq!(linked("crates/a/src/lib.rs", "[`cpu`] and [`Vcpu`]"), "[`cpu`](a.md#16) and `Vcpu`\n");
        assert_eq!(
            linked("crates/a/src/cpu/mode.rs", "[`Mode`], [`super::Cpu`]"),
            "`Mode`, [`super::Cpu`](a.md#16)\n"
        );
        assert_eq!(linked("crates/a/src/cpu/mode.rs", "[`crate::Vcpu::run`]"), "`crate::Vcpu::run`\n");
    }

    #[test]
    fn a_file_is_found_by_its_name_where_only_one_has_it() {
        let linked = |from: &str, text: &str| places().linked(from, text);
        let both = "[`cpu/mode.rs`](a.md#17), [`x.rs`](b.md#10)\n";
        assert_eq!(linked("crates/a/src/lib.rs", "`cpu/mode.rs`, `x.rs`"), both);
        assert_eq!(linked("crates/b/src/x.rs", "`lib.rs`, `none.rs`"), "[`lib.rs`](b.md#12), `none.rs`\n");
    }

    #[test]
    fn a_page_by_hand_names_any_room_of_the_house() {
        let linked = places().linked("docs/x.md", "`a`, `cpu::mode`, `a::cpu`, `b::none`");
        assert_eq!(linked, "[`a`](a.md#12), [`cpu::mode`](a.md#17), [`a::cpu`](a.md#16), `b::none`\n");
    }

    #[test]
    fn nothing_is_a_link_in_a_drawing() {
        assert_eq!(
            places().linked("crates/b/src/x.rs", "```text\n`cpu/mode.rs` [`lguest_a::cpu`]\n```"),
            "```text\n`cpu/mode.rs` [`lguest_a::cpu`]\n```\n"
        );
    }
}
