//! The simulated device as a backend: the seam, filled for a driver that batches, must be asked, and gates in its
//! own queue. Much the same shape as a real one would have.

use super::{
    BACKEND, Fault, Toy,
    clock::TickClock,
    engine::{Counter, Engine, News, Op, QueueId, Ticks, VALUE_GAP},
};
use gpu_events::{
    Capabilities, Correlation, Device, DeviceInfo, Error, ErrorKind, Gates, Result, Stream, StreamOptions,
    backend::{
        Backend, BackendStream, Flushed, Gate, Lane, Room, Signaled, Source, Stamp, StreamSeed, StreamTraits,
        Waited,
    },
};
use std::{
    any::Any,
    collections::{HashMap, VecDeque},
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

/// How many operations are gathered before they are submitted without being asked for.
const BATCH: usize = 32;
/// How long the device is idle before what is gathered is submitted without being asked for.
const IDLE: Duration = Duration::from_millis(1);

type ToyLane = Lane<ToyStream>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An opened simulated device, as all of its streams and its pump see it.
pub(super) struct Shared {
    pub(super) engine: Arc<Engine>,
    clock: Arc<TickClock>,
    fault: Option<Fault>,
    eager_gates: bool,
    /// Streams with recordings in flight. It is this that keeps them until they are told of completion.
    in_flight: Mutex<HashMap<QueueId, Arc<ToyLane>>>,
    /// Streams that have gathered something that nobody has asked for yet.
    gathering: Mutex<Vec<Weak<ToyLane>>>,
    /// Every stream there is, to be told when the device is lost.
    streams: Mutex<HashMap<QueueId, Weak<ToyLane>>>,
    closed_gates: AtomicUsize,
    flushes: AtomicUsize,
}

impl Shared {
    fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    /// Tells a stream's lane how far its counter is.
    fn settle(&self, lane: &ToyLane) {
        let stream = lane.backend();
        let mut value = stream.counter.value();
        if self.has(Fault::CompletesTwice) && value > 0 {
            value = value.saturating_add(1);
        }
        lane.advance(value);
        let done = {
            let mut in_flight = lock(&self.in_flight);
            // Acquire: pairs with `signal`, which counts before it enters the stream here.
            if stream.recorded.load(Ordering::Acquire) <= value {
                in_flight.remove(&stream.queue)
            } else {
                None
            }
        };
        // Maybe the last reference to the lane: with no lock held.
        drop(done);
    }

    fn lane_in_flight(&self, queue: QueueId) -> Option<Arc<ToyLane>> {
        lock(&self.in_flight).get(&queue).cloned()
    }

    /// Fails a stream, and has its hardware let go of whoever waits for it: in this order (R26).
    fn fail(&self, queue: QueueId, from: u64, error: Error) {
        let lane = lock(&self.streams).get(&queue).and_then(Weak::upgrade);
        if let Some(lane) = &lane {
            if !self.has(Fault::FailsBackwards) {
                lane.advance(from - 1);
            }
            match self.fault {
                Some(Fault::ForgetsFailure) => {}
                Some(Fault::FailsBackwards) => lane.fail(1, error),
                Some(Fault::FailsEverything) => {
                    let all: Vec<_> = lock(&self.streams).values().filter_map(Weak::upgrade).collect();
                    all.iter().for_each(|lane| lane.fail(lane.completed() + 1, error.clone()));
                }
                Some(Fault::FailsAfterRelease) => {
                    self.engine.halt_and_raise(queue);
                    self.engine.wait_until_idle(Duration::from_secs(1));
                    let all: Vec<_> = lock(&self.in_flight).values().cloned().collect();
                    all.iter().filter(|other| !Arc::ptr_eq(other, lane)).for_each(|lane| self.settle(lane));
                    lane.fail(from, error);
                }
                _ => lane.fail(from, error),
            }
        }
        self.engine.halt_and_raise(queue);
    }

    /// The pump: brings the news of the hardware to the lanes, and submits what nobody asks for.
    fn pump(&self) {
        loop {
            let timeout = (!lock(&self.gathering).is_empty()).then_some(IDLE);
            let Some(news) = self.engine.next_news(timeout) else { return };
            self.bring(news);
            if timeout.is_some() && self.engine.is_idle() && !self.has(Fault::SitsOnWork) {
                let gathering = std::mem::take(&mut *lock(&self.gathering));
                gathering.iter().filter_map(Weak::upgrade).for_each(|lane| lane.request_flush());
            }
        }
    }

    fn bring(&self, news: News) {
        for (queue, from) in news.failed {
            self.fail(queue, from, Error::with_text(ErrorKind::WorkFailed, "failed on demand"));
        }
        if news.lost && !self.has(Fault::ForgetsLoss) {
            let all: Vec<_> = lock(&self.streams).values().filter_map(Weak::upgrade).collect();
            for lane in all {
                self.settle(&lane);
                lane.fail(lane.completed() + 1, Error::new(ErrorKind::DeviceLost));
                self.engine.halt_and_raise(lane.backend().queue);
            }
        }
        if self.has(Fault::WakesNobody) {
            return;
        }
        for lane in news.moved.into_iter().filter_map(|queue| self.lane_in_flight(queue)) {
            self.settle(&lane);
        }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("fault", &self.fault).finish_non_exhaustive()
    }
}

/// An opened simulated device, as the core sees it.
#[derive(Debug)]
pub(super) struct ToyBackend {
    shared: Arc<Shared>,
    name: String,
    callbacks: AtomicUsize,
}

impl ToyBackend {
    pub(super) fn open(toy: &Toy) -> Self {
        // Relaxed: only uniqueness matters.
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let shared = Arc::new(Shared {
            engine: Engine::start(toy.clock.clone(), toy.fault),
            clock: toy.clock.clone(),
            fault: toy.fault,
            eager_gates: toy.eager_gates,
            in_flight: Mutex::default(),
            gathering: Mutex::default(),
            streams: Mutex::default(),
            closed_gates: AtomicUsize::new(0),
            flushes: AtomicUsize::new(0),
        });
        let pumped = shared.clone();
        // Without its thread it is a device that tells nobody, and the cases say so.
        let _ = thread::Builder::new().name("toy pump".to_owned()).spawn(move || pumped.pump());
        let name = format!("{BACKEND}:{}", NEXT.fetch_add(1, Ordering::Relaxed));
        Self { shared, name, callbacks: AtomicUsize::new(0) }
    }
}

impl Backend for ToyBackend {
    fn info(&self) -> DeviceInfo {
        let mut capabilities = Capabilities::default();
        capabilities.timed = true;
        capabilities.batch_bound = Some(BATCH as u64);
        capabilities.native_waits = &[BACKEND];
        capabilities.gates = Gates::Owned;
        capabilities.failure_is_per_stream = true;
        DeviceInfo::new(&self.name, BACKEND, "simulated hardware", self.shared.clock.clock(), capabilities)
    }

    fn create_stream(&self, seed: StreamSeed<'_>) -> Result<Arc<Lane>> {
        ForeignQueue::new(&self.shared)?.into_lane(seed, None)
    }

    fn correlate(&self) -> Result<Correlation> {
        let correlation = self.shared.clock.correlate()?;
        if self.shared.has(Fault::MisplacesClock) {
            let host = correlation.host() + Duration::from_millis(5);
            return Ok(Correlation::new(correlation.device(), host, Duration::ZERO));
        }
        Ok(correlation)
    }

    fn run_callback(&self, run: &mut dyn FnMut()) {
        // Relaxed: a count.
        let turn = self.callbacks.fetch_add(1, Ordering::Relaxed);
        if !(self.shared.has(Fault::SwallowsCallbacks) && turn % 2 == 1) {
            run();
        }
    }
}

impl Drop for ToyBackend {
    fn drop(&mut self) {
        // The core lets go of a device once there are no lanes: nobody is left to be told anything.
        self.shared.engine.stop();
    }
}

/// A queue that the hardware has made and that no stream stands for yet.
#[derive(Debug)]
pub(super) struct ForeignQueue {
    shared: Arc<Shared>,
    queue: QueueId,
    counter: Arc<Counter>,
}

impl ForeignQueue {
    pub(super) fn new(shared: &Arc<Shared>) -> Result<Self> {
        let (queue, counter) = shared.engine.create_queue().ok_or(ErrorKind::DeviceLost)?;
        Ok(Self { shared: shared.clone(), queue, counter })
    }

    fn into_lane(self, seed: StreamSeed<'_>, keep_alive: Option<KeepAlive>) -> Result<Arc<Lane>> {
        let depth = seed.options().requested_depth();
        seed.build(|lane| {
            let Self { shared, queue, counter } = self;
            lock(&shared.streams).insert(queue, lane.clone());
            ToyStream {
                shared,
                queue,
                counter,
                lane: lane.clone(),
                depth,
                host: Mutex::default(),
                recorded: AtomicU64::new(0),
                _keep_alive: keep_alive,
            }
        })
    }

    /// Has a stream of `device` stand for it, which keeps `keep_alive` for as long as it uses the queue.
    pub(super) fn adopt(self, device: &Device, keep_alive: KeepAlive) -> Result<Stream> {
        // Which hardware a device is on, its streams know.
        if !ToyStream::of(&device.create_stream()?)?.is_on(&self.shared) {
            return Err(Error::new(ErrorKind::WrongDevice));
        }
        device.adopt_stream(&StreamOptions::new(), |seed| self.into_lane(seed, Some(keep_alive)))
    }
}

/// What must not go before the queue is done with.
pub(super) type KeepAlive = Arc<dyn Any + Send + Sync>;

/// One stream's driver half.
pub(super) struct ToyStream {
    shared: Arc<Shared>,
    queue: QueueId,
    counter: Arc<Counter>,
    lane: Weak<ToyLane>,
    depth: Option<u64>,
    host: Mutex<HostQueue>,
    /// The last position that was recorded.
    recorded: AtomicU64,
    _keep_alive: Option<KeepAlive>,
}

/// What has not been given to the hardware.
#[derive(Default)]
struct HostQueue {
    items: VecDeque<Item>,
    /// How many of them, from the front, are to go as soon as no gate is in the way.
    flushed: usize,
    /// The last position that the hardware has.
    submitted: u64,
    /// The driver will refuse the next submission.
    refuses: bool,
    /// The device was closed, or the stream has failed: nothing is kept any more.
    dead: bool,
}

enum Item {
    Op(Op),
    Gate(Arc<ToyGate>),
}

impl ToyStream {
    /// The simulated half of a stream, if it is one of a simulated device.
    pub(super) fn of(stream: &Stream) -> Result<&Self> {
        Ok(stream.backend::<Self>().ok_or(ErrorKind::WrongDevice)?)
    }

    fn is_on(&self, shared: &Arc<Shared>) -> bool {
        Arc::ptr_eq(&self.shared, shared)
    }

    /// Gathers work, and submits it if enough has come together. *Held.*
    pub(super) fn push(&self, op: Op) {
        self.gather(Item::Op(op));
    }

    /// The driver refuses the next submission.
    pub(super) fn refuse_next(&self) {
        lock(&self.host).refuses = true;
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    fn gather(&self, item: Item) {
        let mut host = lock(&self.host);
        if host.dead {
            return;
        }
        host.items.push_back(item);
        let gathered = host.items.len() - host.flushed;
        if gathered >= BATCH && !host.refuses {
            host.flushed = host.items.len();
            self.submit(&mut host);
        } else if gathered == 1 {
            drop(host);
            self.ask_for_flush();
        }
    }

    /// Has the pump submit what is gathered, once the device is idle.
    fn ask_for_flush(&self) {
        lock(&self.shared.gathering).push(self.lane.clone());
        self.shared.engine.ring();
    }

    /// Gives the hardware what is flushed and behind no gate.
    fn submit(&self, host: &mut HostQueue) {
        // Relaxed: a fault's own count.
        if self.shared.has(Fault::GatesBlockTheDevice) && self.shared.closed_gates.load(Ordering::Relaxed) > 0
        {
            return;
        }
        let mut batch = Vec::new();
        while host.flushed > 0 {
            // Acquire: pairs with `open`.
            match host.items.front() {
                Some(Item::Gate(gate)) if !gate.opened.load(Ordering::Acquire) => break,
                _ => {}
            }
            host.flushed -= 1;
            match host.items.pop_front() {
                Some(Item::Op(op)) => {
                    if let Op::Signal { value, .. } = &op {
                        host.submitted = *value;
                    }
                    batch.push(op);
                }
                Some(Item::Gate(_)) => {}
                None => break,
            }
        }
        if batch.is_empty() {
            return;
        }
        if self.shared.has(Fault::LosesFlushes) {
            // Relaxed: a fault's own count.
            let turn = self.shared.flushes.fetch_add(1, Ordering::Relaxed);
            if turn % 3 == 2 {
                return;
            }
        }
        self.shared.engine.submit(self.queue, batch);
    }

    /// Lets go of what is not submitted, and of whoever waits for what is.
    fn give_up(&self) {
        {
            let mut host = lock(&self.host);
            host.items.clear();
            host.flushed = 0;
            host.dead = true;
        }
        self.shared.engine.halt_and_raise(self.queue);
        let lane = lock(&self.shared.in_flight).remove(&self.queue);
        // Maybe the last reference to the lane: with no lock held.
        drop(lane);
    }
}

impl BackendStream for ToyStream {
    fn traits(&self) -> StreamTraits {
        StreamTraits { pushed: false, batches: true }
    }

    fn signal(&self, position: u64, timed: bool) -> Result<Signaled> {
        if self.shared.engine.is_lost() {
            return Err(Error::new(ErrorKind::DeviceLost));
        }
        if let Some(depth) = self.depth.filter(|_| !self.shared.has(Fault::ForgetsDepth)) {
            let in_flight = || (position - 1).saturating_sub(self.counter.value());
            if in_flight() >= depth {
                // The room that is named must come without anybody's help.
                self.flush()?;
                while self.shared.has(Fault::BlocksWhenFull) && in_flight() >= depth {
                    thread::yield_now();
                }
                if in_flight() >= depth {
                    return Ok(Signaled::Full(Room { after: position - depth }));
                }
            }
        }
        let stamp = timed.then(Arc::<Ticks>::default);
        if let Some(stamp) = stamp.as_ref().filter(|_| self.shared.has(Fault::StampsSubmission)) {
            stamp.set(self.shared.clock.ticks());
        }
        // Release: before the stream is entered below, so that whoever finds it there sees what it waits for.
        self.recorded.store(position, Ordering::Release);
        if let Some(lane) = self.lane.upgrade() {
            lock(&self.shared.in_flight).insert(self.queue, lane);
        }
        self.gather(Item::Op(Op::Signal { value: position, stamp: stamp.clone() }));
        Ok(Signaled::Pending(stamp.map(|ticks| -> Arc<dyn Stamp> {
            Arc::new(ToyStamp { ticks, trusts_zero: self.shared.has(Fault::StampsZero) })
        })))
    }

    fn wait(&self, source: &Source<'_>) -> Result<Waited> {
        let Some(other) = source.backend::<Self>().filter(|other| Arc::ptr_eq(&other.shared, &self.shared))
        else {
            return Ok(Waited::Unsupported);
        };
        let gap = source.position().saturating_sub(other.counter.value());
        if gap > VALUE_GAP && !self.shared.has(Fault::ExceedsValueGap) {
            return Ok(Waited::Unsupported);
        }
        if !self.shared.has(Fault::IgnoresWaits) {
            self.gather(Item::Op(Op::Wait { counter: other.counter.clone(), value: source.position() }));
        }
        Ok(Waited::Native)
    }

    fn gate(&self) -> Result<Arc<dyn Gate>> {
        let leaks = self.shared.has(Fault::LeaksThroughGates);
        let gate = Arc::new(ToyGate { opened: AtomicBool::new(leaks), stream: self.lane.clone() });
        // Relaxed: a fault's own count.
        self.shared.closed_gates.fetch_add(1, Ordering::Relaxed);
        self.gather(Item::Gate(gate.clone()));
        Ok(gate)
    }

    fn flush(&self) -> Result<Flushed> {
        let mut host = lock(&self.host);
        if std::mem::take(&mut host.refuses) {
            // What was flushed before, and waits for a gate, is not of this submission.
            let kept = host.flushed;
            host.items.truncate(kept);
            if self.shared.has(Fault::ForgetsRefusal) {
                return Ok(Flushed::All);
            }
            return Err(Error::with_text(ErrorKind::Driver, "submission refused on demand"));
        }
        host.flushed = host.items.len();
        self.submit(&mut host);
        Ok(if host.items.is_empty() { Flushed::All } else { Flushed::UpTo(host.submitted) })
    }

    fn poll(&self) {
        if let Some(lane) = self.lane.upgrade() {
            self.shared.settle(&lane);
        }
    }

    fn watch(&self, position: u64) {
        if !self.shared.has(Fault::WakesNobody) {
            self.shared.engine.watch(self.queue, position);
        }
    }

    fn abandon(&self) {
        self.give_up();
    }
}

impl Drop for ToyStream {
    fn drop(&mut self) {
        lock(&self.shared.streams).remove(&self.queue);
        self.shared.engine.retire(self.queue);
    }
}

impl fmt::Debug for ToyStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ToyStream")
            .field("queue", &self.queue)
            .field("counter", &self.counter.value())
            .finish_non_exhaustive()
    }
}

/// A wait in our own queue.
struct ToyGate {
    opened: AtomicBool,
    stream: Weak<ToyLane>,
}

impl Gate for ToyGate {
    fn open(&self) {
        let Some(lane) = self.stream.upgrade() else { return };
        let stream = lane.backend();
        let shared = &stream.shared;
        if shared.has(Fault::KeepsGatesShut) {
            return;
        }
        // Release: what the host did before it opened the gate happens before the work behind it.
        if self.opened.swap(true, Ordering::AcqRel) {
            return;
        }
        // Relaxed: a fault's own count.
        shared.closed_gates.fetch_sub(1, Ordering::Relaxed);
        {
            let mut host = lock(&stream.host);
            // Everything behind the gate has failed, unless that was said of a later one. Nobody wants it run on what was
            // never written. What is before it, maybe behind a gate of its own, goes on.
            if lane.is_failed() && !host.dead {
                let this =
                    |item: &Item| matches!(item, Item::Gate(gate) if std::ptr::eq(&raw const **gate, self));
                let place = host.items.iter().position(this).unwrap_or(host.items.len());
                host.items.truncate(place);
                host.flushed = host.flushed.min(place);
                host.dead = true;
            }
            stream.submit(&mut host);
            let left = host.items.len() > host.flushed;
            drop(host);
            if left {
                stream.ask_for_flush();
            }
        }
        if shared.eager_gates {
            // Against the seam's rule, for a device that is as fast as this: whatever follows from the gate is done.
            shared.engine.wait_until_idle(Duration::from_secs(1));
            let all: Vec<_> = lock(&shared.in_flight).values().cloned().collect();
            all.iter().for_each(|lane| shared.settle(lane));
        }
    }
}

impl fmt::Debug for ToyGate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ToyGate").field("opened", &self.opened).finish_non_exhaustive()
    }
}

/// Where a recording's time is.
#[derive(Debug)]
struct ToyStamp {
    ticks: Arc<Ticks>,
    trusts_zero: bool,
}

impl Stamp for ToyStamp {
    fn ticks(&self) -> Result<u64> {
        match self.ticks.get() {
            0 if !self.trusts_zero => Err(Error::new(ErrorKind::NotMeasured)),
            ticks => Ok(ticks),
        }
    }
}
