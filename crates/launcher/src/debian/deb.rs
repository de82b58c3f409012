//! Reading files out of a Debian package.
//!
//! A .deb is an ar archive (deb(5)): `debian-binary` with the format's version, `control.tar.*`, `data.tar.*`. The
//! last holds the files. We stream it; where one file is wanted we stop there, and never unpack the rest.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use thiserror::Error;

/// The most bytes unpacked on the way to a file. Debian's general kernel package is 400 MB unpacked.
const LARGEST_DATA: u64 = 4 << 30;

/// Why a package did not give its file.
#[derive(Debug, Error)]
pub enum DebError {
    /// The Host or the archive's structure.
    #[error("it is damaged or cannot be read ({0})")]
    Damaged(#[from] io::Error),
    /// No `data.tar`.
    #[error("it holds no data.tar, so it is no Debian package")]
    NoData,
    /// `data.tar.something`.
    #[error("its files are packed as {0}, which is not known here")]
    UnknownFormat(String),
    /// No file of that kind among its files.
    #[error("the file that is needed is not in it")]
    NoSuchFile,
    /// The file is larger than it should be.
    #[error("the file that is needed is larger than {} MiB", .0 >> 20)]
    TooLarge(u64),
}

/// The contents of the first regular file whose path (without leading `./`) is wanted.
///
/// # Errors
/// When there is none, it is larger than `limit` bytes, or the package is damaged.
pub fn extract(deb: &Path, limit: u64, wanted: impl Fn(&str) -> bool) -> Result<Vec<u8>, DebError> {
    extract_from(BufReader::new(File::open(deb)?), limit, wanted)
}

/// Shows every regular file of a package that is not larger than `limit` to `visit`: its path, without leading `./`, and
/// its contents.
///
/// # Errors
/// When the package is damaged, or what `visit` says.
pub fn each(
    deb: &Path,
    limit: u64,
    mut visit: impl FnMut(&str, &mut dyn Read) -> Result<(), DebError>,
) -> Result<(), DebError> {
    with_data(BufReader::new(File::open(deb)?), |data| {
        for file in tar::Archive::new(data.take(LARGEST_DATA)).entries()? {
            let mut file = file?;
            let path = path_of(&file);
            if file.header().entry_type().is_file() && file.size() <= limit {
                visit(&path, &mut file)?;
            }
        }
        Ok(())
    })
}

fn extract_from(deb: impl Read, limit: u64, wanted: impl Fn(&str) -> bool) -> Result<Vec<u8>, DebError> {
    with_data(deb, |data| find(data, limit, wanted))
}

/// Opens a package's files, however they are packed.
fn with_data<T>(
    deb: impl Read,
    act: impl FnOnce(&mut dyn Read) -> Result<T, DebError>,
) -> Result<T, DebError> {
    let mut archive = ar::Archive::new(deb);
    while let Some(member) = archive.next_entry() {
        let mut member = member?;
        let name = String::from_utf8_lossy(member.header().identifier()).trim_end_matches('/').to_owned();
        let Some(format) = name.strip_prefix("data.tar") else { continue };
        return match format {
            ".xz" => act(&mut liblzma::read::XzDecoder::new(member)),
            ".zst" => act(&mut zstd::stream::read::Decoder::new(member)?),
            ".gz" => act(&mut flate2::read::GzDecoder::new(member)),
            ".bz2" => act(&mut bzip2::read::BzDecoder::new(member)),
            "" => act(&mut member),
            _ => Err(DebError::UnknownFormat(name)),
        };
    }
    Err(DebError::NoData)
}

fn path_of(file: &tar::Entry<'_, impl Read>) -> String {
    let path = String::from_utf8_lossy(&file.path_bytes()).into_owned();
    path.trim_start_matches("./").trim_start_matches('/').to_owned()
}

fn find(data: &mut dyn Read, limit: u64, wanted: impl Fn(&str) -> bool) -> Result<Vec<u8>, DebError> {
    let mut files = tar::Archive::new(data.take(LARGEST_DATA));
    for file in files.entries()? {
        let file = file?;
        if !file.header().entry_type().is_file() || !wanted(&path_of(&file)) {
            continue;
        }
        let said = file.size();
        if said > limit {
            return Err(DebError::TooLarge(limit));
        }
        let mut bytes = Vec::with_capacity(said as usize);
        file.take(limit).read_to_end(&mut bytes)?;
        if bytes.len() as u64 != said {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        return Ok(bytes);
    }
    Err(DebError::NoSuchFile)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, bytes) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, path, *bytes).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn deb_of(data_name: &str, data: &[u8]) -> Vec<u8> {
        let mut builder = ar::Builder::new(Vec::new());
        for (name, bytes) in [("debian-binary", &b"2.0\n"[..]), ("control.tar", b""), (data_name, data)] {
            builder.append(&ar::Header::new(name.as_bytes().to_vec(), bytes.len() as u64), bytes).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn packed(format: &str, tar: &[u8]) -> Vec<u8> {
        match format {
            ".xz" => liblzma::encode_all(tar, 1).unwrap(),
            ".zst" => zstd::encode_all(tar, 1).unwrap(),
            ".gz" => {
                let mut out = Vec::new();
                flate2::read::GzEncoder::new(tar, flate2::Compression::fast()).read_to_end(&mut out).unwrap();
                out
            }
            _ => tar.to_vec(),
        }
    }

    fn kernel(path: &str) -> bool {
        path.starts_with("boot/vmlinuz-")
    }

    #[test]
    fn a_file_is_found_in_every_packing() {
        let tar = tar_of(&[("./boot/config-6.1", b"y"), ("./boot/vmlinuz-6.1", b"kernel"), ("./z", b"z")]);
        for format in [".xz", ".zst", ".gz", ""] {
            let deb = deb_of(&format!("data.tar{format}"), &packed(format, &tar));
            assert_eq!(extract_from(&deb[..], 100, kernel).unwrap(), b"kernel", "{format}");
        }
    }

    #[test]
    fn a_package_without_the_file_says_so() {
        let deb = deb_of("data.tar", &tar_of(&[("./usr/share/doc", b"text")]));
        assert!(matches!(extract_from(&deb[..], 100, kernel), Err(DebError::NoSuchFile)));
    }

    #[test]
    fn a_file_beyond_the_limit_is_refused() {
        let deb = deb_of("data.tar", &tar_of(&[("./boot/vmlinuz-6.1", &[0; 101])]));
        assert!(matches!(extract_from(&deb[..], 100, kernel), Err(DebError::TooLarge(100))));
    }

    #[test]
    fn something_else_than_a_package_is_refused() {
        assert!(matches!(extract_from(&b"#!/bin/sh\n"[..], 100, kernel), Err(DebError::Damaged(_))));
        let odd = deb_of("data.tar.lzo", b"");
        assert!(matches!(extract_from(&odd[..], 100, kernel), Err(DebError::UnknownFormat(_))));
        let none = deb_of("other", b"");
        assert!(matches!(extract_from(&none[..], 100, kernel), Err(DebError::NoData)));
    }

    #[test]
    fn a_package_cut_short_never_gives_half_a_file() {
        let tar = tar_of(&[("./boot/vmlinuz-6.1", &[7; 3000])]);
        let deb = deb_of("data.tar.xz", &packed(".xz", &tar));
        for length in 0..deb.len() - 40 {
            let found = extract_from(&deb[..length], 10_000, kernel);
            assert!(found.is_err() || found.unwrap() == [7; 3000], "{length} bytes");
        }
    }
}
