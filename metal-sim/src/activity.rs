//! Whether anything is still going on, so that tests can wait until nothing is.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

static BUSY: AtomicUsize = AtomicUsize::new(0);
static LOCK: Mutex<()> = Mutex::new(());
static IDLE: Condvar = Condvar::new();

/// Something that goes on for as long as this lives.
#[derive(Debug)]
pub(crate) struct Busy(());

impl Busy {
    pub(crate) fn new() -> Self {
        BUSY.fetch_add(1, Ordering::Relaxed);
        Self(())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        // Release: who finds nothing going on sees what went on. The lock is only taken where somebody may wait.
        if BUSY.fetch_sub(1, Ordering::Release) == 1 {
            let _lock = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
            IDLE.notify_all();
        }
    }
}

/// Waits until nothing goes on; says whether it came to that.
pub(crate) fn wait_idle(timeout: Duration) -> bool {
    let lock = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
    let busy = |_: &mut ()| BUSY.load(Ordering::Acquire) > 0;
    let (_lock, result) =
        IDLE.wait_timeout_while(lock, timeout, busy).unwrap_or_else(PoisonError::into_inner);
    !result.timed_out()
}

/// Waits until `condition` holds, which nobody announces: it looks every now and then. Says whether it came to that.
pub(crate) fn wait_until(timeout: Duration, condition: impl Fn() -> bool) -> bool {
    let deadline = Instant::now() + timeout;
    let mut lock = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
    while !condition() {
        if Instant::now() >= deadline {
            return false;
        }
        lock = IDLE.wait_timeout(lock, Duration::from_millis(1)).unwrap_or_else(PoisonError::into_inner).0;
    }
    true
}
