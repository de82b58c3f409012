//! Every hypercall, with the verdict that bad input gets (facts 4.1 and 12.3).
//!
//! No call answers anything and no register changes: what cannot be done kills.

use lguest_abi::hypercall::POWER_DOWN;
use lguest_abi::lguest32::{RESERVED_TOP, RingCall, SHUTDOWN_RESTART, SHUTDOWN_TEXT, call};

use super::Death;
use super::data::{Data, Field, Generation, read_word};
use super::segments::{self, FIRST_TLS};
use super::vcpu::Lguest32Vcpu;
use crate::engine::Exit;

/// Bytes that one early NOTIFY prints at most. The kernels' own buffer holds 16.
const CONSOLE_TEXT: usize = 256;

impl Lguest32Vcpu {
    /// Makes one call; what the board has to do about it, if anything.
    pub(super) fn perform(&mut self, asked: RingCall) -> Result<Option<Exit>, Death> {
        let RingCall { number, arguments: [a1, a2, a3, _] } = asked;
        let Some(data) = &self.data else {
            return if number == call::INIT {
                self.initialize(a1).map(|()| None)
            } else {
                Err(Death::new(format_args!("hypercall {number} came before LGUEST_INIT")))
            };
        };
        let generation = data.generation;
        match number {
            call::FLUSH_ASYNC | call::SEND_INTERRUPTS => {}
            call::INIT => return Err(Death::new("LGUEST_INIT came a second time")),
            call::SHUTDOWN => return self.shut_down(a1, a2).map(Some),
            call::NEW_PGTABLE => self.load_tables(a1)?,
            call::FLUSH_TLB => self.flush(a1 != 0),
            call::LOAD_IDT_ENTRY => self.gates.load(a1, a2, a3)?,
            call::SET_STACK => self.set_stack(a1, a2, a3)?,
            call::TS => self.cpu.set_task_switched(a1 != 0),
            call::SET_CLOCKEVENT => self.set_clock_event(a1),
            call::HALT => self.halted = true,
            call::SET_PMD => self.directory_changed(a1),
            call::SET_PTE => self.entry_changed(a1, a2, a3)?,
            call::SET_PGD => self.top_level_changed(a1, a2)?,
            call::LOAD_TLS => self.load_tls(a1)?,
            call::NOTIFY if generation != Generation::G41 => return self.notify(a1),
            call::LOAD_GDT_ENTRY => self.load_descriptor(a1, a2, a3)?,
            _ => return Err(Death::new(format_args!("there is no hypercall {number}"))),
        }
        Ok(None)
    }

    /// LGUEST_INIT (facts 5.2): everything that is decided once.
    fn initialize(&mut self, address: u32) -> Result<(), Death> {
        let data = Data::find(&self.ram, address, self.limit)?;
        if data.kernel_address >= 0u32.wrapping_sub(RESERVED_TOP) {
            return Err(Death::new(format_args!(
                "the kernel's address space begins at {:#x}, in the part that its Host keeps",
                data.kernel_address
            )));
        }
        data.set(Field::TscKhz, self.tsc_khz());
        data.set(Field::ReserveMem, RESERVED_TOP);
        self.ceiling = 0u32.wrapping_sub(RESERVED_TOP);
        self.cpu.set_ceiling(self.ceiling.into());
        if data.generation == Generation::G26 {
            let root = self.make_first_tables(data.kernel_address, address)?;
            data.set_first_tables(root);
        }
        self.data = Some(data);
        self.refresh_time();
        Ok(())
    }

    fn shut_down(&mut self, text: u32, reason: u32) -> Result<Exit, Death> {
        if reason == SHUTDOWN_RESTART {
            // Whatever the text: a plain reboot names none.
            return Ok(Exit::Restart);
        }
        let Some(text) = self.text(text, SHUTDOWN_TEXT) else {
            return Err(Death::new(format_args!(
                "CRASH, with a text at {text:#x}, outside the Guest's memory"
            )));
        };
        if text == POWER_DOWN.as_bytes() {
            return Ok(Exit::Off);
        }
        let text = String::from_utf8_lossy(&text);
        Err(Death::new(format_args!("CRASH: {}", text.trim_end().escape_debug())))
    }

    /// The text at a physical address, up to its NUL or `most` bytes, its last for the NUL; none if it begins outside memory.
    fn text(&self, address: u32, most: usize) -> Option<Vec<u8>> {
        if u64::from(address) >= self.limit {
            return None;
        }
        let room = (self.limit - u64::from(address)).min(most as u64 - 1) as usize;
        let mut bytes = vec![0; room];
        self.ram.read(address.into(), &mut bytes).then_some(())?;
        bytes.truncate(bytes.iter().position(|&byte| byte == 0).unwrap_or(room));
        Some(bytes)
    }

    /// NOTIFY (facts 11.1): below the end of memory it is the early console's text, above it a device's business.
    fn notify(&mut self, value: u32) -> Result<Option<Exit>, Death> {
        match value {
            0 => Ok(None),
            _ if self.hands_over_text || value >= self.entry.memory => {
                Ok(Some(Exit::Notify { value: value.into() }))
            }
            _ => Ok(self.text(value, CONSOLE_TEXT).map(Exit::Text)),
        }
    }

    fn set_stack(&mut self, selector: u32, pointer: u32, pages: u32) -> Result<(), Death> {
        if selector & 3 != 1 || selector >> 16 != 0 {
            return Err(Death::new(format_args!(
                "SET_STACK with the selector {selector:#x}, which is not of level 1"
            )));
        }
        if pages > 2 {
            return Err(Death::new(format_args!(
                "SET_STACK with {pages} pages: a kernel's stack has 2 at most"
            )));
        }
        self.stack = (selector as u16, pointer);
        Ok(())
    }

    fn load_descriptor(&mut self, index: u32, low: u32, high: u32) -> Result<(), Death> {
        if let Some((index, descriptor)) = segments::descriptor(index, low, high)? {
            self.cpu.set_descriptor(index, descriptor);
        }
        Ok(())
    }

    fn load_tls(&mut self, address: u32) -> Result<(), Death> {
        if u64::from(address) + 24 > self.limit {
            return Err(Death::new(format_args!(
                "LOAD_TLS named descriptors at {address:#x}, outside the Guest's memory"
            )));
        }
        for n in 0..3 {
            let word = |half: u32| read_word(&self.ram, u64::from(address + 8 * n + 4 * half));
            self.load_descriptor(FIRST_TLS + n, word(0), word(1))?;
        }
        Ok(())
    }
}
