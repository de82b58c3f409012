//! A flattened device tree, as far as a bus of virtual devices needs one.
//!
//! Layout: Devicetree Specification 0.4, chapter 5: a header of big-endian words, a block of structure tokens, a block
//! of property names. Everything is read with checked slices: a damaged tree has fewer nodes, nothing worse.

use alloc::string::String;
use alloc::vec::Vec;

const MAGIC: u32 = 0xd00d_feed;
const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROPERTY: u32 = 3;
const NOP: u32 = 4;
/// More nodes than this are ignored: a bus has at most as many devices as there are interrupts.
const MAX_NODES: usize = 32;
/// Nodes inside nodes. Deeper ones end the reading.
const MAX_DEPTH: usize = 16;

/// A node that is a virtual device.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Node {
    /// Its name, the part before the `@` and after.
    pub name: String,
    /// Whether `compatible` lists what was asked for.
    compatible: bool,
    /// The device number.
    pub device: Option<u32>,
    /// First cell of `reg`.
    pub handle: Option<u32>,
    /// First cell of `interrupts`.
    pub interrupt: Option<u32>,
}

/// Every node whose `compatible` holds `wanted`, with its device number from the property `id`. `None`: not a tree.
#[must_use]
pub fn nodes(blob: &[u8], wanted: &str, id: &str) -> Option<Vec<Node>> {
    if word(blob, 0)? != MAGIC {
        return None;
    }
    let blob = blob.get(..word(blob, 4)? as usize)?;
    let strings = blob.get(word(blob, 12)? as usize..)?;
    let mut walk =
        Walk { tokens: blob.get(word(blob, 8)? as usize..)?, at: 0, open: Vec::new(), found: Vec::new() };
    while walk.step(strings, wanted, id).is_some() && walk.found.len() < MAX_NODES {}
    Some(walk.found)
}

struct Walk<'a> {
    tokens: &'a [u8],
    at: usize,
    open: Vec<Node>,
    found: Vec<Node>,
}

impl Walk<'_> {
    /// One token; `None` at the end of the tree or of sense.
    fn step(&mut self, strings: &[u8], wanted: &str, id: &str) -> Option<()> {
        let token = word(self.tokens, self.at)?;
        self.at += 4;
        match token {
            BEGIN_NODE => {
                let name = text(self.tokens.get(self.at..)?)?;
                self.at = (self.at + name.len() + 1).next_multiple_of(4);
                if self.open.len() == MAX_DEPTH {
                    return None;
                }
                self.open.push(Node { name: name.into(), ..Node::default() });
            }
            END_NODE => {
                let node = self.open.pop()?;
                if node.compatible {
                    self.found.push(node);
                }
            }
            PROPERTY => {
                let (length, name) = (word(self.tokens, self.at)? as usize, word(self.tokens, self.at + 4)?);
                let start = self.at + 8;
                let value = self.tokens.get(start..start.checked_add(length)?)?;
                self.at = start.checked_add(length)?.next_multiple_of(4);
                let name = text(strings.get(name as usize..)?)?;
                self.open.last_mut()?.property(name, value, wanted, id);
            }
            NOP => {}
            _ => return None,
        }
        Some(())
    }
}

impl Node {
    fn property(&mut self, name: &str, value: &[u8], wanted: &str, id: &str) {
        match name {
            "compatible" => {
                self.compatible = value.split(|byte| *byte == 0).any(|one| one == wanted.as_bytes())
            }
            "reg" => self.handle = word(value, 0),
            "interrupts" => self.interrupt = word(value, 0),
            _ if name == id => self.device = word(value, 0),
            _ => {}
        }
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}

fn text(bytes: &[u8]) -> Option<&str> {
    let end = bytes.iter().position(|byte| *byte == 0)?;
    core::str::from_utf8(&bytes[..end]).ok()
}

#[cfg(test)]
#[path = "flat_tree_tests.rs"]
pub(crate) mod tests;
