//! What is printed of each interval, and what all of them come to.

use crate::text;
use anyhow::Result;
use serde::Serialize;
use std::fmt::Write;

/// What one interval came to.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Interval {
    pub(super) seconds: f64,
    pub(super) operations: u64,
    pub(super) per_second: f64,
    /// Processor time of all threads but the measuring one, for each operation.
    pub(super) cpu_ns: Option<f64>,
    /// Bytes of the process's own memory that are resident.
    pub(super) resident: Option<u64>,
    pub(super) live: u64,
    pub(super) idle: u64,
    pub(super) probes: [Option<Timed>; 4],
    /// Cores that others on this machine used meanwhile, and its host.
    pub(super) others: Option<f64>,
}

/// What a probe came to in one interval.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Timed {
    pub(super) median_ns: f64,
    pub(super) p99_ns: f64,
}

/// In the order of [`Interval::probes`].
pub(super) const PROBES: [&str; 4] =
    ["acquire+record+complete+drop", "record to host return", "hand-over", "record to callback"];

/// Whether something stayed as it was.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Verdict {
    pub(super) what: &'static str,
    pub(super) second_quarter: f64,
    pub(super) last_quarter: f64,
    /// What the last quarter may come to.
    pub(super) limit: f64,
    pub(super) flat: bool,
}

/// Over what [`line()`] writes: of the timed things the median, then the 99th percentile.
pub(super) fn header() -> String {
    let (s, operations, rate, cpu, mib) = ("s", "operations", "ops/s", "CPU ns/op", "MiB");
    let mut header = format!("{s:>7} {operations:>14} {rate:>10} {cpu:>10} {mib:>9}  live  idle");
    for probe in ["life, ns", "host return, µs", "hand-over, µs", "callback, µs"] {
        header += &format!(" {probe:>20}");
    }
    header + "    others\n"
}

pub(super) fn line(row: &Interval) -> Result<String> {
    let mut line = String::new();
    let cpu = row.cpu_ns.map_or_else(|| "-".to_owned(), |ns| format!("{ns:.0}"));
    let mib = row.resident.map_or_else(|| "-".to_owned(), |bytes| format!("{:.2}", mib(bytes as f64)));
    write!(line, "{:7.1} {:>14} {:>10.0}", row.seconds, text::count(row.operations), row.per_second)?;
    write!(line, " {cpu:>10} {mib:>9} {:>5} {:>5}", row.live, row.idle)?;
    for (probe, unit) in row.probes.iter().zip([1.0, 1e3, 1e3, 1e3]) {
        match probe {
            Some(Timed { median_ns, p99_ns }) => {
                let shown = [median_ns / unit, p99_ns / unit].map(text::three_digits);
                write!(line, " {:>10} {:>9}", shown[0], shown[1])?;
            }
            None => write!(line, " {:>10} {:>9}", "-", "-")?,
        }
    }
    let others = row.others.map_or_else(|| "-".to_owned(), |cores| format!("{cores:.2}"));
    writeln!(line, " {others:>9}")?;
    Ok(line)
}

fn mib(bytes: f64) -> f64 {
    bytes / f64::from(1 << 20)
}

pub(super) fn table(operations: u64, verdicts: &[Verdict]) -> Result<String> {
    let mut table = String::new();
    writeln!(table, "\n{} operations", text::count(operations))?;
    for Verdict { what, second_quarter, last_quarter, limit, flat } in verdicts {
        let verdict = if *flat { "flat" } else { "NOT FLAT" };
        writeln!(
            table,
            "{what:<40} {second_quarter:>12.2} in the second quarter, {last_quarter:>12.2} in the last one, at most \
             {limit:>12.2}: {verdict}"
        )?;
    }
    Ok(table)
}

/// The second quarter of the intervals, and the last one; none where there are too few.
fn quarters<T>(intervals: &[T]) -> Option<(&[T], &[T])> {
    let quarter = intervals.len() / 4;
    if quarter == 0 {
        return None;
    }
    Some((&intervals[quarter..2 * quarter], &intervals[intervals.len() - quarter..]))
}

/// Compares, over the quarters, what `of` takes from each interval, put together by `whole`. What became less is flat: others
/// let go of the machine, say.
fn compare(
    what: &'static str,
    intervals: &[Interval],
    of: impl Fn(&Interval) -> Option<f64>,
    whole: impl Fn(&[f64]) -> Option<f64>,
    limit: impl Fn(f64) -> f64,
) -> Option<Verdict> {
    let (second, last) = quarters(intervals)?;
    let value = |rows: &[Interval]| whole(&rows.iter().filter_map(&of).collect::<Vec<_>>());
    let (second_quarter, last_quarter) = (value(second)?, value(last)?);
    let limit = limit(second_quarter);
    Some(Verdict { what, second_quarter, last_quarter, limit, flat: last_quarter <= limit })
}

fn mean(values: &[f64]) -> Option<f64> {
    if values.is_empty() { None } else { Some(values.iter().sum::<f64>() / values.len() as f64) }
}

pub(super) fn verdicts(intervals: &[Interval]) -> Vec<Verdict> {
    let median = crate::stats::median;
    let resident = |row: &Interval| row.resident.map(|bytes| mib(bytes as f64));
    let memory = compare("memory, MiB", intervals, resident, mean, |mib| mib * 1.05 + 1.0);
    let cpu = compare("CPU time for an operation, ns", intervals, |row| row.cpu_ns, median, |ns| ns * 1.1);
    let latencies = PROBES.iter().enumerate().map(|(index, what)| {
        let of = |row: &Interval| row.probes[index].map(|timed| timed.median_ns);
        compare(what, intervals, of, median, |ns| ns * 1.25)
    });
    memory.into_iter().chain(cpu).chain(latencies.flatten()).collect()
}
#[cfg(test)]
mod tests {
    use super::*;

    fn interval(resident: u64, ns: f64) -> Interval {
        Interval {
            seconds: 0.0,
            operations: 0,
            per_second: 0.0,
            cpu_ns: Some(ns),
            resident: Some(resident),
            live: 0,
            idle: 0,
            probes: [Some(Timed { median_ns: ns, p99_ns: ns }); 4],
            others: None,
        }
    }

    fn judged(intervals: &[Interval]) -> Vec<bool> {
        verdicts(intervals).iter().map(|verdict| verdict.flat).collect()
    }

    const MIB: u64 = 1 << 20;

    #[test]
    fn quarters_are_the_second_and_the_last() {
        let of = |count: usize| {
            let all: Vec<usize> = (0..count).collect();
            quarters(&all).map(|(second, last)| (second.to_vec(), last.to_vec()))
        };
        assert_eq!(of(3), None);
        assert_eq!(of(4), Some((vec![1], vec![3])));
        assert_eq!(of(9), Some((vec![2, 3], vec![7, 8])));
        let (second, last) = of(60).unwrap();
        assert_eq!((second[0], second.len(), last[0], last.len()), (15, 15, 45, 15));
    }

    #[test]
    fn what_stays_is_flat_and_what_grows_is_not() {
        let stays = vec![interval(50 * MIB, 100.0); 8];
        assert_eq!(judged(&stays), [true; 6]);

        // Warming up counts for nothing, and a fall is no growth.
        let mut falls = stays.clone();
        falls[..2].fill(interval(900 * MIB, 900.0));
        falls[6..].fill(interval(9 * MIB, 9.0));
        assert_eq!(judged(&falls), [true; 6]);

        let grown = |resident, ns| {
            let mut grown = stays.clone();
            grown[6..].fill(interval(resident, ns));
            judged(&grown)
        };
        // 5 % of 50 MiB and 1 MiB; 10 % of processor time; 25 % of a latency.
        assert_eq!(grown(53 * MIB, 109.0), [true; 6]);
        assert_eq!(grown(54 * MIB, 109.0), [false, true, true, true, true, true]);
        assert_eq!(grown(53 * MIB, 111.0), [true, false, true, true, true, true]);
        assert_eq!(grown(53 * MIB, 126.0), [true, false, false, false, false, false]);
    }

    #[test]
    fn one_bad_interval_of_many_is_no_trend_of_latency() {
        let mut intervals = vec![interval(50 * MIB, 100.0); 20];
        intervals[17] = interval(50 * MIB, 1e6);
        assert_eq!(judged(&intervals), [true; 6]);
    }

    #[test]
    fn what_is_not_measured_has_no_verdict() {
        let mut unmeasured = interval(0, 100.0);
        (unmeasured.resident, unmeasured.cpu_ns, unmeasured.probes[2]) = (None, None, None);
        let names: Vec<_> = verdicts(&vec![unmeasured; 8]).iter().map(|verdict| verdict.what).collect();
        assert_eq!(names, [PROBES[0], PROBES[1], PROBES[3]]);
        assert!(verdicts(&vec![interval(1, 1.0); 3]).is_empty());
    }
}
