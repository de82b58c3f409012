//! A network device's page: the table of who is there (facts 7.3).
//!
//! Six bytes a slot. A first byte of 0 is a free slot; bit 0 of the first byte says that this peer wants every packet.
//! Slot `n` listens at the key `page + 4 * n`. On a `link=` the page is shared between machines; on a `tap=` it is
//! private, the Host sits in slot 0 and the Guest in slot 1.

use crate::meeting::PAGE_SIZE;

/// Bytes of an Ethernet address.
pub const ADDRESS_SIZE: usize = 6;
/// Slots of a page: 682.
pub const SLOTS: u16 = (PAGE_SIZE as usize / ADDRESS_SIZE) as u16;
/// In byte 0 of an entry: this peer wants everything.
pub const PROMISCUOUS: u8 = 0x01;
/// In byte 0 of every live address: locally administered.
pub const LOCAL: u8 = 0x02;
/// In byte 0 of a destination: multicast, broadcast included (IEEE 802-2014, 8.2.2).
pub const MULTICAST: u8 = 0x01;
/// The Guest's slot on a private page; the Host has slot 0.
pub const TAP_GUEST_SLOT: u16 = 1;
/// Bytes of an Ethernet header: the shortest frame.
pub const FRAME_MINIMUM: u32 = 14;
/// The longest frame: 1500 bytes after the header. A receive buffer is exactly this long.
pub const FRAME_MAXIMUM: u32 = 1514;
/// Receive buffers of a device.
pub const RECEIVE_BUFFERS: u16 = 8;

/// An Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EthernetAddress(pub [u8; ADDRESS_SIZE]);

impl EthernetAddress {
    /// A Guest's own: 02:00:lo:hi:00:00 of its number, as the original had it for its one network; the last byte is the
    /// network's number among those of the Guest, so that no two have one address.
    #[must_use]
    pub const fn of_guest(guest_id: u16, network: u8) -> EthernetAddress {
        let [low, high] = guest_id.to_le_bytes();
        EthernetAddress([LOCAL, 0, low, high, 0, network])
    }

    /// Whether a frame to this address is for many.
    #[must_use]
    pub const fn is_multicast(self) -> bool {
        self.0[0] & MULTICAST != 0
    }
}

/// Offset of a slot's address in the page.
#[must_use]
pub const fn slot_offset(slot: u16) -> u64 {
    slot as u64 * ADDRESS_SIZE as u64
}

/// Offset of a slot's key from the page.
#[must_use]
pub const fn key_offset(slot: u16) -> u64 {
    slot as u64 * 4
}

/// Whether the peer in a slot gets a frame (facts 7.3, Transmit). `peer` is its entry as it stands in the page.
#[must_use]
pub fn wants(peer: [u8; ADDRESS_SIZE], destination: EthernetAddress) -> bool {
    let used = peer[0] != 0;
    let same = peer[0] & !PROMISCUOUS == destination.0[0] && peer[1..] == destination.0[1..];
    used && (destination.is_multicast() || peer[0] & PROMISCUOUS != 0 || same)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_682_slots_and_every_key_lies_in_it() {
        assert_eq!(SLOTS, 682);
        assert_eq!(slot_offset(SLOTS), 4092);
        assert_eq!(key_offset(SLOTS - 1), 2724);
    }

    #[test]
    fn address_equality_ignores_the_peers_bit_0() {
        let me = EthernetAddress::of_guest(0x0102, 0);
        assert_eq!(me.0, [2, 0, 2, 1, 0, 0]);
        assert!(wants(me.0, me));
        let other = EthernetAddress::of_guest(3, 0);
        assert!(!wants(me.0, other));
        let mut sniffing = me.0;
        sniffing[0] |= PROMISCUOUS;
        assert!(wants(sniffing, me) && wants(sniffing, other));
    }

    #[test]
    fn broadcast_is_for_every_used_slot_and_nobody_else() {
        let all = EthernetAddress([0xff; 6]);
        assert!(wants(EthernetAddress::of_guest(9, 0).0, all));
        assert!(!wants([0, 1, 2, 3, 4, 5], all));
    }
}
