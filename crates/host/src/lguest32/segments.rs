//! The Guest's descriptors and gates, as they are taken over (facts 7 and 8.1).

use super::Death;

/// Descriptors that are the Host's own in the original: its switcher's two, and task states. What the Guest says about them is
/// heard and not used.
const IGNORED_DESCRIPTORS: [u32; 4] = [10, 11, 16, 31];
/// Vectors whose gates are the Host's own: non-maskable interrupts, double faults, the one no processor raises, hypercalls.
const IGNORED_VECTORS: [u32; 4] = [2, 8, 15, 0x1f];
/// The first descriptor of a thread's storage; there are three.
pub(super) const FIRST_TLS: u32 = 6;

const DPL: u32 = 3 << 13;
const ACCESSED: u32 = 1 << 8;
const PRESENT: u32 = 1 << 15;

/// What is at index `index` of the table now, from the two words of a descriptor; none when the Host keeps its own.
///
/// # Errors
/// An index that no descriptor has.
pub(super) fn descriptor(index: u32, low: u32, high: u32) -> Result<Option<(usize, u64)>, Death> {
    if index >= 32 {
        return Err(Death::new(format_args!(
            "LOAD_GDT_ENTRY {index}: there are 32 descriptors, from 0 to 31"
        )));
    }
    if IGNORED_DESCRIPTORS.contains(&index) {
        return Ok(None);
    }
    // The kernel believes it runs at level 0.
    let level = if high & DPL == 0 { 1 << 13 } else { 0 };
    let high = high | level | ACCESSED;
    Ok(Some((index as usize, u64::from(high) << 32 | u64::from(low))))
}

/// An interrupt or trap gate: its code segment is always the kernel's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gate {
    /// The handler.
    pub(super) offset: u32,
    /// Who may call it by `int n`.
    pub(super) dpl: u8,
    /// An interrupt gate: the handler begins with interrupts off.
    pub(super) masks: bool,
}

/// The gates of all vectors.
pub(super) struct Gates([Option<Gate>; 256]);

impl Gates {
    pub(super) fn new() -> Gates {
        Gates([None; 256])
    }

    pub(super) fn get(&self, vector: u8) -> Option<Gate> {
        self.0[usize::from(vector)]
    }

    /// LOAD_IDT_ENTRY.
    ///
    /// # Errors
    /// A vector that no processor has, a gate that is neither an interrupt nor a trap gate.
    pub(super) fn load(&mut self, vector: u32, low: u32, high: u32) -> Result<(), Death> {
        if IGNORED_VECTORS.contains(&vector) {
            return Ok(());
        }
        let Some(place) = self.0.get_mut(vector as usize) else {
            return Err(Death::new(format_args!(
                "LOAD_IDT_ENTRY {vector}: there are 256 vectors, from 0 to 255"
            )));
        };
        if high & PRESENT == 0 {
            *place = None;
            return Ok(());
        }
        let kind = high >> 8 & 0x1f;
        if !matches!(kind, 0xe | 0xf) {
            return Err(Death::new(format_args!(
                "LOAD_IDT_ENTRY {vector}: a gate of type {kind:#x}, which is neither an interrupt gate (0xe) nor a trap \
                 gate (0xf)"
            )));
        }
        let dpl = (high >> 13 & 3) as u8;
        *place = Some(Gate { offset: low & 0xffff | high & 0xffff_0000, dpl, masks: kind == 0xe });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_of_level_0_becomes_one_of_level_1_and_is_accessed() {
        let loaded = descriptor(12, 0xffff, 0x00cf_9a00).unwrap();
        assert_eq!(loaded, Some((12, 0x00cf_bb00_0000_ffff)));
        assert_eq!(descriptor(15, 0xffff, 0x00cf_f200).unwrap(), Some((15, 0x00cf_f300_0000_ffff)));
    }

    #[test]
    fn the_hosts_own_descriptors_and_vectors_are_heard_and_not_used() {
        for index in [10, 11, 16, 31] {
            assert_eq!(descriptor(index, 1, 2).unwrap(), None);
        }
        let mut gates = Gates::new();
        for vector in [2, 8, 15, 0x1f] {
            gates.load(vector, 0, 0x8500).unwrap();
            assert_eq!(gates.get(vector as u8), None);
        }
    }

    #[test]
    fn indices_and_gates_that_do_not_exist_kill() {
        assert!(descriptor(32, 0, 0).is_err());
        assert!(Gates::new().load(256, 0, 0x8e00).is_err());
        assert!(Gates::new().load(14, 0, 0x8c00).is_err());
        assert!(Gates::new().load(14, 0, 0x0c00).is_ok(), "not present");
    }

    #[test]
    fn a_gate_keeps_offset_level_and_kind() {
        let mut gates = Gates::new();
        gates.load(0x80, 0x0060_5678, 0xc123_ef00).unwrap();
        assert_eq!(gates.get(0x80), Some(Gate { offset: 0xc123_5678, dpl: 3, masks: false }));
        gates.load(0x80, 0, 0).unwrap();
        assert_eq!(gates.get(0x80), None);
    }
}
