//! What this process takes of the host's memory, by what it is for: from the kernel's own account in
//! /proc/self/smaps (Documentation/filesystems/proc.rst).
//!
//! A page that is mapped in several places counts once: *Pss* is a page's size divided by how often it is mapped, and
//! every mapping of our memory files is ours.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek};

/// Bytes, by use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryAccount {
    /// The Guest's RAM, as far as it was touched.
    pub guest: u64,
    /// Generated code.
    pub code: u64,
    /// Addend tables.
    pub tables: u64,
    /// The program itself, its heap and stacks.
    pub rest: u64,
    /// The host kernel's page tables for all of it.
    pub page_tables: u64,
}

/// The kernel's account, held open: in the sandbox nothing is opened by name.
#[derive(Debug)]
pub struct AccountBook {
    maps: File,
    status: File,
}

impl AccountBook {
    /// Opens it.
    ///
    /// # Errors
    /// Where the host has no /proc.
    pub fn open() -> io::Result<AccountBook> {
        Ok(AccountBook { maps: File::open("/proc/self/smaps")?, status: File::open("/proc/self/status")? })
    }

    /// Reads the account as it is now; none where the host does not give one.
    pub fn read(&self) -> Option<MemoryAccount> {
        let (mut maps, mut status) = (&self.maps, &self.status);
        maps.rewind().ok()?;
        status.rewind().ok()?;
        let mut account = MemoryAccount::default();
        account.read_maps(BufReader::new(maps));
        // By the line: asking a file for its size first is a system call more, which the sandbox does not let through.
        let mut lines = BufReader::new(status).lines().map_while(Result::ok);
        account.page_tables = lines.find_map(|line| kilobytes(&line, "VmPTE:")).unwrap_or(0);
        Some(account)
    }
}

impl MemoryAccount {
    fn read_maps(&mut self, maps: impl BufRead) {
        let mut place = Use::Rest;
        for line in maps.lines().map_while(Result::ok) {
            if let Some(bytes) = kilobytes(&line, "Pss:") {
                *match place {
                    Use::Guest => &mut self.guest,
                    Use::Code => &mut self.code,
                    Use::Tables => &mut self.tables,
                    Use::Rest => &mut self.rest,
                } += bytes;
            } else if is_mapping(&line) {
                place = use_of(&line);
            }
        }
    }
}

enum Use {
    Guest,
    Code,
    Tables,
    Rest,
}

/// A mapping's first line begins with its range; the lines that follow begin with a name and a colon.
fn is_mapping(line: &str) -> bool {
    line.split_whitespace().next().is_some_and(|word| word.contains('-') && !word.ends_with(':'))
}

/// Which memory it shows. Files are called as `memfd_create` was told; shared anonymous memory, which only generated code
/// is in, is called /dev/zero.
fn use_of(line: &str) -> Use {
    if line.contains("/memfd:lguest-memory") {
        Use::Guest
    } else if line.contains("/memfd:lguest-code") || line.contains("/dev/zero") {
        Use::Code
    } else if line.contains("/memfd:lguest-tables") {
        Use::Tables
    } else {
        Use::Rest
    }
}

/// The bytes of a line `name   N kB`.
fn kilobytes(line: &str, name: &str) -> Option<u64> {
    let number: u64 = line.strip_prefix(name)?.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(number * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_are_counted_by_what_they_show() {
        let maps = "\
7f00-7f01 rw-s 00000000 00:01 5  /memfd:lguest-memory (deleted)
Size:                 8 kB
Pss:                  4 kB
7f01-7f02 r-xs 00000000 00:01 6  /memfd:lguest-code (deleted)
Pss:                  8 kB
7f03-7f04 rw-s 00000000 00:01 7  /memfd:lguest-tables (deleted)
Pss:                 12 kB
7f05-7f06 rw-p 00000000 00:00 0  [heap]
Pss:                 16 kB
";
        let mut account = MemoryAccount::default();
        account.read_maps(maps.as_bytes());
        let expected = MemoryAccount { guest: 4096, code: 8192, tables: 12288, rest: 16384, page_tables: 0 };
        assert_eq!(account, expected);
    }

    #[test]
    fn this_process_has_an_account() {
        let book = AccountBook::open().unwrap();
        for _ in 0..2 {
            let account = book.read().unwrap();
            assert!(account.rest > 100_000 && account.page_tables > 0, "{account:?}");
        }
    }
}
