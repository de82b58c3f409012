//! Whose files: the tests run as root and as an ordinary user, and say what holds for both unless they set an identity.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use super::super::owner::{CAPABILITY, Identity, OVERRIDE};
use super::driver::*;

/// A driver whose share believes to be an ordinary user; the files are the test's own either way.
fn ordinary(directory: &Path) -> Option<Driver> {
    // Some file systems of the host (an old tmpfs) keep nothing beside files.
    if rustix::fs::setxattr(directory, "user.lguest.test", b"", rustix::fs::XattrFlags::empty()).is_err() {
        eprintln!("SKIPPED share ownership: the host's temporary directory has no extended attributes");
        return None;
    }
    let mut driver = Driver::new(directory, false);
    driver.share.identity = Identity::new(4321, 4321);
    Some(driver)
}

fn beside(path: &Path) -> Option<String> {
    let mut value = [0; 64];
    let length = rustix::fs::getxattr(path, OVERRIDE, &mut value).ok()?;
    Some(String::from_utf8(value[..length].to_vec()).unwrap())
}

#[test]
fn another_users_file_is_the_callers_and_remembers_whose_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut driver) = ordinary(folder.path()) else { return };
    driver.uid = 33;
    let (node, _) = driver.create(1, "page", 0o640).unwrap();
    let seen = driver.attributes(node).unwrap();
    assert_eq!((seen.uid, seen.gid, seen.mode), (33, 33, 0o100_640));
    let path = folder.path().join("page");
    assert_eq!(beside(&path).as_deref(), Some("33:33:0640"));
    assert_eq!(fs::metadata(&path).unwrap().uid(), rustix::process::geteuid().as_raw());
}

#[test]
fn a_mode_that_would_lock_us_out_is_kept_beside() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut driver) = ordinary(folder.path()) else { return };
    let (node, handle) = driver.create(1, "secret", 0o600).unwrap();
    driver.write(handle, 0, b"x").unwrap();
    let none = Seen { size: 0, mode: 0, uid: 0, gid: 0 };
    assert_eq!(driver.change(node, 1, none).unwrap().mode, 0o100_000);
    let path = folder.path().join("secret");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    let again = driver.open(node, libc::O_RDONLY).unwrap();
    assert_eq!(driver.read(again, 0, 1), Ok(b"x".to_vec()));
    let mine = u32_at(&driver.call(GETATTR, 1, &[0; 16]).unwrap(), 16 + 68);
    driver.change(node, 7, Seen { size: 0, mode: 0o644, uid: mine, gid: mine }).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o644);
}

#[test]
fn set_user_id_is_the_guests_alone_and_goes_with_a_write() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut driver) = ordinary(folder.path()) else { return };
    let (node, handle) = driver.create(1, "su", 0o755).unwrap();
    let wanted = Seen { size: 0, mode: 0o4755, uid: 0, gid: 0 };
    assert_eq!(driver.change(node, 1, wanted).unwrap().mode, 0o104_755);
    let path = folder.path().join("su");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o755);
    let head = [longs(&[handle, 0]), words(&[1, 4, 0, 0, 0, 0])].concat();
    driver.call(WRITE, node, &[&head[..], b"x"].concat()).unwrap();
    assert_eq!(driver.attributes(node).unwrap().mode, 0o100_755);
}

#[test]
fn what_container_tools_wrote_is_honoured() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut driver) = ordinary(folder.path()) else { return };
    let path = folder.path().join("sudo");
    fs::write(&path, b"").unwrap();
    rustix::fs::setxattr(&path, OVERRIDE, b"0:42:04711", rustix::fs::XattrFlags::empty()).unwrap();
    let (_, seen) = driver.lookup(1, "sudo").unwrap();
    assert_eq!((seen.uid, seen.gid, seen.mode), (0, 42, 0o104_711));
}

#[test]
fn the_guest_cannot_write_the_attribute_that_says_whose_a_file_is() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut driver) = ordinary(folder.path()) else { return };
    driver.uid = 33;
    let (node, _) = driver.create(1, "f", 0o644).unwrap();
    let set = |name: &str| [&words(&[1, 0])[..], name.as_bytes(), b"\0v"].concat();
    assert_eq!(driver.call(SETXATTR, node, &set(OVERRIDE)), Err(libc::EPERM));
    assert_eq!(driver.call(SETXATTR, node, &set(CAPABILITY)), Err(libc::EPERM));
    for name in ["security.selinux", "trusted.overlay.opaque", "system.posix_acl_access", "nonsense"] {
        assert_eq!(driver.call(SETXATTR, node, &set(name)), Err(libc::EOPNOTSUPP), "{name}");
    }
    assert_eq!(driver.call(SETXATTR, node, &set("user.mine")), Ok(vec![]));
    let get = |name: &str| [&words(&[100, 0])[..], name.as_bytes(), b"\0"].concat();
    assert_eq!(driver.call(GETXATTR, node, &get("user.mine")), Ok(b"v".to_vec()));
    assert_eq!(driver.call(GETXATTR, node, &get(OVERRIDE)), Err(libc::ENODATA));
    assert_eq!(driver.call(LISTXATTR, node, &words(&[100, 0])), Ok(b"user.mine\0".to_vec()));
    assert_eq!(driver.call(LISTXATTR, node, &words(&[0, 0])).map(|size| u32_at(&size, 0)), Ok(10));
    assert_eq!(driver.call(LISTXATTR, node, &words(&[3, 0])), Err(libc::ERANGE));
}

/// The largest number is nobody's: a driver that says it panicked a server built with assertions.
#[test]
fn an_owner_that_nobody_can_be_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut driver = Driver::new(folder.path(), false);
    let (node, _) = driver.create(1, "f", 0o644).unwrap();
    let before = driver.attributes(node);
    for (valid, uid, gid) in [(2, u32::MAX, 0), (4, 0, u32::MAX), (6, u32::MAX, u32::MAX)] {
        assert_eq!(driver.change(node, valid, Seen { size: 0, mode: 0, uid, gid }), Err(libc::EINVAL));
    }
    assert_eq!(driver.attributes(node), before);
    driver.uid = u32::MAX;
    assert_eq!(driver.create(1, "g", 0o644), Err(libc::EINVAL));
    assert_eq!(driver.mkdir(1, "d", 0o755), Err(libc::EINVAL));
}

#[test]
fn a_programs_capabilities_are_the_guests_alone_and_go_with_a_change() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut driver) = ordinary(folder.path()) else { return };
    let (node, handle) = driver.create(1, "ping", 0o755).unwrap();
    let path = folder.path().join("ping");
    // Revision 2, effective, and CAP_NET_RAW.
    let value = [&[1, 0, 0, 2, 0, 0x20, 0, 0][..], &[0; 12]].concat();
    let name = b"security.capability\0";
    let set = [words(&[value.len() as u32, 0]), name.to_vec(), value.clone()].concat();
    let get = [&words(&[100, 0])[..], name].concat();
    assert_eq!(driver.call(GETXATTR, node, &get), Err(libc::ENODATA));
    let changes: [&dyn Fn(&mut Driver); 4] = [
        &|driver| assert_eq!(driver.write(handle, 0, b"other"), Ok(5)),
        &|driver| assert!(driver.change(node, 8, Seen { size: 2, mode: 0, uid: 0, gid: 0 }).is_ok()),
        &|driver| assert!(driver.change(node, 2, Seen { size: 0, mode: 0, uid: 9, gid: 0 }).is_ok()),
        &|driver| assert!(driver.open(node, libc::O_WRONLY | libc::O_TRUNC).is_ok()),
    ];
    for change in changes {
        driver.call(SETXATTR, node, &set).unwrap();
        assert_eq!(driver.call(GETXATTR, node, &get), Ok(value.clone()));
        assert_eq!(driver.call(LISTXATTR, node, &words(&[100, 0])), Ok(name.to_vec()));
        let host = rustix::fs::getxattr(&path, "security.capability", &mut [0; 100]);
        assert_eq!(host, Err(rustix::io::Errno::NODATA), "the host's kernel knows of none");
        change(&mut driver);
        assert_eq!(driver.call(GETXATTR, node, &get), Err(libc::ENODATA));
    }
    let odd = [&words(&[3, 0])[..], name, b"odd"].concat();
    assert_eq!(driver.call(SETXATTR, node, &odd), Err(libc::EINVAL));
}

#[test]
fn what_is_made_in_a_set_group_id_directory_is_its_groups() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut driver) = ordinary(folder.path()) else { return };
    let team = driver.mkdir(1, "team", 0o775).unwrap();
    driver.change(team, 5, Seen { size: 0, mode: 0o2775, uid: 0, gid: 50 }).unwrap();
    driver.uid = 33;
    let (file, _) = driver.create(team, "file", 0o664).unwrap();
    let seen = driver.attributes(file).unwrap();
    assert_eq!((seen.uid, seen.gid, seen.mode), (33, 50, 0o100_664));
    let below = driver.mkdir(team, "below", 0o755).unwrap();
    let seen = driver.attributes(below).unwrap();
    assert_eq!((seen.uid, seen.gid, seen.mode), (33, 50, 0o042_755), "and so on below it");
    let (other, _) = driver.create(1, "other", 0o664).unwrap();
    assert_eq!(driver.attributes(other).unwrap().gid, 33);
    let host = fs::metadata(folder.path().join("team/below")).unwrap().permissions().mode();
    assert_eq!(host & 0o6000, 0, "none of it reaches the host");
}

#[test]
fn device_nodes_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut driver = Driver::new(folder.path(), false);
    for mode in [0o020_666, 0o060_666, 0] {
        let content = [&words(&[mode, 0x103, 0, 0])[..], b"null\0"].concat();
        assert_eq!(driver.call(MKNOD, 1, &content), Err(libc::EPERM), "{mode:o}");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}
