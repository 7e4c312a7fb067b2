//! The concurrent core under loom: every pair of operations that may meet, in every interleaving of so many
//! preemptions (CI allows three) that loom finds, under its C11 memory model.
//!
//! ```sh
//! RUSTFLAGS="--cfg gpu_events_loom" LOOM_MAX_PREEMPTIONS=2 cargo test --release -p gpu-events --test loom
//! ```
//!
//! Everything goes through the public interface, with a device of our own ([`Sim`]) whose driver is the model itself:
//! a thread of the model calls `advance` and `fail`. A wake-up that is lost shows as a deadlock, which loom reports; a
//! memory effect that is lost shows as a stale read of a relaxed atomic that only the event orders ([`Effect`]).
//!
//! # What is not modelled
//! - `Arc` is that of the standard library: loom sees no point to switch at in it and no order. Nothing here relies on
//!   it for order.
//! - dashmap is replaced by a map under one lock (`primitive.rs`): the table's own use of it is checked, dashmap is not.
//! - Stores are exchanges, which keep release sequences that a store would end; why, and what else had to be put
//!   around loom's own primitives so that it runs the orders that matter, is in `src/primitive/model.rs`.
//! - Time does not pass: no model waits with a deadline or spins.
//! - The CPU device's workers: a strand that is made ready gets a thread of the model of its own. The real ones are in
//!   `tests/stress.rs`, under ThreadSanitizer as well.
//!
//! Which changes to the code the models were seen to catch is listed in `src/timeline/README.md`.

#![cfg(gpu_events_loom)]

use gpu_events::{
    Capabilities, Clock, ClockId, Completion, Correlation, Device, DeviceInfo, Error, ErrorKind, Event,
    EventPool, EventTable, Result, Status, Stream, StreamWait, WaitAny, WaitOptions,
    backend::{
        Backend, BackendStream, Flushed, Gate, Lane, Room, Signaled, Source, Stamp, StreamSeed, StreamTraits,
        Waited,
    },
    wait_any,
};
use loom::{
    sync::{Condvar, Mutex, atomic::AtomicU32},
    thread,
};
use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, RwLock, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

// ---------------------------------------------------------------------------------------------------------------------
// The device

/// A device whose driver is the model. Where it takes notes, it takes them with the standard library's atomics and
/// locks, which loom does not see: notes are no order.
#[derive(Clone, Debug)]
struct Sim {
    traits: StreamTraits,
    /// The driver waits by itself; otherwise the host opens gates.
    waits: Waited,
    depth: Option<u64>,
    /// Recordings complete on the spot from this position on.
    idle_from: u64,
    /// Submissions are refused.
    refusing: bool,
    #[expect(dead_code, reason = "counted while it is there")]
    alive: Alive,
}

thread_local! {
    /// How many devices, and copies of what they are made from, are alive in the execution that this thread runs.
    static ALIVE: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// One of those counted.
#[derive(Debug)]
struct Alive;

impl Alive {
    fn new() -> Self {
        ALIVE.set(ALIVE.get() + 1);
        Self
    }
}

impl Clone for Alive {
    fn clone(&self) -> Self {
        Self::new()
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        ALIVE.set(ALIVE.get() - 1);
    }
}

#[derive(Debug)]
struct SimStream {
    sim: Sim,
    lane: Weak<Lane<SimStream>>,
    signaled: AtomicU64,
    /// What was given to the driver, who waits for it.
    flushed: Mutex<u64>,
    bell: Condvar,
    /// The last position that somebody was to look after.
    watched: AtomicU64,
    /// The waits that were asked for: the source and its position.
    sources: std::sync::Mutex<Vec<(u64, u64)>>,
    gates: std::sync::Mutex<Vec<Arc<SimGate>>>,
}

#[derive(Debug)]
struct SimGate {
    lane: Weak<Lane<SimStream>>,
    opened: AtomicBool,
    /// Whether the lane was marked failed by the time that the gate opened.
    failed: AtomicBool,
    /// A lane behind this one, and whether it was marked by then.
    behind: std::sync::Mutex<Option<(Weak<Lane<SimStream>>, bool)>>,
}

#[derive(Debug)]
struct SimStamp(u64);

impl Sim {
    /// Completion is pushed; each submission goes at once.
    fn new() -> Self {
        let traits = StreamTraits { pushed: true, batches: false };
        Self {
            traits,
            waits: Waited::Native,
            depth: None,
            idle_from: u64::MAX,
            refusing: false,
            alive: Alive::new(),
        }
    }

    /// As most GPUs: asked, and gathering.
    fn batching() -> Self {
        Self { traits: StreamTraits { pushed: false, batches: true }, ..Self::new() }
    }

    fn gated() -> Self {
        Self { waits: Waited::Unsupported, ..Self::new() }
    }

    fn open(&self) -> Device {
        Device::from_backend(self.clone())
    }
}

impl Backend for Sim {
    fn info(&self) -> DeviceInfo {
        let clock = Clock::new(ClockId::HOST, "the model", Duration::from_nanos(1), 1, 1);
        DeviceInfo::new("sim:0", "sim", "a model", clock, Capabilities::default())
    }

    fn create_stream(&self, seed: StreamSeed<'_>) -> Result<Arc<Lane>> {
        seed.build(|lane| SimStream {
            sim: self.clone(),
            lane: lane.clone(),
            signaled: AtomicU64::new(0),
            flushed: Mutex::new(0),
            watched: AtomicU64::new(0),
            bell: Condvar::new(),
            sources: std::sync::Mutex::default(),
            gates: std::sync::Mutex::default(),
        })
    }

    fn correlate(&self) -> Result<Correlation> {
        Err(Error::new(ErrorKind::NotMeasured))
    }
}

impl BackendStream for SimStream {
    fn traits(&self) -> StreamTraits {
        self.sim.traits
    }

    fn signal(&self, position: u64, timed: bool) -> Result<Signaled> {
        let completed = self.lane.upgrade().map_or(0, |lane| lane.completed());
        if let Some(depth) = self.sim.depth
            && position - completed > depth
        {
            return Ok(Signaled::Full(Room { after: position - depth }));
        }
        self.signaled.store(position, SeqCst);
        if position >= self.sim.idle_from {
            return Ok(Signaled::Done(None));
        }
        let id = self.lane.upgrade().map_or(0, |lane| lane.id());
        Ok(Signaled::Pending(timed.then(|| Arc::new(SimStamp(ticks(id, position))) as Arc<dyn Stamp>)))
    }

    fn wait(&self, source: &Source<'_>) -> Result<Waited> {
        self.sources.lock().unwrap().push((source.lane().id(), source.position()));
        Ok(self.sim.waits)
    }

    fn gate(&self) -> Result<Arc<dyn Gate>> {
        let gate = Arc::new(SimGate {
            lane: self.lane.clone(),
            opened: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            behind: std::sync::Mutex::new(None),
        });
        self.gates.lock().unwrap().push(gate.clone());
        Ok(gate)
    }

    fn flush(&self) -> Result<Flushed> {
        if self.sim.refusing {
            return Err(Error::new(ErrorKind::Driver));
        }
        *self.flushed.lock().unwrap() = self.signaled.load(SeqCst);
        self.bell.notify_all();
        Ok(Flushed::All)
    }

    fn poll(&self) {}

    fn watch(&self, position: u64) {
        self.watched.fetch_max(position, SeqCst);
    }

    fn abandon(&self) {}
}

impl SimStream {
    fn flushed(&self) -> u64 {
        *self.flushed.lock().unwrap()
    }

    /// The driver: blocks until so much was given to it.
    fn wait_for_submission(&self, position: u64) {
        let mut flushed = self.flushed.lock().unwrap();
        while *flushed < position {
            flushed = self.bell.wait(flushed).unwrap();
        }
    }
}

impl Gate for SimGate {
    fn open(&self) {
        if !self.opened.swap(true, SeqCst) {
            self.failed.store(self.lane.upgrade().is_none_or(|lane| lane.is_failed()), SeqCst);
            if let Some((behind, failed)) = &mut *self.behind.lock().unwrap() {
                *failed = behind.upgrade().is_none_or(|lane| lane.is_failed());
            }
        }
    }
}

impl Stamp for SimStamp {
    fn ticks(&self) -> Result<u64> {
        Ok(self.0)
    }
}

/// The time of a position: says which it was.
fn ticks(lane: u64, position: u64) -> u64 {
    lane * 1000 + position
}

fn half(stream: &Stream) -> &SimStream {
    stream.backend().expect("a stream of the model's device")
}

fn lane(stream: &Stream) -> Arc<Lane<SimStream>> {
    half(stream).lane.upgrade().expect("kept by its stream")
}

fn stream(sim: &Sim) -> Stream {
    sim.open().create_stream().unwrap()
}

fn broken() -> Error {
    Error::with_text(ErrorKind::WorkFailed, "broken")
}

// ---------------------------------------------------------------------------------------------------------------------
// The model

/// Stall reports look at the devices of the whole process, those of other models included, which are another loom's.
/// So the models that make one run alone.
static ALONE: RwLock<()> = RwLock::new(());

fn model(f: impl Fn() + Sync + Send + 'static) {
    let _shared = ALONE.read().unwrap_or_else(std::sync::PoisonError::into_inner);
    check(f);
}

fn model_alone(f: impl Fn() + Sync + Send + 'static) {
    let _alone = ALONE.write().unwrap_or_else(std::sync::PoisonError::into_inner);
    check(f);
}

fn check(f: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(2);
    builder.max_branches = 20_000;
    let runs = Arc::new(AtomicUsize::new(0));
    let count = runs.clone();
    builder.check(move || {
        nothing_is_kept();
        count.fetch_add(1, Relaxed);
        f();
    });
    nothing_is_kept();
    println!("{} executions", runs.load(Relaxed));
}

/// At the end of an execution everything was let go of, whoever was the last to hold it.
fn nothing_is_kept() {
    assert_eq!(ALIVE.get(), 0, "a device outlived the model");
}

/// What work wrote before it was done: relaxed, so that only the event can order it (R8).
#[derive(Clone)]
struct Effect(Arc<AtomicU32>);

impl Effect {
    fn new() -> Self {
        Self(Arc::new(AtomicU32::new(0)))
    }

    fn write(&self) {
        self.0.store(1, Relaxed);
    }

    #[track_caller]
    fn must_be_seen(&self) {
        assert_eq!(self.0.load(Relaxed), 1, "complete, but what the work wrote is not there");
    }
}

/// A waker that counts.
#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wakes {
    fn new() -> (Arc<Self>, Waker) {
        let wakes = Arc::new(Self::default());
        (wakes.clone(), wakes.into())
    }

    fn count(&self) -> usize {
        self.0.load(SeqCst)
    }
}

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

fn poll(future: &mut Completion, waker: &Waker) -> Poll<Result<()>> {
    Pin::new(future).poll(&mut Context::from_waker(waker))
}

/// What callbacks said, in order, and a thread that waits for them.
#[derive(Clone)]
struct Log(Arc<(Mutex<Vec<(u64, Option<ErrorKind>)>>, Condvar)>);

impl Log {
    fn new() -> Self {
        Self(Arc::new((Mutex::new(Vec::new()), Condvar::new())))
    }

    fn callback(&self, number: u64) -> impl FnOnce(Result<()>) + Send + 'static {
        let log = self.clone();
        move |outcome| {
            log.0.0.lock().unwrap().push((number, outcome.err().map(|error| error.kind())));
            log.0.1.notify_all();
        }
    }

    /// Blocks until there are so many entries.
    fn wait(&self, entries: usize) -> Vec<(u64, Option<ErrorKind>)> {
        let mut log = self.0.0.lock().unwrap();
        while log.len() < entries {
            log = self.0.1.wait(log).unwrap();
        }
        log.clone()
    }

    fn entries(&self) -> Vec<(u64, Option<ErrorKind>)> {
        self.0.0.lock().unwrap().clone()
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Advance against registering

#[test]
fn advance_against_a_blocking_wait() {
    model(|| {
        let stream = stream(&Sim::new());
        let event = stream.record().unwrap();
        let (lane, effect) = (lane(&stream), Effect::new());
        let driver = thread::spawn({
            let effect = effect.clone();
            move || {
                effect.write();
                lane.advance(1);
            }
        });
        event.synchronize().unwrap();
        effect.must_be_seen();
        assert_eq!(event.status(), Status::Complete);
        driver.join().unwrap();
    });
}

#[test]
fn advance_against_a_waker() {
    model(|| {
        let stream = stream(&Sim::new());
        let event = stream.record().unwrap();
        let (lane, effect) = (lane(&stream), Effect::new());
        let driver = thread::spawn({
            let effect = effect.clone();
            move || {
                effect.write();
                lane.advance(1);
            }
        });
        let (wakes, waker) = Wakes::new();
        let mut future = event.completion();
        let first = poll(&mut future, &waker);
        if first.is_ready() {
            effect.must_be_seen();
        }
        driver.join().unwrap();
        // Once if it had to wait; if it had not, nobody is there to be woken.
        assert_eq!(wakes.count(), usize::from(first.is_pending()));
        assert!(matches!(poll(&mut future, &waker), Poll::Ready(Ok(()))));
    });
}

#[test]
fn advance_against_a_callback() {
    model(|| {
        let stream = stream(&Sim::new());
        let event = stream.record().unwrap();
        let (lane, effect, log) = (lane(&stream), Effect::new(), Log::new());
        let driver = thread::spawn({
            let effect = effect.clone();
            move || {
                effect.write();
                lane.advance(1);
            }
        });
        let callback = {
            let (note, effect) = (log.callback(1), effect.clone());
            move |outcome: Result<()>| {
                // Not asserted here: a callback's panic stays in the callback (R17).
                let seen = effect.0.load(Relaxed) == 1;
                note(outcome.and(if seen { Ok(()) } else { Err(broken()) }));
            }
        };
        event.on_complete(callback).unwrap();
        assert_eq!(log.wait(1), [(1, None)]);
        driver.join().unwrap();
    });
}

/// A status that is asked for sees what the work wrote, also where somebody else found out first and wrote it down in
/// the event.
#[test]
fn advance_against_status() {
    model(|| {
        let stream = stream(&Sim::new());
        let event = Arc::new(stream.record().unwrap());
        let (lane, effect) = (lane(&stream), Effect::new());
        let driver = thread::spawn({
            let effect = effect.clone();
            move || {
                effect.write();
                lane.advance(1);
            }
        });
        let other = thread::spawn({
            let event = event.clone();
            move || event.status()
        });
        let first = event.status();
        if first == Status::Complete {
            effect.must_be_seen();
        }
        let second = event.status();
        assert!(first != Status::Complete || second == Status::Complete, "it went back");
        driver.join().unwrap();
        other.join().unwrap();
    });
}

/// A thread that waits for one of two leaves nothing behind in the other's list.
#[test]
fn advance_against_wait_any() {
    model_alone(|| {
        let device = Sim::new().open();
        let (a, b) = (device.create_stream().unwrap(), device.create_stream().unwrap());
        let events = [a.record().unwrap(), b.record().unwrap()];
        let lane_b = lane(&b);
        let driver = thread::spawn(move || lane_b.advance(1));
        assert_eq!(wait_any(&events, &WaitOptions::new()).unwrap(), WaitAny::Settled(1));
        driver.join().unwrap();
        let report = device.stall_report();
        assert!(report.stalled().iter().all(|stalled| stalled.observers.is_empty()), "{report}");
        lane(&a).advance(1);
        assert_eq!(wait_any(&events, &WaitOptions::new()).unwrap(), WaitAny::Settled(0));
    });
}

// ---------------------------------------------------------------------------------------------------------------------
// Several who advance

/// Two advances, the higher one perhaps first, with somebody waiting for each.
#[test]
fn two_advance_out_of_order() {
    model(|| {
        let stream = stream(&Sim::new());
        let events = [stream.record().unwrap(), stream.record().unwrap()];
        let mut waits: Vec<_> = events.iter().map(|event| (event.completion(), Wakes::new())).collect();
        for (future, (_, waker)) in &mut waits {
            assert!(poll(future, waker).is_pending());
        }
        let lane = lane(&stream);
        let driver = thread::spawn({
            let lane = lane.clone();
            move || lane.advance(1)
        });
        lane.advance(2);
        driver.join().unwrap();
        assert_eq!(lane.completed(), 2);
        for (future, (wakes, waker)) in &mut waits {
            assert_eq!(wakes.count(), 1);
            assert!(poll(future, waker).is_ready());
        }
    });
}

/// Somebody who waits for 2 registers while one thread advances to 1 and another to 2.
#[test]
fn two_advance_while_somebody_registers() {
    model(|| {
        let stream = stream(&Sim::new());
        let events = [stream.record().unwrap(), stream.record().unwrap()];
        let (_wakes, waker) = Wakes::new();
        let mut first = events[0].completion();
        assert!(poll(&mut first, &waker).is_pending());
        let (one, two) = (lane(&stream), lane(&stream));
        let drivers = [thread::spawn(move || one.advance(1)), thread::spawn(move || two.advance(2))];
        events[1].synchronize().unwrap();
        for driver in drivers {
            driver.join().unwrap();
        }
        assert!(poll(&mut first, &waker).is_ready());
    });
}

/// Callbacks of a stream run in order of position, whoever advances, and however late one registers.
#[test]
fn callbacks_keep_their_order() {
    model(|| {
        let stream = stream(&Sim::new());
        let (one, two) = (stream.record().unwrap(), stream.record().unwrap());
        let log = Log::new();
        one.on_complete(log.callback(1)).unwrap();
        let (first, second) = (lane(&stream), lane(&stream));
        let driver = thread::spawn(move || first.advance(1));
        second.advance(2);
        // Complete: nothing but the first one's delivery can be under way.
        two.on_complete(log.callback(2)).unwrap();
        assert_eq!(log.wait(2), [(1, None), (2, None)]);
        driver.join().unwrap();
    });
}

// ---------------------------------------------------------------------------------------------------------------------
// Failure

#[test]
fn fail_against_a_blocking_wait() {
    model(|| {
        let stream = stream(&Sim::new());
        let event = stream.record().unwrap();
        let lane = lane(&stream);
        let driver = thread::spawn(move || lane.fail(1, broken()));
        assert_eq!(event.synchronize().unwrap_err().kind(), ErrorKind::WorkFailed);
        assert_eq!(event.status(), Status::Failed);
        driver.join().unwrap();
    });
}

#[test]
fn fail_against_a_waker() {
    model(|| {
        let stream = stream(&Sim::new());
        let event = stream.record().unwrap();
        let lane = lane(&stream);
        let driver = thread::spawn(move || lane.fail(1, broken()));
        let (wakes, waker) = Wakes::new();
        let mut future = event.completion();
        let first = poll(&mut future, &waker);
        driver.join().unwrap();
        assert_eq!(wakes.count(), usize::from(first.is_pending()));
        assert!(
            matches!(poll(&mut future, &waker), Poll::Ready(Err(error)) if error.kind() == ErrorKind::WorkFailed)
        );
    });
}

#[test]
fn fail_against_a_callback() {
    model(|| {
        let stream = stream(&Sim::new());
        let event = stream.record().unwrap();
        let (lane, log) = (lane(&stream), Log::new());
        let driver = thread::spawn(move || lane.fail(1, broken()));
        event.on_complete(log.callback(1)).unwrap();
        assert_eq!(log.wait(1), [(1, Some(ErrorKind::WorkFailed))]);
        driver.join().unwrap();
    });
}

/// Positions before the failure complete, those after it fail, the one that both are about does either, once for
/// everybody; and nobody is left.
#[test]
fn fail_against_advance() {
    model(|| {
        let stream = stream(&Sim::new());
        let events: Vec<_> = (0..3).map(|_| stream.record().unwrap()).collect();
        let mut waits: Vec<_> = events.iter().map(|event| (event.completion(), Wakes::new())).collect();
        for (future, (_, waker)) in &mut waits {
            assert!(poll(future, waker).is_pending());
        }
        let lane = lane(&stream);
        let driver = thread::spawn({
            let lane = lane.clone();
            move || {
                lane.advance(1);
                lane.advance(2);
            }
        });
        lane.fail(2, broken());
        let disputed = events[1].status();
        assert_ne!(disputed, Status::Pending);
        assert_eq!(events[2].status(), Status::Failed);
        driver.join().unwrap();
        assert_eq!(events[0].status(), Status::Complete);
        assert_eq!(events[1].status(), disputed, "settled twice");
        for ((future, (wakes, waker)), event) in waits.iter_mut().zip(&events) {
            assert_eq!(wakes.count(), 1);
            match poll(future, waker) {
                Poll::Ready(Ok(())) => assert_eq!(event.status(), Status::Complete),
                Poll::Ready(Err(_)) => assert_eq!(event.status(), Status::Failed),
                Poll::Pending => panic!("left behind"),
            }
        }
    });
}

/// A failure that begins later lets the positions before it complete as if nothing were, for those who register
/// meanwhile as well.
#[test]
fn advance_below_a_failure_against_a_blocking_wait() {
    model(|| {
        let stream = stream(&Sim::new());
        let events: Vec<_> = (0..3).map(|_| stream.record().unwrap()).collect();
        let (lane, effect) = (lane(&stream), Effect::new());
        lane.fail(3, broken());
        let driver = thread::spawn({
            let effect = effect.clone();
            move || {
                effect.write();
                lane.advance(1);
                // As far as the failure lets it.
                lane.advance(5);
            }
        });
        events[0].synchronize().unwrap();
        effect.must_be_seen();
        events[1].synchronize().unwrap();
        assert_eq!(events[2].synchronize().unwrap_err().kind(), ErrorKind::WorkFailed);
        driver.join().unwrap();
        assert_eq!(half(&stream).lane.upgrade().unwrap().completed(), 2);
    });
}

/// The first failure wins where it holds; a later one may hold for earlier positions.
#[test]
fn two_fail() {
    model(|| {
        let stream = stream(&Sim::new());
        let events: Vec<_> = (0..2).map(|_| stream.record().unwrap()).collect();
        let (wakes, waker) = Wakes::new();
        let mut future = events[1].completion();
        assert!(poll(&mut future, &waker).is_pending());
        let lane = lane(&stream);
        let driver = thread::spawn({
            let lane = lane.clone();
            move || lane.fail(1, Error::new(ErrorKind::DeviceLost))
        });
        lane.fail(2, broken());
        let kind = events[1].error().map(|error| error.kind());
        driver.join().unwrap();
        assert_eq!(events[0].error().map(|error| error.kind()), Some(ErrorKind::DeviceLost));
        assert_eq!(events[1].error().map(|error| error.kind()), kind, "a later failure won");
        assert_eq!(wakes.count(), 1);
        let Poll::Ready(Err(error)) = poll(&mut future, &waker) else { panic!("left behind") };
        assert_eq!(Some(error.kind()), kind);
    });
}

/// A failure does not overtake callbacks of positions that were complete before it.
#[test]
fn a_failure_keeps_the_callbacks_order() {
    model(|| {
        let stream = stream(&Sim::new());
        let (one, two) = (stream.record().unwrap(), stream.record().unwrap());
        let log = Log::new();
        one.on_complete(log.callback(1)).unwrap();
        two.on_complete(log.callback(2)).unwrap();
        let (advancing, failing) = (lane(&stream), lane(&stream));
        let driver = thread::spawn(move || advancing.advance(1));
        failing.fail(2, broken());
        driver.join().unwrap();
        let entries = log.wait(2);
        let complete = one.status() == Status::Complete;
        assert!(complete);
        // A failure is not held back by what is still running, so (2, 1) is right where it came first; but then the
        // advance came after it.
        if entries[0].0 == 2 {
            assert_eq!(entries, [(2, Some(ErrorKind::WorkFailed)), (1, None)]);
        } else {
            assert_eq!(entries, [(1, None), (2, Some(ErrorKind::WorkFailed))]);
        }
    });
}

/// As above, where the order is known: who failed the stream had seen the position complete.
#[test]
fn a_failure_that_saw_a_completion_keeps_the_callbacks_order() {
    model(|| {
        let stream = stream(&Sim::new());
        let (one, two) = (stream.record().unwrap(), stream.record().unwrap());
        let log = Log::new();
        one.on_complete(log.callback(1)).unwrap();
        two.on_complete(log.callback(2)).unwrap();
        let (advancing, failing) = (lane(&stream), lane(&stream));
        let driver = thread::spawn(move || advancing.advance(1));
        let seen = failing.completed() == 1;
        failing.fail(2, broken());
        driver.join().unwrap();
        let entries = log.wait(2);
        if seen {
            assert_eq!(entries, [(1, None), (2, Some(ErrorKind::WorkFailed))]);
        }
    });
}

/// Nor does a callback that is registered when the stream has failed already.
#[test]
fn a_late_callback_keeps_the_order_behind_a_failure() {
    model(|| {
        let stream = stream(&Sim::new());
        let (one, two) = (stream.record().unwrap(), stream.record().unwrap());
        let log = Log::new();
        one.on_complete(log.callback(1)).unwrap();
        let (advancing, lane) = (lane(&stream), lane(&stream));
        lane.fail(2, broken());
        let driver = thread::spawn(move || advancing.advance(1));
        let seen = lane.completed() == 1;
        two.on_complete(log.callback(2)).unwrap();
        driver.join().unwrap();
        let entries = log.wait(2);
        if seen {
            assert_eq!(entries, [(1, None), (2, Some(ErrorKind::WorkFailed))]);
        }
    });
}

// ---------------------------------------------------------------------------------------------------------------------
// Taking back

/// `true` is a promise that it never runs; `false`, that it does.
#[test]
fn cancel_against_fire() {
    model(|| {
        let stream = stream(&Sim::new());
        let event = stream.record().unwrap();
        let (lane, log) = (lane(&stream), Log::new());
        let callback = event.on_complete(log.callback(1)).unwrap();
        let driver = thread::spawn(move || lane.advance(1));
        let cancelled = callback.cancel();
        driver.join().unwrap();
        // The next one on the same thread runs after it.
        stream.device().pool().acquire().on_complete(log.callback(2)).unwrap();
        if cancelled {
            assert_eq!(log.wait(1), [(2, None)]);
        } else {
            assert_eq!(log.wait(2), [(1, None), (2, None)]);
        }
        assert!(!callback.cancel());
    });
}

#[test]
fn cancel_against_cancel() {
    model(|| {
        let stream = stream(&Sim::new());
        let event = stream.record().unwrap();
        let log = Log::new();
        let callback = Arc::new(event.on_complete(log.callback(1)).unwrap());
        let other = thread::spawn({
            let callback = callback.clone();
            move || callback.cancel()
        });
        let mine = callback.cancel();
        assert!(mine != other.join().unwrap(), "cancelled by both or by none");
        lane(&stream).advance(1);
        assert!(log.entries().is_empty());
    });
}

/// Nothing stays behind when futures go, whether their event is completing or not: neither an entry nor a waker.
#[test]
fn drop_of_a_future_against_fire() {
    model(|| {
        let stream = stream(&Sim::new());
        let (event, later) = (stream.record().unwrap(), stream.record().unwrap());
        let lane = lane(&stream);
        let (wakes, waker) = Wakes::new();
        let mut futures = [event.completion(), later.completion()];
        for future in &mut futures {
            assert!(poll(future, &waker).is_pending());
        }
        drop(waker);
        let driver = thread::spawn(move || lane.advance(1));
        drop(futures);
        driver.join().unwrap();
        assert!(wakes.count() <= 1);
        assert_eq!(Arc::strong_count(&wakes), 1, "a waker is kept");
        assert_eq!((event.status(), later.status()), (Status::Complete, Status::Pending));
    });
}

/// The latest waker is the one that is woken, unless the future already told that it is ready.
#[test]
fn two_wakers_against_fire() {
    model(|| {
        let stream = stream(&Sim::new());
        let event = stream.record().unwrap();
        let (lane, effect) = (lane(&stream), Effect::new());
        let ((old, first), (new, second)) = (Wakes::new(), Wakes::new());
        let mut future = event.completion();
        assert!(poll(&mut future, &first).is_pending());
        let driver = thread::spawn({
            let effect = effect.clone();
            move || {
                effect.write();
                lane.advance(1);
            }
        });
        let latest = poll(&mut future, &second);
        if latest.is_ready() {
            effect.must_be_seen();
        }
        driver.join().unwrap();
        if latest.is_pending() {
            assert_eq!((old.count(), new.count()), (0, 1));
        } else {
            assert!(old.count() <= 1 && new.count() <= 1);
        }
        assert!(poll(&mut future, &second).is_ready());
        drop((future, first, second));
        assert_eq!((Arc::strong_count(&old), Arc::strong_count(&new)), (1, 1), "a waker is kept");
    });
}

/// A callback outlives the event, the stream and the device handle, and hears of the end of them all.
#[test]
fn the_last_handle_goes_against_fire() {
    model(|| {
        let stream = stream(&Sim::new());
        let event = stream.record().unwrap();
        let (lane, log) = (lane(&stream), Log::new());
        drop(event.on_complete(log.callback(1)).unwrap());
        let driver = thread::spawn({
            let lane = lane.clone();
            move || lane.advance(1)
        });
        drop((event, stream));
        // With the driver's, the last reference: whoever it is that lets go, advance or not, tells the callback.
        drop(lane);
        let entries = log.wait(1);
        assert!(matches!(entries[..], [(1, None)]), "{entries:?}");
        driver.join().unwrap();
    });
}

/// Nobody can signal any more, and whoever waits is told so: a callback, and a stream behind a gate.
#[test]
fn the_last_handle_goes_and_nobody_signals() {
    model(|| {
        let device = Sim::gated().open();
        let (stream, waiting) = (device.create_stream().unwrap(), device.create_stream().unwrap());
        let event = stream.record().unwrap();
        let log = Log::new();
        drop(event.on_complete(log.callback(1)).unwrap());
        assert_eq!(waiting.wait(&event).unwrap(), StreamWait::Gated);
        let driver = thread::spawn({
            let lane = lane(&stream);
            move || drop(lane)
        });
        drop((event, stream));
        driver.join().unwrap();
        assert_eq!(log.wait(1), [(1, Some(ErrorKind::Abandoned))]);
        let gate = half(&waiting).gates.lock().unwrap()[0].clone();
        assert!(gate.opened.load(SeqCst) && gate.failed.load(SeqCst));
    });
}

/// A waker that goes through a stream's submit lock, and lets go of a future: what an executor may do in `wake`.
struct Meddler {
    stream: Stream,
    other: std::sync::Mutex<Option<Completion>>,
}

impl Wake for Meddler {
    fn wake(self: Arc<Self>) {
        drop(self.stream.lock().unwrap());
        let other = self.other.lock().unwrap().take();
        drop(other);
    }
}

/// Wakers run with no lock held, whoever finds out: `settle` on one thread against a recording on another.
fn meddle(sim: Sim, settle: fn(&Stream)) {
    let stream = stream(&sim);
    let event = stream.record().unwrap();
    let (wakes, waker) = Wakes::new();
    let (mut future, mut other) = (event.completion(), event.completion());
    assert!(poll(&mut other, &waker).is_pending());
    let meddler = Arc::new(Meddler { stream: stream.clone(), other: std::sync::Mutex::new(Some(other)) });
    assert!(poll(&mut future, &meddler.clone().into()).is_pending());
    let driver = thread::spawn({
        let stream = stream.clone();
        move || settle(&stream)
    });
    let _ = stream.record();
    driver.join().unwrap();
    assert!(poll(&mut future, &waker).is_ready());
    assert!(meddler.other.lock().unwrap().is_none(), "not woken");
    assert!(wakes.count() <= 1);
}

#[test]
fn wakers_run_with_no_lock_held() {
    model(|| meddle(Sim::new(), |stream| lane(stream).advance(1)));
    model(|| meddle(Sim::new(), |stream| lane(stream).fail(1, broken())));
    model(|| meddle(Sim::new(), |stream| stream.device().close()));
}

/// A driver that is idle is ahead of its own news: a recording that completes on the spot brings those of earlier ones.
#[test]
fn wakers_run_with_no_lock_held_when_a_recording_brings_the_news() {
    model(|| {
        let stream = stream(&Sim { idle_from: 2, ..Sim::new() });
        let event = stream.record().unwrap();
        let mut future = event.completion();
        let meddler = Arc::new(Meddler { stream: stream.clone(), other: std::sync::Mutex::new(None) });
        assert!(poll(&mut future, &meddler.into()).is_pending());
        let driver = thread::spawn({
            let lane = lane(&stream);
            move || lane.advance(1)
        });
        assert_eq!(stream.record().unwrap().status(), Status::Complete);
        assert_eq!(stream.record().unwrap().status(), Status::Complete);
        assert_eq!(event.status(), Status::Complete);
        driver.join().unwrap();
    });
}

// ---------------------------------------------------------------------------------------------------------------------
// Recording

/// A wait takes one recording out of the event: never the lane of one with the position of another.
#[test]
fn record_against_wait() {
    model(|| {
        let device = Sim::new().open();
        let streams: Vec<_> = (0..3).map(|_| device.create_stream().unwrap()).collect();
        let (a, b, c) = (&streams[0], &streams[1], &streams[2]);
        for (stream, recordings) in [(b, 1), (c, 2)] {
            for _ in 0..recordings {
                drop(stream.record().unwrap());
            }
        }
        let waiting = device.create_stream().unwrap();
        let event = Arc::new(a.record().unwrap());
        let writer = thread::spawn({
            let (event, b, c) = (event.clone(), b.clone(), c.clone());
            move || {
                event.record(&b).unwrap();
                event.record(&c).unwrap();
            }
        });
        assert_eq!(waiting.wait(&event).unwrap(), StreamWait::Native);
        writer.join().unwrap();
        let recordings = [a, b, c].map(|stream| stream.id().get());
        let source = half(&waiting).sources.lock().unwrap()[0];
        assert!(
            [(recordings[0], 1), (recordings[1], 2), (recordings[2], 3)].contains(&source),
            "torn: {source:?}"
        );
    });
}

/// Two record one event on two streams: it is on one of them, for good, and whoever looks sees one or the other.
#[test]
fn record_on_two_streams_against_status() {
    model(|| {
        let device = Sim::new().open();
        let streams: Vec<_> = (0..2).map(|_| device.create_stream().unwrap()).collect();
        let (a, b) = (&streams[0], &streams[1]);
        drop(b.record().unwrap());
        // Position 1 is complete on `a` and on `b`, and 2 fails on both: were a lane read with the other's position,
        // pending and complete would change places.
        lane(a).advance(1);
        let event = Arc::new(device.pool().acquire());
        let other = thread::spawn({
            let (event, b) = (event.clone(), b.clone());
            move || event.record(&b).unwrap()
        });
        let reader = thread::spawn({
            let event = event.clone();
            move || [event.status(), event.status()]
        });
        event.record(a).unwrap();
        other.join().unwrap();
        let seen = reader.join().unwrap();
        let last = event.status();
        assert!(matches!(last, Status::Complete | Status::Pending));
        for status in seen {
            assert!(matches!(status, Status::Unrecorded | Status::Complete | Status::Pending), "{status:?}");
        }
        // What was recorded stays recorded.
        assert!(seen[0] == Status::Unrecorded || seen[1] != Status::Unrecorded);
        // It is where its last recording says.
        lane(b).advance(2);
        assert_eq!(event.status(), Status::Complete);
    });
}

/// The state of a timed event and its time are of one recording.
#[test]
fn record_against_completion_time() {
    model(|| {
        let device = Sim::new().open();
        let (a, b) = (device.create_stream().unwrap(), device.create_stream().unwrap());
        let event = Arc::new(a.record_timed().unwrap());
        lane(&a).advance(1);
        let writer = thread::spawn({
            let (event, b) = (event.clone(), b.clone());
            move || event.record(&b).unwrap()
        });
        // The recording on `b` is pending, so it has no time; the one on `a` has its own.
        match event.completion_time() {
            Ok(time) => assert_eq!(time.ticks(), ticks(a.id().get(), 1)),
            Err(error) => assert_eq!(error.kind(), ErrorKind::NotComplete),
        }
        writer.join().unwrap();
        assert_eq!(event.completion_time().unwrap_err().kind(), ErrorKind::NotComplete);
    });
}

/// Noting down that a recording is complete must not reach the next one.
#[test]
fn know_against_record_again() {
    model(|| {
        let device = Sim::new().open();
        let stream = device.create_stream().unwrap();
        let event = Arc::new(stream.record().unwrap());
        lane(&stream).advance(1);
        let reader = thread::spawn({
            let event = event.clone();
            move || event.status()
        });
        event.record(&stream).unwrap();
        assert_eq!(event.status(), Status::Pending);
        reader.join().unwrap();
        assert_eq!(event.status(), Status::Pending, "an earlier recording's completion");
    });
}

#[test]
fn reset_against_status_and_wait() {
    model(|| {
        let device = Sim::new().open();
        let (home, away) = (device.create_stream().unwrap(), device.create_stream().unwrap());
        let event = Arc::new(home.record().unwrap());
        event.record(&away).unwrap();
        lane(&away).advance(1);
        let other = thread::spawn({
            let event = event.clone();
            move || event.reset()
        });
        assert!(matches!(event.status(), Status::Complete | Status::Unrecorded));
        assert!(matches!(home.wait(&event).unwrap(), StreamWait::Nothing));
        other.join().unwrap();
        assert_eq!(event.status(), Status::Unrecorded);
    });
}

/// Two threads record on one stream: each gets a position, and completion on the spot is never taken back.
#[test]
fn record_on_an_idle_stream_against_itself() {
    model(|| {
        let stream = stream(&Sim { idle_from: 1, ..Sim::new() });
        let other = thread::spawn({
            let stream = stream.clone();
            move || {
                let event = stream.record().unwrap();
                assert_eq!(event.status(), Status::Complete);
            }
        });
        let event = stream.record().unwrap();
        assert_eq!(event.status(), Status::Complete);
        other.join().unwrap();
        assert_eq!(lane(&stream).completed(), 2);
    });
}

/// A recording that finds the queue full goes on as soon as there is room.
#[test]
fn room_against_record() {
    model(|| {
        let stream = stream(&Sim { depth: Some(1), ..Sim::new() });
        drop(stream.record().unwrap());
        let lane = lane(&stream);
        let driver = thread::spawn(move || lane.advance(1));
        let event = stream.record().unwrap();
        assert_eq!(event.status(), Status::Pending);
        driver.join().unwrap();
    });
}

// ---------------------------------------------------------------------------------------------------------------------
// Flush requests

/// `request` against whoever holds the submit lock meanwhile and lets go of it with `release`: what was recorded before
/// must have been submitted in the end, by one or the other.
fn flush_request(request: fn(&Stream, &Event), release: fn(&Stream)) {
    let stream = stream(&Sim::batching());
    let event = stream.record().unwrap();
    let other = thread::spawn({
        let stream = stream.clone();
        move || release(&stream)
    });
    request(&stream, &event);
    other.join().unwrap();
    assert!(half(&stream).flushed() >= 1, "the request was lost");
}

fn ask(_: &Stream, event: &Event) {
    assert_eq!(event.status(), Status::Pending);
}

#[test]
fn flush_request_against_a_guard() {
    model(|| flush_request(ask, |stream| drop(stream.lock().unwrap())));
}

#[test]
fn flush_request_against_record() {
    model(|| flush_request(ask, |stream| drop(stream.record().unwrap())));
}

#[test]
fn flush_request_of_a_flush_against_a_guard() {
    model(|| {
        flush_request(
            |stream, _| stream.flush().unwrap(),
            |stream| drop(stream.lock().unwrap().record(&stream.device().pool().acquire())),
        );
    });
}

#[test]
fn flush_requests_against_each_other() {
    model(|| {
        flush_request(ask, |stream| {
            let event = stream.record().unwrap();
            assert_eq!(event.status(), Status::Pending);
        });
    });
}

/// A look at the stream from outside takes the lock for a moment, too.
#[test]
fn flush_request_against_a_stall_report() {
    model_alone(|| {
        flush_request(ask, |stream| {
            stream.device().stall_report();
        });
    });
}

/// The last handle to a stream flushes it.
#[test]
fn the_last_handle_flushes() {
    model(|| {
        let stream = stream(&Sim::batching());
        let (event, lane) = (stream.record().unwrap(), lane(&stream));
        let other = thread::spawn({
            let stream = stream.clone();
            move || drop(stream)
        });
        drop(stream);
        other.join().unwrap();
        assert!(lane.backend().flushed() >= 1, "nobody can submit it any more");
        drop(event);
    });
}

/// Nobody watches a source on behalf of a stream that would fail with it anyway; but once its last handle has gone, nobody
/// else would look at it either.
#[test]
fn the_last_handle_goes_while_a_stream_begins_to_wait() {
    model(|| {
        let traits = StreamTraits { pushed: false, batches: false };
        let device = Sim { traits, waits: Waited::Together, ..Sim::new() }.open();
        let source = device.create_stream().unwrap();
        let dependent = device.create_stream().unwrap();
        let (event, lane) = (source.record().unwrap(), lane(&source));
        let other = thread::spawn(move || drop(source));
        assert_eq!(dependent.wait(&event).unwrap(), StreamWait::Native);
        other.join().unwrap();
        assert_eq!(lane.backend().watched.load(SeqCst), 1);
        lane.fail(1, Error::new(ErrorKind::WorkFailed));
        assert_eq!(dependent.error().unwrap().kind(), ErrorKind::WorkFailed);
    });
}

/// A blocking wait on what the holder of the lock has to submit, with the driver behind it.
#[test]
fn a_blocking_wait_has_its_recording_submitted() {
    model(|| {
        let stream = stream(&Sim::batching());
        let event = stream.record().unwrap();
        let holder = thread::spawn({
            let stream = stream.clone();
            move || drop(stream.lock().unwrap())
        });
        let driver = thread::spawn({
            let lane = lane(&stream);
            move || {
                lane.backend().wait_for_submission(1);
                lane.advance(1);
            }
        });
        event.synchronize().unwrap();
        holder.join().unwrap();
        driver.join().unwrap();
    });
}

/// What is submitted late and refused then is the stream's failure, whoever had it submitted.
#[test]
fn a_refused_submission_against_a_blocking_wait() {
    model(|| {
        let stream = stream(&Sim { refusing: true, ..Sim::batching() });
        let event = stream.record().unwrap();
        let holder = thread::spawn({
            let stream = stream.clone();
            move || drop(stream.lock().unwrap())
        });
        assert_eq!(event.synchronize().unwrap_err().kind(), ErrorKind::Driver);
        holder.join().unwrap();
    });
}

/// A backend that reports completion by itself may gather nevertheless.
#[test]
fn flush_request_where_completion_is_pushed() {
    model(|| {
        let sim = Sim { traits: StreamTraits { pushed: true, batches: true }, ..Sim::new() };
        let stream = stream(&sim);
        let event = stream.record().unwrap();
        let other = thread::spawn({
            let stream = stream.clone();
            move || drop(stream.lock().unwrap())
        });
        ask(&stream, &event);
        other.join().unwrap();
        assert!(half(&stream).flushed() >= 1, "the request was lost");
    });
}

// ---------------------------------------------------------------------------------------------------------------------
// Gates, links, and the end of a device

/// However a failure and a gated wait meet, the waiting stream is marked before its gate opens.
#[test]
fn failure_against_a_gate() {
    model(|| {
        let device = Sim::gated().open();
        let (a, b) = (device.create_stream().unwrap(), device.create_stream().unwrap());
        let event = a.record().unwrap();
        let lane_a = lane(&a);
        let driver = thread::spawn(move || lane_a.fail(1, broken()));
        assert_eq!(b.wait(&event).unwrap(), StreamWait::Gated);
        let after = b.record().unwrap();
        driver.join().unwrap();
        let gate = half(&b).gates.lock().unwrap()[0].clone();
        assert!(gate.opened.load(SeqCst), "it never opens");
        assert!(gate.failed.load(SeqCst), "opened before the stream was marked");
        assert_eq!(after.error().map(|error| error.kind()), Some(ErrorKind::WorkFailed));
    });
}

/// The same, one stream further: who waits natively for a gated stream is marked before that stream's gate opens.
#[test]
fn failure_goes_before_every_gate() {
    model(|| {
        let (gated, native) = (Sim::gated().open(), Sim::new().open());
        let (a, b, c) =
            (gated.create_stream().unwrap(), gated.create_stream().unwrap(), native.create_stream().unwrap());
        let event = a.record().unwrap();
        assert_eq!(b.wait(&event).unwrap(), StreamWait::Gated);
        let after = b.record().unwrap();
        let gate = half(&b).gates.lock().unwrap()[0].clone();
        *gate.behind.lock().unwrap() = Some((half(&c).lane.clone(), false));
        let lane_a = lane(&a);
        let waits = Arc::new(AtomicBool::new(false));
        let driver = thread::spawn({
            let (waits, gate) = (waits.clone(), gate.clone());
            move || {
                let before = waits.load(SeqCst);
                lane_a.fail(1, broken());
                let marked = gate.behind.lock().unwrap().as_ref().is_some_and(|(_, failed)| *failed);
                assert!(marked || !before, "released and not marked");
            }
        });
        assert_eq!(c.wait(&after).unwrap(), StreamWait::Native);
        waits.store(true, SeqCst);
        driver.join().unwrap();
        assert!(gate.opened.load(SeqCst));
        assert!(lane(&c).is_failed());
    });
}

#[test]
fn completion_against_a_gate() {
    model(|| {
        let device = Sim::gated().open();
        let (a, b) = (device.create_stream().unwrap(), device.create_stream().unwrap());
        let event = a.record().unwrap();
        let lane_a = lane(&a);
        let driver = thread::spawn(move || lane_a.advance(1));
        let inserted = b.wait(&event).unwrap();
        driver.join().unwrap();
        let gates = half(&b).gates.lock().unwrap().clone();
        assert_eq!(gates.len(), usize::from(inserted == StreamWait::Gated));
        assert!(gates.iter().all(|gate| gate.opened.load(SeqCst) && !gate.failed.load(SeqCst)));
    });
}

/// A device is closed while a stream of it puts a gate in: it is opened, by the one or by the other.
#[test]
fn close_against_a_gate() {
    model(|| {
        let (device, other) = (Sim::gated().open(), Sim::new().open());
        let (b, a) = (device.create_stream().unwrap(), other.create_stream().unwrap());
        let event = a.record().unwrap();
        let closing = thread::spawn({
            let device = device.clone();
            move || device.close()
        });
        let waited = b.wait(&event);
        closing.join().unwrap();
        match waited {
            Err(error) => assert_eq!(error.kind(), ErrorKind::Closed),
            Ok(_) => {
                let gates = half(&b).gates.lock().unwrap().clone();
                assert!(gates.iter().all(|gate| gate.opened.load(SeqCst) && gate.failed.load(SeqCst)));
            }
        }
    });
}

/// Whoever records or waits while the device is closed is told.
#[test]
fn close_against_record_and_wait() {
    model(|| {
        let stream = stream(&Sim::new());
        let closing = thread::spawn({
            let device = stream.device().clone();
            move || device.close()
        });
        let outcome = stream.record().and_then(|event| event.synchronize());
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Closed);
        closing.join().unwrap();
        assert_eq!(stream.record().unwrap_err().kind(), ErrorKind::Closed);
    });
}

/// A stream is made while the device is closed: it is closed, or it was never made.
#[test]
fn close_against_create_stream() {
    model(|| {
        let device = Sim::new().open();
        let closing = thread::spawn({
            let device = device.clone();
            move || device.close()
        });
        let made = device.create_stream();
        closing.join().unwrap();
        match made {
            Ok(stream) => assert_eq!(stream.record().unwrap_err().kind(), ErrorKind::Closed),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Closed),
        }
    });
}

// ---------------------------------------------------------------------------------------------------------------------
// Producers

#[test]
fn a_host_signal_goes_against_a_blocking_wait() {
    model(|| {
        let device = Sim::new().open();
        let (event, signal) = device.host_event().unwrap();
        let producer = thread::spawn(move || drop(signal));
        assert_eq!(event.synchronize().unwrap_err().kind(), ErrorKind::Abandoned);
        producer.join().unwrap();
    });
}

/// An external recording goes through its states in order, for whoever looks.
#[test]
fn an_external_submission_against_status() {
    model(|| {
        let device = Sim::new().open();
        let (event, token) = device.external_event().unwrap();
        let (submission, effect) = (Effect::new(), Effect::new());
        let producer = thread::spawn({
            let (submission, effect) = (submission.clone(), effect.clone());
            move || {
                submission.write();
                let running = token.submitted();
                effect.write();
                running.complete();
            }
        });
        let mut last = 0;
        for _ in 0..2 {
            let order = match event.status() {
                Status::NotSubmitted => 0,
                Status::Pending => {
                    submission.must_be_seen();
                    1
                }
                Status::Complete => {
                    effect.must_be_seen();
                    2
                }
                other => panic!("{other:?}"),
            };
            assert!(last <= order, "it went back");
            last = order;
        }
        producer.join().unwrap();
        assert_eq!(event.status(), Status::Complete);
    });
}

// ---------------------------------------------------------------------------------------------------------------------
// CPU streams

fn cpu_stream() -> Stream {
    Device::open("cpu").unwrap().create_stream().unwrap()
}

/// A recording against the worker that finds nothing more to do: complete on the spot or by the worker, the work is done.
#[test]
fn a_strand_goes_idle_against_record() {
    model(|| {
        let (stream, effect) = (cpu_stream(), Effect::new());
        let work = effect.clone();
        stream.cpu().unwrap().enqueue(move || work.write()).unwrap();
        let event = stream.record().unwrap();
        if event.status() == Status::Complete {
            effect.must_be_seen();
        }
        event.synchronize().unwrap();
        effect.must_be_seen();
    });
}

/// Work that comes while the worker is about to leave is run, behind the rest, and once.
#[test]
fn a_strand_goes_idle_against_enqueue() {
    model(|| {
        let stream = cpu_stream();
        let ran = Arc::new(std::sync::Mutex::new(Vec::new()));
        for number in 1..=2 {
            let ran = ran.clone();
            stream.cpu().unwrap().enqueue(move || ran.lock().unwrap().push(number)).unwrap();
        }
        stream.synchronize().unwrap();
        assert_eq!(*ran.lock().unwrap(), [1, 2]);
    });
}

/// A strand that parks is let go, or sees for itself that it need not park.
#[test]
fn a_strand_parks_against_a_host_signal() {
    model(|| {
        let (stream, effect, seen) = (cpu_stream(), Effect::new(), Effect::new());
        let (event, signal) = stream.device().host_event().unwrap();
        assert_eq!(stream.wait(&event).unwrap(), StreamWait::Native);
        let (before, after) = (effect.clone(), seen.clone());
        let work = move || {
            if before.0.load(Relaxed) == 1 {
                after.write();
            }
        };
        stream.cpu().unwrap().enqueue(work).unwrap();
        let done = stream.record().unwrap();
        assert_eq!(done.status(), Status::Pending);
        effect.write();
        signal.complete();
        done.synchronize().unwrap();
        seen.must_be_seen();
    });
}

/// Work fails while its stream is given more: that does not run, and is told.
#[test]
fn a_strand_fails_against_enqueue() {
    model(|| {
        let (stream, ran) = (cpu_stream(), Arc::new(AtomicBool::new(false)));
        stream.cpu().unwrap().enqueue(|| Err::<(), _>("asked to fail")).unwrap();
        let flag = ran.clone();
        stream.cpu().unwrap().enqueue(move || flag.store(true, SeqCst)).unwrap();
        let event = stream.record().unwrap();
        assert_eq!(event.synchronize().unwrap_err().kind(), ErrorKind::WorkFailed);
        assert!(!ran.load(SeqCst));
    });
}

/// A device is closed while a strand parks on an event that never comes: what it had to do is dropped all the same.
#[test]
fn a_strand_parks_against_close() {
    struct Captured(Log);
    impl Drop for Captured {
        fn drop(&mut self) {
            self.0.callback(1)(Ok(()));
        }
    }

    model(|| {
        let (stream, other, dropped) = (cpu_stream(), Sim::new().open(), Log::new());
        let (event, signal) = other.host_event().unwrap();
        stream.wait(&event).unwrap();
        let captured = Captured(dropped.clone());
        stream.cpu().unwrap().enqueue(move || drop(captured)).unwrap();
        let done = stream.record().unwrap();
        stream.device().close();
        assert_eq!(done.synchronize().unwrap_err().kind(), ErrorKind::Closed);
        dropped.wait(1);
        drop(signal);
    });
}

// ---------------------------------------------------------------------------------------------------------------------
// Pools and tables

/// Two threads take and give back, one of them what the other took, and a third party empties the cache: the numbers
/// add up, and no event is in two hands.
fn contended_pool(bound: usize) {
    let device = Sim::new().open();
    let pool = EventPool::bounded(&device, bound);
    let (mine, theirs) = (pool.acquire(), pool.acquire());
    let other = thread::spawn({
        let pool = pool.clone();
        move || {
            drop(theirs);
            let event = pool.acquire();
            assert_eq!(event.status(), Status::Unrecorded);
            (event.id(), event)
        }
    });
    drop(mine);
    pool.empty_cache();
    let event = pool.acquire();
    let (id, back) = other.join().unwrap();
    assert_ne!(event.id(), id, "one id, two events");
    assert_eq!((pool.statistics().acquired, pool.statistics().live), (4, 2));
    drop((event, back));
    let statistics = pool.statistics();
    assert_eq!((statistics.acquired, statistics.live), (4, 0));
    assert!(statistics.idle <= statistics.bound && statistics.created <= 4, "{statistics:?}");
}

#[test]
fn a_pool_with_magazines() {
    model(|| contended_pool(256));
}

#[test]
fn a_pool_without_magazines() {
    model(|| contended_pool(1));
}

/// The pool goes while another thread gives an event back: neither keeps the other, and so the device goes as well.
#[test]
fn the_end_of_a_pool_against_release() {
    for bound in [1, 256] {
        model(move || {
            let device = Sim::new().open();
            let pool = EventPool::bounded(&device, bound);
            let event = pool.acquire();
            let other = thread::spawn(move || drop(event));
            drop((pool, device));
            other.join().unwrap();
        });
    }
}

/// An event that is struck from a table while another thread is at it: that thread finishes with it, and it is in
/// nobody else's hands until then.
#[test]
fn table_release_against_use() {
    model(|| {
        let device = Sim::new().open();
        let stream = device.create_stream().unwrap();
        let table = Arc::new(EventTable::new(&EventPool::bounded(&device, 1)));
        let id = table.acquire(false).unwrap();
        table.record(id, Some(&stream), false).unwrap();
        lane(&stream).advance(1);
        let other = thread::spawn({
            let table = table.clone();
            move || {
                table.release(id).unwrap();
                let next = table.acquire(false).unwrap();
                assert_ne!(next, id);
                assert!(!table.query(next).unwrap(), "not ours yet");
                table.release(next).unwrap();
            }
        });
        for outcome in [table.synchronize(id), table.query(id).map(|complete| assert!(complete))] {
            assert!(outcome.is_ok() || outcome.is_err_and(|error| error.kind() == ErrorKind::InvalidId));
        }
        other.join().unwrap();
        assert_eq!(table.query(id).unwrap_err().kind(), ErrorKind::InvalidId);
        assert_eq!(table.pool().unwrap().statistics().live, 0);
    });
}

#[test]
fn table_release_against_release_and_reset() {
    model(|| {
        let device = Sim::new().open();
        let table = Arc::new(EventTable::new(&EventPool::bounded(&device, 1)));
        let id = table.acquire(false).unwrap();
        let other = thread::spawn({
            let table = table.clone();
            move || table.release(id).is_ok()
        });
        // Another object takes its place under the same id, unless it is gone.
        let reset = table.reset(id, true);
        assert!(reset.is_ok() || reset.is_err_and(|error| error.kind() == ErrorKind::InvalidId));
        let mine = table.release(id).is_ok();
        assert!(mine != other.join().unwrap(), "released twice, or not at all");
        assert_eq!((table.len().unwrap(), table.pool().unwrap().statistics().live), (0, 0));
    });
}
