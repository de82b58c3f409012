//! A command line cut into words, and the numbers and addresses among them.

use lguest_abi::net::EthernetAddress;

/// Words in a line that are looked at; the last takes the rest of the line as it stands.
pub const MAX_WORDS: usize = 4;

/// The words of a line: at most [`MAX_WORDS`], the last with everything that follows. Absent words are empty.
#[must_use]
pub fn split(line: &str) -> [&str; MAX_WORDS] {
    let mut words = [""; MAX_WORDS];
    let mut rest = line.trim();
    for (index, word) in words.iter_mut().enumerate() {
        let end = if index == MAX_WORDS - 1 { rest.len() } else { rest.find(' ').unwrap_or(rest.len()) };
        *word = &rest[..end];
        rest = rest[end..].trim_start();
    }
    words
}

/// A number, decimal or after 0x hexadecimal.
#[must_use]
pub fn number(word: &str) -> Option<u32> {
    match word.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => word.parse().ok(),
    }
}

/// An Ethernet address: six pairs of digits with colons between, or `all` for everybody.
#[must_use]
pub fn ethernet(word: &str) -> Option<EthernetAddress> {
    if word == "all" {
        return Some(EthernetAddress([0xff; 6]));
    }
    let mut address = [0; 6];
    let mut parts = word.split(':');
    for byte in &mut address {
        let part = parts.next().filter(|part| (1..=2).contains(&part.len()))?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(EthernetAddress(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_takes_the_rest() {
        assert_eq!(split("  net send  all two words "), ["net", "send", "all", "two words"]);
        assert_eq!(split(""), [""; 4]);
        assert_eq!(split("help"), ["help", "", "", ""]);
    }

    #[test]
    fn addresses_have_six_bytes() {
        assert_eq!(ethernet("02:00:1:0:00:ff"), Some(EthernetAddress([2, 0, 1, 0, 0, 0xff])));
        assert_eq!(ethernet("all"), Some(EthernetAddress([0xff; 6])));
        for wrong in ["", "02:00:01:00:00", "02:00:01:00:00:00:00", "02:00:01:00:00:100", "zz:0:0:0:0:0"] {
            assert_eq!(ethernet(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn numbers_are_decimal_or_hexadecimal() {
        assert_eq!(
            (number("12"), number("0x1f"), number("x"), number("-1")),
            (Some(12), Some(31), None, None)
        );
    }
}
