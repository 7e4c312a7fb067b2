//! The pool of workers that all CPU devices share.
//!
//! A worker keeps the strands that it makes ready to itself and runs them next: a hand-over from stream to stream then
//! costs no lock and no wake-up. It shares them with the others before it runs user code, which may take long, and
//! after a bound. Waking at once was measured and lost: the wake-up costs more than most hand-overs save.

use super::strand::{self, Strand};
use crate::{
    error::{Error, ErrorKind, Result},
    lane::Lane,
    primitive::{Condvar, Mutex, lock, spawn},
    work,
};
use std::{
    cell::RefCell,
    collections::VecDeque,
    num::NonZeroUsize,
    sync::{Arc, OnceLock, PoisonError},
};

type Ready = Arc<Lane<Strand>>;

/// A worker looks into the shared queue first once in so many rounds, so that two strands that keep each other ready
/// don't keep the others out. A prime, so as not to fall into step with anything.
const FAIRNESS: u32 = 61;

struct Pool {
    state: Mutex<State>,
    bell: Condvar,
    /// How many workers there are to be that don't block.
    target: usize,
}

#[derive(Default)]
struct State {
    ready: VecDeque<Ready>,
    threads: usize,
    /// Workers that sleep and were not told to wake.
    asleep: usize,
    /// Wake-ups that were given and not taken yet.
    wakeups: usize,
    /// Workers whose work blocks in a host wait.
    blocked: usize,
}

thread_local! {
    /// The strands that became ready on this worker; `None` on threads that are none.
    static LOCAL: RefCell<Option<VecDeque<Ready>>> = const { RefCell::new(None) };
}

fn pool() -> &'static Pool {
    static POOL: OnceLock<Pool> = OnceLock::new();
    POOL.get_or_init(|| Pool { state: Mutex::new(State::default()), bell: Condvar::new(), target: count() })
}

/// How many workers run at a time: one for each core that this process may use.
pub(super) fn count() -> usize {
    static COUNT: OnceLock<usize> = OnceLock::new();
    *COUNT.get_or_init(|| std::thread::available_parallelism().map_or(1, NonZeroUsize::get))
}

/// Sees to it that there is a worker. The others come when there is work for them.
pub(super) fn start() -> Result<()> {
    let mut state = lock(&pool().state);
    if state.threads > 0 {
        return Ok(());
    }
    pool().hire(&mut state).map_err(|error| Error::with_text(ErrorKind::Resources, error.to_string()))
}

/// Has a strand run: next on this thread if it is a worker, else on any.
#[inline]
pub(super) fn schedule(lane: Ready) {
    let mut lane = Some(lane);
    // A closure that is running may take long: what it makes ready is for the other workers.
    if work::current().is_none() {
        // A thread whose locals are gone is no worker.
        let _ = LOCAL.try_with(|local| {
            if let Some(local) = &mut *local.borrow_mut() {
                local.extend(lane.take());
            }
        });
    }
    if let Some(lane) = lane {
        pool().inject([lane]);
    }
}

/// Has a strand run once others had their turn.
pub(super) fn requeue(lane: Ready) {
    publish();
    pool().inject([lane]);
}

/// Shares what became ready on this worker.
#[inline]
pub(super) fn publish() {
    LOCAL.with(|local| {
        if let Some(local) = &mut *local.borrow_mut()
            && !local.is_empty()
        {
            pool().inject(local.drain(..));
        }
    });
}

/// This worker's work begins to block in a host wait, or has ended to: see to it that another takes its place.
pub(super) fn blocking(begins: bool) {
    if begins {
        publish();
    }
    let mut state = lock(&pool().state);
    if begins {
        state.blocked += 1;
        if !state.ready.is_empty() {
            pool().rouse(&mut state);
        }
    } else {
        state.blocked -= 1;
    }
}

impl Pool {
    fn inject(&self, strands: impl IntoIterator<Item = Ready>) {
        let mut state = lock(&self.state);
        state.ready.extend(strands);
        self.rouse(&mut state);
    }

    /// There is work: wakes a worker, or hires one if too few are awake.
    fn rouse(&self, state: &mut State) {
        if state.asleep > 0 {
            state.asleep -= 1;
            state.wakeups += 1;
            self.bell.notify_one();
        } else if state.threads - state.blocked < self.target {
            // A refusal leaves the work to those that there are.
            let _ = self.hire(state);
        }
    }

    fn hire(&self, state: &mut State) -> std::io::Result<()> {
        spawn(format!("gpu-events cpu {}", state.threads), live)?;
        state.threads += 1;
        Ok(())
    }

    /// The next strand from the shared queue, sleeping until there is one. `None`: this worker is one too many.
    fn next(&self) -> Option<Ready> {
        let mut state = lock(&self.state);
        loop {
            if let Some(ready) = state.ready.pop_front() {
                if !state.ready.is_empty() {
                    // One wakes the next: who injects many wakes one.
                    self.rouse(&mut state);
                }
                return Some(ready);
            }
            if state.threads - state.blocked > self.target {
                state.threads -= 1;
                return None;
            }
            state.asleep += 1;
            while state.wakeups == 0 {
                state = self.bell.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            state.wakeups -= 1;
        }
    }

    fn try_next(&self) -> Option<Ready> {
        lock(&self.state).ready.pop_front()
    }
}

/// A worker's life.
fn live() {
    LOCAL.with(|local| *local.borrow_mut() = Some(VecDeque::new()));
    let mut round = 0_u32;
    loop {
        round = round.wrapping_add(1);
        let shared = if round.is_multiple_of(FAIRNESS) { pool().try_next() } else { None };
        let next = shared.or_else(|| LOCAL.with(|local| local.borrow_mut().as_mut()?.pop_front()));
        match next.or_else(|| pool().next()) {
            Some(ready) => strand::run(ready),
            None => return,
        }
    }
}
