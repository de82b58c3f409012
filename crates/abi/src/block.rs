//! A block device's page (facts 7.2). Its address is the key of both directions; one list is bound a disk.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bytes of a sector.
pub const SECTOR_SIZE: u32 = 512;

/// Offsets of the fields, for whoever writes them one by one.
pub mod offset {
    /// [`super::BlockPage::kind`]
    pub const KIND: u64 = 0;
    /// [`super::BlockPage::sector`]
    pub const SECTOR: u64 = 4;
    /// [`super::BlockPage::bytes`]
    pub const BYTES: u64 = 8;
    /// [`super::BlockPage::result`]
    pub const RESULT: u64 = 12;
    /// [`super::BlockPage::num_sectors`]
    pub const NUM_SECTORS: u64 = 16;
}

/// What a request wants: [`BlockPage::kind`].
pub mod request {
    /// From the disk: an empty list is sent, the bound one is filled.
    pub const READ: i32 = 0;
    /// To the disk: the sent list is written. The Host takes every value but 0 for this one.
    pub const WRITE: i32 = 1;
}

/// How it went: [`BlockPage::result`].
pub mod result {
    /// Not finished. The Guest stores it before it asks.
    pub const PENDING: i32 = 0;
    /// All bytes moved.
    pub const DONE: i32 = 1;
    /// They did not. The Host's disk errors and requests past the end come as this (D11, D17).
    pub const FAILED: i32 = 2;
}

/// The used part of the page.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BlockPage {
    /// One of [`request`]. Guest writes.
    pub kind: i32,
    /// First sector. Guest writes.
    pub sector: u32,
    /// Bytes expected. Guest writes.
    pub bytes: u32,
    /// One of [`result`]. Guest stores 0, Host the rest, before it interrupts and after it stored `used_len`.
    pub result: i32,
    /// Length of the device in sectors. Host writes, at set-up.
    pub num_sectors: u32,
}

const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<BlockPage>() == 20);
    assert!(offset_of!(BlockPage, kind) as u64 == offset::KIND && offset::KIND == 0);
    assert!(offset_of!(BlockPage, sector) as u64 == offset::SECTOR && offset::SECTOR == 4);
    assert!(offset_of!(BlockPage, bytes) as u64 == offset::BYTES && offset::BYTES == 8);
    assert!(offset_of!(BlockPage, result) as u64 == offset::RESULT && offset::RESULT == 12);
    assert!(offset_of!(BlockPage, num_sectors) as u64 == offset::NUM_SECTORS && offset::NUM_SECTORS == 16);
};
