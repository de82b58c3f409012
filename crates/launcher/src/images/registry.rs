//! Asking a registry for parts of an image: the pulling half of the OCI distribution specification (1.1).
//!
//! Two kinds of request, `manifests/NAME` and `blobs/SUM`, and before them, where a registry wants it, one for a token: anybody's,
//! or that of a name and a password ([`super::credentials`]). Some registries want name and password themselves. Neither
//! these nor a token follows a redirect: what a registry sends elsewhere is asked for there as by a stranger. What a registry answers is as little ours as an image is: every answer has a limit, and a stalled one ends.

use std::io::{self, Read};
use std::time::Duration;

use serde::Deserialize;
use thiserror::Error;
use ureq::Agent;
use ureq::config::RedirectAuthHeaders;
use ureq::http::header::{ACCEPT, AUTHORIZATION, CONTENT_RANGE, RANGE, WWW_AUTHENTICATE};
use ureq::http::{Response, StatusCode, Uri};

use super::credentials::{Credentials, CredentialsError};
use super::digest::Sum;
use super::name::{ImageName, is_loopback};
use super::tree::Shown;

/// The largest manifest that registries take.
const LARGEST_MANIFEST: u64 = 4 << 20;
/// The longest answer of a token's server.
const LARGEST_TOKEN: u64 = 1 << 20;
/// How long a registry may be silent: while connecting, before it answers, and between two pieces of a part.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often a request is sent elsewhere. Registries send to a storage, and that perhaps to another.
const MOST_REDIRECTS: u32 = 5;

/// The kinds of manifest that we read: OCI's and Docker's, for one platform and for several.
const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

/// Why a registry gave nothing.
#[derive(Debug, Error)]
pub enum RegistryError {
    /// No connection, or one that broke.
    #[error("the registry {host} cannot be reached: {}", Shown::new(cause.to_string().as_bytes()))]
    Unreachable {
        /// Its name.
        host: String,
        /// What happened.
        cause: Box<ureq::Error>,
    },
    /// It does not have it, or does not show it to whom we are.
    #[error("the registry {host} has no {what}, or not for {whom} (status {status}){hint}")]
    NotThere {
        /// Its name.
        host: String,
        /// What was asked for.
        what: String,
        /// Who asked.
        whom: &'static str,
        /// Its answer.
        status: StatusCode,
        /// What would help.
        hint: String,
    },
    /// It wants a name and a password that cannot be had.
    #[error("the registry {host} wants a name and a password: {cause}")]
    Credentials {
        /// Its name.
        host: String,
        /// Why there are none.
        cause: CredentialsError,
    },
    /// Any other answer.
    #[error("the registry {host} answers with status {status}")]
    Strange {
        /// Its name.
        host: String,
        /// Its answer.
        status: StatusCode,
    },
    /// It asks for a token in words that are not understood, or sends to a place without encryption.
    #[error("the registry {host} asks for a token or a password in a way that is not known here")]
    Challenge {
        /// Its name.
        host: String,
    },
    /// An answer that cannot be read to its end.
    #[error("the answer of the registry {host} broke off: {cause}")]
    Broken {
        /// Its name.
        host: String,
        /// What happened.
        cause: io::Error,
    },
}

/// A registry, seen through one image's name.
pub struct Registry {
    agent: Agent,
    name: ImageName,
    credentials: Credentials,
    /// A name and a password were found.
    known: bool,
    /// `Bearer ...` or `Basic ...`, once it was asked for. Never printed.
    token: Option<String>,
}

/// The rest of a part.
pub struct Rest {
    /// Where it begins: what was asked for, or zero when the registry gives wholes only.
    pub from: u64,
    /// Its bytes.
    pub bytes: Box<dyn Read>,
}

impl Registry {
    /// Nothing is asked yet.
    pub fn new(name: ImageName, credentials: Credentials) -> Registry {
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .https_only(name.scheme() == "https")
            .max_redirects(MOST_REDIRECTS)
            .redirect_auth_headers(RedirectAuthHeaders::Never)
            .timeout_resolve(Some(PATIENCE))
            .timeout_connect(Some(PATIENCE))
            .timeout_recv_response(Some(PATIENCE))
            .timeout_per_read(Some(PATIENCE))
            .user_agent(concat!("lguest/", env!("CARGO_PKG_VERSION")))
            .build()
            .into();
        Registry { agent, name, credentials, known: false, token: None }
    }

    /// The registry's name.
    pub fn host(&self) -> &str {
        self.name.host()
    }

    /// The manifest of this tag or sum.
    ///
    /// # Errors
    /// When the registry does not give it.
    pub fn manifest(&mut self, tag_or_sum: &str) -> Result<Vec<u8>, RegistryError> {
        let answer = self.ask("manifests", tag_or_sum, None)?;
        self.whole(answer, LARGEST_MANIFEST)
    }

    /// A part from this byte on.
    ///
    /// # Errors
    /// When the registry does not give it.
    pub fn blob(&mut self, sum: &Sum, from: u64) -> Result<Rest, RegistryError> {
        let answer = self.ask("blobs", &sum.to_string(), Some(from).filter(|from| *from > 0))?;
        let from = if answer.status() == StatusCode::PARTIAL_CONTENT {
            let said = answer.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
            if !said.is_some_and(|said| said.starts_with(&format!("bytes {from}-"))) {
                return Err(self.strange(answer.status()));
            }
            from
        } else {
            0
        };
        Ok(Rest { from, bytes: Box::new(answer.into_body().into_reader()) })
    }

    fn ask(
        &mut self,
        kind: &str,
        what: &str,
        from: Option<u64>,
    ) -> Result<Response<ureq::Body>, RegistryError> {
        let (host, repository) = (self.name.host(), self.name.repository());
        let address = format!("{}://{host}/v2/{repository}/{kind}/{what}", self.name.scheme());
        let send = |token: Option<&str>| {
            let mut request = self.agent.get(&address);
            if kind == "manifests" {
                request = request.header(ACCEPT, MANIFESTS);
            }
            if let Some(token) = token {
                request = request.header(AUTHORIZATION, token);
            }
            if let Some(from) = from {
                request = request.header(RANGE, format!("bytes={from}-"));
            }
            request.call().map_err(|cause| self.unreachable(cause))
        };
        let mut answer = send(self.token.as_deref())?;
        // No token yet, or an old one: both are answered by a new one, once.
        if answer.status() == StatusCode::UNAUTHORIZED {
            let (token, known) = self.fetch_token(&answer)?;
            answer = send(Some(&token))?;
            (self.token, self.known) = (Some(token), known);
        }
        match answer.status() {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => Ok(answer),
            status @ (StatusCode::NOT_FOUND | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => Err(
                self.not_there(format!("{repository} {}", Shown::new(what.as_bytes())), self.known, status)
            ),
            status => Err(self.strange(status)),
        }
    }

    /// Gets a token as the registry's refusal says (Docker's token authentication, which the specification points to), or
    /// the name and password where it wants these; and whether it is somebody's.
    fn fetch_token(&self, refusal: &Response<ureq::Body>) -> Result<(String, bool), RegistryError> {
        let unknown = || RegistryError::Challenge { host: self.name.host().to_owned() };
        let headers = refusal.headers().get_all(WWW_AUTHENTICATE);
        let challenges: Vec<&str> = headers.iter().filter_map(|value| value.to_str().ok()).collect();
        let login = self.credentials.find(self.name.host(), self.name.repository());
        let login =
            login.map_err(|cause| RegistryError::Credentials { host: self.name.host().to_owned(), cause })?;
        let Some(challenge) = challenges.iter().find_map(|header| Challenge::read(header)) else {
            if !challenges.iter().any(|header| is_basic(header)) {
                return Err(unknown());
            }
            let Some(login) = login else {
                return Err(self.not_there(self.name.repository().to_owned(), false, refusal.status()));
            };
            return Ok((login.header().to_owned(), true));
        };
        let realm: Uri = challenge.realm.parse().map_err(|_| unknown())?;
        // A registry of this machine may send to itself; nobody is sent anywhere in the clear.
        let local = self.name.scheme() == "http" && realm.host().is_some_and(is_loopback);
        if realm.scheme_str() != Some("https") && !local {
            return Err(unknown());
        }
        let mut request = self.agent.get(&challenge.realm);
        if let Some(login) = &login {
            request = request.header(AUTHORIZATION, login.header());
        }
        if let Some(service) = &challenge.service {
            request = request.query("service", service);
        }
        request = request.query("scope", format!("repository:{}:pull", self.name.repository()));
        let answer = request.call().map_err(|cause| self.unreachable(cause))?;
        match answer.status() {
            StatusCode::OK => {}
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                return Err(self.not_there(self.name.repository().to_owned(), login.is_some(), status));
            }
            status => return Err(self.strange(status)),
        }
        let bytes = self.whole(answer, LARGEST_TOKEN)?;
        let token: Token = serde_json::from_slice(&bytes).map_err(|_| unknown())?;
        let text = token.token.or(token.access_token).ok_or_else(unknown)?;
        // It goes into a header: letters that a header cannot have are no token's.
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(unknown());
        }
        Ok((format!("Bearer {text}"), login.is_some()))
    }

    fn whole(&self, answer: Response<ureq::Body>, limit: u64) -> Result<Vec<u8>, RegistryError> {
        let broken = |cause| RegistryError::Broken { host: self.name.host().to_owned(), cause };
        let mut bytes = Vec::new();
        answer.into_body().into_reader().take(limit + 1).read_to_end(&mut bytes).map_err(broken)?;
        if bytes.len() as u64 > limit {
            return Err(broken(io::Error::other(format!("it has more than {limit} bytes"))));
        }
        Ok(bytes)
    }

    fn not_there(&self, what: String, known: bool, status: StatusCode) -> RegistryError {
        let host = self.name.host().to_owned();
        let refused = status != StatusCode::NOT_FOUND;
        let hint = match known {
            _ if !refused => String::new(),
            false => {
                format!("; podman login {host} or docker login {host} leaves a name and a password for it")
            }
            true => format!("; podman login {host} or docker login {host} changes who that is"),
        };
        let whom = if known { "the name and password that are kept for it" } else { "everybody" };
        RegistryError::NotThere { host, what, whom, status, hint }
    }

    fn unreachable(&self, cause: ureq::Error) -> RegistryError {
        RegistryError::Unreachable { host: self.name.host().to_owned(), cause: Box::new(cause) }
    }

    fn strange(&self, status: StatusCode) -> RegistryError {
        RegistryError::Strange { host: self.name.host().to_owned(), status }
    }
}

/// Whether a challenge is for a name and a password (RFC 7617).
fn is_basic(header: &str) -> bool {
    header.split([' ', ',']).next().is_some_and(|scheme| scheme.eq_ignore_ascii_case("basic"))
}

/// What a token's server answers; either name will do.
#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

/// Where a token is to be had: `Bearer realm="...",service="..."` (RFC 6750, section 3).
#[derive(Debug, PartialEq, Eq)]
pub struct Challenge {
    realm: String,
    service: Option<String>,
}

impl Challenge {
    /// Reads the header; none for another scheme, or one without a realm.
    pub fn read(header: &str) -> Option<Challenge> {
        let (scheme, mut rest) = header.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let (mut realm, mut service) = (None, None);
        while let Some((key, value)) = rest.split_once("=\"") {
            let (value, after) = value.split_once('"')?;
            match key.trim_matches([',', ' ']).to_ascii_lowercase().as_str() {
                "realm" => realm = Some(value.to_owned()),
                "service" => service = Some(value.to_owned()),
                _ => {}
            }
            rest = after;
        }
        Some(Challenge { realm: realm?, service })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_challenge_names_realm_and_service() {
        let header = r#"Bearer realm="https://auth.example/token", service="registry.example",scope="repository:x:pull,push""#;
        let challenge = Challenge::read(header).unwrap();
        assert_eq!(challenge.realm, "https://auth.example/token");
        assert_eq!(challenge.service.as_deref(), Some("registry.example"));
        for odd in
            ["", "Bearer", "Basic realm=\"x\"", "Bearer realm=x", "Bearer realm=\"x", "Bearer service=\"x\""]
        {
            assert_eq!(Challenge::read(odd), None, "{odd}");
        }
    }
}
