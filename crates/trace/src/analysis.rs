//! Where the time went.

use crate::{Trace, TrackKind};

/// Where the time of a trace went. All times are nanoseconds.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Analysis {
    /// From the first span's start to the last one's end.
    pub extent: Option<(i64, i64)>,
    /// For each of the trace's tracks, in their order.
    pub tracks: Vec<TrackTimes>,
    /// For each of the trace's waits, in their order.
    pub waits: Vec<Held>,
    /// How much ran beside something else.
    pub overlap: Overlap,
    /// What the whole took so long for, from its start to its end, without a gap.
    pub critical_path: Vec<Step>,
    /// Each track's time, cut up.
    segments: Vec<Vec<Segment>>,
}

/// A track's time within the extent: the three add up to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TrackTimes {
    /// In spans, and not waiting.
    pub busy: u64,
    /// Held back by waits.
    pub waiting: u64,
    /// Neither.
    pub idle: u64,
    /// The part of it that is on the critical path.
    pub critical: u64,
}

/// What a wait cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Held {
    /// For how long it held its stream back.
    pub held: u64,
    /// Whether the critical path goes over it: without it, the whole would have been done sooner.
    pub critical: bool,
}

/// How many streams were at work at a time. Threads of the host don't count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Overlap {
    /// For how long exactly so many streams were busy: none, one, two and so on.
    pub streams: Vec<u64>,
}

/// A part of the critical path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Step {
    /// Where it begins.
    pub from: i64,
    /// Where it ends.
    pub to: i64,
    /// What it was.
    pub cause: Cause,
}

/// What a part of the critical path was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// This span: a place in [`Trace::spans`].
    Work(usize),
    /// A stream that had nothing to do: the host had not submitted this span yet.
    Host(usize),
    /// From when this span could have begun to when it did.
    Launch(usize),
    /// Waiting in this wait for an event that no span of the trace ends in: a place in [`Trace::waits`].
    Wait(usize),
}

impl Analysis {
    /// Analyses a trace.
    pub fn of(trace: &Trace) -> Self {
        let Some(extent) = trace.extent() else {
            let (tracks, waits) = (trace.tracks.len(), trace.waits.len());
            let tracks = vec![TrackTimes::default(); tracks];
            return Self { tracks, waits: vec![Held::default(); waits], ..Self::default() };
        };
        let tracks = segments(trace, extent);
        let mut analysis = Self {
            extent: Some(extent),
            tracks: tracks.iter().map(|segments| TrackTimes::of(segments, extent)).collect(),
            waits: vec![Held::default(); trace.waits.len()],
            overlap: Overlap::of(trace, &tracks, extent),
            critical_path: Vec::new(),
            segments: Vec::new(),
        };
        for segment in tracks.iter().flatten() {
            if let What::Waiting(wait) = segment.what {
                analysis.waits[wait].held += segment.nanos();
            }
        }
        let mut path =
            Path { trace, tracks: &tracks, extent, steps: Vec::new(), over: vec![false; trace.waits.len()] };
        path.walk();
        let (steps, over) = (path.steps, path.over);
        for (held, critical) in analysis.waits.iter_mut().zip(over) {
            held.critical = critical;
        }
        // It was walked from the end.
        for step in steps.into_iter().rev() {
            if let Cause::Work(span) = step.cause {
                analysis.tracks[trace.spans[span].track].critical += step.to.abs_diff(step.from);
            }
            match analysis.critical_path.last_mut() {
                Some(last) if last.cause == step.cause => last.to = step.to,
                _ => analysis.critical_path.push(step),
            }
        }
        analysis.segments = tracks;
        analysis
    }

    /// The pieces of a track's time in which it works, or those in which it waits, in order.
    pub(crate) fn pieces(&self, track: usize, works: bool) -> impl Iterator<Item = (i64, i64)> {
        let segments = self.segments.get(track).into_iter().flatten();
        let of_kind = move |segment: &&Segment| matches!(segment.what, What::Work(_)) == works;
        segments.filter(of_kind).map(|segment| (segment.from, segment.to))
    }
}

/// A piece of a track's time in which it does one thing. There is none for doing nothing.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Segment {
    from: i64,
    to: i64,
    what: What,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum What {
    /// The innermost span.
    Work(usize),
    Waiting(usize),
}

impl Segment {
    fn nanos(&self) -> u64 {
        self.to.abs_diff(self.from)
    }
}

/// Each track's time, cut up, in order.
fn segments(trace: &Trace, extent: (i64, i64)) -> Vec<Vec<Segment>> {
    let mut spans = vec![Vec::new(); trace.tracks.len()];
    for (index, span) in trace.spans.iter().enumerate() {
        spans[span.track].push(index);
    }
    let mut waits = vec![Vec::new(); trace.tracks.len()];
    for (index, wait) in trace.waits.iter().enumerate() {
        waits[wait.track].push(index);
    }
    spans.into_iter().zip(waits).map(|(spans, waits)| cut(trace, spans, waits, extent)).collect()
}

fn cut(trace: &Trace, mut spans: Vec<usize>, mut waits: Vec<usize>, extent: (i64, i64)) -> Vec<Segment> {
    // Outer ones first.
    spans.sort_by_key(|&span| (trace.spans[span].start, std::cmp::Reverse(trace.spans[span].end), span));
    waits.sort_by_key(|&wait| (trace.waits[wait].reached, wait));
    // What a wait held: two at the same place hold one after the other.
    let mut held = Vec::new();
    let mut through = extent.0;
    for wait in waits {
        let (from, to) = (trace.waits[wait].reached.max(through), trace.waits[wait].released.min(extent.1));
        if from < to {
            held.push((from, to, wait));
            through = to;
        }
    }
    let starts_and_ends = spans.iter().flat_map(|&span| [trace.spans[span].start, trace.spans[span].end]);
    let mut cuts: Vec<i64> =
        starts_and_ends.chain(held.iter().flat_map(|(from, to, _)| [*from, *to])).collect();
    cuts.sort_unstable();
    cuts.dedup();

    let mut segments = Vec::new();
    let mut open: Vec<usize> = Vec::new();
    let (mut spans, mut held) = (spans.into_iter().peekable(), held.into_iter().peekable());
    for (&from, &to) in cuts.iter().zip(cuts.iter().skip(1)) {
        while let Some(span) = spans.next_if(|&span| trace.spans[span].start <= from) {
            open.push(span);
        }
        while open.last().is_some_and(|&span| trace.spans[span].end <= from) {
            open.pop();
        }
        while held.next_if(|(_, until, _)| *until <= from).is_some() {}
        let waits = held.peek().filter(|(since, ..)| *since <= from);
        let what = match (waits, open.last()) {
            (Some((.., wait)), _) => What::Waiting(*wait),
            (None, Some(span)) => What::Work(*span),
            (None, None) => continue,
        };
        segments.push(Segment { from, to, what });
    }
    segments
}

impl TrackTimes {
    fn of(segments: &[Segment], extent: (i64, i64)) -> Self {
        let mut times = Self { idle: extent.1.abs_diff(extent.0), ..Self::default() };
        for segment in segments {
            match segment.what {
                What::Work(_) => times.busy += segment.nanos(),
                What::Waiting(_) => times.waiting += segment.nanos(),
            }
        }
        times.idle -= times.busy + times.waiting;
        times
    }
}

impl Overlap {
    /// How long two streams or more were busy at a time.
    pub fn nanos(&self) -> u64 {
        self.streams.iter().skip(2).sum()
    }

    fn of(trace: &Trace, tracks: &[Vec<Segment>], extent: (i64, i64)) -> Self {
        let mut edges = Vec::new();
        for (track, segments) in trace.tracks.iter().zip(tracks) {
            if track.kind != TrackKind::Stream {
                continue;
            }
            let work = segments.iter().filter(|segment| matches!(segment.what, What::Work(_)));
            edges.extend(work.flat_map(|segment| [(segment.from, true), (segment.to, false)]));
        }
        // Ends first: what only touches does not overlap.
        edges.sort_unstable();
        let mut streams = vec![0];
        let (mut at, mut busy) = (extent.0, 0_usize);
        for (time, begins) in edges {
            streams[busy] += time.abs_diff(at);
            at = time;
            busy = if begins { busy + 1 } else { busy - 1 };
            if streams.len() <= busy {
                streams.push(0);
            }
        }
        streams[busy] += extent.1.abs_diff(at);
        Self { streams }
    }
}

/// The way back from the end.
struct Path<'a> {
    trace: &'a Trace,
    tracks: &'a [Vec<Segment>],
    extent: (i64, i64),
    steps: Vec<Step>,
    /// The waits that it went over. None twice: a trace whose clocks are off may have circles.
    over: Vec<bool>,
}

impl Path<'_> {
    fn step(&mut self, from: i64, to: i64, cause: Cause) {
        if from < to {
            self.steps.push(Step { from, to, cause });
        }
    }

    fn walk(&mut self) {
        let last = (0..self.trace.spans.len()).max_by_key(|&span| {
            let it = &self.trace.spans[span];
            // Of those that end together the innermost, and of those the first.
            (it.end, it.start, std::cmp::Reverse(span))
        });
        let Some(last) = last else { return };
        // What the path is at the end of, and for the sake of which span.
        let (mut track, mut time, mut for_span) = (self.trace.spans[last].track, self.extent.1, last);
        while time > self.extent.0 {
            let segments = &self.tracks[track];
            let behind = segments.partition_point(|segment| segment.from < time);
            let Some(segment) = behind.checked_sub(1).map(|last| segments[last]) else {
                // Nothing was before it: the host had not come to it, and then the stream had not.
                let submitted = self.trace.spans[for_span].submitted.clamp(self.extent.0, time);
                self.step(submitted, time, Cause::Launch(for_span));
                self.step(self.extent.0, submitted, Cause::Host(for_span));
                return;
            };
            if segment.to < time {
                // A gap.
                match segment.what {
                    What::Waiting(_) => self.step(segment.to, time, Cause::Launch(for_span)),
                    What::Work(_) => {
                        let submitted = self.trace.spans[for_span].submitted.clamp(segment.to, time);
                        self.step(submitted, time, Cause::Launch(for_span));
                        self.step(segment.to, submitted, Cause::Host(for_span));
                    }
                }
                time = segment.to;
                continue;
            }
            match segment.what {
                What::Work(span) => {
                    self.step(segment.from, time, Cause::Work(span));
                    (time, for_span) = (segment.from, span);
                }
                What::Waiting(wait) => {
                    let source = self.trace.waits[wait].source.filter(|_| !self.over[wait]);
                    self.over[wait] = true;
                    match source {
                        Some(source) => {
                            let until = self.trace.spans[source].end.clamp(self.extent.0, time);
                            self.step(until, time, Cause::Wait(wait));
                            (track, time, for_span) = (self.trace.spans[source].track, until, source);
                        }
                        None => {
                            self.step(segment.from, time, Cause::Wait(wait));
                            time = segment.from;
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Process, Span, Track, Wait};
    use proptest::prelude::*;

    fn trace(tracks: &[&str]) -> Trace {
        let mut trace = Trace::new(Process::new("test"));
        for name in tracks {
            trace.add_track(Track::stream("device", *name));
        }
        trace
    }

    fn span(trace: &mut Trace, track: usize, name: &str, submitted: i64, start: i64, end: i64) -> usize {
        let mut span = Span::new(track, name, start, end);
        span.submitted = submitted;
        trace.add_span(span)
    }

    fn wait(trace: &mut Trace, track: usize, source: usize, before: usize, reached: i64) -> usize {
        let released = trace.spans[source].end;
        let mut wait = Wait::new(track, "event", reached, released);
        wait.source = Some(source);
        wait.source_track = Some(trace.spans[source].track);
        wait.before = Some(before);
        trace.add_wait(wait)
    }

    /// ```text
    ///          0    10   20   30   40   50   60   70   80   90  100
    /// copy     [a       ][b  ]                   [c       ]
    /// hash     1.........[d            ]    2..............[e    ]
    /// ```
    /// Wait 1 (of d, for a) held hash back from 0 to 20, and was made good for: d is not on the path. Wait 2 (of e, for c) held it
    /// from 60 to 88, and matters; what c itself came so late for was the host. A third, of e for b, was over when it was come to.
    #[test]
    fn a_trace_made_by_hand_is_analysed_exactly() {
        let mut trace = trace(&["copy", "hash"]);
        let a = span(&mut trace, 0, "a", 0, 0, 20);
        let b = span(&mut trace, 0, "b", 1, 20, 30);
        let c = span(&mut trace, 0, "c", 68, 70, 88);
        let d = span(&mut trace, 1, "d", 2, 22, 50);
        let e = span(&mut trace, 1, "e", 60, 89, 100);
        let matters = wait(&mut trace, 1, a, d, 0);
        let idle = wait(&mut trace, 1, b, e, 55);
        let last = wait(&mut trace, 1, c, e, 60);
        let analysis = Analysis::of(&trace);
        assert_eq!(analysis.extent, Some((0, 100)));
        assert_eq!(analysis.tracks[0], TrackTimes { busy: 48, waiting: 0, idle: 52, critical: 48 });
        assert_eq!(analysis.tracks[1], TrackTimes { busy: 39, waiting: 48, idle: 13, critical: 11 });
        assert_eq!(analysis.waits[matters], Held { held: 20, critical: false });
        assert_eq!(analysis.waits[idle], Held { held: 0, critical: false });
        assert_eq!(analysis.waits[last], Held { held: 28, critical: true });
        // Both at 22..30; d alone 30..50, and nobody 50..70 and at 88..89.
        assert_eq!(analysis.overlap.streams, [21, 71, 8]);
        let step = |from, to, cause| Step { from, to, cause };
        let expected = [
            step(0, 20, Cause::Work(a)),
            step(20, 30, Cause::Work(b)),
            step(30, 68, Cause::Host(c)),
            step(68, 70, Cause::Launch(c)),
            step(70, 88, Cause::Work(c)),
            step(88, 89, Cause::Launch(e)),
            step(89, 100, Cause::Work(e)),
        ];
        assert_eq!(analysis.critical_path, expected);
    }

    /// ```text
    ///        0    10   20   30   40
    /// copy   [a       ]
    /// hash   [b  ]....|[c      ]
    /// ```
    #[test]
    fn the_path_goes_through_a_wait_that_held() {
        let mut trace = trace(&["copy", "hash"]);
        let a = span(&mut trace, 0, "a", 0, 0, 20);
        let b = span(&mut trace, 1, "b", 0, 0, 10);
        let c = span(&mut trace, 1, "c", 1, 21, 40);
        let held = wait(&mut trace, 1, a, c, 10);
        let analysis = Analysis::of(&trace);
        assert_eq!(analysis.waits[held], Held { held: 10, critical: true });
        let causes: Vec<_> = analysis.critical_path.iter().map(|step| step.cause).collect();
        assert_eq!(causes, [Cause::Work(a), Cause::Launch(c), Cause::Work(c)]);
        assert_eq!((analysis.tracks[0].critical, analysis.tracks[1].critical), (20, 19));
        assert!(!causes.contains(&Cause::Work(b)));
    }

    #[test]
    fn an_event_of_nobody_in_the_trace_is_waited_for() {
        let mut trace = trace(&["hash"]);
        let a = span(&mut trace, 0, "a", 0, 0, 10);
        let b = span(&mut trace, 0, "b", 0, 30, 40);
        let wait = trace.add_wait(Wait::new(0, "gate", 10, 30));
        let analysis = Analysis::of(&trace);
        let causes: Vec<_> = analysis.critical_path.iter().map(|step| step.cause).collect();
        assert_eq!(causes, [Cause::Work(a), Cause::Wait(wait), Cause::Work(b)]);
        assert_eq!(analysis.tracks[0], TrackTimes { busy: 20, waiting: 20, idle: 0, critical: 20 });
    }

    #[test]
    fn nested_spans_count_once_and_the_innermost_is_at_work() {
        let mut trace = trace(&["hash"]);
        let outer = span(&mut trace, 0, "outer", 0, 0, 100);
        let inner = span(&mut trace, 0, "inner", 0, 20, 50);
        trace.add_wait(Wait::new(0, "gate", 50, 60));
        let analysis = Analysis::of(&trace);
        assert_eq!(analysis.tracks[0], TrackTimes { busy: 90, waiting: 10, idle: 0, critical: 90 });
        let work = |span, from, to| Step { from, to, cause: Cause::Work(span) };
        assert_eq!(
            analysis.critical_path,
            [
                work(outer, 0, 20),
                work(inner, 20, 50),
                Step { from: 50, to: 60, cause: Cause::Wait(0) },
                work(outer, 60, 100)
            ]
        );
    }

    #[test]
    fn two_waits_at_one_place_hold_one_after_the_other() {
        let mut trace = trace(&["hash"]);
        span(&mut trace, 0, "a", 0, 0, 10);
        span(&mut trace, 0, "b", 0, 30, 40);
        trace.add_wait(Wait::new(0, "first", 10, 20));
        trace.add_wait(Wait::new(0, "second", 10, 30));
        trace.add_wait(Wait::new(0, "third", 10, 15));
        let held: Vec<_> = Analysis::of(&trace).waits.iter().map(|wait| wait.held).collect();
        assert_eq!(held, [10, 10, 0]);
    }

    #[test]
    fn nothing_has_no_path() {
        let analysis = Analysis::of(&trace(&["idle"]));
        assert_eq!((analysis.extent, analysis.critical_path.len(), analysis.tracks.len()), (None, 0, 1));
    }

    /// Random spans one after the other, some with one inside, and random waits with random sources: circles and clocks that
    /// are off included.
    fn random() -> impl Strategy<Value = Trace> {
        let piece = (0..3_usize, 0..8_i64, 0..12_i64, any::<bool>());
        let waits = proptest::collection::vec(
            (0..3_usize, 0..150_i64, 0..40_i64, any::<proptest::sample::Index>()),
            0..12,
        );
        (proptest::collection::vec(piece, 1..24), waits).prop_map(|(pieces, waits)| {
            let mut trace = trace(&["a", "b", "c"]);
            let mut ends = [0; 3];
            for (track, gap, length, nested) in pieces {
                let start = ends[track] + gap;
                ends[track] = start + length;
                span(&mut trace, track, "outer", start - gap / 2, start, ends[track]);
                if nested && length > 4 {
                    span(&mut trace, track, "inner", start, start + 1, start + length - 2);
                }
            }
            for (track, reached, holds, source) in waits {
                let mut wait = Wait::new(track, "event", reached, reached + holds - 5);
                wait.source = Some(source.index(trace.spans.len()));
                trace.add_wait(wait);
            }
            trace
        })
    }

    proptest! {
        #[test]
        fn as_counted_nanosecond_by_nanosecond(trace in random()) {
            let analysis = Analysis::of(&trace);
            let (start, end) = trace.extent().unwrap();
            let mut streams = vec![0; 4];
            let mut times = [TrackTimes::default(); 3];
            for at in start..end {
                let mut busy = 0;
                for (track, times) in times.iter_mut().enumerate() {
                    let waits = trace.waits.iter().any(|wait| wait.track == track && wait.reached <= at && at < wait.released);
                    let works = trace.spans.iter().any(|span| span.track == track && span.start <= at && at < span.end);
                    match (waits, works) {
                        (true, _) => times.waiting += 1,
                        (false, true) => times.busy += 1,
                        (false, false) => times.idle += 1,
                    }
                    busy += usize::from(works && !waits);
                }
                streams[busy] += 1;
            }
            for (expected, found) in times.iter().zip(&analysis.tracks) {
                prop_assert_eq!((expected.busy, expected.waiting, expected.idle), (found.busy, found.waiting, found.idle));
            }
            let found = analysis.overlap.streams.iter().copied().chain(std::iter::repeat(0)).take(4);
            prop_assert_eq!(streams, found.collect::<Vec<u64>>());
            let held: u64 = analysis.waits.iter().map(|wait| wait.held).sum();
            prop_assert_eq!(held, times.iter().map(|times| times.waiting).sum::<u64>());
        }

        #[test]
        fn the_path_has_no_gap(trace in random()) {
            let path = Analysis::of(&trace).critical_path;
            let (start, end) = trace.extent().unwrap();
            let mut at = start;
            for step in &path {
                prop_assert_eq!(step.from, at);
                prop_assert!(step.to > step.from);
                at = step.to;
            }
            prop_assert!(at == end || (path.is_empty() && start == end));
        }
    }
}
