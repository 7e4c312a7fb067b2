//! Waits between streams of CUDA and of Vulkan on the same GPU, on the device: by bridges.
//!
//! A bridge is a timeline semaphore of Vulkan's that CUDA has imported. Streams' own semaphores are not made to be exported,
//! which would have every operation on them cost more. To make a bridge takes a millisecond, so they are used again and
//! again, each time for the next value: a value that was reached stays reached, whoever still waits for it.
//!
//! **Exact.** Whatever is behind the position that is waited for must not be waited for as well (R9). So the source's own
//! queue signals a bridge only if the position is the last thing on it; otherwise one of a few queues does that are kept for
//! this, while nothing is on it that may come later. Where none is free, the host's gate is the better wait.
//!
//! **Nobody stands still for the host** (R6). While a gate of CUDA's is closed, no Vulkan queue waits for CUDA: whatever
//! stream signals the bridge may share a connection to the GPU with the one at the gate, be it otherwise unrelated. Waits are
//! in the order in which they came to the drivers, and each is for what was given to them before, so there is no cycle.
//!
//! **Failure** (R26). Whoever can't signal any more has it done by the other side, after everybody was marked.
//!
//! Lock order: a stream's submit lock, a way's, a queue's, a bridge's state. None is held while a bridge is made.

use super::{
    Source, Waited,
    cuda::{CudaGpu, CudaQueue, ImportedSemaphore},
    vulkan::{VulkanGpu, VulkanQueue, VulkanSemaphore},
};
use crate::{error::Result, primitive::lock};
use ash::vk;
use std::{
    ffi::CStr,
    fmt,
    os::fd::{FromRawFd, OwnedFd},
    ptr,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicUsize, Ordering, fence},
    },
};

/// What a device of Vulkan's has to be made with.
pub(super) const EXTENSIONS: &[&CStr] = &[ash::khr::external_semaphore_fd::NAME];

/// How many of a family's queues are kept for signals that can't come from the source's own.
pub(super) fn ways(offered: u32) -> u32 {
    offered.min(4)
}

/// How many bridges are made for a device. Each has a stream of CUDA's, and a GPU runs only so many at a time.
const MOST: usize = 64;

/// Gates of CUDA's that are not open, of all GPUs: streams of one wait for those of another.
static CLOSED_GATES: AtomicUsize = AtomicUsize::new(0);

/// A gate is about to be given to CUDA's driver.
pub(super) fn gate_closes() {
    // SeqCst: with the fence in `vulkan_waits`.
    CLOSED_GATES.fetch_add(1, Ordering::SeqCst);
}

/// It was opened.
pub(super) fn gate_opens() {
    // Release: who sees it sees the word that opens the gate written.
    CLOSED_GATES.fetch_sub(1, Ordering::Release);
}

fn is_a_gate_closed() -> bool {
    // Acquire: pairs with `gate_opens`.
    CLOSED_GATES.load(Ordering::Acquire) > 0
}

/// What CUDA's streams on the GPU wait for natively on request.
pub(super) fn of_cuda(gpu: &CudaGpu) -> &'static [&'static str] {
    if gpu.can_import() { &["vulkan"] } else { &[] }
}

/// Whether a physical device of Vulkan's can export semaphores as they are needed.
pub(super) fn can_export(instance: &ash::Instance, physical: vk::PhysicalDevice) -> bool {
    let mut kind =
        vk::SemaphoreTypeCreateInfo::default().semaphore_type(vk::SemaphoreType::TIMELINE).initial_value(0);
    let info = vk::PhysicalDeviceExternalSemaphoreInfo::default()
        .handle_type(vk::ExternalSemaphoreHandleTypeFlags::OPAQUE_FD)
        .push_next(&mut kind);
    let mut properties = vk::ExternalSemaphoreProperties::default();
    // SAFETY: the physical device is of this instance, and of Vulkan 1.2.
    unsafe {
        instance.get_physical_device_external_semaphore_properties(physical, &info, &mut properties);
    }
    properties.external_semaphore_features.contains(vk::ExternalSemaphoreFeatureFlags::EXPORTABLE)
}

/// Which side is to signal a bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Cuda,
    Vulkan,
}

/// A semaphore that both sides know.
struct Bridge {
    device: ash::Device,
    semaphore: Arc<VulkanSemaphore>,
    state: Mutex<State>,
}

struct State {
    /// The last value that somebody was to signal. Reached, the bridge is free.
    last: u64,
    /// Who is to.
    due: Side,
    /// CUDA's end; none once the bridge is destroyed.
    imported: Option<Arc<ImportedSemaphore>>,
}

impl Bridge {
    fn reached(&self) -> Result<u64, vk::Result> {
        self.semaphore.reached(&self.device)
    }

    /// Takes it for its next value, if it is free and leads to that GPU.
    fn take(&self, gpu: &CudaGpu, due: Side) -> Option<(Arc<ImportedSemaphore>, u64)> {
        let mut state = lock(&self.state);
        let imported = state.imported.clone().filter(|its| ptr::eq(its.gpu(), gpu))?;
        // Nobody else takes it before the next value is reached.
        if self.reached().ok()? < state.last {
            return None;
        }
        state.last += 1;
        state.due = due;
        Some((imported, state.last))
    }

    /// The signal that it was taken for will not come.
    fn put_back(&self) {
        lock(&self.state).last -= 1;
    }

    /// Signals what the other side will not signal any more.
    fn let_go(&self, failed: Side) {
        let state = lock(&self.state);
        let Some(imported) = state.imported.clone().filter(|_| state.due == failed) else { return };
        match failed {
            Side::Vulkan => {
                // A device that is lost need not say how far it is; CUDA takes a value that was reached already.
                let value = state.last;
                drop(state);
                imported.let_go(value);
            }
            Side::Cuda if self.reached().is_ok_and(|reached| reached < state.last) => {
                let info = vk::SemaphoreSignalInfo::default().semaphore(self.semaphore.raw).value(state.last);
                // SAFETY: not destroyed yet, which would take the lock that is held. A broken context signals nothing.
                let _ = unsafe { self.device.signal_semaphore(&info) };
            }
            Side::Cuda => {}
        }
    }

    /// With nothing of Vulkan's on its way that waits for it.
    fn destroy(&self) {
        let (last, due) = {
            let state = lock(&self.state);
            (state.last, state.due)
        };
        if due == Side::Vulkan {
            let (semaphores, values) = ([self.semaphore.raw], [last]);
            let info = vk::SemaphoreWaitInfo::default().semaphores(&semaphores).values(&values);
            // SAFETY: the semaphore is there. What signals it was submitted, and all that this waits for; or the device is
            // lost.
            let _ = unsafe { self.device.wait_semaphores(&info, u64::MAX) };
        }
        let mut state = lock(&self.state);
        // CUDA keeps its end for as long as something of its own needs it.
        drop(state.imported.take());
        // SAFETY: all that signals it or waits for it is done, but for CUDA's, which has a reference of its own to what is
        // behind it.
        unsafe { self.device.destroy_semaphore(self.semaphore.raw, None) };
    }
}

impl fmt::Debug for Bridge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bridge").field("semaphore", &self.semaphore).finish_non_exhaustive()
    }
}

/// The bridges of a CUDA GPU: what it is to signal, somebody else has to when its context breaks.
#[derive(Debug, Default)]
pub(super) struct Bridged(Mutex<Vec<Weak<Bridge>>>);

impl Bridged {
    fn add(&self, bridge: &Arc<Bridge>) {
        let mut list = lock(&self.0);
        if list.len() == list.capacity() {
            list.retain(|bridge| bridge.strong_count() > 0);
        }
        list.push(Arc::downgrade(bridge));
    }

    /// The context is broken, and everybody has been marked. With no lock held.
    pub(super) fn let_go(&self) {
        let bridges: Vec<_> = lock(&self.0).iter().filter_map(Weak::upgrade).collect();
        bridges.iter().for_each(|bridge| bridge.let_go(Side::Cuda));
    }
}

/// The bridges of a Vulkan device, and the way over them.
pub(super) struct Bridges {
    device: ash::Device,
    export: Option<ash::khr::external_semaphore_fd::Device>,
    uuid: [u8; vk::UUID_SIZE],
    ways: Vec<Way>,
    pool: Mutex<Vec<Arc<Bridge>>>,
}

/// A queue that only signals bridges.
struct Way {
    queue: vk::Queue,
    last: Mutex<Option<Passage>>,
}

/// What was submitted to a way last.
struct Passage {
    lane: u64,
    position: u64,
    bridge: Arc<Bridge>,
    value: u64,
}

impl Bridges {
    /// `possible`: the device was made with what it takes.
    pub(super) fn new(
        instance: &ash::Instance,
        device: &ash::Device,
        possible: bool,
        uuid: [u8; vk::UUID_SIZE],
        ways: Vec<vk::Queue>,
    ) -> Self {
        Self {
            device: device.clone(),
            export: possible.then(|| ash::khr::external_semaphore_fd::Device::new(instance, device)),
            uuid,
            ways: ways.into_iter().map(|queue| Way { queue, last: Mutex::new(None) }).collect(),
            pool: Mutex::default(),
        }
    }

    /// What Vulkan's streams on the device wait for natively on request.
    pub(super) fn natives(possible: bool) -> &'static [&'static str] {
        if possible { &["cuda"] } else { &[] }
    }

    pub(super) fn are_possible(&self) -> bool {
        self.export.is_some()
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        lock(&self.pool).len()
    }

    /// A free bridge to that GPU, and its next value; none if that GPU is another one, or there are too many.
    fn take(&self, gpu: &'static CudaGpu, due: Side) -> Option<Taken> {
        let export = self.export.as_ref()?;
        if gpu.uuid != Some(self.uuid) || !gpu.can_import() || gpu.broken().is_some() {
            return None;
        }
        {
            let mut pool = lock(&self.pool);
            let free = pool.iter().enumerate();
            let free = free.filter_map(|(at, bridge)| Some((at, bridge.take(gpu, due)?))).next();
            if let Some((at, (imported, value))) = free {
                // To the end: those that were taken long ago are the likeliest to be free.
                let bridge = pool.remove(at);
                pool.push(bridge.clone());
                return Some(Taken { bridge, imported, value });
            }
            if pool.len() >= MOST {
                return None;
            }
        }
        // What the drivers refuse here is no reason to fail: there are gates.
        let bridge = Arc::new(self.make(export, gpu).ok()?);
        // Before anybody can find it in the pool, which it belongs to in any case: that is what destroys it.
        let taken = bridge.take(gpu, due);
        gpu.bridges.add(&bridge);
        lock(&self.pool).push(bridge.clone());
        let (imported, value) = taken?;
        Some(Taken { bridge, imported, value })
    }

    #[cold]
    fn make(
        &self,
        export: &ash::khr::external_semaphore_fd::Device,
        gpu: &'static CudaGpu,
    ) -> Result<Bridge> {
        let handle_type = vk::ExternalSemaphoreHandleTypeFlags::OPAQUE_FD;
        let mut exported = vk::ExportSemaphoreCreateInfo::default().handle_types(handle_type);
        let mut kind = vk::SemaphoreTypeCreateInfo::default()
            .semaphore_type(vk::SemaphoreType::TIMELINE)
            .initial_value(0);
        let info = vk::SemaphoreCreateInfo::default().push_next(&mut exported).push_next(&mut kind);
        // SAFETY: the device is there, with what it takes enabled.
        let raw = unsafe { self.device.create_semaphore(&info, None) }
            .map_err(|code| super::vulkan::refusal("vkCreateSemaphore", code))?;
        let info = vk::SemaphoreGetFdInfoKHR::default().semaphore(raw).handle_type(handle_type);
        // SAFETY: the semaphore was made to be exported.
        let imported = unsafe { export.get_semaphore_fd(&info) }
            .map_err(|code| super::vulkan::refusal("vkGetSemaphoreFdKHR", code))
            // SAFETY: a descriptor that is ours.
            .and_then(|fd| ImportedSemaphore::import(gpu, unsafe { OwnedFd::from_raw_fd(fd) }));
        match imported {
            Ok(imported) => {
                let imported = Some(Arc::new(imported));
                let state = Mutex::new(State { last: 0, due: Side::Vulkan, imported });
                let semaphore = VulkanSemaphore::foreign(raw, None);
                Ok(Bridge { device: self.device.clone(), semaphore, state })
            }
            Err(error) => {
                // SAFETY: nobody knows it.
                unsafe { self.device.destroy_semaphore(raw, None) };
                Err(error)
            }
        }
    }

    /// The device is lost, and everybody has been marked. With no lock held.
    pub(super) fn let_go(&self) {
        let bridges = lock(&self.pool).clone();
        bridges.iter().for_each(|bridge| bridge.let_go(Side::Vulkan));
    }

    /// Nothing of the device's is on its way but what signals bridges.
    pub(super) fn destroy(&self) {
        self.ways.iter().for_each(|way| drop(lock(&way.last).take()));
        let bridges = std::mem::take(&mut *lock(&self.pool));
        bridges.iter().for_each(|bridge| bridge.destroy());
    }
}

/// A bridge that was taken, for a value that is to be signaled.
struct Taken {
    bridge: Arc<Bridge>,
    imported: Arc<ImportedSemaphore>,
    value: u64,
}

/// Has a stream of CUDA's wait for one of Vulkan's, if that can be. Under the submit lock of the one that waits.
pub(super) fn cuda_waits(queue: &CudaQueue, source: &Source<'_>) -> Result<Waited> {
    let Some(theirs) = source.backend::<VulkanQueue>() else { return Ok(Waited::Unsupported) };
    // In this order: what has been given up counts as failed before it can count as submitted.
    if !source.is_submitted() || source.lane().is_failed() || theirs.waits_for_host() {
        return Ok(Waited::Unsupported);
    }
    let gpu = theirs.gpu();
    let Some(taken) = gpu.bridges().take(queue.gpu(), Side::Vulkan) else { return Ok(Waited::Unsupported) };
    if !pass(gpu, theirs, source, &taken) {
        taken.bridge.put_back();
        return Ok(Waited::Unsupported);
    }
    if gpu.check().is_err() {
        // Lost before we were seen: nobody waits, and the host has more to tell. If it is lost from now on, what is due is
        // found to be.
        return Ok(Waited::Unsupported);
    }
    taken.imported.be_waited_for(queue, taken.value)?;
    Ok(Waited::Native)
}

/// Has Vulkan signal a bridge once a position of a stream is reached, and no later. False if it can't be done.
fn pass(gpu: &VulkanGpu, theirs: &VulkanQueue, source: &Source<'_>, taken: &Taken) -> bool {
    let (semaphore, value) = theirs.point(source.position());
    let (waits, wait_values) = ([semaphore.raw], [value]);
    let (signals, signal_values) = ([taken.bridge.semaphore.raw], [taken.value]);
    let stages = [vk::PipelineStageFlags::ALL_COMMANDS];
    let mut values = vk::TimelineSemaphoreSubmitInfo::default()
        .wait_semaphore_values(&wait_values)
        .signal_semaphore_values(&signal_values);
    let batch = [vk::SubmitInfo::default()
        .wait_semaphores(&waits)
        .wait_dst_stage_mask(&stages)
        .signal_semaphores(&signals)
        .push_next(&mut values)];
    let refused = |code| {
        gpu.refused("vkQueueSubmit", code);
        false
    };
    // The semaphores are not destroyed before their device is, which waits for what is due.
    match theirs.submit_right_behind(source.position(), &batch) {
        Ok(true) => return true,
        Ok(false) => {}
        Err(code) => return refused(code),
    }
    let lane = source.lane().id();
    for way in &gpu.bridges().ways {
        let mut last = lock(&way.last);
        let clear = last.as_ref().is_none_or(|last| {
            // What is there either is done or comes before what is to come.
            (last.lane == lane && last.position <= source.position())
                || last.bridge.reached().is_ok_and(|reached| reached >= last.value)
        });
        if !clear {
            continue;
        }
        // SAFETY: the handles are the device's; the queue is used under the lock that is held alone.
        if let Err(code) = unsafe { gpu.functions().queue_submit(way.queue, &batch, vk::Fence::null()) } {
            return refused(code);
        }
        let bridge = taken.bridge.clone();
        *last = Some(Passage { lane, position: source.position(), bridge, value: taken.value });
        return true;
    }
    false
}

/// What a stream of Vulkan's has to wait for to wait for one of CUDA's, if that can be. Under the submit lock of the one that
/// waits.
pub(super) fn vulkan_waits(gpu: &VulkanGpu, source: &Source<'_>) -> Option<(Arc<VulkanSemaphore>, u64)> {
    let theirs = source.backend::<CudaQueue>()?;
    if source.lane().is_failed() || is_a_gate_closed() {
        return None;
    }
    let Taken { bridge, imported, value } = gpu.bridges().take(theirs.gpu(), Side::Cuda)?;
    if imported.signal_behind(theirs, source.position(), value).is_err() {
        // If the context is broken, that goes its way.
        bridge.put_back();
        return None;
    }
    // SeqCst: with `gate_closes`. A gate that is before the signal in the driver was counted before.
    fence(Ordering::SeqCst);
    // Broken before we were seen, nobody would signal it; from now on, it is found to be due. So nobody waits for it.
    if is_a_gate_closed() || theirs.gpu().broken().is_some() {
        return None;
    }
    Some((bridge.semaphore.clone(), value))
}
