//! `lguest run ARCHIVE`: an image of `docker save`'s kind around Debian's busybox, with what it says of its command.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::command::{busybox, debian_is_here, folder, lguest, run};

fn entry(
    layer: &mut tar::Builder<Vec<u8>>,
    kind: tar::EntryType,
    path: &str,
    facts: (u64, u32),
    data: &[u8],
) {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(data.len() as u64);
    header.set_mode(facts.1);
    header.set_uid(facts.0);
    header.set_gid(facts.0);
    layer.append_data(&mut header, path, data).unwrap();
}

fn layer() -> Vec<u8> {
    let mut layer = tar::Builder::new(Vec::new());
    let (file, directory) = (tar::EntryType::Regular, tar::EntryType::Directory);
    for path in ["bin", "etc", "proc", "sys", "dev", "tmp", "srv", "root"] {
        entry(&mut layer, directory, path, (0, 0o755), b"");
    }
    entry(&mut layer, file, "bin/busybox", (0, 0o755), &fs::read(busybox()).unwrap());
    for name in ["sh", "cat", "id", "pwd", "stat"] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        layer.append_link(&mut header, format!("bin/{name}"), "busybox").unwrap();
    }
    entry(
        &mut layer,
        file,
        "etc/passwd",
        (0, 0o644),
        b"root:x:0:0::/root:/bin/sh\ntool:x:7:8::/srv:/bin/sh\n",
    );
    entry(&mut layer, file, "etc/group", (0, 0o644), b"root:x:0:\ntools:x:8:\n");
    entry(&mut layer, file, "srv/theirs", (7, 0o400), b"mine\n");
    layer.into_inner().unwrap()
}

fn sum(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An archive as `docker save` writes it.
fn archive(place: &Path, says: &Value) -> PathBuf {
    let layer = layer();
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": says,
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", sum(&layer))]},
    });
    let config = serde_json::to_vec(&config).unwrap();
    let name = format!("{}.json", sum(&config));
    let manifest = json!([{"Config": name, "RepoTags": ["made:latest"], "Layers": ["layer.tar"]}]);
    let mut archive = tar::Builder::new(Vec::new());
    let file = tar::EntryType::Regular;
    entry(&mut archive, file, &name, (0, 0o644), &config);
    entry(&mut archive, file, "layer.tar", (0, 0o644), &layer);
    entry(&mut archive, file, "manifest.json", (0, 0o644), &serde_json::to_vec(&manifest).unwrap());
    let path = place.join("image.tar");
    fs::write(&path, archive.into_inner().unwrap()).unwrap();
    path
}

/// Forgets a test's image again: the cache is the user's.
fn forget(id: &str) {
    let done = lguest().args(["images", "rm", id]).stdin(Stdio::null()).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

#[test]
fn an_image_runs_its_entry_point_as_its_user_in_its_directory() {
    let test = "an_image_runs_its_entry_point_as_its_user_in_its_directory";
    if !debian_is_here(test) {
        return;
    }
    let says = json!({
        "Entrypoint": ["/bin/sh", "-c"], "Cmd": ["echo $GREETING; id -u; id -g; pwd; cat theirs; exit 3"],
        "Env": ["PATH=/bin", "GREETING=hello"], "User": "tool:tools", "WorkingDir": "/srv",
    });
    let image = archive(&folder(test), &says);
    let name = image.to_str().unwrap();
    let done = run(&["run", name], "");
    assert_eq!(
        (done.status, done.output.as_str()),
        (Some(3), "hello\n7\n8\n/srv\nmine\n"),
        "{}",
        done.messages
    );
    let words = ["run", name, "--user", "0", "--env", "GREETING=bye", "--", "echo $GREETING; id -u"];
    let done = run(&words, "");
    assert_eq!((done.status, done.output.as_str()), (Some(0), "bye\n0\n"), "{}", done.messages);
    // What it changes is gone with it.
    let done =
        run(&["run", name, "--user", "0", "--", "echo x >/srv/new && exec stat -c '%U %a' theirs"], "");
    assert_eq!((done.status, done.output.as_str()), (Some(0), "tool 400\n"), "{}", done.messages);
    let done = run(&["run", name, "--user", "0", "--", "stat new 2>/dev/null"], "");
    assert_eq!(done.status, Some(1), "{}", done.messages);
    let pulled = lguest().args(["images", "pull", name]).output().unwrap();
    forget(String::from_utf8(pulled.stdout).unwrap().trim());
}
