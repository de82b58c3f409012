//! The legacy interrupt controllers: two 8259A, the second on the first one's line 2.
//!
//! Linux programs them, finds that they are there, and masks them for good once the APICs run. So what matters is
//! that probing sees the right bits and that a kernel told `noapic` still gets its interrupts.
//! Rules: Intel 8259A data sheet; edge/level registers: PIIX3 data sheet, 0x4d0.

/// Ports of the pair: command and data of the first and the second, and the edge/level registers.
pub const PORTS: [u16; 6] = [0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1];
/// The line the second controller hangs on.
const CASCADE: u8 = 2;
/// What an acknowledge returns when the request went away: the lowest line.
const SPURIOUS: u8 = 7;
/// Lines that are edge-triggered for ever (timer, keyboard, cascade; clock, coprocessor).
const ELCR_FIXED: [u8; 2] = [0x07, 0x21];

/// Which initialisation word comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expecting {
    Operation,
    Word2,
    Word3,
    Word4,
}

/// One 8259A.
#[derive(Debug, Clone)]
struct Chip {
    lines: u8,
    requested: u8,
    in_service: u8,
    mask: u8,
    level: u8,
    base: u8,
    expecting: Expecting,
    wants_word4: bool,
    auto_end: bool,
    special_mask: bool,
    reads_service: bool,
    poll: bool,
    /// The line with the highest priority.
    first: u8,
}

impl Chip {
    fn new() -> Chip {
        Chip {
            lines: 0,
            requested: 0,
            in_service: 0,
            mask: 0xff,
            level: 0,
            base: 0,
            expecting: Expecting::Operation,
            wants_word4: false,
            auto_end: false,
            special_mask: false,
            reads_service: false,
            poll: false,
            first: 0,
        }
    }

    fn set_line(&mut self, line: u8, up: bool) {
        let bit = 1 << line;
        let rose = up && self.lines & bit == 0;
        self.lines = if up { self.lines | bit } else { self.lines & !bit };
        if self.level & bit != 0 {
            self.requested = if up { self.requested | bit } else { self.requested & !bit };
        } else if rose {
            self.requested |= bit;
        } else if !up {
            // An edge that goes away before it was taken is forgotten: then the acknowledge is spurious.
            self.requested &= !bit;
        }
    }

    /// Distance from the first line of the most important bit; 8 when there is none.
    fn rank(&self, bits: u8) -> u8 {
        bits.rotate_right(u32::from(self.first)).trailing_zeros() as u8
    }

    /// The line that asks for its processor now.
    fn pending(&self) -> Option<u8> {
        let wanted = self.rank(self.requested & !self.mask);
        // In special mask mode a masked line in service does not hold the others back.
        let serving = if self.special_mask { self.in_service & !self.mask } else { self.in_service };
        (wanted < self.rank(serving)).then(|| (wanted + self.first) & 7)
    }

    fn acknowledge(&mut self) -> Option<u8> {
        let line = self.pending()?;
        let bit = 1 << line;
        if self.level & bit == 0 {
            self.requested &= !bit;
        }
        if !self.auto_end {
            self.in_service |= bit;
        }
        Some(line)
    }

    fn write_command(&mut self, value: u8) {
        if value & 0x10 != 0 {
            // ICW1 starts initialisation; bit 0 promises ICW4. Single mode does not exist on this board.
            *self = Chip { lines: self.lines, level: self.level, mask: 0, ..Chip::new() };
            self.expecting = Expecting::Word2;
            self.wants_word4 = value & 1 != 0;
        } else if value & 0x08 != 0 {
            self.write_operation3(value);
        } else {
            self.write_operation2(value);
        }
    }

    /// OCW3: which register reads show, polling, special mask.
    fn write_operation3(&mut self, value: u8) {
        self.poll = value & 0x04 != 0;
        if value & 0x02 != 0 {
            self.reads_service = value & 0x01 != 0;
        }
        if value & 0x40 != 0 {
            self.special_mask = value & 0x20 != 0;
        }
    }

    /// OCW2: ends of interrupt and rotations. Rotation in automatic mode is not kept: nobody uses it.
    fn write_operation2(&mut self, value: u8) {
        let (rotate, specific, end) = (value & 0x80 != 0, value & 0x40 != 0, value & 0x20 != 0);
        let rank = self.rank(self.in_service);
        let line = if specific {
            value & 7
        } else if rank < 8 {
            (rank + self.first) & 7
        } else {
            return;
        };
        if end {
            self.in_service &= !(1 << line);
        }
        if rotate {
            self.first = (line + 1) & 7;
        }
    }

    fn write_data(&mut self, value: u8) {
        match self.expecting {
            Expecting::Operation => self.mask = value,
            Expecting::Word2 => {
                self.base = value & 0xf8;
                self.expecting = Expecting::Word3;
            }
            Expecting::Word3 => {
                self.expecting = if self.wants_word4 { Expecting::Word4 } else { Expecting::Operation };
            }
            Expecting::Word4 => {
                self.auto_end = value & 0x02 != 0;
                self.expecting = Expecting::Operation;
            }
        }
    }

    fn read_command(&mut self) -> u8 {
        if std::mem::take(&mut self.poll) {
            return self.acknowledge().map_or(0, |line| 0x80 | line);
        }
        if self.reads_service { self.in_service } else { self.requested }
    }
}

/// The pair.
pub struct Pic {
    chips: [Chip; 2],
}

impl Pic {
    /// After power-on, everything masked.
    pub fn new() -> Pic {
        Pic { chips: [Chip::new(), Chip::new()] }
    }

    /// A line (0 to 15) changes. Line 2 is the cascade and belongs to nobody.
    pub fn set_line(&mut self, line: u8, up: bool) {
        match line {
            CASCADE => {}
            0..8 => self.chips[0].set_line(line, up),
            8..16 => self.chips[1].set_line(line - 8, up),
            _ => {}
        }
        self.cascade();
    }

    fn cascade(&mut self) {
        let up = self.chips[1].pending().is_some();
        self.chips[0].set_line(CASCADE, up);
    }

    /// The output towards the processor.
    pub fn output(&self) -> bool {
        self.chips[0].pending().is_some()
    }

    /// The processor takes the interrupt; the vector it gets. Without a request it is the spurious one.
    pub fn acknowledge(&mut self) -> u8 {
        let Some(line) = self.chips[0].acknowledge() else { return self.chips[0].base | SPURIOUS };
        if line != CASCADE {
            return self.chips[0].base | line;
        }
        let second = self.chips[1].acknowledge().unwrap_or(SPURIOUS);
        self.cascade();
        self.chips[1].base | second
    }

    /// Reads one of [`PORTS`]; others are all ones.
    pub fn read(&mut self, port: u16) -> u8 {
        let value = match port {
            0x20 => self.chips[0].read_command(),
            0xa0 => self.chips[1].read_command(),
            0x21 => self.chips[0].mask,
            0xa1 => self.chips[1].mask,
            0x4d0 | 0x4d1 => self.chips[usize::from(port - 0x4d0)].level,
            _ => 0xff,
        };
        self.cascade();
        value
    }

    /// Writes one of [`PORTS`].
    pub fn write(&mut self, port: u16, value: u8) {
        match port {
            0x20 => self.chips[0].write_command(value),
            0xa0 => self.chips[1].write_command(value),
            0x21 => self.chips[0].write_data(value),
            0xa1 => self.chips[1].write_data(value),
            0x4d0 | 0x4d1 => {
                let number = usize::from(port - 0x4d0);
                self.chips[number].level = value & !ELCR_FIXED[number];
            }
            _ => {}
        }
        self.cascade();
    }
}

impl Default for Pic {
    fn default() -> Self {
        Pic::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Initialised as Linux does: vectors 0x30 and 0x38, everything unmasked.
    fn ready() -> Pic {
        let mut pic = Pic::new();
        for (command, base) in [(0x20, 0x30), (0xa0, 0x38)] {
            pic.write(command, 0x11);
            pic.write(command + 1, base);
            pic.write(command + 1, if command == 0x20 { 4 } else { 2 });
            pic.write(command + 1, 1);
            pic.write(command + 1, 0);
        }
        pic
    }

    #[test]
    fn the_probe_of_linux_reads_its_mask_back() {
        let mut pic = Pic::new();
        pic.write(0xa1, 0xff);
        pic.write(0x21, 0xfb);
        assert_eq!(pic.read(0x21), 0xfb);
    }

    #[test]
    fn an_interrupt_is_in_service_until_its_end() {
        let mut pic = ready();
        pic.set_line(4, true);
        assert!(pic.output());
        assert_eq!(pic.acknowledge(), 0x34);
        pic.set_line(4, false);
        pic.set_line(4, true);
        assert!(!pic.output(), "the same line waits");
        pic.set_line(1, true);
        assert!(pic.output(), "a better one does not");
        pic.write(0x20, 0x64);
        pic.set_line(1, false);
        assert_eq!(pic.acknowledge(), 0x34);
    }

    #[test]
    fn the_second_controller_comes_through_the_first() {
        let mut pic = ready();
        pic.set_line(8, true);
        assert_eq!(pic.acknowledge(), 0x38);
        pic.write(0x20, 0x0b);
        assert_eq!(pic.read(0x20), 1 << CASCADE);
        pic.write(0xa0, 0x20);
        pic.write(0x20, 0x20);
        assert_eq!(pic.read(0x20), 0);
    }

    #[test]
    fn a_request_that_went_away_is_spurious() {
        let mut pic = ready();
        pic.set_line(4, true);
        pic.set_line(4, false);
        assert_eq!(pic.acknowledge(), 0x37);
        pic.write(0x20, 0x0b);
        assert_eq!(pic.read(0x20), 0, "and not in service");
    }

    #[test]
    fn a_level_line_asks_again_after_its_end() {
        let mut pic = ready();
        pic.write(0x4d1, 0xff);
        assert_eq!(pic.read(0x4d1), !0x21);
        pic.set_line(9, true);
        assert_eq!(pic.acknowledge(), 0x39);
        pic.write(0xa0, 0x20);
        pic.write(0x20, 0x20);
        assert!(pic.output());
        pic.set_line(9, false);
        assert!(!pic.output());
    }

    #[test]
    fn automatic_end_leaves_nothing_in_service() {
        let mut pic = Pic::new();
        for value in [(0x20, 0x11), (0x21, 0x20), (0x21, 4), (0x21, 3), (0x21, 0)] {
            pic.write(value.0, value.1);
        }
        pic.set_line(0, true);
        assert_eq!(pic.acknowledge(), 0x20);
        pic.set_line(0, false);
        pic.set_line(0, true);
        assert!(pic.output());
    }

    #[test]
    fn polling_acknowledges() {
        let mut pic = ready();
        pic.set_line(5, true);
        pic.write(0x20, 0x0c);
        assert_eq!(pic.read(0x20), 0x85);
        pic.write(0x20, 0x0c);
        assert_eq!(pic.read(0x20), 0);
    }
}
