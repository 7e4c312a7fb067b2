//! Users' callbacks and the thread that runs them.
//!
//! Each device has one callback thread, started by the first registration. A timeline hands callbacks over under
//! its own lock, which keeps them in order of position; the thread runs them with no lock held (R17).

use crate::{
    backend::Backend,
    contain::contain,
    device::DeviceCore,
    error::{Error, ErrorKind, Result},
    fork,
    lane::Lane,
    pool,
    primitive::{AtomicBool, AtomicU64, Condvar, Mutex, Ordering, lock, spawn},
    time::host_nanos,
    timeline::Ticket,
};
use std::{collections::VecDeque, fmt, sync::Arc};

type Function = Box<dyn FnOnce(Result<()>) + Send>;

/// A registered callback: the function, until somebody takes it to run it or to cancel it.
pub(crate) struct CallbackCell {
    function: Mutex<Option<Function>>,
    /// On whose thread it runs. Alive until it has: a device's thread ends with the device.
    device: Arc<DeviceCore>,
}

impl CallbackCell {
    /// A callback for `device`'s thread, which is running by the time that this returns.
    pub(crate) fn new(device: &Arc<DeviceCore>, function: Function) -> Result<Arc<Self>> {
        device.callbacks().start(device)?;
        // Relaxed: see `rouse`.
        device.callbacks().expected.fetch_add(1, Ordering::Relaxed);
        Ok(Arc::new(Self { function: Mutex::new(Some(function)), device: device.clone() }))
    }

    /// Hands the callback to its thread. Called under the timeline's lock.
    pub(crate) fn deliver(self: Arc<Self>, failure: Option<Error>) {
        // Not the device: the thread may be done with the callback before we are, and then the last reference to a
        // device would go under the timeline's lock.
        let queue = self.device.callbacks().clone();
        queue.push(self, failure);
    }

    fn take(&self) -> Option<Function> {
        let function = lock(&self.function).take();
        if function.is_some() {
            // Relaxed: see `rouse`.
            self.device.callbacks().expected.fetch_sub(1, Ordering::Relaxed);
        }
        function
    }

    fn run(&self, backend: &dyn Backend, failure: Option<Error>) {
        let Some(function) = self.take() else { return };
        let (mut function, mut outcome) = (Some(function), Some(failure.map_or(Ok(()), Err)));
        contain(|| {
            backend.run_callback(&mut || {
                if let (Some(function), Some(outcome)) = (function.take(), outcome.take()) {
                    function(outcome);
                }
            });
        });
        // What a backend did not call.
        contain(|| drop(function));
    }
}

impl fmt::Debug for CallbackCell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallbackCell")
            .field("waiting", &lock(&self.function).is_some())
            .finish_non_exhaustive()
    }
}

/// A registered callback, to cancel it. Dropping this leaves the callback registered.
#[derive(Debug)]
pub struct Callback {
    cell: Arc<CallbackCell>,
    /// Where it is registered; `None` when it was handed to the callback thread at once.
    place: Option<(Arc<Lane>, Ticket)>,
}

impl Callback {
    pub(crate) fn new(cell: Arc<CallbackCell>, place: Option<(Arc<Lane>, Ticket)>) -> Self {
        Self { cell, place }
    }

    /// Cancels the callback. `true` means that it has not run and never will; its function is dropped before this
    /// returns. `false`: it has run, is running, or was cancelled before (R18).
    ///
    /// From any thread; never blocks on a running callback. In a fork's child, `false`.
    pub fn cancel(&self) -> bool {
        if fork::happened() {
            return false;
        }
        let Some(function) = self.cell.take() else { return false };
        if let Some((lane, ticket)) = &self.place {
            lane.core.timeline.cancel(*ticket);
        }
        drop(function);
        true
    }
}

/// The queue in front of a device's callback thread.
pub(crate) struct CallbackQueue {
    state: Mutex<State>,
    bell: Condvar,
    started: AtomicBool,
    /// Callbacks that are registered, and neither taken to be run nor cancelled.
    expected: AtomicU64,
    /// Until when the thread waits awake, on the host's clock.
    vigil: AtomicU64,
    /// There is one in `ready`. For the thread while it waits awake.
    fresh: AtomicBool,
}

#[derive(Default)]
struct State {
    ready: VecDeque<(Arc<CallbackCell>, Option<Error>)>,
    /// The thread sleeps.
    asleep: bool,
    /// The device is gone: run what is left, then end.
    closed: bool,
}

impl CallbackQueue {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State::default()),
            bell: Condvar::new(),
            started: AtomicBool::new(false),
            expected: AtomicU64::new(0),
            vigil: AtomicU64::new(0),
            fresh: AtomicBool::new(false),
        })
    }

    /// Starts the thread unless it runs. Before a callback is registered, so that a refusal is the caller's to see.
    fn start(self: &Arc<Self>, device: &DeviceCore) -> Result<()> {
        // Relaxed: decided under the lock below.
        if self.started.load(Ordering::Relaxed) {
            return Ok(());
        }
        let _state = lock(&self.state);
        if self.started.load(Ordering::Relaxed) {
            return Ok(());
        }
        let (queue, backend) = (self.clone(), device.backend().clone());
        spawn(format!("{} callbacks", device.info().name), move || queue.run(&*backend))
            .map_err(|error| Error::with_text(ErrorKind::Resources, error.to_string()))?;
        self.started.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn push(&self, callback: Arc<CallbackCell>, failure: Option<Error>) {
        let asleep = {
            let mut state = lock(&self.state);
            state.ready.push_back((callback, failure));
            // Relaxed: whoever sees it looks under the lock.
            self.fresh.store(true, Ordering::Relaxed);
            state.asleep
        };
        if asleep {
            self.bell.notify_one();
        }
    }

    /// News are likely until then: has the thread wait for them awake, if anybody is to be called back.
    pub(crate) fn rouse(&self, until: u64) {
        // Relaxed, all: a guess. A wrong one costs a wake-up, or a while awake.
        if self.expected.load(Ordering::Relaxed) == 0 || self.vigil.load(Ordering::Relaxed) >= until {
            return;
        }
        self.vigil.store(until, Ordering::Relaxed);
        if lock(&self.state).asleep {
            self.bell.notify_one();
        }
    }

    /// Waits awake, for as long as somebody wants it.
    fn keep_vigil(&self) {
        // Relaxed: see `push` and `rouse`.
        while !self.fresh.load(Ordering::Relaxed)
            && self.expected.load(Ordering::Relaxed) > 0
            && host_nanos() < self.vigil.load(Ordering::Relaxed)
        {
            std::hint::spin_loop();
        }
    }

    /// Whether somebody wants the thread to wait awake.
    fn is_roused(&self) -> bool {
        // Relaxed: see `rouse`. Zero while nobody ever wanted it, which spares the clock.
        let vigil = self.vigil.load(Ordering::Relaxed);
        vigil > 0 && self.expected.load(Ordering::Relaxed) > 0 && host_nanos() < vigil
    }

    pub(crate) fn close(&self) {
        lock(&self.state).closed = true;
        self.bell.notify_one();
    }

    /// The callback thread.
    fn run(&self, backend: &dyn Backend) {
        let mut tidy = true;
        loop {
            let mut state = lock(&self.state);
            let next = loop {
                if let Some(next) = state.ready.pop_front() {
                    break Some(next);
                }
                // Relaxed: under the lock that `push` holds.
                self.fresh.store(false, Ordering::Relaxed);
                if state.closed {
                    return;
                }
                if !tidy {
                    break None;
                }
                if self.is_roused() {
                    drop(state);
                    self.keep_vigil();
                    state = lock(&self.state);
                    continue;
                }
                state.asleep = true;
                state = self.bell.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner);
                state.asleep = false;
            };
            drop(state);
            tidy = next.is_none();
            match next {
                Some((callback, failure)) => callback.run(backend, failure),
                // Idle events that callbacks leave behind keep their device, whose end is what ends this thread.
                None => contain(pool::drop_magazines),
            }
        }
    }
}

impl fmt::Debug for CallbackQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallbackQueue").field("ready", &lock(&self.state).ready.len()).finish_non_exhaustive()
    }
}
