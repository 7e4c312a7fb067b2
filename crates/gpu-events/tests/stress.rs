//! Millions of operations from several threads at once, with everything checked that can be: order, values, counts,
//! and that whoever waits is told exactly once.
//!
//! ```sh
//! cargo test --release -p gpu-events --test stress
//! GPU_EVENTS_STRESS=0.05 …   # a twentieth of it: debug builds do that by themselves, ThreadSanitizer has to be told
//! ```
//!
//! What work leaves behind is written and read without any synchronization of its own ([`Effect`]): where an event
//! fails to order the two, ThreadSanitizer says so (R8). A hang is a wait that runs into [`HANG`].

#![cfg(all(feature = "cpu", not(gpu_events_loom)))]

use gpu_events::{
    Capabilities, Clock, ClockId, Completion, Correlation, Device, DeviceInfo, Error, ErrorKind, Event,
    EventPool, EventTable, HostSignal, Result, Status, Stream, StreamGuard, WaitAny, WaitOptions,
    WaitOutcome, WaitStrategy,
    backend::{
        Backend, BackendStream, Flushed, Gate, Lane, Signaled, Source, StreamSeed, StreamTraits, Waited,
    },
    wait_all, wait_any,
};
use std::{
    cell::UnsafeCell,
    future::Future,
    pin::pin,
    sync::{
        Arc, Condvar, Mutex, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::{Duration, Instant},
};

// Linked for the symbols that it has in the place of Apple's.
#[cfg(gpu_events_metal_sim)]
use metal_sim as _;

/// Two devices: of different backends, where there are two that run code of ours.
fn devices() -> [Device; 2] {
    let second = if cfg!(gpu_events_metal_sim) { "metal" } else { "cpu:1" };
    ["cpu:0", second].map(|name| Device::open(name).unwrap())
}

/// Submits work to a stream of either. On one that has failed it is dropped.
fn submit(
    guard: &mut StreamGuard<'_>,
    work: impl FnOnce() -> Result<(), &'static str> + Send + 'static,
) -> Result<()> {
    #[cfg(gpu_events_metal_sim)]
    if let Ok(metal) = guard.metal() {
        let work = || work().map_err(str::to_owned);
        return match metal.encode(|commands| metal_sim::host_work(commands, work)) {
            Err(error) if error.kind() == ErrorKind::WorkFailed => Ok(()),
            encoded => encoded,
        };
    }
    guard.cpu()?.enqueue(work)
}

/// Longer than anything takes that is bound to happen, also under ThreadSanitizer on a busy machine.
const HANG: Duration = Duration::from_secs(120);

/// How many of `full` operations to do.
fn scaled(full: u64) -> u64 {
    let scale = match std::env::var("GPU_EVENTS_STRESS") {
        Ok(scale) => scale.parse().expect("GPU_EVENTS_STRESS is a factor"),
        Err(_) if cfg!(debug_assertions) => 0.05,
        Err(_) => 1.0,
    };
    ((full as f64 * scale) as u64).max(1)
}

fn bounded() -> WaitOptions {
    WaitOptions::new().timeout(HANG)
}

/// What work leaves behind: written by it alone, and read by those who were told that it is done. Nothing but the event
/// orders the one before the other.
struct Effect(UnsafeCell<u64>);

// SAFETY: written by one piece of work, and only read after that was observed to be complete, which this file tests.
unsafe impl Sync for Effect {}

impl Effect {
    fn new() -> Self {
        Self(UnsafeCell::new(0))
    }

    fn write(&self, value: u64) {
        // SAFETY: called by the one piece of work that owns it, before anybody may read.
        unsafe { *self.0.get() = value };
    }

    fn read(&self) -> u64 {
        // SAFETY: called after the work was observed to be complete; nobody writes any more.
        unsafe { *self.0.get() }
    }
}

/// A xorshift generator: the same choices each time, if not the same interleaving.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len() as u64) as usize]
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// Awaits `completion` on this thread, which notices a waker that never comes.
fn block_on(completion: &mut Completion) -> Result<()> {
    struct Unpark(Thread, AtomicBool);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.1.store(true, Ordering::Release);
            self.0.unpark();
        }
    }
    let bell = Arc::new(Unpark(thread::current(), AtomicBool::new(false)));
    let waker = Waker::from(bell.clone());
    let mut completion = pin!(completion);
    let start = Instant::now();
    loop {
        if let Poll::Ready(outcome) = completion.as_mut().poll(&mut Context::from_waker(&waker)) {
            return outcome;
        }
        while !bell.1.swap(false, Ordering::Acquire) {
            assert!(start.elapsed() < HANG, "a future that is never woken");
            thread::park_timeout(HANG);
        }
    }
}

/// Nothing is left when all threads are done: no event is out, no lane is stalled.
#[track_caller]
fn nothing_is_left(device: &Device) {
    let statistics = device.pool().statistics();
    assert_eq!(statistics.live, 0, "{statistics:?}");
    assert!(statistics.idle <= statistics.bound, "{statistics:?}");
    assert!(statistics.created <= statistics.acquired, "{statistics:?}");
    let report = device.stall_report();
    assert!(report.is_empty(), "{report}");
}

/// Waits until every callback that the device's thread was handed by now has run.
fn run_callbacks(device: &Device) {
    let (done, is_done) = mpsc::channel();
    device.pool().acquire().on_complete(move |_| done.send(()).unwrap()).unwrap();
    is_done.recv_timeout(HANG).expect("the callback thread has stopped");
}

// ---------------------------------------------------------------------------------------------------------------------
// CPU streams

/// A stream whose work is numbered in the order in which it was submitted.
struct Line {
    number: u64,
    stream: Stream,
    /// How much was submitted. Under the stream's lock.
    submitted: AtomicU64,
    /// How much has run. The work's own, which runs one after the other.
    ran: Effect,
}

/// A recording on a line, what its work leaves behind, and what that has to be.
struct Recording {
    event: Event,
    effect: Effect,
    value: u64,
}

impl Recording {
    #[track_caller]
    fn check(&self) {
        assert_eq!(self.effect.read(), self.value, "complete, but its work is not done");
    }
}

/// What all threads share.
struct Mesh {
    devices: [Device; 2],
    lines: Vec<Line>,
    recent: Vec<Mutex<Arc<Recording>>>,
    table: EventTable,
    signals: Mutex<mpsc::Sender<HostSignal>>,
    registered: AtomicU64,
    called: AtomicU64,
    cancelled: AtomicU64,
}

impl Line {
    /// Submits work that comes after `after`, and records it, all in one.
    fn produce(self: &Line, mesh: &Arc<Mesh>, after: Vec<Arc<Recording>>) -> Arc<Recording> {
        let mut guard = self.stream.lock().unwrap();
        for earlier in &after {
            guard.wait(&earlier.event).unwrap();
        }
        // Relaxed: under the lock.
        let number = self.submitted.fetch_add(1, Ordering::Relaxed);
        let recording = Arc::new(Recording {
            event: self.stream.device().pool().acquire(),
            effect: Effect::new(),
            value: (self.number << 48) | (number + 1),
        });
        let (mesh, line, this) = (mesh.clone(), self.number as usize, recording.clone());
        let work = move || {
            let line = &mesh.lines[line];
            assert_eq!(line.ran.read(), number, "out of order");
            after.iter().for_each(|earlier| earlier.check());
            line.ran.write(number + 1);
            this.effect.write(this.value);
        };
        let work = move || {
            work();
            Ok(())
        };
        submit(&mut guard, work).unwrap();
        guard.record(&recording.event).unwrap();
        recording
    }
}

impl Mesh {
    fn new(lines: u64, recent: usize, signals: mpsc::Sender<HostSignal>) -> Arc<Self> {
        let devices = devices();
        let line = |number: u64| Line {
            number,
            stream: devices[number as usize % 2].create_stream().unwrap(),
            submitted: AtomicU64::new(0),
            ran: Effect::new(),
        };
        let complete = || {
            let event = devices[0].pool().acquire();
            Mutex::new(Arc::new(Recording { event, effect: Effect::new(), value: 0 }))
        };
        Arc::new(Self {
            lines: (0..lines).map(line).collect(),
            recent: (0..recent).map(|_| complete()).collect(),
            table: EventTable::new(&devices[0].pool()),
            signals: Mutex::new(signals),
            registered: AtomicU64::new(0),
            called: AtomicU64::new(0),
            cancelled: AtomicU64::new(0),
            devices,
        })
    }

    fn some(&self, random: &mut Random) -> Arc<Recording> {
        random.pick(&self.recent).lock().unwrap().clone()
    }

    /// One of many things, at random.
    fn step(self: &Arc<Self>, random: &mut Random, mine: &mut Mine) {
        match random.below(100) {
            0..40 => {
                let after = (0..random.below(3)).map(|_| self.some(random)).collect();
                let recording = random.pick(&self.lines).produce(self, after);
                let place = random.pick(&self.recent);
                // The one that was there may be the last reference: its event goes with no lock held.
                let old = std::mem::replace(&mut *place.lock().unwrap(), recording);
                drop(old);
            }
            40..50 => {
                let recording = self.some(random);
                match recording.event.status() {
                    Status::Complete => recording.check(),
                    Status::Pending | Status::Unrecorded => {}
                    status => panic!("{status:?}"),
                }
            }
            50..58 => {
                let recording = self.some(random);
                assert!(recording.event.wait_with(&bounded()).unwrap().is_complete());
                recording.check();
            }
            58..62 => {
                let recording = self.some(random);
                let strategy = [WaitStrategy::Park, WaitStrategy::SpinThenPark(Duration::from_micros(5))];
                let options = WaitOptions::new()
                    .strategy(*random.pick(&strategy))
                    .timeout(Duration::from_micros(random.below(50)));
                if recording.event.wait_with(&options).unwrap() == WaitOutcome::Complete {
                    recording.check();
                }
            }
            62..72 => self.call_back(random, mine),
            72..78 => {
                let recording = self.some(random);
                let mut future = recording.event.completion();
                if random.one_in(2) {
                    block_on(&mut future).unwrap();
                    recording.check();
                } else if let Poll::Ready(outcome) =
                    pin!(future).poll(&mut Context::from_waker(Waker::noop()))
                {
                    outcome.unwrap();
                    recording.check();
                }
            }
            78..82 => {
                let some: Vec<_> = (0..3).map(|_| self.some(random)).collect();
                let events = some.iter().map(|recording| &recording.event);
                if random.one_in(2) {
                    let WaitAny::Settled(index) = wait_any(events, &bounded()).unwrap() else {
                        panic!("a hang")
                    };
                    assert!(matches!(some[index].event.status(), Status::Complete | Status::Unrecorded));
                    some[index].check();
                } else {
                    assert!(wait_all(events, &bounded()).unwrap().is_complete());
                    some.iter().for_each(|recording| recording.check());
                }
            }
            82..87 => self.record_again(random, mine),
            87..90 => self.gate(random),
            90..93 => self.use_table(random),
            93..95 => self.short_lived_stream(random),
            95..97 => self.doom(random),
            97 => {
                let (event, token) = random.pick(&self.devices).external_event().unwrap();
                assert_eq!(event.status(), Status::NotSubmitted);
                let running = token.submitted();
                let mut future = event.completion();
                assert!(pin!(&mut future).poll(&mut Context::from_waker(Waker::noop())).is_pending());
                running.complete();
                block_on(&mut future).unwrap();
            }
            98 => {
                random.pick(&self.devices).pool().empty_cache();
            }
            _ => {
                // While things move, what it says is of no single moment; but it takes every lock there is.
                if random.one_in(20) {
                    random.pick(&self.devices).stall_report();
                }
            }
        }
    }

    fn call_back(self: &Arc<Self>, random: &mut Random, mine: &mut Mine) {
        let (recording, mesh) = (self.some(random), self.clone());
        self.registered.fetch_add(1, Ordering::Relaxed);
        let checked = recording.clone();
        let callback = recording
            .event
            .on_complete(move |outcome| {
                // A panic stays in the callback: then it is missing from the count.
                outcome.unwrap();
                checked.check();
                mesh.called.fetch_add(1, Ordering::Relaxed);
            })
            .unwrap();
        mine.callbacks.push(callback);
        if mine.callbacks.len() > 16 {
            let callback = mine.callbacks.swap_remove(random.below(16) as usize);
            if random.one_in(2) && callback.cancel() {
                self.cancelled.fetch_add(1, Ordering::Relaxed);
                assert!(!callback.cancel());
            }
        }
    }

    /// One event on one line after the other, by this thread alone: it stands for the last.
    fn record_again(self: &Arc<Self>, random: &mut Random, mine: &mut Mine) {
        let event = mine.event.get_or_insert_with(|| self.devices[0].pool().acquire_timed());
        for _ in 0..1 + random.below(3) {
            let line = &self.lines[random.below(self.lines.len() as u64) as usize / 2 * 2];
            event.record(&line.stream).unwrap();
        }
        match random.below(4) {
            0 => {
                assert!(event.wait_with(&bounded()).unwrap().is_complete());
                let first = event.completion_time().unwrap();
                assert!(event.completion_time().unwrap() == first, "two times of one recording");
            }
            1 => event.reset(),
            2 => mine.event = None,
            _ => {}
        }
    }

    /// A line that waits for the host, which another thread is.
    fn gate(self: &Arc<Self>, random: &mut Random) {
        let (event, signal) = random.pick(&self.devices).host_event().unwrap();
        random.pick(&self.lines).stream.wait(&event).unwrap();
        self.signals.lock().unwrap().send(signal).unwrap();
        if random.one_in(2) {
            assert!(event.wait_with(&bounded()).unwrap().is_complete());
        }
    }

    fn use_table(self: &Arc<Self>, random: &mut Random) {
        let id = self.table.acquire(random.one_in(2)).unwrap();
        // Lines of even number are on the table's device.
        let line = &self.lines[random.below(self.lines.len() as u64) as usize / 2 * 2];
        self.table.record(id, Some(&line.stream), false).unwrap();
        if random.one_in(3) {
            self.table.reset(id, random.one_in(2)).unwrap();
            assert!(!self.table.query(id).unwrap());
        } else if random.one_in(3) {
            self.table.synchronize(id).unwrap();
            assert!(self.table.query(id).unwrap());
        }
        self.table.release(id).unwrap();
        assert_eq!(self.table.release(id).unwrap_err().kind(), ErrorKind::InvalidId);
        assert_eq!(self.table.query(id).unwrap_err().kind(), ErrorKind::InvalidId);
    }

    /// A stream that is let go of at once; its event and its work go on.
    fn short_lived_stream(self: &Arc<Self>, random: &mut Random) {
        let effect = Arc::new(Effect::new());
        let event = {
            let stream = random.pick(&self.devices).create_stream().unwrap();
            stream.wait(&self.some(random).event).unwrap();
            let effect = effect.clone();
            let work = move || {
                effect.write(7);
                Ok(())
            };
            submit(&mut stream.lock().unwrap(), work).unwrap();
            stream.record().unwrap()
        };
        if random.one_in(2) {
            assert!(event.wait_with(&bounded()).unwrap().is_complete());
            assert_eq!(effect.read(), 7);
        }
    }

    /// Two streams, one after the other, that fail somewhere: up to there everything completes, from there on nothing,
    /// and every observer is told which.
    fn doom(self: &Arc<Self>, random: &mut Random) {
        let from = random.below(2) as usize;
        let first = self.devices[from].create_stream().unwrap();
        let second = self.devices[1 - from].create_stream().unwrap();
        let fatal = random.below(6);
        // On a GPU, work has no panics.
        let panics = random.one_in(4) && first.cpu().is_ok();
        let mut events = Vec::new();
        let told = Arc::new(AtomicU64::new(0));
        for n in 0..6 {
            let work = move || match n == fatal {
                false => Ok(()),
                true if panics => std::panic::resume_unwind(Box::new("asked to panic")),
                true => Err("asked to fail"),
            };
            submit(&mut first.lock().unwrap(), work).unwrap();
            let event = first.record().unwrap();
            second.wait(&event).unwrap();
            for event in [event, second.record().unwrap()] {
                let told = told.clone();
                self.registered.fetch_add(1, Ordering::Relaxed);
                let mesh = self.clone();
                event
                    .on_complete(move |outcome| {
                        assert_eq!(outcome.is_ok(), n < fatal);
                        told.fetch_add(1, Ordering::Relaxed);
                        mesh.called.fetch_add(1, Ordering::Relaxed);
                    })
                    .unwrap();
                events.push((n, event));
            }
        }
        let expected = if panics { ErrorKind::Panicked } else { ErrorKind::WorkFailed };
        for (n, event) in &events {
            match event.wait_with(&bounded()) {
                Ok(outcome) => assert!(outcome.is_complete() && *n < fatal),
                Err(error) => assert!(error.kind() == expected && *n >= fatal, "{n} of {fatal}: {error}"),
            }
        }
        assert_eq!(first.error().map(|error| error.kind()), Some(expected));
    }
}

/// What a thread keeps to itself.
#[derive(Default)]
struct Mine {
    callbacks: Vec<gpu_events::Callback>,
    event: Option<Event>,
}

#[test]
fn streams_events_and_observers() {
    let threads = 4;
    let steps = scaled(1_200_000) / threads;
    let (signals, signaled) = mpsc::channel::<HostSignal>();
    let mesh = Mesh::new(8, 64, signals);
    let host = thread::spawn(move || signaled.into_iter().for_each(HostSignal::complete));
    thread::scope(|scope| {
        for number in 1..=threads {
            let mesh = &mesh;
            scope.spawn(move || {
                let (mut random, mut mine) = (Random::new(number), Mine::default());
                for _ in 0..steps {
                    mesh.step(&mut random, &mut mine);
                }
            });
        }
    });
    for line in &mesh.lines {
        assert!(line.stream.synchronize_with(&bounded()).unwrap().is_complete());
        assert_eq!(line.ran.read(), line.submitted.load(Ordering::Relaxed));
    }
    mesh.devices.iter().for_each(run_callbacks);
    let count = |of: &AtomicU64| of.load(Ordering::Relaxed);
    assert_eq!(count(&mesh.called) + count(&mesh.cancelled), count(&mesh.registered));
    assert_eq!(mesh.table.len().unwrap(), 0);

    let devices = mesh.devices.clone();
    let Ok(mesh) = Arc::try_unwrap(mesh).map_err(|mesh| Arc::strong_count(&mesh)) else {
        panic!("work or a callback that has run is still there")
    };
    drop(mesh);
    host.join().unwrap();
    devices.iter().for_each(nothing_is_left);
}

/// A device is closed in the middle of it: everyone is told once, and one way or the other.
#[test]
fn closing_in_the_middle() {
    for round in 0..scaled(2_000) {
        let [_, device] = devices();
        let streams = [device.create_stream().unwrap(), device.create_stream().unwrap()];
        let (gate, _signal) = device.host_event().unwrap();
        let told = Arc::new(AtomicU64::new(0));
        let registered = AtomicU64::new(0);
        thread::scope(|scope| {
            let users = streams.each_ref().map(|stream| {
                let (told, gate, device, registered) = (told.clone(), &gate, &device, &registered);
                scope.spawn(move || {
                    let mut random = Random::new(round + 1);
                    loop {
                        let submitted = || -> Result<Event> {
                            if random.one_in(8) {
                                stream.wait(gate)?;
                            }
                            submit(&mut stream.lock()?, || Ok(()))?;
                            stream.record()
                        }();
                        let event = match submitted {
                            Ok(event) => event,
                            Err(error) => {
                                assert_eq!(error.kind(), ErrorKind::Closed);
                                return;
                            }
                        };
                        let told = told.clone();
                        let callback = move |_| {
                            told.fetch_add(1, Ordering::Relaxed);
                        };
                        event.on_complete(callback).unwrap();
                        registered.fetch_add(1, Ordering::Relaxed);
                        if let Err(error) = event.wait_timeout(Duration::from_micros(random.below(20))) {
                            assert_eq!(error.kind(), ErrorKind::Closed);
                        }
                        if random.one_in(64) {
                            device.close();
                        }
                    }
                })
            });
            users.into_iter().for_each(|user| user.join().unwrap());
        });
        run_callbacks(&device);
        assert_eq!(told.load(Ordering::Relaxed), registered.load(Ordering::Relaxed));
        let report = device.stall_report();
        assert!(report.is_empty(), "{report}");
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// A device of our own, for what CPU streams do not do: several who advance, gathering, gates, polling

#[derive(Debug)]
struct Driven {
    traits: StreamTraits,
}

#[derive(Debug)]
struct DrivenStream {
    traits: StreamTraits,
    lane: Weak<Lane<DrivenStream>>,
    signaled: AtomicU64,
    /// What the driver was given, and the end.
    given: Mutex<(u64, bool)>,
    bell: Condvar,
    gates: Mutex<Vec<Arc<DrivenGate>>>,
}

#[derive(Debug)]
struct DrivenGate {
    lane: Weak<Lane<DrivenStream>>,
    opened: AtomicBool,
    /// Opened before its stream was marked as failed.
    early: AtomicBool,
}

impl Backend for Driven {
    fn info(&self) -> DeviceInfo {
        let clock = Clock::new(ClockId::HOST, "none", Duration::from_nanos(1), 1, 1);
        DeviceInfo::new("driven:0", "driven", "driven by the test", clock, Capabilities::default())
    }

    fn create_stream(&self, seed: StreamSeed<'_>) -> Result<Arc<Lane>> {
        seed.build(|lane| DrivenStream {
            traits: self.traits,
            lane: lane.clone(),
            signaled: AtomicU64::new(0),
            given: Mutex::new((0, false)),
            bell: Condvar::new(),
            gates: Mutex::default(),
        })
    }

    fn correlate(&self) -> Result<Correlation> {
        Err(Error::new(ErrorKind::NotMeasured))
    }
}

impl DrivenStream {
    fn of(stream: &Stream) -> Arc<Lane<Self>> {
        stream.backend::<Self>().unwrap().lane.upgrade().unwrap()
    }

    /// Blocks until the driver was given more than `done`; `None` at the end.
    fn next(&self, done: u64) -> Option<u64> {
        let given = self.given.lock().unwrap();
        let waited = self.bell.wait_timeout_while(given, HANG, |(given, end)| *given <= done && !*end);
        let (given, timeout) = waited.unwrap();
        assert!(!timeout.timed_out(), "work that sits unsubmitted, and somebody waits for it");
        (given.0 > done).then_some(given.0)
    }

    fn end(&self) {
        self.given.lock().unwrap().1 = true;
        self.bell.notify_all();
    }
}

impl BackendStream for DrivenStream {
    fn traits(&self) -> StreamTraits {
        self.traits
    }

    fn signal(&self, position: u64, _timed: bool) -> Result<Signaled> {
        self.signaled.store(position, Ordering::Release);
        Ok(Signaled::Pending(None))
    }

    fn wait(&self, _source: &Source<'_>) -> Result<Waited> {
        Ok(Waited::Unsupported)
    }

    fn gate(&self) -> Result<Arc<dyn Gate>> {
        let gate = Arc::new(DrivenGate {
            lane: self.lane.clone(),
            opened: AtomicBool::new(false),
            early: AtomicBool::new(false),
        });
        self.gates.lock().unwrap().push(gate.clone());
        Ok(gate)
    }

    fn flush(&self) -> Result<Flushed> {
        self.given.lock().unwrap().0 = self.signaled.load(Ordering::Acquire);
        self.bell.notify_all();
        Ok(Flushed::All)
    }

    fn poll(&self) {}

    fn watch(&self, _position: u64) {}

    fn abandon(&self) {}
}

impl Gate for DrivenGate {
    fn open(&self) {
        if !self.opened.swap(true, Ordering::Relaxed) {
            // By failures alone here, which come first (R26).
            let marked = self.lane.upgrade().is_none_or(|lane| lane.is_failed());
            self.early.store(!marked, Ordering::Relaxed);
        }
    }
}

/// Two threads advance a stream, neither in step with the other, while others record, register and cancel; and in the
/// end a third fails what is left. Everyone is told once, before the failure of completion and after it of failure.
#[test]
fn several_advance_and_one_fails() {
    for round in 0..scaled(3_000) {
        let device = Device::from_backend(Driven { traits: StreamTraits { pushed: true, batches: false } });
        let stream = device.create_stream().unwrap();
        let lane = DrivenStream::of(&stream);
        let events: Vec<_> = (0..200).map(|_| stream.record().unwrap()).collect();
        let (told, order) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let fails_from = 150;
        thread::scope(|scope| {
            for driver in 0..2 {
                let lane = &lane;
                scope.spawn(move || {
                    let mut random = Random::new(round * 2 + driver);
                    let mut to = 0;
                    while to < 200 {
                        to += 1 + random.below(7);
                        lane.advance(to.min(200));
                    }
                });
            }
            scope.spawn(|| lane.fail(fails_from, Error::new(ErrorKind::DeviceLost)));
            for observer in 0..2 {
                let (events, told, order) = (&events, &told, &order);
                scope.spawn(move || {
                    let mut random = Random::new(round * 3 + observer + 7);
                    for (index, event) in events.iter().enumerate().skip(observer as usize).step_by(2) {
                        let position = index as u64 + 1;
                        let check = move |outcome: &Result<()>| match outcome {
                            Ok(()) => {}
                            Err(error) => {
                                assert!(error.kind() == ErrorKind::DeviceLost && position >= fails_from);
                            }
                        };
                        match random.below(4) {
                            0 => {
                                let (told, order) = (told.clone(), order.clone());
                                event
                                    .on_complete(move |outcome| {
                                        check(&outcome);
                                        told.fetch_add(1, Ordering::Relaxed);
                                        order.fetch_max(position, Ordering::Relaxed);
                                    })
                                    .unwrap();
                            }
                            1 => {
                                check(&block_on(&mut event.completion()));
                                told.fetch_add(1, Ordering::Relaxed);
                            }
                            2 => {
                                check(
                                    &event
                                        .wait_with(&bounded())
                                        .map(|outcome| assert!(outcome.is_complete())),
                                );
                                told.fetch_add(1, Ordering::Relaxed);
                            }
                            _ => {
                                let mut future = event.completion();
                                // Polled with one waker after the other, and dropped.
                                for _ in 0..2 {
                                    drop(pin!(&mut future).poll(&mut Context::from_waker(Waker::noop())));
                                }
                                drop(future);
                                told.fetch_add(1, Ordering::Relaxed);
                            }
                        }
                    }
                });
            }
        });
        run_callbacks(&device);
        assert_eq!(told.load(Ordering::Relaxed), 200);
        let completed = lane.completed();
        assert!(completed >= fails_from - 1, "{completed} is less than what was advanced to");
        for (position, event) in (1..).zip(&events) {
            assert_eq!(event.status() == Status::Complete, position <= completed);
            assert_eq!(event.status() == Status::Failed, position > completed);
        }
        drop((events, stream, lane));
        nothing_is_left(&device);
    }
}

/// Callbacks of a stream run in order of position, whoever advances and registers.
#[test]
fn callbacks_of_a_stream_keep_their_order() {
    for round in 0..scaled(2_000) {
        let device = Device::from_backend(Driven { traits: StreamTraits { pushed: true, batches: false } });
        let stream = device.create_stream().unwrap();
        let lane = DrivenStream::of(&stream);
        let events: Vec<_> = (0..64).map(|_| stream.record().unwrap()).collect();
        let log = Arc::new(Mutex::new(Vec::new()));
        // Those are registered before anything completes, so nothing excuses another order.
        for (index, event) in events.iter().enumerate() {
            let log = log.clone();
            event.on_complete(move |_| log.lock().unwrap().push(index)).unwrap();
        }
        let fails = (round % 2 == 0).then_some(40);
        thread::scope(|scope| {
            let drivers = [0, 1].map(|driver| {
                let lane = &lane;
                scope.spawn(move || {
                    let mut random = Random::new(round * 2 + driver);
                    let mut to = 0;
                    while to < 40 {
                        to += 1 + random.below(5);
                        lane.advance(to.min(40));
                    }
                })
            });
            drivers.into_iter().for_each(|driver| driver.join().unwrap());
            match fails {
                Some(_) => lane.fail(41, Error::new(ErrorKind::DeviceLost)),
                None => lane.advance(64),
            }
        });
        run_callbacks(&device);
        assert!(log.lock().unwrap().iter().copied().eq(0..64), "{log:?}");
    }
}

/// Recordings are gathered until somebody needs them; whoever holds the lock meanwhile, nobody waits for ever (R7).
#[test]
fn gathered_work_is_submitted_for_whoever_waits() {
    for pushed in [false, true] {
        let device = Device::from_backend(Driven { traits: StreamTraits { pushed, batches: true } });
        let stream = device.create_stream().unwrap();
        let lane = DrivenStream::of(&stream);
        let driver = thread::spawn({
            let lane = lane.clone();
            move || {
                let mut done = 0;
                while let Some(given) = lane.backend().next(done) {
                    lane.advance(given);
                    done = given;
                }
            }
        });
        let steps = scaled(300_000) / 4;
        thread::scope(|scope| {
            for number in 1..=4 {
                let stream = &stream;
                scope.spawn(move || {
                    let mut random = Random::new(number);
                    let mut event = stream.record().unwrap();
                    for _ in 0..steps {
                        match random.below(16) {
                            0..6 => event = stream.record().unwrap(),
                            6..9 => {
                                let mut guard = stream.lock().unwrap();
                                guard.record(&event).unwrap();
                                if random.one_in(4) {
                                    guard.record(&event).unwrap();
                                }
                            }
                            9 => drop(stream.flush()),
                            10 => drop(event.status()),
                            11 => assert!(event.wait_with(&bounded()).unwrap().is_complete()),
                            12 => block_on(&mut event.completion()).unwrap(),
                            13 => {
                                let spin =
                                    bounded().strategy(WaitStrategy::SpinThenPark(Duration::from_micros(2)));
                                assert!(event.wait_with(&spin).unwrap().is_complete());
                            }
                            14 => {
                                if random.one_in(50) {
                                    stream.device().stall_report();
                                }
                            }
                            _ => drop(stream.clone()),
                        }
                    }
                    assert!(event.wait_with(&bounded()).unwrap().is_complete());
                });
            }
        });
        assert!(stream.synchronize_with(&bounded()).unwrap().is_complete());
        lane.backend().end();
        driver.join().unwrap();
        drop((stream, lane));
        nothing_is_left(&device);
    }
}

/// A failure goes down a tree of gated streams while more of them join it: each is marked before its gate opens.
#[test]
fn failure_goes_before_every_gate() {
    for _ in 0..scaled(4_000) {
        let device = Device::from_backend(Driven { traits: StreamTraits { pushed: true, batches: false } });
        let (event, signal) = device.host_event().unwrap();
        let streams: Vec<_> = (0..12).map(|_| device.create_stream().unwrap()).collect();
        thread::scope(|scope| {
            scope.spawn(|| signal.fail("asked to fail"));
            for half in streams.chunks(6) {
                let event = &event;
                scope.spawn(move || {
                    let mut last: Option<Event> = None;
                    for stream in half {
                        stream.wait(last.as_ref().unwrap_or(event)).unwrap();
                        last = Some(stream.record().unwrap());
                    }
                });
            }
        });
        for stream in &streams {
            let lane = DrivenStream::of(stream);
            for gate in &*lane.backend().gates.lock().unwrap() {
                assert!(gate.opened.load(Ordering::Relaxed), "it never opens");
                assert!(!gate.early.load(Ordering::Relaxed), "opened before its stream was marked");
            }
            assert_eq!(
                stream.record().unwrap().error().map(|error| error.kind()),
                Some(ErrorKind::WorkFailed)
            );
        }
        drop((event, streams));
        nothing_is_left(&device);
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Pools

/// Events go round between threads, which take, pass on and give back, while caches are emptied: the numbers add up, and
/// no event is in two hands.
#[test]
fn pools_balance() {
    for bound in [4, 128, 512, 4096] {
        let device = Device::open("cpu").unwrap();
        let pool = EventPool::bounded(&device, bound);
        let threads = 4;
        let steps = scaled(1_000_000) / threads;
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..threads).map(|_| mpsc::channel::<Event>()).unzip();
        let users = (0..threads).zip(receivers).map(|(number, receiver)| {
            let (pool, senders) = (pool.clone(), senders.clone());
            thread::spawn(move || {
                let mut random = Random::new(number + 1);
                let mut held = Vec::new();
                for _ in 0..steps {
                    match random.below(16) {
                        0..7 => {
                            let event = pool.acquire();
                            assert_eq!(event.status(), Status::Unrecorded);
                            event.set_label("mine");
                            held.push(event);
                        }
                        7..11 => {
                            if !held.is_empty() {
                                let event = held.swap_remove(random.below(held.len() as u64) as usize);
                                assert_eq!(event.label().as_deref(), Some("mine"));
                            }
                        }
                        11..13 => {
                            if let Some(event) = held.pop() {
                                // Its receiver may be done: then it comes back with the error, and is dropped.
                                drop(random.pick(&senders).send(event));
                            }
                        }
                        13..15 => held.extend(receiver.try_recv()),
                        _ => {
                            if random.one_in(256) {
                                pool.empty_cache();
                            }
                            held.truncate(100);
                        }
                    }
                }
            })
        });
        // Joined one by one, which waits for what they keep to themselves as well; a scope would not.
        let users: Vec<_> = users.collect();
        users.into_iter().for_each(|user| user.join().unwrap());
        drop(senders);
        let statistics = pool.statistics();
        assert_eq!((statistics.live, statistics.bound), (0, bound as u64), "{statistics:?}");
        assert!(
            statistics.idle <= statistics.bound && statistics.created <= statistics.acquired,
            "{statistics:?}"
        );
        pool.empty_cache();
        assert_eq!(pool.statistics().idle, 0, "the threads that kept any are gone");
        nothing_is_left(&device);
    }
}
