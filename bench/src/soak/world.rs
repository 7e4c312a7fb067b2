//! What the threads share.

use super::{PATIENCE, lock};
use anyhow::{Result, ensure};
use gpu_events::{Device, Event, EventPool, EventTable, Status, Stream};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Ends the threads, and times their rests.
#[derive(Debug, Default)]
pub(super) struct Stop {
    set: Mutex<bool>,
    bell: Condvar,
}

impl Stop {
    pub(super) fn set(&self) {
        *lock(&self.set) = true;
        self.bell.notify_all();
    }

    /// Rests, at most so long. Whether it is time to end.
    pub(super) fn pause(&self, at_most: Duration) -> bool {
        let waited = self.bell.wait_timeout_while(lock(&self.set), at_most, |set| !*set);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

/// On a cache line of its own: each worker counts.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Count(pub(super) AtomicU64);

/// Spans that were traced. A device may tell no time now and then, and its span is dropped then; not every time.
#[derive(Debug, Default)]
pub(super) struct Spans {
    pub(super) begun: AtomicU64,
    pub(super) kept: AtomicU64,
}

/// What the threads share.
pub(super) struct World {
    pub(super) device: Device,
    pub(super) pool: EventPool,
    pub(super) table: EventTable,
    /// Only the CPU's streams take closures.
    pub(super) closures: bool,
    pub(super) timed: bool,
    pub(super) shared: Vec<Shared>,
    /// From each worker to whoever comes next.
    pub(super) parcels: Mutex<VecDeque<Parcel>>,
    pub(super) operations: Vec<Count>,
    pub(super) spans: Spans,
    /// Nanoseconds of processor time that the measuring thread has used.
    pub(super) probing: AtomicU64,
    /// In nanoseconds, of each probe, since the last interval's end.
    pub(super) samples: Mutex<[Vec<f64>; 4]>,
    pub(super) stop: Stop,
}

impl World {
    pub(super) fn new(device: &Device, workers: usize) -> Result<Self> {
        let pool = device.pool();
        Ok(Self {
            table: EventTable::new(&pool),
            pool,
            closures: device.info().backend == "cpu",
            timed: device.capabilities().timed,
            shared: (0..2).map(|_| Shared::new(device)).collect::<Result<_>>()?,
            parcels: Mutex::default(),
            operations: (0..workers).map(|_| Count::default()).collect(),
            spans: Spans::default(),
            probing: AtomicU64::new(0),
            samples: Mutex::default(),
            stop: Stop::default(),
            device: device.clone(),
        })
    }
}

/// A stream that all workers submit to. Whoever holds it takes the next turn, and the turns have to be run in order.
pub(super) struct Shared {
    pub(super) stream: Stream,
    pub(super) next: Mutex<u64>,
    pub(super) ran: Arc<AtomicU64>,
}

impl Shared {
    pub(super) fn new(device: &Device) -> Result<Self> {
        Ok(Self { stream: device.create_stream()?, next: Mutex::new(0), ran: Arc::default() })
    }
}

/// What one worker hands over to another: a recording, and what is written before it.
pub(super) struct Parcel {
    pub(super) event: Event,
    pub(super) written: Arc<AtomicU64>,
    pub(super) expected: u64,
}

/// The next turn of a stream: fails the stream if it comes at another time.
pub(super) fn take_turn(ran: &AtomicU64, turn: u64) -> Result<(), String> {
    // Relaxed: one stream's work runs in order, each piece after the one before.
    let before = ran.load(Ordering::Relaxed);
    ran.store(turn + 1, Ordering::Relaxed);
    if before == turn { Ok(()) } else { Err(format!("turn {turn} came when it was turn {before}'s time")) }
}

/// Waits for what has to come.
pub(super) fn settle(event: &Event) -> Result<()> {
    let outcome = event.wait_timeout(PATIENCE)?;
    ensure!(outcome.is_complete(), "{event:?} does not complete");
    // Level-triggered: asking again is the same (R11).
    ensure!(event.status() == Status::Complete, "{event:?} after a wait for it");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_out_of_order_are_noticed() {
        let ran = AtomicU64::new(0);
        take_turn(&ran, 0).unwrap();
        take_turn(&ran, 1).unwrap();
        take_turn(&ran, 3).unwrap_err();
    }
}
