//! The Vulkan device: streams on queues, each with one timeline semaphore for all of its events.
//!
//! A stream has a semaphore whose value is the position that the GPU has reached. Waits, work and recordings are gathered and
//! go to the driver in one submission. What Vulkan leaves open, this closes: many streams share a queue, and no wait that
//! depends on the host, or on what is not submitted yet, gets into one; a stream's work is in order and its results are
//! visible, to the host as well; times come of recycled queries, unwrapped; semaphores are used again when the driver has let
//! go of them. `docs/backends/vulkan.md` in the repository lists it.
//!
//! Work is given to [`Stream::vulkan`]. What you have already can be used with it: your `VkDevice` ([`open`]), your queue
//! ([`adopt_queue`]), your submissions ([`record_in_submission`], [`semaphore_of`]), your timeline semaphores
//! ([`import_semaphore`]). Handles are numbers here; the feature `ash-0_38` converts them to and from those of
//! [ash](https://docs.rs/ash), which wgpu and vulkano hand out.
//!
//! ```
//! use gpu_events::Device;
//! # fn main() -> Result<(), gpu_events::Error> {
//! # if Device::open("vulkan").is_err() { return Ok(()) }
//!
//! let device = Device::open("vulkan")?;
//! let (upload, compute) = (device.create_stream()?, device.create_stream()?);
//! // upload.vulkan()?.submit(Work::new([a_command_buffer]).keep_alive(what_owns_it))?;
//! compute.wait(&upload.record()?)?; // on the GPU
//! // compute.vulkan()?.submit(…)?;
//! compute.record()?.synchronize()?;
//! # Ok(())
//! # }
//! ```

mod clock;
mod driver;
mod foreign;
mod gpu;
mod port;
mod pump;
mod queue;
mod view;

pub use driver::{
    GetInstanceProcAddr, RawCommandBuffer, RawDevice, RawInstance, RawPhysicalDevice, RawQueue, RawSemaphore,
};
pub use foreign::{SignalState, SubmissionRecording, import_semaphore, record_in_submission, semaphore_of};
pub use port::QueueLock;
pub use view::{VulkanStream, Work};
#[cfg(all(feature = "cuda", unix))]
pub(super) use {
    driver::error as refusal,
    gpu::{Gpu as VulkanGpu, Semaphore as VulkanSemaphore},
    queue::Queue as VulkanQueue,
};

use super::{Backend, Lane, StreamSeed, interop::Bridges, reaper::KeepAlive};
use crate::{
    device::{Capabilities, Device, DeviceInfo, Gates},
    error::{ErrorKind, Result},
    fork,
    stream::{Stream, StreamOptions},
    time::{Clock, Correlation},
};
use gpu::{Described, Gpu};
use queue::{BATCH_BOUND, QUEUE_DEPTH, Queue};
use std::{
    ffi::{CStr, CString},
    fmt,
    sync::Arc,
    time::Duration,
};

/// A GPU as a device.
#[derive(Debug)]
pub(crate) struct VulkanBackend {
    gpu: Arc<Gpu>,
}

impl VulkanBackend {
    /// Opens the system's GPU number `index`.
    pub(crate) fn open(index: u32) -> Result<Self> {
        Ok(Self { gpu: Gpu::get(index)? })
    }

    /// Every GPU that can be opened, without opening it.
    pub(crate) fn all() -> Result<Vec<DeviceInfo>> {
        fork::check()?;
        let info = |(index, gpu): (u32, Described)| {
            info(Some(index), &gpu.name, gpu.clock(), gpu.is_timed(), Bridges::natives(gpu.exports))
                .with_emulated(gpu.emulated)
        };
        Ok((0..).zip(Described::all()?).map(info).collect())
    }
}

fn info(
    index: Option<u32>,
    name: &str,
    clock: Clock,
    timed: bool,
    native_on_request: &'static [&'static str],
) -> DeviceInfo {
    let capabilities = Capabilities {
        timed,
        queue_depth: Some(QUEUE_DEPTH),
        batch_bound: Some(BATCH_BOUND),
        native_waits: &["vulkan"],
        native_on_request,
        gates: Gates::Owned,
        failure_is_per_stream: true,
    };
    let number = index.map_or_else(|| "vulkan".to_owned(), |index| format!("vulkan:{index}"));
    DeviceInfo::new(number, "vulkan", name, clock, capabilities)
}

impl Backend for VulkanBackend {
    fn info(&self) -> DeviceInfo {
        let natives = Bridges::natives(self.gpu.bridges().are_possible());
        info(self.gpu.index, &self.gpu.name, self.gpu.clock.clock(), self.gpu.timed, natives)
            .with_emulated(self.gpu.emulated)
    }

    fn create_stream(&self, seed: StreamSeed<'_>) -> Result<Arc<Lane>> {
        Queue::build(seed, &self.gpu, None)
    }

    fn correlate(&self) -> Result<Correlation> {
        self.gpu.clock.correlate()
    }
}

/// A `VkInstance`, `VkPhysicalDevice` and `VkDevice` of yours, for [`open`].
pub struct ExistingDevice {
    get: GetInstanceProcAddr,
    instance: RawInstance,
    physical: RawPhysicalDevice,
    device: RawDevice,
    extensions: Vec<CString>,
    queues: Vec<ExistingQueue>,
    keep_alive: KeepAlive,
}

impl ExistingDevice {
    /// These. `keep_alive` is what keeps them from being destroyed: it is let go of when everything that this crate has made
    /// from them is gone.
    pub fn new(
        get_instance_proc_addr: GetInstanceProcAddr,
        instance: RawInstance,
        physical_device: RawPhysicalDevice,
        device: RawDevice,
        keep_alive: KeepAlive,
    ) -> Self {
        Self {
            get: get_instance_proc_addr,
            instance,
            physical: physical_device,
            device,
            extensions: Vec::new(),
            queues: Vec::new(),
            keep_alive,
        }
    }

    /// The extensions that the device was made with. With `VK_EXT_calibrated_timestamps`, times of different queues can be
    /// compared and placed on the host's clock; without, only those of the first queue are taken. With
    /// `VK_KHR_external_semaphore_fd`, its streams and CUDA's can wait for each other without the host
    /// ([`ForeignWaits::Native`](crate::ForeignWaits::Native)).
    pub fn extensions<'a>(mut self, enabled: impl IntoIterator<Item = &'a CStr>) -> Self {
        self.extensions.extend(enabled.into_iter().map(CStr::to_owned));
        self
    }

    /// A queue that streams may be made on ([`Device::create_stream`]). Several are used in turn.
    pub fn queue(mut self, queue: ExistingQueue) -> Self {
        self.queues.push(queue);
        self
    }
}

impl fmt::Debug for ExistingDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExistingDevice")
            .field("device", &self.device)
            .field("extensions", &self.extensions)
            .field("queues", &self.queues)
            .finish_non_exhaustive()
    }
}

/// A `VkQueue` of yours, for [`ExistingDevice::queue`] and [`adopt_queue`].
pub struct ExistingQueue {
    queue: RawQueue,
    family: u32,
    lock: QueueLock,
}

impl ExistingQueue {
    /// This queue, of this family. Vulkan wants a queue used by one thread at a time: `lock` calls what it is given, once,
    /// while nobody else uses it, and holds up all streams on the queue, and the device's pump, for as long as it takes.
    ///
    /// So whoever holds what `lock` takes must call nothing of this crate's but [`Event::status`](crate::Event::status) of
    /// other devices: a recording on the queue would wait for itself, and so would a wait for news of any.
    pub fn new(queue: RawQueue, family: u32, lock: QueueLock) -> Self {
        Self { queue, family, lock }
    }
}

impl fmt::Debug for ExistingQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExistingQueue")
            .field("queue", &self.queue)
            .field("family", &self.family)
            .finish_non_exhaustive()
    }
}

/// Opens a `VkDevice` that you have already, with what it needs: Vulkan 1.2 and timeline semaphores.
///
/// Its streams and those of other devices opened on the same `VkDevice` wait for each other without the host.
///
/// # Safety
/// The handles belong together and stay good for as long as the keep-alive is held. The feature `timelineSemaphore` and the
/// extensions that were named are enabled. The queues are of the device and of the families that were said, and used under
/// their locks alone.
///
/// # Errors
/// [`ErrorKind::Unsupported`] if the device is of an earlier version or its GPU has no timeline semaphores,
/// [`ErrorKind::InvalidArgument`] if a family does not exist, [`ErrorKind::Resources`], [`ErrorKind::Forked`], what the driver
/// refused.
pub unsafe fn open(existing: ExistingDevice) -> Result<Device> {
    fork::check()?;
    Ok(Device::from_backend(VulkanBackend { gpu: Gpu::adopt(existing)? }))
}

/// Makes a stream on a queue that you submit to as well (R35).
///
/// Nothing is gathered: each recording and wait is on the queue when the call returns (a
/// [held](crate::Stream::lock) stream's, when it is let go), so that all is in order with what you submit there yourself. A
/// recording is complete when everything that was submitted to the queue before it is done, and a timed one has the time of
/// that. A wait holds back everything that is submitted to the queue after it, by whomever: where the host has to let it go,
/// the driver waits for that, and the queue stands still with all streams on it.
///
/// A queue that the device was [opened](open) with keeps the lock that it was given then. `keep_alive` is held until the
/// stream's last handle, event and waiter has gone.
///
/// # Safety
/// The queue is one of the device's `VkDevice` and of the family that was said, is used under its lock alone, and stays good
/// for as long as the device's own keep-alive is held, as queues do: it is used once more when the device is given back. The
/// lock must not keep the device.
///
/// # Errors
/// [`ErrorKind::Unsupported`] if `device` is no Vulkan device, [`ErrorKind::InvalidArgument`] if there is no such family,
/// [`ErrorKind::Closed`], [`ErrorKind::Forked`], what the driver refused.
pub unsafe fn adopt_queue(
    device: &Device,
    queue: ExistingQueue,
    keep_alive: KeepAlive,
    options: &StreamOptions,
) -> Result<Stream> {
    let gpu = &backend_of(device)?.gpu;
    let port = gpu.adopted_port(queue.queue.handle(), queue.family, queue.lock)?;
    device.adopt_stream(options, |seed| Queue::build(seed, gpu, Some((port, keep_alive))))
}

/// What a device is made of, to make memory, pipelines and command buffers from; see [`raw_parts`].
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct RawParts {
    /// The function by which all others are found.
    pub get_instance_proc_addr: GetInstanceProcAddr,
    /// The instance: of the version of the loader, up to 1.3, with no layers or extensions of our own choice.
    pub instance: RawInstance,
    /// The GPU.
    pub physical_device: RawPhysicalDevice,
    /// The device: with timeline semaphores, and `VK_EXT_calibrated_timestamps` and `VK_KHR_external_semaphore_fd` where there are
    /// those.
    pub device: RawDevice,
}

/// What a Vulkan device is made of. It is there for as long as the device, a stream or an event of it.
///
/// All devices that are open under one name at a time, as in `Device::open("vulkan:0")`, share one `VkDevice`. If you need
/// features or extensions that it was not made with, make one of your own, and [`open`] that.
///
/// # Errors
/// [`ErrorKind::Unsupported`] if it is no Vulkan device, [`ErrorKind::Forked`].
pub fn raw_parts(device: &Device) -> Result<RawParts> {
    Ok(backend_of(device)?.gpu.parts)
}

/// Sets for how long the device's pump asks the driver without pause once somebody has begun to wait by callback, future or
/// for any of several, before it sleeps: 200 µs unless told otherwise, 20 µs where the device is the CPU itself, and less by
/// itself where that mostly brings nothing. For all devices that share its `VkDevice`.
///
/// # Errors
/// [`ErrorKind::Unsupported`] if it is no Vulkan device, [`ErrorKind::Forked`].
pub fn set_spin_window(device: &Device, window: Duration) -> Result<()> {
    backend_of(device)?.gpu.pump.set_window(window);
    Ok(())
}

/// What [`set_spin_window`] set.
///
/// # Errors
/// As [`set_spin_window`].
pub fn spin_window(device: &Device) -> Result<Duration> {
    Ok(backend_of(device)?.gpu.pump.window())
}

/// How many semaphores the device shares with CUDA, for native waits between its streams and CUDA's. They are made when they are
/// needed, 64 at most, used again and again, and kept as long as its `VkDevice`.
///
/// # Errors
/// [`ErrorKind::Unsupported`] if it is no Vulkan device, [`ErrorKind::Forked`].
pub fn bridges(device: &Device) -> Result<usize> {
    Ok(backend_of(device)?.gpu.bridges().count())
}

fn backend_of(device: &Device) -> Result<&VulkanBackend> {
    fork::check()?;
    Ok(device.backend::<VulkanBackend>().ok_or(ErrorKind::Unsupported)?)
}
