//! A serial port: National Semiconductor's 16550A, without the wire.
//!
//! Bytes the Guest sends leave at once, so the transmitter is always empty; bytes for the Guest wait in the
//! sixteen places of its receiver. What a wire would do and this part does not: speed (the divisor is kept and
//! means nothing), parity, breaks, modem signals outside the loop-back test.
//!
//! The rule that a pipe needs: input is taken only while the Guest listens, which is when it raised DTR and RTS and
//! enabled the receive interrupt. A driver that starts up clears the receiver, and what a pipe sent before would
//! be lost; one whose buffers are full lowers RTS. Register numbers and bits: PC16550D data sheet, section 8.

use std::collections::VecDeque;

use crate::bus::Device;
use crate::outside::{InterruptLine, Output};

/// Registers of one port, in ports.
pub const REGISTERS: u64 = 8;
/// Places in the receiver, as in the real part. This is all that a Guest that never reads can make us keep.
pub const FIFO_SIZE: usize = 16;

// Interrupt enable register.
const IER_RECEIVED: u8 = 0x01;
const IER_TRANSMITTER_EMPTY: u8 = 0x02;
const IER_LINE_STATUS: u8 = 0x04;
const IER_MODEM_STATUS: u8 = 0x08;
const IER_MASK: u8 = 0x0f;
// Interrupt identification register, highest priority first.
const IIR_LINE_STATUS: u8 = 0x06;
const IIR_RECEIVED: u8 = 0x04;
const IIR_TIMEOUT: u8 = 0x0c;
const IIR_TRANSMITTER_EMPTY: u8 = 0x02;
const IIR_MODEM_STATUS: u8 = 0x00;
const IIR_NONE: u8 = 0x01;
const IIR_FIFO: u8 = 0xc0;
// FIFO control register.
const FCR_ENABLE: u8 = 0x01;
const FCR_CLEAR_RECEIVER: u8 = 0x02;
// Line control register.
const LCR_DIVISOR: u8 = 0x80;
// Modem control register.
const MCR_DTR: u8 = 0x01;
const MCR_RTS: u8 = 0x02;
const MCR_OUT1: u8 = 0x04;
const MCR_OUT2: u8 = 0x08;
const MCR_LOOP: u8 = 0x10;
const MCR_MASK: u8 = 0x1f;
// Line status register.
const LSR_DATA: u8 = 0x01;
const LSR_OVERRUN: u8 = 0x02;
const LSR_TRANSMITTER_EMPTY: u8 = 0x60;
// Modem status register.
const MSR_CTS: u8 = 0x10;
const MSR_DSR: u8 = 0x20;
const MSR_RI: u8 = 0x40;
const MSR_DCD: u8 = 0x80;
const MSR_RI_FELL: u8 = 0x04;

/// One serial port. `L` is its interrupt line, `O` where its bytes go.
pub struct Serial<L, O> {
    line: L,
    output: O,
    received: VecDeque<u8>,
    ier: u8,
    fcr: u8,
    lcr: u8,
    mcr: u8,
    scratch: u8,
    divisor: [u8; 2],
    modem_changes: u8,
    overrun: bool,
    transmitter_emptied: bool,
    /// Bytes that left since the line last rose for them.
    burst: usize,
}

impl<L: InterruptLine, O: Output> Serial<L, O> {
    /// A port after its master reset.
    pub fn new(line: L, output: O) -> Self {
        Serial {
            line,
            output,
            received: VecDeque::with_capacity(FIFO_SIZE),
            ier: 0,
            fcr: 0,
            lcr: 0,
            mcr: 0,
            scratch: 0,
            // 9600 baud, the usual value after firmware ran.
            divisor: [12, 0],
            modem_changes: 0,
            overrun: false,
            transmitter_emptied: false,
            burst: 0,
        }
    }

    /// True while [`Self::receive`] would take a byte.
    pub fn has_room(&self) -> bool {
        self.listens() && self.received.len() < self.depth()
    }

    /// True when the Guest listens and has read everything: the moment for the next bytes. Refilling earlier would
    /// keep a driver in its interrupt handler for as long as there is input.
    pub fn is_hungry(&self) -> bool {
        self.listens() && self.received.is_empty()
    }

    fn listens(&self) -> bool {
        const READY: u8 = MCR_DTR | MCR_RTS;
        self.mcr & (READY | MCR_LOOP) == READY && self.ier & IER_RECEIVED != 0
    }

    /// Bytes from the wire: takes as many as there is room for and says how many.
    pub fn receive(&mut self, bytes: &[u8]) -> usize {
        let room = if self.listens() { self.depth().saturating_sub(self.received.len()) } else { 0 };
        let taken = room.min(bytes.len());
        self.received.extend(&bytes[..taken]);
        self.update_line();
        taken
    }

    fn depth(&self) -> usize {
        if self.fcr & FCR_ENABLE != 0 { FIFO_SIZE } else { 1 }
    }

    /// The most urgent cause of an interrupt (data sheet, table IV).
    fn cause(&self) -> u8 {
        if self.ier & IER_LINE_STATUS != 0 && self.overrun {
            IIR_LINE_STATUS
        } else if self.ier & IER_RECEIVED != 0 && !self.received.is_empty() {
            // Nothing else is on its way, so the time-out that a short run of bytes would wait for is now.
            if self.received.len() >= self.trigger_level() { IIR_RECEIVED } else { IIR_TIMEOUT }
        } else if self.ier & IER_TRANSMITTER_EMPTY != 0 && self.transmitter_emptied {
            IIR_TRANSMITTER_EMPTY
        } else if self.ier & IER_MODEM_STATUS != 0 && self.modem_changes != 0 {
            IIR_MODEM_STATUS
        } else {
            IIR_NONE
        }
    }

    fn trigger_level(&self) -> usize {
        if self.fcr & FCR_ENABLE == 0 {
            return 1;
        }
        [1, 4, 8, 14][usize::from(self.fcr >> 6)]
    }

    fn update_line(&self) {
        self.line.set(self.cause() != IIR_NONE);
    }

    fn transmit(&mut self, byte: u8) {
        if self.mcr & MCR_LOOP != 0 {
            if self.received.len() < self.depth() {
                self.received.push_back(byte);
            } else {
                self.overrun = true;
            }
        } else {
            self.output.put(byte);
        }
        // The transmitter was full for no time at all, but an edge-triggered controller has to see it: once for as
        // many bytes as it holds, since the Guest sends them together.
        if !self.transmitter_emptied || self.burst >= self.depth() {
            self.burst = 0;
            self.transmitter_emptied = false;
            self.update_line();
            self.transmitter_emptied = true;
        }
        self.burst += 1;
    }

    /// The upper half of the modem status register. In the loop-back test the control outputs come back as inputs.
    fn modem_inputs(&self) -> u8 {
        if self.mcr & MCR_LOOP == 0 {
            return MSR_CTS | MSR_DSR | MSR_DCD;
        }
        [(MCR_RTS, MSR_CTS), (MCR_DTR, MSR_DSR), (MCR_OUT1, MSR_RI), (MCR_OUT2, MSR_DCD)]
            .into_iter()
            .filter(|(control, _)| self.mcr & control != 0)
            .fold(0, |inputs, (_, input)| inputs | input)
    }

    fn set_modem_control(&mut self, value: u8) {
        let before = self.modem_inputs();
        self.mcr = value & MCR_MASK;
        let after = self.modem_inputs();
        self.modem_changes |= (before ^ after) >> 4 & !MSR_RI_FELL;
        if before & !after & MSR_RI != 0 {
            self.modem_changes |= MSR_RI_FELL;
        }
    }

    fn read_register(&mut self, register: u64) -> u8 {
        let divisor = self.lcr & LCR_DIVISOR != 0;
        match register {
            0 | 1 if divisor => self.divisor[register as usize],
            0 => self.received.pop_front().unwrap_or(0),
            1 => self.ier,
            2 => {
                let cause = self.cause();
                if cause == IIR_TRANSMITTER_EMPTY {
                    self.transmitter_emptied = false;
                }
                cause | if self.fcr & FCR_ENABLE != 0 { IIR_FIFO } else { 0 }
            }
            3 => self.lcr,
            4 => self.mcr,
            5 => {
                let data = if self.received.is_empty() { 0 } else { LSR_DATA };
                let overrun = if std::mem::take(&mut self.overrun) { LSR_OVERRUN } else { 0 };
                LSR_TRANSMITTER_EMPTY | data | overrun
            }
            6 => self.modem_inputs() | std::mem::take(&mut self.modem_changes),
            7 => self.scratch,
            _ => 0xff,
        }
    }

    fn write_register(&mut self, register: u64, value: u8) {
        let divisor = self.lcr & LCR_DIVISOR != 0;
        match register {
            0 | 1 if divisor => self.divisor[register as usize] = value,
            0 => self.transmit(value),
            1 => {
                let newly = value & !self.ier & IER_TRANSMITTER_EMPTY != 0;
                self.ier = value & IER_MASK;
                // Enabling the interrupt while the transmitter is empty raises it (data sheet, 8.6).
                self.transmitter_emptied |= newly;
            }
            2 => {
                // The real part also clears its receiver when FIFO mode changes. A byte from a pipe would be lost.
                self.fcr = value & (FCR_ENABLE | 0xc0);
                if value & FCR_CLEAR_RECEIVER != 0 {
                    self.received.clear();
                }
            }
            3 => self.lcr = value,
            4 => self.set_modem_control(value),
            7 => self.scratch = value,
            _ => {}
        }
    }
}

impl<L: InterruptLine, O: Output> Device for Serial<L, O> {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        for (register, byte) in (offset..).zip(data) {
            *byte = self.read_register(register);
        }
        self.update_line();
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        for (register, &byte) in (offset..).zip(data) {
            self.write_register(register, byte);
        }
        self.update_line();
    }
}

#[cfg(test)]
#[path = "serial_tests.rs"]
mod tests;
