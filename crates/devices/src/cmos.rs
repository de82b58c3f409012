//! The CMOS chip: a clock and a little memory that survive power-off on a real PC (Motorola MC146818A).
//!
//! The clock shows the Host's time in UTC and cannot be set: the Guest keeps its own time once it runs, and a wish
//! to set this one is taken and forgotten. There is no alarm, no interrupt, and an update is never in progress,
//! because every read computes the time afresh.

use crate::bus::Device;
use crate::outside::Clock;

/// Where the century is kept, as the FADT says.
pub const CENTURY: u8 = 0x32;
/// Bytes behind the index; bit 7 of the index belongs to the NMI gate.
const SIZE: usize = 128;

// Registers (MC146818A data sheet, figure 5).
const SECONDS: u8 = 0x00;
const MINUTES: u8 = 0x02;
const HOURS: u8 = 0x04;
const DAY_OF_WEEK: u8 = 0x06;
const DAY: u8 = 0x07;
const MONTH: u8 = 0x08;
const YEAR: u8 = 0x09;
const STATUS_A: u8 = 0x0a;
const STATUS_B: u8 = 0x0b;
const STATUS_C: u8 = 0x0c;
const STATUS_D: u8 = 0x0d;
/// The usual divider and rate, and no update in progress.
const STATUS_A_VALUE: u8 = 0x26;
/// Status B: 24 hours rather than 12, and binary rather than decimal digits.
const HOURS_24: u8 = 0x02;
const BINARY: u8 = 0x04;
/// Status D: the battery is good.
const VALID: u8 = 0x80;
/// In 12-hour mode: afternoon.
const AFTERNOON: u8 = 0x80;

const SECONDS_A_DAY: u64 = 86_400;

/// A date of the Gregorian calendar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Date {
    year: u64,
    month: u8,
    day: u8,
}

impl Date {
    /// From days since 1970-01-01. Counting from a March makes the leap day the last of its year.
    fn from_days(days: u64) -> Date {
        const DAYS_TO_1970: u64 = 719_468;
        const DAYS_400_YEARS: u64 = 146_097;
        let days = days + DAYS_TO_1970;
        let (era, day) = (days / DAYS_400_YEARS, days % DAYS_400_YEARS);
        let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
        let day_of_year = day - (365 * year + year / 4 - year / 100);
        let march_month = (5 * day_of_year + 2) / 153;
        let day = (day_of_year - (153 * march_month + 2) / 5 + 1) as u8;
        let month = (if march_month < 10 { march_month + 3 } else { march_month - 9 }) as u8;
        Date { year: era * 400 + year + u64::from(month <= 2), month, day }
    }
}

/// The chip.
pub struct Cmos<C> {
    clock: C,
    index: u8,
    memory: [u8; SIZE],
}

impl<C: Clock> Cmos<C> {
    /// A chip with empty memory that shows `clock`'s time.
    pub fn new(clock: C) -> Self {
        let mut memory = [0; SIZE];
        memory[usize::from(STATUS_B)] = HOURS_24;
        Cmos { clock, index: 0, memory }
    }

    /// The register's value in the form that status B asks for.
    fn number(&self, value: u64) -> u8 {
        let value = (value % 100) as u8;
        if self.memory[usize::from(STATUS_B)] & BINARY != 0 {
            value
        } else {
            ((value / 10) << 4) | (value % 10)
        }
    }

    fn hours(&self, hours: u64) -> u8 {
        if self.memory[usize::from(STATUS_B)] & HOURS_24 != 0 {
            return self.number(hours);
        }
        let twelve = if hours.is_multiple_of(12) { 12 } else { hours % 12 };
        self.number(twelve) | if hours >= 12 { AFTERNOON } else { 0 }
    }

    fn read_register(&self, register: u8) -> u8 {
        let now = self.clock.wall();
        let (days, second) = (now / SECONDS_A_DAY, now % SECONDS_A_DAY);
        let date = Date::from_days(days);
        match register {
            SECONDS => self.number(second % 60),
            MINUTES => self.number(second / 60 % 60),
            HOURS => self.hours(second / 3600),
            // 1970-01-01 was a Thursday, and Sunday is 1.
            DAY_OF_WEEK => self.number((days + 4) % 7 + 1),
            DAY => self.number(date.day.into()),
            MONTH => self.number(date.month.into()),
            YEAR => self.number(date.year % 100),
            CENTURY => self.number(date.year / 100),
            STATUS_A => STATUS_A_VALUE,
            STATUS_C => 0,
            STATUS_D => VALID,
            _ => self.memory[usize::from(register)],
        }
    }

    fn write_register(&mut self, register: u8, value: u8) {
        // What is computed on every read keeps nothing; alarms (1, 3, 5) are memory that never rings.
        self.memory[usize::from(register)] = value;
    }
}

impl<C: Clock> Device for Cmos<C> {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        for (port, byte) in (offset..).zip(data) {
            if port == 1 {
                *byte = self.read_register(self.index);
            }
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        for (port, &byte) in (offset..).zip(data) {
            match port {
                0 => self.index = byte & 0x7f,
                _ => self.write_register(self.index, byte),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed(u64);

    impl Clock for Fixed {
        fn monotonic(&self) -> u64 {
            0
        }
        fn wall(&self) -> u64 {
            self.0
        }
    }

    fn read<C: Clock>(cmos: &mut Cmos<C>, register: u8) -> u8 {
        cmos.write(0, &[register]);
        let mut byte = [0];
        cmos.read(1, &mut byte);
        byte[0]
    }

    fn time<C: Clock>(cmos: &mut Cmos<C>) -> [u8; 8] {
        [CENTURY, YEAR, MONTH, DAY, DAY_OF_WEEK, HOURS, MINUTES, SECONDS].map(|register| read(cmos, register))
    }

    #[test]
    fn the_time_is_the_hosts_in_decimal_digits() {
        // Thursday 2024-02-29 23:59:58 UTC.
        let mut cmos = Cmos::new(Fixed(1_709_251_198));
        assert_eq!(time(&mut cmos), [0x20, 0x24, 0x02, 0x29, 0x05, 0x23, 0x59, 0x58]);
    }

    #[test]
    fn binary_and_twelve_hours_are_served_when_asked_for() {
        let mut cmos = Cmos::new(Fixed(1_709_251_198));
        cmos.write(0, &[STATUS_B]);
        cmos.write(1, &[BINARY]);
        assert_eq!(time(&mut cmos), [20, 24, 2, 29, 5, 11 | AFTERNOON, 59, 58]);
        let mut midnight = Cmos::new(Fixed(1_709_251_200));
        midnight.write(0, &[STATUS_B, 0]);
        assert_eq!(read(&mut midnight, HOURS), 0x12, "midnight is 12 AM");
        assert_eq!([read(&mut midnight, MONTH), read(&mut midnight, DAY)], [3, 1]);
    }

    #[test]
    fn dates_agree_with_a_day_by_day_count() {
        let leap =
            |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
        let mut expected = Date { year: 1970, month: 1, day: 1 };
        for days in 0..200_000 {
            assert_eq!(Date::from_days(days), expected, "day {days}");
            let length = match expected.month {
                2 if leap(expected.year) => 29,
                2 => 28,
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            expected.day += 1;
            if expected.day > length {
                expected = Date { day: 1, month: expected.month + 1, ..expected };
            }
            if expected.month > 12 {
                expected = Date { month: 1, year: expected.year + 1, ..expected };
            }
        }
    }

    #[test]
    fn no_update_is_ever_in_progress_and_the_battery_is_good() {
        let mut cmos = Cmos::new(Fixed(0));
        assert_eq!(read(&mut cmos, STATUS_A) & 0x80, 0);
        assert_eq!(read(&mut cmos, STATUS_D), VALID);
    }

    #[test]
    fn memory_keeps_what_is_written_and_the_clock_does_not() {
        let mut cmos = Cmos::new(Fixed(0));
        cmos.write(0, &[0x40]);
        cmos.write(1, &[0x5a]);
        assert_eq!(read(&mut cmos, 0x40), 0x5a);
        cmos.write(0, &[YEAR]);
        cmos.write(1, &[0x99]);
        assert_eq!(read(&mut cmos, YEAR), 0x70);
    }
}
