//! The way of Rust's threads into Python, and its end.
//!
//! Callbacks and CPU work run Python code on threads that the interpreter does not know of. Two moments are bad ones to come in:
//!
//! - Once the interpreter begins to finalize, who asks for the GIL hangs or crashes, depending on the version. So `close_gate`, which
//!   `atexit` calls while everything is whole still, lets nobody in from then on and waits for those who are inside.
//! - Who comes in is first entered into the interpreter's list of threads, under a lock of the interpreter's and without the GIL. If
//!   another thread forks then, the child hangs on that lock (seen with Python 3.11). So a fork waits until nobody is on the way in.

use gpu_events::check_fork;
use pyo3::{ffi, prelude::*};
use std::{
    cell::Cell,
    mem::ManuallyDrop,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

struct State {
    closed: bool,
    /// Threads on their way in, or in.
    inside: usize,
    /// Threads on their way in.
    entering: usize,
    /// A thread forks, or waits to.
    forking: bool,
}

static STATE: Mutex<State> = Mutex::new(State { closed: false, inside: 0, entering: 0, forking: false });
static CHANGED: Condvar = Condvar::new();

/// How often a thread that waits looks for signals and for the interpreter's end.
pub(crate) const LOOK: Duration = Duration::from_millis(50);

thread_local! {
    /// This thread is inside already, and need not ask again.
    static INSIDE: Cell<bool> = const { Cell::new(false) };

    static ENTRY: Cell<Option<Entry>> = const { Cell::new(None) };
}

/// A thread's entry in the interpreter's list, kept until the thread ends. Without this it would be made anew each time that the
/// thread comes in, which costs more than most callbacks do.
struct Entry(ffi::PyGILState_STATE);

impl Entry {
    fn keep(_: Python<'_>) {
        // SAFETY: always allowed; the thread is attached. One more than is given back until the thread ends.
        let state = unsafe { ffi::PyGILState_Ensure() };
        ENTRY.set(Some(Self(state)));
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        // If the interpreter is going down, it sees to the entry itself.
        attach(|_| {
            // SAFETY: this thread's one call in `keep` is taken back, and `attach` has one of its own.
            unsafe { ffi::PyGILState_Release(self.0) }
        });
    }
}

/// Not in a fork's child: the lock may be held by a thread that is not there.
fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn wait_while(mut unwanted: impl FnMut(&State) -> bool) -> MutexGuard<'static, State> {
    CHANGED.wait_while(state(), |state| unwanted(state)).unwrap_or_else(PoisonError::into_inner)
}

/// Runs `code` with the GIL, from whatever thread; `None` if the interpreter is going down.
pub(crate) fn attach<R>(code: impl FnOnce(Python<'_>) -> R) -> Option<R> {
    // Who runs in a fork's child is Python's own thread.
    if INSIDE.get() || check_fork().is_err() {
        return Python::try_attach(code);
    }
    let inside = Inside::enter()?;
    Some(Python::attach(|py| {
        inside.arrived(py);
        code(py)
    }))
}

/// Whether nobody is let in any more.
pub(crate) fn is_closed() -> bool {
    check_fork().is_ok() && state().closed
}

/// Whether this thread is one that the interpreter's end waits for, and it is waiting.
pub(crate) fn is_wanted_back() -> bool {
    INSIDE.get() && state().closed
}

struct Inside {
    /// The interpreter does not know the thread yet.
    is_new: bool,
}

impl Inside {
    fn enter() -> Option<Self> {
        // SAFETY: the interpreter is initialized, since it has loaded this module.
        let is_new = unsafe { ffi::PyGILState_GetThisThreadState() }.is_null();
        // One that it knows may have the GIL, which whoever forks needs to go on, and is on no list to be put on.
        let mut state = wait_while(|state| is_new && state.forking && !state.closed);
        if state.closed {
            return None;
        }
        state.inside += 1;
        state.entering += usize::from(is_new);
        INSIDE.set(true);
        Some(Self { is_new })
    }

    fn arrived(&self, py: Python<'_>) {
        if !self.is_new {
            return;
        }
        Entry::keep(py);
        let mut state = state();
        state.entering -= 1;
        if state.forking {
            CHANGED.notify_all();
        }
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        INSIDE.set(false);
        // The code may have forked, and this be the child.
        if check_fork().is_err() {
            return;
        }
        let mut state = state();
        state.inside -= 1;
        if state.closed {
            CHANGED.notify_all();
        }
    }
}

/// Lets no callback and no work in any more, and waits for those that run. For atexit.
#[pyfunction]
pub(crate) fn close_gate(py: Python<'_>) -> PyResult<()> {
    // Whoever was inside when the process was forked is not here.
    if check_fork().is_err() {
        return Ok(());
    }
    state().closed = true;
    CHANGED.notify_all();
    loop {
        let empty = py.detach(|| {
            let (state, _) = CHANGED
                .wait_timeout_while(state(), LOOK, |state| state.inside > 0)
                .unwrap_or_else(PoisonError::into_inner);
            state.inside == 0
        });
        if empty {
            return Ok(());
        }
        py.check_signals()?;
    }
}

/// Waits until no thread is on its way in, and keeps them out. For os.register_at_fork.
#[pyfunction]
pub(crate) fn before_fork(py: Python<'_>) {
    if check_fork().is_err() {
        return;
    }
    // Without the GIL, which is what they are waiting for.
    py.detach(|| {
        wait_while(|state| state.forking).forking = true;
        drop(wait_while(|state| state.entering > 0));
    });
}

/// Lets threads in again. For os.register_at_fork, in the parent, and in a child.
#[pyfunction]
pub(crate) fn after_fork() {
    // In a child that may go on, no device was open, and no thread of ours could have held the lock.
    if check_fork().is_ok() {
        state().forking = false;
        CHANGED.notify_all();
    }
}

/// Python objects in the hands of a Rust thread. Dropped with the GIL, and leaked once the interpreter is going down.
pub(crate) struct Kept<T: Send>(ManuallyDrop<T>);

impl<T: Send> Kept<T> {
    pub(crate) fn new(objects: T) -> Self {
        Self(ManuallyDrop::new(objects))
    }

    pub(crate) fn get(&self) -> &T {
        &self.0
    }
}

impl<T: Send> Drop for Kept<T> {
    fn drop(&mut self) {
        attach(|_| {
            // SAFETY: `attach` runs this once at most, and nobody touches the field after `drop`.
            unsafe { ManuallyDrop::drop(&mut self.0) }
        });
    }
}
