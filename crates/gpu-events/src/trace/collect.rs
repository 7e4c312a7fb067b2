//! One stream's operations, in the order in which they were submitted, and what became of them.
//!
//! Beginnings, ends and waits go into a queue when they are submitted. Whoever drains it takes from its front what is complete,
//! and leaves the rest. The events are asked with no lock held: they may wake those who wait for them.

use super::{
    Core, Span, Trace, Track, Wait,
    clock::{Causality, Placement},
};
use crate::{
    error::ErrorKind,
    event::{Event, Status, TimeOfRecording},
    lane::Observed,
    primitive::lock,
    stream::Stream,
    time::ClockId as DeviceClockId,
    wait::{Target, WaitOptions, WaitOutcome},
};
use std::{
    collections::{HashMap, VecDeque},
    mem,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

/// A stream as a tracer knows it.
pub(super) struct StreamTrack {
    lane: u64,
    device: String,
    name: String,
    clock: DeviceClockId,
    source: &'static str,
    /// Spans since somebody looked.
    fresh: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    ops: VecDeque<Op>,
    next: u64,
    /// `None` while somebody drains.
    done: Option<Done>,
}

pub(super) enum Op {
    Begin {
        key: u64,
        event: Arc<Event>,
        position: u64,
        name: Arc<str>,
        submitted: i64,
    },
    /// Without an event: the end could not be recorded.
    End {
        key: u64,
        event: Option<(Arc<Event>, u64)>,
    },
    Wait(Inserted),
}

/// A wait that was inserted.
pub(super) struct Inserted {
    name: Arc<str>,
    submitted: i64,
    source: Target,
    /// Where the time of the event's recording is, if it is timed.
    time: Option<TimeOfRecording>,
}

/// What is known.
#[derive(Default)]
struct Done {
    spans: Vec<KnownSpan>,
    waits: Vec<KnownWait>,
    boundaries: Vec<Boundary>,
    /// Begun, and not ended: key, place among the spans.
    open: Vec<(u64, usize)>,
    /// Those from here on have come to no span yet.
    unplaced: usize,
    causality: Option<Causality>,
}

struct KnownSpan {
    name: Arc<str>,
    submitted: i64,
    /// The device's nanoseconds.
    start: u64,
    end: End,
}

enum End {
    Open,
    At(u64),
    /// It failed, as was seen at this time of the axis.
    Failed(i64, Arc<str>),
    /// It has none that anybody knows.
    Lost,
}

struct KnownWait {
    name: Arc<str>,
    submitted: i64,
    /// How many boundaries of the track come before it.
    after: usize,
    /// The event's time, on its device's clock.
    released: Option<(DeviceClockId, u64)>,
    source: (u64, u64),
    before: Option<usize>,
}

/// The beginning or the end of a span.
struct Boundary {
    position: u64,
    at: u64,
    span: usize,
    ends: bool,
}

impl StreamTrack {
    pub(super) fn new(stream: &Stream) -> Self {
        let clock = stream.device().clock();
        let id = stream.lane().id();
        Self {
            lane: id,
            device: stream.device().name().to_owned(),
            name: stream.label().map_or_else(|| format!("stream {id}"), str::to_owned),
            clock: clock.id(),
            source: clock.source(),
            fresh: AtomicUsize::new(0),
            state: Mutex::new(State { done: Some(Done::default()), ..State::default() }),
        }
    }

    /// Whether it is time to look what is complete.
    pub(super) fn is_due(&self) -> bool {
        // Relaxed: a count.
        self.fresh.fetch_add(1, Ordering::Relaxed) >= super::LOOK_EVERY
    }

    /// A span has begun. What to end it by.
    pub(super) fn begin(&self, event: Arc<Event>, position: u64, name: Arc<str>, submitted: i64) -> u64 {
        let mut state = lock(&self.state);
        let key = state.next;
        state.next += 1;
        state.ops.push_back(Op::Begin { key, event, position, name, submitted });
        key
    }

    pub(super) fn end(&self, key: u64, event: Option<(Arc<Event>, u64)>) {
        lock(&self.state).ops.push_back(Op::End { key, event });
    }

    pub(super) fn wait_inserted(&self, wait: Inserted) {
        lock(&self.state).ops.push_back(Op::Wait(wait));
    }

    /// Blocks until all that has ended on the host is complete, or has failed, or for so long.
    pub(super) fn wait(&self, options: &WaitOptions) {
        let last = lock(&self.state).ops.iter().rev().find_map(|op| match op {
            Op::End { event: Some((event, _)), .. } => Some(event.clone()),
            _ => None,
        });
        if let Some(last) = last {
            // How it ended is told by each event of its own.
            let _ = last.wait_with(options).map(WaitOutcome::is_complete);
        }
    }

    /// Takes what is complete from the front. Never blocks: where another thread is at it, it leaves it to that, and says so by
    /// `false`.
    pub(super) fn drain(&self, core: &Core) -> bool {
        let (mut ops, mut done) = {
            let mut state = lock(&self.state);
            // Another thread is at it.
            let Some(done) = state.done.take() else { return false };
            (mem::take(&mut state.ops), done)
        };
        self.fresh.store(0, Ordering::Relaxed);
        let mut through = Vec::new();
        while ops.front().is_some_and(|op| !op.is_pending()) {
            if let Some(op) = ops.pop_front() {
                done.take_in(&op, core);
                through.push(op);
            }
        }
        {
            let mut state = lock(&self.state);
            ops.append(&mut state.ops);
            state.ops = ops;
            state.done = Some(done);
        }
        // Events that go back to their pools may be the last to hold a stream.
        drop(through);
        true
    }
}

impl Op {
    fn is_pending(&self) -> bool {
        let event = match self {
            Self::Begin { event, .. } | Self::End { event: Some((event, _)), .. } => event,
            Self::End { event: None, .. } => return false,
            // Not timed, it is over when the stream has gone on: what comes next tells.
            Self::Wait(wait) => {
                return wait.time.is_some()
                    && matches!(wait.source.lane.observe(wait.source.position), Observed::Pending);
            }
        };
        event.status() == Status::Pending
    }
}

impl Inserted {
    pub(super) fn new(
        name: Arc<str>,
        submitted: i64,
        source: &Target,
        time: Option<TimeOfRecording>,
    ) -> Self {
        let source = Target { lane: source.lane.clone(), position: source.position };
        Self { name, submitted, source, time }
    }
}

impl Done {
    fn take_in(&mut self, op: &Op, core: &Core) {
        match op {
            Op::Begin { key, event, position, name, submitted } => match event.completion_time() {
                Ok(time) => {
                    let start = time.nanos();
                    self.bound(Causality {
                        least: submitted.saturating_sub_unsigned(start),
                        ..Causality::UNKNOWN
                    });
                    let span = self.spans.len();
                    self.spans.push(KnownSpan {
                        name: name.clone(),
                        submitted: *submitted,
                        start,
                        end: End::Open,
                    });
                    self.boundaries.push(Boundary { position: *position, at: start, span, ends: false });
                    self.open.push((*key, span));
                    for wait in &mut self.waits[self.unplaced..] {
                        wait.before = Some(span);
                    }
                    self.unplaced = self.waits.len();
                }
                // Its end finds that it is not there.
                Err(_) => core.refuse_span(),
            },
            Op::End { key, event } => {
                let Some(place) = self.open.iter().rposition(|(open, _)| open == key) else { return };
                let (_, span) = self.open.remove(place);
                // Relaxed: a count.
                core.pending.fetch_sub(1, Ordering::Relaxed);
                let start = self.spans[span].start;
                let end = event.as_ref().map(|(event, position)| (event.completion_time(), *position));
                self.spans[span].end = match end {
                    // A clock that goes backwards is not this module's to mend.
                    Some((Ok(time), position)) => {
                        let at = time.nanos().max(start);
                        let most = core.axis.now().saturating_sub_unsigned(at);
                        self.boundaries.push(Boundary { position, at, span, ends: true });
                        self.bound(Causality { most, ..Causality::UNKNOWN });
                        End::At(at)
                    }
                    Some((Err(error), _)) if error.kind() != ErrorKind::NotMeasured => {
                        End::Failed(core.axis.now(), error.to_string().into())
                    }
                    Some((Err(_), _)) | None => {
                        core.refuse();
                        End::Lost
                    }
                };
            }
            Op::Wait(wait) => {
                let released = wait.time.as_ref().and_then(TimeOfRecording::read);
                self.waits.push(KnownWait {
                    name: wait.name.clone(),
                    submitted: wait.submitted,
                    after: self.boundaries.len(),
                    released: released.map(|time| (time.clock().id(), time.nanos())),
                    source: (wait.source.lane.id(), wait.source.position),
                    before: None,
                });
            }
        }
    }

    fn bound(&mut self, bound: Causality) {
        self.causality = Some(self.causality.unwrap_or(Causality::UNKNOWN).and(bound));
    }
}

impl Core {
    /// What is known, as a trace.
    pub(super) fn build_trace(&self, tracks: &[Arc<StreamTrack>]) -> Trace {
        let mut process = super::Process::new(self.name.clone());
        process.clock = self.axis.id;
        process.anchor = self.axis.uncertainty;
        let mut trace = Trace::new(process);
        trace.samples = lock(&self.samples).clone();

        let mut tracks: Vec<_> = tracks.iter().collect();
        tracks.sort_by(|one, other| (&one.device, one.lane).cmp(&(&other.device, other.lane)));
        // In this order, so that two who build at a time don't wait for each other in a circle.
        let streams: Vec<_> = tracks.into_iter().map(|track| (track, track.state_at_rest())).collect();
        let placements = self.placements(streams.iter().filter_map(|(track, state)| {
            Some((track.clock, state.done.as_ref()?.causality.unwrap_or(Causality::UNKNOWN)))
        }));
        let place = |clock: DeviceClockId, nanos| placements.get(&clock).map_or(0, |placed| placed.at(nanos));

        // By lane: where a stream's track is, what is known of it, and where each of its spans came to be.
        let mut built: HashMap<u64, (usize, &Done, Vec<Option<usize>>)> = HashMap::new();
        let clocks: HashMap<u64, DeviceClockId> =
            streams.iter().map(|(track, _)| (track.lane, track.clock)).collect();
        for (track, state) in &streams {
            let Some(done) = &state.done else { continue };
            let index = trace.add_track(track.describe(placements.get(&track.clock)));
            let spans = done.spans.iter().map(|known| {
                let mut span = Span::new(index, known.name.clone(), place(track.clock, known.start), 0);
                span.submitted = known.submitted;
                match &known.end {
                    End::At(end) => span.end = place(track.clock, *end),
                    End::Failed(seen, why) => {
                        span.end = span.start.max(*seen);
                        span.error = Some(why.clone());
                    }
                    End::Open | End::Lost => return None,
                }
                Some(trace.add_span(span))
            });
            let spans = spans.collect();
            built.insert(track.lane, (index, done, spans));
        }
        let mut lost = 0;
        for (track, state) in &streams {
            let Some((index, done, spans)) = built.get(&track.lane) else { continue };
            lost += done.open.len();
            lost += state.ops.iter().filter(|op| !matches!(op, Op::End { .. })).count();
            // When the stream was through with the last wait, or with what was before it.
            let mut through = (0, i64::MIN);
            for wait in &done.waits {
                let boundary =
                    wait.after.checked_sub(1).map(|last| place(track.clock, done.boundaries[last].at));
                if through.0 != wait.after {
                    through = (wait.after, i64::MIN);
                }
                let reached = wait.submitted.max(boundary.unwrap_or(i64::MIN)).max(through.1);
                let next = done.boundaries.get(wait.after).map(|next| place(track.clock, next.at));
                let (source_track, source, marked) = match built.get(&wait.source.0) {
                    Some((track, done, spans)) => {
                        let last = done.last_before(wait.source.1);
                        let span = last.and_then(|boundary| *spans.get(boundary.span)?);
                        let ended = last.filter(|boundary| boundary.ends).map(|boundary| boundary.at);
                        (Some(*track), span, clocks.get(&wait.source.0).copied().zip(ended))
                    }
                    None => (None, None, None),
                };
                let known = wait.released.or(marked);
                // What nobody timed is over at the latest when the stream went on.
                let Some(released) = known.map(|(clock, at)| place(clock, at)).or(next) else {
                    lost += 1;
                    continue;
                };
                // A device's times may be off against another's, and order is not: what came behind the wait came later.
                let released = next.map_or(released, |next| released.min(next));
                through.1 = reached.max(released);
                let mut told = Wait::new(*index, wait.name.clone(), reached, released);
                told.submitted = wait.submitted;
                told.source = source;
                told.source_track = source_track;
                told.before = wait.before.and_then(|span| *spans.get(span)?);
                trace.add_wait(told);
            }
        }
        drop(streams);
        self.add_threads(&mut trace);
        // Relaxed: a count.
        let dropped = self.dropped.load(Ordering::Relaxed) + lost as u64;
        if let Some(process) = trace.processes.first_mut() {
            process.dropped = dropped;
        }
        trace.untangle();
        trace
    }

    fn placements(
        &self,
        bounds: impl Iterator<Item = (DeviceClockId, Causality)>,
    ) -> HashMap<DeviceClockId, Placement> {
        let mut causality: HashMap<DeviceClockId, Causality> = HashMap::new();
        for (clock, bound) in bounds {
            let all = causality.entry(clock).or_insert(Causality::UNKNOWN);
            *all = all.and(bound);
        }
        let clocks = lock(&self.clocks);
        let placed = |(id, clock)| {
            let bound = causality.get(id).copied().unwrap_or(Causality::UNKNOWN);
            (*id, Placement::of(clock, bound, &self.axis))
        };
        clocks.iter().map(placed).collect()
    }
}

impl StreamTrack {
    /// The state, with nobody in the middle of draining it, which blocks nobody and is soon over.
    fn state_at_rest(&self) -> MutexGuard<'_, State> {
        loop {
            let state = lock(&self.state);
            if state.done.is_some() {
                return state;
            }
            drop(state);
            thread::yield_now();
        }
    }

    fn describe(&self, placement: Option<&Placement>) -> Track {
        let mut track = Track::stream(self.device.clone(), self.name.clone());
        track.id = self.lane;
        track.clock = self.source.to_owned();
        track.uncertainty = placement.map_or(0, |placement| placement.uncertainty);
        track
    }
}

impl Done {
    /// The last beginning or end at this position or before.
    fn last_before(&self, position: u64) -> Option<&Boundary> {
        let behind = self.boundaries.partition_point(|boundary| boundary.position <= position);
        self.boundaries.get(behind.checked_sub(1)?)
    }
}
