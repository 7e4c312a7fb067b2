//! The runner: sends chunks through a device's stages, with nothing but events to keep them in order.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gpu_events::trace::{Trace, Tracer};
use gpu_events::{Correlation, ErrorKind, Event, Stream, Timestamp, WaitAny, WaitOptions, wait_any};

use super::spans::{Sweep, Totals};
use super::stages::{Stage, Stages};
use crate::fsverity::Hash;

/// How a file is cut up, and how much of it may be on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// The file's length.
    pub(crate) bytes: u64,
    /// The length of each chunk but the last, whole blocks.
    pub(crate) chunk: usize,
    /// The most chunks submitted and not seen collected: how far the host runs ahead, if the device lets it.
    pub(crate) in_flight: usize,
    /// The buffers that chunks take turns in.
    pub(crate) slots: usize,
}

/// A piece of the file, and the buffer that is its for as long as it is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chunk {
    pub(crate) index: u64,
    pub(crate) slot: usize,
    pub(crate) offset: u64,
    pub(crate) len: usize,
}

impl Plan {
    /// The number of chunks.
    pub(crate) fn chunks(&self) -> u64 {
        self.bytes.div_ceil(self.chunk as u64)
    }

    fn chunk(&self, index: u64) -> Chunk {
        let offset = index * self.chunk as u64;
        Chunk {
            index,
            slot: (index % self.slots as u64) as usize,
            offset,
            // No longer than a chunk, so it fits.
            len: (self.chunk as u64).min(self.bytes - offset) as usize,
        }
    }
}

/// What a run found, and how it went.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) root: Hash,
    /// From before the first submission until the root was known.
    pub(crate) wall: Duration,
    /// Beside each stage's totals: its name and its number of streams.
    pub(crate) stages: Vec<(&'static str, usize, Totals)>,
    /// The most chunks that were let be submitted and not collected.
    pub(crate) in_flight: usize,
    /// Events recorded.
    pub(crate) recorded: u64,
    /// Stream waits that held work back; the others found their event complete.
    pub(crate) waits: u64,
    /// Spans whose time the device could not tell, which are in no sum.
    pub(crate) unmeasured: u64,
    /// The most chunks that had begun to be read and were not collected, at one time.
    pub(crate) peak_chunks: usize,
    /// What happened, if it was traced.
    pub(crate) trace: Option<Trace>,
}

/// What of a run is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Timing {
    /// Nothing: its events keep order, and no more. There are no sums then.
    Untimed,
    /// Each piece of work.
    Timed,
    /// Each piece of work, and waits: all of it is kept.
    Traced,
}

/// The user asked to stop.
#[derive(Debug)]
pub(crate) struct Interrupted;

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

/// Sends all chunks of `plan` through the stages, and says so to `collected` as their bytes are done with.
///
/// # Errors
/// What the first failing piece of work says; [`Interrupted`] as soon as `stop` settles, with work still pending.
pub(crate) fn run(
    plan: &Plan,
    stages: &dyn Stages,
    stop: &Event,
    timing: Timing,
    mut collected: impl FnMut(u64),
) -> anyhow::Result<Run> {
    let start = Instant::now();
    let mut runner = Runner::new(stages, start, timing)?;
    let in_flight = plan.in_flight.min(stages.ahead());
    let mut flight = VecDeque::with_capacity(in_flight);
    for index in 0..plan.chunks() {
        // Far ahead, there is much to submit between two waits.
        if stop.is_complete()? {
            return Err(Interrupted.into());
        }
        if flight.len() == in_flight {
            // One wait for half of them, rather than one for each: the host wakes up less often, and the other
            // half keeps the device at work meanwhile.
            let half = flight.len().div_ceil(2);
            collected(runner.collect(&mut flight, half, stop)?);
        }
        // A slot whose last chunk was seen collected is free; of the others the stream has to wait for it.
        let taken_by = flight.len().checked_sub(plan.slots).map(|before| &flight[before]);
        let submitted = runner.submit(plan.chunk(index), taken_by)?;
        flight.push_back(submitted);
    }
    while !flight.is_empty() {
        collected(runner.collect(&mut flight, 1, stop)?);
    }
    let root = stages.root()?;
    let wall = start.elapsed();
    let trace = runner.tracer.is_on().then(|| runner.tracer.finish());
    let (totals, peak_chunks) = runner.sweep.finish();
    let names = stages.stages().iter().map(|stage| (stage.name, stage.streams.len()));
    Ok(Run {
        root,
        wall,
        stages: names.zip(totals).map(|((name, streams), totals)| (name, streams, totals)).collect(),
        in_flight,
        recorded: runner.recorded,
        waits: runner.waits,
        unmeasured: runner.unmeasured,
        peak_chunks,
        trace,
    })
}

/// A chunk on its way.
#[derive(Debug)]
struct Submitted {
    bytes: usize,
    /// Of each stage, the stream's place among all lanes of the sweep, and what was recorded on it.
    spans: Vec<(usize, Span)>,
}

/// The events before and after a piece of work. The later one is also what the next stage waits for.
#[derive(Debug)]
struct Span {
    /// None if nothing is timed.
    begin: Option<Arc<Event>>,
    end: Arc<Event>,
}

impl Submitted {
    fn collected(&self) -> &Event {
        &self.spans.last().expect("a device has stages").1.end
    }
}

struct Runner<'a> {
    stages: &'a dyn Stages,
    start: Instant,
    timing: Timing,
    tracer: Tracer,
    /// Place each clock's timestamps on the host's, so that stages of several devices can be compared.
    correlations: Vec<Correlation>,
    sweep: Sweep,
    recorded: u64,
    waits: u64,
    unmeasured: u64,
}

impl<'a> Runner<'a> {
    fn new(stages: &'a dyn Stages, start: Instant, timing: Timing) -> gpu_events::Result<Self> {
        let mut correlations: Vec<Correlation> = Vec::new();
        let streams = || stages.stages().iter().flat_map(|stage| &stage.streams);
        let tracer = if timing == Timing::Traced { Tracer::new("pipeline") } else { Tracer::off() };
        streams().for_each(|stream| tracer.watch(stream));
        for device in streams().map(Stream::device) {
            if correlations.iter().all(|known| known.device().clock().id() != device.clock().id()) {
                correlations.push(device.correlate()?);
            }
        }
        let sweep = Sweep::new(stages.stages().len(), streams().count());
        Ok(Self { stages, start, timing, tracer, correlations, sweep, recorded: 0, waits: 0, unmeasured: 0 })
    }

    /// Submits all stages of one chunk, each behind the one before, the first behind who has its slot now.
    fn submit(&mut self, chunk: Chunk, taken_by: Option<&Submitted>) -> anyhow::Result<Submitted> {
        let stages = self.stages;
        let mut spans: Vec<(usize, Span)> = Vec::with_capacity(stages.stages().len());
        let mut lanes = 0;
        for (index, Stage { streams, name }) in stages.stages().iter().enumerate() {
            let turn = (chunk.index % streams.len() as u64) as usize;
            let stream = &streams[turn];
            let before = spans.last().map(|(_, span)| &*span.end).or(taken_by.map(Submitted::collected));
            let span = (|| {
                if let Some(before) = before
                    && stream.wait(before)?.inserted()
                {
                    self.waits += 1;
                }
                if self.timing == Timing::Untimed {
                    stages.submit(index, stream, chunk)?;
                    return Ok(Span { begin: None, end: Arc::new(stream.record()?) });
                }
                let submitted = self.tracer.now();
                let begin = Arc::new(stream.record_timed()?);
                stages.submit(index, stream, chunk)?;
                let end = Arc::new(stream.record_timed()?);
                self.tracer.add_span(stream, name, &begin, &end, submitted);
                Ok(Span { begin: Some(begin), end })
            })()
            .map_err(describe)?;
            self.recorded += 1 + u64::from(span.begin.is_some());
            spans.push((lanes + turn, span));
            lanes += streams.len();
        }
        Ok(Submitted { bytes: chunk.len, spans })
    }

    /// Waits for the first `count` chunks of the flight and takes them out of it. Their bytes.
    fn collect(
        &mut self,
        flight: &mut VecDeque<Submitted>,
        count: usize,
        stop: &Event,
    ) -> anyhow::Result<u64> {
        let last = flight[count - 1].collected();
        // Stop first: the one of several that are settled is the first, and a user who said so is not kept waiting.
        if let WaitAny::Settled(0) = wait_any([stop, last], &WaitOptions::new()).map_err(describe)? {
            // A device that is lost settles it too, and that is no interruption.
            stop.synchronize().map_err(describe)?;
            return Err(Interrupted.into());
        }
        // It is settled; this says how.
        last.synchronize().map_err(describe)?;
        let mut bytes = 0;
        for chunk in flight.drain(..count) {
            self.account(&chunk)?;
            bytes += chunk.bytes as u64;
        }
        self.tracer.collect();
        self.sweep.settle();
        Ok(bytes)
    }

    /// Adds a collected chunk's spans to the sums. Its events go back to their pools.
    fn account(&mut self, chunk: &Submitted) -> gpu_events::Result<()> {
        let mut first = None;
        let mut last = None;
        for (stage, (lane, span)) in chunk.spans.iter().enumerate() {
            let Some(begin) = &span.begin else { continue };
            let (begin, end) = (self.time_of(begin)?, self.time_of(&span.end)?);
            first = first.or(begin);
            last = end.or(last);
            if let (Some(begin), Some(end)) = (begin, end) {
                self.sweep.stage(stage, *lane, begin, end);
            } else {
                self.unmeasured += 1;
                // Not before the chunk began: or else nothing after that would ever be final.
                self.sweep.unknown(*lane, first.unwrap_or(0));
            }
        }
        if let (Some(first), Some(last)) = (first, last) {
            self.sweep.chunk(first, last);
        }
        Ok(())
    }

    /// When an event of a collected chunk was reached. A device that can't tell has done the work all the same.
    fn time_of(&self, event: &Event) -> gpu_events::Result<Option<u64>> {
        // A GPU goes on from one stream to the next before the host has heard of the first.
        event.synchronize()?;
        match event.completion_time() {
            Ok(timestamp) => self.place(timestamp).map(Some),
            Err(error) if error.kind() == ErrorKind::NotMeasured => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Nanoseconds since the start of the run.
    fn place(&self, timestamp: Timestamp) -> gpu_events::Result<u64> {
        let clock = timestamp.clock().id();
        let correlation = self.correlations.iter().find(|known| known.device().clock().id() == clock);
        let (at, _) = timestamp.on_host(correlation.ok_or(ErrorKind::ClockMismatch)?)?;
        // 584 years fit.
        Ok(at.saturating_duration_since(self.start).as_nanos() as u64)
    }
}

/// Work that failed says best itself why; other failures are the library's to describe.
fn describe(error: gpu_events::Error) -> anyhow::Error {
    match (error.kind(), error.detail()) {
        (ErrorKind::WorkFailed, Some(why)) => anyhow::anyhow!("{why}"),
        _ => error.into(),
    }
}
