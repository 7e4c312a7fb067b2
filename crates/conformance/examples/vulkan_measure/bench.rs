//! A `VkDevice` that raw calls and our streams share: the same queue, the same work, the same lock.

use crate::measuring::{failed, lock, nanos, step};
use ash::vk::{self, Handle};
use gpu_events::{
    Device, Event, Result, Stream,
    vulkan::{
        self, ExistingDevice, ExistingQueue, GetInstanceProcAddr, QueueLock, RawCommandBuffer, RawDevice,
        RawQueue, Work,
    },
};
use std::{
    cell::Cell,
    ffi::CStr,
    hint,
    mem::transmute,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

/// Streams are spread over so many, if there are.
const MOST_QUEUES: u32 = 4;
/// More than any fill takes.
const MEMORY: u64 = 256 << 20;
/// A fill is found that takes as long.
const LEAST_PIECE: Duration = Duration::from_micros(20);

/// The device, raw and as ours.
pub(crate) struct Bench {
    // Before their devices, which they must not outlive.
    stock: Stock,
    /// The same for `system`.
    system_stock: Stock,
    /// On a `VkDevice` that the raw calls go to as well.
    pub(crate) device: Device,
    /// As everybody opens it, with a `VkDevice` of its own.
    pub(crate) system: Device,
    queues: Vec<(vk::Queue, Arc<Mutex<()>>)>,
    /// Bytes that take about [`LEAST_PIECE`] to fill.
    size: u64,
    unit: Duration,
}

fn check<T>(call: &str, outcome: Result<T, vk::Result>) -> Result<T> {
    outcome.map_err(|code| failed(format_args!("{call}: {code:?}")))
}

impl Bench {
    pub(crate) fn new() -> Result<Self> {
        step("opening the device", Self::open)
    }

    fn open() -> Result<Self> {
        let system = Device::open("vulkan")?;
        let parts = vulkan::raw_parts(&system)?;
        // SAFETY: the same function, whose handle ash gives a type of its own.
        let get_instance_proc_addr = unsafe {
            transmute::<GetInstanceProcAddr, vk::PFN_vkGetInstanceProcAddr>(parts.get_instance_proc_addr)
        };
        let loader = ash::StaticFn { get_instance_proc_addr };
        // SAFETY: the instance is the crate's, and stays.
        let instance = unsafe { ash::Instance::load(&loader, vk::Instance::from_raw(parts.instance.0)) };
        let physical = vk::PhysicalDevice::from_raw(parts.physical_device.0);
        describe(&instance, physical);

        let family = system.create_stream()?.vulkan()?.queue_family();
        // SAFETY: the physical device is of the instance.
        let families = unsafe { instance.get_physical_device_queue_family_properties(physical) };
        let properties =
            families.get(family as usize).ok_or_else(|| failed("the stream's family is not there"))?;
        let count = properties.queue_count.min(MOST_QUEUES);
        let priorities = vec![1.0; count as usize];
        let infos =
            [vk::DeviceQueueCreateInfo::default().queue_family_index(family).queue_priorities(&priorities)];
        let calibrated = ash::ext::calibrated_timestamps::NAME;
        // SAFETY: as above.
        let offered = unsafe { instance.enumerate_device_extension_properties(physical) };
        let offered = check("vkEnumerateDeviceExtensionProperties", offered)?;
        let enabled: Vec<&CStr> = if offered.iter().any(|it| it.extension_name_as_c_str() == Ok(calibrated)) {
            vec![calibrated]
        } else {
            vec![]
        };
        let names: Vec<_> = enabled.iter().map(|name| name.as_ptr()).collect();
        let mut timelines = vk::PhysicalDeviceTimelineSemaphoreFeatures::default().timeline_semaphore(true);
        let info = vk::DeviceCreateInfo::default()
            .queue_create_infos(&infos)
            .enabled_extension_names(&names)
            .push_next(&mut timelines);
        // SAFETY: what is asked for is there; timeline semaphores the crate asks for as well.
        let vk = check("vkCreateDevice", unsafe { instance.create_device(physical, &info, None) })?;
        let queues: Vec<_> = (0..count)
            // SAFETY: so many were asked for.
            .map(|index| unsafe { vk.get_device_queue(family, index) })
            .map(|queue| (queue, Arc::new(Mutex::new(()))))
            .collect();

        let existing = ExistingDevice::new(
            parts.get_instance_proc_addr,
            parts.instance,
            parts.physical_device,
            RawDevice(vk.handle().as_raw()),
            Arc::new(()),
        );
        let existing = queues.iter().fold(existing.extensions(enabled), |existing, (queue, access)| {
            let access = access.clone();
            let access: QueueLock = Arc::new(move |call: &mut dyn FnMut()| {
                let _access = lock(&access);
                call();
            });
            existing.queue(ExistingQueue::new(RawQueue(queue.as_raw()), family, access))
        });
        // SAFETY: the handles belong together and are never destroyed; the queues are used under their locks.
        let device = unsafe { vulkan::open(existing) }?;

        let stock = Stock::new(&instance, physical, vk, family)?;
        // SAFETY: the crate's device, which is there for as long as `system`.
        let vk = unsafe { ash::Device::load(instance.fp_v1_0(), vk::Device::from_raw(parts.device.0)) };
        let system_stock = Stock::new(&instance, physical, vk, family)?;
        let unit = Duration::ZERO;
        let mut bench = Self { device, system, stock, system_stock, queues, size: 16 << 10, unit };
        bench.calibrate()?;
        println!(
            "\nWork is fills of {} KiB, {:?} each; {} queue{}, which raw calls and our streams share under the same lock.",
            bench.size >> 10,
            bench.unit,
            count,
            if count == 1 { "" } else { "s" }
        );
        Ok(bench)
    }

    /// Finds how much is to be filled.
    fn calibrate(&mut self) -> Result<()> {
        const FILLS: u32 = 100;
        loop {
            let many = self.fills(FILLS)?;
            let raw = self.raw(None)?;
            // The least: a machine with other things to do makes it longer, and nothing makes it shorter.
            let mut least = Duration::MAX;
            for _ in 0..20 {
                let begun = Instant::now();
                raw.sleep(raw.submit(&[many])?)?;
                least = least.min(begun.elapsed() / FILLS);
            }
            drop(raw);
            self.unit = least;
            if self.unit >= LEAST_PIECE || self.size == MEMORY {
                return Ok(());
            }
            self.size *= 2;
        }
    }

    /// Commands that fill so often, one after the other, and may be on their way any number of times.
    pub(crate) fn fills(&self, count: u32) -> Result<vk::CommandBuffer> {
        self.stock.commands(count, self.size, false)
    }

    /// A fill of some 20 to 40 µs; longer where that takes less than the whole buffer.
    pub(crate) fn piece(&self) -> Result<vk::CommandBuffer> {
        self.lasting(LEAST_PIECE)
    }

    /// The same, with the barrier that goes behind our work.
    pub(crate) fn piece_with_barrier(&self) -> Result<vk::CommandBuffer> {
        self.stock.commands(self.units(LEAST_PIECE), self.size, true)
    }

    /// Commands that take next to no time.
    pub(crate) fn tiny(&self) -> Result<vk::CommandBuffer> {
        self.stock.commands(1, 4, false)
    }

    /// The same, for streams of `system`.
    pub(crate) fn lasting_on_system(&self, time: Duration) -> Result<vk::CommandBuffer> {
        self.system_stock.commands(self.units(time), self.size, false)
    }

    fn units(&self, time: Duration) -> u32 {
        (time.as_secs_f64() / self.unit.as_secs_f64()).round().max(1.0) as u32
    }

    /// Commands that take about as long.
    pub(crate) fn lasting(&self, time: Duration) -> Result<vk::CommandBuffer> {
        self.fills(self.units(time))
    }

    /// How long a piece takes.
    pub(crate) fn piece_time(&self) -> Duration {
        self.unit * self.units(LEAST_PIECE)
    }

    /// Raw submissions to the queue of this stream, or the first.
    pub(crate) fn raw(&self, beside: Option<&Stream>) -> Result<Raw<'_>> {
        let wanted =
            beside.map(|stream| Ok::<_, gpu_events::Error>(stream.vulkan()?.raw_queue())).transpose()?;
        let found = match wanted {
            Some(raw) => self.queues.iter().find(|(queue, _)| queue.as_raw() == raw.0),
            None => self.queues.first(),
        };
        let (queue, access) = found.ok_or_else(|| failed("there is no such queue"))?;
        let mut kind = vk::SemaphoreTypeCreateInfo::default().semaphore_type(vk::SemaphoreType::TIMELINE);
        let info = vk::SemaphoreCreateInfo::default().push_next(&mut kind);
        // SAFETY: the device has timeline semaphores enabled.
        let semaphore = check("vkCreateSemaphore", unsafe { self.stock.vk.create_semaphore(&info, None) })?;
        Ok(Raw { vk: &self.stock.vk, queue: *queue, access: access.clone(), semaphore, value: Cell::new(0) })
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // The rest goes with the process; the layer that looks for mistakes is told that nothing is on its way.
        let _held: Vec<_> = self.queues.iter().map(|(_, access)| lock(access)).collect();
        // SAFETY: nobody uses a queue: all locks are held.
        let _ = unsafe { self.stock.vk.device_wait_idle() };
    }
}

/// What command buffers are made from.
struct Stock {
    vk: ash::Device,
    pool: vk::CommandPool,
    buffer: vk::Buffer,
    memory: vk::DeviceMemory,
}

impl Drop for Stock {
    fn drop(&mut self) {
        // SAFETY: whoever submitted its commands has waited for them.
        unsafe { self.vk.destroy_command_pool(self.pool, None) };
        // SAFETY: as above.
        unsafe { self.vk.destroy_buffer(self.buffer, None) };
        // SAFETY: as above.
        unsafe { self.vk.free_memory(self.memory, None) };
    }
}

impl Stock {
    fn new(
        instance: &ash::Instance,
        physical: vk::PhysicalDevice,
        vk: ash::Device,
        family: u32,
    ) -> Result<Self> {
        let info = vk::CommandPoolCreateInfo::default().queue_family_index(family);
        // SAFETY: the device has the family.
        let pool = check("vkCreateCommandPool", unsafe { vk.create_command_pool(&info, None) })?;
        let (buffer, memory) = memory(instance, physical, &vk)?;
        Ok(Self { vk, pool, buffer, memory })
    }

    fn commands(&self, count: u32, size: u64, barrier_behind: bool) -> Result<vk::CommandBuffer> {
        let info = vk::CommandBufferAllocateInfo::default().command_pool(self.pool).command_buffer_count(1);
        // SAFETY: the pool is used by this thread alone.
        let made = unsafe { self.vk.allocate_command_buffers(&info) };
        let commands = check("vkAllocateCommandBuffers", made)?[0];
        let info = vk::CommandBufferBeginInfo::default().flags(vk::CommandBufferUsageFlags::SIMULTANEOUS_USE);
        // SAFETY: nobody else knows of the commands.
        check("vkBeginCommandBuffer", unsafe { self.vk.begin_command_buffer(commands, &info) })?;
        for index in 0..count {
            // SAFETY: they are being recorded; the buffer is as large.
            unsafe { self.vk.cmd_fill_buffer(commands, self.buffer, 0, size, index) };
            if index + 1 < count {
                let stage = vk::PipelineStageFlags::TRANSFER;
                let writes = vk::AccessFlags::TRANSFER_WRITE;
                self.barrier(commands, stage, writes, stage, writes);
            }
        }
        if barrier_behind {
            let reads = vk::AccessFlags::MEMORY_READ | vk::AccessFlags::MEMORY_WRITE;
            self.barrier(
                commands,
                vk::PipelineStageFlags::ALL_COMMANDS,
                vk::AccessFlags::MEMORY_WRITE,
                vk::PipelineStageFlags::ALL_COMMANDS | vk::PipelineStageFlags::HOST,
                reads | vk::AccessFlags::HOST_READ,
            );
        }
        // SAFETY: begun above.
        check("vkEndCommandBuffer", unsafe { self.vk.end_command_buffer(commands) })?;
        Ok(commands)
    }

    fn barrier(
        &self,
        commands: vk::CommandBuffer,
        before: vk::PipelineStageFlags,
        writes: vk::AccessFlags,
        after: vk::PipelineStageFlags,
        reads: vk::AccessFlags,
    ) {
        let memory = [vk::MemoryBarrier::default().src_access_mask(writes).dst_access_mask(reads)];
        let none = vk::DependencyFlags::empty();
        // SAFETY: the commands are being recorded, outside of a render pass.
        unsafe { self.vk.cmd_pipeline_barrier(commands, before, after, none, &memory, &[], &[]) };
    }
}

fn memory(
    instance: &ash::Instance,
    physical: vk::PhysicalDevice,
    vk: &ash::Device,
) -> Result<(vk::Buffer, vk::DeviceMemory)> {
    let info = vk::BufferCreateInfo::default().size(MEMORY).usage(vk::BufferUsageFlags::TRANSFER_DST);
    // SAFETY: the device is there.
    let buffer = check("vkCreateBuffer", unsafe { vk.create_buffer(&info, None) })?;
    // SAFETY: the buffer is there.
    let needs = unsafe { vk.get_buffer_memory_requirements(buffer) };
    // SAFETY: the physical device is of the instance.
    let kinds = unsafe { instance.get_physical_device_memory_properties(physical) };
    let local = vk::MemoryPropertyFlags::DEVICE_LOCAL;
    let kind = (0..kinds.memory_type_count).find(|index| {
        needs.memory_type_bits & (1 << index) != 0
            && kinds.memory_types[*index as usize].property_flags.contains(local)
    });
    let kind = kind.ok_or_else(|| failed("there is no memory on the device"))?;
    let info = vk::MemoryAllocateInfo::default().allocation_size(needs.size).memory_type_index(kind);
    // SAFETY: the type is there, says the physical device.
    let memory = check("vkAllocateMemory", unsafe { vk.allocate_memory(&info, None) })?;
    // SAFETY: neither is bound to anything, and it is as large as is needed.
    check("vkBindBufferMemory", unsafe { vk.bind_buffer_memory(buffer, memory, 0) })?;
    Ok((buffer, memory))
}

/// Says what this was measured on.
fn describe(instance: &ash::Instance, physical: vk::PhysicalDevice) {
    let mut driver = vk::PhysicalDeviceDriverProperties::default();
    let mut all = vk::PhysicalDeviceProperties2::default().push_next(&mut driver);
    // SAFETY: the physical device is of the instance, and of Vulkan 1.2 at least.
    unsafe { instance.get_physical_device_properties2(physical, &mut all) };
    let it = all.properties;
    let text = |name: Result<&CStr, _>| {
        name.map_or_else(
            |_: std::ffi::FromBytesUntilNulError| "?".into(),
            |name| name.to_string_lossy().into_owned(),
        )
    };
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!(
        "{}, {} {}, Vulkan {}.{}.{}; {} cores, load {}",
        text(it.device_name_as_c_str()),
        text(driver.driver_name_as_c_str()),
        text(driver.driver_info_as_c_str()),
        vk::api_version_major(it.api_version),
        vk::api_version_minor(it.api_version),
        vk::api_version_patch(it.api_version),
        std::thread::available_parallelism().map_or(0, usize::from),
        load.split(' ').take(3).collect::<Vec<_>>().join(" "),
    );
}

/// Submissions that somebody makes who does without this crate: a queue and a timeline semaphore.
pub(crate) struct Raw<'a> {
    vk: &'a ash::Device,
    queue: vk::Queue,
    access: Arc<Mutex<()>>,
    semaphore: vk::Semaphore,
    value: Cell<u64>,
}

impl Raw<'_> {
    /// One `vkQueueSubmit`, with one signal behind these.
    #[inline]
    pub(crate) fn submit(&self, commands: &[vk::CommandBuffer]) -> Result<u64> {
        self.submit_behind(None, commands)
    }

    /// The same, once that one has come to that value.
    #[inline]
    pub(crate) fn submit_behind(
        &self,
        wait: Option<(&Raw<'_>, u64)>,
        commands: &[vk::CommandBuffer],
    ) -> Result<u64> {
        let value = self.value.get() + 1;
        let (values, semaphores) = ([value], [self.semaphore]);
        let (waits, wait_values) = wait.map(|(raw, value)| (raw.semaphore, value)).unzip();
        let stages = [vk::PipelineStageFlags::ALL_COMMANDS];
        let mut timeline = vk::TimelineSemaphoreSubmitInfo::default()
            .wait_semaphore_values(wait_values.as_slice())
            .signal_semaphore_values(&values);
        let info = vk::SubmitInfo::default()
            .wait_semaphores(waits.as_slice())
            .wait_dst_stage_mask(&stages[..waits.as_slice().len()])
            .command_buffers(commands)
            .signal_semaphores(&semaphores)
            .push_next(&mut timeline);
        self.put(&[info])?;
        self.value.set(value);
        Ok(value)
    }

    /// One `vkQueueSubmit` for all, with a signal behind each.
    pub(crate) fn submit_each(&self, commands: &[vk::CommandBuffer]) -> Result<u64> {
        let first = self.value.get() + 1;
        let values: Vec<_> = (first..first + commands.len() as u64).collect();
        let semaphores = [self.semaphore];
        let mut timelines: Vec<_> = values
            .iter()
            .map(|value| {
                vk::TimelineSemaphoreSubmitInfo::default()
                    .signal_semaphore_values(std::slice::from_ref(value))
            })
            .collect();
        let infos: Vec<_> = commands
            .iter()
            .zip(&mut timelines)
            .map(|(commands, timeline)| {
                vk::SubmitInfo::default()
                    .command_buffers(std::slice::from_ref(commands))
                    .signal_semaphores(&semaphores)
                    .push_next(timeline)
            })
            .collect();
        self.put(&infos)?;
        self.value.set(first + commands.len() as u64 - 1);
        Ok(self.value.get())
    }

    #[inline]
    fn put(&self, infos: &[vk::SubmitInfo<'_>]) -> Result<()> {
        let _access = lock(&self.access);
        // SAFETY: the queue's lock is held; the commands may be submitted any number of times, and are never freed.
        let outcome = unsafe { self.vk.queue_submit(self.queue, infos, vk::Fence::null()) };
        check("vkQueueSubmit", outcome)
    }

    /// `vkGetSemaphoreCounterValue`.
    #[inline]
    pub(crate) fn counter(&self) -> Result<u64> {
        // SAFETY: the semaphore is there.
        let value = unsafe { self.vk.get_semaphore_counter_value(self.semaphore) };
        check("vkGetSemaphoreCounterValue", value)
    }

    /// `vkWaitSemaphores`.
    pub(crate) fn sleep(&self, value: u64) -> Result<()> {
        let (semaphores, values) = ([self.semaphore], [value]);
        let info = vk::SemaphoreWaitInfo::default().semaphores(&semaphores).values(&values);
        // SAFETY: the semaphore is there.
        check("vkWaitSemaphores", unsafe { self.vk.wait_semaphores(&info, 10_000_000_000) })
    }

    /// The counter in a loop.
    pub(crate) fn spin(&self, value: u64) -> Result<()> {
        while self.counter()? < value {
            hint::spin_loop();
        }
        Ok(())
    }

    /// Until all is done.
    pub(crate) fn drain(&self) -> Result<()> {
        self.sleep(self.value.get())
    }
}

impl Drop for Raw<'_> {
    fn drop(&mut self) {
        if self.drain().is_ok() {
            // SAFETY: all that signals it is done, and nobody waits for it any more.
            unsafe { self.vk.destroy_semaphore(self.semaphore, None) };
        }
    }
}

/// This, as work of ours.
pub(crate) fn work(commands: vk::CommandBuffer) -> Work {
    Work::new([RawCommandBuffer(commands.as_raw())])
}

/// Puts it on a stream of ours.
#[inline]
pub(crate) fn submit(stream: &Stream, work: Work) -> Result<()> {
    // SAFETY: the bench's commands are for its family, may be on their way any number of times and are never freed.
    unsafe { stream.vulkan()?.submit(work) }
}

/// Puts it there together with a recording.
#[inline]
pub(crate) fn submit_and_record(stream: &Stream, work: Work, event: &Event) -> Result<()> {
    let mut guard = stream.lock()?;
    // SAFETY: as in `submit`.
    unsafe { guard.vulkan()?.submit(work) }?;
    guard.record(event)
}

/// Nanoseconds of one of so many calls.
#[inline]
pub(crate) fn each(calls: usize, mut call: impl FnMut() -> Result<()>) -> Result<f64> {
    let begun = Instant::now();
    for _ in 0..calls {
        call()?;
    }
    Ok(nanos(begun) / calls as f64)
}
