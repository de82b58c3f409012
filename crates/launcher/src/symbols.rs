//! `--symbols`: the names of a kernel's functions, from an ELF file's symbol table or a list like System.map.
//!
//! `/proc/kallsyms` has the list's form too, and Debian does not ship a System.map with addresses in it: a Guest's root
//! user can write the list of the kernel that runs, `lguest run debian -- cat /proc/kallsyms > names`.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::kernel_image::elf::looks_like_elf;
use crate::request::Mistake;

/// The largest file read: a kernel with all of its debugging information is about this size.
const LARGEST_FILE: u64 = 1 << 30;
/// Symbols kept; a large kernel has 200,000.
const MOST_SYMBOLS: usize = 4 << 20;
/// Bytes of a name that are kept: Rust's mangled names are long, and a map repeats them.
const LONGEST_NAME: usize = 200;
/// How far behind a symbol an address may lie and still be called by its name, when no other follows: a page.
const FURTHEST: u64 = 4096;

/// `st_info`'s types that code has: none, object, function (System V ABI, figure 4-19).
const NO_TYPE: u8 = 0;
const FUNCTION: u8 = 2;
/// `sh_type` of a symbol table.
const SYMBOL_TABLE: u32 = 2;
/// Bytes of a section header and of a symbol in a 64-bit file.
const SECTION_HEADER: usize = 64;
const SYMBOL: usize = 24;

/// Names by address.
#[derive(Debug, Default)]
pub struct Symbols(Vec<(u64, String)>);

impl Symbols {
    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read or names no address, in one sentence.
    pub fn open(path: &Path) -> Result<Symbols, Mistake> {
        let name = path.display();
        let mut bytes = Vec::new();
        File::open(path)
            .and_then(|file| file.take(LARGEST_FILE).read_to_end(&mut bytes))
            .map_err(|cause| Mistake(format!("--symbols {name}: cannot be read: {cause}")))?;
        let symbols = Self::read(&bytes);
        if symbols.0.is_empty() {
            return Err(Mistake(format!(
                "--symbols {name}: holds no symbols; give an ELF file that is not stripped, or lines of address, type and name as in System.map"
            )));
        }
        Ok(symbols)
    }

    /// Reads a file's bytes; what names no address is no symbol.
    pub fn read(bytes: &[u8]) -> Symbols {
        if looks_like_elf(bytes) { Self::of_elf(bytes) } else { Self::of_list(bytes) }
    }

    /// Lines of `address type name`, as in System.map and /proc/kallsyms; lines of another form do not count.
    fn of_list(bytes: &[u8]) -> Symbols {
        let text = String::from_utf8_lossy(bytes);
        let lines = text.lines().filter_map(|line| {
            let mut words = line.split_whitespace();
            let address = u64::from_str_radix(words.next()?, 16).ok()?;
            let kind = words.next()?;
            let code = kind.len() == 1 && "tTwW".contains(kind);
            // Readers without the right see only zeros in /proc/kallsyms.
            (code && address != 0).then_some((address, words.next()?.to_owned()))
        });
        Self::sorted(lines)
    }

    /// The functions of an ELF file's symbol tables. A file that lies about its tables has fewer symbols.
    fn of_elf(file: &[u8]) -> Symbols {
        let mut found = Vec::new();
        let sections = sections(file).unwrap_or_default();
        for &table in sections.iter().filter(|section| number(section, 4, 4) == Some(SYMBOL_TABLE.into())) {
            let names = number(table, 40, 4).and_then(|link| sections.get(link as usize));
            let (Some(names), Some(symbols)) = (names.and_then(|n| contents(file, n)), contents(file, table))
            else {
                continue;
            };
            for symbol in symbols.chunks_exact(SYMBOL).take(MOST_SYMBOLS) {
                let kind = symbol[4] & 15;
                let address = number(symbol, 8, 8).unwrap_or(0);
                let name = number(symbol, 0, 4).and_then(|at| names.get(at as usize..));
                let name = name.and_then(|rest| rest.split(|&b| b == 0).next()).unwrap_or_default();
                if matches!(kind, NO_TYPE | FUNCTION) && address != 0 && !name.is_empty() {
                    found.push((address, String::from_utf8_lossy(name).into_owned()));
                }
            }
        }
        Self::sorted(found)
    }

    fn sorted(symbols: impl IntoIterator<Item = (u64, String)>) -> Symbols {
        let mut list: Vec<(u64, String)> = symbols
            .into_iter()
            .take(MOST_SYMBOLS)
            .map(|(address, mut name)| {
                // A list is a file like any other; what it names must stay one word of one line.
                name.retain(|c| c.is_ascii_graphic());
                name.truncate(LONGEST_NAME);
                (address, name)
            })
            .collect();
        list.sort_by_key(|(address, _)| *address);
        // Of several names for one place the first stands.
        list.dedup_by_key(|(address, _)| *address);
        Symbols(list)
    }

    /// The symbol that an address lies in, and how far behind its start.
    pub fn find(&self, address: u64) -> Option<(&str, u64)> {
        let after = self.0.partition_point(|(start, _)| *start <= address);
        let (start, name) = self.0.get(after.checked_sub(1)?)?;
        let last = self.0.len() == after;
        let distance = address - start;
        (!last || distance < FURTHEST).then_some((name, distance))
    }
}

/// The section headers of a 64-bit little-endian file.
fn sections(file: &[u8]) -> Option<Vec<&[u8]>> {
    if file.get(4..6)? != [2, 1] {
        return None;
    }
    let (start, size, count) = (number(file, 40, 8)?, number(file, 58, 2)?, number(file, 60, 2)?);
    if size as usize != SECTION_HEADER {
        return None;
    }
    let headers = file.get(usize::try_from(start).ok()?..)?.chunks_exact(SECTION_HEADER);
    Some(headers.take(count as usize).collect())
}

/// A section's bytes.
fn contents<'a>(file: &'a [u8], header: &[u8]) -> Option<&'a [u8]> {
    let start = usize::try_from(number(header, 24, 8)?).ok()?;
    let length = usize::try_from(number(header, 32, 8)?).ok()?;
    file.get(start..start.checked_add(length)?)
}

/// A little-endian number of `size` bytes at `at`.
fn number(bytes: &[u8], at: usize, size: usize) -> Option<u64> {
    let mut whole = [0; 8];
    whole[..size].copy_from_slice(bytes.get(at..at + size)?);
    Some(u64::from_le_bytes(whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "\
0000000000000000 A fixed_percpu_data
ffffffff81000000 T _stext
ffffffff81000100 t start_kernel\t[module]
ffffffff82000000 D some_data
ffffffff81000040 T early
garbage
";

    #[test]
    fn an_address_is_called_by_the_symbol_before_it() {
        let symbols = Symbols::of_list(LIST.as_bytes());
        assert_eq!(symbols.find(0xffff_ffff_8100_0050), Some(("early", 0x10)));
        assert_eq!(symbols.find(0xffff_ffff_8100_0100), Some(("start_kernel", 0)));
        assert_eq!(symbols.find(0x1000), None);
        assert_eq!(symbols.find(0xffff_ffff_8200_0000), None, "too far behind the last one");
    }

    #[test]
    fn a_program_that_is_not_stripped_has_symbols() {
        let this = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let symbols = Symbols::of_elf(&this);
        assert!(symbols.0.iter().any(|(_, name)| name == "main"), "{} symbols", symbols.0.len());
    }

    #[test]
    fn a_file_that_lies_about_its_sections_has_no_symbols() {
        let mut file = vec![0; 64];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file[40..48].copy_from_slice(&u64::MAX.to_le_bytes());
        file[58] = 64;
        file[60] = 0xff;
        assert!(Symbols::of_elf(&file).0.is_empty());
        file[40..48].copy_from_slice(&0u64.to_le_bytes());
        assert!(Symbols::of_elf(&file).0.is_empty());
    }

    #[test]
    fn a_file_without_symbols_is_refused_in_one_sentence() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "hello\n").unwrap();
        let Mistake(sentence) = Symbols::open(file.path()).unwrap_err();
        assert!(sentence.contains("--symbols") && sentence.contains("System.map"), "{sentence}");
    }
}
