//! Text for people, and JSON, on standard output.

use std::io::{self, Write};

use anyhow::Context;

/// Writes to standard output. A reader that is gone (`| head`) has had what it wanted, and that is no failure.
///
/// # Errors
/// Whatever else the system says.
pub fn print(text: impl AsRef<[u8]>) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_ref()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("standard output"),
    }
}

/// Writes one JSON document and a newline.
///
/// # Errors
/// As [`print()`], and if the value has no JSON.
pub fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    let mut text = serde_json::to_string_pretty(value)?;
    text.push('\n');
    print(text)
}

/// `12345678` as `12,345,678`.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// So many significant digits, grouped.
pub(crate) fn significant(value: f64, digits: usize) -> String {
    // Rounded first: 99.96 has one decimal less than 99.94.
    let rounded: f64 = format!("{value:.*e}", digits - 1).parse().unwrap_or(value);
    let before_point = if rounded < 1e-300 { 1 } else { rounded.log10().floor() as i32 + 1 };
    match usize::try_from(digits as i32 - before_point) {
        Ok(decimals) if decimals > 0 => format!("{rounded:.decimals$}"),
        _ => count(rounded as u64),
    }
}

/// Three significant digits, two decimals at most.
pub fn three_digits(value: f64) -> String {
    let decimals = match value {
        99.95.. => 0,
        9.995.. => 1,
        _ => 2,
    };
    format!("{value:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_grouped() {
        let shown = [0, 999, 1_000, 24_576_000].map(count);
        assert_eq!(shown, ["0", "999", "1,000", "24,576,000"]);
    }

    #[test]
    fn digits_are_significant() {
        let values = [0.0, 0.0374, 0.614, 1.0, 9.996, 20.0, 99.94, 99.96, 999.6, 1_645.0, 10_754.0];
        assert_eq!(
            values.map(|value| significant(value, 3)),
            ["0.00", "0.0374", "0.614", "1.00", "10.0", "20.0", "99.9", "100", "1,000", "1,640", "10,800"]
        );
        assert_eq!(
            values.map(|value| significant(value, 2)),
            ["0.0", "0.037", "0.61", "1.0", "10", "20", "100", "100", "1,000", "1,600", "11,000"]
        );
    }

    #[test]
    fn figures_have_three_digits() {
        let shown = [0.712, 1.5, 20.0, 99.94, 99.96, 1234.5].map(three_digits);
        assert_eq!(shown, ["0.71", "1.50", "20.0", "99.9", "100", "1234"]);
    }
}
