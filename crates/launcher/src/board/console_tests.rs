//! Output that is never lost and never grows; input that waits.

use std::sync::mpsc;
use std::time::Instant;

use super::*;

#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A terminal that reads nothing until it is told to.
struct Stuck(mpsc::Receiver<()>);

impl Write for Stuck {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self.0.recv() {
            Ok(()) => Ok(bytes.len()),
            Err(_) => Err(std::io::ErrorKind::BrokenPipe.into()),
        }
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

struct NoLine;

impl InterruptLine for NoLine {
    fn set(&self, _up: bool) {}
}

#[test]
fn everything_put_is_written_in_order() {
    let sink = Sink::default();
    let mut pump = OutputPump::start(Box::new(sink.clone())).unwrap();
    let bytes: Vec<u8> = (0..300_000u32).map(|number| number as u8).collect();
    bytes.iter().for_each(|byte| pump.put(*byte));
    pump.finish();
    assert_eq!(*sink.0.lock().unwrap(), bytes);
}

#[test]
fn a_prompt_without_a_newline_appears_by_itself() {
    let sink = Sink::default();
    let mut pump = OutputPump::start(Box::new(sink.clone())).unwrap();
    b"# ".iter().for_each(|byte| pump.put(*byte));
    let start = Instant::now();
    while sink.0.lock().unwrap().len() < 2 {
        assert!(start.elapsed() < Duration::from_secs(10));
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_terminal_that_does_not_read_stops_the_vcpu_and_not_for_ever() {
    let (wake, stuck) = mpsc::channel();
    let pump = OutputPump::start(Box::new(Stuck(stuck))).unwrap();
    let mut writer = pump.clone();
    let vcpu = std::thread::spawn(move || (0..4 * BUFFER_SIZE).for_each(|_| writer.put(b'x')));
    std::thread::sleep(Duration::from_millis(50));
    assert!(!vcpu.is_finished(), "it waits for room");
    assert!(lock(&pump.channel.buffered).bytes.len() <= BUFFER_SIZE);
    pump.abandon();
    vcpu.join().unwrap();
    drop(wake);
}

#[test]
fn a_terminal_that_went_away_does_not_stop_the_vcpu() {
    let (wake, stuck) = mpsc::channel();
    drop(wake);
    let mut pump = OutputPump::start(Box::new(Stuck(stuck))).unwrap();
    (0..4 * BUFFER_SIZE).for_each(|_| pump.put(b'x'));
    pump.finish();
    assert!(lock(&pump.channel.buffered).bytes.len() <= BUFFER_SIZE);
}

#[test]
fn a_slow_reader_gets_the_last_words_too() {
    let (wake, stuck) = mpsc::channel();
    let mut pump = OutputPump::start(Box::new(Stuck(stuck))).unwrap();
    b"bye".iter().for_each(|byte| pump.put(*byte));
    let ending = std::thread::spawn({
        let pump = pump.clone();
        move || pump.finish()
    });
    std::thread::sleep(LAST_WORDS + Duration::from_millis(100));
    assert!(!ending.is_finished(), "it waits for the reader");
    wake.send(()).unwrap();
    ending.join().unwrap();
    assert!(lock(&pump.channel.buffered).finished);
}

#[test]
fn input_waits_for_the_guest_and_fails_when_the_machine_is_gone() {
    let pump = OutputPump::start(Box::new(Sink::default())).unwrap();
    let port = Arc::new(Mutex::new(ConsolePort::new(NoLine, pump)));
    let input = ConsoleInput::new(port.clone());
    let sender = std::thread::spawn({
        let input = input.clone();
        move || input.send(&[b'y'; 40])
    });
    // The Guest listens: FIFO on, DTR, receive interrupt. Then it reads.
    for (register, value) in [(2, 1), (4, 3), (1, 1)] {
        lock(&port).write(register, &[value]);
    }
    let mut received = 0;
    while received < 40 {
        let mut byte = [0];
        lock(&port).read(5, &mut byte);
        if byte[0] & 1 != 0 {
            lock(&port).read(0, &mut byte);
            assert_eq!(byte[0], b'y');
            received += 1;
        } else {
            std::thread::yield_now();
        }
    }
    assert_eq!(sender.join().unwrap(), Ok(()));
    let sender = std::thread::spawn(move || input.send(&[b'z'; 3 * AHEAD]));
    std::thread::sleep(Duration::from_millis(10));
    lock(&port).close();
    assert_eq!(sender.join().unwrap(), Err(MachineGone));
}
