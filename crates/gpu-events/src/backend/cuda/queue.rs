//! The driver half of a CUDA stream: a `CUstream`, and what tells how far it is.
//!
//! There are two carriers, and which is better depends on who will look ([`Signal`]): a ring of `CUevent`s, which cost
//! little to record and a driver call to ask; or a word in pinned memory, which costs more to have written and a load to
//! read. Either way an event of ours is a position, one answer of the driver's serves all positions before it, and a
//! native event that was reached goes back to the ring to be recorded again.
//!
//! A native event is never destroyed while its stream's lane is there. So it may be asked for without a lock: if it was
//! taken back and recorded anew meanwhile, its first recording was seen to be complete, and whoever saw it has said so; that
//! it now says "not yet" is no news, and "reached" is true of both.

use super::{
    clock::CudaStamp,
    driver::{
        CAPTURE_STATUS_NONE, Code, RawStream, SUCCESS, WRITE_VALUE_DEFAULT, is_capture, is_captured, is_fault,
    },
    foreign::Foreign,
    gpu::{Entered, Gpu, Handle, Retired, Slot},
    pump::{Look, Watched},
};
use crate::{
    backend::{
        BackendStream, Flushed, Gate, Lane, Room, Signaled, Source, Stamp, StreamSeed, StreamTraits, Waited,
        Word, interop, reaper::KeepAlive,
    },
    error::{Error, ErrorKind, Result},
    primitive::lock,
    stream::{ForeignWaits, Signal},
    time::host_nanos,
    timeline::Progress,
};
use std::{
    cell::UnsafeCell,
    collections::VecDeque,
    ffi::c_void,
    fmt, ptr,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering, fence},
    },
};

/// How many incomplete recordings a stream takes. The driver's queue takes some 1,020 entries, and then blocks whoever
/// calls. A prompt recording makes one, a timed and prompt one two, and so do gates, waits and launches of the user's, which
/// nobody counts: this leaves room for three of them for each recording.
pub(super) const QUEUE_DEPTH: u64 = 256;

/// The driver half of a stream.
// What recording and asking touch comes first.
#[repr(C)]
pub(in crate::backend) struct Queue {
    gpu: &'static Gpu,
    raw: Handle,
    /// It waits for other backends' events natively where it can.
    native: bool,
    /// Somebody else knows the raw stream and may capture it.
    exposed: AtomicBool,
    carrier: Carrier,
    /// The last position that was seen to be reached. The lane is told of it by whoever saw it, or, where that was a
    /// recording, which holds the submit lock, by whoever looks next.
    seen: AtomicU64,
    /// The last position that was given to the driver.
    recorded: AtomicU64,
    /// What the lane was told.
    told: AtomicU64,
    /// Since when somebody polls a word without news, on the host's clock; 0 while nobody does.
    polled_since: AtomicU64,
    /// Timed recordings whose time was not read yet.
    unread: AtomicUsize,
    /// How many incomplete recordings it takes.
    depth: u64,
    lane: Weak<Lane<Self>>,
    watch: Mutex<Watch>,
    /// Those recordings.
    stamps: Mutex<Stamps>,
    /// Set where the stream was made elsewhere.
    keep_alive: Option<KeepAlive>,
}

/// What tells how far the stream is.
enum Carrier {
    Events(Arc<Ring>),
    Word {
        slot: Slot,
        /// The word's value at position 0.
        base: u64,
    },
}

/// The places of a ring. An incomplete position is at most [`QUEUE_DEPTH`] behind the newest, so what stands for it is not
/// overwritten before it was seen to be complete.
const PLACES: usize = 2 * QUEUE_DEPTH as usize;

/// Set in a place whose event belongs to a stamp, and does not go back to the ring.
const TIMED: usize = 1;

/// Native events that stand for positions. Written to under the submit lock alone, and read without it.
pub(super) struct Ring {
    /// The event of a position, in the place of its number modulo their number.
    places: Box<[AtomicPtr<c_void>; PLACES]>,
    /// Calls under way that have another stream wait for one of the events. As long as there are any, no event is recorded
    /// anew: such a wait would be for its newer position (R9).
    waits: AtomicUsize,
    spare: Held<Spare>,
    /// Stamps' events that nobody needs any more, but for such a wait.
    stamped: Mutex<Vec<Handle>>,
    gpu: &'static Gpu,
}

#[derive(Default)]
struct Spare {
    events: Vec<Handle>,
    /// What stood for positions up to this one was taken back.
    taken: u64,
    /// What would have been, had its place not been needed before.
    late: Vec<Handle>,
}

/// What the submit lock guards.
struct Held<T>(UnsafeCell<T>);

// SAFETY: reached by one thread at a time, which is for `get`'s callers to see to.
unsafe impl<T: Send> Sync for Held<T> {}

impl<T> Held<T> {
    /// # Safety
    /// The calling thread holds the stream's submit lock, and nothing else that came from here.
    #[expect(clippy::mut_from_ref, reason = "the lock is elsewhere")]
    unsafe fn get(&self) -> &mut T {
        // SAFETY: by the caller's word there is no other reference.
        unsafe { &mut *self.0.get() }
    }
}

impl Ring {
    fn new(gpu: &'static Gpu) -> Self {
        Self {
            places: Box::new([const { AtomicPtr::new(ptr::null_mut()) }; PLACES]),
            waits: AtomicUsize::new(0),
            spare: Held(UnsafeCell::new(Spare::default())),
            stamped: Mutex::default(),
            gpu,
        }
    }

    /// Takes a stamp's event, whose position was seen to be reached, and passes it on once no wait can be for it.
    pub(super) fn give_back(&self, event: Handle) {
        let mut stamped = lock(&self.stamped);
        stamped.push(event);
        // SeqCst: with `be_waited_for`, as in `take_back`.
        fence(Ordering::SeqCst);
        // Acquire: pairs with the end of a call.
        if self.waits.load(Ordering::Acquire) == 0 {
            stamped.drain(..).for_each(|event| self.gpu.give_back(true, event));
        }
    }

    fn place(&self, position: u64) -> &AtomicPtr<c_void> {
        &self.places[position as usize % PLACES]
    }

    /// The event that stands for a position between the last that was seen to be reached and the last that was recorded.
    fn event(&self, position: u64) -> Handle {
        // Acquire: pairs with `stand`. Whoever finds a later position's event here sees as well that this one was reached.
        Handle(self.place(position).load(Ordering::Acquire).map_addr(|event| event & !TIMED))
    }

    /// Has `event` stand for `position`.
    ///
    /// # Safety
    /// The calling thread holds the submit lock.
    #[inline]
    unsafe fn stand(&self, position: u64, event: Handle, timed: bool) {
        // SAFETY: by the caller's word.
        let spare = unsafe { self.spare.get() };
        let place = self.place(position);
        if position > spare.taken + PLACES as u64 {
            // Reached long ago, and not taken back, because somebody was waiting for an event just then.
            spare.late.extend(self.untimed(spare.taken, spare.taken + 1));
            spare.taken += 1;
        }
        let event = event.0.map_addr(|event| event | if timed { TIMED } else { 0 });
        // Release: pairs with `event`.
        place.store(event, Ordering::Release);
    }

    /// An event that nobody needs any more, if there is one.
    ///
    /// # Safety
    /// The calling thread holds the submit lock.
    #[inline]
    unsafe fn take(&self, seen: &AtomicU64) -> Option<Handle> {
        // SAFETY: by the caller's word.
        let spare = unsafe { self.spare.get() };
        if spare.events.is_empty() {
            self.take_back(spare, seen);
        }
        spare.events.pop()
    }

    /// Gives an event back that was not recorded after all.
    ///
    /// # Safety
    /// The calling thread holds the submit lock.
    #[cold]
    unsafe fn put_back(&self, event: Handle) {
        // SAFETY: by the caller's word.
        unsafe { self.spare.get() }.events.push(event);
    }

    /// Takes back what stood for positions that were seen to be reached.
    fn take_back(&self, spare: &mut Spare, seen: &AtomicU64) {
        // Acquire: pairs with `settle` and `room`.
        let seen = seen.load(Ordering::Acquire);
        // SeqCst: with `be_waited_for`. Either we see that somebody is at it, or they see `seen` as we did, and leave those
        // events alone.
        fence(Ordering::SeqCst);
        // Acquire: pairs with the end of a call.
        if self.waits.load(Ordering::Acquire) != 0 {
            return;
        }
        spare.events.append(&mut spare.late);
        spare.events.extend(self.untimed(spare.taken, seen));
        spare.taken = spare.taken.max(seen);
    }

    /// The ring's own events behind `from`, up to `to`.
    fn untimed(&self, from: u64, to: u64) -> impl Iterator<Item = Handle> {
        (from + 1..=to).filter_map(|position| {
            // Relaxed: stored under the submit lock, or before the last reference went.
            let event = self.place(position).load(Ordering::Relaxed);
            (event.addr() & TIMED == 0).then_some(Handle(event))
        })
    }
}

/// Timed recordings whose time was not read yet.
#[derive(Default)]
struct Stamps {
    /// In order of position.
    pending: VecDeque<(u64, Arc<CudaStamp>)>,
    /// Seen to be reached, and still somebody's.
    reached: Vec<Arc<CudaStamp>>,
}

#[derive(Default)]
struct Watch {
    /// Somebody waits for positions up to this one.
    until: u64,
    /// The pump has the lane.
    listed: bool,
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
        let (raw, keep_alive) = match adopted {
            None => (gpu.stream()?, None),
            Some((raw, keep_alive)) => (Handle(raw), Some(keep_alive)),
        };
        let carrier = match seed.options().requested_signal().unwrap_or(default) {
            Signal::Cheap => Carrier::Events(Arc::new(Ring::new(gpu))),
            Signal::Prompt => match gpu.slot() {
                Ok((slot, base)) => Carrier::Word { slot, base },
                Err(error) => {
                    let stream = keep_alive.is_none().then_some(raw);
                    gpu.retire(Retired { stream, ..Retired::default() });
                    return Err(error);
                }
            },
        };
        let depth = seed.options().requested_depth().unwrap_or(QUEUE_DEPTH).min(QUEUE_DEPTH);
        let exposed = AtomicBool::new(keep_alive.is_some());
        let native = seed.options().requested_foreign_waits() == ForeignWaits::Native;
        let lane = seed.build_typed(|lane| Self {
            gpu,
            raw,
            native,
            exposed,
            carrier,
            seen: AtomicU64::new(0),
            recorded: AtomicU64::new(0),
            told: AtomicU64::new(0),
            polled_since: AtomicU64::new(0),
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

    pub(in crate::backend) fn gpu(&self) -> &'static Gpu {
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

    /// Makes the context current where that says which stream is meant: null, and those of [`LEGACY_STREAM`] and
    /// [`PER_THREAD_STREAM`], are of whatever context is.
    ///
    /// [`LEGACY_STREAM`]: super::LEGACY_STREAM
    /// [`PER_THREAD_STREAM`]: super::PER_THREAD_STREAM
    #[inline]
    fn enter(&self) -> Result<Option<Entered<'static>>> {
        if self.raw.0.addr() > super::PER_THREAD_STREAM.addr() {
            Ok(None)
        } else {
            self.gpu.enter().map(Some)
        }
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
        self.gpu.refused(call, code)
    }

    /// Carries out a call on the stream.
    #[inline]
    fn call(&self, name: &str, code: Code) -> Result<()> {
        if code == SUCCESS { Ok(()) } else { Err(self.refused(name, code)) }
    }

    /// Makes the stream wait for a native event. Under the submit lock.
    pub(super) fn wait_for_event(&self, event: Handle) -> Result<()> {
        self.gpu.have_wait_for_event(self.raw.0, event)
    }

    /// Makes the stream wait for a word to be this high. Under the submit lock.
    fn wait_for_word(&self, slot: Slot, value: u64) -> Result<()> {
        self.gpu.have_wait_for_word(self.raw.0, slot, value)
    }

    /// Makes the stream record a native event. Under the submit lock.
    pub(super) fn record_event(&self, event: Handle) -> Result<()> {
        // SAFETY: both are there.
        let code = unsafe { (self.gpu.api.event_record)(event.0, self.raw.0) };
        self.call("cuEventRecord", code)
    }

    /// Makes a stream of `gpu`'s wait for a position of this one. Under that stream's submit lock, or while nobody else uses it.
    pub(super) fn be_waited_for(&self, gpu: &Gpu, waiter: Handle, position: u64) -> Result<()> {
        // A position of a stream that had failed never got to the driver, and would never be signaled. Acquire: pairs with
        // `signal`; the event was recorded before, under the source's lock.
        if position > self.recorded.load(Ordering::Acquire) {
            return Ok(());
        }
        match &self.carrier {
            Carrier::Events(ring) => {
                // SeqCst, and the load below: with the fence in `take_back`.
                ring.waits.fetch_add(1, Ordering::SeqCst);
                let event = ring.event(position);
                // After the event was read. Was it recorded anew, then its position was seen to be reached before, and we see
                // that here.
                let outcome = if self.seen.load(Ordering::SeqCst) >= position {
                    // There is nothing to wait for any more.
                    Ok(())
                } else {
                    gpu.have_wait_for_event(waiter.0, event)
                };
                // Release: the call was made before.
                ring.waits.fetch_sub(1, Ordering::Release);
                outcome
            }
            Carrier::Word { slot, base } => gpu.have_wait_for_word(waiter.0, *slot, base + position),
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
        let reached = self.reached().unwrap_or(0);
        // Release: as in `settle`. The lane is told by whoever looks next, since the submit lock is held here. But what stood
        // for these positions is about to be overwritten, so nobody may ask for it any more.
        self.seen.fetch_max(reached, Ordering::Release);
        (position.saturating_sub(reached) > depth).then(|| Room { after: position - depth })
    }

    /// Asks how far the stream is.
    fn reached(&self) -> Result<u64, Code> {
        let ring = match &self.carrier {
            // Acquire: pairs with the GPU's write, before which all earlier work's writes were made visible (R8).
            Carrier::Word { slot, base } => return Ok(slot.word().load(Ordering::Acquire) - base),
            Carrier::Events(ring) => ring,
        };
        // Acquire: pairs with `signal`: there is an event for each position in between. And `seen` first: it is never ahead.
        let seen = self.seen.load(Ordering::Acquire);
        let recorded = self.recorded.load(Ordering::Acquire);
        let answer = |position| self.gpu.is_done(ring.event(position));
        // The oldest one, which mostly says no; then the newest, which says yes for all; then halves, to the end: whoever asks
        // for a position that was reached must not be told otherwise.
        if seen >= recorded || !answer(seen + 1)? {
            return Ok(seen);
        }
        // What a capture swallowed further on takes nothing back of what came before: it is met once it is the oldest.
        let is_reached = |position| match answer(position) {
            Err(code) if is_captured(code) => Ok(false),
            answer => answer,
        };
        if is_reached(recorded)? {
            return Ok(recorded);
        }
        let (mut reached, mut pending) = (seen + 1, recorded);
        while pending - reached > 1 {
            let middle = reached + (pending - reached) / 2;
            *(if is_reached(middle)? { &mut reached } else { &mut pending }) = middle;
        }
        Ok(reached)
    }

    /// Brings news of what was reached: times are read, native events may go back, and the lane advances.
    fn settle(&self, lane: &Lane<Self>, reached: u64) {
        let mut read = Vec::new();
        // Acquire: pairs with `record_stamp`: a position that was reached was counted.
        if self.unread.load(Ordering::Acquire) > 0 {
            let mut stamps = lock(&self.stamps);
            let now = stamps.pending.partition_point(|(position, _)| *position <= reached);
            read = std::mem::take(&mut stamps.reached);
            read.extend(stamps.pending.drain(..now).map(|(_, stamp)| stamp));
            for stamp in &read {
                // Where this is the only reference, nobody will ever ask, and the driver need not be either. If it can't be
                // read, whoever asks is told why: asked again.
                if Arc::strong_count(stamp) > 1 {
                    stamp.settle();
                }
            }
            // Release: whoever finds none unread finds them read. Under the lock, so that nobody advances past a time that
            // another thread is reading.
            self.unread.fetch_sub(read.len(), Ordering::Release);
        }
        // Release: what stood for these positions may be recorded anew (see `Ring::take_back`).
        self.seen.fetch_max(reached, Ordering::Release);
        // After that: their events may go.
        read.iter().for_each(|stamp| stamp.give_back());
        // Relaxed: see `polled_in_vain`.
        self.polled_since.store(0, Ordering::Relaxed);
        lane.advance(reached);
        // Release: pairs with `poll`, after the lane was told.
        self.told.fetch_max(reached, Ordering::Release);
    }

    /// Asks the driver, and takes over what it says: whether that was news.
    fn collect(&self, lane: &Lane<Self>) -> bool {
        self.take_over(lane, self.reached())
    }

    fn take_over(&self, lane: &Lane<Self>, answer: Result<u64, Code>) -> bool {
        match answer {
            Ok(reached) if reached > lane.completed() => {
                self.settle(lane, reached);
                true
            }
            Ok(_) => false,
            Err(code) => self.broke(lane, "cuEventQuery", code),
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
        if let Carrier::Word { slot, base } = &self.carrier {
            // Relaxed: what is still being recorded fails.
            let last = base + self.recorded.load(Ordering::Relaxed);
            // Release: those who go on were marked before.
            slot.word().fetch_max(last, Ordering::Release);
        }
    }

    /// An answer that is neither yes nor no. With no lock held. Whether it was news.
    #[cold]
    fn broke(&self, lane: &Lane<Self>, call: &str, code: Code) -> bool {
        if is_capture(code) && !is_captured(code) {
            // Somebody captures, which forbids asking.
            return false;
        }
        let error = self.gpu.api.error(call, code);
        if is_fault(code) {
            self.gpu.fail(error);
        } else {
            // What a recording has learned, and could not tell under the lock, stands. Acquire: as in `reached`.
            self.settle(lane, self.seen.load(Ordering::Acquire));
            // Of an event that a capture swallowed nothing will ever be heard: it began while we recorded.
            lane.fail(lane.completed() + 1, error);
        }
        true
    }

    /// Reads the times of what was reached, for recordings that nobody may ever ask for.
    pub(super) fn tidy(&self, lane: &Lane<Self>) {
        // Relaxed: the next time finds what this one misses.
        if self.unread.load(Ordering::Relaxed) > 0 {
            self.collect(lane);
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
        if matches!(self.carrier, Carrier::Word { .. }) {
            // Relaxed: for the pump's own decision; who polls later has the lane minded again.
            if !settled && lane.is_minded() && completed < self.recorded.load(Ordering::Relaxed) {
                return Look::Mild;
            }
            lane.mind(false);
        }
        watch.listed = false;
        Look::Over
    }

    /// A word would never tell that the context broke. Somebody polls it, and has for a while: from now on the pump looks
    /// after that. Not at once, because to wake the pump takes longer than most polling lasts.
    fn polled_in_vain(&self, lane: Arc<Lane<Self>>) {
        const WHILE: u64 = 20_000;
        let now = host_nanos();
        // Relaxed, all three: guesses of when to begin; a wrong one costs a wake-up, or so long once more.
        let since = self.polled_since.load(Ordering::Relaxed);
        if since == 0 {
            return self.polled_since.store(now.max(1), Ordering::Relaxed);
        }
        if now.saturating_sub(since) < WHILE {
            return;
        }
        self.polled_since.store(0, Ordering::Relaxed);
        lane.mind(true);
        self.mind(lane);
    }

    /// Has the pump look after the context.
    #[cold]
    fn mind(&self, lane: Arc<Lane<Self>>) {
        let mut watch = lock(&self.watch);
        if !watch.listed {
            watch.listed = true;
            drop(watch);
            self.gpu.pump.mind(Watched::Queue(lane));
        }
    }

    /// Records one of the ring's events. Under the submit lock.
    #[inline]
    fn record_cheap(&self, ring: &Ring, position: u64) -> Result<()> {
        // SAFETY: the submit lock is held.
        let event = match unsafe { ring.take(&self.seen) } {
            Some(event) => event,
            None => self.gpu.event(false)?,
        };
        let outcome = self.record_event(event);
        match outcome {
            // SAFETY: as above.
            Ok(()) => unsafe { ring.stand(position, event, false) },
            // SAFETY: as above.
            Err(_) => unsafe { ring.put_back(event) },
        }
        outcome
    }

    /// A timed recording that nobody will ask for, and whose position was seen to be reached: its event is for the next, so
    /// that who only ever records has no new ones made.
    fn reuse_stamp(&self) -> Option<Arc<CudaStamp>> {
        // Relaxed: one that was counted just now is not reached.
        if self.unread.load(Ordering::Relaxed) == 0 {
            return None;
        }
        // Acquire: as in `take_back`.
        let seen = self.seen.load(Ordering::Acquire);
        let mut stamps = lock(&self.stamps);
        // Two steps for each recording: it keeps up with them, whoever else's are between.
        for _ in 0..2 {
            if stamps.pending.front().is_none_or(|(position, _)| *position > seen) {
                break;
            }
            match stamps.pending.pop_front() {
                Some((_, stamp)) if Arc::strong_count(&stamp) == 1 => {
                    // Release: as in `settle`.
                    self.unread.fetch_sub(1, Ordering::Release);
                    return Some(stamp);
                }
                wanted => stamps.reached.extend(wanted.map(|(_, stamp)| stamp)),
            }
        }
        None
    }

    /// Records a timed event, which will be the recording's time.
    fn record_stamp(&self, position: u64) -> Result<Arc<CudaStamp>> {
        let unasked = self.reuse_stamp();
        let ring = match &self.carrier {
            Carrier::Events(ring) => Some(ring.clone()),
            Carrier::Word { .. } => None,
        };
        let stamp = Arc::new(CudaStamp::new(self.gpu, ring)?);
        // Only now, for the next one: without any the clock would stop in between, and begin anew.
        drop(unasked);
        let event = stamp.event().ok_or(ErrorKind::NotMeasured)?;
        self.record_event(event)?;
        lock(&self.stamps).pending.push_back((position, stamp.clone()));
        // Release: pairs with `settle`.
        self.unread.fetch_add(1, Ordering::Release);
        if let Carrier::Events(ring) = &self.carrier {
            // SAFETY: the submit lock is held.
            unsafe { ring.stand(position, event, true) };
        }
        Ok(stamp)
    }

    /// Takes back what [`record_stamp`](Self::record_stamp) noted.
    #[cold]
    fn forget_stamp(&self) {
        if lock(&self.stamps).pending.pop_back().is_some() {
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
        let _entered = self.enter()?;
        self.check_capture()?;
        if let Some(room) = self.room(position) {
            return Ok(Signaled::Full(room));
        }
        let stamp = if timed { Some(self.record_stamp(position)?) } else { None };
        match &self.carrier {
            Carrier::Events(_) if timed => {}
            Carrier::Events(ring) => self.record_cheap(ring, position)?,
            Carrier::Word { slot, base } => {
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
            }
        }
        // Release: whoever reads it finds what stands for the position.
        self.recorded.store(position, Ordering::Release);
        Ok(Signaled::Pending(stamp.map(|stamp| stamp as Arc<dyn Stamp>)))
    }

    fn wait(&self, source: &Source<'_>) -> Result<Waited> {
        let _entered = self.enter()?;
        self.check_capture()?;
        // With two drivers in a process, a simulated one say, neither knows the other's handles.
        let is_ours = |gpu: &Gpu| ptr::eq(gpu.api, self.gpu.api);
        if let Some(other) = source.backend::<Self>().filter(|other| is_ours(other.gpu)) {
            other.be_waited_for(self.gpu, self.raw, source.position())?;
            return Ok(if ptr::eq(other.gpu, self.gpu) { Waited::Together } else { Waited::Native });
        }
        if let Some(foreign) = source.backend::<Foreign>().filter(|foreign| is_ours(foreign.gpu())) {
            // As in `wait_raw`: it may be out of a capture by now.
            self.expose();
            self.wait_for_event(foreign.event())?;
            return Ok(Waited::Native);
        }
        if self.native {
            return interop::cuda_waits(self, source);
        }
        Ok(Waited::Unsupported)
    }

    fn gate(&self) -> Result<Arc<dyn Gate>> {
        let _entered = self.enter()?;
        self.check_capture()?;
        let (slot, closed) = self.gpu.slot()?;
        let open = closed + 1;
        // Before the driver has it.
        interop::gate_closes();
        if let Err(error) = self.wait_for_word(slot, open) {
            interop::gate_opens();
            self.gpu.free_slot(slot);
            return Err(error);
        }
        Ok(Arc::new(CudaGate { gpu: self.gpu, slot, open, opened: AtomicBool::new(false) }))
    }

    fn flush(&self) -> Result<Flushed> {
        Ok(Flushed::All)
    }

    fn word(&self) -> Option<Word> {
        match &self.carrier {
            Carrier::Events(_) => None,
            Carrier::Word { slot, base } => Some(Word { at: slot.word(), base: *base }),
        }
    }

    #[inline]
    fn poll(&self) {
        // Mostly there is no news, and then a reference to the lane would be half of what this costs besides the driver's
        // answer. Acquire: what the lane was told before can be seen.
        let ring = matches!(self.carrier, Carrier::Events(_));
        let answer = self.reached();
        if ring && answer.is_ok_and(|reached| reached <= self.told.load(Ordering::Acquire)) {
            return;
        }
        let Some(lane) = self.lane.upgrade() else { return };
        if !self.take_over(&lane, answer) && !ring {
            self.polled_in_vain(lane);
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
            self.gpu.pump.hurry();
        } else {
            self.gpu.pump.watch(Watched::Queue(lane));
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
                // SAFETY: nobody records any more.
                let spare = unsafe { ring.spare.get() };
                retired.events = std::mem::take(&mut spare.events);
                retired.events.append(&mut spare.late);
                let taken = spare.taken;
                // Relaxed: nobody records any more.
                retired.events.extend(ring.untimed(taken, self.recorded.load(Ordering::Relaxed)));
            }
            // Relaxed: as above.
            Carrier::Word { slot, base } => {
                retired.word = Some((*slot, *base + self.recorded.load(Ordering::Relaxed)));
            }
        }
        match self.keep_alive.take() {
            None => retired.stream = Some(self.raw),
            Some(keep_alive) => self.gpu.let_go_of(keep_alive),
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
        interop::gate_opens();
        // The word only ever grows, so whoever waits for this value sees it, also once the word serves another.
        self.gpu.free_slot(self.slot);
    }
}

impl fmt::Debug for CudaGate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CudaGate").field("opened", &self.opened).finish_non_exhaustive()
    }
}
