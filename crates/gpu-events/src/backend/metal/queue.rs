//! The driver half of a Metal stream: a command queue, and one shared event that counts its positions.
//!
//! Work is encoded into an open command buffer. A recording is a signal in it, `shared event ≥ position`, and costs
//! nothing else; the buffer is committed when the GPU would run dry, when a bound is reached, or when somebody needs
//! it. Command buffers of one queue may overlap, so each opens with a wait for the position that its predecessor
//! signals at its end. What is behind a closed gate stays in a list of segments, each with a buffer of its own, that
//! have not been committed.
//!
//! Who may touch what: [`Gathered`] changes under the stream's submit lock, or when it is given up; [`Flight`] is
//! between the thread that commits and Metal's threads, which bring the news. Neither is locked while the core, or
//! anything of a user's, is called.

use super::{
    Shared,
    clock::MetalStamp,
    driver::{CommandBuffer, Owned, RawBuffer, RawEvent, RawQueue, failure_of, pooled},
    foreign::Foreign,
};
use crate::{
    backend::{
        BackendStream, Flushed, Gate, Lane, Room, Signaled, Source, Stamp, StreamSeed, StreamTraits, Waited,
        defer,
    },
    device::DeviceCore,
    error::{Error, ErrorKind, Result},
    primitive::lock,
    timeline::relay,
};
use block2::RcBlock;
use objc2_metal::{MTLCommandBuffer, MTLCommandBufferStatus, MTLSharedEvent};
use std::{
    any::Any,
    collections::{BTreeSet, VecDeque},
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    ptr::NonNull,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering, fence},
    },
};

/// How many incomplete recordings a stream takes, unless it is asked to take fewer.
pub(super) const QUEUE_DEPTH: u64 = 1_024;

/// How many command buffers a stream of this depth may have uncompleted: each ends in a position, so that incomplete ones
/// take no more places than that; the others are of buffers whose handlers have not run.
fn room(depth: u64) -> usize {
    2 * depth as usize + 6
}

/// What is left of a queue's places: a completed handler may run a little before its buffer's place is free.
const SPARE: usize = 2;

/// How many of its places a queue is used for that the user commits to as well, whose other buffers nobody counts. By
/// default it has 64, and the call that makes the next buffer blocks.
const ROOM_ADOPTED: usize = 16;

/// How many recordings may be gathered and not committed.
pub(super) const BATCH_BOUND: u64 = 16;

/// With fewer committed buffers than this, what is gathered is committed: one that runs, and one behind it, so that the
/// GPU need not wait for the host between two.
const BUSY: usize = 2;

/// The driver half of a stream.
pub(super) struct Queue {
    lane: Weak<Lane<Self>>,
    shared: Arc<Shared>,
    raw: Owned<RawQueue>,
    /// The timeline: its value is the last position that the GPU has reached.
    event: Owned<RawEvent>,
    depth: u64,
    bound: u64,
    room: usize,
    /// Others commit to the queue too, so that it is never known to be idle.
    adopted: bool,
    gathered: Mutex<Gathered>,
    flight: Mutex<Flight>,
    /// Positions above this wait for their handler, whatever the shared event says. `u64::MAX` where there is none.
    ceiling: AtomicU64,
    /// The values that the listener is registered for.
    watched: Mutex<BTreeSet<u64>>,
    /// Recordings that are gathered. Beside the lock, so that Metal's threads need not take that.
    unsubmitted: AtomicU64,
    /// A flush has left something behind because the queue was full.
    starved: AtomicBool,
    /// Somebody is on the way to commit work that was found without company.
    nudged: AtomicBool,
}

/// What was not committed yet.
struct Gathered {
    /// At least one. Only the last may be without a buffer.
    segments: VecDeque<Segment>,
    /// The position that the buffer before the last segment's signals at its end.
    chain: u64,
    /// The last position that was committed.
    committed: u64,
    /// The last position that was given out.
    recorded: u64,
    /// Why nothing is kept any more: the device was closed, or the stream has failed, or is about to.
    dead: Option<Error>,
}

/// Work that goes to the GPU in one buffer, once its gates are open.
#[derive(Default)]
struct Segment {
    gates: Vec<Arc<MetalGate>>,
    /// What the buffer has to begin with, as long as there is none.
    waits: Vec<(Owned<RawEvent>, u64)>,
    buffer: Option<Buffer>,
}

struct Buffer {
    raw: CommandBuffer,
    /// The last position that was recorded in it.
    last: u64,
    /// A position whose signal is not encoded yet: if another one follows with nothing between, that one will do.
    due: Option<u64>,
    /// Something was encoded behind the last position.
    unmarked: bool,
    recordings: u64,
    /// It ends in a timed recording.
    stamp: Option<Arc<MetalStamp>>,
}

impl Buffer {
    /// Encodes the signal that is due, since something else comes now.
    fn settle(&mut self, event: &RawEvent) {
        if let Some(position) = self.due.take() {
            self.raw.encode_signal(event, position);
        }
    }

    /// Something that no position covers yet is about to be encoded.
    fn unmark(&mut self, event: &RawEvent) {
        self.settle(event);
        self.unmarked = true;
    }

    /// Has `position` cover all that was encoded.
    fn mark(&mut self, position: u64) {
        self.due = Some(position);
        self.last = position;
        self.unmarked = false;
    }
}

/// Committed buffers whose handlers have not been dealt with, in order.
#[derive(Default)]
struct Flight {
    buffers: VecDeque<InFlight>,
    serial: u64,
    /// Some thread deals with them. One at a time, so that a stream's news come in order.
    draining: bool,
    /// No timed recording may come out earlier than this (R23).
    earliest: u64,
}

struct InFlight {
    serial: u64,
    /// The position that it signals at its end.
    end: u64,
    stamp: Option<Arc<MetalStamp>>,
    /// That position is complete in the handler, not before: it has a time to come, or somebody waits for the place.
    held: bool,
    outcome: Option<Outcome>,
}

/// What a handler was told.
enum Outcome {
    Completed { end_seconds: f64 },
    Failed(Error),
}

impl Flight {
    fn ceiling(&self) -> u64 {
        self.buffers.iter().find(|buffer| buffer.held).map_or(u64::MAX, |buffer| buffer.end - 1)
    }
}

impl Gathered {
    /// The buffer that is being encoded, unless everything was given up.
    fn open_buffer(&mut self) -> Option<&mut Buffer> {
        match &self.dead {
            Some(_) => None,
            None => self.segments.back_mut().and_then(|last| last.buffer.as_mut()),
        }
    }
}

impl Queue {
    /// A stream with a queue of its own, or on a user's.
    pub(super) fn build(
        seed: StreamSeed<'_>,
        shared: &Arc<Shared>,
        adopted: Option<Owned<RawQueue>>,
    ) -> Result<Arc<Lane>> {
        shared.check()?;
        let options = seed.options();
        let depth = options.requested_depth().map_or(QUEUE_DEPTH, |depth| depth.min(QUEUE_DEPTH));
        let (room, adopted, raw) = match adopted {
            Some(raw) => (ROOM_ADOPTED.min(depth as usize).max(2), true, raw),
            None => (room(depth), false, shared.new_queue(room(depth) + SPARE, options.label.as_deref())?),
        };
        let event = shared.new_shared_event()?;
        let bound = options.requested_batch_bound().unwrap_or(BATCH_BOUND);
        let queue = Self {
            lane: Weak::new(),
            shared: shared.clone(),
            raw,
            event,
            depth,
            bound,
            room,
            adopted,
            gathered: Mutex::new(Gathered {
                segments: VecDeque::from([Segment::default()]),
                chain: 0,
                committed: 0,
                recorded: 0,
                dead: None,
            }),
            flight: Mutex::default(),
            ceiling: AtomicU64::new(u64::MAX),
            watched: Mutex::default(),
            unsubmitted: AtomicU64::new(0),
            starved: AtomicBool::new(false),
            nudged: AtomicBool::new(false),
        };
        seed.build(|lane| Self { lane: lane.clone(), ..queue })
    }

    pub(super) fn raw(&self) -> &RawQueue {
        &self.raw
    }

    pub(super) fn event(&self) -> &Owned<RawEvent> {
        &self.event
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    pub(super) fn is_on(&self, shared: &Shared) -> bool {
        self.shared.is(shared)
    }

    /// The lane. Whoever calls through it keeps it alive; a listener's block may come too late.
    fn lane(&self) -> Option<Arc<Lane<Self>>> {
        self.lane.upgrade()
    }

    fn completed(&self) -> u64 {
        self.lane().map_or(0, |lane| lane.completed())
    }

    /// Sees to it that the last segment has a buffer, unless the stream is dead; or says when there is room for one.
    /// *Held.*
    fn open(&self) -> Result<Option<Room>> {
        let (chain, waits) = {
            let mut gathered = lock(&self.gathered);
            let in_use = self.places_in_use(&gathered);
            let Gathered { segments, chain, dead, .. } = &mut *gathered;
            let front_end =
                segments.front().and_then(|front| front.buffer.as_ref()).map(|buffer| buffer.last);
            let Some(last) = segments.back_mut().filter(|last| last.buffer.is_none() && dead.is_none())
            else {
                return Ok(None);
            };
            if in_use >= self.room {
                // What is in flight comes first. With nothing in flight there are buffers behind gates.
                let after = self.make_room().or(front_end).unwrap_or(*chain);
                return Ok(Some(Room { after }));
            }
            (*chain, std::mem::take(&mut last.waits))
        };
        // With nothing locked that Metal's threads may want: in a queue that others commit to as well this may block.
        let raw = CommandBuffer::new(&self.raw);
        if let Some(raw) = &raw {
            // Buffers of one queue may overlap. A predecessor that is complete needs no waiting for.
            if chain > self.completed() {
                raw.encode_wait(&self.event, chain);
            }
            for (event, value) in &waits {
                raw.encode_wait(event, *value);
            }
        }
        let mut gathered = lock(&self.gathered);
        let Gathered { segments, dead, .. } = &mut *gathered;
        // Only whoever holds the submit lock adds to it; it may have been given up meanwhile.
        let Some(last) = segments.back_mut().filter(|_| dead.is_none()) else { return Ok(None) };
        match raw {
            Some(raw) => {
                last.buffer =
                    Some(Buffer { raw, last: 0, due: None, unmarked: false, recordings: 0, stamp: None });
                Ok(None)
            }
            None => {
                last.waits = waits;
                Err(Error::with_text(
                    ErrorKind::Resources,
                    "Metal gave no command buffer: the queue returned nil",
                ))
            }
        }
    }

    /// Command buffers that the driver counts as not completed.
    fn places_in_use(&self, gathered: &Gathered) -> usize {
        let uncommitted = gathered.segments.iter().filter(|segment| segment.buffer.is_some()).count();
        uncommitted + lock(&self.flight).buffers.len()
    }

    /// Has the position that ends the oldest buffer in flight complete only when its place is free, and names it.
    fn make_room(&self) -> Option<u64> {
        let completed = self.completed();
        let mut flight = lock(&self.flight);
        // One whose end was reached already won't be waited for: its handler is about to run, and the next one's will do.
        let buffers = &mut flight.buffers;
        let end = match buffers.iter_mut().find(|buffer| buffer.end > completed) {
            Some(buffer) => {
                buffer.held = true;
                buffer.end
            }
            None => buffers.back()?.end,
        };
        // Release: as in `take_ready`.
        self.ceiling.store(flight.ceiling(), Ordering::Release);
        Some(end)
    }

    /// Whether everything that was ever submitted is done, and nothing is gathered.
    fn is_idle(&self, gathered: &Gathered) -> bool {
        let is_empty = |segment: &Segment| {
            segment.gates.is_empty() && segment.waits.is_empty() && segment.buffer.is_none()
        };
        !self.adopted
            && gathered.segments.len() == 1
            && gathered.segments.iter().all(is_empty)
            && lock(&self.flight).buffers.is_empty()
            && self.completed() >= gathered.chain
    }

    /// Commits what is behind no closed gate: all of it, or only what is closed already. *Held.*
    fn commit_ready(&self, open_too: bool) -> Flushed {
        loop {
            let (buffer, serial) = {
                let mut gathered = lock(&self.gathered);
                match self.take_ready(&mut gathered, open_too) {
                    Ok(ready) => ready,
                    Err(flushed) => return flushed,
                }
            };
            self.commit(buffer, serial);
        }
    }

    /// The next buffer to commit, in flight from here on; or how far that has come.
    fn take_ready(&self, gathered: &mut Gathered, open_too: bool) -> Result<(Buffer, u64), Flushed> {
        // One place is left for the next buffer: what has been recorded can then always be gathered on, and goes when a
        // handler has freed another.
        let full = self.places_in_use(gathered) >= self.room;
        let Gathered { segments, committed, chain, dead, .. } = gathered;
        // What was given up is nobody's, and never will be submitted.
        let everything = if dead.is_some() { Flushed::UpTo(*committed) } else { Flushed::All };
        let is_last = segments.len() == 1;
        let Some(front) = segments.front_mut() else { return Err(everything) };
        // Acquire: pairs with `open`, so that the work comes after what the host did before it.
        if !front.gates.iter().all(|gate| gate.open.load(Ordering::Acquire)) {
            return Err(Flushed::UpTo(*committed));
        }
        front.gates.clear();
        if is_last && front.buffer.is_some() && (!open_too || full) {
            if open_too {
                // Relaxed: of the many handlers that are still to come one will see it.
                self.starved.store(true, Ordering::Relaxed);
            }
            return Err(Flushed::UpTo(*committed));
        }
        let Some(buffer) = front.buffer.take() else { return Err(everything) };
        if !is_last {
            segments.pop_front();
        }
        *committed = buffer.last.max(*committed);
        *chain = buffer.last.max(*chain);
        // With both locked: a failure finds it among what it gives up, or among what runs on.
        let mut flight = lock(&self.flight);
        flight.serial += 1;
        let serial = flight.serial;
        // One that signals no position is of a stream that has failed, and nobody waits for it.
        let held = buffer.last > 0 && (buffer.stamp.is_some() || flight.buffers.len() >= self.room / 2);
        let stamp = buffer.stamp.clone();
        flight.buffers.push_back(InFlight { serial, end: buffer.last, stamp, held, outcome: None });
        // Release: before the commit, so that whoever finds the position signaled finds the ceiling.
        self.ceiling.store(flight.ceiling(), Ordering::Release);
        Ok((buffer, serial))
    }

    /// Commits the buffer: from here on it is Metal's. *Held*, and with nothing else locked.
    fn commit(&self, mut buffer: Buffer, serial: u64) {
        buffer.settle(&self.event);
        // Relaxed: a count.
        self.unsubmitted.fetch_sub(buffer.recordings, Ordering::Relaxed);
        // Whoever calls through it keeps it.
        let Some(lane) = self.lane() else { return };
        // The handler keeps the lane, and with it everything that the news needs: the user may have dropped every
        // handle by then (R32). Metal lets go of the block once it has run.
        let handler = RcBlock::new(move |raw: NonNull<RawBuffer>| {
            // SAFETY: Metal calls its handlers with the buffer itself, which is alive meanwhile.
            let raw = unsafe { raw.as_ref() };
            pooled(|| lane.backend().handle(&lane, serial, raw));
        });
        if let Some(stamp) = &buffer.stamp {
            stamp.commit();
        }
        // SAFETY: the block is copied by the call; it takes what Metal gives it, and what it captures may be used and
        // dropped on any thread.
        pooled(|| unsafe { buffer.raw.addCompletedHandler(RcBlock::as_ptr(&handler)) });
        pooled(|| buffer.raw.commit());
    }

    /// A completed handler, on a thread of Metal's, in a pool.
    fn handle(&self, lane: &Lane<Self>, serial: u64, raw: &RawBuffer) {
        let outcome = match raw.status() {
            MTLCommandBufferStatus::Completed => Outcome::Completed { end_seconds: raw.GPUEndTime() },
            _ => Outcome::Failed(failure_of(raw)),
        };
        {
            let mut flight = lock(&self.flight);
            if let Some(buffer) = flight.buffers.iter_mut().find(|buffer| buffer.serial == serial) {
                buffer.outcome = Some(outcome);
            }
            if flight.draining {
                return;
            }
            flight.draining = true;
        }
        while let Some((buffer, outcome)) = self.next_settled() {
            match outcome {
                Outcome::Completed { .. } => {
                    // SeqCst: see `reached`.
                    fence(Ordering::SeqCst);
                    self.advance(lane, self.value().max(buffer.end));
                }
                Outcome::Failed(error) => self.fail(lane, buffer.end, error),
            }
        }
        // Relaxed: as where it is stored.
        if self.starved.swap(false, Ordering::Relaxed) {
            lane.request_flush();
        } else {
            self.ask_if_dry(lane);
        }
    }

    /// The oldest buffer in flight, once its handler has run. Handlers of different buffers come in any order; dealt
    /// with in this one, the first failure is the one that caused the others, and the shared event is only ever raised
    /// behind everything that could still signal it.
    fn next_settled(&self) -> Option<(InFlight, Outcome)> {
        let mut flight = lock(&self.flight);
        let outcome = flight.buffers.front_mut().and_then(|buffer| buffer.outcome.take());
        let Some(outcome) = outcome else {
            flight.draining = false;
            return None;
        };
        let buffer = flight.buffers.pop_front()?;
        if let (Some(stamp), Outcome::Completed { end_seconds }) = (&buffer.stamp, &outcome) {
            // Before the ceiling rises: whoever sees the recording complete finds its time.
            flight.earliest = stamp.finish(*end_seconds, flight.earliest);
        }
        // Release: pairs with the acquire in `reached`.
        self.ceiling.store(flight.ceiling(), Ordering::Release);
        Some((buffer, outcome))
    }

    /// How far the GPU is, as far as it may be told yet.
    fn reached(&self, value: u64) -> u64 {
        // SeqCst: between the value, which was read before, and the ceiling; and, in a handler, between the ceiling that
        // it has raised and the value that it reads then. Of a handler and somebody who polls, one sees both.
        fence(Ordering::SeqCst);
        value.min(self.ceiling.load(Ordering::Acquire))
    }

    fn value(&self) -> u64 {
        pooled(|| self.event.signaledValue())
    }

    /// Tells the core how far the GPU is.
    fn advance(&self, lane: &Lane<Self>, value: u64) {
        lane.advance(self.reached(value));
    }

    /// A buffer has failed, and none before it is on its way: what it did not signal it never will.
    fn fail(&self, lane: &Lane<Self>, end: u64, error: Error) {
        let reached = self.value();
        self.advance(lane, reached);
        // First the failure, and all that it leads to: whoever the raised value lets go has been marked by then (R26,
        // R28).
        relay::batch(
            || {
                // Nothing more is committed, but for what is on the way to be.
                let dropped = self.give_up_from(0, error.clone());
                // Users' deallocators are among it: once everyone is told.
                defer(move || drop(dropped));
                if !lock(&self.flight).buffers.is_empty() {
                    // They wait for this one, and will be let go.
                    lane.runs_on();
                }
                if error.kind() == ErrorKind::DeviceLost {
                    Self::lose(&self.shared, &lane.core.device, lane.id(), &error);
                }
                lane.fail(reached + 1, error);
            },
            // In the place of the signals that will not come: for those who wait in other queues, and for this queue's
            // next buffer. Those behind it have not signaled more, because they wait for this.
            || {
                if reached < end {
                    pooled(|| self.event.setSignaledValue(end));
                }
            },
        );
    }

    /// The GPU is gone, for all the device's streams: those that wait at a gate would not learn of it by themselves.
    pub(super) fn lose(shared: &Shared, device: &DeviceCore, known: u64, error: &Error) {
        shared.lose(error);
        let lanes = device.lanes();
        let queues = || {
            let others = lanes.iter().filter(|other| other.id() != known);
            others.filter_map(|other| Some((other, other.downcast::<Self>()?)))
        };
        relay::batch(
            || {
                for (other, queue) in queues() {
                    // Buffers in flight will be told themselves; nobody knows how far they came.
                    other.runs_on();
                    other.fail(queue.value().max(other.completed()) + 1, error.clone());
                }
            },
            || {
                for (_, queue) in queues() {
                    let dropped = queue.give_up_from(0, error.clone());
                    defer(move || drop(dropped));
                }
            },
        );
    }

    /// Gives up what is gathered, from the segment with this number on. It comes back, to be dropped with no lock held and
    /// nobody left to be told: buffers let go of what was encoded, users' deallocators among it.
    #[must_use]
    fn give_up_from(&self, first: usize, why: Error) -> Dropped {
        let mut gathered = lock(&self.gathered);
        gathered.dead.get_or_insert(why);
        let first = first.min(gathered.segments.len());
        let dropped = gathered.segments.split_off(first);
        gathered.segments.push_back(Segment::default());
        Dropped { _segments: dropped }
    }

    /// Has what is gathered committed if the GPU has too little to do.
    fn ask_if_dry(&self, lane: &Lane<Self>) {
        let in_flight = lock(&self.flight).buffers.len();
        // Relaxed: whoever recorded holds the submit lock, or has let go of it and has looked itself.
        if in_flight < BUSY || self.unsubmitted.load(Ordering::Relaxed) > self.bound {
            lane.request_flush();
        }
    }

    /// Work was encoded that nobody may ever record behind. If the GPU has nothing to do, it is committed: but not
    /// here, because a recording is likely to follow in a moment, and belongs into the same buffer.
    fn nudge(&self) {
        if !lock(&self.flight).buffers.is_empty() {
            // The last of their handlers does it.
            return;
        }
        // Relaxed: only says that the block below was sent and has not begun.
        if self.nudged.swap(true, Ordering::Relaxed) {
            return;
        }
        let lane = self.lane.clone();
        pooled(|| {
            self.shared.pump.exec_async(move || {
                if let Some(lane) = lane.upgrade() {
                    let this = lane.backend();
                    this.nudged.store(false, Ordering::Relaxed);
                    pooled(|| this.ask_if_dry(&lane));
                }
            });
        });
    }

    /// Has `encode` put work into the stream's current command buffer. *Held.*
    pub(super) fn encode<R, F: FnOnce(&RawBuffer) -> R>(&self, encode: F) -> Result<Encoded<R, F>> {
        let raw = {
            if let Some(room) = self.open()? {
                return Ok(Encoded::Full(room, encode));
            }
            let mut gathered = lock(&self.gathered);
            if let Some(why) = &gathered.dead {
                return Err(why.clone());
            }
            let Some(buffer) = gathered.open_buffer() else { return Err(Error::new(ErrorKind::Closed)) };
            buffer.unmark(&self.event);
            buffer.raw.clone()
        };
        // With nothing locked but what the user asked for: it may close the device.
        let encoded = catch_unwind(AssertUnwindSafe(|| pooled(|| encode(&raw))));
        if encoded.is_err() {
            // Half of the work is there, and an encoder may be open, with which Metal lets nobody commit the buffer, or
            // even drop it.
            let last = lock(&self.gathered).segments.back_mut().and_then(|last| last.buffer.take());
            if let Some(buffer) = last {
                std::mem::forget(buffer.raw);
            }
            std::mem::forget(raw);
        }
        match encoded {
            Ok(result) => {
                self.nudge();
                Ok(Encoded::Done(result))
            }
            Err(panic) => {
                let why = Error::with_text(ErrorKind::Panicked, "while work was encoded");
                let dropped = self.give_up_from(0, why.clone());
                Ok(Encoded::Panicked { panic, why, dropped })
            }
        }
    }
}

/// What came of [`Queue::encode`].
pub(super) enum Encoded<R, F> {
    Done(R),
    /// There is no room for a command buffer. The closure comes back.
    Full(Room, F),
    /// The closure panicked, and what was gathered is lost.
    Panicked {
        panic: Box<dyn Any + Send>,
        why: Error,
        dropped: Dropped,
    },
}

/// What was gathered and given up.
pub(super) struct Dropped {
    _segments: VecDeque<Segment>,
}

impl BackendStream for Queue {
    /// The handlers bring news of whole buffers by themselves; of positions within one only the shared event knows.
    fn traits(&self) -> StreamTraits {
        StreamTraits { pushed: false, batches: true }
    }

    fn signal(&self, position: u64, timed: bool) -> Result<Signaled> {
        self.shared.check()?;
        let before = position - 1;
        // What the GPU has reached is not told here: wakers must not run under the submit lock.
        if before.saturating_sub(self.completed()) >= self.depth
            && before.saturating_sub(self.reached(self.value())) >= self.depth
        {
            return Ok(Signaled::Full(Room { after: position - self.depth }));
        }
        if !timed {
            let mut gathered = lock(&self.gathered);
            if self.is_idle(&gathered) {
                gathered.recorded = position;
                return Ok(Signaled::Done(None));
            }
        }
        if let Some(room) = self.open()? {
            return Ok(Signaled::Full(room));
        }
        let stamp = timed.then(|| Arc::new(MetalStamp::new()));
        {
            let mut gathered = lock(&self.gathered);
            let Some(buffer) = gathered.open_buffer() else {
                // Failed this very moment.
                return Ok(Signaled::Pending(None));
            };
            buffer.mark(position);
            buffer.recordings += 1;
            buffer.stamp.clone_from(&stamp);
            gathered.recorded = position;
            if timed {
                gathered.chain = position;
                gathered.segments.push_back(Segment::default());
            }
        }
        // Relaxed: a count.
        self.unsubmitted.fetch_add(1, Ordering::Relaxed);
        if let Some(lane) = self.lane() {
            if timed {
                // The buffer can't get any fuller.
                match self.commit_ready(false) {
                    Flushed::All => lane.submitted(position),
                    Flushed::UpTo(committed) => lane.submitted(committed),
                }
            }
            // Carried out when the submit lock is let go of.
            self.ask_if_dry(&lane);
        }
        Ok(Signaled::Pending(stamp.map(|stamp| stamp as Arc<dyn Stamp>)))
    }

    fn wait(&self, source: &Source<'_>) -> Result<Waited> {
        // What will never be signaled, or not before the host has done something, must not reach the driver (R6):
        // Metal ends buffers that wait for too long.
        // In this order: what has been given up counts as failed before it can count as submitted.
        if !source.is_submitted() || source.lane().is_failed() {
            return Ok(Waited::Unsupported);
        }
        let (event, value) = if let Some(queue) = source.backend::<Self>().filter(|it| it.is_on(&self.shared))
        {
            (queue.event(), source.position())
        } else if let Some(foreign) = source.backend::<Foreign>().filter(|it| it.is_on(&self.shared)) {
            (foreign.event(), Foreign::VALUE)
        } else {
            return Ok(Waited::Unsupported);
        };
        let mut gathered = lock(&self.gathered);
        let Gathered { segments, dead, .. } = &mut *gathered;
        let Some(last) = segments.back_mut().filter(|_| dead.is_none()) else { return Ok(Waited::Native) };
        match &mut last.buffer {
            Some(buffer) => {
                buffer.unmark(&self.event);
                buffer.raw.encode_wait(event, value);
            }
            None => last.waits.push((event.clone(), value)),
        }
        Ok(Waited::Native)
    }

    fn gate(&self) -> Result<Arc<dyn Gate>> {
        let mut gathered = lock(&self.gathered);
        let Gathered { segments, chain, recorded, dead, .. } = &mut *gathered;
        let (open, lane, from) = (AtomicBool::new(false), self.lane.clone(), *recorded + 1);
        let gate = Arc::new(MetalGate { open, lane, from });
        match segments.back_mut().filter(|_| dead.is_none()) {
            Some(Segment { buffer: Some(buffer), .. }) => {
                *chain = buffer.last;
                segments.push_back(Segment { gates: vec![gate.clone()], ..Segment::default() });
            }
            Some(last) => last.gates.push(gate.clone()),
            None => {}
        }
        Ok(gate)
    }

    /// Each buffer must end in a signal for the next one to wait for.
    fn mark(&self, position: u64) -> bool {
        let mut gathered = lock(&self.gathered);
        let Gathered { segments, recorded, .. } = &mut *gathered;
        let Some(buffer) = segments.back_mut().and_then(|last| last.buffer.as_mut()) else { return false };
        if !buffer.unmarked {
            return false;
        }
        *recorded = position;
        buffer.mark(position);
        true
    }

    fn flush(&self) -> Result<Flushed> {
        Ok(self.commit_ready(true))
    }

    fn poll(&self) {
        if let Some(lane) = self.lane() {
            self.advance(&lane, self.value());
        }
    }

    fn watch(&self, position: u64) {
        // The end of a committed buffer comes with its handler.
        if lock(&self.flight).buffers.iter().any(|buffer| buffer.end == position) {
            return;
        }
        {
            let mut watched = lock(&self.watched);
            *watched = watched.split_off(&(self.completed() + 1));
            if !watched.insert(position) {
                return;
            }
        }
        self.shared.listen(&self.event, position, &self.lane);
        // What came before the listener was there.
        self.poll();
    }

    fn abandon(&self) {
        let dropped = self.give_up_from(0, Error::new(ErrorKind::Closed));
        defer(move || drop(dropped));
        lock(&self.watched).clear();
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue")
            .field("event", &self.event)
            .field("in_flight", &lock(&self.flight).buffers.len())
            .finish_non_exhaustive()
    }
}

/// A gate in our own queue: what is behind it has not been committed.
#[derive(Debug)]
struct MetalGate {
    open: AtomicBool,
    lane: Weak<Lane<Queue>>,
    /// The first position behind it.
    from: u64,
}

impl Gate for MetalGate {
    fn open(&self) {
        // Release: pairs with the acquire in `take_ready`.
        if self.open.swap(true, Ordering::AcqRel) {
            return;
        }
        let Some(lane) = self.lane.upgrade() else { return };
        if let Some(why) = lane.core.timeline.failure_of(self.from) {
            // The core has marked what is behind this as failed. Nobody wants it to run on what was never written.
            let queue = lane.backend();
            let place = {
                let gathered = lock(&queue.gathered);
                let this = |gate: &Arc<Self>| std::ptr::eq(Arc::as_ptr(gate), self);
                gathered.segments.iter().position(|segment| segment.gates.iter().any(this))
            };
            if let Some(place) = place {
                let dropped = queue.give_up_from(place, why);
                defer(move || drop(dropped));
            }
        }
        lane.request_flush();
    }
}
