use super::*;
use lguest_host::ExitCounts;
use lguest_host::sight::Times;
use lguest_translator::Statistics;

fn account() -> Account {
    let ms = Duration::from_millis;
    let report = Report {
        exits: ExitCounts { ports: 7, ..ExitCounts::default() },
        translator: Some(Statistics { units: 3, code_bytes: 3 << 20, ..Statistics::default() }),
        times: Some(Times { generated: ms(50), translating: ms(20), processor: ms(10), asleep: ms(5) }),
        carried_out: vec![("wrmsr".to_owned(), 9), ("cpuid".to_owned(), 1)],
    };
    Account { elapsed: ms(100), reports: vec![report], memory: None }
}

#[test]
fn the_table_names_every_figure_with_its_unit() {
    let table = account().write(Form::Table);
    let line = |name: &str| table.lines().find(|l| l.trim().starts_with(name)).unwrap().to_owned();
    assert!(line("ports").ends_with(" 7"), "{table}");
    assert!(line("code bytes").ends_with(" 3.0 MiB"), "{table}");
    assert!(line("wrmsr").ends_with(" 9"), "{table}");
}

#[test]
fn what_no_kind_accounts_for_is_the_boards() {
    let table = account().write(Form::Table);
    assert!(table.contains("devices and board") && table.contains("0.015 s"), "{table}");
}

#[test]
fn json_holds_the_same_figures_with_balanced_brackets() {
    let json = account().write(Form::Json);
    assert!(json.contains("\"exits\":{\"ports\":[7],"), "{json}");
    assert!(json.contains("\"generated_code\":[0.050000]"), "{json}");
    let count = |c| json.matches(c).count();
    assert_eq!((count('{'), count('[')), (count('}'), count(']')));
    assert_eq!(json.lines().count(), 1);
}

#[test]
fn a_vcpu_without_a_translator_has_exits_and_no_empty_rows() {
    let account = Account { elapsed: Duration::ZERO, reports: vec![Report::default()], memory: None };
    let table = account.write(Form::Table);
    assert!(table.contains("ports") && !table.contains("units"), "{table}");
}

#[test]
fn another_form_is_refused_by_name() {
    let Mistake(sentence) = form("xml").unwrap_err();
    assert!(sentence.contains("--stats xml") && sentence.contains("json"), "{sentence}");
}
