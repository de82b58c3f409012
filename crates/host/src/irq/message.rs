//! What travels between interrupt controllers: a vector, how to take it, and whom it is for.
//!
//! The same bits stand in a local APIC's command register, in the I/O APIC's entries and, later, in a device's
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
