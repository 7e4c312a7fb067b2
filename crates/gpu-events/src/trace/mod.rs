//! What streams did, and when: spans over timed events, on one axis with the host's.
//!
//! ```
//! use gpu_events::{Device, trace::Tracer};
//!
//! let device = Device::open("cpu")?;
//! let (copy, hash) = (device.create_stream()?, device.create_stream()?);
//! let tracer = Tracer::new("example");
//!
//! let copied = {
//!     let span = tracer.span(&copy, "copy");
//!     copy.cpu()?.enqueue(|| println!("copying"))?;
//!     span.end();
//!     copy.record()?
//! };
//! hash.wait(&copied)?; // seen by the tracer, once it knows the stream
//! {
//!     let _span = tracer.span(&hash, "hash");
//!     hash.cpu()?.enqueue(|| println!("hashing"))?;
//! }
//!
//! let trace = tracer.finish();
//! assert_eq!(trace.spans.len(), 2);
//! # Ok::<(), gpu_events::Error>(())
//! ```
//!
//! A [`Tracer`] records a timed event where a span begins and one where it ends, and looks at them later: neither the streams
//! nor the host wait for each other because of it. What it collects is a [`Trace`], plain data of the crate
//! `gpu-events-trace`, which has analysis, merging and exporters; all of that is here as well.
//!
//! # Time
//! A device's times are of its own clock. They are placed on the host's by readings of both: one when the tracer meets the
//! device, one when it finishes, and more with [`Tracer::calibrate`]; in between, the line from one to the next is followed,
//! so that a steady drift does no harm. A clock that nobody can read beside the host's is placed by what must have come
//! before what: a span does not begin before it was submitted, nor end after it was seen to be complete. Either way the
//! track says how far off it may be ([`Track::uncertainty`]).
//!
//! # Cost
//! A span takes two timed recordings. On Metal and Vulkan each ends a batch; `docs/trace.md` has figures. A tracer that is
//! [off](Tracer::off) costs the look whether it is.

mod clock;
mod collect;
#[cfg(feature = "tracing")]
mod subscriber;
mod thread;

pub use gpu_events_trace::*;
#[cfg(feature = "tracing")]
pub use subscriber::Layer;
pub use thread::ThreadSpan;

use crate::{
    device::Device,
    event::Event,
    fork,
    lane::Lane,
    primitive::lock,
    stream::{Stream, StreamWait},
    time::ClockId as DeviceClockId,
    wait::{Target, WaitOptions},
};
use clock::{Axis, DeviceClock};
use collect::{Inserted, StreamTrack};
use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, PoisonError, RwLock, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread::ThreadId,
    time::{Duration, SystemTime},
};

/// How many spans and waits a tracer keeps, unless it is told otherwise: some 100 MiB.
const CAPACITY: usize = 1 << 20;

/// How many spans may be under way, unless it is told otherwise: each holds two timed events.
const PENDING: usize = 1 << 14;

/// A stream's track is looked at for what is complete once in so many spans.
const LOOK_EVERY: usize = 32;

/// What a tracer keeps at most; see [`Tracer::with`].
#[derive(Clone, Copy, Debug)]
pub struct TraceOptions {
    capacity: usize,
    pending: usize,
}

impl TraceOptions {
    /// The default: 1,048,576 spans and waits, 16,384 spans under way.
    pub fn new() -> Self {
        Self { capacity: CAPACITY, pending: PENDING }
    }

    /// Keeps at most so many spans and waits in all. What comes later is dropped, and counted.
    pub fn capacity(mut self, capacity: usize) -> Self {
        self.capacity = capacity;
        self
    }

    /// Lets at most so many spans be under way, begun and not known to be complete. Each holds two timed events of its
    /// device. What comes on top is dropped, and counted: nobody waits for room.
    pub fn pending(mut self, pending: usize) -> Self {
        self.pending = pending;
        self
    }
}

impl Default for TraceOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// Collects spans of streams and of the host's threads, and what streams waited for.
///
/// A cheap handle: clones collect into the same trace. From any thread. It keeps the devices whose streams it knows.
#[derive(Clone)]
pub struct Tracer(Arc<Core>);

pub(crate) struct Core {
    on: AtomicBool,
    /// Counted among those that are on.
    counted: AtomicBool,
    name: String,
    axis: Axis,
    options: TraceOptions,
    /// Spans and waits that were let in.
    kept: AtomicUsize,
    /// Spans that hold events.
    pending: AtomicUsize,
    dropped: AtomicU64,
    names: Mutex<HashMap<Arc<str>, ()>>,
    streams: RwLock<HashMap<u64, Arc<StreamTrack>>>,
    clocks: Mutex<HashMap<DeviceClockId, DeviceClock>>,
    threads: Mutex<HashMap<ThreadId, thread::ThreadTrack>>,
    samples: Mutex<Vec<ClockSample>>,
}

/// How many tracers are on: what a wait looks at first.
static ON: AtomicUsize = AtomicUsize::new(0);

/// Who wants to hear of a stream's waits, by its number.
static WATCHED: RwLock<Option<HashMap<u64, Vec<Weak<Core>>>>> = RwLock::new(None);

impl Tracer {
    /// One that collects, for a process of this name.
    pub fn new(process: impl Into<String>) -> Self {
        Self::with(process, TraceOptions::new())
    }

    /// As [`new`](Self::new), with bounds.
    pub fn with(process: impl Into<String>, options: TraceOptions) -> Self {
        // Relaxed: a count that says whether to look, and who begins to trace has no claim on waits of other threads
        // that are on their way.
        ON.fetch_add(1, Ordering::Relaxed);
        Self::build(process.into(), options, true)
    }

    /// One that collects nothing: for programs that are traced only when asked to.
    pub fn off() -> Self {
        Self::build(String::new(), TraceOptions { capacity: 0, pending: 0 }, false)
    }

    fn build(name: String, options: TraceOptions, on: bool) -> Self {
        Self(Arc::new(Core {
            on: AtomicBool::new(on),
            counted: AtomicBool::new(on),
            name,
            axis: Axis::of_host(),
            options,
            kept: AtomicUsize::new(0),
            pending: AtomicUsize::new(0),
            dropped: AtomicU64::new(0),
            names: Mutex::default(),
            streams: RwLock::default(),
            clocks: Mutex::default(),
            threads: Mutex::default(),
            samples: Mutex::default(),
        }))
    }

    /// Whether it collects: it was not made [off](Self::off), and has not [finished](Self::finish).
    #[inline]
    pub fn is_on(&self) -> bool {
        self.0.is_on()
    }

    /// Begins a span on a stream, around the work that is submitted until the guard goes.
    ///
    /// Spans of one stream may be nested, and go on any number of streams at a time. If two of one stream overlap otherwise,
    /// as threads that share it may have them, the later one is shown on a track of its own.
    ///
    /// Never fails and never blocks, but for the stream's submit lock: where there is no room, for want of space in the tracer
    /// or in the stream's queue, or where the stream does not record, the span is dropped and counted
    /// ([`dropped`](Self::dropped)). So it is while this thread holds the stream's [`lock`](Stream::lock). The first span of a
    /// device, or the first [`watch`](Self::watch), reads the device's clock beside the host's, as [`calibrate`](Self::calibrate)
    /// does.
    #[inline]
    #[must_use = "a span ends when its guard goes"]
    pub fn span(&self, stream: &Stream, name: &str) -> SpanGuard {
        if !self.is_on() {
            return SpanGuard(None);
        }
        self.begin(stream, name)
    }

    #[cold]
    #[inline(never)]
    fn begin(&self, stream: &Stream, name: &str) -> SpanGuard {
        let track = self.0.track(stream);
        if !self.0.admit_span(&track) {
            return SpanGuard(None);
        }
        let submitted = self.0.axis.now();
        let Some((begin, position)) = record(stream) else {
            self.0.refuse_span();
            return SpanGuard(None);
        };
        let name = self.0.name(name);
        let key = track.begin(begin, position, name, submitted);
        SpanGuard(Some(Box::new(Open { core: self.0.clone(), track, stream: stream.clone(), key })))
    }

    /// A span whose two timed events were recorded already, around work that `name` is to stand for: for those who time their
    /// work anyway. To be called right after `end` was recorded. They must not be recorded again.
    ///
    /// Where there is no room it is dropped and counted, and so are two events that are not timed, or not of this stream.
    pub fn add_span(
        &self,
        stream: &Stream,
        name: &str,
        begin: &Arc<Event>,
        end: &Arc<Event>,
        submitted: i64,
    ) {
        if !self.is_on() {
            return;
        }
        let track = self.0.track(stream);
        if !self.0.admit_span(&track) {
            return;
        }
        let of_stream = |event: &Event| event.is_timed() && event.check_device(stream.lane()).is_ok();
        let (Some(from), Some(to)) = (begin.position(), end.position()) else { return self.0.refuse_span() };
        if !(of_stream(begin) && of_stream(end)) || from > to {
            return self.0.refuse_span();
        }
        let key = track.begin(begin.clone(), from, self.0.name(name), submitted);
        track.end(key, Some((end.clone(), to)));
    }

    /// Has the tracer know a stream, so that its waits are collected from now on. With its first span it comes by itself.
    pub fn watch(&self, stream: &Stream) {
        if self.is_on() {
            self.0.track(stream);
        }
    }

    /// Begins a span on this thread, until the guard goes.
    #[inline]
    #[must_use = "a span ends when its guard goes"]
    pub fn thread_span(&self, name: &str) -> ThreadSpan {
        if !self.is_on() {
            return ThreadSpan::none();
        }
        ThreadSpan::begin(&self.0, name)
    }

    /// Spans and waits that were dropped so far: there was no room, or their stream told no time.
    pub fn dropped(&self) -> u64 {
        // Relaxed: a count.
        self.0.dropped.load(Ordering::Relaxed)
    }

    /// Now, on the trace's axis: nanoseconds of this process's clock, [`clock_id`](Self::clock_id).
    pub fn now(&self) -> i64 {
        self.0.axis.now()
    }

    /// When the axis was at zero, by the system's clock, as far as that has not been set since: for exporters that want such times.
    pub fn origin(&self) -> SystemTime {
        let since = Duration::from_nanos(self.now().unsigned_abs());
        let now = SystemTime::now();
        // An axis begins at zero or later.
        now.checked_sub(since).unwrap_or(now)
    }

    /// The clock of the trace's axis. On Linux all processes of a machine read the same one, and their traces merge as they
    /// are; elsewhere it is the process's own.
    pub fn clock_id(&self) -> ClockId {
        self.0.axis.id
    }

    /// Adds a reading of this process's clock beside another's, for [`merge`]; see [`exchange`].
    pub fn add_sample(&self, sample: ClockSample) {
        if !fork::happened() {
            lock(&self.0.samples).push(sample);
        }
    }

    /// Reads the clocks of all devices beside the host's once more. It may take a device some hundred microseconds, and longer
    /// if it is busy: for long traces, now and then, from a thread that has the time.
    pub fn calibrate(&self) {
        if fork::happened() {
            return;
        }
        let devices: Vec<Device> = lock(&self.0.clocks).values().map(|clock| clock.device.clone()).collect();
        for device in devices {
            // With no lock held: it waits for the device.
            let read = device.correlate().ok();
            if let Some(clock) = lock(&self.0.clocks).get_mut(&device.clock().id()) {
                clock.anchors.extend(read);
            }
        }
    }

    /// Looks which spans are complete, and takes over their times; their events go back to their pools. Never blocks.
    pub fn collect(&self) {
        if fork::happened() {
            return;
        }
        for track in self.0.tracks() {
            track.drain(&self.0);
        }
    }

    /// Ends the trace: no more spans begin, and once all that have ended on the host are complete on their devices, this is
    /// what happened. Blocks for that; spans whose guard is still there are dropped, and counted. In a fork's child it is empty.
    pub fn finish(&self) -> Trace {
        self.finish_with(&WaitOptions::new())
    }

    /// As [`finish`](Self::finish), for so long and in such a way: what is not complete then is dropped, and counted.
    pub fn finish_with(&self, options: &WaitOptions) -> Trace {
        if fork::happened() {
            return Trace::new(Process::new(self.0.name.clone()));
        }
        self.0.switch_off();
        let options = options.begun();
        let tracks = self.0.tracks();
        for track in &tracks {
            track.wait(&options);
            // Another thread that is at it may have come too early; it is through soon.
            while !track.drain(&self.0) {
                std::thread::yield_now();
            }
        }
        self.calibrate();
        self.0.build_trace(&tracks)
    }
}

impl fmt::Debug for Tracer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tracer")
            .field("name", &self.0.name)
            .field("on", &self.is_on())
            .finish_non_exhaustive()
    }
}

/// Records a timed event, unless that would block or is refused. Where it is, as well.
fn record(stream: &Stream) -> Option<(Arc<Event>, u64)> {
    let event = stream.try_record_timed().ok()??;
    let position = event.position()?;
    Some((Arc::new(event), position))
}

impl Core {
    /// Not in a fork's child, where locks may be held by threads that are not there (R41).
    #[inline]
    fn is_on(&self) -> bool {
        // Relaxed: a span beside the end of a trace may be in it or not.
        self.on.load(Ordering::Relaxed) && !fork::happened()
    }

    fn switch_off(&self) {
        // Relaxed: see `is_on` and `with`.
        self.on.store(false, Ordering::Relaxed);
        if self.counted.swap(false, Ordering::Relaxed) {
            ON.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn tracks(&self) -> Vec<Arc<StreamTrack>> {
        self.streams.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// The stream's track, which is made if it is new.
    fn track(self: &Arc<Self>, stream: &Stream) -> Arc<StreamTrack> {
        let lane = stream.lane();
        if let Some(track) = self.streams.read().unwrap_or_else(PoisonError::into_inner).get(&lane.id()) {
            return track.clone();
        }
        let device = stream.device();
        let clock = device.clock();
        // Before anything of it is traced, so that the first reading is before the first time. With no lock held: it may wait
        // for the device. Two threads may both read, which does no harm.
        let is_known = lock(&self.clocks).contains_key(&clock.id());
        let first = if is_known { None } else { Some(device.correlate().ok()) };
        if let Some(read) = first {
            let mut clocks = lock(&self.clocks);
            let known = clocks.entry(clock.id()).or_insert_with(|| DeviceClock::new(device.clone()));
            known.anchors.extend(read);
        }
        let mut streams = self.streams.write().unwrap_or_else(PoisonError::into_inner);
        let track = streams.entry(lane.id()).or_insert_with(|| {
            let track = Arc::new(StreamTrack::new(stream));
            let mut watched = WATCHED.write().unwrap_or_else(PoisonError::into_inner);
            let watchers = watched.get_or_insert_default().entry(lane.id()).or_default();
            watchers.retain(|core| core.strong_count() > 0);
            watchers.push(Arc::downgrade(self));
            track
        });
        track.clone()
    }

    /// One name is kept once, however many spans have it.
    fn name(&self, name: &str) -> Arc<str> {
        let mut names = lock(&self.names);
        if let Some((known, ())) = names.get_key_value(name) {
            return known.clone();
        }
        let name: Arc<str> = name.into();
        names.insert(name.clone(), ());
        name
    }

    fn wait_inserted(&self, lane: &Lane, event: &Event, source: &Target) {
        let track = self.streams.read().unwrap_or_else(PoisonError::into_inner).get(&lane.id()).cloned();
        let (Some(track), true) = (track, self.is_on()) else { return };
        if !self.admit() {
            return;
        }
        let name = match (event.label(), source.lane.label()) {
            (Some(label), _) => self.name(&label),
            (None, Some(label)) => self.name(label),
            (None, None) => self.name(&source.lane.to_string()),
        };
        let time = event.time_of(source);
        track.wait_inserted(Inserted::new(name, self.axis.now(), source, time));
    }

    /// Whether there is room for one more span or wait. Counts it.
    fn admit(&self) -> bool {
        // Relaxed, here and below: counts.
        let admitted = self.kept.fetch_add(1, Ordering::Relaxed) < self.options.capacity;
        if !admitted {
            self.refuse();
        }
        admitted
    }

    /// It was let in, and is not kept after all, or was not let in.
    fn refuse(&self) {
        self.kept.fetch_sub(1, Ordering::Relaxed);
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }

    /// As [`admit`](Self::admit), for one that will hold events.
    fn admit_span(&self, track: &StreamTrack) -> bool {
        if !self.admit() {
            return false;
        }
        let before = self.pending.fetch_add(1, Ordering::Relaxed);
        if before >= self.options.pending || track.is_due() {
            track.drain(self);
        }
        if self.pending.load(Ordering::Relaxed) > self.options.pending {
            self.refuse_span();
            return false;
        }
        true
    }

    fn refuse_span(&self) {
        self.pending.fetch_sub(1, Ordering::Relaxed);
        self.refuse();
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        if fork::happened() {
            return;
        }
        self.switch_off();
        if let Some(watched) = WATCHED.write().unwrap_or_else(PoisonError::into_inner).as_mut() {
            for id in self.streams.get_mut().unwrap_or_else(PoisonError::into_inner).keys() {
                if let Some(watchers) = watched.get_mut(id) {
                    // Ours is one that nobody can reach any more.
                    watchers.retain(|core| core.strong_count() > 0);
                    if watchers.is_empty() {
                        watched.remove(id);
                    }
                }
            }
        }
    }
}

/// A span of a stream's, which ends when this goes; see [`Tracer::span`].
#[must_use = "a span ends when its guard goes"]
pub struct SpanGuard(Option<Box<Open>>);

struct Open {
    core: Arc<Core>,
    track: Arc<StreamTrack>,
    stream: Stream,
    key: u64,
}

impl SpanGuard {
    /// Ends the span here. The timed event that marks its end, unless the span was dropped: to be waited for, or to be asked
    /// when it was; not to be recorded again.
    pub fn end(mut self) -> Option<Arc<Event>> {
        self.0.take().and_then(|open| open.end())
    }
}

impl Drop for SpanGuard {
    fn drop(&mut self) {
        if let Some(open) = self.0.take() {
            open.end();
        }
    }
}

impl Open {
    fn end(self) -> Option<Arc<Event>> {
        if fork::happened() {
            return None;
        }
        let end = record(&self.stream);
        let event = end.as_ref().map(|(event, _)| event.clone());
        // Without an end it is taken out, and counted, when the track is looked through.
        self.track.end(self.key, end);
        drop(self.core);
        event
    }
}

impl fmt::Debug for SpanGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stream = self.0.as_ref().map(|open| &open.stream);
        f.debug_struct("SpanGuard").field("stream", &stream).finish_non_exhaustive()
    }
}

/// A wait was inserted into a stream: for the tracers that know it. With no lock held but one that the user holds.
#[inline]
pub(crate) fn waited(lane: &Lane, event: &Event, source: &Target, wait: StreamWait) {
    // Relaxed: see `Tracer::with`.
    if ON.load(Ordering::Relaxed) > 0 && wait.inserted() {
        tell_waited(lane, event, source);
    }
}

#[cold]
#[inline(never)]
fn tell_waited(lane: &Lane, event: &Event, source: &Target) {
    let cores: Vec<_> = {
        let watched = WATCHED.read().unwrap_or_else(PoisonError::into_inner);
        let watchers = watched.as_ref().and_then(|watched| watched.get(&lane.id()));
        watchers.into_iter().flatten().filter_map(Weak::upgrade).collect()
    };
    for core in cores {
        core.wait_inserted(lane, event, source);
    }
}
