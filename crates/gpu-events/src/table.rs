//! Events by number: the seed's id interface, for languages that hold no handles.

use crate::{
    error::{Error, ErrorKind, Result},
    event::{Event, EventId, Point},
    fork,
    pool::EventPool,
    primitive::DashMap,
    stream::{Stream, StreamWait},
};
use std::sync::{Arc, OnceLock};

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
    pool: EventPool,
    events: DashMap<EventId, Arc<Event>>,
}

impl EventTable {
    /// An empty table, whose events come from `pool`.
    pub fn new(pool: &EventPool) -> Self {
        Self { pool: pool.clone(), events: DashMap::new() }
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

    /// The pool that the events come from.
    pub fn pool(&self) -> &EventPool {
        &self.pool
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

    /// Takes an event from the pool and enters it.
    ///
    /// # Errors
    /// [`ErrorKind::Forked`].
    pub fn acquire(&self, timing: bool) -> Result<EventId> {
        fork::check()?;
        let event = if timing { self.pool.acquire_timed() } else { self.pool.acquire() };
        let id = event.id();
        self.events.insert(id, Arc::new(event));
        Ok(id)
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
        self.events.get(&id).map(|event| event.clone()).ok_or_else(|| invalid(id))
    }

    fn stream(&self, stream: Option<&Stream>) -> Result<Stream> {
        stream.map_or_else(|| self.pool.default_stream(), |stream| Ok(stream.clone()))
    }

    /// Records the event on `stream`, or on the default stream, and then submits the stream's work if `flush` says so.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidId`]; as [`Event::record`] and [`Stream::flush`].
    pub fn record(&self, id: EventId, stream: Option<&Stream>, flush: bool) -> Result<()> {
        let event = self.get(id)?;
        let stream = self.stream(stream)?;
        event.record(&stream)?;
        if flush { stream.flush() } else { Ok(()) }
    }

    /// Has `stream`, or the default stream, wait for the event.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidId`]; as [`Stream::wait`].
    pub fn wait(&self, id: EventId, stream: Option<&Stream>) -> Result<StreamWait> {
        let event = self.get(id)?;
        self.stream(stream)?.wait(&event)
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
        match end.elapsed_since(&start) {
            Ok(elapsed) => Ok(elapsed.as_millis_f64()),
            Err(error) => match error.lateness() {
                Some(by) => Ok(-(by.as_nanos() as f64) / 1e6),
                None => Err(error),
            },
        }
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
        let mut fresh = if timing { self.pool.acquire_timed() } else { self.pool.acquire() };
        fresh.assume_id(id);
        if let Some(label) = event.label() {
            fresh.set_label(&label);
        }
        let fresh = Arc::new(fresh);
        let old = match self.events.get_mut(&id) {
            Some(mut entry) => std::mem::replace(entry.value_mut(), fresh),
            None => return Err(invalid(id)),
        };
        drop(old);
        Ok(())
    }
}

fn invalid(id: EventId) -> Error {
    Error::with_text(ErrorKind::InvalidId, id.to_string())
}
