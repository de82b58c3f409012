//! What arrived is what was named: streams that are hashed while they are read.
//!
//! An image is named by SHA-256 from its manifest down to every layer, packed and unpacked. A stream is used before its end
//! is known, so whoever uses it works in a draft that nobody sees until the hash was right.

use std::io::{self, Read};
use std::str::FromStr;

use oci_spec::image::{Digest, DigestAlgorithm};
use sha2::{Digest as _, Sha256};

use crate::progress::Step;

/// A SHA-256 in lower-case hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Sum(String);

impl Sum {
    /// Reads `sha256:HEX`, which the specification asks every program to know; none for another algorithm.
    pub fn read(text: &str) -> Option<Sum> {
        Sum::of(&Digest::from_str(text).ok()?)
    }

    /// A digest's, when it is SHA-256.
    pub fn of(digest: &Digest) -> Option<Sum> {
        (*digest.algorithm() == DigestAlgorithm::Sha256).then(|| Sum(digest.digest().to_owned()))
    }

    /// Reads 64 digits, as file names have them.
    pub fn from_hex(hex: &str) -> Option<Sum> {
        Sum::read(&format!("sha256:{hex}"))
    }

    /// The sum of these bytes.
    pub fn over(bytes: &[u8]) -> Sum {
        Sum::finish(Sha256::new_with_prefix(bytes))
    }

    /// Its 64 digits.
    pub fn hex(&self) -> &str {
        &self.0
    }

    /// Enough of it for a person.
    pub fn short(&self) -> &str {
        &self.0[..12]
    }

    fn finish(hash: Sha256) -> Sum {
        Sum(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

impl std::fmt::Display for Sum {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "sha256:{}", self.0)
    }
}

/// A reader that hashes what passes, and shows how much.
pub struct Hashed<'a, R> {
    source: R,
    hash: Sha256,
    passed: u64,
    shown: Option<&'a Step>,
}

impl<'a, R: Read> Hashed<'a, R> {
    /// Around a source.
    pub fn new(source: R, shown: Option<&'a Step>) -> Hashed<'a, R> {
        Hashed { source, hash: Sha256::new(), passed: 0, shown }
    }

    /// Reads what is left and gives the sum of everything.
    ///
    /// # Errors
    /// When the source cannot be read.
    pub fn finish(mut self) -> io::Result<Sum> {
        io::copy(&mut self, &mut io::sink())?;
        Ok(Sum::finish(self.hash))
    }
}

impl<R: Read> Read for Hashed<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.source.read(buffer)?;
        self.hash.update(&buffer[..length]);
        self.passed += length as u64;
        if let Some(step) = self.shown {
            step.at(self.passed);
        }
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // FIPS 180-4's example.
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn a_stream_read_in_part_has_the_sum_of_the_whole() {
        let mut hashed = Hashed::new(&b"abc"[..], None);
        hashed.read_exact(&mut [0; 1]).unwrap();
        assert_eq!(hashed.finish().unwrap().hex(), ABC);
        assert_eq!(Sum::over(b"abc").to_string(), format!("sha256:{ABC}"));
    }

    #[test]
    fn only_whole_lower_case_sums_are_read() {
        assert!(Sum::from_hex(ABC).is_some());
        let paths =
            ["../../../etc/passwd".to_owned(), ABC.to_uppercase(), ABC[1..].to_owned(), format!("{ABC}/")];
        for text in paths {
            assert_eq!(Sum::from_hex(&text), None, "{text}");
        }
        assert_eq!(Sum::read(&format!("sha512:{ABC}{ABC}")), None);
    }
}
