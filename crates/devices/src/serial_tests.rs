//! The serial port against its data sheet.

use std::sync::{Arc, Mutex};

use super::*;

/// Counts how often the line went up, and keeps its level and what was sent.
#[derive(Clone, Default)]
struct Wire(Arc<Mutex<(bool, u32, Vec<u8>)>>);

impl InterruptLine for Wire {
    fn set(&self, up: bool) {
        let mut state = self.0.lock().unwrap();
        if up && !state.0 {
            state.1 += 1;
        }
        state.0 = up;
    }
}

impl Output for Wire {
    fn put(&mut self, byte: u8) {
        self.0.lock().unwrap().2.push(byte);
    }
}

impl Wire {
    fn up(&self) -> bool {
        self.0.lock().unwrap().0
    }
    fn rises(&self) -> u32 {
        self.0.lock().unwrap().1
    }
}

fn port() -> (Serial<Wire, Wire>, Wire) {
    let wire = Wire::default();
    (Serial::new(wire.clone(), wire.clone()), wire)
}

fn read(port: &mut Serial<Wire, Wire>, register: u64) -> u8 {
    let mut byte = [0xff];
    port.read(register, &mut byte);
    byte[0]
}

fn listen(port: &mut Serial<Wire, Wire>) {
    port.write(2, &[FCR_ENABLE]);
    port.write(4, &[MCR_DTR | MCR_RTS | MCR_OUT2]);
    port.write(1, &[IER_RECEIVED]);
}

#[test]
fn a_byte_sent_leaves_at_once_and_the_transmitter_is_empty() {
    let (mut port, wire) = port();
    for byte in b"Linux" {
        assert_eq!(read(&mut port, 5) & LSR_TRANSMITTER_EMPTY, LSR_TRANSMITTER_EMPTY);
        port.write(0, &[*byte]);
    }
    assert_eq!(wire.0.lock().unwrap().2, b"Linux");
    assert!(!wire.up());
}

#[test]
fn a_byte_received_raises_the_line_until_it_is_read() {
    let (mut port, wire) = port();
    listen(&mut port);
    assert_eq!(port.receive(b"x"), 1);
    assert!(wire.up());
    assert_eq!(read(&mut port, 2), IIR_FIFO | IIR_RECEIVED);
    port.write(2, &[FCR_ENABLE | 0x80]);
    assert_eq!(read(&mut port, 2), IIR_FIFO | IIR_TIMEOUT, "below a trigger level of eight");
    assert_eq!(read(&mut port, 5) & LSR_DATA, LSR_DATA);
    assert_eq!(read(&mut port, 0), b'x');
    assert!(!wire.up());
    assert_eq!(read(&mut port, 2), IIR_FIFO | IIR_NONE);
}

#[test]
fn input_waits_until_the_guest_listens() {
    let (mut port, _) = port();
    assert_eq!(port.receive(b"a"), 0);
    port.write(1, &[IER_RECEIVED]);
    assert_eq!(port.receive(b"a"), 0, "no DTR");
    port.write(4, &[MCR_DTR]);
    assert_eq!(port.receive(b"a"), 0, "no RTS: its buffers are full");
    port.write(4, &[MCR_DTR | MCR_RTS]);
    assert_eq!(port.receive(b"a"), 1);
}

#[test]
fn the_receiver_takes_sixteen_bytes_and_no_more() {
    let (mut port, wire) = port();
    listen(&mut port);
    assert!(port.is_hungry());
    let bytes: Vec<u8> = (0..100).collect();
    assert_eq!(port.receive(&bytes), FIFO_SIZE);
    assert_eq!(port.receive(&bytes), 0);
    assert_eq!(wire.rises(), 1, "one interrupt for all of them");
    for byte in 0..FIFO_SIZE as u8 {
        assert!(!port.is_hungry());
        assert_eq!(read(&mut port, 0), byte);
    }
    assert!(port.is_hungry() && port.has_room());
}

#[test]
fn a_receiver_without_fifo_takes_one_byte() {
    let (mut port, _) = port();
    listen(&mut port);
    port.write(2, &[0]);
    assert_eq!(port.receive(b"ab"), 1);
}

#[test]
fn enabling_the_transmitter_interrupt_raises_it_and_reading_its_cause_clears_it() {
    let (mut port, wire) = port();
    port.write(1, &[IER_TRANSMITTER_EMPTY]);
    assert!(wire.up());
    assert_eq!(read(&mut port, 2), IIR_TRANSMITTER_EMPTY);
    assert!(!wire.up());
    assert_eq!(read(&mut port, 2), IIR_NONE);
}

#[test]
fn each_byte_sent_makes_an_edge_while_the_interrupt_is_on() {
    let (mut port, wire) = port();
    port.write(1, &[IER_TRANSMITTER_EMPTY]);
    let before = wire.rises();
    for sent in 1..4 {
        read(&mut port, 2);
        port.write(0, b"a");
        assert_eq!(wire.rises(), before + sent);
    }
}

#[test]
fn a_burst_makes_one_edge_for_each_fifo_of_bytes() {
    let (mut port, wire) = port();
    port.write(2, &[FCR_ENABLE]);
    port.write(1, &[IER_TRANSMITTER_EMPTY]);
    read(&mut port, 2);
    let before = wire.rises();
    (0..3 * FIFO_SIZE).for_each(|_| port.write(0, b"a"));
    assert_eq!(wire.rises(), before + 3);
    assert!(wire.up());
}

#[test]
fn the_loop_back_test_of_a_driver_passes() {
    let (mut port, wire) = port();
    port.write(4, &[MCR_LOOP | MCR_OUT2 | MCR_RTS]);
    assert_eq!(read(&mut port, 6) & 0xf0, MSR_DCD | MSR_CTS);
    port.write(0, &[0x5a]);
    assert_eq!(read(&mut port, 0), 0x5a);
    assert!(wire.0.lock().unwrap().2.is_empty(), "nothing reaches the wire");
}

#[test]
fn an_overrun_in_loop_back_is_told_once() {
    let (mut port, _) = port();
    port.write(4, &[MCR_LOOP]);
    port.write(0, &[1]);
    port.write(0, &[2]);
    assert_eq!(read(&mut port, 5) & LSR_OVERRUN, LSR_OVERRUN);
    assert_eq!(read(&mut port, 5) & LSR_OVERRUN, 0);
    assert_eq!(read(&mut port, 0), 1);
}

#[test]
fn the_divisor_hides_behind_its_latch_bit() {
    let (mut port, wire) = port();
    port.write(3, &[LCR_DIVISOR | 3]);
    port.write(0, &[1, 0]);
    assert_eq!((read(&mut port, 0), read(&mut port, 1)), (1, 0));
    port.write(3, &[3]);
    assert_eq!(read(&mut port, 1), 0, "the enable register again");
    assert!(wire.0.lock().unwrap().2.is_empty());
}

#[test]
fn the_probe_of_linux_finds_a_16550a() {
    let (mut port, _) = port();
    port.write(1, &[0]);
    assert_eq!(read(&mut port, 1) & 0x0f, 0);
    port.write(1, &[0x0f]);
    assert_eq!(read(&mut port, 1) & 0x0f, 0x0f);
    port.write(1, &[0]);
    port.write(2, &[FCR_ENABLE]);
    assert_eq!(read(&mut port, 2) >> 6, 3);
    port.write(7, &[0xa5]);
    assert_eq!(read(&mut port, 7), 0xa5);
}
