//! The walk through the house: which modules a stage tells of, in reading order, and which it passes by.

use std::collections::BTreeSet;
use std::path::Path;

use super::plan::{Room, Stage};
use super::source::Source;
use crate::errand::Errand;

/// A module on the way.
#[derive(Debug)]
pub struct Module {
    /// Its file.
    pub source: Source,
    /// Its name as code says it: `cpu::mode`, and a crate's folder for a crate's root.
    pub name: String,
    /// 0 for a room's own file, 1 for what its `mod` lines lead to, and so on.
    pub depth: usize,
    /// Modules of its own follow.
    pub has_rooms: bool,
    /// The folder of [`Room::Programs`] that it is one of.
    pub folder: Option<&'static str>,
}

/// What a walk found.
#[derive(Debug, Default)]
pub struct Tour {
    /// A list a stage, in reading order.
    pub stages: Vec<Vec<Module>>,
    /// Files that are compiled for tests only.
    pub tests: BTreeSet<String>,
    /// `mod` lines that lead to no file: (who says so, the name).
    pub missing: Vec<(String, String)>,
    /// Rooms of the plan that are not there.
    pub absent: Vec<&'static str>,
}

/// Files with a name like this are tests, whoever declares them.
fn is_test_name(name: &str) -> bool {
    name == "tests" || name.ends_with("_tests")
}

impl Tour {
    /// Walks the whole plan.
    ///
    /// # Errors
    /// When a file that is there cannot be read.
    pub fn walk(root: &Path, plan: &'static [Stage]) -> Result<Tour, Errand> {
        let named: BTreeSet<&str> = plan
            .iter()
            .flat_map(|stage| stage.rooms)
            .filter_map(|room| match room {
                Room::Tree(path) => Some(*path),
                Room::Programs(_) => None,
            })
            .collect();
        let mut tour = Tour::default();
        let mut seen = BTreeSet::new();
        for stage in plan {
            tour.stages.push(Vec::new());
            for room in stage.rooms {
                match *room {
                    Room::Tree(path) if root.join(path).is_file() => {
                        tour.enter(root, path, 0, &named, &mut seen)?;
                    }
                    Room::Programs(folder) if root.join(folder).is_dir() => {
                        for path in programs(root, folder)? {
                            tour.take(Source::read(root, &path)?, 0, Some(folder));
                        }
                    }
                    // A crate may be without tests or examples for a while; a module that is named must be there.
                    Room::Programs(_) => {}
                    Room::Tree(path) => tour.absent.push(path),
                }
            }
        }
        Ok(tour)
    }

    fn take(&mut self, source: Source, depth: usize, folder: Option<&'static str>) -> usize {
        let name = name_of(&source.path);
        let stage = self.stages.last_mut().expect("a stage was begun");
        stage.push(Module { source, name, depth, has_rooms: false, folder });
        stage.len() - 1
    }

    fn enter(
        &mut self,
        root: &Path,
        path: &str,
        depth: usize,
        named: &BTreeSet<&str>,
        seen: &mut BTreeSet<String>,
    ) -> Result<(), Errand> {
        if !seen.insert(path.to_owned()) {
            return Ok(());
        }
        let place = self.take(Source::read(root, path)?, depth, None);
        let stage = self.stages.len() - 1;
        let before = self.stages[stage].len();
        // The list is short, and the source stays where it is.
        for index in 0.. {
            let source = &self.stages[stage][place].source;
            let Some(module) = source.modules.get(index) else { break };
            let (name, test) = (module.name.clone(), module.test || is_test_name(&module.name));
            match source.file_of(root, module) {
                Some(file) if test => self.pass(root, &file)?,
                Some(file) if named.contains(file.as_str()) => {}
                Some(file) => self.enter(root, &file, depth + 1, named, seen)?,
                None => self.missing.push((path.to_owned(), name)),
            }
        }
        self.stages[stage][place].has_rooms = self.stages[stage].len() > before;
        Ok(())
    }

    /// Notes a test and what it declares, without stopping.
    fn pass(&mut self, root: &Path, path: &str) -> Result<(), Errand> {
        if self.tests.insert(path.to_owned()) {
            let source = Source::read(root, path)?;
            for module in &source.modules {
                match source.file_of(root, module) {
                    Some(file) => self.pass(root, &file)?,
                    None => self.missing.push((path.to_owned(), module.name.clone())),
                }
            }
        }
        Ok(())
    }
}

/// The programs of a folder: its files, and `main.rs` of its folders.
fn programs(root: &Path, folder: &str) -> Result<Vec<String>, Errand> {
    let entries = std::fs::read_dir(root.join(folder)).map_err(Errand::file(folder))?;
    let mut found: Vec<String> = entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            match entry.path() {
                path if path.join("main.rs").is_file() => Some(format!("{folder}/{name}/main.rs")),
                path if path.is_file() && name.ends_with(".rs") => Some(format!("{folder}/{name}")),
                _ => None,
            }
        })
        .collect();
    found.sort();
    Ok(found)
}

/// `crates/translator/src/cpu/mode.rs` is `cpu::mode`; a crate's root is called as its folder; a program as its file.
fn name_of(path: &str) -> String {
    let path = path.strip_prefix("crates/").unwrap_or(path);
    let (room, rest) = path.split_once('/').unwrap_or((path, ""));
    let Some(inside) = rest.strip_prefix("src/") else {
        return format!("{room}/{}", rest.trim_end_matches(".rs").trim_end_matches("/main"));
    };
    match inside.trim_end_matches(".rs").trim_end_matches("/mod") {
        "lib" => room.to_owned(),
        "main" => format!("{room}, the program"),
        module => module.replace('/', "::"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUSE: [(&str, &str); 6] = [
        ("crates/a/src/lib.rs", "pub mod one;\nmod two;\nmod gone;\n#[cfg(test)]\nmod bench;\n"),
        ("crates/a/src/one.rs", "mod deep;\n"),
        ("crates/a/src/one/deep.rs", ""),
        ("crates/a/src/two/mod.rs", "mod tests;\n"),
        ("crates/a/src/two/tests.rs", ""),
        ("crates/a/src/bench.rs", ""),
    ];

    static PLAN: [Stage; 2] = [
        Stage {
            name: "First",
            about: "",
            opening: "",
            rooms: &[Room::Tree("crates/a/src/lib.rs"), Room::Tree("crates/b/src/lib.rs")],
            drawings: &[],
        },
        Stage {
            name: "Second",
            about: "",
            opening: "",
            rooms: &[Room::Tree("crates/a/src/one.rs"), Room::Programs("crates/a/tests")],
            drawings: &[],
        },
    ];

    #[test]
    fn a_walk_follows_mod_lines_and_tells_each_module_in_one_stage() {
        let root = std::env::temp_dir().join(format!("lguest-journey-{}", std::process::id()));
        for (path, text) in HOUSE {
            let place = root.join(path);
            std::fs::create_dir_all(place.parent().unwrap()).unwrap();
            std::fs::write(place, text).unwrap();
        }
        let tour = Tour::walk(&root, &PLAN);
        std::fs::remove_dir_all(&root).unwrap();
        let tour = tour.unwrap();
        let names = |stage: usize| -> Vec<_> {
            tour.stages[stage].iter().map(|module| (module.name.clone(), module.depth)).collect()
        };
        assert_eq!(names(0), [("a".to_owned(), 0), ("two".to_owned(), 1)]);
        assert_eq!(names(1), [("one".to_owned(), 0), ("one::deep".to_owned(), 1)]);
        assert_eq!(tour.tests.len(), 2, "{:?}", tour.tests);
        assert_eq!(tour.missing, [("crates/a/src/lib.rs".to_owned(), "gone".to_owned())]);
        assert_eq!(tour.absent, ["crates/b/src/lib.rs"]);
    }

    #[test]
    fn a_module_is_called_as_code_calls_it() {
        assert_eq!(name_of("crates/translator/src/cpu/mode.rs"), "cpu::mode");
        assert_eq!(name_of("crates/translator/src/cpu/mod.rs"), "cpu");
        assert_eq!(name_of("crates/abi/src/lib.rs"), "abi");
        assert_eq!(name_of("crates/init/src/main.rs"), "init, the program");
        let tests = "crates/devices/tests/hostile_drivers/main.rs";
        assert_eq!(name_of(tests), "devices/tests/hostile_drivers");
        assert_eq!(name_of("xtask/src/main.rs"), "xtask, the program");
    }
}
