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
    let held = take(handle).map(|(_, held)| held);
    let not_held = || Failure::new(Status::ErrorInvalidArgument, "this thread does not hold the stream");
    // What letting go brings about, it does with nothing of ours borrowed.
    drop(held.ok_or_else(not_held)?);
    COUNT.set(COUNT.get() - 1);
    Ok(())
}

/// Takes it out, with its place. Nothing, if the thread doesn't hold it, or is ending: what is let go of then may call functions
/// of the caller's, and those us.
fn take(handle: StreamHandle) -> Option<(usize, (StreamHandle, Held))> {
    let taken = HELD.try_with(|all| {
        let mut all = all.borrow_mut();
        let index = all.iter().rposition(|(of, _)| *of == handle)?;
        Some((index, all.remove(index)))
    });
    taken.ok().flatten()
}

/// What `call` makes of the guard by which this thread holds the stream; `None` if it doesn't.
pub(crate) fn with<T>(
    handle: StreamHandle,
    call: impl FnOnce(&mut StreamGuard<'_>) -> Result<T>,
) -> Option<Result<T>> {
    if COUNT.try_with(Cell::get).unwrap_or(0) == 0 {
        return None;
    }
    let (place, mut held) = take(handle)?;
    // With nothing of ours borrowed: a function of the caller's may be called on the way, and call us.
    let result = held.1.with_dependent_mut(|_, guard| call(guard));
    HELD.with_borrow_mut(|all| all.insert(place.min(all.len()), held));
    Some(result)
}
