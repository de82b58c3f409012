//! What is in the house: every file that git tracks or would track, with its text.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The workspace's root folder.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace").to_path_buf()
}

/// Every tracked or not ignored file that is text, as its path from the root and its content.
///
/// Asks git, so that build results and editors' leavings are not part of the house. A source archive without a
/// repository is walked instead.
pub fn texts() -> Vec<(String, String)> {
    let root = root();
    let mut names = tracked(&root).unwrap_or_else(|| walked(&root));
    names.sort();
    assert!(names.iter().any(|n| n == "Cargo.toml"), "the list of files lacks the workspace's manifest");
    names
        .into_iter()
        .filter_map(|name| std::fs::read_to_string(root.join(&name)).ok().map(|text| (name, text)))
        .collect()
}

fn tracked(root: &Path) -> Option<Vec<String>> {
    let output = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    let names = String::from_utf8(output.stdout).expect("file names are UTF-8");
    Some(names.split('\0').filter(|n| !n.is_empty()).map(str::to_owned).collect())
}

fn walked(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("the house can be read").flatten() {
            let path = entry.path();
            match entry.file_name().to_str() {
                Some("target" | ".git") => {}
                _ if path.is_dir() => folders.push(path),
                _ => found.push(path.strip_prefix(root).expect("inside").to_string_lossy().into_owned()),
            }
        }
    }
    found
}
