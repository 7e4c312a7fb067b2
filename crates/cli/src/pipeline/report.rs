//! How a run went: a table for people, one object for programs.

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use console::style;
use gpu_events::Device;
use gpu_events::trace::{Analysis, Trace};
use serde::Serialize;

use super::run::{Plan, Run};
use super::spans::Totals;
use crate::units;

pub(crate) struct Report<'a> {
    pub(crate) path: &'a Path,
    pub(crate) digest: String,
    pub(crate) device: &'a Device,
    pub(crate) plan: &'a Plan,
    pub(crate) run: &'a Run,
    /// The same work on a single stream.
    pub(crate) one_stream: Option<Other>,
    /// The same work with nothing timed, and nothing traced.
    pub(crate) untimed: Option<Other>,
    pub(crate) resident_peak: Option<u64>,
}

/// The same work in another way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Other {
    pub(crate) wall: Duration,
    pub(crate) rounds: usize,
}

impl Report<'_> {
    /// The stage that was busy longest, which nothing can be faster than.
    fn slowest(&self) -> Option<(&'static str, Duration)> {
        let slowest = self.run.stages.iter().max_by_key(|(_, _, totals)| totals.busy)?;
        Some((slowest.0, Duration::from_nanos(slowest.2.busy))).filter(|(_, busy)| !busy.is_zero())
    }

    /// How many times the wall time is what its slowest stage was busy: 1 is perfect overlap.
    fn wall_over(&self, busy: Duration) -> f64 {
        self.run.wall.as_secs_f64() / busy.as_secs_f64()
    }

    fn bytes_per_second(&self, time: Duration) -> Option<f64> {
        // Of an empty file there is no rate to speak of.
        (self.plan.bytes > 0 && !time.is_zero()).then(|| self.plan.bytes as f64 / time.as_secs_f64())
    }

    pub(crate) fn json(&self) -> impl Serialize {
        let clock = self.device.clock();
        Json {
            file: self.path.to_string_lossy().into_owned(),
            digest: self.digest.clone(),
            bytes: self.plan.bytes,
            device: self.device.name().to_owned(),
            clock: JsonClock { source: clock.source(), resolution_ns: nanos(clock.resolution()) },
            chunk_bytes: self.plan.chunk,
            chunks: self.plan.chunks(),
            buffers: self.plan.slots,
            in_flight_limit: self.run.in_flight,
            peak_in_flight: self.run.peak_chunks,
            wall_ns: nanos(self.run.wall),
            bytes_per_second: self.bytes_per_second(self.run.wall),
            stages: self.run.stages.iter().map(|stage| self.json_stage(stage)).collect(),
            bound_by: self.slowest().map(|(name, _)| name),
            wall_over_slowest: self.slowest().map(|(_, busy)| self.wall_over(busy)),
            events_recorded: self.run.recorded,
            waits_inserted: self.run.waits,
            spans_not_measured: self.run.unmeasured,
            resident_peak_bytes: self.resident_peak,
            one_stream: self.one_stream.map(|one_stream| JsonOneStream {
                wall_ns: nanos(one_stream.wall),
                slower: one_stream.wall.as_secs_f64() / self.run.wall.as_secs_f64(),
                rounds: one_stream.rounds,
            }),
            untraced: self.untimed.map(|untimed| JsonUntraced {
                wall_ns: nanos(untimed.wall),
                traced_slower: self.run.wall.as_secs_f64() / untimed.wall.as_secs_f64(),
                rounds: untimed.rounds,
            }),
            trace: self.run.trace.as_ref().map(JsonTrace::of),
        }
    }

    fn json_stage(&self, &(name, streams, totals): &(&'static str, usize, Totals)) -> JsonStage {
        JsonStage {
            name,
            streams,
            device_ns: totals.device,
            busy_ns: totals.busy,
            overlapped_ns: totals.overlapped(),
            overlapped: overlapped_share(&totals),
            bytes_per_second: self.bytes_per_second(Duration::from_nanos(totals.busy)),
        }
    }

    /// The digest's line, exactly as `fsverity digest` prints it, and the table below.
    pub(crate) fn text(&self) -> Vec<u8> {
        let mut text = self.digest.clone().into_bytes();
        text.push(b' ');
        // The name's own bytes, whatever they are: that is what the tool prints, and what scripts compare.
        text.extend_from_slice(self.path.as_os_str().as_encoded_bytes());
        text.extend_from_slice(b"\n\n");
        text.extend_from_slice(self.table().as_bytes());
        text
    }

    fn table(&self) -> String {
        let mut table = String::new();
        let slowest = self.slowest();
        // Padded first and coloured then: the codes have no width.
        let head = format!(
            "{:<10}{:>8}{:>12}{:>12}{:>13}{:>14}",
            "stage", "streams", "on device", "busy", "overlapped", "rate"
        );
        line(&mut table, style(head).bold());
        for (name, streams, totals) in &self.run.stages {
            let busy = Duration::from_nanos(totals.busy);
            let share =
                overlapped_share(totals).map_or("-".into(), |share| format!("{:.1} %", share * 100.0));
            let rate = self.bytes_per_second(busy).map_or("-".into(), units::rate);
            let device = units::time(Duration::from_nanos(totals.device));
            let row =
                format!("{name:<10}{streams:>8}{device:>12}{:>12}{share:>13}{rate:>14}", units::time(busy));
            let bounds = slowest.is_some_and(|(slowest, _)| slowest == *name);
            line(&mut table, if bounds { style(row).yellow() } else { style(row) });
        }
        table.push('\n');
        for (name, value) in self.facts() {
            line(&mut table, format_args!("{}{value}", style(format!("{name:<12}")).bold()));
        }
        if let Some(trace) = &self.run.trace {
            table.push('\n');
            table.push_str(&trace.to_table());
        }
        table
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        let Self { plan, run, .. } = self;
        let wall = units::time(run.wall);
        let mut facts = Vec::new();
        if let Some((name, busy)) = self.slowest() {
            facts.push((
                "bound by",
                format!("{name}: wall time {wall}, {:.3} × its busy time", self.wall_over(busy)),
            ));
        }
        if let Some(rate) = self.bytes_per_second(run.wall) {
            let chunks = units::count(plan.chunks());
            let pieces = format!("{chunks} chunks of {}", units::bytes(plan.chunk as u64));
            facts.push((
                "throughput",
                format!("{}: {} in {pieces}", units::rate(rate), units::bytes(plan.bytes)),
            ));
        }
        let (recorded, waits) = (units::count(run.recorded), units::count(run.waits));
        facts.push(("events", format!("{recorded} recorded, {waits} of them waited for by a stream")));
        if run.unmeasured > 0 {
            let spans = units::count(run.recorded / 2);
            let missing = units::count(run.unmeasured);
            facts.push(("not timed", format!("{missing} of {spans} spans, which the figures leave out")));
        }
        let buffers = format!("{} buffers of {}", plan.slots, units::bytes(plan.chunk as u64));
        facts.push(("in flight", format!("{} chunks at most, in {buffers}", run.peak_chunks)));
        if let Some(peak) = self.resident_peak {
            facts.push(("memory", format!("{} resident at most", units::bytes(peak))));
        }
        let clock = self.device.clock();
        facts.push(("clock", format!("{}, {} steps", clock.source(), units::time(clock.resolution()))));
        if let Some(one_stream) = self.one_stream {
            let times = one_stream.wall.as_secs_f64() / run.wall.as_secs_f64();
            let one = units::time(one_stream.wall);
            let of = one_stream.rounds;
            facts.push((
                "one stream",
                format!("takes {times:.2} × as long: {one}, not {wall} (medians of {of} rounds)"),
            ));
        }
        if let Some(untimed) = self.untimed {
            let times = run.wall.as_secs_f64() / untimed.wall.as_secs_f64();
            let without = units::time(untimed.wall);
            let of = untimed.rounds;
            facts.push((
                "tracing",
                format!("takes {times:.3} × as long as nothing timed: {wall}, not {without} (medians of {of} rounds)"),
            ));
        }
        facts
    }
}

fn line(table: &mut String, text: impl std::fmt::Display) {
    // Writing to a string does not fail.
    let _ = writeln!(table, "{text}");
}

fn overlapped_share(totals: &Totals) -> Option<f64> {
    (totals.busy > 0).then(|| totals.overlapped() as f64 / totals.busy as f64)
}

fn nanos(time: Duration) -> u64 {
    // 584 years fit.
    time.as_nanos() as u64
}

#[derive(Serialize)]
struct Json {
    file: String,
    digest: String,
    bytes: u64,
    device: String,
    clock: JsonClock,
    chunk_bytes: usize,
    chunks: u64,
    buffers: usize,
    in_flight_limit: usize,
    peak_in_flight: usize,
    wall_ns: u64,
    bytes_per_second: Option<f64>,
    stages: Vec<JsonStage>,
    bound_by: Option<&'static str>,
    wall_over_slowest: Option<f64>,
    events_recorded: u64,
    waits_inserted: u64,
    spans_not_measured: u64,
    resident_peak_bytes: Option<u64>,
    one_stream: Option<JsonOneStream>,
    #[serde(skip_serializing_if = "Option::is_none")]
    untraced: Option<JsonUntraced>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace: Option<JsonTrace>,
}

#[derive(Serialize)]
struct JsonUntraced {
    wall_ns: u64,
    traced_slower: f64,
    rounds: usize,
}

/// What the trace comes to.
#[derive(Serialize)]
struct JsonTrace {
    extent_ns: u64,
    dropped: u64,
    streams: Vec<JsonStream>,
    overlapped_ns: u64,
    waits: Vec<JsonWait>,
}

#[derive(Serialize)]
struct JsonStream {
    device: String,
    stream: String,
    uncertainty_ns: u64,
    busy_ns: u64,
    waiting_ns: u64,
    idle_ns: u64,
    critical_ns: u64,
}

#[derive(Serialize)]
struct JsonWait {
    stream: usize,
    event: String,
    held_ns: u64,
    critical: bool,
}

impl JsonTrace {
    fn of(trace: &Trace) -> Self {
        let analysis = Analysis::of(trace);
        let streams =
            trace.tracks.iter().zip(&analysis.tracks).enumerate().map(|(index, (track, times))| JsonStream {
                device: track.device.clone(),
                stream: track.name.clone(),
                uncertainty_ns: trace.uncertainty(index),
                busy_ns: times.busy,
                waiting_ns: times.waiting,
                idle_ns: times.idle,
                critical_ns: times.critical,
            });
        let waits = trace.waits.iter().zip(&analysis.waits).map(|(wait, held)| JsonWait {
            stream: wait.track,
            event: wait.event.to_string(),
            held_ns: held.held,
            critical: held.critical,
        });
        Self {
            extent_ns: trace.extent().map_or(0, |(start, end)| end.abs_diff(start)),
            dropped: trace.dropped(),
            streams: streams.collect(),
            overlapped_ns: analysis.overlap.nanos(),
            waits: waits.collect(),
        }
    }
}

#[derive(Serialize)]
struct JsonClock {
    source: &'static str,
    resolution_ns: u64,
}

#[derive(Serialize)]
struct JsonStage {
    name: &'static str,
    streams: usize,
    device_ns: u64,
    busy_ns: u64,
    overlapped_ns: u64,
    overlapped: Option<f64>,
    bytes_per_second: Option<f64>,
}

#[derive(Serialize)]
struct JsonOneStream {
    wall_ns: u64,
    slower: f64,
    rounds: usize,
}
