//! Why an errand could not be done.

use std::path::PathBuf;
use thiserror::Error;

/// A failed errand, as one sentence.
#[derive(Debug, Error)]
pub enum Errand {
    /// The command line makes no sense.
    #[error("cannot make sense of {0}; `cargo xtask help` lists what there is")]
    Argument(String),
    /// A program is not installed.
    #[error("{program} is not installed; on Debian it is in the package {package}")]
    Missing {
        /// The program looked for.
        program: &'static str,
        /// The Debian package that holds it.
        package: &'static str,
    },
    /// A program ended badly.
    #[error("{what} failed: {why}")]
    Failed {
        /// What was being done.
        what: String,
        /// What the program or the host said.
        why: String,
    },
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the host said.
        source: std::io::Error,
    },
}

impl Errand {
    /// For `map_err` behind file operations.
    pub fn file(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Errand {
        let path = path.into();
        |source| Errand::File { path, source }
    }
}
