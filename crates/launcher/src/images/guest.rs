//! An image as GUEST: a directory of the cache as root, and what the image says of its command, as if the user had said it.
//!
//! What the user says comes before what the image says, as with containers: COMMAND takes the place of the image's own
//! words behind its entry point, `--user` and `--workdir` that of its own, and of two variables of one name the user's counts.

use oci_spec::image::ImageConfiguration;

use super::command::path_and_tag;
use super::credentials::Credentials;
use super::name::ImageName;
use super::pull;
use super::source::Source;
use super::store::{Held, Store};
use crate::cli::RunArguments;
use crate::guest_files;
use crate::progress::Progress;
use crate::request::Mistake;

/// A request for an image, as one for its directory.
#[derive(Debug)]
pub struct Taken {
    /// What was asked for, with the image's own wishes filled in.
    pub arguments: RunArguments,
    /// The image stays in the cache while this lives.
    pub held: Held,
}

/// Takes the image that GUEST names; none when it names something else. One in the cache is used as it is, and
/// `lguest images pull` looks for a newer one.
///
/// # Errors
/// When it cannot be had: one sentence.
pub fn take(arguments: &RunArguments, progress: &Progress) -> Result<Option<Taken>, Mistake> {
    let Some(word) = arguments.guest.as_deref() else { return Ok(None) };
    let (path, tag) = path_and_tag(word);
    let by_path = Source::is_one(path);
    if !by_path && (path.exists() || !ImageName::is_meant(word)) {
        return Ok(None);
    }
    if arguments.keep {
        return Err(Mistake(format!(
            "--keep: the image {word} serves other machines too; give a directory of yours"
        )));
    }
    let store = Store::new(guest_files::user_cache()?);
    let fault = |cause| Mistake(format!("GUEST {word}: {cause}"));
    let held = if by_path {
        store.take(path, tag, progress).map_err(fault)?
    } else {
        from_cache_or_registry(&store, &ImageName::read(word)?, progress).map_err(fault)?
    };
    let mut arguments = arguments.clone();
    arguments.guest = Some(held.root.to_string_lossy().into_owned());
    fill_in(&mut arguments, &held.configuration);
    Ok(Some(Taken { arguments, held }))
}

fn from_cache_or_registry(
    store: &Store,
    name: &ImageName,
    progress: &Progress,
) -> Result<Held, super::ImageError> {
    let known = store.list().into_iter().find(|one| one.note.names.contains(&name.whole()));
    if let Some(known) = known
        && let Some(held) = store.hold(&known.id)?
    {
        return Ok(held);
    }
    pull::pull(store, name, &Credentials::of_the_user(), progress)
}

/// Fills in what the image says where the user says nothing.
fn fill_in(arguments: &mut RunArguments, configuration: &ImageConfiguration) {
    let Some(says) = configuration.config() else { return };
    let mut command = says.entrypoint().clone().unwrap_or_default();
    if arguments.command.is_empty() {
        command.extend(says.cmd().iter().flatten().cloned());
    } else {
        command.append(&mut arguments.command);
    }
    arguments.command = command;
    // Later ones count, so the user's stand behind. One without a value is nothing that an image can say.
    let mut environment: Vec<String> =
        says.env().iter().flatten().filter(|one| one.contains('=')).cloned().collect();
    environment.append(&mut arguments.env);
    arguments.env = environment;
    let said = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    arguments.user = arguments.user.take().or_else(|| said(says.user()));
    arguments.workdir = arguments.workdir.take().or_else(|| said(says.working_dir()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use crate::images::made;
    use clap::Parser;

    fn filled(words: &[&str]) -> RunArguments {
        let Command::Run(mut run) =
            Cli::try_parse_from([&["lguest", "run", "x"], words].concat()).unwrap().command
        else {
            panic!("another subcommand")
        };
        let configuration = serde_json::from_slice(&made::configuration(&[], "amd64")).unwrap();
        fill_in(&mut run, &configuration);
        *run
    }

    #[test]
    fn an_image_says_what_the_user_does_not() {
        let run = filled(&[]);
        assert_eq!(run.command, ["/bin/echo", "word"]);
        assert_eq!(run.env, ["PATH=/bin", "GREETING=hello"]);
        assert_eq!((run.user.as_deref(), run.workdir.as_deref()), (Some("7:8"), Some("/srv")));
    }

    #[test]
    fn what_the_user_says_comes_first() {
        let run = filled(&["--env", "GREETING=no", "--user", "root", "--workdir", "/", "--", "mine"]);
        assert_eq!(run.command, ["/bin/echo", "mine"]);
        assert_eq!(run.env.last().unwrap(), "GREETING=no");
        assert_eq!((run.user.as_deref(), run.workdir.as_deref()), (Some("root"), Some("/")));
    }

    #[test]
    fn other_guests_are_no_images() {
        for word in ["debian", "debian:linux-image-amd64", "/proc/self/exe", "/proc", "./no/such"] {
            let Command::Run(run) = Cli::try_parse_from(["lguest", "run", word]).unwrap().command else {
                panic!("another subcommand")
            };
            assert!(take(&run, &Progress::hidden()).unwrap().is_none(), "{word}");
        }
    }
}
