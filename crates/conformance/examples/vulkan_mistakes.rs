//! Mistakes in the use of Vulkan, made on purpose: `cargo xtask vulkan` runs them first, and trusts the validation layer only
//! if it reports each of them, and nothing where there is none.
//!
//! The argument is the name of the one to make. It is made on the first device.

use std::{error::Error, thread};

use ash::{prelude::VkResult, vk};

/// A name, and how it is made.
type Mistake = (&'static str, fn(&Setup) -> VkResult<()>);

const MISTAKES: &[Mistake] = &[
    ("none", |setup| submit(setup, &[record(setup, &[Step::Fill(SIZE), Step::Barrier, Step::Fill(SIZE)])?])),
    // More than there is. Nobody runs it, so that no driver has to cope with it.
    ("rule", |setup| record(setup, &[Step::Fill(2 * SIZE)]).map(drop)),
    ("hazard", |setup| submit(setup, &[record(setup, &[Step::Fill(SIZE), Step::Fill(SIZE)])?])),
    ("submissions", |setup| {
        submit(setup, &[record(setup, &[Step::Fill(SIZE)])?, record(setup, &[Step::Fill(SIZE)])?])
    }),
    ("threads", share_a_fence),
];

/// Of the buffer, in bytes.
const SIZE: u64 = 256;

fn main() -> Result<(), Box<dyn Error>> {
    // SAFETY: the loader's initializers do nothing that anything here depends on.
    let library = unsafe { libloading::Library::new("libvulkan.so.1") }?;
    // SAFETY: Vulkan's loader exports this function under this name, and `library` outlives every call.
    let get_instance_proc_addr = unsafe { library.get(c"vkGetInstanceProcAddr") }?;
    let functions = ash::StaticFn { get_instance_proc_addr: *get_instance_proc_addr };
    // SAFETY: the function is the loader's.
    let entry = unsafe { ash::Entry::from_static_fn(functions) };
    let application = vk::ApplicationInfo::default().api_version(vk::API_VERSION_1_2);
    let info = vk::InstanceCreateInfo::default().application_info(&application);
    // SAFETY: what `info` points to lives until the end of this function.
    let instance = unsafe { entry.create_instance(&info, None) }?;

    let setup = Setup::new(&instance)?;
    let name = std::env::args().nth(1).ok_or("which mistake?")?;
    let (_, make) = MISTAKES.iter().find(|(known, _)| *known == name).ok_or("no mistake has this name")?;
    make(&setup)?;
    // SAFETY: no other thread uses the queue.
    unsafe { setup.device.device_wait_idle() }?;
    setup.destroy();
    // SAFETY: everything that was made of it is gone.
    unsafe { instance.destroy_instance(None) };
    Ok(())
}

/// What a mistake is made with.
struct Setup {
    device: ash::Device,
    queue: vk::Queue,
    pool: vk::CommandPool,
    buffer: vk::Buffer,
    memory: vk::DeviceMemory,
}

impl Setup {
    fn new(instance: &ash::Instance) -> Result<Setup, Box<dyn Error>> {
        // SAFETY: the instance is alive, here and below.
        let physical = unsafe { instance.enumerate_physical_devices() }?;
        let physical = *physical.first().ok_or("no device")?;
        // SAFETY: `physical` is this instance's, here and below.
        let properties = unsafe { instance.get_physical_device_properties(physical) };
        println!("{}", properties.device_name_as_c_str().unwrap_or(c"?").to_string_lossy());

        let queues = [vk::DeviceQueueCreateInfo::default().queue_priorities(&[1.0])];
        let info = vk::DeviceCreateInfo::default().queue_create_infos(&queues);
        // SAFETY: what `info` points to is alive.
        let device = unsafe { instance.create_device(physical, &info, None) }?;
        // SAFETY: the device was made with this queue.
        let queue = unsafe { device.get_device_queue(0, 0) };
        let info = vk::CommandPoolCreateInfo::default();
        // SAFETY: the device is alive, here and below.
        let pool = unsafe { device.create_command_pool(&info, None) }?;

        let info = vk::BufferCreateInfo::default().size(SIZE).usage(vk::BufferUsageFlags::TRANSFER_DST);
        // SAFETY: `info` points to nothing.
        let buffer = unsafe { device.create_buffer(&info, None) }?;
        // SAFETY: the buffer is this device's.
        let needs = unsafe { device.get_buffer_memory_requirements(buffer) };
        let info = vk::MemoryAllocateInfo::default()
            .allocation_size(needs.size)
            .memory_type_index(needs.memory_type_bits.trailing_zeros());
        // SAFETY: `info` points to nothing.
        let memory = unsafe { device.allocate_memory(&info, None) }?;
        // SAFETY: the memory is of the size and a type that the buffer asks for, and both are new.
        unsafe { device.bind_buffer_memory(buffer, memory, 0) }?;
        Ok(Setup { device, queue, pool, buffer, memory })
    }

    /// The device is idle.
    fn destroy(self) {
        // SAFETY: nothing uses it any more, and nothing will; so below.
        unsafe { self.device.destroy_buffer(self.buffer, None) };
        // SAFETY: as above.
        unsafe { self.device.free_memory(self.memory, None) };
        // SAFETY: as above.
        unsafe { self.device.destroy_command_pool(self.pool, None) };
        // SAFETY: as above.
        unsafe { self.device.destroy_device(None) };
    }
}

/// What is put into a command buffer.
#[derive(Clone, Copy)]
enum Step {
    /// Writes so many bytes of the buffer: two of these need something between them.
    Fill(u64),
    Barrier,
}

fn record(setup: &Setup, steps: &[Step]) -> VkResult<vk::CommandBuffer> {
    let Setup { device, pool, buffer, .. } = setup;
    let info = vk::CommandBufferAllocateInfo::default().command_pool(*pool).command_buffer_count(1);
    // SAFETY: the pool is this device's, and no other thread uses it.
    let commands = unsafe { device.allocate_command_buffers(&info) }?[0];
    // SAFETY: the command buffer is new.
    unsafe { device.begin_command_buffer(commands, &vk::CommandBufferBeginInfo::default()) }?;
    for step in steps {
        match step {
            // SAFETY: the command buffer is being recorded, and the buffer bound. The rest is the mistake.
            Step::Fill(size) => unsafe { device.cmd_fill_buffer(commands, *buffer, 0, *size, 0) },
            Step::Barrier => {
                let (stage, write) = (vk::PipelineStageFlags::TRANSFER, vk::AccessFlags::TRANSFER_WRITE);
                let barrier = [vk::MemoryBarrier::default().src_access_mask(write).dst_access_mask(write)];
                let none = vk::DependencyFlags::empty();
                // SAFETY: the command buffer is being recorded.
                unsafe { device.cmd_pipeline_barrier(commands, stage, stage, none, &barrier, &[], &[]) };
            }
        }
    }
    // SAFETY: as above.
    unsafe { device.end_command_buffer(commands) }?;
    Ok(commands)
}

/// One submission for each.
fn submit(setup: &Setup, all: &[vk::CommandBuffer]) -> VkResult<()> {
    for commands in all {
        let info = [vk::SubmitInfo::default().command_buffers(std::slice::from_ref(commands))];
        // SAFETY: the command buffer is recorded, and what it uses lives until the device is idle.
        unsafe { setup.device.queue_submit(setup.queue, &info, vk::Fence::null()) }?;
    }
    Ok(())
}

/// A fence may be reset by one thread at a time.
fn share_a_fence(setup: &Setup) -> VkResult<()> {
    let info = vk::FenceCreateInfo::default();
    // SAFETY: `info` points to nothing.
    let fence = unsafe { setup.device.create_fence(&info, None) }?;
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                // So often that the two can't but meet.
                for _ in 0..1_000_000 {
                    // SAFETY: there is none, which is the point. Mesa's drivers reset a fence under a lock.
                    let _ = unsafe { setup.device.reset_fences(&[fence]) };
                }
            });
        }
    });
    // SAFETY: nobody uses it any more.
    unsafe { setup.device.destroy_fence(fence, None) };
    Ok(())
}
