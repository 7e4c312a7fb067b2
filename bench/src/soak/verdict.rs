//! What is printed of each interval, and what all of them come to.

use super::probe::{HAND_OVERS, LIVES};
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

/// Something that is timed.
pub(super) struct Probe {
    pub(super) what: &'static str,
    /// Over how many a sample is the mean.
    pub(super) per_sample: u32,
    /// Devices that tell no time leave it out.
    pub(super) optional: bool,
}

/// In the order of [`Interval::probes`].
pub(super) const PROBES: [Probe; 4] = [
    Probe { what: "acquire+record+complete+drop", per_sample: LIVES, optional: false },
    Probe { what: "record to host return", per_sample: 1, optional: false },
    Probe { what: "hand-over", per_sample: HAND_OVERS, optional: true },
    Probe { what: "record to callback", per_sample: 1, optional: false },
];

/// Whether something stayed as it was.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Verdict {
    pub(super) what: String,
    /// None where it was not measured then.
    pub(super) second_quarter: Option<f64>,
    pub(super) last_quarter: Option<f64>,
    /// What the last quarter may come to.
    pub(super) limit: Option<f64>,
    pub(super) finding: Finding,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Finding {
    Flat,
    NotFlat,
    /// It can't be measured here.
    NotMeasured,
    /// It was not measured, and could have been: a check that was left out is no check that was passed.
    Missing,
}

impl Finding {
    pub(super) fn is_good(self) -> bool {
        matches!(self, Self::Flat | Self::NotMeasured)
    }

    fn text(self) -> &'static str {
        match self {
            Self::Flat => "flat",
            Self::NotFlat => "NOT FLAT",
            Self::NotMeasured => "not measured",
            Self::Missing => "NOT MEASURED, and it can be here",
        }
    }
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
    writeln!(table, "\n{} operations, by what each undertaking counts as", text::count(operations))?;
    for Verdict { what, second_quarter, last_quarter, limit, finding } in verdicts {
        let [second, last, limit] = [second_quarter, last_quarter, limit]
            .map(|value| value.map_or_else(|| "-".to_owned(), |n| format!("{n:.2}")));
        let finding = finding.text();
        writeln!(
            table,
            "{what:<40} {second:>12} in the second quarter, {last:>12} in the last one, at most {limit:>12}: {finding}"
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

/// What is compared, and how.
struct Comparison {
    what: String,
    /// Puts the intervals of a quarter together.
    whole: fn(&[f64]) -> Option<f64>,
    /// It can be measured here, always.
    required: bool,
}

impl Comparison {
    /// Compares, over the quarters, what `of` takes from each interval. What became less is flat: others let go of the machine,
    /// say.
    fn judge(
        self,
        intervals: &[Interval],
        of: impl Fn(&Interval) -> Option<f64>,
        limit: impl Fn(f64) -> f64,
    ) -> Verdict {
        let value = |rows: &[Interval]| (self.whole)(&rows.iter().filter_map(&of).collect::<Vec<_>>());
        let (second_quarter, last_quarter) =
            quarters(intervals).map_or((None, None), |(second, last)| (value(second), value(last)));
        let limit = second_quarter.map(limit);
        let finding = match (last_quarter, limit) {
            (Some(last), Some(limit)) if last <= limit => Finding::Flat,
            (Some(_), Some(_)) => Finding::NotFlat,
            (None, None) if !self.required => Finding::NotMeasured,
            // Also where it stopped being measured, or only began to be.
            _ => Finding::Missing,
        };
        Verdict { what: self.what, second_quarter, last_quarter, limit, finding }
    }
}

fn mean(values: &[f64]) -> Option<f64> {
    if values.is_empty() { None } else { Some(values.iter().sum::<f64>() / values.len() as f64) }
}

/// What a 99th percentile may grow by, beside [`P99_GROWS`]: others on the machine take the core away for some slices of the
/// scheduler's. On 2 cores alone it was 0.1 ms, on the same beside six busy threads 4 to 8.4 ms, so this is twice as much. A
/// sample that is a mean shares it among what it is the mean of.
const TAKEN_AWAY_NS: f64 = 16e6;

/// How many times a 99th percentile may come to what it was. Wide, because it says as much of others on the machine as of the
/// library: what has to be noticed is that microseconds became tens of milliseconds for one operation in fifty, of which a
/// median knows nothing.
const P99_GROWS: f64 = 2.0;

pub(super) fn verdicts(intervals: &[Interval]) -> Vec<Verdict> {
    let median = crate::stats::median;
    // Where `host` and `memory` read them; elsewhere they may be there or not.
    let linux = cfg!(target_os = "linux");
    let memory = Comparison { what: "memory, MiB".to_owned(), whole: mean, required: linux };
    let memory =
        memory.judge(intervals, |row| row.resident.map(|bytes| mib(bytes as f64)), |mib| mib * 1.05 + 1.0);
    let cpu = Comparison { what: "CPU time for an operation, ns".to_owned(), whole: median, required: linux };
    let cpu = cpu.judge(intervals, |row| row.cpu_ns, |ns| ns * 1.1);
    let latencies = PROBES.iter().enumerate().flat_map(|(index, probe)| {
        let required = !probe.optional;
        let middle = Comparison { what: format!("{}, ns", probe.what), whole: median, required };
        let tail = Comparison { what: format!("{}, p99, ns", probe.what), whole: median, required };
        let taken_away = TAKEN_AWAY_NS / f64::from(probe.per_sample);
        [
            middle.judge(intervals, |row| row.probes[index].map(|timed| timed.median_ns), |ns| ns * 1.25),
            tail.judge(
                intervals,
                |row| row.probes[index].map(|timed| timed.p99_ns),
                |ns| ns * P99_GROWS + taken_away,
            ),
        ]
    });
    [memory, cpu].into_iter().chain(latencies).collect()
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
        verdicts(intervals).iter().map(|verdict| verdict.finding == Finding::Flat).collect()
    }

    /// Of medians alone, or of 99th percentiles alone.
    fn of_latencies(all: &[Verdict], tails: bool) -> Vec<Finding> {
        let latencies = all.iter().filter(|verdict| verdict.what.ends_with(", p99, ns") == tails);
        latencies.skip(if tails { 0 } else { 2 }).map(|verdict| verdict.finding).collect()
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
        assert_eq!(judged(&stays), [true; 10]);

        // Warming up counts for nothing, and a fall is no growth.
        let mut falls = stays.clone();
        falls[..2].fill(interval(900 * MIB, 900.0));
        falls[6..].fill(interval(9 * MIB, 9.0));
        assert_eq!(judged(&falls), [true; 10]);

        let grown = |resident, ns| {
            let mut grown = stays.clone();
            grown[6..].fill(interval(resident, ns));
            let grown = verdicts(&grown);
            assert_eq!(of_latencies(&grown, true), [Finding::Flat; 4]);
            let latencies = of_latencies(&grown, false);
            assert!(latencies.iter().all(|finding| *finding == latencies[0]), "{latencies:?}");
            [grown[0].finding, grown[1].finding, latencies[0]].map(|finding| finding == Finding::Flat)
        };
        // 5 % of 50 MiB and 1 MiB; 10 % of processor time; 25 % of a latency.
        assert_eq!(grown(53 * MIB, 109.0), [true; 3]);
        assert_eq!(grown(54 * MIB, 109.0), [false, true, true]);
        assert_eq!(grown(53 * MIB, 111.0), [true, false, true]);
        assert_eq!(grown(53 * MIB, 126.0), [true, false, false]);
    }

    #[test]
    fn one_bad_interval_of_many_is_no_trend_of_latency() {
        let mut intervals = vec![interval(50 * MIB, 100.0); 20];
        intervals[17] = interval(50 * MIB, 1e8);
        assert_eq!(judged(&intervals), [true; 10]);
    }

    /// What an interval comes to if each operation takes `ns`, but two in a hundred samples have one that takes `slow_ns`.
    fn with_a_tail(ns: f64, slow_ns: f64) -> Interval {
        let mut interval = interval(50 * MIB, ns);
        for (timed, probe) in interval.probes.iter_mut().flatten().zip(&PROBES) {
            timed.p99_ns = ns + slow_ns / f64::from(probe.per_sample);
        }
        interval
    }

    #[test]
    fn a_tail_that_grows_to_tens_of_milliseconds_is_not_flat() {
        let last = |before: Interval, last: Interval| {
            let mut intervals = vec![before; 8];
            intervals[6..].fill(last);
            let verdicts = verdicts(&intervals);
            assert_eq!(of_latencies(&verdicts, false), [Finding::Flat; 4]);
            let tails = of_latencies(&verdicts, true);
            assert!(tails.iter().all(|finding| *finding == tails[0]), "{tails:?}");
            tails[0]
        };
        let quiet = || with_a_tail(2_000.0, 30_000.0);
        assert_eq!(last(quiet(), with_a_tail(2_000.0, 20e6)), Finding::NotFlat);
        assert_eq!(last(quiet(), with_a_tail(2_000.0, 40e6)), Finding::NotFlat);
        // Others took a core away for a while.
        assert_eq!(last(quiet(), with_a_tail(2_000.0, 8.4e6)), Finding::Flat);
        // So they did all the time, and do a little more.
        let busy = || with_a_tail(2_000.0, 6e6);
        assert_eq!(last(busy(), with_a_tail(2_000.0, 20e6)), Finding::Flat);
        assert_eq!(last(busy(), with_a_tail(2_000.0, 40e6)), Finding::NotFlat);
    }

    #[test]
    fn what_is_not_measured_says_so() {
        let mut unmeasured = interval(0, 100.0);
        (unmeasured.resident, unmeasured.cpu_ns, unmeasured.probes[2]) = (None, None, None);
        let all = verdicts(&vec![unmeasured; 8]);
        let platform = if cfg!(target_os = "linux") { Finding::Missing } else { Finding::NotMeasured };
        assert_eq!([all[0].finding, all[1].finding], [platform; 2]);
        for tails in [false, true] {
            let expected = [Finding::Flat, Finding::Flat, Finding::NotMeasured, Finding::Flat];
            assert_eq!(of_latencies(&all, tails), expected);
        }
        let table = table(7, &all).unwrap();
        assert_eq!(
            table.lines().filter(|line| line.ends_with(": not measured")).count(),
            if cfg!(target_os = "linux") { 2 } else { 4 }
        );
        assert!(Finding::NotMeasured.is_good() && !Finding::Missing.is_good() && !Finding::NotFlat.is_good());

        // Of a probe that every device has.
        let mut unmeasured = interval(MIB, 100.0);
        unmeasured.probes[3] = None;
        assert_eq!(of_latencies(&verdicts(&vec![unmeasured; 8]), true)[3], Finding::Missing);
        // Too few intervals to compare.
        assert!(verdicts(&vec![interval(1, 1.0); 3]).iter().all(|verdict| verdict.finding != Finding::Flat));
    }

    #[test]
    fn what_is_measured_in_one_quarter_alone_is_missing() {
        for (without, with) in [(2..4, 6..8), (6..8, 2..4)] {
            let mut intervals = vec![interval(50 * MIB, 100.0); 8];
            for row in &mut intervals[without] {
                (row.resident, row.cpu_ns, row.probes) = (None, None, [None; 4]);
            }
            assert!(verdicts(&intervals).iter().all(|verdict| verdict.finding == Finding::Missing));
            // One interval that was measured is enough.
            intervals[with.start] = interval(50 * MIB, 100.0);
            let other = if with.start == 6 { 2 } else { 6 };
            intervals[other] = interval(50 * MIB, 100.0);
            assert_eq!(judged(&intervals), [true; 10]);
        }
    }
}
