//! What imago takes for granted of the counts by which a qcow2 file says which of its clusters are in use.
//!
//! ```text
//!   header ──► refcount table ──first entry──► block of counts ──first count──► the header's own cluster
//! ```
//! Who writes an image looks for free clusters there. One that counts its own header as free has its header written over, and
//! one that has no counts for the beginning of the file sends imago (0.2.6) into a recursion without end, which ends the
//! process. One that names a full block a million times has as many counts as would take a day to look through. Nobody's tool
//! makes such images; whoever does wants that. What counts say of other clusters harms only the image.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

/// Where the header has what is needed here (docs/interop/qcow2.txt in QEMU's source, "Header"); all is big-endian.
const MAGIC: u32 = u32::from_be_bytes(*b"QFI\xfb");
const VERSION: u64 = 4;
const CLUSTER_BITS: u64 = 20;
const TABLE: u64 = 48;
const TABLE_CLUSTERS: u64 = 56;
const ORDER: u64 = 96;
/// In version 2 a count has sixteen bits.
const ORDER_OF_2: u32 = 4;
/// Bits of a table's entry that are no part of the block's place.
const RESERVED: u64 = 0x1ff;
/// The longest table that imago takes, in bytes: 4 Mi entries.
const LONGEST_TABLE: u64 = 32 << 20;
/// Clusters have 512 bytes to 2 MiB.
const CLUSTERS: std::ops::RangeInclusive<u32> = 9..=21;

/// Why a file's own counts do not allow that it is written: the rest of a sentence. What is no qcow2 imago tells better.
pub fn fault(file: &File) -> Option<&'static str> {
    let bits = half_word(file, CLUSTER_BITS).ok().filter(|bits| CLUSTERS.contains(bits))?;
    if half_word(file, 0).ok()? != MAGIC {
        return None;
    }
    if !matches!(first_count(file, 1 << bits), Ok(true)) {
        return Some("counts its own header as free, so a write would destroy it");
    }
    let told_twice = names_a_block_twice(file, 1 << bits).unwrap_or(false);
    told_twice
        .then_some("keeps the counts of several parts in one place, so a search for room in it might not end")
}

/// Whether two entries of the table lead to the same block. What is behind the file's end imago reads as zeroes.
///
/// # Errors
/// When the file cannot be read.
fn names_a_block_twice(file: &File, cluster: u64) -> io::Result<bool> {
    let length = (u64::from(half_word(file, TABLE_CLUSTERS)?) * cluster).min(LONGEST_TABLE);
    let mut bytes = Vec::new();
    let mut place = file;
    place.seek(SeekFrom::Start(word(file, TABLE)?))?;
    place.take(length).read_to_end(&mut bytes)?;
    let (entries, _) = bytes.as_chunks::<8>();
    let mut blocks: Vec<u64> = entries.iter().map(|entry| u64::from_be_bytes(*entry) & !RESERVED).collect();
    blocks.retain(|block| *block != 0);
    blocks.sort_unstable();
    Ok(blocks.windows(2).any(|pair| pair[0] == pair[1]))
}

/// Whether the first count of all is not zero.
///
/// # Errors
/// When the file ends before it, or cannot be read.
fn first_count(file: &File, cluster: u64) -> io::Result<bool> {
    let block = word(file, word(file, TABLE)?)? & !RESERVED;
    if half_word(file, TABLE_CLUSTERS)? == 0 || block == 0 || !block.is_multiple_of(cluster) {
        return Ok(false);
    }
    let order = if half_word(file, VERSION)? == 2 { ORDER_OF_2 } else { half_word(file, ORDER)? };
    let mut count = [0; 8];
    // A block is a cluster, so all of the widest count is there.
    file.read_exact_at(&mut count, block)?;
    Ok(match order {
        // Of counts narrower than a byte the first is in its lowest bits.
        0..3 => count[0] & ((1 << (1 << order)) - 1) != 0,
        3..=6 => count[..1 << (order - 3)].iter().any(|byte| *byte != 0),
        _ => false,
    })
}

fn word(file: &File, at: u64) -> io::Result<u64> {
    let mut bytes = [0; 8];
    file.read_exact_at(&mut bytes, at)?;
    Ok(u64::from_be_bytes(bytes))
}

fn half_word(file: &File, at: u64) -> io::Result<u32> {
    Ok((word(file, at)? >> 32) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(order: u32, first: &[u8], blocks: &[u64]) -> File {
        let mut image = vec![0; 2048];
        image[..4].copy_from_slice(&MAGIC.to_be_bytes());
        for (at, value) in [(4, 3), (20, 9), (56, 1), (96, order)] {
            image[at..at + 4].copy_from_slice(&value.to_be_bytes());
        }
        image[48..56].copy_from_slice(&512u64.to_be_bytes());
        for (entry, block) in image[512..1024].chunks_exact_mut(8).zip(blocks) {
            entry.copy_from_slice(&block.to_be_bytes());
        }
        image[1024..1024 + first.len()].copy_from_slice(first);
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&image, 0).unwrap();
        file
    }

    fn counted(order: u32, first: &[u8], block: u64) -> bool {
        fault(&image(order, first, &[block])).is_none()
    }

    #[test]
    fn a_block_that_is_named_twice_is_told() {
        let sentence = fault(&image(4, &[0, 1], &[1024, 1536, 0, 0, 1536])).unwrap();
        assert!(sentence.contains("in one place"), "{sentence}");
        assert_eq!(fault(&image(4, &[0, 1], &[1024, 1536, 0, 0, 512])), None);
    }

    #[test]
    fn the_first_count_is_found_at_every_width() {
        for (order, first, expected) in [
            (0, &[0b10][..], false),
            (0, &[0b11], true),
            (1, &[0b1100], false),
            (2, &[0b1000], true),
            (3, &[0, 1], false),
            (4, &[0, 1], true),
            (4, &[0, 0, 0, 1], false),
            (6, &[0, 0, 0, 0, 0, 0, 0, 1], true),
            (7, &[1; 16], false),
        ] {
            assert_eq!(counted(order, first, 1024), expected, "{order} {first:?}");
        }
    }

    #[test]
    fn a_table_that_names_no_block_counts_nothing() {
        assert!(!counted(4, &[0, 1], 0));
        assert!(!counted(4, &[0, 1], 1024 + 520));
        assert!(!counted(4, &[0, 1], 1 << 62));
    }
}
