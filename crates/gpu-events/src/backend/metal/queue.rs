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
    },
    error::{Error, ErrorKind, Result},
    primitive::lock,
};
use block2::RcBlock;
use objc2::rc::Retained;
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

/// How many command buffers a queue takes by Metal's own default before the call that makes the next one blocks.
pub(super) const QUEUE_ROOM: usize = 64;

/// How many of them a stream uses. Fewer: a completed handler may run a little before its buffer's place is free.
const ROOM: usize = QUEUE_ROOM - 2;

/// Of a queue that the user commits to as well, whose other buffers nobody counts.
const ROOM_ADOPTED: usize = QUEUE_ROOM / 4;

/// How many incomplete recordings a stream takes.
pub(super) const QUEUE_DEPTH: u64 = 1_024;

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
    /// Somebody is on the way to commit work that was found without company.
    nudged: AtomicBool,
}

/// What was not committed yet.
struct Gathered {
    /// At least one. Only the last may be without a buffer.
    segments: VecDeque<Segment>,
    /// The position that the buffer before the last segment's signals at its end.
    chain: u64,
    /// Recordings in these segments.
    recordings: u64,
    /// The last position that was committed.
    committed: u64,
    /// The last position that was given out.
    recorded: u64,
    /// The device was closed or the stream has failed: nothing is kept any more.
    dead: bool,
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
    /// Encodes what must come before anything else does.
    fn settle(&mut self, event: &RawEvent) {
        if let Some(position) = self.due.take() {
            self.raw.encode_signal(event, position);
        }
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

impl Queue {
    pub(super) fn build(
        seed: StreamSeed<'_>,
        shared: &Arc<Shared>,
        raw: Retained<RawQueue>,
        adopted: bool,
    ) -> Result<Arc<Lane>> {
        let event = shared.new_shared_event()?;
        let options = seed.options();
        let depth = options.requested_depth().map_or(QUEUE_DEPTH, |depth| depth.min(QUEUE_DEPTH));
        let bound = options.requested_batch_bound().unwrap_or(BATCH_BOUND);
        let queue = Self {
            lane: Weak::new(),
            shared: shared.clone(),
            raw: Owned::new(raw),
            event,
            depth,
            bound,
            room: if adopted { ROOM_ADOPTED } else { ROOM },
            adopted,
            gathered: Mutex::new(Gathered {
                segments: VecDeque::from([Segment::default()]),
                chain: 0,
                recordings: 0,
                committed: 0,
                recorded: 0,
                dead: false,
            }),
            flight: Mutex::default(),
            ceiling: AtomicU64::new(u64::MAX),
            watched: Mutex::default(),
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

    /// The open buffer at the end, made if there is none; or when there is room for one. *Held.*
    fn open<'a>(&self, gathered: &'a mut Gathered) -> Result<Result<&'a mut Buffer, Room>> {
        let in_use = self.places_in_use(gathered);
        let Gathered { segments, chain, .. } = gathered;
        let front_end = segments.front().and_then(|front| front.buffer.as_ref()).map(|buffer| buffer.last);
        let Some(last) = segments.back_mut() else { return Err(Error::new(ErrorKind::Closed)) };
        if last.buffer.is_none() {
            if in_use >= self.room {
                // What is in flight comes first. With nothing in flight there are buffers behind gates.
                let after = self.make_room().or(front_end).unwrap_or(*chain);
                return Ok(Err(Room { after }));
            }
            let raw = CommandBuffer::new(&self.raw).ok_or_else(|| {
                Error::with_text(ErrorKind::Resources, "Metal gave no command buffer: the queue returned nil")
            })?;
            // Buffers of one queue may overlap. A predecessor that is complete needs no waiting for.
            if *chain > self.completed() {
                raw.encode_wait(&self.event, *chain);
            }
            for (event, value) in last.waits.drain(..) {
                raw.encode_wait(&event, value);
            }
            last.buffer =
                Some(Buffer { raw, last: 0, due: None, unmarked: false, recordings: 0, stamp: None });
        }
        last.buffer.as_mut().map(Ok).ok_or_else(|| Error::new(ErrorKind::Closed))
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
        // Release: as in `commit`.
        self.ceiling.store(flight.ceiling(), Ordering::Release);
        Some(end)
    }

    /// Whether everything that was ever submitted is done, and nothing is gathered.
    fn is_idle(&self, gathered: &Gathered) -> bool {
        let [Segment { gates, waits, buffer: None }] = gathered.segments.as_slices().0 else { return false };
        !self.adopted
            && gates.is_empty()
            && waits.is_empty()
            && lock(&self.flight).buffers.is_empty()
            && self.completed() >= gathered.chain
    }

    /// Commits the buffer: from here on it is Metal's. *Held.*
    fn commit(&self, gathered: &mut Gathered, mut buffer: Buffer) {
        buffer.settle(&self.event);
        gathered.recordings -= buffer.recordings;
        gathered.committed = gathered.committed.max(buffer.last);
        gathered.chain = gathered.chain.max(buffer.last);
        let Some(lane) = self.lane() else { return };
        let serial = {
            let mut flight = lock(&self.flight);
            flight.serial += 1;
            let serial = flight.serial;
            flight.buffers.push_back(InFlight {
                serial,
                end: buffer.last,
                held: buffer.stamp.is_some(),
                stamp: buffer.stamp.clone(),
                outcome: None,
            });
            // Release: before the commit below, so that whoever finds the position signaled finds the ceiling.
            self.ceiling.store(flight.ceiling(), Ordering::Release);
            serial
        };
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

    /// Commits what is behind no closed gate: all of it, or only what is closed already. *Held.*
    fn commit_ready(&self, gathered: &mut Gathered, open_too: bool) -> Flushed {
        loop {
            // One place is left for the next buffer: what has been recorded can then always be gathered on, and goes
            // when a handler has freed another.
            let full = self.places_in_use(gathered) >= self.room;
            let is_last = gathered.segments.len() == 1;
            let committed = gathered.committed;
            let Some(front) = gathered.segments.front_mut() else { return Flushed::All };
            // Acquire: pairs with `open`, so that the work comes after what the host did before it.
            if !front.gates.iter().all(|gate| gate.open.load(Ordering::Acquire)) {
                return Flushed::UpTo(committed);
            }
            front.gates.clear();
            if front.buffer.is_none() {
                return Flushed::All;
            }
            if is_last && (!open_too || full) {
                return Flushed::UpTo(committed);
            }
            let buffer = front.buffer.take();
            if !is_last {
                gathered.segments.pop_front();
            }
            if let Some(buffer) = buffer {
                self.commit(gathered, buffer);
            }
        }
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
                Outcome::Completed { .. } => self.advance(lane, self.event.signaledValue().max(buffer.end)),
                Outcome::Failed(error) => self.fail(lane, buffer.end, error),
            }
        }
        // The GPU runs dry, or a place has become free.
        if lock(&self.flight).buffers.len() < self.room {
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
        // Release: pairs with the acquire in `advance`.
        self.ceiling.store(flight.ceiling(), Ordering::Release);
        Some((buffer, outcome))
    }

    /// Tells the core how far the GPU is.
    fn advance(&self, lane: &Lane<Self>, value: u64) {
        // Acquire: the value was read before. Whoever signaled it was committed after its ceiling was set.
        fence(Ordering::Acquire);
        lane.advance(value.min(self.ceiling.load(Ordering::Acquire)));
    }

    /// A buffer has failed, and none before it is on its way: what it did not signal it never will.
    fn fail(&self, lane: &Lane<Self>, end: u64, error: Error) {
        let reached = self.event.signaledValue();
        self.advance(lane, reached);
        // First the failure: whoever the raised value lets go has been marked by then (R26, R28).
        lane.fail(reached + 1, error);
        self.give_up_from(0);
        // In the place of the signals that will not come: for those who wait in other queues, and for this queue's next
        // buffer. Those behind it have not signaled more, because they wait for this.
        if reached < end {
            self.event.setSignaledValue(end);
        }
    }

    /// Drops what is gathered, from the segment with this number on.
    fn give_up_from(&self, first: usize) {
        let dropped = {
            let mut gathered = lock(&self.gathered);
            gathered.dead = true;
            let first = first.min(gathered.segments.len());
            let dropped = gathered.segments.split_off(first);
            gathered.segments.push_back(Segment::default());
            dropped
        };
        // Buffers let go of what was encoded: with no lock held.
        drop(dropped);
    }

    /// Has what is gathered committed if the GPU has too little to do.
    fn ask_if_dry(&self, lane: &Lane<Self>) {
        let in_flight = lock(&self.flight).buffers.len();
        let gathered = lock(&self.gathered).recordings;
        if in_flight < BUSY || gathered > self.bound {
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
    pub(super) fn encode<R, F: FnOnce(&RawBuffer) -> R>(
        &self,
        lane: &Lane,
        encode: F,
    ) -> Result<Encoded<R, F>> {
        let raw = {
            let mut gathered = lock(&self.gathered);
            if gathered.dead {
                drop(gathered);
                return Err(lane.failure_of(u64::MAX));
            }
            let buffer = match self.open(&mut gathered)? {
                Ok(buffer) => buffer,
                Err(room) => return Ok(Encoded::Full(room, encode)),
            };
            buffer.settle(&self.event);
            buffer.unmarked = true;
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
            self.give_up_from(0);
        } else {
            self.nudge();
        }
        Ok(encoded.map_or_else(Encoded::Panicked, Encoded::Done))
    }

    /// Registers the listener for `value`.
    fn listen(&self, value: u64) {
        let lane = self.lane.clone();
        let poll = move || {
            if let Some(lane) = lane.upgrade() {
                lane.backend().poll();
            }
        };
        self.shared.listen(&self.event, value, poll);
    }
}

/// What came of [`Queue::encode`].
pub(super) enum Encoded<R, F> {
    Done(R),
    /// There is no room for a command buffer. The closure comes back.
    Full(Room, F),
    /// The closure panicked, and what was gathered is lost.
    Panicked(Box<dyn Any + Send>),
}

impl BackendStream for Queue {
    /// The handlers bring news of whole buffers by themselves; of positions within one only the shared event knows.
    fn traits(&self) -> StreamTraits {
        StreamTraits { pushed: false, batches: true }
    }

    fn signal(&self, position: u64, timed: bool) -> Result<Signaled> {
        let incomplete = || position - 1 - self.completed().min(position - 1);
        if incomplete() >= self.depth {
            self.poll();
            if incomplete() >= self.depth {
                return Ok(Signaled::Full(Room { after: position - self.depth }));
            }
        }
        let stamp = {
            let mut gathered = lock(&self.gathered);
            if gathered.dead {
                // Failed this very moment.
                return Ok(Signaled::Pending(None));
            }
            if !timed && self.is_idle(&gathered) {
                gathered.recorded = position;
                return Ok(Signaled::Done(None));
            }
            let buffer = match self.open(&mut gathered)? {
                Ok(buffer) => buffer,
                Err(room) => return Ok(Signaled::Full(room)),
            };
            if buffer.unmarked {
                buffer.settle(&self.event);
            }
            buffer.due = Some(position);
            buffer.last = position;
            buffer.unmarked = false;
            buffer.recordings += 1;
            let stamp = timed.then(|| Arc::new(MetalStamp::new()));
            buffer.stamp.clone_from(&stamp);
            gathered.recordings += 1;
            gathered.recorded = position;
            if timed {
                gathered.chain = position;
                gathered.segments.push_back(Segment::default());
                // It can't get any fuller.
                self.commit_ready(&mut gathered, false);
                if let Some(lane) = self.lane() {
                    lane.submitted(gathered.committed);
                }
            }
            stamp
        };
        if let Some(lane) = self.lane() {
            // Carried out when the submit lock is let go of.
            self.ask_if_dry(&lane);
        }
        Ok(Signaled::Pending(stamp.map(|stamp| stamp as Arc<dyn Stamp>)))
    }

    fn wait(&self, source: &Source<'_>) -> Result<Waited> {
        // What will never be signaled, or not before the host has done something, must not reach the driver (R6):
        // Metal ends buffers that wait for too long.
        if source.lane().is_failed() || !source.is_submitted() {
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
        let Some(last) = gathered.segments.back_mut() else { return Ok(Waited::Native) };
        match &mut last.buffer {
            Some(buffer) => {
                buffer.settle(&self.event);
                buffer.raw.encode_wait(event, value);
                buffer.unmarked = true;
            }
            None => last.waits.push((event.clone(), value)),
        }
        Ok(Waited::Native)
    }

    fn gate(&self) -> Result<Arc<dyn Gate>> {
        let mut gathered = lock(&self.gathered);
        let Gathered { segments, chain, recorded, .. } = &mut *gathered;
        let (open, lane, from) = (AtomicBool::new(false), self.lane.clone(), *recorded + 1);
        let gate = Arc::new(MetalGate { open, lane, from });
        match segments.back_mut() {
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
        buffer.settle(&self.event);
        buffer.due = Some(position);
        buffer.last = position;
        buffer.unmarked = false;
        true
    }

    fn flush(&self) -> Result<Flushed> {
        let mut gathered = lock(&self.gathered);
        Ok(self.commit_ready(&mut gathered, true))
    }

    fn poll(&self) {
        if let Some(lane) = self.lane() {
            self.advance(&lane, pooled(|| self.event.signaledValue()));
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
        self.listen(position);
        // What came before the listener was there.
        self.poll();
    }

    fn abandon(&self) {
        self.give_up_from(0);
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
        // Release: pairs with the acquire in `commit_ready`.
        if self.open.swap(true, Ordering::AcqRel) {
            return;
        }
        let Some(lane) = self.lane.upgrade() else { return };
        if lane.core.timeline.failure_of(self.from).is_some() {
            // The core has marked what is behind this as failed. Nobody wants it to run on what was never written.
            let queue = lane.backend();
            let place = {
                let gathered = lock(&queue.gathered);
                let this = |gate: &Arc<Self>| std::ptr::eq(Arc::as_ptr(gate), self);
                gathered.segments.iter().position(|segment| segment.gates.iter().any(this))
            };
            if let Some(place) = place {
                queue.give_up_from(place);
            }
        }
        lane.request_flush();
    }
}
