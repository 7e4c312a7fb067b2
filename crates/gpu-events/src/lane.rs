//! A timeline together with the driver half that moves it: a stream's, a host signal's, a foreign submission's.

#[cfg(all(test, feature = "cpu", not(gpu_events_loom)))]
mod near_the_end;

use crate::{
    backend::{BackendStream, Flushed, Gate, Room, Signaled, Source, StreamTraits, Waited, Word},
    device::{self, DeviceCore},
    error::{Error, ErrorKind, Result},
    event::{Slot, Status},
    primitive::{
        AtomicBool, AtomicU32, AtomicU64, Mutex, MutexGuard, Ordering, fence, lock, thread_local, try_lock,
    },
    stream::{StreamOptions, StreamWait, WhenFull},
    time::{coarse_nanos, host_nanos},
    timeline::{self, Progress, Registered, Relay, Timeline, Waiter, relay},
    wait::{Target, WaitOptions, WaitOutcome, wait_one},
};
use std::{
    cell::Cell,
    fmt,
    sync::{
        Arc, PoisonError, Weak,
        atomic::{AtomicU64 as StdAtomicU64, AtomicUsize},
    },
    time::{Duration, Instant},
};

/// Where threads wait for a held stream that have a time limit, which locks don't know.
///
/// One place for all streams: the time for it is a user's guard that is let go of, which is rare, and not the hot path's own
/// short turns, whose ends are found by asking again.
pub(crate) struct Turn {
    waiting: AtomicUsize,
    lock: std::sync::Mutex<()>,
    bell: std::sync::Condvar,
}

pub(crate) static TURN: Turn =
    Turn { waiting: AtomicUsize::new(0), lock: std::sync::Mutex::new(()), bell: std::sync::Condvar::new() };

impl Turn {
    /// Somebody's short turn ends without a word, and so may a guard that is just being let go of.
    const ASK_AGAIN: Duration = Duration::from_millis(1);
    /// How often a lock that no guard holds is asked for before it is taken for one that may be held for long.
    const SHORT: usize = 64;

    fn wait(&self, at_most: Duration) {
        // Relaxed: who misses it says nothing, and we ask again.
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let turn = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.bell.wait_timeout(turn, at_most.min(Self::ASK_AGAIN)));
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }

    /// A guard was let go of.
    pub(crate) fn announce(&self) {
        // Relaxed: as above.
        if self.waiting.load(Ordering::Relaxed) > 0 {
            drop(self.lock.lock());
            self.bell.notify_all();
        }
    }
}

/// One timeline and the driver half behind it. For backends: what [`StreamSeed::build`] makes.
///
/// The driver half is the last field and unsized, so that an event reaches the timeline's word by one pointer, and
/// a backend passes its own `Arc<Lane<B>>` around as the thing that it schedules. Everything but the driver half
/// belongs to the core.
///
/// [`StreamSeed::build`]: crate::backend::StreamSeed::build
#[repr(C)]
pub struct Lane<B: ?Sized + BackendStream = dyn BackendStream> {
    pub(crate) core: LaneCore,
    backend: B,
}

/// What kind of thing signals a lane.
#[derive(Debug)]
pub(crate) enum Producer {
    /// A stream: the backend.
    Stream,
    /// The host (R39).
    Host,
    /// Somebody else's submission (R37), and whether it was submitted.
    External(AtomicBool),
}

/// What recording and asking touch comes last, beside the driver half, in one or two cache lines: with a hundred
/// thousand streams in use, an operation costs what its cache misses cost.
#[repr(C)]
pub(crate) struct LaneCore {
    id: u64,
    label: Option<Box<str>>,
    /// Waits that the host opens, to be opened when the device is closed.
    gates: Mutex<Vec<Weak<GateRelay>>>,
    /// The thread that holds the submit lock through a [`StreamGuard`](crate::StreamGuard), by [`thread_token`].
    holder: AtomicU64,
    /// Everything up to here was given to the driver. Only moves where the backend batches.
    flushed: AtomicU64,
    /// How many [`Stream`](crate::Stream)s refer to this.
    pub(crate) handles: AtomicU32,
    /// Somebody needs what is gathered, and found the lock held (R7).
    flush_requested: AtomicBool,
    /// The driver may go on with work that has failed: the core has failed this on a source's behalf, or the backend says
    /// so (R26).
    runs_on: AtomicBool,
    when_full: WhenFull,
    pub(crate) producer: Producer,
    pub(crate) timeline: Timeline,
    submit: Mutex<Submit>,
    pub(crate) device: Arc<DeviceCore>,
    traits: StreamTraits,
    /// The last [`Round`] in which the driver was asked, and had nothing new.
    asked: AtomicU64,
    /// Somebody looks after what `word` can't tell.
    minded: AtomicBool,
    word: Option<Word>,
    /// The timeline alone says where a position stands: no driver to ask, no submission to be made by others.
    tells_all: bool,
}

/// What the submit lock guards.
#[derive(Debug)]
pub(crate) struct Submit {
    /// The last position that was recorded.
    recorded: u64,
}

/// One look at many positions, in which each stream's driver is asked once, however many of them are the stream's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Round(u64);

impl Round {
    pub(crate) fn begin() -> Self {
        // Relaxed: only uniqueness matters. 0 stands for none.
        static NEXT: StdAtomicU64 = StdAtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// What an observation found.
#[derive(Debug)]
pub(crate) enum Observed {
    Complete,
    Pending,
    Failed(Error),
}

/// A number for this thread that no other has; none while the thread's locals are being destroyed.
fn thread_token() -> Option<u64> {
    // Relaxed: only uniqueness matters. 0 stands for nobody.
    static NEXT: StdAtomicU64 = StdAtomicU64::new(1);
    thread_local! {
        static TOKEN: Cell<u64> = const { Cell::new(0) };
    }
    TOKEN
        .try_with(|token| {
            if token.get() == 0 {
                token.set(NEXT.fetch_add(1, Ordering::Relaxed));
            }
            token.get()
        })
        .ok()
}

impl LaneCore {
    fn new(
        device: &Arc<DeviceCore>,
        options: &StreamOptions,
        producer: Producer,
        traits: StreamTraits,
        word: Option<Word>,
    ) -> Self {
        Self {
            timeline: Timeline::new(),
            submit: Mutex::new(Submit { recorded: 0 }),
            holder: AtomicU64::new(0),
            flush_requested: AtomicBool::new(false),
            runs_on: AtomicBool::new(false),
            flushed: AtomicU64::new(0),
            handles: AtomicU32::new(0),
            traits,
            asked: AtomicU64::new(0),
            minded: AtomicBool::new(false),
            word,
            tells_all: traits.pushed && !traits.batches && !matches!(producer, Producer::External(_)),
            when_full: options.when_full,
            producer,
            id: device.next_lane_id(),
            label: options.label.as_deref().map(Into::into),
            device: device.clone(),
            gates: Mutex::new(Vec::new()),
        }
    }

    pub(crate) fn label(&self) -> Option<&str> {
        self.label.as_deref()
    }

    /// Whether this thread holds the submit lock through a guard.
    pub(crate) fn is_held_by_this_thread(&self) -> bool {
        // Relaxed: only this thread can have stored its own token.
        thread_token() == Some(self.holder.load(Ordering::Relaxed))
    }

    /// Takes the submit lock.
    #[inline]
    pub(crate) fn lock(&self) -> Result<MutexGuard<'_, Submit>> {
        match try_lock(&self.submit) {
            Some(submit) => Ok(submit),
            None => self.lock_contended(),
        }
    }

    /// As [`lock`](Self::lock), for as long as there is time. `None`: somebody held it to the end.
    pub(crate) fn lock_until(&self, deadline: Option<Instant>) -> Result<Option<MutexGuard<'_, Submit>>> {
        let Some(deadline) = deadline else { return self.lock().map(Some) };
        loop {
            // A user's guard is waited for below.
            if let Some(submit) = self.lock_in_turn() {
                return Ok(Some(submit));
            }
            if self.is_held_by_this_thread() {
                return Err(Error::new(ErrorKind::WouldDeadlock));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            TURN.wait(left);
        }
    }

    /// Takes the submit lock, if nobody keeps it for long.
    fn lock_patiently(&self) -> Option<MutexGuard<'_, Submit>> {
        /// Of at most a millisecond each.
        const WAITS: usize = 20;
        if cfg!(gpu_events_loom) {
            // A model's threads go on when they wait, and not when one looks again.
            return try_lock(&self.submit);
        }
        for _ in 0..WAITS {
            if let Some(submit) = self.lock_in_turn() {
                return Some(submit);
            }
            if self.is_held_for_a_user() {
                return None;
            }
            TURN.wait(Turn::ASK_AGAIN);
        }
        self.lock_in_turn()
    }

    /// Takes the submit lock, waiting out a recording's own turn, which is short and ends without a word.
    fn lock_in_turn(&self) -> Option<MutexGuard<'_, Submit>> {
        for _ in 0..Turn::SHORT {
            if let Some(submit) = try_lock(&self.submit) {
                return Some(submit);
            }
            if self.is_held_for_a_user() {
                return None;
            }
            std::thread::yield_now();
        }
        None
    }

    fn is_held_for_a_user(&self) -> bool {
        // Relaxed: whether, not for whom; who misses it looks again.
        self.holder.load(Ordering::Relaxed) != 0
    }

    #[cold]
    fn lock_contended(&self) -> Result<MutexGuard<'_, Submit>> {
        if self.is_held_by_this_thread() {
            return Err(Error::new(ErrorKind::WouldDeadlock));
        }
        Ok(lock(&self.submit))
    }

    /// Notes that this thread holds the lock on a user's behalf.
    pub(crate) fn set_holder(&self, held: bool) {
        // Relaxed: read for its own value by the thread that stored it; others only see that it is not theirs.
        let token = if held { thread_token() } else { None };
        self.holder.store(token.unwrap_or(0), Ordering::Relaxed);
    }
}

impl fmt::Display for LaneCore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.producer {
            Producer::Stream => "stream",
            Producer::Host => "host signal",
            Producer::External(_) => "external submission",
        };
        match &self.label {
            Some(label) => write!(f, "{what} \"{label}\""),
            None => write!(f, "{what} #{}", self.id),
        }
    }
}

impl<B: ?Sized + BackendStream> Lane<B> {
    /// The backend's own half.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// The last position that is known to be complete.
    #[inline]
    pub fn completed(&self) -> u64 {
        self.core.timeline.completed()
    }

    /// Marks every position up to `position` as complete, and tells whoever waits for one of them. A lower value
    /// than before does nothing. From any thread; with none of the backend's locks held, since wakers run in it.
    #[inline]
    pub fn advance(&self, position: u64) {
        self.core.timeline.advance(position);
    }

    /// Fails every position from `position` on that is not complete. The first failure wins (R26). From any thread;
    /// with none of the backend's locks held.
    pub fn fail(&self, position: u64, error: Error) {
        self.core.timeline.fail(position, error);
    }

    /// The driver will go on with work that is about to be failed: what users keep for it until it is done must not be
    /// let go of with the failure (R38). Called before [`fail`](Self::fail).
    pub fn runs_on(&self) {
        // Release: pairs with `is_done_with_failed`, whose caller learned of the failure after this.
        self.core.runs_on.store(true, Ordering::Release);
    }

    /// Everything up to `position` has been given to the driver, by the backend's own decision: a bound was reached, or
    /// the device had run dry. Called with the submit lock held; what `flush` submits it returns instead.
    pub fn submitted(&self, position: u64) {
        // Release: pairs with the acquire in `need` and `is_submitted`: the driver has it before we say so.
        self.core.flushed.fetch_max(position, Ordering::Release);
    }

    /// Whether some position has failed. A failed stream takes no more work.
    #[inline]
    pub fn is_failed(&self) -> bool {
        self.core.timeline.is_failed()
    }

    /// News of this lane are likely within `window`: has whoever runs its device's callbacks wait for them awake, if any are
    /// registered. To wake a thread that sleeps takes longer than many a wait does.
    pub fn rouse(&self, window: Duration) {
        self.core.device.callbacks().rouse(host_nanos().saturating_add(window.as_nanos() as u64));
    }

    /// Says whether the backend looks after what the driver's [word](BackendStream::word) can't tell: that nothing will
    /// ever be written to it any more. While it does, whoever polls reads the word alone.
    pub fn mind(&self, minded: bool) {
        // Relaxed: an old value costs one more call, or one that comes with the next poll.
        self.core.minded.store(minded, Ordering::Relaxed);
    }

    /// What [`mind`](Self::mind) said last.
    pub fn is_minded(&self) -> bool {
        // Relaxed: as above.
        self.core.minded.load(Ordering::Relaxed)
    }

    /// A number that no other lane of this process has.
    pub fn id(&self) -> u64 {
        self.core.id
    }

    /// The label that its stream was given.
    pub fn label(&self) -> Option<&str> {
        self.core.label()
    }

    /// Has what is gathered submitted: now, or, where the submit lock is held, by its holder before it lets go
    /// (R7). Never blocks. A backend calls this when its device has run dry.
    pub fn request_flush(&self) {
        if !self.core.traits.batches {
            return;
        }
        // Relaxed: the fence orders it.
        self.core.flush_requested.store(true, Ordering::Relaxed);
        // SeqCst: with the fence in `release`. Either we find the lock free, or its holder, once it has let go,
        // finds the request.
        fence(Ordering::SeqCst);
        if let Some(submit) = try_lock(&self.core.submit) {
            self.release(submit);
        }
    }

    /// Gives the submit lock back, carrying out the flushes that were requested meanwhile.
    #[inline]
    pub(crate) fn release<'a>(&'a self, submit: MutexGuard<'a, Submit>) {
        if self.core.traits.batches {
            self.release_batching(submit);
        }
    }

    fn release_batching<'a>(&'a self, mut submit: MutexGuard<'a, Submit>) {
        loop {
            let mut failed = None;
            // Relaxed: whoever requested was before us or will find the lock free; what it wants flushed was recorded
            // under the lock that we hold. A look is cheaper than the exchange, and one that comes too early is made good
            // below.
            if self.core.flush_requested.load(Ordering::Relaxed)
                && self.core.flush_requested.swap(false, Ordering::Relaxed)
            {
                failed = self.flush_locked(&mut submit).err();
            }
            drop(submit);
            if let Some((from, error)) = failed {
                // A deferred submission that fails is the stream's failure (R29).
                self.fail(from, error);
            }
            // SeqCst: with the fence in `request_flush`.
            fence(Ordering::SeqCst);
            if !self.core.flush_requested.load(Ordering::Relaxed) {
                return;
            }
            match try_lock(&self.core.submit) {
                Some(again) => submit = again,
                // Its holder will see the request.
                None => return,
            }
        }
    }

    /// Submits what is gathered. On failure: from which position on.
    fn flush_locked(&self, submit: &mut Submit) -> Result<(), (u64, Error)> {
        self.mark(submit);
        match self.backend.flush() {
            Ok(Flushed::All) => self.submitted(submit.recorded),
            Ok(Flushed::UpTo(position)) => self.submitted(position),
            Err(error) => return Err((self.first_unsubmitted(), error)),
        }
        Ok(())
    }

    /// Lets the backend take a position for work that nobody has recorded behind.
    fn mark(&self, submit: &mut Submit) {
        // A failed stream's positions go to no backend any more, and there is none behind the last.
        let next = submit.recorded + 1;
        if !self.core.timeline.is_special(next) && self.backend.mark(next) {
            submit.recorded += 1;
        }
    }

    /// The first position that the driver does not have for certain. Under the submit lock.
    pub(crate) fn first_unsubmitted(&self) -> u64 {
        // Relaxed: written under the lock that is held.
        self.core.flushed.load(Ordering::Relaxed) + 1
    }

    /// Submits what is gathered, and reports what went wrong; where the lock is held, leaves that to its holder.
    pub(crate) fn flush(&self) -> Result<()> {
        let flushed = match try_lock(&self.core.submit) {
            Some(mut submit) => {
                let flushed = self.flush_held(&mut submit);
                self.release(submit);
                flushed
            }
            None => {
                self.request_flush();
                Ok(())
            }
        };
        self.flushed(flushed)
    }

    /// As [`flush`](Self::flush), with the lock kept; the outcome goes to [`flushed`](Self::flushed).
    pub(crate) fn flush_held(&self, submit: &mut Submit) -> Result<(), (u64, Error)> {
        if self.core.traits.batches { self.flush_locked(submit) } else { Ok(()) }
    }

    pub(crate) fn flushed(&self, outcome: Result<(), (u64, Error)>) -> Result<()> {
        if let Err((from, error)) = outcome {
            self.fail(from, error.clone());
            return Err(error);
        }
        match self.core.timeline.failure() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// The last recorded position, for reports: `None` where a user's guard holds the lock, or a driver that does not return.
    pub(crate) fn recorded(&self) -> Option<u64> {
        let submit = self.core.lock_patiently()?;
        let recorded = submit.recorded;
        // Not just dropped: who meanwhile wanted a flush left it to us.
        self.release(submit);
        Some(recorded)
    }

    /// Has `position` submitted, as far as that goes without blocking.
    #[inline]
    fn need(&self, position: u64) {
        // Acquire: pairs with `submitted`.
        if self.core.traits.batches && self.core.flushed.load(Ordering::Acquire) < position {
            self.request_flush();
        }
    }

    /// Whether everything up to `position` has been given to the driver.
    pub(crate) fn is_submitted(&self, position: u64) -> bool {
        // Acquire: pairs with `submitted`.
        !self.is_unsubmitted()
            && (!self.core.traits.batches || self.core.flushed.load(Ordering::Acquire) >= position)
    }

    /// Where `position` stands, as an event tells it.
    #[inline]
    pub(crate) fn status(&self, position: u64) -> Status {
        match self.core.timeline.progress(position) {
            Progress::Complete => Status::Complete,
            Progress::Pending if self.core.tells_all || self.is_up_to_date() => Status::Pending,
            Progress::Pending | Progress::Failed => self.status_slow(position),
        }
    }

    #[cold]
    #[inline(never)]
    fn status_slow(&self, position: u64) -> Status {
        self.status_at(self.progress(position))
    }

    fn status_at(&self, progress: Progress) -> Status {
        match progress {
            Progress::Complete => Status::Complete,
            Progress::Failed => Status::Failed,
            Progress::Pending if self.is_unsubmitted() => Status::NotSubmitted,
            Progress::Pending => Status::Pending,
        }
    }

    /// Whether the driver's word says no more than the timeline, and somebody looks after the rest.
    #[inline]
    fn is_up_to_date(&self) -> bool {
        // Relaxed: whoever is to look after it has until the next poll.
        self.core.word.is_some_and(|word| word.is_at(self.completed()))
            && self.core.minded.load(Ordering::Relaxed)
    }

    /// Where `position` stands, after asking the driver if that is what it takes.
    #[inline]
    pub(crate) fn progress(&self, position: u64) -> Progress {
        let progress = self.core.timeline.progress(position);
        if progress != Progress::Pending
            || (self.core.traits.pushed && !self.core.traits.batches)
            || self.is_up_to_date()
        {
            return progress;
        }
        self.need(position);
        if !self.core.traits.pushed {
            self.backend.poll();
        }
        self.core.timeline.progress(position)
    }

    /// As [`progress`](Self::progress), as part of a look at many positions.
    #[inline]
    pub(crate) fn progress_in(&self, round: Round, position: u64) -> Progress {
        if self.was_asked_in(round) {
            // Asking once does for all; having it submitted does not.
            self.need(position);
            return self.core.timeline.progress(position);
        }
        let progress = self.progress(position);
        // Where somebody else has to submit first, it has to be asked for again.
        let by_others = matches!(self.core.producer, Producer::External(_));
        if progress == Progress::Pending && !by_others {
            // Relaxed: as in `was_asked_in`.
            self.core.asked.store(round.0, Ordering::Relaxed);
        }
        progress
    }

    #[inline]
    fn was_asked_in(&self, round: Round) -> bool {
        // Relaxed: the round is this thread's, and so is its number.
        self.core.asked.load(Ordering::Relaxed) == round.0
    }

    /// Whether `position` is pending, where the timeline alone tells; false is no answer.
    #[inline]
    pub(crate) fn is_just_pending(&self, position: u64) -> bool {
        self.core.tells_all && self.core.timeline.is_pending(position)
    }

    /// Whether `position` is pending, as far as the driver was asked in this round.
    #[inline]
    pub(crate) fn is_pending_in(&self, round: Round, position: u64) -> bool {
        self.was_asked_in(round)
            && self.is_submitted(position)
            && self.core.timeline.progress(position) == Progress::Pending
    }

    /// As [`status`](Self::status), as part of a look at many positions.
    pub(crate) fn status_in(&self, round: Round, position: u64) -> Status {
        self.status_at(self.progress_in(round, position))
    }

    /// As [`progress`](Self::progress), with the failure, and with `NotSubmitted` for foreign work that sits in
    /// somebody's hands (R37).
    pub(crate) fn observe(&self, position: u64) -> Observed {
        self.observed(position, self.progress(position))
    }

    /// As [`observe`](Self::observe), as part of a look at many positions.
    pub(crate) fn observe_in(&self, round: Round, position: u64) -> Observed {
        self.observed(position, self.progress_in(round, position))
    }

    fn observed(&self, position: u64, progress: Progress) -> Observed {
        match progress {
            Progress::Complete => Observed::Complete,
            Progress::Failed => Observed::Failed(self.failure_of(position)),
            Progress::Pending if self.is_unsubmitted() => {
                Observed::Failed(Error::new(ErrorKind::NotSubmitted))
            }
            Progress::Pending => Observed::Pending,
        }
    }

    /// Whether news come without being asked for: then a recording on an idle stream may be complete on the spot.
    #[inline]
    pub(crate) fn completes_at_once(&self) -> bool {
        self.core.traits.pushed
    }

    pub(crate) fn is_unsubmitted(&self) -> bool {
        match &self.core.producer {
            // Acquire: pairs with `External::submitted`.
            Producer::External(submitted) => !submitted.load(Ordering::Acquire),
            Producer::Stream | Producer::Host => false,
        }
    }

    pub(crate) fn failure_of(&self, position: u64) -> Error {
        // A position that was seen to fail has a failure.
        self.core.timeline.failure_of(position).unwrap_or_else(|| Error::new(ErrorKind::Abandoned))
    }

    /// The last handle is gone, and with it whoever would have looked at the lane: what is gathered is submitted (R7), and
    /// whoever is still in the list will be told.
    pub(crate) fn let_go(&self) {
        self.request_flush();
        if !self.core.traits.pushed
            && let Some(position) = self.core.timeline.last_waited_for()
        {
            self.watch(position);
        }
    }

    /// Brings what is known of the lane up to date, if links are in its list, which nobody watches it for: their time may have
    /// come long ago. With no lock held.
    pub(crate) fn look_for_links(&self) {
        let mut last = None;
        self.core.timeline.for_each_waiter(|position, waiter, _| {
            if matches!(waiter, Waiter::Link(_)) {
                last = last.max(Some(position));
            }
        });
        if let Some(last) = last {
            self.progress(last);
        }
    }

    /// An observer has registered for `position`: has it submitted, and its completion reported.
    pub(crate) fn watch(&self, position: u64) {
        self.need(position);
        if !self.core.traits.pushed {
            self.backend.watch(position);
        }
    }
}

impl Lane {
    /// Makes the lane and lets its device know it.
    pub(crate) fn build<B: BackendStream>(
        device: &Arc<DeviceCore>,
        options: &StreamOptions,
        producer: Producer,
        make: impl FnOnce(&Weak<Lane<B>>) -> B,
    ) -> Result<Arc<Self>> {
        Self::build_typed(device, options, producer, make).map(|lane| lane as Arc<Self>)
    }

    /// As [`build`](Self::build), with the driver half's type kept.
    pub(crate) fn build_typed<B: BackendStream>(
        device: &Arc<DeviceCore>,
        options: &StreamOptions,
        producer: Producer,
        make: impl FnOnce(&Weak<Lane<B>>) -> B,
    ) -> Result<Arc<Lane<B>>> {
        let lane: Arc<Lane<B>> = Arc::new_cyclic(|this| {
            let backend = make(this);
            Lane { core: LaneCore::new(device, options, producer, backend.traits(), backend.word()), backend }
        });
        let erased: Arc<Self> = lane.clone();
        lane.core.device.admit(&erased)?;
        Ok(lane)
    }

    /// Records: takes the next position, has it signaled, and points the event at it.
    #[inline]
    pub(crate) fn record(self: &Arc<Self>, slot: &Slot) -> Result<()> {
        while let Some(room) = self.try_record(slot)? {
            self.wait_for_room(room)?;
        }
        Ok(())
    }

    /// As [`record`](Self::record), unless the queue is full: then it says when it has room.
    #[inline]
    pub(crate) fn try_record(self: &Arc<Self>, slot: &Slot) -> Result<Option<Room>> {
        self.try_record_locked(self.core.lock()?, slot)
    }

    /// Records, waiting for the lock and for room no longer than `options`, which have [begun](WaitOptions::begun), say.
    pub(crate) fn record_within(self: &Arc<Self>, slot: &Slot, options: &WaitOptions) -> Result<WaitOutcome> {
        loop {
            let Some(submit) = self.core.lock_until(options.ends())? else {
                return Ok(WaitOutcome::TimedOut);
            };
            let Some(room) = self.try_record_locked(submit, slot)? else { return Ok(WaitOutcome::Complete) };
            if self.wait_for(room, options)? == WaitOutcome::TimedOut {
                return Ok(WaitOutcome::TimedOut);
            }
        }
    }

    fn try_record_locked(
        self: &Arc<Self>,
        mut submit: MutexGuard<'_, Submit>,
        slot: &Slot,
    ) -> Result<Option<Room>> {
        let recorded = self.record_held(&mut submit, slot);
        self.release(submit);
        match recorded {
            Ok(news) => {
                self.announce(news);
                Ok(None)
            }
            Err(Refused::Full(room)) => Ok(Some(room)),
            Err(Refused::Error(error)) => Err(error),
        }
    }

    /// As [`record`](Self::record), under the lock. What comes back goes to [`announce`](Self::announce).
    #[inline]
    pub(crate) fn record_held(self: &Arc<Self>, submit: &mut Submit, slot: &Slot) -> Result<News, Refused> {
        let position = submit.recorded + 1;
        if self.core.timeline.is_special(position) {
            return self.record_special(submit, slot, position);
        }
        match self.backend.signal(position, slot.is_timed()).map_err(Refused::Error)? {
            Signaled::Done(ticks) => {
                submit.recorded = position;
                // Nobody waits for this position yet. If the backend was behind with its news, somebody may wait for
                // earlier ones, and must not be told under the lock.
                let news = self.completed() + 1 < position;
                if !news {
                    self.advance(position);
                }
                match self.core.timeline.progress(position) {
                    // Closed, or failed, this very moment.
                    Progress::Failed => slot.set(self, position, None),
                    Progress::Complete | Progress::Pending => slot.set_done(position, ticks),
                }
                return Ok(News(news.then_some(position)));
            }
            Signaled::Pending(stamp) => {
                submit.recorded = position;
                slot.set(self, position, stamp);
            }
            Signaled::Full(room) => return Err(Refused::Full(room)),
        }
        Ok(News(None))
    }

    /// Tells those whom a recording could not tell under the lock.
    #[inline]
    pub(crate) fn announce(&self, news: News) {
        if let News(Some(position)) = news {
            self.advance(position);
        }
    }

    /// A failed stream takes recordings, so that whoever observes them learns of the failure; a closed one does not, nor one
    /// that has come to its last position.
    #[cold]
    fn record_special(
        self: &Arc<Self>,
        submit: &mut Submit,
        slot: &Slot,
        position: u64,
    ) -> Result<News, Refused> {
        if self.core.device.is_closed() {
            return Err(Refused::Error(Error::new(ErrorKind::Closed)));
        }
        if position > timeline::LAST {
            let text = "the stream has no positions left; go on with a new one";
            return Err(Refused::Error(Error::with_text(ErrorKind::Resources, text)));
        }
        submit.recorded = position;
        slot.set(self, position, None);
        Ok(News(None))
    }

    /// Waits until the queue takes more, or says that it would have to (R5).
    pub(crate) fn wait_for_room(self: &Arc<Self>, room: Room) -> Result<()> {
        match self.core.when_full {
            WhenFull::WouldBlock => Err(Error::new(ErrorKind::WouldBlock)),
            WhenFull::Block => self.wait_for(room, &WaitOptions::new()).map(drop),
        }
    }

    /// Waits until there is room. A failure makes room as well: the next call meets it.
    pub(crate) fn wait_for(self: &Arc<Self>, room: Room, options: &WaitOptions) -> Result<WaitOutcome> {
        let target = Target { lane: self.clone(), position: room.after };
        match wait_one(&target, options) {
            Err(error) if error.kind() != ErrorKind::WouldDeadlock => Ok(WaitOutcome::Complete),
            outcome => outcome,
        }
    }

    /// Whether the work of a failed position is over. It is not for certain where the driver was never told of the
    /// failure, nor where the device was closed, nor where a producer went away without a word.
    pub(crate) fn is_done_with_failed(&self) -> bool {
        let of_stream = matches!(self.core.producer, Producer::Stream);
        let abandoned =
            || self.core.timeline.failure().is_some_and(|error| error.kind() == ErrorKind::Abandoned);
        // Acquire: pairs with `runs_on`.
        let runs_on = self.core.runs_on.load(Ordering::Acquire);
        !(runs_on || self.core.device.is_closed() || (!of_stream && abandoned()))
    }

    /// Holds work that is submitted from now on back until `source` is complete.
    pub(crate) fn wait(self: &Arc<Self>, source: &Target) -> Result<StreamWait> {
        if let Some(nothing) = self.nothing_to_wait_for(source)? {
            return Ok(nothing);
        }
        // The source's lock before ours is taken, never both.
        source.lane.need(source.position);
        let mut submit = self.core.lock()?;
        let inserted = self.insert_wait(&mut submit, source);
        self.release(submit);
        self.inserted(source, inserted?)
    }

    /// The cases in which a wait leaves no trace in the stream.
    pub(crate) fn nothing_to_wait_for(self: &Arc<Self>, source: &Target) -> Result<Option<StreamWait>> {
        if self.core.device.is_closed() {
            return Err(Error::new(ErrorKind::Closed));
        }
        match source.lane.observe(source.position) {
            Observed::Complete => Ok(Some(StreamWait::Nothing)),
            Observed::Failed(error) if error.kind() == ErrorKind::NotSubmitted => Err(error),
            // In order behind itself already.
            Observed::Pending if Arc::ptr_eq(self, &source.lane) => Ok(Some(StreamWait::Nothing)),
            Observed::Failed(_) | Observed::Pending => Ok(None),
        }
    }

    /// Inserts the wait, under the lock. Who else has to know comes in [`inserted`](Self::inserted).
    pub(crate) fn insert_wait(self: &Arc<Self>, submit: &mut Submit, source: &Target) -> Result<Inserted> {
        let from = submit.recorded + 1;
        if self.is_failed() {
            return Ok(Inserted::Carried);
        }
        match self.backend.wait(&Source { lane: &source.lane, position: source.position })? {
            Waited::Carried => Ok(Inserted::Carried),
            Waited::Native => Ok(Inserted::Linked { from }),
            Waited::Together => Ok(Inserted::Together { from }),
            Waited::Unsupported => {
                self.mark(submit);
                Ok(Inserted::Gated { from: submit.recorded + 1, gate: self.backend.gate()? })
            }
        }
    }

    /// Has failure relayed from a source whose driver, if it breaks, breaks for this lane as well.
    fn link(self: &Arc<Self>, source: &Target, from: u64) {
        let lane = &source.lane;
        let link = Link { source: lane.id(), lane: Arc::downgrade(self), from };
        match lane.core.timeline.register(source.position, link, coarse_nanos()) {
            Registered::Reached(_) => {}
            Registered::Failed(link, error) => relay::run(Arc::new(link), Some(&error)),
            // Whoever has a handle looks at the source now and then: with each wait for it, at the latest when it lets go. Acquire:
            // pairs with that; if it is still to come, it finds this entry, by the list's lock.
            Registered::Parked(_) => {
                if lane.core.handles.load(Ordering::Acquire) == 0 {
                    lane.watch(source.position);
                }
            }
        }
    }

    /// Has failure, and the opening of a gate, relayed from the source to this lane. With no submit lock held, but
    /// for one that the user holds.
    pub(crate) fn inserted(self: &Arc<Self>, source: &Target, inserted: Inserted) -> Result<StreamWait> {
        let (from, gate) = match inserted {
            Inserted::Carried => return Ok(StreamWait::Native),
            Inserted::Together { from } => {
                self.link(source, from);
                return Ok(StreamWait::Native);
            }
            Inserted::Linked { from } => (from, None),
            Inserted::Gated { from, gate } => (from, Some(gate)),
        };
        let gated = gate.is_some();
        let relay =
            Arc::new(GateRelay { source: Arc::downgrade(&source.lane), lane: self.clone(), from, gate });
        if gated {
            let mut gates = lock(&self.core.gates);
            // Those that were opened are gone; a look at all of them now and then keeps this linear.
            if gates.len() == gates.capacity() {
                gates.retain(|gate| gate.strong_count() > 0);
            }
            gates.push(Arc::downgrade(&relay));
        }
        match source.lane.core.timeline.register(source.position, relay, coarse_nanos()) {
            Registered::Parked(_) => source.lane.watch(source.position),
            Registered::Reached(relay) => relay::run(relay, None),
            Registered::Failed(relay, error) => relay::run(relay, Some(&error)),
        }
        if self.core.device.is_closed() {
            // `close` may be between its flag and us: marked before it is let go, whoever of the two opens it.
            self.fail_closed();
            self.backend.abandon();
            self.open_gates();
        }
        Ok(if gated { StreamWait::Gated } else { StreamWait::Native })
    }

    /// Has this lane's positions behind a wait fail with what was waited for.
    fn fail_with(&self, source: Option<Arc<Self>>, from: u64, error: &Error) {
        self.runs_on();
        let error = source.map_or_else(|| error.clone(), |source| error.passed_on(&source));
        self.fail(from, error);
    }

    /// The beginning of the end, as [`Device::close`](crate::Device::close) wants it. Then the backend abandons what it
    /// has, and only then do gates open: what they hold back in its own queue is not to be submitted any more.
    pub(crate) fn fail_closed(&self) {
        self.fail(self.completed() + 1, Error::new(ErrorKind::Closed));
    }

    pub(crate) fn open_gates(&self) {
        let gates = std::mem::take(&mut *lock(&self.core.gates));
        for gate in gates.iter().filter_map(Weak::upgrade) {
            gate.open();
        }
    }

    /// Has a lane that is still new go on behind `position`, as if all up to it had been recorded and done.
    #[cfg(all(test, feature = "cpu", not(gpu_events_loom)))]
    pub(crate) fn skip_to(&self, position: u64) {
        lock(&self.core.submit).recorded = position;
        self.submitted(position);
        self.advance(position);
    }

    /// The backend's half, if it is of this type.
    pub(crate) fn downcast<B: BackendStream>(&self) -> Option<&B> {
        (&self.backend as &dyn std::any::Any).downcast_ref()
    }
}

/// A position to advance to once the submit lock is given back.
#[derive(Debug)]
#[must_use]
pub(crate) struct News(Option<u64>);

/// Why nothing was recorded.
#[derive(Debug)]
pub(crate) enum Refused {
    Full(Room),
    Error(Error),
}

/// What a wait put into the stream.
#[derive(Debug)]
pub(crate) enum Inserted {
    Carried,
    Linked { from: u64 },
    Together { from: u64 },
    Gated { from: u64, gate: Arc<dyn Gate> },
}

/// Passes a source's failure on to a lane whose driver waits for it (R26).
///
/// It may be in the source's list for long after its position was reached, until somebody looks at the source: so it keeps
/// nothing alive. A lane that is gone has nobody who would want to know.
#[derive(Debug)]
pub(crate) struct Link {
    /// Its number: looked for only where it is named.
    source: u64,
    lane: Weak<Lane>,
    from: u64,
}

impl Link {
    /// Who waits. Not to be let go of under a lock: it may be the last reference.
    pub(crate) fn dependent(&self) -> Option<Arc<Lane>> {
        self.lane.upgrade()
    }
}

impl Relay for Link {
    fn fail(&self, error: &Error) {
        let Some(lane) = self.dependent() else { return };
        // A lane that has failed by itself, as with a context of both, runs on no more than it says (R38).
        let first = self.from.max(lane.completed() + 1);
        if lane.core.timeline.failure_of(first).is_none() {
            lane.fail_with(device::lane(self.source), self.from, error);
        }
    }

    fn release(self: Arc<Self>) {}

    fn dependent(&self) -> Option<u64> {
        self.dependent().map(|lane| lane.id())
    }
}

/// Passes a source's failure on to a lane that waits for it, and then opens the gate if the wait was one (R26).
#[derive(Debug)]
struct GateRelay {
    /// Not kept alive: it is what keeps this.
    source: Weak<Lane>,
    lane: Arc<Lane>,
    from: u64,
    gate: Option<Arc<dyn Gate>>,
}

impl GateRelay {
    fn open(&self) {
        if let Some(gate) = &self.gate {
            gate.open();
        }
    }
}

impl Relay for GateRelay {
    fn fail(&self, error: &Error) {
        self.lane.fail_with(self.source.upgrade(), self.from, error);
    }

    fn release(self: Arc<Self>) {
        self.open();
    }

    fn dependent(&self) -> Option<u64> {
        Some(self.lane.id())
    }
}

impl<B: ?Sized + BackendStream> fmt::Display for Lane<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.core, f)
    }
}

impl<B: ?Sized + BackendStream> fmt::Debug for Lane<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane")
            .field("name", &format_args!("{}", self.core))
            .field("completed", &self.completed())
            .field("failed", &self.is_failed())
            .finish_non_exhaustive()
    }
}

impl<B: ?Sized + BackendStream> Drop for Lane<B> {
    fn drop(&mut self) {
        if crate::fork::happened() {
            return;
        }
        self.core.device.dismiss(self.core.id);
        // Nobody can signal any more. Who still waits, a callback say, must not wait for ever.
        if self.core.timeline.has_waiters() {
            self.fail(self.completed() + 1, Error::new(ErrorKind::Abandoned));
        }
    }
}
