//! The same results for a program: one JSON object (RFC 8259), written by hand since nothing here reads any.

use super::results::Results;
use super::rows::{HOST_ROWS, ROWS};
use super::verdicts::Verdict;
use crate::machine::{Carriers, Machine};

/// The object: machines with their rows (median, every round), verdicts, and what is missing and why.
pub fn text(machines: &[Machine], carriers: &Carriers, results: &Results, verdicts: &[Verdict]) -> String {
    let names = || ROWS.iter().map(|row| row.name).chain(HOST_ROWS);
    let machine = |machine: &Machine| {
        let rows = names().filter_map(|row| {
            let all = results.all(*machine, row)?.iter().map(|value| number(Some(*value)));
            let median = number(results.median(*machine, row));
            let all = all.collect::<Vec<_>>().join(",");
            Some(format!("{}:{{\"median\":{median},\"rounds\":[{all}]}}", string(row)))
        });
        let rows = rows.collect::<Vec<_>>().join(",");
        let title = string(&machine.title(carriers));
        format!("{}:{{\"title\":{title},\"rows\":{{{rows}}}}}", string(machine.key()))
    };
    let verdict = |verdict: &Verdict| {
        format!(
            "{{\"asked\":{},\"bound\":{},\"measured\":{},\"verdict\":{}}}",
            string(&verdict.asked),
            string(&verdict.bound),
            number(verdict.measured),
            string(verdict.word())
        )
    };
    let missing = results.missing().map(|(machine, row, kind, why)| {
        let [machine, row, kind, why] = [machine.key(), row, kind, why].map(string);
        format!("{{\"machine\":{machine},\"row\":{row},\"kind\":{kind},\"why\":{why}}}")
    });
    format!(
        "{{\"machines\":{{{}}},\n\"verdicts\":[{}],\n\"missing\":[{}]}}\n",
        machines.iter().map(machine).collect::<Vec<_>>().join(",\n"),
        verdicts.iter().map(verdict).collect::<Vec<_>>().join(",\n"),
        missing.collect::<Vec<_>>().join(",\n")
    )
}

/// JSON has no number for what is not one.
fn number(value: Option<f64>) -> String {
    value.filter(|value| value.is_finite()).map_or("null".to_owned(), |value| value.to_string())
}

fn string(text: &str) -> String {
    let mut quoted = String::from("\"");
    for letter in text.chars() {
        match letter {
            '"' | '\\' => quoted.extend(['\\', letter]),
            letter if letter < ' ' => quoted += &format!("\\u{:04x}", letter as u32),
            letter => quoted.push(letter),
        }
    }
    quoted + "\""
}

#[test]
fn control_characters_and_quotes_are_escaped() {
    assert_eq!(string("a\"b\\c\n"), "\"a\\\"b\\\\c\\u000a\"");
    assert_eq!(number(Some(f64::NAN)), "null");
}
