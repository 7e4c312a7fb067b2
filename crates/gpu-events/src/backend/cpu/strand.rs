//! Strands: the CPU's streams.
//!
//! A strand is *idle* when nothing is queued: then recording completes on the spot. Otherwise it is *busy*, and there
//! is exactly one who will go on with it: a worker that runs it, a queue of ready strands that holds it, or the
//! timeline that it is parked on. Only who submits makes it busy, under the submit lock; only who runs it makes it
//! idle, under the queue's lock, having found nothing more.

#![expect(
    clippy::box_collection,
    reason = "what is handed over is a pointer, and not three words and their copies"
)]

use super::workers;
use crate::{
    backend::{BackendStream, Flushed, Gate, Room, Signaled, Source, Stamp, StreamTraits, Waited, defer},
    contain::{contain, discard},
    error::{Error, ErrorKind, Result},
    lane::Lane,
    primitive::{AtomicBool, AtomicU64, Mutex, Ordering, lock},
    time::{coarse_nanos, host_nanos},
    timeline::{Progress, Registered, Relay},
    work,
};
use std::{
    any::Any,
    collections::VecDeque,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Weak},
};

/// A closure that was submitted.
pub(super) type Work = Box<dyn FnOnce() -> Result<()> + Send>;

/// What a strand does next.
enum Op {
    Work(Work),
    /// Complete this position. Two in a row are one: the later implies the earlier.
    Signal(u64),
    /// Take the time, then complete this position.
    Stamp(u64, Arc<CpuStamp>),
    /// Go on once this position of that lane is complete.
    Wait(Arc<Lane>, u64),
}

/// How many operations a strand runs before it lets others in.
const BUDGET: u32 = 256;

/// The driver half of a CPU stream. In this order, so that what a recording touches lies beside the hot end of the
/// lane's core.
#[repr(C)]
pub(super) struct Strand {
    busy: AtomicBool,
    depth: Option<u64>,
    /// Submitted, and not taken by who runs the strand.
    queue: Mutex<Queue>,
    /// Taken, while nobody runs the strand. Boxed: a hand-over moves it twice, and a pointer is moved at no cost.
    taken: Mutex<Option<Box<VecDeque<Op>>>>,
    lane: Weak<Lane<Strand>>,
}

#[derive(Default)]
struct Queue {
    ops: VecDeque<Op>,
    /// The stream has failed: nothing is queued any more.
    dead: bool,
}

impl Strand {
    pub(super) fn new(lane: Weak<Lane<Self>>, depth: Option<u64>) -> Self {
        Self {
            lane,
            queue: Mutex::new(Queue::default()),
            taken: Mutex::new(None),
            busy: AtomicBool::new(false),
            depth,
        }
    }

    /// Queues work. On a stream that has failed it comes back, for the caller to drop with no lock held.
    pub(super) fn enqueue(&self, work: Work) -> Option<Work> {
        match self.push(Op::Work(work)) {
            Some(Op::Work(work)) => Some(work),
            _ => None,
        }
    }

    /// Queues an operation, and has the strand run if it was idle. Under the submit lock. On a stream that has failed
    /// the operation comes back.
    #[inline]
    fn push(&self, op: Op) -> Option<Op> {
        {
            let mut queue = lock(&self.queue);
            if queue.dead {
                return Some(op);
            }
            match (queue.ops.back_mut(), &op) {
                (Some(Op::Signal(last)), Op::Signal(position)) => *last = *position,
                _ => queue.ops.push_back(op),
            }
            // Relaxed: changes under the queue's lock, which we hold.
            if self.busy.load(Ordering::Relaxed) {
                return None;
            }
            self.busy.store(true, Ordering::Relaxed);
        }
        // Whoever submits holds the lane.
        if let Some(lane) = self.lane.upgrade() {
            workers::schedule(lane);
        }
        None
    }

    /// Ends the strand: queues nothing more. Back comes what it will not run.
    #[cold]
    fn end(&self, mut rest: VecDeque<Op>) -> VecDeque<Op> {
        if let Some(mut taken) = lock(&self.taken).take() {
            rest.append(&mut taken);
        }
        let mut queue = lock(&self.queue);
        queue.dead = true;
        rest.append(&mut queue.ops);
        // Relaxed: on a dead strand nobody asks.
        self.busy.store(false, Ordering::Relaxed);
        rest
    }
}

/// Drops an operation that will not run. What a closure captured may panic when it goes.
fn drop_quietly(op: Op) {
    contain(move || drop(op));
}

impl BackendStream for Strand {
    fn traits(&self) -> StreamTraits {
        StreamTraits { pushed: true, batches: false }
    }

    #[inline]
    fn signal(&self, position: u64, timed: bool) -> Result<Signaled> {
        // Acquire: pairs with the release when the strand became idle, so that what its work wrote comes before
        // whoever sees this position complete. Nobody but us can make it busy.
        if !self.busy.load(Ordering::Acquire) {
            return Ok(Signaled::Done(timed.then(host_nanos)));
        }
        if let Some(depth) = self.depth {
            let completed = self.lane.upgrade().map_or(0, |lane| lane.completed());
            if position - completed > depth {
                return Ok(Signaled::Full(Room { after: position - depth }));
            }
        }
        if timed {
            let stamp = Arc::new(CpuStamp::default());
            self.push(Op::Stamp(position, stamp.clone()));
            Ok(Signaled::Pending(Some(stamp)))
        } else {
            self.push(Op::Signal(position));
            Ok(Signaled::Pending(None))
        }
    }

    fn wait(&self, source: &Source<'_>) -> Result<Waited> {
        self.push(Op::Wait(source.lane().clone(), source.position()));
        Ok(Waited::Carried)
    }

    fn gate(&self) -> Result<Arc<dyn Gate>> {
        // Never asked for: a strand can park on any lane.
        Err(Error::new(ErrorKind::Unsupported))
    }

    fn flush(&self) -> Result<Flushed> {
        Ok(Flushed::All)
    }

    fn poll(&self) {}

    fn watch(&self, _position: u64) {}

    fn abandon(&self) {
        let rest = self.end(VecDeque::new());
        // What users captured may wait, in its destructor, for whom the closing thread has yet to release.
        defer(move || rest.into_iter().for_each(drop_quietly));
    }
}

impl Relay for Lane<Strand> {
    /// Nothing yet: the strand sees it when it runs. A failure that comes down a long chain of streams is passed on by
    /// one strand after the other, each before it lets anybody go on.
    fn fail(&self, _error: &Error) {}

    /// The position that the strand is parked on is settled.
    fn release(self: Arc<Self>) {
        workers::schedule(self);
    }

    fn dependent(&self) -> Option<u64> {
        Some(self.id())
    }
}

/// Runs a strand until it is idle, parked, or out of budget.
pub(super) fn run(mut lane: Arc<Lane<Strand>>) {
    // Ours while we run the strand; in its own place while nobody does.
    let mut ops = take(&lane);
    let mut budget = BUDGET;
    loop {
        if lane.is_failed() {
            return end(&lane, *ops);
        }
        let Some(op) = ops.front() else {
            let strand = lane.backend();
            let mut queue = lock(&strand.queue);
            if queue.ops.is_empty() {
                // Keeps an allocation for the next round, if it is a small one.
                if ops.capacity() <= 64 {
                    std::mem::swap(&mut queue.ops, &mut *ops);
                }
                *ops = VecDeque::new();
                *lock(&strand.taken) = Some(ops);
                // Release: pairs with the acquire in `signal`.
                strand.busy.store(false, Ordering::Release);
                return;
            }
            std::mem::swap(&mut queue.ops, &mut *ops);
            continue;
        };
        budget -= 1;
        // Looked at where it is: a wait that isn't over stays the first.
        if let Op::Wait(source, position) = op {
            match source.progress(*position) {
                Progress::Complete => drop(ops.pop_front()),
                Progress::Failed => {
                    let error = source.failure_of(*position).passed_on(source);
                    return fail(&lane, error, *ops);
                }
                Progress::Pending => {
                    let (source, position) = (source.clone(), *position);
                    // Once registered, another worker may run the strand: it has to find its operations, this one
                    // first, to see what became of it.
                    *lock(&lane.backend().taken) = Some(ops);
                    // Closed meanwhile, `abandon` may have looked for the operations before they were back, and nobody
                    // else would drop them. One of the two finds the other: it took the same lock, after the failure.
                    if lane.is_failed() {
                        return end(&lane, VecDeque::new());
                    }
                    match source.core.timeline.register(position, lane, coarse_nanos()) {
                        Registered::Parked(_) => return source.watch(position),
                        Registered::Reached(back) | Registered::Failed(back, _) => lane = back,
                    }
                    ops = take(&lane);
                }
            }
        } else {
            match ops.pop_front() {
                Some(Op::Signal(position)) => lane.advance(position),
                Some(Op::Stamp(position, stamp)) => {
                    stamp.take();
                    lane.advance(position);
                }
                Some(Op::Work(work)) => {
                    // It may take long: what became ready on this worker goes to the others.
                    workers::publish();
                    if let Err(error) = perform(lane.id(), work) {
                        return fail(&lane, error, *ops);
                    }
                }
                Some(Op::Wait(..)) | None => unreachable!("it was looked at"),
            }
        }
        if budget == 0 {
            *lock(&lane.backend().taken) = Some(ops);
            return workers::requeue(lane);
        }
    }
}

/// Takes what was taken before out of its place.
#[inline]
fn take(lane: &Lane<Strand>) -> Box<VecDeque<Op>> {
    lock(&lane.backend().taken).take().unwrap_or_default()
}

/// Runs one closure.
fn perform(lane: u64, work: Work) -> Result<()> {
    let _entered = work::enter(lane, workers::blocking);
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result,
        Err(payload) => {
            let error = Error::with_text(ErrorKind::Panicked, panic_text(&*payload));
            discard(payload);
            Err(error)
        }
    }
}

fn panic_text(payload: &(dyn Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without a text")
}

/// Fails the stream from the first position on that is not complete, then drops what it had left to do.
#[cold]
fn fail(lane: &Arc<Lane<Strand>>, error: Error, rest: VecDeque<Op>) {
    lane.fail(lane.completed() + 1, error);
    end(lane, rest);
}

/// Drops what a failed strand will not run. What users captured may block in its destructor, on a stream that just
/// became ready on this very worker: so that is shared first, and the worker counted as one that runs user code.
#[cold]
fn end(lane: &Lane<Strand>, rest: VecDeque<Op>) {
    let rest = lane.backend().end(rest);
    workers::publish();
    let _entered = work::enter(lane.id(), workers::blocking);
    rest.into_iter().for_each(drop_quietly);
}

/// When a position was completed. Zero: not yet.
#[derive(Debug, Default)]
struct CpuStamp(AtomicU64);

impl CpuStamp {
    fn take(&self) {
        // Relaxed: the position is completed after it, with release, and read before it, with acquire.
        self.0.store(host_nanos().max(1), Ordering::Relaxed);
    }
}

impl Stamp for CpuStamp {
    fn ticks(&self) -> Result<u64> {
        // Relaxed: see `take`.
        match self.0.load(Ordering::Relaxed) {
            0 => Err(Error::new(ErrorKind::NotComplete)),
            ticks => Ok(ticks),
        }
    }
}

impl fmt::Debug for Strand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Strand")
            .field("queued", &lock(&self.queue).ops.len())
            .field("busy", &self.busy.load(Ordering::Relaxed))
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What an idle stream and a pending event own, their allocations' headers aside. The whole, as the allocator sees
    /// it, is measured by `gpu-events bench`.
    #[test]
    fn sizes_are_kept() {
        let counts = 2 * size_of::<usize>();
        let lane = counts + size_of::<Lane<Strand>>();
        assert!(lane <= 416, "an idle stream's lane is {lane} bytes");
        let slot = size_of::<crate::event::Slot>();
        assert!(slot <= 96, "a pooled event is {slot} bytes");
        assert!(size_of::<Op>() <= 32);
    }
}
