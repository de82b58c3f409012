//! `lguest preload`: where the library is that gives /dev/lguest to programs that know it (crates/preload).

use std::path::{Path, PathBuf};

use crate::request::Mistake;

/// Its file's name, as cargo builds it.
const NAME: &str = "liblguest_preload.so";
/// Beside the command, where cargo puts it; where packages put libraries; beside the tests of a build.
const FOLDERS: [&str; 3] = [".", "../lib/lguest", "deps"];

/// The library that belongs to this command.
///
/// # Errors
/// One sentence when it is nowhere.
pub fn library() -> Result<PathBuf, Mistake> {
    let command = std::env::current_exe()?;
    let folder = command.parent().unwrap_or(Path::new("/"));
    beside(folder).ok_or_else(|| {
        Mistake(format!(
            "preload: there is no {NAME} in {} or in ../lib/lguest from there; build it with cargo build -p lguest-preload",
            folder.display()
        ))
    })
}

fn beside(folder: &Path) -> Option<PathBuf> {
    FOLDERS.iter().find_map(|place| folder.join(place).join(NAME).canonicalize().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_is_beside_the_command_or_among_the_libraries() {
        let folder = tempfile::tempdir().unwrap();
        let (bin, lib) = (folder.path().join("bin"), folder.path().join("lib/lguest"));
        std::fs::create_dir_all(&bin).unwrap();
        std::fs::create_dir_all(&lib).unwrap();
        assert_eq!(beside(&bin), None);
        std::fs::write(lib.join(NAME), "").unwrap();
        assert_eq!(beside(&bin), Some(lib.join(NAME).canonicalize().unwrap()));
        std::fs::write(bin.join(NAME), "").unwrap();
        assert_eq!(beside(&bin), Some(bin.join(NAME).canonicalize().unwrap()));
    }
}
