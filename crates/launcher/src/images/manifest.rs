//! Which parts make the image: from an index or a manifest to a configuration and its layers in order.

use oci_spec::image::{
    Arch, Descriptor, ImageConfiguration, ImageIndex, ImageManifest, MediaType, Os, Platform,
};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::digest::Sum;
use super::source::Source;
use super::{ImageError, part};

/// How deep indexes may name indexes. Tools write one in another.
const MOST_NESTING: usize = 4;
/// The most manifests looked at.
const MOST_MANIFESTS: usize = 1000;
/// The most layers of an image; Docker's own limit is 127.
const MOST_LAYERS: usize = 1000;

/// The annotations that name an image: the specification's (a tag), and containerd's (a whole name).
const NAMES: [&str; 2] = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];

/// An image that was found.
#[derive(Debug)]
pub struct Image {
    /// Its name for ever: the sum of its configuration, which names the sums of its unpacked layers.
    pub id: Sum,
    /// Its configuration, as it arrived.
    pub document: Vec<u8>,
    /// The same, read.
    pub configuration: ImageConfiguration,
    /// Oldest first.
    pub layers: Vec<Layer>,
    /// What it is called where it comes from.
    pub names: Vec<String>,
}

/// One layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// The part that holds it.
    pub part: String,
    /// What that is: sum and size. An archive of `docker save` says neither.
    pub packed: Option<(Sum, u64)>,
    /// The sum of the archive in it.
    pub unpacked: Sum,
}

/// Finds the image for this processor, of that tag if there are several.
///
/// # Errors
/// When there is none, or it cannot be understood.
pub fn find(source: &Source, wanted: Option<&str>) -> Result<Image, ImageError> {
    if source.holds("index.json") {
        find_in_layout(source, wanted)
    } else if source.holds("manifest.json") {
        find_in_archive(source, wanted)
    } else {
        Err(ImageError::NoImage)
    }
}

/// The part of a layout that has this sum.
pub fn blob(sum: &Sum) -> String {
    format!("blobs/sha256/{}", sum.hex())
}

/// Reads a document of an image.
///
/// # Errors
/// When it is no JSON, or says something else.
pub fn read<T: DeserializeOwned>(name: &str, bytes: &[u8]) -> Result<T, ImageError> {
    serde_json::from_slice(bytes).map_err(|cause| {
        let cause = cause.to_string().chars().take(200).collect();
        ImageError::Document { part: name.to_owned(), cause }
    })
}

/// True when this is a platform whose programs run on our machines.
pub fn is_ours(platform: &Platform) -> bool {
    *platform.os() == Os::Linux && *platform.architecture() == Arch::Amd64
}

/// True for an index of images, in the OCI's or Docker's words.
pub fn is_index(descriptor: &Descriptor) -> bool {
    match descriptor.media_type() {
        MediaType::ImageIndex => true,
        MediaType::Other(name) => name == "application/vnd.docker.distribution.manifest.list.v2+json",
        _ => false,
    }
}

/// The SHA-256 of a descriptor, which is all that we know.
///
/// # Errors
/// For another algorithm.
pub fn sum_of(descriptor: &Descriptor) -> Result<Sum, ImageError> {
    Sum::of(descriptor.digest()).ok_or_else(|| ImageError::Document {
        part: "manifest".to_owned(),
        cause: "it names parts by something else than SHA-256".to_owned(),
    })
}

fn checked_document(source: &Source, descriptor: &Descriptor) -> Result<(Sum, Vec<u8>), ImageError> {
    let sum = sum_of(descriptor)?;
    let bytes = source.document(&blob(&sum))?;
    if Sum::over(&bytes) != sum {
        return Err(ImageError::WrongSum { part: part("document", &sum) });
    }
    Ok((sum, bytes))
}

struct Found {
    manifest: Descriptor,
    names: Vec<String>,
}

fn find_in_layout(source: &Source, wanted: Option<&str>) -> Result<Image, ImageError> {
    let index: ImageIndex = read("index.json", &source.document("index.json")?)?;
    let mut found = Vec::new();
    let mut others = Vec::new();
    flatten(source, &index, &[], 0, &mut found, &mut others)?;
    let chosen = choose(&found, wanted, &others)?;
    let (_, bytes) = checked_document(source, &chosen.manifest)?;
    let manifest: ImageManifest = read("manifest", &bytes)?;
    let (id, document) = checked_document(source, manifest.config())?;
    let packed = manifest.layers().iter().map(|layer| Ok((sum_of(layer)?, layer.size())));
    let packed: Vec<(Sum, u64)> = packed.collect::<Result<_, ImageError>>()?;
    let parts = packed.into_iter().map(|(sum, size)| (blob(&sum), Some((sum, size)))).collect();
    assemble(id, document, parts, chosen.names.clone())
}

/// The manifests for our platform, with the names that lead to them; those for others by platform.
fn flatten(
    source: &Source,
    index: &ImageIndex,
    names: &[String],
    depth: usize,
    found: &mut Vec<Found>,
    others: &mut Vec<String>,
) -> Result<(), ImageError> {
    for descriptor in index.manifests() {
        let mut names = names.to_vec();
        let said = NAMES.iter().filter_map(|key| descriptor.annotations().as_ref()?.get(*key));
        names.extend(said.cloned());
        match descriptor.platform() {
            Some(platform) if !is_ours(platform) => {
                others.push(format!("{}/{}", platform.os(), platform.architecture()));
                continue;
            }
            _ => {}
        }
        let many = found.len() + others.len() > MOST_MANIFESTS;
        if many || depth > MOST_NESTING {
            let cause = "it names too many manifests".to_owned();
            return Err(ImageError::Document { part: "index.json".to_owned(), cause });
        }
        if is_index(descriptor) {
            let (_, bytes) = checked_document(source, descriptor)?;
            flatten(source, &read("index", &bytes)?, &names, depth + 1, found, others)?;
        } else {
            found.push(Found { manifest: descriptor.clone(), names });
        }
    }
    Ok(())
}

fn choose<'a>(found: &'a [Found], wanted: Option<&str>, others: &[String]) -> Result<&'a Found, ImageError> {
    let held = || {
        let mut names: Vec<_> = found.iter().flat_map(|one| one.names.iter().map(String::as_str)).collect();
        names.dedup();
        if names.is_empty() { "no names".to_owned() } else { names.join(", ") }
    };
    let fits =
        |one: &&Found| wanted.is_none_or(|wanted| one.names.iter().any(|name| is_called(name, wanted)));
    let mut fitting = found.iter().filter(fits);
    let (first, second) = (
        fitting.next(),
        fitting.find(|one| {
            // The same manifest twice, under two names, is one image.
            found.iter().find(fits).is_some_and(|first| first.manifest.digest() != one.manifest.digest())
        }),
    );
    match (first, second, wanted) {
        (Some(one), None, _) => Ok(one),
        (Some(_), Some(_), _) => Err(ImageError::Several(held())),
        (None, _, Some(wanted)) if !found.is_empty() => {
            Err(ImageError::NoTag { wanted: wanted.to_owned(), held: held() })
        }
        (None, ..) if others.is_empty() => Err(ImageError::NoImage),
        (None, ..) => Err(ImageError::NoPlatform(others.join(", "))),
    }
}

/// True when a name is the wanted one, or the wanted one is its tag.
fn is_called(name: &str, wanted: &str) -> bool {
    name == wanted || name.strip_suffix(wanted).is_some_and(|rest| rest.ends_with([':', '/']))
}

/// An entry of `docker save`'s manifest.json.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

fn find_in_archive(source: &Source, wanted: Option<&str>) -> Result<Image, ImageError> {
    let saved: Vec<Saved> = read("manifest.json", &source.document("manifest.json")?)?;
    let held = || {
        saved.iter().flat_map(|one| one.repo_tags.iter().flatten()).cloned().collect::<Vec<_>>().join(", ")
    };
    let fits = |one: &&Saved| {
        wanted.is_none_or(|wanted| one.repo_tags.iter().flatten().any(|name| is_called(name, wanted)))
    };
    let fitting: Vec<&Saved> = saved.iter().filter(fits).collect();
    let chosen = match (fitting.as_slice(), wanted) {
        ([one], _) => *one,
        ([], Some(wanted)) => {
            return Err(ImageError::NoTag { wanted: wanted.to_owned(), held: held() });
        }
        ([], None) => return Err(ImageError::NoImage),
        _ => return Err(ImageError::Several(held())),
    };
    let document = source.document(&chosen.config)?;
    let id = Sum::over(&document);
    // Docker names the file by its sum; then the name has to be true.
    let said = chosen.config.rsplit('/').next().unwrap_or("").trim_end_matches(".json");
    if Sum::from_hex(said).is_some_and(|said| said != id) {
        return Err(ImageError::WrongSum { part: "configuration".to_owned() });
    }
    let parts = chosen.layers.iter().map(|layer| (layer.clone(), None)).collect();
    assemble(id, document, parts, chosen.repo_tags.clone().unwrap_or_default())
}

type Packed = (String, Option<(Sum, u64)>);

fn assemble(id: Sum, document: Vec<u8>, parts: Vec<Packed>, names: Vec<String>) -> Result<Image, ImageError> {
    let configuration: ImageConfiguration = read("configuration", &document)?;
    if *configuration.os() != Os::Linux || *configuration.architecture() != Arch::Amd64 {
        let platform = format!("{}/{}", configuration.os(), configuration.architecture());
        return Err(ImageError::NoPlatform(platform));
    }
    let broken =
        |cause: &str| ImageError::Document { part: "configuration".to_owned(), cause: cause.to_owned() };
    let sums = configuration.rootfs().diff_ids();
    if sums.len() != parts.len() || parts.len() > MOST_LAYERS {
        return Err(broken(&format!("it names {} layers, and there are {}", sums.len(), parts.len())));
    }
    let mut layers = Vec::new();
    for ((part, packed), sum) in parts.into_iter().zip(sums) {
        let unpacked =
            Sum::read(sum).ok_or_else(|| broken("it names a layer by something else than SHA-256"))?;
        layers.push(Layer { part, packed, unpacked });
    }
    Ok(Image { id, document, configuration, layers, names })
}
