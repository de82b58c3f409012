//! `--port NAME=unix:PATH` and `--port NAME=file:PATH`.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use lguest_devices::virtio::console::LONGEST_NAME;

use super::{MOST_PORTS, Place};
use crate::request::Mistake;

/// A named port, its place on the host open.
#[derive(Debug)]
pub struct PortSpec {
    /// What the Guest calls it.
    pub name: String,
    pub(super) place: Place,
}

/// Reads all `--port`s.
///
/// # Errors
/// One sentence for the first that cannot work.
pub(super) fn read_all(texts: &[String]) -> Result<Vec<PortSpec>, Mistake> {
    if texts.len() > MOST_PORTS {
        let asked = texts.len();
        return Err(Mistake(format!(
            "--port: {asked} were asked for, and a machine has at most {MOST_PORTS}"
        )));
    }
    let mut specs: Vec<PortSpec> = Vec::new();
    for text in texts {
        let spec = PortSpec::read(text)?;
        if specs.iter().any(|other| other.name == spec.name) {
            return Err(Mistake(format!(
                "--port {text}: {} is taken by another; give another name",
                spec.name
            )));
        }
        specs.push(spec);
    }
    Ok(specs)
}

impl PortSpec {
    /// Reads one, and opens its place.
    ///
    /// # Errors
    /// One sentence for what cannot work.
    pub fn read(text: &str) -> Result<PortSpec, Mistake> {
        let wrong = |what: &str| Mistake(format!("--port {text}: {what}"));
        let (name, place) = text.split_once('=').ok_or_else(|| {
            wrong("is no port; give NAME=unix:PATH or NAME=file:PATH, as in log=file:guest.log")
        })?;
        if !is_name(name) {
            return Err(wrong(&format!(
                "a port's name is 1 to {LONGEST_NAME} letters, digits, '-', '_' or '.', and begins with none of the signs"
            )));
        }
        let place = match place.split_once(':') {
            Some(("unix", path)) if !path.is_empty() => Place::Socket(
                listen(Path::new(path)).map_err(|cause| wrong(&format!("cannot be listened at: {cause}")))?,
            ),
            Some(("file", path)) if !path.is_empty() => Place::File(
                File::create(path).map_err(|cause| wrong(&format!("cannot be written: {cause}")))?,
            ),
            _ => return Err(wrong("leads nowhere; give unix:PATH or file:PATH behind the name")),
        };
        Ok(PortSpec { name: name.to_owned(), place })
    }
}

/// A name that is one file's in the Guest, and one word of its shell.
fn is_name(name: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (1..=LONGEST_NAME).contains(&name.len())
        && name.chars().all(good)
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
}

/// A socket at this path. One that a machine left behind when it ended is taken over.
fn listen(path: &Path) -> io::Result<UnixListener> {
    match UnixListener::bind(path) {
        Err(cause) if cause.kind() == io::ErrorKind::AddrInUse && is_left_behind(path) => {
            std::fs::remove_file(path)?;
            UnixListener::bind(path)
        }
        done => done,
    }
}

fn is_left_behind(path: &Path) -> bool {
    let socket = std::fs::symlink_metadata(path).is_ok_and(|about| about.file_type().is_socket());
    socket && UnixStream::connect(path).is_err_and(|cause| cause.kind() == io::ErrorKind::ConnectionRefused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_a_name_and_a_place() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).display().to_string();
        let spec = PortSpec::read(&format!("org.x.agent-0=unix:{}", at("socket"))).unwrap();
        assert!(spec.name == "org.x.agent-0" && matches!(spec.place, Place::Socket(_)));
        let spec = PortSpec::read(&format!("log=file:{}", at("a=b:c"))).unwrap();
        assert!(
            spec.name == "log"
                && matches!(spec.place, Place::File(_))
                && folder.path().join("a=b:c").is_file()
        );
    }

    #[test]
    fn what_is_no_port_is_refused_in_one_sentence() {
        for text in [
            "x",
            "=unix:/a",
            "a/b=unix:/a",
            ".a=unix:/a",
            "a=",
            "a=unix:",
            "a=tcp:1",
            "a=/b",
            "a b=file:c",
            "a=file:/no/such/c",
        ] {
            let Mistake(sentence) = PortSpec::read(text).unwrap_err();
            assert!(
                sentence.starts_with(&format!("--port {text}: ")) && !sentence.contains('\n'),
                "{sentence}"
            );
        }
    }

    #[test]
    fn a_name_is_given_once() {
        let folder = tempfile::tempdir().unwrap();
        let text = |file: &str| format!("log=file:{}", folder.path().join(file).display());
        assert!(read_all(&[text("a"), text("b")]).unwrap_err().0.contains("log is taken"));
        assert!(read_all(&vec!["x".to_owned(); MOST_PORTS + 1]).unwrap_err().0.contains("at most"));
    }

    #[test]
    fn a_socket_left_behind_is_taken_over_and_one_in_use_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let first = listen(&path).unwrap();
        assert_eq!(listen(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(first);
        drop(listen(&path).unwrap());
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "precious").unwrap();
        assert!(listen(&path).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    }
}
