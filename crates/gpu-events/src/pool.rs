//! Pools of events.
//!
//! Acquiring and dropping an event is the hottest path there is, and a lock or a shared counter on it is what it
//! costs. So each thread keeps a *magazine* of idle slots per pool, with plain counters beside it; magazines are
//! filled from, and spill into, the pool's *depot*, which has a lock. What lost is measured in `DESIGN.md`.

#![expect(clippy::vec_box, reason = "events own their slots one by one; the pool only keeps the boxes")]

use crate::{
    device::{Device, DeviceCore},
    error::Result,
    event::{Event, Slot},
    fork,
    primitive::{AtomicBool, AtomicU64, Mutex, Ordering, lock, thread_local},
    stream::Stream,
};
use std::{
    cell::RefCell,
    fmt,
    ops::Range,
    sync::{Arc, Weak, atomic::AtomicU64 as StdAtomicU64},
};

/// How many idle slots a thread keeps at most, for one pool.
const MAGAZINE: usize = 64;
/// How many go between a magazine and the depot at once.
const SHARE: usize = MAGAZINE / 2;
/// How many ids a magazine takes at once from the process's counter.
pub(crate) const IDS: u64 = 1024;

/// The next id that nobody has (R33). Of the standard library also under loom, which would see it as contention
/// that there is none of in practice.
static NEXT_ID: StdAtomicU64 = StdAtomicU64::new(1);

/// What a pool's events, and the threads that use it, share.
pub(crate) struct PoolCore {
    /// Names the pool in the threads' caches.
    key: u64,
    device: Arc<DeviceCore>,
    /// The most idle slots, in the depot and in magazines together.
    bound: usize,
    /// Moves on when the cache is emptied; a magazine of an older epoch throws its slots away.
    epoch: AtomicU64,
    depot: Mutex<Depot>,
}

#[derive(Default)]
struct Depot {
    slots: Vec<Box<Slot>>,
    /// Room that magazines may use, out of the bound.
    reserved: usize,
    created: u64,
    /// Of each thread that has a magazine.
    tallies: Vec<Arc<Tally>>,
    /// Of the threads that are gone, and of those that have no magazine any more.
    acquired: u64,
    released: u64,
    /// The last handle is gone: keep nothing.
    closed: bool,
}

/// One thread's part of the statistics: written by that thread alone, so a load and a store will do.
#[derive(Default)]
struct Tally {
    acquired: AtomicU64,
    released: AtomicU64,
    idle: AtomicU64,
    /// The pool is gone, and so can its magazine be.
    closed: AtomicBool,
}

#[inline]
fn bump(counter: &AtomicU64) {
    // Relaxed: written by this thread alone; readers want a number, not an order.
    counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

/// One thread's idle slots of one pool.
struct Magazine {
    key: u64,
    epoch: u64,
    /// How many slots it may keep: none where the bound has no room for a magazine.
    room: usize,
    slots: Vec<Box<Slot>>,
    ids: Range<u64>,
    tally: Arc<Tally>,
    /// What it took of the bound.
    reserved: usize,
    pool: Weak<PoolCore>,
}

impl Magazine {
    #[inline]
    fn next_id(&mut self) -> u64 {
        match self.ids.next() {
            Some(id) => id,
            None => {
                self.ids = fresh_ids(IDS);
                self.ids.start += 1;
                self.ids.start - 1
            }
        }
    }

    #[inline]
    fn count_idle(&self) {
        // Relaxed: as in `bump`.
        self.tally.idle.store(self.slots.len() as u64, Ordering::Relaxed);
    }
}

impl Drop for Magazine {
    /// The thread ends, or the pool is gone: gives back what there is.
    fn drop(&mut self) {
        if fork::happened() {
            std::mem::take(&mut self.slots).into_iter().for_each(std::mem::forget);
        } else if let Some(pool) = self.pool.upgrade() {
            pool.retire(self);
        }
    }
}

/// The magazines of a thread, the one used last in front.
struct Cache(Vec<Magazine>);

thread_local! {
    static CACHE: RefCell<Cache> = const { RefCell::new(Cache(Vec::new())) };
}

impl Cache {
    /// The magazine of `pool`. What has to be dropped goes to `garbage`: dropping the last slot of a pool drops its
    /// device, and whatever that does must not find the cache borrowed.
    #[inline]
    fn of(&mut self, pool: &Arc<PoolCore>, garbage: &mut Option<Box<Garbage>>) -> &mut Magazine {
        // Relaxed: an emptied cache is noticed sooner or later; no order hangs on it.
        let epoch = pool.epoch.load(Ordering::Relaxed);
        if !matches!(self.0.first(), Some(magazine) if magazine.key == pool.key && magazine.epoch == epoch) {
            self.bring_to_front(pool, epoch, garbage);
        }
        &mut self.0[0]
    }

    #[cold]
    #[inline(never)]
    fn bring_to_front(&mut self, pool: &Arc<PoolCore>, epoch: u64, garbage: &mut Option<Box<Garbage>>) {
        match self.0.iter().position(|magazine| magazine.key == pool.key) {
            Some(index) => self.0.swap(0, index),
            None => {
                // Relaxed: sooner or later.
                let garbage = garbage.get_or_insert_default();
                garbage
                    .magazines
                    .extend(self.0.extract_if(.., |old| old.tally.closed.load(Ordering::Relaxed)));
                self.0.insert(0, pool.issue_magazine(epoch, &mut garbage.slots));
            }
        }
        let magazine = &mut self.0[0];
        if magazine.epoch != epoch {
            garbage.get_or_insert_default().slots.append(&mut magazine.slots);
            // Acquire: pairs with `empty_cache`; a pool that was closed before it moved the epoch on is seen closed.
            magazine.epoch = pool.epoch.load(Ordering::Acquire);
            // Relaxed: see above.
            if magazine.tally.closed.load(Ordering::Relaxed) {
                magazine.room = 0;
            }
            magazine.count_idle();
        }
    }

    fn remove(&mut self, key: u64) -> Option<Magazine> {
        let index = self.0.iter().position(|magazine| magazine.key == key)?;
        Some(self.0.swap_remove(index))
    }
}

/// Gives back the idle events that this thread keeps, as its end would.
pub(crate) fn drop_magazines() {
    let magazines = CACHE.with(|cache| std::mem::take(&mut cache.borrow_mut().0));
    // With the cache no longer borrowed: the last slot of a pool drops its device.
    drop(magazines);
}

/// What is dropped once the cache is no longer borrowed; boxed, and hardly ever there.
#[derive(Default)]
struct Garbage {
    slots: Vec<Box<Slot>>,
    magazines: Vec<Magazine>,
}

fn fresh_ids(count: u64) -> Range<u64> {
    // Relaxed: only uniqueness matters.
    let first = NEXT_ID.fetch_add(count, Ordering::Relaxed);
    first..first + count
}

impl PoolCore {
    fn new(device: &Arc<DeviceCore>, bound: usize) -> Arc<Self> {
        // Relaxed: only uniqueness matters.
        static NEXT: StdAtomicU64 = StdAtomicU64::new(1);
        Arc::new(Self {
            key: NEXT.fetch_add(1, Ordering::Relaxed),
            device: device.clone(),
            bound,
            epoch: AtomicU64::new(0),
            depot: Mutex::new(Depot::default()),
        })
    }

    #[inline]
    pub(crate) fn device(&self) -> &Arc<DeviceCore> {
        &self.device
    }

    #[inline]
    pub(crate) fn acquire(self: &Arc<Self>, timed: bool) -> Event {
        if fork::happened() {
            return self.acquire_bare(timed);
        }
        let mut garbage = None;
        let slot = CACHE.try_with(|cache| {
            let mut cache = cache.try_borrow_mut().ok()?;
            let magazine = cache.of(self, &mut garbage);
            let mut slot = match magazine.slots.pop() {
                Some(slot) => slot,
                None => self.refill(magazine),
            };
            magazine.count_idle();
            bump(&magazine.tally.acquired);
            slot.begin(magazine.next_id(), timed);
            Some(slot)
        });
        match slot {
            Ok(Some(slot)) => Event::new(slot),
            // The thread is ending, or inside the cache.
            Ok(None) | Err(_) => {
                let event = self.acquire_bare(timed);
                let mut depot = lock(&self.depot);
                depot.created += 1;
                depot.acquired += 1;
                event
            }
        }
    }

    /// A new slot, past all caches and locks.
    #[cold]
    fn acquire_bare(self: &Arc<Self>, timed: bool) -> Event {
        let mut slot = Box::new(Slot::new(self.clone()));
        slot.begin(fresh_ids(1).start, timed);
        Event::new(slot)
    }

    /// Takes slots from the depot into an empty magazine, and hands one out; a new one if there are none.
    #[cold]
    #[inline(never)]
    fn refill(self: &Arc<Self>, magazine: &mut Magazine) -> Box<Slot> {
        let mut depot = lock(&self.depot);
        let wanted = 1 + magazine.room.min(SHARE);
        let from = depot.slots.len().saturating_sub(wanted);
        magazine.slots.extend(depot.slots.drain(from..));
        magazine.slots.pop().unwrap_or_else(|| {
            depot.created += 1;
            drop(depot);
            Box::new(Slot::new(self.clone()))
        })
    }

    /// Takes slots back into the depot, as far as the bound has room. The rest is for the caller to drop.
    #[cold]
    #[inline(never)]
    fn give(&self, mut slots: Vec<Box<Slot>>) -> Vec<Box<Slot>> {
        let mut depot = lock(&self.depot);
        let room = depot.room(self.bound);
        let surplus = slots.split_off(room.min(slots.len()));
        depot.slots.append(&mut slots);
        surplus
    }

    fn issue_magazine(self: &Arc<Self>, epoch: u64, garbage: &mut Vec<Box<Slot>>) -> Magazine {
        let tally = Arc::new(Tally::default());
        let mut depot = lock(&self.depot);
        // Half of the bound at most: the depot is where slots that are dropped on other threads come back.
        let room = if !depot.closed && depot.reserved + MAGAZINE <= self.bound / 2 { MAGAZINE } else { 0 };
        depot.reserved += room;
        let kept = self.bound - depot.reserved;
        if depot.slots.len() > kept {
            garbage.extend(depot.slots.drain(kept..));
        }
        // Relaxed: read by this thread, or sooner or later.
        tally.closed.store(depot.closed, Ordering::Relaxed);
        depot.tallies.push(tally.clone());
        Magazine {
            key: self.key,
            epoch,
            room,
            slots: Vec::with_capacity(room),
            ids: 0..0,
            tally,
            reserved: room,
            pool: Arc::downgrade(self),
        }
    }

    /// Takes a magazine back with all that belongs to it.
    fn retire(&self, magazine: &mut Magazine) {
        let slots = std::mem::take(&mut magazine.slots);
        {
            let mut depot = lock(&self.depot);
            depot.tallies.retain(|tally| !Arc::ptr_eq(tally, &magazine.tally));
            // Relaxed: this thread's own counters.
            depot.acquired += magazine.tally.acquired.load(Ordering::Relaxed);
            depot.released += magazine.tally.released.load(Ordering::Relaxed);
            depot.reserved -= magazine.reserved;
        }
        drop(self.give(slots));
    }

    fn empty_cache(&self) {
        // Release: pairs with `bring_to_front`. Other threads notice when they next use the pool.
        self.epoch.fetch_add(1, Ordering::Release);
        let slots = std::mem::take(&mut lock(&self.depot).slots);
        drop(slots);
        // This thread's at once.
        let magazine = CACHE.try_with(|cache| cache.try_borrow_mut().ok()?.remove(self.key)).ok().flatten();
        if let Some(mut magazine) = magazine {
            drop(std::mem::take(&mut magazine.slots));
        }
    }

    fn close(&self) {
        {
            let mut depot = lock(&self.depot);
            depot.closed = true;
            for tally in &depot.tallies {
                // Relaxed: seen by who sees the epoch that `empty_cache` moves on to.
                tally.closed.store(true, Ordering::Relaxed);
            }
        }
        self.empty_cache();
    }

    fn statistics(&self) -> PoolStatistics {
        let depot = lock(&self.depot);
        let sum = |of: fn(&Tally) -> &AtomicU64| -> u64 {
            // Relaxed: numbers of moments that may differ, as documented.
            depot.tallies.iter().map(|tally| of(tally).load(Ordering::Relaxed)).sum()
        };
        // Releases first: an event that moves between the two is then counted as live, and not as less than none.
        let released = depot.released + sum(|tally| &tally.released);
        let acquired = depot.acquired + sum(|tally| &tally.acquired);
        PoolStatistics {
            created: depot.created,
            acquired,
            live: acquired.saturating_sub(released),
            idle: depot.slots.len() as u64 + sum(|tally| &tally.idle),
            bound: self.bound as u64,
        }
    }
}

impl Depot {
    fn room(&self, bound: usize) -> usize {
        if self.closed { 0 } else { (bound - self.reserved).saturating_sub(self.slots.len()) }
    }
}

/// Gives an event's slot back to its pool: neither blocks nor waits for the recording (R31).
#[inline]
pub(crate) fn release(mut slot: Box<Slot>) {
    if fork::happened() {
        // What it refers to belongs to the parent.
        return std::mem::forget(slot);
    }
    slot.end();
    let mut slot = Some(slot);
    let mut garbage = None;
    let spilled = CACHE.try_with(|cache| {
        let mut cache = cache.try_borrow_mut().ok()?;
        let slot = slot.take()?;
        let magazine = cache.of(slot.pool(), &mut garbage);
        bump(&magazine.tally.released);
        if magazine.slots.len() < magazine.room {
            magazine.slots.push(slot);
            magazine.count_idle();
            return None;
        }
        Some(spill(magazine, slot))
    });
    match spilled {
        Ok(None) if slot.is_none() => {}
        Ok(Some((pool, slots))) => drop(pool.give(slots)),
        // The thread is ending, or inside the cache.
        Ok(None) | Err(_) => release_bare(slot),
    }
}

/// Makes room in a full magazine. What goes to the depot goes there once the cache is no longer borrowed.
#[cold]
#[inline(never)]
fn spill(magazine: &mut Magazine, slot: Box<Slot>) -> (Arc<PoolCore>, Vec<Box<Slot>>) {
    let pool = slot.pool().clone();
    let mut slots = magazine.slots.split_off(magazine.slots.len().min(SHARE));
    slots.push(slot);
    magazine.count_idle();
    (pool, slots)
}

#[cold]
fn release_bare(slot: Option<Box<Slot>>) {
    let Some(slot) = slot else { return };
    let pool = slot.pool().clone();
    lock(&pool.depot).released += 1;
    drop(pool.give(vec![slot]));
}

/// The end of a pool's last handle is the end of its cache.
pub(crate) struct PoolHandle(Arc<PoolCore>);

impl PoolHandle {
    pub(crate) fn new(device: &Arc<DeviceCore>, bound: usize) -> Arc<Self> {
        Arc::new(Self(PoolCore::new(device, bound)))
    }

    #[inline]
    pub(crate) fn core(&self) -> &Arc<PoolCore> {
        &self.0
    }
}

impl Drop for PoolHandle {
    fn drop(&mut self) {
        if !fork::happened() {
            self.0.close();
        }
    }
}

/// A pool of a device's events: acquiring from it and dropping into it costs a few nanoseconds on any thread.
///
/// A cheap handle: clones refer to the same pool. Events may outlive it (R32). An event that is dropped while it is
/// pending may be handed out again at once, unrecorded, under another id (R31).
///
/// ```
/// use gpu_events::{Device, EventPool};
///
/// let device = Device::open("cpu")?;
/// let pool = EventPool::bounded(&device, 1_000);
/// let events: Vec<_> = (0..10).map(|_| pool.acquire()).collect();
/// assert_eq!(pool.statistics().live, 10);
/// drop(events);
/// assert_eq!((pool.statistics().live, pool.statistics().idle), (0, 10));
/// pool.empty_cache();
/// assert_eq!(pool.statistics().idle, 0);
/// # Ok::<(), gpu_events::Error>(())
/// ```
#[derive(Clone)]
pub struct EventPool {
    device: Device,
    handle: Arc<PoolHandle>,
}

/// What a pool has been up to. Exact when no other thread is using it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolStatistics {
    /// Event objects that were made.
    pub created: u64,
    /// Events that were handed out.
    pub acquired: u64,
    /// Events that are out.
    pub live: u64,
    /// Objects that are kept to be handed out again.
    pub idle: u64,
    /// The most that are kept.
    pub bound: u64,
}

impl EventPool {
    /// How many idle events a pool keeps unless told otherwise.
    pub const DEFAULT_BOUND: usize = 4096;

    /// A pool for the events of `device`, with the default bound.
    pub fn new(device: &Device) -> Self {
        Self::bounded(device, Self::DEFAULT_BOUND)
    }

    /// A pool that keeps at most `max_idle` events for reuse; it never limits how many are out (R30). With room for
    /// fewer than 128, it does without the threads' own magazines, and each call takes a lock.
    pub fn bounded(device: &Device, max_idle: usize) -> Self {
        Self::from_parts(device.clone(), PoolHandle::new(device.core(), max_idle))
    }

    /// The pool of the process's default device: the seed's `getMPSEventPool`. It lives as long as the process.
    ///
    /// # Errors
    /// As [`Device::default`].
    pub fn shared() -> Result<Self> {
        Ok(Device::default()?.pool())
    }

    pub(crate) fn from_parts(device: Device, handle: Arc<PoolHandle>) -> Self {
        Self { device, handle }
    }

    /// An event without timing.
    #[inline]
    pub fn acquire(&self) -> Event {
        self.handle.core().acquire(false)
    }

    /// An event whose recordings are timed.
    #[inline]
    pub fn acquire_timed(&self) -> Event {
        self.handle.core().acquire(true)
    }

    /// Frees what is kept for reuse. Events that are out are not touched. What other threads keep for themselves, 64
    /// events at most for each, they free when they next use the pool.
    pub fn empty_cache(&self) {
        if !fork::happened() {
            self.handle.core().empty_cache();
        }
    }

    /// What the pool has been up to. In a fork's child, nothing.
    pub fn statistics(&self) -> PoolStatistics {
        if fork::happened() {
            let bound = self.handle.core().bound as u64;
            return PoolStatistics { created: 0, acquired: 0, live: 0, idle: 0, bound };
        }
        self.handle.core().statistics()
    }

    /// The device whose events these are.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The stream that is used where none is named: the device's default stream.
    ///
    /// # Errors
    /// As [`Device::default_stream`].
    pub fn default_stream(&self) -> Result<Stream> {
        self.device.default_stream()
    }
}

impl fmt::Debug for EventPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventPool")
            .field("device", &self.device.name())
            .field("statistics", &self.statistics())
            .finish()
    }
}
