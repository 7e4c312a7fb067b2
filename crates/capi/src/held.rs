//! Streams that this thread holds: what is given to one of them goes through its guard.

use crate::{
    handles::StreamHandle,
    status::{Failure, Result, Status},
};
use gpu_events::{Stream, StreamGuard};
use self_cell::self_cell;
use std::cell::{Cell, RefCell};

self_cell! {
    struct Held {
        owner: Stream,
        #[not_covariant]
        dependent: StreamGuard,
    }
}

thread_local! {
    /// How many there are: what nearly every call finds to be none, without looking further.
    static COUNT: Cell<usize> = const { Cell::new(0) };
    /// Let go of when the thread ends, if not before.
    static HELD: RefCell<Vec<(StreamHandle, Held)>> = const { RefCell::new(Vec::new()) };
}

pub(crate) fn hold(handle: StreamHandle, stream: Stream) -> Result<()> {
    // Another handle to a stream that this thread holds is refused here.
    let held = Held::try_new(stream, |stream| stream.lock())?;
    let kept = HELD.try_with(|all| all.borrow_mut().push((handle, held)));
    kept.map_err(|_| Failure::new(Status::ErrorResources, "the thread is ending, and can hold nothing"))?;
    COUNT.set(COUNT.get() + 1);
    Ok(())
}

pub(crate) fn let_go(handle: StreamHandle) -> Result<()> {
    let held = take(|of, _| of == handle).map(|(_, held)| held);
    let not_held =
        || Failure::new(Status::ErrorInvalidArgument, "this thread does not hold the stream by this handle");
    // What letting go brings about, it does with nothing of ours borrowed.
    drop(held.ok_or_else(not_held)?);
    COUNT.set(COUNT.get() - 1);
    Ok(())
}

/// Calls a function of the caller's on a thread of the library's, which never ends: what the function took and did not give
/// back, nobody else could.
pub(crate) fn let_go_after<T>(function: impl FnOnce() -> T) -> T {
    let before = COUNT.get();
    let result = function();
    while COUNT.get() > before {
        drop(take(|_, _| true));
        COUNT.set(COUNT.get() - 1);
    }
    result
}

/// Takes the newest of those out that `is_it` says it of, with its place. Nothing, if there is none, or if the thread is ending:
/// what is let go of then may call functions of the caller's, and those us.
fn take(is_it: impl Fn(StreamHandle, &Stream) -> bool) -> Option<(usize, (StreamHandle, Held))> {
    let taken = HELD.try_with(|all| {
        let mut all = all.borrow_mut();
        let index = all.iter().rposition(|(of, held)| is_it(*of, held.borrow_owner()))?;
        Some((index, all.remove(index)))
    });
    taken.ok().flatten()
}

/// What `call` makes of the guard by which this thread holds the stream, by whatever handle it does; `None` if it doesn't.
pub(crate) fn with<T>(
    stream: impl FnOnce() -> Result<Stream>,
    call: impl FnOnce(&mut StreamGuard<'_>) -> Result<T>,
) -> Option<Result<T>> {
    if COUNT.try_with(Cell::get).unwrap_or(0) == 0 {
        return None;
    }
    // If there is none, the ordinary way says so.
    let id = stream().ok()?.id();
    let (place, mut held) = take(|_, of| of.id() == id)?;
    // With nothing of ours borrowed: a function of the caller's may be called on the way, and call us.
    let result = held.1.with_dependent_mut(|_, guard| call(guard));
    HELD.with_borrow_mut(|all| all.insert(place.min(all.len()), held));
    Some(result)
}
