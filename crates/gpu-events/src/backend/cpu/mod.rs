//! The CPU device: streams of closures on a shared pool of workers.
//!
//! The reference for what events promise, and a device in its own right: a pipeline over CPU streams overlaps its
//! stages, hands over from stream to stream without a context switch, and is written as it would be for a GPU.
//!
//! A stream is not a thread but a *strand*: a queue of operations that at most one worker runs at a time, in order.
//! A strand that waits is parked on the timeline that it waits for and costs no worker. All CPU devices of a process
//! share one pool, with a worker for each core. Work that blocks in a host wait of this crate is made up for by
//! another worker as long as it does; work that blocks elsewhere is not.
//!
//! ```
//! use gpu_events::Device;
//! use std::sync::{Arc, atomic::{AtomicU64, Ordering}};
//!
//! let device = Device::open("cpu")?;
//! let stream = device.create_stream()?;
//! let sum = Arc::new(AtomicU64::new(0));
//! for n in 1..=10 {
//!     let sum = sum.clone();
//!     stream.cpu()?.enqueue(move || { sum.fetch_add(n, Ordering::Relaxed); })?;
//! }
//! stream.synchronize()?;
//! assert_eq!(sum.load(Ordering::Relaxed), 55);
//! # Ok::<(), gpu_events::Error>(())
//! ```

mod strand;
#[cfg_attr(gpu_events_loom, path = "modelled.rs")]
mod workers;

use super::{Backend, Lane, StreamSeed};
use crate::{
    contain::contain,
    device::{Capabilities, DeviceInfo, Gates},
    error::{Error, ErrorKind, Result},
    fork,
    time::{Correlation, host_clock, host_instant, host_nanos},
};
use std::{fmt, sync::Arc};
use strand::Strand;

/// The CPU as a device.
#[derive(Debug)]
pub(crate) struct CpuBackend {
    index: u32,
}

impl CpuBackend {
    pub(crate) fn new(index: u32) -> Self {
        Self { index }
    }
}

impl Backend for CpuBackend {
    fn info(&self) -> DeviceInfo {
        let capabilities = Capabilities {
            timed: true,
            queue_depth: None,
            batch_bound: None,
            // A strand parks on any timeline at all, those of backends that are not of this crate included; what the
            // host has to open is held back in the strand's own queue, and nothing else.
            native_waits: &["cpu", "metal", "cuda", "vulkan"],
            native_on_request: &[],
            gates: Gates::Owned,
            failure_is_per_stream: true,
        };
        let description = format!("{} workers shared by all CPU devices", workers::count());
        DeviceInfo::new(format!("cpu:{}", self.index), "cpu", description, host_clock(), capabilities)
    }

    fn create_stream(&self, seed: StreamSeed<'_>) -> Result<Arc<Lane>> {
        workers::start()?;
        let depth = seed.options().requested_depth();
        seed.build(|lane| Strand::new(lane.clone(), depth))
    }

    fn correlate(&self) -> Result<Correlation> {
        // The same clock: one reading serves as both.
        let nanos = host_nanos();
        Ok(Correlation::new(host_clock().at(nanos), host_instant(nanos), std::time::Duration::ZERO))
    }
}

/// A CPU stream, to enqueue work on; see [`Stream::cpu`](crate::Stream::cpu) and
/// [`StreamGuard::cpu`](crate::StreamGuard::cpu).
#[derive(Debug)]
pub struct CpuStream<'a> {
    lane: &'a Lane,
    strand: &'a Strand,
    /// The submit lock is held already, through a guard.
    held: bool,
}

impl<'a> CpuStream<'a> {
    pub(crate) fn new(lane: &'a Lane, held: bool) -> Result<Self> {
        let strand = lane.downcast().ok_or(ErrorKind::Unsupported)?;
        Ok(Self { lane, strand, held })
    }

    /// Has `work` run behind all that was submitted to the stream before. Never blocks.
    ///
    /// Work that returns an error or panics fails the stream: what was submitted after it is dropped without running,
    /// and everyone who observes it is told (R26, R28). On a stream that has failed already `work` is dropped at once.
    /// Work that never returns at all, `|| panic!("…")`, needs its type said: `|| -> () { panic!("…") }`.
    ///
    /// # Errors
    /// [`ErrorKind::WouldDeadlock`] if this thread holds the stream's lock (enqueue through the guard then);
    /// [`ErrorKind::Closed`]; [`ErrorKind::Forked`].
    pub fn enqueue<R: WorkResult>(&self, work: impl FnOnce() -> R + Send + 'static) -> Result<()> {
        fork::check()?;
        if self.lane.is_failed() {
            let closed = self.lane.core.device.is_closed();
            return if closed { Err(Error::new(ErrorKind::Closed)) } else { Ok(()) };
        }
        let work = Box::new(move || work().into_result());
        let refused = if self.held {
            self.strand.enqueue(work)
        } else {
            let submit = self.lane.core.lock()?;
            let refused = self.strand.enqueue(work);
            self.lane.release(submit);
            refused
        };
        // The stream failed just now. What the work captured goes with no lock held.
        contain(|| drop(refused));
        Ok(())
    }
}

/// What work may return: nothing, or a result whose error fails the stream.
#[diagnostic::on_unimplemented(
    message = "work on a CPU stream returns `()` or `Result<(), E>` with a printable error, not `{Self}`",
    note = "end the closure's last expression with `;` if its value is not needed"
)]
pub trait WorkResult: sealed::Sealed {}

impl WorkResult for () {}

impl<E: fmt::Display> WorkResult for Result<(), E> {}

mod sealed {
    use super::{Error, ErrorKind, fmt};

    #[expect(unnameable_types, reason = "what makes the trait one to use and not to implement")]
    pub trait Sealed {
        fn into_result(self) -> Result<(), Error>;
    }

    impl Sealed for () {
        fn into_result(self) -> Result<(), Error> {
            Ok(())
        }
    }

    impl<E: fmt::Display> Sealed for Result<(), E> {
        fn into_result(self) -> Result<(), Error> {
            self.map_err(|error| Error::with_text(ErrorKind::WorkFailed, format!("{error:#}")))
        }
    }
}
