//! Events by number: the seed's id interface, for languages that hold no handles.

use crate::{
    error::{Error, ErrorKind, Result},
    event::{Event, EventId, Point},
    fork,
    pool::EventPool,
    primitive::DashMap,
    stream::{Stream, StreamWait},
};
use std::{
    borrow::Cow,
    sync::{Arc, OnceLock},
};

/// A table of events by id, with the seed's verbs.
///
/// An id is good from [`acquire`](Self::acquire) until [`release`](Self::release), and never again: ids are not
/// reused, so a stale one, a made-up one, or one of another table is [`ErrorKind::InvalidId`], for good (R33). No call
/// holds a lock of the table while it waits or calls a driver, and one thread may release an event that others are
/// using: they finish with it.
///
/// ```
/// use gpu_events::{Device, ErrorKind, EventPool, EventTable};
///
/// let device = Device::open("cpu")?;
/// let table = EventTable::new(&EventPool::new(&device));
/// let (start, end) = (table.acquire(true)?, table.acquire(true)?);
/// table.record(start, None, false)?;
/// table.record(end, None, false)?;
/// println!("{} ms", table.elapsed_time(start, end)?);
/// table.release(start)?;
/// assert_eq!(table.query(start).unwrap_err().kind(), ErrorKind::InvalidId);
/// # Ok::<(), gpu_events::Error>(())
/// ```
#[derive(Debug)]
pub struct EventTable {
    pool: Option<EventPool>,
    events: DashMap<EventId, Entry>,
}

/// An event, and where it came from.
#[derive(Debug)]
struct Entry {
    event: Arc<Event>,
    /// `None`: from the table's own pool.
    pool: Option<EventPool>,
}

impl EventTable {
    /// An empty table, whose events come from `pool`.
    pub fn new(pool: &EventPool) -> Self {
        Self { pool: Some(pool.clone()), events: new_map() }
    }

    /// An empty table with no pool of its own, for events of any number of devices: those that
    /// [`acquire_from`](Self::acquire_from) and [`insert`](Self::insert) enter. What an interface with one space of ids for
    /// the whole process stands on.
    ///
    /// ```
    /// use gpu_events::{Device, EventTable};
    ///
    /// let table = EventTable::of_any_pool();
    /// let (one, two) = (Device::open("cpu")?, Device::open("cpu")?);
    /// let id = table.acquire_from(&one.pool(), false)?;
    /// table.record(id, None, false)?; // on the default stream of its own device
    /// table.wait(id, Some(&two.create_stream()?))?;
    /// # Ok::<(), gpu_events::Error>(())
    /// ```
    pub fn of_any_pool() -> Self {
        Self { pool: None, events: new_map() }
    }

    /// The table of the process's default device. It lives as long as the process.
    ///
    /// # Errors
    /// As [`EventPool::shared`].
    pub fn shared() -> Result<&'static Self> {
        static SHARED: OnceLock<EventTable> = OnceLock::new();
        fork::check()?;
        if let Some(table) = SHARED.get() {
            return Ok(table);
        }
        let table = Self::new(&EventPool::shared()?);
        Ok(SHARED.get_or_init(|| table))
    }

    /// The pool that [`acquire`](Self::acquire) takes from, unless the table is [of any](Self::of_any_pool).
    pub fn pool(&self) -> Option<&EventPool> {
        self.pool.as_ref()
    }

    /// How many events are in the table.
    ///
    /// # Errors
    /// [`ErrorKind::Forked`].
    #[expect(
        clippy::len_without_is_empty,
        reason = "a table in use by others is empty for no length of time"
    )]
    pub fn len(&self) -> Result<usize> {
        fork::check()?;
        Ok(self.events.len())
    }

    /// Takes an event from the table's pool and enters it.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] if the table has no pool of its own; [`ErrorKind::Forked`].
    pub fn acquire(&self, timing: bool) -> Result<EventId> {
        fork::check()?;
        let pool = self.pool.as_ref().ok_or_else(|| {
            Error::with_text(ErrorKind::InvalidArgument, "the table has no pool to take the event from")
        })?;
        Ok(self.enter(take(pool, timing), None))
    }

    /// Takes an event from `pool` and enters it. Without a stream, it is the default one of the pool's device that it is
    /// recorded on, or that waits for it.
    ///
    /// # Errors
    /// [`ErrorKind::Forked`].
    pub fn acquire_from(&self, pool: &EventPool, timing: bool) -> Result<EventId> {
        fork::check()?;
        Ok(self.enter(take(pool, timing), Some(pool.clone())))
    }

    /// Enters an event that came about in another way: a host-signaled one ([`Device::host_event`](crate::Device::host_event)),
    /// an imported one. [`reset`](Self::reset) replaces it from `pool`, which is of its device.
    ///
    /// # Errors
    /// [`ErrorKind::WrongDevice`] if `pool` is another device's; [`ErrorKind::Forked`].
    pub fn insert(&self, event: Event, pool: &EventPool) -> Result<EventId> {
        fork::check()?;
        if event.device_id() != pool.device().id() {
            return Err(Error::new(ErrorKind::WrongDevice));
        }
        Ok(self.enter(event, Some(pool.clone())))
    }

    fn enter(&self, event: Event, pool: Option<EventPool>) -> EventId {
        let id = event.id();
        self.events.insert(id, Entry { event: Arc::new(event), pool });
        id
    }

    /// Strikes an event. It goes back to the pool, pending or not, once the calls that are using it are done.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidId`], also the second time; [`ErrorKind::Forked`].
    pub fn release(&self, id: EventId) -> Result<()> {
        fork::check()?;
        // The event is dropped after the table's lock is.
        let removed = self.events.remove(&id);
        removed.map(drop).ok_or_else(|| invalid(id))
    }

    /// The event itself.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidId`], [`ErrorKind::Forked`].
    pub fn get(&self, id: EventId) -> Result<Arc<Event>> {
        fork::check()?;
        self.events.get(&id).map(|entry| entry.event.clone()).ok_or_else(|| invalid(id))
    }

    /// The pool that the event came from.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidId`], [`ErrorKind::Forked`].
    pub fn pool_of(&self, id: EventId) -> Result<EventPool> {
        fork::check()?;
        let pool = self.events.get(&id).and_then(|entry| entry.pool.as_ref().or(self.pool.as_ref()).cloned());
        pool.ok_or_else(|| invalid(id))
    }

    fn stream<'a>(&self, id: EventId, stream: Option<&'a Stream>) -> Result<Cow<'a, Stream>> {
        match stream {
            Some(stream) => Ok(Cow::Borrowed(stream)),
            None => self.pool_of(id)?.default_stream().map(Cow::Owned),
        }
    }

    /// Records the event on `stream`, or on the default stream, and then submits the stream's work if `flush` says so.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidId`]; as [`Event::record`] and [`Stream::flush`].
    pub fn record(&self, id: EventId, stream: Option<&Stream>, flush: bool) -> Result<()> {
        let event = self.get(id)?;
        let stream = self.stream(id, stream)?;
        event.record(&stream)?;
        if flush { stream.flush() } else { Ok(()) }
    }

    /// Has `stream`, or the default stream, wait for the event.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidId`]; as [`Stream::wait`].
    pub fn wait(&self, id: EventId, stream: Option<&Stream>) -> Result<StreamWait> {
        let event = self.get(id)?;
        self.stream(id, stream)?.wait(&event)
    }

    /// Blocks until the event is complete.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidId`]; as [`Event::synchronize`].
    pub fn synchronize(&self, id: EventId) -> Result<()> {
        self.get(id)?.synchronize()
    }

    /// Whether the event is complete. False for an unrecorded one (R4).
    ///
    /// # Errors
    /// [`ErrorKind::InvalidId`]; as [`Event::is_complete`].
    pub fn query(&self, id: EventId) -> Result<bool> {
        self.get(id)?.is_complete()
    }

    /// The milliseconds from `start` to `end`, waiting for both: negative if the end came first (R22).
    ///
    /// # Errors
    /// [`ErrorKind::InvalidId`]; as [`Event::elapsed_since`], checked before anything is waited for (R21); as
    /// [`Event::synchronize`].
    pub fn elapsed_time(&self, start: EventId, end: EventId) -> Result<f64> {
        let (start, end) = (self.get(start)?, self.get(end)?);
        end.check_elapsed(&start)?;
        for event in [&start, &end] {
            if let Point::At(target) = event.point() {
                // Flushes: a blocking wait never leaves what it waits for unsubmitted.
                crate::wait::wait_one(&target, &crate::WaitOptions::new()).map(drop)?;
            }
        }
        end.elapsed_millis(&start)
    }

    /// Makes the event unrecorded, with or without timing from now on, under the same id.
    ///
    /// Those who wait for its recording go on doing so; a call that is recording it at this very moment may do so too
    /// late to be seen.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidId`], [`ErrorKind::Forked`].
    pub fn reset(&self, id: EventId, timing: bool) -> Result<()> {
        let event = self.get(id)?;
        if event.is_timed() == timing {
            event.reset();
            return Ok(());
        }
        // Another object under the same id: calls that are using the old one finish with it.
        let mut fresh = take(&self.pool_of(id)?, timing);
        fresh.assume_id(id);
        if let Some(label) = event.label() {
            fresh.set_label(&label);
        }
        let fresh = Arc::new(fresh);
        let old = match self.events.get_mut(&id) {
            Some(mut entry) => std::mem::replace(&mut entry.value_mut().event, fresh),
            None => return Err(invalid(id)),
        };
        drop(old);
        Ok(())
    }
}

/// With shards enough that threads, each at a place of its own among the numbers, hardly ever meet in one: 32 for each core,
/// of 128 bytes each.
#[cfg(not(gpu_events_loom))]
fn new_map() -> DashMap<EventId, Entry> {
    /// Once: it reads files.
    static CORES: std::sync::LazyLock<usize> =
        std::sync::LazyLock::new(|| std::thread::available_parallelism().map_or(1, usize::from));
    DashMap::with_hasher_and_shard_amount(Default::default(), (32 * *CORES).next_power_of_two())
}

#[cfg(gpu_events_loom)]
fn new_map() -> DashMap<EventId, Entry> {
    DashMap::default()
}

fn take(pool: &EventPool, timing: bool) -> Event {
    if timing { pool.acquire_timed() } else { pool.acquire() }
}

fn invalid(id: EventId) -> Error {
    Error::with_text(ErrorKind::InvalidId, id.to_string())
}
