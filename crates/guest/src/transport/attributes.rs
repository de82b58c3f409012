//! The four files a device has in /sys (facts 3.1): formats of the original to the byte, its oddities included.
//!
//! Nothing ends in a newline. Status is shown in hexadecimal without a prefix and stored in C's way of reading numbers, so
//! that storing what was shown need not give the same number (D10). A store replaces the whole status.

use alloc::format;
use alloc::string::String;

use super::Descriptors;

/// Names in the order of a listing, and whether they can be written.
pub const ATTRIBUTES: [(&str, bool); 4] =
    [("features", false), ("pfn", false), ("status", true), ("type", false)];

/// Why a file said no.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttributeError {
    /// There is no such file.
    NotFound,
    /// It cannot be written.
    ReadOnly,
    /// The text is no number.
    Invalid,
}

/// What a file says now.
///
/// # Errors
/// [`AttributeError::NotFound`].
pub fn show(descriptors: &Descriptors, index: usize, name: &str) -> Result<String, AttributeError> {
    let descriptor = descriptors.get(index);
    match name {
        "type" => Ok(format!("{}", descriptor.kind)),
        "features" => Ok(format!("{:x}", descriptor.features)),
        "pfn" => Ok(format!("{}", descriptor.pfn)),
        "status" => Ok(format!("{:x}", descriptor.status)),
        _ => Err(AttributeError::NotFound),
    }
}

/// Writes a file and says how many bytes were taken: all.
///
/// # Errors
/// [`AttributeError`].
pub fn store(
    descriptors: &Descriptors,
    index: usize,
    name: &str,
    text: &str,
) -> Result<usize, AttributeError> {
    match ATTRIBUTES.iter().find(|(known, _)| *known == name) {
        None => Err(AttributeError::NotFound),
        Some((_, false)) => Err(AttributeError::ReadOnly),
        Some((_, true)) => {
            let status = scan_short(text).ok_or(AttributeError::Invalid)?;
            descriptors.set_status(index, status);
            Ok(text.len())
        }
    }
}

/// C's `%hi`: spaces, a sign, then hexadecimal after 0x, octal after 0, else decimal, cut to sixteen bits. What
/// follows the digits does not matter; no digit at all is no number.
fn scan_short(text: &str) -> Option<u16> {
    let text = text.trim_start();
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let hexadecimal = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X"));
    let (radix, digits) = match hexadecimal {
        Some(rest) if rest.starts_with(|first: char| first.is_ascii_hexdigit()) => (16, rest),
        _ if digits.starts_with('0') => (8, digits),
        _ => (10, digits),
    };
    let mut values = digits.chars().map_while(|digit| digit.to_digit(radix)).peekable();
    values.peek()?;
    let value = values.fold(0u16, |value, digit| value.wrapping_mul(radix as u16).wrapping_add(digit as u16));
    Some(if negative { value.wrapping_neg() } else { value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_is_read_as_c_reads_numbers() {
        let pairs = [
            ("16", Some(16)),
            ("0x10", Some(16)),
            ("010", Some(8)),
            ("-1", Some(0xffff)),
            ("zz", None),
            ("", None),
            ("-", None),
            (" 7\n", Some(7)),
            ("0", Some(0)),
            ("08", Some(0)),
            ("0xg", Some(0)),
            ("65536", Some(0)),
        ];
        for (text, value) in pairs {
            assert_eq!(scan_short(text), value, "{text:?}");
        }
    }
}
