//! Names and passwords for registries, from where `podman login` and `docker login` put them.
//!
//! ```text
//!   $REGISTRY_AUTH_FILE
//!   $XDG_RUNTIME_DIR/containers/auth.json          each: {"auths": {"HOST[/NAMESPACE]": {"auth": "base64 of name:password"}},
//!   $XDG_CONFIG_HOME/containers/auth.json                 "credsStore": "HELPER", "credHelpers": {"HOST": "HELPER"}}
//!   $DOCKER_CONFIG/config.json
//! ```
//! The first file that has the registry counts, and of its entries the one that names most of the image
//! (containers-auth.json(5)). Files are read when a registry asks, not before. A helper is another program with rights of its
//! own; it is named in a sentence and not run. Nothing here prints a password, and no type that holds one can be printed.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use thiserror::Error;

use super::tree::Shown;

/// The longest file that is read: some hundred registries.
const LONGEST: u64 = 1 << 20;

/// Why there is no password, though there should be one. Both are the rest of a sentence.
#[derive(Debug, Error)]
pub enum CredentialsError {
    /// A file that is not of this form.
    #[error("{}: {why}; podman login or docker login writes it anew", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, without a word of what is in it.
        why: &'static str,
    },
    /// The password is kept by another program.
    #[error(
        "{} leaves the password of {host} to the program docker-credential-{}, which lguest does not run; podman login {host} keeps it in a file",
        path.display(),
        Shown::new(helper.as_bytes())
    )]
    Helper {
        /// The file.
        path: PathBuf,
        /// The registry.
        host: String,
        /// The helper.
        helper: String,
    },
}

/// A name and a password, ready for a header. It has no [`Debug`]: it is never printed.
#[derive(Clone)]
pub struct Login {
    /// `Basic ...` (RFC 7617).
    header: String,
}

impl Login {
    fn new(name: &str, password: &str) -> Login {
        Login { header: format!("Basic {}", STANDARD.encode(format!("{name}:{password}"))) }
    }

    /// The value of an Authorization header.
    pub fn header(&self) -> &str {
        &self.header
    }
}

/// Where to look.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    files: Vec<PathBuf>,
}

impl Credentials {
    /// Nowhere.
    pub fn none() -> Credentials {
        Credentials::default()
    }

    /// In these files, the first that has the registry.
    pub fn of(files: Vec<PathBuf>) -> Credentials {
        Credentials { files }
    }

    /// Where the user's programs put them.
    pub fn of_the_user() -> Credentials {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let home = |rest: &str| variable("HOME").map(|home| home.join(rest));
        let places = [
            variable("REGISTRY_AUTH_FILE"),
            variable("XDG_RUNTIME_DIR").map(|folder| folder.join("containers/auth.json")),
            variable("XDG_CONFIG_HOME")
                .or_else(|| home(".config"))
                .map(|folder| folder.join("containers/auth.json")),
            variable("DOCKER_CONFIG").or_else(|| home(".docker")).map(|folder| folder.join("config.json")),
        ];
        Credentials::of(places.into_iter().flatten().collect())
    }

    /// What is kept for this image of this registry.
    ///
    /// # Errors
    /// When a file cannot be understood, or names a helper instead.
    pub fn find(&self, host: &str, repository: &str) -> Result<Option<Login>, CredentialsError> {
        for path in &self.files {
            if let Some(found) = find_in(path, host, repository)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Entry {
    auth: String,
    username: String,
    password: String,
    #[serde(rename = "identitytoken")]
    identity_token: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Document {
    auths: BTreeMap<String, Entry>,
    #[serde(rename = "credsStore")]
    store: String,
    #[serde(rename = "credHelpers")]
    helpers: BTreeMap<String, String>,
}

fn find_in(path: &Path, host: &str, repository: &str) -> Result<Option<Login>, CredentialsError> {
    let fault = |why| CredentialsError::Unreadable { path: path.to_owned(), why };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(_) => return Err(fault("cannot be opened")),
    };
    let mut text = Vec::new();
    file.take(LONGEST + 1).read_to_end(&mut text).map_err(|_| fault("cannot be read"))?;
    if text.len() as u64 > LONGEST {
        return Err(fault("is longer than a mebibyte"));
    }
    // What serde says of a mistake may quote the line, and that is a password.
    let document: Document =
        serde_json::from_slice(&text).map_err(|_| fault("is not JSON of the form that is known"))?;
    // The host, and more and more of the image's name behind it; the longest that is there counts.
    let whole = format!("{host}/{repository}");
    let mut wanted = Some(whole.as_str());
    while let Some(name) = wanted {
        let entry = document.auths.iter().find(|(key, _)| plain(key) == name).map(|(_, entry)| entry);
        if let Some(found) = entry.map(|entry| login(entry, fault)).transpose()?.flatten() {
            return Ok(Some(found));
        }
        wanted = name.rsplit_once('/').map(|(shorter, _)| shorter);
    }
    let own = document.helpers.iter().find(|(key, _)| plain(key) == host).map(|(_, helper)| helper);
    // A store leaves an empty entry for what it keeps.
    let stored = document.auths.keys().any(|key| plain(key) == host).then_some(&document.store);
    match own.or(stored).filter(|helper| !helper.is_empty()) {
        Some(helper) => Err(CredentialsError::Helper {
            path: path.to_owned(),
            host: host.to_owned(),
            helper: helper.clone(),
        }),
        None => Ok(None),
    }
}

/// A key without what older programs wrote around the host.
fn plain(key: &str) -> &str {
    let key = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    let key = key.trim_end_matches('/');
    key.strip_suffix("/v1").or_else(|| key.strip_suffix("/v2")).unwrap_or(key)
}

/// The name and password of an entry; none in one that is empty.
fn login(
    entry: &Entry,
    fault: impl Fn(&'static str) -> CredentialsError,
) -> Result<Option<Login>, CredentialsError> {
    if !entry.auth.is_empty() {
        let bytes =
            STANDARD.decode(entry.auth.trim()).map_err(|_| fault("has an auth that is not base64"))?;
        let text = String::from_utf8(bytes).map_err(|_| fault("has an auth that is not text"))?;
        let (name, password) = text.split_once(':').ok_or_else(|| fault("has an auth without a colon"))?;
        // Docker once wrote zeroes behind it.
        return Ok(Some(Login::new(name, password.trim_end_matches('\0'))));
    }
    if !entry.identity_token.is_empty() {
        return Err(fault("has an identity token, which lguest does not use"));
    }
    let given = !entry.username.is_empty() && !entry.password.is_empty();
    Ok(given.then(|| Login::new(&entry.username, &entry.password)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str, host: &str, repository: &str) -> Result<Option<String>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("auth.json");
        std::fs::write(&path, text).unwrap();
        let missing = folder.path().join("missing.json");
        let found = Credentials::of(vec![missing, path]).find(host, repository);
        found.map(|login| login.map(|login| login.header().to_owned())).map_err(|error| error.to_string())
    }

    /// base64 of `me:word`.
    const AUTH: &str = "bWU6d29yZA==";

    #[test]
    fn a_password_is_found_as_podman_and_docker_write_it() {
        let wanted = Ok(Some(format!("Basic {AUTH}")));
        for key in
            ["a.example:5000", "https://a.example:5000", "http://a.example:5000/v1/", "a.example:5000/team"]
        {
            let text = format!(r#"{{"auths": {{"{key}": {{"auth": "{AUTH}"}}}}}}"#);
            assert_eq!(found(&text, "a.example:5000", "team/tool"), wanted, "{key}");
            assert_eq!(found(&text, "a.example", "team/tool"), Ok(None), "{key}");
        }
        let text =
            r#"{"auths": {"a.example": {"username": "me", "password": "word"}}, "HttpHeaders": {"X": "y"}}"#;
        assert_eq!(found(text, "a.example", "x"), wanted);
    }

    #[test]
    fn the_entry_that_names_most_of_the_image_counts() {
        let text = format!(
            r#"{{"auths": {{"a.example": {{"auth": "eDp5"}}, "a.example/team": {{"auth": "{AUTH}"}}, "a.example/te": {{"auth": "ejp6"}}}}}}"#
        );
        assert_eq!(found(&text, "a.example", "team/tool"), Ok(Some(format!("Basic {AUTH}"))));
        assert_eq!(found(&text, "a.example", "other"), Ok(Some("Basic eDp5".to_owned())));
    }

    #[test]
    fn a_helper_is_named_and_not_run() {
        for text in [
            r#"{"auths": {"a.example": {}}, "credsStore": "desktop"}"#,
            r#"{"credHelpers": {"a.example": "desktop"}}"#,
        ] {
            let sentence = found(text, "a.example", "x").unwrap_err();
            assert!(
                sentence.contains("docker-credential-desktop") && sentence.contains("podman login a.example"),
                "{sentence}"
            );
            assert_eq!(found(text, "b.example", "x"), Ok(None));
        }
    }

    #[test]
    fn a_file_that_is_broken_is_named_without_a_word_of_its_contents() {
        for (text, hint) in [
            ("{\"auths\": {\"a.example\": {\"auth\": 5, \"password\": \"hunter2\"}}}", "is not JSON"),
            (r#"{"auths": {"a.example": {"auth": "hunter2!"}}}"#, "not base64"),
            (r#"{"auths": {"a.example": {"auth": "aHVudGVyMg=="}}}"#, "without a colon"),
            (r#"{"auths": {"a.example": {"identitytoken": "hunter2"}}}"#, "identity token"),
        ] {
            let sentence = found(text, "a.example", "x").unwrap_err();
            assert!(sentence.contains(hint) && sentence.contains("auth.json"), "{sentence}");
            assert!(!sentence.contains("hunter2"), "{sentence}");
        }
    }
}
