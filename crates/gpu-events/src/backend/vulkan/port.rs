//! Where work is given to the GPU: the queues, and what streams on queues of one family share.

use super::{
    clock::VulkanStamp,
    driver::{RawQueue, error},
    gpu::{Driver, Gpu},
    queue::DriverGate,
};
use crate::{contain::contain, error::Result, primitive::lock};
use ash::vk;
use std::{
    fmt,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

/// Calls what it is given, once, while nobody else uses the queue. It is held for the length of one `vkQueueSubmit`.
pub type QueueLock = Arc<dyn Fn(&mut dyn FnMut()) + Send + Sync>;

/// A `VkQueue`. Vulkan wants it used by one thread at a time, whoever that is; any number of streams may share it.
pub(super) struct Port {
    pub(super) raw: vk::Queue,
    pub(super) family: Arc<Family>,
    access: Access,
    /// How many submissions there were.
    submissions: AtomicU64,
    /// Timestamps of this queue compare with those of the device's others.
    pub(super) timed: bool,
    /// Gates that were given to the driver. Whatever comes behind one in the queue waits for the host.
    gates: Mutex<Vec<Weak<DriverGate>>>,
}

enum Access {
    Ours(Mutex<()>),
    Theirs(QueueLock),
}

impl Port {
    pub(super) fn new(raw: vk::Queue, family: Arc<Family>, theirs: Option<QueueLock>, timed: bool) -> Self {
        let access = theirs.map_or_else(|| Access::Ours(Mutex::new(())), Access::Theirs);
        let timed = timed && family.valid_bits > 0;
        Self { raw, family, access, submissions: AtomicU64::new(0), timed, gates: Mutex::default() }
    }

    pub(super) fn gate(&self, gate: &Arc<DriverGate>) {
        lock(&self.gates).push(Arc::downgrade(gate));
    }

    /// Whether what is submitted now comes behind a gate that is closed.
    pub(super) fn waits_for_host(&self) -> bool {
        let mut gates = lock(&self.gates);
        gates.retain(|gate| gate.upgrade().is_some_and(|gate| !gate.is_open()));
        !gates.is_empty()
    }

    /// Submits, with the queue to ourselves. Returns the submission's number.
    pub(super) fn submit(
        &self,
        device: &ash::Device,
        batches: &[vk::SubmitInfo<'_>],
    ) -> Result<u64, vk::Result> {
        self.submit_if(device, batches, |_| true).map(|number| number.unwrap_or_default())
    }

    /// As [`submit`](Self::submit), if the last submission agrees.
    pub(super) fn submit_if(
        &self,
        device: &ash::Device,
        batches: &[vk::SubmitInfo<'_>],
        agrees: impl Fn(u64) -> bool,
    ) -> Result<Option<u64>, vk::Result> {
        self.alone(|| {
            // Relaxed, as below: changed with the queue to ourselves.
            let before = self.submissions.load(Ordering::Relaxed);
            if !agrees(before) {
                return Ok(None);
            }
            // SAFETY: the handles in `batches` are the device's, and kept by the caller until this is done; the queue is not
            // used by anybody else meanwhile.
            unsafe { device.queue_submit(self.raw, batches, vk::Fence::null()) }?;
            self.submissions.store(before + 1, Ordering::Relaxed);
            Ok(Some(before + 1))
        })
    }

    /// Has the fence signaled once the queue has come past all that was submitted to it.
    pub(super) fn submit_fence(&self, device: &ash::Device, fence: vk::Fence) -> Result<(), vk::Result> {
        // SAFETY: the fence is the device's, and used for nothing else; the queue is not used by anybody else meanwhile.
        self.alone(|| unsafe { device.queue_submit(self.raw, &[], fence) })
    }

    /// Calls this with the queue to ourselves.
    fn alone<R>(&self, call: impl Fn() -> Result<R, vk::Result>) -> Result<R, vk::Result> {
        match &self.access {
            Access::Ours(access) => {
                let _access = lock(access);
                call()
            }
            Access::Theirs(access) => {
                let mut outcome = None;
                // A panic in the user's lock must not take the pump with it, nor what is about to be submitted.
                contain(|| {
                    access(&mut || {
                        // Once, whatever the lock does.
                        outcome.get_or_insert_with(&call);
                    });
                });
                outcome.unwrap_or(Err(vk::Result::ERROR_UNKNOWN))
            }
        }
    }
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Port").field(&RawQueue::of(self.raw)).finish()
    }
}

/// What queues of one family share: command buffers that were recorded once and are submitted over and over.
pub(super) struct Family {
    pub(super) index: u32,
    pub(super) valid_bits: u32,
    /// Orders what comes after behind what came before, and makes what that wrote visible: to the GPU, and to the host.
    pub(super) barrier: vk::CommandBuffer,
    /// Also what makes the pool of commands used by one thread at a time.
    queries: Mutex<Queries>,
    pool: vk::CommandPool,
}

#[derive(Default)]
struct Queries {
    spare: Vec<Query>,
    pools: Vec<vk::QueryPool>,
}

/// A timestamp query, and commands that reset it and write it.
#[derive(Clone, Copy)]
pub(super) struct Query {
    pub(super) pool: vk::QueryPool,
    pub(super) index: u32,
    pub(super) commands: vk::CommandBuffer,
}

/// How many are made at once.
const QUERIES: u32 = 64;

impl Family {
    pub(super) fn new(driver: &Driver, index: u32, properties: &vk::QueueFamilyProperties) -> Result<Self> {
        let device = &driver.device;
        let info = vk::CommandPoolCreateInfo::default().queue_family_index(index);
        // SAFETY: the device is there, and has the family.
        let pool = unsafe { device.create_command_pool(&info, None) }
            .map_err(|code| error("vkCreateCommandPool", code))?;
        // Queries are reset on the queue, which one for copies alone can't.
        let resets = properties.queue_flags.intersects(vk::QueueFlags::GRAPHICS | vk::QueueFlags::COMPUTE);
        let valid_bits = if resets { properties.timestamp_valid_bits.min(64) } else { 0 };
        let mut family =
            Self { index, valid_bits, barrier: vk::CommandBuffer::null(), queries: Mutex::default(), pool };
        match family.record(device, 1, |_, commands| barrier(device, commands)) {
            Ok(made) => {
                family.barrier = made.first().copied().unwrap_or_default();
                Ok(family)
            }
            Err(code) => {
                family.destroy(device);
                Err(error("vkEndCommandBuffer", code))
            }
        }
    }

    /// Makes command buffers, and has `what` fill each. With nobody else at the pool.
    fn record(
        &self,
        device: &ash::Device,
        count: u32,
        what: impl Fn(u32, vk::CommandBuffer),
    ) -> Result<Vec<vk::CommandBuffer>, vk::Result> {
        let info = vk::CommandBufferAllocateInfo::default()
            .command_pool(self.pool)
            .level(vk::CommandBufferLevel::PRIMARY)
            .command_buffer_count(count);
        // SAFETY: the pool is this family's, and used by this thread alone.
        let made = unsafe { device.allocate_command_buffers(&info) }?;
        // The barrier is in many submissions at a time.
        let info = vk::CommandBufferBeginInfo::default().flags(vk::CommandBufferUsageFlags::SIMULTANEOUS_USE);
        for (index, commands) in (0..).zip(&made) {
            // SAFETY: nobody else knows of the commands.
            unsafe { device.begin_command_buffer(*commands, &info) }?;
            what(index, *commands);
            // SAFETY: begun above.
            unsafe { device.end_command_buffer(*commands) }?;
        }
        Ok(made)
    }

    /// A stamp that nothing has written.
    pub(super) fn stamp(self: &Arc<Self>, gpu: &Arc<Gpu>) -> Result<Arc<VulkanStamp>> {
        let query = {
            let mut queries = lock(&self.queries);
            match queries.spare.pop() {
                Some(query) => query,
                None => self.more(gpu.functions(), &mut queries)?,
            }
        };
        Ok(Arc::new(VulkanStamp::new(gpu, self, query)))
    }

    #[cold]
    fn more(&self, device: &ash::Device, queries: &mut Queries) -> Result<Query> {
        let info =
            vk::QueryPoolCreateInfo::default().query_type(vk::QueryType::TIMESTAMP).query_count(QUERIES);
        // SAFETY: the device is there.
        let pool = unsafe { device.create_query_pool(&info, None) }
            .map_err(|code| error("vkCreateQueryPool", code))?;
        queries.pools.push(pool);
        let made = self.record(device, QUERIES, |index, commands| {
            // SAFETY: the commands are being recorded; the query is in the pool.
            unsafe { device.cmd_reset_query_pool(commands, pool, index, 1) };
            // Once all that came before is done.
            let stage = vk::PipelineStageFlags::BOTTOM_OF_PIPE;
            // SAFETY: as above.
            unsafe { device.cmd_write_timestamp(commands, stage, pool, index) };
            // What comes after does not begin before the time was taken.
            barrier(device, commands);
        });
        let made = made.map_err(|code| error("vkEndCommandBuffer", code))?;
        queries.spare.extend((0..QUERIES).zip(made).map(|(index, commands)| Query { pool, index, commands }));
        queries.spare.pop().ok_or_else(|| error("vkCreateQueryPool", vk::Result::ERROR_UNKNOWN))
    }

    pub(super) fn give_back(&self, query: Query) {
        if !crate::fork::happened() {
            lock(&self.queries).spare.push(query);
        }
    }

    /// Nothing that was recorded is used any more.
    pub(super) fn destroy(&self, device: &ash::Device) {
        for pool in std::mem::take(&mut *lock(&self.queries)).pools {
            // SAFETY: no command that names it is on its way, says the caller.
            unsafe { device.destroy_query_pool(pool, None) };
        }
        // SAFETY: as above. The commands go with it.
        unsafe { device.destroy_command_pool(self.pool, None) };
    }
}

impl fmt::Debug for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Family").field(&self.index).finish()
    }
}

/// Everything after it comes after everything before it, and sees what that wrote; so does the host (R8).
fn barrier(device: &ash::Device, commands: vk::CommandBuffer) {
    let memory =
        [vk::MemoryBarrier::default().src_access_mask(vk::AccessFlags::MEMORY_WRITE).dst_access_mask(
            vk::AccessFlags::MEMORY_READ | vk::AccessFlags::MEMORY_WRITE | vk::AccessFlags::HOST_READ,
        )];
    let before = vk::PipelineStageFlags::ALL_COMMANDS;
    let after = vk::PipelineStageFlags::ALL_COMMANDS | vk::PipelineStageFlags::HOST;
    // SAFETY: the commands are being recorded, outside of a render pass.
    unsafe {
        device.cmd_pipeline_barrier(commands, before, after, vk::DependencyFlags::empty(), &memory, &[], &[]);
    }
}
