//! The names that one busybox answers to.
//!
//! A static busybox is one program with some three hundred names; which ones, its builder chose. We want a link
//! for each name in the initramfs without running the program, so we read them from it: busybox keeps them in
//! one run of NUL-ended strings, sorted, for its own binary search (libbb/appletlib.c, `applet_names`).

/// More names than this is no applet list: busybox has about four hundred in all.
const MOST_APPLETS: usize = 1000;

/// A list shorter than this is something else that looks like one.
const FEWEST_APPLETS: usize = 10;

/// The longest name taken; busybox's longest has seventeen letters.
const LONGEST_NAME: usize = 32;

/// The applet names inside the bytes of a busybox, sorted; none when there is no list to be found.
pub fn applet_names(busybox: &[u8]) -> Vec<String> {
    // The list begins with its smallest name, which is `[` or, where that was left out, hard to tell: Debian's
    // builds have always had it.
    let start = b"\0[\0";
    let mut at = 0;
    while let Some(found) = find(&busybox[at..], start) {
        let names = sorted_names(&busybox[at + found + 1..]);
        if names.len() >= FEWEST_APPLETS {
            return names;
        }
        at += found + 1;
    }
    Vec::new()
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

/// The NUL-ended names at the start of `bytes`, for as long as each is a name and larger than the last.
fn sorted_names(bytes: &[u8]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for name in bytes.split(|byte| *byte == 0).take(MOST_APPLETS) {
        let fits = !name.is_empty() && name.len() <= LONGEST_NAME && name.iter().all(|byte| is_letter(*byte));
        let Ok(name) = std::str::from_utf8(name) else { break };
        if !fits || names.last().is_some_and(|last| last.as_str() >= name) {
            break;
        }
        names.push(name.to_owned());
    }
    names
}

fn is_letter(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'[' | b'-' | b'_' | b'.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sorted_list_is_found_among_other_strings() {
        let list =
            b"\x7fELF\0[\0noise\0\0[\0[[\0ar\0ash\0awk\0cat\0chmod\0cp\0date\0dd\0df\0zcat\0[nonsense\0";
        let names = applet_names(list);
        assert_eq!(names.first().map(String::as_str), Some("["));
        assert_eq!(names.last().map(String::as_str), Some("zcat"));
        assert_eq!(names.len(), 12);
    }

    #[test]
    fn a_program_that_is_no_busybox_has_no_applets() {
        assert!(applet_names(b"\x7fELF\0hello\0[\0b\0a\0").is_empty());
        assert!(applet_names(b"").is_empty());
    }
}
