//! The CUDA device: streams of the GPU's primary context, each with one counter for all of its events.
//!
//! What tells how far a stream is comes in two kinds, and [`Signal`] chooses: native events that cost little
//! to record and a call to ask, or a word in pinned memory that the GPU writes and anybody reads. What CUDA leaves open, this
//! closes: native events have a state of their own and remember only their newest recording; a fault is told to whoever asks
//! next, and to nobody who sleeps; waiting has no timeout and no wait for any of many; times come as floats that lose their
//! digits. `docs/backends/cuda.md` in the repository lists it.
//!
//! Work is given to the raw stream ([`Stream::cuda`]), by any library that shares the GPU's primary context, as cudarc,
//! candle and PyTorch do. What you have already can be used with it: your streams ([`adopt_stream`]), your events
//! ([`import_event`], [`wait_raw`], [`record_raw`]), graphs that you capture ([`record_external`]), and other processes
//! ([`SharedEvent`], [`open_shared`]).
//!
//! ```
//! use gpu_events::{Device, Signal, StreamOptions};
//! # fn main() -> Result<(), gpu_events::Error> {
//! # if Device::open("cuda").is_err() { return Ok(()) }
//!
//! let device = Device::open("cuda")?;
//! let upload = device.create_stream()?;
//! let compute = device.create_stream_with(&StreamOptions::new().signal(Signal::Prompt))?;
//! let raw = upload.cuda()?.raw(); // a CUstream, for cuMemcpyHtoDAsync and the like
//! compute.wait(&upload.record()?)?; // on the GPU
//! let raw = compute.cuda()?.raw(); // for cuLaunchKernel
//! compute.record()?.synchronize()?;
//! # Ok(())
//! # }
//! ```

mod clock;
#[cfg(feature = "cudarc-0_19")]
pub mod cudarc_0_19;
mod driver;
mod foreign;
mod gpu;
mod pump;
mod queue;
#[cfg(all(feature = "vulkan", unix))]
mod semaphore;
mod view;

pub use driver::{
    Api, Code, DevicePointer, LEGACY_STREAM, PER_THREAD_STREAM, RawContext, RawEvent, RawExternalSemaphore,
    RawIpcHandle, RawStream, RawUuid, SemaphoreFd, SemaphoreHandleDescription, SemaphoreParameters,
};
pub use foreign::{
    GraphNode, GraphRecording, IpcHandle, SharedEvent, import_event, open_shared, record_external,
    record_raw, wait_raw,
};
pub use view::CudaStream;
#[cfg(all(feature = "vulkan", unix))]
pub(super) use {gpu::Gpu as CudaGpu, queue::Queue as CudaQueue, semaphore::ImportedSemaphore};

use super::{Backend, Lane, StreamSeed, interop, reaper::KeepAlive};
use crate::{
    device::{Capabilities, Device, DeviceInfo, Gates},
    error::{Error, ErrorKind, Result},
    fork,
    stream::{Signal, Stream, StreamOptions},
    time::Correlation,
};
use gpu::Gpu;
use queue::{QUEUE_DEPTH, Queue};
use std::{sync::Arc, time::Duration};

/// A GPU as a device.
#[derive(Debug)]
pub(crate) struct CudaBackend {
    ordinal: u32,
    gpu: &'static Gpu,
    signal: Signal,
}

impl CudaBackend {
    /// Opens the system's GPU number `ordinal`.
    pub(crate) fn open(ordinal: u32) -> Result<Self> {
        Self::of(Api::of_system()?, ordinal, Signal::default())
    }

    fn of(api: &'static Api, ordinal: u32, signal: Signal) -> Result<Self> {
        let gpu = Gpu::get(api, ordinal)?;
        if let Some(error) = gpu.broken() {
            return Err(error.clone());
        }
        Ok(Self { ordinal, gpu, signal })
    }

    /// Every GPU, opened.
    pub(crate) fn all() -> Result<Vec<DeviceInfo>> {
        fork::check()?;
        let count = Gpu::count(Api::of_system()?)?;
        if count == 0 {
            return Err(Error::with_text(ErrorKind::Unavailable, "CUDA finds no GPU here"));
        }
        let opened = (0..count).map(|ordinal| Self::open(ordinal).map(|backend| backend.info()));
        let (devices, refused): (Vec<_>, Vec<_>) = opened.partition(Result::is_ok);
        // One that is broken, or somebody else's alone, hides none of the others.
        match refused.into_iter().next() {
            Some(Err(error)) if devices.is_empty() => Err(error),
            _ => devices.into_iter().collect(),
        }
    }
}

impl Backend for CudaBackend {
    fn info(&self) -> DeviceInfo {
        let capabilities = Capabilities {
            timed: true,
            queue_depth: Some(QUEUE_DEPTH),
            batch_bound: None,
            native_waits: &["cuda"],
            native_on_request: interop::of_cuda(self.gpu),
            gates: Gates::Driver { limit: self.gpu.gates },
            failure_is_per_stream: false,
        };
        DeviceInfo::new(
            format!("cuda:{}", self.ordinal),
            "cuda",
            &*self.gpu.name,
            self.gpu.clock.clock(),
            capabilities,
        )
    }

    fn create_stream(&self, seed: StreamSeed<'_>) -> Result<Arc<Lane>> {
        self.gpu.bury();
        Queue::build(seed, self.gpu, self.signal, None)
    }

    fn correlate(&self) -> Result<Correlation> {
        self.gpu.clock.correlate(self.gpu)
    }

    fn run_callback(&self, run: &mut dyn FnMut()) {
        // Callbacks make calls of CUDA's as well, and a broken context is no reason not to run them.
        let _entered = self.gpu.enter();
        run();
    }
}

/// Opens a GPU whose streams say how far they are in this way, unless they are told otherwise.
///
/// # Errors
/// [`ErrorKind::Unavailable`] if there is no driver or no such GPU; [`ErrorKind::DeviceLost`] if a fault has broken the
/// GPU's context in this process; [`ErrorKind::Forked`].
pub fn open(ordinal: u32, signal: Signal) -> Result<Device> {
    fork::check()?;
    Ok(Device::from_backend(CudaBackend::of(Api::of_system()?, ordinal, signal)?))
}

/// As [`open`], with another driver than the system's: a simulated one, or one that watches what is called.
///
/// # Safety
/// The functions of the table do what CUDA's documentation says of those with their names, from any thread, to the end of
/// the process.
///
/// # Errors
/// As [`open`].
pub unsafe fn open_with(api: &'static Api, ordinal: u32, signal: Signal) -> Result<Device> {
    fork::check()?;
    api.start()?;
    Ok(Device::from_backend(CudaBackend::of(api, ordinal, signal)?))
}

/// The system's driver, for whoever wants to stand in front of it.
///
/// # Errors
/// [`ErrorKind::Unavailable`], with what was looked for.
pub fn system_api() -> Result<&'static Api> {
    Api::of_system()
}

/// Makes a stream of ours around a `CUstream` of your own (R35): any, null, [`LEGACY_STREAM`] and [`PER_THREAD_STREAM`]
/// included. Streams of [cudarc](https://docs.rs/cudarc) have an adapter of their own, with the feature `cudarc-0_19`.
///
/// `keep_alive` is held until the stream's last handle, event and waiter has gone. The per-thread stream is another one on
/// every thread: record on, and wait with, the adopted stream from the thread alone whose stream is meant.
///
/// # Safety
/// `stream` is a `CUstream`, and stays one for as long as `keep_alive` is held.
///
/// # Errors
/// [`ErrorKind::Unsupported`] if `device` is no CUDA device, [`ErrorKind::WrongDevice`] if the stream is not of the primary
/// context of its GPU, [`ErrorKind::Closed`], [`ErrorKind::Forked`], what the driver refused.
pub unsafe fn adopt_stream(
    device: &Device,
    stream: RawStream,
    keep_alive: KeepAlive,
    options: &StreamOptions,
) -> Result<Stream> {
    let backend = backend_of(device)?;
    if backend.gpu.context_of(stream)? != backend.gpu.context {
        return Err(Error::new(ErrorKind::WrongDevice));
    }
    let adopted = Some((stream, keep_alive));
    device.adopt_stream(options, |seed| Queue::build(seed, backend.gpu, backend.signal, adopted))
}

/// The primary context of a device's GPU, which every library in this process shares that uses primary contexts.
///
/// # Errors
/// [`ErrorKind::Unsupported`] if it is no CUDA device, [`ErrorKind::Forked`].
pub fn raw_context(device: &Device) -> Result<RawContext> {
    Ok(gpu_of(device)?.context)
}

/// What the chain of reference points behind the device's times may be off by, summed up since the process opened it (R22).
/// Zero as long as something timed was alive all the time: then each link is exact.
///
/// # Errors
/// [`ErrorKind::Unsupported`] if it is no CUDA device, [`ErrorKind::Forked`].
pub fn rebase_error(device: &Device) -> Result<Duration> {
    Ok(gpu_of(device)?.clock.error())
}

/// The error that an answer of the system's driver is, as this crate tells it: for those who make calls of their own and
/// pass on what comes of them.
///
/// # Errors
/// [`ErrorKind::Unavailable`] if there is no driver that could have answered.
pub fn error_of(call: &str, code: Code) -> Result<Error> {
    Ok(Api::of_system()?.error(call, code))
}

/// Sets for how long the GPU's pump asks the driver without pause once somebody has begun to wait, be it by callback, future
/// or parked thread: 200 µs unless told otherwise, and less by itself where that mostly brings nothing. For all devices of
/// this GPU in this process.
///
/// Longer has news of longer work come sooner, and costs as much of a core; zero never spins. What each costs is in
/// `docs/backends/cuda.md`.
///
/// # Errors
/// [`ErrorKind::Unsupported`] if it is no CUDA device, [`ErrorKind::Forked`].
pub fn set_spin_window(device: &Device, window: Duration) -> Result<()> {
    gpu_of(device)?.pump.set_window(window);
    Ok(())
}

/// What [`set_spin_window`] set.
///
/// # Errors
/// As [`set_spin_window`].
pub fn spin_window(device: &Device) -> Result<Duration> {
    Ok(gpu_of(device)?.pump.window())
}

fn backend_of(device: &Device) -> Result<&CudaBackend> {
    fork::check()?;
    Ok(device.backend::<CudaBackend>().ok_or(ErrorKind::Unsupported)?)
}

fn gpu_of(device: &Device) -> Result<&'static Gpu> {
    Ok(backend_of(device)?.gpu)
}
