//! A thread that goes through an event's life in every way there is, and checks what comes of it.

use super::world::{Parcel, World, settle, take_turn};
use super::{PATIENCE, lock};
use anyhow::{Context, Result, bail, ensure};
use futures_lite::future;
use gpu_events::trace::Tracer;
use gpu_events::{
    Device, ErrorKind, Event, Status, Stream, StreamWait, WaitAny, WaitOptions, WaitOutcome, WaitStrategy,
    statuses, wait_all, wait_any,
};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// After so many rounds a worker sees all of its work through.
const ROUNDS: u64 = 8;
/// The longest that a worker rests at a time.
const REST: Duration = Duration::from_millis(20);

/// Callbacks that are registered, and neither ran nor were cancelled.
#[derive(Debug, Default)]
struct Calls {
    due: Mutex<u64>,
    none_due: Condvar,
    wrong: Mutex<Option<String>>,
}

impl Calls {
    fn registered(&self) {
        *lock(&self.due) += 1;
    }

    fn done(&self) {
        let mut due = lock(&self.due);
        *due -= 1;
        if *due == 0 {
            self.none_due.notify_all();
        }
    }

    /// Keeps what was the matter, for the worker to find.
    fn complain(&self, what: String) {
        lock(&self.wrong).get_or_insert(what);
    }

    fn drain(&self) -> Result<()> {
        let waited = self.none_due.wait_timeout_while(lock(&self.due), PATIENCE, |due| *due > 0);
        let due = *waited.unwrap_or_else(PoisonError::into_inner).0;
        ensure!(due == 0, "{due} callbacks don't run");
        match lock(&self.wrong).take() {
            Some(what) => bail!(what),
            None => Ok(()),
        }
    }
}

/// A worker's own stream, its pieces of work and its callbacks counted.
struct Own {
    stream: Stream,
    submitted: u64,
    ran: Arc<AtomicU64>,
    registered: u64,
    called: Arc<AtomicU64>,
}

impl Own {
    fn new(device: &Device) -> Result<Self> {
        let stream = device.create_stream()?;
        Ok(Self { stream, submitted: 0, ran: Arc::default(), registered: 0, called: Arc::default() })
    }

    /// Submits a piece of work, where the device takes any.
    fn work(&mut self, world: &World) -> Result<()> {
        if world.closures {
            let (ran, turn) = (self.ran.clone(), self.submitted);
            self.submitted += 1;
            self.stream.cpu()?.enqueue(move || take_turn(&ran, turn))?;
        }
        Ok(())
    }

    /// Has `event`, of this stream, call back.
    fn call(&mut self, event: &Event, calls: &Arc<Calls>) -> Result<gpu_events::Callback> {
        self.registered += 1;
        let (called, number, own) = (self.called.clone(), self.registered, calls.clone());
        calls.registered();
        Ok(event.on_complete(move |outcome| {
            if let Err(error) = outcome {
                own.complain(format!("callback {number} got {error}"));
            }
            // Relaxed: callbacks of a device run on one thread.
            let before = called.swap(number, Ordering::Relaxed);
            if before >= number {
                own.complain(format!("callback {number} came after callback {before}"));
            }
            own.done();
        })?)
    }
}

/// How many operations one of a worker's undertakings counts as.
///
/// A nominal figure, added up by hand from the calls in it where all of them are made, and to be kept up by hand: a device that
/// takes no closures is given no work, and the calls for it count all the same. It is the same for the same undertaking
/// throughout a run, which is what comparing one quarter with another takes; it is no count to compare two devices by.
type Operations = Result<u64>;

pub(super) struct Worker {
    world: Arc<World>,
    index: usize,
    own: [Own; 3],
    calls: Arc<Calls>,
    round: u64,
}

impl Worker {
    pub(super) fn new(world: Arc<World>, index: usize) -> Result<Self> {
        let own = || Own::new(&world.device);
        let own = [own()?, own()?, own()?];
        Ok(Self { world, index, own, calls: Arc::default(), round: 0 })
    }

    pub(super) fn run(&mut self) -> Result<()> {
        loop {
            let start = Instant::now();
            for _ in 0..ROUNDS {
                let round = self.round;
                let operations = self.round().with_context(|| format!("round {round}"))?;
                // Relaxed: a number to show.
                self.world.operations[self.index].0.fetch_add(operations, Ordering::Relaxed);
                self.round += 1;
            }
            self.see_through()?;
            if self.world.stop.pause(start.elapsed().min(REST)) {
                return Ok(());
            }
        }
    }

    /// Each undertaking leaves nothing of its own closed: nobody who waits for this worker's streams waits for ever.
    fn round(&mut self) -> Operations {
        let mut operations = self.records().context("recording")?
            + self.by_id().context("by id")?
            + self.times().context("timing")?
            + self.hands_over().context("handing over")?
            + self.takes_over().context("taking over")?
            + self.shares().context("sharing")?
            + self.waits().context("waiting")?
            + self.awaits().context("awaiting")?
            + self.calls_back().context("calling back")?
            + self.holds_back().context("holding back")?;
        if self.round.is_multiple_of(4) {
            operations += self.comes_and_goes().context("a stream comes and goes")?;
        }
        if self.round.is_multiple_of(16) {
            operations += self.fails().context("failing")?;
        }
        if self.round.is_multiple_of(64) {
            operations += self.traces().context("tracing")?;
        }
        if self.round.is_multiple_of(1024) {
            self.world.pool.empty_cache();
            operations += 1;
        }
        Ok(operations)
    }

    /// Waits for everything that this worker has under way: what is in flight stays bounded.
    fn see_through(&mut self) -> Result<()> {
        let patient = WaitOptions::new().timeout(PATIENCE);
        for own in &self.own {
            let outcome = own.stream.synchronize_with(&patient)?;
            ensure!(outcome.is_complete(), "{:?} does not come to its end", own.stream);
            let ran = own.ran.load(Ordering::Relaxed);
            ensure!(ran == own.submitted, "{ran} pieces of work ran, of {}", own.submitted);
        }
        self.calls.drain()
    }

    /// Recorded, and again while pending; reset and dropped while pending.
    fn records(&mut self) -> Operations {
        let Self { world, own: [own, ..], .. } = self;
        let (kept, dropped, reset) = (world.pool.acquire(), world.pool.acquire(), world.pool.acquire());
        ensure!(kept.status() == Status::Unrecorded, "a pooled event has a past");
        ensure!(!kept.is_complete()?, "an unrecorded event is complete");
        for event in [&kept, &dropped, &reset] {
            own.work(world)?;
            event.record(&own.stream)?;
        }
        drop(dropped);
        reset.reset();
        ensure!(reset.status() == Status::Unrecorded, "a reset did not");
        own.work(world)?;
        kept.record(&own.stream)?;
        reset.record(&own.stream)?;
        settle(&reset)?;
        // Recorded before it, on the same stream (R10).
        ensure!(kept.is_complete()?, "a later recording completed first");
        Ok(20)
    }

    /// The seed's way, by number.
    fn by_id(&mut self) -> Operations {
        let Self { world, own: [_, own, _], .. } = self;
        let (table, timing) = (&world.table, world.timed);
        let (start, end) = (table.acquire(timing)?, table.acquire(timing)?);
        table.record(start, Some(&own.stream), false)?;
        own.work(world)?;
        table.record(end, Some(&own.stream), true)?;
        if timing {
            match table.elapsed_time(start, end) {
                Ok(took) => ensure!(took >= 0.0, "the end came {took} ms after the start"),
                Err(error) if error.kind() == ErrorKind::NotMeasured => {}
                Err(error) => return Err(error.into()),
            }
        }
        table.synchronize(end)?;
        ensure!(table.query(start)?, "the start is not complete, and the end is");
        table.reset(start, false)?;
        ensure!(!table.query(start)?, "a reset did not");
        table.release(start)?;
        table.release(end)?;
        let stale = table.query(start).map_err(|error| error.kind());
        ensure!(stale == Err(ErrorKind::InvalidId), "a stale id: {stale:?}");
        Ok(12)
    }

    fn times(&mut self) -> Operations {
        let Self { world, own: [.., own], .. } = self;
        if !world.timed {
            return Ok(0);
        }
        let start = own.stream.record_timed()?;
        own.work(world)?;
        let middle = own.stream.record_timed()?;
        own.work(world)?;
        let end = own.stream.record_timed()?;
        settle(&end)?;
        match (middle.elapsed_since(&start), end.elapsed_since(&middle), end.elapsed_since(&start)) {
            (Ok(first), Ok(second), Ok(whole)) => {
                let parts = first.as_millis_f64() + second.as_millis_f64();
                // A double's last digits.
                let off = (parts - whole.as_millis_f64()).abs();
                ensure!(off < 1e-3, "the parts are {parts} ms, the whole {}", whole.as_millis_f64());
            }
            (first, second, whole) => {
                for error in [first.err(), second.err(), whole.err()].into_iter().flatten() {
                    ensure!(error.kind() == ErrorKind::NotMeasured, "{error}");
                }
            }
        }
        Ok(12)
    }

    fn hands_over(&mut self) -> Operations {
        let Self { world, own: [own, ..], .. } = self;
        let (written, expected) = (Arc::new(AtomicU64::new(0)), self.round + 1);
        if world.closures {
            let own_copy = written.clone();
            // Relaxed: the event is what orders it.
            own.stream.cpu()?.enqueue(move || own_copy.store(expected, Ordering::Relaxed))?;
        }
        let event = own.stream.record()?;
        let mut parcels = lock(&world.parcels);
        if parcels.len() < 4 * world.operations.len() {
            parcels.push_back(Parcel { event, written, expected });
        }
        Ok(3)
    }

    fn takes_over(&mut self) -> Operations {
        let Self { world, own: [_, own, _], .. } = self;
        let taken: Vec<Parcel> = {
            let mut parcels = lock(&world.parcels);
            let count = parcels.len().min(2);
            parcels.drain(..count).collect()
        };
        let mut operations = 0;
        for Parcel { event, written, expected } in &taken {
            own.stream.wait(event)?;
            if world.closures {
                let (written, expected) = (written.clone(), *expected);
                own.stream.cpu()?.enqueue(move || match written.load(Ordering::Relaxed) {
                    found if found == expected => Ok(()),
                    found => Err(format!("{found} was handed over, not {expected}")),
                })?;
            }
            operations += 3;
        }
        let behind = own.stream.record()?;
        settle(&behind)?;
        for Parcel { event, .. } in &taken {
            ensure!(event.status() == Status::Complete, "a stream did not wait for {event:?}");
        }
        Ok(operations + 3)
    }

    fn shares(&mut self) -> Operations {
        let Self { world, own: [.., own], .. } = self;
        let shared = &world.shared[(self.round % 2) as usize];
        let event = world.pool.acquire();
        {
            let mut guard = shared.stream.lock()?;
            if world.closures {
                let mut next = lock(&shared.next);
                let (ran, turn) = (shared.ran.clone(), *next);
                *next += 1;
                guard.cpu()?.enqueue(move || take_turn(&ran, turn))?;
            }
            guard.record(&event)?;
        }
        own.stream.wait(&event)?;
        own.work(world)?;
        let own_event = own.stream.record()?;
        shared.stream.wait(&own_event)?;
        settle(&own_event)?;
        ensure!(event.is_complete()?, "a stream did not wait for a shared one");
        Ok(9)
    }

    fn waits(&mut self) -> Operations {
        let Self { world, own, .. } = self;
        let mut events = Vec::with_capacity(own.len());
        for own in own {
            own.work(world)?;
            events.push(own.stream.record()?);
        }
        let patient = WaitOptions::new().timeout(PATIENCE);
        match wait_any(&events, &patient)? {
            WaitAny::Settled(index) => ensure!(events[index].is_complete()?, "settled, and not complete"),
            WaitAny::TimedOut => bail!("none of three completes"),
        }
        // Short of spinning to the end: there may be one core.
        let spin = patient.strategy(WaitStrategy::SpinThenPark(Duration::from_micros(20)));
        ensure!(events[0].wait_with(&spin)?.is_complete(), "{:?} does not complete", events[0]);
        ensure!(wait_all(&events, &patient)?.is_complete(), "three don't complete");
        let all = statuses(&events);
        ensure!(all.iter().all(|status| *status == Status::Complete), "{all:?} after a wait for all");
        Ok(13)
    }

    fn awaits(&mut self) -> Operations {
        let Self { world, own: [one, other, _], .. } = self;
        one.work(world)?;
        let first = one.stream.record()?;
        other.stream.wait(&first)?;
        other.work(world)?;
        let second = other.stream.record()?;
        // Polled once and dropped, pending or not (R18).
        if let Some(outcome) = future::block_on(future::poll_once(second.completion())) {
            outcome?;
        }
        let (first_done, second_done) =
            future::block_on(future::zip(first.completion(), second.completion()));
        first_done?;
        second_done?;
        ensure!(second.is_complete()?, "awaited, and not complete");
        Ok(9)
    }

    fn calls_back(&mut self) -> Operations {
        let Self { world, own: [own, ..], calls, .. } = self;
        let mut operations = 0;
        for n in 0..3 {
            own.work(world)?;
            let event = own.stream.record()?;
            let callback = own.call(&event, calls)?;
            // True means that it never runs (R18).
            if n == 1 && callback.cancel() {
                calls.done();
                ensure!(!callback.cancel(), "cancelled twice");
            }
            operations += 4;
        }
        Ok(operations)
    }

    /// Behind a gate that the host opens; nothing is waited for before it is open.
    fn holds_back(&mut self) -> Operations {
        let Self { world, own: [_, own, other], calls, .. } = self;
        let (gate, open) = world.device.host_event()?;
        ensure!(own.stream.wait(&gate)?.inserted(), "a stream does not wait for a closed gate");
        own.work(world)?;
        let event = own.stream.record()?;
        let again = world.pool.acquire();
        again.record(&own.stream)?;
        other.stream.wait(&event)?;
        let last = other.stream.record()?;
        let callback = own.call(&event, calls)?;
        ensure!(event.status() == Status::Pending, "a gate held nothing back");
        let briefly = Duration::from_micros(if self.round.is_multiple_of(8) { 20 } else { 0 });
        ensure!(last.wait_timeout(briefly)? == WaitOutcome::TimedOut, "a wait for a closed gate ended");
        if self.round.is_multiple_of(2) {
            ensure!(callback.cancel(), "a callback that can't have run was not cancelled");
            calls.done();
        }
        // Dropped while pending: neither blocks nor cancels (R31).
        drop(again);
        open.complete();
        settle(&last)?;
        ensure!(event.is_complete()? && gate.is_complete()?, "a stream did not wait for one behind a gate");
        ensure!(own.stream.wait(&gate)? == StreamWait::Nothing, "a wait for an open gate");
        Ok(16)
    }

    /// Events outlive their stream (R32), whose work goes on (R7).
    fn comes_and_goes(&mut self) -> Operations {
        let Self { world, .. } = self;
        let mut own = Own::new(&world.device)?;
        own.work(world)?;
        let event = own.stream.record()?;
        let (ran, submitted) = (own.ran.clone(), own.submitted);
        drop(own);
        settle(&event)?;
        // Relaxed: the wait for the event orders it.
        ensure!(ran.load(Ordering::Relaxed) == submitted, "a stream's work went with its handle");
        Ok(6)
    }

    /// A failure reaches whoever waits for it (R26), on streams of its own.
    fn fails(&mut self) -> Operations {
        let Self { world, calls, .. } = self;
        let (gate, signal) = world.device.host_event()?;
        let (one, other) = (world.device.create_stream()?, world.device.create_stream()?);
        one.wait(&gate)?;
        let failed = one.record()?;
        other.wait(&failed)?;
        let last = other.record()?;
        let own = calls.clone();
        calls.registered();
        last.on_complete(move |outcome| {
            if outcome.is_ok() {
                own.complain("a callback was told that what failed completed".to_owned());
            }
            own.done();
        })?;
        signal.fail("on purpose");
        for event in [&failed, &last] {
            let outcome = event.wait_timeout(PATIENCE).map_err(|error| error.kind());
            ensure!(outcome == Err(ErrorKind::WorkFailed), "a failed event: {outcome:?}");
        }
        ensure!(last.status() == Status::Failed, "a failed event is {:?}", last.status());
        Ok(13)
    }

    fn traces(&mut self) -> Operations {
        let Self { world, own: [own, ..], .. } = self;
        if !world.timed {
            return Ok(0);
        }
        let tracer = Tracer::new("soak");
        let span = tracer.span(&own.stream, "span");
        own.work(world)?;
        span.end();
        settle(&own.stream.record()?)?;
        let (kept, dropped) = (tracer.finish().spans.len() as u64, tracer.dropped());
        // It has come to its end on the device, and so it is there or was counted as dropped.
        ensure!(kept + dropped == 1, "{kept} spans of one, and {dropped} dropped");
        // The CPU has room, and always tells the time.
        ensure!(kept == 1 || !world.closures, "a span on the CPU was dropped");
        // Relaxed: looked at when all has ended.
        world.spans.begun.fetch_add(1, Ordering::Relaxed);
        world.spans.kept.fetch_add(kept, Ordering::Relaxed);
        Ok(6)
    }
}
