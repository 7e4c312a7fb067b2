//! Passing news from one lane to the next: all failures first, and without growing the stack.

use crate::{contain::contain, error::Error, primitive::thread_local};
use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    fmt,
    sync::Arc,
};

/// Another lane, or somebody who acts for one, that waits for a position.
///
/// Told in two steps, once, with no lock held, by whoever brought the news; neither may block or run user code.
pub(crate) trait Relay: fmt::Debug + Send + Sync + 'static {
    /// The position will never complete: marks as failed whatever depends on it.
    fn fail(&self, error: &Error);

    /// The position is settled: whatever was held back for it may go.
    fn release(self: Arc<Self>);

    /// The lane that cannot go on before this is settled, for stall reports.
    fn dependent(&self) -> Option<u64>;
}

/// What the outermost call on a thread has yet to do.
#[derive(Default)]
struct Pending {
    failures: VecDeque<(Arc<dyn Relay>, Error)>,
    releases: VecDeque<Arc<dyn Relay>>,
    /// User code that may want to wait for those whom this thread has yet to release.
    afterwards: Vec<Box<dyn FnOnce()>>,
}

impl Pending {
    const NOTHING: Self =
        Self { failures: VecDeque::new(), releases: VecDeque::new(), afterwards: Vec::new() };

    /// Whether some chain of failures, say, has left more room than a thread should keep.
    fn is_large(&self) -> bool {
        const KEPT: usize = 64;
        self.failures.capacity().max(self.releases.capacity()).max(self.afterwards.capacity()) > KEPT
    }

    fn is_empty(&self) -> bool {
        self.failures.is_empty() && self.releases.is_empty() && self.afterwards.is_empty()
    }
}

/// A thread's part. The queues stay where they are between calls: to make and take them each time was a tenth of a
/// hand-over.
struct Thread {
    /// A call is on its way.
    active: Cell<bool>,
    pending: RefCell<Pending>,
}

thread_local! {
    static THREAD: Thread =
        const { Thread { active: Cell::new(false), pending: RefCell::new(Pending::NOTHING) } };
}

/// Tells `relay`, or, when called from inside another relay on this thread, leaves it to the outermost call.
///
/// That call marks everything that fails before it releases anything: a stream that waits for the dependent of a
/// failed recording must not find it released and unmarked (R26). And a failure may pass through a chain of a hundred
/// thousand streams: by recursion it would overflow the stack.
#[inline]
pub(crate) fn run(relay: Arc<dyn Relay>, failure: Option<&Error>) {
    let mut relay = Some(relay);
    // While the thread's locals are being destroyed there is nothing to queue in: then recursion has to do.
    let _ = THREAD.try_with(|thread| {
        if !thread.active.replace(true) {
            return;
        }
        let pending = &mut *thread.pending.borrow_mut();
        match failure {
            Some(error) => pending.failures.extend(relay.take().map(|relay| (relay, error.clone()))),
            None => pending.releases.extend(relay.take()),
        }
    });
    let Some(relay) = relay else { return };
    let _reset = Reset;
    if let Some(error) = failure {
        contain(|| relay.fail(error));
        fail_pending();
    }
    contain(|| relay.release());
    run_pending();
}

/// Runs `mark`, which brings failures about, then marks whatever they lead to, on any lane; then runs `then`; and only
/// then releases anybody.
pub(crate) fn batch(mark: impl FnOnce(), then: impl FnOnce()) {
    let outermost = THREAD.try_with(|thread| !thread.active.replace(true));
    let reset = matches!(outermost, Ok(true)).then_some(Reset);
    mark();
    fail_pending();
    then();
    if reset.is_some() {
        run_pending();
    }
}

fn run_pending() {
    loop {
        fail_pending();
        match with(|pending| pending.releases.pop_front()) {
            Some(relay) => contain(|| relay.release()),
            None => return,
        }
    }
}

/// Marks all that is to be marked, and what that leads to.
fn fail_pending() {
    while let Some((relay, error)) = with(|pending| pending.failures.pop_front()) {
        contain(|| relay.fail(&error));
        with(|pending| {
            pending.releases.push_back(relay);
            Some(())
        });
    }
}

fn with<T>(f: impl FnOnce(&mut Pending) -> Option<T>) -> Option<T> {
    THREAD.try_with(|thread| f(&mut thread.pending.borrow_mut())).ok().flatten()
}

/// Runs `user` once nothing is pending on this thread: now, or when the outermost call is through.
pub(crate) fn afterwards(user: impl FnOnce() + 'static) {
    let mut user = Some(user);
    let _ = THREAD.try_with(|thread| {
        if thread.active.get() {
            let user = user.take().map(|user| Box::new(user) as Box<dyn FnOnce()>);
            thread.pending.borrow_mut().afterwards.extend(user);
        }
    });
    if let Some(user) = user {
        contain(user);
    }
}

/// Marks the thread as idle again, also when a relay panics.
struct Reset;

impl Drop for Reset {
    fn drop(&mut self) {
        let pending = THREAD.try_with(|thread| {
            thread.active.set(false);
            let mut pending = thread.pending.borrow_mut();
            // Hardly ever is anything left, or was there so much that its room is not to be kept.
            (!pending.is_empty() || pending.is_large()).then(|| std::mem::take(&mut *pending))
        });
        for user in pending.ok().flatten().into_iter().flat_map(|pending| pending.afterwards) {
            contain(user);
        }
    }
}
