//! The console: no pages, a key that is no address of its own (facts 7.1).
//!
//! Output is a list sent with the key; it works before the bus exists. Input comes into one bound list.

/// The console's key, in both directions.
pub const KEY: u64 = 0;
/// Bytes of the input buffer.
pub const INPUT_SIZE: u16 = 256;
/// Bytes of the output buffer.
pub const OUTPUT_SIZE: u16 = 256;
/// Bytes asked for at a time.
pub const READ_SIZE: usize = 16;
