//! A disk (facts 7.2): one private page holds the request, whose address is the key of both directions.
//!
//! ```text
//!   Guest: page {type, sector, bytes, result 0}; a write sends its data, a read binds buffers and sends a ping
//!   Host:  moves the bytes; reply's used_len; result 1 or 2; interrupt - in this order
//! ```

use lguest_abi::block::{BlockPage, SECTOR_SIZE, offset, request, result};
use lguest_abi::dma::{MAX_SECTIONS, Sections};

use super::{Carrier, LguestDevice, gather, scatter};

/// The most one request moves: sixteen sections of the longest length there is. A driver asks for 64 KiB.
const LONGEST: usize = MAX_SECTIONS * u16::MAX as usize;

/// The host could not move the bytes. The Guest sees result 2; the host's log sees why.
#[derive(Debug, thiserror::Error)]
#[error("disk: {0}")]
pub struct DiskError(#[from] pub std::io::Error);

/// Where a disk's bytes are.
pub trait Disk: Send {
    /// Bytes, a multiple of 512.
    fn length(&self) -> u64;
    /// Fills `bytes` from `offset`. The range lies in the disk.
    ///
    /// # Errors
    /// [`DiskError`].
    fn read(&mut self, offset: u64, bytes: &mut [u8]) -> Result<(), DiskError>;
    /// Stores `bytes` at `offset`. The range lies in the disk.
    ///
    /// # Errors
    /// [`DiskError`], also for a disk that may only be read.
    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), DiskError>;
}

/// The Host's side of a disk.
pub struct LguestBlock<D> {
    disk: D,
    page: u64,
    /// Requests that failed, for the log: told once.
    failed: bool,
}

impl<D: Disk> LguestBlock<D> {
    /// A disk whose page is at `page`.
    pub fn new(disk: D, page: u64) -> Self {
        LguestBlock { disk, page, failed: false }
    }

    /// Writes the disk's length into its page; the Guest reads it there. Longer disks than the field can say (2 TiB) are
    /// cut.
    pub fn announce(&self, carrier: &dyn Carrier) {
        let sectors = self.disk.length() / u64::from(SECTOR_SIZE);
        let sectors = u32::try_from(sectors).unwrap_or(u32::MAX);
        carrier.write(self.page + offset::NUM_SECTORS, &sectors.to_le_bytes());
    }

    /// The host's last error, once.
    pub fn has_failed(&self) -> bool {
        self.failed
    }

    /// The request as it stands in the page.
    fn request(&self, carrier: &dyn Carrier) -> BlockPage {
        let field = |at: u64| {
            let mut bytes = [0; 4];
            carrier.read(self.page + at, &mut bytes);
            u32::from_le_bytes(bytes)
        };
        BlockPage {
            kind: field(offset::KIND) as i32,
            sector: field(offset::SECTOR),
            bytes: field(offset::BYTES),
            ..BlockPage::default()
        }
    }

    /// Place on the disk, if all of it is there.
    fn place(&self, sector: u32, length: usize) -> Option<u64> {
        let start = u64::from(sector) * u64::from(SECTOR_SIZE);
        let end = start.checked_add(length as u64)?;
        (end <= self.disk.length()).then_some(start)
    }

    fn read(&mut self, carrier: &dyn Carrier, request: &BlockPage, to: &Sections) -> u32 {
        let length = to.total().min(LONGEST).min(request.bytes as usize);
        let mut bytes = vec![0; length];
        let read = self.place(request.sector, length).map(|at| self.disk.read(at, &mut bytes));
        match read {
            Some(Ok(())) => scatter(carrier, to, &bytes),
            Some(Err(_)) => {
                self.failed = true;
                0
            }
            None => 0,
        }
    }

    fn write(&mut self, carrier: &dyn Carrier, request: &BlockPage, from: &Sections) -> u32 {
        let bytes = gather(carrier, from, LONGEST.min(request.bytes as usize));
        match self.place(request.sector, bytes.len()).map(|at| self.disk.write(at, &bytes)) {
            Some(Ok(())) => bytes.len() as u32,
            Some(Err(_)) => {
                self.failed = true;
                0
            }
            None => 0,
        }
    }
}

impl<D: Disk> LguestDevice for LguestBlock<D> {
    fn sent(&mut self, carrier: &dyn Carrier, list: &Sections) -> u32 {
        // Without a bound list there is nobody to tell the result to: the original's Launcher gave up here.
        let Some(reserved) = carrier.take(self.page) else { return 0 };
        let request = self.request(carrier);
        let (moved, used) = if request.kind == request::READ {
            let moved = self.read(carrier, &request, &reserved.sections);
            (moved, moved)
        } else {
            (self.write(carrier, &request, list), 0)
        };
        let outcome = if moved == request.bytes { result::DONE } else { result::FAILED };
        carrier.finish(&reserved, used);
        carrier.write(self.page + offset::RESULT, &outcome.to_le_bytes());
        carrier.interrupt(&reserved);
        0
    }
}

#[cfg(test)]
mod tests {
    use super::super::bench::{Bench, list};
    use super::*;

    const PAGE: u64 = 0x1000;

    struct Bytes {
        bytes: Vec<u8>,
        broken: bool,
    }

    impl Disk for Bytes {
        fn length(&self) -> u64 {
            self.bytes.len() as u64
        }
        fn read(&mut self, offset: u64, bytes: &mut [u8]) -> Result<(), DiskError> {
            bytes.copy_from_slice(&self.bytes[offset as usize..][..bytes.len()]);
            if self.broken { Err(std::io::Error::other("broken").into()) } else { Ok(()) }
        }
        fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
            if self.broken {
                return Err(std::io::Error::other("full").into());
            }
            self.bytes[offset as usize..][..bytes.len()].copy_from_slice(bytes);
            Ok(())
        }
    }

    fn disk(sectors: usize) -> LguestBlock<Bytes> {
        let bytes = (0..sectors * 512).map(|n| (n / 512) as u8).collect();
        LguestBlock::new(Bytes { bytes, broken: false }, PAGE)
    }

    fn ask(bench: &Bench, kind: i32, sector: u32, bytes: u32) {
        for (at, value) in [(0, kind as u32), (4, sector), (8, bytes), (12, 0)] {
            bench.write(PAGE + at, &value.to_le_bytes());
        }
        bench.used.set(0);
    }

    fn answer(bench: &Bench) -> i32 {
        i32::from_le_bytes(bench.bytes(PAGE as usize + 12, 4).try_into().unwrap())
    }

    #[test]
    fn a_mebibyte_has_2048_sectors() {
        let bench = Bench::new();
        disk(2048).announce(&bench);
        assert_eq!(bench.bytes(PAGE as usize + 16, 4), 2048u32.to_le_bytes());
    }

    #[test]
    fn a_read_by_ping_fills_the_bound_list() {
        let (bench, mut disk) = (Bench::new(), disk(8));
        bench.bind(PAGE, &[(0x2000, 512), (0x3000, 512)]);
        ask(&bench, request::READ, 3, 1024);
        assert_eq!(disk.sent(&bench, &list(&[])), 0);
        assert_eq!((answer(&bench), bench.used.get(), bench.interrupts.get()), (1, 1024, 1));
        assert_eq!((bench.bytes(0x2000, 512), bench.bytes(0x3000, 512)), (vec![3; 512], vec![4; 512]));
    }

    #[test]
    fn a_write_changes_the_disk_and_every_kind_but_0_writes() {
        let (bench, mut disk) = (Bench::new(), disk(8));
        bench.bind(PAGE, &[(0x2000, 512)]);
        for kind in [1, 2, -1] {
            bench.write(0x4000, &[kind as u8; 512]);
            ask(&bench, kind, 7, 512);
            assert_eq!(disk.sent(&bench, &list(&[(0x4000, 512)])), 0, "the sender's used_len");
            assert_eq!((answer(&bench), bench.used.get()), (1, 0));
            assert_eq!(disk.disk.bytes[7 * 512..], [kind as u8; 512]);
        }
    }

    #[test]
    fn what_lies_past_the_end_is_an_error_and_the_disk_keeps_its_length() {
        let (bench, mut disk) = (Bench::new(), disk(8));
        bench.bind(PAGE, &[(0x2000, 1024)]);
        for (kind, sector) in [(0, 7), (0, 8), (0, u32::MAX), (1, 7), (1, 8), (1, u32::MAX)] {
            ask(&bench, kind, sector, 1024);
            disk.sent(&bench, &list(&[(0x4000, 1024)]));
            assert_eq!(answer(&bench), 2, "type {kind} sector {sector}");
            assert_eq!(disk.disk.bytes.len(), 8 * 512);
            assert_eq!(disk.disk.bytes[7 * 512..], [7; 512]);
        }
    }

    #[test]
    fn a_length_that_lies_is_an_error() {
        let (bench, mut disk) = (Bench::new(), disk(8));
        bench.bind(PAGE, &[(0x2000, 512)]);
        for bytes in [1024, u32::MAX] {
            for kind in [0, 1] {
                ask(&bench, kind, 0, bytes);
                disk.sent(&bench, &list(&[(0x4000, 512)]));
                assert_eq!(answer(&bench), 2, "{bytes} bytes in a list of 512");
            }
        }
    }

    #[test]
    fn a_host_that_cannot_is_result_2() {
        let (bench, mut disk) = (Bench::new(), disk(8));
        disk.disk.broken = true;
        bench.bind(PAGE, &[(0x2000, 512)]);
        for kind in [0, 1] {
            ask(&bench, kind, 0, 512);
            disk.sent(&bench, &list(&[(0x4000, 512)]));
            assert_eq!((answer(&bench), bench.interrupts.get()), (2, kind as u32 + 1));
        }
        assert!(disk.has_failed());
    }

    #[test]
    fn without_a_bound_list_nothing_happens() {
        let (bench, mut disk) = (Bench::new(), disk(8));
        ask(&bench, 1, 0, 512);
        assert_eq!(disk.sent(&bench, &list(&[(0x4000, 512)])), 0);
        assert_eq!((answer(&bench), bench.interrupts.get(), disk.disk.bytes[0]), (0, 0, 0));
    }
}
