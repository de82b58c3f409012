//! The tests that guard the house.
//!
//! A drawing of a building is only worth something while the building still looks like it. These tests read the
//! manifests and the tracked files and compare them with what ARCHITECTURE.md promises: which room may name which,
//! where `unsafe` may live, that every bought crate has its reason beside it, that no file has outgrown a reader,
//! and that nothing names a place packages come from.

mod arrows;
mod checklist;
mod files;
mod manifest;
mod rooms;
