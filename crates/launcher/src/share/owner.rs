//! Whose files are in a share, and what they may: two sides that cannot be the same.
//!
//! As an ordinary user, the Launcher can give files to nobody and make none that it could not open itself. So the Guest's
//! root is the caller: what the caller owns is root's in the Guest, and what root makes there is the caller's. Anything else
//! a Guest says of a file (another owner, mode 0, set-user-ID) is kept beside it, in an attribute of the name and form
//! that rootless container tools use, and shown instead of the host's facts wherever it is found:
//!
//! ```text
//!   user.containers.override_stat = "uid:gid:mode"      numbers in decimal, the mode's twelve bits in octal
//! ```
//! Set-user-ID and set-group-ID never reach the host's file, whoever the caller is: a program that a Guest wrote must not
//! become anybody's on the host. The Guest cannot read or write the attribute itself, or any of its users were root.

use lguest_devices::fuse::Attributes;
use rustix::fs::{FileType, Stat};

/// The attribute's name.
pub const OVERRIDE: &str = "user.containers.override_stat";
/// Where a program's capabilities are kept (`security.capability` in the Guest, capabilities(7)): the host's own attribute would
/// mean something to the host's kernel.
pub const CAPABILITY: &str = "user.lguest.security.capability";
/// [`OVERRIDE`]'s longest value taken: three numbers, two colons, and the kind of file that newer tools append.
pub const LONGEST_OVERRIDE: usize = 64;

/// Set-user-ID and set-group-ID (inode(7)).
const PRIVILEGES: u32 = 0o6000;

/// Set-group-ID: of a directory, that what is made there is its group's (inode(7)).
pub const SET_GROUP_ID: u32 = 0o2000;

/// Whether this is a value of `security.capability` in one of its three forms (linux/capability.h, `vfs_cap_data`): revision and
/// length.
pub fn is_capability(value: &[u8]) -> bool {
    matches!((value.get(3), value.len()), (Some(1), 12) | (Some(2), 20) | (Some(3), 24))
}

/// Owner, group and the twelve bits of a mode, in the Guest's eyes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owned {
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permissions, sticky, set-user-ID, set-group-ID.
    pub mode: u32,
}

impl Owned {
    /// Reads the attribute; none for what is not of its form.
    pub fn read(value: &[u8]) -> Option<Owned> {
        let mut parts = std::str::from_utf8(value).ok()?.split(':');
        let (uid, gid) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let mode = u32::from_str_radix(parts.next()?, 8).ok()? & 0o7777;
        // What may follow names the kind of a file that is kept as another kind; we show the kind it has.
        Some(Owned { uid, gid, mode }).filter(Owned::is_possible)
    }

    /// Whether there can be such an owner: the largest number stands for none, which chown(2) takes for "as it is".
    pub fn is_possible(&self) -> bool {
        self.uid != u32::MAX && self.gid != u32::MAX
    }

    /// The attribute's value.
    pub fn text(&self) -> String {
        format!("{}:{}:0{:o}", self.uid, self.gid, self.mode)
    }

    /// The same after a write by somebody without rights, or a change of owner (chown(2), write(2)).
    pub fn without_privileges(self) -> Owned {
        // Set-group-ID without execution for the group once meant a lock, and stays.
        let gone = if self.mode & 0o010 != 0 { PRIVILEGES } else { 0o4000 };
        Owned { mode: self.mode & !gone, ..self }
    }
}

/// How a wish is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// The host's file gets these permissions.
    pub mode: u32,
    /// ... and this owner and group, where the host lets us.
    pub owner: Option<(u32, u32)>,
    /// The attribute is needed: the host's file cannot say it all.
    pub beside: bool,
}

/// Who we are on the host.
#[derive(Debug, Clone, Copy)]
pub struct Identity {
    uid: u32,
    gid: u32,
}

impl Identity {
    /// The caller.
    pub fn of_the_caller() -> Identity {
        Identity { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() }
    }

    #[cfg(test)]
    pub fn new(uid: u32, gid: u32) -> Identity {
        Identity { uid, gid }
    }

    fn is_root(self) -> bool {
        self.uid == 0
    }

    /// What the Guest sees of a host's file that says nothing else.
    pub fn seen(self, stat: &Stat) -> Owned {
        let root = |mine: u32, its: u32| if its == mine { 0 } else { its };
        Owned {
            uid: root(self.uid, stat.st_uid),
            gid: root(self.gid, stat.st_gid),
            mode: stat.st_mode & 0o7777,
        }
    }

    /// How to keep what the Guest wants of a file that it sees as `seen` as long as nothing is kept beside it.
    pub fn keep(self, wanted: Owned, seen: Owned, kind: FileType) -> Kept {
        // Root may open anything; anybody else needs their own rights to serve the file at all.
        let floor = match kind {
            _ if self.is_root() => 0,
            FileType::Directory => 0o700,
            _ => 0o600,
        };
        let mode = wanted.mode & !PRIVILEGES | floor;
        let whole = mode == wanted.mode;
        if self.is_root() {
            return Kept { mode, owner: Some((wanted.uid, wanted.gid)), beside: !whole };
        }
        Kept { mode, owner: None, beside: !whole || (wanted.uid, wanted.gid) != (seen.uid, seen.gid) }
    }
}

/// A file's facts for the Guest.
pub fn attributes(stat: &Stat, owned: Owned, inode: u64) -> Attributes {
    let time = |seconds: i64, part: u64| (seconds, part as u32);
    Attributes {
        inode,
        size: stat.st_size as u64,
        blocks: stat.st_blocks as u64,
        times: [
            time(stat.st_atime, stat.st_atime_nsec),
            time(stat.st_mtime, stat.st_mtime_nsec),
            time(stat.st_ctime, stat.st_ctime_nsec),
        ],
        mode: stat.st_mode & !0o7777 | owned.mode,
        links: stat.st_nlink as u32,
        uid: owned.uid,
        gid: owned.gid,
        block_size: stat.st_blksize as u32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_attribute_is_read_as_container_tools_write_it() {
        assert_eq!(Owned::read(b"4294967295:0:0644"), None, "nobody has this number");
        let owned = Owned { uid: 1000, gid: 50, mode: 0o4755 };
        assert_eq!(Owned::read(b"1000:50:04755"), Some(owned));
        assert_eq!(Owned::read(b"1000:50:4755:file"), Some(owned));
        assert_eq!(Owned::read(owned.text().as_bytes()), Some(owned));
        for text in
            [&b""[..], b"0:0", b"a:b:c", b"0:0:0999", b"-1:0:0755", b"99999999999:0:0755", b"\xff:0:0"]
        {
            assert_eq!(Owned::read(text), None, "{text:?}");
        }
    }

    #[test]
    fn an_ordinary_users_file_stays_one_that_its_user_can_open() {
        let me = Identity::new(1000, 1000);
        let seen = Owned { uid: 0, gid: 0, mode: 0o600 };
        let kept = |uid, mode, kind| me.keep(Owned { uid, gid: 0, mode }, seen, kind);
        let plain = Kept { mode: 0o644, owner: None, beside: false };
        assert_eq!(kept(0, 0o644, FileType::RegularFile), plain);
        assert_eq!(kept(33, 0o644, FileType::RegularFile), Kept { beside: true, ..plain });
        let mode = |mode| Kept { mode, owner: None, beside: true };
        assert_eq!(kept(0, 0, FileType::RegularFile), mode(0o600));
        assert_eq!(kept(0, 0o555, FileType::Directory), mode(0o755));
    }

    #[test]
    fn set_user_id_never_reaches_the_host_not_even_from_root() {
        for me in [Identity::new(0, 0), Identity::new(1000, 1000)] {
            let wanted = Owned { uid: 0, gid: 0, mode: 0o6755 };
            let kept = me.keep(wanted, wanted, FileType::RegularFile);
            assert_eq!((kept.mode, kept.beside), (0o755, true));
        }
    }

    #[test]
    fn capabilities_have_three_forms() {
        let value = |revision: u8, length: usize| [vec![1, 0, 0, revision], vec![0; length - 4]].concat();
        assert!(
            [(1, 12), (2, 20), (3, 24)]
                .iter()
                .all(|(revision, length)| is_capability(&value(*revision, *length)))
        );
        assert!(
            ![(2, 12), (3, 20), (4, 24), (2, 2000)]
                .iter()
                .any(|(revision, length)| is_capability(&value(*revision, *length)))
        );
        assert!(!is_capability(b"") && !is_capability(b"\0\0\x02"));
    }

    #[test]
    fn what_was_written_to_loses_its_privileges() {
        let mode = |mode| Owned { uid: 0, gid: 0, mode }.without_privileges().mode;
        assert_eq!((mode(0o6755), mode(0o2644), mode(0o1777)), (0o755, 0o2644, 0o1777));
    }
}
