//! What a thread that runs a stream's work for a backend tells the core, so that a host wait inside of it neither
//! starves the backend's workers nor stays out of stall reports.

use std::cell::Cell;

/// The work that a thread is running.
#[derive(Clone, Copy)]
struct Work {
    lane: u64,
    /// Called with `true` before the thread blocks and with `false` after.
    blocking: fn(bool),
}

thread_local! {
    static CURRENT: Cell<Option<Work>> = const { Cell::new(None) };
}

/// Marks this thread as running a lane's work until the guard goes.
#[cfg_attr(not(feature = "cpu"), expect(dead_code, reason = "only backends that run work themselves"))]
pub(crate) fn enter(lane: u64, blocking: fn(bool)) -> impl Drop {
    struct Leave(Option<Work>);
    impl Drop for Leave {
        fn drop(&mut self) {
            CURRENT.set(self.0);
        }
    }
    Leave(CURRENT.replace(Some(Work { lane, blocking })))
}

/// The lane whose work this thread runs.
pub(crate) fn current() -> Option<u64> {
    CURRENT.try_with(Cell::get).ok().flatten().map(|work| work.lane)
}

/// Tells the backend that its worker blocks, until the guard goes. Nothing on other threads.
pub(crate) fn block() -> impl Drop {
    struct Unblock(Option<fn(bool)>);
    impl Drop for Unblock {
        fn drop(&mut self) {
            if let Some(blocking) = self.0 {
                blocking(false);
            }
        }
    }
    let blocking = CURRENT.try_with(Cell::get).ok().flatten().map(|work| work.blocking);
    if let Some(blocking) = blocking {
        blocking(true);
    }
    Unblock(blocking)
}
