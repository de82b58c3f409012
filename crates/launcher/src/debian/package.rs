//! Names of packages, what the index says of one, and which one a name means.
//!
//! Debian's kernels come in two layers: `linux-image-cloud-amd64` is empty and depends on the image of the day,
//! `linux-image-6.1.0-56-cloud-amd64`. For a kernel from backports the empty one may be missing; then the newest
//! image of that series is taken. An image comes signed for Secure Boot and, as a second package, `-unsigned`; they
//! hold the same kernel, and the signed one is preferred because it is the one that Debian's installer takes.

use super::apt::AptError;

/// How many empty packages may lead to each other.
const MOST_STEPS: usize = 4;

/// The longest package name taken; Debian's longest has about eighty letters.
const LONGEST_NAME: usize = 128;

/// A well-formed package name (Debian Policy 5.6.1): lower-case letters, digits, `+`, `-`, `.`, not beginning
/// with a sign. It is safe as an argument and as a file name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackageName(String);

impl PackageName {
    /// Checks a name; none when it is not well formed.
    pub fn new(name: &str) -> Option<PackageName> {
        let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let inner = |byte: u8| letter(byte) || matches!(byte, b'+' | b'-' | b'.');
        let fits = (2..=LONGEST_NAME).contains(&name.len());
        (fits && letter(name.as_bytes()[0]) && name.bytes().all(inner)).then(|| PackageName(name.to_owned()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// One package of the index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stanza {
    /// Its name.
    pub name: String,
    /// Its version, as apt wants it.
    pub version: String,
    /// The names it depends on, first alternatives only, without versions.
    pub depends: Vec<String>,
    /// The .deb's SHA-256 in lower-case hexadecimal.
    pub sha256: String,
    /// The .deb's length in bytes.
    pub size: u64,
}

impl Stanza {
    /// Reads the first stanza of `apt-cache show` (deb-control(5)); none when a field that we need is missing.
    pub fn parse(text: &str) -> Option<Stanza> {
        let field = |name: &str| {
            text.lines()
                .take_while(|line| !line.is_empty())
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
        };
        let first_name = |item: &str| item.split([' ', '(', '|', ':', ',']).next().unwrap_or("").to_owned();
        Some(Stanza {
            name: PackageName::new(field("Package")?)?.0,
            version: field("Version")?.to_owned(),
            depends: field("Depends").unwrap_or("").split(", ").map(first_name).collect(),
            sha256: field("SHA256")?.to_ascii_lowercase(),
            size: field("Size")?.parse().ok()?,
        })
    }
}

/// The package that holds the files a name means: `name` itself, or the image it leads to.
///
/// # Errors
/// When there is no such package, or apt fails.
pub fn resolve(
    name: &PackageName,
    show: impl Fn(&PackageName) -> Result<Option<Stanza>, AptError>,
    names: impl Fn(&str) -> Result<Vec<PackageName>, AptError>,
) -> Result<Stanza, AptError> {
    let unknown = || AptError::Unknown { package: name.as_str().to_owned() };
    let mut stanza = match show(name)? {
        Some(stanza) => stanza,
        None => newest_of_series(name, &show, &names)?.ok_or_else(unknown)?,
    };
    for _ in 0..MOST_STEPS {
        let next = stanza.depends.iter().find(|depended| depended.starts_with("linux-image-"));
        let Some(next) = next.and_then(|depended| PackageName::new(depended)) else { return Ok(stanza) };
        stanza = show(&next)?.ok_or_else(unknown)?;
    }
    Err(unknown())
}

/// For `linux-image-6.12-cloud-amd64` without a package of that name: the newest `linux-image-6.12.*-cloud-amd64`.
fn newest_of_series(
    name: &PackageName,
    show: &impl Fn(&PackageName) -> Result<Option<Stanza>, AptError>,
    names: &impl Fn(&str) -> Result<Vec<PackageName>, AptError>,
) -> Result<Option<Stanza>, AptError> {
    let Some((series, flavour)) =
        name.as_str().strip_prefix("linux-image-").and_then(|rest| rest.split_once('-'))
    else {
        return Ok(None);
    };
    if !series.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return Ok(None);
    }
    let prefix = format!("linux-image-{series}.");
    let mut images: Vec<(Vec<u64>, bool, PackageName)> = names(&prefix)?
        .into_iter()
        .filter_map(|image| {
            let rest = image.as_str().strip_prefix(&prefix)?;
            let (signed, rest) = match rest.strip_suffix("-unsigned") {
                Some(rest) => (false, rest),
                None => (true, rest),
            };
            let release = rest.strip_suffix(flavour)?.strip_suffix('-')?;
            // Every part of a release begins with a digit; a word is a flavour of another kind (rt, cloud).
            let plain =
                release.split('-').all(|part| part.starts_with(|letter: char| letter.is_ascii_digit()));
            plain.then(|| (numbers(release), signed, image.clone()))
        })
        .collect();
    images.sort_by(|one, other| (&one.0, one.1).cmp(&(&other.0, other.1)));
    // apt knows names that are only mentioned somewhere; the first that it can show is real.
    for (_, _, image) in images.iter().rev() {
        if let Some(stanza) = show(image)? {
            return Ok(Some(stanza));
        }
    }
    Ok(None)
}

/// The numbers in a release, in order: `117+deb12` is 117, 12.
fn numbers(release: &str) -> Vec<u64> {
    release.split(|letter: char| !letter.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stanza(name: &str, depends: &[&str]) -> Stanza {
        Stanza {
            name: name.to_owned(),
            version: "1".to_owned(),
            depends: depends.iter().map(ToString::to_string).collect(),
            sha256: String::new(),
            size: 0,
        }
    }

    fn resolve_in(index: &[Stanza], mentioned: &[&str], name: &str) -> Result<String, AptError> {
        let show = |name: &PackageName| Ok(index.iter().find(|stanza| stanza.name == name.as_str()).cloned());
        let names = |prefix: &str| {
            let known = index.iter().map(|stanza| stanza.name.as_str()).chain(mentioned.iter().copied());
            Ok(known.filter(|name| name.starts_with(prefix)).filter_map(PackageName::new).collect())
        };
        resolve(&PackageName::new(name).unwrap(), show, names).map(|stanza| stanza.name)
    }

    #[test]
    fn an_empty_package_leads_to_its_image() {
        let index = [
            stanza("linux-image-cloud-amd64", &["linux-image-6.1.0-56-cloud-amd64"]),
            stanza("linux-image-6.1.0-56-cloud-amd64", &["kmod", "initramfs-tools"]),
        ];
        let found = resolve_in(&index, &[], "linux-image-cloud-amd64").unwrap();
        assert_eq!(found, "linux-image-6.1.0-56-cloud-amd64");
    }

    #[test]
    fn a_series_without_an_empty_package_is_its_newest_image() {
        let index = [
            stanza("linux-image-6.12.9+deb12-cloud-amd64", &["kmod"]),
            stanza("linux-image-6.12.100+deb12-cloud-amd64", &["kmod"]),
            stanza("linux-image-6.12.117+deb12-cloud-amd64-unsigned", &["kmod"]),
            stanza("linux-image-6.12.117+deb12-cloud-amd64", &["kmod"]),
            stanza("linux-image-6.12.118+deb12-rt-cloud-amd64", &["kmod"]),
            stanza("linux-image-6.12.118+deb12-cloud-amd64-dbg", &[]),
        ];
        let mentioned = ["linux-image-6.12.200+deb12-cloud-amd64"];
        let found = resolve_in(&index, &mentioned, "linux-image-6.12-cloud-amd64").unwrap();
        assert_eq!(found, "linux-image-6.12.117+deb12-cloud-amd64");
    }

    #[test]
    fn an_unsigned_image_is_taken_when_it_is_the_only_one_of_its_release() {
        let index = [
            stanza("linux-image-6.12.9+deb12-amd64", &["kmod"]),
            stanza("linux-image-6.12.10+deb12-amd64-unsigned", &["kmod"]),
            stanza("linux-image-6.12.11+deb12-cloud-amd64", &["kmod"]),
        ];
        let found = resolve_in(&index, &[], "linux-image-6.12-amd64").unwrap();
        assert_eq!(found, "linux-image-6.12.10+deb12-amd64-unsigned");
    }

    #[test]
    fn a_name_that_no_source_has_is_refused() {
        let error = resolve_in(&[], &[], "linux-image-9.9-amd64").unwrap_err();
        assert!(error.to_string().contains("linux-image-9.9-amd64"), "{error}");
    }

    #[test]
    fn packages_that_lead_in_a_circle_are_refused() {
        let index =
            [stanza("linux-image-a", &["linux-image-b"]), stanza("linux-image-b", &["linux-image-a"])];
        assert!(resolve_in(&index, &[], "linux-image-a").is_err());
    }

    #[test]
    fn a_stanza_is_read_as_apt_prints_it() {
        let text = "Package: linux-image-6.1.0-56-amd64\nVersion: 6.1.192-2\n\
            Depends: kmod, linux-base (>= 4.3~), initramfs-tools (>= 0.120) | linux-initramfs-tool\n\
            Size: 70550672\nSHA256: ABCD\nDescription: a kernel\n Version: not this one\n\n\
            Package: other\nVersion: 2\n";
        let stanza = Stanza::parse(text).unwrap();
        assert_eq!(stanza.version, "6.1.192-2");
        assert_eq!(stanza.depends, ["kmod", "linux-base", "initramfs-tools"]);
        assert_eq!((stanza.size, stanza.sha256.as_str()), (70_550_672, "abcd"));
        assert_eq!(Stanza::parse(""), None);
        assert_eq!(Stanza::parse("Package: x\n"), None);
    }

    #[test]
    fn a_name_that_could_be_an_option_or_a_path_is_refused() {
        for name in ["", "-o", "--help", "../x", "a/b", "A", "x y", "x;y"] {
            assert_eq!(PackageName::new(name), None, "{name}");
        }
        assert!(PackageName::new("linux-image-6.12.117+deb12-cloud-amd64").is_some());
    }
}
