//! Images: a root file system with the command to run in it, as containers use them.
//!
//! ```text
//! an archive, a layout or a registry ──► source     where its parts are, by name
//!                                        manifest   which parts make the image for this processor, and what it runs
//!                                        layer      each layer, unpacked in order ...
//!                                        tree       ... into a folder that nothing can leave
//!                                        attributes what files have beside contents and owner
//!                                        sweep      what a layer takes away
//!                                        digest     every part is what it was named
//!                           name, registry, pull     parts from a registry become a layout in the cache
//!                           credentials              ... which may want a name and a password
//!                                        store      the cache, where it appears whole or not at all
//! ```
//! The formats are the OCI's (image-spec 1.1) and `docker save`'s. Everything in an image is somebody else's word: each thing
//! it can grow has a named limit, and nothing outside its folder is touched, whatever it says.

pub mod digest;
pub mod tree;
pub mod attributes;
pub mod sweep;
pub mod layer;
pub mod source;
pub mod manifest;
pub mod store;
pub mod name;
pub mod credentials;
pub mod registry;
pub mod pull;
pub mod guest;
pub mod command;

#[cfg(test)]
mod made;
#[cfg(test)]
mod layer_tests;
#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod store_tests;
#[cfg(test)]
mod registry_tests;

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use digest::Sum;
use layer::LayerError;
use registry::RegistryError;
use tree::Shown;

/// Why there is no image.
#[derive(Debug, Error)]
pub enum ImageError {
    /// The archive or layout cannot be read.
    #[error("it cannot be read: {}", Shown::fault(.0))]
    Unreadable(io::Error),
    /// Neither form of image.
    #[error(
        "it is neither an OCI layout nor an archive of docker save: it has no index.json and no manifest.json"
    )]
    NoImage,
    /// A part is named and not there.
    #[error("it is not whole: {} is missing", Shown::new(.0.as_bytes()))]
    Missing(String),
    /// A part is not what its name says.
    #[error("it is damaged: {part} has another SHA-256 than it should")]
    WrongSum {
        /// Which part.
        part: String,
    },
    /// A document that cannot be understood.
    #[error("its {} cannot be understood: {}", Shown::new(part.as_bytes()), plain(cause))]
    Document {
        /// Which document.
        part: String,
        /// What is wrong.
        cause: String,
    },
    /// None for Linux on x86-64.
    #[error("it holds no image for Linux on x86-64 (amd64); it has {}", plain(.0))]
    NoPlatform(String),
    /// Several images, and none was named.
    #[error("it holds several images; name one, as in {}", plain(.0))]
    Several(String),
    /// None of that name.
    #[error("it holds no image named {wanted}; it has {}", plain(held))]
    NoTag {
        /// What was asked for.
        wanted: String,
        /// What there is.
        held: String,
    },
    /// A layer cannot be unpacked.
    #[error("its layer {number} of {of} cannot be unpacked: {cause}")]
    Layer {
        /// From 1.
        number: usize,
        /// How many there are.
        of: usize,
        /// What was wrong.
        cause: LayerError,
    },
    /// A registry did not give it.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The cache cannot be used.
    #[error("the cache folder {path} cannot be used: {cause}; set LGUEST_CACHE to one that can be written")]
    Cache {
        /// The file or folder.
        path: PathBuf,
        /// What the Host said.
        cause: io::Error,
    },
}

impl ImageError {
    /// As a mistake that stands alone.
    pub fn sentence(self) -> crate::request::Mistake {
        crate::request::Mistake(self.to_string())
    }
}

/// The most letters of somebody else's names that stand in a sentence.
const MOST_SAID: usize = 500;

/// Words of an image's in a sentence of ours: not too many, and nothing that a terminal would obey.
fn plain(words: &str) -> String {
    let harmless = |letter: char| if letter.is_control() { char::REPLACEMENT_CHARACTER } else { letter };
    words.chars().take(MOST_SAID).map(harmless).collect()
}

/// A part of an image by its sum, for sentences.
fn part(kind: &str, sum: &Sum) -> String {
    format!("{kind} {}", sum.short())
}
