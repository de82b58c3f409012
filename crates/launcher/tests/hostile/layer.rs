//! One input as a layer, twice over: whatever it says, nothing outside of its folder changes.

use std::fs;
use std::io::Read;

use lguest_launcher::images::layer;
use lguest_launcher::images::tree::Tree;

/// The most bytes of an input that are unpacked: enough for every form, and no time for bombs.
const MOST: u64 = 1 << 20;

/// Unpacks the input over an empty tree, and once more over what that left.
pub fn run(input: &[u8]) {
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    let root = folder.path().join("root");
    let secret = folder.path().join("secret");
    fs::create_dir(&root).expect("an empty folder takes another");
    fs::write(&secret, b"secret").expect("an empty folder takes a file");
    let mut tree = Tree::new(&root).expect("the root is there");
    for _ in 0..2 {
        let Ok(stream) = layer::unpacked(input) else { break };
        if layer::apply(stream.take(MOST), &mut tree).is_err() {
            break;
        }
    }
    assert_eq!(fs::read(&secret).expect("the secret is there"), b"secret", "a layer changed a file outside");
    assert_eq!(fs::read_dir(folder.path()).expect("the folder is there").count(), 2, "a layer left its root");
}
