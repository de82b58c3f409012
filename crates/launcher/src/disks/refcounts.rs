//! What imago takes for granted of the counts by which a qcow2 file says which of its clusters are in use.
//!
//! ```text
//!   header ──► refcount table ──first entry──► block of counts ──first count──► the header's own cluster
//! ```
//! Who writes an image looks for free clusters there. One that counts its own header as free has its header written over, and
//! one that has no counts for the beginning of the file sends imago (0.2.6) into a recursion without end, which ends the
//! process. Nobody's tool makes such images; whoever does wants that. What counts say of other clusters harms only the image.

use std::fs::File;
use std::io;
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
/// Clusters have 512 bytes to 2 MiB.
const CLUSTERS: std::ops::RangeInclusive<u32> = 9..=21;

/// Whether the file's own counts say that its first cluster, the header, is in use. What is no qcow2 imago tells better.
pub fn header_is_counted(file: &File) -> bool {
    let bits = half_word(file, CLUSTER_BITS).ok().filter(|bits| CLUSTERS.contains(bits));
    match (half_word(file, 0), bits) {
        (Ok(MAGIC), Some(bits)) => first_count(file, 1 << bits).unwrap_or(false),
        _ => true,
    }
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

    fn counted(order: u32, first: &[u8], block: u64) -> bool {
        let mut image = vec![0; 2048];
        image[..4].copy_from_slice(&MAGIC.to_be_bytes());
        image[4..8].copy_from_slice(&3u32.to_be_bytes());
        image[20..24].copy_from_slice(&9u32.to_be_bytes());
        image[48..56].copy_from_slice(&512u64.to_be_bytes());
        image[56..60].copy_from_slice(&1u32.to_be_bytes());
        image[96..100].copy_from_slice(&order.to_be_bytes());
        image[512..520].copy_from_slice(&block.to_be_bytes());
        image[1024..1024 + first.len()].copy_from_slice(first);
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&image, 0).unwrap();
        header_is_counted(&file)
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
