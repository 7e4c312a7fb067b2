//! The driver half of a CUDA stream: a `CUstream`, and what tells how far it is.
//!
//! There are two carriers, and which is better depends on who will look ([`Signal`]): a ring of `CUevent`s, which cost
//! little to record and a driver call to ask; or a word in pinned memory, which costs more to have written and a load to
//! read. Either way an event of ours is a position, one answer of the driver's serves all positions before it, and a
//! native event that was reached goes back to the ring to be recorded again.
//!
//! A native event is never destroyed while its stream's lane is there. So it may be asked for without a lock: if it was
//! given back and recorded anew meanwhile, its first recording is complete and whoever gave it back has said so; that it
//! now says "not yet" is no news, and "reached" is true of both.

use super::{
    clock::CudaStamp,
    driver::{
        CAPTURE_STATUS_NONE, Code, RawStream, SUCCESS, WAIT_VALUE_GEQ, WRITE_VALUE_DEFAULT, is_capture,
        is_fault,
    },
    foreign::Foreign,
    gpu::{Gpu, Handle, KeepAlive, Retired, Slot},
    pump::{Look, Watched},
};
use crate::{
    backend::{
        BackendStream, Flushed, Gate, Lane, Room, Signaled, Source, Stamp, StreamSeed, StreamTraits, Waited,
        defer,
    },
    error::{Error, ErrorKind, Result},
    primitive::lock,
    stream::Signal,
    timeline::Progress,
};
use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

/// How many incomplete recordings a stream takes. The driver's queue takes some 1,020 entries, and then blocks whoever
/// calls. A prompt recording makes one, a timed and prompt one two, and so do gates, waits and launches of the user's, which
/// nobody counts: this leaves room for three of them for each recording.
pub(super) const QUEUE_DEPTH: u64 = 256;

/// The driver half of a stream.
// What recording and asking touch comes first.
#[repr(C)]
pub(super) struct Queue {
    gpu: &'static Gpu,
    raw: Handle,
    /// Somebody else knows the raw stream and may capture it.
    exposed: AtomicBool,
    carrier: Carrier,
    /// The last position that we have told the lane of.
    seen: AtomicU64,
    /// Timed recordings whose time was not read yet.
    unread: AtomicUsize,
    /// How many incomplete recordings it takes.
    depth: u64,
    lane: Weak<Lane<Self>>,
    watch: Mutex<Watch>,
    stamps: Mutex<Stamps>,
    /// Set where the stream was made elsewhere.
    keep_alive: Option<KeepAlive>,
}

/// What tells how far the stream is.
enum Carrier {
    Events(Mutex<Ring>),
    Word {
        slot: Slot,
        /// The word's value at position 0.
        base: u64,
        /// The last position whose write was submitted.
        recorded: AtomicU64,
        /// The pump looks after the context while somebody polls.
        minded: AtomicBool,
    },
}

#[derive(Default)]
struct Ring {
    /// Recorded and not known to be reached, in order.
    pending: VecDeque<Recorded>,
    free: Vec<Handle>,
}

#[derive(Clone, Copy)]
struct Recorded {
    position: u64,
    event: Handle,
    /// It belongs to a stamp, and does not go back to the ring.
    timed: bool,
}

#[derive(Default)]
struct Watch {
    /// Somebody waits for positions up to this one.
    until: u64,
    /// The pump has the lane.
    listed: bool,
}

#[derive(Default)]
struct Stamps {
    unread: VecDeque<(u64, Arc<CudaStamp>)>,
}

impl Queue {
    /// Makes the lane around a stream of our own, or of somebody else's.
    pub(super) fn build(
        seed: StreamSeed<'_>,
        gpu: &'static Gpu,
        default: Signal,
        adopted: Option<(RawStream, KeepAlive)>,
    ) -> Result<Arc<Lane>> {
        if let Some(error) = gpu.broken() {
            return Err(error.clone());
        }
        let carrier = match seed.options().requested_signal().unwrap_or(default) {
            Signal::Cheap => Carrier::Events(Mutex::default()),
            Signal::Prompt => {
                let (slot, base) = gpu.slot()?;
                Carrier::Word { slot, base, recorded: AtomicU64::new(0), minded: AtomicBool::new(false) }
            }
        };
        let depth = seed.options().requested_depth().unwrap_or(QUEUE_DEPTH).min(QUEUE_DEPTH);
        let (raw, keep_alive) = match adopted {
            None => (gpu.stream()?, None),
            Some((raw, keep_alive)) => (Handle(raw), Some(keep_alive)),
        };
        let exposed = AtomicBool::new(keep_alive.is_some());
        let lane = seed.build_typed(|lane| Self {
            gpu,
            raw,
            exposed,
            carrier,
            seen: AtomicU64::new(0),
            unread: AtomicUsize::new(0),
            depth,
            lane: lane.clone(),
            watch: Mutex::default(),
            stamps: Mutex::default(),
            keep_alive,
        })?;
        gpu.admit(&lane);
        Ok(lane)
    }

    pub(super) fn gpu(&self) -> &'static Gpu {
        self.gpu
    }

    /// The raw stream, for somebody who may do anything with it.
    pub(super) fn expose(&self) -> RawStream {
        // Relaxed: a capture that begins with this handle begins after this, on this thread or on one that it tells.
        self.exposed.store(true, Ordering::Relaxed);
        self.raw.0
    }

    /// The raw stream, for calls of our own.
    pub(super) fn raw(&self) -> RawStream {
        self.raw.0
    }

    /// Refuses what a capture would swallow (R35).
    #[inline]
    pub(super) fn check_capture(&self) -> Result<()> {
        // Relaxed: see `expose`.
        if !self.exposed.load(Ordering::Relaxed) {
            return Ok(());
        }
        let mut status = CAPTURE_STATUS_NONE;
        // SAFETY: the stream is there; the call writes to `status` alone.
        match unsafe { (self.gpu.api.stream_is_capturing)(self.raw.0, &mut status) } {
            SUCCESS if status == CAPTURE_STATUS_NONE => Ok(()),
            SUCCESS => Err(Error::new(ErrorKind::Capturing)),
            code => Err(self.refused("cuStreamIsCapturing", code)),
        }
    }

    /// The error of a call that the driver refused under a submit lock. If it says that the context is broken, the pump
    /// tells the rest: this thread holds a lock.
    #[cold]
    pub(super) fn refused(&self, call: &str, code: Code) -> Error {
        let error = self.gpu.api.error(call, code);
        if is_fault(code) {
            self.gpu.pump.fault(self.gpu, error.clone());
        }
        error
    }

    /// Carries out a call on the stream.
    #[inline]
    fn call(&self, name: &str, code: Code) -> Result<()> {
        if code == SUCCESS { Ok(()) } else { Err(self.refused(name, code)) }
    }

    /// Makes the stream wait for a native event. Under the submit lock.
    pub(super) fn wait_for_event(&self, event: Handle) -> Result<()> {
        // SAFETY: both are there.
        let code = unsafe { (self.gpu.api.stream_wait_event)(self.raw.0, event.0, 0) };
        self.call("cuStreamWaitEvent", code)
    }

    /// Makes the stream record a native event. Under the submit lock.
    pub(super) fn record_event(&self, event: Handle) -> Result<()> {
        // SAFETY: both are there.
        let code = unsafe { (self.gpu.api.event_record)(event.0, self.raw.0) };
        self.call("cuEventRecord", code)
    }

    /// Makes `waiter` wait for a position of this stream. Under the waiter's submit lock.
    fn be_waited_for(&self, waiter: &Self, position: u64) -> Result<()> {
        match &self.carrier {
            Carrier::Events(ring) => {
                // Locked until the wait has taken the event's recording: given back and recorded anew in between, it would
                // stand for a later position (R9).
                let ring = lock(ring);
                let index = ring.pending.partition_point(|recorded| recorded.position < position);
                match ring.pending.get(index) {
                    Some(recorded) => waiter.wait_for_event(recorded.event),
                    // Reached, and whoever saw it is about to say so.
                    None => Ok(()),
                }
            }
            Carrier::Word { slot, base, recorded, .. } => {
                // A position of a stream that had failed never got to the driver, and would never be written. Relaxed: the
                // event was recorded before, under the source's lock.
                if position > recorded.load(Ordering::Relaxed) {
                    return Ok(());
                }
                // SAFETY: the word is pinned, aligned, and never given back.
                let code = unsafe {
                    (waiter.gpu.api.stream_wait_value)(
                        waiter.raw.0,
                        slot.pointer,
                        base + position,
                        WAIT_VALUE_GEQ,
                    )
                };
                waiter.call("cuStreamWaitValue64", code)
            }
        }
    }

    /// The position that makes room, if there is none.
    #[inline]
    fn room(&self, position: u64) -> Option<Room> {
        let depth = self.depth;
        // Relaxed: an old value only asks again.
        if position.saturating_sub(self.seen.load(Ordering::Relaxed)) <= depth {
            return None;
        }
        // Told to nobody here: the submit lock is held.
        (position - self.reached().unwrap_or(0) > depth).then(|| Room { after: position - depth })
    }

    /// Asks how far the stream is.
    fn reached(&self) -> Result<u64, Code> {
        // Relaxed: whoever needs what came before the position acquires it from the timeline.
        let seen = self.seen.load(Ordering::Relaxed);
        match &self.carrier {
            // Acquire: pairs with the GPU's write, before which all earlier work's writes were made visible (R8).
            Carrier::Word { slot, base, .. } => Ok(slot.word().load(Ordering::Acquire) - base),
            Carrier::Events(ring) => {
                let (mut pending, last) = {
                    let ring = lock(ring);
                    let Some(first) = ring.pending.front().copied() else { return Ok(seen) };
                    (first, ring.pending.back().copied())
                };
                let mut reached = seen;
                let mut last = last.filter(|last| last.position > pending.position);
                // The oldest one, which mostly says no; then the newest, which says yes for all; else halves.
                loop {
                    if !self.gpu.is_done(pending.event)? {
                        return Ok(reached);
                    }
                    reached = pending.position;
                    let Some(newest) = last else { return Ok(reached) };
                    if newest.position <= reached || self.gpu.is_done(newest.event)? {
                        return Ok(newest.position.max(reached));
                    }
                    let ring = lock(ring);
                    let low = ring.pending.partition_point(|recorded| recorded.position <= reached);
                    let high = ring.pending.partition_point(|recorded| recorded.position < newest.position);
                    if low >= high {
                        return Ok(reached);
                    }
                    let middle = low + (high - low) / 2;
                    pending = ring.pending[middle];
                    // Whatever says yes in the middle, the upper half is next; if it says no, we are content with what we
                    // know: the next look begins there.
                    last = (middle + 1 < high).then(|| ring.pending[high - 1]);
                }
            }
        }
    }

    /// Brings news of what was reached: native events go back, times are read, and the lane advances.
    fn settle(&self, lane: &Lane<Self>, reached: u64) {
        if let Carrier::Events(ring) = &self.carrier {
            let mut ring = lock(ring);
            while let Some(recorded) = ring.pending.front().copied().filter(|first| first.position <= reached)
            {
                ring.pending.pop_front();
                if !recorded.timed {
                    ring.free.push(recorded.event);
                }
            }
        }
        // Acquire: pairs with `record_stamp`: a position that was reached was counted.
        if self.unread.load(Ordering::Acquire) > 0 {
            let mut stamps = lock(&self.stamps);
            while stamps.unread.front().is_some_and(|(position, _)| *position <= reached) {
                if let Some((_, stamp)) = stamps.unread.pop_front() {
                    // If it can't be read, whoever asks is told why: asked again.
                    let _ = stamp.read();
                    // Release: whoever finds none unread finds them read. Under the lock, so that nobody advances past a
                    // time that another thread is reading.
                    self.unread.fetch_sub(1, Ordering::Release);
                }
            }
        }
        // Relaxed: see `room`.
        self.seen.fetch_max(reached, Ordering::Relaxed);
        lane.advance(reached);
    }

    /// Takes over what the driver says.
    fn collect(&self, lane: &Lane<Self>) -> bool {
        match self.reached() {
            // Relaxed: see `room`. The lane may be behind what another thread has seen, but that thread tells it.
            Ok(reached) if reached > self.seen.load(Ordering::Relaxed) => {
                self.settle(lane, reached);
                true
            }
            Ok(_) => false,
            Err(code) => {
                self.broke(lane, "cuEventQuery", code);
                true
            }
        }
    }

    /// Takes over what the word says, when the driver says nothing any more.
    pub(super) fn collect_word(&self) {
        if let (Carrier::Word { .. }, Some(lane)) = (&self.carrier, self.lane.upgrade()) {
            self.collect(&lane);
        }
    }

    /// Lets whoever waits for the word in another GPU's queue go: this one's context is broken.
    pub(super) fn let_go(&self) {
        if let Carrier::Word { slot, base, recorded, .. } = &self.carrier {
            // Relaxed: what is still being recorded fails.
            let last = base + recorded.load(Ordering::Relaxed);
            // Release: those who go on were marked before.
            slot.word().fetch_max(last, Ordering::Release);
        }
    }

    /// An answer that is neither yes nor no. With no lock held.
    #[cold]
    fn broke(&self, lane: &Lane<Self>, call: &str, code: Code) {
        if is_capture(code) {
            // Somebody captures the stream, which forbids asking: no news.
            return;
        }
        let error = self.gpu.api.error(call, code);
        if is_fault(code) {
            self.gpu.fail(error);
        } else {
            lane.fail(lane.completed() + 1, error);
        }
    }

    /// A look of the pump's.
    pub(super) fn look(&self, lane: &Arc<Lane<Self>>) -> Look {
        let news = self.collect(lane);
        let mut watch = lock(&self.watch);
        let completed = lane.completed();
        let settled = lane.core.timeline.progress(completed + 1) == Progress::Failed;
        if completed < watch.until && !settled {
            return if news { Look::News } else { Look::Same };
        }
        if let Carrier::Word { recorded, minded, .. } = &self.carrier {
            // Relaxed: for the pump's own decision; who polls later sets it again.
            if !settled && minded.load(Ordering::Relaxed) && completed < recorded.load(Ordering::Relaxed) {
                return Look::Mild;
            }
            minded.store(false, Ordering::Relaxed);
        }
        watch.listed = false;
        Look::Over
    }

    /// Asks whether the context still works, which a word does not tell.
    pub(super) fn examine(&self, lane: &Lane<Self>) {
        // SAFETY: the stream is there.
        let code = self.gpu.quietly(|| unsafe { (self.gpu.api.stream_query)(self.raw.0) });
        if !matches!(code, SUCCESS | super::driver::NOT_READY) {
            self.broke(lane, "cuStreamQuery", code);
        }
    }

    /// Has the pump look after the context while somebody polls a word.
    #[cold]
    fn mind(&self, lane: Arc<Lane<Self>>) {
        let mut watch = lock(&self.watch);
        if !watch.listed {
            watch.listed = true;
            drop(watch);
            self.gpu.pump.mind(self.gpu, Watched::Queue(lane));
        }
    }

    fn record_cheap(&self, ring: &Mutex<Ring>, position: u64) -> Result<()> {
        let mut ring = lock(ring);
        let event = match ring.free.pop() {
            Some(event) => event,
            None => self.gpu.event(false)?,
        };
        match self.record_event(event) {
            Ok(()) => {
                ring.pending.push_back(Recorded { position, event, timed: false });
                Ok(())
            }
            Err(error) => {
                ring.free.push(event);
                Err(error)
            }
        }
    }

    /// Records a timed event, which will be the recording's time.
    fn record_stamp(&self, position: u64) -> Result<Arc<CudaStamp>> {
        let stamp = Arc::new(CudaStamp::new(self.gpu)?);
        let event = stamp.event().ok_or(ErrorKind::NotMeasured)?;
        self.record_event(event)?;
        lock(&self.stamps).unread.push_back((position, stamp.clone()));
        // Release: pairs with `settle`.
        self.unread.fetch_add(1, Ordering::Release);
        if let Carrier::Events(ring) = &self.carrier {
            lock(ring).pending.push_back(Recorded { position, event, timed: true });
        }
        Ok(stamp)
    }

    /// Takes back what [`record_stamp`](Self::record_stamp) noted.
    #[cold]
    fn forget_stamp(&self) {
        if lock(&self.stamps).unread.pop_back().is_some() {
            // Release: as in `settle`.
            self.unread.fetch_sub(1, Ordering::Release);
        }
    }
}

impl BackendStream for Queue {
    fn traits(&self) -> StreamTraits {
        StreamTraits { pushed: false, batches: false }
    }

    #[inline]
    fn signal(&self, position: u64, timed: bool) -> Result<Signaled> {
        self.check_capture()?;
        if let Some(room) = self.room(position) {
            return Ok(Signaled::Full(room));
        }
        let stamp = if timed { Some(self.record_stamp(position)?) } else { None };
        match &self.carrier {
            Carrier::Events(_) if timed => {}
            Carrier::Events(ring) => self.record_cheap(ring, position)?,
            Carrier::Word { slot, base, recorded, .. } => {
                // SAFETY: the word is pinned, aligned, and never given back.
                let code = unsafe {
                    (self.gpu.api.stream_write_value)(
                        self.raw.0,
                        slot.pointer,
                        base + position,
                        WRITE_VALUE_DEFAULT,
                    )
                };
                if let Err(error) = self.call("cuStreamWriteValue64", code) {
                    if timed {
                        self.forget_stamp();
                    }
                    return Err(error);
                }
                // Relaxed: written under the submit lock; readers want only how far it went.
                recorded.store(position, Ordering::Relaxed);
            }
        }
        Ok(Signaled::Pending(stamp.map(|stamp| stamp as Arc<dyn Stamp>)))
    }

    fn wait(&self, source: &Source<'_>) -> Result<Waited> {
        self.check_capture()?;
        if let Some(other) = source.backend::<Self>() {
            other.be_waited_for(self, source.position())?;
            return Ok(Waited::Native);
        }
        if let Some(foreign) = source.backend::<Foreign>() {
            self.wait_for_event(foreign.event())?;
            return Ok(Waited::Native);
        }
        Ok(Waited::Unsupported)
    }

    fn gate(&self) -> Result<Arc<dyn Gate>> {
        self.check_capture()?;
        let (slot, closed) = self.gpu.slot()?;
        // SAFETY: the word is pinned, aligned, and never given back.
        let code =
            unsafe { (self.gpu.api.stream_wait_value)(self.raw.0, slot.pointer, closed + 1, WAIT_VALUE_GEQ) };
        if let Err(error) = self.call("cuStreamWaitValue64", code) {
            self.gpu.free_slot(slot);
            return Err(error);
        }
        Ok(Arc::new(CudaGate { gpu: self.gpu, slot, open: closed + 1, opened: AtomicBool::new(false) }))
    }

    fn flush(&self) -> Result<Flushed> {
        Ok(Flushed::All)
    }

    #[inline]
    fn poll(&self) {
        if let Carrier::Word { slot, base, minded, .. } = &self.carrier {
            // Acquire: as in `reached`. Relaxed: an old value of `seen` only looks again.
            if slot.word().load(Ordering::Acquire) - base <= self.seen.load(Ordering::Relaxed) {
                // Relaxed: only to spare the lock.
                if !minded.load(Ordering::Relaxed) {
                    minded.store(true, Ordering::Relaxed);
                    if let Some(lane) = self.lane.upgrade() {
                        self.mind(lane);
                    }
                }
                return;
            }
        }
        if let Some(lane) = self.lane.upgrade() {
            self.collect(&lane);
        }
    }

    fn watch(&self, position: u64) {
        let Some(lane) = self.lane.upgrade() else { return };
        let listed = {
            let mut watch = lock(&self.watch);
            watch.until = watch.until.max(position);
            std::mem::replace(&mut watch.listed, true)
        };
        if listed {
            self.gpu.pump.hurry(self.gpu);
        } else {
            self.gpu.pump.watch(self.gpu, Watched::Queue(lane));
        }
    }

    fn abandon(&self) {
        // Nothing is kept back here: the driver has everything, and what it uses is given back when it is through.
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        if crate::fork::happened() {
            // All of it is the parent's.
            std::mem::forget(self.keep_alive.take());
            return;
        }
        let mut retired = Retired::default();
        match &mut self.carrier {
            Carrier::Events(ring) => {
                let ring = std::mem::take(ring.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner));
                retired.events = ring.free;
                retired
                    .events
                    .extend(ring.pending.iter().filter(|recorded| !recorded.timed).map(|it| it.event));
            }
            // Relaxed: nobody records any more.
            Carrier::Word { slot, base, recorded, .. } => {
                retired.word = Some((*slot, *base + recorded.load(Ordering::Relaxed)));
            }
        }
        match self.keep_alive.take() {
            None => retired.stream = Some(self.raw),
            Some(keep_alive) => defer(move || drop(keep_alive)),
        }
        self.gpu.retire(retired);
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let carrier = match self.carrier {
            Carrier::Events(_) => Signal::Cheap,
            Carrier::Word { .. } => Signal::Prompt,
        };
        f.debug_struct("Queue").field("raw", &self.raw.0).field("signal", &carrier).finish_non_exhaustive()
    }
}

/// A wait in the driver for a word that the host writes.
struct CudaGate {
    gpu: &'static Gpu,
    slot: Slot,
    open: u64,
    opened: AtomicBool,
}

impl Gate for CudaGate {
    fn open(&self) {
        // AcqRel: one of those who open it gives the word back.
        if self.opened.swap(true, Ordering::AcqRel) {
            return;
        }
        // Release: pairs with the GPU's read: what the host wrote before is there for the work behind the gate.
        self.slot.word().store(self.open, Ordering::Release);
        // The word only ever grows, so whoever waits for this value sees it, also once the word serves another.
        self.gpu.free_slot(self.slot);
    }
}

impl fmt::Debug for CudaGate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CudaGate").field("opened", &self.opened).finish_non_exhaustive()
    }
}
