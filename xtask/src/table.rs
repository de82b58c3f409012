//! Numbers to look at: medians, ratios and columns.

use std::fmt::Write;

/// The middle of some figures, the mean of the two middle ones when there is no middle.
pub fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let half = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[half],
        _ => (sorted[half - 1] + sorted[half]) / 2.0,
    }
}

/// The geometric mean; what ratios are averaged with.
pub fn geometric_mean(ratios: &[f64]) -> f64 {
    (ratios.iter().map(|ratio| ratio.ln()).sum::<f64>() / ratios.len() as f64).exp()
}

/// A figure with three digits that count.
pub fn figure(value: f64) -> String {
    match value {
        v if v.is_nan() => "-".to_owned(),
        v if v < 10.0 => format!("{v:.2}"),
        v if v < 100.0 => format!("{v:.1}"),
        v => format!("{v:.0}"),
    }
}

/// Lines of cells as columns: the first to the left, the others to the right.
pub fn columns(lines: &[Vec<String>]) -> String {
    let most = lines.iter().map(Vec::len).max().unwrap_or(0);
    let width =
        |column: usize| lines.iter().filter_map(|l| l.get(column)).map(String::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..most).map(width).collect();
    let mut text = String::new();
    for line in lines {
        for (column, cell) in line.iter().enumerate() {
            let width = widths[column];
            let written = match column {
                0 => write!(text, "{cell:width$}"),
                _ => write!(text, "  {cell:>width$}"),
            };
            written.expect("a string takes text");
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}

#[test]
fn a_median_does_not_mind_one_wild_figure() {
    assert_eq!(median(&[3.0, 1000.0, 1.0]), 3.0);
    assert_eq!(median(&[1.0, 3.0]), 2.0);
    assert!(median(&[]).is_nan());
}

#[test]
fn twice_and_half_average_to_one() {
    assert!((geometric_mean(&[2.0, 0.5]) - 1.0).abs() < 1e-12);
}

#[test]
fn columns_line_up() {
    let lines = [vec!["a".into(), "10".into()], vec!["long".into(), "5".into()]];
    assert_eq!(columns(&lines), "a     10\nlong   5\n");
}
