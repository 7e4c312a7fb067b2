//! One `VkDevice` and one `VkQueue`, for wgpu and gpu-events.

use crate::Result;
use ash::vk;
use futures_lite::future::block_on;
use gpu_events::{
    Event, Stream, StreamOptions,
    vulkan::{self, ExistingDevice, ExistingQueue, GetInstanceProcAddr, QueueLock},
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use wgpu::hal::{api::Vulkan, vulkan as hal};

/// Never destroyed, since that unloads the driver. gpu-events lets go of the device on a thread of its own, and if that were the
/// end of the instance too, it might be while the main thread is at its end already, and runs the driver's exit handlers.
fn instance() -> wgpu::Instance {
    let mut options = wgpu::InstanceDescriptor::new_without_display_handle();
    options.backends = wgpu::Backends::VULKAN;
    // WGPU_VALIDATION=1 has Vulkan's validation layers look on.
    options.flags = wgpu::InstanceFlags::empty().with_env();
    wgpu::Instance::new(options)
}

/// wgpu's device and its queue, and gpu-events' view of them.
///
/// wgpu submits from [`Queue::submit`](wgpu::Queue::submit), `on_submitted_work_done`, `present` and
/// [`Buffer::map_async`](wgpu::Buffer::map_async), and gpu-events whenever an event is recorded or waited for. Vulkan wants a
/// queue used by one thread at a time, and what wgpu does for that it does inside. So each of these calls is made under a lock
/// that gpu-events takes too. [`Device::poll`](wgpu::Device::poll) only waits and asks: it goes without, since whoever waits
/// under the lock would hold up those that are to bring what it waits for.
///
/// What wgpu calls back in `submit` it calls under the lock: such a callback must not use [`Self::stream`].
#[derive(Debug)]
pub struct Shared {
    pub(crate) wgpu: wgpu::Device,
    /// wgpu's device, as gpu-events sees it.
    pub device: gpu_events::Device,
    /// wgpu's queue, as a stream: an event recorded here is complete when all that wgpu submitted before is done.
    pub stream: Stream,
    queue: wgpu::Queue,
    in_use: Arc<Mutex<()>>,
}

impl Shared {
    /// Opens the Vulkan device that wgpu finds first.
    ///
    /// # Errors
    /// If there is none, or none with timeline semaphores.
    pub fn open() -> Result<Self> {
        let adapter = block_on(instance().request_adapter(&wgpu::RequestAdapterOptions::default()))?;
        let (wgpu, queue) = block_on(adapter.request_device(&wgpu::DeviceDescriptor::default()))?;

        // The queue as well: when the last of it goes, wgpu uses it once more, and waits until it is idle. gpu-events lets go
        // when nobody uses it any more.
        let keep_alive = Arc::new((wgpu.clone(), queue.clone()));
        let in_use = Arc::new(Mutex::new(()));
        let lock: QueueLock = {
            let in_use = in_use.clone();
            Arc::new(move |work| {
                let _guard = hold(&in_use);
                work();
            })
        };

        // SAFETY: nothing of it is destroyed.
        let raw = unsafe { wgpu.as_hal::<Vulkan>() }.ok_or("not a Vulkan device")?;
        if !has_timelines(&raw) {
            return Err(
                "the device has no timeline semaphores, so wgpu goes without, and gpu-events can't".into()
            );
        }
        let vulkan = raw.shared_instance();
        let existing = ExistingDevice::new(
            get_instance_proc_addr(vulkan.entry()),
            vulkan.raw_instance().handle().into(),
            raw.raw_physical_device().into(),
            raw.raw_device().handle().into(),
            keep_alive.clone(),
        )
        // wgpu does not ask for VK_EXT_calibrated_timestamps: times compare with each other, but not with the host's. Who
        // needs that adds it in `open_with_callback` of wgpu-hal's adapter.
        .extensions(raw.enabled_device_extensions().iter().copied());
        let shared_queue = ExistingQueue::new(raw.raw_queue().into(), raw.queue_family_index(), lock);

        // SAFETY: the handles are of one wgpu device, which the keep-alive holds. wgpu enables timeline semaphores where they
        // are, as was seen above.
        let device = unsafe { vulkan::open(existing) }?;
        let options = StreamOptions::new().label("wgpu's queue");
        // SAFETY: the queue is that device's, and used in this file alone, under the lock.
        let stream = unsafe { vulkan::adopt_queue(&device, shared_queue, keep_alive, &options) }?;
        drop(raw);
        Ok(Self { wgpu, device, stream, queue, in_use })
    }

    /// Submits to wgpu's queue. Do so in no other way.
    ///
    /// Behind a [`Stream::wait`] that the host has yet to let go, submit once at most: wgpu has each submission wait for the one
    /// before, by a binary semaphore, and Vulkan allows that only if nothing is in the way of what it waits for but what was
    /// submitted already.
    pub fn submit(&self, commands: wgpu::CommandBuffer) -> wgpu::SubmissionIndex {
        let _guard = hold(&self.in_use);
        self.queue.submit([commands])
    }

    /// Submits with an event that is complete when `commands` are done. wgpu's submission signals it by itself, where an event
    /// recorded on [`Self::stream`] would be a submission of its own. It has no time, and may be complete a moment before wgpu
    /// knows: what a submission signals it signals in no order.
    ///
    /// # Errors
    /// If no event is to be had.
    pub fn submit_recorded(&self, commands: wgpu::CommandBuffer) -> Result<(Event, wgpu::SubmissionIndex)> {
        let (event, recording) = vulkan::record_in_submission(&self.device)?;
        // From naming the semaphore to submitting: another thread's submission would signal it otherwise.
        let _guard = hold(&self.in_use);
        {
            // SAFETY: nothing of it is destroyed.
            let raw = unsafe { self.queue.as_hal::<Vulkan>() }.ok_or("not a Vulkan queue")?;
            raw.add_signal_semaphore(recording.semaphore().into(), Some(recording.value()));
        }
        let submission = self.queue.submit([commands]);
        recording.submitted();
        Ok((event, submission))
    }

    /// Waits for a submission as wgpu does.
    ///
    /// # Errors
    /// wgpu's.
    pub fn poll_until(&self, submission: wgpu::SubmissionIndex) -> Result<()> {
        self.wgpu.poll(wgpu::PollType::Wait { submission_index: Some(submission), timeout: None })?;
        Ok(())
    }

    /// What is in a buffer that can be mapped. Waits for nothing: that the work which writes it is done is for an event to say.
    ///
    /// # Errors
    /// If a submission that uses the buffer is not done.
    pub(crate) fn read(&self, buffer: &wgpu::Buffer) -> Result<Vec<u32>> {
        let (mapped, answer) = mpsc::channel();
        {
            // wgpu submits what is still to be written to the buffer.
            let _guard = hold(&self.in_use);
            buffer.map_async(wgpu::MapMode::Read, .., move |result| drop(mapped.send(result)));
        }
        self.wgpu.poll(wgpu::PollType::Poll)?;
        let Ok(mapped) = answer.try_recv() else {
            // Asked for again, another time.
            buffer.unmap();
            return Err("the buffer is still in use".into());
        };
        mapped?;
        let numbers = {
            let bytes = buffer.get_mapped_range(..)?;
            let words = bytes
                .chunks_exact(4)
                .map(|word| word.iter().rev().fold(0, |sum, &byte| sum << 8 | u32::from(byte)));
            words.collect()
        };
        buffer.unmap();
        Ok(numbers)
    }
}

/// Whether wgpu has enabled timeline semaphores, which it does wherever they are.
fn has_timelines(device: &hal::Device) -> bool {
    let mut timelines = vk::PhysicalDeviceTimelineSemaphoreFeatures::default();
    let mut features = vk::PhysicalDeviceFeatures2::default().push_next(&mut timelines);
    let instance = device.shared_instance().raw_instance();
    // SAFETY: the GPU is the instance's, and wgpu has asked it the same way.
    unsafe { instance.get_physical_device_features2(device.raw_physical_device(), &mut features) };
    timelines.timeline_semaphore == vk::TRUE
}

/// Vulkan's function by which all others are found.
fn get_instance_proc_addr(entry: &ash::Entry) -> GetInstanceProcAddr {
    let function = entry.static_fn().get_instance_proc_addr;
    // SAFETY: the same function, whose handle, a pointer, ash gives a type of its own.
    unsafe { std::mem::transmute::<vk::PFN_vkGetInstanceProcAddr, GetInstanceProcAddr>(function) }
}

/// It guards no data, so a panic under it leaves nothing half done.
fn hold(in_use: &Mutex<()>) -> MutexGuard<'_, ()> {
    in_use.lock().unwrap_or_else(PoisonError::into_inner)
}
