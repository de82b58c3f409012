//! The plan of the journey: seven stages, and where in the house each is told.
//!
//! A stage names rooms, and a room stands for all that its `mod` lines lead to, in their order. A module that another
//! room names as its own is told there and nowhere else: so each module has exactly one place, and a new one finds its
//! place by itself.

/// One of the seven.
#[derive(Debug)]
pub struct Stage {
    /// As lguest called it.
    pub name: &'static str,
    /// What its room of the book is about, for the table of contents.
    pub about: &'static str,
    /// The page by hand that opens it, in `docs/journey`.
    pub opening: &'static str,
    /// The rooms, in reading order.
    pub rooms: &'static [Room],
    /// Drawings it promises: captions that its pages must have, each with a drawing below.
    pub drawings: &'static [&'static str],
}

/// Something that modules are read from. Paths count from the workspace's root.
#[derive(Debug, Clone, Copy)]
pub enum Room {
    /// A module's file, with everything its `mod` lines lead to.
    Tree(&'static str),
    /// Every program in a folder, by its file's docs alone: tests, examples, fuzz targets.
    Programs(&'static str),
}

use Room::{Programs, Tree};

/// The seven stages.
pub const STAGES: [Stage; 7] = [
    Stage {
        name: "Preparation",
        about: "what a hypervisor is, the words, and what both sides agree on",
        opening: "1-preparation.md",
        rooms: &[Tree("crates/abi/src/lib.rs"), Tree("crates/launcher/src/doctor.rs")],
        drawings: &["The machine", "The memory map"],
    },
    Stage {
        name: "Guest",
        about: "a kernel of our own, from its first instruction to a prompt",
        opening: "2-guest.md",
        rooms: &[
            Tree("crates/kernel/src/main.rs"),
            Tree("crates/kernel/src/lib.rs"),
            Programs("crates/kernel/examples"),
            Tree("crates/init/src/lib.rs"),
            Tree("crates/init/src/main.rs"),
        ],
        drawings: &["From the loader to the prompt"],
    },
    Stage {
        name: "Drivers",
        about: "both halves of every device, and the memory between them",
        opening: "3-drivers.md",
        rooms: &[Tree("crates/guest/src/lib.rs"), Tree("crates/devices/src/lib.rs")],
        drawings: &["A ring"],
    },
    Stage {
        name: "Launcher",
        about: "one run of the command, from its words to its exit status",
        opening: "4-launcher.md",
        rooms: &[Tree("crates/launcher/src/main.rs"), Tree("crates/launcher/src/lib.rs")],
        drawings: &["One run"],
    },
    Stage {
        name: "Host",
        about: "memory, processors and interrupts, on either engine",
        opening: "5-host.md",
        rooms: &[Tree("crates/host/src/lib.rs"), Tree("crates/preload/src/lib.rs")],
        drawings: &["An exit"],
    },
    Stage {
        name: "Switcher",
        about: "the processor in software: into the Guest's code and out again",
        opening: "6-switcher.md",
        rooms: &[Tree("crates/translator/src/lib.rs")],
        drawings: &["A translated unit", "A page walk"],
    },
    Stage {
        name: "Mastery",
        about: "how we know, how to look, what to change, what was left",
        opening: "7-mastery.md",
        rooms: &[
            Tree("crates/translator/src/isolation.rs"),
            Programs("crates/translator/tests"),
            Programs("crates/translator/fuzz/fuzz_targets"),
            Programs("crates/translator/examples"),
            Programs("crates/devices/tests"),
            Programs("crates/devices/fuzz/fuzz_targets"),
            Programs("crates/host/tests"),
            Programs("crates/host/examples"),
            Programs("crates/preload/tests"),
            Programs("crates/launcher/tests"),
            Programs("crates/launcher/fuzz/fuzz_targets"),
            Programs("crates/launcher/examples"),
            Tree("xtask/src/main.rs"),
            Tree("xtask/src/lib.rs"),
            Programs("xtask/tests"),
        ],
        drawings: &["Who checks whom"],
    },
];

/// Texts behind the seventh stage, for looking things up: not part of the evening.
pub const APPENDICES: [(&str, &str); 2] =
    [("The checklist of 2007", "docs/checklist.md"), ("Measuring and stressing", "docs/measuring.md")];

/// Words a minute of somebody who reads technical prose with attention.
pub const WORDS_A_MINUTE: usize = 230;

/// An evening: four hours. What is longer is folded, see `book.rs`.
pub const EVENING_WORDS: usize = 4 * 60 * WORDS_A_MINUTE;
