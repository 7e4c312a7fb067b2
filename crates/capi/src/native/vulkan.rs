//! Vulkan.

use crate::{
    handles::{DEVICES, DeviceHandle, EVENTS, EventHandle, STREAMS, StreamHandle, event_id},
    held,
    pointers::{Kept, Out, ReleaseFn, UserData, array, text},
    status::{Failure, Result, Status, done},
    stream::{StreamOptions, read_options},
};
use gpu_events::vulkan;
use std::{
    ffi::{CString, c_char, c_void},
    sync::Arc,
};

/// Takes or gives back the lock of a queue of the caller's.
pub type QueueLockFn = Option<unsafe extern "C" fn(user_data: *mut c_void)>;

/// A `VkQueue` of the caller's.
///
/// Vulkan wants a queue used by one thread at a time: this library calls `lock` before it uses the queue and `unlock` after,
/// on one thread, from any. Whoever else holds that lock must call nothing of this library's but `gpuev_event_get_status` of
/// other devices' events: nearly everything else may submit to the queue, a host's signal and a release too.
///
/// The queue, both functions and what they are called with stay good until the *device* is given back (its `release`), also
/// where the queue was adopted for one stream: it is used once more then. A queue that the device knows already keeps the
/// functions that it came with first.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct VulkanQueue {
    /// The `VkQueue`.
    pub queue: *mut c_void,
    /// Its queue family.
    pub family: u32,
    /// Takes its lock. Null, with a null `unlock`, if nobody else uses the queue.
    pub lock: QueueLockFn,
    /// Gives its lock back.
    pub unlock: QueueLockFn,
    /// What both are called with.
    pub user_data: *mut c_void,
}

/// A `VkDevice` of the caller's, and what belongs to it.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct VulkanDevice {
    /// `vkGetInstanceProcAddr`, by which all other functions are found.
    pub get_instance_proc_addr: Option<
        unsafe extern "system" fn(
            instance: *mut c_void,
            name: *const c_char,
        ) -> Option<unsafe extern "system" fn()>,
    >,
    /// The `VkInstance`.
    pub instance: *mut c_void,
    /// The `VkPhysicalDevice`.
    pub physical_device: *mut c_void,
    /// The `VkDevice`: of Vulkan 1.2 or later, with `timelineSemaphore` enabled.
    pub device: *mut c_void,
    /// The names of the extensions that it was made with.
    pub extensions: *const *const c_char,
    /// How many there are.
    pub extension_count: usize,
    /// Queues that streams may be made on.
    pub queues: *const VulkanQueue,
    /// How many there are.
    pub queue_count: usize,
}

/// Calls `unlock` in any case.
struct Unlock(Option<unsafe extern "C" fn(*mut c_void)>, UserData);

impl Drop for Unlock {
    fn drop(&mut self) {
        if let Some(unlock) = self.0 {
            // SAFETY: the caller's function, with what it was given for, on the thread that took the lock.
            unsafe { unlock(self.1.get()) };
        }
    }
}

impl VulkanQueue {
    fn adopt(&self) -> Result<vulkan::ExistingQueue> {
        if self.queue.is_null() {
            return Err(Failure::null("queue.queue"));
        }
        if self.lock.is_some() != self.unlock.is_some() {
            let text = "invalid argument: of `lock` and `unlock` one is null and the other is not";
            return Err(Failure::new(Status::ErrorInvalidArgument, text));
        }
        let (take, give, data) = (self.lock, self.unlock, UserData::new(self.user_data));
        let lock: vulkan::QueueLock = Arc::new(move |use_queue: &mut dyn FnMut()| {
            if let Some(take) = take {
                // SAFETY: the caller's function, with what it was given for.
                unsafe { take(data.get()) };
            }
            let _unlock = Unlock(give, data);
            use_queue();
        });
        Ok(vulkan::ExistingQueue::new(vulkan::RawQueue(number(self.queue)), self.family, lock))
    }
}

/// A dispatchable handle as a number.
fn number(handle: *mut c_void) -> u64 {
    handle.expose_provenance() as u64
}

fn pointer(number: u64) -> *mut c_void {
    std::ptr::with_exposed_provenance_mut(number as usize)
}

/// Opens a `VkDevice` that the caller has already. `release`, which may be null, is called once with `user_data` when everything
/// that was made from it is gone, on any thread; at once if this call fails.
///
/// Errors: `UNSUPPORTED` if it is of an earlier version, or has no timeline semaphores; `INVALID_ARGUMENT`.
///
/// # Safety
/// `existing` is good for reading, and its arrays and names are. The handles belong together and stay good until `release` is
/// called; `timelineSemaphore` and the extensions are enabled; the queues are of the device and used under their locks alone.
/// `device` is good for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpuev_vulkan_open(
    existing: *const VulkanDevice,
    release: ReleaseFn,
    user_data: *mut c_void,
    device: *mut DeviceHandle,
) -> Status {
    let kept = Kept::alive(release, user_data);
    done(|| {
        // SAFETY: as promised.
        let out = unsafe { Out::new(device, "device") }?;
        // SAFETY: as promised.
        let from = unsafe { existing.as_ref() }.ok_or_else(|| Failure::null("existing"))?;
        let get =
            from.get_instance_proc_addr.ok_or_else(|| Failure::null("existing.get_instance_proc_addr"))?;
        for (handle, name) in [
            (from.instance, "existing.instance"),
            (from.physical_device, "existing.physical_device"),
            (from.device, "existing.device"),
        ] {
            if handle.is_null() {
                return Err(Failure::null(name));
            }
        }
        let mut device = vulkan::ExistingDevice::new(
            get,
            vulkan::RawInstance(number(from.instance)),
            vulkan::RawPhysicalDevice(number(from.physical_device)),
            vulkan::RawDevice(number(from.device)),
            kept,
        );
        // SAFETY: as promised.
        let names = unsafe { array(from.extensions, from.extension_count, "existing.extensions") }?;
        let mut extensions = Vec::with_capacity(names.len());
        for &name in names {
            // SAFETY: as promised.
            let name = unsafe { text(name, "existing.extensions[]") }?;
            extensions.push(CString::new(name).unwrap_or_default());
        }
        device = device.extensions(extensions.iter().map(|name| &**name));
        // SAFETY: as promised.
        for queue in unsafe { array(from.queues, from.queue_count, "existing.queues") }? {
            device = device.queue(queue.adopt()?);
        }
        // SAFETY: as promised.
        out.put(DEVICES.enter(unsafe { vulkan::open(device) }?));
        Ok(())
    })
}

/// Makes a stream on a queue that the caller submits to as well. Nothing is gathered on it; a wait holds back everything that is
/// submitted to the queue after it. `release` is as for `gpuev_vulkan_open`, for the stream.
///
/// Errors: `UNSUPPORTED` if it is no Vulkan device; `INVALID_ARGUMENT` if there is no such family. A queue that the device was
/// opened with keeps the family and the lock that it was given then.
///
/// # Safety
/// `queue` is good for reading: a queue of the device's `VkDevice`, used under its lock alone, which stays good as
/// `gpuev_vulkan_queue` says.
/// `options` is null, or good for reading, and so is its label; `stream` is good for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpuev_vulkan_adopt_queue(
    device: DeviceHandle,
    queue: *const VulkanQueue,
    release: ReleaseFn,
    user_data: *mut c_void,
    options: *const StreamOptions,
    stream: *mut StreamHandle,
) -> Status {
    let kept = Kept::alive(release, user_data);
    done(|| {
        // SAFETY: as promised.
        let stream = unsafe { Out::new(stream, "stream") }?;
        // SAFETY: as promised.
        let queue = unsafe { queue.as_ref() }.ok_or_else(|| Failure::null("queue"))?.adopt()?;
        // SAFETY: as promised.
        let options = unsafe { read_options(options) }?;
        let device = DEVICES.get(device)?;
        // SAFETY: as promised.
        stream.put(STREAMS.enter(unsafe { vulkan::adopt_queue(&device, queue, kept, &options) }?));
        Ok(())
    })
}

/// Puts command buffers on a Vulkan stream, behind all that was submitted before. They go to the driver at once if the GPU has
/// little to do, and otherwise together with what comes next. `wait_stages` (`VkPipelineStageFlags`) are those that are held
/// back by what the stream waits for; 0: all. `release`, which may be null, is called once with `user_data` when the work is
/// done, on a thread of this library's; at once if this call fails.
///
/// Errors: the stream's failure; `UNSUPPORTED` if it is no Vulkan stream; `WOULD_BLOCK`.
///
/// # Safety
/// `buffers` is good for reading `count` command buffers of the stream's device and queue family, which may be submitted, and
/// stay as they are until the work is done, as does what they use.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpuev_vulkan_submit(
    stream: StreamHandle,
    buffers: *const *mut c_void,
    count: usize,
    wait_stages: u32,
    release: ReleaseFn,
    user_data: *mut c_void,
) -> Status {
    let kept = Kept::alive(release, user_data);
    done(|| {
        // SAFETY: as promised.
        let buffers = unsafe { array(buffers, count, "buffers") }?;
        let commands = buffers.iter().map(|&buffer| vulkan::RawCommandBuffer(number(buffer)));
        let mut work = vulkan::Work::new(commands).keep_alive(kept);
        if wait_stages != 0 {
            work = work.wait_stages(wait_stages);
        }
        let mut work = Some(work);
        let mut submit = |stream: vulkan::VulkanStream<'_>| match work.take() {
            // SAFETY: as promised.
            Some(work) => Ok(unsafe { stream.submit(work) }?),
            None => Ok(()),
        };
        match held::with(|| STREAMS.get(stream), |guard| submit(guard.vulkan()?)) {
            Some(submitted) => submitted,
            None => submit(STREAMS.get(stream)?.vulkan()?),
        }
    })
}

/// The handles that a Vulkan device is made of, good for as long as it: each pointer may be null if it is not wanted.
///
/// Errors: `UNSUPPORTED` if it is no Vulkan device.
///
/// # Safety
/// Each pointer is null, or good for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpuev_vulkan_get_handles(
    device: DeviceHandle,
    instance: *mut *mut c_void,
    physical_device: *mut *mut c_void,
    raw_device: *mut *mut c_void,
) -> Status {
    done(|| {
        let parts = vulkan::raw_parts(&DEVICES.get(device)?)?;
        for (to, raw) in [
            (instance, parts.instance.0),
            (physical_device, parts.physical_device.0),
            (raw_device, parts.device.0),
        ] {
            // SAFETY: as promised.
            unsafe { crate::pointers::put_if_wanted(to, pointer(raw)) };
        }
        Ok(())
    })
}

/// The `VkQueue` that a Vulkan stream's work goes to, and its family, for which command buffers are to be recorded. Other streams
/// may share the queue; what you submit to it yourself needs the lock that you gave with it.
///
/// Errors: `UNSUPPORTED` if it is no Vulkan stream.
///
/// # Safety
/// Each pointer is null, or good for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpuev_vulkan_get_queue(
    stream: StreamHandle,
    queue: *mut *mut c_void,
    family: *mut u32,
) -> Status {
    done(|| {
        let stream = STREAMS.get(stream)?;
        let view = stream.vulkan()?;
        // SAFETY: as promised.
        unsafe { crate::pointers::put_if_wanted(queue, pointer(view.raw_queue().0)) };
        // SAFETY: as promised.
        unsafe { crate::pointers::put_if_wanted(family, view.queue_family()) };
        Ok(())
    })
}

/// The timeline `VkSemaphore` behind the event's recording, and the value that it will have once that is complete: for the
/// semaphores that a submission of yours waits for. 0 if there is nothing to wait for any more. A number carries no failure:
/// ask the event.
///
/// Errors: `UNRECORDED`; the event's failure; `NOT_SUBMITTED`; `UNSUPPORTED` if it is pending and not of a Vulkan device.
///
/// # Safety
/// `semaphore` and `value` are good for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpuev_vulkan_get_semaphore(
    event: EventHandle,
    semaphore: *mut u64,
    value: *mut u64,
) -> Status {
    done(|| {
        // SAFETY: as promised.
        let semaphore = unsafe { Out::new(semaphore, "semaphore") }?;
        // SAFETY: as promised.
        let value = unsafe { Out::new(value, "value") }?;
        let found = vulkan::semaphore_of(&*EVENTS.get(event_id(event))?)?;
        let (raw, at) = found.map_or((0, 0), |(raw, at)| (raw.0, at));
        semaphore.put(raw);
        value.put(at);
        Ok(())
    })
}
