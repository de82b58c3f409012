//! The keyboard controller's one wire that still matters: the one to the processor's reset pin.
//!
//! There is no keyboard, and no controller answers: all ones in its status make Linux' driver give up at its first
//! look instead of waiting half a second for a reply. But "pulse output line 0" (0xfe, or any of 0xf0 to 0xff with
//! bit 0 clear) has been how a PC is rebooted since the AT, and kernels still try it.

use crate::bus::Device;
use crate::outside::{PowerChange, PowerSwitch};

/// The command port, which is one port long.
pub const COMMAND_REGISTERS: u64 = 1;

/// The command port at 0x64.
pub struct KeyboardReset<P> {
    power: P,
}

impl<P: PowerSwitch> KeyboardReset<P> {
    /// A wire to `power`.
    pub fn new(power: P) -> Self {
        KeyboardReset { power }
    }
}

impl<P: PowerSwitch> Device for KeyboardReset<P> {
    fn read(&mut self, _offset: u64, _data: &mut [u8]) {
        // The bus filled in all ones: nobody there.
    }

    fn write(&mut self, _offset: u64, data: &[u8]) {
        if data.first().is_some_and(|command| command & 0xf1 == 0xf0) {
            self.power.ask(PowerChange::Reset);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[derive(Clone, Default)]
    struct Wishes(Arc<AtomicU32>);

    impl PowerSwitch for Wishes {
        fn ask(&self, change: PowerChange) {
            assert_eq!(change, PowerChange::Reset);
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn only_a_pulse_on_line_0_resets() {
        let wishes = Wishes::default();
        let mut keyboard = KeyboardReset::new(wishes.clone());
        for command in 0..=0xff {
            keyboard.write(0, &[command]);
        }
        assert_eq!(wishes.0.load(Ordering::Relaxed), 8, "0xf0, 0xf2 and so on to 0xfe");
    }
}
