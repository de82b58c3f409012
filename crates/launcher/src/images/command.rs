//! `lguest images`: what is in the cache, and taking some of it away.

use std::path::Path;

use clap::{Args, Subcommand};

use super::ImageError;
use super::credentials::Credentials;
use super::name::ImageName;
use super::pull;
use super::store::{self, Listed, Store};
use crate::ending::Ending;
use crate::guest_files;
use crate::progress::Progress;
use crate::request::Mistake;

/// The least digits of an image's identity that name it.
const LEAST_DIGITS: usize = 4;

/// `lguest images`.
#[derive(Debug, Args)]
pub struct ImagesArguments {
    /// What to do; nothing lists them.
    #[command(subcommand)]
    pub action: Option<Action>,
}

/// What can be done with images.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Take an image into the cache: from a registry, an archive or a layout
    Pull {
        /// REGISTRY/NAME:TAG (a registry of this machine, as localhost:5000, is asked without encryption), or the path of an
        /// archive or layout, with :TAG if it holds several images
        image: String,
    },
    /// Remove images; those that a machine runs from stay
    Rm {
        /// Names, or the first digits of identities, as the list shows them
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
    /// Remove every image that no machine runs from, and what interrupted pulls left
    Prune,
}

/// Does it.
pub fn perform(arguments: &ImagesArguments) -> (String, Ending) {
    let done = guest_files::user_cache().and_then(|cache| {
        let store = Store::new(cache);
        let progress = Progress::new(false);
        match &arguments.action {
            None => Ok(table(&store.list(), store::now())),
            Some(Action::Pull { image }) => pull(&store, image, &progress),
            Some(Action::Rm { names }) => remove(&store, names, &progress),
            Some(Action::Prune) => prune(&store, &progress),
        }
    });
    match done {
        Ok(text) => (text, Ending::Status(0)),
        Err(mistake) => (String::new(), Ending::Mistake(mistake.to_string())),
    }
}

/// Splits PATH:TAG; a path that is there as a whole has no tag.
pub fn path_and_tag(word: &str) -> (&Path, Option<&str>) {
    let whole = Path::new(word);
    match word.rsplit_once(':') {
        Some((path, tag)) if !whole.exists() && Path::new(path).exists() => (Path::new(path), Some(tag)),
        _ => (whole, None),
    }
}

fn pull(store: &Store, image: &str, progress: &Progress) -> Result<String, Mistake> {
    let fault = |cause| Mistake(format!("IMAGE {image}: {cause}"));
    let (path, tag) = path_and_tag(image);
    let held = if path.exists() || image.starts_with(['.', '/']) {
        store.take(path, tag, progress).map_err(fault)?
    } else {
        let name = ImageName::read(image)?;
        pull::pull(store, &name, &Credentials::of_the_user(), progress).map_err(fault)?
    };
    Ok(format!("{}\n", held.id.short()))
}

fn remove(store: &Store, names: &[String], progress: &Progress) -> Result<String, Mistake> {
    let mut text = String::new();
    for name in names {
        let one = named(store, name)?;
        let gone =
            store.remove(&one.id, progress).map_err(|cause| Mistake(format!("NAME {name}: {cause}")))?;
        if !gone {
            return Err(Mistake(format!("NAME {name}: a machine runs from it; stop it first")));
        }
        text += &format!("removed {} ({})\n", one.id.short(), bytes(one.note.bytes));
    }
    Ok(text)
}

fn prune(store: &Store, progress: &Progress) -> Result<String, Mistake> {
    let mut freed = pull::prune(store).map_err(|cause| store.unusable(cause).sentence())?;
    let mut kept = 0;
    for one in store.list() {
        if store.remove(&one.id, progress).map_err(ImageError::sentence)? {
            freed += one.note.bytes;
        } else {
            kept += 1;
        }
    }
    let kept = if kept == 0 { String::new() } else { format!("; {kept} in use stay") };
    Ok(format!("freed {}{kept}\n", bytes(freed)))
}

/// The one image that a word means.
fn named(store: &Store, word: &str) -> Result<Listed, Mistake> {
    let by_id = |one: &Listed| word.len() >= LEAST_DIGITS && one.id.hex().starts_with(word);
    // The end of a name will do, from a slash on: tools put a registry before what the user typed.
    let is_it =
        |name: &str| name.strip_suffix(word).is_some_and(|rest| rest.is_empty() || rest.ends_with('/'));
    let by_name = |one: &Listed| one.note.names.iter().any(|name| is_it(name));
    let mut found: Vec<Listed> = store.list().into_iter().filter(|one| by_name(one) || by_id(one)).collect();
    match (found.pop(), found.len()) {
        (Some(one), 0) => Ok(one),
        (None, _) => Err(Mistake(format!("NAME {word}: there is no such image; lguest images lists them"))),
        (Some(_), _) => Err(Mistake(format!("NAME {word}: means several images; give more digits"))),
    }
}

/// The list: a line for each image.
fn table(images: &[Listed], now: u64) -> String {
    if images.is_empty() {
        return "there are no images\n".to_owned();
    }
    let name =
        |one: &Listed| if one.note.names.is_empty() { "-".to_owned() } else { one.note.names.join(",") };
    let width = images.iter().map(|one| name(one).chars().count()).max().unwrap_or(0).max(4);
    let mut text = format!("{:width$}  {:12}  {:>9}  AGE\n", "NAME", "ID", "SIZE");
    for one in images {
        let age = age(now.saturating_sub(one.note.since));
        text += &format!("{:width$}  {}  {:>9}  {age}\n", name(one), one.id.short(), bytes(one.note.bytes));
    }
    // A name is somebody else's word, and this goes to a terminal.
    text.chars().map(|letter| if letter.is_control() && letter != '\n' { '?' } else { letter }).collect()
}

/// A size for a person.
fn bytes(count: u64) -> String {
    indicatif::BinaryBytes(count).to_string()
}

/// A span of seconds for a person, in its largest unit.
pub fn age(seconds: u64) -> String {
    let units = [(86_400, "days"), (3_600, "hours"), (60, "minutes")];
    let (size, name) = units.into_iter().find(|(size, _)| seconds >= 2 * size).unwrap_or((1, "seconds"));
    format!("{} {name}", seconds / size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::digest::Sum;
    use crate::images::store::Note;

    #[test]
    fn the_list_shows_name_identity_size_and_age() {
        let id = Sum::over(b"x");
        let note = Note { names: vec!["a\x1b[31m".to_owned()], since: 1000, bytes: 3 << 20 };
        let text = table(&[Listed { id: id.clone(), note }], 1000 + 3 * 86_400);
        let line = text.lines().nth(1).unwrap();
        assert!(line.starts_with("a?[31m") && line.contains(id.short()), "{line}");
        assert!(line.contains("3.00 MiB") && line.ends_with("3 days"), "{line}");
    }

    #[test]
    fn an_age_is_told_in_its_largest_unit() {
        assert_eq!(age(119), "119 seconds");
        assert_eq!(age(120), "2 minutes");
        assert_eq!(age(2 * 86_400), "2 days");
    }

    #[test]
    fn a_tag_stands_behind_a_path_that_is_there() {
        assert_eq!(path_and_tag("/proc:v1"), (Path::new("/proc"), Some("v1")));
        assert_eq!(path_and_tag("/no/such:v1"), (Path::new("/no/such:v1"), None));
        assert_eq!(path_and_tag("/proc"), (Path::new("/proc"), None));
    }
}
