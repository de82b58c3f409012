//! The arrows between rooms, and the reasons for what was bought.

use crate::files::{root, texts};
use crate::manifest::dependencies;

/// Each room and the rooms it may name: the table in ARCHITECTURE.md. Arrows only run down it.
const ARROWS: [(&str, &[&str]); 10] = [
    ("abi", &[]),
    ("guest", &["abi"]),
    ("kernel", &["abi", "guest"]),
    ("translator", &[]),
    ("host", &["abi", "translator"]),
    ("preload", &["abi", "translator", "host"]),
    ("devices", &["abi"]),
    ("init", &[]),
    ("launcher", &["abi", "guest", "kernel", "translator", "host", "devices", "init"]),
    // Runs the built command as a user would; knows nothing of what is inside.
    ("xtask", &[]),
];

/// Room of a manifest's path: `crates/abi/Cargo.toml` is `abi`, `xtask/Cargo.toml` is `xtask`.
fn room(path: &str) -> Option<&str> {
    let folder = path.strip_suffix("/Cargo.toml")?;
    Some(folder.strip_prefix("crates/").unwrap_or(folder))
}

/// The rooms' manifests. A fuzz target is its crate's, in a workspace that needs another compiler, and no room.
fn manifests() -> impl Iterator<Item = (String, String)> {
    let found = texts().into_iter();
    found.filter(|(path, _)| path.ends_with("/Cargo.toml") && !path.ends_with("/fuzz/Cargo.toml"))
}

#[test]
fn every_room_names_only_the_rooms_its_arrows_allow() {
    let mut seen = 0;
    for (path, text) in manifests() {
        let room = room(&path).expect("a manifest lies in a folder");
        let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == room) else {
            panic!(
                "{path}: the room `{room}` is not in the table of arrows; draw it there and in ARCHITECTURE.md"
            );
        };
        for dependency in dependencies(&text) {
            if let Some(named) = dependency.name.strip_prefix("lguest-") {
                assert!(allowed.contains(&named), "{path}: `{room}` may not name `{named}`");
            }
        }
        seen += 1;
    }
    assert_eq!(seen, ARROWS.len(), "every room of the table has a manifest");
}

#[test]
fn a_crate_is_called_as_its_folder() {
    for (path, text) in manifests().filter(|(path, _)| path.starts_with("crates/")) {
        let name = format!("name = \"lguest-{}\"", room(&path).expect("in a folder"));
        assert!(text.lines().any(|line| line == name), "{path} should say {name}");
    }
}

#[test]
fn every_dependency_has_its_reason_beside_it() {
    let mut counted = 0;
    for (path, text) in texts().iter().filter(|(path, _)| path.ends_with("Cargo.toml")) {
        for dependency in dependencies(text) {
            counted += 1;
            assert!(
                dependency.inherited || dependency.ours || !dependency.reason.is_empty(),
                "{path}: `{}` has no reason beside it",
                dependency.name
            );
        }
    }
    assert!(counted > 5, "the manifests were read");
}

#[test]
fn every_crate_keeps_the_workspaces_lints() {
    let workspace = std::fs::read_to_string(root().join("Cargo.toml")).expect("the workspace has a manifest");
    assert!(workspace.contains("unsafe_code = \"deny\""), "the workspace denies unsafe code");
    for (path, text) in manifests() {
        assert!(text.contains("[lints]\nworkspace = true"), "{path} does not take the workspace's lints");
    }
}
