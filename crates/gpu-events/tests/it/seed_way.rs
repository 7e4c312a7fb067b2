//! The seed's way, re-created: what `MPSEvent` and `MPSEventPool` do, member by member, over the fake driver.
//!
//! A re-creation in our own words of what the header declares and what is known of its implementation
//! (`docs/seed-parity.md`), so that each check in `hazards` can be seen to catch something. It is meant to be fair: it
//! does what the original does when all goes well (`hazards::the_seeds_way_works_when_nothing_goes_wrong`), and goes
//! wrong where that does. Three things are other than there, because this is Rust and a test:
//!
//! - Where C++ would follow a pointer to something that was freed, a weak reference finds nothing, and that is counted
//!   ([`EventSystem::undefined`]).
//! - Where two threads race without a lock, the worst interleaving can be asked for ([`EventSystem::preempt_acquire`],
//!   and the interruption in [`EventSystem::record_id`]).
//! - A thread that hangs is left behind.

use crate::driver::{Batch, Command, Counter, Driver, Handler, Queue, lock};
use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Barrier, Condvar, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering},
        mpsc::{Receiver, Sender, TryRecvError, channel},
    },
    thread::ThreadId,
    time::Duration,
};

/// Lets something go that was held.
pub(crate) type Release = Box<dyn FnOnce() + Send>;

/// A system of events, as the seed's header has it: what the checks need of one.
pub(crate) trait EventSystem: Send + Sync + 'static {
    type Stream: Clone + Send + Sync + 'static;
    type Pool: Clone + Send + Sync + 'static;
    type Event: Send + Sync + 'static;

    fn new_stream(&self) -> Self::Stream;
    fn new_pool(&self, default: &Self::Stream) -> Self::Pool;
    /// The pool of the process, until [`end_of_process`](Self::end_of_process).
    fn shared_pool(&self) -> Self::Pool;
    fn empty_cache(&self, pool: &Self::Pool);
    /// How many events the pool keeps for reuse.
    fn idle(&self, pool: &Self::Pool) -> usize;

    fn acquire(&self, pool: &Self::Pool, timing: bool, stream: &Self::Stream) -> Self::Event;
    fn id(&self, event: &Self::Event) -> u64;
    /// Records on the stream that the event was acquired for.
    fn record(&self, event: &Self::Event, stream: &Self::Stream, commit: bool);
    fn wait(&self, event: &Self::Event, stream: &Self::Stream);
    fn notify(&self, event: &Self::Event, callback: Release);
    fn query(&self, event: &Self::Event) -> Result<bool, String>;
    fn synchronize(&self, event: &Self::Event) -> Result<(), String>;
    fn wait_for_cpu_sync(&self, event: &Self::Event) -> Result<(), String>;
    /// In ticks of [`now`](Self::now).
    fn completion_time(&self, event: &Self::Event) -> Result<u64, String>;

    fn acquire_id(&self, pool: &Self::Pool, timing: bool) -> u64;
    fn release_id(&self, pool: &Self::Pool, id: u64) -> Result<(), String>;
    /// Records on the default stream, and commits. `interrupt` runs where another thread could: when the event has been
    /// looked up, and no lock is held any more.
    fn record_id(&self, pool: &Self::Pool, id: u64, interrupt: impl FnOnce()) -> Result<(), String>;
    fn query_id(&self, pool: &Self::Pool, id: u64) -> Result<bool, String>;
    fn elapsed_ids(&self, pool: &Self::Pool, start: u64, end: u64) -> Result<f64, String>;

    /// Submits work.
    fn work(&self, stream: &Self::Stream, work: Release);
    /// Submits work that fails.
    fn fail(&self, stream: &Self::Stream);
    fn commit(&self, stream: &Self::Stream);
    /// Holds back what is submitted to the stream from now on.
    fn hold(&self, stream: &Self::Stream) -> Release;
    /// Has the host learn of nothing that the device does.
    fn hold_news(&self) -> Release;
    /// The device's clock.
    fn now(&self) -> u64;

    /// Has the driver hand out no more of its objects.
    fn exhaust_driver(&self) {}
    /// Has two threads that make events at the same time meet at the worst point.
    fn preempt_acquire(&self, both: Arc<Barrier>) {
        drop(both);
    }
    /// What happens to statics when `main` returns.
    fn end_of_process(&self) {}
    /// How often something was used that was gone.
    fn undefined(&self) -> usize {
        0
    }
    /// How long something that is not to hang may take. Short where it is expected to hang.
    fn patience(&self) -> Duration;
}

pub(crate) struct SeedWay {
    driver: Driver,
    listener: Arc<Listener>,
    freed: Arc<AtomicUsize>,
    /// The static in front of `getMPSEventPool`, and the stream that it is for.
    shared: Mutex<Option<Arc<MpsEventPool>>>,
    default: Arc<MpsStream>,
    preempt: Arc<Mutex<Option<Arc<Barrier>>>>,
}

impl SeedWay {
    pub(crate) fn new() -> Self {
        let driver = Driver::new();
        let listener = Listener::start(&driver);
        let default = MpsStream::new(&driver);
        Self {
            driver,
            listener,
            freed: Arc::default(),
            shared: Mutex::default(),
            default,
            preempt: Arc::default(),
        }
    }
}

/// `MPSStream`: a queue, and a command buffer that is open until somebody commits it.
pub(crate) struct MpsStream {
    queue: Arc<Queue>,
    open: Mutex<VecDeque<Command>>,
}

impl MpsStream {
    fn new(driver: &Driver) -> Arc<Self> {
        Arc::new(Self { queue: driver.new_queue(), open: Mutex::default() })
    }

    fn encode(&self, command: Command) {
        lock(&self.open).push_back(command);
    }

    fn commit_then(&self, done: Option<Handler>) {
        let commands = std::mem::take(&mut *lock(&self.open));
        self.queue.submit(Batch { commands, done }).expect("this driver refuses nothing");
    }

    fn commit(&self) {
        self.commit_then(None);
    }

    fn commit_and_wait(&self) {
        let (sender, receiver) = channel();
        self.commit_then(Some(Box::new(move |_| {
            let _ = sender.send(());
        })));
        let _ = receiver.recv();
    }
}

type Block = Box<dyn FnOnce() + Send>;

/// `MTLSharedEventListener`: calls blocks on a thread of the host's once a shared event has a value.
struct Listener {
    blocks: Option<Sender<(Arc<Counter>, u64, Block)>>,
    bell: Arc<Counter>,
}

impl Listener {
    fn start(driver: &Driver) -> Arc<Self> {
        let (blocks, receiver) = channel();
        let bell = driver.new_counter().expect("the driver is fresh");
        let (its_driver, its_bell) = (driver.clone(), bell.clone());
        std::thread::spawn(move || Self::run(&its_driver, &its_bell, &receiver));
        Arc::new(Self { blocks: Some(blocks), bell })
    }

    fn notify(&self, event: &Arc<Counter>, value: u64, block: Block) {
        if let Some(blocks) = &self.blocks {
            blocks.send((event.clone(), value, block)).expect("the listener's thread is there");
        }
        self.bell.signal(self.bell.value() + 1);
    }

    fn run(driver: &Driver, bell: &Arc<Counter>, receiver: &Receiver<(Arc<Counter>, u64, Block)>) {
        let mut waiting: Vec<(Arc<Counter>, u64, Block)> = Vec::new();
        let mut rung = 0;
        loop {
            let mut waits = vec![(bell.clone(), rung + 1)];
            waits.extend(waiting.iter().map(|(event, value, _)| (event.clone(), *value)));
            driver.wait_any(&waits);
            rung = bell.value();
            loop {
                match receiver.try_recv() {
                    Ok(new) => waiting.push(new),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return,
                }
            }
            let reached = waiting.extract_if(.., |(event, value, _)| event.value() >= *value);
            let blocks: Vec<Block> = reached.map(|(_, _, block)| block).collect();
            blocks.into_iter().for_each(|block| block());
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.blocks = None;
        self.bell.signal(self.bell.value() + 1);
    }
}

/// `MPSEvent`.
pub(crate) struct MpsEvent {
    /// `id_t` has 32 bits.
    id: AtomicU32,
    enable_timing: AtomicBool,
    signal_counter: AtomicU64,
    /// `m_stream`, a raw pointer.
    stream: Mutex<Weak<MpsStream>>,
    /// `m_event`, which nobody checks for nil; what is sent to nil does nothing, and answers zero.
    event: Option<Arc<Counter>>,
    listener: Arc<Listener>,
    cpu_sync_completed: Mutex<bool>,
    cpu_sync_cv: Condvar,
    completion_time: AtomicU64,
    driver: Driver,
    freed: Arc<AtomicUsize>,
}

impl MpsEvent {
    fn signaled_value(&self) -> u64 {
        self.event.as_ref().map_or(0, |event| event.value())
    }

    fn stream(&self) -> Option<Arc<MpsStream>> {
        let stream = lock(&self.stream).upgrade();
        if stream.is_none() {
            self.freed.fetch_add(1, Ordering::Relaxed);
        }
        stream
    }

    fn record(self: &Arc<Self>, commit: bool) {
        let Some(stream) = self.stream() else { return };
        let value = self.signal_counter.fetch_add(1, Ordering::Relaxed) + 1;
        if self.enable_timing.load(Ordering::Relaxed) {
            // The block captures `this` as it is.
            let (this, freed) = (Arc::downgrade(self), self.freed.clone());
            self.notify(Box::new(move || match this.upgrade() {
                Some(this) => {
                    // Of the host's clock, when the block is run. (The fake's host and device share one.)
                    this.completion_time.store(this.driver.ticks(), Ordering::Relaxed);
                    this.notify_cpu_sync();
                }
                None => {
                    freed.fetch_add(1, Ordering::Relaxed);
                }
            }));
        }
        if let Some(event) = &self.event {
            stream.encode(Command::Signal(event.clone(), value));
        }
        if commit {
            stream.commit();
        }
    }

    fn wait(&self) -> bool {
        let value = self.signal_counter.load(Ordering::Relaxed);
        let Some(stream) = self.stream() else { return false };
        if self.signaled_value() >= value {
            return false;
        }
        if let Some(event) = &self.event {
            stream.encode(Command::Wait(event.clone(), value));
        }
        true
    }

    fn notify(&self, block: Block) -> bool {
        let value = self.signal_counter.load(Ordering::Relaxed);
        if self.signaled_value() >= value {
            return false;
        }
        if let Some(event) = &self.event {
            self.listener.notify(event, value, block);
        }
        true
    }

    fn query(&self) -> bool {
        let value = self.signal_counter.load(Ordering::Relaxed);
        value > 0 && self.signaled_value() >= value
    }

    fn synchronize(self: &Arc<Self>) {
        if self.stream().is_none() {
            return;
        }
        let this = Arc::downgrade(self);
        let notify = move || {
            if let Some(this) = this.upgrade() {
                this.notify_cpu_sync();
            }
        };
        if self.notify(Box::new(notify)) {
            self.wait_for_cpu_sync();
        }
    }

    fn notify_cpu_sync(&self) {
        *lock(&self.cpu_sync_completed) = true;
        self.cpu_sync_cv.notify_one();
    }

    fn wait_for_cpu_sync(&self) {
        let mut completed = lock(&self.cpu_sync_completed);
        while !*completed {
            completed = self.cpu_sync_cv.wait(completed).unwrap_or_else(PoisonError::into_inner);
        }
        *completed = false;
    }

    fn reset(&self, stream: &Arc<MpsStream>, timing: bool) {
        let mut own = lock(&self.stream);
        if !Weak::ptr_eq(&own, &Arc::downgrade(stream)) {
            self.signal_counter.store(0, Ordering::Relaxed);
            if let Some(event) = &self.event {
                event.write(0);
            }
            *own = Arc::downgrade(stream);
        }
        self.completion_time.store(0, Ordering::Relaxed);
        self.enable_timing.store(timing, Ordering::Relaxed);
        *lock(&self.cpu_sync_completed) = false;
    }
}

/// `std::recursive_mutex`, which can be left locked.
#[derive(Default)]
struct RecursiveMutex {
    owner: Mutex<Option<(ThreadId, usize)>>,
    bell: Condvar,
}

impl RecursiveMutex {
    fn lock(&self) {
        let me = std::thread::current().id();
        let mut owner = lock(&self.owner);
        loop {
            match &mut *owner {
                None => return *owner = Some((me, 1)),
                Some((thread, depth)) if *thread == me => return *depth += 1,
                Some(_) => owner = self.bell.wait(owner).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    fn unlock(&self) {
        let mut owner = lock(&self.owner);
        if let Some((_, depth)) = &mut *owner {
            *depth -= 1;
            if *depth == 0 {
                *owner = None;
                self.bell.notify_one();
            }
        }
    }

    /// `std::lock_guard`.
    fn guard(&self) -> impl Drop {
        struct Guard<'a>(&'a RecursiveMutex);
        impl Drop for Guard<'_> {
            fn drop(&mut self) {
                self.0.unlock();
            }
        }
        self.lock();
        Guard(self)
    }
}

/// `MPSEventPool`.
pub(crate) struct MpsEventPool {
    default_stream: Arc<MpsStream>,
    mutex: RecursiveMutex,
    // In mutexes because the compiler wants it so; `mutex` is what guards them.
    pool: Mutex<Vec<Arc<MpsEvent>>>,
    in_use_events: Mutex<HashMap<u32, MpsEventPtr>>,
    event_counter: AtomicU32,
    driver: Driver,
    listener: Arc<Listener>,
    freed: Arc<AtomicUsize>,
    preempt: Arc<Mutex<Option<Arc<Barrier>>>>,
}

/// `MPSEventPtr`: a pointer whose deleter gives the event back to a pool, through a pointer to that pool.
pub(crate) struct MpsEventPtr {
    event: Arc<MpsEvent>,
    pool: Weak<MpsEventPool>,
}

impl Drop for MpsEventPtr {
    fn drop(&mut self) {
        match self.pool.upgrade() {
            Some(pool) => {
                let _guard = pool.mutex.guard();
                lock(&pool.pool).push(self.event.clone());
            }
            None => {
                self.event.freed.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

impl MpsEventPool {
    fn acquire_event(self: &Arc<Self>, timing: bool, stream: &Arc<MpsStream>) -> MpsEventPtr {
        {
            let _guard = self.mutex.guard();
            let reused = lock(&self.pool).pop();
            if let Some(event) = reused {
                event.reset(stream, timing);
                return MpsEventPtr { event, pool: Arc::downgrade(self) };
            }
        }
        // `++m_event_counter`, with no lock held: a load and a store.
        let id = self.event_counter.load(Ordering::Relaxed) + 1;
        let both = lock(&self.preempt).clone();
        if let Some(both) = both {
            both.wait();
        }
        self.event_counter.store(id, Ordering::Relaxed);
        let event = Arc::new(MpsEvent {
            id: AtomicU32::new(id),
            enable_timing: AtomicBool::new(timing),
            signal_counter: AtomicU64::new(0),
            stream: Mutex::new(Arc::downgrade(stream)),
            event: self.driver.new_counter(),
            listener: self.listener.clone(),
            cpu_sync_completed: Mutex::new(false),
            cpu_sync_cv: Condvar::new(),
            completion_time: AtomicU64::new(0),
            driver: self.driver.clone(),
            freed: self.freed.clone(),
        });
        MpsEventPtr { event, pool: Arc::downgrade(self) }
    }

    fn acquire_event_id(self: &Arc<Self>, timing: bool) -> u32 {
        let _guard = self.mutex.guard();
        let event = self.acquire_event(timing, &self.default_stream);
        let id = event.event.id.load(Ordering::Relaxed);
        lock(&self.in_use_events).insert(id, event);
        id
    }

    fn release_event(&self, id: u32) -> Result<(), String> {
        let _guard = self.mutex.guard();
        let event = lock(&self.in_use_events).remove(&id);
        event.map(drop).ok_or_else(|| format!("Invalid Event ID: {id}"))
    }

    /// The pointer that is returned outlives the lock.
    fn in_use_event(&self, id: u32, locked: bool) -> Result<Arc<MpsEvent>, String> {
        if locked {
            self.mutex.lock();
        }
        // The check throws.
        let event = lock(&self.in_use_events).get(&id).map(|event| event.event.clone());
        let event = event.ok_or_else(|| format!("Invalid Event ID: {id}"))?;
        if locked {
            self.mutex.unlock();
        }
        Ok(event)
    }

    fn elapsed_time(&self, start: u32, end: u32) -> Result<f64, String> {
        self.default_stream.commit_and_wait();
        let _guard = self.mutex.guard();
        let (start, end) = (self.in_use_event(start, false)?, self.in_use_event(end, false)?);
        // The notification comes on another thread.
        start.wait_for_cpu_sync();
        end.wait_for_cpu_sync();
        let time = |event: &MpsEvent| event.completion_time.load(Ordering::Relaxed);
        let (start, end) = (time(&start), time(&end));
        if start == 0 || end == 0 {
            return Err("Events were not created with argument 'enable_timing=True'".into());
        }
        if end <= start {
            return Err("End event was not recorded after start event".into());
        }
        Ok((end - start) as f64 * crate::driver::NANOS_PER_TICK as f64 * 1e-6)
    }
}

impl EventSystem for SeedWay {
    type Stream = Arc<MpsStream>;
    type Pool = Arc<MpsEventPool>;
    type Event = MpsEventPtr;

    fn new_stream(&self) -> Arc<MpsStream> {
        MpsStream::new(&self.driver)
    }

    fn new_pool(&self, default: &Arc<MpsStream>) -> Arc<MpsEventPool> {
        Arc::new(MpsEventPool {
            default_stream: default.clone(),
            mutex: RecursiveMutex::default(),
            pool: Mutex::default(),
            in_use_events: Mutex::default(),
            event_counter: AtomicU32::new(0),
            driver: self.driver.clone(),
            listener: self.listener.clone(),
            freed: self.freed.clone(),
            preempt: self.preempt.clone(),
        })
    }

    fn shared_pool(&self) -> Arc<MpsEventPool> {
        lock(&self.shared).get_or_insert_with(|| self.new_pool(&self.default)).clone()
    }

    fn end_of_process(&self) {
        *lock(&self.shared) = None;
    }

    fn empty_cache(&self, pool: &Arc<MpsEventPool>) {
        let _guard = pool.mutex.guard();
        lock(&pool.pool).clear();
    }

    fn idle(&self, pool: &Arc<MpsEventPool>) -> usize {
        lock(&pool.pool).len()
    }

    fn acquire(&self, pool: &Arc<MpsEventPool>, timing: bool, stream: &Arc<MpsStream>) -> MpsEventPtr {
        pool.acquire_event(timing, stream)
    }

    fn id(&self, event: &MpsEventPtr) -> u64 {
        event.event.id.load(Ordering::Relaxed).into()
    }

    fn record(&self, event: &MpsEventPtr, _stream: &Arc<MpsStream>, commit: bool) {
        event.event.record(commit);
    }

    /// There is no stream to name: the header's `wait` puts it into the event's own.
    fn wait(&self, event: &MpsEventPtr, _stream: &Arc<MpsStream>) {
        event.event.wait();
    }

    fn notify(&self, event: &MpsEventPtr, callback: Release) {
        event.event.notify(callback);
    }

    fn query(&self, event: &MpsEventPtr) -> Result<bool, String> {
        Ok(event.event.query())
    }

    fn synchronize(&self, event: &MpsEventPtr) -> Result<(), String> {
        event.event.synchronize();
        Ok(())
    }

    fn wait_for_cpu_sync(&self, event: &MpsEventPtr) -> Result<(), String> {
        event.event.wait_for_cpu_sync();
        Ok(())
    }

    fn completion_time(&self, event: &MpsEventPtr) -> Result<u64, String> {
        Ok(event.event.completion_time.load(Ordering::Relaxed))
    }

    fn acquire_id(&self, pool: &Arc<MpsEventPool>, timing: bool) -> u64 {
        pool.acquire_event_id(timing).into()
    }

    fn release_id(&self, pool: &Arc<MpsEventPool>, id: u64) -> Result<(), String> {
        pool.release_event(id as u32)
    }

    fn record_id(&self, pool: &Arc<MpsEventPool>, id: u64, interrupt: impl FnOnce()) -> Result<(), String> {
        let event = pool.in_use_event(id as u32, true)?;
        interrupt();
        event.record(true);
        Ok(())
    }

    fn query_id(&self, pool: &Arc<MpsEventPool>, id: u64) -> Result<bool, String> {
        Ok(pool.in_use_event(id as u32, true)?.query())
    }

    fn elapsed_ids(&self, pool: &Arc<MpsEventPool>, start: u64, end: u64) -> Result<f64, String> {
        pool.elapsed_time(start as u32, end as u32)
    }

    fn work(&self, stream: &Arc<MpsStream>, work: Release) {
        stream.encode(Command::Work(Box::new(move || {
            work();
            Ok(())
        })));
    }

    fn fail(&self, stream: &Arc<MpsStream>) {
        stream.encode(Command::Work(Box::new(|| Err("a page fault".into()))));
    }

    fn commit(&self, stream: &Arc<MpsStream>) {
        stream.commit();
    }

    fn hold(&self, stream: &Arc<MpsStream>) -> Release {
        let gate = self.driver.new_counter().expect("held before the driver is exhausted");
        stream.encode(Command::Wait(gate.clone(), 1));
        Box::new(move || gate.signal(1))
    }

    fn hold_news(&self) -> Release {
        let held = self.driver.hold_news();
        Box::new(move || drop(held))
    }

    fn now(&self) -> u64 {
        self.driver.ticks()
    }

    fn exhaust_driver(&self) {
        self.driver.exhaust();
    }

    fn preempt_acquire(&self, both: Arc<Barrier>) {
        *lock(&self.preempt) = Some(both);
    }

    fn undefined(&self) -> usize {
        self.freed.load(Ordering::Relaxed)
    }

    fn patience(&self) -> Duration {
        Duration::from_millis(100)
    }
}
