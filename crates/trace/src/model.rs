//! The data.

use crate::{Error, ErrorKind, Result};
use std::{fmt, str::FromStr, sync::Arc};

/// What happened, on one axis of time: nanoseconds of the first process's clock.
///
/// The indices in it (of tracks, spans, processes) are places in its lists. What it comes from (a file,
/// [`merge`](crate::merge), the recorder) sees to it that they are right; whoever fills one by hand calls
/// [`check`](Self::check).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trace {
    /// Where it was recorded.
    pub processes: Vec<Process>,
    /// Streams and threads.
    pub tracks: Vec<Track>,
    /// In no order that could be relied upon.
    pub spans: Vec<Span>,
    /// What streams waited for.
    pub waits: Vec<Wait>,
    /// Readings of two clocks at a time, for [`merge`](crate::merge).
    pub samples: Vec<ClockSample>,
}

/// A process that recorded.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Process {
    /// What it is called.
    pub name: String,
    /// Its number on its machine.
    pub pid: u32,
    /// The clock that its times are of.
    pub clock: ClockId,
    /// How far its times may be off the axis, nanoseconds: zero but for what was merged.
    pub uncertainty: u64,
    /// How exactly its times were put on that clock, nanoseconds. All of them are off by the same, so within the process it
    /// does not count.
    pub anchor: u64,
    /// Spans and waits that there was no room for.
    pub dropped: u64,
}

/// Names a host's clock. Two processes whose clocks have the same id read the same one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClockId(pub u128);

/// A stream, or a thread of the host's.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Track {
    /// Whose it is: a place in [`Trace::processes`].
    pub process: usize,
    /// What it is.
    pub kind: TrackKind,
    /// The device of a stream; empty for a thread.
    pub device: String,
    /// Its label.
    pub name: String,
    /// The stream's or the thread's number in its process.
    pub id: u64,
    /// How far its times may be off the process's clock (R24), nanoseconds.
    pub uncertainty: u64,
    /// What its times were read from, in the vendor's words.
    pub clock: String,
}

/// What a track is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrackKind {
    /// A stream of a device.
    Stream,
    /// A thread of the host.
    Thread,
}

/// A piece of work with a name, on a track. Spans of one track may be nested; they don't overlap otherwise.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Span {
    /// The track: a place in [`Trace::tracks`].
    pub track: usize,
    /// What is done.
    pub name: Arc<str>,
    /// Nanoseconds on the axis.
    pub start: i64,
    /// Nanoseconds on the axis, not before the start.
    pub end: i64,
    /// When the host had submitted its start; of a thread's span its start.
    pub submitted: i64,
    /// Why it failed, if it did.
    pub error: Option<Arc<str>>,
}

/// A stream's wait for an event.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Wait {
    /// Who waits: a place in [`Trace::tracks`].
    pub track: usize,
    /// The event's name.
    pub event: Arc<str>,
    /// When the host inserted it.
    pub submitted: i64,
    /// When the stream had come to it: what was before it was done, and it was there.
    pub reached: i64,
    /// When the event was complete. Before `reached`, if the stream did not have to wait.
    pub released: i64,
    /// The span whose end the event marks, if one does: a place in [`Trace::spans`].
    pub source: Option<usize>,
    /// The track that the event is of, if it is in the trace.
    pub source_track: Option<usize>,
    /// The first span behind it on its track, if there is one: a place in [`Trace::spans`].
    pub before: Option<usize>,
}

/// Two clocks, read at the same time but for `uncertainty`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockSample {
    /// One clock.
    pub clock: ClockId,
    /// What it read, nanoseconds. On the clock itself, whatever axis the trace has by now.
    pub reading: i64,
    /// The other clock.
    pub other: ClockId,
    /// What that read.
    pub other_reading: i64,
    /// How far apart the two may have been read, nanoseconds.
    pub uncertainty: u64,
}

impl Trace {
    /// An empty one, of one process.
    pub fn new(process: Process) -> Self {
        Self { processes: vec![process], ..Self::default() }
    }

    /// Adds a track, and says where it is.
    pub fn add_track(&mut self, track: Track) -> usize {
        self.tracks.push(track);
        self.tracks.len() - 1
    }

    /// Adds a span, and says where it is.
    pub fn add_span(&mut self, span: Span) -> usize {
        self.spans.push(span);
        self.spans.len() - 1
    }

    /// Adds a wait, and says where it is.
    pub fn add_wait(&mut self, wait: Wait) -> usize {
        self.waits.push(wait);
        self.waits.len() - 1
    }

    /// Whether nothing happened in it.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty() && self.waits.is_empty()
    }

    /// From the first start to the last end, nanoseconds on the axis; `None` without spans.
    pub fn extent(&self) -> Option<(i64, i64)> {
        let start = self.spans.iter().map(|span| span.start).min()?;
        let end = self.spans.iter().map(|span| span.end).max()?;
        Some((start, end))
    }

    /// What has to be added to all times for none of a span or a wait to be below zero, for formats that have no such.
    pub(crate) fn shift(&self) -> i64 {
        let times = self.spans.iter().map(|span| span.start);
        let least = times.chain(self.waits.iter().map(|wait| wait.reached)).min().unwrap_or(0);
        least.min(0).saturating_neg()
    }

    /// Spans and waits that there was no room for, in all processes.
    pub fn dropped(&self) -> u64 {
        self.processes.iter().map(|process| process.dropped).sum()
    }

    /// Whether its parts fit together: all places are there, nothing ends before it begins, and the spans of each track are
    /// nested, or apart.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`], and what is wrong.
    pub fn check(&self) -> Result<()> {
        let invalid = |text: String| Err(Error::new(ErrorKind::Invalid, text));
        let span_is_there = |place: Option<usize>| place.is_none_or(|place| place < self.spans.len());
        for (index, track) in self.tracks.iter().enumerate() {
            if track.process >= self.processes.len() {
                return invalid(format!("track {index} is of process {}, which is not there", track.process));
            }
        }
        for (index, span) in self.spans.iter().enumerate() {
            if span.track >= self.tracks.len() {
                return invalid(format!("span {index} is on track {}, which is not there", span.track));
            }
            if span.end < span.start {
                return invalid(format!("span {index} ends before it begins"));
            }
        }
        for (index, wait) in self.waits.iter().enumerate() {
            let tracks = [Some(wait.track), wait.source_track];
            if tracks.into_iter().flatten().any(|track| track >= self.tracks.len()) {
                return invalid(format!("wait {index} is on a track, or for one, that is not there"));
            }
            if !(span_is_there(wait.source) && span_is_there(wait.before)) {
                return invalid(format!("wait {index} is for a span, or before one, that is not there"));
            }
        }
        let mut order: Vec<&Span> = self.spans.iter().collect();
        order.sort_by_key(|span| (span.track, span.start, std::cmp::Reverse(span.end)));
        let mut open: Vec<&Span> = Vec::new();
        for span in order {
            while open.pop_if(|last| last.track != span.track || last.end <= span.start).is_some() {}
            if open.last().is_some_and(|last| span.end > last.end) {
                let (track, name) = (&self.tracks[span.track].name, &span.name);
                return invalid(format!(
                    "two spans of track {track} overlap, and neither is inside of the other: {name}"
                ));
            }
            open.push(span);
        }
        Ok(())
    }

    /// Moves spans that overlap others of their track without being inside of them, as those of threads that share a stream
    /// may, to tracks of their own: nothing else that is said of a trace allows for them.
    pub fn untangle(&mut self) {
        let mut order: Vec<usize> = (0..self.spans.len()).collect();
        let place = |span: &Span| (span.track, span.start, std::cmp::Reverse(span.end));
        order.sort_by_key(|&span| place(&self.spans[span]));
        // Of the track that is being looked at: itself and those that were added for it, each with the ends of what is open.
        let mut layers: Vec<(usize, Vec<i64>)> = Vec::new();
        let mut current = None;
        for index in order {
            let (track, start, end) =
                (self.spans[index].track, self.spans[index].start, self.spans[index].end);
            if current != Some(track) {
                current = Some(track);
                layers = vec![(track, Vec::new())];
            }
            let fits = layers.iter_mut().position(|(_, open)| {
                while open.last().is_some_and(|last| *last <= start) {
                    open.pop();
                }
                open.last().is_none_or(|last| end <= *last)
            });
            let layer = fits.unwrap_or_else(|| {
                let mut beside = self.tracks[track].clone();
                beside.name = format!("{} ({})", beside.name, layers.len() + 1);
                self.tracks.push(beside);
                layers.push((self.tracks.len() - 1, Vec::new()));
                layers.len() - 1
            });
            let (track, open) = &mut layers[layer];
            open.push(end);
            self.spans[index].track = *track;
        }
    }

    /// How far a track's times may be off the axis, nanoseconds.
    pub fn uncertainty(&self, track: usize) -> u64 {
        let Some(track) = self.tracks.get(track) else { return 0 };
        let process = self.processes.get(track.process).map_or(0, |process| process.uncertainty);
        track.uncertainty.saturating_add(process)
    }
}

impl Process {
    /// This process, under that name, with a clock that nobody else's is.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            pid: std::process::id(),
            clock: ClockId::unique(),
            uncertainty: 0,
            anchor: 0,
            dropped: 0,
        }
    }
}

impl ClockId {
    /// A clock that is no other process's.
    pub fn unique() -> Self {
        use std::hash::{BuildHasher, RandomState};
        // Seeded by the system, and anew for each.
        let half = || u128::from(RandomState::new().hash_one(std::process::id()));
        Self(half() << 64 | half())
    }
}

impl fmt::Display for ClockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl FromStr for ClockId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> std::result::Result<Self, Self::Err> {
        u128::from_str_radix(text, 16).map(Self)
    }
}

impl Track {
    /// A stream of the first process's.
    pub fn stream(device: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            process: 0,
            kind: TrackKind::Stream,
            device: device.into(),
            name: name.into(),
            id: 0,
            uncertainty: 0,
            clock: String::new(),
        }
    }

    /// A thread of the first process's.
    pub fn thread(name: impl Into<String>) -> Self {
        Self { kind: TrackKind::Thread, device: String::new(), ..Self::stream("", name) }
    }
}

impl Span {
    /// A span that was submitted as it began.
    pub fn new(track: usize, name: impl Into<Arc<str>>, start: i64, end: i64) -> Self {
        Self { track, name: name.into(), start, end, submitted: start, error: None }
    }

    /// How long it took, nanoseconds.
    pub fn nanos(&self) -> u64 {
        self.end.saturating_sub(self.start).max(0) as u64
    }
}

impl Wait {
    /// A wait that was inserted at `reached` or before, for an event that was complete at `released`.
    pub fn new(track: usize, event: impl Into<Arc<str>>, reached: i64, released: i64) -> Self {
        Self {
            track,
            event: event.into(),
            submitted: reached,
            reached,
            released,
            source: None,
            source_track: None,
            before: None,
        }
    }

    /// For how long it held its stream back, nanoseconds.
    pub fn held(&self) -> u64 {
        self.released.saturating_sub(self.reached).max(0) as u64
    }
}
