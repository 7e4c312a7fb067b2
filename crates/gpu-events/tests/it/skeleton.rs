//! A backend to copy.
//!
//! It is complete, and small: streams that gather their work in batches, wait for each other in the driver and for
//! everybody else at a gate, tell the time, have a bounded queue, fail, and end. The driver under it (`driver.rs`) is
//! a fake with one thread; a real backend puts its vendor's calls where this one calls [`Driver`], [`Queue`] and
//! [`Counter`]. The comments say, for each method, what a real driver's would do (**Driver**) and what the core asks
//! of it (**Contract**; the numbers are those of `docs/contract.md`). What they leave out is in the documentation of
//! `gpu_events::backend`.
//!
//! Three things are all that there is to understand:
//!
//! 1. The core hands out *positions*, 1, 2, 3, …, and the backend has the driver count to them. One native counter
//!    per stream is enough: an event is never a native object.
//! 2. The core holds the stream's submit lock during `signal`, `wait`, `gate` and `flush`, so these never meet each
//!    other. Everything else may be called at any time, from any thread.
//! 3. `advance` and `fail` are how news gets back. Call them with no lock of your own held: wakers run in there.

use crate::driver::{Batch, Command, Counter, Driver, NANOS_PER_TICK, Query, Queue, lock};
use gpu_events::{
    Capabilities, Clock, ClockId, Correlation, DeviceInfo, Error, ErrorKind, Gates, Result, Stream,
    backend::{
        Backend, BackendStream, Flushed, Gate, Lane, Room, Signaled, Source, Stamp, StreamSeed, StreamTraits,
        Waited,
    },
};
use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, Sender, TryRecvError, channel},
    },
    time::{Duration, Instant},
};

/// How many incomplete recordings a stream takes before the core makes the caller wait. Real drivers block inside of
/// a call when they are full (Metal at 64 uncompleted buffers), and the core would be caught there with its lock
/// held: so count, and refuse before that (R5).
pub(crate) const QUEUE_DEPTH: u64 = 64;

/// How many recordings are gathered before they are submitted, whoever looks or doesn't (R7). Less than the depth, so
/// that what makes room in a full queue has always been submitted.
pub(crate) const BATCH_BOUND: u64 = 16;

/// The opened device.
#[derive(Debug)]
pub(crate) struct FakeBackend {
    driver: Driver,
    pump: Arc<Pump>,
    clock: Clock,
}

impl FakeBackend {
    /// **Driver**: loads the library, finds the hardware, opens it.
    pub(crate) fn new(driver: &Driver) -> Result<Self> {
        Ok(Self {
            driver: driver.clone(),
            pump: Pump::start(driver)?,
            // A clock of its own. Devices whose timestamps can be compared share one id instead.
            clock: Clock::new(
                ClockId::unique(),
                "the fake device's counter",
                Duration::from_nanos(NANOS_PER_TICK),
                NANOS_PER_TICK,
                1,
            ),
        })
    }
}

impl Backend for FakeBackend {
    /// **Contract**: what is claimed here is tested (conformance case 116).
    fn info(&self) -> DeviceInfo {
        let mut capabilities = Capabilities::default();
        capabilities.timed = true;
        capabilities.queue_depth = Some(QUEUE_DEPTH);
        capabilities.batch_bound = Some(BATCH_BOUND);
        capabilities.native_waits = &["fake"];
        // Work behind a gate stays in `FakeStream::gathered`. A driver that never sees it can't time it out (R6).
        capabilities.gates = Gates::Owned;
        capabilities.failure_is_per_stream = true;
        DeviceInfo::new("fake:0", "fake", "a device that is not there", self.clock, capabilities)
    }

    /// **Driver**: makes the queue and its one native counter, and checks both: Metal may hand out nil.
    ///
    /// **Contract**: nothing but this makes native objects for events, so nothing else can run out of them.
    fn create_stream(&self, seed: StreamSeed<'_>) -> Result<Arc<Lane>> {
        let counter = self
            .driver
            .new_counter()
            .ok_or_else(|| Error::with_text(ErrorKind::Resources, "the driver has no more counters"))?;
        let queue = self.driver.new_queue();
        let depth = seed.options().requested_depth().map_or(QUEUE_DEPTH, |depth| depth.min(QUEUE_DEPTH));
        let (driver, pump) = (self.driver.clone(), self.pump.clone());
        seed.build(|lane| FakeStream {
            lane: lane.clone(),
            driver,
            queue,
            counter,
            pump,
            depth,
            gathered: Mutex::default(),
            in_flight: AtomicU64::new(0),
        })
    }

    /// **Driver**: reads both clocks in one call if it can (`sampleTimestamps`, `vkGetCalibratedTimestamps`).
    ///
    /// **Contract**: the stated uncertainty holds (R24). Without such a call: the device's clock between two looks at
    /// the host's, which is off by half of the time between these at most.
    fn correlate(&self) -> Result<Correlation> {
        let before = Instant::now();
        let device = self.clock.at(self.driver.ticks());
        let half = before.elapsed() / 2;
        Ok(Correlation::new(device, before + half, half))
    }

    /// **Driver**: an autorelease pool around it on Metal, the context made current on CUDA.
    ///
    /// **Contract**: calls `run` exactly once, and does nothing else that could fail.
    fn run_callback(&self, run: &mut dyn FnMut()) {
        run();
    }

    /// **Contract**: the streams have been told already. Whatever the driver may still be using is leaked rather than
    /// freed (R32); here batches own what they use, so there is nothing left to do.
    fn close(&self) {}
}

/// The driver half of a stream.
pub(crate) struct FakeStream {
    /// To hand the lane to whoever will bring news. Weak, because the lane owns this.
    lane: Weak<Lane<FakeStream>>,
    driver: Driver,
    queue: Arc<Queue>,
    /// How far the stream is, as the driver counts it.
    counter: Arc<Counter>,
    pump: Arc<Pump>,
    depth: u64,
    /// What was not submitted yet. Only changes under the core's submit lock, except in `abandon`.
    gathered: Mutex<Gathered>,
    /// Batches that the driver has.
    in_flight: AtomicU64,
}

#[derive(Default)]
struct Gathered {
    items: VecDeque<Item>,
    /// How many of them are recordings.
    recordings: u64,
    /// The last position that the driver has.
    submitted: u64,
    abandoned: bool,
}

enum Item {
    Command(Command),
    Gate(Arc<FakeGate>),
}

impl FakeStream {
    /// The typed view of a stream: how users of *this* backend submit real work. The core knows nothing of it.
    ///
    /// Through [`Stream::lock`], because `gathered` changes under the submit lock only.
    pub(crate) fn enqueue(
        stream: &Stream,
        work: impl FnOnce() -> Result<(), String> + Send + 'static,
    ) -> Result<()> {
        let mut guard = stream.lock()?;
        let this = guard.backend::<Self>().ok_or(ErrorKind::Unsupported)?;
        this.gather(Item::Command(Command::Work(Box::new(work))));
        Ok(())
    }

    /// Adds to what is gathered, and sees to it that it is submitted in time (R7).
    fn gather(&self, item: Item) {
        {
            let mut gathered = lock(&self.gathered);
            if gathered.abandoned {
                return;
            }
            gathered.items.push_back(item);
        }
        // At once if the device would stand idle otherwise. Not *here*: a submission that the driver refuses must not
        // look like a refusal of the call that happened to trigger it (R29). The request is carried out when the
        // submit lock, which is held now, is given back, and a refusal becomes the stream's failure.
        if self.in_flight.load(Ordering::Relaxed) == 0 {
            self.request_flush();
        }
    }

    fn request_flush(&self) {
        // Whoever calls through the lane holds it; only a callback of the driver might come too late.
        if let Some(lane) = self.lane.upgrade() {
            lane.request_flush();
        }
    }

    /// What the driver says about a batch, on one of its threads.
    fn batch_is_done(lane: &Lane<Self>, outcome: Result<(), String>) {
        let this = lane.backend();
        if let Err(text) = outcome {
            // The order is R26's and R28's. First what did complete, so that it stays complete; then the failure, for
            // everything after; and only then the native counter, to let those go who wait for it in the driver: by
            // now the core has marked them all as failed.
            let reached = this.counter.value();
            lane.advance(reached);
            lane.fail(reached + 1, Error::with_text(ErrorKind::WorkFailed, text));
            this.counter.signal(u64::MAX);
        }
        // The device has run dry: what was gathered meanwhile goes now.
        if this.in_flight.fetch_sub(1, Ordering::Relaxed) == 1 {
            lane.request_flush();
        }
    }
}

impl BackendStream for FakeStream {
    /// `pushed: false`: the driver has to be asked, by `poll` and by the pump. A backend whose completions come by
    /// themselves says `true`, and `poll` and `watch` are never called.
    ///
    /// `batches: true`: work is gathered. A backend that hands everything over at once says `false`, and `flush` is
    /// never called.
    fn traits(&self) -> StreamTraits {
        StreamTraits { pushed: false, batches: true }
    }

    /// **Driver**: `encodeSignalEvent`, `cuEventRecord`, a value in the batch's `VkSubmitInfo2`.
    ///
    /// **Contract**: on an error, or `Full`, nothing has happened. Never blocks, and never waits for room: the core
    /// does that, with no lock held, or says `WouldBlock` (R5).
    fn signal(&self, position: u64, timed: bool) -> Result<Signaled> {
        if position.saturating_sub(self.counter.value()) > self.depth {
            return Ok(Signaled::Full(Room { after: position - self.depth }));
        }
        // A timestamp right before the signal. The event keeps the query; when the last event that points at it goes,
        // the query's slot can be used again, which is what the stamp's `Drop` would be for.
        let stamp = timed.then(|| {
            let query = Arc::new(Query::default());
            self.gather(Item::Command(Command::Stamp(query.clone())));
            Arc::new(FakeStamp(query)) as Arc<dyn Stamp>
        });
        self.gather(Item::Command(Command::Signal(self.counter.clone(), position)));
        let recordings = {
            let mut gathered = lock(&self.gathered);
            gathered.recordings += 1;
            gathered.recordings
        };
        if recordings >= BATCH_BOUND.min(self.depth) {
            self.request_flush();
        }
        // A driver that knows that the stream is idle may answer `Done` instead; this one would have to ask.
        Ok(Signaled::Pending(stamp))
    }

    /// **Driver**: `encodeWaitForEvent`, `cuStreamWaitEvent`, a semaphore in the batch's waits.
    ///
    /// **Contract**: says what it did, and the core does the rest: for `Native` it passes the source's failure on,
    /// for `Unsupported` it asks for a gate. Never waits for a source of another kind by blocking anything.
    fn wait(&self, source: &Source<'_>) -> Result<Waited> {
        match source.backend::<Self>() {
            Some(other) if other.driver.is(&self.driver) => {
                // The core has asked the source to flush. If it could not yet, this driver doesn't mind a wait that
                // comes before its signal; one that does (a shared Vulkan queue) asks `source.is_submitted()` and
                // answers `Unsupported` if it isn't.
                self.gather(Item::Command(Command::Wait(other.counter.clone(), source.position())));
                Ok(Waited::Native)
            }
            _ => Ok(Waited::Unsupported),
        }
    }

    /// **Driver**: nothing. What comes after the gate is kept here until it opens.
    ///
    /// **Contract**: only asked for after `Unsupported`. The core keeps the gate, opens it once, and marks this stream
    /// as failed first if the source has failed (R26).
    fn gate(&self) -> Result<Arc<dyn Gate>> {
        let gate = Arc::new(FakeGate { open: AtomicBool::new(false), lane: self.lane.clone() });
        self.gather(Item::Gate(gate.clone()));
        Ok(gate)
    }

    /// **Driver**: `commit`, `vkQueueSubmit2`.
    ///
    /// **Contract**: everything gathered goes, up to the first gate that is closed, and what comes back says how far
    /// that was. An error fails the stream from the first position on that was not submitted.
    fn flush(&self) -> Result<Flushed> {
        let (commands, flushed) = {
            let mut gathered = lock(&self.gathered);
            let mut commands: VecDeque<Command> = VecDeque::new();
            while let Some(item) = gathered.items.pop_front() {
                match item {
                    Item::Command(command) => {
                        if let Command::Signal(_, position) = &command {
                            gathered.submitted = *position;
                        }
                        commands.push_back(command);
                    }
                    Item::Gate(gate) if gate.open.load(Ordering::Acquire) => {}
                    closed @ Item::Gate(_) => {
                        gathered.items.push_front(closed);
                        break;
                    }
                }
            }
            gathered.recordings = 0;
            let all = gathered.items.is_empty();
            (commands, if all { Flushed::All } else { Flushed::UpTo(gathered.submitted) })
        };
        let Some(lane) = self.lane.upgrade().filter(|_| !commands.is_empty()) else { return Ok(flushed) };
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        // The batch keeps the lane, and with it everything that the work needs, until the driver is done with it: the
        // user may have dropped every handle by then (R32).
        let done = Box::new(move |outcome| Self::batch_is_done(&lane, outcome));
        self.queue.submit(Batch { commands, done: Some(done) }).map(|()| flushed).map_err(|text| {
            self.in_flight.fetch_sub(1, Ordering::Relaxed);
            // The core will fail this stream and those that wait for it, so nobody hangs. What waits for it in the
            // driver can't be let go before that is done, and stays there until the device is closed: leaked, which
            // is what is left where a driver refuses submissions (R32).
            Error::with_text(ErrorKind::Driver, text)
        })
    }

    /// **Driver**: reads `signaledValue`, `vkGetSemaphoreCounterValue`, the pinned word.
    ///
    /// **Contract**: cheap, and never blocks; whoever polls an event calls it.
    fn poll(&self) {
        if let Some(lane) = self.lane.upgrade() {
            lane.advance(self.counter.value());
        }
    }

    /// **Driver**: adds the counter to what the pump waits for.
    ///
    /// **Contract**: from now on news up to `position` come by themselves, whoever polls or doesn't (R14).
    fn watch(&self, position: u64) {
        if let Some(lane) = self.lane.upgrade() {
            self.pump.watch(Watched { lane, position });
        }
    }

    /// **Driver**: detaches handlers; whatever it may still be using is leaked.
    ///
    /// **Contract**: the device is closed and every position has failed. What was gathered is dropped without
    /// running, with no lock held, because users' closures go with it.
    fn abandon(&self) {
        let items = {
            let mut gathered = lock(&self.gathered);
            gathered.abandoned = true;
            std::mem::take(&mut gathered.items)
        };
        drop(items);
        // Other streams may wait in the driver for what was just dropped. They have been marked.
        self.counter.signal(u64::MAX);
    }
}

impl fmt::Debug for FakeStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeStream")
            .field("counter", &self.counter)
            .field("gathered", &lock(&self.gathered).items.len())
            .finish_non_exhaustive()
    }
}

/// A gate in our own queue: work behind it has not reached the driver.
#[derive(Debug)]
struct FakeGate {
    open: AtomicBool,
    lane: Weak<Lane<FakeStream>>,
}

impl Gate for FakeGate {
    /// **Driver** (where it is the driver that waits, as on CUDA): writes the pinned word.
    ///
    /// **Contract**: from any thread, must not block, and a second time does nothing.
    fn open(&self) {
        self.open.store(true, Ordering::Release);
        if let Some(lane) = self.lane.upgrade() {
            // Not `flush`: that is for the submit lock's holder alone. This finds the lock free and submits, or
            // leaves it to whoever holds it.
            lane.request_flush();
        }
    }
}

/// The time of one recording.
#[derive(Debug)]
struct FakeStamp(Arc<Query>);

impl Stamp for FakeStamp {
    /// **Contract**: asked only once the recording is complete. No time is an error and never zero (R20).
    fn ticks(&self) -> Result<u64> {
        self.0.ticks().ok_or_else(|| Error::new(ErrorKind::NotMeasured))
    }
}

/// The thread that brings news from the driver: one per device, whatever the number of streams and events (R14). It
/// runs no user code, wakers aside.
struct Pump {
    watched: Option<Sender<Watched>>,
    /// Raised to have the pump look at what else it is to watch.
    bell: Arc<Counter>,
}

/// What the pump waits for. Holds the lane: as long as somebody waits for news, somebody has to bring them, even if
/// the stream's last handle has gone.
struct Watched {
    lane: Arc<Lane<FakeStream>>,
    position: u64,
}

impl Pump {
    fn start(driver: &Driver) -> Result<Arc<Self>> {
        let refused = |text: String| Error::with_text(ErrorKind::Resources, text);
        let bell = driver.new_counter().ok_or_else(|| refused("the driver has no more counters".into()))?;
        let (watched, receiver) = channel();
        let (its_driver, its_bell) = (driver.clone(), bell.clone());
        std::thread::Builder::new()
            .name("fake:0 pump".into())
            .spawn(move || Self::run(&its_driver, &its_bell, &receiver))
            .map_err(|error| refused(error.to_string()))?;
        Ok(Arc::new(Self { watched: Some(watched), bell }))
    }

    fn watch(&self, watched: Watched) {
        if let Some(sender) = &self.watched {
            // Refused only if the pump is gone, which it isn't while there is this.
            let _ = sender.send(watched);
            self.ring();
        }
    }

    fn ring(&self) {
        self.bell.signal(self.bell.value() + 1);
    }

    fn run(driver: &Driver, bell: &Arc<Counter>, receiver: &Receiver<Watched>) {
        let mut list: Vec<Watched> = Vec::new();
        let mut rung = 0;
        loop {
            // Vulkan waits for any of many semaphores; CUDA has no such call, and its pump spins, then backs off.
            let mut waits = vec![(bell.clone(), rung + 1)];
            waits.extend(
                list.iter().map(|watched| (watched.lane.backend().counter.clone(), watched.position)),
            );
            driver.wait_any(&waits);
            rung = bell.value();
            loop {
                match receiver.try_recv() {
                    Ok(watched) => list.push(watched),
                    Err(TryRecvError::Empty) => break,
                    // The device and all its streams are gone.
                    Err(TryRecvError::Disconnected) => return,
                }
            }
            list.retain(Self::is_pending);
        }
    }

    /// Brings the news of one lane, and says whether there are more to come.
    fn is_pending(watched: &Watched) -> bool {
        let reached = watched.lane.backend().counter.value();
        watched.lane.advance(reached);
        reached < watched.position
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        self.watched = None;
        self.ring();
    }
}

impl fmt::Debug for Pump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pump").field("bell", &self.bell).finish_non_exhaustive()
    }
}
