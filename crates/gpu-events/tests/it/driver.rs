//! A driver that is not there: what the skeleton's backend and the seed's way are both written against.
//!
//! It has what real ones have. Queues take batches of commands and run each in order; what runs is up to one device
//! thread, and a queue whose next command has to wait lets the others go on. Counters are signaled by queues and by
//! the host (Metal's shared events, Vulkan's timeline semaphores). A batch whose work fails takes its queue with it.
//! And it has what tests need: a bound on how many counters it hands out, a submission refused on demand, and news
//! held back.

use std::{
    collections::VecDeque,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
        mpsc::{Sender, channel},
    },
    time::Instant,
};

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The nanoseconds in one tick of the device's clock.
pub(crate) const NANOS_PER_TICK: u64 = 40;

/// The driver of one device. Clones are of the same one.
#[derive(Clone)]
pub(crate) struct Driver(Arc<Shared>);

struct Shared {
    /// Queues with something to do, for the device's thread.
    runnable: Sender<Arc<Queue>>,
    news: Mutex<News>,
    bell: Condvar,
    counters_left: AtomicUsize,
    refuse: AtomicBool,
    origin: Instant,
}

#[derive(Default)]
struct News {
    /// Nobody is told of anything while this is not zero.
    held: usize,
}

/// What a queue can be told to do.
pub(crate) enum Command {
    /// Run a kernel.
    Work(Box<dyn FnOnce() -> Result<(), String> + Send>),
    /// Hold the queue until the counter has this value.
    Wait(Arc<Counter>, u64),
    /// Raise the counter to this value.
    Signal(Arc<Counter>, u64),
    /// Write down the time.
    Stamp(Arc<Query>),
}

/// Commands that are submitted together, and what to call on the device's thread when they are done or have failed.
pub(crate) struct Batch {
    pub(crate) commands: VecDeque<Command>,
    pub(crate) done: Option<Handler>,
}

pub(crate) type Handler = Box<dyn FnOnce(Result<(), String>) + Send>;

impl Driver {
    pub(crate) fn new() -> Self {
        let (runnable, queues) = channel::<Arc<Queue>>();
        let thread = std::thread::Builder::new().name("fake device".into());
        thread.spawn(move || queues.into_iter().for_each(|queue| queue.run())).expect("a thread");
        Self(Arc::new(Shared {
            runnable,
            news: Mutex::default(),
            bell: Condvar::new(),
            counters_left: AtomicUsize::new(usize::MAX),
            refuse: AtomicBool::new(false),
            origin: Instant::now(),
        }))
    }

    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    pub(crate) fn new_queue(&self) -> Arc<Queue> {
        Arc::new(Queue { driver: self.clone(), state: Mutex::default() })
    }

    /// A counter at zero; `None` when the driver has no more, as Metal's `newSharedEvent` is allowed to be nil.
    pub(crate) fn new_counter(&self) -> Option<Arc<Counter>> {
        let left = &self.0.counters_left;
        left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).ok()?;
        Some(Arc::new(Counter {
            driver: self.clone(),
            value: AtomicU64::new(0),
            parked: Mutex::new(Vec::new()),
        }))
    }

    /// Has no more counters from now on.
    pub(crate) fn exhaust(&self) {
        self.0.counters_left.store(0, Ordering::Relaxed);
    }

    /// Refuses the next submission.
    pub(crate) fn refuse_next(&self) {
        self.0.refuse.store(true, Ordering::Relaxed);
    }

    /// The device's clock. Zero is no time.
    pub(crate) fn ticks(&self) -> u64 {
        1 + self.0.origin.elapsed().as_nanos() as u64 / NANOS_PER_TICK
    }

    /// Blocks until one of the counters has its value: Vulkan's `vkWaitSemaphores` with the any flag.
    pub(crate) fn wait_any(&self, waits: &[(Arc<Counter>, u64)]) {
        let mut news = lock(&self.0.news);
        while news.held > 0 || !waits.iter().any(|(counter, value)| counter.value() >= *value) {
            news = self.0.bell.wait(news).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Holds news back until the guard goes, as a host does that is too busy to look.
    pub(crate) fn hold_news(&self) -> HeldNews {
        lock(&self.0.news).held += 1;
        HeldNews(self.clone())
    }

    fn ring(&self) {
        // Taken, so that nobody is between looking at a counter and going to sleep.
        drop(lock(&self.0.news));
        self.0.bell.notify_all();
    }
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver").field("ticks", &self.ticks()).finish()
    }
}

pub(crate) struct HeldNews(Driver);

impl Drop for HeldNews {
    fn drop(&mut self) {
        lock(&self.0.0.news).held -= 1;
        self.0.ring();
    }
}

/// A value that queues and the host raise and wait for.
pub(crate) struct Counter {
    driver: Driver,
    value: AtomicU64,
    /// Queues that wait for a value.
    parked: Mutex<Vec<(u64, Arc<Queue>)>>,
}

impl Counter {
    pub(crate) fn value(&self) -> u64 {
        self.value.load(Ordering::Acquire)
    }

    /// Raises the value; a lower one than it has changes nothing.
    pub(crate) fn signal(&self, value: u64) {
        self.value.fetch_max(value, Ordering::AcqRel);
        self.tell();
    }

    /// Writes the value, lower ones too: what Metal lets the host do, and what nobody should.
    pub(crate) fn write(&self, value: u64) {
        self.value.store(value, Ordering::Release);
        self.tell();
    }

    fn tell(&self) {
        let reached: Vec<_> = {
            let mut parked = lock(&self.parked);
            let value = self.value();
            parked.extract_if(.., |(wanted, _)| *wanted <= value).collect()
        };
        for (_, queue) in reached {
            // Nobody listens once the process ends.
            let _ = self.driver.0.runnable.send(queue);
        }
        self.driver.ring();
    }
}

impl fmt::Debug for Counter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Counter").field(&self.value()).finish()
    }
}

/// A time that the device writes down. Zero until then.
#[derive(Debug, Default)]
pub(crate) struct Query(AtomicU64);

impl Query {
    pub(crate) fn ticks(&self) -> Option<u64> {
        Some(self.0.load(Ordering::Acquire)).filter(|ticks| *ticks > 0)
    }
}

/// Batches, run one after the other.
pub(crate) struct Queue {
    driver: Driver,
    state: Mutex<QueueState>,
}

#[derive(Default)]
struct QueueState {
    batches: VecDeque<Batch>,
    /// The device's thread runs it, will run it, or a counter that it waits for has it.
    scheduled: bool,
    lost: Option<String>,
}

impl Queue {
    /// Takes a batch, unless the driver refuses; then the batch is gone.
    pub(crate) fn submit(self: &Arc<Self>, batch: Batch) -> Result<(), String> {
        if self.driver.0.refuse.swap(false, Ordering::Relaxed) {
            return Err("error -1: out of device memory".into());
        }
        let mut state = lock(&self.state);
        state.batches.push_back(batch);
        if !std::mem::replace(&mut state.scheduled, true) {
            let _ = self.driver.0.runnable.send(self.clone());
        }
        Ok(())
    }

    /// On the device's thread: runs until there is nothing to do, or something to wait for.
    fn run(self: Arc<Self>) {
        loop {
            let (mut batch, lost) = {
                let mut state = lock(&self.state);
                match state.batches.pop_front() {
                    Some(batch) => (batch, state.lost.clone()),
                    None => return state.scheduled = false,
                }
            };
            let mut outcome = lost.map_or(Ok(()), Err);
            while outcome.is_ok()
                && let Some(command) = batch.commands.pop_front()
            {
                match command {
                    Command::Work(work) => outcome = run_kernel(work),
                    Command::Signal(counter, value) => counter.signal(value),
                    Command::Stamp(query) => query.0.store(self.driver.ticks(), Ordering::Release),
                    Command::Wait(counter, value) => {
                        let mut parked = lock(&counter.parked);
                        if counter.value() < value {
                            batch.commands.push_front(Command::Wait(counter.clone(), value));
                            lock(&self.state).batches.push_front(batch);
                            parked.push((value, self.clone()));
                            return;
                        }
                    }
                }
            }
            if let Err(error) = &outcome {
                lock(&self.state).lost = Some(error.clone());
            }
            if let Some(done) = batch.done.take() {
                done(outcome);
            }
        }
    }
}

fn run_kernel(work: Box<dyn FnOnce() -> Result<(), String> + Send>) -> Result<(), String> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err("a kernel panicked".into()))
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").field("batches", &lock(&self.state).batches.len()).finish_non_exhaustive()
    }
}
