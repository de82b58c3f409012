//! Directories of the host's in a Debian Guest: both sides see what the other does, and neither can be led astray.

use std::fs;
use std::os::unix::fs::symlink;

use crate::command::{debian_is_here, folder, run};

/// The lines that a script prints in a Guest with this share, with which it must end well.
fn script(share: &str, script: &str) -> Vec<String> {
    let finished = run(&["run", "debian", "--share", share, "--", "sh", "-ec", script], "");
    assert_eq!(finished.status, Some(0), "{finished:?}");
    finished.output.lines().map(|line| line.trim_end().to_owned()).collect()
}

#[test]
fn a_guest_and_its_host_share_a_directory() {
    if !debian_is_here("a_guest_and_its_host_share_a_directory") {
        return;
    }
    let folder = folder("a_guest_and_its_host_share_a_directory");
    let share = folder.join("share");
    fs::create_dir_all(share.join("tree/deep")).unwrap();
    fs::write(share.join("tree/deep/file"), "from the host").unwrap();
    fs::write(folder.join("secret"), "outside").unwrap();
    symlink("../secret", share.join("way")).unwrap();
    let lines = script(
        &format!("{}:x", share.display()),
        "cd /mnt/x; cat tree/deep/file; echo; cat way 2>/dev/null || echo no way; \
         mkdir made; for n in 1 2 3; do head -c 300000 /dev/zero | tr '\\0' $n > made/$n; done; \
         mv made/1 made/one; ln -s one made/link; chown 33:44 made/2; chmod 4750 made/2; rm made/3; \
         tar cf /tmp/x.tar tree made; mkdir copy; tar xf /tmp/x.tar -C copy; \
         cmp made/one copy/made/one; stat -c '%a %u %g' copy/made/2; ls copy/made; \
         mknod null c 1 3 2>/dev/null || echo no device",
    );
    assert_eq!(lines, ["from the host", "no way", "4750 33 44", "2", "link", "one", "no device"]);
    assert_eq!(fs::read(share.join("copy/made/one")).unwrap(), [b'1'; 300_000]);
    assert_eq!(fs::read_link(share.join("made/link")).unwrap().to_str(), Some("one"));
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&fs::metadata(share.join("made/2")).unwrap().permissions());
    assert_eq!(mode & 0o6000, 0, "set-user-ID stays in the Guest");
}

#[test]
fn a_readonly_share_is_mounted_so() {
    if !debian_is_here("a_readonly_share_is_mounted_so") {
        return;
    }
    let share = folder("a_readonly_share_is_mounted_so");
    fs::write(share.join("file"), "text").unwrap();
    let lines = script(
        &format!("{}:x,readonly", share.display()),
        "cat /mnt/x/file; echo; touch /mnt/x/new 2>&1 || mount -o remount,rw /mnt/x; touch /mnt/x/new 2>&1 || true",
    );
    assert_eq!(lines[0], "text");
    assert!(lines[1..].iter().all(|line| line.contains("Read-only file system")), "{lines:?}");
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert_eq!(fs::read_dir(&share).unwrap().count(), 1);
}
