//! The control channel: what our first process writes to its second serial port.
//!
//! Its lines: `begun` (the first process is there), `ready` (input may come), `agent` or `no agent` (who was asked for listens, or
//! cannot), and `status N` (the session ended with N, 0 to 255). The
//! bytes come from the Guest, so they may be anything, for ever: a line longer than any of ours is dropped as it
//! comes, and of several reports the first one counts.

/// Longer than any line of ours, carriage return included.
const LONGEST_LINE: usize = 32;

/// What a line said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// The first process is there.
    Begun,
    /// The session is about to start and reads its input.
    Ready,
    /// The agent for `lguest exec` listens; false when it cannot.
    Agent(bool),
    /// The session ended with this exit status.
    Status(u8),
}

/// Reads reports out of a stream of bytes, with bounded memory.
#[derive(Debug, Default)]
pub struct ReportReader {
    line: Vec<u8>,
    too_long: bool,
}

impl ReportReader {
    /// Takes the next byte; a byte that ends a line of ours gives its report.
    pub fn take(&mut self, byte: u8) -> Option<Report> {
        if byte != b'\n' {
            self.too_long |= self.line.len() == LONGEST_LINE;
            if !self.too_long {
                self.line.push(byte);
            }
            return None;
        }
        let report = if self.too_long { None } else { parse(&self.line) };
        self.line.clear();
        self.too_long = false;
        report
    }
}

fn parse(line: &[u8]) -> Option<Report> {
    let line = std::str::from_utf8(line).ok()?.trim_end_matches('\r');
    match line {
        "begun" => return Some(Report::Begun),
        "ready" => return Some(Report::Ready),
        "agent" => return Some(Report::Agent(true)),
        "no agent" => return Some(Report::Agent(false)),
        _ => {}
    }
    let digits = line.strip_prefix("status ")?;
    if digits.len() > 3 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok().map(Report::Status)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reports(bytes: &[u8]) -> Vec<Report> {
        let mut reader = ReportReader::default();
        bytes.iter().filter_map(|byte| reader.take(*byte)).collect()
    }

    #[test]
    fn both_lines_are_understood_with_and_without_carriage_return() {
        assert_eq!(reports(b"begun\nready\nstatus 0\n"), [Report::Begun, Report::Ready, Report::Status(0)]);
        assert_eq!(reports(b"agent\nno agent\n"), [Report::Agent(true), Report::Agent(false)]);
        assert_eq!(reports(b"ready\r\nstatus 255\r\n"), [Report::Ready, Report::Status(255)]);
    }

    #[test]
    fn garbage_before_and_between_is_passed_over() {
        let bytes = b"\xff\xfe\0\nhello\n\nstatus\nstatus \nstatus 256\nstatus -1\nstatus +1\nstatus 1x\nstatus 0007\nstatus 7\n";
        assert_eq!(reports(bytes), [Report::Status(7)]);
    }

    #[test]
    fn an_endless_line_takes_no_memory_and_hides_nothing_after_it() {
        let mut reader = ReportReader::default();
        for _ in 0..1_000_000 {
            assert_eq!(reader.take(b's'), None);
        }
        assert!(reader.line.capacity() <= 2 * LONGEST_LINE);
        assert_eq!(reader.take(b'\n'), None);
        let found: Vec<_> = b"status 5\n".iter().filter_map(|byte| reader.take(*byte)).collect();
        assert_eq!(found, [Report::Status(5)]);
    }

    #[test]
    fn a_long_line_that_ends_like_a_report_is_none() {
        let mut line = vec![b'x'; 40];
        line.extend(b"\rstatus 1\n");
        assert_eq!(reports(&line), []);
    }
}
