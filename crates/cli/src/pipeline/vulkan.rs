//! The GPU's part, through Vulkan: copies from and to memory that the CPU sees, and a compute shader. Each piece of work is
//! a command buffer, which holds on to what it uses. Nothing here orders anything.

use std::any::Any;
use std::mem;
use std::ptr::NonNull;
use std::slice;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, ensure};
use ash::vk::{self, Handle};
use gpu_events::vulkan::{self, GetInstanceProcAddr, RawCommandBuffer, Work};
use gpu_events::{Device, Error, ErrorKind, Stream};

use super::gpu::{Gpu, Shared};
use crate::fsverity::{BLOCK, Hash};
use crate::units;

/// What work holds on to until it is done.
type KeepAlive = Arc<dyn Any + Send + Sync>;

/// Made of kernels/sha256.comp, which says how.
const SPIRV: &[u8] = include_bytes!("../../kernels/sha256.spv");

/// The constant of the kernel's that is the size of its groups.
const IN_GROUP: u32 = 0;

/// The sets that the kernel takes: the first has the data, the second the hashes, and each is one buffer.
const SETS: usize = 2;

/// What is recorded for each stage of a chunk: its begin and its end.
const RECORDINGS_PER_STAGE: usize = 2;

pub(super) struct VulkanGpu {
    context: Arc<Context>,
    /// How many recordings a stream takes before the host has to wait for room, which does not notice Ctrl-C.
    depth: usize,
}

impl VulkanGpu {
    pub(super) fn new(device: &Device) -> anyhow::Result<Self> {
        let depth = device.info().capabilities.queue_depth.map_or(usize::MAX, |depth| depth as usize);
        let gpu = Self { context: Context::new(device)?, depth };
        gpu.warm_up(device).context("Vulkan does not run the kernel")?;
        Ok(gpu)
    }

    /// Runs the kernel once, over nothing: some drivers compile it only then, which would count as hashing.
    fn warm_up(&self, device: &Device) -> anyhow::Result<()> {
        let (data, hashes) = (self.own(BLOCK)?, self.own(size_of::<Hash>())?);
        let stream = device.create_stream()?;
        self.hash(&stream, &data, &hashes, 0)?;
        Ok(stream.record()?.synchronize()?)
    }

    /// Submits what `record` records, which uses these two.
    fn submit(
        &self,
        stream: &Stream,
        buffers: [KeepAlive; 2],
        record: impl FnOnce(&ash::Device, vk::CommandBuffer),
    ) -> gpu_events::Result<()> {
        let stream = stream.vulkan()?;
        let device = &self.context.device;
        let commands = self.context.commands(stream.queue_family())?;
        let raw = commands.raw;
        // From here on whoever is last to use the command buffer gives it back.
        let used = Used { commands: Some(commands), _buffers: buffers, context: Arc::clone(&self.context) };
        let once = vk::CommandBufferBeginInfo::default().flags(vk::CommandBufferUsageFlags::ONE_TIME_SUBMIT);
        // SAFETY: it is new, or was reset, and no other thread has it or its pool.
        unsafe { device.begin_command_buffer(raw, &once) }.map_err(refused("vkBeginCommandBuffer"))?;
        record(device, raw);
        // SAFETY: as for its begin.
        unsafe { device.end_command_buffer(raw) }.map_err(refused("vkEndCommandBuffer"))?;
        let work = Work::new([RawCommandBuffer(raw.as_raw())]).keep_alive(Arc::new(used));
        // SAFETY: it is of this device and the stream's family, and recorded; it and all that it uses stay until it is
        // done, and nobody else has it until then. Events keep whoever else uses the buffers away.
        unsafe { stream.submit(work) }
    }

    fn copy(
        &self,
        stream: &Stream,
        (from, from_buffer): (KeepAlive, vk::Buffer),
        (to, to_buffer): (KeepAlive, vk::Buffer),
        len: usize,
    ) -> gpu_events::Result<()> {
        self.submit(stream, [from, to], |device, commands| {
            // With no barrier: the stream's own, behind all work, has what the GPU writes seen, and what the CPU has
            // written is seen by all that is given to the driver later, which is when the wait for the CPU is over.
            let region = vk::BufferCopy::default().size(len as u64);
            // SAFETY: these are two, which have as many bytes, and stay until the work is done.
            unsafe { device.cmd_copy_buffer(commands, from_buffer, to_buffer, &[region]) };
        })
    }
}

impl Gpu for VulkanGpu {
    type Shared = Staging;
    type Own = Memory;

    fn shared(&self, bytes: usize) -> anyhow::Result<Staging> {
        Mapped::new(&self.context, bytes).map(|mapped| Staging(Arc::new(mapped)))
    }

    fn own(&self, bytes: usize) -> anyhow::Result<Memory> {
        Bound::new(&self.context, bytes).map(|bound| Memory(Arc::new(bound)))
    }

    fn upload(&self, stream: &Stream, from: &Staging, to: &Memory, len: usize) -> gpu_events::Result<()> {
        self.copy(stream, from.used(), to.used(), len)
    }

    fn hash(&self, stream: &Stream, data: &Memory, hashes: &Memory, len: usize) -> gpu_events::Result<()> {
        let context = &*self.context;
        let sets: [_; SETS] = [data.0.set, hashes.0.set];
        // All buffers together are less than 4 GiB.
        let len = len as u32;
        // The last group may go beyond the blocks, which the kernel sees to. 1 GiB of blocks in groups of 32 are far
        // fewer groups than any device takes.
        let groups = len.div_ceil(BLOCK as u32).div_ceil(context.in_group).max(1);
        self.submit(stream, [data.0.clone(), hashes.0.clone()], |device, commands| {
            let (compute, layout) = (vk::PipelineBindPoint::COMPUTE, context.layout);
            // SAFETY: it is being recorded, and the context, which has the pipeline, stays until the work is done.
            unsafe { device.cmd_bind_pipeline(commands, compute, context.pipeline) };
            // SAFETY: the sets are of the layout's, and stay as long.
            unsafe { device.cmd_bind_descriptor_sets(commands, compute, layout, 0, &sets, &[]) };
            let stages = vk::ShaderStageFlags::COMPUTE;
            // SAFETY: the layout has a constant of so many bytes for this stage.
            unsafe { device.cmd_push_constants(commands, layout, stages, 0, &len.to_ne_bytes()) };
            // SAFETY: what the pipeline uses is bound. The kernel reads `len` bytes, rounded up to whole blocks, of the
            // first buffer, and writes 32 for each block to the second; they have as many.
            unsafe { device.cmd_dispatch(commands, groups, 1, 1) };
        })
    }

    fn download(&self, stream: &Stream, from: &Memory, to: &Staging, len: usize) -> gpu_events::Result<()> {
        self.copy(stream, from.used(), to.used(), len)
    }

    fn ahead(&self, stages_on_stream: usize) -> usize {
        self.depth / (RECORDINGS_PER_STAGE * stages_on_stream)
    }

    fn work_retains_memory(&self) -> bool {
        true
    }
}

/// The kernel on a device, and what else belongs to the whole of it. It stays as long as anything that was made with it.
struct Context {
    device: ash::Device,
    memory: vk::PhysicalDeviceMemoryProperties,
    /// The most bytes of a buffer that the kernel sees.
    buffer_limit: u64,
    in_group: u32,
    set_layout: vk::DescriptorSetLayout,
    layout: vk::PipelineLayout,
    pipeline: vk::Pipeline,
    /// What no work uses any more.
    idle: Mutex<Vec<Commands>>,
    /// Whose device it is: without it there would be none.
    _owner: Device,
}

impl Context {
    fn new(owner: &Device) -> anyhow::Result<Arc<Self>> {
        let parts = vulkan::raw_parts(owner)?;
        // SAFETY: the same function; ash has a type of its own for the handle that it takes.
        let get_instance_proc_addr = unsafe {
            mem::transmute::<GetInstanceProcAddr, vk::PFN_vkGetInstanceProcAddr>(parts.get_instance_proc_addr)
        };
        let entry = ash::StaticFn { get_instance_proc_addr };
        let raw = vk::Instance::from_raw(parts.instance.0);
        // SAFETY: the instance is one, and stays for as long as the device's owner.
        let instance = unsafe { ash::Instance::load(&entry, raw) };
        let raw = vk::Device::from_raw(parts.device.0);
        // SAFETY: likewise the device, which is of this instance.
        let device = unsafe { ash::Device::load(instance.fp_v1_0(), raw) };
        let physical = vk::PhysicalDevice::from_raw(parts.physical_device.0);
        // SAFETY: it is of this instance.
        let memory = unsafe { instance.get_physical_device_memory_properties(physical) };
        let mut subgroups = vk::PhysicalDeviceSubgroupProperties::default();
        let mut properties = vk::PhysicalDeviceProperties2::default().push_next(&mut subgroups);
        // SAFETY: it is of this instance; the call writes to the two structures alone.
        unsafe { instance.get_physical_device_properties2(physical, &mut properties) };
        let buffer_limit = u64::from(properties.properties.limits.max_storage_buffer_range);
        let mut context = Self {
            device,
            memory,
            buffer_limit,
            // As small as groups get without leaving lanes idle, so that the blocks spread over the whole GPU. Any
            // device takes as many as 128.
            in_group: subgroups.subgroup_size.clamp(32, 128),
            set_layout: vk::DescriptorSetLayout::null(),
            layout: vk::PipelineLayout::null(),
            pipeline: vk::Pipeline::null(),
            idle: Mutex::default(),
            _owner: owner.clone(),
        };
        context.make_pipeline().context("Vulkan does not take the kernel")?;
        Ok(Arc::new(context))
    }

    fn make_pipeline(&mut self) -> gpu_events::Result<()> {
        let device = &self.device;
        let buffer = vk::DescriptorSetLayoutBinding::default()
            .binding(0)
            .descriptor_type(vk::DescriptorType::STORAGE_BUFFER)
            .descriptor_count(1)
            .stage_flags(vk::ShaderStageFlags::COMPUTE);
        let info = vk::DescriptorSetLayoutCreateInfo::default().bindings(slice::from_ref(&buffer));
        // SAFETY: the description is whole.
        let set_layout = unsafe { device.create_descriptor_set_layout(&info, None) };
        self.set_layout = set_layout.map_err(refused("vkCreateDescriptorSetLayout"))?;

        let sets = [self.set_layout; SETS];
        let len = vk::PushConstantRange::default()
            .stage_flags(vk::ShaderStageFlags::COMPUTE)
            .size(size_of::<u32>() as u32);
        let info = vk::PipelineLayoutCreateInfo::default()
            .set_layouts(&sets)
            .push_constant_ranges(slice::from_ref(&len));
        // SAFETY: as above.
        let layout = unsafe { device.create_pipeline_layout(&info, None) };
        self.layout = layout.map_err(refused("vkCreatePipelineLayout"))?;

        let (words, _) = SPIRV.as_chunks();
        let words: Vec<u32> = words.iter().copied().map(u32::from_le_bytes).collect();
        let info = vk::ShaderModuleCreateInfo::default().code(&words);
        // SAFETY: it is valid SPIR-V, of a version that the device takes.
        let module = unsafe { device.create_shader_module(&info, None) };
        let module = module.map_err(refused("vkCreateShaderModule"))?;

        let in_group = self.in_group.to_ne_bytes();
        let entry = vk::SpecializationMapEntry::default().constant_id(IN_GROUP).size(in_group.len());
        let constants =
            vk::SpecializationInfo::default().map_entries(slice::from_ref(&entry)).data(&in_group);
        let stage = vk::PipelineShaderStageCreateInfo::default()
            .stage(vk::ShaderStageFlags::COMPUTE)
            .module(module)
            .name(c"main")
            .specialization_info(&constants);
        let info = vk::ComputePipelineCreateInfo::default().stage(stage).layout(self.layout);
        // SAFETY: the description is whole, and the layout has what the kernel uses.
        let made = unsafe { device.create_compute_pipelines(vk::PipelineCache::null(), &[info], None) };
        // SAFETY: pipelines need the module only to be made.
        unsafe { device.destroy_shader_module(module, None) };
        let pipelines = made.map_err(|(_, code)| refused("vkCreateComputePipelines")(code))?;
        self.pipeline = pipelines[0];
        Ok(())
    }

    /// A command buffer to record, of a family's.
    fn commands(&self, family: u32) -> gpu_events::Result<Commands> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(found) = idle.iter().position(|commands| commands.family == family) else {
            drop(idle);
            return Commands::new(&self.device, family);
        };
        let commands = idle.swap_remove(found);
        drop(idle);
        // SAFETY: no work uses it any more, and nobody else has it.
        let reset =
            unsafe { self.device.reset_command_pool(commands.pool, vk::CommandPoolResetFlags::empty()) };
        match reset {
            Ok(()) => Ok(commands),
            Err(code) => {
                commands.destroy(&self.device);
                Err(refused("vkResetCommandPool")(code))
            }
        }
    }

    /// The first type of memory that has `wanted` and not `unwanted`, of those in the mask. Better ones come first.
    fn memory_type(
        &self,
        mask: u32,
        wanted: vk::MemoryPropertyFlags,
        unwanted: vk::MemoryPropertyFlags,
    ) -> Option<u32> {
        let fits = |flags: vk::MemoryPropertyFlags| flags.contains(wanted) && !flags.intersects(unwanted);
        let types = self.memory.memory_types_as_slice();
        let mut numbered = (0..).zip(types);
        numbered.find(|&(n, kind)| mask & (1 << n) != 0 && fits(kind.property_flags)).map(|(n, _)| n)
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        let idle = self.idle.get_mut().unwrap_or_else(PoisonError::into_inner);
        for commands in mem::take(idle) {
            commands.destroy(&self.device);
        }
        // SAFETY: whatever work used it held on to this context. What was never made is null, and no call.
        unsafe { self.device.destroy_pipeline(self.pipeline, None) };
        // SAFETY: as above.
        unsafe { self.device.destroy_pipeline_layout(self.layout, None) };
        // SAFETY: as above.
        unsafe { self.device.destroy_descriptor_set_layout(self.set_layout, None) };
    }
}

fn refused(call: &str) -> impl Fn(vk::Result) -> Error {
    move |code| {
        let kind = match code {
            vk::Result::ERROR_OUT_OF_HOST_MEMORY
            | vk::Result::ERROR_OUT_OF_DEVICE_MEMORY
            | vk::Result::ERROR_OUT_OF_POOL_MEMORY
            | vk::Result::ERROR_FRAGMENTED_POOL
            | vk::Result::ERROR_TOO_MANY_OBJECTS => ErrorKind::Resources,
            vk::Result::ERROR_DEVICE_LOST => ErrorKind::DeviceLost,
            _ => ErrorKind::Driver,
        };
        Error::with_text(kind, format!("{call}: {code:?}"))
    }
}

/// A command buffer and its pool, which is its alone: so it is recorded and reset with no lock.
struct Commands {
    family: u32,
    pool: vk::CommandPool,
    raw: vk::CommandBuffer,
}

impl Commands {
    fn new(device: &ash::Device, family: u32) -> gpu_events::Result<Self> {
        let info = vk::CommandPoolCreateInfo::default()
            .flags(vk::CommandPoolCreateFlags::TRANSIENT)
            .queue_family_index(family);
        // SAFETY: the family is one of the device's.
        let pool = unsafe { device.create_command_pool(&info, None) };
        let pool = pool.map_err(refused("vkCreateCommandPool"))?;
        let info = vk::CommandBufferAllocateInfo::default().command_pool(pool).command_buffer_count(1);
        // SAFETY: the pool is one, and no other thread has it.
        match unsafe { device.allocate_command_buffers(&info) } {
            Ok(raw) => Ok(Self { family, pool, raw: raw[0] }),
            Err(code) => {
                // SAFETY: nothing is in it.
                unsafe { device.destroy_command_pool(pool, None) };
                Err(refused("vkAllocateCommandBuffers")(code))
            }
        }
    }

    /// Of this device; no work uses it any more.
    fn destroy(self, device: &ash::Device) {
        // SAFETY: the command buffer, which goes with it, was the only one, and is nobody's now.
        unsafe { device.destroy_command_pool(self.pool, None) };
    }
}

/// A command buffer that has been submitted, or is about to be, and what it uses. Let go of once it is done.
struct Used {
    /// None once it was given back.
    commands: Option<Commands>,
    _buffers: [KeepAlive; 2],
    context: Arc<Context>,
}

impl Drop for Used {
    fn drop(&mut self) {
        let mut idle = self.context.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.extend(self.commands.take());
    }
}

/// A buffer that has all of a piece of memory.
struct Buffer {
    context: Arc<Context>,
    raw: vk::Buffer,
    memory: vk::DeviceMemory,
}

impl Buffer {
    /// In memory of the first of these kinds that there is: with some properties, and without others.
    fn new(
        context: &Arc<Context>,
        bytes: usize,
        usage: vk::BufferUsageFlags,
        kinds: &[[vk::MemoryPropertyFlags; 2]],
    ) -> anyhow::Result<Self> {
        let (raw, memory) = (vk::Buffer::null(), vk::DeviceMemory::null());
        let mut buffer = Self { context: Arc::clone(context), raw, memory };
        let device = &context.device;
        // All streams that a device makes are of one family, so that is what owns it.
        let info = vk::BufferCreateInfo::default()
            .size(bytes as u64)
            .usage(usage)
            .sharing_mode(vk::SharingMode::EXCLUSIVE);
        // SAFETY: the description is whole.
        buffer.raw = unsafe { device.create_buffer(&info, None) }.map_err(refused("vkCreateBuffer"))?;
        // SAFETY: it was made just now.
        let needs = unsafe { device.get_buffer_memory_requirements(buffer.raw) };
        let mut types =
            kinds.iter().map(|&[with, without]| context.memory_type(needs.memory_type_bits, with, without));
        let kind = types.find_map(|kind| kind).context("Vulkan has no memory for such buffers")?;
        let info = vk::MemoryAllocateInfo::default().allocation_size(needs.size).memory_type_index(kind);
        // SAFETY: the description is whole, and the device has the type.
        buffer.memory =
            unsafe { device.allocate_memory(&info, None) }.map_err(refused("vkAllocateMemory"))?;
        // SAFETY: both are new, and the memory is of the size and of a type that the buffer needs.
        unsafe { device.bind_buffer_memory(buffer.raw, buffer.memory, 0) }
            .map_err(refused("vkBindBufferMemory"))?;
        Ok(buffer)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let device = &self.context.device;
        // SAFETY: work that uses it holds on to it. What was never made is null, and no call.
        unsafe { device.destroy_buffer(self.raw, None) };
        // SAFETY: as above. It is mapped no more, either.
        unsafe { device.free_memory(self.memory, None) };
    }
}

const COPIED: vk::BufferUsageFlags = vk::BufferUsageFlags::from_raw(
    vk::BufferUsageFlags::TRANSFER_SRC.as_raw() | vk::BufferUsageFlags::TRANSFER_DST.as_raw(),
);

/// Memory of the host's that the GPU copies from and to.
pub(super) struct Staging(Arc<Mapped>);

struct Mapped {
    buffer: Buffer,
    memory: NonNull<u8>,
}

// SAFETY: the mapping belongs to no thread. What is in it is looked at through `bytes` alone.
unsafe impl Send for Mapped {}
// SAFETY: as above.
unsafe impl Sync for Mapped {}

impl Mapped {
    fn new(context: &Arc<Context>, bytes: usize) -> anyhow::Result<Self> {
        // Cached, since the CPU reads there as well; every device has the second kind.
        let coherent = vk::MemoryPropertyFlags::HOST_VISIBLE | vk::MemoryPropertyFlags::HOST_COHERENT;
        let none = vk::MemoryPropertyFlags::empty();
        let kinds = [[coherent | vk::MemoryPropertyFlags::HOST_CACHED, none], [coherent, none]];
        let buffer = Buffer::new(context, bytes, COPIED, &kinds)?;
        let flags = vk::MemoryMapFlags::empty();
        // SAFETY: it is visible to the host, new, and mapped once.
        let memory = unsafe { context.device.map_memory(buffer.memory, 0, vk::WHOLE_SIZE, flags) };
        let memory = NonNull::new(memory.map_err(refused("vkMapMemory"))?.cast::<u8>());
        let memory = memory.context("Vulkan mapped no memory")?;
        // SAFETY: that much is there, and nobody knows of it yet.
        unsafe { memory.write_bytes(0, bytes) };
        Ok(Self { buffer, memory })
    }
}

impl Staging {
    fn used(&self) -> (KeepAlive, vk::Buffer) {
        (self.0.clone(), self.0.buffer.raw)
    }
}

impl Shared for Staging {
    unsafe fn bytes(&self, len: usize) -> &mut [u8] {
        // SAFETY: the caller's promise. Zeros were written there when it was mapped.
        unsafe { slice::from_raw_parts_mut(self.0.memory.as_ptr(), len) }
    }
}

/// Memory of the GPU's, in a set of its own for the kernel.
pub(super) struct Memory(Arc<Bound>);

struct Bound {
    /// The set's, which goes with it.
    pool: vk::DescriptorPool,
    set: vk::DescriptorSet,
    buffer: Buffer,
}

impl Bound {
    fn new(context: &Arc<Context>, bytes: usize) -> anyhow::Result<Self> {
        let limit = context.buffer_limit;
        ensure!(bytes as u64 <= limit, "a buffer has at most {} on this GPU", units::bytes(limit));
        // What the CPU sees as well may be slower, or scarce. Every device has the second kind.
        let own = vk::MemoryPropertyFlags::DEVICE_LOCAL;
        let kinds = [[own, vk::MemoryPropertyFlags::HOST_VISIBLE], [own, vk::MemoryPropertyFlags::empty()]];
        let usage = COPIED | vk::BufferUsageFlags::STORAGE_BUFFER;
        let buffer = Buffer::new(context, bytes, usage, &kinds)?;
        let mut bound = Self { pool: vk::DescriptorPool::null(), set: vk::DescriptorSet::null(), buffer };
        let device = &context.device;

        let kind = vk::DescriptorType::STORAGE_BUFFER;
        let size = vk::DescriptorPoolSize::default().ty(kind).descriptor_count(1);
        let info = vk::DescriptorPoolCreateInfo::default().max_sets(1).pool_sizes(slice::from_ref(&size));
        // SAFETY: the description is whole.
        let pool = unsafe { device.create_descriptor_pool(&info, None) };
        bound.pool = pool.map_err(refused("vkCreateDescriptorPool"))?;

        let info = vk::DescriptorSetAllocateInfo::default()
            .descriptor_pool(bound.pool)
            .set_layouts(slice::from_ref(&context.set_layout));
        // SAFETY: the pool is new, and has room for one.
        let sets = unsafe { device.allocate_descriptor_sets(&info) };
        bound.set = sets.map_err(refused("vkAllocateDescriptorSets"))?[0];

        let whole = vk::DescriptorBufferInfo::default().buffer(bound.buffer.raw).range(vk::WHOLE_SIZE);
        let write = vk::WriteDescriptorSet::default()
            .dst_set(bound.set)
            .dst_binding(0)
            .descriptor_type(kind)
            .buffer_info(slice::from_ref(&whole));
        // SAFETY: no work knows of the set yet, and the buffer is one that a kernel may use.
        unsafe { device.update_descriptor_sets(&[write], &[]) };
        Ok(bound)
    }
}

impl Memory {
    fn used(&self) -> (KeepAlive, vk::Buffer) {
        (self.0.clone(), self.0.buffer.raw)
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        // SAFETY: work that uses the set holds on to this. What was never made is null, and no call.
        unsafe { self.buffer.context.device.destroy_descriptor_pool(self.pool, None) };
    }
}
