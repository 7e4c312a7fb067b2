//! Handles: numbers that stand for what this library keeps, of a kind that each number shows, and never given out twice.
//!
//! A lookup takes a reference out of its table and lets the table go: no call holds a lock of a table's while it does
//! anything, and one thread may release what another is using.

use crate::status::{Failure, Result, Status};
use dashmap::DashMap;
use gpu_events::{
    Callback, Device, EventId, EventPool, EventTable, External, ExternalPending, HostSignal, Stream,
};
use rustc_hash::FxBuildHasher;
use std::sync::{
    Arc, LazyLock, Mutex, OnceLock, PoisonError,
    atomic::{AtomicU64, Ordering},
};

/// An opened device. A null handle is 0, here and below.
pub type DeviceHandle = u64;
/// A stream: an in-order queue of work on one device.
pub type StreamHandle = u64;
/// A pool that events are taken from.
pub type PoolHandle = u64;
/// An event: a marker of a point in a stream of work. The number is the event's id, as the seed of this library has it.
pub type EventHandle = u64;
/// A callback that was registered, to be cancelled.
pub type CallbackHandle = u64;
/// The producer's end of an event that the host signals.
pub type SignalHandle = u64;
/// The token of a recording in a submission that somebody else makes.
pub type ExternalHandle = u64;

/// What a handle is of, in its topmost byte. An event's is zero: its number is its id.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Kind {
    Device = 1,
    Stream,
    Pool,
    Callback,
    Signal,
    External,
}

const KIND_SHIFT: u32 = 56;

/// All that is kept of one kind.
pub(crate) struct Table<T> {
    kind: Kind,
    name: &'static str,
    next: AtomicU64,
    kept: LazyLock<DashMap<u64, T, FxBuildHasher>>,
}

impl<T: Clone> Table<T> {
    const fn new(kind: Kind, name: &'static str) -> Self {
        Self { kind, name, next: AtomicU64::new(1), kept: LazyLock::new(DashMap::default) }
    }

    /// Keeps `what`, under a number that nobody has had.
    pub(crate) fn enter(&self, what: T) -> u64 {
        // Relaxed: the number is handed to others by whoever called.
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let handle = (self.kind as u64) << KIND_SHIFT | number;
        self.kept.insert(handle, what);
        handle
    }

    pub(crate) fn get(&self, handle: u64) -> Result<T> {
        self.kept.get(&handle).map(|kept| kept.clone()).ok_or_else(|| self.unknown(handle))
    }

    /// Keeps it no longer.
    pub(crate) fn remove(&self, handle: u64) -> Result<T> {
        self.kept.remove(&handle).map(|(_, kept)| kept).ok_or_else(|| self.unknown(handle))
    }

    fn unknown(&self, handle: u64) -> Failure {
        let text = match handle {
            0 => format!("the {} handle is null", self.name),
            _ => format!("no {} has the handle {handle:#x}", self.name),
        };
        Failure::new(Status::ErrorInvalidHandle, text)
    }
}

/// What is used up by its last call.
pub(crate) struct Once<T>(Arc<Mutex<Option<T>>>);

impl<T> Once<T> {
    pub(crate) fn new(what: T) -> Self {
        Self(Arc::new(Mutex::new(Some(what))))
    }

    /// Nobody else gets it after this.
    pub(crate) fn take(&self) -> Option<T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Makes something else of it. `make` is quick and calls nobody back: a lock is held.
    pub(crate) fn replace<R>(&self, make: impl FnOnce(Option<T>) -> (Option<T>, R)) -> R {
        let mut place = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (next, result) = make(place.take());
        *place = next;
        result
    }
}

impl<T> Clone for Once<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// An external recording, on its way.
pub(crate) enum ExternalToken {
    Prepared(External),
    Submitted(ExternalPending),
}

pub(crate) static DEVICES: Table<Device> = Table::new(Kind::Device, "device");
pub(crate) static STREAMS: Table<Stream> = Table::new(Kind::Stream, "stream");
pub(crate) static POOLS: Table<EventPool> = Table::new(Kind::Pool, "pool");
/// Each is there before its callback is registered, which may run at once.
pub(crate) static CALLBACKS: Table<Arc<OnceLock<Callback>>> = Table::new(Kind::Callback, "callback");
pub(crate) static SIGNALS: Table<Once<HostSignal>> = Table::new(Kind::Signal, "signal");
pub(crate) static EXTERNALS: Table<Once<ExternalToken>> = Table::new(Kind::External, "external recording");

/// The events of all pools and devices, under their ids.
pub(crate) static EVENTS: LazyLock<EventTable> = LazyLock::new(EventTable::of_any_pool);

/// The event's id. A handle of another kind is one that no event has: ids are counted, and don't come that far.
pub(crate) fn event_id(handle: EventHandle) -> EventId {
    EventId::from_raw(handle)
}

/// The stream; the default one of the event's device if the handle is null.
pub(crate) fn resolve(handle: StreamHandle, event: EventId) -> Result<Stream> {
    if handle == 0 { Ok(EVENTS.pool_of(event)?.default_stream()?) } else { STREAMS.get(handle) }
}

/// The stream, or none if the handle is null: the default one is meant.
pub(crate) fn stream_or_default(handle: StreamHandle) -> Result<Option<Stream>> {
    if handle == 0 { Ok(None) } else { STREAMS.get(handle).map(Some) }
}
