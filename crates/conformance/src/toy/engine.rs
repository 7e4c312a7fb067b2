//! The simulated hardware: queues of operations that one thread takes turns at, a counter for each, and interrupts.
//!
//! Knows nothing of events. It is what a driver's documentation would describe: it runs what it is given in order
//! within a queue, signals counters, lets a queue wait for another's counter, raises an interrupt when a counter
//! reaches a value that it was told to watch, when a queue runs dry, and when work fails. A queue whose work failed
//! is halted: it signals nothing any more until the host raises its counter.

use super::{Fault, clock::TickClock};
use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap, HashMap, VecDeque},
    fmt,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// How many operations a queue runs before the next has its turn.
const SLICE: usize = 32;
/// The furthest that a counter may be behind a value that a queue waits for; beyond it, the hardware never notices.
pub(super) const VALUE_GAP: u64 = 1_000;
/// What a counter is raised to when nobody is to wait for it any more.
const RAISED: u64 = u64::MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct QueueId(u64);

/// One thing that a queue does.
#[derive(Debug)]
pub(super) enum Op {
    Write { cells: Arc<[AtomicU32]>, at: usize, value: u32 },
    Copy { cells: Arc<[AtomicU32]>, from: usize, to: usize },
    Busy(Duration),
    BusyUntil(Instant),
    Fail,
    Signal { value: u64, stamp: Option<Arc<Ticks>> },
    Wait { counter: Arc<Counter>, value: u64 },
}

/// A queue's counter, in memory that the host can read.
#[derive(Debug)]
pub(super) struct Counter {
    queue: QueueId,
    value: AtomicU64,
}

impl Counter {
    pub(super) fn value(&self) -> u64 {
        // Acquire: pairs with the engine's release; what the work wrote comes with it.
        self.value.load(Ordering::Acquire)
    }
}

/// Where a signal leaves the time. Zero until then.
#[derive(Debug, Default)]
pub(super) struct Ticks(AtomicU64);

impl Ticks {
    pub(super) fn get(&self) -> u64 {
        // Acquire: whoever has seen the signal sees the time; it was written before.
        self.0.load(Ordering::Acquire)
    }

    pub(super) fn set(&self, ticks: u64) {
        self.0.store(ticks, Ordering::Release);
    }
}

#[derive(Debug)]
struct Queue {
    ops: VecDeque<Op>,
    counter: Arc<Counter>,
    /// The last value that was signaled, whatever became of the counter since.
    signaled: u64,
    /// Values at which to interrupt.
    watched: BTreeSet<u64>,
    halted: bool,
    /// In the ready list, asleep, or blocked: whoever moves it on will find it.
    scheduled: bool,
    /// Nobody will submit any more: it goes once it is empty.
    retired: bool,
}

/// What has happened since the host last asked.
#[derive(Debug, Default)]
pub(super) struct News {
    /// Queues whose counters moved.
    pub(super) moved: BTreeSet<QueueId>,
    /// Queues whose work failed, and the first value that was not signaled.
    pub(super) failed: Vec<(QueueId, u64)>,
    /// The hardware went away.
    pub(super) lost: bool,
    /// The host rang its own bell.
    pub(super) rung: bool,
}

impl News {
    fn is_empty(&self) -> bool {
        self.moved.is_empty() && self.failed.is_empty() && !self.lost && !self.rung
    }
}

#[derive(Debug, Default)]
struct State {
    queues: HashMap<QueueId, Queue>,
    next: u64,
    ready: VecDeque<QueueId>,
    asleep: BinaryHeap<Reverse<(Instant, QueueId)>>,
    /// Queues that wait for a counter of the queue that is the key.
    blocked: HashMap<QueueId, Vec<(u64, QueueId)>>,
    /// A queue's turn is being taken.
    running: bool,
    news: News,
    lost: bool,
    stopping: bool,
    stamps: u64,
}

/// See the module.
pub(super) struct Engine {
    state: Mutex<State>,
    /// Rung when there is something to run.
    work: Condvar,
    /// Rung when there is something to tell.
    news: Condvar,
    /// Rung when everything has stopped that can.
    calm: Condvar,
    clock: Arc<TickClock>,
    fault: Option<Fault>,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").finish_non_exhaustive()
    }
}

impl Engine {
    /// Hardware, running.
    pub(super) fn start(clock: Arc<TickClock>, fault: Option<Fault>) -> Arc<Self> {
        let engine = Arc::new(Self {
            state: Mutex::default(),
            work: Condvar::new(),
            news: Condvar::new(),
            calm: Condvar::new(),
            clock,
            fault,
        });
        let running = engine.clone();
        // Without its thread it is a device on which nothing ever completes, and the cases say so.
        let _ = thread::Builder::new().name("toy engine".to_owned()).spawn(move || running.run());
        engine
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    /// Makes a queue. `None` if the hardware is lost.
    pub(super) fn create_queue(&self) -> Option<(QueueId, Arc<Counter>)> {
        let mut state = self.state();
        if state.lost {
            return None;
        }
        let id = QueueId(state.next);
        state.next += 1;
        let counter = Arc::new(Counter { queue: id, value: AtomicU64::new(0) });
        state.queues.insert(
            id,
            Queue {
                ops: VecDeque::new(),
                counter: counter.clone(),
                signaled: 0,
                watched: BTreeSet::new(),
                halted: false,
                scheduled: false,
                retired: false,
            },
        );
        Some((id, counter))
    }

    /// Nothing will be submitted to the queue any more.
    pub(super) fn retire(&self, id: QueueId) {
        let mut state = self.state();
        if let Some(queue) = state.queues.get_mut(&id) {
            queue.retired = true;
            if queue.ops.is_empty() {
                state.queues.remove(&id);
            }
        }
    }

    /// Gives the queue work. A halted one drops it.
    pub(super) fn submit(&self, id: QueueId, ops: impl IntoIterator<Item = Op>) {
        let mut state = self.state();
        let Some(queue) = state.queues.get_mut(&id) else { return };
        if queue.halted {
            return;
        }
        if self.has(Fault::Rewinds) && queue.ops.is_empty() {
            queue.counter.value.store(0, Ordering::Release);
        }
        queue.ops.extend(ops);
        if self.has(Fault::SignalsEarly) {
            let last = queue.ops.iter().rev().find_map(|op| match op {
                Op::Signal { value, .. } => Some(*value),
                _ => None,
            });
            queue.counter.value.fetch_max(last.unwrap_or(0), Ordering::AcqRel);
        }
        if !queue.scheduled && !queue.ops.is_empty() {
            queue.scheduled = true;
            state.ready.push_back(id);
            self.work.notify_one();
        }
    }

    /// Drops what the queue has not run, and lets go of everyone who waits for its counter. Whoever calls this has
    /// told the host's side that the queue failed.
    pub(super) fn halt_and_raise(&self, id: QueueId) {
        let mut state = self.state();
        let Some(queue) = state.queues.get_mut(&id) else { return };
        queue.halted = true;
        queue.ops.clear();
        self.raise(&mut state, id, RAISED);
    }

    /// Interrupts when the queue's counter reaches `value`; at once if it has.
    pub(super) fn watch(&self, id: QueueId, value: u64) {
        let mut state = self.state();
        let Some(queue) = state.queues.get_mut(&id) else { return };
        if queue.counter.value() >= value {
            self.tell(&mut state, |news| _ = news.moved.insert(id));
        } else {
            queue.watched.insert(value);
        }
    }

    /// Takes the hardware away: every queue stands still from here on.
    pub(super) fn lose(&self) {
        let mut state = self.state();
        state.lost = true;
        for queue in state.queues.values_mut() {
            queue.halted = true;
            queue.ops.clear();
        }
        self.tell(&mut state, |news| news.lost = true);
    }

    pub(super) fn is_lost(&self) -> bool {
        self.state().lost
    }

    /// Rings the bell of whoever waits for news.
    pub(super) fn ring(&self) {
        self.tell(&mut self.state(), |news| news.rung = true);
    }

    /// Ends the engine's thread once it has nothing to run, and whoever waits for news at once.
    pub(super) fn stop(&self) {
        self.state().stopping = true;
        self.work.notify_one();
        self.news.notify_all();
    }

    /// Waits for news, for so long; `None` once the engine was stopped.
    pub(super) fn next_news(&self, timeout: Option<Duration>) -> Option<News> {
        let until = timeout.map(|timeout| Instant::now() + timeout);
        let mut state = self.state();
        loop {
            if !state.news.is_empty() {
                return Some(std::mem::take(&mut state.news));
            }
            if state.stopping {
                return None;
            }
            state = match until {
                None => self.news.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(until) => {
                    let Some(left) = until.checked_duration_since(Instant::now()) else {
                        return Some(News::default());
                    };
                    self.news.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// Whether there is nothing to run: all queues are empty, or wait for others.
    pub(super) fn is_idle(&self) -> bool {
        self.state().is_idle()
    }

    /// Waits until there is nothing to run, for so long at most.
    pub(super) fn wait_until_idle(&self, timeout: Duration) {
        let state = self.state();
        drop(
            self.calm
                .wait_timeout_while(state, timeout, |state| !state.is_idle())
                .unwrap_or_else(PoisonError::into_inner),
        );
    }

    fn tell(&self, state: &mut State, what: impl FnOnce(&mut News)) {
        what(&mut state.news);
        self.news.notify_one();
    }

    /// The engine's thread.
    fn run(&self) {
        let mut state = self.state();
        loop {
            state.wake_sleepers();
            if let Some(id) = state.ready.pop_front() {
                state.running = true;
                self.run_queue(&mut state, id);
                state.running = false;
                // Between two slices, whoever waits for the lock gets a chance.
                drop(state);
                state = self.state();
                continue;
            }
            self.calm.notify_all();
            let next = state.asleep.peek().map(|Reverse((at, _))| *at);
            if state.stopping && next.is_none() {
                return;
            }
            state = match next {
                None => self.work.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(at) => {
                    let left = at.saturating_duration_since(Instant::now());
                    self.work.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// One slice of a queue's work.
    fn run_queue(&self, state: &mut State, id: QueueId) {
        for _ in 0..SLICE {
            let Some(queue) = state.queues.get_mut(&id) else { return };
            let Some(op) = queue.ops.pop_front() else {
                queue.scheduled = false;
                let retired = queue.retired;
                if retired {
                    state.queues.remove(&id);
                }
                return self.tell(state, |news| _ = news.moved.insert(id));
            };
            match op {
                Op::Write { .. } | Op::Copy { .. }
                    if self.has(Fault::SignalsBeforeEffects) && queue.put_off() =>
                {
                    queue.ops.insert(2, op);
                }
                Op::Write { cells, at, value } => {
                    // Relaxed: ordered by the signal behind it.
                    cells[at].store(value, Ordering::Relaxed);
                }
                Op::Copy { cells, from, to } => {
                    cells[to].store(cells[from].load(Ordering::Relaxed), Ordering::Relaxed);
                }
                Op::Busy(time) => queue.ops.push_front(Op::BusyUntil(Instant::now() + time)),
                Op::BusyUntil(at) => {
                    if at > Instant::now() {
                        queue.ops.push_front(Op::BusyUntil(at));
                        state.asleep.push(Reverse((at, id)));
                        return;
                    }
                }
                Op::Wait { counter, value } => {
                    let now = counter.value();
                    // What the hardware cannot compare it takes for not reached.
                    if now < value {
                        let noticed = value - now <= VALUE_GAP;
                        queue.ops.push_front(Op::Wait { counter: counter.clone(), value });
                        if noticed {
                            state.blocked.entry(counter.queue).or_default().push((value, id));
                        }
                        return;
                    }
                }
                Op::Fail => {
                    queue.halted = true;
                    queue.scheduled = false;
                    queue.ops.clear();
                    let from = queue.signaled + 1;
                    return self.tell(state, |news| news.failed.push((id, from)));
                }
                Op::Signal { value, stamp } => {
                    queue.signaled = value;
                    let value = if self.has(Fault::Rewinds) { queue.counter.value() + 1 } else { value };
                    if let Some(stamp) = stamp {
                        self.stamp(state, &stamp);
                    }
                    self.raise(state, id, value);
                }
            }
        }
        state.ready.push_back(id);
    }

    fn stamp(&self, state: &mut State, stamp: &Ticks) {
        state.stamps += 1;
        stamp.set(match self.fault {
            Some(Fault::StampsSubmission) => return,
            Some(Fault::StampsZero) => 0,
            Some(Fault::CountsFast) => self.clock.ticks() * 3 / 2,
            // A millisecond.
            Some(Fault::TurnsBack) if state.stamps.is_multiple_of(20) => self.clock.ticks() - 24_000,
            _ => self.clock.ticks(),
        });
    }

    /// Sets a counter, and moves on whoever waits for it.
    fn raise(&self, state: &mut State, id: QueueId, to: u64) {
        let Some(queue) = state.queues.get_mut(&id) else { return };
        // Release: the work before it happens before whoever reads it. Never back: it may have been raised already.
        queue.counter.value.fetch_max(to, Ordering::AcqRel);
        let mut interrupt = to == RAISED;
        while queue.watched.first().is_some_and(|&value| value <= to) {
            queue.watched.pop_first();
            interrupt = true;
        }
        if let Some(blocked) = state.blocked.get_mut(&id) {
            let released = blocked.extract_if(.., |(value, _)| *value <= to).map(|(_, queue)| queue);
            state.ready.extend(released);
            self.work.notify_one();
        }
        if interrupt {
            self.tell(state, |news| _ = news.moved.insert(id));
        }
    }
}

impl State {
    fn is_idle(&self) -> bool {
        self.ready.is_empty() && self.asleep.is_empty() && !self.running
    }

    fn wake_sleepers(&mut self) {
        let now = Instant::now();
        while self.asleep.peek().is_some_and(|Reverse((at, _))| *at <= now) {
            if let Some(Reverse((_, id))) = self.asleep.pop() {
                self.ready.push_back(id);
            }
        }
    }
}

impl Queue {
    /// Puts the next signal in front of an effect, and the effect off by a millisecond. False if there is none.
    fn put_off(&mut self) -> bool {
        let Some(at) = self.ops.iter().position(|op| matches!(op, Op::Signal { .. })) else { return false };
        let Some(signal) = self.ops.remove(at) else { return false };
        self.ops.push_front(Op::BusyUntil(Instant::now() + Duration::from_millis(1)));
        self.ops.push_front(signal);
        true
    }
}
