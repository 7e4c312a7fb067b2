//! Tables, ready for the documents.

use crate::measuring::{Entry, Summary, take_turns};
use gpu_events::Result;

/// A figure, with as many digits as say something.
pub(crate) fn figure(value: f64) -> String {
    match value.abs() {
        size if size >= 1_000.0 => {
            let digits = format!("{:.0}", value.abs());
            let groups: Vec<_> =
                digits.as_bytes().rchunks(3).rev().map(|group| String::from_utf8_lossy(group)).collect();
            format!("{}{}", if value < 0.0 { "−" } else { "" }, groups.join(","))
        }
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// So many rounds of each, in turn. Prints the table.
pub(crate) fn in_turn(
    title: &str,
    unit: &str,
    rounds: usize,
    entries: Vec<Entry<'_>>,
) -> Result<Vec<Summary>> {
    let rows = take_turns(title, rounds, entries)?;
    println!(
        "\n{title}\n\n| {unit} | median | p99 | least | most | rounds |\n| --- | --- | --- | --- | --- | --- |"
    );
    for (name, it) in &rows {
        println!(
            "| {name} | {} | {} | {} | {} | {} |",
            figure(it.median),
            figure(it.p99),
            figure(it.least),
            figure(it.most),
            it.count
        );
    }
    Ok(rows.into_iter().map(|(_, summary)| summary).collect())
}

/// What was to be reached.
pub(crate) enum Goal {
    AtMost(f64),
    AtLeast(f64),
    /// To be known.
    None,
}

/// Prints what came of the goals.
pub(crate) fn goals(rows: &[(&str, f64, Goal)]) {
    println!("\n| | measured | goal | reached |\n| --- | --- | --- | --- |");
    for (name, measured, goal) in rows {
        let (goal, reached) = match goal {
            Goal::AtMost(most) => (format!("≤ {most}"), if measured <= most { "yes" } else { "**no**" }),
            Goal::AtLeast(least) => (format!("≥ {least}"), if measured >= least { "yes" } else { "**no**" }),
            Goal::None => ("–".to_owned(), "–"),
        };
        println!("| {name} | {measured:.3} | {goal} | {reached} |");
    }
}
