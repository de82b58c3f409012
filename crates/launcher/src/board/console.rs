//! Both ends of a serial port on the Host's side: what carries its output away and what feeds its input.
//!
//! Output must neither slow the Guest down (a system call a byte) nor grow without bound (a terminal that stopped
//! reading). So bytes go into a small buffer, a thread writes them out in one piece, and when the buffer is full
//! the vCPU waits. Input is the other way round: the sender waits until the port has room.

use std::collections::VecDeque;
use std::io::Write;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lguest_devices::bus::Device;
use lguest_devices::outside::{InterruptLine, Output};
use lguest_devices::serial::Serial;

/// What the vCPU may be ahead of the terminal. A screenful of kernel messages fits.
const BUFFER_SIZE: usize = 64 << 10;
/// How long the writer lets bytes gather after the first: too short to see, long enough for a line.
const GATHER: Duration = Duration::from_millis(1);
/// A buffer this full is written at once.
const ENOUGH: usize = 4 << 10;
/// How long the end of a stopped machine waits for a terminal that does not read.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Bytes that the vCPU finds waiting when its receiver is empty: waking the sender for each sixteen would cost more
/// than the bytes. Linux takes no more than this many in one go (serial8250_rx_chars).
const AHEAD: usize = 256;
/// Input sent without a break. A Guest's driver takes bytes in its interrupt handler and keeps them for a thread of
/// its kernel, Linux up to 64 KiB; what comes beyond is lost without a word.
const STRETCH: usize = 4 << 10;
/// The break, in which that thread runs and lowers RTS if it has too much.
const BREATH: Duration = Duration::from_millis(1);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Default)]
struct Buffered {
    bytes: Vec<u8>,
    /// The machine ended: write what is there, then stop.
    closed: bool,
    /// The writer waits for a first byte, or for [`ENOUGH`].
    writer_waits: bool,
    writer_gathers: bool,
    vcpu_waits: bool,
    /// Nobody reads any more. Bytes are dropped.
    broken: bool,
    /// The machine was stopped: do not wait for a reader.
    abandoned: bool,
    finished: bool,
}

#[derive(Default)]
struct Channel {
    buffered: Mutex<Buffered>,
    changed: Condvar,
}

/// The port's output, and the thread that writes it.
#[derive(Clone)]
pub struct OutputPump {
    channel: Arc<Channel>,
}

impl OutputPump {
    /// Starts the thread that writes to `sink`.
    ///
    /// # Errors
    /// When the host refuses a thread.
    pub fn start(sink: Box<dyn Write + Send>) -> std::io::Result<OutputPump> {
        let channel = Arc::new(Channel::default());
        let pump = OutputPump { channel: channel.clone() };
        std::thread::Builder::new().name("lguest-serial".into()).spawn(move || write_out(&channel, sink))?;
        Ok(pump)
    }

    /// Waits until everything is written: as long as the reader wants, or, after [`Self::abandon`], not for long.
    pub fn finish(&self) {
        let mut buffered = lock(&self.channel.buffered);
        buffered.closed = true;
        self.channel.changed.notify_all();
        while !buffered.finished && !buffered.abandoned {
            buffered = self.channel.changed.wait(buffered).unwrap_or_else(PoisonError::into_inner);
        }
        let unfinished = |buffered: &mut Buffered| !buffered.finished;
        drop(self.channel.changed.wait_timeout_while(buffered, LAST_WORDS, unfinished));
    }

    /// Lets a vCPU that waits for room go on; what does not fit is lost. For a machine that is stopped.
    pub fn abandon(&self) {
        let mut buffered = lock(&self.channel.buffered);
        buffered.closed = true;
        buffered.abandoned = true;
        self.channel.changed.notify_all();
    }
}

impl Output for OutputPump {
    fn put(&mut self, byte: u8) {
        let mut buffered = lock(&self.channel.buffered);
        while buffered.bytes.len() >= BUFFER_SIZE && !buffered.closed && !buffered.broken {
            buffered.vcpu_waits = true;
            buffered = self.channel.changed.wait(buffered).unwrap_or_else(PoisonError::into_inner);
        }
        if buffered.broken || buffered.bytes.len() >= BUFFER_SIZE {
            return;
        }
        buffered.bytes.push(byte);
        let enough = buffered.writer_gathers && buffered.bytes.len() >= ENOUGH;
        if std::mem::take(&mut buffered.writer_waits) || enough {
            buffered.writer_gathers = false;
            self.channel.changed.notify_all();
        }
    }
}

/// The writer's life: wait for a byte, let more gather, write them, tell a waiting vCPU.
fn write_out(channel: &Channel, mut sink: Box<dyn Write + Send>) {
    let mut bytes = Vec::with_capacity(BUFFER_SIZE);
    while let Some(mut buffered) = gather(channel) {
        std::mem::swap(&mut buffered.bytes, &mut bytes);
        if std::mem::take(&mut buffered.vcpu_waits) {
            channel.changed.notify_all();
        }
        drop(buffered);
        let written = sink.write_all(&bytes).and_then(|()| sink.flush());
        bytes.clear();
        if written.is_err() {
            let mut buffered = lock(&channel.buffered);
            buffered.broken = true;
            buffered.bytes.clear();
            channel.changed.notify_all();
        }
    }
    lock(&channel.buffered).finished = true;
    channel.changed.notify_all();
}

/// Bytes to write, after they had time to gather; None at the end.
fn gather(channel: &Channel) -> Option<MutexGuard<'_, Buffered>> {
    let mut buffered = lock(&channel.buffered);
    while buffered.bytes.is_empty() {
        if buffered.closed {
            return None;
        }
        buffered.writer_waits = true;
        buffered = channel.changed.wait(buffered).unwrap_or_else(PoisonError::into_inner);
    }
    buffered.writer_waits = false;
    if buffered.bytes.len() < ENOUGH && !buffered.closed {
        buffered.writer_gathers = true;
        let waited = channel.changed.wait_timeout(buffered, GATHER);
        buffered = waited.unwrap_or_else(PoisonError::into_inner).0;
        buffered.writer_gathers = false;
    }
    Some(buffered)
}

/// A serial port on the bus that tells a waiting sender when it has room again.
pub struct ConsolePort<L> {
    serial: Serial<L, OutputPump>,
    /// What the receiver gets next, at most [`AHEAD`] bytes.
    ahead: VecDeque<u8>,
    room: Arc<Condvar>,
    sender_waits: bool,
    closed: bool,
}

impl<L: InterruptLine> ConsolePort<L> {
    /// A port with its line and its output.
    pub fn new(line: L, output: OutputPump) -> Self {
        ConsolePort {
            serial: Serial::new(line, output),
            ahead: VecDeque::with_capacity(AHEAD),
            room: Arc::default(),
            sender_waits: false,
            closed: false,
        }
    }

    /// The machine is gone: whoever waits to send gets an error.
    pub fn close(&mut self) {
        self.closed = true;
        self.room.notify_all();
    }

    /// Fills the receiver as soon as the Guest has emptied it, and wakes the sender for more.
    fn refill(&mut self) {
        if !self.ahead.is_empty() && self.serial.is_hungry() {
            let taken = self.serial.receive(self.ahead.make_contiguous());
            self.ahead.drain(..taken);
        }
        if self.sender_waits && self.ahead.is_empty() {
            self.sender_waits = false;
            self.room.notify_all();
        }
    }
}

impl<L: InterruptLine> Device for ConsolePort<L> {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        self.serial.read(offset, data);
        self.refill();
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        self.serial.write(offset, data);
        self.refill();
    }
}

/// The machine ended before everything was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the machine has ended")]
pub struct MachineGone;

/// Where a port's input comes in.
pub struct ConsoleInput<L> {
    port: Arc<Mutex<ConsolePort<L>>>,
}

impl<L> Clone for ConsoleInput<L> {
    fn clone(&self) -> Self {
        ConsoleInput { port: self.port.clone() }
    }
}

impl<L: InterruptLine> ConsoleInput<L> {
    /// The input of `port`.
    pub fn new(port: Arc<Mutex<ConsolePort<L>>>) -> Self {
        ConsoleInput { port }
    }

    /// Sends bytes to the Guest. Waits while the port's receiver is full or nobody in the Guest listens; the last
    /// [`AHEAD`] bytes may still wait when this returns.
    ///
    /// # Errors
    /// [`MachineGone`] when the machine ended; some bytes may have been taken.
    pub fn send(&self, bytes: &[u8]) -> Result<(), MachineGone> {
        for stretch in bytes.chunks(STRETCH) {
            self.send_stretch(stretch)?;
            // What comes after a full stretch is a paste or a file, and nobody waits for its echo.
            if stretch.len() == STRETCH {
                std::thread::sleep(BREATH);
            }
        }
        Ok(())
    }

    fn send_stretch(&self, mut bytes: &[u8]) -> Result<(), MachineGone> {
        let mut port = lock(&self.port);
        while !bytes.is_empty() {
            while !port.closed && !port.ahead.is_empty() {
                port.sender_waits = true;
                let room = port.room.clone();
                port = room.wait(port).unwrap_or_else(PoisonError::into_inner);
            }
            if port.closed {
                return Err(MachineGone);
            }
            let (now, later) = bytes.split_at(bytes.len().min(AHEAD));
            port.ahead.extend(now);
            port.refill();
            bytes = later;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "console_tests.rs"]
mod tests;
