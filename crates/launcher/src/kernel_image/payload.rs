//! The compressed kernel inside a bzImage, in each format that the kernel's build can choose.
//!
//! Every format but gzip is followed by four bytes that the kernel's build appends: the unpacked length,
//! little-endian (scripts/Makefile.lib, `size_append`); gzip ends with the same number of its own accord. We
//! use it to notice a damaged image.

use std::io::{self, Read};

use thiserror::Error;

/// The most bytes a kernel may unpack into. Debian's are 50 MiB to 66 MiB; a debug kernel with everything, some
/// hundred. A small file must not be able to fill the Host's memory.
pub const LARGEST_KERNEL: usize = 1 << 30;

/// The unpacked length after the compressed stream.
const TRAILER: usize = 4;

/// The largest block of an LZ4 legacy frame (lz4_Frame_format.md, "Legacy frame").
const LZ4_BLOCK: usize = 8 << 20;
const LZ4_LEGACY_MAGIC: [u8; 4] = 0x184c_2102_u32.to_le_bytes();

/// The formats of `CONFIG_KERNEL_*` (init/Kconfig).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// RFC 1952.
    Gzip,
    /// bzip2.
    Bzip2,
    /// The old format of the LZMA utilities.
    Lzma,
    /// xz, usually with the x86 branch filter.
    Xz,
    /// LZO; recognised, not unpacked.
    Lzo,
    /// LZ4 in its legacy frame.
    Lz4,
    /// Zstandard, RFC 8878.
    Zstd,
}

/// Why a payload did not become a kernel.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum PayloadError {
    /// No known magic number.
    #[error("its compression is not one that Linux uses")]
    Unknown,
    /// LZO.
    #[error("it is compressed with lzo, which lguest does not unpack; give its vmlinux instead")]
    Lzo,
    /// The stream breaks off or contradicts itself.
    #[error("its {format} data is damaged ({cause})")]
    Damaged {
        /// The format's name.
        format: &'static str,
        /// What the decompressor said.
        cause: String,
    },
    /// The length at the end is another one.
    #[error("its {format} data is damaged (it unpacks into {got} bytes where {said} were promised)")]
    WrongLength {
        /// The format's name.
        format: &'static str,
        /// Bytes that came out.
        got: usize,
        /// Bytes that the image promises.
        said: u32,
    },
    /// It grows beyond `LARGEST_KERNEL`.
    #[error("it grows beyond {} MiB, more than any kernel needs", LARGEST_KERNEL >> 20)]
    TooLarge,
}

impl Compression {
    /// What people call it.
    pub fn name(self) -> &'static str {
        match self {
            Compression::Gzip => "gzip",
            Compression::Bzip2 => "bzip2",
            Compression::Lzma => "lzma",
            Compression::Xz => "xz",
            Compression::Lzo => "lzo",
            Compression::Lz4 => "lz4",
            Compression::Zstd => "zstd",
        }
    }
}

/// The compression that these bytes begin with (lib/decompress.c has the same table).
pub fn compression_of(bytes: &[u8]) -> Option<Compression> {
    let table: [(&[u8], Compression); 7] = [
        (&[0x1f, 0x8b], Compression::Gzip),
        (b"BZh", Compression::Bzip2),
        (&[0x5d, 0, 0], Compression::Lzma),
        (b"\xfd7zXZ\0", Compression::Xz),
        (&[0x89, b'L', b'Z', b'O'], Compression::Lzo),
        (&LZ4_LEGACY_MAGIC, Compression::Lz4),
        (&[0x28, 0xb5, 0x2f, 0xfd], Compression::Zstd),
    ];
    table.iter().find(|(magic, _)| bytes.starts_with(magic)).map(|(_, compression)| *compression)
}

/// Unpacks a payload and checks the length it promises.
///
/// # Errors
/// When the format is unknown or the data damaged.
pub fn unpack(payload: &[u8]) -> Result<Vec<u8>, PayloadError> {
    let compression = compression_of(payload).ok_or(PayloadError::Unknown)?;
    let format = compression.name();
    let split = payload.len().saturating_sub(TRAILER);
    let (stream, trailer) = payload.split_at(split);
    let said = trailer.try_into().map(u32::from_le_bytes).unwrap_or(0);
    let kernel = match compression {
        Compression::Lzo => return Err(PayloadError::Lzo),
        Compression::Gzip => read_all(format, said, flate2::read::GzDecoder::new(payload)),
        Compression::Bzip2 => read_all(format, said, bzip2::read::BzDecoder::new(stream)),
        Compression::Xz => read_all(format, said, liblzma::read::XzDecoder::new(stream)),
        Compression::Lzma => {
            // What the decoder itself may allocate; a dictionary is never larger than what it describes.
            let decoder = liblzma::stream::Stream::new_lzma_decoder(LARGEST_KERNEL as u64)
                .map_err(|cause| damaged(format, &cause))?;
            read_all(format, said, liblzma::read::XzDecoder::new_stream(stream, decoder))
        }
        Compression::Zstd => {
            let decoder =
                zstd::stream::read::Decoder::with_buffer(stream).map_err(|cause| damaged(format, &cause))?;
            read_all(format, said, decoder.single_frame())
        }
        Compression::Lz4 => unpack_lz4_legacy(stream),
    }?;
    if kernel.len() as u64 != u64::from(said) {
        return Err(PayloadError::WrongLength { format, got: kernel.len(), said });
    }
    Ok(kernel)
}

fn damaged(format: &'static str, cause: &dyn std::fmt::Display) -> PayloadError {
    PayloadError::Damaged { format, cause: cause.to_string() }
}

/// Reads a decompressor to its end. The promised length only sizes the buffer; it is checked afterwards.
fn read_all(format: &'static str, said: u32, reader: impl Read) -> Result<Vec<u8>, PayloadError> {
    let mut kernel = Vec::with_capacity((said as usize).min(LARGEST_KERNEL / 8));
    let taken = io::copy(&mut reader.take(LARGEST_KERNEL as u64 + 1), &mut kernel);
    taken.map_err(|cause| damaged(format, &cause))?;
    if kernel.len() > LARGEST_KERNEL {
        return Err(PayloadError::TooLarge);
    }
    Ok(kernel)
}

/// The legacy frame: a magic number, then blocks of at most 8 MiB, each behind its compressed length.
fn unpack_lz4_legacy(stream: &[u8]) -> Result<Vec<u8>, PayloadError> {
    let format = Compression::Lz4.name();
    let mut rest = stream.get(LZ4_LEGACY_MAGIC.len()..).unwrap_or_default();
    let mut kernel = Vec::new();
    let mut block = vec![0; LZ4_BLOCK];
    while !rest.is_empty() {
        let Some((length, after)) = rest.split_first_chunk::<4>() else {
            return Err(damaged(format, &"it ends inside a block's length"));
        };
        // A second frame may follow the first one; the kernel's own unpacker allows it too.
        if *length == LZ4_LEGACY_MAGIC {
            rest = after;
            continue;
        }
        let length = u32::from_le_bytes(*length) as usize;
        let Some(compressed) = after.get(..length) else {
            return Err(damaged(format, &"it ends inside a block"));
        };
        let unpacked = lz4_flex::block::decompress_into(compressed, &mut block)
            .map_err(|cause| damaged(format, &cause))?;
        if kernel.len() + unpacked > LARGEST_KERNEL {
            return Err(PayloadError::TooLarge);
        }
        kernel.extend_from_slice(&block[..unpacked]);
        rest = &after[length..];
    }
    Ok(kernel)
}
