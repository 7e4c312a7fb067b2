//! Events: handles on a point of a stream's timeline.

use crate::{
    backend::Stamp,
    callback::{Callback, CallbackCell},
    device::{DeviceCore, DeviceId},
    error::{Error, ErrorKind, Result},
    fork,
    future::Completion,
    lane::{Lane, Observed, Round},
    pool::PoolCore,
    primitive::{AtomicU64, Mutex, OnceLock, Ordering, lock},
    stream::Stream,
    time::{Elapsed, Timestamp, coarse_nanos},
    timeline,
    wait::{Target, WaitOptions, WaitOutcome, wait_one},
};
use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

/// Names an event, for as long as the process lives: no id is ever handed out twice, in no pool and no table (R33).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventId(u64);

impl EventId {
    /// The number, to pass through an interface that has no types.
    pub fn get(self) -> u64 {
        self.0
    }

    /// The id with this number. A number that is no event's makes an id that is none.
    pub fn from_raw(raw: u64) -> Self {
        Self(raw)
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where an event stands. Only ever goes on, except by [`Event::record`] and [`Event::reset`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Status {
    /// Not recorded since it was acquired or reset (R4).
    Unrecorded,
    /// An external recording whose work is in somebody's hands still (R37).
    NotSubmitted,
    /// Recorded; work before it is not done.
    Pending,
    /// All work before it is done, and its memory effects are visible (R8).
    Complete,
    /// It will never complete; [`Event::error`] says why (R26).
    Failed,
}

// The state word: a position above a tag.
const TAG: u64 = 0b11;
const SHIFT: u32 = 2;
const _: () = assert!(timeline::LAST << SHIFT >> SHIFT == timeline::LAST, "a state holds every position");
/// No recording. The whole word is zero.
const UNRECORDED: u64 = 0b00;
/// On the lane at [`Slot::home`], which is the first one that this handle met and stays.
const HOME: u64 = 0b01;
/// Known to be complete: what a lane says can't change any more, so nobody needs to be asked.
const DONE: u64 = 0b10;
/// On the lane in `extra`.
const AWAY: u64 = 0b11;

/// What a pooled event consists of.
///
/// An untimed recording on the event's first stream, nearly every one, is one store to `state`. Everything that does
/// not fit there is behind the lock of `extra`: recordings on further streams, times, and the label.
// In this order: what asking touches comes first.
#[repr(C)]
pub(crate) struct Slot {
    state: AtomicU64,
    /// The lane that it is at home on, if that was known while the handle was nobody else's yet ...
    born_on: Option<Arc<Lane>>,
    /// ... and otherwise the first that it was recorded on.
    found: OnceLock<Arc<Lane>>,
    extra: Mutex<Option<Box<Extra>>>,
    pool: Arc<PoolCore>,
    id: u64,
    timed: bool,
}

#[derive(Default)]
struct Extra {
    /// The lane of an `AWAY` recording.
    lane: Option<Arc<Lane>>,
    /// The time of the current recording, if the event is timed.
    time: Time,
    label: Option<Arc<str>>,
}

/// Where the time of a recording is.
#[derive(Clone, Default)]
enum Time {
    #[default]
    NotMeasured,
    Ticks(u64),
    Stamp(Arc<dyn Stamp>),
}

impl Slot {
    pub(crate) fn new(pool: Arc<PoolCore>) -> Self {
        Self {
            state: AtomicU64::new(UNRECORDED),
            born_on: None,
            found: OnceLock::new(),
            extra: Mutex::new(None),
            pool,
            id: 0,
            timed: false,
        }
    }

    /// Begins a new life.
    #[inline]
    pub(crate) fn begin(&mut self, id: u64, timed: bool) {
        self.id = id;
        self.timed = timed;
    }

    /// Ends a life: whoever gets the slot next finds it unrecorded (R30), and no stream is kept alive by it.
    #[inline]
    pub(crate) fn end(&mut self) {
        // Relaxed: ours alone now; the next owner is this thread, or gets it through the depot's lock.
        self.state.store(UNRECORDED, Ordering::Relaxed);
        self.born_on = None;
        self.found.take();
        self.end_extra();
    }

    #[cfg(not(gpu_events_loom))]
    #[inline]
    fn end_extra(&mut self) {
        if let Some(extra) = self.extra.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner) {
            // The box stays: the next life of a timed event needs it again.
            **extra = Extra::default();
        }
    }

    #[cfg(gpu_events_loom)]
    fn end_extra(&mut self) {
        *lock(&self.extra) = None;
    }

    pub(crate) fn pool(&self) -> &Arc<PoolCore> {
        &self.pool
    }

    #[inline]
    pub(crate) fn is_timed(&self) -> bool {
        self.timed
    }

    /// Makes `lane` the event's home while nobody else has the handle, which spares the first recording some care.
    #[inline]
    fn settle_on(&mut self, lane: &Arc<Lane>) {
        // Where a recording may be complete on the spot it needs no lane.
        if !lane.completes_at_once() {
            self.born_on = Some(lane.clone());
        }
    }

    #[inline]
    fn home(&self) -> Option<&Arc<Lane>> {
        self.born_on.as_ref().or_else(|| self.found.get())
    }

    /// The event's home, which `lane` becomes if it has none yet.
    #[inline]
    fn home_or(&self, lane: &Arc<Lane>) -> &Arc<Lane> {
        self.born_on.as_ref().unwrap_or_else(|| self.found.get_or_init(|| lane.clone()))
    }

    /// Points the event at `position` of `lane`. Under the lane's submit lock.
    #[inline]
    pub(crate) fn set(&self, lane: &Arc<Lane>, position: u64, stamp: Option<Arc<dyn Stamp>>) {
        // Relaxed: concurrent recordings may come in either order; the lock decides between those that take it.
        let was_away = self.state.load(Ordering::Relaxed) & TAG == AWAY;
        if !self.timed && !was_away && Arc::ptr_eq(self.home_or(lane), lane) {
            // Release: whoever reads the state finds the lane, and what was submitted before the recording.
            self.state.store(position << SHIFT | HOME, Ordering::Release);
        } else {
            self.set_slow(lane, position, stamp);
        }
    }

    #[cold]
    #[inline(never)]
    fn set_slow(&self, lane: &Arc<Lane>, position: u64, stamp: Option<Arc<dyn Stamp>>) {
        let old;
        {
            let mut extra = lock(&self.extra);
            let extra = extra.get_or_insert_default();
            let time = stamp.map_or(Time::NotMeasured, Time::Stamp);
            if Arc::ptr_eq(self.home_or(lane), lane) {
                old = (extra.lane.take(), std::mem::replace(&mut extra.time, time));
                // Release: as in `set`.
                self.state.store(position << SHIFT | HOME, Ordering::Release);
            } else {
                old = (extra.lane.replace(lane.clone()), std::mem::replace(&mut extra.time, time));
                self.state.store(position << SHIFT | AWAY, Ordering::Release);
            }
        }
        // The last reference to a lane or a query slot may go here: not under a lock.
        drop(old);
    }

    /// Points the event at a recording that is complete already.
    #[inline]
    pub(crate) fn set_done(&self, position: u64, ticks: Option<u64>) {
        // Relaxed: as in `set`.
        if self.timed || self.state.load(Ordering::Relaxed) & TAG == AWAY {
            self.set_done_slow(position, ticks);
        } else {
            // Release: whoever reads the state sees what the work before it wrote.
            self.state.store(position << SHIFT | DONE, Ordering::Release);
        }
    }

    #[inline]
    fn set_done_slow(&self, position: u64, ticks: Option<u64>) {
        let old;
        {
            let mut extra = lock(&self.extra);
            let extra = extra.get_or_insert_default();
            let time = ticks.map_or(Time::NotMeasured, Time::Ticks);
            old = (extra.lane.take(), std::mem::replace(&mut extra.time, time));
            // Release: as above. Under the lock, so that state and time belong to one recording for whoever reads them.
            self.state.store(position << SHIFT | DONE, Ordering::Release);
        }
        drop(old);
    }

    /// Forgets the recording.
    pub(crate) fn reset(&self) {
        let old;
        {
            let mut extra = lock(&self.extra);
            // Release: a later record on another thread that is told of the reset comes after it.
            self.state.store(UNRECORDED, Ordering::Release);
            old = extra.as_mut().map(|extra| (extra.lane.take(), std::mem::take(&mut extra.time)));
        }
        drop(old);
    }

    /// Where the event stands, asking the driver if that is what it takes.
    #[inline]
    fn status(&self) -> Status {
        // Acquire: pairs with `set` and `set_done`.
        let state = self.state.load(Ordering::Acquire);
        if state & TAG == DONE {
            return Status::Complete;
        }
        // Here, because the rest needs registers, which it saves first: that was half of what "pending" took.
        if state & TAG == HOME
            && let Some(lane) = self.home()
            && lane.is_just_pending(state >> SHIFT)
        {
            return Status::Pending;
        }
        self.status_of(state)
    }

    /// As [`status`](Self::status), where the state alone does not tell.
    #[inline(never)]
    fn status_of(&self, state: u64) -> Status {
        if state & TAG == HOME
            && let Some(lane) = self.home()
        {
            let status = lane.status(state >> SHIFT);
            if status == Status::Complete {
                self.know(state);
            }
            return status;
        }
        if state == UNRECORDED { Status::Unrecorded } else { self.status_away() }
    }

    /// As [`status`](Self::status), as part of a look at many events.
    #[inline]
    fn status_in(&self, round: Round) -> Status {
        // Acquire: as in `status`.
        let state = self.state.load(Ordering::Acquire);
        if state & TAG == HOME
            && let Some(lane) = self.home()
            && lane.is_pending_in(round, state >> SHIFT)
        {
            return Status::Pending;
        }
        self.status_in_slow(round, state)
    }

    #[inline(never)]
    fn status_in_slow(&self, round: Round, state: u64) -> Status {
        if state & TAG == HOME
            && let Some(lane) = self.home()
        {
            let status = lane.status_in(round, state >> SHIFT);
            if status == Status::Complete {
                self.know(state);
            }
            return status;
        }
        self.status()
    }

    #[cold]
    #[inline(never)]
    fn status_away(&self) -> Status {
        match self.point() {
            Point::Unrecorded => Status::Unrecorded,
            Point::Done => Status::Complete,
            Point::At(target) => target.lane.status(target.position),
        }
    }

    /// Remembers that the `HOME` recording in `state` is complete, unless there is another by now.
    #[inline]
    fn know(&self, state: u64) {
        // `home` never changes in a life, so an equal word is the same recording. AcqRel: we pass on what we acquired
        // from the lane's timeline; on failure somebody recorded anew, and there is nothing to remember.
        let _ = self.state.compare_exchange(state, state & !TAG | DONE, Ordering::AcqRel, Ordering::Relaxed);
    }

    /// The current recording, to keep (R2).
    pub(crate) fn point(&self) -> Point {
        loop {
            // Acquire: pairs with `set` and `set_done`.
            let state = self.state.load(Ordering::Acquire);
            let position = state >> SHIFT;
            match state & TAG {
                UNRECORDED => return Point::Unrecorded,
                DONE => return Point::Done,
                HOME => {
                    if let Some(lane) = self.home() {
                        return Point::At(Target { lane: lane.clone(), position });
                    }
                }
                _ => {
                    let extra = lock(&self.extra);
                    // Relaxed: `AWAY` is stored under the lock that we hold.
                    if self.state.load(Ordering::Relaxed) == state
                        && let Some(lane) = extra.as_ref().and_then(|extra| extra.lane.clone())
                    {
                        return Point::At(Target { lane, position });
                    }
                    // Recorded anew in between: look again.
                }
            }
        }
    }

    /// Remembers the time that `stamp` told, unless there is another recording by now, and with it that it is complete: who asks
    /// again asks nobody else.
    #[cold]
    fn remember_time(&self, stamp: Arc<dyn Stamp>, ticks: u64) {
        let mut extra = lock(&self.extra);
        let Some(time) = extra.as_mut().map(|extra| &mut extra.time) else { return };
        // No two recordings have one stamp, and we have a reference to it.
        if matches!(time, Time::Stamp(current) if Arc::ptr_eq(current, &stamp)) {
            let old = std::mem::replace(time, Time::Ticks(ticks));
            // Relaxed: a timed event's state is stored under the lock that we hold, but for `know`.
            let state = self.state.load(Ordering::Relaxed);
            if state & TAG == HOME {
                self.know(state);
            }
            drop(extra);
            // The last reference to a query slot may go here: not under a lock.
            drop((old, stamp));
        }
    }

    /// The current recording of a timed event and where its time is, both of one moment.
    fn timed_point(&self) -> (Point, Time) {
        let extra = lock(&self.extra);
        let time = extra.as_ref().map_or(Time::NotMeasured, |extra| extra.time.clone());
        // A timed event's state is stored under the lock that we hold (but for `know`, which changes no recording).
        // Acquire: as in `point`.
        let state = self.state.load(Ordering::Acquire);
        let position = state >> SHIFT;
        let lane = match state & TAG {
            UNRECORDED => return (Point::Unrecorded, time),
            DONE => return (Point::Done, time),
            HOME => self.home().cloned(),
            _ => extra.as_ref().and_then(|extra| extra.lane.clone()),
        };
        (lane.map_or(Point::Unrecorded, |lane| Point::At(Target { lane, position })), time)
    }
}

/// Where the time of one recording is, whatever becomes of its event (R2).
#[cfg(all(feature = "trace", not(gpu_events_loom)))]
pub(crate) struct TimeOfRecording {
    time: Time,
    clock: crate::time::Clock,
}

#[cfg(all(feature = "trace", not(gpu_events_loom)))]
impl TimeOfRecording {
    /// The time, once the recording is complete; `None` if nobody can tell.
    pub(crate) fn read(&self) -> Option<Timestamp> {
        let ticks = match &self.time {
            Time::NotMeasured => None,
            Time::Ticks(ticks) => Some(*ticks),
            Time::Stamp(stamp) => stamp.ticks().ok(),
        };
        ticks.map(|ticks| self.clock.at(ticks))
    }
}

/// An event's current recording, taken out of it: what waits, callbacks and futures bind to (R2).
#[derive(Debug)]
pub(crate) enum Point {
    Unrecorded,
    Done,
    At(Target),
}

/// Where each of many events stands, in their order: what [`Event::status`] says of each. A driver is asked once for each
/// stream, however many of the events are on it, which is what makes this cheaper where asking is dear.
///
/// ```
/// use gpu_events::{Device, Status, statuses};
///
/// let device = Device::open("cpu")?;
/// let (pending, _signal) = device.host_event()?;
/// let done = device.create_stream()?.record()?;
/// assert_eq!(statuses([&pending, &done]), [Status::Pending, Status::Complete]);
/// # Ok::<(), gpu_events::Error>(())
/// ```
pub fn statuses<'a>(events: impl IntoIterator<Item = &'a Event>) -> Vec<Status> {
    let events = events.into_iter();
    if fork::happened() {
        return events.map(Event::status).collect();
    }
    let round = Round::begin();
    events.map(|event| event.slot().status_in(round)).collect()
}

/// A reusable marker of a point in a stream of work.
///
/// Taken from an [`EventPool`](crate::EventPool), or from a stream by [`Stream::record`], and given back when it is
/// dropped, pending or not (R31). Recording points it at the stream's next position; recording again points it at a
/// newer one and changes nothing for those who wait already (R1–R3).
///
/// `Send + Sync`, and every method takes `&self`: concurrent calls are as if made one after the other (R34). To share
/// one, put it into an `Arc`; for an id that crosses a language border, see [`EventTable`](crate::EventTable).
///
/// ```
/// use gpu_events::{Device, Status};
///
/// let device = Device::open("cpu")?;
/// let stream = device.create_stream()?;
/// let event = device.pool().acquire();
/// assert_eq!(event.status(), Status::Unrecorded);
/// stream.cpu()?.enqueue(|| println!("work"))?;
/// event.record(&stream)?;
/// event.synchronize()?;
/// assert!(event.is_complete()?);
/// # Ok::<(), gpu_events::Error>(())
/// ```
pub struct Event {
    /// Taken by `drop` alone.
    slot: Option<Box<Slot>>,
}

impl Event {
    #[inline]
    pub(crate) fn new(slot: Box<Slot>) -> Self {
        Self { slot: Some(slot) }
    }

    #[inline]
    pub(crate) fn slot(&self) -> &Slot {
        match &self.slot {
            Some(slot) => slot,
            None => unreachable!("only `drop` takes the slot"),
        }
    }

    pub(crate) fn point(&self) -> Point {
        self.slot().point()
    }

    /// The position of the current recording, complete or not.
    #[cfg(all(feature = "trace", not(gpu_events_loom)))]
    pub(crate) fn position(&self) -> Option<u64> {
        // Relaxed: for whoever has just recorded it.
        let state = self.slot().state.load(Ordering::Relaxed);
        (state != UNRECORDED).then_some(state >> SHIFT)
    }

    /// Where the time of this very recording is, if it is timed and still the current one.
    #[cfg(all(feature = "trace", not(gpu_events_loom)))]
    pub(crate) fn time_of(&self, recording: &Target) -> Option<TimeOfRecording> {
        if !self.is_timed() {
            return None;
        }
        let (point, time) = self.slot().timed_point();
        let is_current = match point {
            Point::Unrecorded => false,
            Point::Done => self.position() == Some(recording.position),
            Point::At(target) => {
                Arc::ptr_eq(&target.lane, &recording.lane) && target.position == recording.position
            }
        };
        is_current.then(|| TimeOfRecording { time, clock: self.slot().pool.device().info().clock })
    }

    /// Is about to be recorded on `lane`, which is of its device, for the first time.
    #[inline]
    pub(crate) fn settle_on(&mut self, lane: &Arc<Lane>) {
        if let Some(slot) = &mut self.slot {
            slot.settle_on(lane);
        }
    }

    /// The event's number. The same object in the pool's next hands has another.
    pub fn id(&self) -> EventId {
        EventId(self.slot().id)
    }

    /// Takes another event's place, under its id.
    pub(crate) fn assume_id(&mut self, id: EventId) {
        if let Some(slot) = &mut self.slot {
            slot.id = id.0;
        }
    }

    /// Whether its recordings are timed.
    pub fn is_timed(&self) -> bool {
        self.slot().timed
    }

    /// The device whose streams it can be recorded on.
    pub fn device_id(&self) -> DeviceId {
        self.slot().pool.device().handle_id()
    }

    /// The label, if it was given one since it was acquired.
    pub fn label(&self) -> Option<Arc<str>> {
        if fork::happened() {
            return None;
        }
        lock(&self.slot().extra).as_ref()?.label.clone()
    }

    /// Names the event, for whoever prints it.
    pub fn set_label(&self, label: &str) {
        if fork::happened() {
            return;
        }
        let label = Some(Arc::from(label));
        let old = std::mem::replace(&mut lock(&self.slot().extra).get_or_insert_default().label, label);
        drop(old);
    }

    /// Records the event on `stream`: it now stands for all work submitted to the stream before.
    ///
    /// Legal in any state, also while the earlier recording is pending (R3), and from any thread. Does not block,
    /// except for room in a full queue ([`WhenFull`](crate::WhenFull)). Recording on a failed stream succeeds, and the
    /// event has failed at once (R26).
    ///
    /// # Errors
    /// [`ErrorKind::WrongDevice`]; [`ErrorKind::WouldBlock`]; [`ErrorKind::WouldDeadlock`] if this thread holds the
    /// stream's lock (record through the [`StreamGuard`](crate::StreamGuard) then); [`ErrorKind::Closed`];
    /// [`ErrorKind::Resources`] behind the last of a stream's 2⁶² − 1 positions; [`ErrorKind::Forked`]; what the driver
    /// refused. The event is as it was before (R29).
    #[inline]
    pub fn record(&self, stream: &Stream) -> Result<()> {
        fork::check()?;
        let lane = stream.lane();
        self.check_device(lane)?;
        lane.record(self.slot())
    }

    /// As [`record`](Self::record), but waits for room in a full queue, and for who holds the stream, no longer than `options`
    /// say, whatever the stream's [`WhenFull`](crate::WhenFull). `TimedOut`: nothing was recorded.
    ///
    /// # Errors
    /// As [`record`](Self::record), but never [`ErrorKind::WouldBlock`].
    pub fn record_with(&self, stream: &Stream, options: &WaitOptions) -> Result<WaitOutcome> {
        fork::check()?;
        let lane = stream.lane();
        self.check_device(lane)?;
        lane.record_within(self.slot(), &options.begun())
    }

    #[inline]
    pub(crate) fn check_device(&self, lane: &Lane) -> Result<()> {
        if self.slot().pool.device().id() == lane.core.device.id() {
            Ok(())
        } else {
            Err(Error::new(ErrorKind::WrongDevice))
        }
    }

    /// Where the event stands. Never blocks; asks the driver only if nobody knows yet, and consumes nothing (R11).
    #[inline]
    pub fn status(&self) -> Status {
        if fork::happened() {
            return Status::Failed;
        }
        self.slot().status()
    }

    /// Whether the recording is complete: the seed's `query`. False for an unrecorded event (R4).
    ///
    /// # Errors
    /// The recording's failure: an error is never "not yet", and "not yet" is never an error (R27).
    /// [`ErrorKind::NotSubmitted`], [`ErrorKind::Forked`].
    #[inline]
    pub fn is_complete(&self) -> Result<bool> {
        loop {
            match self.status() {
                Status::Complete => return Ok(true),
                Status::Pending | Status::Unrecorded => return Ok(false),
                Status::Failed | Status::NotSubmitted => match self.error() {
                    Some(error) => return Err(error),
                    // Recorded anew in between.
                    None => continue,
                },
            }
        }
    }

    /// Why the recording failed, if it did.
    pub fn error(&self) -> Option<Error> {
        if let Err(forked) = fork::check() {
            return Some(forked);
        }
        match self.point() {
            Point::Unrecorded | Point::Done => None,
            Point::At(target) => match target.lane.observe(target.position) {
                Observed::Failed(error) => Some(error),
                Observed::Complete | Observed::Pending => None,
            },
        }
    }

    /// Blocks until the recording is complete. At once for an unrecorded event (R4).
    ///
    /// Binds to the recording current now (R2). Does not wait for callbacks (R15).
    ///
    /// # Errors
    /// The recording's failure; [`ErrorKind::NotSubmitted`]; [`ErrorKind::WouldDeadlock`] if this thread holds the
    /// lock of the stream (R7); [`ErrorKind::Forked`].
    pub fn synchronize(&self) -> Result<()> {
        self.wait_with(&WaitOptions::new()).map(drop)
    }

    /// Blocks until the recording is complete, for at most so long. Zero only asks (R12).
    ///
    /// # Errors
    /// As [`synchronize`](Self::synchronize).
    pub fn wait_timeout(&self, timeout: Duration) -> Result<WaitOutcome> {
        self.wait_with(&WaitOptions::new().timeout(timeout))
    }

    /// Blocks until the recording is complete, until `deadline` at the latest.
    ///
    /// # Errors
    /// As [`synchronize`](Self::synchronize).
    pub fn wait_deadline(&self, deadline: Instant) -> Result<WaitOutcome> {
        self.wait_with(&WaitOptions::new().deadline(deadline))
    }

    /// Blocks until the recording is complete, for as long and in the way that `options` say (R13).
    ///
    /// # Errors
    /// As [`synchronize`](Self::synchronize).
    pub fn wait_with(&self, options: &WaitOptions) -> Result<WaitOutcome> {
        fork::check()?;
        match self.point() {
            Point::Unrecorded | Point::Done => Ok(WaitOutcome::Complete),
            Point::At(target) => wait_one(&target, options),
        }
    }

    /// Has `callback` run once the recording is complete or has failed, on the callback thread of the event's device
    /// (R16, R17). At once for an unrecorded or complete event, on that thread all the same.
    ///
    /// It runs exactly once, also when the device is closed, and may call anything. Callbacks of one stream run in the
    /// order of their recordings; a failure is not held back by recordings before it that are still running. One that
    /// blocks delays only other callbacks of its device. Dropping the [`Callback`] leaves it registered.
    ///
    /// # Errors
    /// [`ErrorKind::NotSubmitted`]; [`ErrorKind::Resources`] if the thread can't be started; [`ErrorKind::Forked`].
    pub fn on_complete(&self, callback: impl FnOnce(Result<()>) + Send + 'static) -> Result<Callback> {
        self.on_complete_in(self.slot().pool.device(), callback)
    }

    pub(crate) fn on_complete_in(
        &self,
        device: &Arc<DeviceCore>,
        callback: impl FnOnce(Result<()>) + Send + 'static,
    ) -> Result<Callback> {
        fork::check()?;
        let point = self.point();
        if let Point::At(target) = &point
            && target.lane.is_unsubmitted()
            && target.lane.completed() < target.position
        {
            // Unless it was abandoned meanwhile, which is a failure like any other.
            if let Observed::Failed(error) = target.lane.observe(target.position)
                && error.kind() == ErrorKind::NotSubmitted
            {
                return Err(error);
            }
        }
        let cell = CallbackCell::new(device, Box::new(callback))?;
        let place = match point {
            Point::Unrecorded | Point::Done => {
                // An advance may just be on its way to deliver those of earlier positions, and they come first.
                if let Some(home) = self.slot().home() {
                    home.core.timeline.drain();
                }
                cell.clone().deliver(None);
                None
            }
            Point::At(target) => {
                let ticket =
                    target.lane.core.timeline.register_callback(target.position, &cell, coarse_nanos());
                if ticket.is_some() {
                    target.lane.watch(target.position);
                }
                ticket.map(|ticket| (target.lane, ticket))
            }
        };
        Ok(Callback::new(cell, place))
    }

    /// A future of the current recording's completion, for any executor (R19). Dropping it cancels it (R18).
    ///
    /// ```
    /// use gpu_events::Device;
    ///
    /// async fn run(device: &Device) -> gpu_events::Result<()> {
    ///     let stream = device.create_stream()?;
    ///     stream.cpu()?.enqueue(|| println!("work"))?;
    ///     let event = stream.record()?;
    ///     event.completion().await?; // or just: (&event).await?
    ///     Ok(())
    /// }
    /// # let device = Device::open("cpu")?;
    /// # futures_lite::future::block_on(run(&device))?;
    /// # Ok::<(), gpu_events::Error>(())
    /// ```
    pub fn completion(&self) -> Completion {
        match fork::check() {
            Err(forked) => Completion::ready(Err(forked)),
            Ok(()) => Completion::new(self.point()),
        }
    }

    /// When the recording completed, on its device's own clock (R20).
    ///
    /// # Errors
    /// [`ErrorKind::Untimed`], [`ErrorKind::Unrecorded`], the recording's failure, [`ErrorKind::NotComplete`],
    /// [`ErrorKind::NotMeasured`], in this order; [`ErrorKind::Forked`].
    pub fn completion_time(&self) -> Result<Timestamp> {
        fork::check()?;
        if !self.is_timed() {
            return Err(Error::new(ErrorKind::Untimed));
        }
        self.read_time(self.slot().timed_point())
    }

    fn read_time(&self, (point, time): (Point, Time)) -> Result<Timestamp> {
        match point {
            Point::Unrecorded => return Err(Error::new(ErrorKind::Unrecorded)),
            Point::Done => {}
            Point::At(target) => match target.lane.observe(target.position) {
                Observed::Complete => {}
                Observed::Failed(error) => return Err(error),
                Observed::Pending => return Err(Error::new(ErrorKind::NotComplete)),
            },
        }
        let ticks = match time {
            Time::NotMeasured => return Err(Error::new(ErrorKind::NotMeasured)),
            Time::Ticks(ticks) => ticks,
            Time::Stamp(stamp) => {
                let ticks = stamp.ticks()?;
                self.slot().remember_time(stamp, ticks);
                ticks
            }
        };
        Ok(self.slot().pool.device().info().clock.at(ticks))
    }

    /// The device time from `start`'s completion to this event's. Pure: waits for nothing and flushes nothing.
    ///
    /// # Errors
    /// Checked in this order, for both events (R21): [`ErrorKind::Untimed`], [`ErrorKind::Unrecorded`],
    /// [`ErrorKind::ClockMismatch`], a recording's failure, [`ErrorKind::NotComplete`]. Then
    /// [`ErrorKind::NotMeasured`], and [`ErrorKind::EndBeforeStart`] with [`Error::lateness`] (R22).
    /// [`ErrorKind::Forked`].
    pub fn elapsed_since(&self, start: &Self) -> Result<Elapsed> {
        fork::check()?;
        self.check_elapsed(start)?;
        let (end_at, start_at) = (self.slot().timed_point(), start.slot().timed_point());
        for (point, _) in [&start_at, &end_at] {
            if let Point::At(target) = point
                && let Observed::Failed(error) = target.lane.observe(target.position)
            {
                return Err(error);
            }
        }
        let start = start.read_time(start_at)?;
        self.read_time(end_at)?.since(&start)
    }

    /// As [`elapsed_since`](Self::elapsed_since), in milliseconds and with a sign, as interfaces count that have no better
    /// type: negative if this event came first (R22). Pure as well.
    ///
    /// # Errors
    /// As [`elapsed_since`](Self::elapsed_since), but never [`ErrorKind::EndBeforeStart`].
    pub fn elapsed_millis(&self, start: &Self) -> Result<f64> {
        match self.elapsed_since(start) {
            Ok(elapsed) => Ok(elapsed.as_millis_f64()),
            Err(error) => match error.lateness() {
                Some(by) => Ok(-(by.as_nanos() as f64) / 1e6),
                None => Err(error),
            },
        }
    }

    /// The checks that come before any side effect (R21).
    pub(crate) fn check_elapsed(&self, start: &Self) -> Result<()> {
        if !(self.is_timed() && start.is_timed()) {
            return Err(Error::new(ErrorKind::Untimed));
        }
        for event in [start, self] {
            // Relaxed: whether, not where.
            if event.slot().state.load(Ordering::Relaxed) == UNRECORDED {
                return Err(Error::new(ErrorKind::Unrecorded));
            }
        }
        if self.slot().pool.device().info().clock.id() != start.slot().pool.device().info().clock.id() {
            return Err(Error::new(ErrorKind::ClockMismatch));
        }
        Ok(())
    }

    /// Makes the event unrecorded again. Those who wait for its recording go on doing so; nothing native is touched
    /// (R30).
    pub fn reset(&self) {
        if !fork::happened() {
            self.slot().reset();
        }
    }
}

impl Drop for Event {
    #[inline]
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            crate::pool::release(slot);
        }
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Event");
        debug.field("id", &self.id().get()).field("status", &self.status()).field("timed", &self.is_timed());
        if let Some(label) = self.label() {
            debug.field("label", &label);
        }
        debug.finish()
    }
}
