//! What travels between interrupt controllers: a vector, how to take it, and whom it is for.
//!
//! The same bits stand in a local APIC's command register, in the I/O APIC's entries and in a device's
//! message-signalled interrupts (SDM vol. 3A, 11.6.1 and 11.11).

/// How an interrupt message is to be taken (SDM 11.6.1, "Delivery Mode").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// The vector, on every processor named.
    Fixed,
    /// The vector, on one of them.
    LowestPriority,
    /// Non-maskable.
    NonMaskable,
    /// Reset to wait for a start-up message.
    Init,
    /// Start in real mode at this page.
    StartUp,
    /// The 8259's vector.
    External,
    /// System management, or reserved: nothing happens.
    Ignored,
}

impl Delivery {
    /// From the three bits of ICR, LVT and redirection entries.
    pub fn from_bits(bits: u32) -> Delivery {
        match bits & 7 {
            0 => Delivery::Fixed,
            1 => Delivery::LowestPriority,
            4 => Delivery::NonMaskable,
            5 => Delivery::Init,
            6 => Delivery::StartUp,
            7 => Delivery::External,
            _ => Delivery::Ignored,
        }
    }
}

/// Whom a message is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// One APIC by identity; all ones are everybody.
    Physical(u32),
    /// A set by logical identity.
    Logical(u32),
    /// Shorthand: oneself.
    Oneself,
    /// Shorthand: everybody.
    All,
    /// Shorthand: everybody else.
    Others,
}

/// An interrupt on its way from one APIC (or I/O APIC) to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    /// What the processors are to take.
    pub vector: u8,
    /// How.
    pub delivery: Delivery,
    /// Who.
    pub destination: Destination,
    /// Level-triggered: the end of interrupt goes back to the I/O APIC.
    pub level: bool,
}

/// Addresses whose writes are interrupt messages: 0xfee in the upper twelve of 32 bits (SDM 11.11.1).
const MESSAGES: u64 = 0xfee;
/// In the address: the destination is logical.
const LOGICAL: u64 = 1 << 2;
/// In the data: level-triggered.
const LEVEL: u32 = 1 << 15;

impl Message {
    /// What a device's write of `data` at `address` means (SDM 11.11); none for an address where no APIC listens.
    ///
    /// The redirection hint is not needed to know how the destination is meant: Linux sets the mode bit alone, and
    /// processors and KVM read it so.
    pub fn of_write(address: u64, data: u32) -> Option<Message> {
        if address >> 20 != MESSAGES {
            return None;
        }
        let destination = (address >> 12 & 0xff) as u32;
        let destination = match address & LOGICAL {
            0 => Destination::Physical(destination),
            _ => Destination::Logical(destination),
        };
        let delivery = Delivery::from_bits(data >> 8);
        Some(Message { vector: data as u8, delivery, destination, level: data & LEVEL != 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_to_an_apic_is_a_message_and_one_elsewhere_is_none() {
        let message = Message::of_write(0xfee0_3000, 0x41).unwrap();
        assert_eq!((message.vector, message.delivery), (0x41, Delivery::Fixed));
        assert_eq!((message.destination, message.level), (Destination::Physical(3), false));
        let message = Message::of_write(0xfee0_500c, 0xc1ee).unwrap();
        assert_eq!((message.vector, message.delivery), (0xee, Delivery::LowestPriority));
        assert_eq!((message.destination, message.level), (Destination::Logical(5), true));
        for address in [0, 0xfec0_0000, 0xfed0_0000, 0xfef0_0000, 0x1_fee0_0000, u64::MAX] {
            assert_eq!(Message::of_write(address, 0x41), None, "{address:#x}");
        }
    }
}
