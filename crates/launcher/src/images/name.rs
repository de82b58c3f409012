//! The name of an image in a registry: `registry.example/team/tool:1.2`, or with `@sha256:...` what it has to be.
//!
//! There is no usual registry: whoever leaves it out is asked for it, so that nobody's name decides where a machine comes
//! from. The grammar is that of the distribution specification's references, as oci-spec reads it.

use std::net::IpAddr;
use std::str::FromStr;

use oci_spec::distribution::Reference;

use super::digest::Sum;
use crate::request::Mistake;

/// A name that carries its registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageName {
    reference: Reference,
}

impl ImageName {
    /// True when a word is meant to be one: its first part is a host's name, and it is no path. `name:tag` and `a/b` are
    /// neither file nor name; [`ImageName::read`] says what is missing.
    pub fn is_meant(word: &str) -> bool {
        let Some((first, _)) = word.split_once('/') else { return false };
        !first.starts_with('.') && has_host(first)
    }

    /// Reads a name.
    ///
    /// # Errors
    /// When it is none, has no registry, or a sum of another kind than SHA-256: one sentence.
    pub fn read(word: &str) -> Result<ImageName, Mistake> {
        let mistake = |what: &str| Err(Mistake(format!("IMAGE {word}: {what}")));
        if !word.split_once('/').is_some_and(|(first, _)| has_host(first)) {
            return mistake(
                "an image's name begins with its registry, as in registry.example/debian:stable; there is no usual one",
            );
        }
        let Ok(reference) = Reference::from_str(word) else {
            return mistake("is no name of an image; give REGISTRY/NAME:TAG or REGISTRY/NAME@sha256:...");
        };
        if reference.digest().is_some_and(|digest| Sum::read(digest).is_none()) {
            return mistake("names it by something else than SHA-256; give @sha256: and 64 digits");
        }
        Ok(ImageName { reference })
    }

    /// `http` for this machine, whose network nobody else is on; `https` for every other.
    pub fn scheme(&self) -> &'static str {
        if is_loopback(self.host()) { "http" } else { "https" }
    }

    /// The registry, with its port.
    pub fn host(&self) -> &str {
        self.reference.resolve_registry()
    }

    /// The image's name there.
    pub fn repository(&self) -> &str {
        self.reference.repository()
    }

    /// The tag or the sum that its manifest is asked for by.
    pub fn manifest(&self) -> &str {
        self.reference.digest().or(self.reference.tag()).unwrap_or("latest")
    }

    /// What the manifest has to be, where the name says it.
    pub fn sum(&self) -> Option<Sum> {
        Sum::read(self.reference.digest()?)
    }

    /// The whole name, with the tag that is meant.
    pub fn whole(&self) -> String {
        self.reference.whole()
    }
}

/// A host's name has a dot or a port, or is this machine.
fn has_host(first: &str) -> bool {
    first == "localhost" || first.contains(['.', ':'])
}

/// True for this machine's own addresses, with a port or without.
pub fn is_loopback(host: &str) -> bool {
    let name = host.split_once(':').map_or(host, |(name, _)| name);
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_a_registry_a_repository_and_a_tag() {
        let name = ImageName::read("registry.example:5000/team/tool:1.2").unwrap();
        let parts = (name.scheme(), name.host(), name.repository(), name.manifest());
        assert_eq!(parts, ("https", "registry.example:5000", "team/tool", "1.2"));
        assert_eq!(ImageName::read("localhost/tool").unwrap().manifest(), "latest");
        let sum = "a".repeat(64);
        let name = ImageName::read(&format!("127.0.0.1:5000/tool@sha256:{sum}")).unwrap();
        assert_eq!((name.scheme(), name.sum().unwrap().hex()), ("http", sum.as_str()));
    }

    #[test]
    fn a_name_without_its_registry_is_asked_for_it() {
        for word in ["ubuntu", "ubuntu:24.04", "library/ubuntu"] {
            let Mistake(sentence) = ImageName::read(word).unwrap_err();
            assert!(sentence.starts_with(&format!("IMAGE {word}: ")), "{sentence}");
            assert!(sentence.contains("registry.example/"), "{sentence}");
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for word in ["a.example/UPPER", "a.example/", "a.example/x:", "a.example/x@md5:00", "a.example/../x"]
        {
            assert!(ImageName::read(word).is_err(), "{word}");
        }
    }

    #[test]
    fn only_this_machine_is_spoken_to_without_encryption() {
        for host in ["localhost", "localhost:5000", "127.0.0.1:5000", "127.1.2.3"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["localhost.example", "127.0.0.1.example", "10.0.0.1:5000", "registry.example"] {
            assert!(!is_loopback(host), "{host}");
        }
    }

    #[test]
    fn paths_are_no_names() {
        for word in ["./a/b", "../a.b/c", "a/b", "debian", "/a.b/c"] {
            assert!(!ImageName::is_meant(word), "{word}");
        }
        assert!(ImageName::is_meant("registry.example/x") && ImageName::is_meant("localhost/x"));
    }
}
