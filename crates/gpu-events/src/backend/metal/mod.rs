//! The Metal device: streams of command buffers, each with one shared event for all of its events.
//!
//! A stream has a command queue and an `MTLSharedEvent`, whose value is the position that the GPU has reached. An event
//! costs a number, and a signal in a command buffer that other work shares. What Metal leaves open, this closes: buffers
//! that overlap are chained, a failed buffer's missing signals reach everyone as its failure, the queue's room is
//! counted, and what waits for the host stays out of the driver. `docs/backends/metal.md` in the repository lists it.
//!
//! Work is encoded through [`Stream::metal`]. What you have already can be used with it: your device ([`open`]), your
//! queue ([`adopt_queue`]), your command buffers ([`record_in_buffer`], [`wait_in_buffer`]), and whatever else knows
//! shared events ([`shared_event`]).
//!
//! ```
//! use gpu_events::Device;
//! # fn main() -> Result<(), gpu_events::Error> {
//! # if Device::open("metal").is_err() { return Ok(()) }
//!
//! let device = Device::open("metal")?;
//! let (upload, compute) = (device.create_stream()?, device.create_stream()?);
//! upload.metal()?.encode(|commands| { /* a blit encoder … */ })?;
//! compute.wait(&upload.record()?)?; // on the GPU
//! compute.metal()?.encode(|commands| { /* a compute encoder … */ })?;
//! compute.record()?.synchronize()?;
//! # Ok(())
//! # }
//! ```

mod clock;
mod driver;
mod foreign;
mod queue;
mod view;

pub use foreign::{BufferRecording, record_in_buffer, record_timed_in_buffer, wait_in_buffer};
pub use view::MetalStream;

use super::{Backend, BackendStream, Lane, StreamSeed};
use crate::{
    device::{Capabilities, Device, DeviceInfo, Gates},
    error::{Error, ErrorKind, Result},
    event::{Event, Point},
    fork,
    stream::{Stream, StreamOptions},
    time::{Clock, Correlation},
};
use block2::RcBlock;
use dispatch2::{DispatchQueue, DispatchRetained};
use driver::{Owned, RawDevice, RawEvent, RawQueue, pooled};
use foreign::Foreign;
use objc2::{AnyThread, rc::Retained};
use objc2_foundation::NSString;
use objc2_metal::{
    MTLCommandQueue, MTLCreateSystemDefaultDevice, MTLDevice, MTLSharedEvent, MTLSharedEventListener,
};
use queue::{BATCH_BOUND, QUEUE_DEPTH, Queue};
use std::{
    ptr::NonNull,
    sync::{Arc, OnceLock, Weak},
};

// `MTLCreateSystemDefaultDevice` gives nil to programs on macOS that do not link this.
#[cfg_attr(target_vendor = "apple", link(name = "CoreGraphics", kind = "framework"))]
unsafe extern "C" {}

/// A GPU as a device.
#[derive(Debug)]
pub(crate) struct MetalBackend {
    index: Option<u32>,
    shared: Arc<Shared>,
    clock: Clock,
}

/// What a device's streams share.
#[derive(Debug)]
struct Shared {
    device: Owned<RawDevice>,
    /// What the listener's blocks run on: the device's pump (R14).
    pump: DispatchRetained<DispatchQueue>,
    listener: Owned<MTLSharedEventListener>,
    /// What the buffer was told that has met the loss of the GPU.
    lost: OnceLock<Error>,
}

impl Shared {
    fn is(&self, other: &Self) -> bool {
        self.has(&other.device)
    }

    /// Whether this is the GPU: the same object, or, should there be several for one, the same entry in the system's
    /// registry.
    fn has(&self, device: &RawDevice) -> bool {
        std::ptr::addr_eq(&raw const *self.device, device)
            || pooled(|| self.device.registryID() == device.registryID())
    }

    fn new_shared_event(&self) -> Result<Owned<RawEvent>> {
        pooled(|| self.device.newSharedEvent()).map(Owned::new).ok_or_else(|| {
            Error::with_text(ErrorKind::Resources, "Metal gave no shared event: the device returned nil")
        })
    }

    /// Everything fails from here on. Before anybody is told of it.
    fn lose(&self, error: &Error) {
        // The first one's is as good as any.
        let _ = self.lost.set(error.clone());
    }

    fn check(&self) -> Result<()> {
        self.lost.get().map_or(Ok(()), |error| Err(error.clone()))
    }

    /// A queue that takes this many uncompleted buffers.
    fn new_queue(&self, places: usize, label: Option<&str>) -> Result<Owned<RawQueue>> {
        let queue = pooled(|| {
            let queue = self.device.newCommandQueueWithMaxCommandBufferCount(places)?;
            if let Some(label) = label {
                queue.setLabel(Some(&NSString::from_str(label)));
            }
            Some(Owned::new(queue))
        });
        queue.ok_or_else(|| {
            Error::with_text(ErrorKind::Resources, "Metal gave no command queue: the device returned nil")
        })
    }

    /// Has `lane` polled on the pump once the GPU has brought `event` to `value`. When the host has, it should be as well,
    /// and is not reliably: nobody counts on that.
    fn listen<B: BackendStream>(&self, event: &RawEvent, value: u64, lane: &Weak<Lane<B>>) {
        let lane = lane.clone();
        let block = RcBlock::new(move |_: NonNull<RawEvent>, _: u64| {
            pooled(|| {
                if let Some(lane) = lane.upgrade() {
                    lane.backend().poll();
                }
            });
        });
        // SAFETY: the block is copied by the call; it takes what Metal gives it, and what it captures may be used and
        // dropped on any thread.
        pooled(|| unsafe {
            event.notifyListener_atValue_block(&self.listener, value, RcBlock::as_ptr(&block))
        });
    }
}

impl MetalBackend {
    /// Opens the system's GPU number `index`; 0 is its default.
    pub(crate) fn open(index: u32) -> Result<Self> {
        match pooled(|| gpus().into_iter().nth(index as usize)) {
            Some(device) => Ok(Self::new(Some(index), device)),
            None if index == 0 => Err(Error::with_text(ErrorKind::Unavailable, "Metal finds no GPU here")),
            None => {
                Err(Error::with_text(ErrorKind::Unavailable, format!("there is no GPU number {index} here")))
            }
        }
    }

    /// Every GPU, opened.
    pub(crate) fn all() -> Result<Vec<DeviceInfo>> {
        let info = |(index, device)| Self::new(Some(index), device).info();
        let all: Vec<_> = pooled(|| (0..).zip(gpus()).map(info).collect());
        if all.is_empty() {
            return Err(Error::with_text(ErrorKind::Unavailable, "Metal finds no GPU here"));
        }
        Ok(all)
    }

    fn new(index: Option<u32>, device: Retained<RawDevice>) -> Self {
        pooled(|| {
            let clock = clock::of_gpu(device.registryID());
            let pump = DispatchQueue::new("gpu-events.metal", None);
            // SAFETY: the queue is one, and the listener retains it.
            let listener = unsafe {
                MTLSharedEventListener::initWithDispatchQueue(MTLSharedEventListener::alloc(), &pump)
            };
            let (device, listener) = (Owned::new(device), Owned::new(listener));
            Self { index, clock, shared: Arc::new(Shared { device, pump, listener, lost: OnceLock::new() }) }
        })
    }
}

/// The system's GPUs, the default one first. Inside of a pool.
fn gpus() -> Vec<Retained<RawDevice>> {
    let mut gpus: Vec<_> = MTLCreateSystemDefaultDevice().into_iter().collect();
    #[cfg(target_os = "macos")]
    for gpu in objc2_metal::MTLCopyAllDevices() {
        if !gpus.iter().any(|known| std::ptr::addr_eq(Retained::as_ptr(known), Retained::as_ptr(&gpu))) {
            gpus.push(gpu);
        }
    }
    gpus.truncate(u32::MAX as usize);
    gpus
}

impl Backend for MetalBackend {
    fn info(&self) -> DeviceInfo {
        let capabilities = Capabilities {
            timed: true,
            queue_depth: Some(QUEUE_DEPTH),
            batch_bound: Some(BATCH_BOUND),
            native_waits: &["metal"],
            native_on_request: &[],
            gates: Gates::Owned,
            failure_is_per_stream: true,
        };
        let name = self.index.map_or_else(|| "metal".to_owned(), |index| format!("metal:{index}"));
        let description = pooled(|| self.shared.device.name().to_string());
        DeviceInfo::new(name, "metal", description, self.clock, capabilities)
    }

    fn create_stream(&self, seed: StreamSeed<'_>) -> Result<Arc<Lane>> {
        Queue::build(seed, &self.shared, None)
    }

    fn correlate(&self) -> Result<Correlation> {
        Ok(clock::correlate(&self.clock))
    }

    fn run_callback(&self, run: &mut dyn FnMut()) {
        pooled(run);
    }
}

/// Opens a GPU that you have already. Its streams and those of other devices opened on the same GPU wait for each other
/// without the host.
///
/// # Errors
/// [`ErrorKind::Forked`].
pub fn open(device: Retained<RawDevice>) -> Result<Device> {
    fork::check()?;
    Ok(Device::from_backend(MetalBackend::new(None, device)))
}

/// The GPU of a Metal device.
///
/// # Errors
/// [`ErrorKind::Unsupported`] if it is no Metal device, [`ErrorKind::Forked`].
pub fn raw_device(device: &Device) -> Result<Retained<RawDevice>> {
    Ok(shared(device)?.device.retained())
}

/// Makes a stream that commits to a queue of your own (R35), which it retains.
///
/// The stream orders what goes through it, and keeps to 16 of the queue's places, or to fewer if `options` say so
/// ([`StreamOptions::queue_depth`]). There are 64 unless you made the queue for another number; your own buffers take
/// places as well, and nobody counts those. When there is none left, recording and encoding block inside of Metal until
/// there is, which is for ever if buffers that are held back at gates have them all: leave room for 16 for each stream that
/// adopts the queue. What you commit to the queue directly comes before what the stream commits
/// later only as far as Metal keeps the buffers of one queue in order: it starts them in order, and may overlap those
/// that touch no common resource, or only ones that it doesn't track. The stream's waits do not hold it back. Where it
/// matters, use [`record_in_buffer`] and [`wait_in_buffer`].
///
/// # Errors
/// [`ErrorKind::Unsupported`] if `device` is no Metal device, [`ErrorKind::WrongDevice`] if the queue is of another GPU,
/// [`ErrorKind::Resources`] if Metal has no shared event to give, [`ErrorKind::Closed`], [`ErrorKind::Forked`].
pub fn adopt_queue(device: &Device, queue: Retained<RawQueue>, options: &StreamOptions) -> Result<Stream> {
    let queue = Owned::new(queue);
    let shared = shared(device)?;
    if !pooled(|| shared.has(&queue.device())) {
        return Err(Error::new(ErrorKind::WrongDevice));
    }
    device.adopt_stream(options, |seed| Queue::build(seed, shared, Some(queue)))
}

/// The shared event behind an event's current recording, and the value that it will have once that is complete: for
/// `encodeWaitForEvent:value:` in engines that know shared events and not this crate. `None` if there is nothing to wait
/// for any more.
///
/// Has the recording's stream commit it, as any observation does (R7). A number carries no failure: whoever waits for it
/// is let go when the work fails, and must ask the event.
///
/// # Errors
/// [`ErrorKind::Unrecorded`]; the event's failure; [`ErrorKind::NotSubmitted`] for a recording that was not committed,
/// because its stream is held, waits at a gate, or because the buffer it is in is yours to commit;
/// [`ErrorKind::Unsupported`] if it is not of a Metal stream; [`ErrorKind::Forked`].
pub fn shared_event(event: &Event) -> Result<Option<(Retained<RawEvent>, u64)>> {
    use crate::lane::Observed;

    fork::check()?;
    let source = match event.point() {
        Point::Unrecorded => return Err(Error::new(ErrorKind::Unrecorded)),
        Point::Done => return Ok(None),
        Point::At(source) => source,
    };
    match source.lane.observe(source.position) {
        Observed::Complete => return Ok(None),
        Observed::Failed(error) => return Err(error),
        Observed::Pending => {}
    }
    if let Some(queue) = source.lane.downcast::<Queue>() {
        if !source.lane.is_submitted(source.position) {
            return Err(Error::new(ErrorKind::NotSubmitted));
        }
        Ok(Some((queue.event().retained(), source.position)))
    } else if let Some(foreign) = source.lane.downcast::<Foreign>() {
        Ok(Some((foreign.event().retained(), Foreign::VALUE)))
    } else {
        Err(Error::new(ErrorKind::Unsupported))
    }
}

fn shared(device: &Device) -> Result<&Arc<Shared>> {
    fork::check()?;
    let backend = device.backend::<MetalBackend>().ok_or(ErrorKind::Unsupported)?;
    Ok(&backend.shared)
}
