//! Sizes, times and rates, as people write and read them.

use std::time::Duration;

use crate::fsverity::BLOCK;
pub(crate) use gpu_events_bench::text::{count, three_digits};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Parses `4096`, `64K`, `64KiB`, `1M`, `1 GiB`: whole numbers, binary units, any case.
///
/// `KB` and its like are refused: some tools mean 1000 by it and some 1024.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err("a size is a whole number with a unit, such as 4096, 64K or 1MiB".into());
    }
    let unit = unit.trim_start();
    let scale = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => KIB,
        "m" | "mib" => MIB,
        "g" | "gib" => GIB,
        _ => return Err(format!("unknown unit {unit:?}: one of B, K, KiB, M, MiB, G, GiB")),
    };
    // Nothing but digits is left in the number, so the only error that parsing has is overflow.
    number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(scale))
        .ok_or_else(|| "more than 64 bits can count".into())
}

/// Parses the size of a chunk: one or more whole blocks.
pub(crate) fn parse_chunk(text: &str) -> Result<u64, String> {
    let bytes = parse_size(text)?;
    if bytes == 0 || !bytes.is_multiple_of(BLOCK as u64) {
        return Err("a chunk is a positive multiple of the 4 KiB that fs-verity hashes at a time".into());
    }
    Ok(bytes)
}

/// `4 KiB`, `1.50 GiB`: a fraction only where the unit does not divide it.
pub(crate) fn bytes(bytes: u64) -> String {
    let (unit, name) = match bytes {
        GIB.. => (GIB, "GiB"),
        MIB.. => (MIB, "MiB"),
        KIB.. => (KIB, "KiB"),
        _ => return format!("{bytes} B"),
    };
    if bytes.is_multiple_of(unit) {
        format!("{} {name}", bytes / unit)
    } else {
        format!("{:.2} {name}", bytes as f64 / unit as f64)
    }
}

/// `12.3 MiB/s`: three digits.
pub(crate) fn rate(bytes_per_second: f64) -> String {
    [(GIB, "GiB/s"), (MIB, "MiB/s"), (KIB, "KiB/s")]
        .into_iter()
        .map(|(unit, name)| (bytes_per_second / unit as f64, name))
        .find(|(value, _)| *value >= 1.0)
        .map_or_else(
            || format!("{bytes_per_second:.0} B/s"),
            |(value, name)| format!("{} {name}", three_digits(value)),
        )
}

/// `950 ns`, `12.3 µs`, `4.56 ms`, `7.89 s`: three digits.
pub(crate) fn time(time: Duration) -> String {
    let nanos = time.as_nanos() as f64;
    // The bounds are where three digits of the smaller unit would round up to a fourth.
    match nanos {
        0.0..1e3 => format!("{nanos} ns"),
        0.0..999.5e3 => format!("{} µs", three_digits(nanos / 1e3)),
        0.0..999.5e6 => format!("{} ms", three_digits(nanos / 1e6)),
        _ => format!("{} s", three_digits(nanos / 1e9)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, size) in [
            ("0", 0),
            ("4096", 4096),
            ("4096B", 4096),
            ("64K", 64 << 10),
            ("64k", 64 << 10),
            ("64KiB", 64 << 10),
            ("1M", 1 << 20),
            ("1MiB", 1 << 20),
            ("1 mib", 1 << 20),
            (" 2G ", 2 << 30),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(parse_size(text), Ok(size), "{text:?}");
        }
    }

    #[test]
    fn what_is_no_size() {
        for text in [
            "",
            " ",
            "K",
            "-1",
            "1.5M",
            "64KB",
            "64 Kilo",
            "1e6",
            "0x10",
            "18446744073709551616",
            "17179869184G",
        ] {
            assert!(parse_size(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn chunks_are_whole_blocks() {
        assert_eq!(parse_chunk("4K"), Ok(4096));
        assert_eq!(parse_chunk("12288"), Ok(12288));
        for text in ["0", "0K", "1", "4095", "4097", "6K"] {
            assert!(parse_chunk(text).unwrap_err().contains("multiple"), "{text:?}");
        }
    }

    #[test]
    fn written_for_people() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(4096), "4 KiB");
        assert_eq!(bytes(1 << 30), "1 GiB");
        assert_eq!(bytes((1 << 30) + (1 << 29)), "1.50 GiB");
        assert_eq!(rate(0.0), "0 B/s");
        assert_eq!(rate(1.5 * GIB as f64), "1.50 GiB/s");
        assert_eq!(rate(512.25 * MIB as f64), "512 MiB/s");
        assert_eq!(time(Duration::ZERO), "0 ns");
        assert_eq!(time(Duration::from_nanos(950)), "950 ns");
        assert_eq!(time(Duration::from_nanos(12_345)), "12.3 µs");
        assert_eq!(time(Duration::from_nanos(999_999)), "1.00 ms");
        assert_eq!(time(Duration::from_millis(512)), "512 ms");
        assert_eq!(time(Duration::from_millis(61_250)), "61.2 s");
    }
}
