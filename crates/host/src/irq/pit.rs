//! The legacy timer: an Intel 8254 with its speaker gate.
//!
//! Channel 0 is wired to interrupt line 0, channel 2 to the gate and output bits of port 0x61, which old kernels
//! calibrate with. Channel 1 refreshed memory once and only counts here. Rules: Intel 8254 data sheet.
//!
//! Nothing ticks: a channel remembers when it was loaded and computes what its counter would show.

use crate::clock::TscRate;

/// Ports: three counters, the control word, and the speaker gate.
pub const PORTS: [u16; 5] = [0x40, 0x41, 0x42, 0x43, 0x61];
/// Ticks a second of the input clock.
const HERTZ: u64 = 1_193_182;
/// The shortest period whose interrupts are delivered one by one, in nanoseconds; faster ones are stretched, or a
/// Guest could keep the host busy with a reload value of one.
const MINIMUM_PERIOD: u64 = 200_000;

/// How counters are read and written: bits 4 and 5 of the control word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    Low,
    High,
    Both,
}

#[derive(Debug, Clone)]
struct Channel {
    mode: u8,
    access: Access,
    reload: u16,
    /// Host tick at which the counter was loaded; None before the first load.
    loaded: Option<u64>,
    gate: bool,
    /// Low byte written, high byte to come.
    half_written: Option<u8>,
    /// Low byte read, high byte next.
    half_read: bool,
    latched: Option<u16>,
    latched_status: Option<u8>,
    /// Host tick of the next rising output that nobody was told of. Only channel 0 uses it.
    next_edge: Option<u64>,
}

impl Channel {
    fn new(gate: bool) -> Channel {
        Channel {
            mode: 0,
            access: Access::Both,
            reload: 0,
            loaded: None,
            gate,
            half_written: None,
            half_read: false,
            latched: None,
            latched_status: None,
            next_edge: None,
        }
    }

    /// Counts from a load to the end; zero stands for 65,536.
    fn period(&self) -> u64 {
        if self.reload == 0 { 0x1_0000 } else { u64::from(self.reload) }
    }

    fn periodic(&self) -> bool {
        matches!(self.mode, 2 | 3)
    }

    /// Input clocks since the load.
    fn elapsed(&self, now: u64, rate: TscRate) -> u64 {
        let ticks = now.saturating_sub(self.loaded.unwrap_or(now));
        (rate.duration(ticks).as_nanos() * u128::from(HERTZ) / 1_000_000_000) as u64
    }

    fn count(&self, now: u64, rate: TscRate) -> u16 {
        let elapsed = self.elapsed(now, rate);
        let period = self.period();
        let count = match self.mode {
            // Square wave: counts down by two, twice a period.
            3 => period - (elapsed * 2) % period,
            2 => period - elapsed % period,
            _ => period.wrapping_sub(elapsed),
        };
        count as u16
    }

    fn output(&self, now: u64, rate: TscRate) -> bool {
        let elapsed = self.elapsed(now, rate);
        let period = self.period();
        match self.mode {
            0 | 1 => self.loaded.is_some() && elapsed >= period,
            2 => elapsed % period != period - 1,
            3 => elapsed % period < period.div_ceil(2),
            _ => elapsed != period,
        }
    }

    fn load(&mut self, value: u16, now: u64, rate: TscRate) {
        self.reload = value;
        self.loaded = Some(now);
        self.next_edge = Some(now.saturating_add(self.interval(rate)));
    }

    /// Host ticks from one rising output to the next.
    fn interval(&self, rate: TscRate) -> u64 {
        let nanoseconds = self.period() * 1_000_000_000 / HERTZ;
        rate.ticks(if self.periodic() { nanoseconds.max(MINIMUM_PERIOD) } else { nanoseconds }).max(1)
    }

    fn write(&mut self, value: u8, now: u64, rate: TscRate) {
        match (self.access, self.half_written.take()) {
            (Access::Low, _) => self.load(u16::from(value), now, rate),
            (Access::High, _) => self.load(u16::from(value) << 8, now, rate),
            (Access::Both, None) => self.half_written = Some(value),
            (Access::Both, Some(low)) => self.load(u16::from_le_bytes([low, value]), now, rate),
        }
    }

    fn read(&mut self, now: u64, rate: TscRate) -> u8 {
        if let Some(status) = self.latched_status.take() {
            return status;
        }
        let [low, high] = self.latched.unwrap_or_else(|| self.count(now, rate)).to_le_bytes();
        let (byte, done) = match self.access {
            Access::Low => (low, true),
            Access::High => (high, true),
            Access::Both if self.half_read => (high, true),
            Access::Both => (low, false),
        };
        self.half_read = !done;
        if done {
            self.latched = None;
        }
        byte
    }

    fn configure(&mut self, control: u8) {
        self.access = match control >> 4 & 3 {
            1 => Access::Low,
            2 => Access::High,
            _ => Access::Both,
        };
        // Modes 6 and 7 are 2 and 3 again. Counting in decimal (bit 0) is not kept: no PC kernel counts so.
        let mode = control >> 1 & 7;
        *self = Channel {
            mode: if mode > 5 { mode - 4 } else { mode },
            access: self.access,
            reload: self.reload,
            ..Channel::new(self.gate)
        };
    }

    fn status(&self, now: u64, rate: TscRate) -> u8 {
        let access = match self.access {
            Access::Low => 1,
            Access::High => 2,
            Access::Both => 3,
        };
        let unloaded = u8::from(self.loaded.is_none());
        u8::from(self.output(now, rate)) << 7 | unloaded << 6 | access << 4 | self.mode << 1
    }
}

/// The timer.
pub struct Pit {
    rate: TscRate,
    channels: [Channel; 3],
    /// Bits 0 and 1 of port 0x61 as written: gate of channel 2, and the speaker nobody hears.
    speaker: u8,
    /// Bit 4 of port 0x61 toggles with every memory refresh; kernels wait for it to change.
    refresh: bool,
}

impl Pit {
    /// Stopped.
    pub fn new(rate: TscRate) -> Pit {
        let channels = [Channel::new(true), Channel::new(true), Channel::new(false)];
        Pit { rate, channels, speaker: 0, refresh: false }
    }

    /// When channel 0 interrupts next, in host ticks.
    pub fn deadline(&self) -> Option<u64> {
        self.channels[0].next_edge
    }

    /// True when channel 0's output rose since it was last asked. Missed periods count once.
    pub fn advance(&mut self, now: u64) -> bool {
        let rate = self.rate;
        let channel = &mut self.channels[0];
        let Some(edge) = channel.next_edge.filter(|edge| *edge <= now) else { return false };
        channel.next_edge = channel.periodic().then(|| {
            let interval = channel.interval(rate);
            (now - (now - edge) % interval).saturating_add(interval)
        });
        true
    }

    /// Reads one of [`PORTS`].
    pub fn read(&mut self, port: u16, now: u64) -> u8 {
        match port {
            0x40..=0x42 => self.channels[usize::from(port - 0x40)].read(now, self.rate),
            0x61 => {
                self.refresh = !self.refresh;
                let output = self.channels[2].output(now, self.rate);
                self.speaker | u8::from(self.refresh) << 4 | u8::from(output) << 5
            }
            _ => 0xff,
        }
    }

    /// Writes one of [`PORTS`].
    pub fn write(&mut self, port: u16, value: u8, now: u64) {
        match port {
            0x40..=0x42 => self.channels[usize::from(port - 0x40)].write(value, now, self.rate),
            0x43 => self.control(value, now),
            0x61 => self.write_speaker(value, now),
            _ => {}
        }
    }

    fn control(&mut self, value: u8, now: u64) {
        let rate = self.rate;
        match value >> 6 {
            3 => {
                // Read-back: latch count (bit 5 low) and status (bit 4 low) of the channels in bits 1 to 3.
                for (number, channel) in self.channels.iter_mut().enumerate() {
                    if value >> (number + 1) & 1 != 0 {
                        if value & 0x20 == 0 {
                            channel.latched.get_or_insert(channel.count(now, rate));
                        }
                        if value & 0x10 == 0 {
                            channel.latched_status.get_or_insert(channel.status(now, rate));
                        }
                    }
                }
            }
            number => {
                let channel = &mut self.channels[usize::from(number)];
                if value & 0x30 == 0 {
                    channel.latched.get_or_insert(channel.count(now, rate));
                } else {
                    channel.configure(value);
                }
            }
        }
    }

    fn write_speaker(&mut self, value: u8, now: u64) {
        let gate = value & 1 != 0;
        let channel = &mut self.channels[2];
        if gate && !channel.gate && channel.loaded.is_some() {
            // A rising gate starts the count again in every mode but 0, where it goes on; nobody stops it half-way.
            channel.loaded = Some(now);
        }
        channel.gate = gate;
        self.speaker = value & 3;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One host tick a nanosecond makes the arithmetic plain.
    const RATE: u64 = 1_000_000;
    /// Nanoseconds of 1193 input clocks: a millisecond.
    const MILLISECOND: u64 = 1_000_000;

    fn pit() -> Pit {
        Pit::new(TscRate::from_khz(RATE))
    }

    #[test]
    fn channel_0_interrupts_every_period() {
        let mut pit = pit();
        pit.write(0x43, 0x34, 0);
        pit.write(0x40, 0xa9, 0);
        assert_eq!(pit.deadline(), None, "half a count starts nothing");
        pit.write(0x40, 0x04, 0);
        let first = pit.deadline().unwrap();
        assert!(first.abs_diff(MILLISECOND) < 1000, "{first}");
        assert!(!pit.advance(first - 1));
        assert!(pit.advance(first));
        assert!(pit.deadline().unwrap().abs_diff(2 * MILLISECOND) < 2000);
    }

    #[test]
    fn mode_0_interrupts_once() {
        let mut pit = pit();
        pit.write(0x43, 0x30, 0);
        pit.write(0x40, 0xff, 0);
        pit.write(0x40, 0x00, 0);
        assert!(pit.advance(MILLISECOND));
        assert_eq!(pit.deadline(), None);
    }

    #[test]
    fn a_reload_of_one_is_stretched() {
        let mut pit = pit();
        pit.write(0x43, 0x14, 0);
        pit.write(0x40, 1, 0);
        assert_eq!(pit.deadline(), Some(MINIMUM_PERIOD));
    }

    #[test]
    fn a_latched_count_stands_still_until_it_is_read() {
        let mut pit = pit();
        pit.write(0x43, 0x34, 0);
        pit.write(0x40, 0, 0);
        pit.write(0x40, 0, 0);
        pit.write(0x43, 0x00, MILLISECOND);
        let read = |pit: &mut Pit, now| u16::from_le_bytes([pit.read(0x40, now), pit.read(0x40, now)]);
        let expected = (0x1_0000 - 1193) as u16;
        assert_eq!(read(&mut pit, 5 * MILLISECOND), expected);
        assert!(read(&mut pit, 5 * MILLISECOND) < expected);
    }

    #[test]
    fn the_calibration_of_linux_sees_channel_2_end() {
        let mut pit = pit();
        let gate = pit.read(0x61, 0) & !2 | 1;
        pit.write(0x61, gate, 0);
        pit.write(0x43, 0xb0, 0);
        pit.write(0x42, 0xa9, 0);
        pit.write(0x42, 0x04, 0);
        assert_eq!(pit.read(0x61, MILLISECOND / 2) & 0x20, 0);
        assert_eq!(pit.read(0x61, MILLISECOND * 2) & 0x20, 0x20);
    }

    #[test]
    fn read_back_tells_mode_and_output() {
        let mut pit = pit();
        pit.write(0x43, 0x36, 0);
        pit.write(0x43, 0xe2, 0);
        let status = pit.read(0x40, 0);
        assert_eq!(status & 0x3f, 0x36);
        assert_eq!(status & 0x40, 0x40, "not loaded yet");
    }
}
