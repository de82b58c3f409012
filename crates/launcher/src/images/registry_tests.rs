//! Pulling: from Debian's docker-registry on loopback where it is installed, and from registries of our own that misbehave.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::ImageError;
use super::credentials::Credentials;
use super::digest::Sum;
use super::made::{Layout, Made, gzip};
use super::name::ImageName;
use super::pull;
use super::store::{Held, Store};
use crate::cache::Cache;
use crate::progress::Progress;

struct Desk {
    _folder: TempDir,
    store: Store,
}

impl Desk {
    fn new() -> Desk {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(Cache::at(folder.path().join("cache")));
        Desk { _folder: folder, store }
    }

    fn pull(&self, name: &str) -> Result<Held, ImageError> {
        self.pull_with(name, &Credentials::none())
    }

    fn pull_with(&self, name: &str, credentials: &Credentials) -> Result<Held, ImageError> {
        pull::pull(&self.store, &ImageName::read(name).unwrap(), credentials, &Progress::hidden())
    }

    /// A file in which this registry has a name and a password.
    fn login(&self, host: &str, login: &str) -> Credentials {
        use base64::Engine as _;
        let path = self._folder.path().join("auth.json");
        let auth = base64::engine::general_purpose::STANDARD.encode(login);
        fs::write(&path, format!(r#"{{"auths": {{"{host}": {{"auth": "{auth}"}}}}}}"#)).unwrap();
        Credentials::of(vec![path])
    }

    /// Where a part is while it is pulled.
    fn begun(&self, sum: &Sum) -> std::path::PathBuf {
        let folder = pull::folder(&self.store).join("blobs/sha256");
        fs::create_dir_all(&folder).unwrap();
        folder.join(format!("{}.part", sum.hex()))
    }

    fn parts(&self) -> usize {
        fs::read_dir(pull::folder(&self.store).join("blobs/sha256")).unwrap().count()
    }
}

/// An image whose layer does not shrink, as its parts by sum; the manifest is the last but the index.
fn parts(word: &str) -> Vec<(String, Vec<u8>)> {
    let mut noise = 1u32;
    let data: Vec<u8> = std::iter::repeat_with(|| {
        noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (noise >> 24) as u8
    })
    .take(200_000)
    .collect();
    let layer = Made::default().file("word", word.as_bytes()).file("noise", &data).finish();
    Layout::new().image("v1", "amd64", &[layer], gzip).finish()
}

fn word(held: &Held) -> String {
    fs::read_to_string(held.root.join("word")).unwrap()
}

/// Debian's registry, on a port of its own.
struct DebiansRegistry {
    child: Child,
    host: String,
    _folder: TempDir,
}

impl Drop for DebiansRegistry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl DebiansRegistry {
    fn start(test: &str) -> Option<DebiansRegistry> {
        let folder = tempfile::tempdir().unwrap();
        // The port is free now; that somebody takes it in between is a failed test, not a wrong one.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let host = format!("127.0.0.1:{port}");
        let config = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {host}\n",
            folder.path().join("storage").display()
        );
        fs::write(folder.path().join("config.yml"), config).unwrap();
        let child = Command::new("docker-registry")
            .args(["serve".as_ref(), folder.path().join("config.yml").as_os_str()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let Ok(child) = child else {
            eprintln!("SKIPPED {test}: docker-registry is not installed");
            return None;
        };
        let registry = DebiansRegistry { child, host, _folder: folder };
        let end = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(&registry.host).is_err() {
            assert!(Instant::now() < end, "docker-registry does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(registry)
    }

    /// Pushes a layout's parts, and its manifest under a tag.
    fn push(&self, repository: &str, tag: &str, files: &[(String, Vec<u8>)]) {
        let base = format!("http://{}/v2/{repository}", self.host);
        for (name, bytes) in &files[1..files.len() - 2] {
            let sum = name.rsplit('/').next().unwrap();
            let answer = ureq::post(format!("{base}/blobs/uploads/")).send_empty().unwrap();
            let place = answer.headers()["location"].to_str().unwrap().to_owned();
            ureq::put(format!("{place}&digest=sha256:{sum}")).send(&bytes[..]).unwrap();
        }
        let (_, manifest) = &files[files.len() - 2];
        ureq::put(format!("{base}/manifests/{tag}"))
            .header("content-type", "application/vnd.oci.image.manifest.v1+json")
            .send(&manifest[..])
            .unwrap();
    }
}

#[test]
fn an_image_is_pulled_from_debians_registry_by_tag_and_by_sum() {
    let test = "an_image_is_pulled_from_debians_registry_by_tag_and_by_sum";
    let Some(registry) = DebiansRegistry::start(test) else { return };
    let files = parts("first");
    registry.push("team/tool", "v1", &files);
    let desk = Desk::new();
    let name = format!("{}/team/tool:v1", registry.host);
    assert_eq!(word(&desk.pull(&name).unwrap()), "first");
    assert_eq!((desk.store.list()[0].note.names.last(), desk.parts()), (Some(&name), 0));
    let sum = Sum::over(&files[files.len() - 2].1);
    assert_eq!(word(&desk.pull(&format!("{}/team/tool@{sum}", registry.host)).unwrap()), "first");
    // A tag that moves takes its name along.
    registry.push("team/tool", "v1", &parts("second"));
    assert_eq!(word(&desk.pull(&name).unwrap()), "second");
    let named = desk.store.list().into_iter().filter(|one| one.note.names.contains(&name));
    assert_eq!(named.count(), 1);
    let error = desk.pull(&format!("{}/team/tool:v9", registry.host)).unwrap_err().to_string();
    assert!(error.contains("has no team/tool v9") && error.contains("404"), "{error}");
    let error = desk.pull(&format!("{}/team/other", registry.host)).unwrap_err().to_string();
    assert!(error.contains("has no team/other latest"), "{error}");
}

#[test]
fn debians_registry_goes_on_where_a_pull_was_interrupted() {
    let test = "debians_registry_goes_on_where_a_pull_was_interrupted";
    let Some(registry) = DebiansRegistry::start(test) else { return };
    let files = parts("resumed");
    registry.push("tool", "v1", &files);
    let desk = Desk::new();
    let (_, layer) = &files[1];
    fs::write(desk.begun(&Sum::over(layer)), &layer[..100_000]).unwrap();
    assert_eq!(word(&desk.pull(&format!("{}/tool:v1", registry.host)).unwrap()), "resumed");
}

/// How a registry of ours misbehaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// It does not.
    Good,
    /// It asks for a token first.
    Token,
    /// It asks for a token that only a name and a password get.
    PrivateToken,
    /// It asks for a name and a password.
    Basic,
    /// The same, and its parts are at another registry.
    Elsewhere(u16),
    /// It closes the connection in the middle of every part.
    Halves,
    /// It gives wholes only, whatever is asked for.
    NoRanges,
    /// Its parts are others.
    Wrong,
    /// Its manifest never ends.
    Endless,
    /// It sends for tokens to somewhere without encryption.
    BadRealm,
    /// It says nothing that is HTTP.
    Noise,
}

/// A registry of ours; how often parts were asked for.
struct OurRegistry {
    host: String,
    asked: Arc<AtomicUsize>,
    ranges: Arc<Mutex<Vec<String>>>,
    /// Every Authorization header that came.
    logins: Arc<Mutex<Vec<String>>>,
}

impl OurRegistry {
    fn start(manner: Manner, files: Vec<(String, Vec<u8>)>) -> OurRegistry {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let (asked, ranges) = (Arc::<AtomicUsize>::default(), Arc::<Mutex<Vec<String>>>::default());
        let logins = Arc::<Mutex<Vec<String>>>::default();
        let (host_too, asked_too, ranges_too) = (host.clone(), asked.clone(), ranges.clone());
        let server = Server {
            manner,
            files,
            host: host_too,
            asked: asked_too,
            ranges: ranges_too,
            logins: logins.clone(),
        };
        // It ends with the test's process.
        std::thread::spawn(move || {
            for visitor in listener.incoming().flatten() {
                // A client that has heard enough closes, and writing fails.
                let _ = server.answer(visitor);
            }
        });
        OurRegistry { host, asked, ranges, logins }
    }
}

struct Server {
    manner: Manner,
    files: Vec<(String, Vec<u8>)>,
    host: String,
    asked: Arc<AtomicUsize>,
    ranges: Arc<Mutex<Vec<String>>>,
    logins: Arc<Mutex<Vec<String>>>,
}

/// base64 of `me:hunter2`.
const BASIC: &str = "Basic bWU6aHVudGVyMg==";

impl Server {
    fn answer(&self, mut visitor: TcpStream) -> std::io::Result<()> {
        let mut lines = BufReader::new(visitor.try_clone()?).lines();
        let first = lines.next().unwrap_or(Ok(String::new()))?;
        let mut headers = HashMap::new();
        for line in lines {
            let line = line?;
            let Some((name, value)) = line.split_once(": ") else { break };
            headers.insert(name.to_ascii_lowercase(), value.to_owned());
        }
        let path = first.split(' ').nth(1).unwrap_or("").to_owned();
        if self.manner == Manner::Noise {
            return visitor.write_all(b"\x1b[2Jnoise\r\n\r\n");
        }
        let login = headers.get("authorization").map(String::as_str);
        self.logins.lock().unwrap().extend(login.map(str::to_owned));
        let unauthorized = |visitor: &mut TcpStream, challenge: &str| {
            reply(visitor, "401 Unauthorized", &format!("WWW-Authenticate: {challenge}\r\n"), b"")
        };
        if path.starts_with("/token?") {
            assert!(path.contains("scope=repository%3Atool%3Apull"), "{path}");
            if self.manner == Manner::PrivateToken && login != Some(BASIC) {
                return unauthorized(&mut visitor, "Basic realm=\"x\"");
            }
            return reply(&mut visitor, "200 OK", "", br#"{"token":"secret"}"#);
        }
        let host = if self.manner == Manner::BadRealm { "auth.example" } else { &self.host };
        let bearer = format!("Bearer realm=\"http://{host}/token\",service=\"x\"");
        match self.manner {
            Manner::Token | Manner::PrivateToken | Manner::BadRealm if login != Some("Bearer secret") => {
                return unauthorized(&mut visitor, &bearer);
            }
            Manner::Basic | Manner::Elsewhere(_) if login != Some(BASIC) => {
                return unauthorized(&mut visitor, "Basic realm=\"x\"");
            }
            Manner::Elsewhere(port) if path.contains("/blobs/") => {
                let header = format!("Location: http://127.0.0.1:{port}{path}\r\n");
                return reply(&mut visitor, "307 Temporary Redirect", &header, b"");
            }
            _ => {}
        }
        if path == "/v2/tool/manifests/v1" {
            return self.manifest(&mut visitor);
        }
        self.asked.fetch_add(1, Ordering::Relaxed);
        let sum = path.rsplit(':').next().unwrap_or("");
        let Some((_, bytes)) = self.files.iter().find(|(name, _)| name.ends_with(sum)) else {
            return reply(&mut visitor, "404 Not Found", "", b"");
        };
        self.part(&mut visitor, bytes, headers.get("range").map(String::as_str))
    }

    fn manifest(&self, visitor: &mut TcpStream) -> std::io::Result<()> {
        if self.manner == Manner::Endless {
            visitor.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")?;
            loop {
                visitor.write_all(&[b' '; 4096])?;
            }
        }
        reply(visitor, "200 OK", "", &self.files[self.files.len() - 2].1)
    }

    fn part(&self, visitor: &mut TcpStream, bytes: &[u8], range: Option<&str>) -> std::io::Result<()> {
        if let Some(range) = range {
            self.ranges.lock().unwrap().push(range.to_owned());
        }
        if self.manner == Manner::Wrong {
            return reply(visitor, "200 OK", "", &vec![b'x'; bytes.len()]);
        }
        let from = range.and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
        let from = from.filter(|_| self.manner != Manner::NoRanges).unwrap_or(0);
        let status = if from == 0 { "200 OK" } else { "206 Partial Content" };
        let rest = &bytes[from..];
        let header = format!("Content-Range: bytes {from}-{}/{}\r\n", bytes.len() - 1, bytes.len());
        let header = if from == 0 { "" } else { &header };
        if self.manner == Manner::Halves && rest.len() > 1000 {
            let head = format!("HTTP/1.1 {status}\r\n{header}Content-Length: {}\r\n\r\n", rest.len());
            visitor.write_all(head.as_bytes())?;
            return visitor.write_all(&rest[..rest.len() / 2]);
        }
        reply(visitor, status, header, rest)
    }
}

fn reply(visitor: &mut TcpStream, status: &str, header: &str, body: &[u8]) -> std::io::Result<()> {
    let length = body.len();
    let head = format!("HTTP/1.1 {status}\r\n{header}Content-Length: {length}\r\nConnection: close\r\n\r\n");
    visitor.write_all(head.as_bytes())?;
    visitor.write_all(body)
}

#[test]
fn a_registry_that_wants_a_token_gets_it_and_the_token_goes_nowhere_in_the_clear() {
    let registry = OurRegistry::start(Manner::Token, parts("with a token"));
    assert_eq!(word(&Desk::new().pull(&format!("{}/tool:v1", registry.host)).unwrap()), "with a token");
    let registry = OurRegistry::start(Manner::BadRealm, parts("never"));
    let error = Desk::new().pull(&format!("{}/tool:v1", registry.host)).unwrap_err().to_string();
    assert!(error.contains("asks for a token"), "{error}");
}

#[test]
fn a_name_and_a_password_get_a_private_image_by_token_and_without() {
    for manner in [Manner::PrivateToken, Manner::Basic] {
        let registry = OurRegistry::start(manner, parts("private"));
        let (desk, name) = (Desk::new(), format!("{}/tool:v1", registry.host));
        let login = desk.login(&registry.host, "me:hunter2");
        assert_eq!(word(&desk.pull_with(&name, &login).unwrap()), "private", "{manner:?}");
        let known = registry.logins.lock().unwrap().iter().any(|login| login == BASIC);
        assert!(known, "{manner:?}");
    }
    // Who does not ask for it does not get it.
    for manner in [Manner::Good, Manner::BadRealm] {
        let registry = OurRegistry::start(manner, parts("public"));
        let desk = Desk::new();
        let _ =
            desk.pull_with(&format!("{}/tool:v1", registry.host), &desk.login(&registry.host, "me:hunter2"));
        assert!(registry.logins.lock().unwrap().is_empty(), "{manner:?}");
    }
}

#[test]
fn a_password_that_is_missing_or_wrong_or_kept_by_a_helper_is_told_and_never_printed() {
    for manner in [Manner::PrivateToken, Manner::Basic] {
        let registry = OurRegistry::start(manner, parts("private"));
        let (desk, name) = (Desk::new(), format!("{}/tool:v1", registry.host));
        let sentence = |credentials: &Credentials| match desk.pull_with(&name, credentials) {
            Ok(_) => panic!("{manner:?}: pulled"),
            Err(error) => format!("{error} {error:?}"),
        };
        let text = sentence(&Credentials::none());
        assert!(text.contains("not for everybody") && text.contains("podman login"), "{text}");
        let text = sentence(&desk.login("other.example", "me:hunter2"));
        assert!(text.contains("not for everybody"), "{text}");
        let text = sentence(&desk.login(&registry.host, "me:hunter3"));
        assert!(text.contains("not for the name and password"), "{text}");
        assert!(!text.contains("hunter3") && !text.contains("bWU6"), "{text}");
        let path = desk._folder.path().join("config.json");
        fs::write(&path, format!(r#"{{"credHelpers": {{"{}": "pass"}}}}"#, registry.host)).unwrap();
        let text = sentence(&Credentials::of(vec![path]));
        assert!(text.contains("docker-credential-pass"), "{text}");
    }
}

#[test]
fn neither_password_nor_token_follows_a_redirect() {
    let files = parts("elsewhere");
    let storage = OurRegistry::start(Manner::Good, files.clone());
    let port = storage.host.rsplit(':').next().unwrap().parse().unwrap();
    let registry = OurRegistry::start(Manner::Elsewhere(port), files);
    let desk = Desk::new();
    let login = desk.login(&registry.host, "me:hunter2");
    assert_eq!(word(&desk.pull_with(&format!("{}/tool:v1", registry.host), &login).unwrap()), "elsewhere");
    assert!(storage.asked.load(Ordering::Relaxed) > 0);
    assert!(storage.logins.lock().unwrap().is_empty());
}

#[test]
fn a_connection_that_breaks_is_made_anew_and_what_came_is_kept() {
    let registry = OurRegistry::start(Manner::Halves, parts("x"));
    let desk = Desk::new();
    let error = desk.pull(&format!("{}/tool:v1", registry.host)).unwrap_err().to_string();
    assert!(error.contains("broke off"), "{error}");
    let ranges = registry.ranges.lock().unwrap().len();
    assert_eq!(ranges, 2, "three attempts, of which two went on");
    // The next pull goes on from there, and the one after it.
    for _ in 0..3 {
        if let Ok(held) = desk.pull(&format!("{}/tool:v1", registry.host)) {
            assert_eq!(word(&held), "x");
            return;
        }
    }
    panic!("a part that is halved each time comes to its end");
}

#[test]
fn a_registry_without_ranges_begins_again() {
    let files = parts("whole");
    let registry = OurRegistry::start(Manner::NoRanges, files.clone());
    let desk = Desk::new();
    fs::write(desk.begun(&Sum::over(&files[1].1)), b"old").unwrap();
    assert_eq!(word(&desk.pull(&format!("{}/tool:v1", registry.host)).unwrap()), "whole");
}

#[test]
fn an_image_that_is_there_is_not_pulled_again() {
    let registry = OurRegistry::start(Manner::Good, parts("once"));
    let desk = Desk::new();
    let name = format!("{}/tool:v1", registry.host);
    desk.pull(&name).unwrap();
    let asked = registry.asked.load(Ordering::Relaxed);
    assert_eq!(word(&desk.pull(&name).unwrap()), "once");
    assert_eq!(registry.asked.load(Ordering::Relaxed), asked);
}

#[test]
fn parts_that_are_not_what_they_were_named_stay_nowhere() {
    let registry = OurRegistry::start(Manner::Wrong, parts("x"));
    let desk = Desk::new();
    let error = desk.pull(&format!("{}/tool:v1", registry.host)).unwrap_err();
    assert!(matches!(error, ImageError::WrongSum { .. }), "{error}");
    assert_eq!(desk.parts(), 0);
    // A beginning that was tampered with goes, and the pull after it is clean.
    let files = parts("clean");
    let registry = OurRegistry::start(Manner::Good, files.clone());
    fs::write(desk.begun(&Sum::over(&files[1].1)), vec![b'x'; files[1].1.len() - 1]).unwrap();
    let name = format!("{}/tool:v1", registry.host);
    assert!(matches!(desk.pull(&name), Err(ImageError::WrongSum { .. })));
    assert_eq!(word(&desk.pull(&name).unwrap()), "clean");
}

#[test]
fn a_manifest_that_is_not_the_one_that_was_named_is_refused() {
    let registry = OurRegistry::start(Manner::Good, parts("x"));
    let files = parts("x");
    // The sum of another part, under which this registry has no manifest.
    let name = format!("{}/tool@sha256:{}", registry.host, "0".repeat(64));
    assert!(Desk::new().pull(&name).is_err());
    let sum = Sum::over(&files[files.len() - 2].1);
    // By its own sum it is given as a part is.
    assert_eq!(word(&Desk::new().pull(&format!("{}/tool@{sum}", registry.host)).unwrap()), "x");
}

#[test]
fn endless_answers_noise_and_closed_doors_are_told_in_a_sentence() {
    for (manner, hint) in [(Manner::Endless, "bytes"), (Manner::Noise, "cannot be reached")] {
        let registry = OurRegistry::start(manner, parts("x"));
        let error = Desk::new().pull(&format!("{}/tool:v1", registry.host)).unwrap_err().to_string();
        assert!(error.contains(hint) && !error.contains(char::is_control), "{manner:?}: {error:?}");
    }
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = Desk::new().pull(&format!("{free}/tool:v1")).unwrap_err().to_string();
    assert!(error.contains("cannot be reached"), "{error}");
}

#[test]
fn what_interrupted_pulls_left_is_pruned() {
    let desk = Desk::new();
    fs::write(desk.begun(&Sum::over(b"x")), b"12345").unwrap();
    assert_eq!(pull::prune(&desk.store).unwrap(), 0, "there was no pull yet, so there is no lock");
    let registry = OurRegistry::start(Manner::Halves, parts("x"));
    let _ = desk.pull(&format!("{}/tool:v1", registry.host));
    assert!(pull::prune(&desk.store).unwrap() > 5);
    assert_eq!(desk.parts(), 0);
}
