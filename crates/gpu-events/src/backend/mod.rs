//! The seam: what a backend has to do, and nothing else. Public for those who write one.
//!
//! A backend signals positions, waits for other streams' positions, says how far it is, and keeps timestamps. The
//! core owns what users can get wrong: events, pools, ids, waiters, callbacks, futures, failure, and who is told of
//! it in what order. How each of the four drivers fills each method is a table in `DESIGN.md`; a commented skeleton
//! to copy is in `tests/it/skeleton.rs`, and `CONTRIBUTING.md` tells the way from there.
//!
//! # What holds for every method
//! - Methods marked *held* are called with the stream's submit lock held, so never two at once for one stream. The
//!   others may be called from any thread at any time, also during a held one.
//! - A backend calls [`Lane::advance`] and [`Lane::fail`] with none of its own locks held: waiters run in them, and
//!   may call any method back.
//! - A method neither blocks nor waits for the host, and never runs a user's callback.
//! - Positions of a stream complete in order: `advance(n)` says that all up to n are done.
//! - A lane with work in flight must be kept alive by whoever will call `advance`; the core keeps it only for those
//!   who observe it.

#[cfg(feature = "cpu")]
pub mod cpu;
#[cfg(all(feature = "cuda", not(gpu_events_loom)))]
pub mod cuda;
#[cfg(all(feature = "metal", any(target_vendor = "apple", gpu_events_metal_sim)))]
pub mod metal;

#[cfg(all(any(feature = "cuda", feature = "vulkan"), not(gpu_events_loom)))]
#[cfg_attr(not(all(feature = "cuda", feature = "vulkan", unix)), path = "interop_off.rs")]
mod interop;
#[cfg(all(any(feature = "cuda", feature = "vulkan"), not(gpu_events_loom)))]
mod pace;
#[cfg(all(any(feature = "cuda", feature = "vulkan"), not(gpu_events_loom)))]
mod reaper;
#[cfg(all(feature = "vulkan", not(gpu_events_loom)))]
pub mod vulkan;

pub use crate::lane::Lane;

use crate::{
    device::{DeviceCore, DeviceInfo},
    error::{Error, Result},
    lane::Producer,
    stream::StreamOptions,
    time::Correlation,
    timeline::relay,
};
use std::{
    any::Any,
    fmt,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

/// An opened device.
pub trait Backend: Any + fmt::Debug + Send + Sync {
    /// What the device is and can do. Asked once.
    fn info(&self) -> DeviceInfo;

    /// Makes a stream: builds its driver half and hands it to [`StreamSeed::build`].
    ///
    /// # Errors
    /// What the driver refused.
    fn create_stream(&self, seed: StreamSeed<'_>) -> Result<Arc<Lane>>;

    /// Reads the device's clock and the host's as close together as it can (R24).
    ///
    /// # Errors
    /// [`NotMeasured`](crate::ErrorKind::NotMeasured) where the device's clock can't be placed.
    fn correlate(&self) -> Result<Correlation>;

    /// Runs one user callback on the callback thread: by calling `run`, exactly once, in whatever surroundings the
    /// driver's calls want (an autorelease pool, a current context).
    fn run_callback(&self, run: &mut dyn FnMut()) {
        run();
    }

    /// The device is closed; its streams have been told. What the driver still uses is leaked rather than freed.
    fn close(&self) {}
}

/// What a stream's driver half needs from the core at birth.
#[derive(Debug)]
pub struct StreamSeed<'a> {
    pub(crate) device: &'a Arc<DeviceCore>,
    pub(crate) options: &'a StreamOptions,
}

impl StreamSeed<'_> {
    /// The options that the user gave.
    pub fn options(&self) -> &StreamOptions {
        self.options
    }

    /// Makes the lane. `make` is given a weak reference to the lane under construction, for a driver half that
    /// hands its lane to a pump or a scheduler.
    ///
    /// # Errors
    /// [`Closed`](crate::ErrorKind::Closed) if the device was closed meanwhile.
    pub fn build<B: BackendStream>(self, make: impl FnOnce(&Weak<Lane<B>>) -> B) -> Result<Arc<Lane>> {
        Lane::build(self.device, self.options, Producer::Stream, make)
    }

    /// As [`build`](Self::build), with the driver half's type kept.
    ///
    /// # Errors
    /// [`Closed`](crate::ErrorKind::Closed) if the device was closed meanwhile.
    pub fn build_typed<B: BackendStream>(
        self,
        make: impl FnOnce(&Weak<Lane<B>>) -> B,
    ) -> Result<Arc<Lane<B>>> {
        Lane::build_typed(self.device, self.options, Producer::Stream, make)
    }
}

/// How a stream's news come and its work goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamTraits {
    /// Completion is reported without being asked for: `poll` and `watch` have nothing to do and are never called.
    pub pushed: bool,
    /// Work may sit in the host until it is flushed. Otherwise `flush` has nothing to do and is never called.
    pub batches: bool,
}

/// The driver half of one stream.
pub trait BackendStream: Any + fmt::Debug + Send + Sync {
    /// Asked once, when the lane is built.
    fn traits(&self) -> StreamTraits;

    /// *Held.* Has `position` signaled once all that was submitted before it is done. Positions come without gaps:
    /// 1, 2, 3, …
    ///
    /// # Errors
    /// What the driver refused; nothing has happened then, and the position is given out again (R29).
    fn signal(&self, position: u64, timed: bool) -> Result<Signaled>;

    /// *Held.* Holds back what is submitted from now on until `source` is complete. Where the source batches, it was
    /// asked to flush; whether it has been able to is the backend's to check if its driver cares.
    ///
    /// # Errors
    /// What the driver refused; nothing has happened then.
    fn wait(&self, source: &Source<'_>) -> Result<Waited>;

    /// *Held.* Holds back what is submitted from now on until the host opens the gate. Asked for only after
    /// [`Waited::Unsupported`].
    ///
    /// # Errors
    /// What the driver refused; nothing has happened then.
    fn gate(&self) -> Result<Arc<dyn Gate>>;

    /// *Held.* Called before a flush and before a gate. A backend whose submissions must each end in a position, because
    /// the next one is ordered behind that, takes `position` here for work that nobody has recorded behind yet, and
    /// answers that it has. It is the next position, as [`signal`](Self::signal) would get it, and nobody's event.
    fn mark(&self, position: u64) -> bool {
        let _ = position;
        false
    }

    /// *Held.* Submits everything that was gathered, up to the first gate that is closed.
    ///
    /// # Errors
    /// What the driver refused. What was gathered is lost then, and the core fails the stream from the first position
    /// on that was not submitted.
    fn flush(&self) -> Result<Flushed>;

    /// Asks the driver how far it is, and advances the lane. Cheap: it is called by whoever polls.
    fn poll(&self);

    /// Where the driver itself writes how far the stream is, if it does. Asked once, when the lane is built. Whoever polls
    /// then reads that, and [`poll`](Self::poll) is called for news alone, and while the lane is not
    /// [minded](Lane::mind).
    fn word(&self) -> Option<Word> {
        None
    }

    /// Somebody waits for `position`: from now on news up to it must come by themselves, from the device's pump.
    fn watch(&self, position: u64);

    /// Blocks the calling thread in the driver until `position` is reached or `until` has come, whichever is first, and
    /// answers true; it may return early. False where the driver has no such call, or it would not help: the thread is put
    /// to sleep then, and [`watch`](Self::watch) has the pump wake it. Without the pump in between, one thread less has to
    /// be woken.
    fn block(&self, position: u64, until: Instant) -> bool {
        let _ = (position, until);
        false
    }

    /// The device was closed: drop what was not submitted, leak what the driver may still use. Every position that was
    /// not complete has failed already; gates open after this. What users captured is dropped through [`defer`]. Other
    /// methods may still be called afterwards, this one among them, and must then keep nothing.
    fn abandon(&self);
}

/// Memory that a driver raises as a stream goes on, without being asked.
#[derive(Clone, Copy, Debug)]
pub struct Word {
    /// Never falls. What the work before a position wrote is visible to whoever acquires its value here (R8).
    pub at: &'static AtomicU64,
    /// Its value at position 0.
    pub base: u64,
}

impl Word {
    /// Whether it says no more than that `completed` was reached.
    #[inline]
    pub(crate) fn is_at(&self, completed: u64) -> bool {
        // Acquire: what this sees is complete may be acted on, once the lane has been advanced. A word that was read before
        // somebody else advanced the lane is behind, and no news.
        self.at.load(Ordering::Acquire).wrapping_sub(self.base) <= completed
    }
}

/// What came of [`BackendStream::signal`].
#[derive(Debug)]
pub enum Signaled {
    /// The stream is idle, so the position is complete on the spot; with its time, if it was to be timed.
    Done(Option<u64>),
    /// It will be signaled; with the object that will know its time, if it was to be timed.
    Pending(Option<Arc<dyn Stamp>>),
    /// The driver would block for want of room. Nothing has happened.
    Full(Room),
}

/// How far a flush got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flushed {
    /// Everything was given to the driver.
    All,
    /// What is behind a closed gate stays in our own queue: the driver has what is up to this position. The backend
    /// asks for another flush when the gate opens.
    UpTo(u64),
}

/// When a full queue has room again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Once this position is complete. It must be submitted already, or become so without anybody's help.
    pub after: u64,
}

/// What came of [`BackendStream::wait`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waited {
    /// The backend waits, does nothing more once the source has failed, and fails its lane itself.
    Carried,
    /// The driver waits, and knows nothing of failure: the core passes that on.
    Native,
    /// As `Native`, and what breaks in the source's driver breaks for this stream as well, as within one CUDA context: whoever
    /// observes this stream learns of it, and nobody has to watch the source for its sake.
    Together,
    /// Not possible for this source. The core will ask for a gate.
    Unsupported,
}

/// A recording to wait for.
#[derive(Debug)]
pub struct Source<'a> {
    pub(crate) lane: &'a Arc<Lane>,
    pub(crate) position: u64,
}

impl Source<'_> {
    /// The lane to wait for.
    pub fn lane(&self) -> &Arc<Lane> {
        self.lane
    }

    /// The position to wait for.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The source's driver half, if it is of this type: then the two may know how to wait natively.
    pub fn backend<B: BackendStream>(&self) -> Option<&B> {
        self.lane.downcast()
    }

    /// Whether everything up to the position has been given to the source's driver: nothing of it is gathered still, or
    /// held back behind a gate.
    pub fn is_submitted(&self) -> bool {
        self.lane.is_submitted(self.position)
    }
}

/// A wait that the host opens.
pub trait Gate: fmt::Debug + Send + Sync {
    /// Lets what was held back go. Once opened it stays open; opening it again does nothing. From any thread; must
    /// not block.
    fn open(&self);
}

/// Where the time of a recording can be read once it is complete. Dropped with the last event that points at it,
/// which is when its query slot can be used again.
pub trait Stamp: fmt::Debug + Send + Sync {
    /// Ticks of the device's clock.
    ///
    /// # Errors
    /// [`NotMeasured`](crate::ErrorKind::NotMeasured) where the device has no time for it; what the driver said.
    fn ticks(&self) -> Result<u64>;
}

/// Runs `user`, code of a user's such as the destructor of what dropped work had captured, once this thread has told
/// everyone whom it has to tell: now, or, while a device is being closed, after that. It may wait for one of them.
pub fn defer(user: impl FnOnce() + 'static) {
    relay::afterwards(user);
}

/// The driver half of a lane that no driver moves: a host signal, a foreign submission.
#[derive(Debug)]
pub(crate) struct NoDriver;

impl BackendStream for NoDriver {
    fn traits(&self) -> StreamTraits {
        StreamTraits { pushed: true, batches: false }
    }

    fn signal(&self, _position: u64, _timed: bool) -> Result<Signaled> {
        Err(Error::new(crate::ErrorKind::Unsupported))
    }

    fn wait(&self, _source: &Source<'_>) -> Result<Waited> {
        Err(Error::new(crate::ErrorKind::Unsupported))
    }

    fn gate(&self) -> Result<Arc<dyn Gate>> {
        Err(Error::new(crate::ErrorKind::Unsupported))
    }

    fn flush(&self) -> Result<Flushed> {
        Ok(Flushed::All)
    }

    fn poll(&self) {}

    fn watch(&self, _position: u64) {}

    fn abandon(&self) {}
}
