//! `--env`, `--workdir` and `--user`: what the user wishes for the command in the Guest beside its words.

use crate::cli::RunArguments;
use crate::request::Mistake;

/// What a command finds when it starts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    /// Variables, in order; of several with one name the last counts.
    pub environment: Vec<(String, String)>,
    /// The directory that it starts in.
    pub directory: Option<String>,
    /// Who runs it, `USER[:GROUP]`; root unless said.
    pub user: Option<String>,
}

impl Wishes {
    /// Reads the options.
    ///
    /// # Errors
    /// For a name that is none, and a directory that is not absolute: one sentence.
    pub fn read(arguments: &RunArguments) -> Result<Wishes, Mistake> {
        Wishes::of(&arguments.env, arguments.workdir.as_ref(), arguments.user.as_ref())
    }

    /// Reads the three options' values.
    ///
    /// # Errors
    /// As [`Wishes::read`].
    pub fn of(
        variables: &[String],
        directory: Option<&String>,
        user: Option<&String>,
    ) -> Result<Wishes, Mistake> {
        let environment = variables.iter().map(|text| variable(text)).collect::<Result<_, _>>()?;
        match directory {
            Some(path) if !path.starts_with('/') => Err(Mistake(format!(
                "--workdir {path}: is no absolute path; give the directory in the Guest, for instance /root"
            ))),
            _ => Ok(Wishes { environment, directory: directory.cloned(), user: user.cloned() }),
        }
    }

    /// The option that was used, if one was.
    pub fn option(&self) -> Option<&'static str> {
        match (self.environment.is_empty(), &self.directory, &self.user) {
            (false, ..) => Some("--env"),
            (true, Some(_), _) => Some("--workdir"),
            (true, None, Some(_)) => Some("--user"),
            (true, None, None) => None,
        }
    }
}

/// `NAME=VALUE`, or `NAME` for the value that lguest itself finds.
fn variable(text: &str) -> Result<(String, String), Mistake> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (text, None),
    };
    if name.is_empty() {
        return Err(Mistake(format!(
            "--env {text}: has no name; give NAME=VALUE, or NAME for your own value"
        )));
    }
    match value.or_else(|| std::env::var(name).ok()) {
        Some(value) => Ok((name.to_owned(), value)),
        None => Err(Mistake(format!("--env {text}: there is no such variable here; give {name}=VALUE"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_has_a_name_and_a_value_from_here_or_there() {
        assert_eq!(variable("A=b=c"), Ok(("A".to_owned(), "b=c".to_owned())));
        assert_eq!(variable("A="), Ok(("A".to_owned(), String::new())));
        assert_eq!(variable("PATH").unwrap().1, std::env::var("PATH").unwrap());
        for text in ["", "=x", "NO_SUCH_VARIABLE_HERE"] {
            let Mistake(sentence) = variable(text).unwrap_err();
            assert!(sentence.starts_with(&format!("--env {text}: ")), "{sentence}");
        }
    }
}
