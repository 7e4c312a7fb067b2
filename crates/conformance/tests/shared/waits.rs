//! Waiting in trials: never without bound.

use gpu_events::{Event, WaitOutcome};
use std::{
    any::Any,
    sync::{Arc, Weak},
    thread,
    time::{Duration, Instant},
};

/// How long a trial waits for what must come.
pub(crate) const BOUND: Duration = Duration::from_secs(10);

#[track_caller]
pub(crate) fn complete(event: &Event) {
    assert_eq!(event.wait_timeout(BOUND).expect("no failure"), WaitOutcome::Complete, "{event:?}");
}

#[track_caller]
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < BOUND, "never came: {what}");
        thread::yield_now();
    }
}

/// What keeps nothing alive, and a way to see whether it is held.
pub(crate) fn keep_alive() -> (Arc<dyn Any + Send + Sync>, Weak<dyn Any + Send + Sync>) {
    let kept: Arc<dyn Any + Send + Sync> = Arc::new(());
    let weak = Arc::downgrade(&kept);
    (kept, weak)
}
