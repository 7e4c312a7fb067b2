//! Memory that host and GPU share, and the two kinds of commands that move it.

use super::{instance_of, layer::Layered, refused};
use crate::Cells;
use ash::vk::{self, Handle};
use gpu_events::{
    Device, ErrorKind, Result, Stream,
    vulkan::{self, RawCommandBuffer, Work},
};
use std::{
    fmt, ptr, slice,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU32, Ordering},
    },
};

/// A VkDevice, as its user has it: with functions, kinds of memory, and pools of commands.
pub struct Gpu {
    functions: ash::Device,
    memory: vk::PhysicalDeviceMemoryProperties,
    /// One for each family of queues. Whoever makes commands, records them or gives them back has the lock.
    pools: Mutex<Vec<(u32, vk::CommandPool)>>,
    /// Keeps the VkDevice.
    _owner: Owner,
}

enum Owner {
    Backend { _device: Device },
    User { _layered: Arc<Layered> },
}

impl Gpu {
    /// That of a device.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] if it is not one of Vulkan's.
    pub fn of(device: &Device) -> Result<Arc<Self>> {
        static KNOWN: Mutex<Vec<(u64, Weak<Gpu>)>> = Mutex::new(Vec::new());
        let parts = vulkan::raw_parts(device)?;
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        let found = known.iter().find(|(raw, _)| *raw == parts.device.0);
        if let Some(gpu) = found.and_then(|(_, gpu)| gpu.upgrade()) {
            return Ok(gpu);
        }
        let instance = instance_of(&parts);
        let raw = vk::Device::from_raw(parts.device.0);
        // SAFETY: the device is of this instance, and there.
        let functions = unsafe { ash::Device::load(instance.fp_v1_0(), raw) };
        let physical = vk::PhysicalDevice::from_raw(parts.physical_device.0);
        // SAFETY: as above.
        let memory = unsafe { instance.get_physical_device_memory_properties(physical) };
        let owner = match Layered::of(device) {
            Some(layered) => Owner::User { _layered: layered },
            None => Owner::Backend { _device: device.clone() },
        };
        let gpu = Arc::new(Self { functions, memory, pools: Mutex::default(), _owner: owner });
        // A number that was another's, which is gone, is this one's now.
        known.retain(|(raw, gpu)| *raw != parts.device.0 && gpu.strong_count() > 0);
        known.push((parts.device.0, Arc::downgrade(&gpu)));
        Ok(gpu)
    }

    /// Zeroed memory that the host sees.
    ///
    /// # Errors
    /// What the driver refused.
    pub fn cells(self: &Arc<Self>, count: usize) -> Result<VulkanCells> {
        let visible = vk::MemoryPropertyFlags::HOST_VISIBLE | vk::MemoryPropertyFlags::HOST_COHERENT;
        let buffer = Buffer::new(self, count.max(1) as u64 * CELL, visible)?;
        // SAFETY: the memory is whole, visible to the host, and not mapped yet. It stays so until it is freed.
        let mapped = unsafe {
            self.functions.map_memory(buffer.memory, 0, vk::WHOLE_SIZE, vk::MemoryMapFlags::empty())
        };
        let cells = mapped.map_err(|code| refused("vkMapMemory", code))?.cast::<AtomicU32>();
        // SAFETY: so much is there, and nobody else knows of it.
        unsafe { ptr::write_bytes(cells, 0, count) };
        Ok(VulkanCells { gpu: self.clone(), buffer: Arc::new(buffer), cells, count })
    }

    /// A buffer for [`fill`](Self::fill).
    pub(super) fn field(self: &Arc<Self>) -> Result<Field> {
        Ok(Field(Arc::new(Buffer::new(self, FIELD, vk::MemoryPropertyFlags::DEVICE_LOCAL)?)))
    }

    /// Submits that many fills of a large buffer, one after the other.
    pub(super) fn fill(self: &Arc<Self>, stream: &Stream, field: &Field, fills: u32) -> Result<()> {
        let raw = field.0.raw;
        self.run(stream, field.0.clone(), |functions, commands| {
            for value in 0..fills {
                // SAFETY: the commands are being recorded, and the buffer is that long.
                unsafe { functions.cmd_fill_buffer(commands, raw, 0, FIELD, value) };
                barrier(functions, commands);
            }
        })
    }

    /// Has `stream` run commands once, which keep `buffer` until then.
    fn run(
        self: &Arc<Self>,
        stream: &Stream,
        buffer: Arc<Buffer>,
        record: impl FnOnce(&ash::Device, vk::CommandBuffer),
    ) -> Result<()> {
        let stream = stream.vulkan()?;
        let commands = Commands::record(self, stream.queue_family(), buffer, record)?;
        let work = Work::new([commands.raw()]).keep_alive(Arc::new(commands));
        // SAFETY: the commands are of this device and family, whole, submitted once, and kept until they are done.
        unsafe { stream.submit(work) }
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        for (_, pool) in self.pools.get_mut().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // SAFETY: every command buffer has kept this until it was given back.
            unsafe { self.functions.destroy_command_pool(pool, None) };
        }
    }
}

impl fmt::Debug for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gpu").field("device", &self.functions.handle()).finish_non_exhaustive()
    }
}

/// Everything after it comes after everything before it, for the GPU and the host.
fn barrier(functions: &ash::Device, commands: vk::CommandBuffer) {
    let write = vk::AccessFlags::TRANSFER_WRITE;
    let memory = [vk::MemoryBarrier::default()
        .src_access_mask(write)
        .dst_access_mask(write | vk::AccessFlags::TRANSFER_READ | vk::AccessFlags::HOST_READ)];
    let before = vk::PipelineStageFlags::TRANSFER;
    let after = before | vk::PipelineStageFlags::HOST;
    let none = vk::DependencyFlags::empty();
    // SAFETY: the commands are being recorded, outside of a render pass.
    unsafe { functions.cmd_pipeline_barrier(commands, before, after, none, &memory, &[], &[]) };
}

/// A large buffer.
pub(super) struct Field(Arc<Buffer>);

/// So large that a fill takes longer than its beginning and its end.
const FIELD: u64 = 16 << 20;

/// A buffer, and the memory behind it.
struct Buffer {
    gpu: Arc<Gpu>,
    raw: vk::Buffer,
    memory: vk::DeviceMemory,
}

impl Buffer {
    fn new(gpu: &Arc<Gpu>, size: u64, kind: vk::MemoryPropertyFlags) -> Result<Self> {
        let info = vk::BufferCreateInfo::default()
            .size(size)
            .usage(vk::BufferUsageFlags::TRANSFER_SRC | vk::BufferUsageFlags::TRANSFER_DST);
        // SAFETY: the device is there.
        let raw = unsafe { gpu.functions.create_buffer(&info, None) };
        let raw = raw.map_err(|code| refused("vkCreateBuffer", code))?;
        // From here on its drop gives back what there is: no memory is no object.
        let mut buffer = Self { gpu: gpu.clone(), raw, memory: vk::DeviceMemory::null() };
        // SAFETY: the buffer is the device's.
        let needs = unsafe { gpu.functions.get_buffer_memory_requirements(raw) };
        let is_fit = |(index, offered): (u32, &vk::MemoryType)| {
            (needs.memory_type_bits & 1 << index != 0 && offered.property_flags.contains(kind))
                .then_some(index)
        };
        let index = (0..).zip(gpu.memory.memory_types_as_slice()).find_map(is_fit);
        let info = vk::MemoryAllocateInfo::default()
            .allocation_size(needs.size)
            .memory_type_index(index.ok_or(ErrorKind::Unsupported)?);
        // SAFETY: as above.
        let memory = unsafe { gpu.functions.allocate_memory(&info, None) };
        buffer.memory = memory.map_err(|code| refused("vkAllocateMemory", code))?;
        // SAFETY: both are new, and fit each other.
        let bound = unsafe { gpu.functions.bind_buffer_memory(raw, buffer.memory, 0) };
        bound.map_err(|code| refused("vkBindBufferMemory", code))?;
        Ok(buffer)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: whatever uses it keeps it.
        unsafe { self.gpu.functions.destroy_buffer(self.raw, None) };
        // SAFETY: as above.
        unsafe { self.gpu.functions.free_memory(self.memory, None) };
    }
}

/// Commands for one submission, given back when this is dropped.
pub struct Commands {
    gpu: Arc<Gpu>,
    pool: vk::CommandPool,
    raw: vk::CommandBuffer,
    _uses: Arc<Buffer>,
}

impl Commands {
    fn record(
        gpu: &Arc<Gpu>,
        family: u32,
        uses: Arc<Buffer>,
        record: impl FnOnce(&ash::Device, vk::CommandBuffer),
    ) -> Result<Self> {
        let functions = &gpu.functions;
        let mut pools = gpu.pools.lock().unwrap_or_else(PoisonError::into_inner);
        let pool = match pools.iter().find(|(known, _)| *known == family) {
            Some((_, pool)) => *pool,
            None => {
                let info = vk::CommandPoolCreateInfo::default()
                    .flags(vk::CommandPoolCreateFlags::TRANSIENT)
                    .queue_family_index(family);
                // SAFETY: the device is there, and has queues of the family.
                let pool = unsafe { functions.create_command_pool(&info, None) };
                let pool = pool.map_err(|code| refused("vkCreateCommandPool", code))?;
                pools.push((family, pool));
                pool
            }
        };
        let info = vk::CommandBufferAllocateInfo::default().command_pool(pool).command_buffer_count(1);
        // SAFETY: this thread has the lock.
        let made = unsafe { functions.allocate_command_buffers(&info) };
        let raw = made.map_err(|code| refused("vkAllocateCommandBuffers", code))?[0];
        let info = vk::CommandBufferBeginInfo::default().flags(vk::CommandBufferUsageFlags::ONE_TIME_SUBMIT);
        // SAFETY: it is new, and this thread has the lock.
        let begun = unsafe { functions.begin_command_buffer(raw, &info) };
        begun.map_err(|code| refused("vkBeginCommandBuffer", code))?;
        record(functions, raw);
        // SAFETY: it was begun, and this thread has the lock.
        let ended = unsafe { functions.end_command_buffer(raw) };
        ended.map_err(|code| refused("vkEndCommandBuffer", code))?;
        Ok(Self { gpu: gpu.clone(), pool, raw, _uses: uses })
    }

    /// The command buffer.
    pub fn raw(&self) -> RawCommandBuffer {
        RawCommandBuffer(self.raw.as_raw())
    }
}

impl Drop for Commands {
    fn drop(&mut self) {
        let _pools = self.gpu.pools.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: whoever submitted it has kept it until it was done; this thread has the lock.
        unsafe { self.gpu.functions.free_command_buffers(self.pool, &[self.raw]) };
    }
}

impl fmt::Debug for Commands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Commands").field(&self.raw).finish()
    }
}

const CELL: u64 = size_of::<u32>() as u64;

/// Memory that host and GPU share.
pub struct VulkanCells {
    gpu: Arc<Gpu>,
    buffer: Arc<Buffer>,
    cells: *const AtomicU32,
    count: usize,
}

// SAFETY: the memory lives as long as the buffer, and is reached through atomics and by the GPU alone.
unsafe impl Send for VulkanCells {}
// SAFETY: as for `Send`.
unsafe impl Sync for VulkanCells {}

impl VulkanCells {
    fn write_to(&self, cell: usize, value: u32) -> impl FnOnce(&ash::Device, vk::CommandBuffer) + use<> {
        assert!(cell < self.count, "there is no such cell");
        let (buffer, at) = (self.buffer.raw, cell as u64 * CELL);
        // SAFETY: the commands are being recorded, and the cell is in the buffer.
        move |functions, commands| unsafe { functions.cmd_fill_buffer(commands, buffer, at, CELL, value) }
    }

    fn copy_to(&self, from: usize, to: usize) -> impl FnOnce(&ash::Device, vk::CommandBuffer) + use<> {
        assert!(from.max(to) < self.count, "there is no such cell");
        let buffer = self.buffer.raw;
        let region =
            [vk::BufferCopy { src_offset: from as u64 * CELL, dst_offset: to as u64 * CELL, size: CELL }];
        // SAFETY: the commands are being recorded, and the cells are in the buffer, each by itself.
        move |functions, commands| unsafe { functions.cmd_copy_buffer(commands, buffer, buffer, &region) }
    }

    /// Commands that write to a cell, for a submission of the user's own: with what orders them among others.
    ///
    /// # Errors
    /// What the driver refused.
    pub fn commands_to_write(&self, family: u32, cell: usize, value: u32) -> Result<Commands> {
        self.ordered(family, self.write_to(cell, value))
    }

    /// As [`commands_to_write`](Self::commands_to_write), for a copy.
    ///
    /// # Errors
    /// What the driver refused.
    pub fn commands_to_copy(&self, family: u32, from: usize, to: usize) -> Result<Commands> {
        self.ordered(family, self.copy_to(from, to))
    }

    fn ordered(&self, family: u32, record: impl FnOnce(&ash::Device, vk::CommandBuffer)) -> Result<Commands> {
        Commands::record(&self.gpu, family, self.buffer.clone(), |functions, commands| {
            barrier(functions, commands);
            record(functions, commands);
            barrier(functions, commands);
        })
    }
}

impl Cells for VulkanCells {
    // Without barriers: those between one piece of a stream's work and the next are the backend's (R8).
    fn write(&self, stream: &Stream, cell: usize, value: u32) -> Result<()> {
        self.gpu.run(stream, self.buffer.clone(), self.write_to(cell, value))
    }

    fn copy(&self, stream: &Stream, from: usize, to: usize) -> Result<()> {
        self.gpu.run(stream, self.buffer.clone(), self.copy_to(from, to))
    }

    fn read(&self, cell: usize) -> u32 {
        // SAFETY: so many are there for as long as the buffer is, aligned, and the host only ever reads them, like this.
        let cells = unsafe { slice::from_raw_parts(self.cells, self.count) };
        // Relaxed: that a value is seen must come from the event that ordered it (R8), not from the cell.
        cells[cell].load(Ordering::Relaxed)
    }
}

impl fmt::Debug for VulkanCells {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VulkanCells").field("count", &self.count).finish_non_exhaustive()
    }
}
