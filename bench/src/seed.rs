//! The seed's own way on a CPU: what the baselines are made of.
//!
//! PyTorch's `MPSEventPool` keeps a stack of events behind a recursive mutex and hands them out in a unique
//! pointer whose type-erased deleter puts them back; an event's completion is a flag behind a mutex, announced
//! through a condition variable. Here the same is written in Rust, less what is wrong with it.

use parking_lot::ReentrantMutex;
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

type Deleter = Box<dyn FnOnce(Box<SeedEvent>) + Send + Sync>;

/// The seed's pool: a recursive mutex around a stack.
#[derive(Clone, Debug, Default)]
pub(super) struct SeedPool(Arc<Stack>);

#[derive(Debug, Default)]
#[expect(clippy::vec_box, reason = "the seed's events don't move, and its stack holds pointers to them")]
struct Stack {
    events: ReentrantMutex<RefCell<Vec<Box<SeedEvent>>>>,
    made: AtomicU64,
}

impl Stack {
    fn take(&self) -> Box<SeedEvent> {
        let events = self.events.lock();
        let recycled = events.borrow_mut().pop();
        match recycled {
            Some(mut event) => {
                event.reset();
                event
            }
            None => Box::new(SeedEvent::new(self.made.fetch_add(1, Ordering::Relaxed))),
        }
    }

    fn put(&self, event: Box<SeedEvent>) {
        self.events.lock().borrow_mut().push(event);
    }
}

impl SeedPool {
    /// As `std::unique_ptr` with a `std::function` as its deleter.
    pub(super) fn acquire(&self) -> SeedHandle {
        let pool = Arc::clone(&self.0);
        let deleter: Deleter = Box::new(move |event| pool.put(event));
        SeedHandle(Some((self.0.take(), deleter)))
    }

    /// With a deleter that costs neither an allocation nor a reference count, and no safety either in C++.
    pub(super) fn acquire_lean(&self) -> LeanHandle<'_> {
        LeanHandle { event: Some(self.0.take()), pool: &self.0 }
    }
}

/// An event of the seed's pool, and how it goes back.
pub(super) struct SeedHandle(Option<(Box<SeedEvent>, Deleter)>);

impl SeedHandle {
    pub(super) fn event(&self) -> &SeedEvent {
        let (event, _) = self.0.as_ref().expect("taken only by drop");
        event
    }
}

impl Drop for SeedHandle {
    fn drop(&mut self) {
        if let Some((event, deleter)) = self.0.take() {
            deleter(event);
        }
    }
}

/// As [`SeedHandle`], borrowing its pool.
pub(super) struct LeanHandle<'a> {
    event: Option<Box<SeedEvent>>,
    pool: &'a Stack,
}

impl Drop for LeanHandle<'_> {
    fn drop(&mut self) {
        if let Some(event) = self.event.take() {
            self.pool.put(event);
        }
    }
}

/// The seed's event, on a CPU: complete once the value that was signaled has reached what was recorded.
#[derive(Debug)]
pub(super) struct SeedEvent {
    id: u64,
    state: Mutex<State>,
    completed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    recorded: u64,
    signaled: u64,
    completion_time: Option<Instant>,
}

impl SeedEvent {
    fn new(id: u64) -> Self {
        Self { id, state: Mutex::default(), completed: Condvar::new() }
    }

    /// As in the seed, what is in the pool is nobody else's, and needs no lock.
    fn reset(&mut self) {
        *self.state.get_mut().unwrap_or_else(PoisonError::into_inner) = State::default();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn record(&self) {
        self.state().recorded += 1;
    }

    pub(super) fn complete(&self) {
        let mut state = self.state();
        state.signaled = state.recorded;
        drop(state);
        self.completed.notify_one();
    }

    pub(super) fn complete_timed(&self) {
        let mut state = self.state();
        state.signaled = state.recorded;
        state.completion_time = Some(Instant::now());
        drop(state);
        self.completed.notify_one();
    }

    pub(super) fn query(&self) -> bool {
        let state = self.state();
        state.signaled == state.recorded
    }

    pub(super) fn synchronize(&self) {
        let mut state = self.state();
        while state.signaled < state.recorded {
            state = self.completed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// The seed's ids: a map of the events that are out, behind a recursive mutex as its pool is.
#[derive(Default)]
pub(super) struct SeedTable {
    pool: SeedPool,
    in_use: ReentrantMutex<RefCell<HashMap<u64, SeedHandle>>>,
}

impl SeedTable {
    pub(super) fn acquire(&self) -> u64 {
        let in_use = self.in_use.lock();
        let handle = self.pool.acquire();
        let id = handle.event().id;
        in_use.borrow_mut().insert(id, handle);
        id
    }

    /// Does something with an event that is out, under the lock as the seed does.
    pub(super) fn with(&self, id: u64, act: impl FnOnce(&SeedEvent)) {
        let in_use = self.in_use.lock();
        if let Some(handle) = in_use.borrow().get(&id) {
            act(handle.event());
        }
    }

    pub(super) fn release(&self, id: u64) {
        let in_use = self.in_use.lock();
        in_use.borrow_mut().remove(&id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_reused_and_reset() {
        let pool = SeedPool::default();
        let first = pool.acquire();
        first.event().record();
        assert!(!first.event().query());
        first.event().complete_timed();
        assert!(first.event().query());
        drop(first);
        let second = pool.acquire();
        assert_eq!(second.event().state().completion_time, None);
        drop((second, pool.acquire_lean()));
        assert_eq!(pool.0.made.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn an_id_finds_its_event_until_it_is_released() {
        let table = SeedTable::default();
        let id = table.acquire();
        let seen = RefCell::new(Vec::new());
        let look = |event: &SeedEvent| seen.borrow_mut().push(event.query());
        table.with(id, SeedEvent::record);
        table.with(id, look);
        table.with(id, SeedEvent::complete);
        table.with(id, look);
        table.release(id);
        table.with(id, look);
        assert_eq!(seen.into_inner(), [false, true]);
    }

    #[test]
    fn a_waiter_returns() {
        let pool = SeedPool::default();
        let handle = pool.acquire();
        handle.event().record();
        std::thread::scope(|scope| {
            scope.spawn(|| handle.event().complete());
            handle.event().synchronize();
        });
        assert!(handle.event().query());
    }
}
