//! The little of a Cargo.toml that the guards need: which dependencies it names, and the words beside them.

/// One line of a `[…dependencies]` table.
#[derive(Debug, PartialEq, Eq)]
pub struct Dependency {
    /// The crate's name.
    pub name: String,
    /// True when the line takes the workspace's entry (`.workspace = true`), where the reason stands already.
    pub inherited: bool,
    /// True when the crate lies in this repository (`path = …`).
    pub ours: bool,
    /// The comment above the line or at its end, empty when there is none.
    pub reason: String,
}

/// The dependencies of every kind (normal, dev, build, workspace, per target) in a manifest's text.
pub fn dependencies(manifest: &str) -> Vec<Dependency> {
    let mut found = Vec::new();
    let mut inside = false;
    let mut above = String::new();
    for line in manifest.lines().map(str::trim) {
        if line.starts_with('[') {
            inside = line.trim_matches(['[', ']']).ends_with("dependencies");
            above.clear();
        } else if let Some(comment) = line.strip_prefix('#') {
            above.push_str(comment.trim());
        } else if let Some((name, value)) = line.split_once('=').filter(|_| inside) {
            found.push(dependency(name.trim(), value.trim(), &std::mem::take(&mut above)));
        } else {
            above.clear();
        }
    }
    found
}

fn dependency(key: &str, value: &str, above: &str) -> Dependency {
    // A quoted string may hold a '#'; none of Cargo's version or feature strings does, so the last one starts a comment.
    let (value, behind) = value.split_once('#').unwrap_or((value, ""));
    let name = key.split('.').next().unwrap_or(key).trim_matches('"');
    let reason = if above.is_empty() { behind.trim() } else { above };
    Dependency {
        name: name.to_owned(),
        inherited: key.ends_with(".workspace") || value.contains("workspace = true"),
        ours: value.contains("path ="),
        reason: reason.to_owned(),
    }
}

#[test]
fn a_reason_above_or_behind_a_dependency_is_found() {
    let found = dependencies(
        "[dependencies]\n# because\na = \"1\"\nb = \"2\" # why not\nc = \"3\"\nd.workspace = true\n",
    );
    let reasons: Vec<_> = found.iter().map(|d| (d.name.as_str(), d.reason.as_str(), d.inherited)).collect();
    assert_eq!(
        reasons,
        [("a", "because", false), ("b", "why not", false), ("c", "", false), ("d", "", true)]
    );
}

#[test]
fn other_tables_hold_no_dependencies() {
    assert_eq!(dependencies("[package]\nname = \"x\"\n[lints]\nworkspace = true\n"), []);
    assert_eq!(dependencies("[target.'cfg(unix)'.dev-dependencies]\nx = \"1\"\n").len(), 1);
}
