//! Traces of several processes, on one axis.

use crate::{ClockId, ClockSample, Error, ErrorKind, Result, Trace};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// How much two clocks may drift apart between and beyond their readings, parts in a million. Crystals are good to 50, each.
const DRIFT: u64 = 100;

/// Puts traces on the axis of the first.
///
/// The times of a trace are on the clock of its first process. Where two traces' clocks are the same, nothing is moved. Otherwise
/// readings of the two beside each other are needed ([`Trace::samples`], of any of the traces), over third clocks if need be; the
/// way that is surest is taken. With several readings of one pair the line from one to the next is followed. How far what was
/// moved may be off is each process's [`uncertainty`](crate::Process::uncertainty): what the readings are uncertain of, what two
/// clocks may drift by 100 parts in a million away from the nearest reading, and how exactly each process was on its clock.
///
/// # Errors
/// [`ErrorKind::NoCommonClock`] if no reading connects two traces; [`ErrorKind::Empty`] for none; [`ErrorKind::Invalid`] for a trace
/// that is no sound one, or given twice.
pub fn merge(traces: Vec<Trace>) -> Result<Trace> {
    let mut seen = BTreeSet::new();
    for trace in &traces {
        trace.check()?;
        for process in &trace.processes {
            // Of one process there may be several traces, but they differ.
            if !seen.insert((process.clock, process.pid, process.name.clone(), trace.extent())) {
                let text = format!("the trace of {} ({}) is given twice", process.name, process.pid);
                return Err(Error::new(ErrorKind::Invalid, text));
            }
        }
    }
    let samples: Vec<ClockSample> = traces.iter().flat_map(|trace| trace.samples.iter().copied()).collect();
    let mut traces = traces.into_iter();
    let mut merged = traces.next().ok_or_else(|| Error::new(ErrorKind::Empty, "no trace is given"))?;
    let Some(first) = merged.processes.first().cloned() else {
        return Err(Error::new(ErrorKind::Invalid, "the first trace is of no process"));
    };
    for trace in traces {
        let Some(its) = trace.processes.first() else {
            return Err(Error::new(ErrorKind::Invalid, "a trace is of no process"));
        };
        let place = Placement::between(its.clock, first.clock, &samples).ok_or_else(|| {
            let names = format!("{} ({}) and {} ({})", first.name, first.pid, its.name, its.pid);
            let text = format!(
                "{names} have no common clock: they are of different machines, and neither trace has a reading of the other's \
                 clock (pipeline --clock, or trace::exchange)"
            );
            Error::new(ErrorKind::NoCommonClock, text)
        })?;
        add(&mut merged, trace, &place, first.anchor);
    }
    merged.samples = samples;
    merged.samples.dedup();
    Ok(merged)
}

/// Adds a trace, moved.
fn add(merged: &mut Trace, trace: Trace, place: &Placement, anchor: u64) {
    let (tracks, spans, processes) = (merged.tracks.len(), merged.spans.len(), merged.processes.len());
    let times = trace.spans.iter().flat_map(|span| [span.start, span.end]);
    let times = times.chain(trace.waits.iter().flat_map(|wait| [wait.reached, wait.released]));
    let doubt = times.map(|time| place.doubt(time)).max().unwrap_or(0);
    for mut process in trace.processes {
        let its = process.uncertainty.saturating_add(process.anchor);
        process.uncertainty = its.saturating_add(doubt).saturating_add(anchor);
        // It is in there now.
        process.anchor = 0;
        merged.processes.push(process);
    }
    for mut track in trace.tracks {
        track.process += processes;
        merged.tracks.push(track);
    }
    for mut span in trace.spans {
        span.track += tracks;
        for time in [&mut span.start, &mut span.end, &mut span.submitted] {
            *time = place.at(*time);
        }
        merged.spans.push(span);
    }
    for mut wait in trace.waits {
        wait.track += tracks;
        wait.source_track = wait.source_track.map(|track| track + tracks);
        wait.source = wait.source.map(|span| span + spans);
        wait.before = wait.before.map(|span| span + spans);
        for time in [&mut wait.submitted, &mut wait.reached, &mut wait.released] {
            *time = place.at(*time);
        }
        merged.waits.push(wait);
    }
}

/// The way from one clock to another: over so many others as there are links.
struct Placement(Vec<Link>);

/// From one clock to another that was read beside it.
#[derive(Clone, Debug)]
struct Link {
    /// One clock, the other, and how far apart they may have been read; by the first.
    readings: Vec<(i64, i64, u64)>,
}

impl Placement {
    /// The surest way from one clock to another.
    fn between(from: ClockId, to: ClockId, samples: &[ClockSample]) -> Option<Self> {
        let mut links: HashMap<(ClockId, ClockId), Link> = HashMap::new();
        let mut add = |from, to, reading| {
            links.entry((from, to)).or_insert_with(|| Link { readings: Vec::new() }).readings.push(reading);
        };
        for sample in samples {
            let ClockSample { clock, reading, other, other_reading, uncertainty } = *sample;
            add(clock, other, (reading, other_reading, uncertainty));
            add(other, clock, (other_reading, reading, uncertainty));
        }
        for link in links.values_mut() {
            link.readings.sort_unstable();
            link.readings.dedup_by_key(|(reading, ..)| *reading);
            // A reading that goes back is as wrong as the one before it, and either is within its doubt.
            let mut highest = i64::MIN;
            for (_, reading, _) in &mut link.readings {
                highest = highest.max(*reading);
                *reading = highest;
            }
        }
        // Dijkstra's way, by the sum of what the readings are uncertain of.
        let mut known: BTreeMap<ClockId, (u64, Vec<ClockId>)> = BTreeMap::from([(from, (0, Vec::new()))]);
        let mut done = BTreeSet::new();
        loop {
            let next =
                known.iter().filter(|(clock, _)| !done.contains(*clock)).min_by_key(|(_, (doubt, _))| *doubt);
            let (&clock, (doubt, way)) = next?;
            let (doubt, way) = (*doubt, way.clone());
            if clock == to {
                let mut at = from;
                let steps = way
                    .into_iter()
                    .map(|clock| links.get(&(std::mem::replace(&mut at, clock), clock)).cloned());
                return steps.collect::<Option<Vec<_>>>().map(Self);
            }
            done.insert(clock);
            for ((_, over), link) in links.iter().filter(|((start, _), _)| *start == clock) {
                let more = link.readings.iter().map(|(.., doubt)| *doubt).max().unwrap_or(0);
                let total = doubt.saturating_add(more);
                if known.get(over).is_none_or(|(best, _)| total < *best) {
                    let way = way.iter().copied().chain([*over]).collect();
                    known.insert(*over, (total, way));
                }
            }
        }
    }

    fn at(&self, time: i64) -> i64 {
        self.0.iter().fold(time, |time, link| link.at(time))
    }

    /// How far off that may be.
    fn doubt(&self, time: i64) -> u64 {
        let mut at = time;
        self.0.iter().fold(0, |doubt: u64, link| {
            let its = link.doubt(at);
            at = link.at(at);
            doubt.saturating_add(its)
        })
    }
}

impl Link {
    fn at(&self, time: i64) -> i64 {
        let after = self.readings.partition_point(|(reading, ..)| *reading <= time);
        let before = after.checked_sub(1).and_then(|before| self.readings.get(before));
        match (before, self.readings.get(after)) {
            (Some(&(from, at, _)), Some(&(to, until, _))) => {
                let share = i128::from(until - at) * i128::from(time - from) / i128::from(to - from);
                at.saturating_add(share as i64)
            }
            // Beyond the outermost the two are taken to go alike.
            (Some(&(from, at, _)), None) | (None, Some(&(from, at, _))) => {
                at.saturating_add(time.saturating_sub(from))
            }
            (None, None) => time,
        }
    }

    fn doubt(&self, time: i64) -> u64 {
        let after = self.readings.partition_point(|(reading, ..)| *reading <= time);
        let nearest =
            [after.checked_sub(1), Some(after)].into_iter().flatten().filter_map(|at| self.readings.get(at));
        // From either side; the true one is within both.
        let from = |&(reading, _, doubt): &(i64, i64, u64)| {
            let drift = u128::from(reading.abs_diff(time)) * u128::from(DRIFT) / 1_000_000;
            doubt.saturating_add(drift as u64).saturating_add(1)
        };
        // In between the line errs by no more than the worse of the two ends, and by what the drift may change.
        nearest.map(from).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Process, Span, Track};
    use proptest::prelude::*;

    fn trace(name: &str, clock: u128, at: &[i64]) -> Trace {
        let mut process = Process::new(name);
        process.clock = ClockId(clock);
        let mut trace = Trace::new(process);
        let track = trace.add_track(Track::stream("cpu", "work"));
        for &at in at {
            trace.add_span(Span::new(track, "span", at, at + 10));
        }
        trace
    }

    fn sample(clock: u128, reading: i64, other: u128, other_reading: i64, uncertainty: u64) -> ClockSample {
        let (clock, other) = (ClockId(clock), ClockId(other));
        ClockSample { clock, reading, other, other_reading, uncertainty }
    }

    #[test]
    fn one_clock_needs_no_reading() {
        let (mut one, mut other) = (trace("one", 1, &[5]), trace("other", 1, &[7]));
        (one.processes[0].anchor, other.processes[0].anchor) = (20, 30);
        let merged = merge(vec![one, other]).unwrap();
        assert_eq!((merged.spans[1].start, merged.spans[1].track, merged.tracks[1].process), (7, 1, 1));
        // Each was put on it with some doubt, which counts between the two.
        assert_eq!((merged.processes[0].uncertainty, merged.processes[1].uncertainty), (0, 50));
    }

    #[test]
    fn places_are_counted_on() {
        let mut other = trace("other", 1, &[0, 100]);
        let mut wait = crate::Wait::new(0, "event", 5, 10);
        (wait.source, wait.source_track, wait.before) = (Some(0), Some(0), Some(1));
        other.add_wait(wait);
        let merged = merge(vec![trace("one", 1, &[1, 20, 40]), other]).unwrap();
        let wait = &merged.waits[0];
        assert_eq!((wait.track, wait.source, wait.source_track, wait.before), (1, Some(3), Some(1), Some(4)));
        merged.check().unwrap();
    }

    #[test]
    fn over_a_third_clock_by_the_surest_way() {
        let mut far = trace("far", 3, &[1_000]);
        // Directly, with much doubt; and over clock 2 with little.
        far.samples =
            vec![sample(3, 1_000, 1, 50, 500), sample(3, 1_000, 2, 2_000, 20), sample(1, 110, 2, 2_000, 10)];
        let merged = merge(vec![trace("here", 1, &[0]), far]).unwrap();
        assert_eq!(merged.spans[1].start, 110);
        assert!((30..=33).contains(&merged.processes[1].uncertainty), "{}", merged.processes[1].uncertainty);
        assert_eq!(merged.samples.len(), 3, "to be merged further");
    }

    #[test]
    fn what_nothing_connects_is_refused() {
        let error = merge(vec![trace("here", 1, &[0]), trace("far", 2, &[0])]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoCommonClock);
        assert!(error.to_string().contains("here") && error.to_string().contains("far"), "{error}");
        let once = trace("once", 1, &[0]);
        assert_eq!(merge(vec![once.clone(), once]).unwrap_err().kind(), ErrorKind::Invalid);
        assert_eq!(merge(Vec::new()).unwrap_err().kind(), ErrorKind::Empty);
    }

    proptest! {
        /// A clock that is `ahead` and runs `fast` parts in a million too fast, read twice, each time with an error within what
        /// the reading says.
        #[test]
        fn the_truth_is_within_what_is_stated(
            ahead in -1_000_000_000_000..1_000_000_000_000_i64,
            fast in -90..90_i64,
            errors in (-500..500_i64, -500..500_i64),
            between in 1_000_000..10_000_000_000_i64,
            times in proptest::collection::vec(-2_000_000_000..12_000_000_000_i64, 1..8),
        ) {
            let there = |time: i64| time + ahead + (i128::from(time) * i128::from(fast) / 1_000_000) as i64;
            let mut other = trace("other", 2, &[]);
            for time in &times {
                // The same track may have them nested or apart only.
                let track = other.add_track(Track::stream("cpu", "work"));
                other.add_span(Span::new(track, "span", there(*time), there(*time) + 10));
            }
            other.samples = vec![
                sample(1, errors.0, 2, there(0), 500),
                sample(1, between + errors.1, 2, there(between), 500),
            ];
            let merged = merge(vec![trace("here", 1, &[0]), other]).unwrap();
            let bound = merged.processes[1].uncertainty;
            for (span, truth) in merged.spans[1..].iter().zip(&times) {
                prop_assert!(span.start.abs_diff(*truth) <= bound, "{} and not {truth}, within {bound}", span.start);
            }
        }
    }
}
